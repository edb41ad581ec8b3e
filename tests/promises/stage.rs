//! A queue without threads and the sink that a test holds in its hand.
#![allow(dead_code, unreachable_pub, reason = "a module of a test program")]

use std::future::{Future, poll_fn};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ringwal::sim::{ManualClock, SimDisk, SimSettings, SinkTurn, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{Batch, Builder, Durability, Lsn, Metrics, Outcome, Shutdown, ShutdownError, Sink, Verdict};

use crate::common::{Numbered, small};

pub const MS: Duration = Duration::from_millis(1);

/// More turns than any of these queues takes until it rests: a hang fails instead of lasting.
const TURNS_MAX: u32 = 100_000;

/// A delivery as the sink sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it came, since the clock's start.
    pub at: Duration,
    pub attempt: u32,
    pub entries: Vec<Got>,
}

/// An entry of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    pub lsn: Lsn,
    pub producer: u32,
    pub number: u32,
    pub time: SystemTime,
    pub attempt: u32,
}

impl Call {
    pub fn numbers(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.number).collect()
    }
}

/// What a sink says to a delivery; `None` while it does not answer.
type Answer = Box<dyn FnMut(&Call) -> Option<Outcome> + Send>;

struct Desk {
    calls: Vec<Call>,
    answer: Answer,
}

/// The same sink without a say in single entries, to which longer batches may be given.
#[derive(Clone)]
pub struct Whole(Hand);

impl Sink<Numbered> for Whole {
    fn deliver(&self, batch: Batch<Numbered>) -> impl Future<Output = Outcome> + Send {
        self.0.deliver(batch)
    }

    fn partial(&self) -> bool {
        false
    }
}

/// The sink: acknowledges everything unless it is told otherwise.
#[derive(Clone)]
pub struct Hand {
    desk: Arc<Mutex<Desk>>,
    clock: ManualClock,
}

impl Hand {
    fn new(clock: ManualClock) -> Self {
        let desk = Desk { calls: Vec::new(), answer: Box::new(|_| Some(Outcome::ack())) };
        Self { desk: Arc::new(Mutex::new(desk)), clock }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // A panic of the sink is part of a test.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answers(&self, answer: impl FnMut(&Call) -> Option<Outcome> + Send + 'static) {
        self.desk().answer = Box::new(answer);
    }

    pub fn acknowledges(&self) {
        self.answers(|_| Some(Outcome::ack()));
    }

    /// Takes a delivery and never answers, until it is told something else.
    pub fn hangs(&self) {
        self.answers(|_| None);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.desk().calls.clone()
    }

    /// The numbers of all entries of all deliveries, in order.
    pub fn numbers(&self) -> Vec<u32> {
        self.desk().calls.iter().flat_map(Call::numbers).collect()
    }
}

impl Sink<Numbered> for Hand {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        let entry = |d: &ringwal::Delivery<Numbered>| Got {
            lsn: d.lsn,
            producer: d.value.producer,
            number: d.value.number,
            time: d.time,
            attempt: d.attempt,
        };
        let at = Duration::from_nanos(self.clock.now().as_nanos());
        let call = Call { at, attempt: batch.attempt(), entries: batch.iter().map(entry).collect() };
        self.desk().calls.push(call.clone());
        poll_fn(|_| (self.desk().answer)(&call).map_or(Poll::Pending, Poll::Ready)).await
    }
}

/// The machine, the clock, the queue and its sink.
pub struct Stage {
    pub machine: SimDisk,
    pub clock: ManualClock,
    pub sink: Hand,
    pub queue: SteppedQueue<Numbered>,
}

/// Settings that are small enough for everything to run short.
pub fn few(durability: Durability) -> Builder {
    small(Path::new("/simulated"), durability)
}

impl Stage {
    pub fn new(builder: Builder) -> Self {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        Self::open(builder, machine, clock)
    }

    /// With a sink that answers for whole batches only.
    pub fn for_whole_batches(builder: Builder) -> Self {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        Self::with(builder, machine, clock, Whole)
    }

    fn open(builder: Builder, machine: SimDisk, clock: ManualClock) -> Self {
        Self::with(builder, machine, clock, |sink| sink)
    }

    fn with<S: Sink<Numbered>>(
        builder: Builder,
        machine: SimDisk,
        clock: ManualClock,
        of: impl FnOnce(Hand) -> S,
    ) -> Self {
        let sink = Hand::new(clock.clone());
        // No two openings draw the same, or segments of both would have the same identity.
        let seed = machine.history().last().map_or(7, |op| op.number + 8);
        let settings = SteppedSettings { seed, clock: clock.clone(), store: None, mutants: Mutants::default() };
        let queue = SteppedQueue::open(builder, settings, &machine, of(sink.clone())).expect("it opens");
        Self { machine, clock, sink, queue }
    }

    /// Ends the process and begins another one on the same machine.
    pub fn reopen(self, builder: Builder) -> Self {
        let Self { machine, clock, queue, .. } = self;
        drop(queue);
        Self::open(builder, machine, clock)
    }

    /// Since the clock's start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.now().as_nanos())
    }

    /// The counts, which add up at every moment: nothing is lost, and nothing counted twice.
    pub fn metrics(&self) -> Metrics {
        let metrics = self.queue.metrics();
        assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:#?}");
        metrics
    }

    /// Everybody does what there is to do, until only time can bring more.
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let calls = self.sink.desk().calls.len();
            let mut moved = self.queue.turn_core();
            moved |= self.machine.step();
            let was_out = self.queue.is_out();
            moved |= match self.queue.turn_sink() {
                SinkTurn::Rests | SinkTurn::Ended => false,
                SinkTurn::Turned => true,
                SinkTurn::Out => !was_out || self.sink.desk().calls.len() > calls,
            };
            self.metrics();
            if !moved && !self.queue.is_awake() {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.queue);
    }

    /// Time passes, with everything that is due in it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        for _ in 0..TURNS_MAX {
            self.settle();
            let due = [self.queue.next_due(), self.machine.next_due()].into_iter().flatten().min();
            match due.filter(|due| *due <= end && *due > self.clock.now()) {
                Some(due) => self.clock.advance_to(due),
                None => {
                    self.clock.advance_to(end);
                    return self.settle();
                }
            }
        }
        panic!("too much happens in {time:?}: {:?}", self.queue);
    }

    /// Closes the queue; time passes only if the sink makes it.
    pub fn close(&mut self, deliver: bool) -> Result<Shutdown, ShutdownError> {
        self.queue.begin_closing(deliver);
        for _ in 0..TURNS_MAX {
            self.settle();
            if let Some(outcome) = self.queue.poll_close(false) {
                return outcome;
            }
            if !self.queue.is_awake()
                && let Some(due) = self.queue.next_due()
            {
                self.clock.advance_to(due);
            }
        }
        panic!("closing does not end: {:?}", self.queue);
    }

    pub fn push(&self, numbers: std::ops::Range<u32>) {
        let producer = self.queue.producer();
        numbers.for_each(|n| _ = producer.try_push(Numbered::new(0, n, 20)).expect("there is room"));
    }
}

/// One verdict for each entry of a delivery.
pub fn each(call: &Call, verdict: impl Fn(&Got) -> Verdict) -> Outcome {
    Outcome::Each(call.entries.iter().map(verdict).collect())
}
