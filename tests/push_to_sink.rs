//! Every accepted entry reaches the sink, once, in its producer's order: for any number of producers,
//! in every durability, on every driver.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, block_on, drain, small};
use ringwal::{
    Batch, Builder, DecodeError, Durability, EncodeError, Entry, Io, LogError, Metrics, Outcome, Producer, PushError,
    Queue, Schema, Sink, Watch, WhenFull, blocking_fn,
};

const ALL: [Durability; 4] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill, Durability::Memory];

fn run(durability: Durability, io: Io, producers: u32, each: u32, pause: impl Fn(u32) + Sync) {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = small(dir.path(), durability).io(io).open(sink.clone()).unwrap();
    std::thread::scope(|scope| {
        for p in 0..producers {
            let (producer, pause) = (queue.producer(), &pause);
            scope.spawn(move || {
                for n in 0..each {
                    let len = if n % 97 == 0 { 2000 - 8 } else { (n * 7 + p) as usize % 180 };
                    producer.push(Numbered::new(p, n, len)).unwrap();
                    pause(n);
                }
            });
        }
    });
    drain(&queue);
    assert_accounted(&queue.metrics());
    let metrics = queue.metrics();
    assert_eq!((metrics.pushed, metrics.delivered), (u64::from(producers * each), u64::from(producers * each)));
    assert_exactly_once_in_order(&sink.0.all(), &vec![each; producers as usize]);
    let end = queue.shutdown(LONG).unwrap();
    assert_eq!((end.delivered, end.left_in_log, end.lost), (u64::from(producers * each), 0, 0));
}

#[test]
fn one_producer_in_a_burst() {
    for durability in ALL {
        for &io in common::DRIVERS {
            run(durability, io, 1, 20_000, |_| ());
        }
    }
}

#[test]
fn two_and_eight_producers_in_bursts() {
    for durability in ALL {
        run(durability, Io::Auto, 2, 10_000, |_| ());
        run(durability, Io::Threads, 8, 3000, |_| ());
    }
}

#[test]
fn sixty_four_producers() {
    for durability in ALL {
        run(durability, Io::Auto, 64, 500, |_| ());
    }
}

#[test]
fn a_trickle() {
    for durability in ALL {
        run(durability, Io::Auto, 2, 60, |_| std::thread::sleep(Duration::from_millis(3)));
    }
}

#[test]
fn two_thousand_short_lived_threads() {
    const THREADS: u32 = 2000;
    for durability in [Durability::Periodic(Duration::from_millis(2)), Durability::Memory] {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).pinned_rings(2).open(sink.clone()).unwrap();
        // Eight at a time; every third one pins, and there are rings for two of them only.
        let next = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let p = next.fetch_add(1, Ordering::Relaxed);
                        if p >= THREADS {
                            return;
                        }
                        let producer = queue.producer();
                        let short_lived = std::thread::spawn(move || {
                            if p.is_multiple_of(3) {
                                let mut pinned = producer.pin();
                                (0..3).for_each(|n| _ = pinned.push(Numbered::new(p, n, 20)).unwrap());
                            } else {
                                (0..3).for_each(|n| _ = producer.push(Numbered::new(p, n, 20)).unwrap());
                            }
                        });
                        short_lived.join().unwrap();
                    }
                });
            }
        });
        // All rings have come back: a pinned one can be had again.
        assert!(queue.producer().pin().has_own_ring());
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &vec![3; THREADS as usize]);
        queue.shutdown(LONG).unwrap();
    }
}

/// What a sink got.
type Got = Arc<Mutex<Vec<Vec<u8>>>>;

/// A sink that keeps the bytes.
fn collecting() -> (Got, impl Sink<Vec<u8>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&got);
    (got, blocking_fn(move |batch: &Batch<Vec<u8>>| Ok(to.lock().unwrap().extend(batch.values().cloned()))))
}

#[test]
fn every_length_from_nothing_to_the_limit() {
    const MAX: usize = 2000;
    for durability in ALL {
        for &io in common::DRIVERS {
            let dir = tempfile::tempdir().unwrap();
            let (got, sink) = collecting();
            let queue = small(dir.path(), durability).rings(1).io(io).open(sink).unwrap();
            let producer = queue.producer();
            let entry = |len: usize| -> Vec<u8> { (0..len).map(|i| (i ^ len) as u8).collect() };
            for len in (0..=MAX).chain([0, 0, 0, MAX, MAX, 0]) {
                producer.push(entry(len)).unwrap();
            }
            match producer.push(entry(MAX + 1)) {
                Err(PushError::TooLong { entry: back, len, max }) => {
                    assert_eq!((back, len, max), (entry(MAX + 1), MAX + 1, MAX));
                }
                other => panic!("{other:?}"),
            }
            let mut pinned = producer.pin();
            assert!(matches!(pinned.push(entry(MAX + 1)), Err(PushError::TooLong { .. })));
            assert!(matches!(pinned.claim(MAX + 1), Err(PushError::TooLong { .. })));
            drain(&queue);
            assert_accounted(&queue.metrics());
            let lens: Vec<usize> = got.lock().unwrap().iter().map(Vec::len).collect();
            assert_eq!(lens, (0..=MAX).chain([0, 0, 0, MAX, MAX, 0]).collect::<Vec<_>>());
            assert!(got.lock().unwrap().iter().all(|e| *e == entry(e.len())));
            let metrics = queue.metrics();
            assert_eq!((metrics.rejected_by.too_long, metrics.rejected), (3, 3), "never a question of space");
            queue.shutdown(LONG).unwrap();
        }
    }
}

#[test]
fn entries_of_a_quarter_of_a_megabyte() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let (got, sink) = collecting();
        let queue = Queue::builder(dir.path())
            .durability(durability)
            .segment_len(4 << 20)
            .log_bytes_max(16 << 20)
            .lock_wait(Duration::ZERO)
            .open(sink)
            .unwrap();
        let max = (256 << 10) - 8;
        let producer = queue.producer();
        for n in 0..64_usize {
            producer.push(vec![n as u8; max - n]).unwrap();
            producer.push(vec![n as u8; n]).unwrap();
        }
        drain(&queue);
        assert_accounted(&queue.metrics());
        let got = got.lock().unwrap();
        assert_eq!(got.len(), 128);
        for (n, pair) in got.chunks(2).enumerate() {
            assert_eq!(pair, [vec![n as u8; max - n], vec![n as u8; n]]);
        }
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn pinned_producers_keep_their_order_when_they_move_between_threads() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).pinned_rings(3).open(sink.clone()).unwrap();
        let mut pinned: Vec<_> = (0..5).map(|_| queue.producer().pin()).collect();
        assert_eq!(pinned.iter().map(|p| p.has_own_ring()).collect::<Vec<_>>(), [true, true, true, false, false]);
        // Those with a ring of their own change the thread each time.
        for round in 0..20 {
            pinned = std::thread::scope(|scope| {
                let moved: Vec<_> = pinned
                    .into_iter()
                    .take(3)
                    .zip(0..)
                    .map(|(mut pinned, p)| {
                        scope.spawn(move || {
                            for n in round * 50..(round + 1) * 50 {
                                pinned.push(Numbered::new(p, n, n as usize % 50)).unwrap();
                            }
                            pinned
                        })
                    })
                    .collect();
                moved.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
        }
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[1000; 3]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn batches_of_pushes() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).open(sink.clone()).unwrap();
        std::thread::scope(|scope| {
            for p in 0..3 {
                let producer = queue.producer();
                scope.spawn(move || {
                    let mut next = 0;
                    for len in [0, 1, 2, 7, 990, 0, 3000] {
                        let entries = (next..next + len).map(|n| Numbered::new(p, n, n as usize % 300));
                        assert_eq!(producer.push_batch(entries).unwrap(), len as usize);
                        next += len;
                    }
                });
            }
        });
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[4000; 3]);

        // One that is too long stops the batch: those before it are in, it comes back, the rest was not taken.
        let lens = [10, 20, 2001, 30];
        let mut taken = 0;
        let entries = lens.iter().inspect(|_| taken += 1).map(|len| Numbered::new(0, 4000, *len));
        let error = queue.producer().push_batch(entries).unwrap_err();
        assert_eq!((error.pushed, taken), (2, 3));
        assert_eq!(error.error.into_entry().padding.len(), 2001);
        queue.shutdown(LONG).unwrap();
        assert_eq!(sink.0.len(), 12_002);
    }
}

/// An entry with a key; its number counts per key.
#[derive(Clone, Debug)]
struct Keyed(u64, u32);

impl Entry for Keyed {
    const SCHEMA: Schema = Schema::new("test.keyed", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(12)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.0.to_le_bytes());
        out[8..].copy_from_slice(&self.1.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (key, number) = bytes.split_at_checked(8).ok_or_else(|| DecodeError::new("short"))?;
        let number = number.try_into().map_err(DecodeError::new)?;
        Ok(Self(u64::from_le_bytes(key.try_into().unwrap()), u32::from_le_bytes(number)))
    }

    fn key(&self) -> Option<u64> {
        Some(self.0)
    }
}

#[test]
fn entries_of_one_key_stay_in_order_across_threads() {
    const KEYS: usize = 50;
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&got);
        let sink = blocking_fn(move |batch: &Batch<Keyed>| Ok(to.lock().unwrap().extend(batch.values().cloned())));
        let queue = small(dir.path(), durability).rings(4).open(sink).unwrap();
        let counts: Vec<Mutex<u32>> = (0..KEYS).map(|_| Mutex::new(0)).collect();
        std::thread::scope(|scope| {
            for t in 0..8_usize {
                let (producer, counts) = (queue.producer(), &counts);
                scope.spawn(move || {
                    for n in 0..500 {
                        let key = (n * 7 + t * 13) % KEYS;
                        // One after another for one key, whichever thread it is; some by batch.
                        let mut count = counts[key].lock().unwrap();
                        if n % 5 == 0 {
                            let entries = (*count..*count + 3).map(|n| Keyed(key as u64, n));
                            assert_eq!(producer.push_batch(entries).unwrap(), 3);
                            *count += 3;
                        } else {
                            producer.push(Keyed(key as u64, *count)).unwrap();
                            *count += 1;
                        }
                    }
                });
            }
        });
        drain(&queue);
        assert_accounted(&queue.metrics());
        let mut next = [0; KEYS];
        for Keyed(key, number) in got.lock().unwrap().iter() {
            assert_eq!(*number, next[*key as usize], "key {key}");
            next[*key as usize] += 1;
        }
        assert!(counts.iter().zip(next).all(|(count, next)| *count.lock().unwrap() == next));
        queue.shutdown(LONG).unwrap();
    }
}

/// With the sink paused and few bytes of log, all that can be full becomes full.
fn tiny(dir: &std::path::Path, when_full: WhenFull) -> Builder {
    small(dir, Durability::Memory).rings(1).pinned_rings(1).memory_max(4 << 20).when_full(when_full)
}

/// Whether the flush core has found no memory, which only the sink gives back. Until then a ring may be full because the
/// flush core has no turn.
fn stands_still(metrics: &Metrics) -> bool {
    metrics.blocked_on_memory + metrics.blocked_on_log > 0
}

fn fill(queue: &Queue<Numbered>, producer: u32) -> u32 {
    let handle = queue.producer();
    let mut n = 0;
    let (mut refused_since, deadline) = (Instant::now(), Instant::now() + LONG);
    // Full for 300 ms on end: nothing moves any more.
    while refused_since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "it is never full: {:#?}", queue.metrics());
        let stands = stands_still(&queue.metrics());
        match handle.try_push(Numbered::new(producer, n, 1900)) {
            Ok(_) => {
                n += 1;
                refused_since = Instant::now();
            }
            Err(error) => {
                assert!(error.is_full());
                assert_eq!(error.into_entry(), Numbered::new(producer, n, 1900));
                if !stands {
                    refused_since = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    n
}

#[test]
fn a_full_queue_does_what_it_was_told_and_counts_it() {
    for when_full in [WhenFull::Reject, WhenFull::BlockFor(Duration::from_millis(30)), WhenFull::DropNewest] {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = tiny(dir.path(), when_full).open(sink.clone()).unwrap();
        queue.pause();
        let filled = fill(&queue, 0);
        let before = queue.metrics();
        let producer = queue.producer();
        let begun = Instant::now();
        let error = producer.push(Numbered::new(0, filled, 1900)).unwrap_err();
        let took = begun.elapsed();
        let after = queue.metrics();
        assert!(error.is_full());
        let is_drop = when_full == WhenFull::DropNewest;
        assert_eq!(matches!(error, PushError::Dropped(_)), is_drop, "{error:?}");
        assert_eq!(error.into_entry(), Numbered::new(0, filled, 1900), "the entry is back");
        assert_eq!(
            (after.dropped - before.dropped, after.rejected - before.rejected),
            if is_drop { (1, 0) } else { (0, 1) }
        );
        let waits = matches!(when_full, WhenFull::BlockFor(_));
        // Who does not wait may have had no turn for as long as that.
        assert!(!waits || took >= Duration::from_millis(30), "{when_full:?} took {took:?}");
        assert!(took < Duration::from_secs(10));

        let begun = Instant::now();
        let error = producer.push_timeout(Numbered::new(0, filled, 1900), Duration::from_millis(40)).unwrap_err();
        assert!(error.is_full() && begun.elapsed() >= Duration::from_millis(40));

        // A batch stops at the first entry that does not fit, and counts those before it.
        let error = producer.push_batch((filled..filled + 5).map(|n| Numbered::new(0, n, 1900))).unwrap_err();
        assert_eq!((error.pushed, error.error.into_entry().number), (0, filled));
        assert_eq!(
            error.rest.iter().map(|e| e.number).collect::<Vec<_>>(),
            (filled + 1..filled + 5).collect::<Vec<_>>()
        );

        queue.resume();
        drain(&queue);
        producer.push(Numbered::new(0, filled, 1900)).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[filled + 1]);
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_push_that_blocks_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = tiny(dir.path(), WhenFull::Block).open(sink.clone()).unwrap();
    queue.pause();
    let filled = fill(&queue, 0);
    std::thread::scope(|scope| {
        let queue = &queue;
        let blocked: Vec<_> = (1..5)
            .map(|p| {
                let producer = queue.producer();
                scope.spawn(move || match p {
                    1 => producer.push(Numbered::new(p, 0, 1900)).map(drop).unwrap(),
                    2 => block_on(producer.push_async(Numbered::new(p, 0, 1900))).map(drop).unwrap(),
                    3 => drop(producer.push_timeout(Numbered::new(p, 0, 1900), LONG).unwrap()),
                    _ => assert_eq!(producer.push_batch([Numbered::new(p, 0, 1900)]).unwrap(), 1),
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        assert!(blocked.iter().all(|thread| !thread.is_finished()), "they wait");
        queue.resume();
    });
    drain(&queue);
    assert_accounted(&queue.metrics());
    assert_exactly_once_in_order(&sink.0.all(), &[filled, 1, 1, 1, 1]);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn pushes_that_wait_for_space_are_refused_when_the_queue_closes() {
    let dir = tempfile::tempdir().unwrap();
    let queue = tiny(dir.path(), WhenFull::Block).open(Recorder::default()).unwrap();
    queue.pause();
    fill(&queue, 0);
    let (sync, tasks) = (queue.producer(), queue.producer());
    let mut pinned = queue.producer().pin();
    assert!(pinned.has_own_ring());
    while pinned.try_push(Numbered::new(9, 0, 1900)).is_ok() {}
    let waiting = [
        std::thread::spawn(move || sync.push(Numbered::new(1, 0, 1900)).map(drop)),
        std::thread::spawn(move || block_on(tasks.push_async(Numbered::new(1, 0, 1900))).map(drop)),
        std::thread::spawn(move || pinned.push(Numbered::new(1, 0, 1900)).map(drop)),
    ];
    std::thread::sleep(Duration::from_millis(50));
    let handle = queue.producer();
    let ended = queue.shutdown(Duration::from_millis(200)).unwrap();
    assert!(ended.lost > 0 && ended.left_in_log == 0, "{ended:?}");
    for thread in waiting {
        assert!(thread.join().unwrap().unwrap_err().is_closed());
    }
    assert!(handle.is_closed());
    assert!(handle.push(Numbered::new(1, 0, 0)).unwrap_err().is_closed());
    assert!(handle.try_push(Numbered::new(1, 0, 0)).unwrap_err().is_closed());
    assert!(handle.push_timeout(Numbered::new(1, 0, 0), LONG).unwrap_err().is_closed());
    assert!(block_on(handle.push_async(Numbered::new(1, 0, 0))).unwrap_err().is_closed());
    assert!(handle.push_batch([Numbered::new(1, 0, 0)]).unwrap_err().error.is_closed());
    assert!(handle.pin().push(Numbered::new(1, 0, 0)).unwrap_err().is_closed());
}

#[test]
fn claims_are_committed_or_given_up() {
    for durability in ALL {
        let dir = tempfile::tempdir().unwrap();
        let (got, sink) = collecting();
        let queue = small(dir.path(), durability).open(sink).unwrap();
        let mut pinned = queue.producer().pin();
        let mut expected = Vec::new();
        for n in 0..2000_usize {
            let mut claim = loop {
                match pinned.claim(n % 300) {
                    Ok(claim) => break claim,
                    Err(PushError::Full(())) => std::thread::yield_now(),
                    Err(other) => panic!("{other:?}"),
                }
            };
            assert!(claim.bytes_mut().iter().all(|byte| *byte == 0), "nothing of an older record shows");
            claim.bytes_mut().fill(n as u8);
            if n % 3 == 0 {
                drop(claim);
            } else {
                claim.commit();
                expected.push(vec![n as u8; n % 300]);
            }
        }
        // The last thing in the ring is a claim that was given up: there is nothing to wait for.
        loop {
            match pinned.claim(100) {
                Ok(claim) => break drop(claim),
                Err(PushError::Full(())) => std::thread::yield_now(),
                Err(other) => panic!("{other:?}"),
            }
        }
        drain(&queue);
        match queue.flush() {
            Err(LogError::NotDurable) if durability == Durability::Memory => {}
            other => other.unwrap(),
        }
        assert_accounted(&queue.metrics());
        assert_eq!(queue.metrics().pushed, expected.len() as u64);
        assert!(*got.lock().unwrap() == expected);
        queue.shutdown(LONG).unwrap();
    }
}

/// Encodes as text of unknown length; refuses odd numbers, and panics over 13.
#[derive(Debug)]
struct Fussy(u32);

impl Entry for Fussy {
    const SCHEMA: Schema = Schema::new("test.fussy", 1);

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(self.0.to_string().as_bytes());
        assert!(self.0 != 13, "thirteen");
        if self.0 % 2 == 1 { Err(EncodeError::new("odd")) } else { Ok(()) }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        std::str::from_utf8(bytes).map_err(DecodeError::new)?.parse().map(Self).map_err(DecodeError::new)
    }
}

#[test]
fn an_entry_that_cannot_be_encoded_comes_back_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let got = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&got);
    let sink = blocking_fn(move |batch: &Batch<Fussy>| Ok(to.lock().unwrap().extend(batch.values().map(|f| f.0))));
    let queue = small(dir.path(), Durability::Immediate).rings(1).open(sink).unwrap();
    let producer = queue.producer();
    let mut pinned = producer.pin();
    for n in 0..12 {
        let result = if n % 4 < 2 { producer.push(Fussy(n)) } else { pinned.push(Fussy(n)) };
        match result {
            Ok(_) => assert_eq!(n % 2, 0),
            Err(PushError::Encode { entry, error }) => {
                assert_eq!((entry.0, n % 2), (n, 1));
                assert!(error.to_string().contains("odd"), "{error}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    for run in 0..2 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if run == 0 { producer.push(Fussy(13)).map(drop) } else { pinned.push(Fussy(13)).map(drop) }
        }));
        assert!(panicked.is_err());
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(producer.push_batch([14, 16, 13, 18].map(Fussy)));
    }));
    assert!(panicked.is_err());
    let error = producer.push_batch([20, 22, 23, 24].map(Fussy)).unwrap_err();
    assert_eq!((error.pushed, error.error.into_entry().0), (2, 23));
    drain(&queue);
    assert_accounted(&queue.metrics());
    let mut got = got.lock().unwrap().clone();
    // The batch with the panic lost what it had not claimed by then: its caller knows nothing of it.
    got.retain(|n| !(14..20).contains(n));
    got.sort_unstable();
    assert_eq!(got, [0, 2, 4, 6, 8, 10, 20, 22]);
    queue.shutdown(LONG).unwrap();
}

/// Forwards what it gets, once, into its own queue; tries every way to wait for itself.
struct Echo {
    producer: Arc<OnceLock<Producer<Vec<u8>>>>,
    seen: Arc<Mutex<Vec<u8>>>,
    waits: Arc<Mutex<Vec<String>>>,
}

impl Sink<Vec<u8>> for Echo {
    async fn deliver(&self, batch: Batch<Vec<u8>>) -> Outcome {
        let producer = self.producer.wait();
        for value in batch.values() {
            self.seen.lock().unwrap().push(value[0]);
            if value[0] < 100 {
                let durable = producer.push_durable(vec![value[0] + 100; 8]).unwrap();
                if let Err(error) = durable.wait_timeout(LONG) {
                    self.waits.lock().unwrap().push(format!("{error:?}"));
                }
            }
        }
        Outcome::ack()
    }
}

#[test]
fn a_sink_may_push_into_its_own_queue_and_never_waits_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (cell, seen, waits) = (Arc::new(OnceLock::new()), Arc::default(), Arc::default());
    let echo = Echo { producer: Arc::clone(&cell), seen: Arc::clone(&seen), waits: Arc::clone(&waits) };
    let queue = small(dir.path(), Durability::Periodic(Duration::from_secs(60))).open(echo).unwrap();
    cell.set(queue.producer()).unwrap();
    (0..50).for_each(|n| _ = queue.producer().push(vec![n; 8]).unwrap());
    queue.flush().unwrap();
    let deadline = Instant::now() + LONG;
    while seen.lock().unwrap().len() < 100 {
        assert!(Instant::now() < deadline, "{:?}", seen.lock().unwrap());
        queue.flush().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut numbers = seen.lock().unwrap().clone();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).chain(100..150).collect::<Vec<u8>>());
    let waits = waits.lock().unwrap().clone();
    assert!(!waits.is_empty() && waits.iter().all(|wait| wait == "WouldDeadlock"), "{waits:?}");
    drain(&queue);
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
}

/// Pushes into its own queue until that is full, in every way.
struct Overflow {
    own: Arc<OnceLock<(Producer<Vec<u8>>, Watch)>>,
    full: Arc<AtomicU32>,
}

impl Sink<Vec<u8>> for Overflow {
    async fn deliver(&self, _: Batch<Vec<u8>>) -> Outcome {
        if self.full.load(Ordering::Relaxed) == 0 {
            let (producer, watch) = self.own.wait();
            // The sink stands still here: memory ends, and with it the ring.
            let begun = Instant::now();
            loop {
                let stands = stands_still(&watch.metrics());
                if producer.push(vec![1; 1900]).is_err() && stands {
                    break;
                }
                assert!(begun.elapsed() < LONG / 2, "it is never full");
            }
            let begun = Instant::now();
            assert!(producer.push(vec![1; 1900]).unwrap_err().is_full());
            assert!(producer.push_timeout(vec![1; 1900], LONG).unwrap_err().is_full());
            assert!(producer.push_async(vec![1; 1900]).await.unwrap_err().is_full());
            assert!(begun.elapsed() < LONG / 2);
            self.full.store(1, Ordering::Relaxed);
        }
        Outcome::ack()
    }
}

#[test]
fn a_sink_that_fills_its_own_queue_is_refused_instead_of_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (cell, full) = (Arc::new(OnceLock::new()), Arc::new(AtomicU32::new(0)));
    let sink = Overflow { own: Arc::clone(&cell), full: Arc::clone(&full) };
    let queue = tiny(dir.path(), WhenFull::Block).open(sink).unwrap();
    assert!(cell.set((queue.producer(), queue.watch())).is_ok());
    queue.producer().push(vec![0; 8]).unwrap();
    drain(&queue);
    assert_eq!(full.load(Ordering::Relaxed), 1, "the sink panicked: {:?}", queue.metrics());
    // What the sink pushed came after that drain had begun.
    drain(&queue);
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
}

#[test]
fn durable_is_reached_by_threads_and_by_tasks() {
    for durability in ALL {
        // Nothing of a period may be waited for: who waits makes the log hurry.
        let durability = match durability {
            Durability::Periodic(_) => Durability::Periodic(Duration::from_secs(60)),
            other => other,
        };
        for paused in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let queue = small(dir.path(), durability).open(Recorder::default()).unwrap();
            if paused {
                queue.pause();
            }
            let producer = queue.producer();
            for n in 0..40 {
                let durable = producer.push_durable(Numbered::new(0, n, 100)).unwrap();
                let result = match n % 4 {
                    0 => durable.wait(),
                    1 => block_on(durable),
                    2 => durable.wait_timeout(LONG),
                    _ => queue.flush(),
                };
                let expected = if durability == Durability::Memory { Err(LogError::NotDurable) } else { Ok(()) };
                assert_eq!(result, expected, "{durability:?}, entry {n}");
                if durability != Durability::Memory {
                    assert!(block_on(queue.flush_async()).is_ok());
                }
            }
            if durability != Durability::Memory {
                assert_eq!(queue.metrics().durable_lsn, queue.metrics().last_lsn);
            }
            queue.resume();
            drain(&queue);
            // Delivered, and then asked for: under `Spill` it need never have been on disk.
            let durable = producer.push_durable(Numbered::new(0, 40, 100)).unwrap();
            drain(&queue);
            assert_eq!(queue.flush().is_ok(), durability != Durability::Memory);
            assert_eq!(durable.wait().is_ok(), durability != Durability::Memory);
            assert_accounted(&queue.metrics());
            queue.shutdown(LONG).unwrap();
        }
    }
}
