//! Threads and the clock: nothing else in the crate has either.
//!
//! ```text
//!   producers ══ rings ══► flush core ══ frames ══► delivery thread ──► sink
//!       ▲                   │      ▲                     │
//!       └──── durable ──────┘      └── acks, commands ───┘
//! ```
//! | thread         | owns                                             | file          |
//! |----------------|--------------------------------------------------|---------------|
//! | `NAME-flush`   | the disk, both logs, the drain of the rings      | `flush/`      |
//! | `NAME-sink`    | the dispatcher, the sink                         | `deliver.rs`  |
//! | `NAME-sink-0…` | calls of a sink that blocks, where several or a deadline | `calls.rs` |
//! | `NAME-close`   | closing, for tasks                               | `closing.rs`  |
//! | the caller's   | opening and closing                              | `lifecycle.rs`|
//! | the user's runtime | calls of an async sink, where one is set     | `runtime.rs`  |
//!
//! What they share is [`Shared`]: queues between them, watermarks, counts.

mod acks;
mod breaker;
pub(crate) mod call;
pub(crate) mod calls;
pub(crate) mod clock;
pub(crate) mod closing;
pub(crate) mod deliver;
mod deliver_counts;
#[cfg(all(feature = "testing", not(loom)))]
pub(crate) mod flag;
pub(crate) mod flush;
mod found;
pub(crate) mod gate;
mod judging;
pub(crate) mod lifecycle;
mod look;
pub(crate) mod opening;
pub(crate) mod parking;
mod progress;
pub(crate) mod rings;
#[cfg(feature = "tokio")]
mod runtime;
pub(crate) mod share;
mod status;
#[cfg(all(feature = "testing", not(loom)))]
pub(crate) mod stepped;
mod trace;
pub(crate) mod waits;
pub(crate) mod window;

pub(crate) use self::status::Status;

use std::cell::Cell;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;

use crate::config::{Config, Durability};
use crate::delivery::breaker::BreakerState;
use crate::delivery::lease::LeaseId;
use crate::delivery::park::{ParkRecord, ParkedEntry};
pub(crate) use crate::engine::acks::AckState;
use crate::engine::gate::Gate;
use crate::engine::waits::{Reply, Upto};
use crate::error::LogError;
use crate::lsn::Lsn;
use crate::metrics::{Counters, Holes};
use crate::recovery::Recovery;
use crate::ring::Rings;
use crate::schema::Schema;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use crate::sync::{ArrayQueue, Mutex, thread_local};
use crate::wal::frame::Frame;
use crate::watermark::Watermark;

/// Frames on their way from the flush core to the delivery thread.
const HANDED_FRAMES_MAX: usize = 64;

/// What the queue's threads and handles share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) rings: Arc<Rings>,
    pub(crate) counters: Counters,
    pub(crate) holes: Mutex<Holes>,
    pub(crate) status: Status,
    pub(crate) recovery: Recovery,
    /// LSN up to which everything is delivered or parked (not yet durably so).
    pub(crate) done: Watermark,
    /// Flush core → delivery thread.
    pub(crate) frames: ArrayQueue<(Frame, Schema)>,
    pub(crate) notices: SegQueue<Notice>,
    /// Ends the delivery thread's rest.
    pub(crate) delivery_waker: OnceLock<Waker>,
    /// Delivery thread and handles → flush core.
    pub(crate) commands: SegQueue<Command>,
    pub(crate) acks: Mutex<Option<AckState>>,
    /// How often somebody began to wait for durability.
    asks: AtomicU64,
    /// Somebody waits for the delivery of what lies up to here.
    hurried: AtomicU64,
    /// Pushes are refused; what is left is brought home.
    pub(crate) closing: AtomicBool,
    /// The delivery thread takes no more batches.
    stop_delivery: AtomicBool,
    /// What delivery does counts as long as this says so; it counts under this lock.
    heard: Mutex<bool>,
    /// The sink has answered when it was not heard any more.
    answered_late: AtomicBool,
    /// The delivery thread is in the sink's code.
    sink_at_work: AtomicBool,
    paused: AtomicBool,
    /// What the breaker does, as a number.
    breaker: AtomicU8,
    /// What holds pushes up.
    pub(crate) gate: Gate,
    /// The flush core has ended.
    ended: AtomicBool,
}

/// What the flush core tells the delivery thread besides frames.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The entries that this lease had parked are durable in the park.
    Parked(LeaseId),
    /// Only the first so many of them are; the others cannot be parked now, and why.
    NotParked(LeaseId, usize, String),
    /// These LSNs, up to one past the last, are lost: no frame will bring them.
    Lost(Lsn, Lsn),
}

/// What the flush core is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer with the last LSN once the rings are drained up to these positions, unless the asker is gone by then.
    Fence { tails: Vec<u64>, asker: Weak<()>, reply: SyncSender<Lsn> },
    /// The same for whoever must not block: see `waits.rs`.
    Place { upto: Upto, reply: Reply },
    /// Ring this when its time has come.
    Alarm { at: crate::time::Instant, alarm: Weak<Watermark> },
    /// Write these into the park, then tell the delivery thread.
    Park { lease: LeaseId, records: Vec<ParkRecord> },
    /// Read parked entries after this id.
    ListParked { after: Lsn, max: usize, reply: SyncSender<Result<Vec<ParkedEntry>, LogError>> },
    /// The id up to which the park has entries, those that are gone among them.
    LastParked { reply: SyncSender<Lsn> },
    /// Whether these parked entries could be taken out now, all of them.
    MayUnpark { ids: Vec<Lsn>, reply: SyncSender<Result<(), LogError>> },
    /// These parked entries are done with.
    Unpark { ids: Vec<Lsn>, exit: ParkExit, reply: SyncSender<Result<(), LogError>> },
    /// Close both logs and end.
    Close,
}

/// How a parked entry leaves the park.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ParkExit {
    Discarded,
    Redelivered,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        rings: Arc<Rings>,
        counters: Counters,
        holes: Holes,
        recovery: Recovery,
        done: Lsn,
        status: Status,
    ) -> Self {
        Self {
            config,
            rings,
            counters,
            holes: Mutex::new(holes),
            status,
            recovery,
            done: Watermark::new(done.number()),
            frames: ArrayQueue::new(HANDED_FRAMES_MAX),
            notices: SegQueue::new(),
            delivery_waker: OnceLock::new(),
            commands: SegQueue::new(),
            acks: Mutex::new(None),
            asks: AtomicU64::new(0),
            hurried: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            stop_delivery: AtomicBool::new(false),
            heard: Mutex::new(true),
            answered_late: AtomicBool::new(false),
            sink_at_work: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            breaker: AtomicU8::new(BreakerState::Closed as u8),
            gate: Gate::new(),
            ended: AtomicBool::new(false),
        }
    }

    /// Somebody is about to wait for durability, and will rouse the flush core: its next turn commits what
    /// there is.
    pub(crate) fn want_durable(&self) {
        // ORDERING: Release/Acquire (`asks`): the drain after it sees what was pushed before it. The doorbell's
        // exchange that follows makes the turn that looks at it come.
        self.asks.fetch_add(1, Ordering::Release);
    }

    /// How often somebody began to wait: who finds more than before commits.
    pub(crate) fn asks(&self) -> u64 {
        // ORDERING: see `want_durable`.
        self.asks.load(Ordering::Acquire)
    }

    /// Somebody waits for delivery up to `last`: nothing up to there lingers, or waits for the end of a period.
    pub(crate) fn hurry_delivery(&self, last: Lsn) {
        // ORDERING: Relaxed: a number by itself; waking the thread orders it.
        self.hurried.fetch_max(last.number(), Ordering::Relaxed);
        if matches!(self.config.durability, Durability::Periodic(_)) {
            self.want_durable();
            self.rings.doorbell().rouse();
        }
        self.wake_delivery();
    }

    /// What delivery has up to `last` is all that it gets for now: it is not to linger for more.
    pub(crate) fn hurry_what_is_there(&self, last: Lsn) {
        // ORDERING: see `hurry_delivery`.
        if self.hurried.fetch_max(last.number(), Ordering::Relaxed) < last.number() {
            self.wake_delivery();
        }
    }

    pub(crate) fn hurried(&self) -> Lsn {
        // ORDERING: see `hurry_delivery`.
        Lsn::new(self.hurried.load(Ordering::Relaxed))
    }

    /// Refuses pushes from now on, those that wait for space too.
    pub(crate) fn close_rings(&self) {
        self.rings.close();
        self.gate.close();
        for ring in 0..self.rings.count() {
            self.rings.space(ring).fail();
        }
    }

    /// Whether this thread may wait for the queue's own.
    pub(crate) fn may_wait(&self) -> Result<(), LogError> {
        match () {
            () if !self.rings.is_at_home() => Err(LogError::Forked),
            () if in_sink_of(self) => Err(LogError::WouldDeadlock),
            () => Ok(()),
        }
    }

    /// Asks the flush core for something. After its end the question is dropped, and the asker sees that.
    pub(crate) fn command(&self, command: Command) {
        self.commands.push(command);
        self.rings.doorbell().rouse();
        // ORDERING: AcqRel, with `end`: both exchange the flag, so one of them is first. If it is this one,
        // the flush core's last look comes after it and finds the command; else this one finds the end.
        if self.ended.fetch_or(false, Ordering::AcqRel) {
            while self.commands.pop().is_some() {}
        }
    }

    /// The flush core ends: nothing will become durable or be answered any more.
    pub(crate) fn end(&self) {
        // ORDERING: AcqRel, see `command`.
        self.ended.swap(true, Ordering::AcqRel);
        while self.commands.pop().is_some() {}
        for ring in 0..self.rings.count() {
            self.rings.durable(ring).fail();
        }
        self.done.fail();
        self.wake_delivery();
    }

    /// Asks the flush core for something and waits for the answer.
    pub(crate) fn ask<R>(
        &self,
        deadline: Instant,
        command: impl FnOnce(SyncSender<R>) -> Command,
    ) -> Result<R, LogError> {
        self.may_wait()?;
        let (reply, answer) = sync_channel(1);
        self.command(command(reply));
        answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
            RecvTimeoutError::Timeout => LogError::TimedOut,
            RecvTimeoutError::Disconnected => self.status.end_of_waiting(),
        })
    }

    /// Waits until the rings are drained, and gives the last LSN that they got. What is drained by then
    /// is in a hurry: no period and no lingering holds up its delivery.
    pub(crate) fn fence(&self, deadline: Instant) -> Result<Lsn, LogError> {
        let (tails, here) = (self.tails(), Arc::new(()));
        let asker = Arc::downgrade(&here);
        let last = self.ask(deadline, |reply| Command::Fence { tails, asker, reply })?;
        self.hurry_delivery(last);
        Ok(last)
    }

    /// The position behind the last record of each ring.
    pub(crate) fn tails(&self) -> Vec<u64> {
        (0..self.rings.count()).map(|ring| self.rings.tail(ring)).collect()
    }

    pub(crate) fn wake_delivery(&self) {
        if let Some(waker) = self.delivery_waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        // ORDERING: Release/Acquire: nothing hangs on it but the flag itself.
        self.paused.store(paused, Ordering::Release);
        self.wake_delivery();
    }

    /// Nothing more goes to the sink.
    pub(crate) fn stop_delivery(&self) {
        // ORDERING: Release: with all that was decided before.
        self.stop_delivery.store(true, Ordering::Release);
        self.wake_delivery();
        // What is on its way into the park and finds no room is given up now.
        self.rings.doorbell().rouse();
    }

    pub(crate) fn is_delivery_stopped(&self) -> bool {
        // ORDERING: Acquire: what was decided before the stop is seen.
        self.stop_delivery.load(Ordering::Acquire)
    }

    /// The deadline is over: whatever the sink still answers changes no count and no cursor, so that what the shutdown
    /// tells is what the next opening finds. What was counted before is with the flush core.
    pub(crate) fn hear_no_more(&self) {
        *self.heard.lock() = false;
        self.wake_delivery();
    }

    /// Does what counts, all of it or, once nothing counts any more, nothing.
    pub(crate) fn while_heard<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        let heard = self.heard.lock();
        heard.then(work)
    }

    /// The sink has answered too late: its batch was not finished in time, though it has come back meanwhile.
    pub(crate) fn set_answered_late(&self) {
        // ORDERING: Relaxed: who reads it has heard of the thread's end by a channel.
        self.answered_late.store(true, Ordering::Relaxed);
    }

    /// The delivery thread calls the sink.
    pub(crate) fn in_sink<R>(&self, call: impl FnOnce() -> R) -> R {
        // ORDERING: Relaxed: who looks only decides by it how long to wait.
        self.sink_at_work.store(true, Ordering::Relaxed);
        let answer = call();
        self.sink_at_work.store(false, Ordering::Relaxed);
        answer
    }

    pub(crate) fn is_sink_at_work(&self) -> bool {
        // ORDERING: see `in_sink`.
        self.sink_at_work.load(Ordering::Relaxed)
    }

    pub(crate) fn has_answered_late(&self) -> bool {
        // ORDERING: see `set_answered_late`.
        self.answered_late.load(Ordering::Relaxed)
    }

    /// The runtime that the sink works on was shut down: it gets nothing more, and nobody is to wait for it.
    #[cfg(feature = "tokio")]
    pub(crate) fn end_with_runtime(&self) {
        self.status.set_runtime_ended();
        self.done.fail();
        self.wake_delivery();
    }

    pub(crate) fn is_heard(&self) -> bool {
        *self.heard.lock()
    }

    /// Whether the flush core has ended.
    pub(crate) fn has_ended(&self) -> bool {
        // ORDERING: Acquire: what it said last is seen.
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn is_paused(&self) -> bool {
        // ORDERING: see `set_paused`.
        self.paused.load(Ordering::Acquire) || self.status.has_runtime_ended()
    }
}

thread_local! {
    /// The queue whose sink runs on this thread: it must never wait for itself.
    static SINK_OF: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// Whether this thread is calling this queue's sink.
pub(crate) fn in_sink_of(shared: &Shared) -> bool {
    SINK_OF.with(|of| std::ptr::eq(of.get(), shared))
}

/// Marks this thread as the one that calls this queue's sink.
pub(crate) fn mark_sink_thread(shared: &Arc<Shared>) {
    SINK_OF.with(|of| of.set(Arc::as_ptr(shared)));
}

/// While it lives, this thread is one that calls a queue's sink.
#[cfg(feature = "tokio")]
pub(crate) struct InSink(*const Shared);

#[cfg(feature = "tokio")]
impl InSink {
    pub(crate) fn mark(shared: &Arc<Shared>) -> Self {
        SINK_OF.with(|of| Self(of.replace(Arc::as_ptr(shared))))
    }
}

#[cfg(feature = "tokio")]
impl Drop for InSink {
    fn drop(&mut self) {
        SINK_OF.with(|of| of.set(self.0));
    }
}

/// When a wait of this length is over: a user who means "without end" may say so by any number.
pub(crate) fn deadline_after(within: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let now = Instant::now();
    now.checked_add(within).unwrap_or_else(|| now + CENTURY)
}

/// How long the parts wait for each other when nothing else says so.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(60);

#[cfg(all(test, loom))]
mod models;
