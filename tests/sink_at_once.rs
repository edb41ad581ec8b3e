//! Deadlines, and several batches at once: on a simulated machine and clock, turn by turn, and with threads.
#![cfg(feature = "testing")]

mod common;
#[path = "common/turns.rs"]
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use common::{LONG, assert_accounted, in_memory, small};
use ringwal::sim::{DiskKind, ManualClock, Prng, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{
    Batch, Builder, Concern, DecodeError, Durability, Entry, Health, Lsn, Outcome, Park, Queue, Retry, Schema,
    Shutdown, ShutdownError, Sink, Verdict, blocking_pool_fn, sink_fn,
};

/// An entry of a key: its place in the key's row.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    key: Option<u64>,
    place: u64,
}

impl Entry for Step {
    const SCHEMA: Schema = Schema::new("test.step", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(16)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.key.unwrap_or(u64::MAX).to_le_bytes());
        out[8..].copy_from_slice(&self.place.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        match (word(0), word(8)) {
            (Some(key), Some(place)) => Ok(Self { key: (key != u64::MAX).then_some(key), place }),
            _ => Err(DecodeError::new("too short")),
        }
    }

    fn key(&self) -> Option<u64> {
        self.key
    }
}

/// A sink in the hands of a test: batches lie on it until they are answered, each by its number.
#[derive(Clone, Default)]
struct Desk {
    desk: Arc<Mutex<OnDesk>>,
    blocks: bool,
    committed: Option<Lsn>,
}

#[derive(Default)]
struct OnDesk {
    /// Batches that were ever given, with what they held; the attempt.
    given: Vec<(Vec<(Lsn, Step)>, u32)>,
    /// Those that are here now.
    open: BTreeSet<usize>,
    replies: BTreeMap<usize, Outcome>,
    /// Those that were dropped unanswered.
    dropped: BTreeSet<usize>,
    with_deadline: usize,
    closed: bool,
    panics_when_dropped: bool,
}

impl Desk {
    fn look(&self) -> MutexGuard<'_, OnDesk> {
        self.desk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, number: usize, outcome: Outcome) {
        assert!(self.look().open.contains(&number), "batch {number} is not out");
        self.look().replies.insert(number, outcome);
    }

    fn open(&self) -> Vec<usize> {
        self.look().open.iter().copied().collect()
    }

    fn places(&self, number: usize) -> Vec<u64> {
        self.look().given[number].0.iter().map(|(_, step)| step.place).collect()
    }
}

/// Tells when a delivery ends without an answer.
struct Stay(Desk, usize);

impl Drop for Stay {
    fn drop(&mut self) {
        let panics = {
            let mut desk = self.0.look();
            let unanswered = desk.open.remove(&self.1);
            if unanswered {
                desk.dropped.insert(self.1);
            }
            unanswered && desk.panics_when_dropped
        };
        assert!(!panics, "what the sink held does not like to be dropped");
    }
}

impl Sink<Step> for Desk {
    async fn deliver(&self, batch: Batch<Step>) -> Outcome {
        let number = {
            let mut desk = self.look();
            let entries = batch.iter().map(|entry| (entry.lsn, entry.value.clone())).collect();
            desk.given.push((entries, batch.attempt()));
            let number = desk.given.len() - 1;
            desk.open.insert(number);
            desk.with_deadline += usize::from(batch.deadline().is_some());
            number
        };
        let stay = Stay(self.clone(), number);
        poll_fn(|_| {
            let mut desk = self.look();
            match desk.replies.remove(&stay.1) {
                Some(outcome) => {
                    desk.open.remove(&stay.1);
                    Poll::Ready(outcome)
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    async fn committed(&self) -> Option<Lsn> {
        self.committed
    }

    async fn close(&self) {
        self.look().closed = true;
    }

    fn blocks(&self) -> bool {
        self.blocks
    }
}

const RETRY: Duration = Duration::from_millis(100);

fn settings() -> Builder {
    let retry = Retry { base: RETRY, max: RETRY, jitter: ringwal::Jitter::None, ..Retry::default() };
    Queue::builder("/simulated")
        .durability(Durability::Immediate)
        .rings(2)
        .pinned_rings(1)
        .ring_bytes(64 << 10)
        .entry_len_max(1016)
        .memory_max(8 << 20)
        .segment_len(512 << 10)
        .log_bytes_max(4 << 20)
        .park_bytes_max(2 << 20)
        .linger(Duration::ZERO)
        .retry(retry)
}

/// A queue whose turns a test makes.
struct Rig {
    queue: SteppedQueue<Step>,
    machine: SimDisk,
    clock: ManualClock,
    desk: Desk,
}

impl Rig {
    fn new(builder: Builder, desk: &Desk) -> Self {
        let clock = ManualClock::new();
        let kind = DiskKind::Fua;
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), kind, seed: 3, ..SimSettings::default() });
        Self::on(&machine, &clock, builder, desk)
    }

    fn on(machine: &SimDisk, clock: &ManualClock, builder: Builder, desk: &Desk) -> Self {
        // No two openings draw the same.
        let seed = machine.history().last().map_or(1, |op| op.number + 2);
        let settings = SteppedSettings { seed, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let queue = SteppedQueue::open(builder, settings, machine, desk.clone()).unwrap();
        let mut rig = Self { queue, machine: machine.clone(), clock: clock.clone(), desk: desk.clone() };
        rig.settle();
        rig
    }

    fn push(&mut self, key: Option<u64>, place: u64) {
        self.queue.producer().try_push(Step { key, place }).unwrap();
    }

    /// Until nobody moves any more without time passing, or an answer.
    fn settle(&mut self) {
        turns::settle(&mut self.queue, &self.machine, &self.clock);
    }

    /// Until what was pushed is on disk, however slow that is.
    fn make_durable(&mut self) {
        let waits: Vec<_> = self.queue.flush();
        for mut durable in waits {
            for _ in 0..1000 {
                let waker = std::task::Waker::noop();
                match Pin::new(&mut durable).poll(&mut std::task::Context::from_waker(waker)) {
                    Poll::Ready(result) => {
                        result.unwrap();
                        break;
                    }
                    Poll::Pending => self.wait(turns::PAUSE_MAX),
                }
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.clock.advance(time);
        self.settle();
    }

    fn answer(&mut self, number: usize, outcome: Outcome) {
        self.desk.answer(number, outcome);
        self.settle();
    }

    /// Closes, as far as that goes by itself.
    fn close(&mut self) -> Option<Result<Shutdown, ShutdownError>> {
        self.queue.begin_closing(true);
        self.go_on_closing()
    }

    fn go_on_closing(&mut self) -> Option<Result<Shutdown, ShutdownError>> {
        for _ in 0..100 {
            self.settle();
            if let Some(outcome) = self.queue.poll_close(false) {
                return Some(outcome);
            }
        }
        None
    }
}

const TIMEOUT: Duration = Duration::from_millis(500);
const ALMOST: Duration = Duration::from_millis(490);
const REST: Duration = Duration::from_millis(11);

#[test]
fn an_async_delivery_that_is_late_is_dropped_and_counts_as_a_failed_attempt() {
    for panics_when_dropped in [false, true] {
        let desk = Desk::default();
        desk.look().panics_when_dropped = panics_when_dropped;
        let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT), &desk);
        rig.push(None, 0);
        rig.settle();
        assert_eq!((desk.open(), desk.look().with_deadline), (vec![0], 1), "the sink is told its deadline");
        rig.wait(ALMOST);
        assert_eq!((desk.open(), rig.queue.metrics().delivery_timeouts), (vec![0], 0));
        rig.wait(REST);
        let metrics = rig.queue.metrics();
        assert_eq!((desk.open(), desk.look().dropped.clone()), (vec![], BTreeSet::from([0])));
        assert_eq!((metrics.delivery_timeouts, metrics.delivery_failures, metrics.pending), (1, 1, 1));
        assert!(matches!(rig.queue.health(), Health::Degraded(why) if why.contains(&Concern::SinkFailing(1))));
        rig.wait(RETRY);
        assert_eq!((desk.open(), desk.look().given[1].1), (vec![1], 2), "the second attempt");
        rig.answer(1, Outcome::ack());
        let metrics = rig.queue.metrics();
        assert_eq!((metrics.delivered, metrics.delivery_timeouts, metrics.delivery_failures), (1, 1, 1));
        assert_accounted(&metrics);
        assert!(rig.queue.health().is_ok(), "{:?}", rig.queue.health());
        assert!(rig.close().unwrap().is_ok() && desk.look().closed);
    }
}

#[test]
fn an_answer_that_comes_with_the_deadline_counts() {
    let desk = Desk::default();
    let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT), &desk);
    rig.push(None, 0);
    rig.settle();
    desk.answer(0, Outcome::ack());
    rig.wait(TIMEOUT * 2);
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.delivered, metrics.delivery_failures, metrics.delivery_timeouts), (1, 0, 0));
}

#[test]
fn a_blocking_delivery_that_is_late_is_not_begun_again_and_its_success_counts_once() {
    let desk = Desk { blocks: true, ..Desk::default() };
    let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT), &desk);
    rig.push(None, 0);
    rig.settle();
    rig.wait(TIMEOUT);
    let late = rig.queue.metrics();
    assert_eq!((late.delivery_timeouts, late.delivery_failures, late.in_flight), (1, 0, 1));
    assert!(matches!(rig.queue.health(), Health::Degraded(why) if why.contains(&Concern::SinkOverdue(1))));
    rig.push(None, 1);
    rig.wait(TIMEOUT * 100);
    assert_eq!((desk.open(), desk.look().given.len()), (vec![0], 1), "neither it nor what follows goes out");
    rig.answer(0, Outcome::ack());
    assert_eq!(desk.open(), [1]);
    rig.answer(1, Outcome::ack());
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.delivered, metrics.delivery_failures, metrics.delivery_timeouts), (2, 0, 1));
    assert_accounted(&metrics);
    assert!(rig.queue.health().is_ok(), "{:?}", rig.queue.health());
    let Rig { queue, machine, clock, .. } = rig;
    // The success is in the cursor like any other.
    let mut rig = Rig { queue, machine: machine.clone(), clock: clock.clone(), desk };
    assert!(rig.close().unwrap().is_ok());
    drop(rig);
    let rig = Rig::on(&machine, &clock, settings(), &Desk::default());
    assert_eq!(rig.queue.recovery().recovered, 0);
}

#[test]
fn a_blocking_delivery_that_fails_late_fails_once() {
    let desk = Desk { blocks: true, ..Desk::default() };
    let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT), &desk);
    rig.push(None, 0);
    rig.settle();
    rig.wait(TIMEOUT * 3);
    rig.answer(0, Outcome::retry("too slow"));
    assert_eq!((desk.open(), rig.queue.metrics().delivery_failures), (vec![], 1));
    rig.wait(RETRY);
    assert_eq!((desk.open(), desk.look().given[1].1), (vec![1], 2));
    rig.answer(1, Outcome::ack());
    assert_eq!((rig.queue.metrics().delivered, rig.queue.metrics().delivery_failures), (1, 1));
}

#[test]
fn closing_waits_for_a_blocking_delivery_up_to_its_deadline_and_no_longer() {
    let desk = Desk { blocks: true, ..Desk::default() };
    let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT).in_flight_max(2), &desk);
    rig.push(Some(1), 0);
    rig.settle();
    rig.push(Some(1), 1);
    assert_eq!(rig.close(), None, "its time is not over");
    rig.wait(ALMOST);
    assert_eq!((rig.go_on_closing(), desk.open()), (None, vec![0]));
    rig.clock.advance(REST);
    match rig.go_on_closing() {
        Some(Err(ShutdownError::Deadline(state))) => {
            assert_eq!((state.delivered, state.left_in_log, state.lost), (0, 2, 0));
        }
        other => panic!("{other:?}"),
    }
    assert!(!desk.look().closed, "the sink is still at work");
    // The next start delivers what was left.
    let Rig { queue, machine, clock, .. } = rig;
    drop(queue);
    let desk = Desk::default();
    let mut rig = Rig::on(&machine, &clock, settings(), &desk);
    assert_eq!((rig.queue.recovery().recovered, desk.places(0)), (2, vec![0]));
    rig.answer(0, Outcome::ack());
    assert_eq!(desk.places(1), [1]);
    rig.answer(1, Outcome::ack());
    assert!(rig.close().unwrap().is_ok());
}

#[test]
fn closing_waits_for_those_that_are_in_time_and_delivers_what_is_left() {
    let desk = Desk { blocks: true, ..Desk::default() };
    let mut rig = Rig::new(settings().deliver_timeout(TIMEOUT).in_flight_max(2).batch_len_max(1), &desk);
    for place in 0..4 {
        rig.push(Some(place), place);
    }
    rig.settle();
    assert_eq!(desk.open(), [0, 1]);
    assert_eq!(rig.close(), None);
    rig.wait(ALMOST);
    rig.answer(0, Outcome::ack());
    rig.clock.advance(REST);
    // The second is overdue, and the third is not: what is left still has a way to the sink.
    assert_eq!((rig.go_on_closing(), desk.open()), (None, vec![1, 2]));
    rig.answer(2, Outcome::ack());
    rig.answer(3, Outcome::ack());
    match rig.go_on_closing() {
        Some(Err(ShutdownError::Deadline(state))) => assert_eq!((state.delivered, state.left_in_log), (3, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sink_that_says_what_it_has_stored_gets_one_batch_at_a_time() {
    let desk = Desk { committed: Some(Lsn::ZERO), ..Desk::default() };
    let mut rig = Rig::new(settings().in_flight_max(8).batch_len_max(1), &desk);
    (0..4).for_each(|place| rig.push(Some(place), place));
    rig.settle();
    assert_eq!(desk.open(), [0]);
}

/// What a store has shown over several lives.
#[derive(Default)]
struct Lives {
    pushed: BTreeMap<u64, u64>,
    /// Acknowledged, by key.
    acked: BTreeMap<u64, BTreeSet<u64>>,
    /// Done for good: at or below a cursor that was seen to be durable.
    passed: Lsn,
    most_out: usize,
    offered_twice: u64,
}

impl Lives {
    /// What the sink has now: no key out twice, nothing before it undone, nothing that a durable cursor has passed.
    fn check_new(&mut self, desk: &Desk, from: usize, story: &str) {
        let desk = desk.look();
        self.most_out = self.most_out.max(desk.open.len());
        for number in from..desk.given.len() {
            let (entries, attempt) = &desk.given[number];
            self.offered_twice += u64::from(*attempt > 1);
            for (lsn, Step { key, place }) in entries {
                let key = key.expect("all have keys");
                assert!(*lsn > self.passed, "{story}: {lsn} comes after the cursor has passed it");
                let done = self.acked.entry(key).or_default();
                for before in 0..*place {
                    let beside = entries.iter().any(|(_, step)| step.key == Some(key) && step.place == before);
                    assert!(done.contains(&before) || beside, "{story}: {place} of key {key} overtakes {before}");
                }
            }
        }
    }
}

/// Many keys, several batches, answers in any order and for each entry, power cuts: order per key holds within and
/// over lives, nothing is lost, and nothing comes again that a durable cursor has passed.
#[test]
fn each_key_keeps_its_order_with_several_batches_out_over_power_cuts() {
    let mut totals = (0, 0, 0);
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let clock = ManualClock::new();
        let kind = if seed % 2 == 0 { DiskKind::Flush } else { DiskKind::Fua };
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), kind, seed, ..SimSettings::default() });
        let retry = Retry { attempts_max: None, base: Duration::from_millis(2), max: RETRY, ..Retry::default() };
        let keys = 1 + prng.below(12);
        let builder = settings()
            .retry(retry)
            .in_flight_max(1 + prng.below(5) as usize)
            .batch_len_max(1 + prng.below(20) as usize)
            .park(Park::Drop)
            .adaptive(1, 20)
            .deliver_timeout(Duration::from_secs(5));
        let mut lives = Lives::default();
        for life in 0..4 {
            let story = format!("seed {seed} life {life}");
            let desk = Desk::default();
            let mut rig = Rig::on(&machine, &clock, builder.clone(), &desk);
            let mut seen = 0;
            let steps = 40 + prng.below(60);
            for step in 0.. {
                let last = life == 3 && step >= steps;
                if step >= steps && life < 3 || last && rig.queue.metrics().pending + rig.queue.metrics().in_flight == 0
                {
                    break;
                }
                assert!(step < 5000, "{story}: it does not come to its end: {:?}", rig.queue.metrics());
                lives.check_new(&desk, seen, &story);
                seen = desk.look().given.len();
                let open = desk.open();
                match prng.below(4) {
                    0 | 1 if !last => {
                        for _ in 0..prng.below(12) {
                            let key = prng.below(keys);
                            let place = lives.pushed.entry(key).or_default();
                            rig.push(Some(key), *place);
                            *place += 1;
                        }
                        // Durable before the power goes: no place of a key is given twice.
                        rig.make_durable();
                    }
                    2 if !open.is_empty() => {
                        let number = open[prng.below(open.len() as u64) as usize];
                        let entries = desk.look().given[number].0.clone();
                        // In order within a batch: what follows a refused entry of its key is refused with it.
                        let mut refused = BTreeSet::new();
                        let verdicts = entries.iter().map(|(_, step)| {
                            let key = step.key.expect("all have keys");
                            if refused.contains(&key) || !last && prng.chance(1, 5) {
                                refused.insert(key);
                                return Verdict::Retry("no".into());
                            }
                            lives.acked.entry(key).or_default().insert(step.place);
                            Verdict::Ack
                        });
                        let verdicts: Vec<_> = verdicts.collect();
                        rig.answer(number, Outcome::Each(verdicts));
                    }
                    _ => rig.wait(Duration::from_millis(1 + prng.below(60))),
                }
                lives.passed = lives.passed.max(rig.queue.metrics().cursor_lsn);
                assert_accounted(&rig.queue.metrics());
            }
            lives.check_new(&desk, seen, &story);
            machine.crash();
        }
        for (key, places) in &lives.pushed {
            let acked = lives.acked.get(key).map_or(0, BTreeSet::len);
            assert_eq!(acked as u64, *places, "seed {seed}: key {key} is not complete");
        }
        totals.0 = totals.0.max(lives.most_out);
        totals.1 += lives.offered_twice;
        totals.2 += lives.pushed.values().sum::<u64>();
    }
    assert!(totals.0 >= 4 && totals.1 > 100 && totals.2 > 3000, "the histories did too little: {totals:?}");
}

/// Lets nobody pass before so many are here.
#[derive(Default)]
struct Gate {
    here: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn wait_for(&self, count: usize) {
        let mut here = self.here.lock().unwrap();
        *here += 1;
        self.changed.notify_all();
        while *here < count {
            let (next, timeout) = self.changed.wait_timeout(here, LONG).unwrap();
            here = next;
            assert!(!timeout.timed_out(), "{here} of {count} deliveries are out together");
        }
    }
}

#[test]
fn as_many_threads_as_batches_may_be_out_call_a_sink_that_blocks() {
    let dir = in_memory();
    let gate = Arc::<Gate>::default();
    let (entry, panicked) = (Arc::clone(&gate), Arc::new(AtomicBool::new(false)));
    let once = Arc::clone(&panicked);
    let threads = Arc::new(Mutex::new(BTreeSet::new()));
    let callers = Arc::clone(&threads);
    let queue: Queue<Step> = small(dir.path(), Durability::Immediate)
        .name("pool")
        .in_flight_max(4)
        .batch_len_max(1)
        .retry(Retry { base: Duration::from_millis(1), ..Retry::default() })
        .open(blocking_pool_fn(move |batch: &Batch<Step>| {
            assert!(batch.deadline().is_none());
            callers.lock().unwrap().insert(std::thread::current().name().unwrap().to_owned());
            entry.wait_for(4);
            // A panic ends the delivery, not the thread.
            assert!(once.swap(true, Ordering::SeqCst), "once");
            Ok(())
        }))
        .unwrap();
    let producer = queue.producer();
    (0..40).for_each(|key| _ = producer.push(Step { key: Some(key), place: 0 }).unwrap());
    queue.drain(LONG).unwrap();
    let metrics = queue.metrics();
    assert_eq!((metrics.delivered, metrics.sink_panics, metrics.delivery_failures), (40, 1, 1));
    assert_accounted(&metrics);
    queue.shutdown(LONG).unwrap();
    assert!(panicked.load(Ordering::SeqCst));
    // Its own, and not delivery's, which has to look at deadlines meanwhile.
    let expected = ["pool-sink-0", "pool-sink-1", "pool-sink-2", "pool-sink-3"].map(str::to_owned);
    assert_eq!(*threads.lock().unwrap(), BTreeSet::from(expected));
}

#[test]
fn async_deliveries_run_side_by_side_on_the_delivery_thread() {
    let dir = in_memory();
    let (here, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::<std::task::Waker>::new())));
    let queue: Queue<Step> = small(dir.path(), Durability::Immediate)
        .in_flight_max(4)
        .batch_len_max(1)
        .open(sink_fn(move |batch: Batch<Step>| {
            let (here, waiting) = (Arc::clone(&here), Arc::clone(&waiting));
            async move {
                here.fetch_add(1, Ordering::SeqCst);
                waiting.lock().unwrap().drain(..).for_each(std::task::Waker::wake);
                // Only four that are polled beside each other ever get past here.
                poll_fn(|context| {
                    waiting.lock().unwrap().push(context.waker().clone());
                    if here.load(Ordering::SeqCst) >= 4 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                drop(batch);
                Ok(())
            }
        }))
        .unwrap();
    let producer = queue.producer();
    (0..8).for_each(|key| _ = producer.push(Step { key: Some(key), place: 0 }).unwrap());
    queue.drain(LONG).unwrap();
    assert_eq!(queue.shutdown(LONG).unwrap().delivered, 8);
}

#[test]
fn a_blocking_call_that_hangs_does_not_hold_up_the_shutdown_beyond_its_deadline() {
    let dir = in_memory();
    let (release, hangs) = channel::<()>();
    let (hangs, (asked, was_asked)) = (Mutex::new(hangs), channel());
    let queue: Queue<Step> = small(dir.path(), Durability::Immediate)
        .deliver_timeout(Duration::from_millis(20))
        .open(blocking_pool_fn(move |batch: &Batch<Step>| {
            asked.send(batch.deadline()).unwrap();
            let _ = hangs.lock().unwrap().recv();
            Ok(())
        }))
        .unwrap();
    queue.producer().push(Step { key: None, place: 7 }).unwrap();
    assert!(was_asked.recv_timeout(LONG).unwrap().is_some());
    let (done, ended) = sync_channel(1);
    // An hour, were it not for the deadline of the delivery.
    std::thread::spawn(move || _ = done.send(queue.shutdown(Duration::from_secs(3600))));
    match ended.recv_timeout(LONG) {
        Ok(Err(ShutdownError::Deadline(state))) => assert_eq!((state.delivered, state.left_in_log), (0, 1)),
        other => panic!("{other:?}"),
    }
    drop(release);
    let desk = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&desk);
    let queue: Queue<Step> = reopen(dir.path(), move |batch| seen.lock().unwrap().extend(batch.values().cloned()));
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();
    assert_eq!(*desk.lock().unwrap(), [Step { key: None, place: 7 }]);
}

fn reopen(dir: &Path, see: impl Fn(&Batch<Step>) + Send + Sync + 'static) -> Queue<Step> {
    let sink = blocking_pool_fn(move |batch: &Batch<Step>| {
        see(batch);
        Ok(())
    });
    small(dir, Durability::Immediate).open(sink).unwrap()
}
