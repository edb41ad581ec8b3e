//! The way of a frame to the disk.
//!
//! ```text
//!   open ──► sealed ──► placed ──► written ──► durable
//!   filled   has its    has segment, its write    in LSN order: acknowledged,
//!            LSNs       position,    completed    given to delivery
//!                       promise; its
//!                       write is out
//! ```
//! | | `Immediate` | `Periodic` | `Spill` |
//! |---|---|---|---|
//! | placed | when the commit before it completes (see `start`) | when sealed | when spilled |
//! | write | DSYNC | plain | plain, the header's block apart from the rest |
//! | durable | written | a sync that began after it was written has ended | as `Periodic` |
//! | to delivery | durable | durable | when its LSNs are reserved |
//!
//! The pipeline holds what is placed and not yet durable, in the order of placing. Completions come
//! in any order; only its front is taken off.
//!
//! # Rules
//! | | rule | where |
//! |---|---|---|
//! | W1 | acknowledged strictly in LSN order | `settle_front` |
//! | W2 | a frame promises what is durable when it is built | `promise` |
//! | W3 | at most one segment header is not durable | `rotate` |
//! | W4 | a slot is free only when a durable cursor has passed it | `Log::release` |
//! | W5 | LSNs have no gaps and are never reused: what is left out is said by a SKIP | `seal`, `place_front` |
//! | W6 | a (uid, LSN) has one content: nothing placed is ever placed again | `place_front` |

mod group;
mod place;
mod start;

use std::collections::VecDeque;
use std::time::Duration;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::time::{Instant, UnixNanos};
use crate::wal::arena::Arena;
use crate::wal::block::{Block, BlockMut};
use crate::wal::builder::Sealed;
use crate::wal::coding::encoder::Encoder;
use crate::wal::coding::{BodyCoding, SegmentCipher};
use crate::wal::config::{Commit, Event, LogConfig};
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind, RunEnd};
use crate::wal::mutant::Mutant;
use crate::wal::op::{FileId, Op};
use crate::wal::recovery::Recovered;
use crate::wal::segment::StoreId;
use crate::wal::segments::SegmentTable;
use crate::wal::stats::LogStats;

/// What the parts of a log share.
pub(super) struct Desk {
    pub(super) config: LogConfig,
    pub(super) store: StoreId,
    pub(super) epoch: u64,
    pub(super) block_len: u32,
    pub(super) segment_len: u64,
    pub(super) arena: Arena,
    /// Compresses and encrypts; `None`: frames are stored as they are.
    pub(super) encoder: Option<Encoder>,
    pub(super) events: VecDeque<Event>,
    pub(super) segments: SegmentTable,
    pub(super) stats: LogStats,
    /// What the sink is done with.
    pub(super) acked: Lsn,
}

/// Where the bytes of a sealed frame are.
enum Bytes {
    /// Not shown to anybody: the header is still to be written into it.
    Own(BlockMut),
    /// Delivery reads it already; its first bytes stay zero.
    Shared(Block),
}

/// A sealed frame that has no place yet.
struct Waiting {
    first: Lsn,
    next: Lsn,
    bytes: Bytes,
    body_len: u32,
    records: u32,
    runs: Vec<RunEnd>,
    opened: Instant,
    time: UnixNanos,
    /// Delivery has it.
    ready: bool,
}

/// The segment that is being filled.
struct Active {
    slot: SlotNo,
    uid: SegmentUid,
    /// Next block to be written.
    position: u32,
    sealed: bool,
    /// Encrypts what is written into it.
    cipher: Option<Box<dyn SegmentCipher>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Header,
    Data,
    Skip,
    /// MARK, and SEAL at the end of a full segment: plain writes that nothing depends on.
    Note,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Flying,
    Written,
    /// A sync that covers it is in flight.
    Syncing,
    Durable,
}

/// Something placed and not yet taken off the pipeline.
struct Entry {
    /// Its ops are numbered from here on.
    number: u32,
    /// Ops it was made of: two for a frame that delivery reads already, else one.
    ops: u32,
    /// Ops of it that have not completed.
    parts: u32,
    kind: Kind,
    state: State,
    dsync: bool,
    slot: SlotNo,
    uid: SegmentUid,
    /// Last LSN up to and with this entry.
    end: Lsn,
    /// First block behind it.
    end_position: u32,
    submitted: Instant,
    opened: Instant,
    frame: Option<Frame>,
    ready: bool,
}

impl Desk {
    fn commit_took(&mut self, took: Duration) {
        self.stats.commit_took(took);
        self.events.push_back(Event::Committed(took));
    }
}

pub(super) struct Writer {
    /// Sealed, to be placed as soon as it may.
    queue: VecDeque<Waiting>,
    /// Sealed, kept in memory (`Spill`).
    held: VecDeque<Waiting>,
    pipeline: VecDeque<Entry>,
    active: Option<Active>,
    /// The newest segment that holds a record.
    link: SegmentUid,
    seq: u64,
    chance: u64,
    /// Given to the next record.
    next_lsn: Lsn,
    /// Last LSN that has a place.
    placed_end: Lsn,
    durable: Lsn,
    /// What was said to be durable or in no need of it.
    settled: Lsn,
    /// The newest promise that was placed.
    promised: Lsn,
    ops: VecDeque<(u32, Op)>,
    number: u32,
    group: group::Group,
    /// A frame could not be placed for want of a slot.
    starved: bool,
    /// More is awaited for the open frame until then.
    awaits: Option<Instant>,
    /// The first that was taken in and will never be written.
    given_up: Option<Lsn>,
    /// The cipher has no key for a new segment: nothing more can be written.
    keyless: bool,
    idle_since: Instant,
}

impl Writer {
    pub(super) fn new(recovered: &Recovered, config: &LogConfig) -> Self {
        let next_lsn = recovered.next_lsn.max(recovered.end.next()).max(config.lsn_floor.next());
        let mut link = recovered.tail_uid;
        let mut active = None;
        if let Some(last) = recovered.live.last() {
            if config.mutants.has(Mutant::LinkToEmpty) && last.is_empty() {
                link = last.uid;
            }
            if config.mutants.has(Mutant::AppendToTail) {
                let position = last.end_position;
                active = Some(Active { slot: last.slot, uid: last.uid, position, sealed: false, cipher: None });
            }
        }
        Self {
            queue: VecDeque::new(),
            held: VecDeque::new(),
            pipeline: VecDeque::new(),
            active,
            link,
            seq: recovered.seq_max,
            chance: config.seed,
            next_lsn,
            placed_end: recovered.end,
            durable: recovered.end,
            settled: recovered.end,
            promised: recovered.end,
            ops: VecDeque::new(),
            number: 0,
            group: group::Group::default(),
            starved: false,
            awaits: None,
            given_up: None,
            keyless: false,
            idle_since: Instant::START,
        }
    }

    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    pub(super) fn settled(&self) -> Lsn {
        self.settled
    }

    pub(super) fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    pub(super) fn placed_end(&self) -> Lsn {
        self.placed_end
    }

    pub(super) fn link(&self) -> SegmentUid {
        self.link
    }

    pub(super) fn given_up(&self) -> Option<Lsn> {
        self.given_up
    }

    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether a segment could not be begun because the cipher has no key for it.
    pub(super) fn is_keyless(&self) -> bool {
        self.keyless
    }

    /// Whether a segment is being filled.
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Frames that are sealed and not durable, wherever they are.
    pub(super) fn held(&self) -> usize {
        self.held.len() + self.queue.len() + self.pipeline.iter().filter(|e| e.kind == Kind::Data).count()
    }

    /// Bytes of the frames that are sealed and not durable, as they are on disk.
    pub(super) fn held_bytes(&self) -> u64 {
        let waiting = self.queue.iter().chain(&self.held).map(|w| FRAME_HEADER_LEN as u64 + u64::from(w.body_len));
        let placed = self.pipeline.iter().filter_map(|e| Some(e.frame.as_ref()?.block.len() as u64));
        waiting.chain(placed).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.pipeline.is_empty()
    }

    /// Whether a write into this slot is not over, or waits for its sync.
    pub(super) fn is_busy(&self, slot: SlotNo) -> bool {
        self.pipeline.iter().any(|e| e.slot == slot)
    }

    /// The slot being filled, if it is at least half full.
    pub(super) fn wants_slot(&self, desk: &Desk) -> bool {
        self.active.as_ref().is_none_or(|a| a.position >= segment_blocks(desk) / 2)
    }

    /// Gives a sealed frame its LSNs.
    pub(super) fn seal(&mut self, sealed: Sealed, desk: &mut Desk) {
        let first = self.next_lsn;
        let next = first.advance(u64::from(sealed.records));
        self.next_lsn = next;
        desk.stats.frames += 1;
        desk.stats.records += u64::from(sealed.records);
        let spill = desk.config.commit == Commit::Spill;
        let bytes = if spill { Bytes::Shared(sealed.block.freeze()) } else { Bytes::Own(sealed.block) };
        let Sealed { body_len, records, runs, opened, time, .. } = sealed;
        let waiting = Waiting { first, next, bytes, body_len, records, runs, opened, time, ready: false };
        if spill { self.held.push_back(waiting) } else { self.queue.push_back(waiting) }
    }

    /// Everything that is held is to be written, and synced.
    pub(super) fn spill(&mut self) {
        self.queue.append(&mut self.held);
    }

    /// `Spill`: gives delivery what is reserved, in LSN order.
    pub(super) fn give_ready(&mut self, reserved: Lsn, desk: &mut Desk) {
        if self.pipeline.iter().any(|e| e.frame.is_some() && !e.ready) {
            // Placed before they were reserved: they go out when they are durable, and the rest after them.
            return;
        }
        for waiting in self.queue.iter_mut().chain(&mut self.held).filter(|w| !w.ready) {
            if waiting.next.prev() > reserved {
                break;
            }
            waiting.ready = true;
            desk.events.push_back(Event::Ready(waiting.frame()));
        }
    }

    /// `Spill`: what the sink is done with need not be written any more.
    pub(super) fn drop_acked(&mut self, desk: &mut Desk) {
        let acked = desk.acked;
        for entry in self.pipeline.iter_mut().filter(|e| e.end <= acked) {
            if let Some(frame) = &mut entry.frame
                && entry.end > self.settled
            {
                self.settled = entry.end;
                let runs = std::mem::take(&mut frame.runs);
                desk.events.push_back(Event::Durable { lsn: entry.end, runs, took: None });
            }
        }
        for waiting in [&mut self.queue, &mut self.held] {
            while waiting.front().is_some_and(|w| w.ready && w.next.prev() <= acked) {
                let Some(frame) = waiting.pop_front() else { break };
                self.settled = frame.next.prev();
                desk.events.push_back(Event::Durable { lsn: self.settled, runs: frame.runs, took: None });
            }
        }
    }

    /// A write has completed.
    pub(super) fn handle_written(&mut self, now: Instant, number: u32, desk: &mut Desk) {
        let Some(entry) = self.pipeline.iter_mut().find(|e| e.asked(number)) else {
            // Only a mutant takes an entry off before its writes are over.
            let early = [Mutant::SyncEarly, Mutant::PartIsAll].iter().any(|m| desk.config.mutants.has(*m));
            assert!(early, "a completion of something that was asked");
            return;
        };
        entry.parts -= if desk.config.mutants.has(Mutant::PartIsAll) { entry.parts } else { 1 };
        if entry.parts > 0 || entry.state != State::Flying {
            return;
        }
        let took = now.since(entry.submitted);
        if entry.kind == Kind::Data {
            self.group.write_took(took);
        }
        if !entry.dsync && entry.kind != Kind::Note {
            entry.state = State::Written;
            return;
        }
        entry.state = State::Durable;
        if entry.kind == Kind::Data {
            desk.commit_took(took);
            if desk.config.mutants.has(Mutant::AckOutOfOrder) {
                self.durable = self.durable.max(entry.end);
                desk.events.push_back(Event::Durable { lsn: self.durable, runs: Vec::new(), took: None });
            }
        }
        self.settle_front(now, desk);
    }

    /// W1: takes off what is durable at the front, and only there.
    fn settle_front(&mut self, now: Instant, desk: &mut Desk) {
        let before = self.durable;
        while self.pipeline.front().is_some_and(|e| e.state == State::Durable) {
            let Some(entry) = self.pipeline.pop_front() else { break };
            if entry.kind != Kind::Header {
                desk.segments.extend_end(entry.uid, entry.end, entry.end_position);
            }
            if matches!(entry.kind, Kind::Header | Kind::Note) {
                continue;
            }
            self.durable = self.durable.max(entry.end);
            let mut runs = Vec::new();
            if let Some(mut frame) = entry.frame {
                runs = std::mem::take(&mut frame.runs);
                if !entry.ready {
                    desk.events.push_back(Event::Ready(frame));
                }
            }
            if entry.end > self.settled {
                self.settled = entry.end;
                let took = (entry.kind == Kind::Data).then(|| now.since(entry.opened));
                desk.events.push_back(Event::Durable { lsn: entry.end, runs, took });
            }
        }
        if self.durable > before {
            desk.stats.groups += 1;
        }
        if self.pipeline.is_empty() {
            self.idle_since = now;
        }
    }

    /// Gives up what has no place and will get none: how far it goes stays taken.
    pub(super) fn give_up_unplaced(&mut self) {
        self.given_up = self.given_up.or_else(|| self.queue.iter().chain(&self.held).next().map(|first| first.first));
        self.queue.clear();
        self.held.clear();
        self.starved = false;
    }

    /// After a failure: what is in memory and not durable goes to delivery, nothing goes to the disk. With
    /// `Spill` it may have gone there before, and not have been kept, as it was about to be written.
    pub(super) fn abandon(&mut self, desk: &mut Desk) {
        self.ops.clear();
        self.group = group::Group::default();
        for entry in self.pipeline.drain(..) {
            if let Some(mut frame) = entry.frame {
                frame.place = None;
                frame.runs = Vec::new();
                desk.events.push_back(Event::Ready(frame));
            }
        }
        for mut waiting in self.queue.drain(..).chain(self.held.drain(..)) {
            desk.events.push_back(Event::Ready(waiting.frame()));
        }
        self.starved = false;
    }

    pub(super) fn poll_op(&mut self, desk: &mut Desk) -> Option<(u32, Op)> {
        let op = self.ops.pop_front()?;
        match op.1 {
            Op::Sync { .. } => desk.stats.syncs += 1,
            _ => desk.stats.writes += 1,
        }
        Some(op)
    }

    fn write(&mut self, desk: &Desk, slot: SlotNo, position: u32, block: Block, dsync: bool) {
        let file = FileId::Slot(desk.config.log, slot);
        let offset = u64::from(position) * u64::from(desk.block_len);
        assert!(offset + block.len() as u64 <= desk.segment_len, "a write lies within its segment");
        // A segment's header stays what it is: that one is W3's.
        let dsync = dsync && (position == 0 || !desk.config.mutants.has(Mutant::NoDsync));
        self.ops.push_back((self.number, Op::Write { file, offset, block, dsync }));
        self.number = self.number.wrapping_add(1) & NUMBER_MASK;
    }
}

/// Numbers of ops stay within this, so that the log can say in a token which part asked.
pub(super) const NUMBER_MASK: u32 = (1 << 30) - 1;

impl Entry {
    /// Whether this op is one of it.
    fn asked(&self, number: u32) -> bool {
        number.wrapping_sub(self.number) & NUMBER_MASK < self.ops
    }
}

impl Waiting {
    /// The frame for delivery, from memory.
    fn frame(&mut self) -> Frame {
        let block = match &mut self.bytes {
            Bytes::Shared(block) => block.clone(),
            Bytes::Own(own) => {
                let block = own.freeze_front(own.len());
                self.bytes = Bytes::Shared(block.clone());
                block
            }
        };
        Frame { header: self.header(SegmentUid::NONE, 0), block, runs: Vec::new(), place: None }
    }

    fn header(&self, seg_uid: SegmentUid, position: u32) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Data,
            seg_uid,
            first_lsn: self.first,
            next_lsn: self.next,
            durable_lsn: Lsn::ZERO,
            acked_lsn: Lsn::ZERO,
            time: self.time,
            position,
            record_count: self.records,
            coding: BodyCoding::PLAIN,
            body_len: self.body_len,
            raw_len: self.body_len,
            body_crc: 0,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a position in a segment is a u32 by the format")]
fn segment_blocks(desk: &Desk) -> u32 {
    (desk.segment_len / u64::from(desk.block_len)) as u32
}
