//! Group commit for plain writes: one sync per file for all that was written before it.
//!
//! ```text
//!   wanted ──► target set, open frame sealed ──► writes up to the target complete ──► Sync, Sync
//!     ▲                                                                                 │
//!     └── asked for meanwhile, by a deadline or a waiter ◄── durable ◄── all syncs end ─┘
//! ```
//! One group at a time: who asks while one is under way gets the next. A sync covers only writes that
//! had completed when it was issued, so it is issued no earlier. It is never issued a second time.

use std::time::Duration;

use crate::lsn::{Lsn, SlotNo};
use crate::time::Instant;
use crate::wal::mutant::Mutant;
use crate::wal::op::{FileId, Op};

use super::{Desk, Kind, NUMBER_MASK, State, Writer};

#[derive(Default)]
pub(super) struct Group {
    wanted: bool,
    /// All up to here is to be written before the sync.
    target: Option<Lsn>,
    /// Syncs in flight.
    syncs: Vec<u32>,
    issued: Instant,
    /// Moving average of how long a plain write takes.
    write_ewma: Duration,
    /// The files of the group that is being issued; kept for its memory.
    files: Vec<SlotNo>,
}

impl Group {
    pub(super) fn write_took(&mut self, took: Duration) {
        self.write_ewma = if self.write_ewma.is_zero() { took } else { (self.write_ewma * 7 + took) / 8 };
    }
}

impl Writer {
    /// Everything that is sealed by now is to be synced; if a group is under way, by the next one.
    pub(in crate::wal) fn want_sync(&mut self) {
        self.group.wanted = true;
    }

    /// Whether the open frame is to be sealed now, because a group begins.
    pub(in crate::wal) fn group_begins(&self) -> bool {
        self.group.wanted && self.group.target.is_none() && self.group.syncs.is_empty()
    }

    /// When what was appended first and is not yet covered must be on its way.
    pub(in crate::wal) fn sync_due(&self, within: Duration, open: Option<Instant>) -> Option<Instant> {
        if self.group.wanted || self.group.target.is_some() {
            return None;
        }
        let uncovered = |e: &&super::Entry| {
            matches!(e.kind, Kind::Data | Kind::Skip) && matches!(e.state, State::Flying | State::Written)
        };
        let first = self.pipeline.iter().find(uncovered).map(|e| e.opened);
        let first = first.or_else(|| self.queue.front().map(|w| w.opened)).or(open)?;
        // The sync itself is what must be out in time: leave its last write time to complete.
        let lead = (within / 8).max(self.group.write_ewma * 2).min(within / 2);
        Some(first + (within - lead))
    }

    /// Begins a group, or issues its syncs once its writes are over.
    pub(in crate::wal) fn drive_group(&mut self, now: Instant, desk: &mut Desk) {
        if self.group_begins() {
            self.group.wanted = false;
            self.group.target = Some(self.queue.back().map_or(self.placed_end, |w| w.next.prev()));
        }
        let Some(target) = self.group.target else { return };
        if !self.group.syncs.is_empty() {
            return;
        }
        let to_place = self.queue.front().is_some_and(|w| w.first <= target);
        if to_place && self.pipeline.iter().any(|e| e.state == State::Flying) {
            return;
        }
        // What cannot be placed waits for a slot, and the slot perhaps for the delivery of what this
        // very group makes durable: sync what is there, and the rest with the next group.
        self.group.wanted |= to_place;
        let early = desk.config.mutants.has(Mutant::SyncEarly);
        let counts = |e: &super::Entry| matches!(e.kind, Kind::Data | Kind::Skip) && !e.dsync;
        if !early && self.pipeline.iter().any(|e| counts(e) && e.state == State::Flying && e.end <= target) {
            return;
        }
        self.group.target = None;
        self.group.files.clear();
        for entry in self.pipeline.iter_mut().filter(|e| counts(e)) {
            if entry.state == State::Written || (early && entry.state == State::Flying) {
                entry.state = State::Syncing;
                if !self.group.files.contains(&entry.slot) {
                    self.group.files.push(entry.slot);
                }
            }
        }
        self.group.issued = now;
        for slot in &self.group.files {
            let number = self.number;
            self.number = self.number.wrapping_add(1) & NUMBER_MASK;
            self.group.syncs.push(number);
            self.ops.push_back((number, Op::Sync { file: FileId::Slot(desk.config.log, *slot) }));
        }
    }

    /// Only a mutant's: a sync has failed, and is asked for once more.
    pub(in crate::wal) fn sync_again(&mut self, number: u32) -> bool {
        let Some(at) = self.group.syncs.iter().position(|n| *n == number) else { return false };
        self.group.syncs.swap_remove(at);
        for entry in self.pipeline.iter_mut().filter(|e| e.state == State::Syncing) {
            entry.state = State::Written;
        }
        self.group.wanted = true;
        true
    }

    /// Whether this op is a sync; takes note of its end.
    pub(in crate::wal) fn handle_synced(&mut self, now: Instant, number: u32, desk: &mut Desk) -> bool {
        let Some(at) = self.group.syncs.iter().position(|n| *n == number) else { return false };
        self.group.syncs.swap_remove(at);
        if self.group.syncs.is_empty() {
            for entry in self.pipeline.iter_mut().filter(|e| e.state == State::Syncing) {
                entry.state = State::Durable;
            }
            desk.commit_took(now.since(self.group.issued));
            self.settle_front(now, desk);
        }
        true
    }
}
