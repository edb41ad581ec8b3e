//! A whole queue in one thread, a sink that answers as it is told, and a clock that only the test moves.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

#[path = "../common/turns.rs"]
mod turns;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ringwal::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{
    Batch, Builder, Durability, Entry, Jitter, Outcome, Producer, Queue, Retry, Shutdown, ShutdownError, Sink,
};

pub const MS: Duration = Duration::from_millis(1);
/// A rest that ends by itself within this is waited for; a longer one is the test's.
const SOON: Duration = Duration::from_millis(20);
/// A queue that is left alone comes to rest long before.
const ROUNDS_MAX: u32 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Ack,
    Retry,
    Park,
    Panic,
}

/// Answers as the script says, then with Ack. While it is held it does not answer.
#[derive(Clone, Default)]
pub struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    held: Arc<AtomicBool>,
}

impl Script {
    pub fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().unwrap().extend(replies);
    }

    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }
}

impl<T: Entry> Sink<T> for Script {
    async fn deliver(&self, _: Batch<T>) -> Outcome {
        poll_fn(|_| if self.held.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) }).await;
        let reply = self.replies.lock().unwrap().pop_front();
        match reply.unwrap_or(Reply::Ack) {
            Reply::Ack => Outcome::ack(),
            Reply::Retry => Outcome::retry("not yet"),
            Reply::Park => Outcome::park("never"),
            // Without the hook, which would print it.
            Reply::Panic => std::panic::resume_unwind(Box::new("on purpose")),
        }
    }
}

pub struct Stage<T = Vec<u8>> {
    pub queue: SteppedQueue<T>,
    pub machine: SimDisk,
    pub clock: ManualClock,
    pub script: Script,
}

/// Small settings; retries after a millisecond.
pub fn settings(durability: Durability) -> Builder {
    Queue::builder(Path::new("simulated"))
        .name("stage")
        .durability(durability)
        .rings(2)
        .ring_bytes(16 << 10)
        .entry_len_max(2000)
        .memory_max(4 << 20)
        .segment_len(512 << 10)
        .log_bytes_max(4 << 20)
        .park_bytes_max(2 << 20)
        .linger(MS)
        .retry(Retry { attempts_max: None, base: MS, factor: 1.0, max: MS, jitter: Jitter::None })
}

impl<T: Entry> Stage<T> {
    pub fn open(builder: Builder) -> Self {
        Self::on(builder, SimSettings::default())
    }

    /// On a machine whose ops take some time.
    pub fn on(builder: Builder, machine: SimSettings) -> Self {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..machine });
        Self::again(builder, machine, clock)
    }

    /// On a machine that has a past.
    pub fn again(builder: Builder, machine: SimDisk, clock: ManualClock) -> Self {
        let script = Script::default();
        // No two openings draw the same, or segments of both would have the same identity.
        let seed = machine.history().last().map_or(1, |op| op.number + 2);
        let given = SteppedSettings { seed, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let queue = SteppedQueue::open(builder, given, &machine, script.clone()).unwrap();
        Self { queue, machine, clock, script }
    }

    pub fn producer(&self) -> Producer<T> {
        self.queue.producer()
    }

    /// Until nothing but the test can make anything happen, with a look after each step.
    pub fn settle_with(&mut self, look: impl FnMut(&SteppedQueue<T>)) {
        turns::settle_with(&mut self.queue, &self.machine, &self.clock, SOON, look);
    }

    pub fn settle(&mut self) {
        self.settle_with(|_| {});
    }

    /// Time passes in which nothing else happens, then what is due does.
    pub fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.settle();
    }

    pub fn close(mut self) -> Result<Shutdown, ShutdownError> {
        self.queue.begin_closing(true);
        for round in 0..ROUNDS_MAX {
            self.settle();
            // Whoever still waits does so for something that will not come.
            if let Some(outcome) = self.queue.poll_close(round > 100) {
                return outcome;
            }
        }
        panic!("it never closes: {:?}", self.queue);
    }
}
