//! Counts by reason: why producers got entries back, and why deliveries failed.

use crate::metrics::Cell;

/// Why producers got entries back.
#[derive(Debug, Default)]
pub(crate) struct RejectedCells {
    pub(crate) full: Cell,
    pub(crate) watermark: Cell,
    pub(crate) breaker: Cell,
    pub(crate) closed: Cell,
    pub(crate) failed: Cell,
    pub(crate) too_long: Cell,
    pub(crate) encode: Cell,
}

/// Why producers got entries back under `DropNewest`.
#[derive(Debug, Default)]
pub(crate) struct DroppedCells {
    pub(crate) full: Cell,
    pub(crate) watermark: Cell,
}

/// What became of deliveries that failed.
#[derive(Debug, Default)]
pub(crate) struct FailureCells {
    pub(crate) retry: Cell,
    pub(crate) park: Cell,
}

impl RejectedCells {
    pub(crate) fn read(&self) -> Rejected {
        let Self { full, watermark, breaker, closed, failed, too_long, encode } = self;
        Rejected {
            full: full.read(),
            watermark: watermark.read(),
            breaker: breaker.read(),
            closed: closed.read(),
            failed: failed.read(),
            too_long: too_long.read(),
            encode: encode.read(),
        }
    }
}

impl DroppedCells {
    pub(crate) fn read(&self) -> Dropped {
        let Self { full, watermark } = self;
        Dropped { full: full.read(), watermark: watermark.read() }
    }
}

/// Entries that producers got back, by reason. They were never in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Rejected {
    /// Their ring was full ([`Reject`](crate::WhenFull::Reject), [`BlockFor`](crate::WhenFull::BlockFor),
    /// [`try_push`](crate::Producer::try_push), [`push_timeout`](crate::Producer::push_timeout)).
    pub full: u64,
    /// A hard watermark was reached, in place of a full ring ([`watermarks`](crate::Builder::watermarks),
    /// [`backlog_len_max`](crate::Builder::backlog_len_max)).
    pub watermark: u64,
    /// The breaker was open, under [`OnBreaker::Reject`](crate::OnBreaker::Reject).
    pub breaker: u64,
    /// The queue was closed.
    pub closed: u64,
    /// The log had failed.
    pub failed: u64,
    /// They were longer than [`entry_len_max`](crate::Builder::entry_len_max).
    pub too_long: u64,
    /// They could not be encoded.
    pub encode: u64,
}

impl Rejected {
    /// For whatever reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.watermark + self.breaker + self.closed + self.failed + self.too_long + self.encode
    }
}

/// Entries given back under [`DropNewest`](crate::WhenFull::DropNewest), by reason. They were never in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Dropped {
    /// Their ring was full.
    pub full: u64,
    /// A hard watermark was reached.
    pub watermark: u64,
}

impl Dropped {
    /// For whatever reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.watermark
    }
}

/// Deliveries that failed, by what happened. One delivery may count under several: a panic, and what became of its
/// entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Failures {
    /// Some of its entries are to be offered again.
    pub retry: u64,
    /// Some of its entries were refused for good: they go to the park, or are discarded under `Park::Drop`.
    pub park: u64,
    /// The sink did not answer by the deadline.
    pub timeout: u64,
    /// The sink panicked.
    pub panic: u64,
}
