//! What was asked of a simulated machine, for assertions about the ops themselves.

use std::fmt;

use crate::wal::op::{FileId, Op, Token};

/// What kind of op.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OpKind {
    /// `Op::List`.
    List,
    /// `Op::Prepare`.
    Prepare,
    /// `Op::Write`.
    Write,
    /// `Op::Sync`.
    Sync,
    /// `Op::Read`.
    Read,
    /// `Op::Remove`.
    Remove,
    /// `Op::Quarantine`.
    Quarantine,
}

impl OpKind {
    /// The kind of this op.
    #[must_use]
    pub const fn of(op: &Op) -> Self {
        match op {
            Op::List { .. } => Self::List,
            Op::Prepare { .. } => Self::Prepare,
            Op::Write { .. } => Self::Write,
            Op::Sync { .. } => Self::Sync,
            Op::Read { .. } => Self::Read,
            Op::Remove { .. } => Self::Remove,
            Op::Quarantine { .. } => Self::Quarantine,
        }
    }

    /// As it stands in a [`DiskError`](crate::wal::op::DiskError).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Prepare => "prepare",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Read => "read",
            Self::Remove => "remove",
            Self::Quarantine => "quarantine",
        }
    }

    /// Whether a power cut during it can change what is on the disk.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(self, Self::List | Self::Read)
    }
}

/// An op that was submitted, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpRecord {
    /// Its number: counts all ops of a machine, over all its crashes, from 0.
    pub number: u64,
    /// Which connection submitted it, counted from 1.
    pub connection: u64,
    /// The token it came with.
    pub token: Token,
    /// What it was.
    pub kind: OpKind,
    /// On which file; of `List`, the log's META.
    pub file: FileId,
    /// Where; 0 for ops on whole files.
    pub offset: u64,
    /// How many bytes; 0 where it has none.
    pub len: u64,
    /// Of a write, whether its completion means durable.
    pub dsync: bool,
    /// The first bytes of what was written or marked, up to 96: enough for a frame's header.
    pub head: Vec<u8>,
    /// The machine's step at which it was submitted.
    pub submitted: u64,
    /// The step at which it completed and its error number, 0 for none; `None` while it is in flight,
    /// and for ever if the machine died first.
    pub completed: Option<(u64, i32)>,
}

impl OpRecord {
    /// Whether this op and `other` were in flight together.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let ends = |op: &Self| op.completed.map_or(u64::MAX, |c| c.0);
        self.submitted < ends(other) && other.submitted < ends(self)
    }
}

impl fmt::Display for OpRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {}", self.number, self.kind.name(), self.file)?;
        if self.len > 0 {
            write!(f, " {}+{}", self.offset, self.len)?;
        }
        if self.dsync {
            f.write_str(" dsync")?;
        }
        match self.completed {
            Some((step, 0)) => write!(f, " [{}..{step}]", self.submitted),
            Some((step, errno)) => write!(f, " [{}..{step}] errno {errno}", self.submitted),
            None => write!(f, " [{}..", self.submitted),
        }
    }
}

/// A write that a power cut may keep, lose or tear: in flight, or completed and not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unstable {
    /// The op that wrote it.
    pub number: u64,
    /// Into which file.
    pub file: FileId,
    /// Where it began.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
    /// Whether its completion had been told.
    pub completed: bool,
}
