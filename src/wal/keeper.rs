//! Writes the cursor and META: two copies each, in turn, so that one is always whole.
//!
//! ```text
//!   generation   4   5   6   7 …        one write in flight per pair, durable when it completes:
//!   place        A   B   A   B          the copy that holds is never touched
//! ```
//! | the cursor is written                          | META is written                          |
//! |------------------------------------------------|------------------------------------------|
//! | `cursor_every` after the first unwritten ack   | `Spill`: half of the reserved LSNs are used |
//! | after 64 acknowledgements                      | at close: where the log ended            |
//! | at once when a slot waits for it, and at close | who opened knows what was untold, if anything was |
//! |                                                | the log has failed: what is delivered from memory is reserved |
//!
//! A reservation is what lets `Spill` show entries to a sink before they are in the log: after a
//! crash, no LSN up to it is given out a second time.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::time::Instant;
use crate::wal::arena::Arena;
use crate::wal::config::LogConfig;
use crate::wal::cursor::{CURSOR_ATTEMPTS_MAX, CURSOR_RANGES_MAX, Cursor, cursor_copy_len, cursor_offset};
use crate::wal::meta::{LogEnd, Meta, meta_copy_len, meta_offset};
use crate::wal::mutant::Mutant;
use crate::wal::op::{FileId, Op};
use crate::wal::untold::Untold;

use crate::wal::writer::NUMBER_MASK;

/// So many acknowledgements make the cursor due.
const ACKS_MAX: u32 = 64;
/// LSNs that are reserved ahead.
pub(super) const RESERVE_AHEAD: u64 = 1 << 20;

/// LSNs that are reserved when the log has failed: more than rings of any size hold entries.
pub(crate) const RESERVE_AFTER_FAILURE: u64 = 1 << 32;

pub(super) struct Keeper {
    file: FileId,
    every: Duration,
    /// As it was last written or is being written.
    meta: Meta,
    meta_flight: Option<u32>,
    /// LSNs up to this one are reserved, durably.
    reserved: Lsn,
    clean: bool,
    /// Who opened the log knows what META says to be untold.
    told: bool,
    /// What the next write will say; `generation` is that of the last write.
    cursor: Cursor,
    cursor_flight: Option<(u32, Lsn)>,
    cursor_durable: Lsn,
    dirty_since: Option<Instant>,
    acks: u32,
    urgent: bool,
    number: u32,
    /// A mutant: every cursor is written over the one before.
    in_place: bool,
}

/// What the completion of one of its writes means.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// The cursor on disk stands here.
    Cursor(Lsn),
    /// META is durable.
    Meta,
}

impl Keeper {
    pub(super) fn new(config: &LogConfig, meta: Meta, cursor: Cursor) -> Self {
        Self {
            file: FileId::Meta(config.log),
            every: config.cursor_every,
            in_place: config.mutants.has(Mutant::CursorInPlace),
            meta_flight: None,
            reserved: Lsn::ZERO,
            clean: false,
            told: false,
            cursor_durable: cursor.acked,
            cursor: Cursor { epoch: meta.epoch, ..cursor },
            meta,
            cursor_flight: None,
            dirty_since: None,
            acks: 0,
            urgent: false,
            number: 0,
        }
    }

    pub(super) fn cursor_durable(&self) -> Lsn {
        self.cursor_durable
    }

    pub(super) fn acked(&self) -> Lsn {
        self.cursor.acked
    }

    pub(super) fn reserved(&self) -> Lsn {
        self.reserved
    }

    pub(super) fn is_clean(&self) -> bool {
        self.clean && self.meta_flight.is_none()
    }

    /// How many of `from..next` are in finished runs above what is acknowledged.
    pub(super) fn done_between(&self, from: Lsn, next: Lsn) -> u64 {
        self.cursor.done.iter().map(|(first, end)| (*end).min(next).since((*first).max(from))).sum()
    }

    /// Whether the disk knows all that was acknowledged.
    pub(super) fn cursor_is_kept(&self) -> bool {
        self.dirty_since.is_none() && self.cursor_flight.is_none()
    }

    /// Takes in what the sink is done with.
    pub(super) fn ack(&mut self, now: Instant, acked: Lsn, done: &[(Lsn, Lsn)], attempts: &[(Lsn, u32)]) {
        assert!(acked >= self.cursor.acked, "the cursor never falls");
        self.cursor.acked = acked;
        self.cursor.done.clear();
        // What does not fit is delivered once more after a crash, no worse.
        self.cursor.done.extend(done.iter().take(CURSOR_RANGES_MAX));
        self.cursor.attempts.clear();
        self.cursor.attempts.extend(attempts.iter().take(CURSOR_ATTEMPTS_MAX));
        self.acks += 1;
        self.dirty_since.get_or_insert(now);
    }

    /// Somebody waits for the cursor.
    pub(super) fn urge(&mut self) {
        self.urgent = self.dirty_since.is_some();
    }

    /// The next cursor write, if one is due.
    pub(super) fn poll_cursor(&mut self, now: Instant, durable: Lsn, arena: &mut Arena) -> Option<(u32, Op)> {
        let since = self.dirty_since?;
        let due = self.urgent || self.acks >= ACKS_MAX || now >= since + self.every;
        if !due || self.cursor_flight.is_some() {
            return None;
        }
        let len = usize::try_from(cursor_copy_len(self.meta.block_len)).ok()?;
        let mut block = arena.cut(len)?;
        self.cursor.generation += if self.in_place { 2 } else { 1 };
        self.cursor.durable = durable;
        self.cursor.encode(&mut block);
        (self.dirty_since, self.acks, self.urgent) = (None, 0, false);
        let number = self.next_number();
        self.cursor_flight = Some((number, self.cursor.acked));
        let offset = cursor_offset(self.cursor.generation, self.meta.block_len);
        Some((number, Op::Write { file: self.file, offset, block: block.freeze(), dsync: true }))
    }

    /// Reserves more LSNs, if half of what was reserved ahead is used up.
    pub(super) fn poll_reserve(&mut self, next_lsn: Lsn, arena: &mut Arena) -> Option<(u32, Op)> {
        if self.meta_flight.is_some() || self.reserved.since(next_lsn) >= RESERVE_AHEAD / 2 {
            return None;
        }
        self.write_meta(arena, |meta| meta.reserved_lsn = next_lsn.advance(RESERVE_AHEAD))
    }

    /// Reserves everything that may still be given out by a log that has failed at `next_lsn`.
    pub(super) fn poll_reserve_rest(&mut self, next_lsn: Lsn, arena: &mut Arena) -> Option<(u32, Op)> {
        if self.meta_flight.is_some() || self.has_reserved_rest(next_lsn) {
            return None;
        }
        self.write_meta(arena, |meta| meta.reserved_lsn = next_lsn.advance(RESERVE_AFTER_FAILURE))
    }

    /// Whether it has done so.
    pub(super) fn has_reserved_rest(&self, next_lsn: Lsn) -> bool {
        self.reserved.since(next_lsn) >= RESERVE_AFTER_FAILURE
    }

    /// Who opened the log has been told what there was to tell.
    pub(super) fn set_told(&mut self) {
        self.told = true;
    }

    /// Writes that nothing is untold any more, if something was.
    pub(super) fn poll_told(&mut self, arena: &mut Arena) -> Option<(u32, Op)> {
        if !self.told || self.meta.untold.is_empty() || self.meta_flight.is_some() {
            return None;
        }
        self.write_meta(arena, |_| {})
    }

    /// Writes that the log was closed in order and ends here. LSNs up to `reserved` stay reserved.
    pub(super) fn poll_clean(&mut self, end: LogEnd, reserved: Lsn, arena: &mut Arena) -> Option<(u32, Op)> {
        if self.clean || self.meta_flight.is_some() {
            return None;
        }
        let op = self.write_meta(arena, |meta| {
            meta.clean = Some(end);
            meta.reserved_lsn = reserved;
        })?;
        self.clean = true;
        Some(op)
    }

    fn write_meta(&mut self, arena: &mut Arena, change: impl FnOnce(&mut Meta)) -> Option<(u32, Op)> {
        let mut block = arena.cut(usize::try_from(meta_copy_len(self.meta.block_len)).ok()?)?;
        change(&mut self.meta);
        if self.told {
            self.meta.untold = Untold::default();
        }
        self.meta.generation += 1;
        self.meta.encode(&mut block);
        let number = self.next_number();
        self.meta_flight = Some(number);
        let offset = meta_offset(self.meta.generation, self.meta.block_len);
        Some((number, Op::Write { file: self.file, offset, block: block.freeze(), dsync: true }))
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1) & NUMBER_MASK;
        self.number
    }

    /// One of its writes is durable.
    pub(super) fn handle_done(&mut self, number: u32) -> Kept {
        if let Some((_, acked)) = self.cursor_flight.take_if(|(n, _)| *n == number) {
            self.cursor_durable = acked;
            return Kept::Cursor(acked);
        }
        assert_eq!(self.meta_flight.take(), Some(number), "a completion of something that was asked");
        self.reserved = self.meta.reserved_lsn;
        Kept::Meta
    }

    /// The earliest moment at which a write becomes due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.dirty_since.filter(|_| self.cursor_flight.is_none()).map(|since| since + self.every)
    }
}
