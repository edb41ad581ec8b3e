//! What a queue counts and measures, step by step on a clock that only the test moves, and what health makes of it.

mod stage;

use std::time::Duration;

use ringwal::sim::{Fault, OpKind, SimSettings};
use ringwal::{
    Breaker, Concern, DecodeError, Durability, EncodeError, Entry, Metrics, OnBreaker, PushError, Retry, Schema,
    WhenFull,
};
use stage::{MS, Reply, Stage, settings};

const ALL: [Durability; 4] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(5)), Durability::Spill, Durability::Memory];
const SECOND: Duration = Duration::from_secs(1);

fn is_accounted(metrics: &Metrics) {
    assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:#?}");
}

fn has(concerns: &[Concern], is: impl Fn(&Concern) -> bool) -> bool {
    concerns.iter().any(is)
}

/// `pushed = delivered + parked + discarded + redelivered + lost + pending + in flight`, with what was recovered on
/// the left; rejected and dropped entries were never in the queue.
#[test]
fn every_entry_is_accounted_for_at_every_step() {
    for durability in ALL {
        let mut stage = Stage::<Vec<u8>>::open(settings(durability).batch_len_max(7).when_full(WhenFull::DropNewest));
        let producer = stage.producer();
        let (mut pushed, mut dropped) = (0, 0);
        for round in 0..60_u8 {
            let reply = [Reply::Ack, Reply::Retry, Reply::Ack, Reply::Park, Reply::Panic][usize::from(round) % 5];
            stage.script.then([reply]);
            for n in 0..40 {
                match producer.push(vec![n; 900]) {
                    Ok(_) => pushed += 1,
                    Err(PushError::Dropped(entry)) => dropped += u64::from(entry.len() == 900),
                    Err(error) => panic!("{error}"),
                }
            }
            stage.settle_with(|queue| is_accounted(&queue.metrics()));
        }
        let metrics = stage.queue.metrics();
        assert_eq!((metrics.pushed, metrics.dropped), (pushed, dropped), "{durability:?}");
        assert_eq!((metrics.pending, metrics.in_flight), (0, 0));
        assert!(dropped > 0, "the rings were never full");
        let parked = if durability == Durability::Memory { metrics.parked + metrics.discarded } else { metrics.parked };
        assert_eq!(metrics.delivered + parked, pushed);
        assert!(parked > 0 && metrics.failures_by.panic > 0);
    }
}

#[test]
fn a_commit_and_the_way_from_the_ring_to_the_disk_are_measured() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(5))] {
        let slow = SimSettings { latency: (3 * MS, 3 * MS), ..SimSettings::default() };
        let mut stage = Stage::<Vec<u8>>::on(settings(durability), slow);
        for _ in 0..10 {
            stage.producer().push_batch((0..5).map(|n| vec![n; 100])).unwrap();
            stage.settle();
        }
        let metrics = stage.queue.metrics();
        assert_eq!((metrics.commit_entries.count(), metrics.commit_entries.sum()), (10, 50), "{durability:?}");
        let commits = &metrics.commit_micros;
        assert!(commits.count() >= 10 && commits.quantile(0.0) >= 3000 && commits.max() <= 3072 * 5 / 4, "{commits:?}");
        // The write, and for a period the time until its sync and the sync.
        let least = if durability == Durability::Immediate { 3000 } else { 6000 };
        let whole = &metrics.drain_to_durable_micros;
        assert_eq!(whole.count(), 10);
        assert!(whole.quantile(0.0) >= least && whole.max() <= 16_384, "{durability:?} {whole:?}");
        assert!(whole.sum() >= 10 * least && whole.mean() >= least as f64);
    }
    // What never became durable was in no commit, and took no time.
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Memory));
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.delivered, metrics.commit_micros.count(), metrics.drain_to_durable_micros.count()), (1, 0, 0));
}

#[test]
fn a_delivery_is_measured_from_the_call_to_the_answer() {
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    stage.producer().push_batch((0..12).map(|n| vec![n; 100])).unwrap();
    stage.script.hold(true);
    stage.settle();
    assert_eq!(stage.queue.metrics().delivery_micros.count(), 0, "it has not answered");
    stage.clock.advance(40 * MS);
    stage.script.then([Reply::Retry]);
    stage.script.hold(false);
    stage.settle();
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.delivery_micros.count(), metrics.batches), (2, 2));
    assert!((40_000..=50_000).contains(&metrics.delivery_micros.max()), "{:?}", metrics.delivery_micros);
    assert!(metrics.delivery_micros.quantile(0.5) < 40_000, "the retry was answered at once");
    assert_eq!((metrics.batch_entries.count(), metrics.batch_entries.sum()), (2, 24));
}

#[test]
fn failed_deliveries_are_counted_by_what_happened() {
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    stage.script.then([Reply::Retry, Reply::Panic, Reply::Park]);
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    let metrics = stage.queue.metrics();
    let by = metrics.failures_by;
    // A panic is a retry too.
    assert_eq!((by.retry, by.panic, by.park, by.timeout), (2, 1, 1, 0));
    assert_eq!((metrics.delivery_failures, metrics.retries, metrics.parked), (3, 2, 1));
}

/// Does not encode when it is told so; its length is not known before.
#[derive(Debug)]
struct Moody(usize, bool);

impl Entry for Moody {
    const SCHEMA: Schema = Schema::new("test.moody", 1);

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.resize(self.0, 7);
        if self.1 { Err(EncodeError::new("not today")) } else { Ok(()) }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(bytes.len(), false))
    }
}

#[test]
fn what_a_push_gives_back_is_counted_by_its_reason() {
    let breaker = Breaker { failures: 1, open_for: 60 * SECOND, ..Breaker::default() };
    let builder = settings(Durability::Immediate).breaker(breaker).on_breaker(OnBreaker::Reject);
    let mut stage = Stage::<Moody>::open(builder);
    let producer = stage.producer();
    assert!(matches!(producer.push(Moody(2001, false)), Err(PushError::TooLong { .. })));
    assert!(matches!(producer.push(Moody(10, true)), Err(PushError::Encode { .. })));
    let fitted = std::iter::from_fn(|| producer.try_push(Moody(1000, false)).ok()).count() as u64;
    assert_eq!(stage.queue.metrics().rejected_by.full, 1, "the last one did not fit");
    stage.script.then([Reply::Retry]);
    stage.settle();
    assert!(matches!(producer.push(Moody(10, false)), Err(PushError::Breaker(_))));
    stage.queue.begin_closing(false);
    for _ in 0..2 {
        assert!(matches!(producer.push(Moody(10, false)), Err(PushError::Closed(_))));
    }
    let metrics = stage.queue.metrics();
    let by = metrics.rejected_by;
    assert_eq!((by.too_long, by.encode, by.full, by.breaker, by.closed, by.failed), (1, 1, 1, 1, 2, 0));
    assert_eq!((metrics.rejected, by.total(), metrics.pushed), (6, 6, fitted));

    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    stage.machine.inject(Fault::error(OpKind::Write, 5));
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    assert!(matches!(stage.producer().push(vec![2]), Err(PushError::Poisoned(_))));
    assert_eq!(stage.queue.metrics().rejected_by.failed, 1);
}

#[test]
fn sizes_follow_the_backlog_and_survive_a_restart() {
    for durability in ALL {
        let mut stage = Stage::<Vec<u8>>::open(settings(durability));
        stage.queue.set_paused(true);
        for _ in 0..100 {
            stage.producer().push_batch((0..10).map(|n| vec![n; 1000])).unwrap();
            stage.settle();
        }
        let before = stage.queue.metrics();
        // Padding of a hundred frames comes on top, and headers.
        let (least, most) = (before.pushed_bytes, before.pushed_bytes * 2);
        assert_eq!(before.pushed_bytes, 1_000_000);
        assert!((least..most).contains(&before.backlog_bytes), "{durability:?} {before:#?}");
        assert!(before.memory_bytes > 0 && before.memory_bytes <= before.memory_bytes_max, "{before:#?}");
        assert_eq!(before.log_bytes, before.segments_live * (512 << 10));
        assert!(before.log_bytes <= before.log_bytes_max && before.log_bytes_max == 4 << 20);
        assert_eq!(before.ring_bytes_max % (16 << 10), 0);
        if durability == Durability::Memory {
            continue;
        }
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        stage.queue.set_paused(false);
        stage.script.hold(true);
        stage.close().unwrap_err();
        let mut stage = Stage::<Vec<u8>>::again(settings(durability), machine, clock);
        stage.script.hold(true);
        stage.settle();
        let after = stage.queue.metrics();
        assert_eq!((after.recovered, after.pushed), (1000, 0));
        assert!((least..most).contains(&after.backlog_bytes), "{durability:?} {after:#?}");
        stage.script.hold(false);
        stage.settle();
        let after = stage.queue.metrics();
        assert_eq!((after.delivered, after.pending, after.backlog_bytes), (1000, 0, 0), "{durability:?}");
    }
}

#[test]
fn the_age_of_the_oldest_entry_grows_and_survives_a_restart() {
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    assert_eq!(stage.queue.metrics().oldest_age, Duration::ZERO);
    stage.script.hold(true);
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    stage.pass(90 * SECOND);
    stage.producer().push(vec![2]).unwrap();
    stage.settle();
    let age = stage.queue.metrics().oldest_age;
    assert!((90 * SECOND..91 * SECOND).contains(&age), "{age:?}");
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    drop(stage);
    machine.kill();
    clock.advance(10 * SECOND);
    let mut stage = Stage::<Vec<u8>>::again(settings(Durability::Immediate), machine, clock);
    stage.script.hold(true);
    stage.settle();
    let age = stage.queue.metrics().oldest_age;
    assert!((100 * SECOND..101 * SECOND).contains(&age), "{age:?}");
    stage.script.hold(false);
    stage.settle();
    assert_eq!((stage.queue.metrics().delivered, stage.queue.metrics().oldest_age), (2, Duration::ZERO));
}

#[test]
fn a_sink_that_is_done_with_nothing_for_long_shows_in_health() {
    let stands = |stage: &Stage| has(stage.queue.health().reasons(), |c| matches!(c, Concern::NoProgress(_)));
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    stage.pass(3600 * SECOND);
    // After an hour without entries the first one is no standstill.
    stage.script.hold(true);
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    stage.pass(9 * SECOND);
    assert!(!stands(&stage), "{:?}", stage.queue.health());
    stage.pass(2 * SECOND);
    let health = stage.queue.health();
    assert!(has(health.reasons(), |c| matches!(c, Concern::NoProgress(time) if *time >= 11 * SECOND)), "{health:?}");
    assert!(health.reasons().iter().any(|c| c.to_string().contains("11 s")), "{health:?}");
    stage.script.hold(false);
    stage.settle();
    assert!(stage.queue.health().is_ok(), "{:?}", stage.queue.health());

    // Who fails again and again makes no progress either, whatever he answers.
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate).retry(Retry {
        base: 4 * SECOND,
        max: 4 * SECOND,
        factor: 1.0,
        ..Retry::default()
    }));
    stage.script.then([Reply::Retry; 9]);
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    for _ in 0..3 {
        assert!(!stands(&stage));
        stage.pass(4 * SECOND);
    }
    assert!(stands(&stage), "{:?}", stage.queue.health());
    // Slow progress with a backlog that is never gone is progress.
    let mut slow = Stage::<Vec<u8>>::open(settings(Durability::Immediate).batch_len_max(1).retry(Retry {
        base: 4 * SECOND,
        max: 4 * SECOND,
        factor: 1.0,
        ..Retry::default()
    }));
    slow.script.then([Reply::Retry, Reply::Ack].repeat(8));
    (0..8).for_each(|n| _ = slow.producer().push(vec![n]).unwrap());
    slow.settle();
    for _ in 0..7 {
        slow.pass(4 * SECOND);
        assert!(slow.queue.metrics().pending > 0 && !stands(&slow), "{:?}", slow.queue.health());
    }
    // A pause is asked for.
    stage.queue.set_paused(true);
    assert!(!stands(&stage));
}

#[test]
fn commits_that_are_slow_on_average_show_in_health() {
    let slow = SimSettings { latency: (1500 * MS, 1500 * MS), ..SimSettings::default() };
    let mut stage = Stage::<Vec<u8>>::on(settings(Durability::Immediate), slow);
    stage.producer().push(vec![1]).unwrap();
    stage.settle();
    let health = stage.queue.health();
    assert!(health.is_ok(), "nothing is known of a commit that is under way: {health:?}");
    stage.pass(1500 * MS);
    let health = stage.queue.health();
    let is_slow = |c: &Concern| matches!(c, Concern::SlowCommits(mean) if (1400..=1600).contains(&mean.as_millis()));
    assert!(has(health.reasons(), is_slow), "{health:?}");
}

/// Found by reading: frames were counted as written when they were sealed.
#[test]
fn what_is_delivered_from_memory_is_not_counted_as_written() {
    for durability in [Durability::Spill, Durability::Immediate] {
        let mut stage = Stage::<Vec<u8>>::open(settings(durability));
        for n in 0..5_u8 {
            stage.producer().push(vec![n; 900]).unwrap();
            stage.settle();
        }
        let metrics = stage.queue.metrics();
        assert_eq!(metrics.delivered, 5);
        let (written, writes) = (metrics.log_bytes_written, metrics.writes);
        match durability {
            Durability::Spill => assert_eq!((written, writes), (0, 0)),
            _ => assert!(written >= 5 * 900 && writes >= 5, "{metrics:?}"),
        }
    }
}
