//! From the rings into the open frame: runs of records, never single ones.

use crate::config::Durability;
use crate::lsn::{Lsn, SegmentUid};
use crate::time::{Instant, UnixNanos};
use crate::wal::coding::BodyCoding;
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind, RunEnd};
use crate::wal::log::{Blocked, Room};

use super::Flush;

impl Flush {
    /// Takes over what the rings have. True: there was something.
    pub(super) fn drain(&mut self, now: Instant) -> bool {
        self.state.blocked = None;
        if !self.drainer.has_ready() {
            return false;
        }
        let unix = self.clock.unix();
        let rings = self.shared.rings.count();
        let mut any = false;
        for turn in 0..rings {
            let ring = (self.state.first_ring + turn) % rings;
            match self.drain_ring(ring, now, unix) {
                Ok(some) => any |= some,
                Err(Blocked::Failed) => {
                    any |= self.drain_after_failure(ring, unix);
                }
                Err(blocked) => {
                    if blocked == Blocked::Pool && matches!(self.shared.config.durability, Durability::Periodic(_)) {
                        // What waits for the end of the period holds the memory.
                        self.log.commit_now(now);
                    }
                    self.note_blocked(blocked);
                    // The ring that found no room is the first to find some.
                    self.state.first_ring = ring;
                    return any;
                }
            }
        }
        self.state.first_ring = (self.state.first_ring + 1) % rings;
        any
    }

    pub(super) fn drain_ring(&mut self, ring: u32, now: Instant, unix: UnixNanos) -> Result<bool, Blocked> {
        let mut any = false;
        loop {
            if !self.drainer.may_hold(ring) {
                return Err(Blocked::Log);
            }
            if self.log.takes_chunk() && !self.share.may_fill(self.reads()) && self.log.failure().is_none() {
                return Err(Blocked::Pool);
            }
            let next = self.next_lsn();
            let frame = self.log.frame(now, unix)?;
            let drained = self.drainer.drain(ring, frame.spare_mut());
            let start = std::mem::replace(&mut self.state.drained[ring as usize], drained.end);
            let moved = drained.end > start;
            let in_frame = u64::from(frame.records());
            self.drainer.hold(ring, start, drained, next, Lsn::new(next.number() - in_frame));
            if drained.records > 0 {
                any = true;
                let run = &frame.spare_mut()[..drained.bytes];
                self.state.waits.answer_run(ring, start..drained.end, run, next, drained.records);
                frame.advance(drained.bytes, drained.records, RunEnd { ring, end: drained.end });
                let counters = &self.shared.counters;
                counters.pushed.add(u64::from(drained.records));
                counters.pushed_bytes.add(drained.payload as u64);
                counters.next_lsn.set(self.next_lsn().number());
            } else if moved {
                // Only what was given up: whoever waits for this position waits for what lies before it.
                frame.advance(0, 0, RunEnd { ring, end: drained.end });
            } else {
                // Not whether something is ready by now: it may have come since, and the frame has room for it.
                if !drained.is_cut {
                    return Ok(any);
                }
                // A record stands there that does not fit into what is left of the frame or, if that is
                // empty, of its chunk. A whole one has room for the longest: opening has seen to that.
                self.log.seal(now);
            }
        }
    }

    /// The log takes nothing more, but what was accepted is still delivered, from memory.
    pub(super) fn drain_after_failure(&mut self, ring: u32, unix: UnixNanos) -> bool {
        // First what the log had taken and has given up: its LSNs come before these.
        let mut any = self.take_events();
        while self.drainer.is_ready(ring) {
            if !self.drainer.may_hold(ring) {
                self.note_blocked(Blocked::Log);
                return any;
            }
            if self.window.is_lagging() && !self.share.may_fill(self.reads()) {
                // What must be read back before these needs memory too.
                self.note_blocked(Blocked::Pool);
                return any;
            }
            let Some(mut chunk) = self.pool.take() else {
                self.note_blocked(Blocked::Pool);
                return any;
            };
            let first_lsn = self.next_lsn();
            let drained = self.drainer.drain(ring, &mut chunk[FRAME_HEADER_LEN..]);
            let start = std::mem::replace(&mut self.state.drained[ring as usize], drained.end);
            self.drainer.hold(ring, start, drained, first_lsn, first_lsn);
            if drained.records == 0 {
                continue;
            }
            any = true;
            let run = &chunk[FRAME_HEADER_LEN..][..drained.bytes];
            self.state.waits.answer_run(ring, start..drained.end, run, first_lsn, drained.records);
            let next_lsn = first_lsn.advance(u64::from(drained.records));
            self.state.next_after_failure = Some(next_lsn);
            let counters = &self.shared.counters;
            counters.pushed.add(u64::from(drained.records));
            counters.pushed_bytes.add(drained.payload as u64);
            counters.next_lsn.set(next_lsn.number());
            let body_len = u32::try_from(drained.bytes).unwrap_or(u32::MAX);
            let header = FrameHeader {
                kind: FrameKind::Data,
                seg_uid: SegmentUid::NONE,
                first_lsn,
                next_lsn,
                durable_lsn: self.log.durable(),
                acked_lsn: Lsn::ZERO,
                time: unix,
                position: 0,
                record_count: drained.records,
                coding: BodyCoding::PLAIN,
                body_len,
                raw_len: body_len,
                body_crc: 0,
            };
            self.window.keep(Frame { header, block: chunk.freeze(), runs: Vec::new(), place: None });
        }
        any
    }

    /// Rings that outlive the process let go of what the log has, or the sink is done with.
    pub(super) fn release(&mut self, now: Instant) {
        if !self.drainer.holds() {
            return;
        }
        self.drainer.release(self.log.written().max(self.state.acked));
        if self.drainer.is_crowded() {
            // Producers will soon find no room, so nothing of it is to wait for more, or for the end of a period.
            if self.shared.config.durability == Durability::Spill {
                self.log.spill(now);
            } else if self.log.written() >= self.log.end() {
                self.log.seal(now);
            }
        }
    }

    /// The end: rings in which nothing is left that is not in the log are removed, others wait for the next opening.
    pub(super) fn leave_rings(&mut self) {
        let upto = self.log.written().max(self.state.acked);
        self.drainer.release(upto);
        if self.drainer.holds() {
            let is_empty = self.drainer.is_drained() && self.drainer.is_released(upto);
            self.shared.status.set_rings_left(!is_empty);
            if is_empty && let Some(home) = self.ring_home.take() {
                home.remove();
            }
        }
    }

    pub(super) fn next_lsn(&self) -> Lsn {
        // The log counts an entry when its frame is sealed; here it counts when it is taken over.
        self.state.next_after_failure.unwrap_or_else(|| self.log.next_lsn().advance(u64::from(self.log.open_records())))
    }

    /// Memory that is full because a full log takes nothing of it is no lack of memory.
    pub(super) fn note_blocked(&mut self, blocked: Blocked) {
        let counters = &self.shared.counters;
        let is_log_full = self.log.failure().is_none() && self.log.room() != Room::Ok;
        let blocked = if blocked == Blocked::Pool && is_log_full { Blocked::Log } else { blocked };
        match blocked {
            Blocked::Pool => counters.blocked_on_memory.add(1),
            _ => counters.blocked_on_log.add(1),
        }
        self.state.blocked = Some(blocked);
    }

    /// Without a disk to wait for, delivery is fed as soon as it is hungry.
    pub(super) fn seal_for_delivery(&mut self, now: Instant) {
        if self.spills() && self.window.is_empty() && self.shared.frames.is_empty() {
            self.log.seal(now);
        }
        if self.shared.config.durability == Durability::Spill
            && (self.share.is_short(self.reads()) || self.window.is_lagging())
        {
            self.log.spill(now);
        }
    }

    pub(super) fn spills(&self) -> bool {
        matches!(self.shared.config.durability, Durability::Spill | Durability::Memory)
    }

    /// Chunks that hold what was read back, or will: the reader's, and what is next in the window and is not let go.
    pub(super) fn reads(&self) -> usize {
        self.reader.held() + self.window.chunks().min(self.share.kept().max(1))
    }
}
