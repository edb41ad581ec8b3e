//! What can be saved of a damaged store: every whole frame in any slot file, and what it is worth.
//!
//! ```text
//!   slot file ─ bytes ─► Sift ─► SlotFile ──┐
//!   slot file ─ bytes ─► Sift ─► SlotFile ──┼─► judge ─► Findings: a standing for each frame, what is missing
//!   META, cursor, as far as they are whole ─┘
//! ```
//! Recovery follows META, the cursor and the chain of headers, and stops where one of them is gone. Here
//! nothing is followed: a frame names its segment, its own place and its LSNs, all under its checksum, so
//! each one speaks for itself. Headers, META and cursor are evidence where they are whole.
//!
//! # What a frame is worth
//! | met                                                                   | standing      |
//! |-----------------------------------------------------------------------|---------------|
//! | its uid is that of a segment header of this store, wherever that lies | live, or done |
//! | no header has its uid, but one names it as its predecessor             | live, or done |
//! | neither, and its file has no whole header; nobody else has its LSNs    | live, or done |
//! | it lies behind the base of a segment with a later sequence number, or behind the end that a later recovery settled | abandoned |
//! | its file is marked as abandoned; or it has no header, and another segment has one of its LSNs | abandoned |
//! | its file is in use for another segment by now                          | recycled      |
//! | its header names another store                                         | foreign       |
//! | two frames that are otherwise live have an LSN in common               | ambiguous     |
//!
//! Sequence numbers rise with each segment that is begun, and LSNs with them: so of two segments that
//! hold an LSN the later one is right, with or without META. Only what is live may be given to a sink:
//! *an LSN never names another entry*. What is done was acknowledged by the sink.
//!
//! # Without a cursor
//! Every frame repeats what the sink had acknowledged when it was built. That is true for ever, so the
//! highest of these hints is a floor: what lies below is done, what lies above may come a second time.
//!
//! Decision: `docs/adr/0012-salvage.md`.

mod judge;
mod sift;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;

use crate::lsn::{Lsn, SlotNo};
use crate::schema::Schema;
use crate::wal::cursor::Cursor;
use crate::wal::frame::FrameHeader;
use crate::wal::meta::Meta;
use crate::wal::op::LogId;
use crate::wal::segment::{SlotHeader, StoreId};

pub use judge::{judge, read_cursor};
pub use sift::{SECTOR_LEN, Sift};

/// A whole frame in a slot file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Its header; the body's checksum holds too.
    pub header: FrameHeader,
}

/// What a slot file holds.
#[derive(Clone, Debug)]
pub struct SlotFile {
    /// The log in whose folder it lies.
    pub log: LogId,
    /// The slot that its name says.
    pub slot: SlotNo,
    /// What its first blocks say.
    pub header: SlotHeader,
    /// Its whole frames, by place.
    pub pieces: Vec<Piece>,
    /// Places that begin like a frame and hold none that is whole.
    pub broken: u64,
    /// Bytes that could not be read.
    pub unreadable: u64,
}

/// What a frame is worth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// Part of the log, and the sink is not done with all of it.
    Live,
    /// Part of the log, and the sink is done with all of it.
    Done,
    /// Given up by a recovery: its LSNs were given out again.
    Abandoned,
    /// Left over in a slot that is in use for another segment.
    Recycled,
    /// Two different frames claim its LSNs, and nothing says which is right.
    Ambiguous,
    /// Of another store.
    Foreign,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Done => "delivered",
            Self::Abandoned => "abandoned",
            Self::Recycled => "recycled",
            Self::Ambiguous => "ambiguous",
            Self::Foreign => "foreign",
        })
    }
}

/// A frame, and what it is worth.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Index of its file in what was judged.
    pub file: usize,
    /// The frame.
    pub piece: Piece,
    /// What it is worth.
    pub standing: Standing,
    /// What its entries are; `None` if no header of its segment is whole.
    pub schema: Option<Schema>,
}

/// A run of LSNs of which nothing was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The first one.
    pub first: Lsn,
    /// The last one.
    pub last: Lsn,
    /// Whether a promise says that they were durable. Else they may never have been written.
    pub promised: bool,
}

/// All that is known of a damaged log.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The store that the log belongs to, as far as anything says so.
    pub store: Option<StoreId>,
    /// META, unless it belongs to another store.
    pub meta: Option<Meta>,
    /// The cursor; `None` if it is not known.
    pub cursor: Option<Cursor>,
    /// Every LSN up to this one is done: by the cursor, or else by the hints in frames.
    pub floor: Lsn,
    /// Every frame that makes entries, in LSN order.
    pub frames: Vec<Judged>,
    /// LSNs above the floor that ought to be there and are not, in order.
    pub missing: Vec<Missing>,
    /// No LSN above this one was ever given out, as far as anything says.
    pub seen: Lsn,
    /// The freshest promise.
    pub promise: Lsn,
}

/// Why a log cannot be judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JudgeError {
    /// META is gone, and as many segments say that they belong to one store as to another.
    Stores(Vec<StoreId>),
}

impl fmt::Display for JudgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Stores(stores) = self;
        write!(f, "its segments belong to {} stores, and nothing says which one is meant", stores.len())
    }
}

impl std::error::Error for JudgeError {}
