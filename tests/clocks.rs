//! The monotonic clock stands still, for as long as it likes: what asks for no time goes on, what waits for time is
//! held up and not lost, and when the clock goes on so does all of it.
#![cfg(feature = "testing")]

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringwal::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{Batch, Durability, Durable, Queue, SinkError, sink_fn};

/// Longer than anything here waits of itself, the periods of `MODES` among it.
const LONG: Duration = Duration::from_secs(600);
const MODES: [Durability; 3] = [Durability::Immediate, Durability::Periodic(Duration::from_secs(5)), Durability::Spill];
/// Moments in which a queue must have come to where it wants to be.
const MOMENTS_MAX: u32 = 20_000;

/// What the sink has got, and whether it asks for all of it once more.
#[derive(Default)]
struct Desk {
    entries: Vec<Vec<u8>>,
    asks_again: bool,
    refused: u32,
}

struct Stage {
    queue: SteppedQueue<Vec<u8>>,
    machine: SimDisk,
    clock: ManualClock,
    desk: Arc<Mutex<Desk>>,
    pushed: u8,
}

impl Stage {
    fn open(durability: Durability) -> Self {
        let builder = Queue::builder(Path::new("simulated"))
            .durability(durability)
            .rings(1)
            .ring_bytes(4096)
            .entry_len_max(1016)
            .memory_max(4 << 20)
            .segment_len(512 << 10)
            .log_bytes_max(4 << 20)
            .park_bytes_max(2 << 20);
        let clock = ManualClock::new();
        let latency = (Duration::from_micros(10), Duration::from_micros(300));
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), latency, ..SimSettings::default() });
        let settings = SteppedSettings { seed: 1, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let desk = Arc::<Mutex<Desk>>::default();
        let seen = Arc::clone(&desk);
        let sink = sink_fn(move |batch: Batch<Vec<u8>>| {
            let mut desk = seen.lock().unwrap();
            let answer = if desk.asks_again {
                desk.refused += 1;
                Err(SinkError::retry("not yet"))
            } else {
                desk.entries.extend(batch.iter().map(|delivery| delivery.value.clone()));
                Ok(())
            };
            async move { answer }
        });
        let queue = SteppedQueue::open(builder, settings, &machine, sink).unwrap();
        Self { queue, machine, clock, desk, pushed: 0 }
    }

    fn push(&mut self) -> Durable {
        let durable = self.queue.producer().push_durable(vec![self.pushed; 9]).unwrap();
        self.pushed += 1;
        durable
    }

    /// All that can happen now does; then time goes on to the next thing that waits for it. What the process reads is
    /// another matter.
    fn pass(&mut self) {
        for _ in 0..100 {
            let moved = self.queue.turn_core() | self.machine.step();
            self.queue.turn_sink();
            if !moved && !self.queue.is_awake() {
                break;
            }
        }
        let due = [self.queue.next_due(), self.machine.next_due()].into_iter().flatten().min();
        self.clock.advance_to(due.unwrap_or(self.clock.now()));
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..MOMENTS_MAX {
            if is_so(self) {
                return;
            }
            self.pass();
        }
        panic!("{what}: never; {:?}, {:?}", self.queue, self.queue.metrics());
    }

    fn wait(&mut self, mut durable: Durable) {
        self.until("told durable", |_| match Pin::new(&mut durable).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => {
                result.unwrap();
                true
            }
            Poll::Pending => false,
        });
    }

    /// As `Queue::drain`.
    fn drain(&mut self) {
        let fence = self.queue.fence();
        let mut last = None;
        self.until("the rings are in the log", |_| {
            last = fence.try_recv().ok();
            last.is_some()
        });
        let last = last.unwrap();
        self.queue.hurry(last);
        self.until("all is delivered", |stage| stage.queue.done() >= last);
    }

    fn assert_all_once(&self) {
        let expected: Vec<Vec<u8>> = (0..self.pushed).map(|n| vec![n; 9]).collect();
        assert_eq!(self.desk.lock().unwrap().entries, expected, "{:?}", self.queue);
    }

    fn close(&mut self) {
        self.queue.begin_closing(true);
        let mut outcome = None;
        self.until("it is closed", |stage| {
            outcome = stage.queue.poll_close(false);
            outcome.is_some()
        });
        let end = outcome.unwrap().unwrap();
        assert_eq!((end.lost, end.left_in_log), (0, 0), "{end:?}");
    }
}

/// Who waits for durability or for delivery does not wait for the clock, nor does who closes.
#[test]
fn a_clock_that_stands_still_holds_up_nobody_who_waits_for_no_time() {
    for durability in MODES {
        let mut stage = Stage::open(durability);
        stage.clock.set_stalled(true);
        let stood_at = stage.clock.read();
        for _ in 0..5 {
            let durables: Vec<Durable> = (0..5).map(|_| stage.push()).collect();
            for durable in durables {
                stage.wait(durable);
            }
            stage.drain();
        }
        stage.assert_all_once();
        drop(stage.push());
        stage.close();
        stage.assert_all_once();
        assert_eq!(stage.clock.read(), stood_at, "{durability:?}");
    }
}

/// A period, a linger, a pause before the next attempt: the time for them does not come, and then it does.
#[test]
fn what_waits_for_time_is_held_up_by_a_clock_that_stands_still_and_goes_on_with_it() {
    for durability in MODES {
        let mut stage = Stage::open(durability);
        stage.desk.lock().unwrap().asks_again = true;
        drop(stage.push());
        stage.until("it is refused", |stage| stage.desk.lock().unwrap().refused >= 1);
        stage.desk.lock().unwrap().asks_again = false;
        stage.clock.set_stalled(true);
        drop(stage.push());
        let until = stage.clock.now() + LONG;
        while stage.clock.now() < until {
            stage.pass();
            stage.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(stage.desk.lock().unwrap().entries.len(), 0, "{durability:?}: it came before its time");
        stage.clock.set_stalled(false);
        let due = stage.queue.metrics().last_lsn;
        stage.until("it is delivered", |stage| stage.queue.done() >= due);
        stage.assert_all_once();
        if durability != Durability::Spill {
            stage.until("the period is over", |stage| stage.queue.metrics().durable_lsn >= due);
        }
        stage.close();
    }
}
