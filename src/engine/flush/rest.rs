//! When the flush core sleeps, and how deep.
//!
//! | there is                                    | it sleeps                                    |
//! |---------------------------------------------|----------------------------------------------|
//! | nothing at all to do                        | deep: any push wakes it                      |
//! | a commit in flight, or a period to wait for | a nap: completions, waiters and half-full rings wake it |
//! | anything else at the disk                   | deep: it may take long, as a segment that is prepared does |
//! | without commits: more than the sink takes   | the same; the sink's answers wake it too     |
//! | traffic, and nobody waits                   | a nap of 50 µs: draining lazily is what makes pushes cheap |
//! | somebody who waits for what is claimed and not published | deep: the push that publishes it wakes |
//! | one waiter, who was just told               | not yet: see `glance.rs`                     |
//! | no memory or no segment to drain into       | a nap, until the sink has freed some         |
//! | with `Idle::Spin`: a disk that takes long   | a doze of 50 µs at a time, unannounced       |

use std::time::Duration;

use crate::config::{Durability, Idle};
use crate::io::Disk;
use crate::ring::Sleep;

use super::Flush;

/// Pause between drains while there is traffic and nobody waits.
const LAZY_PAUSE: Duration = Duration::from_micros(50);
/// How long it sleeps at most while pushes wait for what may come without a word: space on a disk, memory that a sink
/// had kept.
const HEALS: Duration = Duration::from_millis(100);
/// How long `Idle::Spin` looks for what it has asked the disk before it leaves its processor to others: twice what a
/// write takes that is worth spinning for.
const SPINS_FOR_DISK: Duration = Duration::from_micros(200);
/// How long `Idle::Backoff` looks around before it sleeps.
const BACKOFF: Duration = Duration::from_micros(50);

/// How the flush core rests between two turns.
#[derive(Debug)]
#[must_use = "who does not wait takes no completions"]
pub(crate) enum Rest {
    /// Not at all.
    No,
    /// It only takes what the disk has completed.
    Look,
    /// Until the disk completes something, for a moment at most. Nobody is told: who pushes meanwhile is seen after it.
    Doze,
    /// Until the disk completes something, the doorbell rings or the time is over. The sleep is announced.
    Sleep(Option<Duration>),
}

impl Rest {
    /// What is left of a rest that something has ended.
    #[cfg(all(feature = "testing", not(loom)))]
    pub(crate) fn over(self) -> Self {
        match self {
            Self::Sleep(_) => Self::Sleep(Some(Duration::ZERO)),
            Self::Doze => Self::Look,
            other => other,
        }
    }

    /// After which time it ends by itself.
    #[cfg(all(feature = "testing", not(loom)))]
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::No | Self::Look => Some(Duration::ZERO),
            Self::Doze => Some(LAZY_PAUSE),
            Self::Sleep(timeout) => *timeout,
        }
    }
}

impl Flush {
    /// Takes the rest that a turn has chosen: the only place where the flush core waits.
    pub(crate) fn wait(&mut self, rest: Rest) {
        match rest {
            Rest::No => {}
            Rest::Look => self.reap(Some(Duration::ZERO)),
            Rest::Doze => self.reap(Some(LAZY_PAUSE)),
            Rest::Sleep(timeout) => {
                self.reap(timeout);
                self.drainer.wake_up();
            }
        }
    }

    /// Whether the disk takes so long that a flush core that spins is to leave its processor: it may be that of the kernel's
    /// thread that ends the write, which a scheduler lets wait for a whole slice, 4 ms for each commit. To yield instead
    /// may starve all others on that processor. Figures: `docs/adr/0030-who-spins-sleeps-for-a-late-disk.md`.
    fn is_disk_late(&self) -> bool {
        self.disk.waiting_since().is_some_and(|since| self.clock.now() >= since + SPINS_FOR_DISK)
    }

    pub(super) fn rest(&mut self, again: bool, drained: bool) -> Rest {
        if again && self.turn_before_reaping() {
            return Rest::No;
        }
        if again {
            return Rest::Look;
        }
        if self.shared.config.idle == Idle::Spin {
            return if self.is_disk_late() { Rest::Doze } else { Rest::Look };
        }
        let now = self.clock.now();
        let claims_until = self.state.claims_until.filter(|until| *until > now);
        let due = [self.log.poll_timeout(), self.parking.log.poll_timeout(), self.shared.gate.next_due(), claims_until];
        let due = due.into_iter().flatten().min();
        let until_due = due.map(|at| at.since(now)).into_iter().chain(self.state.waits.next_alarm(now)).min();
        if until_due == Some(Duration::ZERO) {
            return Rest::Look;
        }
        if self.state.glance.is_worth(now, self.next_lsn().number()) {
            std::hint::spin_loop();
            return Rest::Look;
        }
        if drained {
            self.state.idle_since = None;
            // With nothing at the disk and nothing due nobody else ends a nap.
            let looks = self.spills() || due.is_some() || self.disk.is_idle();
            let pause = looks.then_some(LAZY_PAUSE);
            let timeout = [until_due, pause].into_iter().flatten().min();
            return self.sleep(Sleep::Nap, timeout);
        }
        let is_blocked = self.state.blocked.is_some();
        let is_committing = !self.spills() && (self.log.held() > 0 || self.log.open_records() > 0);
        // A sink that has enough to do may take as long as it likes, and what is pushed meanwhile is to be on disk in its
        // time all the same; only where it goes to no disk may it as well wait in its ring.
        let feeds_sink = self.spills() && !self.window.is_empty();
        if is_blocked || is_committing || feeds_sink {
            // Whatever ends this also rouses: a completion, an ack, a waiter. A publish does not, though who waits
            // may wait for one: then any push is to. The timeout is for what heals by itself, such as a disk that
            // is given space.
            let heals = (is_blocked || self.holds_pushes()).then_some(HEALS);
            let timeout = [until_due, heals].into_iter().flatten().min();
            let depth = if !is_blocked && self.waits_for_publish() { Sleep::Deep } else { Sleep::Nap };
            return self.sleep(depth, timeout);
        }
        if self.shared.config.idle == Idle::Backoff && now.since(*self.state.idle_since.get_or_insert(now)) < BACKOFF {
            std::hint::spin_loop();
            return Rest::No;
        }
        let heals = self.holds_pushes().then_some(HEALS);
        self.sleep(Sleep::Deep, [until_due, heals].into_iter().flatten().min())
    }

    /// Whether somebody waits for more than is drained: with room for it, it can only be claimed and not published.
    fn waits_for_publish(&self) -> bool {
        let wants_more = |(ring, drained): (u32, &u64)| self.shared.rings.durable(ring).wanted() > Some(*drained);
        let is_asked = !self.state.fences.is_empty() || self.state.waits.is_asked() || self.state.ending;
        is_asked || (0..).zip(&self.state.drained).any(wants_more)
    }

    /// Announces a sleep, unless something has come.
    fn sleep(&mut self, depth: Sleep, timeout: Option<Duration>) -> Rest {
        if self.drainer.prepare_sleep(depth) {
            Rest::Sleep(timeout)
        } else if self.turn_before_reaping() {
            Rest::No
        } else {
            Rest::Look
        }
    }

    /// Whether to turn once more before the disk is asked: ops that were just submitted then go out with the
    /// call that also waits for them. Once in a row, so that they go out however often something comes.
    fn turn_before_reaping(&mut self) -> bool {
        !std::mem::replace(&mut self.state.turned, true)
    }

    /// Waits in the disk, then takes all completions that are there.
    fn reap(&mut self, timeout: Option<Duration>) {
        self.state.turned = false;
        if self.disk.is_idle() && timeout == Some(Duration::ZERO) {
            return;
        }
        let mut timeout = timeout;
        while let Some(completion) = self.disk.complete(timeout) {
            self.route(completion);
            if self.disk.is_idle() {
                return;
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// All that was drained is durable, so the rings are durable up to where they are drained: a record
    /// that was given up at the end of a ring is in no frame that could say so. Not so once the end of a full log
    /// has given up what had no place.
    pub(super) fn settle_rings(&self) {
        let memory_only = self.shared.config.durability == Durability::Memory;
        let is_broken = self.log.failure().is_some() || self.log.has_given_up();
        if memory_only || is_broken || self.log.held() > 0 || self.log.open_records() > 0 {
            return;
        }
        for (ring, drained) in (0..).zip(&self.state.drained) {
            self.shared.rings.durable(ring).publish(*drained);
        }
    }
}
