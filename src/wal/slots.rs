//! The places of segments: prepared ahead, used, used again, removed when there are too many.
//!
//! ```text
//!            Prepare            take_free           sealed, and a durable
//!   absent ─────────► preparing ───► free ───► live ─── cursor at its end ──► free (≤ `Spares::kept`)
//!      ▲                  │ failed: retried       ▲                       └─► retiring ──┐
//!      │                  ▼ after 1 s             │                            Remove    │
//!      │              unprepared ─────────────────┘ (Prepare first)                      │
//!      └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! W4: a slot is free only when a *durable* cursor is at or past the end of what it holds, and
//! nothing of it is in flight. A full disk is no failure: the log waits for a slot or for space.

use std::time::Duration;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::time::Instant;
use crate::wal::arena::Arena;
use crate::wal::config::Room;
use crate::wal::op::{FileId, LogId, Op};
use crate::wal::recovery::Recovered;
use crate::wal::segment::{HEADER_BLOCKS, write_free_mark};
use crate::wal::segments::SegmentTable;
use crate::wal::spares::Spares;
use crate::wal::writer::NUMBER_MASK;

/// How long a failed preparation waits.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Unprepared,
    Preparing,
    Free,
    /// `last` is the last LSN put into it; `None` while it is being filled.
    Live {
        uid: SegmentUid,
        last: Option<Lsn>,
    },
    Retiring,
}

impl Slot {
    const fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }
}

fn count(slots: &[(SlotNo, Slot)], which: impl Fn(&Slot) -> bool) -> usize {
    slots.iter().filter(|(_, state)| which(state)).count()
}

/// How much a free slot is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// Not yet.
    Nothing,
    /// One should be ready.
    Ahead,
    /// Somebody waits.
    Urgent,
}

/// A preparation under way.
#[derive(Clone, Copy, Debug)]
struct Preparing {
    number: u32,
    slot: SlotNo,
    urgent: bool,
}

pub(super) struct Slots {
    log: LogId,
    block_len: u32,
    segment_len: u64,
    slots_max: usize,
    spares: Spares,
    /// Those that are there, in order of number: names come from outside, and may leave out nearly all.
    slots: Vec<(SlotNo, Slot)>,
    preparing: Vec<Preparing>,
    removing: Option<(u32, SlotNo)>,
    retry_at: Option<Instant>,
    number: u32,
    /// Slots with reads in flight: not used again before those are over.
    reading: Vec<SlotNo>,
}

impl Slots {
    pub(super) fn new(log: LogId, slots_max: u32, spares_min: u32, recovered: &Recovered) -> Self {
        let mut slots = Self {
            log,
            block_len: recovered.meta.block_len,
            segment_len: recovered.meta.segment_len,
            slots_max: slots_max.max(2) as usize,
            spares: Spares::new(spares_min.max(1) as usize),
            slots: Vec::new(),
            preparing: Vec::with_capacity(2),
            removing: None,
            retry_at: None,
            number: 0,
            reading: Vec::with_capacity(4),
        };
        for slot in &recovered.unprepared {
            slots.set(*slot, Slot::Unprepared);
        }
        for slot in &recovered.free {
            slots.set(*slot, Slot::Free);
        }
        for live in &recovered.live {
            slots.set(live.slot, Slot::Live { uid: live.uid, last: Some(live.end) });
        }
        slots
    }

    fn set(&mut self, slot: SlotNo, state: Slot) {
        match self.find(slot) {
            Ok(at) => self.slots[at].1 = state,
            Err(at) => self.slots.insert(at, (slot, state)),
        }
    }

    fn find(&self, slot: SlotNo) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&slot, |(slot, _)| *slot)
    }

    /// The lowest number that no slot has.
    fn lowest_absent(&self) -> Option<SlotNo> {
        let taken = self.slots.iter().zip(0..).take_while(|((slot, _), number)| slot.0 == *number).count();
        u32::try_from(taken).ok().map(SlotNo)
    }

    fn count(&self, which: impl Fn(&Slot) -> bool) -> usize {
        count(&self.slots, which)
    }

    fn position(&self, which: impl Fn(&Slot) -> bool) -> Option<SlotNo> {
        self.slots.iter().find(|(_, state)| which(state)).map(|(slot, _)| *slot)
    }

    pub(super) fn live(&self) -> usize {
        self.count(Slot::is_live)
    }

    pub(super) fn free(&self) -> usize {
        self.count(|s| *s == Slot::Free)
    }

    /// Whether a slot is free now.
    pub(super) fn has_free(&self) -> bool {
        self.position(|s| *s == Slot::Free).is_some()
    }

    /// Takes a free slot for the segment `uid`.
    pub(super) fn take_free(&mut self, uid: SegmentUid) -> Option<SlotNo> {
        let slot = self.position(|s| *s == Slot::Free)?;
        self.set(slot, Slot::Live { uid, last: None });
        self.spares.take(self.live());
        Some(slot)
    }

    /// Goes on filling a live slot. Only a mutant does.
    pub(super) fn reopen(&mut self, slot: SlotNo, uid: SegmentUid) {
        self.set(slot, Slot::Live { uid, last: None });
    }

    /// Nothing more is put into this slot; its last LSN is `last`.
    pub(super) fn seal(&mut self, slot: SlotNo, last: Lsn) {
        let at = self.find(slot);
        let Ok(Slot::Live { last: open, .. }) = at.map(|at| &mut self.slots[at].1) else {
            panic!("the slot being filled is live");
        };
        *open = Some(last);
    }

    /// Says which slots are being read. True: that is news.
    pub(super) fn set_reading(&mut self, slots: impl Iterator<Item = SlotNo> + Clone) -> bool {
        let is_news = !self.reading.iter().copied().eq(slots.clone());
        if is_news {
            self.reading.clear();
            self.reading.extend(slots);
        }
        is_news
    }

    /// Frees every slot whose entries all lie at or below `limit` and that is neither read nor `busy`.
    pub(super) fn release(&mut self, limit: Lsn, busy: impl Fn(SlotNo) -> bool, segments: &mut SegmentTable) {
        for (slot, state) in &mut self.slots {
            if let Slot::Live { uid, last: Some(last) } = *state
                && last <= limit
                && !busy(*slot)
                && !self.reading.contains(slot)
            {
                *state = Slot::Free;
                segments.remove(uid);
            }
        }
    }

    /// Whether a slot would become free if the cursor on disk stood at `acked`.
    pub(super) fn would_release(&self, acked: Lsn) -> bool {
        self.slots.iter().any(|(_, s)| matches!(s, Slot::Live { last: Some(last), .. } if *last <= acked))
    }

    /// Whether a slot, neither read nor `busy`, becomes free as soon as the cursor on disk stands at `acked`.
    pub(super) fn is_coming(&self, acked: Lsn, busy: impl Fn(SlotNo) -> bool) -> bool {
        let is_still = |slot: SlotNo| !busy(slot) && !self.reading.contains(&slot);
        self.slots.iter().any(|(slot, state)| {
            matches!(state, Slot::Live { last: Some(last), .. } if *last <= acked) && is_still(*slot)
        })
    }

    /// A slot to prepare: one that is there, or one more if that is allowed.
    fn next_to_prepare(&self) -> Option<SlotNo> {
        if let Some(slot) = self.position(|s| *s == Slot::Unprepared) {
            return Some(slot);
        }
        let may_grow = self.slots.len() < self.slots_max;
        may_grow.then(|| self.lowest_absent()).flatten()
    }

    /// Whether what waits for a slot will get one.
    pub(super) fn room(&self, waiting: bool) -> Room {
        match () {
            () if !waiting || self.has_free() => Room::Ok,
            () if self.retry_at.is_some() => Room::NoSpace,
            () if !self.preparing.is_empty() || self.removing.is_some() => Room::Ok,
            () if self.next_to_prepare().is_some() => Room::Ok,
            () => Room::Full,
        }
    }

    /// One preparation at a time. But one that was begun ahead is paced, and an urgent one behind it ends
    /// its pauses: then both are done as fast as the disk can.
    fn may_prepare(&self, want: Want) -> bool {
        match want {
            Want::Nothing => false,
            Want::Ahead => self.preparing.is_empty(),
            Want::Urgent => self.preparing.len() < 2 && self.preparing.iter().all(|p| !p.urgent),
        }
    }

    /// The next preparation or removal.
    pub(super) fn poll_op(&mut self, now: Instant, want: Want, arena: &mut Arena) -> Option<(u32, Op)> {
        let slots = &self.slots;
        self.spares.advance(now, || count(slots, Slot::is_live));
        let may_try = self.retry_at.is_none_or(|at| now >= at);
        let wanted = self.may_prepare(want) && !self.has_free();
        if wanted
            && may_try
            && let Some(slot) = self.next_to_prepare()
        {
            let mut mark = arena.cut((HEADER_BLOCKS * self.block_len) as usize)?;
            write_free_mark(&mut mark, self.block_len);
            self.set(slot, Slot::Preparing);
            let number = self.next_number();
            let (file, len, urgent) = (FileId::Slot(self.log, slot), self.segment_len, want == Want::Urgent);
            self.preparing.push(Preparing { number, slot, urgent });
            return Some((number, Op::Prepare { file, len, mark: mark.freeze(), urgent }));
        }
        if self.has_surplus() && self.removing.is_none() {
            let (slot, _) = *self.slots.iter().rev().find(|(_, state)| *state == Slot::Free)?;
            self.set(slot, Slot::Retiring);
            let number = self.next_number();
            self.removing = Some((number, slot));
            return Some((number, Op::Remove { file: FileId::Slot(self.log, slot) }));
        }
        None
    }

    /// Whether there are more free slots than are kept.
    pub(super) fn has_surplus(&self) -> bool {
        let free = self.free();
        free > self.spares.fewest() && free > self.spares.kept(self.live())
    }

    /// Nothing more will be put into slots: what is free beyond the fewest goes.
    pub(super) fn close(&mut self) {
        self.spares.close();
    }

    /// Whether nothing is removed, nor is to be.
    pub(super) fn has_given_back(&self) -> bool {
        self.removing.is_none() && !self.has_surplus()
    }

    /// Another log has found no space on the disk: what is free beyond the fewest is given back at once.
    pub(super) fn disk_is_short(&mut self) {
        self.spares.refused();
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1) & NUMBER_MASK;
        self.number
    }

    /// A preparation or removal has ended. Returns whether a preparation failed.
    pub(super) fn handle_completion(&mut self, now: Instant, number: u32, done: bool) -> bool {
        if let Some((_, slot)) = self.removing.take_if(|(n, _)| *n == number) {
            // Where removal failed, who knows what is left: prepared before it is used again.
            if !done {
                self.set(slot, Slot::Unprepared);
                return false;
            }
            self.slots.retain(|(known, _)| *known != slot);
            self.retry_at = self.retry_at.map(|_| now);
            return false;
        }
        let Some(at) = self.preparing.iter().position(|p| p.number == number) else {
            panic!("a completion of something that was asked");
        };
        let slot = self.preparing.swap_remove(at).slot;
        self.set(slot, if done { Slot::Free } else { Slot::Unprepared });
        self.retry_at = (!done).then(|| now + RETRY_AFTER);
        if done {
            self.spares.given()
        } else {
            self.spares.refused()
        }
        !done
    }

    /// When a failed preparation is tried again, or fewer free slots may be kept.
    pub(super) fn poll_timeout(&self, want: Want) -> Option<Instant> {
        let again = self.retry_at.filter(|_| !self.has_free() && self.may_prepare(want));
        let falls = self.spares.falls_at();
        let falls = (self.removing.is_none() && self.free() > self.spares.fewest()).then_some(falls);
        again.into_iter().chain(falls).min()
    }
}
