//! All that a log asks of a disk. The pure stages declare it, `io/` carries it out.
//!
//! A block of memory travels with its op and comes back with the completion: no lifetimes, and no
//! buffer can be freed while the kernel still reads or fills it.

use std::fmt;

use crate::lsn::SlotNo;
use crate::wal::block::{Block, BlockMut};

/// Which of the directory's logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LogId {
    /// The entries.
    Main,
    /// The parked entries, in `park/`.
    Park,
}

/// A file of the store. Names are fixed, so nothing is ever renamed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileId {
    /// `META`: two copies each of the store's description and of the cursor.
    Meta(LogId),
    /// `seg-00000000.rwal` …: a segment's place.
    Slot(LogId, SlotNo),
}

impl FileId {
    /// The log that the file belongs to.
    #[must_use]
    pub const fn log(self) -> LogId {
        match self {
            Self::Meta(log) | Self::Slot(log, _) => log,
        }
    }
}

impl fmt::Display for FileId {
    /// The path below the queue's directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.log() == LogId::Park {
            f.write_str("park/")?;
        }
        match self {
            Self::Meta(_) => f.write_str("META"),
            Self::Slot(_, slot) => write!(f, "seg-{:08}.rwal", slot.0),
        }
    }
}

/// Names an op until its completion: who asked, and which of his.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    /// Who gets the completion.
    pub owner: Owner,
    /// Which op of the owner's.
    pub number: u32,
}

/// The state machines that ask a disk for something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// Recovery, at open.
    Recovery,
    /// The log of entries or of parked entries: writer, cursor, slots.
    Log(LogId),
    /// The reader that brings let-go frames back.
    Reader(LogId),
}

/// What a disk is asked to do.
#[derive(Debug)]
pub enum Op {
    /// Tell which files there are.
    List {
        /// Of which log.
        log: LogId,
    },
    /// Make the file `len` bytes long, written with zeros all over, then `mark` written at its start
    /// and all of it durable, its name in the directory too. A file that is there is overwritten; where
    /// that fails it may have been removed.
    Prepare {
        /// Which file.
        file: FileId,
        /// Its length in bytes.
        len: u64,
        /// Bytes for the start of the file, written last; whole blocks.
        mark: Block,
        /// False: take care not to disturb commits (paced). True: somebody waits for it.
        urgent: bool,
    },
    /// Write all of `block` at `offset`; with `dsync`, durable when it completes.
    Write {
        /// Which file.
        file: FileId,
        /// Where, a multiple of the block size.
        offset: u64,
        /// What: whole blocks.
        block: Block,
        /// Whether completion means durable.
        dsync: bool,
    },
    /// Make durable what has completed in this file. Covers no write that is still in flight.
    Sync {
        /// Which file.
        file: FileId,
    },
    /// Fill all of `block` from `offset` on. What lies beyond the end of the file reads as zeros.
    Read {
        /// Which file.
        file: FileId,
        /// Where, a multiple of the block size.
        offset: u64,
        /// Where to.
        block: BlockMut,
    },
    /// Remove the file, durably.
    Remove {
        /// Which file.
        file: FileId,
    },
    /// Copy the file into `quarantine/`, durably, before it is repaired. An older copy is kept.
    Quarantine {
        /// Which file.
        file: FileId,
    },
}

/// How an op ended.
#[derive(Debug)]
pub struct Completion {
    /// Which op.
    pub token: Token,
    /// What came of it.
    pub result: Result<Output, DiskError>,
}

/// What a successful op brings back.
#[derive(Debug)]
pub enum Output {
    /// Of `Prepare`, `Write`, `Sync`, `Remove`, `Quarantine`.
    Done,
    /// Of `List`: the files of the log that are there, with their lengths in bytes, in order of name.
    Files(Vec<(FileId, u64)>),
    /// Of `Read`.
    Bytes(BlockMut),
}

/// A disk's refusal. Short writes and interrupted calls never get here: the driver resends them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What was tried: "write", "sync", "prepare", …
    pub what: &'static str,
    /// The file, where there is one.
    pub file: Option<FileId>,
    /// The offset, where there is one.
    pub offset: Option<u64>,
    /// The kernel's error number; 0 where the error is not the kernel's.
    pub errno: i32,
    /// For errors that are not the kernel's, and as a hint.
    pub detail: &'static str,
}

impl DiskError {
    /// No space, or no space for this user: heals when space is freed.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno, libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.what)?;
        if let Some(file) = self.file {
            write!(f, " on {file}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        if self.errno != 0 {
            write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        }
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for DiskError {}
