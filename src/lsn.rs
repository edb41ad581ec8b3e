//! The numbers that name things in the log: newtypes, so that none is taken for another.

use std::fmt;

/// The number of an entry in the log: the first is 1, each next one is one more, and numbers survive restarts. After a
/// crash under `Spill`, a failed log or damage some may be skipped; none is given twice. [`Lsn::ZERO`] stands before the
/// first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);
    /// The first entry of a log.
    pub const FIRST: Self = Self(1);

    /// The LSN with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number, for a column in a database or a line of output.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The LSN `count` entries further on.
    ///
    /// # Panics
    /// When the number leaves 64 bits, which takes 500 years at a billion entries a second.
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        match self.0.checked_add(count) {
            Some(number) => Self(number),
            None => panic!("an LSN went beyond 64 bits"),
        }
    }

    /// The LSN after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.advance(1)
    }

    /// The LSN before this one; of [`Lsn::ZERO`], itself.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many entries lie in `earlier..self`; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// Number of a slot: the place of a segment file in the directory, `seg-00000003.rwal`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotNo(pub u32);

/// Random identity of one use of a slot. Every frame repeats it, so that what an earlier use left
/// behind in recycled space is never taken for data. 0 stands for "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentUid(pub u64);

impl SegmentUid {
    /// No segment.
    pub const NONE: Self = Self(0);
}
