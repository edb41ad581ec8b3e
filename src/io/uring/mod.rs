//! The driver on io_uring.
//!
//! ```text
//!  submit ─► slab ─► SQ ─┐                    ┌─► CQ ─► slab ─► done ─► complete
//!            owns the    └─► io_uring_enter ──┘          the block comes back
//!            block           submits, and waits for completions, doorbell, helper and timeout at once
//! ```
//! `submit` only writes into shared memory; the one system call of a turn is made by `complete`.
//!
//! # Why it is right
//! A block is owned by the slab from `submit` until its completion was read, so the kernel never
//! reads or fills memory that somebody else has. That holds on drop too, which waits for every
//! completion; and if the ring itself fails, blocks that the kernel may still use are leaked.
//!
//! | in the CQ | means | `user_data` |
//! |---|---|---|
//! | an op ended, or must be resent | `transfer.rs` decides | its place in the slab |
//! | the doorbell rang | `complete` gives what there is | [`BELL`] |
//! | the helper thread finished something | it is fetched | [`HELPER`] |
//!
//! Both bells are eventfds that a read in the ring waits for. They count, so nothing is lost between
//! two reads. Decision: `docs/adr/0001-io-uring-directly.md`.

mod ring;
mod setup;

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use parking_lot::Mutex;

use crate::io::dir::Dir;
use crate::io::files::{FILES_MAX, Files, Handle};
use crate::io::lock::Lock;
use crate::io::preparer::Preparer;
use crate::io::slab::{OPS_MAX, Slab};
use crate::io::transfer::{Buffer, Call, Dsync, Step, Work};
use crate::io::wake::EventBell;
use crate::io::{Disk, DiskReport, Wake, refuse_write};
use crate::wal::block::Pool;
use crate::wal::op::{Completion, Op, Token};
use ring::{Entered, Ring};

pub(super) use setup::{Refusal, try_setup};

/// Completions that are no op's.
const BELL: u64 = u64::MAX;
const HELPER: u64 = u64::MAX - 1;

/// The driver. It must be driven by the thread that made it.
pub(super) struct UringDisk {
    /// Ended first on drop.
    preparer: Option<Preparer>,
    helper_done: Arc<Mutex<VecDeque<Completion>>>,
    ring: Ring,
    files: Files,
    slab: Slab<InFlight>,
    /// In the slab, not yet in the SQ.
    unsent: VecDeque<u32>,
    /// Not even in the slab: it is full.
    waiting: VecDeque<(Token, Op)>,
    done: VecDeque<Completion>,
    bell: Arc<EventBell>,
    helper_bell: Arc<EventBell>,
    /// Which bells have a read in the ring.
    armed: Armed,
    rang: bool,
    dsync: Dsync,
    /// The ring itself failed: the kernel's error number.
    broken: Option<i32>,
    report: DiskReport,
}

#[derive(Default)]
struct Armed {
    bell: bool,
    helper: bool,
}

struct InFlight {
    work: Work,
    handle: Handle,
}

impl UringDisk {
    /// Sets up the ring for this thread.
    pub(super) fn new(dir: Arc<Dir>, mut report: DiskReport, pool: &Pool) -> Result<Self, UringError> {
        let bells = |_| Ok(Arc::new(EventBell::new().map_err(std::io::Error::from)?));
        let (bell, helper_bell) = (bells(0).map_err(UringError::Other)?, bells(1).map_err(UringError::Other)?);
        let lock = dir.lock.as_ref().map(Lock::fd);
        let ring = Ring::new(pool, lock, &mut report.notes).map_err(UringError::Refused)?;
        let helper_done = Arc::new(Mutex::new(VecDeque::new()));
        let deliver = {
            let (done, bell) = (Arc::clone(&helper_done), Arc::clone(&helper_bell));
            Box::new(move |completion| {
                done.lock().push_back(completion);
                bell.wake();
            })
        };
        let files = Files::new(Arc::clone(&dir));
        let preparer = Some(Preparer::new(dir, deliver).map_err(UringError::Other)?);
        Ok(Self {
            preparer,
            helper_done,
            ring,
            files,
            slab: Slab::new(),
            unsent: VecDeque::with_capacity(OPS_MAX as usize),
            waiting: VecDeque::with_capacity(OPS_MAX as usize),
            done: VecDeque::with_capacity(OPS_MAX as usize),
            bell,
            helper_bell,
            armed: Armed::default(),
            rang: false,
            dsync: Dsync::Untried,
            broken: None,
            report,
        })
    }

    /// Puts an op into the slab, and it will go into the SQ.
    fn start(&mut self, token: Token, op: Op) {
        let (work, unsynced) = Work::begin(token, op, self.files.align(), self.dsync);
        if let Some(errno) = self.broken {
            self.done.push_back(work.finish(Step::Failed { errno, detail: ring::BROKEN }));
            return;
        }
        match self.files.acquire(work.file, unsynced) {
            Ok(handle) => {
                if handle.fresh {
                    self.ring.register_file(handle.index, handle.fd);
                }
                let number = self.slab.insert(InFlight { work, handle });
                self.unsent.push_back(number);
            }
            Err(errno) => {
                let step = Step::Failed { errno: errno.raw_os_error(), detail: "cannot open" };
                self.done.push_back(work.finish(step));
            }
        }
    }

    /// Moves what is to be sent into the SQ, as far as it has room.
    fn fill(&mut self, sleeps: bool) {
        // Not while there is something to give: that would cost a call of `enter` for nothing. For the doorbell
        // that holds until a sleep begins; it counts, so that a ring is found then.
        if sleeps && !self.armed.bell {
            self.armed.bell = self.ring.push_bell_read(self.bell.fd().as_raw_fd(), BELL);
        }
        if self.done.is_empty() && !self.armed.helper {
            self.armed.helper = self.ring.push_bell_read(self.helper_bell.fd().as_raw_fd(), HELPER);
        }
        while let Some((token, op)) = (!self.slab.is_full()).then(|| self.waiting.pop_front()).flatten() {
            self.start(token, op);
        }
        while let Some(number) = self.unsent.front().copied() {
            let entry = entry(&self.ring, self.slab.get(number), number);
            // SAFETY: the entry's memory belongs to a block in the slab, which keeps it until the
            // completion with this number was read (`reap`), or for ever (`break_down`).
            if !unsafe { self.ring.push(&entry) } {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Reads all completions that are there.
    fn reap(&mut self) {
        while let Some((name, result)) = self.ring.pop() {
            match name {
                BELL => {
                    self.armed.bell = false;
                    self.rang = true;
                }
                HELPER => {
                    self.armed.helper = false;
                    self.done.append(&mut self.helper_done.lock());
                }
                number => self.ended(u32::try_from(number).expect("a place in the slab"), result),
            }
        }
    }

    fn ended(&mut self, number: u32, result: i32) {
        let op = self.slab.get(number);
        let step = op.work.transfer.result(result);
        if step == Step::Again {
            self.unsent.push_back(number);
            return;
        }
        let op = self.slab.remove(number);
        let synced = step == Step::Done && matches!(op.work.buffer, Buffer::None);
        if self.files.release(op.handle.index, synced) {
            self.ring.unregister_file(op.handle.index);
        }
        let dsync = op.work.transfer.dsync();
        if dsync != Dsync::Untried && self.dsync == Dsync::Untried {
            self.dsync = dsync;
            if dsync == Dsync::Missing {
                self.report.notes.push(super::DSYNC_MISSING.to_owned());
            }
        }
        self.done.push_back(op.work.finish(step));
    }

    /// Enters the kernel once. True: the time is up.
    fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> bool {
        match self.ring.enter(wait, timeout) {
            Entered::Fine => false,
            Entered::TimedOut => true,
            Entered::Broken(errno) => {
                self.break_down(errno);
                false
            }
        }
    }

    /// The ring is of no use any more. What it holds can never be touched again.
    fn break_down(&mut self, errno: i32) {
        self.broken = Some(errno);
        self.report.notes.push(format!("io_uring failed while in use ({})", std::io::Error::from_raw_os_error(errno)));
        // All places are free again: what comes later is answered from here.
        for InFlight { mut work, .. } in self.slab.take_all() {
            // The kernel may still read or fill this memory.
            mem::forget(mem::replace(&mut work.buffer, Buffer::None));
            self.done.push_back(work.finish(Step::Failed { errno, detail: ring::BROKEN }));
        }
        self.unsent.clear();
        for (token, op) in mem::take(&mut self.waiting) {
            self.start(token, op);
        }
    }

    /// Without a ring: the helper and the timeout are all that is left to wait for.
    fn complete_broken(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        self.done.append(&mut self.helper_done.lock());
        if self.done.is_empty() && timeout != Some(Duration::ZERO) {
            let pause = Duration::from_millis(10);
            std::thread::sleep(timeout.map_or(pause, |timeout| timeout.min(pause)));
            self.done.append(&mut self.helper_done.lock());
        }
        self.done.pop_front()
    }
}

/// What the kernel is told of an op's next call.
fn entry(ring: &Ring, op: &mut InFlight, number: u32) -> squeue::Entry {
    let (fd, flags) = match ring.fixed_file(op.handle.index) {
        Some(index) => (Fd(index), squeue::Flags::FIXED_FILE),
        None => (Fd(op.handle.fd), squeue::Flags::empty()),
    };
    let at = |from: usize| op.work.offset + from as u64;
    let len = |all: usize, from: usize| u32::try_from(all - from).expect("a block has less than 4 GiB");
    let entry = match (op.work.transfer.call(), &mut op.work.buffer) {
        (Call::Write { from, dsync }, Buffer::Out(block)) => {
            let (memory, len) = (block[from..].as_ptr(), len(block.len(), from));
            let flags = if dsync { libc::RWF_DSYNC } else { 0 };
            match ring.fixed_buffer(memory) {
                Some(index) => opcode::WriteFixed::new(fd, memory, len, index).offset(at(from)).rw_flags(flags).build(),
                None => opcode::Write::new(fd, memory, len).offset(at(from)).rw_flags(flags).build(),
            }
        }
        (Call::Read { from }, Buffer::In(block)) => {
            let len = len(block.len(), from);
            let memory = block[from..].as_mut_ptr();
            match ring.fixed_buffer(memory) {
                Some(index) => opcode::ReadFixed::new(fd, memory, len, index).offset(at(from)).build(),
                None => opcode::Read::new(fd, memory, len).offset(at(from)).build(),
            }
        }
        (Call::Sync, _) => opcode::Fsync::new(fd).flags(io_uring::types::FsyncFlags::DATASYNC).build(),
        (call, buffer) => unreachable!("{call:?} with {buffer:?}"),
    };
    entry.flags(flags).user_data(u64::from(number))
}

impl Disk for UringDisk {
    fn submit(&mut self, token: Token, op: Op) {
        if let Some(completion) = refuse_write(self.files.read_only(), token, &op) {
            self.done.push_back(completion);
            return;
        }
        match op {
            Op::Prepare { .. } | Op::Remove { .. } | Op::Quarantine { .. } | Op::List { .. } => {
                self.files.give_way(&op, |index| self.ring.unregister_file(index));
                self.preparer.as_ref().expect("the helper lives as long as the disk").submit(token, op);
            }
            op if self.slab.is_full() || !self.waiting.is_empty() => self.waiting.push_back((token, op)),
            op => self.start(token, op),
        }
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        let deadline = match timeout {
            Some(Duration::ZERO) | None => None,
            Some(timeout) => Instant::now().checked_add(timeout),
        };
        loop {
            if self.broken.is_some() {
                return self.complete_broken(timeout);
            }
            self.reap();
            let sleep = self.done.is_empty() && !self.rang && timeout != Some(Duration::ZERO);
            self.fill(sleep);
            // What could not even be begun is done.
            let sleep = sleep && self.done.is_empty();
            if !sleep {
                if self.ring.has_unsent() || (self.done.is_empty() && self.ring.has_deferred()) {
                    self.enter(false, None);
                    self.reap();
                }
                if timeout != Some(Duration::ZERO) && self.done.is_empty() {
                    if !self.rang {
                        continue;
                    }
                    self.rang = false;
                }
                return self.done.pop_front();
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let late = left == Some(Duration::ZERO);
            if self.enter(!late, left) || late {
                self.reap();
                return self.done.pop_front();
            }
        }
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn report(&self) -> DiskReport {
        self.report.clone()
    }
}

impl Drop for UringDisk {
    /// Waits for what is in flight; the helper's queue is left undone.
    fn drop(&mut self) {
        drop(self.preparer.take());
        self.waiting.clear();
        // Ends the reads that wait for the bells.
        self.bell.wake();
        self.helper_bell.wake();
        while self.broken.is_none() && !(self.slab.is_empty() && !self.armed.bell && !self.armed.helper) {
            // Not `fill`, which would begin to wait for the bells again.
            while let Some(number) = self.unsent.front().copied() {
                let entry = entry(&self.ring, self.slab.get(number), number);
                // SAFETY: as in `fill`: the slab keeps the memory until the completion was read.
                if !unsafe { self.ring.push(&entry) } {
                    break;
                }
                self.unsent.pop_front();
            }
            self.enter(true, None);
            self.reap();
        }
        if self.broken.is_some() {
            self.ring.leak_bell_memory();
        }
    }
}

/// Why there is no ring.
#[derive(Debug)]
pub(super) enum UringError {
    /// The kernel gives none.
    Refused(Refusal),
    /// Something beside it failed.
    Other(std::io::Error),
}

impl fmt::Debug for UringDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringDisk({:?}, {} files at most)", self.report, FILES_MAX)
    }
}
