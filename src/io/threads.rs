//! The driver without io_uring: worker threads that make plain system calls.
//!
//! ```text
//!  flush core ── jobs ──► workers   pwritev2(RWF_DSYNC), pread, fdatasync
//!      ▲                    │
//!      └────── done ◄───────┴──── helper (prepare, remove, quarantine, list)
//! ```
//! The same promises as the ring, one wake-up more per commit. What a system call's result leads to
//! is decided in `transfer.rs`, for both drivers.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::{Errno, IoSlice, ReadWriteFlags};

use crate::io::dir::Dir;
use crate::io::files::Files;
use crate::io::preparer::Preparer;
use crate::io::transfer::{Buffer, Call, Dsync, Step, Work};
use crate::io::wake::{self, whole};
use crate::io::{Disk, DiskReport, Wake, refuse_write};
use crate::wal::op::{Completion, Op, Token};

/// Worker threads: two commits at a time, or a commit beside a read.
const WORKERS: usize = 2;
/// Room for jobs, so that none allocates; more of them grow it once.
const JOBS: usize = 256;

/// The driver.
pub(super) struct ThreadsDisk {
    /// Dropped first: its thread delivers into `shared`.
    preparer: Option<Preparer>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    files: Files,
    dsync: Dsync,
    report: DiskReport,
}

struct Shared {
    /// `std`'s, as the doorbell takes it on the way of a push: who waits for it neither allocates nor yields.
    state: Mutex<State>,
    /// A job came, or the end.
    work: Condvar,
    /// A completion came, or the doorbell rang.
    news: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    done: VecDeque<Done>,
    rang: bool,
    closing: bool,
}

struct Job {
    work: Work,
    fd: Arc<OwnedFd>,
    index: u32,
}

struct Done {
    completion: Completion,
    /// Of a worker's op: the file's place, what was learned of `RWF_DSYNC`, whether it was a sync.
    of_file: Option<(u32, Dsync, bool)>,
}

impl Wake for Shared {
    fn wake(&self) {
        self.state().rang = true;
        self.news.notify_one();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorbell(threads)")
    }
}

impl ThreadsDisk {
    /// Starts the threads.
    pub(super) fn new(dir: Arc<Dir>, report: DiskReport) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                jobs: VecDeque::with_capacity(JOBS),
                done: VecDeque::with_capacity(JOBS),
                rang: false,
                closing: false,
            }),
            work: Condvar::new(),
            news: Condvar::new(),
        });
        let deliver = {
            let shared = Arc::clone(&shared);
            Box::new(move |completion| shared.deliver(Done { completion, of_file: None }))
        };
        let files = Files::new(Arc::clone(&dir));
        let preparer = Some(Preparer::new(dir, deliver)?);
        let mut disk = Self { preparer, shared, workers: Vec::new(), files, dsync: Dsync::Untried, report };
        for number in 0..WORKERS {
            let shared = Arc::clone(&disk.shared);
            let thread = std::thread::Builder::new().name(format!("ringwal-io-{number}")).spawn(move || {
                wake::block_signals();
                shared.work();
            })?;
            disk.workers.push(thread);
        }
        Ok(disk)
    }

    fn start(&mut self, token: Token, op: Op) -> Result<(), Completion> {
        if let Op::Prepare { .. } | Op::Remove { .. } | Op::Quarantine { .. } | Op::List { .. } = op {
            self.preparer.as_ref().expect("the helper lives as long as the disk").submit(token, op);
            return Ok(());
        }
        let (work, unsynced) = Work::begin(token, op, self.files.align(), self.dsync);
        let handle = match self.files.acquire(work.file, unsynced) {
            Ok(handle) => handle,
            Err(errno) => return Err(work.finish(Step::Failed { errno: errno.raw_os_error(), detail: "cannot open" })),
        };
        let job = Job { work, fd: self.files.share(handle), index: handle.index };
        self.shared.state().jobs.push_back(job);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes over what a worker's op changed.
    fn settle(&mut self, done: Done) -> Completion {
        if let Some((index, dsync, is_sync)) = done.of_file {
            self.files.release(index, is_sync && done.completion.result.is_ok());
            if dsync != Dsync::Untried && self.dsync == Dsync::Untried {
                self.dsync = dsync;
                if dsync == Dsync::Missing {
                    self.report.notes.push(super::DSYNC_MISSING.to_owned());
                }
            }
        }
        done.completion
    }
}

impl Disk for ThreadsDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let refused = match refuse_write(self.files.read_only(), token, &op) {
            Some(completion) => Err(completion),
            None => {
                self.files.give_way(&op, |_| {});
                self.start(token, op)
            }
        };
        if let Err(completion) = refused {
            self.shared.deliver(Done { completion, of_file: None });
        }
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        if timeout == Some(Duration::ZERO) {
            let done = self.shared.state().done.pop_front();
            return done.map(|done| self.settle(done));
        }
        let done = {
            let quiet = |state: &mut State| state.done.is_empty() && !state.rang;
            let mut state = wake::wait_while(&self.shared.news, self.shared.state(), timeout, quiet);
            let done = state.done.pop_front();
            if done.is_none() {
                state.rang = false;
            }
            done
        };
        done.map(|done| self.settle(done))
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.shared.clone()
    }

    fn report(&self) -> DiskReport {
        self.report.clone()
    }
}

impl Drop for ThreadsDisk {
    /// Waits for what is in flight; the helper's queue is left undone.
    fn drop(&mut self) {
        drop(self.preparer.take());
        self.shared.state().closing = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A panic of a worker has been printed; drop must not add one.
            let _ = worker.join();
        }
        // Whoever keeps the doorbell keeps `shared`, and must not keep the blocks in it.
        self.shared.state().done.clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        whole(self.state.lock())
    }

    fn deliver(&self, done: Done) {
        self.state().done.push_back(done);
        self.news.notify_one();
    }

    /// A worker's life: takes jobs until there are none and none will come.
    fn work(&self) {
        loop {
            let job = {
                let mut state = self.state();
                loop {
                    if let Some(job) = state.jobs.pop_front() {
                        break job;
                    }
                    if state.closing {
                        return;
                    }
                    state = whole(self.work.wait(state));
                }
            };
            let Job { mut work, fd, index } = job;
            let step = loop {
                let result = call(&fd, &mut work);
                match work.transfer.result(result) {
                    Step::Again => {}
                    end => break end,
                }
            };
            drop(fd);
            let of_file = Some((index, work.transfer.dsync(), matches!(work.buffer, Buffer::None)));
            self.deliver(Done { completion: work.finish(step), of_file });
        }
    }
}

/// Makes the system call that is due: bytes, or an error number below zero.
fn call(fd: &OwnedFd, work: &mut Work) -> i32 {
    let result = match (work.transfer.call(), &mut work.buffer) {
        (Call::Write { from, dsync: true }, Buffer::Out(block)) => {
            let rest = [IoSlice::new(&block[from..])];
            rustix::io::pwritev2(fd, &rest, work.offset + from as u64, ReadWriteFlags::DSYNC)
        }
        (Call::Write { from, dsync: false }, Buffer::Out(block)) => {
            rustix::io::pwrite(fd, &block[from..], work.offset + from as u64)
        }
        (Call::Read { from }, Buffer::In(block)) => {
            rustix::io::pread(fd, &mut block[from..], work.offset + from as u64)
        }
        (Call::Sync, _) => rustix::fs::fdatasync(fd).map(|()| 0),
        (call, buffer) => unreachable!("{call:?} with {buffer:?}"),
    };
    match result {
        Ok(count) => i32::try_from(count).expect("a call moves at most 2 GiB"),
        Err(Errno::NOSYS) => -libc::EOPNOTSUPP,
        Err(errno) => -errno.raw_os_error(),
    }
}

impl fmt::Debug for ThreadsDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadsDisk({:?})", self.report)
    }
}
