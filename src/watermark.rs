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
#[cfg(all(test, not(loom)))]
mod tests;

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
