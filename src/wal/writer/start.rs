//! When the next frame is written.
//!
//! `Immediate`: as soon as the commit before it completes. While one is in flight, a further one starts only if
//! `hedge_len` bytes are pending or the one in front takes more than twice the usual time: measured, that is the
//! lowest latency and the least padding at once (`docs/adr/0007-commit-when-the-last-one-completes.md`). Where those
//! who were told by the last one come back together it waits for them, for no longer than a commit takes
//! (`docs/adr/0024-wait-for-those-who-come-back.md`). `Periodic` and `Spill`: as it comes.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::time::Instant;
use crate::wal::config::Commit;
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::slots::Slots;

use super::{Bytes, Desk, Kind, State, Writer};

/// After so long without traffic a fresh promise is worth a write.
const IDLE_MARK: Duration = Duration::from_millis(5);
/// Plain writes may be so many times deeper in flight than commits.
const PLAIN_DEPTH: usize = 4;

impl Writer {
    fn flying(&self) -> impl Iterator<Item = &super::Entry> {
        self.pipeline.iter().filter(|e| matches!(e.kind, Kind::Data | Kind::Skip) && e.state == State::Flying)
    }

    /// When the commit in front counts as late.
    fn late_at(&self, desk: &Desk) -> Option<Instant> {
        let usual = desk.stats.commit_ewma;
        self.flying().next().filter(|_| !usual.is_zero()).map(|front| front.submitted + usual * 2)
    }

    /// Whether a further frame may be placed now; `open_len` bytes are in the open one.
    pub(in crate::wal) fn may_start(&self, now: Instant, open_len: usize, desk: &Desk) -> bool {
        let (flying, max) = (self.flying().count(), desk.config.inflight_max.max(1) as usize);
        if desk.config.commit != Commit::Immediate {
            return flying < max * PLAIN_DEPTH;
        }
        let pending = || self.queue.iter().map(|w| w.len()).sum::<usize>() + open_len;
        flying == 0
            || flying < max
                && (pending() >= desk.config.hedge_len as usize || self.late_at(desk).is_some_and(|at| now >= at))
    }

    /// Places what may be placed of the queue.
    pub(in crate::wal) fn drive_queue(&mut self, now: Instant, desk: &mut Desk, slots: &mut Slots) {
        while !self.queue.is_empty() && self.may_start(now, 0, desk) {
            if !self.place_front(now, desk, slots) {
                return;
            }
        }
        if self.queue.is_empty() {
            self.starved = false;
        }
    }

    /// Every LSN up to this one is in a write that has completed, and so has every one before: the log finds it even if
    /// the process dies now. MARK and SEAL may be missing.
    pub(in crate::wal) fn written(&self, mutants: Mutants) -> Lsn {
        let blind = mutants.has(Mutant::InFlightIsWritten);
        let is_over = |e: &&super::Entry| e.state != State::Flying || e.kind == Kind::Note || blind;
        self.pipeline.iter().take_while(is_over).fold(self.durable, |lsn, e| lsn.max(e.end))
    }

    /// Whether sealed frames wait to be placed.
    pub(in crate::wal) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether something waits to be placed that nothing in flight will set going: memory was short.
    pub(in crate::wal) fn is_short(&self) -> bool {
        !self.queue.is_empty() && !self.starved && self.pipeline.is_empty()
    }

    /// When an idle log is due to write down what it promises; only where something was appended
    /// since the last promise.
    pub(in crate::wal) fn mark_due(&self, desk: &Desk) -> Option<Instant> {
        let worth = self.is_idle() && self.promised < self.durable && self.has_block(desk);
        (worth && desk.config.commit != Commit::Spill).then(|| self.idle_since + IDLE_MARK)
    }

    /// Writes a MARK if it is due.
    pub(in crate::wal) fn drive_mark(&mut self, now: Instant, desk: &mut Desk) {
        if self.mark_due(desk).is_some_and(|at| now >= at) {
            self.mark(now, desk);
        }
    }

    /// When a further frame may start: because the one in front is late, or nobody is awaited any more.
    pub(in crate::wal) fn start_due(&self, open_len: usize, desk: &Desk) -> Option<Instant> {
        let pending = (open_len > 0 || !self.queue.is_empty()) && !self.starved;
        if !pending || desk.config.commit != Commit::Immediate {
            return None;
        }
        match self.flying().count() {
            0 => self.awaits.filter(|_| self.queue.is_empty()),
            deep if deep >= desk.config.inflight_max as usize => None,
            _ => self.late_at(desk),
        }
    }

    /// `Immediate`: the open frame waits until then for more, unless it is full before.
    pub(in crate::wal) fn set_awaits(&mut self, until: Option<Instant>) {
        self.awaits = until;
    }

    /// Whether more is awaited for the open frame.
    pub(in crate::wal) fn awaits(&self, now: Instant) -> bool {
        self.awaits.is_some_and(|until| now < until)
    }
}

impl super::Waiting {
    fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Own(block) => block.len(),
            Bytes::Shared(block) => block.len(),
        }
    }
}
