//! The clock: monotonic for decisions, wall time for information in files.
//!
//! Under shuttle it moves by ten microseconds whenever it is looked at, so that a schedule is the same again.

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(all(feature = "testing", not(loom)))]
use crate::sim::ManualClock;
use crate::time::{Instant, UnixNanos};

/// Counts from the moment it was made.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    System(std::time::Instant),
    /// In the hands of a test.
    #[cfg(all(feature = "testing", not(loom)))]
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self::System(std::time::Instant::now())
    }

    pub(crate) fn now(&self) -> Instant {
        match self {
            #[cfg(not(shuttle))]
            Self::System(start) => Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            #[cfg(shuttle)]
            Self::System(_) => by_looks(),
            #[cfg(all(feature = "testing", not(loom)))]
            Self::Manual(clock) => clock.read(),
        }
    }

    /// The moment `at` as the standard library has it; `None` if that is too far away.
    pub(crate) fn to_std(&self, at: Instant) -> Option<std::time::Instant> {
        match self {
            Self::System(start) => start.checked_add(std::time::Duration::from_nanos(at.as_nanos())),
            // It stands still: what is left from now on is what counts.
            #[cfg(all(feature = "testing", not(loom)))]
            Self::Manual(clock) => std::time::Instant::now().checked_add(at.since(clock.now())),
        }
    }

    pub(crate) fn unix(&self) -> UnixNanos {
        match self {
            Self::System(_) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
            }
            #[cfg(all(feature = "testing", not(loom)))]
            Self::Manual(clock) => clock.unix(),
        }
    }
}

#[cfg(shuttle)]
fn by_looks() -> Instant {
    use crate::sync::plain::{AtomicU64, Ordering};
    const STEP_NANOS: u64 = 10_000;
    static NANOS: AtomicU64 = AtomicU64::new(0);
    // ORDERING: Relaxed: shuttle runs one thread at a time.
    Instant::from_nanos(NANOS.fetch_add(STEP_NANOS, Ordering::Relaxed))
}
