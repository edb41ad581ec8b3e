//! A frame that is being filled, straight into the memory that goes to the disk.
//!
//! ```text
//!   chunk │ frame 7 │ header │ records … │ spare            │ rest │
//!           sealed    80       body_len    spare_mut()        for the next frame
//! ```
//! Nothing is copied: a ring is drained into `spare_mut`, `advance` counts it. Several frames share a
//! chunk; sealing cuts the frame off, whole blocks, with zeros after the body, and keeps the rest.

use std::fmt;

use crate::time::{Instant, UnixNanos};
use crate::wal::block::BlockMut;
use crate::wal::frame::{FRAME_HEADER_LEN, RunEnd};

/// A frame that is being filled.
pub struct FrameBuilder {
    chunk: BlockMut,
    body_len: usize,
    /// Header and body never grow beyond this.
    len_max: usize,
    records: u32,
    runs: Vec<RunEnd>,
    opened: Instant,
    time: UnixNanos,
    /// Length of a whole chunk.
    chunk_len: usize,
}

/// What sealing makes of a builder.
pub(super) struct Sealed {
    /// Header (not yet written), body, zeros: whole blocks.
    pub(super) block: BlockMut,
    pub(super) body_len: u32,
    pub(super) records: u32,
    pub(super) runs: Vec<RunEnd>,
    pub(super) opened: Instant,
    pub(super) time: UnixNanos,
    /// What is left of the chunk.
    pub(super) rest: BlockMut,
}

impl FrameBuilder {
    /// An empty frame in front of `chunk`. `runs` are those of one that was given up, or none.
    pub(super) fn new(
        chunk: BlockMut,
        chunk_len: usize,
        len_max: usize,
        runs: Vec<RunEnd>,
        now: Instant,
        unix: UnixNanos,
    ) -> Self {
        let len_max = len_max.min(chunk.len());
        assert!(len_max > FRAME_HEADER_LEN, "a frame has room for its header");
        Self { chunk, body_len: 0, len_max, records: 0, runs, opened: now, time: unix, chunk_len }
    }

    /// Where the next records go. Whatever bytes stand there mean nothing.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.chunk[FRAME_HEADER_LEN + self.body_len..self.len_max]
    }

    /// Says that `bytes` of [`Self::spare_mut`] now hold `records` records, which end in their ring at `run`.
    ///
    /// # Panics
    /// When it is more than was spare, or bytes without records.
    pub fn advance(&mut self, bytes: usize, records: u32, run: RunEnd) {
        assert!(bytes <= self.len_max - FRAME_HEADER_LEN - self.body_len, "a run fits into what was spare");
        assert!(bytes >= records as usize * 8 && (records > 0) == (bytes > 0), "a record has at least its header");
        self.body_len += bytes;
        self.records += records;
        match self.runs.iter_mut().rev().find(|known| known.ring == run.ring) {
            Some(known) => known.end = run.end,
            None => self.runs.push(run),
        }
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// How many bytes they take.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// When the first of its records may have come.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether the smallest record would still fit.
    pub(super) fn has_spare(&self) -> bool {
        FRAME_HEADER_LEN + self.body_len + 8 <= self.len_max
    }

    /// Whether all of a chunk, or of the longest frame, is under it.
    pub(super) fn is_whole(&self, len_max: usize) -> bool {
        self.len_max >= len_max.min(self.chunk_len)
    }

    /// A frame that is still empty begins now.
    pub(super) fn touch(&mut self, now: Instant, unix: UnixNanos) {
        if self.records == 0 {
            self.opened = now;
            self.time = unix;
        }
    }

    /// Gives up an empty frame and the chunk under it. What it was told of rings without records must be told again.
    pub(super) fn into_runs(self) -> Vec<RunEnd> {
        self.runs
    }

    /// Cuts the frame off: whole blocks, zeros after the body.
    #[expect(clippy::cast_possible_truncation, reason = "a frame's length fits `frame_len_max`, a u32")]
    pub(super) fn seal(mut self, block_len: usize) -> Sealed {
        assert!(self.records > 0, "an empty frame is not sealed");
        let used = FRAME_HEADER_LEN + self.body_len;
        let stored = used.next_multiple_of(block_len);
        self.chunk[..FRAME_HEADER_LEN].fill(0);
        self.chunk[used..stored].fill(0);
        let block = self.chunk.split_front(stored);
        Sealed {
            block,
            body_len: self.body_len as u32,
            records: self.records,
            runs: self.runs,
            opened: self.opened,
            time: self.time,
            rest: self.chunk,
        }
    }
}

impl fmt::Debug for FrameBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameBuilder({} records, {} of {} bytes)", self.records, self.body_len, self.len_max)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wal::block::Pool;

    fn run(ring: u32, end: u64) -> RunEnd {
        RunEnd { ring, end }
    }

    #[test]
    fn a_sealed_frame_is_whole_blocks_with_zeros_behind_the_body() {
        let pool = Pool::new(1, 8192).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.fill(0xaa);
        let mut builder = FrameBuilder::new(chunk, 8192, 4096, Vec::new(), Instant::START, UnixNanos(7));
        assert_eq!(builder.spare_mut().len(), 4096 - FRAME_HEADER_LEN);
        builder.spare_mut()[..16].fill(1);
        builder.advance(16, 1, run(0, 16));
        let sealed = builder.seal(512);
        assert_eq!((sealed.block.len(), sealed.rest.len()), (512, 8192 - 512));
        assert!(sealed.block[..80].iter().all(|b| *b == 0));
        assert!(sealed.block[80..96].iter().all(|b| *b == 1));
        assert!(sealed.block[96..].iter().all(|b| *b == 0), "no old bytes reach the disk");
    }

    #[test]
    fn runs_of_one_ring_are_told_once_with_their_last_end() {
        let pool = Pool::new(1, 4096).unwrap();
        let mut builder = FrameBuilder::new(pool.take().unwrap(), 4096, 4096, Vec::new(), Instant::START, UnixNanos(0));
        builder.advance(16, 1, run(0, 16));
        builder.advance(8, 1, run(3, 8));
        builder.advance(32, 2, run(0, 48));
        assert_eq!((builder.records(), builder.body_len()), (4, 56));
        assert_eq!(builder.seal(512).runs, vec![run(0, 48), run(3, 8)]);
    }
}
