//! Where a frame goes, and its bytes there.
//!
//! ```text
//!   segment 7  │ header │ frame │ frame │ SEAL │      the frame does not fit: SEAL if a block is
//!   segment 8  │ header │ frame …                     left, header and frame go out together
//! ```
//! The header of a segment is one write over both its copies, durable when it completes. The frame
//! behind it is acknowledged only when both are, because the pipeline keeps their order.

use crate::lsn::{Lsn, SegmentUid};
use crate::time::{Instant, UnixNanos};
use crate::wal::codec::crc;
use crate::wal::coding::BodyCoding;
use crate::wal::coding::SegmentIdentity;
use crate::wal::coding::encoder::{Encoder, Plan};
use crate::wal::config::Commit;
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind, Place};
use crate::wal::mutant::Mutant;
use crate::wal::segment::{HEADER_BLOCKS, SegmentHeader};
use crate::wal::segments::LiveSegment;
use crate::wal::slots::Slots;

use super::{Active, Bytes, Desk, Entry, Kind, State, Writer, segment_blocks};

impl Writer {
    /// W2: what a frame or header that is built now may promise.
    fn promise(&self, desk: &Desk) -> Lsn {
        if desk.config.mutants.has(Mutant::PromiseEarly) { self.placed_end } else { self.durable }
    }

    /// Places the frame at the queue's front, with a SKIP before it where LSNs were left out.
    /// False: there is no slot, or no memory for a header, or a header is in flight.
    pub(super) fn place_front(&mut self, now: Instant, desk: &mut Desk, slots: &mut Slots) -> bool {
        let Some(front) = self.queue.front() else { return false };
        let (first, time, opened) = (front.first, front.time, front.opened);
        let len = match &front.bytes {
            Bytes::Own(block) => block.len(),
            Bytes::Shared(block) => block.len(),
        };
        assert!(first > self.placed_end, "what has a place gets no second one");
        if first > self.placed_end.next() && !desk.config.mutants.has(Mutant::NoSkip) {
            if !self.make_room(1, now, time, desk, slots) || !desk.arena.has(desk.block_len as usize) {
                return false;
            }
            let dsync = desk.config.commit == Commit::Immediate;
            let placed = self.place_note(FrameKind::Skip, first, dsync, now, opened, desk);
            assert!(placed, "memory was there");
        }
        let block_len = desk.block_len as usize;
        let plan = self.plan_front(block_len, desk);
        let stored_len = plan.map_or(len, |plan| plan.stored_len(block_len));
        let blocks = u32::try_from(stored_len / block_len).unwrap_or(u32::MAX);
        if !self.make_room(blocks, now, time, desk, slots) {
            return false;
        }
        let shared = matches!(front_bytes(self), Some(Bytes::Shared(_)));
        let has_memory = match (plan, &mut desk.encoder) {
            (Some(plan), Some(encoder)) => encoder.has_memory(plan, block_len),
            _ => !shared || desk.arena.has(block_len),
        };
        if !has_memory {
            return false;
        }
        let promise = self.promise(desk);
        let (Some(waiting), Some(active)) = (self.queue.pop_front(), &mut self.active) else {
            return false;
        };
        let (slot, uid, position) = (active.slot, active.uid, active.position);
        active.position += blocks;
        let mut header = waiting.header(uid, position);
        header.durable_lsn = promise;
        header.acked_lsn = desk.acked;
        let dsync = desk.config.commit == Commit::Immediate;
        let (number, used) = (self.number, FRAME_HEADER_LEN + waiting.body_len as usize);
        let (block, ops) = match (waiting.bytes, plan, &mut desk.encoder) {
            (bytes, Some(plan), Some(encoder)) => {
                let block = match bytes {
                    Bytes::Own(own) => own.freeze(),
                    Bytes::Shared(block) => block,
                };
                let body = &block[FRAME_HEADER_LEN..used];
                let (coded, stored) = encoder.encode(plan, header, body, active.cipher.as_deref(), block_len);
                header = stored;
                self.write(desk, slot, position, coded, dsync);
                (block, 1)
            }
            (Bytes::Own(mut own), ..) => {
                header.body_crc = crc(&own[FRAME_HEADER_LEN..used]);
                header.encode(&mut own);
                let block = own.freeze();
                self.write(desk, slot, position, block.clone(), dsync);
                (block, 1)
            }
            (Bytes::Shared(block), ..) => {
                header.body_crc = crc(&block[FRAME_HEADER_LEN..used]);
                let mut front = desk.arena.cut(block_len).unwrap_or_else(|| panic!("memory was there"));
                front.copy_from_slice(&block[..block_len]);
                header.encode(&mut front);
                self.write(desk, slot, position, front.freeze(), dsync);
                if len > block_len {
                    self.write(desk, slot, position + 1, block.slice(block_len..len), dsync);
                }
                (block, if len > block_len { 2 } else { 1 })
            }
        };
        // Not before: what is delivered from memory is never written.
        let used = FRAME_HEADER_LEN as u64 + u64::from(header.body_len);
        desk.stats.bytes += used;
        desk.stats.padding_bytes += stored_len as u64 - used;
        let place = Some(Place { slot, uid, position });
        self.placed_end = waiting.next.prev();
        self.promised = self.promised.max(promise);
        self.link = uid;
        self.pipeline.push_back(Entry {
            number,
            ops,
            parts: ops,
            kind: Kind::Data,
            state: State::Flying,
            dsync,
            slot,
            uid,
            end: self.placed_end,
            end_position: position + blocks,
            submitted: now,
            opened: waiting.opened,
            frame: Some(Frame { header, block, runs: waiting.runs, place }),
            ready: waiting.ready,
        });
        true
    }

    /// How the frame at the queue's front will be stored; `None`: as it is.
    fn plan_front(&self, block_len: usize, desk: &mut Desk) -> Option<Plan> {
        let (front, encoder) = (self.queue.front()?, desk.encoder.as_mut()?);
        let body = FRAME_HEADER_LEN..FRAME_HEADER_LEN + front.body_len as usize;
        let bytes: &[u8] = match &front.bytes {
            Bytes::Own(block) => block,
            Bytes::Shared(block) => block,
        };
        encoder.plan(front.first, &bytes[body], block_len)
    }

    /// Sees to it that the active segment has so many blocks left; begins a new one if it has not.
    fn make_room(&mut self, blocks: u32, now: Instant, time: UnixNanos, desk: &mut Desk, slots: &mut Slots) -> bool {
        let total = segment_blocks(desk);
        let encrypts = desk.encoder.as_ref().is_some_and(Encoder::encrypts);
        let fits = |a: &Active| !a.sealed && a.position + blocks <= total && a.cipher.is_some() == encrypts;
        let fits = self.active.as_ref().is_some_and(fits);
        fits || self.rotate(now, time, desk, slots)
    }

    fn rotate(&mut self, now: Instant, time: UnixNanos, desk: &mut Desk, slots: &mut Slots) -> bool {
        // W3: at most one header that is not durable.
        let header_is_out = self.pipeline.iter().any(|e| e.kind == Kind::Header && e.state != State::Durable);
        if header_is_out && !desk.config.mutants.has(Mutant::TwoHeaders) {
            return false;
        }
        let header_len = HEADER_BLOCKS as usize * desk.block_len as usize;
        if !desk.arena.has(header_len + desk.block_len as usize) {
            return false;
        }
        self.starved = !slots.has_free();
        if self.starved {
            return false;
        }
        let uid = match desk.config.mutants.has(Mutant::SameUid) {
            true => SegmentUid(1 + (self.seq + 1) % 2),
            false => self.next_uid(),
        };
        let (log, store) = (desk.config.log, desk.store);
        let identity = |salt| SegmentIdentity { salt, log, store, uid };
        let Ok(keyed) = desk.encoder.as_ref().map_or(Ok(None), |encoder| encoder.begin_segment(identity)) else {
            self.keyless = true;
            return false;
        };
        let (key, cipher) = keyed.unzip();
        self.seal_active(false, now, desk);
        if let Some(old) = self.active.take() {
            slots.seal(old.slot, self.placed_end);
        }
        let (Some(slot), Some(mut block)) = (slots.take_free(uid), desk.arena.cut(header_len)) else {
            unreachable!("a slot and memory were there");
        };
        self.seq += 1;
        let base = self.placed_end.next();
        let promise = self.promise(desk);
        let header = SegmentHeader {
            store: desk.store,
            uid,
            seq: self.seq,
            base_lsn: base,
            prev_uid: self.link,
            prev_end_lsn: self.placed_end,
            durable_lsn: promise,
            epoch: desk.epoch,
            block_len: desk.block_len,
            slot,
            segment_len: desk.segment_len,
            created: time,
            log: desk.config.log,
            schema: desk.config.schema,
            key,
        };
        header.encode(&mut block);
        let opened = LiveSegment::opened(slot, uid, self.seq, base, desk.config.schema);
        desk.segments.add(LiveSegment { key, ..opened });
        self.active = Some(Active { slot, uid, position: HEADER_BLOCKS, sealed: false, cipher });
        let number = self.number;
        self.write(desk, slot, 0, block.freeze(), true);
        self.push(Kind::Header, number, slot, uid, HEADER_BLOCKS, true, now, now);
        true
    }

    /// Ends the active segment with a SEAL, if it has a block left and there is memory.
    pub(in crate::wal) fn seal_active(&mut self, dsync: bool, now: Instant, desk: &mut Desk) {
        let total = segment_blocks(desk);
        if self.active.as_ref().is_some_and(|a| !a.sealed && a.position < total)
            && self.place_note(FrameKind::Seal, self.placed_end.next(), dsync, now, now, desk)
            && let Some(active) = &mut self.active
        {
            active.sealed = true;
        }
    }

    /// Sees to it that what comes next begins a segment. False: there is no memory for the SEAL.
    pub(in crate::wal) fn leave_segment(&mut self, now: Instant, desk: &mut Desk) -> bool {
        self.seal_active(false, now, desk);
        !self.has_block(desk)
    }

    /// A promise on disk, for a log that has nothing else to say. A crash may take it away.
    pub(super) fn mark(&mut self, now: Instant, desk: &mut Desk) {
        self.place_note(FrameKind::Mark, self.placed_end.next(), false, now, now, desk);
    }

    /// Whether the active segment has a block left.
    pub(super) fn has_block(&self, desk: &Desk) -> bool {
        self.active.as_ref().is_some_and(|a| !a.sealed && a.position < segment_blocks(desk))
    }

    /// A frame of one block without records: MARK, SEAL, or a SKIP up to `next`.
    fn place_note(
        &mut self,
        kind: FrameKind,
        next: Lsn,
        dsync: bool,
        now: Instant,
        opened: Instant,
        desk: &mut Desk,
    ) -> bool {
        let promise = self.promise(desk);
        let Some(active) = &mut self.active else { return false };
        let Some(mut block) = desk.arena.cut(desk.block_len as usize) else { return false };
        let (slot, uid, position) = (active.slot, active.uid, active.position);
        active.position += 1;
        let header = FrameHeader {
            kind,
            seg_uid: uid,
            first_lsn: self.placed_end.next(),
            next_lsn: next,
            durable_lsn: promise,
            acked_lsn: desk.acked,
            time: UnixNanos(0),
            position,
            record_count: 0,
            coding: BodyCoding::PLAIN,
            body_len: 0,
            raw_len: 0,
            body_crc: crc(&[]),
        };
        header.encode(&mut block);
        self.promised = self.promised.max(promise);
        let number = self.number;
        self.write(desk, slot, position, block.freeze(), dsync);
        let skips = kind == FrameKind::Skip;
        if skips {
            self.placed_end = next.prev();
            self.link = uid;
        }
        let kind = if skips { Kind::Skip } else { Kind::Note };
        self.push(kind, number, slot, uid, position + 1, dsync, now, opened);
        true
    }

    #[expect(clippy::too_many_arguments, reason = "an entry has so many fields")]
    fn push(
        &mut self,
        kind: Kind,
        number: u32,
        slot: crate::lsn::SlotNo,
        uid: SegmentUid,
        end_position: u32,
        dsync: bool,
        submitted: Instant,
        opened: Instant,
    ) {
        let (state, end) = (State::Flying, self.placed_end);
        let entry = Entry {
            number,
            ops: 1,
            parts: 1,
            kind,
            state,
            dsync,
            slot,
            uid,
            end,
            end_position,
            submitted,
            opened,
            frame: None,
            ready: false,
        };
        self.pipeline.push_back(entry);
    }

    /// splitmix64, never 0.
    fn next_uid(&mut self) -> SegmentUid {
        loop {
            self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.chance;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            if z != 0 {
                return SegmentUid(z);
            }
        }
    }
}

fn front_bytes(writer: &Writer) -> Option<&Bytes> {
    writer.queue.front().map(|w| &w.bytes)
}
