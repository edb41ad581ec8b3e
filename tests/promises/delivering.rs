//! What the sink gets, how often, and when again.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use ringwal::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{Batch, DecodeError, Durability, EncodeError, Entry, Lsn, Outcome, Queue, Reason, Schema, Sink, Verdict};

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

/// F073, F161: unless more is asked for, the sink has one delivery, and the next comes after its answer.
#[test]
fn the_sink_has_one_batch_at_a_time_and_the_next_after_its_answer() {
    let (clock, sink) = (ManualClock::new(), Arc::<Counter>::default());
    let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
    let settings = SteppedSettings { seed: 7, clock: clock.clone(), store: None, mutants: Mutants::default() };
    let builder = few(Durability::Immediate).batch_len_max(10);
    let mut queue = SteppedQueue::open(builder, settings, &machine, Arc::clone(&sink)).unwrap();
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
    let metrics = queue.metrics();
    assert_eq!((metrics.in_flight, metrics.pending, sink.calls.load(Ordering::Relaxed)), (10, 40, 1));
    sink.answers.store(true, Ordering::Relaxed);
    turns(&mut queue);
    assert_eq!((queue.metrics().delivered, sink.calls.load(Ordering::Relaxed)), (50, 5));
    assert_eq!(sink.out_most.load(Ordering::Relaxed), 1);
}

/// F033, F072, F166: the delays of the default, by the clock: 100 ms doubling to 30 s, half of each by chance, and the
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

/// F223, F224: number and time of an entry are the log's, the same at each attempt and after a restart.
#[test]
fn an_entry_keeps_its_number_and_its_time_over_attempts_and_restarts() {
    let mut stage = Stage::new(few(Durability::Immediate));
    let mut pushed = Vec::new();
    for n in 0..5_u32 {
        stage.pass(Duration::from_secs(60));
        // The clock stands while the entry is taken in.
        let time = std::time::UNIX_EPOCH + Duration::from_nanos(stage.clock.unix().0);
        stage.sink.hangs();
        stage.push(n..n + 1);
        stage.settle();
        pushed.push((Lsn::new(u64::from(n) + 1), n, time));
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
    for Got { lsn, number, time, .. } in all {
        assert!(pushed.contains(&(lsn, number, time)), "{lsn} {number} {time:?} is none of {pushed:?}");
    }
}
