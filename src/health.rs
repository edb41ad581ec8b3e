//! How a queue is doing, with reasons.

use std::fmt;
use std::time::Duration;

use crate::delivery::breaker::BreakerState;
use crate::pressure::{Grade, Measure};

/// How a queue is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Health {
    /// All that was asked for holds.
    Ok,
    /// It works, but not as asked, or not for long.
    Degraded(Vec<Concern>),
    /// It takes no entries, or delivers none, until something is done.
    Failed(Vec<Concern>),
}

impl Health {
    /// Whether all that was asked for holds.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }

    /// The reasons; none where all is well.
    #[must_use]
    pub fn reasons(&self) -> &[Concern] {
        match self {
            Self::Ok => &[],
            Self::Degraded(reasons) | Self::Failed(reasons) => reasons,
        }
    }
}

/// Why a queue is not simply well.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Concern {
    /// A write or sync failed; close and reopen.
    LogFailed(String),
    /// Acknowledged entries cannot be read back; delivery stands still before them.
    LogCorrupt(String),
    /// The log has reached `log_bytes_max`, or the disk is full; pushes wait or are refused.
    LogFull(String),
    /// The disk has not completed a write, a sync, a read or the preparation of a segment for so long (2 s or more):
    /// delivery may stand still, and pushes wait or are refused when their rings are full.
    DiskSilent(Duration),
    /// Commits take so long, on the average of the latest eight or so: one second or more.
    SlowCommits(Duration),
    /// Entries wait, and the sink has been done with none of them for so long: 10 s and the time of
    /// [`linger`](crate::Builder::linger), or more. Not in a pause.
    NoProgress(Duration),
    /// The platform does not give all that was asked for: io_uring, direct I/O, a durable file system.
    Platform(String),
    /// The sink keeps refusing; the number of attempts so far.
    SinkFailing(u32),
    /// So many calls of a sink that blocks have not come back by their deadline; their batches wait for them.
    SinkOverdue(usize),
    /// The breaker is not closed: deliveries wait, or are tried one at a time.
    Breaker(BreakerState),
    /// Memory, the log or the backlog is over its soft or hard watermark: pushes are slowed down, or meet
    /// [`when_full`](crate::Builder::when_full), where [`watermarks`](crate::Builder::watermarks) asks for it.
    Watermark(Measure, Grade),
    /// Entries lie in the park.
    Parked(u64),
    /// An entry should be parked and cannot be: the park is full.
    ParkFull(String),
    /// So many parked entries were discarded since the queue was opened, as the park was full and
    /// [`park_full`](crate::Builder::park_full) says so.
    ParkDropped(u64),
    /// Opening gave entries up, as configured. What is given up later counts in [`Metrics::lost`](crate::Metrics::lost)
    /// only.
    LostEntries(u64),
    /// The runtime that the sink works on ([`Builder::runtime`](crate::Builder)) was shut down: nothing is delivered any
    /// more. Pushes go on, into the log.
    RuntimeEnded,
    /// The queue is closed.
    Closed,
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogFailed(why) => write!(f, "the log has failed: {why}; close the queue and open it again"),
            Self::LogCorrupt(why) => write!(f, "delivery has halted: {why}"),
            Self::LogFull(why) => write!(f, "no room in the log: {why}"),
            Self::DiskSilent(time) => {
                write!(f, "the disk has not completed what it was asked for {} s ago", time.as_secs())
            }
            Self::SlowCommits(mean) => write!(f, "a commit takes {} ms on average", mean.as_millis()),
            Self::NoProgress(time) => {
                write!(f, "entries wait, and the sink has been done with none of them for {} s", time.as_secs())
            }
            Self::Platform(note) => f.write_str(note),
            Self::SinkFailing(attempts) => write!(f, "the sink has refused a batch {attempts} times"),
            Self::SinkOverdue(calls) => {
                write!(f, "{calls} deliveries have passed their deadline and the sink still works on them")
            }
            Self::Breaker(state) => write!(f, "the breaker is {state}: the sink kept failing"),
            Self::Watermark(measure, grade) => write!(f, "the {measure} is over its {grade} watermark"),
            Self::Parked(entries) => write!(f, "{entries} entries are parked"),
            Self::ParkFull(why) => write!(f, "an entry cannot be parked: {why}"),
            Self::ParkDropped(entries) => {
                write!(f, "{entries} parked entries were discarded, as the park was full; raise park_bytes_max")
            }
            Self::LostEntries(entries) => write!(f, "{entries} damaged entries were given up, as configured"),
            Self::RuntimeEnded => {
                f.write_str("the runtime that the sink works on was shut down: nothing is delivered any more")
            }
            Self::Closed => f.write_str("the queue is closed"),
        }
    }
}
