//! The driver on the runtime of the crate `tokio-uring`, with the feature of that name.
//!
//! ```text
//!  submit ─► slab ─► complete: block_on( lend ─► poll what flies ) ──► done
//!                                 │                    ▲
//!                                 ▼ parks              │ wakes: the ring, a bell, the timer
//!                     io_uring_enter, then epoll_wait ─┘
//! ```
//! The runtime runs on the thread that makes the disk, and only while `complete` does. What a call's result leads to
//! is decided in `transfer.rs`, as for the other drivers.
//!
//! # Why it is right
//! `tokio-uring` is used for one thing, to carry entries to the ring and answers back, and what it does not see to is
//! seen to here:
//!
//! | it                                                              | hence                                        |
//! |-----------------------------------------------------------------|----------------------------------------------|
//! | drops the memory of ops in flight before they have ended, when the runtime is dropped | the runtime is dropped when none is left, or never |
//! | submits before it sleeps, and not otherwise                     | a run ends when the kernel is known to have all that was lent: when it has answered that or something later, if need be a *probe*, which it answers as soon as it takes it |
//! | ignores it when the kernel will not take entries                | while ops or a probe fly it wakes every [`TICK`], and so submits again |
//! | cannot tell a ring that fails from a slow disk                  | after a silent tick it sends a probe; one that is not answered for a hundred ticks tells that the ring is broken |
//! | wakes nobody for an answer that came before it was asked for it | what is lent is polled before the runtime sleeps |
//! | panics when it cannot submit and the SQ is full                 | the SQ has room for all ops in flight         |
//! | must stay on its thread                                         | [`SendWrapper`] checks that it does           |
//!
//! Decision: `docs/adr/0020-tokio-uring-driver.md`.

mod bell;
mod lend;
mod pulse;
mod timer;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::tokio_uring::Runtime;
use send_wrapper::SendWrapper;

use crate::io::dir::Dir;
use crate::io::files::{Files, Handle};
use crate::io::preparer::Preparer;
use crate::io::slab::{OPS_MAX, Slab};
use crate::io::transfer::{Buffer, Dsync, Step, Work};
use crate::io::uring::{UringError, try_setup};
use crate::io::{Disk, DiskReport, Wake, refuse_write};
use crate::wal::op::{Completion, Op, Token};
use bell::{HelperDone, TaskBell};
use lend::{Flying, lend};
use pulse::{Pulse, TICK};
use timer::Timer;

/// Entries of the SQ: every op in flight, the probe, and room.
const SQ_LEN: u32 = 2 * OPS_MAX;
/// Descriptors that a runtime opens: the ring, epoll twice, its alarm and ours; and those of tokio's signals, if some
/// other part of the program wants them.
const DESCRIPTORS: usize = 8;
/// Detail of errors after the ring has failed.
const BROKEN: &str = "the ring of tokio-uring takes nothing any more, nothing is known of this op";

/// Starts the driver on this thread, which must be the one that drives and drops it.
pub(super) fn start(dir: Arc<Dir>, report: DiskReport) -> Result<Box<dyn Disk>, UringError> {
    // First, because it says what is missing; and a runtime that gets no ring never closes what it has opened.
    try_setup().map_err(UringError::Refused)?;
    let disk = TokioUringDisk::new(dir, report).map_err(UringError::Other)?;
    Ok(Box::new(Bound(SendWrapper::new(disk))))
}

/// The driver, where it must be.
struct Bound(SendWrapper<TokioUringDisk>);

struct TokioUringDisk {
    /// Ended first on drop.
    preparer: Option<Preparer>,
    ops: Ops,
    /// Behind `ops`, which have to be gone before it is.
    runtime: Option<Runtime>,
    report: DiskReport,
}

/// What the runtime's one task works on.
struct Ops {
    files: Files,
    slab: Slab<InFlight>,
    /// In the slab, to be lent.
    unsent: VecDeque<u32>,
    /// Not even in the slab: it is full.
    waiting: VecDeque<(Token, Op)>,
    flying: Vec<InRing>,
    done: VecDeque<Completion>,
    bell: Arc<TaskBell>,
    helper: Arc<HelperDone>,
    timer: Timer,
    pulse: Pulse,
    dsync: Dsync,
    /// The ring failed.
    broken: bool,
}

struct InFlight {
    work: Work,
    handle: Handle,
}

/// An op that the ring has.
struct InRing {
    /// In the slab.
    number: u32,
    /// The how many-th entry it is.
    entry: u64,
    flying: Flying,
}

/// What a run of the runtime is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// All that the kernel has finished by now.
    Look,
    /// A completion, the bell, or this moment.
    News(Option<Instant>),
    /// The end of all that flies.
    Idle,
}

impl TokioUringDisk {
    fn new(dir: Arc<Dir>, report: DiskReport) -> std::io::Result<Self> {
        let helper = Arc::new(HelperDone::new());
        let deliver = {
            let helper = Arc::clone(&helper);
            Box::new(move |completion| helper.deliver(completion))
        };
        // A runtime that gets no ring never closes what it has opened before: so it is begun when there is enough.
        let spare: Vec<_> = (0..DESCRIPTORS).map(|_| dir.fd.try_clone()).collect::<Result<_, _>>()?;
        drop(spare);
        let mut ring = ::tokio_uring::uring_builder();
        ring.dontfork();
        let runtime = Runtime::new(::tokio_uring::builder().entries(SQ_LEN).uring_builder(&ring))?;
        let timer = runtime.block_on(async { Timer::new() })?;
        let files = Files::locked(Arc::clone(&dir));
        let ops = Ops {
            files,
            slab: Slab::new(),
            unsent: VecDeque::with_capacity(OPS_MAX as usize),
            waiting: VecDeque::with_capacity(OPS_MAX as usize),
            flying: Vec::with_capacity(OPS_MAX as usize),
            done: VecDeque::with_capacity(OPS_MAX as usize),
            bell: Arc::new(TaskBell::new()),
            helper,
            timer,
            pulse: Pulse::default(),
            dsync: Dsync::Untried,
            broken: false,
        };
        Ok(Self { preparer: Some(Preparer::new(dir, deliver)?), ops, runtime: Some(runtime), report })
    }

    /// Lets the runtime run.
    fn run(&mut self, until: Until) {
        let runtime = self.runtime.as_ref().expect("taken on drop only");
        let ops = &mut self.ops;
        let at_least = if until == Until::Look { ops.pulse.look() } else { 0 };
        runtime.block_on(poll_fn(|context| {
            ops.turn(context);
            let deadline = if !ops.has_news(until, context) {
                if let Until::News(deadline) = until { deadline } else { None }
            } else if ops.broken || ops.pulse.has_all(at_least) {
                return Poll::Ready(());
            } else {
                ops.pulse.probe(context);
                None
            };
            ops.wake_in_time(deadline, context);
            Poll::Pending
        }));
        self.take_notes();
    }

    /// What was learned of the disk.
    fn take_notes(&mut self) {
        let mut note = |is: bool, text: &str| {
            if is && !self.report.notes.iter().any(|known| known == text) {
                self.report.notes.push(text.to_owned());
            }
        };
        note(self.ops.dsync == Dsync::Missing, super::DSYNC_MISSING);
        note(self.ops.broken, "tokio-uring's ring failed while in use: it takes nothing any more");
    }

    /// Without a ring: the helper and the timeout are all that is left to wait for.
    fn complete_broken(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        self.ops.helper.take(&mut self.ops.done);
        if self.ops.done.is_empty() && timeout != Some(Duration::ZERO) {
            std::thread::sleep(timeout.map_or(TICK, |timeout| timeout.min(TICK)));
            self.ops.helper.take(&mut self.ops.done);
        }
        self.ops.done.pop_front()
    }
}

impl Ops {
    /// All that can be done without waiting: lends what is to be lent, takes what came back.
    fn turn(&mut self, context: &mut Context<'_>) {
        self.helper.watch(context);
        self.helper.take(&mut self.done);
        loop {
            while let Some((token, op)) = (!self.slab.is_full()).then(|| self.waiting.pop_front()).flatten() {
                self.start(token, op);
            }
            while let Some(number) = self.unsent.pop_front() {
                let op = self.slab.get(number);
                let fd = self.files.share(op.handle);
                let flying = lend(&mut op.work, fd);
                self.flying.push(InRing { number, entry: self.pulse.lent(), flying });
            }
            let mut at = 0;
            while let Some(op) = self.flying.get_mut(at) {
                match Pin::new(&mut op.flying).poll(context) {
                    Poll::Pending => at += 1,
                    Poll::Ready((result, buffer)) => {
                        let op = self.flying.swap_remove(at);
                        self.pulse.answered(op.entry);
                        self.ended(op.number, result, buffer);
                    }
                }
            }
            if !self.has_to_lend() {
                break;
            }
        }
        if self.pulse.feel(!self.flying.is_empty(), context) {
            self.break_down();
        }
    }

    /// Puts an op into the slab, from where it is lent.
    fn start(&mut self, token: Token, op: Op) {
        let (work, unsynced) = Work::begin(token, op, self.files.align(), self.dsync);
        if self.broken {
            self.done.push_back(work.finish(Step::Failed { errno: libc::EIO, detail: BROKEN }));
            return;
        }
        match self.files.acquire(work.file, unsynced) {
            Ok(handle) => {
                let number = self.slab.insert(InFlight { work, handle });
                self.unsent.push_back(number);
            }
            Err(errno) => {
                let step = Step::Failed { errno: errno.raw_os_error(), detail: "cannot open" };
                self.done.push_back(work.finish(step));
            }
        }
    }

    fn ended(&mut self, number: u32, result: i32, buffer: Buffer) {
        let op = self.slab.get(number);
        op.work.buffer = buffer;
        let step = op.work.transfer.result(result);
        if step == Step::Again {
            self.unsent.push_back(number);
            return;
        }
        let op = self.slab.remove(number);
        let synced = step == Step::Done && matches!(op.work.buffer, Buffer::None);
        self.files.release(op.handle.index, synced);
        if self.dsync == Dsync::Untried {
            self.dsync = op.work.transfer.dsync();
        }
        self.done.push_back(op.work.finish(step));
    }

    /// The ring is of no use any more. What it holds can never be touched again.
    fn break_down(&mut self) {
        self.broken = true;
        // The kernel may still use what was lent.
        mem::forget(mem::take(&mut self.flying));
        self.pulse.give_up();
        self.unsent.clear();
        for op in self.slab.take_all() {
            self.done.push_back(op.work.finish(Step::Failed { errno: libc::EIO, detail: BROKEN }));
        }
        for (token, op) in mem::take(&mut self.waiting) {
            self.start(token, op);
        }
    }

    fn has_news(&self, until: Until, context: &Context<'_>) -> bool {
        self.broken
            || match until {
                Until::Look => true,
                Until::Idle => self.is_idle() && !self.pulse.has_probe(),
                Until::News(deadline) => {
                    !self.done.is_empty()
                        || self.bell.rang(context)
                        || deadline.is_some_and(|deadline| deadline <= Instant::now())
                }
            }
    }

    /// Has the task woken at `deadline`, and for the next look at the pulse.
    fn wake_in_time(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) {
        if let Some(at) = deadline.into_iter().chain(self.pulse.next()).min() {
            self.timer.wake_at(at, context);
        }
    }

    fn has_to_lend(&self) -> bool {
        !self.unsent.is_empty() || !self.waiting.is_empty() && !self.slab.is_full()
    }

    fn is_idle(&self) -> bool {
        self.slab.is_empty() && self.waiting.is_empty()
    }
}

impl TokioUringDisk {
    fn submit(&mut self, token: Token, op: Op) {
        if let Some(completion) = refuse_write(self.ops.files.read_only(), token, &op) {
            self.ops.done.push_back(completion);
            return;
        }
        match op {
            Op::Prepare { .. } | Op::Remove { .. } | Op::Quarantine { .. } | Op::List { .. } => {
                self.ops.files.give_way(&op, |_| {});
                self.preparer.as_ref().expect("the helper lives as long as the disk").submit(token, op);
            }
            op if self.ops.slab.is_full() || !self.ops.waiting.is_empty() => self.ops.waiting.push_back((token, op)),
            op => self.ops.start(token, op),
        }
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        if self.ops.broken {
            return self.complete_broken(timeout);
        }
        let looks = timeout == Some(Duration::ZERO);
        self.ops.helper.take(&mut self.ops.done);
        // What a run would change nothing about.
        let gives = !self.ops.done.is_empty() && !self.ops.has_to_lend();
        if !(gives || looks && self.ops.is_idle()) {
            self.run(if looks {
                Until::Look
            } else {
                Until::News(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
            });
        }
        if self.ops.done.is_empty() && !looks {
            self.ops.bell.clear();
        }
        self.ops.done.pop_front()
    }
}

impl Drop for TokioUringDisk {
    /// Waits for what is in flight; the helper's queue is left undone.
    fn drop(&mut self) {
        drop(self.preparer.take());
        self.ops.waiting.clear();
        if !self.ops.broken {
            self.run(Until::Idle);
        }
        // Whoever keeps the bell must not keep the runtime.
        self.ops.bell.forget();
        if self.ops.broken {
            // It would wait for answers that never come, and drop what was lent before.
            mem::forget(self.runtime.take());
        }
    }
}

impl Disk for Bound {
    fn submit(&mut self, token: Token, op: Op) {
        self.0.submit(token, op);
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        self.0.complete(timeout)
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.0.ops.bell.clone()
    }

    fn report(&self) -> DiskReport {
        self.0.report.clone()
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokioUringDisk")
    }
}
