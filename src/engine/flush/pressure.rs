//! How full the queue is, once a turn: the grades of `crate::pressure`, for pushes, metrics and health.

use crate::config::Durability;
use crate::engine::gate::Hold;
use crate::lsn::Lsn;
use crate::pressure::{Grade, Lines, Measure, percent};
use crate::time::Instant;

use super::Flush;

/// Percent of memory from which `Periodic` does not wait for the end of its period: half of it can then be written while
/// the other half is filled, and nobody is held up for a sync that has not begun.
const SYNC_EARLY: u64 = 50;

/// The grades as they were last turn.
#[derive(Debug, Default)]
pub(super) struct Grades {
    memory: Grade,
    log: Grade,
    backlog: Grade,
    /// Entries above the low watermark that are done.
    done_above: u64,
}

impl Flush {
    /// After memory that can be let go was: what is in use now cannot.
    pub(super) fn watch_pressure(&mut self, now: Instant) {
        let (watermarks, backlog_max) = (self.shared.config.watermarks, self.shared.config.backlog_len_max);
        let (before, done_above) = (&self.state.grades, self.state.grades.done_above);
        let memory = self.memory_percent();
        if memory >= SYNC_EARLY && matches!(self.shared.config.durability, Durability::Periodic(_)) {
            // What waits for the end of the period holds it.
            self.log.commit_now(now);
        }
        let memory = Lines::of(watermarks).judge(before.memory, memory);
        let log = Lines::of(watermarks).judge(before.log, self.log_percent());
        let backlog = backlog_max
            .map_or(Grade::Calm, |max| Lines::of_limit(watermarks).judge(before.backlog, percent(self.backlog(), max)));
        let before = std::mem::replace(&mut self.state.grades, Grades { memory, log, backlog, done_above });
        let changes = [
            (Measure::Memory, before.memory, memory),
            (Measure::Log, before.log, log),
            (Measure::Backlog, before.backlog, backlog),
        ];
        if changes.iter().any(|(_, before, after)| before != after) {
            let worst = memory.max(log).max(backlog);
            let slows = watermarks.is_some() && !self.shared.config.soft_delay.is_zero();
            // Who is let go by the one must find the other. And who hears of a grade must meet it.
            self.shared.gate.set(Hold::Soft, slows && worst >= Grade::Soft);
            self.shared.gate.set(Hold::Hard, worst == Grade::Hard);
            changes.into_iter().for_each(|(measure, before, after)| self.tell_grade(measure, before, after));
        }
    }

    /// Whether pushes wait, or are refused, until something falls.
    pub(super) fn holds_pushes(&self) -> bool {
        let Grades { memory, log, backlog, .. } = &self.state.grades;
        [memory, log, backlog].contains(&&Grade::Hard)
    }

    fn tell_grade(&self, measure: Measure, before: Grade, after: Grade) {
        if before == after {
            return;
        }
        let cells = &self.shared.counters.pressure;
        cells.cell(measure).set(after as u64);
        if before == Grade::Calm {
            cells.soft_episodes.add(1);
        }
        if after == Grade::Hard {
            cells.hard_episodes.add(1);
        }
        self.shared.tell_grade(measure, before, after);
    }

    fn memory_percent(&self) -> u64 {
        let reads = self.reads();
        let on_disk = || self.window.chunks_on_disk(self.log.durable());
        match self.shared.config.durability {
            Durability::Memory => self.share.taken_percent(reads, 0),
            Durability::Spill => self.share.margin_percent(reads, on_disk()),
            // What is being read back is no pressure: that stays within delivery's share, or takes what nobody needs.
            Durability::Immediate | Durability::Periodic(_) => {
                self.share.taken_percent(reads, on_disk() + self.reader.held())
            }
        }
    }

    fn log_percent(&self) -> u64 {
        match self.shared.config.durability {
            Durability::Memory => 0,
            _ => percent(self.log.taken_bytes(self.acked()), self.log.bytes_max()),
        }
    }

    /// Entries that have an LSN and have not had their exit, as the flush core knows it: what delivery counts of them goes
    /// from one cell to another, and is in neither for a moment.
    fn backlog(&self) -> u64 {
        let (first, next) = (self.acked().next(), self.next_lsn());
        let not_there = self.shared.holes.lock().count(first, next) + self.state.grades.done_above;
        next.since(first).saturating_sub(not_there)
    }

    fn acked(&self) -> Lsn {
        self.state.acked.max(self.log.cursor_durable())
    }

    /// What the sink is done with above `acked`, and is no hole anyhow.
    pub(super) fn note_done(&mut self, done: &[(Lsn, Lsn)]) {
        if self.shared.config.backlog_len_max.is_some() {
            let holes = self.shared.holes.lock();
            let entries = |(first, next): &(Lsn, Lsn)| next.since(*first) - holes.count(*first, *next);
            self.state.grades.done_above = done.iter().map(entries).sum();
        }
    }
}
