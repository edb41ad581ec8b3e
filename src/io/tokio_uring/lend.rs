//! What is lent to the ring of `tokio-uring`, and how it comes back.
//!
//! `tokio-uring` has ready-made writes, which take no flags, and the way by which they are made: an entry of the SQ,
//! with what has to stay as it is until the entry's completion was read. The latter is what serves here, so that a
//! durable write is one op with `RWF_DSYNC`, as it is with the other drivers.

use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use ::tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
use io_uring_0_6::types::{Fd, FsyncFlags};
use io_uring_0_6::{cqueue, opcode};

use crate::io::transfer::{Buffer, Call, Work};

/// What the kernel uses while an op is in flight.
#[derive(Debug)]
pub(super) struct Lent {
    buffer: Buffer,
    /// Not closed before the op has ended.
    _fd: Option<Arc<OwnedFd>>,
}

/// Makes the kernel's answer and the memory of a completion.
pub(super) struct Answer;

impl OneshotOutputTransform for Answer {
    type Output = (i32, Buffer);
    type StoredData = Lent;

    fn transform_oneshot_output(self, lent: Lent, entry: cqueue::Entry) -> (i32, Buffer) {
        (entry.result(), lent.buffer)
    }
}

/// An op that the ring has. Dropped early, it leaves what was lent to the runtime, until the op has ended or the
/// runtime is dropped: so a runtime is dropped only when none is left.
pub(super) type Flying = InFlightOneshot<Lent, Answer>;

/// Puts the call that is due into the SQ, and lends it the memory. To be called within the runtime.
pub(super) fn lend(work: &mut Work, fd: Arc<OwnedFd>) -> Flying {
    let file = Fd(fd.as_raw_fd());
    let at = |from: usize| work.offset + from as u64;
    let len = |all: usize, from: usize| u32::try_from(all - from).expect("a block has less than 4 GiB");
    let entry = match (work.transfer.call(), &mut work.buffer) {
        (Call::Write { from, dsync }, Buffer::Out(block)) => {
            let flags = if dsync { libc::RWF_DSYNC } else { 0 };
            let write = opcode::Write::new(file, block[from..].as_ptr(), len(block.len(), from));
            write.offset(at(from)).rw_flags(flags).build()
        }
        (Call::Read { from }, Buffer::In(block)) => {
            let len = len(block.len(), from);
            opcode::Read::new(file, block[from..].as_mut_ptr(), len).offset(at(from)).build()
        }
        (Call::Sync, _) => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        (call, buffer) => unreachable!("{call:?} with {buffer:?}"),
    };
    // Why this is right, which nobody else checks: the entry's address lies in the chunk of `buffer`, which moving
    // the block does not move; and `Lent` goes with the entry. `tokio-uring` gives it back with the completion, and
    // drops it before that only together with the runtime (`TokioUringDisk::drop`).
    let buffer = mem::replace(&mut work.buffer, Buffer::None);
    UnsubmittedOneshot::new(Lent { buffer, _fd: Some(fd) }, Answer, entry).submit()
}

/// An op that the kernel answers as soon as it is asked.
pub(super) fn probe() -> Flying {
    UnsubmittedOneshot::new(Lent { buffer: Buffer::None, _fd: None }, Answer, opcode::Nop::new().build()).submit()
}
