//! A word that threads sleep on: `futex(2)`.

use std::time::{Duration, Instant};

use rustix::thread::{Timespec, futex};

use crate::sync::atomic::{AtomicU32, Ordering};

/// A word that threads sleep on until it is another: one call wakes them all.
#[derive(Debug, Default)]
pub(crate) struct Futex(AtomicU32);

/// When a sleep is over at the latest, if ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// Never, where that lies beyond what a clock can tell.
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl Futex {
    /// The word: read it before looking for what [`Futex::wait`] would be about.
    pub(crate) fn word(&self) -> u32 {
        // ORDERING: Acquire: what was done before it became this is seen.
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps while the word is `word`, until the deadline. May return without a cause.
    pub(crate) fn wait(&self, word: u32, deadline: Deadline) {
        let left = deadline.left().map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        // That it is another word by now, that the time is up, a signal: the caller looks anyway.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, word, left.as_ref());
    }

    /// Changes the word and wakes all who sleep on it.
    pub(crate) fn wake_all(&self) {
        // ORDERING: Release: who sees the change sees what was done before it. The kernel compares the word under the lock
        // of its list of sleepers, so whoever goes to sleep at the same time sees the change or is woken.
        self.0.fetch_add(1, Ordering::Release);
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
    }
}
