//! What goes into the dispatcher and what comes out of it.

use std::fmt;
use std::time::Duration;

use crate::delivery::breaker::Breaker;
use crate::delivery::lease::LeaseId;
use crate::delivery::park::ParkRecord;
use crate::delivery::retry::Retry;
use crate::lsn::Lsn;
use crate::ring::record::BadRecord;
use crate::sink::Reason;
use crate::time::{Instant, UnixNanos};

/// How delivery goes about it.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Most entries in a batch. Zero is taken for one.
    pub batch_len_max: usize,
    /// Most bytes of encoded entries in a batch; a longer entry goes alone.
    pub batch_bytes_max: u64,
    /// How long the oldest entry waits for company.
    pub linger: Duration,
    /// How failures are tried again.
    pub retry: Retry,
    /// When a sink that fails is left alone; `None`: never, but for the delays of `retry`.
    pub breaker: Option<Breaker>,
    /// How long the sink has for a batch; `None`: as long as it wants.
    pub deliver_timeout: Option<Duration>,
    /// Most batches out or waiting for another attempt at once. Zero is taken for one. With more than one, order is kept
    /// within each [lane](crate::delivery::lanes) only.
    pub in_flight_max: usize,
    /// Bytes of memory beside the frames for entries that wait for their lane; once they are more than that, no frame is
    /// wanted until some have gone out.
    pub held_max: u64,
    /// Bounds of the batch length, if it follows the sink's latency from `batch_len_max` on.
    pub adaptive: Option<(usize, usize)>,
    /// Whether the sink may answer with one verdict for each entry ([`Sink::partial`](crate::Sink)).
    pub partial: bool,
    /// For jitter: equal seeds, equal delays.
    pub seed: u64,
    /// Wall-clock time at [`Instant::START`](crate::time::Instant::START), for the times in parked entries.
    pub unix_start: UnixNanos,
}

/// What delivery has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeliveryEvent {
    /// Progress for the durable cursor; always the latest, so only the last one counts.
    Acked {
        /// Every LSN up to this one is done.
        acked: Lsn,
        /// Finished runs above: first LSN and one past the last.
        done: Vec<(Lsn, Lsn)>,
        /// Failed attempts: each row holds from its LSN up to the next row's.
        attempts: Vec<(Lsn, u32)>,
    },
    /// Put these into the park log, durably; then `handle_parked`, or `handle_park_failed`.
    Park {
        /// To answer with.
        lease: LeaseId,
        /// What to keep.
        entries: Vec<ParkRecord>,
    },
    /// Entries failed and are to be offered again. For logs and metrics.
    Retry {
        /// How many.
        entries: usize,
        /// Failed attempts that they have behind them.
        attempts: u32,
        /// When.
        due: Instant,
        /// Why, by the first of them.
        why: Reason,
    },
    /// The deadline of this lease has passed without an answer. Told once. An async delivery is to be
    /// dropped, and its lease with it; a blocking one cannot be.
    Overdue {
        /// Which.
        lease: LeaseId,
    },
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameRefused {
    /// Frames come in the order of LSNs: read on from `wanted`.
    Gap {
        /// The LSN that comes next.
        wanted: Lsn,
        /// The frame's first.
        found: Lsn,
    },
    /// The checksum holds, but the body is no run of records.
    Record(BadRecord),
    /// The body has not as many records as the header says, or is shorter than it says.
    Count,
}

impl fmt::Display for FrameRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { wanted, found } => write!(f, "a frame begins at LSN {found}, but LSN {wanted} comes next"),
            Self::Record(bad) => write!(f, "a frame holds no record at byte {}", bad.at),
            Self::Count => f.write_str("a frame has not as many records as its header says"),
        }
    }
}

impl std::error::Error for FrameRefused {}

/// What happened since the start; each rises only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeliveryCounts {
    /// Distinct entries that frames brought and that were not finished already.
    pub taken: u64,
    /// Entries that the sink acknowledged.
    pub delivered: u64,
    /// Entries that the park log has.
    pub parked: u64,
    /// LSNs that were skipped: never written, or given up.
    pub skipped: u64,
    /// Leases given out.
    pub leases: u64,
    /// Leases after which something had to be tried again or parked.
    pub failures: u64,
    /// Leases after which something had to be tried again.
    pub retried: u64,
    /// Leases after which something was refused for good.
    pub refused: u64,
    /// Answers with a wrong number of verdicts.
    pub malformed: u64,
    /// Answers for what is not out, or not here.
    pub stray: u64,
    /// Leases that were dropped without an answer.
    pub dropped_leases: u64,
    /// Leases whose deadline passed.
    pub overdue: u64,
    /// Entries that did not decode.
    pub undecodable: u64,
}
