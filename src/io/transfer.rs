//! What is left to do of a write, a sync or a read, whoever makes the system calls.
//!
//! ```text
//!             ┌──── resend ────┐
//!             ▼                │ short, EINTR, EAGAIN, EBUSY (bounded)
//!   call() ─► system call ─► result() ─► Done
//!                              └───────► Failed: once, never tried again
//! ```
//! | answer                                    | what is done                                          |
//! |-------------------------------------------|-------------------------------------------------------|
//! | all bytes                                 | done                                                  |
//! | fewer written, whole blocks               | the rest is sent                                      |
//! | fewer written, part of a block            | everything is sent again: identical bytes             |
//! | 0 written                                 | fatal: devices have been seen to do that for ever     |
//! | fewer read                                | the rest is read; less than a block more: end of file, zeros |
//! | EINTR, EAGAIN, EBUSY on a read or write   | sent again, at most [`RESENDS_MAX`] times             |
//! | EOPNOTSUPP, EINVAL on the first DSYNC write | sent again without, then a sync                     |
//! | any error of a sync                       | fatal: the kernel may have forgotten the pages, and a second sync would lie |
//! | anything else                             | fatal                                                 |

use rustix::io::Errno;

use crate::io::disk_error;
use crate::wal::block::{Block, BlockMut};
use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

/// How often identical bytes are sent again before it counts as a failure.
pub(super) const RESENDS_MAX: u16 = 256;

/// Whether the kernel takes `RWF_DSYNC` on this file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dsync {
    /// No write with it has completed.
    Untried,
    /// It does.
    Works,
    /// It does not: a write is followed by a sync.
    Missing,
}

/// The memory of an op.
#[derive(Debug)]
pub(super) enum Buffer {
    /// Of a write.
    Out(Block),
    /// Of a read.
    In(BlockMut),
    /// Of a sync.
    None,
}

/// The next system call. `from` counts bytes from the op's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Write { from: usize, dsync: bool },
    Read { from: usize },
    Sync,
}

/// What follows from a system call's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Make the call that [`Transfer::call`] names now.
    Again,
    Done,
    Failed {
        errno: i32,
        detail: &'static str,
    },
}

/// An op in flight, without its memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    /// Name of the op, for errors.
    what: &'static str,
    call: Call,
    len: usize,
    align: usize,
    resends: u16,
    dsync: Dsync,
    /// Of a write: whether a sync of its own follows.
    sync_after: bool,
    /// Of a read: where the file ended.
    end: usize,
}

impl Transfer {
    pub(super) fn write(len: usize, align: usize, dsync: bool, known: Dsync) -> Self {
        let separate = dsync && known == Dsync::Missing;
        let call = Call::Write { from: 0, dsync: dsync && !separate };
        Self { what: "write", call, len, align, resends: 0, dsync: known, sync_after: separate, end: len }
    }

    pub(super) fn read(len: usize, align: usize) -> Self {
        let call = Call::Read { from: 0 };
        Self { what: "read", call, len, align, resends: 0, dsync: Dsync::Untried, sync_after: false, end: len }
    }

    pub(super) fn sync() -> Self {
        Self {
            what: "sync",
            call: Call::Sync,
            len: 0,
            align: 1,
            resends: 0,
            dsync: Dsync::Untried,
            sync_after: false,
            end: 0,
        }
    }

    /// The system call to make.
    pub(super) fn call(&self) -> Call {
        self.call
    }

    /// What a write has taught about `RWF_DSYNC`.
    pub(super) fn dsync(&self) -> Dsync {
        self.dsync
    }

    /// Takes the answer of the call: bytes, or an error number below zero.
    pub(super) fn result(&mut self, result: i32) -> Step {
        match usize::try_from(result) {
            Ok(count) => self.moved(count),
            Err(_) => self.refused(-result),
        }
    }

    fn moved(&mut self, count: usize) -> Step {
        match &mut self.call {
            Call::Sync => Step::Done,
            Call::Write { from, dsync } => {
                assert!(*from + count <= self.len, "the kernel wrote more than it was given");
                if *from + count == self.len {
                    if *dsync {
                        self.dsync = Dsync::Works;
                    }
                    if !self.sync_after {
                        return Step::Done;
                    }
                    self.dsync = Dsync::Missing;
                    self.call = Call::Sync;
                    return Step::Again;
                }
                if count == 0 {
                    return Step::Failed { errno: 0, detail: "the device took none of the bytes" };
                }
                let done = *from + count;
                *from = if done.is_multiple_of(self.align) { done } else { 0 };
                self.resend(Errno::IO)
            }
            Call::Read { from } => {
                assert!(*from + count <= self.len, "the kernel read more than it was asked for");
                let whole = count - count % self.align;
                if *from + count == self.len {
                    return Step::Done;
                }
                if whole == 0 {
                    self.end = *from + count;
                    return Step::Done;
                }
                *from += whole;
                Step::Again
            }
        }
    }

    fn refused(&mut self, errno: i32) -> Step {
        let transient = [Errno::AGAIN, Errno::INTR, Errno::BUSY].iter().any(|e| e.raw_os_error() == errno);
        match &mut self.call {
            Call::Sync => Step::Failed { errno, detail: "" },
            _ if transient => self.resend(Errno::from_raw_os_error(errno)),
            Call::Write { from: 0, dsync: dsync @ true }
                if self.dsync == Dsync::Untried && (errno == libc::EOPNOTSUPP || errno == libc::EINVAL) =>
            {
                *dsync = false;
                self.sync_after = true;
                Step::Again
            }
            _ => Step::Failed { errno, detail: "" },
        }
    }

    fn resend(&mut self, errno: Errno) -> Step {
        self.resends += 1;
        if self.resends > RESENDS_MAX {
            return Step::Failed { errno: errno.raw_os_error(), detail: "sent again too often" };
        }
        Step::Again
    }
}

/// An op in flight, with all that its completion needs.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) token: Token,
    pub(super) file: FileId,
    pub(super) offset: u64,
    pub(super) transfer: Transfer,
    pub(super) buffer: Buffer,
}

impl Work {
    /// What is to be done for a write, a read or a sync, and whether it leaves bytes behind that no sync covers.
    pub(super) fn begin(token: Token, op: Op, align: usize, known: Dsync) -> (Self, bool) {
        let (file, offset, transfer, buffer, unsynced) = match op {
            Op::Write { file, offset, block, dsync } => {
                (file, offset, Transfer::write(block.len(), align, dsync, known), Buffer::Out(block), !dsync)
            }
            Op::Read { file, offset, block } => {
                (file, offset, Transfer::read(block.len(), align), Buffer::In(block), false)
            }
            Op::Sync { file } => (file, 0, Transfer::sync(), Buffer::None, false),
            Op::Prepare { .. } | Op::Remove { .. } | Op::Quarantine { .. } | Op::List { .. } => {
                unreachable!("these go to the helper")
            }
        };
        (Self { token, file, offset, transfer, buffer }, unsynced)
    }

    /// The completion of an op that ended.
    pub(super) fn finish(self, step: Step) -> Completion {
        let result = match step {
            Step::Again => unreachable!("only an op that ended is finished"),
            Step::Failed { errno, detail } => Err(self.error(errno, detail)),
            Step::Done => match self.buffer {
                Buffer::In(mut block) => {
                    block[self.transfer.end..].fill(0);
                    Ok(Output::Bytes(block))
                }
                Buffer::Out(_) | Buffer::None => Ok(Output::Done),
            },
        };
        Completion { token: self.token, result }
    }

    fn error(&self, errno: i32, detail: &'static str) -> DiskError {
        // Not by the memory, which a ring that has failed keeps.
        let what = self.transfer.what;
        disk_error(what, Some(self.file), (what != "sync").then_some(self.offset), errno, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(len: usize) -> Transfer {
        Transfer::write(len, 4096, true, Dsync::Works)
    }

    #[test]
    fn a_short_write_of_whole_blocks_sends_the_rest() {
        let mut t = write(12_288);
        assert_eq!(t.result(4096), Step::Again);
        assert_eq!(t.call(), Call::Write { from: 4096, dsync: true });
        assert_eq!(t.result(8192), Step::Done);
    }

    #[test]
    fn a_write_cut_within_a_block_sends_everything_again() {
        let mut t = write(12_288);
        assert_eq!(t.result(5000), Step::Again);
        assert_eq!(t.call(), Call::Write { from: 0, dsync: true });
    }

    #[test]
    fn a_write_of_nothing_is_fatal() {
        assert!(matches!(write(4096).result(0), Step::Failed { errno: 0, .. }));
    }

    #[test]
    fn interrupted_writes_are_sent_again_but_not_for_ever() {
        let mut t = write(4096);
        for _ in 0..RESENDS_MAX {
            assert_eq!(t.result(-libc::EAGAIN), Step::Again);
            assert_eq!(t.call(), Call::Write { from: 0, dsync: true });
        }
        assert!(matches!(t.result(-libc::EINTR), Step::Failed { errno: libc::EINTR, .. }));
    }

    #[test]
    fn without_dsync_a_sync_follows_the_write() {
        let mut t = Transfer::write(4096, 4096, true, Dsync::Untried);
        assert_eq!(t.result(-libc::EOPNOTSUPP), Step::Again);
        assert_eq!(t.call(), Call::Write { from: 0, dsync: false });
        assert_eq!(t.dsync(), Dsync::Untried, "not known before the plain write went through");
        assert_eq!(t.result(4096), Step::Again);
        assert_eq!((t.call(), t.dsync()), (Call::Sync, Dsync::Missing));
        assert_eq!(t.result(0), Step::Done);

        let mut known = Transfer::write(4096, 4096, true, Dsync::Missing);
        assert_eq!(known.call(), Call::Write { from: 0, dsync: false });
        assert_eq!(known.result(4096), Step::Again);
        assert_eq!(known.call(), Call::Sync);
    }

    #[test]
    fn einval_is_final_once_dsync_is_known_to_work() {
        assert_eq!(write(4096).result(-libc::EINVAL), Step::Failed { errno: libc::EINVAL, detail: "" });
    }

    #[test]
    fn a_sync_is_never_tried_twice() {
        for errno in [libc::EIO, libc::EINTR, libc::EAGAIN] {
            assert_eq!(Transfer::sync().result(-errno), Step::Failed { errno, detail: "" });
        }
    }

    #[test]
    fn a_read_ends_with_the_file() {
        let mut t = Transfer::read(16_384, 4096);
        assert_eq!(t.result(5000), Step::Again);
        assert_eq!(t.call(), Call::Read { from: 4096 });
        assert_eq!(t.result(904), Step::Done);
        assert_eq!(t.end, 5000);
        let mut empty = Transfer::read(4096, 4096);
        assert_eq!((empty.result(0), empty.end), (Step::Done, 0));
    }
}
