//! Waiting for the sink: from a position in a ring to its LSN, from the LSN to the end of its delivery.
//!
//! ```text
//!   receipt ──ask──► flush core: once the ring is drained up to there, the last LSN that was given out
//!                        │
//!                        ▼ answer (a watermark of its own)
//!   waiter  ◄── done, the watermark of delivery, has reached that LSN ◄── delivery thread
//! ```
//! A push knows no LSN, and is not to: the flush core gives numbers to runs of entries. So who wants to wait asks
//! for one, and gets the entry's own where the ring's run is at hand, else that of a later one, never of an earlier.
//!
//! The flush core also keeps the deadlines of tasks, which have no thread to wait on: it always knows how long it
//! may sleep, and no sink holds it up.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::engine::{Command, Shared};
use crate::error::LogError;
use crate::lsn::Lsn;
use crate::time::Instant;
use crate::watermark::{Registration, WaitError, Watermark};

/// What an alarm is at once its time has come.
const RUNG: u64 = 1;
/// The least number of an answer.
const ANSWERED: u64 = 1;

/// Up to where rings are to be drained.
#[derive(Debug)]
pub(crate) enum Upto {
    /// One ring, up to this position.
    Ring(u32, u64),
    /// All of them, each up to its position.
    All(Vec<u64>),
}

/// The flush core's end of a question for an LSN. Dropping it unanswered tells the asker that no answer will come.
#[derive(Debug)]
pub(crate) struct Reply(Arc<Watermark>);

impl Reply {
    /// Whether the asker is still there.
    pub(crate) fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// What was asked for lies at or below this one; or, if so it is said, is this one.
    pub(crate) fn tell(self, last: Lsn, is_own: bool) {
        self.0.publish((last.number() << 1 | u64::from(is_own)) + ANSWERED);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // One that was told stays told: only numbers not yet reached fail.
        self.0.fail();
    }
}

/// What was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    lsn: Lsn,
    /// Whether it is the entry's own, and not that of a later one.
    is_own: bool,
}

impl Last {
    const fn of(answer: u64) -> Self {
        let told = answer - ANSWERED;
        Self { lsn: Lsn::new(told >> 1), is_own: told & 1 == 1 }
    }
}

/// The asker's end.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Watermark>);

impl Asked {
    /// A question and where its answer comes.
    pub(crate) fn new() -> (Reply, Self) {
        let answer = Arc::new(Watermark::new(0));
        (Reply(Arc::clone(&answer)), Self(answer))
    }

    /// The answer, if it is there.
    fn answer(&self) -> Option<Last> {
        Some(self.0.value()).filter(|told| *told >= ANSWERED).map(Last::of)
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Last, WaitError> {
        self.0.wait(ANSWERED, timeout).map(Last::of)
    }

    fn poll(&self, registration: &mut Registration, cx: &mut Context<'_>) -> Poll<Option<Last>> {
        self.0.poll(ANSWERED, registration, cx).map(|told| told.ok().map(Last::of))
    }
}

/// Entries whose delivery is waited for.
#[derive(Debug)]
pub(crate) enum Target {
    /// Their number is asked for.
    Asked(Asked),
    /// Everything up to here.
    Known(Lsn),
}

impl Target {
    fn known(&self) -> Option<Last> {
        match self {
            Self::Asked(asked) => asked.answer(),
            Self::Known(lsn) => Some(Last { lsn: *lsn, is_own: false }),
        }
    }
}

/// Waits for a [`Target`]: what [`Delivered`](crate::Delivered) and `drain_async` are made of.
pub(crate) struct DeliveryWait {
    shared: Arc<Shared>,
    target: Target,
    /// What was lost at or below this one was something else; matters where the entry's own number is not known.
    above: Lsn,
    answer: Registration,
    done: Registration,
    hurried: bool,
}

impl DeliveryWait {
    pub(crate) fn new(shared: Arc<Shared>, target: Target, above: Lsn) -> Self {
        let (answer, done) = Default::default();
        Self { shared, target, above, answer, done, hurried: false }
    }

    /// What has become of it by now; `None` if it is not decided.
    pub(crate) fn outcome(&self) -> Option<Result<(), LogError>> {
        // In a forked child nothing is known, and the lock below may be held for ever.
        let last = self.target.known().filter(|_| self.shared.rings.is_at_home())?;
        (self.shared.done.value() >= last.lsn.number()).then(|| self.is_lost(last))
    }

    fn is_lost(&self, last: Last) -> Result<(), LogError> {
        self.shared.status.lost_between(if last.is_own { last.lsn.prev() } else { self.above }, last.lsn)
    }

    /// Blocks this thread, at most until the deadline.
    pub(crate) fn wait(&self, deadline: Option<std::time::Instant>) -> Result<(), LogError> {
        if let Some(outcome) = self.outcome() {
            return outcome;
        }
        self.shared.may_wait()?;
        let left = || deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        let ended = |error| match error {
            WaitError::TimedOut => LogError::TimedOut,
            WaitError::Failed => self.shared.status.end_of_waiting(),
        };
        let last = match &self.target {
            Target::Asked(asked) => asked.wait(left()).map_err(ended)?,
            Target::Known(lsn) => Last { lsn: *lsn, is_own: false },
        };
        self.shared.hurry_delivery_once(last.lsn);
        self.shared.done.wait(last.lsn.number(), left()).map_err(ended)?;
        self.is_lost(last)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        if let Some(outcome) = self.outcome() {
            self.leave();
            return Poll::Ready(outcome);
        }
        if let Err(refused) = self.shared.may_wait() {
            return Poll::Ready(Err(refused));
        }
        let last = match &self.target {
            Target::Known(lsn) => Last { lsn: *lsn, is_own: false },
            Target::Asked(asked) => match asked.poll(&mut self.answer, cx) {
                Poll::Ready(Some(last)) => last,
                Poll::Ready(None) => return Poll::Ready(Err(self.shared.status.end_of_waiting())),
                Poll::Pending => return Poll::Pending,
            },
        };
        if !std::mem::replace(&mut self.hurried, true) {
            self.shared.hurry_delivery_once(last.lsn);
        }
        self.shared.done.poll(last.lsn.number(), &mut self.done, cx).map(|reached| match reached {
            Ok(_) => self.is_lost(last),
            Err(_) => Err(self.shared.status.end_of_waiting()),
        })
    }

    /// Leaves the lists of those who wait.
    fn leave(&mut self) {
        // In a forked child the lists are nobody's, and their locks may be held for ever.
        if self.shared.rings.is_at_home() {
            if let Target::Asked(asked) = &self.target {
                asked.0.cancel(&mut self.answer);
            }
            self.shared.done.cancel(&mut self.done);
        }
    }
}

impl Drop for DeliveryWait {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    /// Asks for the last LSN once rings are drained up to there.
    pub(crate) fn ask_lsn(&self, upto: Upto) -> Asked {
        let (reply, asked) = Asked::new();
        if self.rings.is_at_home() {
            self.command(Command::Place { upto, reply });
        }
        asked
    }

    /// [`hurry_delivery`](Self::hurry_delivery), unless somebody has done so before: of a thousand who wait, few wake
    /// anybody.
    pub(crate) fn hurry_delivery_once(&self, last: Lsn) {
        if self.hurried() < last {
            self.hurry_delivery(last);
        }
    }

    /// [`Queue::drain_async`](crate::Queue::drain_async).
    pub(crate) async fn drain_async(self: &Arc<Self>, within: Duration) -> Result<(), LogError> {
        self.may_wait()?;
        let target = Target::Asked(self.ask_lsn(Upto::All(self.tails())));
        // As with `drain`: what was lost is told by health and metrics, and holds up nobody.
        let mut wait = DeliveryWait::new(Arc::clone(self), target, Lsn::new(u64::MAX));
        let alarm = Arc::new(Watermark::new(0));
        let at = self.status.now() + within;
        self.command(Command::Alarm { at, alarm: Arc::downgrade(&alarm) });
        let mut rings = pin!(Watermark::reached(&*alarm, RUNG));
        std::future::poll_fn(|cx| match wait.poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            // An alarm of a flush core that has ended never rings: that one has failed `done` before.
            Poll::Pending => rings.as_mut().poll(cx).map(|_| Err(LogError::TimedOut)),
        })
        .await
    }
}

/// A deadline that the flush core keeps.
#[derive(Debug)]
pub(crate) struct Alarm {
    pub(crate) at: Instant,
    /// Dead once nobody waits any more.
    pub(crate) alarm: Weak<Watermark>,
}

impl Alarm {
    pub(crate) fn is_wanted(&self) -> bool {
        self.alarm.strong_count() > 0
    }

    pub(crate) fn ring(&self) {
        if let Some(alarm) = self.alarm.upgrade() {
            alarm.publish(RUNG);
        }
    }
}
