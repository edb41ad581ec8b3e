//! What holds pushes up before they reach a ring: a breaker that is open, watermarks, a sink that fails.
//!
//! ```text
//!   push ── bits = 0 ──────────────────────────────► ring
//!     └──── bits ≠ 0, cold ─► breaker: refused
//!                             hard:    waits until it is left, or is refused, as for a full ring
//!                             soft, failures: waits once, for the delay ──► ring
//! ```
//! A push that nothing holds up pays one relaxed load of a byte that hardly ever changes. Who may not wait (`try_push`,
//! `Reject`, `DropNewest`, the queue's own sink) is never delayed.
//!
//! # No wait is too long
//! | who waits                                     | who sets pushes free                       |
//! |-----------------------------------------------|--------------------------------------------|
//! | reads the number of `eased`, Acquire          | changes the bits                           |
//! | reads the bits: still held up                 | raises the number of `eased`, Release      |
//! | waits for a number above the one it has read  |                                            |
//!
//! If the waiter reads the old bits, it has read the old number or the new one comes after; either way the number that it
//! waits for comes. Closing fails `eased` once all rings are closed, which ends all waits; the claim then tells why.
//!
//! A thread's delay ends by its own timeout. A task's has none: it waits for a moment of the queue's clock, which is a
//! watermark too: the flush core publishes the time while somebody waits for it, and sleeps no longer than until then.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::engine::{Shared, in_sink_of};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::watermark::Watermark;

/// Why pushes are held up, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Hold {
    /// The breaker is open, under `OnBreaker::Reject`.
    Breaker = 1,
    /// Something is over its soft watermark.
    Soft = 2,
    /// Something is over its hard watermark.
    Hard = 4,
    /// Deliveries fail.
    Failures = 8,
}

/// Why the gate is not passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    Breaker,
    /// A hard watermark, for longer than who pushes may wait.
    Hard,
}

/// What pushes look at.
#[derive(Debug)]
pub(crate) struct Gate {
    bits: AtomicU8,
    /// Nanoseconds that a push is delayed because deliveries fail.
    failure_delay: AtomicU64,
    /// Rises whenever less holds pushes up than before.
    eased: Watermark,
    /// Two threads raise it.
    easing: Mutex<()>,
    /// The queue's clock, in nanoseconds, while somebody waits for it.
    time: Watermark,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            bits: AtomicU8::new(0),
            failure_delay: AtomicU64::new(0),
            eased: Watermark::new(0),
            easing: Mutex::new(()),
            time: Watermark::new(0),
        }
    }

    #[inline]
    fn is_open(&self) -> bool {
        // ORDERING: Relaxed: a push that comes at the same time may be on either side of the change.
        self.bits.load(Ordering::Relaxed) == 0
    }

    /// If so, the rings refuse whoever comes: all of them are closed before this is.
    fn is_closed(&self) -> bool {
        self.eased.is_failed()
    }

    fn has(bits: u8, hold: Hold) -> bool {
        bits & hold as u8 != 0
    }

    pub(crate) fn set(&self, hold: Hold, holds: bool) {
        let bit = hold as u8;
        // ORDERING: Relaxed, all: who waits is ordered by `eased`, who pushes need not be.
        if Self::has(self.bits.load(Ordering::Relaxed), hold) == holds {
            return;
        }
        if holds {
            self.bits.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.bits.fetch_and(!bit, Ordering::Relaxed);
            self.ease();
        }
    }

    fn ease(&self) {
        // Read and raised as one: of two that raise it at once each must be seen.
        let _one_at_a_time = self.easing.lock();
        self.eased.publish(self.eased.value() + 1);
    }

    /// Nobody waits here any more: the rings are closed, all of them.
    pub(crate) fn close(&self) {
        self.eased.fail();
        self.time.fail();
    }

    /// The flush core's turn: who waits for this moment has waited long enough.
    pub(crate) fn publish_time(&self, now: crate::time::Instant) {
        if self.time.is_waited_for() {
            self.time.publish(now.as_nanos());
        }
    }

    /// The next moment that somebody waits for.
    pub(crate) fn next_due(&self) -> Option<crate::time::Instant> {
        self.time.wanted_first().map(crate::time::Instant::from_nanos)
    }
}

/// How long who pushes may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MayWait {
    No,
    Until(Option<Instant>),
}

impl Shared {
    /// Whether anything holds pushes up.
    #[inline]
    pub(crate) fn is_gated(&self) -> bool {
        !self.gate.is_open()
    }

    /// By how much a push is delayed now.
    pub(crate) fn push_delay(&self) -> Duration {
        // ORDERING: Relaxed, as in `Gate::set`.
        self.delay_for(self.gate.bits.load(Ordering::Relaxed))
    }

    fn delay_for(&self, bits: u8) -> Duration {
        let soft = if Gate::has(bits, Hold::Soft) { self.config.soft_delay } else { Duration::ZERO };
        // ORDERING: Relaxed: a number by itself.
        let failures = Duration::from_nanos(self.gate.failure_delay.load(Ordering::Relaxed));
        soft.max(failures)
    }

    /// Delivery: so many percent of the latest deliveries have failed.
    pub(crate) fn set_failed_share(&self, percent: u32) {
        let Some(most) = self.config.failure_delay else {
            return;
        };
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX) / 100 * u64::from(percent.min(100));
        // ORDERING: Relaxed, as in `delay_for`; one writer.
        if self.gate.failure_delay.swap(nanos, Ordering::Relaxed) != nanos {
            self.gate.set(Hold::Failures, nanos > 0);
        }
    }

    /// The way of a push that something holds up. `delayed`: this entry has had its delay.
    #[cold]
    pub(crate) fn pass_gate(&self, may_wait: MayWait, delayed: &mut bool) -> Result<(), Held> {
        let gate = &self.gate;
        loop {
            let (seen, bits) = match self.look_at_gate()? {
                Some(look) => look,
                None => return Ok(()),
            };
            let is_hard = Gate::has(bits, Hold::Hard);
            let deadline = match may_wait {
                MayWait::No if is_hard => return Err(Held::Hard),
                MayWait::No => return Ok(()),
                MayWait::Until(deadline) => deadline,
            };
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            if is_hard {
                if left == Some(Duration::ZERO) {
                    return Err(Held::Hard);
                }
                // Whatever ends it: the next look tells what holds then.
                let _ = gate.eased.wait(seen + 1, left);
                continue;
            }
            if std::mem::replace(delayed, true) {
                return Ok(());
            }
            let delay = self.delay_for(bits).min(left.unwrap_or(Duration::MAX));
            if !delay.is_zero() {
                let _ = gate.eased.wait(seen + 1, Some(delay));
                self.count_delay(now.elapsed());
            }
        }
    }

    /// The same for a task, which waits as long as need be. In the queue's own sink it does not wait.
    pub(crate) async fn pass_gate_async(&self, delayed: &mut bool) -> Result<(), Held> {
        loop {
            let Some((seen, bits)) = self.look_at_gate()? else {
                return Ok(());
            };
            let is_hard = Gate::has(bits, Hold::Hard);
            match (is_hard, in_sink_of(self)) {
                (true, true) => return Err(Held::Hard),
                (true, false) => {
                    // As above.
                    let _ = Watermark::reached(&self.gate.eased, seen + 1).await;
                    continue;
                }
                (false, in_sink) if in_sink || std::mem::replace(delayed, true) => return Ok(()),
                (false, _) => {}
            }
            let delay = self.delay_for(bits);
            if !delay.is_zero() {
                let begun = Instant::now();
                self.delay_task(seen, delay).await;
                self.count_delay(begun.elapsed());
            }
        }
    }

    /// Until pushes are held up less, or the delay is over.
    async fn delay_task(&self, seen: u64, delay: Duration) {
        let due = (self.status.now() + delay).as_nanos();
        let mut eased = Watermark::reached(&self.gate.eased, seen + 1);
        let mut timed = Watermark::reached(&self.gate.time, due);
        let mut is_told = false;
        poll_fn(|cx| {
            if Pin::new(&mut eased).poll(cx).is_ready() || Pin::new(&mut timed).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut is_told, true) {
                // It may sleep for longer than that.
                self.rings.doorbell().rouse();
            }
            Poll::Pending
        })
        .await;
    }

    /// The number of `eased` and the bits after it; `None`: go on to the ring, which tells what else there is.
    fn look_at_gate(&self) -> Result<Option<(u64, u8)>, Held> {
        let seen = self.gate.eased.value();
        // ORDERING: Relaxed: the Acquire load of the number before it comes first, so the bits are at least as new.
        let bits = self.gate.bits.load(Ordering::Relaxed);
        // Nobody would end a wait in a queue that is closed, nor in a forked child. Rings that are being closed do not count:
        // one that is still open would take what is held up.
        if bits == 0 || self.gate.is_closed() || !self.rings.is_at_home() {
            return Ok(None);
        }
        if Gate::has(bits, Hold::Breaker) { Err(Held::Breaker) } else { Ok(Some((seen, bits))) }
    }

    fn count_delay(&self, time: Duration) {
        let cells = &self.counters.pressure;
        cells.delayed.add_shared(1);
        cells.delayed_nanos.add_shared(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}
