//! A clock that stands still until somebody moves it.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::atomic::Ordering;
use crate::sync::plain::AtomicU64;
use crate::time::{Instant, UnixNanos};

/// A clock in the hands of a test. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Arc<AtomicU64>,
    /// How far the wall clock was set forward, in wrapping nanoseconds.
    unix_offset: Arc<AtomicU64>,
}

/// What the wall clock shows when a manual clock stands at its start: 2026-01-01.
const UNIX_START: u64 = 1_767_225_600_000_000_000;

impl ManualClock {
    /// A clock that shows [`Instant::START`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        // ORDERING: Relaxed: the number alone is what is told; nothing else is published with it.
        Instant::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// The same moment as wall-clock time.
    #[must_use]
    pub fn unix(&self) -> UnixNanos {
        // ORDERING: Relaxed, as in `now`.
        let offset = self.unix_offset.load(Ordering::Relaxed);
        UnixNanos((UNIX_START + self.now().as_nanos()).wrapping_add(offset))
    }

    /// Sets the wall clock forward or, by a negative number of seconds, back. What [`now`](Self::now) shows stays.
    pub fn set_wall(&self, seconds: i64) {
        let nanos = seconds.wrapping_mul(1_000_000_000).cast_unsigned();
        // ORDERING: Relaxed, as in `now`.
        self.unix_offset.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // ORDERING: Relaxed, as in `now`.
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Moves it on to `instant`; a moment that has passed changes nothing.
    pub fn advance_to(&self, instant: Instant) {
        // ORDERING: Relaxed, as in `now`.
        self.nanos.fetch_max(instant.as_nanos(), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_moves_only_when_told_and_never_back() {
        let clock = ManualClock::new();
        let same = clock.clone();
        assert_eq!(clock.now(), Instant::START);
        clock.advance(Duration::from_millis(3));
        assert_eq!(same.now().as_nanos(), 3_000_000);
        same.advance_to(Instant::from_nanos(1));
        assert_eq!(clock.now().as_nanos(), 3_000_000);
    }

    #[test]
    fn the_wall_clock_is_set_without_moving_time() {
        let clock = ManualClock::new();
        clock.set_wall(-10);
        assert_eq!(UNIX_START - clock.unix().0, 10_000_000_000);
        clock.set_wall(3600);
        assert_eq!((clock.unix().0 - UNIX_START, clock.now()), (3_590_000_000_000, Instant::START));
    }
}
