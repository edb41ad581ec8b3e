//! What wakes the runtime from other threads.

use std::collections::VecDeque;
use std::task::Context;

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use crate::io::Wake;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wal::op::Completion;

/// The doorbell. It remembers that it rang, so that a ring before the wait is not lost.
#[derive(Debug)]
pub(super) struct TaskBell {
    rang: AtomicBool,
    waker: AtomicWaker,
}

impl TaskBell {
    pub(super) fn new() -> Self {
        Self { rang: AtomicBool::new(false), waker: AtomicWaker::new() }
    }

    /// Whether it rang since [`Self::clear`]; if not, the task is woken when it does.
    pub(super) fn rang(&self, context: &Context<'_>) -> bool {
        self.waker.register(context.waker());
        // ORDERING: Acquire, so that what was done before the ring is seen. No ring is missed between the two lines:
        // who rings stores first and wakes then, and `AtomicWaker` has either of us see the other.
        self.rang.load(Ordering::Acquire)
    }

    pub(super) fn clear(&self) {
        // ORDERING: AcqRel: what was done before a ring that is taken back here is seen by the caller, who looks
        // around when the wait is over.
        self.rang.swap(false, Ordering::AcqRel);
    }

    /// Lets go of the runtime.
    pub(super) fn forget(&self) {
        drop(self.waker.take());
    }
}

impl Wake for TaskBell {
    fn wake(&self) {
        // ORDERING: Release, see `rang`.
        self.rang.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Where the helper thread puts what it has finished.
pub(super) struct HelperDone {
    queue: Mutex<VecDeque<Completion>>,
    waker: AtomicWaker,
}

impl HelperDone {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::default(), waker: AtomicWaker::new() }
    }

    pub(super) fn deliver(&self, completion: Completion) {
        self.queue.lock().push_back(completion);
        self.waker.wake();
    }

    /// Asks to be woken when something comes.
    pub(super) fn watch(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    pub(super) fn take(&self, done: &mut VecDeque<Completion>) {
        done.append(&mut self.queue.lock());
    }
}
