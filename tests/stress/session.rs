//! One session of a queue: settings, producers and a sink by chance, and somebody who meddles.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwal::sim::Prng;
use ringwal::{
    Batch, Builder, Durability, Health, Idle, Io, Jitter, LogError, Lsn, Outcome, Producer, Queue, Retry, Sink,
    Verdict, WhenFull,
};

use super::ledger::{Delivered, Event, may_be_parked};
use crate::common::{LONG, Numbered};

/// Where a session's events go: into the ledger, or into a pipe.
pub type Report = Arc<dyn Fn(&[Event]) + Send + Sync>;

/// What of a store does not change from session to session.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    pub segment_len: u64,
    pub log_bytes_max: u64,
    pub park_bytes_max: u64,
}

impl Store {
    pub fn draw(chance: &mut Prng) -> Self {
        let segment_len = 512 << 10 << chance.below(2);
        Self { segment_len, log_bytes_max: segment_len * chance.within(3..=10), park_bytes_max: 4 << 20 }
    }

    /// What it may take on disk: the segments of both logs, and META, cursor and lock beside them.
    pub fn disk_max(&self) -> u64 {
        self.log_bytes_max + self.park_bytes_max + (512 << 10)
    }
}

/// `threads`, where a tool that the tests run under cannot bear io_uring; otherwise a session takes any.
const IO: &str = "RINGWAL_STRESS_IO";

fn io(chance: &mut Prng) -> Io {
    match std::env::var(IO) {
        Ok(only) => {
            assert_eq!(only, "threads", "what {IO} may be");
            Io::Threads
        }
        Err(_) => {
            let drivers = [crate::common::DRIVERS, &[Io::Auto]].concat();
            drivers[chance.index(drivers.len())]
        }
    }
}

/// Settings of a session, other ones each time.
pub fn settings(dir: &Path, store: Store, durability: Durability, chance: &mut Prng) -> Builder {
    let when_full =
        [WhenFull::Block, WhenFull::BlockFor(Duration::from_millis(5)), WhenFull::Reject, WhenFull::DropNewest];
    let retry = Retry {
        attempts_max: None,
        base: Duration::from_millis(1),
        factor: 2.0,
        max: Duration::from_millis(20),
        jitter: Jitter::Full,
    };
    Queue::builder(dir)
        .durability(durability)
        .io(io(chance))
        .idle([Idle::Park, Idle::Park, Idle::Backoff][chance.index(3)])
        .when_full(when_full[chance.index(4)])
        .retry(retry)
        .rings(chance.within(1..=4) as u32)
        .pinned_rings(chance.within(0..=3) as u32)
        .ring_bytes(16 << 10 << chance.below(4))
        .entry_len_max(2000)
        .batch_len_max(chance.within(1..=1500) as usize)
        .batch_bytes_max(1 << chance.within(8..=20))
        .linger(Duration::from_micros(chance.below(3000)))
        .memory_max(3 << 20 << chance.below(2))
        .segment_len(store.segment_len)
        .log_bytes_max(store.log_bytes_max)
        .park_bytes_max(store.park_bytes_max)
        .lock_wait(LONG)
        .drop_timeout(LONG)
}

pub fn durability(chance: &mut Prng) -> Durability {
    let period = Duration::from_micros(chance.within(100..=20_000));
    [Durability::Immediate, Durability::Periodic(period), Durability::Periodic(period), Durability::Spill]
        [chance.index(4)]
}

/// A sink that acknowledges, fails, panics, dawdles, parks.
pub struct Moody {
    pub report: Report,
    pub chance: Mutex<Prng>,
    /// Everything is acknowledged, and at once: in the last session of a store, and while somebody waits for room.
    pub calm: Arc<AtomicBool>,
}

/// What a sink panics with, so that the message can be kept off the screen.
pub const ON_PURPOSE: &str = "the sink panics on purpose";

impl Moody {
    fn is_calm(&self) -> bool {
        self.calm.load(Relaxed)
    }

    fn verdicts(&self, batch: &Batch<Numbered>, mood: u64) -> Outcome {
        let mut chance = self.chance.lock().unwrap();
        let verdicts: Vec<Verdict> = batch
            .iter()
            .map(|entry| match () {
                () if self.is_calm() => Verdict::Ack,
                () if may_be_parked(entry.value.number) && chance.below(2) == 0 => Verdict::Park("refused".into()),
                () if mood < 8 && chance.below(4) == 0 => Verdict::Retry("not now".into()),
                () => Verdict::Ack,
            })
            .collect();
        if verdicts.iter().all(|verdict| *verdict == Verdict::Ack) { Outcome::ack() } else { Outcome::Each(verdicts) }
    }
}

impl Sink<Numbered> for Moody {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        let events: Vec<Event> = batch
            .iter()
            .map(|entry| {
                let Numbered { producer, number, padding } = &entry.value;
                let (producer, number) = (*producer, *number);
                assert!(entry.value == Numbered::new(producer, number, padding.len()), "bytes have changed");
                Event::Delivered(Delivered { lsn: entry.lsn.number(), producer, number, attempt: entry.attempt })
            })
            .collect();
        (self.report)(&events);
        let (mood, pause) = {
            let mut chance = self.chance.lock().unwrap();
            (chance.below(100), Duration::from_micros(chance.below(20_000)))
        };
        match mood {
            _ if self.is_calm() => {}
            0..3 => std::panic::panic_any(ON_PURPOSE),
            3..6 => return Outcome::retry("no"),
            6..20 => std::thread::sleep(pause),
            _ => {}
        }
        let outcome = self.verdicts(&batch, mood);
        let verdict = |at: usize| match &outcome {
            Outcome::All(verdict) => verdict.clone(),
            Outcome::Each(verdicts) => verdicts[at].clone(),
        };
        let answers: Vec<Event> = batch
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match verdict(at) {
                Verdict::Ack => Some(Event::Acked { lsn: entry.lsn.number() }),
                Verdict::Park(_) => Some(Event::Parked),
                Verdict::Retry(_) => None,
            })
            .collect();
        (self.report)(&answers);
        outcome
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// What producers share.
pub struct Producers {
    pub stop: AtomicBool,
    /// How many there are now, and entries pushed so far.
    pub living: AtomicU32,
    pub pushed: AtomicU64,
    /// The number of the next one, never used twice.
    next: AtomicU32,
    report: Report,
}

impl Producers {
    pub fn new(first: u32, report: Report) -> Self {
        let (living, pushed) = (AtomicU32::new(0), AtomicU64::new(0));
        Self { stop: AtomicBool::new(false), living, pushed, next: AtomicU32::new(first), report }
    }

    /// A producer's life: bursts, pauses, waits for durability, then it is gone.
    pub fn live(&self, producer: &Producer<Numbered>, chance: Prng) {
        self.living.fetch_add(1, Relaxed);
        self.push_all(producer, chance);
        self.living.fetch_sub(1, Relaxed);
    }

    fn push_all(&self, producer: &Producer<Numbered>, mut chance: Prng) {
        let id = self.next.fetch_add(1, Relaxed);
        let mut pinned = (chance.below(3) == 0).then(|| producer.pin());
        let mut number = 0;
        let bursts = chance.within(1..=30);
        for _ in 0..bursts {
            let len_max = 1 << chance.within(0..=10);
            let mut last = None;
            for _ in 0..chance.within(1..=400) {
                if self.stop.load(Relaxed) {
                    break;
                }
                let entry = Numbered::new(id, number, chance.below(len_max) as usize);
                if pinned.is_none() && chance.below(50) == 0 {
                    let count = chance.within(1..=60) as u32;
                    let entries = (number..number + count).map(|n| Numbered::new(id, n, 30));
                    match producer.push_batch(entries) {
                        Ok(pushed) => number += pushed as u32,
                        Err(stopped) => number += stopped.pushed as u32,
                    }
                    continue;
                }
                let pushed = match &mut pinned {
                    Some(pinned) => pinned.push(entry),
                    None => producer.push(entry),
                };
                match pushed {
                    Ok(receipt) => (number, last) = (number + 1, Some(receipt)),
                    Err(error) if error.is_full() => std::thread::sleep(Duration::from_micros(chance.below(2000))),
                    Err(error) => {
                        assert!(error.is_closed(), "{error}");
                        return self.end(id, number);
                    }
                }
            }
            if let Some(receipt) = last.filter(|_| chance.below(3) == 0) {
                // A batch may stand behind the receipt; all of this row before it is durable with it.
                let known = number;
                let receipt =
                    if pinned.is_none() { producer.push(Numbered::new(id, known, 0)).ok() } else { Some(receipt) };
                let below = if pinned.is_none() && receipt.is_some() { known + 1 } else { known };
                number = below;
                if let Some(receipt) = receipt
                    && producer.durable(receipt).wait_timeout(Duration::from_millis(chance.below(200))).is_ok()
                {
                    (self.report)(&[Event::Durable { producer: id, below }]);
                }
            }
            if self.stop.load(Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_micros(chance.below(3000)));
        }
        self.end(id, number);
    }

    fn end(&self, id: u32, number: u32) {
        self.pushed.fetch_add(u64::from(number), Relaxed);
        (self.report)(&[Event::Pushed { producer: id, count: number }]);
    }
}

/// Does things to a queue until the time is over, looking at what must hold at any moment. The sink is calm while what was
/// begun comes to its end: who redelivers into a full log waits for a segment of it, and there may be batches of one entry.
pub fn meddle(
    queue: &Queue<Numbered>,
    until: Instant,
    chance: &mut Prng,
    is_calm: &AtomicBool,
    mut look: impl FnMut(),
) {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut draws, ends) = (chance.split(), &ends);
        // On a thread of its own: with park and log both full it waits until somebody discards.
        let redelivers = scope.spawn(move || {
            while !ends.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(draws.below(100_000)));
                let share = draws.within(1..=4);
                tolerate(queue.parked().redeliver(|_| draws.below(share) == 0));
            }
        });
        {
            // Also when something does not hold: the panic waits for the thread.
            let _set = SetAtEnd(ends);
            while Instant::now() < until {
                look();
                look_at(queue);
                step(queue, chance);
            }
        }
        queue.resume();
        let was_calm = is_calm.swap(true, Relaxed);
        let deadline = Instant::now() + LONG;
        while !redelivers.is_finished() {
            discard(queue);
            assert!(Instant::now() < deadline, "redelivering hangs: {:?} {:#?}", queue.health(), queue.metrics());
            std::thread::sleep(Duration::from_millis(1));
        }
        is_calm.store(was_calm, Relaxed);
    });
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn look_at(queue: &Queue<Numbered>) {
    let metrics = queue.metrics();
    assert!(metrics.accounted() <= metrics.came_in(), "a live snapshot accounts for too much: {metrics:#?}");
    let health = queue.health();
    assert!(!matches!(health, Health::Failed(_)), "{health:?}");
}

fn step(queue: &Queue<Numbered>, chance: &mut Prng) {
    match chance.below(24) {
        0 => queue.pause(),
        1..4 => queue.resume(),
        4 => within(Duration::from_millis(chance.below(200)), queue.flush_async()),
        5 => _ = queue.drain(Duration::from_millis(chance.below(50))),
        6..8 => discard(queue),
        _ => std::thread::sleep(Duration::from_micros(chance.below(20_000))),
    }
}

/// Discards the oldest parked entries: so many gaps between parked entries cannot be written down.
fn discard(queue: &Queue<Numbered>) {
    let oldest = queue.parked().list(Lsn::ZERO, 500).unwrap();
    if let Some(last) = oldest.last().map(|entry| entry.id) {
        tolerate(queue.parked().discard(|entry| entry.id <= last));
    }
}

fn tolerate(result: Result<usize, LogError>) {
    assert!(matches!(result, Ok(_) | Err(LogError::TooManyHoles)), "{result:?}");
}

/// Waits for a future, at most so long: with the log full and the sink paused nothing becomes durable.
fn within(time: Duration, future: impl Future<Output = Result<(), LogError>>) {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let (mut future, until) = (std::pin::pin!(future), Instant::now() + time);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(()) | Err(LogError::NotDurable)) => return,
            std::task::Poll::Ready(Err(error)) => panic!("{error}"),
            std::task::Poll::Pending if Instant::now() >= until => return,
            std::task::Poll::Pending => std::thread::park_timeout(until.saturating_duration_since(Instant::now())),
        }
    }
}
