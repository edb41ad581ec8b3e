//! Who is woken, by how many calls, and what is left in the list.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;
use std::thread;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn poll<W: Deref<Target = Watermark> + Unpin>(
    future: &mut Reached<W>,
    count: &Arc<Count>,
) -> Poll<Result<u64, WaitError>> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
}

#[test]
fn the_number_never_falls() {
    let watermark = Watermark::new(5);
    watermark.publish(3);
    assert_eq!(watermark.value(), 5);
    watermark.publish(NUMBER_MAX);
    assert_eq!(watermark.value(), NUMBER_MAX);
    assert!(!watermark.is_failed() && !watermark.is_waited_for());
}

#[test]
fn a_wait_ends_when_its_time_is_up() {
    let watermark = Watermark::new(0);
    assert_eq!(watermark.wait(1, Some(Duration::from_millis(1))), Err(WaitError::TimedOut));
    assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
}

#[test]
fn only_those_are_woken_whose_number_is_reached() {
    let watermark = Watermark::new(0);
    let counts: Vec<_> = (0..100).map(|_| Arc::<Count>::default()).collect();
    let mut futures: Vec<_> = (1..=100).map(|target| Watermark::reached(&watermark, target)).collect();
    for (future, count) in futures.iter_mut().zip(&counts) {
        assert!(poll(future, count).is_pending());
    }
    assert_eq!(watermark.wanted(), Some(100));
    watermark.publish(70);
    let woken: Vec<_> = counts.iter().map(|count| count.0.load(Relaxed)).collect();
    assert!(woken[..70].iter().all(|woken| *woken == 1) && woken[70..].iter().all(|woken| *woken == 0));
    assert_eq!(watermark.waiter_count(), 30);
    assert_eq!(poll(&mut futures[0], &counts[0]), Poll::Ready(Ok(70)));
    watermark.fail();
    assert!(counts.iter().all(|count| count.0.load(Relaxed) == 1));
    assert_eq!(poll(&mut futures[99], &counts[99]), Poll::Ready(Err(WaitError::Failed)));
    assert!(!watermark.is_waited_for());
}

#[test]
fn a_future_polled_again_is_woken_by_its_last_waker_alone() {
    let watermark = Watermark::new(0);
    let mut future = Watermark::reached(&watermark, 1);
    let (old, new) = (Arc::<Count>::default(), Arc::<Count>::default());
    assert!(poll(&mut future, &old).is_pending());
    assert!(poll(&mut future, &new).is_pending());
    assert_eq!(watermark.waiter_count(), 1);
    watermark.publish(1);
    assert_eq!((old.0.load(Relaxed), new.0.load(Relaxed)), (0, 1));
}

#[test]
fn a_million_dropped_futures_leave_nothing() {
    let watermark = Watermark::new(0);
    for target in 1..=1_000_000 {
        let mut future = Watermark::reached(&watermark, target);
        assert!(poll(&mut future, &Arc::default()).is_pending());
    }
    assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
}

/// A task that is dropped with its waker, as an executor does, and whose future waits for the same watermark.
#[test]
fn a_waker_may_come_back_to_the_watermark_when_it_is_dropped() {
    struct Task(#[expect(dead_code, reason = "dropped")] Reached<Arc<Watermark>>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let watermark = Arc::new(Watermark::new(0));
    let mut outer = Watermark::reached(Arc::clone(&watermark), 9);
    for renew in [true, false] {
        let mut inner = Watermark::reached(Arc::clone(&watermark), 9);
        assert!(poll(&mut inner, &Arc::default()).is_pending());
        let waker = Waker::from(Arc::new(Task(inner)));
        assert!(Pin::new(&mut outer).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        if renew {
            assert!(poll(&mut outer, &Arc::default()).is_pending());
        }
    }
    drop(outer);
    assert_eq!(watermark.waiter_count(), 0);
}

/// How often the group was woken to which whoever came last belongs.
fn wakes_of_last_group(watermark: &Watermark) -> u32 {
    watermark.waiters.lock().group.as_ref().map_or(0, |(_, group)| group.word())
}

/// Of how many groups those are who sleep.
fn group_count(watermark: &Watermark) -> usize {
    let waiters = watermark.waiters.lock();
    let mut groups: Vec<_> = waiters
        .list
        .values()
        .filter_map(|sleeper| match sleeper {
            Sleeper::Thread(group) => Some(Arc::as_ptr(group)),
            Sleeper::Task(_) => None,
        })
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups.len()
}

fn await_waiters(watermark: &Watermark, count: usize) {
    while watermark.waiter_count() != count {
        thread::yield_now();
    }
}

/// More than are taken out of the list at once.
#[test]
fn all_of_a_round_are_woken_by_one_call() {
    const COUNT: u64 = 3 * WAKE_COUNT_MAX as u64 + 1;
    let watermark = Watermark::new(0).in_rounds();
    thread::scope(|scope| {
        for target in 1..=COUNT {
            let watermark = &watermark;
            scope.spawn(move || assert_eq!(watermark.wait(target, None), Ok(COUNT)));
        }
        await_waiters(&watermark, COUNT as usize);
        let groups = group_count(&watermark);
        let woken = watermark.publish(COUNT);
        assert_eq!((groups, woken), (1, COUNT as usize));
    });
    assert_eq!(wakes_of_last_group(&watermark), 1);
    assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
}

#[test]
fn who_is_woken_with_others_and_not_meant_sleeps_on_and_another_round_is_left_in_peace() {
    let watermark = Watermark::new(0).in_rounds();
    thread::scope(|scope| {
        let wait = |target| {
            let watermark = &watermark;
            scope.spawn(move || watermark.wait(target, None))
        };
        let (first, second) = (wait(1), wait(2));
        await_waiters(&watermark, 2);
        watermark.next_round();
        let third = wait(3);
        await_waiters(&watermark, 3);
        let groups = group_count(&watermark);
        let woken = [watermark.publish(1), watermark.publish(2)];
        let ended = [first.join().unwrap(), second.join().unwrap()];
        let (left, wakes) = (watermark.waiter_count(), wakes_of_last_group(&watermark));
        watermark.fail();
        assert_eq!((groups, woken, left, wakes), (2, [1, 1], 1, 0));
        assert!(ended[0].is_ok() && ended[1] == Ok(2), "{ended:?}");
        assert_eq!(third.join().unwrap(), Err(WaitError::Failed));
    });
    assert!(!watermark.is_waited_for());
}

#[test]
fn many_threads_wait_while_the_number_rises() {
    rises_under_many_threads(&Watermark::new(0));
    rises_under_many_threads(&Watermark::new(0).in_rounds());
}

fn rises_under_many_threads(watermark: &Watermark) {
    const COUNT: u64 = 2_000;
    thread::scope(|scope| {
        for first in 1..=4 {
            scope.spawn(move || {
                for target in (first..=COUNT).step_by(3) {
                    assert!(watermark.wait(target, Some(Duration::from_secs(30))).unwrap() >= target);
                }
            });
        }
        for number in 1..=COUNT {
            watermark.publish(number);
            if number % 64 == 0 {
                thread::yield_now();
            }
        }
    });
    assert_eq!((watermark.waiter_count(), watermark.is_waited_for()), (0, false));
}
