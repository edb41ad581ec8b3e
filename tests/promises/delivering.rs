//! What the sink gets, how often, and when again.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ringwal::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{
    Batch, Builder, DecodeError, Durability, EncodeError, Entry, Jitter, Lsn, Outcome, Queue, Reason, Retry, Schema,
    Sink, Verdict,
};

use crate::stage::{Got, MS, Stage, each, few};

/// An entry that shares its key with no other, so that nothing but the number of deliveries holds it back.
struct Keyed(u64);

impl Entry for Keyed {
    const SCHEMA: Schema = Schema::new("test.keyed alone", 1);

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.0.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(|bytes| Self(u64::from_le_bytes(bytes))).map_err(DecodeError::new)
    }

    fn key(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// Counts what is out, and answers only when it may.
#[derive(Default)]
struct Counter {
    answers: AtomicBool,
    out: AtomicU32,
    out_most: AtomicU32,
    calls: AtomicU32,
}

impl Sink<Keyed> for Counter {
    async fn deliver(&self, _: Batch<Keyed>) -> Outcome {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let out = self.out.fetch_add(1, Ordering::Relaxed) + 1;
        self.out_most.fetch_max(out, Ordering::Relaxed);
        poll_fn(|_| if self.answers.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
        self.out.fetch_sub(1, Ordering::Relaxed);
        Outcome::ack()
    }
}

/// Fifty entries of ten to a batch, at a sink that does not answer and then does. How many batches were out at once.
fn most_at_once(builder: Builder) -> u32 {
    let (clock, sink) = (ManualClock::new(), Arc::<Counter>::default());
    let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
    let settings = SteppedSettings { seed: 7, clock: clock.clone(), store: None, mutants: Mutants::default() };
    let mut queue = SteppedQueue::open(builder.batch_len_max(10), settings, &machine, Arc::clone(&sink)).unwrap();
    let producer = queue.producer();
    (0..50).for_each(|n| _ = producer.try_push(Keyed(n)).unwrap());
    let turns = |queue: &mut SteppedQueue<Keyed>| {
        for _ in 0..1000 {
            queue.turn_core();
            machine.step();
            queue.turn_sink();
            clock.advance(MS);
        }
        assert_eq!(queue.metrics().accounted(), queue.metrics().came_in());
    };
    turns(&mut queue);
    let out = sink.calls.load(Ordering::Relaxed);
    let metrics = queue.metrics();
    assert_eq!((metrics.in_flight, metrics.pending), (10 * u64::from(out), 50 - 10 * u64::from(out)));
    sink.answers.store(true, Ordering::Relaxed);
    turns(&mut queue);
    assert_eq!((queue.metrics().delivered, sink.calls.load(Ordering::Relaxed)), (50, 5));
    let most = sink.out_most.load(Ordering::Relaxed);
    assert_eq!(most, out, "no more were out later than while it did not answer");
    most
}

/// F188: unless more is asked for, the sink has one delivery, and the next comes after its answer.
#[test]
fn the_sink_has_one_batch_at_a_time_and_the_next_after_its_answer() {
    assert_eq!(most_at_once(few(Durability::Immediate)), 1);
}

/// F073: as many are out as may be, and no more.
#[test]
fn as_many_batches_are_out_as_in_flight_max_says() {
    for in_flight_max in [1, 2, 4] {
        assert_eq!(most_at_once(few(Durability::Immediate).in_flight_max(in_flight_max)), in_flight_max as u32);
    }
}

/// F033: the delays of the default, by the clock: 100 ms doubling to 30 s, half of each by chance, and the
/// park after sixty attempts.
#[test]
fn by_default_a_refused_entry_is_offered_sixty_times_at_doubling_distance_and_then_parked() {
    let mut stage = Stage::new(Queue::builder(Path::new("/simulated")));
    stage
        .sink
        .answers(|call| Some(each(call, |e| if e.number == 3 { Verdict::Retry("no".into()) } else { Verdict::Ack })));
    stage.push(0..10);
    stage.pass(Duration::from_secs(30 * 60));
    let calls = stage.sink.calls();
    let refused: Vec<_> = calls.iter().filter(|call| call.entries.iter().any(|e| e.number == 3)).collect();
    assert_eq!(refused.len(), 60);
    assert!(refused[1..].iter().all(|call| call.entries.len() == 1), "only what failed comes again");
    for (n, pair) in (0..).zip(refused.windows(2)) {
        let longest = (100 * MS * 2_u32.saturating_pow(n)).min(Duration::from_secs(30));
        let delay = pair[1].at - pair[0].at;
        assert!((longest / 2..=longest).contains(&delay), "{delay:?} before attempt {}, at most {longest:?}", n + 2);
        assert_eq!((pair[0].attempt, pair[1].attempt), (n + 1, n + 2));
    }
    let spread: Vec<Duration> = refused[20..].windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(spread.iter().any(|delay| *delay != spread[0]), "no chance in {spread:?}");
    let metrics = stage.metrics();
    assert_eq!((metrics.delivered, metrics.parked, metrics.delivery_failures), (9, 1, 60));
}

/// F072, F166: each delay is so many times the one before, up to the longest; by the clock, and without chance exactly.
#[test]
fn delays_between_attempts_grow_by_their_factor_up_to_the_longest() {
    let retry = Retry { base: 10 * MS, factor: 3.0, max: 200 * MS, jitter: Jitter::None, attempts_max: Some(6) };
    let mut stage = Stage::new(few(Durability::Immediate).retry(retry));
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..1);
    stage.pass(Duration::from_secs(10));
    let times: Vec<Duration> = stage.sink.calls().iter().map(|call| call.at).collect();
    let delays: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(delays, [10 * MS, 30 * MS, 90 * MS, 200 * MS, 200 * MS]);
    assert_eq!(stage.metrics().parked, 1);
}

/// Five entries, a minute between them, as they were pushed; and all their deliveries, before and after a restart.
fn over_attempts_and_restarts() -> (Vec<(u32, SystemTime)>, Vec<Got>) {
    let mut stage = Stage::new(few(Durability::Immediate));
    let mut pushed = Vec::new();
    stage.sink.hangs();
    for n in 0..5_u32 {
        stage.pass(Duration::from_secs(60));
        // The clock stands while the entry is taken in.
        pushed.push((n, std::time::UNIX_EPOCH + Duration::from_nanos(stage.clock.unix().0)));
        stage.push(n..n + 1);
        stage.settle();
    }
    stage.sink.answers(|_| Some(Outcome::retry(Reason::new("again"))));
    stage.pass(Duration::from_secs(1));
    let seen = |stage: &Stage| -> Vec<Got> { stage.sink.calls().into_iter().flat_map(|call| call.entries).collect() };
    let mut all = seen(&stage);
    assert!(all.iter().any(|entry| entry.attempt > 2), "{all:?}");
    let end = stage.close(false).unwrap();
    assert_eq!((end.delivered, end.left_in_log), (0, 5));
    let mut stage = stage.reopen(few(Durability::Immediate));
    stage.pass(Duration::from_secs(3600));
    let after = seen(&stage);
    assert_eq!(after.len(), 5, "{after:?}");
    all.extend(after);
    (pushed, all)
}

/// F223: entries are numbered as they come, and keep their numbers.
#[test]
fn an_entry_keeps_its_number_over_attempts_and_restarts() {
    let (_, all) = over_attempts_and_restarts();
    for got in all {
        assert_eq!(got.lsn, Lsn::new(u64::from(got.number) + 1), "{got:?}");
    }
}

/// F224: the time of an entry is when it was taken in, to the group that it was written with, and stays that.
#[test]
fn an_entry_keeps_its_time_over_attempts_and_restarts() {
    let (pushed, all) = over_attempts_and_restarts();
    for got in all {
        assert!(pushed.contains(&(got.number, got.time)), "{got:?} is none of {pushed:?}");
    }
}
