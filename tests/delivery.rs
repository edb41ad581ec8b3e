//! How batches are made, what becomes of each verdict, and how a queue ends.

mod common;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    Judge, LONG, Numbered, Recorder, Seen, assert_accounted, assert_exactly_once_in_order, assert_settles, drain, small,
};
use ringwal::{
    Batch, Breaker, BreakerState, Concern, DecodeError, Durability, Entry, Health, Jitter, Lsn, OnBreaker, Outcome,
    Park, PushError, Queue, Reason, Retry, Schema, ShutdownError, Sink, SinkError, Verdict, blocking_fn, sink_fn,
};

/// When the sink was called, and with which entries.
type Calls = Arc<Mutex<Vec<(Instant, Vec<u32>)>>>;

const ALL: [Durability; 4] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill, Durability::Memory];
const MS: Duration = Duration::from_millis(1);

fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    numbers.for_each(|n| _ = producer.push(Numbered::new(0, n, 92)).unwrap());
}

fn quick(attempts_max: Option<u32>) -> Retry {
    Retry { attempts_max, base: MS, factor: 1.0, max: MS, jitter: Jitter::None }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG / 3;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(MS);
    }
}

/// Remembers the lengths of its batches.
fn lengths() -> (Arc<Mutex<Vec<usize>>>, impl Sink<Numbered>) {
    let lens = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&lens);
    (lens, blocking_fn(move |batch: &Batch<Numbered>| Ok(to.lock().unwrap().push(batch.len()))))
}

#[test]
fn a_batch_leaves_when_it_has_enough_entries_or_bytes_or_is_old_enough() {
    for durability in ALL {
        let hour = Duration::from_secs(3600);
        // By count: 10 of them, and the rest stays.
        let dir = tempfile::tempdir().unwrap();
        let (lens, sink) = lengths();
        let queue = small(dir.path(), durability).batch_len_max(10).linger(hour).open(sink).unwrap();
        push(&queue, 0..25);
        let _ = queue.flush();
        wait_until("two full batches", || lens.lock().unwrap().len() == 2);
        std::thread::sleep(20 * MS);
        assert_eq!(*lens.lock().unwrap(), [10, 10], "{durability:?}");
        assert_settles(&queue);
        assert_eq!(queue.metrics().pending, 5);
        // Who waits for delivery need not wait for the rest of a batch.
        drain(&queue);
        assert_eq!(*lens.lock().unwrap(), [10, 10, 5]);
        queue.shutdown(LONG).unwrap();

        // By bytes: 100 each.
        let dir = tempfile::tempdir().unwrap();
        let (lens, sink) = lengths();
        let queue = small(dir.path(), durability).batch_bytes_max(1000).linger(hour).open(sink).unwrap();
        push(&queue, 0..25);
        let _ = queue.flush();
        wait_until("two heavy batches", || lens.lock().unwrap().len() == 2);
        drain(&queue);
        assert_eq!(*lens.lock().unwrap(), [10, 10, 5], "{durability:?}");
        queue.shutdown(LONG).unwrap();

        // By age.
        let dir = tempfile::tempdir().unwrap();
        let (lens, sink) = lengths();
        let queue = small(dir.path(), durability).linger(60 * MS).open(sink).unwrap();
        let begun = Instant::now();
        push(&queue, 0..3);
        wait_until("an old batch", || !lens.lock().unwrap().is_empty());
        assert!(begun.elapsed() >= 60 * MS);
        drain(&queue);
        assert_eq!(lens.lock().unwrap().iter().sum::<usize>(), 3);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_refused_batch_comes_again_after_growing_delays_and_blocks_what_follows() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let calls: Arc<Mutex<Vec<(Instant, u32, u32)>>> = Arc::default();
        let to = Arc::clone(&calls);
        // The last attempt waits until health has been looked at.
        let (looked, is_looked_at) = std::sync::mpsc::channel::<()>();
        let sink = blocking_fn(move |batch: &Batch<Numbered>| {
            to.lock().unwrap().push((Instant::now(), batch[0].value.number, batch.attempt()));
            if batch[0].value.number == 0 && batch.attempt() == 5 {
                let _ = is_looked_at.recv();
            }
            if batch[0].value.number == 0 && batch.attempt() < 5 { Err(SinkError::retry("not yet")) } else { Ok(()) }
        });
        let retry = Retry { attempts_max: Some(10), base: 10 * MS, factor: 2.0, max: 40 * MS, jitter: Jitter::None };
        let queue = small(dir.path(), durability).batch_len_max(10).retry(retry).open(sink).unwrap();
        push(&queue, 0..20);
        wait_until("three attempts", || calls.lock().unwrap().len() >= 3);
        assert!(
            queue.health().reasons().iter().any(|c| matches!(c, Concern::SinkFailing(n) if *n >= 2)),
            "{:?}",
            queue.health()
        );
        drop(looked);
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_eq!(queue.health().reasons().iter().find(|c| matches!(c, Concern::SinkFailing(_))), None);
        let calls = calls.lock().unwrap();
        let order: Vec<(u32, u32)> = calls.iter().map(|(_, first, attempt)| (*first, *attempt)).collect();
        assert_eq!(order[..5], [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)], "{durability:?}");
        assert!(order[5..].iter().all(|(first, attempt)| *first >= 1 && *attempt == 1));
        for (pair, least) in calls.windows(2).zip([10, 20, 40, 40]) {
            let delay = pair[1].0 - pair[0].0;
            assert!(delay >= least * MS && delay < least * MS + LONG / 4, "{delay:?}, at least {least} ms");
        }
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn only_what_was_refused_comes_again_and_the_sink_may_say_when() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let calls: Calls = Arc::default();
        let to = Arc::clone(&calls);
        let sink = blocking_fn(move |batch: &Batch<Numbered>| {
            to.lock().unwrap().push((Instant::now(), batch.values().map(|v| v.number).collect()));
            let later = || Verdict::Retry(Reason::new("later").after(70 * MS));
            Ok(batch
                .iter()
                .map(|d| if d.value.number % 3 == 0 && d.attempt == 1 { later() } else { Verdict::Ack })
                .collect::<Vec<_>>())
        });
        let hour = Duration::from_secs(3600);
        let retry = Retry { base: hour, max: hour, ..Retry::default() };
        let queue = small(dir.path(), durability).batch_len_max(9).linger(hour).retry(retry).open(sink).unwrap();
        push(&queue, 0..9);
        let _ = queue.flush();
        // Draining hurries what has come so far, which on a busy machine may be a part of them.
        wait_until("all of them at once", || !calls.lock().unwrap().is_empty());
        drain(&queue);
        assert_accounted(&queue.metrics());
        let calls = calls.lock().unwrap();
        assert_eq!(calls.len(), 2, "{durability:?}");
        assert_eq!((calls[0].1.len(), &calls[1].1[..]), (9, &[0, 3, 6][..]));
        let delay = calls[1].0 - calls[0].0;
        assert!(delay >= 70 * MS && delay < LONG / 4, "{delay:?}");
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn what_is_refused_for_good_is_parked_listed_redelivered_and_discarded() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let seen = Arc::new(Seen::default());
        let healed = Arc::new(AtomicBool::new(false));
        let is_healed = Arc::clone(&healed);
        let verdict = move |entry: &Numbered, _: u32| match entry.number % 10 {
            _ if is_healed.load(Ordering::Relaxed) => Verdict::Ack,
            3 => Verdict::Park("never".into()),
            7 => Verdict::Retry("perhaps later".into()),
            _ => Verdict::Ack,
        };
        let queue = small(dir.path(), durability)
            .retry(quick(Some(3)))
            .open(Judge { seen: Arc::clone(&seen), verdict })
            .unwrap();
        push(&queue, 0..200);
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_eq!((queue.metrics().delivered, queue.metrics().parked, queue.parked().len()), (160, 40, 40));
        assert!(queue.health().reasons().contains(&Concern::Parked(40)));
        // In pages.
        let (mut all, mut after) = (Vec::new(), Lsn::ZERO);
        loop {
            let page = queue.parked().list(after, 7).unwrap();
            assert!(page.len() <= 7);
            let Some(last) = page.last() else { break };
            after = last.id;
            all.extend(page);
        }
        let mut numbers: Vec<(u32, u32, String)> =
            all.iter().map(|p| (p.decode::<Numbered>().unwrap().number, p.attempts, p.error.clone())).collect();
        numbers.sort();
        let expected =
            |n: u32| if n % 10 == 3 { (n, 1, "never".to_owned()) } else { (n, 3, "perhaps later".to_owned()) };
        assert_eq!(numbers, (0..200).filter(|n| n % 10 == 3 || n % 10 == 7).map(expected).collect::<Vec<_>>());
        assert!(all.iter().all(|p| p.first_attempt <= p.last_attempt && p.time <= std::time::SystemTime::now()));

        assert_eq!(queue.parked().discard(|p| p.error == "never").unwrap(), 20);
        assert_eq!(queue.parked().discard(|p| p.error == "never").unwrap(), 0, "they are gone");
        healed.store(true, Ordering::Relaxed);
        assert_eq!(queue.parked().redeliver(|p| p.attempts == 3).unwrap(), 20);
        drain(&queue);
        let metrics = queue.metrics();
        assert_accounted(&metrics);
        assert_eq!((metrics.delivered, metrics.parked, metrics.discarded, metrics.redelivered), (180, 0, 20, 20));
        assert!(queue.parked().is_empty() && queue.parked().list(Lsn::ZERO, 10).unwrap().is_empty());
        assert_eq!(queue.shutdown(LONG).unwrap().parked, 0);
        if durability != Durability::Memory {
            let queue = small(dir.path(), durability).open(Recorder::default()).unwrap();
            assert_eq!((queue.recovery().parked, queue.recovery().recovered), (0, 0));
            queue.shutdown(LONG).unwrap();
        }
    }
}

#[test]
fn the_park_is_kept_over_reopenings_and_two_may_empty_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = || blocking_fn(|_: &Batch<Numbered>| Err::<(), _>(SinkError::park("no")));
    for round in 1..4_u32 {
        let queue = small(dir.path(), Durability::Immediate).open(refuse()).unwrap();
        assert_eq!(queue.recovery().parked, u64::from(100 * (round - 1)));
        push(&queue, 100 * (round - 1)..100 * round);
        drain(&queue);
        assert_accounted(&queue.metrics());
        queue.shutdown(LONG).unwrap();
    }
    let queue = small(dir.path(), Durability::Immediate).open(refuse()).unwrap();
    let numbers: Vec<u32> =
        queue.parked().list(Lsn::ZERO, 1000).unwrap().iter().map(|p| p.decode::<Numbered>().unwrap().number).collect();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| queue.parked().discard(|_| true).unwrap())).collect();
        assert!(threads.into_iter().map(|t| t.join().unwrap()).sum::<usize>() >= 300);
    });
    assert!(begun.elapsed() < LONG / 3, "somebody waited for a cursor that had nothing to say");
    assert_eq!((queue.metrics().discarded, queue.metrics().parked), (300, 0));
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
}

#[test]
fn long_entries_of_all_lengths_fit_into_the_park() {
    let dir = tempfile::tempdir().unwrap();
    let text = "x".repeat(5000);
    let sink = blocking_fn(move |_: &Batch<Vec<u8>>| Err::<(), _>(SinkError::park(text.clone())));
    let queue = Queue::builder(dir.path())
        .segment_len(4 << 20)
        .log_bytes_max(16 << 20)
        .lock_wait(Duration::ZERO)
        .open(sink)
        .unwrap();
    let lens = [200_000, 200_000, 262_136, 0, 100_000, 262_136, 150_000, 1, 262_136, 0];
    lens.iter().for_each(|len| _ = queue.producer().push(vec![7; *len]).unwrap());
    drain(&queue);
    let parked = queue.parked().list(Lsn::ZERO, 100).unwrap();
    assert_eq!(parked.iter().map(|p| p.bytes.len()).collect::<Vec<_>>(), lens);
    assert!(parked.iter().all(|p| p.error.len() == 1024));
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
}

#[test]
fn without_a_park_what_is_refused_for_good_is_counted_as_discarded() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let sink = blocking_fn(|batch: &Batch<Numbered>| {
            Ok(batch
                .values()
                .map(|v| if v.number % 2 == 0 { Verdict::Ack } else { Verdict::Park("odd".into()) })
                .collect::<Vec<_>>())
        });
        let queue = small(dir.path(), durability).park(Park::Drop).open(sink).unwrap();
        push(&queue, 0..100);
        drain(&queue);
        let metrics = queue.metrics();
        assert_accounted(&metrics);
        assert_eq!((metrics.delivered, metrics.discarded, metrics.parked), (50, 50, 0));
        assert!(queue.parked().list(Lsn::ZERO, 10).unwrap().is_empty());
        // A shutdown that knew nothing of them left half of the entries unaccounted for.
        let state = queue.shutdown(LONG).unwrap();
        assert_eq!((state.delivered, state.discarded, state.parked, state.left_in_log, state.lost), (50, 50, 0, 0, 0));
    }
}

#[test]
fn a_full_park_keeps_entries_in_retry_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let sink = blocking_fn(|_: &Batch<Numbered>| Err::<(), _>(SinkError::park("no")));
    let queue = small(dir.path(), Durability::Immediate)
        .park_bytes_max(1 << 20)
        .batch_len_max(50)
        .retry(Retry { max: 20 * MS, base: 5 * MS, ..quick(Some(1)) })
        .open(sink)
        .unwrap();
    let producer = queue.producer();
    (0..1000).for_each(|n| _ = producer.push(Numbered::new(0, n, 1900)).unwrap());
    wait_until("the park is full", || queue.health().reasons().iter().any(|c| matches!(c, Concern::ParkFull(_))));
    assert_settles(&queue);
    let gone = std::cell::Cell::new(0);
    wait_until("all have gone through the park", || {
        gone.set(gone.get() + queue.parked().discard(|_| true).unwrap());
        gone.get() == 1000
    });
    drain(&queue);
    let metrics = queue.metrics();
    assert_accounted(&metrics);
    assert_eq!((metrics.discarded, metrics.parked), (1000, 0));
    queue.shutdown(LONG).unwrap();
}

#[derive(Debug)]
struct Picky(u8);

impl Entry for Picky {
    const SCHEMA: Schema = Schema::new("test.picky", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(1)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[0] = self.0;
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [n] if n % 5 == 1 => Err(DecodeError::new("one more than a multiple of five")),
            [n] if n % 5 == 2 => panic!("two more"),
            [n] => Ok(Self(*n)),
            _ => Err(DecodeError::new("length")),
        }
    }
}

#[test]
fn an_entry_that_does_not_decode_is_parked_with_its_bytes() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let got: Arc<Mutex<Vec<u8>>> = Arc::default();
        let to = Arc::clone(&got);
        let sink = blocking_fn(move |batch: &Batch<Picky>| Ok(to.lock().unwrap().extend(batch.values().map(|p| p.0))));
        let queue = small(dir.path(), durability).open(sink).unwrap();
        (0..100).for_each(|n| _ = queue.producer().push(Picky(n)).unwrap());
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_eq!(*got.lock().unwrap(), (0..100).filter(|n| n % 5 != 1 && n % 5 != 2).collect::<Vec<_>>());
        let parked = queue.parked().list(Lsn::ZERO, 100).unwrap();
        assert_eq!(
            parked.iter().map(|p| p.bytes[0]).collect::<Vec<_>>(),
            (0..100).filter(|n| n % 5 == 1 || n % 5 == 2).collect::<Vec<_>>()
        );
        assert!(parked[0].error.contains("multiple of five") && parked[1].error.contains("panicked"), "{parked:?}");
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_sink_that_panics_or_answers_nonsense_is_asked_again() {
    struct Panics {
        calls: AtomicU32,
        seen: Recorder,
    }
    impl Sink<Numbered> for Panics {
        fn deliver(&self, batch: Batch<Numbered>) -> impl Future<Output = Outcome> + Send {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            assert!(call != 0, "before there is a future");
            async move {
                assert!(call != 1, "in the future");
                match call {
                    2 => Outcome::Each(vec![Verdict::Ack; batch.len() + 1]),
                    3 => Outcome::Each(vec![]),
                    4 => Outcome::Each(vec![Verdict::Ack; batch.len().saturating_sub(1)]),
                    _ => self.seen.deliver(batch).await,
                }
            }
        }
        async fn close(&self) {
            panic!("at the end, too");
        }
    }
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let seen = Recorder::default();
        let sink = Panics { calls: AtomicU32::new(0), seen: seen.clone() };
        let queue = small(dir.path(), durability).retry(quick(None)).open(sink).unwrap();
        push(&queue, 0..50);
        drain(&queue);
        let metrics = queue.metrics();
        assert_accounted(&metrics);
        assert_eq!((metrics.sink_panics, metrics.delivered), (2, 50));
        assert!(metrics.delivery_failures >= 5, "{metrics:?}");
        assert_exactly_once_in_order(&seen.0.all(), &[50]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_paused_sink_gets_nothing_and_misses_nothing() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).open(sink.clone()).unwrap();
        for round in 0..5 {
            queue.pause();
            push(&queue, round * 100..(round + 1) * 100);
            let _ = queue.flush();
            std::thread::sleep(5 * MS);
            assert_eq!(sink.0.len(), round as usize * 100);
            assert_settles(&queue);
            queue.resume();
            drain(&queue);
            assert_accounted(&queue.metrics());
        }
        assert_exactly_once_in_order(&sink.0.all(), &[500]);
        // One that is paused is not waited for.
        queue.pause();
        push(&queue, 500..600);
        let begun = Instant::now();
        let end = queue.shutdown(LONG).unwrap();
        assert!(begun.elapsed() < LONG / 4);
        let left = if durability == Durability::Memory { (0, 100) } else { (100, 0) };
        assert_eq!((end.left_in_log, end.lost), left, "{durability:?}");
    }
}

/// Answers after another thread has woken it.
async fn nap(time: Duration) {
    let done = Arc::new(AtomicBool::new(false));
    let mut started = false;
    std::future::poll_fn(move |cx| {
        if done.load(Ordering::Acquire) {
            return std::task::Poll::Ready(());
        }
        if !std::mem::replace(&mut started, true) {
            let (done, waker) = (Arc::clone(&done), cx.waker().clone());
            std::thread::spawn(move || {
                std::thread::sleep(time);
                done.store(true, Ordering::Release);
                waker.wake();
            });
        }
        std::task::Poll::Pending
    })
    .await;
}

#[test]
fn an_async_sink_that_waits_needs_no_runtime() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let seen = Recorder::default();
        let to = seen.clone();
        let sink = sink_fn(move |batch: Batch<Numbered>| {
            let to = to.clone();
            async move {
                nap(3 * MS).await;
                to.deliver(batch).await;
                nap(3 * MS).await;
                Ok(())
            }
        });
        let queue = small(dir.path(), durability).batch_len_max(20).open(sink).unwrap();
        std::thread::scope(|scope| {
            for p in 0..4 {
                let producer = queue.producer();
                scope.spawn(move || (0..50).for_each(|n| _ = producer.push(Numbered::new(p, n, 10)).unwrap()));
            }
        });
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&seen.0.all(), &[50; 4]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_queue_that_is_dropped_keeps_what_was_pushed() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60)), Durability::Spill] {
        let dir = tempfile::tempdir().unwrap();
        let queue = small(dir.path(), durability).open(Recorder::default()).unwrap();
        queue.pause();
        push(&queue, 0..500);
        let producer = queue.producer();
        drop(queue);
        assert!(producer.is_closed() && producer.push(Numbered::new(0, 0, 0)).unwrap_err().is_closed());
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).open(sink.clone()).unwrap();
        assert!(queue.recovery().clean && queue.recovery().recovered == 500);
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[500]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_sink_that_hangs_ends_the_shutdown_at_its_deadline_and_loses_nothing() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let sink = blocking_fn(move |_: &Batch<Numbered>| Ok(_ = gate.recv()));
        let queue = small(dir.path(), durability).batch_len_max(10).open(sink).unwrap();
        push(&queue, 0..100);
        wait_until("a batch is out", || queue.metrics().in_flight > 0);
        let begun = Instant::now();
        let Err(ShutdownError::Deadline(end)) = queue.shutdown(150 * MS) else { panic!("in time?") };
        assert!(begun.elapsed() >= 150 * MS && begun.elapsed() < LONG / 4, "{:?}", begun.elapsed());
        let left = if durability == Durability::Memory { (0, 0, 100) } else { (0, 100, 0) };
        assert_eq!((end.delivered, end.left_in_log, end.lost), left, "{durability:?}");
        drop(release);
        if durability == Durability::Memory {
            continue;
        }
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).lock_wait(LONG).open(sink.clone()).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[100]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn no_snapshot_ever_accounts_for_more_than_came_in() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let mut calls = 0_u32;
        let sink = blocking_fn(move |batch: &Batch<Numbered>| {
            calls += 1;
            let verdict = |d: &ringwal::Delivery<Numbered>| match (d.value.number + calls) % 7 {
                0 => Verdict::Retry("again".into()),
                1 if d.attempt > 1 => Verdict::Park("enough".into()),
                _ => Verdict::Ack,
            };
            Ok(batch.iter().map(verdict).collect::<Vec<_>>())
        });
        let queue = small(dir.path(), durability).retry(quick(Some(4))).batch_len_max(64).open(sink).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (queue, stop) = (&queue, &stop);
            let sampler = scope.spawn(move || {
                let mut samples = 0_u32;
                // However late its first turn is, it has some.
                while !stop.load(Ordering::Relaxed) || samples <= 10 {
                    let metrics = queue.metrics();
                    assert!(metrics.accounted() <= metrics.came_in(), "{metrics:#?}");
                    assert!(!matches!(queue.health(), Health::Failed(_)));
                    samples += 1;
                }
            });
            let pushers: Vec<_> = (0..3)
                .map(|p| {
                    let producer = queue.producer();
                    scope.spawn(move || (0..1500).for_each(|n| _ = producer.push(Numbered::new(p, n, 40)).unwrap()))
                })
                .collect();
            pushers.into_iter().for_each(|thread| thread.join().unwrap());
            for _ in 0..3 {
                queue.parked().redeliver(|p| p.id.number() % 2 == 0).unwrap();
                queue.parked().discard(|p| p.id.number() % 3 == 0).unwrap();
            }
            drain(queue);
            stop.store(true, Ordering::Relaxed);
            sampler.join().unwrap();
        });
        assert_accounted(&queue.metrics());
        queue.shutdown(LONG).unwrap();
    }
}

/// A sink that fails while it is told to.
fn down_while(down: &Arc<AtomicBool>) -> impl Sink<Numbered> {
    let down = Arc::clone(down);
    blocking_fn(move |_: &Batch<Numbered>| if down.load(Ordering::Relaxed) { Err("down".into()) } else { Ok(()) })
}

#[test]
fn a_breaker_spares_attempts_shows_itself_and_refuses_pushes_only_when_it_is_told_to() {
    for on_breaker in [OnBreaker::Accept, OnBreaker::Reject] {
        let dir = tempfile::tempdir().unwrap();
        let down = Arc::new(AtomicBool::new(true));
        let breaker = Breaker { failures: 2, open_for: 300 * MS, ..Breaker::default() };
        let queue = small(dir.path(), Durability::Immediate)
            .retry(quick(Some(200)))
            .breaker(breaker)
            .on_breaker(on_breaker)
            .open(down_while(&down))
            .unwrap();
        // All of them are there before the first failure, however slowly they come.
        queue.pause();
        push(&queue, 0..10);
        queue.resume();
        wait_until("the breaker opens", || queue.metrics().breaker == BreakerState::Open);
        // Each time that it opens it stays open for 300 ms, so that a look soon after finds it so.
        if on_breaker == OnBreaker::Accept {
            push(&queue, 10..20);
        } else {
            let mut pinned = queue.producer().pin();
            let entry = Numbered::new(0, 10, 92);
            let refused =
                || matches!(queue.producer().push(entry.clone()), Err(PushError::Breaker(back)) if back == entry);
            wait_until("a push is refused", refused);
            let pinned = RefCell::new(&mut pinned);
            wait_until("a pinned one too", || {
                matches!(pinned.borrow_mut().push(entry.clone()), Err(PushError::Breaker(_)))
            });
            wait_until("and a run", || {
                let stopped = queue.producer().push_batch([entry.clone(), entry.clone()]);
                stopped.is_err_and(|stopped| matches!(stopped.error, PushError::Breaker(_)))
            });
        }
        wait_until("it is tried again", || queue.metrics().breaker_opened > 2);
        let concern = |concern: &Concern| matches!(concern, Concern::Breaker(_));
        assert!(queue.health().reasons().iter().any(concern), "{:?}", queue.health());
        down.store(false, Ordering::Relaxed);
        wait_until("it closes", || queue.metrics().breaker == BreakerState::Closed);
        push(&queue, 20..30);
        drain(&queue);
        let metrics = queue.metrics();
        assert_eq!((metrics.parked, metrics.discarded), (0, 0), "an outage parks nothing");
        assert!(!queue.health().reasons().iter().any(concern));
        assert_accounted(&queue.metrics());
        queue.shutdown(LONG).unwrap();
    }
}
