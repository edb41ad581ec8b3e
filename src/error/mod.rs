//! What can go wrong, one enum per operation: what was tried, what stood in the way, what to do.

mod push;

pub use push::{BatchError, PushError};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Origin};
use crate::lsn::Lsn;
use crate::schema::Schema;
use crate::wal::coding::{KeyId, KeyProblem, features};
use crate::wal::op::DiskError;

/// A setting that does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The setter's name, as in texts: `retry.base`.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What would fit.
    pub range: String,
    /// Where it was read, if not from code.
    pub origin: Option<Origin>,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, value: impl fmt::Display, range: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), range: range.into(), origin: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{} is {}, but must be {}", self.field, self.value, self.range)
    }
}

impl std::error::Error for ConfigError {}

/// Why a queue could not be opened.
///
/// After [`Disk`](Self::Disk), [`Io`](Self::Io), [`NoSpace`](Self::NoSpace) and [`Resources`](Self::Resources) recovery
/// may have been done in part, and after a refused [`sink_cpu`](crate::Builder::sink_cpu) it has been done. The next
/// opening goes on from there: nothing is lost by that, and what was given up on the way, as `on_corruption` says, is told
/// then. After all others the directory is as it was, except that a missing one may have been made. Of a queue with
/// several sinks, those that were opened before the refused one have been recovered.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting does not fit.
    Config(ConfigError),
    /// The directory, or a file in it, cannot be used; the text says what to do.
    Io {
        /// What was tried.
        what: String,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another process, or another queue of this one, has the directory.
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who has it, where that is known.
        pid: Option<u32>,
    },
    /// The path is there, but is no directory.
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory holds entries of another type or version.
    Schema {
        /// What it holds.
        found: Box<Schema>,
        /// What was asked for.
        wanted: Box<Schema>,
    },
    /// Entries that were acknowledged as durable are missing or damaged.
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The first entry that is missing.
        first: Lsn,
        /// The last one that is known to be missing.
        last: Lsn,
        /// What contradicts what.
        why: String,
    },
    /// What says what the store is cannot be read, files of another store lie here, or the disk cannot read so short
    /// blocks. Nothing was changed.
    Unusable {
        /// The file.
        file: PathBuf,
        /// What was found, and what to do.
        why: String,
    },
    /// Rings in shared memory cannot be used, or what a dead process left in them cannot be taken over; the text says
    /// what to do. Nothing was changed.
    Rings {
        /// The file or folder.
        file: PathBuf,
        /// What was found.
        why: String,
    },
    /// A later version of ringwal wrote this directory.
    NewerFormat {
        /// The file that says so.
        file: PathBuf,
        /// Its major format number.
        found: u16,
        /// The greatest that this version reads.
        known: u16,
        /// Bits of features in it that this version does not know.
        features: u64,
    },
    /// Entries that are not yet delivered are encrypted, and their key was not given. Nothing is damaged.
    KeyMissing {
        /// The first segment whose key is missing.
        file: PathBuf,
        /// The key's number.
        key: KeyId,
        /// What is given instead.
        why: KeyProblem,
    },
    /// The key that was given under this number is not the one that entries were encrypted with. Nothing is damaged.
    WrongKey {
        /// The first segment that it does not open.
        file: PathBuf,
        /// The key's number.
        key: KeyId,
    },
    /// There is not enough space for the first segment.
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes needed.
        need: u64,
    },
    /// io_uring was demanded and is refused here.
    UringRefused {
        /// What the kernel said, and the remedy.
        why: String,
    },
    /// The sink answered `committed()`, which has no meaning with [`Durability::Memory`](crate::Durability::Memory):
    /// LSNs begin anew with each run.
    CommittedInMemory,
    /// The sink answered `committed()` with a number that no log comes to.
    CommittedTooHigh {
        /// Its answer.
        lsn: Lsn,
        /// The greatest that it may be.
        max: Lsn,
    },
    /// A thread could not be started, or memory not be had.
    Resources {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk refused an operation while opening.
    Disk {
        /// The directory.
        dir: PathBuf,
        /// The refusal.
        error: DiskError,
    },
}

impl OpenError {
    /// With the place where the setting was read that does not fit.
    pub(crate) fn traced(self, config: &Config) -> Self {
        match self {
            Self::Config(error) => Self::Config(config.traced(error)),
            other => other,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "wrong configuration: {error}"),
            Self::Io { what, path, source } => {
                write!(f, "cannot {what} {}: {source}{}", path.display(), remedy(source.kind()))
            }
            Self::Locked { dir, pid: Some(pid) } => write!(
                f,
                "{} is in use by process {pid}; stop it, or use another directory",
                dir.display()
            ),
            Self::Locked { dir, pid: None } => {
                write!(f, "{} is in use by another queue; close it, or use another directory", dir.display())
            }
            Self::NotADirectory { path } => {
                write!(f, "{} is not a directory; give the path of a directory of the queue's own", path.display())
            }
            Self::Schema { found, wanted } => write!(
                f,
                "the directory holds entries of schema {found}, not {wanted}; open it with the old type and drain it, list \
                 the old version in `entry!(…, from = […])`, or use another directory"
            ),
            Self::Corrupt { file, offset, first, last, why } => write!(
                f,
                "{} is damaged at offset {offset}: entries {first} to {last} were durable and cannot be read ({why}); \
                 nothing was changed. Restore the file from a copy, or open with `on_corruption(Quarantine)` to go on \
                 without these entries, or with `CutTail` to give up everything from there on",
                file.display()
            ),
            Self::Unusable { file, why } => write!(f, "{} cannot be used: {why}", file.display()),
            Self::Rings { why, .. } => f.write_str(why),
            Self::KeyMissing { file, key, why } => write!(
                f,
                "{} is encrypted with key {key}, and {why}; nothing was changed. Give the key to `cipher`",
                file.display()
            ),
            Self::WrongKey { file, key } => write!(
                f,
                "{} is encrypted with another key {key} than the one that was given; nothing was changed. Give the right one",
                file.display()
            ),
            Self::NewerFormat { file, features, .. } if *features != 0 => write!(
                f,
                "{} uses what this build of ringwal does not know: {}; use the version that wrote it, or a later one, with these features",
                file.display(),
                features::names(*features)
            ),
            Self::NewerFormat { file, found, known, .. } => write!(
                f,
                "{} has format {found}, this version of ringwal reads up to {known}; use the version that wrote it, or a later one",
                file.display()
            ),
            Self::NoSpace { dir, need } => write!(
                f,
                "no space for the first segment in {}: {need} bytes are needed; free some, or choose a smaller segment_len",
                dir.display()
            ),
            Self::UringRefused { why } => write!(f, "io_uring was demanded and cannot be had: {why}"),
            Self::CommittedInMemory => f.write_str(
                "the sink keeps LSNs over restarts (`committed()`), but with Durability::Memory LSNs begin anew; use another durability",
            ),
            Self::CommittedTooHigh { lsn, max } => write!(
                f,
                "the sink answers `committed()` with {lsn}, and no log has numbers above {max}; it must be the last LSN that is \
                 stored with the data, or zero: see what the sink has stored"
            ),
            Self::Resources { what, source } => write!(f, "cannot get {what}: {source}"),
            Self::Disk { dir, error } => {
                let kind = std::io::Error::from_raw_os_error(error.errno).kind();
                write!(f, "{}: {error}{}", dir.display(), remedy(kind))
            }
        }
    }
}

/// What to do about what the kernel said, where that is known.
fn remedy(kind: std::io::ErrorKind) -> &'static str {
    match kind {
        std::io::ErrorKind::PermissionDenied => {
            "; give this user read, write and search permission there, and see with `lsattr` whether it was made immutable"
        }
        std::io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or use another directory",
        std::io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Io { source, .. } | Self::Resources { source, .. } => Some(source),
            Self::Disk { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<ConfigError> for OpenError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// Why waiting for durability, or for the end of the backlog, ended without it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogError {
    /// A write or sync failed. What was not durable before may or may not be on disk.
    Failed(Arc<DiskError>),
    /// The queue works with [`Durability::Memory`](crate::Durability::Memory): nothing is ever durable.
    NotDurable,
    /// The time given has passed. The entry is still in the queue.
    TimedOut,
    /// The queue's threads have ended.
    Closed,
    /// The runtime that the sink works on ([`Builder::runtime`](crate::Builder)) was shut down before the queue. What is not
    /// delivered waits in the log for the next opening.
    RuntimeEnded,
    /// This is a forked child of the process that opened the queue: its threads stayed there.
    Forked,
    /// The call would wait on the very thread that must make what it waits for: a sink waiting for
    /// its own queue.
    WouldDeadlock,
    /// So many parked entries with others between them cannot be taken out of the park at once; begin
    /// with the oldest ones.
    TooManyHoles,
    /// The log holds acknowledged entries that cannot be read back; delivery has halted before them.
    Corrupt(Arc<str>),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(cause) => {
                write!(f, "the log has failed: {cause}; close the queue and open it again to recover")
            }
            Self::NotDurable => f.write_str("with Durability::Memory nothing is ever durable"),
            Self::TimedOut => f.write_str("not within the time given"),
            Self::Closed => f.write_str("the queue has ended"),
            Self::RuntimeEnded => f.write_str(
                "the runtime that the sink works on was shut down; what is left is delivered after the next opening",
            ),
            Self::Forked => f.write_str("the queue belongs to the parent of this forked process; open another one"),
            Self::WouldDeadlock => f.write_str("a sink cannot wait for its own queue"),
            Self::TooManyHoles => f.write_str(
                "the park would be left with more than 512 gaps between its entries; begin with the oldest ones",
            ),
            Self::Corrupt(what) => write!(f, "the log cannot be read: {what}"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(cause) => Some(&**cause),
            _ => None,
        }
    }
}

/// What a shutdown came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Shutdown {
    /// Entries that the sink acknowledged, since open and before the time was over.
    pub delivered: u64,
    /// Entries parked now.
    pub parked: u64,
    /// Entries that the sink refused for good under [`Park::Drop`](crate::Park::Drop), or that were discarded
    /// from the park, since open.
    pub discarded: u64,
    /// Durable entries that wait for the next open, which will find just these. Among them is a batch that was out at
    /// the sink when the time was over: whatever the sink still answers counts for nothing, and the batch comes again.
    pub left_in_log: u64,
    /// Entries that were accepted, were neither durable nor delivered, and end with the process: with
    /// [`Durability::Memory`](crate::Durability::Memory), where the log was full to the end, and those whose push was still
    /// on its way a second after the time was over.
    pub lost: u64,
}

/// Why a shutdown was not complete. The queue is closed all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The sink was still busy when the time was over. What it has not acknowledged by then waits in the log, whatever it
    /// still answers.
    Deadline(Shutdown),
    /// The log failed.
    Storage {
        /// Why.
        cause: LogError,
        /// Entries that were accepted, are neither durable nor delivered, and end with the process.
        lost: u64,
    },
    /// The disk had not completed what closing the logs asks of it, long after the time was over (30 s). Nothing says that
    /// it has failed; the queue's thread still waits for it, and until then, or until the process ends, the directory
    /// stays locked.
    DiskSilent {
        /// As far as it is known. `left_in_log` counts what is durable; the cursor may be older than `delivered` tells,
        /// so that what was acknowledged last may come again.
        state: Shutdown,
        /// Entries that have a number, are not delivered, and are not known to be durable: the next opening finds them
        /// or does not.
        unsure: u64,
        /// Bytes of accepted entries that have no number yet: they are still in the rings.
        ring_bytes: u64,
    },
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(state) => write!(
                f,
                "the time was over before the sink had finished: {} delivered, {} parked, {} left in the log for the next start",
                state.delivered, state.parked, state.left_in_log
            ),
            Self::Storage { cause, lost } => write!(f, "{cause}; {lost} entries were neither durable nor delivered"),
            Self::DiskSilent { state, unsure, ring_bytes } => write!(
                f,
                "the disk does not complete what closing asks of it: {} delivered, {} durable in the log for the next start, \
                 {unsure} not known to be durable, {ring_bytes} bytes still in the rings; the directory stays locked until \
                 the disk answers or the process ends",
                state.delivered, state.left_in_log
            ),
        }
    }
}

impl std::error::Error for ShutdownError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Storage { cause, .. } => Some(cause),
            Self::Deadline(_) | Self::DiskSilent { .. } => None,
        }
    }
}
