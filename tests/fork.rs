//! A forked child has the handles, but neither the threads nor the memory behind them: they refuse.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Judge, LONG, Numbered, Recorder, Seen, drain, small};
use ringwal::{Concern, Durability, Durable, Health, Io, LogError, Lsn, PushError, ShutdownError, Verdict};

/// Runs `in_child` in a forked child; true if it answered true there.
fn forked(in_child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls only what is under test, and ends without running destructors.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // A handle that waits for ever ends the child with a signal, and fails the test.
        // SAFETY: a plain system call.
        unsafe { libc::alarm(60) };
        let passed = in_child();
        // SAFETY: ends the child; nothing of it is used any more.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above; `status` is a valid place.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_forked_child_is_refused_and_the_parent_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).open(sink.clone()).unwrap();
    let producer = queue.producer();
    let mut pinned = producer.pin();
    producer.push(Numbered::new(0, 0, 5)).unwrap();
    let receipt = producer.push(Numbered::new(0, 1, 5)).unwrap();
    assert!(forked(|| {
        let refused = |result| matches!(result, Err(PushError::Closed(_)));
        let waited = producer.durable(receipt).wait_timeout(Duration::from_secs(1));
        refused(producer.push(Numbered::new(9, 9, 0)))
            && refused(pinned.push(Numbered::new(9, 9, 0)))
            && matches!(waited, Ok(()) | Err(LogError::Forked))
            && queue.flush() != Err(LogError::TimedOut)
            && queue.drain(Duration::from_secs(1)) == Err(LogError::Forked)
    }));
    for n in 2..100 {
        producer.push(Numbered::new(0, n, 5)).unwrap();
    }
    queue.drain(LONG).unwrap();
    common::assert_exactly_once_in_order(&sink.0.all(), &[100]);
    queue.shutdown(LONG).unwrap();
}

/// What a future answers at once.
fn polled<F: Future>(future: F) -> Option<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// The first of a row of checks that does not hold is named: the child cannot panic.
fn all(checks: &[(&str, bool)]) -> bool {
    for (name, _) in checks.iter().filter(|(_, holds)| !holds) {
        eprintln!("in the child: {name}");
    }
    checks.iter().all(|(_, holds)| *holds)
}

/// `health()`, `metrics()` and awaiting a `Durable` could wait for a lock, or for a thread, of the parent's.
#[test]
fn every_handle_refuses_in_a_child_that_was_forked_under_load_and_the_parent_goes_on() {
    for (durability, io) in [
        (Durability::Immediate, Io::Uring),
        (Durability::Periodic(Duration::from_millis(2)), Io::Threads),
        (Durability::Spill, Io::Uring),
        #[cfg(feature = "tokio-uring")]
        (Durability::Immediate, Io::TokioUring),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let seen = std::sync::Arc::new(Seen::default());
        let verdict = |entry: &Numbered, _| match entry.producer {
            8 => Verdict::Park("for the park".into()),
            _ => Verdict::Ack,
        };
        let sink = Judge { seen: std::sync::Arc::clone(&seen), verdict };
        let queue = small(dir.path(), durability).rings(2).io(io).open(sink).unwrap();
        let producer = queue.producer();
        producer.push(Numbered::new(8, 0, 0)).unwrap();
        drain(&queue);
        let (stop, counts) = (AtomicBool::new(false), [const { AtomicU32::new(0) }; 3]);
        let mut all_passed = true;
        std::thread::scope(|scope| {
            for p in 0..3 {
                let (producer, stop, count) = (queue.producer(), &stop, &counts[p as usize]);
                scope.spawn(move || {
                    let mut pinned = (p == 2).then(|| producer.pin());
                    while !stop.load(Ordering::Relaxed) {
                        let n = count.load(Ordering::Relaxed);
                        let entry = Numbered::new(p, n, 100);
                        let receipt = match &mut pinned {
                            Some(pinned) => pinned.push(entry).unwrap(),
                            None => producer.push(entry).unwrap(),
                        };
                        count.store(n + 1, Ordering::Relaxed);
                        if n % 100 == 0 {
                            producer.durable(receipt).wait().unwrap();
                        }
                    }
                });
            }
            // Looks at it all the time, so that the locks behind it are held when a child is forked.
            let (queue, stopped) = (&queue, &stop);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let _ = (queue.health(), queue.metrics());
                }
            });
            for _ in 0..20 {
                if !all_passed {
                    break;
                }
                let mut pinned = queue.producer().pin();
                // Not durable by far: a wait for it would be a long one.
                let receipt = pinned.push(Numbered::new(3, 0, 0)).unwrap();
                let far = || producer.push(Numbered::new(3, 0, 1500)).unwrap();
                let (waiting, awaited): (Durable, Durable) = (producer.durable(far()), producer.durable(far()));
                let mut half_awaited = std::pin::pin!(producer.durable(far()));
                let _ = half_awaited.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                let delivered = producer.push_delivered(Numbered::new(3, 0, 0)).unwrap();
                let mut half_delivered = std::pin::pin!(producer.push_delivered(Numbered::new(3, 0, 0)).unwrap());
                let _ = half_delivered.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                let passed = forked(|| {
                    let refused = |result| matches!(result, Err(PushError::Closed(_)));
                    let entry = || Numbered::new(9, 9, 0);
                    let forked = Some(LogError::Forked);
                    let is_home = |error: Option<LogError>| error.is_none() || error == Some(LogError::Forked);
                    let mut fresh = producer.pin();
                    let closed = Health::Failed(vec![Concern::Closed]);
                    let passed = all(&[
                        ("push", refused(producer.push(entry()))),
                        ("try_push", refused(producer.try_push(entry()))),
                        ("push_timeout", refused(producer.push_timeout(entry(), LONG))),
                        ("push_async", polled(producer.push_async(entry())).is_some_and(refused)),
                        ("push_batch", producer.push_batch([entry(), entry()]).is_err_and(|e| e.error.is_closed())),
                        ("pinned push", refused(pinned.push(entry()))),
                        ("a new pin", !fresh.has_own_ring() && refused(fresh.push(entry()))),
                        ("wait", is_home(waiting.wait().err())),
                        ("wait for what may be durable", is_home(producer.durable(receipt).wait().err())),
                        ("await", polled(awaited).is_some_and(|answer| is_home(answer.err()))),
                        ("flush", is_home(queue.flush().err())),
                        ("flush_async", polled(queue.flush_async()).is_some_and(|answer| is_home(answer.err()))),
                        ("drain", queue.drain(LONG).err() == forked),
                        ("drain_async", polled(queue.drain_async(LONG)) == Some(Err(LogError::Forked))),
                        ("wait for the sink", delivered.wait().err() == forked),
                        ("await the sink", polled(half_delivered.as_mut()) == Some(Err(LogError::Forked))),
                        ("ask for the sink", polled(producer.delivered(receipt)) == Some(Err(LogError::Forked))),
                        ("parked list", queue.parked().list(Lsn::ZERO, 9).err() == forked),
                        ("parked discard", queue.parked().discard(|_| true).err() == forked),
                        ("parked redeliver", queue.parked().redeliver(|_| true).err() == forked),
                        ("is_closed", queue.is_closed() && producer.is_closed()),
                        ("health", queue.health() == closed),
                        ("metrics", queue.metrics().last_lsn > Lsn::ZERO),
                    ]);
                    queue.pause();
                    queue.resume();
                    drop((producer.clone(), fresh));
                    passed
                });
                all_passed &= passed;
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(all_passed, "{durability:?} {io:?}: see what the children said");
        // A child that drops the queue, or closes it, closes nothing of the parent's.
        let queue = std::mem::ManuallyDrop::new(queue);
        assert!(forked(|| {
            // SAFETY: a copy in a process of its own, which ends without using the other one.
            let copy = unsafe { std::ptr::read(&raw const *queue) };
            copy.shutdown(LONG) == Err(ShutdownError::Storage { cause: LogError::Forked, lost: 0 })
        }));
        assert!(forked(|| {
            // SAFETY: as above.
            let copy = unsafe { std::ptr::read(&raw const *queue) };
            polled(copy.shutdown_async(LONG)) == Some(Err(ShutdownError::Storage { cause: LogError::Forked, lost: 0 }))
        }));
        assert!(forked(|| {
            // SAFETY: as above.
            drop(unsafe { std::ptr::read(&raw const *queue) });
            true
        }));
        let queue = std::mem::ManuallyDrop::into_inner(queue);
        drain(&queue);
        common::assert_accounted(&queue.metrics());
        let counts: Vec<u32> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let entries: Vec<_> = seen.all().into_iter().filter(|(_, entry, _)| entry.producer < 3).collect();
        common::assert_exactly_once_in_order(&entries, &counts);
        assert_eq!(queue.metrics().parked, 1, "a child has emptied the park");
        queue.shutdown(LONG).unwrap();
    }
}

/// What a child of a process with threads may do besides living is little: locks may be held for ever by threads
/// that are not there, of the standard library too. So it does not open a queue here.
#[test]
fn a_child_that_only_lives_does_not_keep_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    for &io in common::DRIVERS {
        // A child that another test has forked may have a descriptor of an opening before, and does not live long.
        let open = || small(dir.path(), Durability::Immediate).io(io).lock_wait(LONG).open(Recorder::default());
        let queue = open().unwrap();
        queue.producer().push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
        let (mut go_on, mut told) = ([0; 2], [0; 2]);
        // SAFETY: a place for two descriptors.
        assert_eq!(unsafe { libc::pipe(go_on.as_mut_ptr()) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pipe(told.as_mut_ptr()) }, 0);
        let put = |fd: i32| {
            // SAFETY: one byte, into one of the pipes.
            unsafe { libc::write(fd, [0_u8].as_ptr().cast(), 1) }
        };
        let get = |fd: i32| {
            // SAFETY: a place of one byte, for one of the pipes.
            unsafe { libc::read(fd, [0_u8].as_mut_ptr().cast(), 1) }
        };
        let alive = std::thread::scope(|scope| {
            let parent = scope.spawn(|| {
                get(told[0]);
                // The child lives, and has had its copies of all descriptors.
                queue.shutdown(LONG).unwrap();
                let again = open();
                put(go_on[1]);
                again.expect("a child that only lives keeps the lock").shutdown(LONG).unwrap();
            });
            let alive = forked(|| put(told[1]) == 1 && get(go_on[0]) == 1);
            parent.join().unwrap();
            alive
        });
        assert!(alive, "{io:?}");
        for fd in go_on.into_iter().chain(told) {
            // SAFETY: the pipes' own descriptors, used by nobody any more.
            unsafe { libc::close(fd) };
        }
    }
}
