//! A number that never falls, and those who wait for it.
//!
//! ```text
//!   word = number (62 bits) │ FAILED │ WAITED
//! ```
//! Number and flags share a word, so that no wake-up can be lost and a publish that nobody waits for takes no lock:
//!
//! | who waits                              | who publishes                                     |
//! |----------------------------------------|---------------------------------------------------|
//! | locks the list and enters it           | exchanges the number, keeping the flags           |
//! | sets `WAITED`, and gets the word back: | and gets the word back:                           |
//! | number reached: leaves, done           | without `WAITED`: done                            |
//! | else unlocks, rouses the flush core    | with it: locks the list, takes out all that is    |
//! | and sleeps                             | due, unlocks, wakes them                          |
//!
//! Both exchanges are on one word, so one of them is first: either the waiter sees the new number, or the
//! publisher sees `WAITED`, and the lock makes it see the entry too. `WAITED` changes only under the lock.
//!
//! A thread sleeps on the word of its group, which changes with each call that wakes it: see `watermark/group.rs`.
//!
//! A wait ends by the number, by `fail`, or by its timeout; a future that is dropped leaves the list. Models:
//! `loom-tests/watermark.rs`.

mod group;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::ring::Doorbell;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Deadline, Mutex, MutexGuard};

use self::group::Group;

const WAITED: u64 = 1;
const FAILED: u64 = 2;
const FLAGS: u64 = WAITED | FAILED;
const NUMBER_SHIFT: u32 = 2;
/// Greatest number a watermark can reach: at ten gigabytes a second a position gets there in fourteen years.
pub const NUMBER_MAX: u64 = u64::MAX >> NUMBER_SHIFT;
/// How many are taken out of the list under one lock: an array, since the flush core allocates nothing.
const WAKE_COUNT_MAX: usize = 32;

/// A number that never falls, shared between threads, and the list of those who wait for it.
pub struct Watermark {
    word: CachePadded<AtomicU64>,
    waiters: Mutex<Waiters>,
    doorbell: Option<Arc<Doorbell>>,
    /// Which group of threads whoever comes belongs to; `None`: each sleeps alone.
    round: Option<AtomicU64>,
}

/// Why a wait ended without its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// The time was up; the number may come yet.
    TimedOut,
    /// [`Watermark::fail`]: the number will never come.
    Failed,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "the time was up",
            Self::Failed => "what was waited for will never come",
        })
    }
}

impl std::error::Error for WaitError {}

/// Who waits for which number, in the order of the numbers.
#[derive(Debug, Default)]
struct Waiters {
    list: BTreeMap<Key, Sleeper>,
    next_id: u64,
    /// The group of the round in which somebody came last.
    group: Option<(u64, Arc<Group>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    target: u64,
    id: u64,
}

#[derive(Debug)]
enum Sleeper {
    Thread(Arc<Group>),
    Task(Waker),
}

impl Waiters {
    fn enter(&mut self, target: u64, sleeper: Sleeper) -> Key {
        let key = Key { target, id: self.next_id };
        self.next_id += 1;
        self.list.insert(key, sleeper);
        key
    }

    /// The group of this round, or one for a thread by itself.
    fn group(&mut self, round: Option<u64>) -> Arc<Group> {
        match (&self.group, round) {
            (Some((of, group)), Some(round)) if *of == round => Arc::clone(group),
            (_, Some(round)) => {
                let group = Arc::new(Group::new());
                self.group = Some((round, Arc::clone(&group)));
                group
            }
            (_, None) => Arc::new(Group::new()),
        }
    }
}

/// A task's place in the list; empty by default. Whoever drops it first calls [`Watermark::cancel`].
#[derive(Debug, Default)]
pub struct Registration(Option<Key>);

impl Watermark {
    /// A watermark at `start`.
    ///
    /// # Panics
    /// When `start` is above [`NUMBER_MAX`].
    #[must_use]
    pub fn new(start: u64) -> Self {
        assert!(start <= NUMBER_MAX, "a watermark at {start} leaves 62 bits");
        Self {
            word: CachePadded::new(AtomicU64::new(start << NUMBER_SHIFT)),
            waiters: Mutex::new(Waiters::default()),
            doorbell: None,
            round: None,
        }
    }

    /// The same, and whoever begins to wait rouses the sleeper behind `doorbell`.
    #[must_use]
    pub fn with_doorbell(mut self, doorbell: Arc<Doorbell>) -> Self {
        self.doorbell = Some(doorbell);
        self
    }

    /// The same, and threads that begin to wait between two calls of [`Watermark::next_round`] are woken by one call: for a
    /// number that most of them wait for together.
    #[must_use]
    pub fn in_rounds(mut self) -> Self {
        self.round = Some(AtomicU64::new(0));
        self
    }

    /// Whoever begins to wait from now on is told later than those who wait already. A hint.
    pub fn next_round(&self) {
        if let Some(round) = &self.round {
            // ORDERING: Relaxed: whoever is put into the wrong group is woken too early, and sleeps again. No exchange: of two
            // calls at once one may be lost.
            round.store(round.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// How often there was a next round.
    #[cfg(all(test, feature = "testing", not(loom)))]
    pub(crate) fn round(&self) -> u64 {
        // ORDERING: Relaxed, see `next_round`.
        self.round.as_ref().map_or(0, |round| round.load(Ordering::Relaxed))
    }

    /// The number.
    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        // ORDERING: Acquire, so that what was done before the publish of this number is seen.
        self.word.load(Ordering::Acquire) >> NUMBER_SHIFT
    }

    /// Whether anybody waits. Ask before draining: what the waiter has pushed is then among what is drained.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        // ORDERING: Acquire, so that what the waiter did before is seen (it pushed what it now waits for).
        self.word.load(Ordering::Acquire) & WAITED != 0
    }

    /// The greatest number that anybody waits for.
    #[must_use]
    pub fn wanted(&self) -> Option<u64> {
        if !self.is_waited_for() {
            return None;
        }
        self.waiters.lock().list.last_key_value().map(|(key, _)| key.target)
    }

    /// The smallest number that anybody waits for.
    #[must_use]
    pub fn wanted_first(&self) -> Option<u64> {
        if !self.is_waited_for() {
            return None;
        }
        self.waiters.lock().list.first_key_value().map(|(key, _)| key.target)
    }

    /// Whether [`Watermark::fail`] has been called.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        // ORDERING: Acquire, so that the cause, noted before `fail`, is seen.
        self.word.load(Ordering::Acquire) & FAILED != 0
    }

    /// Raises the number and wakes who waited for it: so many. A number that is not above the present one changes nothing.
    ///
    /// # Panics
    /// When `number` is above [`NUMBER_MAX`].
    pub fn publish(&self, number: u64) -> usize {
        assert!(number <= NUMBER_MAX, "a watermark at {number} leaves 62 bits");
        // ORDERING: Relaxed: the exchange below decides.
        let mut word = self.word.load(Ordering::Relaxed);
        while number > word >> NUMBER_SHIFT {
            let new = number << NUMBER_SHIFT | word & FLAGS;
            // ORDERING: Release, so that who sees the number sees what was done before; Acquire, so that with
            // `WAITED` the lock below comes after the one under which it was set.
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if word & WAITED != 0 => return self.wake_due(),
                Ok(_) => return 0,
                Err(seen) => word = seen,
            }
        }
        0
    }

    /// Ends every wait for a number not yet reached, now and for ever, with [`WaitError::Failed`].
    pub fn fail(&self) {
        // ORDERING: as in `publish`.
        if self.word.fetch_or(FAILED, Ordering::AcqRel) & WAITED != 0 {
            self.wake_due();
        }
    }

    /// Waits until the number is at least `target`, at most for `timeout` (`None`: without end). Gives the number.
    ///
    /// # Errors
    /// The time was up, or the watermark has failed.
    pub fn wait(&self, target: u64, timeout: Option<Duration>) -> Result<u64, WaitError> {
        if let Some(result) = self.result(target) {
            return result;
        }
        let deadline = Deadline::after(timeout);
        let mut waiters = self.waiters.lock();
        // ORDERING: Relaxed, see `next_round`.
        let group = waiters.group(self.round.as_ref().map(|round| round.load(Ordering::Relaxed)));
        let key = waiters.enter(target, Sleeper::Thread(Arc::clone(&group)));
        if let Some(result) = self.set_waited(target) {
            self.leave(waiters, key);
            return result;
        }
        // Not under the lock: rousing may be a system call, and the flush core needs the lock to answer it.
        drop(waiters);
        self.rouse();
        loop {
            // The word first: what is told after the looks that follow changes it.
            let word = group.word();
            if group.is_told(target) {
                return Ok(self.value());
            }
            if let Some(result) = self.result(target) {
                self.leave(self.waiters.lock(), key);
                return result;
            }
            if deadline.is_over() {
                self.leave(self.waiters.lock(), key);
                return self.result(target).unwrap_or(Err(WaitError::TimedOut));
            }
            group.sleep(word, deadline);
        }
    }

    /// [`Watermark::wait`] for a task: enters `registration`, or renews it, and is woken once.
    pub fn poll(
        &self,
        target: u64,
        registration: &mut Registration,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, WaitError>> {
        if let Some(result) = self.result(target) {
            self.cancel(registration);
            return Poll::Ready(result);
        }
        if registration.0.is_some_and(|key| key.target != target) {
            self.cancel(registration);
        }
        // A waker is somebody else's code: it is cloned before the lock is taken and dropped after.
        let mut sleeper = Sleeper::Task(cx.waker().clone());
        let mut waiters = self.waiters.lock();
        if let Some(entered) = registration.0.and_then(|key| waiters.list.get_mut(&key)) {
            // Still in the list, so `WAITED` is still set, and a publish will find the new waker.
            mem::swap(entered, &mut sleeper);
            drop(waiters);
            return Poll::Pending;
        }
        let key = waiters.enter(target, sleeper);
        if let Some(result) = self.set_waited(target) {
            self.leave(waiters, key);
            registration.0 = None;
            return Poll::Ready(result);
        }
        registration.0 = Some(key);
        drop(waiters);
        self.rouse();
        Poll::Pending
    }

    /// Leaves the list.
    pub fn cancel(&self, registration: &mut Registration) {
        if let Some(key) = registration.0.take() {
            self.leave(self.waiters.lock(), key);
        }
    }

    /// A future that ends when the number is at least `target`; `watermark` is a reference or what holds one.
    pub fn reached<W: Deref<Target = Self> + Unpin>(watermark: W, target: u64) -> Reached<W> {
        Reached { watermark, target, registration: Registration::default() }
    }

    /// How many are in the list.
    #[must_use]
    pub fn waiter_count(&self) -> usize {
        self.waiters.lock().list.len()
    }

    fn result(&self, target: u64) -> Option<Result<u64, WaitError>> {
        // ORDERING: Acquire, as in `value`.
        Self::result_of(self.word.load(Ordering::Acquire), target)
    }

    const fn result_of(word: u64, target: u64) -> Option<Result<u64, WaitError>> {
        let number = word >> NUMBER_SHIFT;
        if number >= target {
            Some(Ok(number))
        } else if word & FAILED != 0 {
            Some(Err(WaitError::Failed))
        } else {
            None
        }
    }

    /// Under the lock, after entering the list: sets `WAITED`, and gives the result if it has come meanwhile.
    fn set_waited(&self, target: u64) -> Option<Result<u64, WaitError>> {
        // ORDERING: Release, against the Acquire half of the exchange in `publish`; Acquire, as in `value`.
        Self::result_of(self.word.fetch_or(WAITED, Ordering::AcqRel), target)
    }

    /// Takes `key` out of the list, if it is still there, unlocks, and only then drops the waker.
    fn leave(&self, mut waiters: MutexGuard<'_, Waiters>, key: Key) {
        let sleeper = waiters.list.remove(&key);
        self.clear_waited(&waiters);
        drop(waiters);
        drop(sleeper);
    }

    fn clear_waited(&self, waiters: &Waiters) {
        if waiters.list.is_empty() {
            // ORDERING: Relaxed: the list is under the lock, and the flag only says whether to take it.
            self.word.fetch_and(!WAITED, Ordering::Relaxed);
        }
    }

    fn rouse(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.rouse();
        }
    }

    #[cold]
    fn wake_due(&self) -> usize {
        let (mut woken, mut group) = (0, None::<Arc<Group>>);
        loop {
            let mut due: [Option<Sleeper>; WAKE_COUNT_MAX] = [const { None }; WAKE_COUNT_MAX];
            let mut count = 0;
            let number = {
                let mut waiters = self.waiters.lock();
                // ORDERING: Relaxed: this thread has just exchanged the word, so it sees that or later.
                let word = self.word.load(Ordering::Relaxed);
                while count < WAKE_COUNT_MAX
                    && let Some(first) = waiters.list.first_entry()
                    && Self::result_of(word, first.key().target).is_some()
                {
                    due[count] = Some(first.remove());
                    count += 1;
                }
                self.clear_waited(&waiters);
                word >> NUMBER_SHIFT
            };
            // Not under the lock: a waker is somebody else's code.
            for sleeper in due.into_iter().flatten() {
                match sleeper {
                    Sleeper::Task(waker) => waker.wake(),
                    Sleeper::Thread(next) if group.as_ref().is_some_and(|group| Arc::ptr_eq(group, &next)) => {}
                    // Some of the former group may still be in the list.
                    Sleeper::Thread(next) => group.replace(next).into_iter().for_each(|group| group.tell(0)),
                }
            }
            woken += count;
            if count < WAKE_COUNT_MAX {
                group.into_iter().for_each(|group| group.tell(number));
                return woken;
            }
        }
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watermark")
            .field("value", &self.value())
            .field("is_failed", &self.is_failed())
            .finish_non_exhaustive()
    }
}

/// Ends when a watermark has reached a number. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Reached<W: Deref<Target = Watermark> + Unpin> {
    watermark: W,
    target: u64,
    registration: Registration,
}

impl<W: Deref<Target = Watermark> + Unpin> Future for Reached<W> {
    type Output = Result<u64, WaitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.watermark.poll(this.target, &mut this.registration, cx)
    }
}

impl<W: Deref<Target = Watermark> + Unpin> Drop for Reached<W> {
    fn drop(&mut self) {
        self.watermark.cancel(&mut self.registration);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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
}
