//! The only place that makes system calls on files: drivers behind one trait.

mod cpu;
mod dir;
mod error;
mod files;
pub mod fork;
#[cfg(not(any(loom, shuttle)))]
pub(crate) mod futex;
mod landing;
mod lock;
pub mod membarrier;
pub mod memory;
mod note_file;
mod open;
mod peek;
mod preparer;
mod probe;
pub mod ring_file;
mod slab;
mod threads;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
mod transfer;
mod uring;
mod wake;

pub use self::cpu::pin_to_cpu;
pub(crate) use self::note_file::{folders, read_note, write_note};
pub use self::peek::peek_meta;
#[cfg(feature = "config")]
pub(crate) use self::peek::read_text;
pub use self::wake::block_signals;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

pub use crate::config::Io;
pub use error::IoOpenError;
pub(crate) use error::takes_nothing;
pub use memory::RamDisk;
pub use open::{IoConfig, Opened, open};

/// Something that carries out the log's ops, in any order, and tells when they are done.
///
/// One thread owns it: the flush core. Ops on the same bytes are never in flight together; the log
/// sees to that.
pub trait Disk: Send {
    /// Takes an op. Never blocks for its end; an error comes back as its completion.
    fn submit(&mut self, token: Token, op: Op);

    /// The next completion. Without one: waits until there is one, until the doorbell rings, or
    /// until `timeout` has passed (`Some(ZERO)` looks once, `None` waits for ever), and then gives
    /// what there is. A doorbell that rang before the call is not lost.
    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion>;

    /// What wakes `complete` from any thread.
    fn doorbell(&self) -> Arc<dyn Wake>;

    /// What this disk is, and what it can promise.
    fn report(&self) -> DiskReport;
}

/// Wakes a thread that sleeps somewhere else.
pub trait Wake: Send + Sync + fmt::Debug {
    /// Wakes it; if it does not sleep, its next sleep ends at once.
    fn wake(&self);
}

/// What a disk is, and what it can promise: chosen at open, shown in health and metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskReport {
    /// "io_uring", "threads", "tokio-uring", "memory", "simulated".
    pub driver: &'static str,
    /// Whether writes go past the page cache.
    pub direct: bool,
    /// Whether anything survives a loss of power here (false on tmpfs and in memory).
    pub durable: bool,
    /// The file system, as the kernel calls it.
    pub file_system: String,
    /// Smallest unit of reading and writing, in bytes, a power of two from 512 to 65,536.
    pub block_len_min: u32,
    /// What was asked and not given, with the reason and the remedy, a sentence each.
    pub notes: Vec<String>,
}

/// A note for the report.
const DSYNC_MISSING: &str = "this file system does not take RWF_DSYNC: each commit is a write and then a sync, \
     which is just as durable and slower";

fn disk_error(
    what: &'static str,
    file: Option<FileId>,
    offset: Option<u64>,
    errno: i32,
    detail: &'static str,
) -> DiskError {
    DiskError { what, file, offset, errno, detail }
}

/// Of a disk that may only be read: the completion of an op that would write. A sync has nothing to do.
fn refuse_write(read_only: bool, token: Token, op: &Op) -> Option<Completion> {
    if !read_only {
        return None;
    }
    let (what, file) = match op {
        Op::Write { file, .. } => ("write", *file),
        Op::Prepare { file, .. } => ("prepare", *file),
        Op::Remove { file } => ("remove", *file),
        Op::Quarantine { file } => ("quarantine", *file),
        Op::Sync { .. } => return Some(Completion { token, result: Ok(Output::Done) }),
        Op::Read { .. } | Op::List { .. } => return None,
    };
    let error = disk_error(what, Some(file), None, libc::EROFS, "opened read-only");
    Some(Completion { token, result: Err(error) })
}
