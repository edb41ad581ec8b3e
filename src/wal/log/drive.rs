//! What a log does by itself: what is due, and the steps of closing.
//!
//! | phase | left when |
//! |---|---|
//! | `Open` | `close` is called: the open frame is sealed, `Spill` spills |
//! | `Flushing` | nothing is queued, held or in flight; then a SEAL, durable. What finds no slot waits for acks, or is given up when none will come |
//! | `Sealing` | the SEAL is durable |
//! | `Cursor` | the cursor on disk says all that was acknowledged |
//! | `Meta` | META says where the log ends, nothing is in flight, and no more than the spare slots are free |
//!
//! A failed log passes through all of them, and writes only the cursor and a reservation of LSNs, if that
//! still works.

use crate::lsn::{Lsn, SlotNo};
use crate::schema::Schema;
use crate::time::{Instant, UnixNanos};
use crate::wal::builder::FrameBuilder;
use crate::wal::config::{Blocked, Commit, Event, Room};
use crate::wal::meta::LogEnd;
use crate::wal::mutant::Mutant;
use crate::wal::op::{DiskError, LogId, Op, Owner, Token};
use crate::wal::segment::HEADER_BLOCKS;
use crate::wal::slots::Want;

use super::{KEEPER, Log, PART_SHIFT, Phase, SLOTS, WRITER};

impl Log {
    /// Length of a block in bytes: frames begin at multiples of it.
    #[must_use]
    pub const fn block_len(&self) -> u32 {
        self.desk.block_len
    }

    /// Whether the next [`Self::frame`] takes a chunk of the pool.
    #[must_use]
    pub fn takes_chunk(&self) -> bool {
        let rest = || self.rest.as_ref().is_some_and(|rest| rest.len() >= self.useful_rest());
        self.open.as_ref().map_or_else(|| !rest(), |open| !open.has_spare())
    }

    pub(super) fn new_frame(&mut self, now: Instant, unix: UnixNanos) -> Result<FrameBuilder, Blocked> {
        if self.writer.is_starved() {
            return Err(Blocked::Log);
        }
        let useful = self.useful_rest();
        let chunk = match self.rest.take().filter(|rest| rest.len() >= useful) {
            Some(rest) => rest,
            None => {
                let pool = self.desk.arena.pool().clone();
                self.desk.arena.refill().then(|| pool.take()).flatten().ok_or(Blocked::Pool)?
            }
        };
        let told = Some(std::mem::take(&mut self.told_runs)).filter(|told| !told.is_empty());
        let runs = told.or_else(|| self.spare_runs.pop()).unwrap_or_default();
        let chunk_len = self.desk.arena.pool().chunk_len();
        Ok(FrameBuilder::new(chunk, chunk_len, self.frame_len_max, runs, now, unix))
    }

    /// A rest much shorter than a frame would cut a backlog into crumbs.
    pub(super) fn useful_rest(&self) -> usize {
        (self.frame_len_max / 4).max(self.desk.block_len as usize)
    }

    /// Bytes of entries above `acked` that it has, on disk and in memory, with headers and padding. The segment in
    /// which `acked` lies counts by the share of its LSNs.
    #[must_use]
    pub fn backlog_bytes(&self, acked: Lsn) -> u64 {
        let block_len = u64::from(self.desk.block_len);
        let on_disk = self.desk.segments.iter().rev().take_while(|segment| segment.end > acked).map(|segment| {
            let bytes = u64::from(segment.end_position.saturating_sub(HEADER_BLOCKS)) * block_len;
            let entries = segment.end.next().since(segment.base);
            let left = segment.end.since(acked.max(segment.base.prev()));
            // By way of 128 bits: a segment of 4 GiB may hold as many entries.
            u64::try_from(u128::from(bytes) * u128::from(left) / u128::from(entries.max(1))).unwrap_or(bytes)
        });
        let open = self.open.as_ref().map_or(0, |open| open.body_len() as u64);
        on_disk.sum::<u64>() + self.writer.held_bytes() + open
    }

    /// Bytes of the segment files in which something lies above `acked`, but for the room that the newest still has: no
    /// new frame can have them before more is acknowledged.
    #[must_use]
    pub fn taken_bytes(&self, acked: Lsn) -> u64 {
        let (segments, len) = (&self.desk.segments, self.desk.segment_len);
        let filled = segments.count_above(acked) as u64 * len;
        let newest = segments.last().filter(|_| self.writer.is_active());
        let room = newest.map_or(0, |newest| len - u64::from(newest.end_position) * u64::from(self.desk.block_len));
        filled.saturating_sub(room)
    }

    /// Whether a slot comes free without another ack, once the cursor says on disk what it says already.
    #[must_use]
    pub fn will_free(&self) -> bool {
        self.slots.would_release(self.keeper.acked())
    }

    /// Bytes of the segment files that hold something.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.slots.live() as u64 * self.desk.segment_len
    }

    /// Bytes that its segment files may take at most.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.desk.config.slots_max) * self.desk.segment_len
    }

    /// Every LSN up to this one survives the death of the process: the writes up to it have completed.
    #[must_use]
    pub fn written(&self) -> Lsn {
        self.writer.written(self.desk.config.mutants)
    }

    /// From now on entries are of this schema: they go to a new segment. False: not yet, something is in memory that is
    /// not durable; try again later.
    #[must_use]
    pub fn change_schema(&mut self, now: Instant, schema: Schema) -> bool {
        if self.desk.config.schema != schema {
            if self.open_records() > 0 || self.held() > 0 || !self.writer.leave_segment(now, &mut self.desk) {
                return false;
            }
            self.desk.config.schema = schema;
        }
        true
    }

    /// Says in which slots reads are in flight: none of them is used again, or removed, before they are over.
    /// Delivery may be done with a segment while it is read: with `Spill`, from memory; or when it holds but a SKIP.
    pub fn set_reading(&mut self, slots: impl Iterator<Item = SlotNo> + Clone) {
        self.may_release |= self.slots.set_reading(slots);
    }

    /// `Immediate`: entries are about to come that are to be in the next commit. It does not wait for them any longer
    /// than until then, nor where the open frame is full before; `None`: nobody is awaited.
    pub fn set_awaits(&mut self, until: Option<Instant>) {
        self.writer.set_awaits(until);
    }

    /// Who opened the log has been told what the opening found, and what earlier ones had found and perhaps told nobody.
    pub fn opening_is_told(&mut self) {
        self.keeper.set_told();
    }

    /// Another log on this disk has found no space: segments that are free and not needed at once are given back.
    pub fn disk_is_short(&mut self) {
        self.slots.disk_is_short();
    }

    /// Nothing will be acknowledged any more: what finds no slot in a full log is given up, so that it can close.
    pub fn expect_no_acks(&mut self) {
        self.no_acks = true;
    }

    /// Whether it was closed without all that it had taken in: no slot came free for the rest.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        self.writer.given_up().is_some()
    }

    /// Once closed: how many entries from `from` on found no place in a full log and were not acknowledged.
    #[must_use]
    pub fn unplaced(&self, from: Lsn) -> u64 {
        let from = from.max(self.writer.placed_end().next()).max(self.desk.acked.next());
        if !self.is_closed() || self.failure.is_some() {
            return 0;
        }
        // With several batches out something may be done above what is acknowledged.
        let next = self.writer.next_lsn();
        next.since(from) - self.keeper.done_between(from, next)
    }

    /// Whether what is acknowledged can still come to the disk: no write of cursor or META has failed.
    #[must_use]
    pub const fn keeps_cursor(&self) -> bool {
        !self.keeper_failed
    }

    /// Whether what is not durable may go to the sink. Once the log has failed, its LSNs must first be kept
    /// from the entries of the next opening; where META cannot be written either nothing can be done about that. Those of
    /// the park that are not durable nobody sees: nothing is to be kept.
    #[must_use]
    pub fn keeps_numbers(&self) -> bool {
        let keeps_none = self.failure.is_none() || self.keeper_failed || self.desk.config.log == LogId::Park;
        keeps_none || self.keeper.has_reserved_rest(self.writer.next_lsn())
    }

    /// The write of the cursor, at once and alone, if the disk does not know all of it: for opening, which goes on when that
    /// is durable.
    pub fn poll_cursor(&mut self, now: Instant) -> Option<(Token, Op)> {
        self.keeper.urge();
        let (number, op) = self.keeper.poll_cursor(now, self.writer.durable(), &mut self.desk.arena)?;
        self.desk.stats.cursors += 1;
        self.outstanding += 1;
        Some((self.token(KEEPER, number), op))
    }

    pub(super) fn token(&self, part: u32, number: u32) -> Token {
        Token { owner: Owner::Log(self.desk.config.log), number: part << PART_SHIFT | number }
    }

    pub(super) fn next_op(&mut self, now: Instant) -> Option<(u32, (u32, Op))> {
        if let Some(op) = self.writer.poll_op(&mut self.desk) {
            return Some((WRITER, op));
        }
        if self.phase == Phase::Closed {
            return None;
        }
        if !self.keeper_failed
            && let Some(op) = self.keeper.poll_cursor(now, self.writer.durable(), &mut self.desk.arena)
        {
            self.desk.stats.cursors += 1;
            return Some((KEEPER, op));
        }
        if self.failure.is_some() {
            // Nobody has seen numbers of the park that are not durable, and numbers that are left out there would count
            // as parked entries.
            if self.keeper_failed || self.desk.config.log == LogId::Park {
                return None;
            }
            let op = self.keeper.poll_reserve_rest(self.writer.next_lsn(), &mut self.desk.arena);
            return op.map(|op| (KEEPER, op));
        }
        self.poll_meta().map(|op| (KEEPER, op)).or_else(|| {
            let want = self.want_slot();
            self.slots.poll_op(now, want, &mut self.desk.arena).map(|op| (SLOTS, op))
        })
    }

    fn poll_meta(&mut self) -> Option<(u32, Op)> {
        let next_lsn = self.writer.next_lsn();
        if self.phase == Phase::Meta {
            // The end is a promise: what is not in the log counts only where the cursor on disk has it.
            let lsn = self.writer.placed_end().max(self.keeper.cursor_durable());
            let end = LogEnd { lsn, uid: self.writer.link() };
            // With `Spill` a sink may have seen the numbers that were given up for want of a slot: they stay taken.
            // Elsewhere nobody has, and a number of the park that is no entry can never be taken out of it: its
            // cursor would stand still there, and no segment behind it come free.
            let given_up = self.writer.given_up().filter(|_| self.desk.config.commit != Commit::Spill);
            let next_lsn = given_up.unwrap_or(next_lsn);
            let reserved = if next_lsn > lsn.next() { next_lsn.prev() } else { Lsn::ZERO };
            return self.keeper.poll_clean(end, reserved, &mut self.desk.arena);
        }
        if self.phase == Phase::Open
            && let Some(op) = self.keeper.poll_told(&mut self.desk.arena)
        {
            return Some(op);
        }
        let blind = self.desk.config.mutants.has(Mutant::NoReserve);
        let reserves = self.phase == Phase::Open && self.desk.config.commit == Commit::Spill && !blind;
        reserves.then(|| self.keeper.poll_reserve(next_lsn, &mut self.desk.arena)).flatten()
    }

    pub(super) fn want_slot(&self) -> Want {
        let pool = self.desk.arena.pool();
        let memory_left = self.desk.config.commit == Commit::Spill && pool.free() * 2 > pool.chunks();
        match () {
            // Not with `Spill`: there memory is short by the time that anything is written.
            () if self.desk.config.commit != Commit::Spill && self.waits_for_cursor() => Want::Nothing,
            () if self.writer.is_starved() => Want::Urgent,
            () if self.phase != Phase::Open || memory_left => Want::Nothing,
            // Nobody's commits are disturbed yet, and the first entry is about to wait.
            () if !self.writer.is_active() => Want::Urgent,
            () if self.writer.wants_slot(&self.desk) => Want::Ahead,
            () => Want::Nothing,
        }
    }

    /// Whether a slot is about to come free: that is sooner, and costs less, than to prepare one.
    fn waits_for_cursor(&self) -> bool {
        let is_coming = || self.slots.is_coming(self.keeper.acked(), |slot| self.writer.is_busy(slot));
        !self.keeper.cursor_is_kept() && is_coming()
    }

    /// Does what is due at `now`.
    pub(super) fn drive(&mut self, now: Instant) {
        self.driven = now;
        if self.failure.is_none() {
            self.release();
            self.drive_open(now);
            self.writer.drive_queue(now, &mut self.desk, &mut self.slots);
            if self.writer.is_keyless() {
                let detail = "the cipher gives no key for a new segment";
                self.fail(DiskError { what: "encrypt", file: None, offset: None, errno: 0, detail });
            }
            self.writer.drive_group(now, &mut self.desk);
            if self.open_records() == 0 && self.phase == Phase::Open {
                self.writer.drive_mark(now, &mut self.desk);
            }
        }
        self.drive_close(now);
        let room = self.slots.room(self.writer.is_starved());
        if room != self.room {
            self.room = room;
            self.desk.events.push_back(Event::Room(room));
        }
    }

    /// Seals the open frame where that is due.
    fn drive_open(&mut self, now: Instant) {
        let open = self.open.as_ref().filter(|open| open.records() > 0);
        let (opened, open_len) = (open.map(FrameBuilder::opened), open.map_or(0, FrameBuilder::body_len));
        match self.desk.config.commit {
            Commit::Immediate => {
                let turn = !self.writer.has_queue() && self.writer.may_start(now, open_len, &self.desk);
                if turn && !self.writer.awaits(now) && !self.writer.is_starved() {
                    self.seal_open();
                }
            }
            Commit::Periodic(within) => {
                if self.writer.sync_due(within, opened).is_some_and(|at| now >= at) {
                    self.writer.want_sync();
                }
                if self.writer.group_begins() {
                    self.seal_open();
                }
            }
            Commit::Spill => {
                if self.writer.group_begins() {
                    self.seal_open();
                    self.writer.spill();
                }
                let blind = self.desk.config.mutants.has(Mutant::NoReserve);
                let reserved = if blind { self.writer.next_lsn() } else { self.keeper.reserved() };
                self.writer.give_ready(reserved, &mut self.desk);
            }
        }
    }

    /// W4: frees the slots that a durable cursor has passed, and sees to the cursor if one is needed.
    fn release(&mut self) {
        let early = self.desk.config.mutants.has(Mutant::RecycleEarly);
        let limit = if early { self.desk.acked } else { self.keeper.cursor_durable() };
        if std::mem::take(&mut self.may_release) {
            self.slots.release(limit, |slot| self.writer.is_busy(slot), &mut self.desk.segments);
        }
        let waits = self.writer.is_starved() || self.writer.wants_slot(&self.desk) && !self.slots.has_free();
        if waits && self.slots.would_release(self.keeper.acked()) {
            self.keeper.urge();
        }
    }

    /// While closing: whether what waits for a slot will get none. The cursor comes first, it may free one.
    fn is_full_for_good(&mut self) -> bool {
        if !self.no_acks || !self.writer.is_starved() || matches!(self.slots.room(true), Room::Ok) {
            return false;
        }
        self.keeper.urge();
        self.keeper.cursor_is_kept() && !self.slots.would_release(self.keeper.cursor_durable())
    }

    fn drive_close(&mut self, now: Instant) {
        let failed = self.failure.is_some();
        if self.phase == Phase::Flushing && !failed && self.is_full_for_good() {
            self.writer.give_up_unplaced();
        }
        if self.phase == Phase::Flushing && (failed || self.writer.held() == 0 && self.writer.is_idle()) {
            if !failed {
                self.writer.seal_active(true, now, &mut self.desk);
            }
            self.phase = Phase::Sealing;
        }
        if self.phase == Phase::Sealing && (failed || self.writer.is_idle()) {
            self.phase = Phase::Cursor;
        }
        if self.phase == Phase::Cursor {
            self.keeper.urge();
            if self.keeper_failed || self.keeper.cursor_is_kept() {
                self.phase = Phase::Meta;
            }
        }
        if self.phase != Phase::Open {
            self.slots.close();
        }
        let is_over = || self.keeper.is_clean() && self.slots.has_given_back();
        if self.phase == Phase::Meta && self.outstanding == 0 && (failed || is_over()) {
            self.phase = Phase::Closed;
            self.desk.events.push_back(Event::Closed);
        }
    }
}
