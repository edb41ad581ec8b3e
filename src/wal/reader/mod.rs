//! Reads frames back from their segments, in LSN order, in large direct reads.
//!
//! ```text
//!  segment   │ frame │ frame │ fra¦me │ frame │ frame │
//!              ├──── read 1 ─────┤├──── read 2 ─────┤          two reads in flight
//!                            ├─ again ┤                        a frame over the border is read whole: see `borders.rs`
//! ```
//! A frame is a slice of the chunk that it was read into; one that is stored compressed or encrypted is decoded into
//! another one, which it shares with those that follow. Nothing beyond `durable` is looked at, nor
//! beyond a segment's readable end, so a read never meets a write in flight. Everything is verified:
//! older segments are not read when the log is opened, this is where they are.
//!
//! # What is found at the expected LSN `e`
//! | found                                                  | done                                         |
//! |--------------------------------------------------------|----------------------------------------------|
//! | a whole frame that holds `e`                           | given out (DATA, SKIP) or passed (MARK, SEAL) |
//! | a frame that ends before `e`                           | passed: `seek` begins at a segment's start    |
//! | a good header, its body bad                            | exactly its entries are corrupt; on behind it |
//! | a coded body that cannot be decoded                    | the same                                     |
//! | an encrypted body, and its key is not there            | said so, not corrupt; on behind it            |
//! | no frame, a later one begins at `e`                    | a MARK was lost: on there                     |
//! | no frame, a later one begins at `f` > `e`              | `e..f` corrupt; on at `f`                     |
//! | no frame up to the segment's end                       | `e` to the segment's last LSN corrupt; on in the next one |
//!
//! What was given up before, lies below where the reader was told to begin, or was forgotten since, is passed silently.

mod borders;
mod decode;
mod reads;
#[cfg(all(test, not(loom)))]
mod tests;

pub use borders::Border;
use borders::Borders;
use decode::Decoding;
use reads::{Bytes, Kind, READS_MIN, Reads};

use std::sync::Arc;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::block::Pool;
use crate::wal::coding::{Cipher, KeyId, KeyProblem, Undecoded};
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind, Place};
use crate::wal::meta::Meta;
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::op::{Completion, DiskError, FileId, LogId, Op, Owner, Token};
use crate::wal::recovery::Corruption;
use crate::wal::recovery::find::Identity;
use crate::wal::segment::HEADER_BLOCKS;
use crate::wal::segments::{LiveSegment, SegmentTable};

/// Reads frames back, in LSN order.
#[derive(Debug)]
pub struct Reader {
    log: LogId,
    block_len: u32,
    frame_len_max: u32,
    mutants: Mutants,
    /// LSNs below this one are not wanted.
    from: Lsn,
    /// The next LSN along the chain of frames.
    expected: Lsn,
    durable: Lsn,
    hint: Option<Place>,
    at: Option<At>,
    reads: Reads,
    reads_max: usize,
    borders: Borders,
    event: Option<ReadEvent>,
    wait: Wait,
    decoding: Decoding,
}

/// Where in which segment.
#[derive(Clone, Copy, Debug)]
struct At {
    slot: SlotNo,
    uid: SegmentUid,
    /// The next block to be looked at.
    position: u32,
    /// Blocks that may be read.
    limit: u32,
    /// Last LSN that may be read in it.
    end: Lsn,
    /// Set while the next good frame is searched: where the hole begins.
    hole: Option<u32>,
    /// `expected` was not counted from the segment's start: the first header settles it.
    hinted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Nothing,
    /// Said that all was read.
    CaughtUp,
    /// For `skip`; then on at `next`.
    Skip {
        next: Lsn,
    },
    /// For `seek`.
    Seek,
}

/// What a reader has to say.
#[derive(Debug)]
pub enum ReadEvent {
    /// The next frame in LSN order: DATA, or SKIP, which says that its LSNs hold nothing. The first
    /// frame after [`Reader::seek`] may begin before the LSN that was sought.
    Frame(Frame),
    /// Everything durable has been read.
    CaughtUp,
    /// These entries cannot be read. The reader waits for [`Reader::skip`] or [`Reader::seek`].
    Corrupt(Corruption),
    /// The entries of this frame are encrypted, and whole as far as its checksum tells, but the key to them is not
    /// there. The reader goes on behind them.
    Locked {
        /// The frame's header.
        header: FrameHeader,
        /// Where it lies.
        place: Place,
        /// The key.
        key: KeyId,
        /// Why it cannot be used.
        problem: KeyProblem,
    },
    /// The disk refused. The reader waits for [`Reader::seek`].
    Failed(DiskError),
}

const BAD_BODY: &str = "the frame's body does not check out";

/// What stands at a block.
enum Look {
    /// Its bytes are not here yet.
    Later,
    /// No frame of this segment.
    Nothing,
    /// A frame of so many blocks, whose bytes follow.
    Header(FrameHeader, u32),
}

impl Reader {
    /// A reader that stands before the first entry.
    #[must_use]
    pub fn new(log: LogId, store: &Meta, mutants: Mutants) -> Self {
        Self {
            log,
            block_len: store.block_len,
            frame_len_max: store.frame_len_max,
            mutants,
            from: Lsn::FIRST,
            expected: Lsn::FIRST,
            durable: Lsn::ZERO,
            hint: None,
            at: None,
            reads: Reads::default(),
            reads_max: READS_MIN,
            borders: Borders::default(),
            event: None,
            wait: Wait::Nothing,
            decoding: Decoding::new(log, store.store, None),
        }
    }

    /// The same, with the keys to what is encrypted.
    #[must_use]
    pub fn with_cipher(mut self, store: &Meta, cipher: Option<Arc<dyn Cipher>>) -> Self {
        self.decoding = Decoding::new(self.log, store.store, cipher);
        self
    }

    /// Goes on at the frame that holds `from`; `hint` says where that frame lies, if it is known.
    pub fn seek(&mut self, from: Lsn, hint: Option<Place>) {
        self.leave_segment();
        self.decoding.release();
        self.from = from.max(Lsn::FIRST);
        self.expected = self.from;
        self.hint = hint;
        self.event = None;
        self.wait = Wait::Nothing;
    }

    /// Everything up to `last` is not wanted any more: its segments may have been used again meanwhile, and then the next
    /// one begins behind what comes next here.
    pub fn forget(&mut self, last: Lsn) {
        self.from = self.from.max(last.next());
    }

    /// How many reads may be in flight or waiting to be looked at; at least, and at first, two.
    pub const fn set_reads_max(&mut self, reads: usize) {
        self.reads_max = if reads > READS_MIN { reads } else { READS_MIN };
    }

    /// A frame will be read back, and where it ends is known. In the order of LSNs, or before all that were noted.
    pub fn note(&mut self, border: Border) {
        self.borders.note(border);
    }

    /// Steps over what was reported as corrupt. Anything else is not waited for and ignored.
    pub fn skip(&mut self, corruption: &Corruption) {
        if let Wait::Skip { next } = self.wait
            && next == corruption.last.next()
        {
            self.expected = next;
            self.wait = Wait::Nothing;
        }
    }

    /// The next read; `None` while enough are under way, the pool is empty, or all is read.
    pub fn poll_op(&mut self, segments: &SegmentTable, durable: Lsn, pool: &Pool) -> Option<(Token, Op)> {
        self.durable = durable;
        if self.event.is_some() || matches!(self.wait, Wait::Skip { .. } | Wait::Seek) {
            return None;
        }
        self.look(segments);
        while self.event.is_none() && self.decoding.wanted_len() <= pool.chunk_len() && self.decoding.refill(pool) {
            self.look(segments);
        }
        if self.event.is_some() {
            return None;
        }
        let at = self.at?;
        let chunk_blocks = u32::try_from(pool.chunk_len() / self.block_len as usize).unwrap_or(u32::MAX);
        self.borders.pass(self.expected);
        let blocks = |from| self.borders.blocks(at.uid, from, chunk_blocks);
        self.reads.plan(at.position, at.limit, self.reads_max, blocks);
        if self.decoding.wanted_len() > pool.chunk_len() {
            self.refuse_length(at, at.position);
            return None;
        }
        if self.reads.in_flight() >= self.reads_max {
            return None;
        }
        let read = self.reads.wanted()?;
        let (position, len) = (read.position, read.blocks as usize * self.block_len as usize);
        if len > pool.chunk_len() {
            self.refuse_length(at, position);
            return None;
        }
        let file = FileId::Slot(self.log, at.slot);
        let offset = u64::from(position) * u64::from(self.block_len);
        let mut block = pool.take()?;
        block.truncate(len);
        let number = self.reads.number(at.slot);
        if let Some(read) = self.reads.wanted() {
            read.bytes = Bytes::InFlight(number);
        }
        let token = Token { owner: Owner::Reader(self.log), number };
        Some((token, Op::Read { file, offset, block }))
    }

    fn refuse_length(&mut self, at: At, position: u32) {
        let (file, offset) = (FileId::Slot(self.log, at.slot), u64::from(position) * u64::from(self.block_len));
        let detail = "a frame is longer than a chunk of the pool";
        let error = DiskError { what: "read", file: Some(file), offset: Some(offset), errno: 0, detail };
        self.leave_segment();
        self.decoding.release();
        self.event = Some(ReadEvent::Failed(error));
        self.wait = Wait::Seek;
    }

    /// How a read ended.
    pub fn handle_completion(&mut self, completion: Completion) {
        if let Err(error) = self.reads.handle_completion(completion) {
            self.leave_segment();
            self.event = Some(ReadEvent::Failed(error));
            self.wait = Wait::Seek;
        }
    }

    /// The next event. [`Reader::poll_op`] looks at what has been read, and makes them.
    pub fn poll_event(&mut self) -> Option<ReadEvent> {
        self.event.take()
    }

    /// How many reads are with the disk.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.reads.in_flight()
    }

    /// Looks at what has been read until there is an event or bytes are missing.
    fn look(&mut self, segments: &SegmentTable) {
        while self.event.is_none() {
            if !self.enter_segment(segments) {
                return;
            }
            let Some(at) = self.at else { return };
            let step = if at.position >= at.limit {
                self.end_of_segment(at, segments)
            } else {
                match self.look_at(at) {
                    Look::Later => return,
                    Look::Nothing => self.nothing_here(at),
                    Look::Header(header, blocks) => self.header_here(at, header, blocks, segments),
                }
            };
            if !step {
                return;
            }
        }
    }

    /// Makes `at` stand in the segment of the expected LSN. False: there is nothing to read now.
    fn enter_segment(&mut self, segments: &SegmentTable) -> bool {
        if let Some(at) = &mut self.at {
            if let Some(segment) = segments.by_uid(at.uid) {
                at.limit = segment.end_position;
                at.end = segment.end.min(self.durable);
                if self.expected <= at.end {
                    self.wait = Wait::Nothing;
                    return true;
                }
                // Above `durable` it may go on here, though the next segment has been opened: the place is kept.
                if self.expected <= segment.end || self.expected > self.durable {
                    return self.caught_up();
                }
                // All of it is read: on in the next one, if there is one with something in it.
                if segments.find(self.expected).is_none() {
                    return self.caught_up();
                }
            }
            self.leave_segment();
        }
        let Some(segment) = segments.find(self.expected).filter(|_| self.expected <= self.durable) else {
            return self.caught_up();
        };
        self.wait = Wait::Nothing;
        self.begin(segment);
        if self.expected > segment.end.min(self.durable) { self.caught_up() } else { true }
    }

    fn begin(&mut self, segment: &LiveSegment) {
        let hint = self.hint.take().filter(|hint| hint.uid == segment.uid && hint.slot == segment.slot);
        let hint = hint.filter(|hint| (HEADER_BLOCKS..segment.end_position).contains(&hint.position));
        if hint.is_none() && self.expected > segment.base {
            // The chain is counted from the segment's start; what lies below `from` is passed.
            self.expected = segment.base;
        }
        self.at = Some(At {
            slot: segment.slot,
            uid: segment.uid,
            position: hint.map_or(HEADER_BLOCKS, |hint| hint.position),
            limit: segment.end_position,
            end: segment.end.min(self.durable),
            hole: None,
            hinted: hint.is_some(),
        });
    }

    fn caught_up(&mut self) -> bool {
        if self.wait != Wait::CaughtUp {
            self.wait = Wait::CaughtUp;
            self.event = Some(ReadEvent::CaughtUp);
            // What was read ahead is let go: it may be long until more is wanted.
            self.reads.clear();
            self.decoding.release();
        }
        false
    }

    fn leave_segment(&mut self) {
        self.at = None;
        self.reads.clear();
    }

    /// The bytes from `position` on, as far as they are here in one piece.
    fn look_at(&mut self, at: At) -> Look {
        self.reads.pass(at.position);
        let Some(read) = self.reads.front().filter(|read| read.position <= at.position) else { return Look::Later };
        let block = match &read.bytes {
            Bytes::Here(block) => block,
            Bytes::Unreadable => return Look::Nothing,
            Bytes::Wanted | Bytes::InFlight(_) => return Look::Later,
        };
        let start = (at.position - read.position) as usize * self.block_len as usize;
        let identity = Identity {
            uid: at.uid,
            block_len: self.block_len,
            blocks: at.limit,
            frame_len_max: self.frame_len_max,
            mutants: self.mutants,
        };
        match identity.header(&block[start..]) {
            Ok(header) => identity.admits(&header, at.position).map_or(Look::Nothing, |n| Look::Header(header, n)),
            Err(_) => Look::Nothing,
        }
    }

    /// A frame of this segment begins here.
    fn header_here(&mut self, mut at: At, header: FrameHeader, blocks: u32, segments: &SegmentTable) -> bool {
        if segments.by_uid(at.uid).is_some_and(|segment| header.next_lsn.prev() > segment.end) {
            // Recovery has given it up. The end may lie within it, where the sink was done with a part.
            return self.nothing_here(at);
        }
        if at.hinted {
            if header.first_lsn > self.expected || header.next_lsn <= self.expected {
                // Another frame than the one that the hint promised: from the segment's start.
                self.leave_segment();
                return true;
            }
            self.expected = header.first_lsn;
        }
        at.hinted = false;
        self.at = Some(at);
        let chain = self.mutants.has(Mutant::NoLsnChain);
        if header.first_lsn < self.expected && !chain {
            // Behind a hole: an older frame than the one that is missed.
            return self.pass(blocks);
        }
        if header.first_lsn > self.expected && !chain {
            return self.hole(at, header.first_lsn.prev().min(at.end), segments);
        }
        if let Some(at) = &mut self.at {
            at.hole = None;
        }
        if header.next_lsn <= self.from
            || matches!(header.kind, FrameKind::Mark | FrameKind::Seal | FrameKind::Unknown(_))
        {
            self.expected = self.expected.max(header.next_lsn);
            return self.pass(blocks);
        }
        self.frame_here(at, header, blocks, segments)
    }

    /// A frame that is wanted begins here: gives it out once all of it is here in one piece.
    fn frame_here(&mut self, at: At, header: FrameHeader, blocks: u32, segments: &SegmentTable) -> bool {
        let Some(read) = self.reads.front() else { return false };
        let Bytes::Here(chunk) = &read.bytes else { return false };
        let start = (at.position - read.position) as usize * self.block_len as usize;
        let len = blocks as usize * self.block_len as usize;
        if start + len > chunk.len() {
            return self.over_the_border(at, header, blocks, segments);
        }
        let body = start + FRAME_HEADER_LEN..start + FRAME_HEADER_LEN + header.body_len as usize;
        if !header.body_matches(&chunk[body]) && !self.mutants.has(Mutant::BodyUnchecked) {
            return self.bad_body(at, &header, blocks, segments, BAD_BODY);
        }
        let place = Place { slot: at.slot, uid: at.uid, position: at.position };
        let key = segments.by_uid(at.uid).and_then(|segment| segment.key);
        let block = if header.coding.is_plain() && (key.is_none() || header.kind != FrameKind::Data) {
            chunk.slice(start..start + len)
        } else {
            match self.decoding.decode(&chunk[start..start + len], &header, key.as_ref()) {
                None => return false,
                Some(Ok(block)) => block,
                Some(Err(Undecoded::Damaged(why))) => return self.bad_body(at, &header, blocks, segments, why),
                Some(Err(Undecoded::Key(key, problem))) => {
                    self.event = Some(ReadEvent::Locked { header, place, key, problem });
                    self.expected = header.next_lsn;
                    return self.pass(blocks);
                }
            }
        };
        self.event = Some(ReadEvent::Frame(Frame { header, block, runs: Vec::new(), place: Some(place) }));
        self.expected = header.next_lsn;
        self.pass(blocks)
    }

    /// A frame goes on in the next read: it is read again, whole, in front of what comes behind it.
    fn over_the_border(&mut self, at: At, header: FrameHeader, blocks: u32, segments: &SegmentTable) -> bool {
        if self.reads.front().is_some_and(|read| read.kind != Kind::Run) {
            // It has been asked for whole, and a part of it could not be read.
            return self.bad_body(at, &header, blocks, segments, BAD_BODY);
        }
        self.reads.again(at.position, blocks);
        false
    }

    /// A good header over a bad body: exactly this frame is lost.
    fn bad_body(
        &mut self,
        at: At,
        header: &FrameHeader,
        blocks: u32,
        segments: &SegmentTable,
        why: &'static str,
    ) -> bool {
        let (first, last) = (segments.not_lost_from(header.first_lsn.max(self.from)), header.next_lsn.prev());
        self.pass(blocks);
        if first > last {
            self.expected = header.next_lsn;
            return true;
        }
        self.lose(segments, at.slot, at.position, first, last, why)
    }

    /// No frame of this segment begins here: searches on, block by block.
    fn nothing_here(&mut self, at: At) -> bool {
        let hole = at.hole.or(Some(at.position));
        if at.hinted {
            // The hint was wrong: from the segment's start.
            self.leave_segment();
            return true;
        }
        self.at = Some(At { position: at.position + 1, hole, ..at });
        true
    }

    /// What comes next begins only behind `last`.
    fn hole(&mut self, at: At, last: Lsn, segments: &SegmentTable) -> bool {
        let first = segments.not_lost_from(self.expected.max(self.from));
        self.at = Some(At { hole: None, ..at });
        if first > last {
            self.expected = last.next().max(self.expected);
            return true;
        }
        let position = at.hole.unwrap_or(at.position);
        self.lose(segments, at.slot, position, first, last, "no frame holds these entries")
    }

    fn lose(
        &mut self,
        segments: &SegmentTable,
        slot: SlotNo,
        position: u32,
        first: Lsn,
        last: Lsn,
        why: &'static str,
    ) -> bool {
        // What is missing anyway is not reported a second time; what lies behind it, apart.
        let last = segments.next_lost(first).map_or(last, |lost| last.min(lost.prev()));
        let offset = u64::from(position) * u64::from(self.block_len);
        self.event = Some(ReadEvent::Corrupt(Corruption { slot, offset, first, last, why }));
        self.wait = Wait::Skip { next: last.next() };
        false
    }

    /// Nothing more may be read in this segment, and something is missed.
    fn end_of_segment(&mut self, at: At, segments: &SegmentTable) -> bool {
        if at.hinted {
            self.leave_segment();
            return true;
        }
        self.hole(at, at.end, segments)
    }

    fn pass(&mut self, blocks: u32) -> bool {
        if let Some(at) = &mut self.at {
            at.position += blocks;
        }
        true
    }
}
