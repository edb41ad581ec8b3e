//! Finds the whole frames of one file, as its bytes pass by. Nothing about the file is known before.
//!
//! A frame says its place in blocks; its offset divided by that is the block size, or it is not where it
//! was written. So neither META nor a header is needed.

use super::{Piece, SlotFile};
use crate::lsn::SlotNo;
use crate::wal::codec::crc_append;
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader, NotAFrame};
use crate::wal::op::LogId;
use crate::wal::recovery::find::NUMBER_MAX;
use crate::wal::segment::{
    BLOCK_LEN_MAX, HEADER_BLOCKS, SEGMENT_HEADER_LEN, SlotHeader, block_len_is_valid, read_slot_header,
};

/// Bytes in a sector: what is passed comes in whole ones, as frames begin on multiples of it.
pub const SECTOR_LEN: usize = 512;
/// Length of the longest header, both copies.
const HEAD_LEN: usize = (HEADER_BLOCKS * BLOCK_LEN_MAX) as usize;
/// Most frames whose bodies pass at one time. In a file of ours they do not overlap, but for images of
/// other files in entries; more than this is malice, and would cost its square in time.
const PASSING_MAX: usize = 64;

#[derive(Debug)]
struct Passing {
    offset: u64,
    header: FrameHeader,
    sum: u32,
    rest: usize,
}

/// Takes sectors, gives frames.
#[derive(Debug, Default)]
pub struct Sift {
    at: u64,
    head: Vec<u8>,
    passing: Vec<Passing>,
    whole: Vec<Piece>,
    begun: u64,
    unreadable: u64,
}

impl Sift {
    /// The next sectors of the file: their bytes, or how many could not be read. Where the file ends
    /// within a sector, zeros.
    ///
    /// # Panics
    /// When these are not whole sectors.
    pub fn pass(&mut self, bytes: Option<&[u8]>, len: usize) {
        assert!(len.is_multiple_of(SECTOR_LEN) && bytes.is_none_or(|bytes| bytes.len() == len), "whole sectors");
        let head = HEAD_LEN.saturating_sub(self.head.len()).min(len);
        match bytes {
            Some(bytes) => {
                self.head.extend_from_slice(&bytes[..head]);
                bytes.chunks_exact(SECTOR_LEN).for_each(|sector| self.sector(sector));
            }
            None => {
                self.head.resize(self.head.len() + head, 0);
                self.passing.clear();
                self.unreadable += len as u64;
                self.at += len as u64;
            }
        }
    }

    fn sector(&mut self, sector: &[u8]) {
        let whole = &mut self.whole;
        self.passing.retain_mut(|frame| !frame.feed(sector, whole));
        match FrameHeader::decode(sector) {
            Ok(header) if stands_at(&header, self.at) => {
                self.begun += 1;
                let rest = header.body_len as usize;
                let mut frame = Passing { offset: self.at, header, sum: 0, rest };
                let passed = frame.feed(&sector[FRAME_HEADER_LEN..], whole);
                if !passed && self.passing.len() < PASSING_MAX {
                    self.passing.push(frame);
                }
            }
            Err(NotAFrame::Checksum | NotAFrame::Field(_)) => self.begun += 1,
            Ok(_) | Err(NotAFrame::Magic) => {}
        }
        self.at += SECTOR_LEN as u64;
    }

    /// What there was.
    #[must_use]
    pub fn finish(self, log: LogId, slot: SlotNo) -> SlotFile {
        let mut head = self.head;
        head.resize(HEAD_LEN, 0);
        let mut pieces = self.whole;
        pieces.sort_unstable_by_key(|piece| piece.offset);
        // What begins within a whole frame is a part of an entry, however much it looks like a frame.
        let (mut end, mut inner) = (0, 0);
        pieces.retain(|piece| {
            let is_inner = piece.offset < end;
            end = end.max(piece.offset + FRAME_HEADER_LEN as u64 + u64::from(piece.header.body_len));
            inner += u64::from(is_inner);
            !is_inner
        });
        let broken = self.begun - pieces.len() as u64 - inner;
        SlotFile { log, slot, header: header_for(slot, &mut head), pieces, broken, unreadable: self.unreadable }
    }
}

impl Passing {
    /// Whether the body has passed.
    fn feed(&mut self, bytes: &[u8], whole: &mut Vec<Piece>) -> bool {
        let bytes = &bytes[..bytes.len().min(self.rest)];
        self.sum = crc_append(self.sum, bytes);
        self.rest -= bytes.len();
        if self.rest == 0 && self.sum == self.header.body_crc {
            whole.push(Piece { offset: self.offset, header: self.header });
        }
        self.rest == 0
    }
}

/// Whether the frame was written for this place in a file, with any block size.
fn stands_at(header: &FrameHeader, offset: u64) -> bool {
    let position = u64::from(header.position);
    position >= u64::from(HEADER_BLOCKS)
        && offset.is_multiple_of(position)
        && u32::try_from(offset / position).is_ok_and(block_len_is_valid)
        && header.next_lsn.number() < NUMBER_MAX
        && header.acked_lsn.number() < NUMBER_MAX
}

/// What the first blocks say, by the rule of [`read_slot_header`]; of two segments, one that was not written for this slot
/// does not speak beside one that was.
fn header_for(slot: SlotNo, head: &mut [u8]) -> SlotHeader {
    let first = slot_header(head);
    if matches!(&first, SlotHeader::Segment(header) if header.slot != slot) {
        head[..SEGMENT_HEADER_LEN].fill(0);
        let second = slot_header(head);
        if matches!(&second, SlotHeader::Segment(header) if header.slot == slot) {
            return second;
        }
    }
    first
}

/// What the first blocks say, whatever their length. A mark does not say it, so behind one a segment is looked for at
/// each place where the second copy may begin.
fn slot_header(head: &[u8]) -> SlotHeader {
    let mut said = SlotHeader::Invalid;
    for block_len in (9..=16).map(|power| 1_u32 << power) {
        match read_slot_header(head, block_len) {
            SlotHeader::Segment(header) if header.block_len != block_len => {}
            SlotHeader::Segment(header) => {
                let numbers = [header.seq, header.base_lsn.number(), header.durable_lsn.number(), header.epoch];
                if numbers.iter().all(|number| *number < NUMBER_MAX) {
                    return SlotHeader::Segment(header);
                }
            }
            SlotHeader::Invalid => {}
            mark @ (SlotHeader::Free | SlotHeader::Void) => said = mark,
            newer @ SlotHeader::Newer { .. } => return newer,
        }
    }
    said
}
