//! Where threads sleep that wait for a watermark.
//!
//! Those who will be told by the same publish sleep on one word, and are woken by one call. A call for each takes the
//! publisher so long that 64 threads on two cores get a third less done (`docs/adr/0026-one-call-wakes-a-group.md`).
//! Who belongs together is a guess: whoever is woken and was not meant looks, and sleeps again.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Deadline, Futex};

/// Threads that sleep on one word.
#[derive(Debug)]
pub(super) struct Group {
    word: Futex,
    /// Whoever waits for a number up to here is out of the list.
    told: AtomicU64,
}

impl Group {
    pub(super) fn new() -> Self {
        Self { word: Futex::default(), told: AtomicU64::new(0) }
    }

    pub(super) fn word(&self) -> u32 {
        self.word.word()
    }

    /// Whether who waits for `target` has been told, and so has no place in the list any more.
    pub(super) fn is_told(&self, target: u64) -> bool {
        // ORDERING: Acquire, so that what was done before the publish is seen.
        target <= self.told.load(Ordering::Acquire)
    }

    pub(super) fn sleep(&self, word: u32, deadline: Deadline) {
        self.word.wait(word, deadline);
    }

    /// Wakes all. Those who wait for a number up to `told` have been taken out of the list.
    pub(super) fn tell(&self, told: u64) {
        // ORDERING: Release, see `is_told`.
        self.told.fetch_max(told, Ordering::Release);
        self.word.wake_all();
    }
}
