//! The ring itself: what is registered with it, and the one system call. How it is got: `setup`.
//!
//! | asked for                              | since    | without it                          |
//! |----------------------------------------|----------|-------------------------------------|
//! | registered memory                      | 5.1      | plain buffers, and a note           |
//! | registered files                       | 5.19     | plain descriptors                   |
//! | the lock among them                    | 5.1      | a note                              |
//!
//! | `enter` answers        | what is done                                                          |
//! |------------------------|-----------------------------------------------------------------------|
//! | EINTR                  | entered again: what was not submitted is still in the SQ              |
//! | EBUSY, EAGAIN          | completions are read first; a pause; after [`REFUSALS_MAX`] it is broken |
//! | ETIME                  | the timeout is over                                                   |
//! | anything else          | the ring is broken: memory that it holds is leaked, every op fails    |

use std::cell::UnsafeCell;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use crate::io::files::FILES_MAX;
use crate::io::lock::in_children;
use crate::wal::block::Pool;

use super::setup::{Refusal, setup};

/// Longest piece of memory that can be registered at once.
const REGION_LEN_MAX: usize = 1 << 30;
/// Refusals in a row after which a ring counts as broken: about one second.
pub(super) const REFUSALS_MAX: u32 = 10_000;
pub(super) const REFUSAL_PAUSE: Duration = Duration::from_micros(100);

/// Detail of errors after the ring has failed.
pub(super) const BROKEN: &str = "the ring of io_uring failed, nothing is known of this op";

/// How a call of `enter` ended.
pub(super) enum Entered {
    Fine,
    TimedOut,
    Broken(i32),
}

/// A ring, and what is registered with it.
pub(super) struct Ring {
    ring: IoUring,
    /// Keeps the registered memory's addresses from being mapped anew.
    pool: Pool,
    /// Length of the registered pieces of the pool; 0: not registered.
    region_len: usize,
    /// Which places of the kernel's table of files are filled; empty: there is no table.
    fixed_files: Vec<bool>,
    refusals: u32,
    /// Where the reads of the bells go. Nobody looks at it.
    bell_memory: Option<Box<BellMemory>>,
}

struct BellMemory(UnsafeCell<[u64; 2]>);

// SAFETY: the memory is only ever touched by the kernel; `Ring` hands out its address, and waits for
// the kernel before it is freed.
unsafe impl Send for BellMemory {}

impl Ring {
    /// Sets one up for this thread, with the pool's memory registered where that works.
    /// `lock` is kept until the last op of the ring has ended, also when the process is killed.
    pub(super) fn new(pool: &Pool, lock: Option<RawFd>, notes: &mut Vec<String>) -> Result<Self, Refusal> {
        let ring = setup()?;
        let region_len = register_memory(&ring, pool).unwrap_or_else(|error| {
            notes.push(format!(
                "the buffers are not registered with io_uring ({error}): commits cost a little more; raise the limit \
                 of locked memory with `ulimit -l`"
            ));
            0
        });
        let (fixed_files, keeps_lock) = match ring.submitter().register_files_sparse(FILES_MAX + 1) {
            Ok(()) => {
                let kept = lock.map_or(Ok(0), |fd| ring.submitter().register_files_update(FILES_MAX, &[fd]));
                (vec![false; FILES_MAX as usize], kept.map(drop))
            }
            Err(_) => (Vec::new(), lock.map_or(Ok(()), |fd| ring.submitter().register_files(&[fd]))),
        };
        if let Err(error) = keeps_lock {
            notes.push(format!(
                "the directory's lock is not registered with io_uring ({error}): after a kill it may be free before \
                 the last write has ended; wait a little before the directory is opened again"
            ));
        }
        // A forked child's copy of the ring would keep what the ring keeps.
        in_children::close_after_fork(ring.as_raw_fd());
        let bell_memory = Some(Box::new(BellMemory(UnsafeCell::new([0; 2]))));
        Ok(Self { ring, pool: pool.clone(), region_len, fixed_files, refusals: 0, bell_memory })
    }

    /// Number of the registered memory that holds a block; a block never lies in two.
    pub(super) fn fixed_buffer(&self, memory: *const u8) -> Option<u16> {
        let (base, len) = self.pool.memory();
        let at = (memory as usize).checked_sub(base as usize).filter(|at| *at < len)?;
        u16::try_from(at.checked_div(self.region_len)?).ok()
    }

    /// Puts a file into the kernel's table.
    pub(super) fn register_file(&mut self, index: u32, fd: RawFd) {
        if let Some(fixed) = self.fixed_files.get_mut(index as usize) {
            *fixed = self.ring.submitter().register_files_update(index, &[fd]).is_ok();
        }
    }

    /// Takes it out again, so that a removed file gives its space back.
    pub(super) fn unregister_file(&mut self, index: u32) {
        if let Some(fixed) = self.fixed_files.get_mut(index as usize)
            && mem::take(fixed)
        {
            let _ = self.ring.submitter().register_files_update(index, &[-1]);
        }
    }

    /// A file's place in the kernel's table.
    pub(super) fn fixed_file(&self, index: u32) -> Option<i32> {
        let fixed = self.fixed_files.get(index as usize).copied().unwrap_or(false);
        fixed.then(|| i32::try_from(index).ok()).flatten()
    }

    /// Adds an entry to the SQ; false if it is full.
    ///
    /// # Safety
    /// The entry's memory must stay valid, and unused by others, until its completion was read.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller promises what `push` asks for.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Lets the ring wait for a bell; false if the SQ is full.
    pub(super) fn push_bell_read(&mut self, fd: RawFd, name: u64) -> bool {
        let memory = self.bell_memory.as_ref().expect("given up only on drop").0.get().cast::<u8>();
        // The two bells may write to the same place, as nobody looks.
        let entry = opcode::Read::new(Fd(fd), memory, 8).build().user_data(name);
        // SAFETY: the memory lives until `drop` of the disk has read the completion, or is leaked.
        unsafe { self.push(&entry) }
    }

    /// The next completion that is there: its name and result.
    pub(super) fn pop(&mut self) -> Option<(u64, i32)> {
        let entry = self.ring.completion().next()?;
        self.refusals = 0;
        Some((entry.user_data(), entry.result()))
    }

    /// Whether the SQ holds something that the kernel has not taken.
    pub(super) fn has_unsent(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether the kernel has completions that only a call of `enter` puts into the CQ.
    pub(super) fn has_deferred(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Submits what is in the SQ, and waits for a completion if asked to.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> Entered {
        let submitter = self.ring.submitter();
        let result = match timeout {
            Some(timeout) if wait => {
                let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            _ => submitter.submit_and_wait(usize::from(wait)),
        };
        let errno = match result {
            Ok(_) => return Entered::Fine,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        match errno {
            libc::ETIME => Entered::TimedOut,
            libc::EINTR => Entered::Fine,
            libc::EBUSY | libc::EAGAIN if self.refusals < REFUSALS_MAX => {
                self.refusals += 1;
                if self.ring.completion().is_empty() {
                    std::thread::sleep(REFUSAL_PAUSE);
                }
                Entered::Fine
            }
            errno => Entered::Broken(errno),
        }
    }

    /// Gives the bells' memory to the kernel for ever.
    pub(super) fn leak_bell_memory(&mut self) {
        mem::forget(self.bell_memory.take());
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        in_children::forget(self.ring.as_raw_fd());
    }
}

/// Registers the pool's memory in pieces of whole chunks; their length.
fn register_memory(ring: &IoUring, pool: &Pool) -> std::io::Result<usize> {
    let (base, len) = pool.memory();
    let chunk_len = pool.chunk_len();
    let region_len = (REGION_LEN_MAX / chunk_len).max(1) * chunk_len;
    let pieces: Vec<libc::iovec> = (0..len)
        .step_by(region_len)
        .map(|at| libc::iovec { iov_base: base.wrapping_add(at).cast_mut().cast(), iov_len: region_len.min(len - at) })
        .collect();
    // SAFETY: the memory is mapped as long as `pool` lives, of which the ring keeps a clone.
    unsafe { ring.submitter().register_buffers(&pieces) }?;
    Ok(region_len)
}
