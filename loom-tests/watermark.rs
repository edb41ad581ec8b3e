//! Waiting for a number: no wake-up is lost, whoever is first.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use loom::thread;
use ringwal::watermark::{Reached, WaitError, Watermark};

use crate::common::{Bell, model};

fn block_on(mut future: Reached<Arc<Watermark>>) -> Result<u64, WaitError> {
    let bell = Bell::new();
    let waker = bell.waker();
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => _ = bell.sleep(),
        }
    }
}

#[test]
fn a_thread_sees_the_number_it_waits_for() {
    model(3, || {
        let watermark = Arc::new(Watermark::new(0));
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || assert_eq!(watermark.wait(2, None), Ok(2))
        });
        watermark.publish(1);
        watermark.publish(2);
        waiter.join().unwrap();
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

#[test]
fn a_task_sees_the_number_it_waits_for() {
    model(3, || {
        let watermark = Arc::new(Watermark::new(0));
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || assert_eq!(block_on(Watermark::reached(watermark, 2)), Ok(2))
        });
        watermark.publish(1);
        watermark.publish(2);
        waiter.join().unwrap();
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

#[test]
fn a_thread_and_a_task_wait_for_two_numbers() {
    model(2, || {
        let watermark = Arc::new(Watermark::new(0));
        let thread = thread::spawn({
            let watermark = watermark.clone();
            move || assert!(watermark.wait(1, None).unwrap() >= 1)
        });
        let task = thread::spawn({
            let watermark = watermark.clone();
            move || assert_eq!(block_on(Watermark::reached(watermark, 2)), Ok(2))
        });
        watermark.publish(1);
        watermark.publish(2);
        thread.join().unwrap();
        task.join().unwrap();
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

/// Both sleep on one word: who is woken too early sleeps on, and misses nothing.
#[test]
fn two_threads_of_one_round_wait_for_two_numbers() {
    model(2, || {
        let watermark = Arc::new(Watermark::new(0).in_rounds());
        let threads = [1, 2].map(|target| {
            let watermark = watermark.clone();
            thread::spawn(move || assert!(watermark.wait(target, None).unwrap() >= target))
        });
        watermark.publish(1);
        watermark.publish(2);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

/// They go into one group or into two, and a failure comes after what was reached.
#[test]
fn two_threads_of_two_rounds_hear_of_a_number_and_of_a_failure() {
    model(2, || {
        let watermark = Arc::new(Watermark::new(0).in_rounds());
        let threads = [(1, Ok(1)), (2, Err(WaitError::Failed))].map(|(target, end)| {
            let watermark = watermark.clone();
            thread::spawn(move || assert_eq!(watermark.wait(target, None), end))
        });
        watermark.next_round();
        watermark.publish(1);
        watermark.fail();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

#[test]
fn a_failure_ends_every_wait_now_and_later() {
    model(2, || {
        let watermark = Arc::new(Watermark::new(0));
        let thread = thread::spawn({
            let watermark = watermark.clone();
            move || assert_eq!(watermark.wait(2, None), Err(WaitError::Failed))
        });
        let task = thread::spawn({
            let watermark = watermark.clone();
            move || assert_eq!(block_on(Watermark::reached(watermark, 2)), Err(WaitError::Failed))
        });
        watermark.publish(1);
        watermark.fail();
        thread.join().unwrap();
        task.join().unwrap();
        assert_eq!(watermark.wait(1, None), Ok(1), "what was reached stays reached");
        assert_eq!(watermark.wait(2, None), Err(WaitError::Failed));
    });
}

#[test]
fn a_future_that_is_dropped_leaves_nothing_behind() {
    model(3, || {
        let watermark = Arc::new(Watermark::new(0));
        let task = thread::spawn({
            let watermark = watermark.clone();
            move || {
                let bell = Bell::new();
                let mut future = Watermark::reached(watermark, 2);
                let _ = Pin::new(&mut future).poll(&mut Context::from_waker(&bell.waker()));
            }
        });
        watermark.publish(1);
        task.join().unwrap();
        assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
    });
}

/// What was done before the publish is seen after the wait.
#[test]
fn a_number_brings_what_was_done_before_it() {
    model(3, || {
        let watermark = Arc::new(Watermark::new(0));
        let done = Arc::new(loom::cell::UnsafeCell::new(0));
        let waiter = thread::spawn({
            let (watermark, done) = (watermark.clone(), done.clone());
            move || {
                watermark.wait(1, None).unwrap();
                // SAFETY: loom watches it.
                done.with(|done| assert_eq!(unsafe { *done }, 7));
            }
        });
        // SAFETY: loom watches it.
        done.with_mut(|done| unsafe { *done = 7 });
        watermark.publish(1);
        waiter.join().unwrap();
    });
}
