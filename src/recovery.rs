//! What opening found, as a user sees it.

use std::fmt;
use std::sync::Arc;

use crate::error::OpenError;
use crate::io::DiskReport;
use crate::lsn::Lsn;

/// What opening found in the directory, and what the platform gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the directory was new.
    pub new: bool,
    /// Whether the queue had been shut down in order.
    pub clean: bool,
    /// Entries in the log that the sink had not acknowledged; after a crash under `Spill`, at most so many.
    pub recovered: u64,
    /// How many of these a dead process had left in its rings ([`Builder::rings_in`](crate::Builder::rings_in)).
    pub from_rings: u64,
    /// Pushes that the death of a process interrupted in its rings: they never returned, and are skipped.
    pub incomplete_in_rings: u64,
    /// Entries in the park.
    pub parked: u64,
    /// The last LSN in the log.
    pub end: Lsn,
    /// The LSN of the next entry.
    pub next: Lsn,
    /// Where a crash had cut the log, if it had: what was torn there had never been promised to anyone. Also if an
    /// earlier opening found that, as in [`earlier`](Self::earlier).
    pub torn_tail: Option<String>,
    /// The same of the park.
    pub torn_tail_parked: Option<String>,
    /// Entries that were given up, as [`on_corruption`](crate::Builder::on_corruption) says: first and last LSN, rising.
    /// Those too that an [earlier](Self::earlier) opening gave up.
    pub lost: Vec<(Lsn, Lsn)>,
    /// The same of the park: [ids](crate::ParkedEntry::id) of entries that were given up, first and last.
    pub lost_parked: Vec<(Lsn, Lsn)>,
    /// What of the above was found by earlier openings that may have told nobody: the process died within them, they
    /// failed later on, or nothing was pushed and nothing closed after them. It may be told twice.
    pub earlier: Earlier,
    /// How long opening took.
    pub took: std::time::Duration,
    /// The I/O driver and what it can promise.
    pub disk: DiskReport,
    /// Which opening of which store this is.
    pub(crate) incarnation: Incarnation,
}

/// What earlier openings settled, and may have told nobody.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Earlier {
    /// Entries that they gave up: first and last LSN. Part of [`Recovery::lost`].
    pub lost: Vec<(Lsn, Lsn)>,
    /// The same of the park. Part of [`Recovery::lost_parked`].
    pub lost_parked: Vec<(Lsn, Lsn)>,
    /// What is not exact about that, in words: more runs than there was room for, or a table that makes no sense.
    pub notes: Vec<String>,
}

/// An opening of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Incarnation {
    /// The store's identity.
    pub(crate) store: [u8; 16],
    /// Rises by one with each opening.
    pub(crate) epoch: u64,
}

/// A log as a scan found it, before anything was changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The opening that wrote last.
    pub(crate) incarnation: Incarnation,
    /// The last LSN.
    pub(crate) end: Lsn,
    /// Whether nothing of it is damaged.
    pub(crate) is_whole: bool,
}

/// What is done about a look; what it refuses is not opened.
pub(crate) type Judge = dyn Fn(&Look) -> Result<(), OpenError> + Send + Sync;

/// Told what a scan has found.
#[derive(Clone)]
pub(crate) struct OnLook(pub(crate) Arc<Judge>);

impl fmt::Debug for OnLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnLook")
    }
}
