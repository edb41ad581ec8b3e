//! The clock: monotonic for decisions, wall time for information in files.
//!
//! Under shuttle it moves by ten microseconds whenever it is looked at, so that a schedule is the same again.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::{Instant, UnixNanos};

/// Counts from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    #[cfg_attr(shuttle, expect(dead_code, reason = "see above"))]
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    #[cfg(shuttle)]
    pub(crate) fn now(self) -> Instant {
        use crate::sync::plain::{AtomicU64, Ordering};
        const STEP_NANOS: u64 = 10_000;
        static NANOS: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed: shuttle runs one thread at a time.
        Instant::from_nanos(NANOS.fetch_add(STEP_NANOS, Ordering::Relaxed))
    }

    #[cfg(not(shuttle))]
    pub(crate) fn now(self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn unix(self) -> UnixNanos {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
