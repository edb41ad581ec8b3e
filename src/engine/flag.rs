//! What wakes a stepped queue's delivery: it only notes that it was called.

use std::sync::Arc;
use std::task::Wake;

use crate::sync::atomic::{AtomicBool, Ordering};

/// A waker that can be looked at.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn is_set(&self) -> bool {
        // ORDERING: Relaxed: one thread.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> bool {
        // ORDERING: Relaxed: one thread.
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        // ORDERING: Relaxed: one thread.
        self.0.store(true, Ordering::Relaxed);
    }
}
