//! The slow work on files, on a thread of its own, for every driver: prepare, remove, quarantine, list.
//!
//! ```text
//!  flush core ── queue ──► helper thread ── deliver ──► flush core
//!                            prepare: create ► allocate ► zeros, paced ► fsync ► fsync dir ► mark
//! ```
//! Zeros are written because a durable write into written space costs half of one into space that is
//! only allocated. They are paced, because unpaced they were measured to make the commits beside them
//! eight times slower; the pause ends when something urgent comes, whether it is the prepare under
//! way or another op that waits behind it.
//!
//! | a prepare is cut by        | what is left                        | what recovery makes of it      |
//! |----------------------------|-------------------------------------|--------------------------------|
//! | a crash                    | a file without a valid mark         | an unprepared slot             |
//! | an error, the disk's end   | nothing: the file is removed        |                                |
//! | ENOSPC on a file that was there, nothing overwritten | the file, its old length | what it was        |
//!
//! Why here and not beside the engine: `docs/adr/0002-preparer-in-io.md`.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use parking_lot::{Condvar, Mutex};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::io::dir::Dir;
use crate::io::transfer::RESENDS_MAX;
use crate::io::{disk_error, probe, wake};
use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

/// Bytes of one write of zeros.
const STEP_LEN: usize = 128 << 10;
/// Bytes of zeros in a second while nobody waits for them.
const PACE: u64 = 64 << 20;

/// Takes the completions to the driver's thread, and wakes it.
pub(super) type Deliver = Box<dyn Fn(Completion) + Send>;

/// The helper thread; dropping it ends it, leaving undone what it has not begun.
pub(super) struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<(Token, Op)>,
    closing: bool,
}

impl Queue {
    fn is_urgent(&self) -> bool {
        self.ops.iter().any(|(_, op)| is_urgent(op))
    }

    /// The next op: an urgent one goes first, unless an older one is about the same files.
    fn take(&mut self) -> Option<(Token, Op)> {
        let free = |at: usize| self.ops.range(..at).all(|(_, older)| !collide(older, &self.ops[at].1));
        let urgent = (0..self.ops.len()).find(|at| is_urgent(&self.ops[*at].1) && free(*at));
        self.ops.remove(urgent.unwrap_or(0))
    }
}

/// Whether somebody waits for it.
fn is_urgent(op: &Op) -> bool {
    match op {
        Op::Prepare { urgent, .. } => *urgent,
        Op::List { .. } | Op::Quarantine { .. } => true,
        Op::Remove { .. } | Op::Write { .. } | Op::Sync { .. } | Op::Read { .. } => false,
    }
}

fn collide(a: &Op, b: &Op) -> bool {
    let (of_a, of_b) = (file_of(a), file_of(b));
    match (of_a, of_b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

fn file_of(op: &Op) -> Option<FileId> {
    match op {
        Op::Prepare { file, .. }
        | Op::Write { file, .. }
        | Op::Sync { file }
        | Op::Read { file, .. }
        | Op::Remove { file }
        | Op::Quarantine { file } => Some(*file),
        Op::List { .. } => None,
    }
}

impl Preparer {
    /// Starts the thread.
    pub(super) fn new(dir: Arc<Dir>, deliver: Deliver) -> std::io::Result<Self> {
        let buffer = MmapMut::map_anon(STEP_LEN)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() });
        let helper = Helper { dir, shared: Arc::clone(&shared), buffer };
        let thread = std::thread::Builder::new().name("ringwal-prepare".to_owned()).spawn(move || {
            wake::block_signals();
            helper.run(&deliver);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands it an op.
    pub(super) fn submit(&self, token: Token, op: Op) {
        self.shared.queue.lock().ops.push_back((token, op));
        self.shared.changed.notify_one();
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the helper has been printed; drop must not add one.
            let _ = thread.join();
        }
    }
}

struct Helper {
    dir: Arc<Dir>,
    shared: Arc<Shared>,
    /// Page-aligned; zero except while a file is copied.
    buffer: MmapMut,
}

/// Why a prepare ended early.
enum Stop {
    Refused(Errno),
    /// The disk is being dropped.
    Closing,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl Helper {
    fn run(mut self, deliver: &Deliver) {
        while let Some((token, op)) = self.next() {
            let result = match op {
                Op::List { log } => self
                    .dir
                    .list(log)
                    .map(Output::Files)
                    .map_err(|e| disk_error("list", None, None, e.raw_os_error(), "")),
                Op::Remove { file } => done("remove", file, self.dir.remove(file)),
                Op::Quarantine { file } => done("quarantine", file, self.quarantine(file)),
                Op::Prepare { file, len, mark, urgent } => match self.prepare(file, len, &mark, urgent) {
                    Ok(()) => Ok(Output::Done),
                    Err(Stop::Refused(errno)) => done("prepare", file, Err(errno)),
                    Err(Stop::Closing) => return,
                },
                Op::Write { .. } | Op::Sync { .. } | Op::Read { .. } => unreachable!("drivers do these themselves"),
            };
            deliver(Completion { token, result });
        }
    }

    /// Waits for an op; `None` when the disk is being dropped.
    fn next(&self) -> Option<(Token, Op)> {
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.closing {
                return None;
            }
            match queue.take() {
                Some(next) => return Some(next),
                None => self.shared.changed.wait(&mut queue),
            }
        }
    }

    fn prepare(&self, file: FileId, len: u64, mark: &[u8], urgent: bool) -> Result<(), Stop> {
        let align = self.dir.align as u64;
        if len == 0 || !len.is_multiple_of(align) || !(mark.len() as u64).is_multiple_of(align) {
            return Err(Stop::Refused(Errno::INVAL));
        }
        // The kernel would also send SIGXFSZ, which ends the process.
        if mark.len() as u64 > len || probe::file_len_max().is_some_and(|max| len > max) {
            return Err(Stop::Refused(Errno::FBIG));
        }
        let (fd, created) = self.dir.create(file)?;
        let len_before = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        let mut overwritten = false;
        let result = self.fill(&fd, file, len, mark, urgent, &mut overwritten);
        if result.is_err() {
            // What is left of it would take space for nothing.
            if created || overwritten {
                drop(fd);
                let _ = self.dir.remove(file);
            } else {
                let _ = rustix::fs::ftruncate(&fd, len_before);
            }
        }
        result
    }

    fn fill(
        &self,
        fd: &OwnedFd,
        file: FileId,
        len: u64,
        mark: &[u8],
        urgent: bool,
        overwritten: &mut bool,
    ) -> Result<(), Stop> {
        match retry(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len)) {
            // Where space cannot be reserved, writing it does the same.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(Stop::Refused(errno)),
        }
        *overwritten = true;
        // A file that was longer is cut.
        retry(|| rustix::fs::ftruncate(fd, len))?;
        let begun = Instant::now();
        let mut at = 0;
        while at < len {
            let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(STEP_LEN);
            write_all(fd, &self.buffer[..step], at, self.dir.align)?;
            at += step as u64;
            self.pause(begun + Duration::from_micros(at * 1_000_000 / PACE), urgent)?;
        }
        retry(|| rustix::fs::fsync(fd))?;
        self.dir.sync_names(file.log())?;
        write_durably(fd, mark, self.dir.align)?;
        Ok(())
    }

    /// Waits until `at`, unless somebody waits for us.
    fn pause(&self, at: Instant, urgent: bool) -> Result<(), Stop> {
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.closing {
                return Err(Stop::Closing);
            }
            if urgent || queue.is_urgent() || self.shared.changed.wait_until(&mut queue, at).timed_out() {
                return Ok(());
            }
        }
    }

    /// Copies a file as it is. What cannot be read is left as zeros: the rest is worth keeping.
    fn quarantine(&mut self, file: FileId) -> Result<(), Errno> {
        let from = self.dir.open(file)?;
        let len = u64::try_from(rustix::fs::fstat(&from)?.st_size).unwrap_or(0);
        let (to, name) = self.dir.create_copy(file)?;
        let result = self.copy(&from, &to, len).and_then(|()| self.dir.sync_copies());
        self.buffer.fill(0);
        if result.is_err() {
            self.dir.remove_copy(&name);
        }
        result
    }

    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, len: u64) -> Result<(), Errno> {
        let align = self.dir.align;
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(STEP_LEN).next_multiple_of(align);
            let chunk = &mut self.buffer[..want];
            read_or_zero(from, chunk, at, align);
            write_all(to, chunk, at, align)?;
            at += want as u64;
        }
        retry(|| rustix::fs::ftruncate(to, len))?;
        retry(|| rustix::fs::fsync(to))
    }
}

fn done(what: &'static str, file: FileId, result: Result<(), Errno>) -> Result<Output, DiskError> {
    match result {
        Ok(()) => Ok(Output::Done),
        Err(errno) => Err(disk_error(what, Some(file), None, errno.raw_os_error(), "")),
    }
}

/// Calls again what a signal interrupted.
fn retry<T>(call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    again(&[Errno::INTR], call)
}

/// Sends again what the kernel would not take for the moment, as the drivers do.
fn resend<T>(call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    again(&[Errno::INTR, Errno::AGAIN, Errno::BUSY], call)
}

fn again<T>(transient: &[Errno], mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..RESENDS_MAX {
        match call() {
            Err(errno) if transient.contains(&errno) => {}
            other => return other,
        }
    }
    call()
}

/// Writes all of `bytes`; after a cut within a block, from that block's start.
fn write_all(fd: &OwnedFd, bytes: &[u8], offset: u64, align: usize) -> Result<(), Errno> {
    let mut from = 0;
    while from < bytes.len() {
        let count = resend(|| rustix::io::pwrite(fd, &bytes[from..], offset + from as u64))?;
        if count == 0 {
            return Err(Errno::IO);
        }
        let end = from + count;
        let next = if end == bytes.len() { end } else { end - end % align };
        if next == from {
            return Err(Errno::IO);
        }
        from = next;
    }
    Ok(())
}

/// Writes the mark, durable when this returns.
fn write_durably(fd: &OwnedFd, mark: &[u8], align: usize) -> Result<(), Errno> {
    let whole = [std::io::IoSlice::new(mark)];
    match resend(|| rustix::io::pwritev2(fd, &whole, 0, ReadWriteFlags::DSYNC)) {
        Ok(count) if count == mark.len() => Ok(()),
        // Short, or no such flag here: the same in two steps.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            write_all(fd, mark, 0, align)?;
            retry(|| rustix::fs::fdatasync(fd))
        }
        Err(errno) => Err(errno),
    }
}

/// Reads what can be read, block by block where a whole chunk cannot; the rest becomes zeros.
fn read_or_zero(fd: &OwnedFd, chunk: &mut [u8], offset: u64, align: usize) {
    match resend(|| rustix::io::pread(fd, &mut *chunk, offset)) {
        Ok(count) if count == chunk.len() => {}
        Ok(count) => {
            let whole = count - count % align;
            if whole == 0 {
                chunk[count..].fill(0);
            } else {
                read_or_zero(fd, &mut chunk[whole..], offset + whole as u64, align);
            }
        }
        Err(_) if chunk.len() > align => {
            let (first, rest) = chunk.split_at_mut(align);
            read_or_zero(fd, first, offset, align);
            for (number, block) in rest.chunks_mut(align).enumerate() {
                read_or_zero(fd, block, offset + ((number + 1) * align) as u64, align);
            }
        }
        Err(_) => chunk.fill(0),
    }
}
