//! Handles in every unusual order: dropped before their time, used after it, never used at all. Each is answered
//! within a bound, and entries are as safe as without them.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, assert_accounted, block_on, drain, small};
use ringwal::{Durability, Entry, LogError, PushError, blocking_fn};

const LOGGED: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];

/// Counts how often it is woken and how often it is there.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_durable_that_is_dropped_before_its_commit_leaves_nothing_behind_and_its_entry_arrives() {
    for durability in LOGGED {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).rings(1).open(sink.clone()).unwrap();
        let waker = Arc::new(Counting::default());
        for n in 0..300 {
            let mut durable = Box::pin(queue.producer().push_durable(Numbered::new(0, n, 100)).unwrap());
            // Dropped at once, after one look, or after two with another waker: the runtime it lived on is gone.
            if n % 3 > 0 {
                let first = Waker::from(Arc::clone(&waker));
                let _ = durable.as_mut().poll(&mut Context::from_waker(&first));
            }
            if n % 3 > 1 {
                let _ = durable.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
        }
        // The last one in the row is awaited, by a runtime of another kind.
        block_on(queue.producer().push_durable(Numbered::new(0, 300, 100)).unwrap()).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        common::assert_exactly_once_in_order(&sink.0.all(), &[301]);
        queue.shutdown(LONG).unwrap();
        assert_eq!(Arc::strong_count(&waker), 1, "{durability:?}: a dropped wait has kept its waker");
    }
}

/// A future that keeps its own waker alive as runtimes do, and is dropped with everything else in it.
#[test]
fn a_task_that_waits_for_space_is_dropped_and_pushes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).rings(1).log_bytes_max(2 << 20).open(sink.clone()).unwrap();
    queue.pause();
    let producer = queue.producer();
    let (mut last, mut n, mut refusals) = (None, 0, 0);
    while refusals < 20 {
        match producer.push_timeout(Numbered::new(0, n, 1900), Duration::from_millis(20)) {
            Ok(receipt) => (last, n, refusals) = (Some(receipt), n + 1, 0),
            Err(error) => {
                assert!(error.is_full(), "{error}");
                refusals += 1;
            }
        }
    }
    let waker = Arc::new(Counting::default());
    let task = Waker::from(Arc::clone(&waker));
    // A ring may have been full for so long only because the flush core had no turn: what finds a place all the same is
    // an entry like the others.
    let (deadline, mut waited) = (Instant::now() + LONG, 0);
    let durable = loop {
        assert!(Instant::now() < deadline, "it is never full: {:#?}", queue.metrics());
        let waiting = pin!(producer.push_async(Numbered::new(0, n, 1900)));
        match waiting.poll(&mut Context::from_waker(&task)) {
            Poll::Pending => waited += 1,
            Poll::Ready(pushed) => (last, n, waited) = (Some(pushed.unwrap()), n + 1, 0),
        }
        if waited == 10 {
            // The last one found no place, so that it does not become durable meanwhile.
            let mut durable = Box::pin(producer.durable(last.unwrap()));
            if durable.as_mut().poll(&mut Context::from_waker(&task)).is_pending() {
                break durable;
            }
            waited = 0;
        }
    };
    drop((durable, task));
    // Not left to the end of the wait, which never comes here. Who was just being woken lets go of it in a moment.
    while Arc::strong_count(&waker) > 1 {
        assert!(Instant::now() < deadline, "a dropped wait has kept its waker");
        std::thread::sleep(Duration::from_millis(1));
    }
    queue.resume();
    drain(&queue);
    assert_eq!(sink.0.len(), n as usize, "a dropped push has pushed");
    block_on(producer.push_async(Numbered::new(0, n, 1900))).unwrap();
    drain(&queue);
    common::assert_exactly_once_in_order(&sink.0.all(), &[n + 1]);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn what_outlives_the_queue_is_refused_and_told_the_truth() {
    for durability in LOGGED {
        let dir = tempfile::tempdir().unwrap();
        let queue = small(dir.path(), durability).open(Recorder::default()).unwrap();
        let (producer, receipt) = (queue.producer(), queue.producer().push(Numbered::new(0, 0, 10)).unwrap());
        let mut pinned = producer.pin();
        let (waited, awaited) = (producer.durable(receipt), producer.durable(receipt));
        queue.shutdown(LONG).unwrap();
        let closed = |result| matches!(result, Err(PushError::Closed(entry)) if entry == Numbered::new(0, 1, 10));
        let entry = || Numbered::new(0, 1, 10);
        assert!(producer.is_closed());
        assert!(closed(producer.push(entry())) && closed(producer.try_push(entry())) && closed(pinned.push(entry())));
        assert!(closed(producer.push_timeout(entry(), LONG)) && closed(block_on(producer.push_async(entry()))));
        assert!(closed(producer.pin().push(entry())), "a ring of a queue that is closed");
        let stopped = producer.push_batch([entry(), entry()]).unwrap_err();
        assert!(stopped.pushed == 0 && stopped.error.is_closed() && stopped.rest.len() == 1, "{stopped}");
        // Under `Spill` it was delivered from memory, and is nowhere: then there is nothing that could be durable.
        let told = [waited.wait(), block_on(awaited), producer.durable(receipt).wait_timeout(LONG)];
        let expected = if durability == Durability::Spill { &[Ok(()), Err(LogError::Closed)][..] } else { &[Ok(())] };
        assert!(told.iter().all(|answer| expected.contains(answer)), "{durability:?}: {told:?}");
        // The directory is free although they live.
        small(dir.path(), durability).open(Recorder::default()).unwrap().shutdown(LONG).unwrap();
        drop((producer, pinned));
    }
}

/// Ends in the middle of its bytes, as often as it is told.
#[derive(Clone, PartialEq, Debug)]
struct Brittle(u8);

impl Entry for Brittle {
    const SCHEMA: ringwal::Schema = ringwal::Schema::new("test.brittle", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(100)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..50].fill(self.0);
        assert!(self.0 % 5 != 3, "an encoding that panics, on purpose");
        out[50..].fill(self.0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
        match bytes.iter().all(|byte| *byte == bytes[0]) && bytes.len() == 100 {
            true => Ok(Self(bytes[0])),
            false => Err(ringwal::DecodeError::new("half an entry")),
        }
    }
}

#[test]
fn a_panic_while_bytes_are_claimed_gives_the_claim_up_and_holds_nobody_back() {
    for durability in LOGGED {
        let dir = tempfile::tempdir().unwrap();
        let got = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&got);
        let sink = blocking_fn(move |batch: &ringwal::Batch<Brittle>| {
            seen.lock().unwrap().extend(batch.iter().map(|delivery| delivery.value.0));
            Ok(())
        });
        let queue = small(dir.path(), durability).rings(1).open(sink).unwrap();
        let producer = queue.producer();
        let mut pinned = producer.pin();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let mut panics = 0;
        for n in 0..200_u8 {
            let push =
                || if n % 2 == 0 { producer.push(Brittle(n)).map(drop) } else { pinned.push(Brittle(n)).map(drop) };
            panics += usize::from(std::panic::catch_unwind(std::panic::AssertUnwindSafe(push)).is_err());
        }
        std::panic::set_hook(hook);
        assert_eq!(panics, 40);
        let last = producer.push_durable(Brittle(255)).unwrap();
        last.wait_timeout(LONG).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_eq!(queue.metrics().parked, 0, "half an entry has come through");
        queue.shutdown(LONG).unwrap();
        let mut got = got.lock().unwrap().clone();
        got.sort_unstable();
        let expected: Vec<u8> = (0..200).filter(|n| n % 5 != 3).chain([255]).collect();
        assert_eq!(got, expected, "{durability:?}");
    }
}

/// A claim that was leaked is never published: what lies behind it in its ring waits for it, and only that.
#[test]
fn a_leaked_claim_is_passed_at_the_end_and_holds_back_only_its_own_ring() {
    for durability in LOGGED {
        let dir = tempfile::tempdir().unwrap();
        let got = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&got);
        let open = |seen: Arc<AtomicUsize>| {
            let sink = blocking_fn(move |batch: &ringwal::Batch<Vec<u8>>| {
                seen.fetch_add(batch.len(), Ordering::Relaxed);
                Ok(())
            });
            small(dir.path(), durability).rings(1).open(sink).unwrap()
        };
        let queue = open(seen);
        let producer = queue.producer();
        let mut pinned = producer.pin();
        assert!(pinned.has_own_ring());
        pinned.push(vec![1; 10]).unwrap();
        std::mem::forget(pinned.claim(100).unwrap());
        let behind = pinned.push(vec![2; 10]).unwrap();
        // Others go on as if it were not there.
        for _ in 0..100 {
            producer.push_durable(vec![3; 10]).unwrap().wait_timeout(LONG).unwrap();
        }
        let behind = producer.durable(behind);
        assert_eq!(behind.wait_timeout(Duration::from_millis(50)), Err(LogError::TimedOut));
        assert_eq!(queue.drain(Duration::from_millis(50)), Err(LogError::TimedOut));
        // A sink that is still at work when the time is over would make the shutdown late.
        let deadline = Instant::now() + LONG;
        while got.load(Ordering::Relaxed) < 101 || queue.metrics().in_flight > 0 {
            assert!(Instant::now() < deadline, "{durability:?}: {:#?}", queue.metrics());
            std::thread::sleep(Duration::from_millis(1));
        }
        let end = queue.shutdown(Duration::from_millis(300)).unwrap();
        assert_eq!(end.lost, 0, "what was pushed behind it is not lost: {end:?}");
        assert_eq!(behind.wait_timeout(LONG), Ok(()), "{durability:?}: it is in the log now");
        let queue = open(Arc::clone(&got));
        drain(&queue);
        queue.shutdown(LONG).unwrap();
        assert_eq!(got.load(Ordering::Relaxed), 102, "{durability:?}");
    }
}
