//! Finds the frames of a segment in its blocks, which stream by once, in order.
//!
//! Every block is asked whether a frame of this segment begins there: a header that checks out, with
//! the segment's uid and its own position. Bodies are checksummed as they pass. What a body covers
//! is still looked at: a frame that an earlier, broken one seems to cover may be the next good one.

use crate::lsn::{Lsn, SegmentUid};
use crate::wal::codec::crc_append;
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader, NotAFrame};
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::segment::HEADER_BLOCKS;

/// Numbers from here on are taken for damage: nothing counts that far, and sums cannot overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// A frame whose header checks out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) header: FrameHeader,
    /// Blocks that it takes.
    pub(crate) blocks: u32,
    /// Whether its body checks out too.
    pub(crate) whole: bool,
}

impl Found {
    pub(crate) const fn position(&self) -> u32 {
        self.header.position
    }

    pub(crate) const fn last(&self) -> Lsn {
        self.header.next_lsn.prev()
    }
}

/// What a segment's blocks hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Frames {
    /// By position.
    pub(crate) found: Vec<Found>,
    /// Blocks that begin like a frame and do not check out.
    pub(crate) broken: Vec<u32>,
    /// Blocks that the disk could not read.
    pub(crate) unreadable: Vec<u32>,
}

/// What identifies a frame of a segment, and bounds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) uid: SegmentUid,
    pub(crate) block_len: u32,
    /// Blocks of the whole slot.
    pub(crate) blocks: u32,
    pub(crate) frame_len_max: u32,
    pub(crate) mutants: Mutants,
}

impl Identity {
    /// The header that these bytes begin with.
    pub(crate) fn header(&self, bytes: &[u8]) -> Result<FrameHeader, NotAFrame> {
        FrameHeader::decode_with(bytes, !self.mutants.has(Mutant::HeaderUnchecked))
    }

    /// Blocks of the frame under this header, if it can stand at `position` of this segment.
    pub(crate) fn admits(&self, header: &FrameHeader, position: u32) -> Option<u32> {
        let stored_len = header.stored_len(self.block_len);
        let blocks = u32::try_from(stored_len / u64::from(self.block_len)).ok()?;
        let holds = (header.seg_uid == self.uid || self.mutants.has(Mutant::NoUid))
            && header.position == position
            && position >= HEADER_BLOCKS
            && stored_len <= u64::from(self.frame_len_max)
            && FRAME_HEADER_LEN as u64 + u64::from(header.raw_len) <= u64::from(self.frame_len_max)
            && position.checked_add(blocks)? <= self.blocks
            && header.next_lsn.number() < NUMBER_MAX;
        holds.then_some(blocks)
    }
}

/// A frame whose body is passing by.
#[derive(Debug)]
struct Passing {
    index: usize,
    sum: u32,
    rest: usize,
}

/// Takes blocks, gives frames.
#[derive(Debug)]
pub(crate) struct Finder {
    identity: Identity,
    next: u32,
    passing: Vec<Passing>,
    frames: Frames,
}

impl Finder {
    pub(crate) const fn new(identity: Identity) -> Self {
        let frames = Frames { found: Vec::new(), broken: Vec::new(), unreadable: Vec::new() };
        Self { identity, next: HEADER_BLOCKS, passing: Vec::new(), frames }
    }

    /// The next blocks of the segment: their bytes, or how many could not be read.
    pub(crate) fn pass(&mut self, bytes: Option<&[u8]>, len: usize) {
        let block_len = self.identity.block_len as usize;
        match bytes {
            Some(bytes) => bytes.chunks_exact(block_len).for_each(|block| self.block(block)),
            None => {
                for _ in 0..len / block_len {
                    self.frames.unreadable.push(self.next);
                    // A body with an unreadable block stays what it is from the start: not whole.
                    self.passing.clear();
                    self.next += 1;
                }
            }
        }
    }

    fn block(&mut self, block: &[u8]) {
        let found = &mut self.frames.found;
        let unchecked = self.identity.mutants.has(Mutant::BodyUnchecked);
        self.passing.retain_mut(|frame| !frame.feed(block, found, unchecked));
        match self.identity.header(block) {
            Ok(header) => {
                if let Some(blocks) = self.identity.admits(&header, self.next) {
                    let mut frame = Passing { index: found.len(), sum: 0, rest: header.body_len as usize };
                    found.push(Found { header, blocks, whole: false });
                    if !frame.feed(&block[FRAME_HEADER_LEN..], found, unchecked) {
                        self.passing.push(frame);
                    }
                }
            }
            Err(NotAFrame::Checksum | NotAFrame::Field(_)) => self.frames.broken.push(self.next),
            Err(NotAFrame::Magic) => {}
        }
        self.next += 1;
    }

    /// What there was. A body that has not passed to its end is not whole.
    pub(crate) fn finish(self) -> Frames {
        self.frames
    }
}

impl Passing {
    /// Whether the body has passed.
    fn feed(&mut self, bytes: &[u8], found: &mut [Found], unchecked: bool) -> bool {
        let bytes = &bytes[..bytes.len().min(self.rest)];
        self.sum = crc_append(self.sum, bytes);
        self.rest -= bytes.len();
        if self.rest == 0 {
            let frame = &mut found[self.index];
            frame.whole = unchecked || frame.header.body_crc == self.sum;
        }
        self.rest == 0
    }
}
