//! The clock: monotonic for decisions, wall time for information in files.

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
            Self::System(start) => Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            #[cfg(all(feature = "testing", not(loom)))]
            Self::Manual(clock) => clock.now(),
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
