//! What a log is told at its start, and what it tells: the border to the engine.

use std::fmt;
use std::time::Duration;

use crate::lsn::Lsn;
use crate::schema::Schema;
use crate::wal::coding::Coding;
use crate::wal::frame::{Frame, RunEnd};
use crate::wal::mutant::Mutants;
use crate::wal::op::{DiskError, LogId};

/// How a log behaves.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Which log.
    pub log: LogId,
    /// What its entries are; written into every new segment.
    pub schema: Schema,
    /// When frames become durable.
    pub commit: Commit,
    /// Most slot files, free ones included. At least 2.
    pub slots_max: u32,
    /// Free slots that are kept in any case, at least 1. A busy log keeps more: what it would want back at once.
    pub spares_min: u32,
    /// Most commits in flight at once.
    pub inflight_max: u32,
    /// Pending bytes from which a further commit starts beside the one in flight.
    pub hedge_len: u32,
    /// How long an acknowledgement may wait for the cursor.
    pub cursor_every: Duration,
    /// How frames are stored.
    pub coding: Coding,
    /// Chance, for the identities of segments.
    pub seed: u64,
    /// Rules that are switched off, in tests.
    pub mutants: Mutants,
    /// LSNs up to this one are never given out, because the sink says that it has them.
    pub lsn_floor: Lsn,
}

/// When frames become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commit {
    /// At once: each write is durable when it completes.
    Immediate,
    /// Plain writes, and a sync at most this long after the first of them.
    Periodic(Duration),
    /// Never, unless memory fills, somebody waits, or the log is closed.
    Spill,
}

/// Whether there is a slot for what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// There is, or there will be soon.
    Ok,
    /// All slots hold entries that the sink has not acknowledged.
    Full,
    /// A slot that is needed could not be prepared: the disk is full, or refuses.
    NoSpace,
}

/// Why no frame can be filled now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// All chunks of the pool are in use.
    Pool,
    /// Frames wait for a slot; [`Room`] tells why.
    Log,
    /// The log has failed.
    Failed,
    /// The log is being closed.
    Closed,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool => "all memory for frames is in use",
            Self::Log => "frames wait for a free segment",
            Self::Failed => "the log has failed",
            Self::Closed => "the log is closed",
        })
    }
}

impl std::error::Error for Blocked {}

/// Why a log has failed. Nothing later than `durable` was or will be acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFailure {
    /// Which log.
    pub log: LogId,
    /// The write or sync that failed.
    pub error: DiskError,
    /// The last LSN that is known to be durable.
    pub durable: Lsn,
}

impl fmt::Display for LogFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; entries up to {} are durable", self.error, self.durable)
    }
}

impl std::error::Error for LogFailure {}

/// What a log tells the engine.
#[derive(Debug)]
pub enum Event {
    /// May go to the sink now; in LSN order, but that behind [`Event::Failed`] everything in memory that is
    /// not durable comes once more, whether it came before or not. Its `runs` went with [`Event::Durable`]. A frame that
    /// was not placed yet (`Spill`, or a failed log) has no `place`, and its header says nothing of
    /// segment, position or checksum, neither here nor in the block's first bytes.
    Ready(Frame),
    /// Every LSN up to this one is durable, or acknowledged by the sink and thus in no need of it.
    Durable {
        /// The watermark.
        lsn: Lsn,
        /// Ring positions up to which that is so. Give the vector back with `recycle_runs`.
        runs: Vec<RunEnd>,
        /// How long that took from the first entry of the frame on, where it is a frame of entries that is durable.
        took: Option<Duration>,
    },
    /// A commit has completed, so long after its submission: a durable write, or the syncs of a group.
    Committed(Duration),
    /// The cursor on disk stands here.
    CursorDurable(Lsn),
    /// Whether there is room has changed.
    Room(Room),
    /// The log has failed; said once.
    Failed(LogFailure),
    /// Closed: nothing of it is in flight any more but the preparation of spare slots.
    Closed,
}
