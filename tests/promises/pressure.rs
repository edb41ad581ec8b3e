//! What a queue that fills does to pushes: it warns, slows them down, and then does what `when_full` says.
//!
//! ```text
//!   a sink that hangs ─► log, backlog fill ┐
//!   a disk that hangs ─► memory fills      ├─► grade ─► the next push
//!   a sink that fails ─► share of failures ┘
//! ```

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ringwal::sim::{Fault, OpKind};
use ringwal::{
    Batch, BatchError, Builder, Concern, Durability, Grade, Measure, Outcome, Producer, PushError, Queue, SinkError,
    Verdict, WhenFull, blocking_fn,
};

use crate::common::{LONG, Numbered, assert_accounted, drain};
use crate::stage::{Got, MS, Stage, each, few};

/// A log of a few MiB, of which half is soon filled.
fn half(durability: Durability) -> Builder {
    let builder = few(durability).watermarks(0.50, 0.95);
    match durability {
        // Most of its memory is written at once.
        Durability::Spill => builder.log_bytes_max(32 << 20),
        // What waits for the end of its period is less than half of it.
        _ => builder.memory_max(16 << 20),
    }
}

fn is_over(stage: &Stage, measure: Measure, grade: Grade) -> bool {
    stage.queue.health().reasons().contains(&Concern::Watermark(measure, grade))
}

/// Pushes until the log is over its soft watermark; gives the next number. None of these pushes is delayed.
fn fill_log(stage: &mut Stage, from: u32) -> u32 {
    let producer = stage.queue.producer();
    for n in from..from + 12_000 {
        assert_eq!(stage.metrics().pressure.grade(), Grade::Calm, "{n}");
        producer.push(Numbered::new(0, n, 1900)).unwrap();
        stage.settle();
        if stage.metrics().pressure.log == Grade::Soft {
            return n + 1;
        }
    }
    panic!("12,000 of these are more than the log holds: {:?}", stage.metrics());
}

/// F135, F239, F241: above the soft watermark pushes take a millisecond longer, and it is said once.
#[test]
fn a_log_that_fills_slows_pushes_down_and_is_told_once_per_episode() {
    for durability in [Durability::Immediate, Durability::Periodic(5 * MS), Durability::Spill] {
        let mut stage = Stage::new(half(durability));
        let producer = stage.queue.producer();
        let mut next = 0;
        for episode in 1..=3 {
            stage.sink.hangs();
            let before = stage.metrics().pressure;
            next = fill_log(&mut stage, next);
            let pressure = stage.metrics().pressure;
            assert_eq!(pressure.delayed, before.delayed, "{durability:?}: below it nothing is delayed");
            assert_eq!((pressure.soft_episodes, pressure.hard_episodes, pressure.delay), (episode, 0, MS));
            assert!(is_over(&stage, Measure::Log, Grade::Soft), "{:?}", stage.queue.health());
            for _ in 0..5 {
                producer.push(Numbered::new(0, next, 20)).unwrap();
                next += 1;
                stage.settle();
            }
            let slowed = stage.metrics().pressure;
            assert_eq!((slowed.delayed - before.delayed, slowed.soft_episodes), (5, episode), "{durability:?}");
            assert!(slowed.delayed_for >= before.delayed_for + 5 * MS, "{slowed:?}");
            // Who never waits is not delayed.
            producer.try_push(Numbered::new(0, next, 20)).unwrap();
            next += 1;
            assert_eq!(stage.metrics().pressure.delayed, slowed.delayed, "{durability:?}");
            stage.sink.acknowledges();
            stage.pass(10 * MS);
            let calm = stage.metrics().pressure;
            assert_eq!((calm.grade(), calm.delay), (Grade::Calm, Duration::ZERO), "{durability:?}");
            assert!(!is_over(&stage, Measure::Log, Grade::Soft));
        }
        assert_eq!(stage.sink.numbers(), (0..next).collect::<Vec<_>>(), "{durability:?}");
    }
}

/// F142: by default nothing is slowed down or refused before its ring is full; health and metrics warn.
#[test]
fn without_watermarks_a_log_that_fills_is_told_and_holds_nothing_up() {
    let mut stage = Stage::new(few(Durability::Immediate));
    stage.sink.hangs();
    let next = fill_log(&mut stage, 0);
    stage.push(next..next + 10);
    stage.queue.producer().push(Numbered::new(0, next + 10, 20)).unwrap();
    stage.settle();
    let pressure = stage.metrics().pressure;
    assert!(is_over(&stage, Measure::Log, Grade::Soft));
    assert_eq!((pressure.soft_episodes, pressure.hard_episodes), (1, 0));
    assert_eq!((pressure.delayed, pressure.delay), (0, Duration::ZERO));
}

/// A backlog of a hundred, over its hard watermark: the rings have room, and the sink has nothing done.
fn at_hard(when_full: WhenFull) -> Stage {
    let mut stage =
        Stage::new(few(Durability::Immediate).backlog_len_max(100).watermarks(0.5, 0.95).when_full(when_full));
    stage.sink.hangs();
    stage.push(0..94);
    stage.settle();
    assert_eq!(stage.metrics().pressure.backlog, Grade::Soft);
    stage.push(94..95);
    stage.settle();
    assert!(is_over(&stage, Measure::Backlog, Grade::Hard), "{:?}", stage.queue.health());
    stage
}

fn number(error: PushError<Numbered>) -> u32 {
    error.into_entry().number
}

/// F209, F242: over the hard watermark pushes do what `when_full` says, though there is room; by reason.
#[test]
fn over_the_hard_watermark_pushes_meet_when_full_and_are_counted_by_reason() {
    let entry = |n| Numbered::new(0, n, 20);
    for when_full in [WhenFull::Reject, WhenFull::BlockFor(MS), WhenFull::Block, WhenFull::DropNewest] {
        let mut stage = at_hard(when_full);
        let producer = stage.queue.producer();
        let mut pinned = producer.pin();
        let drops = when_full == WhenFull::DropNewest;
        let mut refused = 0;
        let mut refuse = |error: PushError<Numbered>, n: u32| {
            assert!(error.is_full() && matches!(error, PushError::Dropped(_)) == drops, "{when_full:?}: {error}");
            assert_eq!(number(error), n);
            refused += 1;
        };
        refuse(producer.try_push(entry(200)).unwrap_err(), 200);
        refuse(producer.push_timeout(entry(201), MS).unwrap_err(), 201);
        refuse(pinned.try_push(entry(202)).unwrap_err(), 202);
        // `Block` would wait for the sink.
        if when_full != WhenFull::Block {
            refuse(producer.push(entry(203)).unwrap_err(), 203);
            refuse(pinned.push(entry(204)).unwrap_err(), 204);
            refuse(producer.push_durable(entry(205)).map(drop).unwrap_err(), 205);
            let BatchError { pushed, error, rest, .. } = producer.push_batch((206..209).map(entry)).unwrap_err();
            refuse(error, 206);
            assert_eq!((pushed, rest.iter().map(|entry| entry.number).collect::<Vec<_>>()), (0, vec![207, 208]));
        }
        stage.settle();
        let metrics = stage.metrics();
        assert_eq!((metrics.pushed, metrics.pressure.hard_episodes), (95, 1), "{when_full:?}");
        let by_reason = (metrics.rejected_by.watermark, metrics.dropped_by.watermark);
        assert_eq!(by_reason, if drops { (0, refused) } else { (refused, 0) }, "{when_full:?}");
        assert_eq!(
            (metrics.rejected + metrics.dropped, metrics.rejected_by.full, metrics.dropped_by.full),
            (refused, 0, 0)
        );
        // When the sink goes on, so do they.
        stage.sink.acknowledges();
        stage.pass(10 * MS);
        assert_eq!(producer.push_batch((95..100).map(entry)).unwrap(), 5);
        producer.push(entry(100)).unwrap();
        pinned.push(entry(101)).unwrap();
        stage.pass(10 * MS);
        let mut numbers = stage.sink.numbers();
        // The pinned producer has a ring of its own.
        numbers.sort_unstable();
        assert_eq!(numbers, (0..102).collect::<Vec<_>>(), "{when_full:?}");
        assert_eq!(stage.metrics().pressure.grade(), Grade::Calm);
    }
}

/// F209: a most number of entries holds by itself. Entries of the process before count too.
#[test]
fn a_backlog_limit_needs_no_watermarks_and_counts_what_was_recovered() {
    let builder = || few(Durability::Immediate).backlog_len_max(20).when_full(WhenFull::Reject);
    let mut stage = Stage::new(builder());
    stage.sink.hangs();
    stage.push(0..19);
    stage.settle();
    assert_eq!(stage.metrics().pressure.backlog, Grade::Soft, "from 80 % on it warns");
    stage.push(19..20);
    stage.settle();
    assert!(stage.queue.producer().push(Numbered::new(0, 20, 20)).unwrap_err().is_full());
    stage.machine.crash();
    let mut stage = stage.reopen(builder());
    stage.sink.hangs();
    stage.settle();
    assert_eq!((stage.metrics().recovered, stage.metrics().pressure.backlog), (20, Grade::Hard));
    assert!(stage.queue.producer().push(Numbered::new(0, 20, 20)).unwrap_err().is_full());
    stage.sink.acknowledges();
    stage.pass(10 * MS);
    stage.push(20..40);
    stage.pass(10 * MS);
    assert_eq!(stage.sink.numbers().last(), Some(&39));
}

/// F209: what is done above an entry that is offered again is no backlog any more.
#[test]
fn what_is_done_behind_an_entry_that_waits_for_its_retry_does_not_count() {
    let builder = few(Durability::Immediate).backlog_len_max(10).when_full(WhenFull::Reject);
    let mut stage = Stage::new(builder);
    stage.sink.answers(|call| {
        let verdict = |got: &Got| if got.number == 0 { Verdict::Retry("not yet".into()) } else { Verdict::Ack };
        Some(each(call, verdict))
    });
    stage.push(0..9);
    // Its linger is over, and the delay before the retry is not.
    stage.pass(5 * MS);
    assert_eq!((stage.metrics().delivered, stage.metrics().pressure.backlog), (8, Grade::Calm));
    stage.push(9..18);
    stage.settle();
    assert_eq!(stage.metrics().pressure.backlog, Grade::Hard, "one and nine: {:?}", stage.metrics());
    stage.sink.acknowledges();
    stage.pass(1000 * MS);
    assert_eq!((stage.metrics().delivered, stage.metrics().pressure.backlog), (18, Grade::Calm));
}

/// F238: what a hung disk keeps in memory is pressure; what is on disk is let go, and is none, however long the sink takes.
#[test]
fn memory_counts_what_cannot_be_let_go_and_nothing_else() {
    for durability in [Durability::Immediate, Durability::Periodic(5 * MS), Durability::Spill] {
        let builder = few(durability).memory_max(16 << 20).log_bytes_max(64 << 20).watermarks(0.8, 0.95);
        let mut stage = Stage::new(builder.when_full(WhenFull::Reject));
        stage.sink.hangs();
        let mut n = 0;
        // Twice the memory, and none of it delivered.
        while u64::from(n) * 1900 < 32 << 20 {
            (n..n + 16).for_each(|n| _ = stage.queue.producer().try_push(Numbered::new(0, n, 1900)).unwrap());
            n += 16;
            stage.pass(6 * MS);
            assert_eq!(stage.metrics().pressure.memory, Grade::Calm, "{durability:?}: {:?}", stage.metrics());
        }
        let metrics = stage.metrics();
        assert!(metrics.frames_let_go > 0 && metrics.memory_bytes <= metrics.memory_bytes_max, "{metrics:?}");
        assert_eq!(metrics.pressure.soft_episodes, 0, "{durability:?}");

        stage.machine.inject(Fault::hung(OpKind::Write));
        let producer = stage.queue.producer();
        for _ in 0..1_000_000 {
            match producer.push(Numbered::new(0, n, 1900)) {
                Ok(_) => n += 1,
                Err(_) if stage.metrics().rejected_by.watermark > 0 => break,
                Err(_) => stage.settle(),
            }
            stage.settle();
        }
        let metrics = stage.metrics();
        assert_eq!(metrics.pressure.memory, Grade::Hard, "{durability:?}: {metrics:?}");
        assert_eq!(
            (metrics.rejected_by.full, metrics.rejected_by.watermark),
            (0, 1),
            "the rings had room: {metrics:?}"
        );
        assert!(metrics.memory_bytes <= metrics.memory_bytes_max);
        stage.machine.heal();
        stage.sink.acknowledges();
        stage.pass(50 * MS);
        assert_eq!(stage.metrics().pressure.grade(), Grade::Calm, "{durability:?}: {:?}", stage.metrics());
        assert_eq!(stage.sink.numbers().len(), n as usize);
    }
}

/// F135: who may not wait is not slowed down either.
#[test]
fn a_queue_that_is_told_not_to_wait_does_not_slow_pushes_down() {
    for when_full in [WhenFull::Reject, WhenFull::DropNewest] {
        let mut stage = Stage::new(half(Durability::Immediate).when_full(when_full));
        stage.sink.hangs();
        let next = fill_log(&mut stage, 0);
        let producer = stage.queue.producer();
        let mut pinned = producer.pin();
        producer.push(Numbered::new(0, next, 20)).unwrap();
        pinned.push(Numbered::new(0, next + 1, 20)).unwrap();
        producer.push_batch([Numbered::new(0, next + 2, 20)]).unwrap();
        assert_eq!(stage.metrics().pressure.delayed, 0, "{when_full:?}");
        // But one that says itself how long it may wait.
        producer.push_timeout(Numbered::new(0, next + 3, 20), MS).unwrap();
        assert_eq!(stage.metrics().pressure.delayed, 1, "{when_full:?}");
    }
}

/// F135: pinned producers and batches are slowed down as well, a batch once for each run of 16 KiB.
#[test]
fn pinned_producers_and_batches_are_slowed_down_too() {
    let mut stage = Stage::new(half(Durability::Immediate));
    stage.sink.hangs();
    let next = fill_log(&mut stage, 0);
    let producer = stage.queue.producer();
    producer.pin().push(Numbered::new(0, next, 20)).unwrap();
    assert_eq!(stage.metrics().pressure.delayed, 1);
    producer.push_batch((next..next + 100).map(|n| Numbered::new(0, n, 20))).unwrap();
    assert_eq!(stage.metrics().pressure.delayed, 2, "a hundred short ones are one run");
    producer.push_batch((next..next + 10).map(|n| Numbered::new(0, n, 1900))).unwrap();
    let delayed = stage.metrics().pressure.delayed;
    assert!((3..=5).contains(&delayed), "{delayed}");
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// F135: a task's delay is the queue's to end: by the clock, by a level that falls, by closing. No thread waits for it.
#[test]
fn a_task_is_delayed_by_the_queues_clock_and_set_free_when_the_level_falls_or_the_queue_closes() {
    let opened = || {
        let mut stage = Stage::new(half(Durability::Immediate).soft_delay(50 * MS));
        stage.sink.hangs();
        let next = fill_log(&mut stage, 0);
        (stage, next)
    };
    let (mut stage, next) = opened();
    let producer = stage.queue.producer();
    let mut push = pin!(producer.push_async(Numbered::new(0, next, 20)));
    assert!(poll(push.as_mut()).is_pending());
    stage.pass(49 * MS);
    assert!(poll(push.as_mut()).is_pending(), "{:?}", stage.queue);
    stage.pass(MS);
    assert!(matches!(poll(push.as_mut()), Poll::Ready(Ok(_))), "{:?}", stage.queue);
    assert_eq!(stage.metrics().pressure.delayed, 1);

    // The next one is delayed anew; this time the sink takes what there is.
    let mut push = pin!(producer.push_async(Numbered::new(0, next + 1, 20)));
    assert!(poll(push.as_mut()).is_pending());
    stage.sink.acknowledges();
    stage.settle();
    assert!(matches!(poll(push.as_mut()), Poll::Ready(Ok(_))), "the level fell: {:?}", stage.metrics());
    stage.pass(10 * MS);
    assert_eq!(stage.sink.numbers(), (0..next + 2).collect::<Vec<_>>());

    let (stage, next) = opened();
    let producer = stage.queue.producer();
    let mut push = pin!(producer.push_async(Numbered::new(0, next, 20)));
    assert!(poll(push.as_mut()).is_pending());
    let mut stage = stage;
    stage.queue.begin_closing(false);
    assert!(matches!(poll(push.as_mut()), Poll::Ready(Err(PushError::Closed(_)))));
    stage.sink.acknowledges();
    stage.close(false).unwrap();
}

/// F242: over the hard watermark a task waits until it is left, whatever `when_full` says.
#[test]
fn a_task_waits_until_the_hard_watermark_is_left() {
    let mut stage = at_hard(WhenFull::Reject);
    let producer = stage.queue.producer();
    let mut push = pin!(producer.push_async(Numbered::new(0, 95, 20)));
    assert!(poll(push.as_mut()).is_pending());
    stage.pass(1000 * MS);
    assert!(poll(push.as_mut()).is_pending());
    stage.sink.acknowledges();
    stage.settle();
    assert!(matches!(poll(push.as_mut()), Poll::Ready(Ok(_))));
}

/// F135 (V2's error share): the more deliveries fail, the longer the delay; nothing is refused for it.
#[test]
fn the_delay_grows_with_the_share_of_deliveries_that_fail() {
    let most = 16 * MS;
    let mut stage = Stage::new(few(Durability::Immediate).failure_delay(most));
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..1);
    let mut delays = vec![Duration::ZERO];
    for _ in 0..100 {
        stage.pass(40_000 * MS);
        delays.push(stage.metrics().pressure.delay);
        if delays.last() == Some(&most) {
            break;
        }
    }
    assert!(delays.is_sorted() && delays.len() > 3 && delays.last() == Some(&most), "{delays:?}");
    let producer = stage.queue.producer();
    producer.push(Numbered::new(0, 1, 20)).unwrap();
    producer.try_push(Numbered::new(0, 2, 20)).unwrap();
    let pressure = stage.metrics().pressure;
    assert_eq!((pressure.delayed, pressure.soft_episodes), (1, 0));
    assert!(pressure.delayed_for >= most);
    // One delivery after the other succeeds.
    stage.sink.acknowledges();
    let mut falling = vec![most];
    for n in 3..30 {
        stage.pass(40_000 * MS);
        falling.push(stage.metrics().pressure.delay);
        stage.push(n..n + 1);
    }
    assert!(falling.is_sorted_by(|a, b| a >= b) && falling.last() == Some(&Duration::ZERO), "{falling:?}");
    assert_eq!(stage.metrics().rejected, 0);
}

/// A sink that can be held.
#[derive(Clone, Default)]
struct Held(Arc<(Mutex<bool>, Condvar)>);

impl Held {
    fn let_go(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let free = self.0.0.lock().unwrap();
        let (free, waited) = self.0.1.wait_timeout_while(free, LONG, |free| !*free).unwrap();
        assert!(*free && !waited.timed_out(), "nobody lets it go");
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(MS);
    }
}

/// F209, F242: threads that are held up go on where they were, and nothing of it is lost or out of order.
#[test]
fn threads_that_a_hard_watermark_holds_up_go_on_when_it_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (held, seen) = (Held::default(), Arc::new(Mutex::new(Vec::new())));
    let (of_sink, seen_by_sink) = (held.clone(), Arc::clone(&seen));
    let queue = crate::common::small(dir.path(), Durability::Immediate)
        .backlog_len_max(50)
        .watermarks(0.5, 0.9)
        .open(blocking_fn(move |batch: &Batch<Numbered>| {
            of_sink.wait();
            seen_by_sink.lock().unwrap().extend(batch.values().map(|entry| (entry.producer, entry.number)));
            Ok(())
        }))
        .unwrap();
    const EACH: u32 = 300;
    let first = queue.producer();
    // The last of them reaches it: none is refused, whenever the flush core looks.
    const FIRST: u32 = 45;
    (0..FIRST).for_each(|n| _ = first.try_push(Numbered::new(9, n, 20)).unwrap());
    wait_until("the hard watermark is reached", || queue.metrics().pressure.backlog == Grade::Hard);
    thread::scope(|scope| {
        let (begun, begins) = channel();
        for p in 0..3 {
            let (producer, mut pinned, begun) = (queue.producer(), queue.producer().pin(), begun.clone());
            scope.spawn(move || {
                begun.send(()).unwrap();
                for n in 0..EACH {
                    let entry = Numbered::new(p, n, 20);
                    if p == 0 { pinned.push(entry).map(drop) } else { producer.push(entry).map(drop) }.unwrap();
                }
            });
        }
        (0..3).for_each(|_| begins.recv().unwrap());
        let metrics = queue.metrics();
        assert_eq!((metrics.pushed, metrics.ring_bytes), (u64::from(FIRST), 0), "nothing of theirs has got in");
        held.let_go();
    });
    drain(&queue);
    let metrics = queue.metrics();
    assert_accounted(&metrics);
    assert_eq!((metrics.delivered, metrics.rejected, metrics.dropped), (u64::from(FIRST + 3 * EACH), 0, 0));
    let seen = seen.lock().unwrap();
    for p in 0..3 {
        let numbers: Vec<u32> = seen.iter().filter(|(of, _)| *of == p).map(|(_, n)| *n).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "producer {p}");
    }
    drop(seen);
    queue.shutdown(LONG).unwrap();
}

/// Longer than anything here takes: who waits so long was not set free.
const MINUTE: Duration = Duration::from_secs(60);

/// A queue whose backlog of one keeps it over what `builder` sets, until `held` is let go.
fn full_by_one(builder: Builder, held: &Held) -> Queue<Numbered> {
    let of_sink = held.clone();
    let queue: Queue<Numbered> = builder
        .open(blocking_fn(move |_: &Batch<Numbered>| {
            of_sink.wait();
            Ok::<(), SinkError>(())
        }))
        .unwrap();
    queue.producer().push(Numbered::new(0, 0, 20)).unwrap();
    wait_until("a watermark is reached", || queue.metrics().pressure.grade() > Grade::Calm);
    queue
}

/// F135: a thread's delay, and its wait, end when the level falls.
#[test]
fn a_level_that_falls_ends_delays_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let held = Held::default();
    let builder = crate::common::small(dir.path(), Durability::Immediate);
    let queue = full_by_one(builder.backlog_len_max(2).watermarks(0.5, 1.0).soft_delay(MINUTE), &held);
    thread::scope(|scope| {
        let producer = queue.producer();
        let (begun, begins) = channel();
        let push = scope.spawn(move || {
            begun.send(()).unwrap();
            producer.push(Numbered::new(0, 1, 20)).map(drop)
        });
        begins.recv().unwrap();
        // It may not have come to wait by now: then it is not held up at all, which is as good.
        held.let_go();
        assert!(push.join().unwrap().is_ok());
    });
    drain(&queue);
    let pressure = queue.metrics().pressure;
    assert!(pressure.delayed_for < MINUTE, "{pressure:?}");
    queue.shutdown(LONG).unwrap();
}

/// F135, F242: closing ends the waits and the delays of threads.
#[test]
fn closing_sets_free_who_is_held_up() {
    for (soft, hard) in [(0.5, 0.5), (0.5, 1.0)] {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::default();
        let builder = crate::common::small(dir.path(), Durability::Immediate);
        let queue = full_by_one(builder.backlog_len_max(2).watermarks(soft, hard).soft_delay(MINUTE), &held);
        let watch = queue.watch();
        let (told, tells) = channel();
        let pushers: Vec<_> = (0..3)
            .map(|n| {
                let (producer, told): (Producer<Numbered>, _) = (queue.producer(), told.clone());
                thread::spawn(move || {
                    told.send(()).unwrap();
                    producer.push(Numbered::new(0, n, 20)).map(drop)
                })
            })
            .collect();
        pushers.iter().for_each(|_| tells.recv().unwrap());
        let closing = thread::spawn(move || queue.shutdown(LONG));
        for pusher in pushers {
            let result = pusher.join().unwrap();
            assert!(matches!(result, Err(PushError::Closed(_))), "soft {soft}, hard {hard}: {result:?}");
        }
        let delayed_for = watch.metrics().pressure.delayed_for;
        assert!(delayed_for < MINUTE, "the delay was not ended: {delayed_for:?}");
        held.let_go();
        let state = closing.join().unwrap().unwrap();
        assert_eq!(state.delivered, 1);
    }
}

/// F242: a sink that pushes into its own full queue is answered at once: it must not wait for itself.
#[test]
fn the_sinks_own_pushes_are_refused_and_never_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let own: Arc<OnceLock<Producer<Numbered>>> = Arc::default();
    let of_sink = Arc::clone(&own);
    let queue = crate::common::small(dir.path(), Durability::Immediate)
        .backlog_len_max(10)
        .watermarks(0.5, 1.0)
        .soft_delay(MINUTE)
        .open(blocking_fn(move |batch: &Batch<Numbered>| {
            let producer = of_sink.wait();
            if batch.values().any(|entry| entry.number == 0) {
                // What it pushes is not delivered before this returns.
                while producer.push(Numbered::new(1, 1, 20)).is_ok() {
                    thread::yield_now();
                }
            }
            Ok::<(), SinkError>(())
        }))
        .unwrap();
    assert!(own.set(queue.producer()).is_ok());
    queue.producer().push(Numbered::new(0, 0, 20)).unwrap();
    // The first, by which the sink has pushed its own, and then these.
    drain(&queue);
    drain(&queue);
    let metrics = queue.metrics();
    assert_accounted(&metrics);
    assert_eq!((metrics.rejected, metrics.pressure.delayed), (1, 0), "{metrics:?}");
    drop(own);
    queue.shutdown(LONG).unwrap();
}

/// F242: bytes claimed in place go no other way: over a soft watermark at once, over a hard one not at all.
#[test]
fn a_claim_is_refused_over_the_hard_watermark_and_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let held = Held::default();
    let of_sink = held.clone();
    let queue: Queue<Vec<u8>> = crate::common::small(dir.path(), Durability::Immediate)
        .backlog_len_max(2)
        .watermarks(0.5, 1.0)
        .soft_delay(MINUTE)
        .open(blocking_fn(move |_: &Batch<Vec<u8>>| {
            of_sink.wait();
            Ok::<(), SinkError>(())
        }))
        .unwrap();
    let mut pinned = queue.producer().pin();
    for grade in [Grade::Soft, Grade::Hard] {
        let mut claim = pinned.claim(3).expect("below the hard watermark");
        claim.bytes_mut().copy_from_slice(b"abc");
        claim.commit();
        wait_until("the next watermark is reached", || queue.metrics().pressure.backlog == grade);
    }
    assert!(matches!(pinned.claim(3), Err(PushError::Full(()))));
    let metrics = queue.metrics();
    assert_eq!((metrics.rejected_by.watermark, metrics.pressure.delayed), (1, 0));
    held.let_go();
    drain(&queue);
    drop(pinned);
    queue.shutdown(LONG).unwrap();
}

/// F229: memory that waits only for the end of a period is written before it holds anybody up.
#[test]
fn memory_half_full_of_what_is_not_synced_is_synced_before_its_period_ends() {
    let builder = few(Durability::Periodic(MINUTE)).log_bytes_max(32 << 20).watermarks(0.8, 0.95);
    let mut stage = Stage::new(builder.when_full(WhenFull::Reject));
    stage.sink.hangs();
    let producer = stage.queue.producer();
    let begun = stage.now();
    // Twice the memory, while the clock all but stands still.
    for n in 0..(16 << 20) / 1900 {
        producer.push(Numbered::new(0, n, 1900)).unwrap();
        stage.settle();
        assert_eq!(stage.metrics().pressure.memory, Grade::Calm, "{n}: {:?}", stage.metrics());
    }
    let metrics = stage.metrics();
    assert!(stage.now() - begun < MINUTE && metrics.syncs > 0 && metrics.frames_let_go > 0, "{metrics:?}");
}
