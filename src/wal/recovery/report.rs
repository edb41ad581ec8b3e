//! What a scan found, as plain values: for the engine, for health, for people.

use std::fmt;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::cursor::Cursor;
use crate::wal::meta::Meta;
use crate::wal::mutant::Mutants;
use crate::wal::op::{DiskError, LogId};
use crate::wal::segment::SegmentHeader;
use crate::wal::segments::LiveSegment;
use crate::wal::untold::Untold;

/// How a store is made. What an existing META says wins over all of it but `log` and `mutants`.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Which log.
    pub log: LogId,
    /// The block size.
    pub block_len: u32,
    /// Length of every slot in bytes.
    pub segment_len: u64,
    /// Longest frame, header and padding included.
    pub frame_len_max: u32,
    /// Features that a reader must know from now on ([`crate::wal::coding::features`]), besides those that it had to.
    pub features: u64,
    /// Chance, for the store's identity.
    pub seed: u64,
    /// Rules that are switched off, in tests.
    pub mutants: Mutants,
}

/// What recovery does with a hole in the log that is not a torn tail: acknowledged data is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OnCorruption {
    /// Refuses to open, says exactly what is missing, and changes nothing.
    #[default]
    Stop,
    /// Gives up everything from the hole on. Only opening does: it does not read all of a long log, and where delivery
    /// finds damage later, it halts in front of it as under `Stop`.
    CutTail,
    /// Copies the segment into `quarantine/`, gives up the hole, and goes on behind it. What turns out later to be
    /// unreadable, when it is to be delivered or a listing of the park comes to it, is given up too, without a copy.
    Quarantine,
}

/// A run of entries that was promised and cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// The slot in which the hole begins.
    pub slot: SlotNo,
    /// Where in the slot, in bytes.
    pub offset: u64,
    /// The first LSN that is lost.
    pub first: Lsn,
    /// The last LSN that is lost.
    pub last: Lsn,
    /// Which promise was broken, and how.
    pub why: &'static str,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, offset, first, last, why } = self;
        write!(f, "entries {first} to {last} are lost: {why}, in seg-{:08}.rwal at offset {offset}", slot.0)
    }
}

/// Why a store cannot be opened, whatever the policy. Nothing has been changed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ScanError {
    /// Written by a later version of the format.
    Newer {
        /// The slot whose header says so; without one it is META.
        slot: Option<SlotNo>,
        /// Its major number.
        major: u16,
        /// Features that are not known here.
        features: u64,
    },
    /// There are segments, but no META.
    MetaMissing {
        /// How many slot files there are.
        slots: usize,
    },
    /// Neither copy of META checks out.
    MetaUnreadable,
    /// META checks out, and neither copy of the cursor does.
    CursorUnreadable,
    /// A segment of another store lies here.
    WrongStore {
        /// The slot.
        slot: SlotNo,
    },
    /// A segment lies in another slot than it was written for: files were swapped or copied.
    WrongPlace {
        /// The slot.
        slot: SlotNo,
        /// What its header says.
        says: SlotNo,
    },
    /// Two segments say that they are the same one: a file was copied and its header made to fit.
    SameIdentity {
        /// One of the slots.
        slot: SlotNo,
        /// The other one.
        other: SlotNo,
    },
    /// A segment's header contradicts META.
    Disagrees {
        /// The slot.
        slot: SlotNo,
        /// The field that differs.
        field: &'static str,
    },
    /// The disk cannot read or write so little at once.
    BlocksTooShort {
        /// Length of the store's blocks.
        block_len: u32,
        /// What the disk reads and writes in.
        unit: u32,
    },
    /// The chunks of the pool are shorter than the store's blocks.
    PoolTooSmall {
        /// Bytes that a chunk must have.
        needed: usize,
    },
    /// The disk refused.
    Disk(DiskError),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { slot: Some(slot), major, .. } => {
                write!(f, "seg-{:08}.rwal was written by format version {major}", slot.0)
            }
            Self::Newer { major, features: 0, .. } => write!(f, "the store was written by format version {major}"),
            Self::Newer { features, .. } => write!(f, "the store uses unknown features {features:#x}"),
            Self::MetaMissing { slots } => write!(f, "META is missing, although there are {slots} segment files"),
            Self::MetaUnreadable => f.write_str("neither copy of META checks out"),
            Self::CursorUnreadable => f.write_str("neither copy of the cursor checks out"),
            Self::WrongStore { slot } => write!(f, "seg-{:08}.rwal belongs to another store", slot.0),
            Self::WrongPlace { slot, says } => {
                write!(f, "seg-{:08}.rwal was written as seg-{:08}.rwal", slot.0, says.0)
            }
            Self::SameIdentity { slot, other } => {
                write!(f, "seg-{:08}.rwal and seg-{:08}.rwal have the same identity", other.0, slot.0)
            }
            Self::Disagrees { slot, field } => {
                write!(f, "the header of seg-{:08}.rwal contradicts META in {field}", slot.0)
            }
            Self::BlocksTooShort { block_len, unit } => {
                write!(f, "its blocks have {block_len} bytes, but this disk reads and writes in units of {unit}")
            }
            Self::PoolTooSmall { needed } => write!(f, "the pool's chunks are shorter than {needed} bytes"),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ScanError {}

impl From<DiskError> for ScanError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// The end of a log as an unclean stop left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The slot in which the log ends.
    pub slot: SlotNo,
    /// Where in the slot, in bytes.
    pub offset: u64,
    /// The last LSN of the log.
    pub end: Lsn,
    /// Frames that were begun there and are not whole. Torn or rotted cannot be told: no promise
    /// covers them.
    pub broken_frames: u64,
    /// Whole frames behind the tear, which were never acknowledged.
    pub stranded_frames: u64,
}

/// What stands at a slot's start.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each slot, while a store is looked at")]
pub enum SlotState {
    /// A segment.
    Segment(SegmentHeader),
    /// Zero to its end and never used.
    Free,
    /// Abandoned by a recovery.
    Void,
    /// Nothing that checks out.
    Invalid,
}

/// A slot file as the scan found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotReport {
    /// Which slot.
    pub slot: SlotNo,
    /// Length of the file in bytes.
    pub file_len: u64,
    /// What stands at its start.
    pub state: SlotState,
}

/// Counts of what a scan did and saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanReport {
    /// Every slot file, in order.
    pub slots: Vec<SlotReport>,
    /// Segments whose every block was read.
    pub segments_read: u32,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Whole frames seen in the segments that were read.
    pub frames: u64,
    /// Blocks that the disk could not read.
    pub unreadable_blocks: u64,
    /// Record-less frames that had vanished and were stepped over.
    pub lost_marks: u64,
    /// The freshest promise found.
    pub promise: Lsn,
    /// Whether the store had been closed in order.
    pub clean: bool,
    /// Whether META's newer copy seems lost: something else carries a later incarnation.
    pub stale_meta: bool,
    /// Where an unclean stop cut the log, if it left a trace.
    pub torn: Option<TornTail>,
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The store's description, `None` for a new store. Its epoch is the newest of all that is there.
    pub meta: Option<Meta>,
    /// What the sink is done with.
    pub cursor: Cursor,
    /// The last LSN of the log, never below the cursor.
    pub end: Lsn,
    /// The LSN that the next entry gets.
    pub next_lsn: Lsn,
    /// The segment that a new one is linked to.
    pub tail_uid: SegmentUid,
    /// Greatest order number of a segment.
    pub seq_max: u64,
    /// Segments that hold something to deliver, in order.
    pub live: Vec<LiveSegment>,
    /// Slots of abandoned segments, to be voided before anything new is written.
    pub voids: Vec<SlotNo>,
    /// Slots that are ready to be used.
    pub free: Vec<SlotNo>,
    /// Slots that must be prepared before they are used.
    pub unprepared: Vec<SlotNo>,
    /// What was promised and cannot be read, in LSN order.
    pub corruption: Vec<Corruption>,
    /// Counts.
    pub report: ScanReport,
    /// The walked segments with their base, dead ones included: to find the tail after a cut.
    pub(crate) run: Vec<(SegmentUid, Lsn)>,
    /// LSNs up to this one may have been given out: never to be given out again.
    pub(crate) seen: Lsn,
    /// The epoch that META itself has: less than the newest where its newer copy is lost.
    pub(crate) meta_epoch: u64,
    /// A store whose making was cut off: its META file is there, and says nothing.
    pub(crate) half_made: bool,
}

/// A log that is ready to be written.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The store's description, as it now stands on disk.
    pub meta: Meta,
    /// What the sink is done with, as it now stands on disk.
    pub cursor: Cursor,
    /// The last LSN of the log. A new segment begins at the next one.
    pub end: Lsn,
    /// The LSN that the next entry gets. If it is more than `end + 1`, a SKIP frame comes first.
    pub next_lsn: Lsn,
    /// The segment that a new one is linked to.
    pub tail_uid: SegmentUid,
    /// Greatest order number of a segment.
    pub seq_max: u64,
    /// Segments that hold something to deliver, in order.
    pub live: Vec<LiveSegment>,
    /// Slots that are ready to be used.
    pub free: Vec<SlotNo>,
    /// Slots that must be prepared before they are used.
    pub unprepared: Vec<SlotNo>,
    /// What was given up by policy: first LSN and one past the last, rising.
    pub lost: Vec<(Lsn, Lsn)>,
    /// LSNs at which a reader finds nothing without that being an error: `lost`, and the finished
    /// runs of the cursor. For `SegmentTable::new`.
    pub absent: Vec<(Lsn, Lsn)>,
    /// What openings before this one settled, and nobody may have been told.
    pub earlier: Untold,
}
