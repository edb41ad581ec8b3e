//! A whole queue without threads: whoever holds it says whose turn it is.
//!
//! ```text
//!   turn_core ─► Flush::turn    ┐ the turns that the threads make in a loop, and their rests: who
//!   turn_sink ─► Delivery::turn ┘ rests is not turned before something has woken it, or its time is over
//!   poll_close ─► the steps of closing, each when what it waits for has come
//! ```
//! Producers, futures and parked entries are those that ship. Nothing here decides: a queue that hangs with
//! threads hangs here, where it can be seen.

mod look;

use crate::sync::mpsc::{Receiver, TryRecvError};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::builder::Builder;
use crate::delivery::lease::Lease;
use crate::engine::clock::Clock;
use crate::engine::deliver::{Delivery, Next};
use crate::engine::flag::Flag;
use crate::engine::flush::{Flush, Rest};
use crate::engine::lifecycle;
use crate::engine::opening::{Opening, Source};
use crate::engine::{Command, Shared, call::Call};
use crate::entry::Entry;
use crate::error::{OpenError, Shutdown, ShutdownError};
use crate::lsn::Lsn;
use crate::producer::Producer;
use crate::sim::{ManualClock, Prng, SimDisk};
use crate::sink::{DynSink, Sink};
use crate::time::Instant;
use crate::wal::mutant::Mutants;

/// What a stepped queue takes besides a [`Builder`]'s settings.
#[derive(Clone, Debug)]
pub struct SteppedSettings {
    /// What it draws its chance from.
    pub seed: u64,
    /// Its clock.
    pub clock: ManualClock,
    /// A store smaller than a [`Builder`] allows.
    pub store: Option<SmallStore>,
    /// Rules that are switched off.
    pub mutants: Mutants,
}

/// So small that a short history goes round the slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmallStore {
    /// The length of a segment, a multiple of 64 KiB. It must hold the longest frame and four blocks.
    pub segment_len: u64,
    /// Most segments of the log.
    pub slots: u32,
    /// Most segments of the park.
    pub park_slots: u32,
}

/// What a turn of delivery has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SinkTurn {
    /// It rests, and nothing has woken it.
    Rests,
    /// It has turned.
    Turned,
    /// A batch is out at the sink.
    Out,
    /// It has ended.
    Ended,
}

/// How far closing has come; each step waits for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// For the rings to be in the log.
    Rings,
    /// For the sink to have everything.
    Sink,
    /// For the batch that is out.
    Batch,
    /// For the logs to be closed.
    Logs,
    /// For nothing.
    Closed,
}

/// A queue without threads on a simulated machine.
pub struct SteppedQueue<T> {
    shared: Arc<Shared>,
    machine: SimDisk,
    clock: ManualClock,
    core: Option<Flush>,
    rest: Rest,
    rests_since: Instant,
    delivery: Delivery<T>,
    sink: SinkState,
    woken: Arc<Flag>,
    close: Option<Close>,
    /// Whoever asks for a fence lives as long as this.
    asker: Arc<()>,
}

enum SinkState {
    Awake,
    Rests(Option<Instant>),
    Out(Lease, Call),
    Ended,
}

struct Close {
    at: Closing,
    deliver: bool,
    fence: Receiver<Lsn>,
    last: Option<Lsn>,
    hung: bool,
}

/// Whether something has ended a rest of the flush core.
fn is_over(rest: &Rest, since: Instant, now: Instant, machine: &SimDisk) -> bool {
    rest.timeout().is_some_and(|time| since + time <= now) || machine.ends_wait()
}

impl<T: Entry> SteppedQueue<T> {
    /// Opens the queue, as [`Builder::open_on`] does: all of it in this call. A fuse of the machine may end it.
    ///
    /// # Errors
    /// As [`Builder::open`].
    ///
    /// # Panics
    /// When another process runs on the machine.
    pub fn open<S: Sink<T>>(
        builder: Builder,
        settings: SteppedSettings,
        machine: &SimDisk,
        sink: S,
    ) -> Result<Self, OpenError> {
        let mut config = builder.config;
        config.check()?;
        if let Some(SmallStore { segment_len, slots, park_slots }) = settings.store {
            (config.segment_len, config.log_bytes_max) = (segment_len, segment_len * u64::from(slots));
            config.park_bytes_max = segment_len * u64::from(park_slots);
        }
        let sink: Box<dyn DynSink<T>> = Box::new(sink);
        let committed = lifecycle::ask_committed(&config, &*sink)?;
        let opening = Opening {
            source: Source::Given(Box::new(machine.connect().expect("no other process runs on the machine"))),
            schema: T::SCHEMA,
            accepts: T::accepts,
            committed,
            meta: None,
            seed: settings.seed,
            salt: Prng::new(settings.seed ^ 0x5a17).bytes(),
            clock: Clock::Manual(settings.clock.clone()),
            mutants: settings.mutants,
            config: config.for_committed(committed),
        };
        let (core, start) = opening.run()?;
        let shared = Arc::clone(&start.shared);
        shared.status.set_opened();
        let woken = Arc::<Flag>::default();
        let _ = shared.delivery_waker.set(Waker::from(Arc::clone(&woken)));
        Ok(Self {
            shared,
            machine: machine.clone(),
            rests_since: settings.clock.now(),
            clock: settings.clock,
            core: Some(core),
            rest: Rest::No,
            delivery: lifecycle::delivery(start, sink, settings.seed),
            sink: SinkState::Awake,
            woken,
            close: None,
            asker: Arc::default(),
        })
    }

    /// A producer. Entries without a key go to a ring that depends on the thread; for a history that replays, give
    /// them keys, or pin.
    #[must_use]
    pub fn producer(&self) -> Producer<T> {
        Producer { shared: Arc::clone(&self.shared), entries: PhantomData }
    }

    /// As if the process had so many processors: by itself it counts on one.
    #[cfg(test)]
    pub(crate) fn run_among(&mut self, processors: usize) {
        self.core.as_mut().expect("it has not ended").run_among(processors);
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Flush {
        self.core.as_ref().expect("it has not ended")
    }

    /// The flush core's turn. False: it sleeps, or has ended.
    pub fn turn_core(&mut self) -> bool {
        let Some(core) = &mut self.core else {
            return false;
        };
        if !is_over(&self.rest, self.rests_since, self.clock.now(), &self.machine) {
            return false;
        }
        self.machine.answer_doorbell();
        core.wait(std::mem::replace(&mut self.rest, Rest::No).over());
        if core.is_over() {
            core.finish();
            // Takes the connection to the machine with it.
            self.core = None;
            return true;
        }
        self.rest = core.turn();
        self.rests_since = self.clock.now();
        true
    }

    /// Delivery's turn. A batch that is out is asked for its answer.
    ///
    /// # Panics
    /// When delivery rests though it is over: on threads the shutdown would wait for its deadline.
    pub fn turn_sink(&mut self) -> SinkTurn {
        match std::mem::replace(&mut self.sink, SinkState::Awake) {
            SinkState::Ended => {
                self.sink = SinkState::Ended;
                return SinkTurn::Ended;
            }
            SinkState::Out(lease, mut call) => {
                let waker = Waker::from(Arc::clone(&self.woken));
                match std::pin::Pin::new(&mut call).poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => {
                        self.sink = SinkState::Out(lease, call);
                        return SinkTurn::Out;
                    }
                    Poll::Ready(answer) => self.delivery.handle_answer(lease, answer),
                }
            }
            SinkState::Rests(until) => {
                // What is out is asked for its answer, whether it has said that it has one or not.
                let asks = self.delivery.is_out();
                if !self.woken.take() && !asks && until.is_none_or(|until| until > self.clock.now()) {
                    assert!(!self.delivery.is_over(), "delivery is over, and rests where nobody wakes it");
                    self.sink = SinkState::Rests(until);
                    return SinkTurn::Rests;
                }
            }
            SinkState::Awake => {}
        }
        if self.delivery.is_over() {
            self.delivery.finish();
            self.sink = SinkState::Ended;
            return SinkTurn::Ended;
        }
        match self.delivery.turn() {
            Next::Ask(lease, call) => self.sink = SinkState::Out(lease, call),
            Next::Again => {}
            Next::Rest(until) => self.sink = SinkState::Rests(until.map(|at| self.clock.due(at))),
        }
        if self.is_out() { SinkTurn::Out } else { SinkTurn::Turned }
    }

    /// When time alone ends a rest of the flush core or of delivery.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let core = match (&self.core, &self.rest) {
            (Some(_), rest @ (Rest::Doze | Rest::Sleep(_))) => rest.timeout().map(|time| self.rests_since + time),
            _ => None,
        };
        let sink = if let SinkState::Rests(until) = self.sink { until } else { None };
        [core, sink].into_iter().flatten().min()
    }

    /// Begins to close. With `deliver` the sink gets what is left.
    pub fn begin_closing(&mut self, deliver: bool) {
        if self.close.is_none() {
            lifecycle::begin_closing(&self.shared);
            let fence = self.fence();
            self.close = Some(Close { at: Closing::Rings, deliver, fence, last: None, hung: false });
        }
    }

    /// Goes on closing as far as that is possible now; the outcome once it has ended. With `late` the time for the
    /// step that it waits in is over.
    ///
    /// # Panics
    /// When it was not begun.
    pub fn poll_close(&mut self, late: bool) -> Option<Result<Shutdown, ShutdownError>> {
        let mut close = self.close.take().expect("closing has begun");
        let mut late = late;
        loop {
            let goes_on = match close.at {
                Closing::Rings => match close.fence.try_recv() {
                    Ok(last) => {
                        self.shared.hurry_delivery(last);
                        close.last = Some(last);
                        true
                    }
                    Err(TryRecvError::Disconnected) => true,
                    Err(TryRecvError::Empty) => late,
                },
                Closing::Sink => {
                    let waits = close.deliver && !self.shared.is_paused();
                    let open = close.last.filter(|last| waits && self.shared.done.value() < last.number());
                    open.is_none() || self.shared.done.is_failed() || late
                }
                Closing::Batch => {
                    close.hung = late && !matches!(self.sink, SinkState::Ended);
                    matches!(self.sink, SinkState::Ended) || late
                }
                Closing::Logs => self.core.is_none() || late,
                Closing::Closed => false,
            };
            if !goes_on {
                break;
            }
            late = false;
            close.at = match close.at {
                Closing::Rings => Closing::Sink,
                Closing::Sink => {
                    self.shared.stop_delivery();
                    Closing::Batch
                }
                Closing::Batch => {
                    self.shared.hear_no_more();
                    self.shared.command(Command::Close);
                    Closing::Logs
                }
                Closing::Logs | Closing::Closed => Closing::Closed,
            };
        }
        let (at, hung) = (close.at, close.hung);
        self.close = Some(close);
        (at == Closing::Closed).then(|| match lifecycle::outcome_of(&self.shared, self.core.is_some()) {
            Ok(state) if hung => Err(ShutdownError::Deadline(state)),
            outcome => outcome,
        })
    }
}

impl<T> fmt::Debug for SteppedQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sink = match &self.sink {
            SinkState::Awake => "awake".to_owned(),
            SinkState::Rests(until) => format!("rests until {until:?}"),
            SinkState::Out(..) => "out".to_owned(),
            SinkState::Ended => "ended".to_owned(),
        };
        let core = if self.core.is_some() { format!("{:?}", self.rest) } else { "ended".to_owned() };
        write!(f, "SteppedQueue(core: {core}, sink: {sink}, closing: {:?})", self.closing())
    }
}
