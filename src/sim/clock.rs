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
    /// One more than what the process reads while the clock stalls; 0: it does not.
    stalled_at: Arc<AtomicU64>,
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

    /// What a process reads from it: [`now`](Self::now), unless it stalls. Disks and sleeps go by `now` all the while.
    #[must_use]
    pub fn read(&self) -> Instant {
        // ORDERING: Relaxed, as in `now`.
        match self.stalled_at.load(Ordering::Relaxed).checked_sub(1) {
            Some(nanos) => Instant::from_nanos(nanos),
            None => self.now(),
        }
    }

    /// When a sleep ends that is to last until a process would read `at`: it lasts for so long, whatever is read then.
    #[must_use]
    pub fn due(&self, at: Instant) -> Instant {
        self.now() + at.since(self.read())
    }

    /// Lets a process read the same moment again and again, or what the time really is again.
    pub fn set_stalled(&self, stalled: bool) {
        let at = if stalled { self.read().as_nanos().saturating_add(1) } else { 0 };
        // ORDERING: Relaxed, as in `now`.
        self.stalled_at.store(at, Ordering::Relaxed);
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
    fn a_stalled_clock_is_read_as_it_stands_and_time_goes_on() {
        let clock = ManualClock::new();
        clock.advance(Duration::from_nanos(5));
        for _ in 0..2 {
            clock.set_stalled(true);
            clock.advance(Duration::from_nanos(2));
        }
        assert_eq!((clock.read().as_nanos(), clock.now().as_nanos()), (5, 9));
        clock.set_stalled(false);
        assert_eq!(clock.read(), clock.now());
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
