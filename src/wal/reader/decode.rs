//! The reader's memory for what it decodes: a chunk that the frames share, one behind the other.

use std::sync::Arc;

use crate::wal::block::{Block, BlockMut, Pool};
use crate::wal::coding::{Cipher, Decoder, SegmentKey, Undecoded};
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader};
use crate::wal::op::LogId;
use crate::wal::segment::StoreId;

/// Frames begin at multiples of this in memory: payloads are aligned, and no cache line belongs to two.
const ALIGN: usize = 64;

/// Decodes what a reader reads.
#[derive(Debug)]
pub(super) struct Decoding {
    decoder: Decoder,
    chunk: Option<BlockMut>,
    /// The next frame has so many bytes, and does not fit into what is left of the chunk; else 0.
    wants: usize,
}

impl Decoding {
    pub(super) fn new(log: LogId, store: StoreId, cipher: Option<Arc<dyn Cipher>>) -> Self {
        Self { decoder: Decoder::new(log, store, cipher), chunk: None, wants: 0 }
    }

    /// Whether it has a chunk of the pool.
    pub(super) fn held(&self) -> usize {
        usize::from(self.chunk.is_some())
    }

    /// Takes a chunk if one is wanted. False: none is, or there is none.
    pub(super) fn refill(&mut self, pool: &Pool) -> bool {
        if self.wants == 0 {
            return false;
        }
        // Given up first: if it was the last window of its chunk, this is the chunk to take.
        self.chunk = None;
        self.chunk = pool.take();
        if self.chunk.is_some() {
            self.wants = 0;
        }
        self.chunk.is_some()
    }

    /// Bytes of the frame that memory is wanted for; 0: none is.
    pub(super) fn wanted_len(&self) -> usize {
        self.wants
    }

    /// Nothing more is decoded for now.
    pub(super) fn release(&mut self) {
        (self.chunk, self.wants) = (None, 0);
    }

    /// The frame as it is in memory; `None`: memory is wanted first.
    pub(super) fn decode(
        &mut self,
        stored: &[u8],
        header: &FrameHeader,
        key: Option<&SegmentKey>,
    ) -> Option<Result<Block, Undecoded>> {
        let len = (FRAME_HEADER_LEN + header.raw_len as usize).next_multiple_of(ALIGN);
        if self.chunk.as_ref().is_none_or(|chunk| chunk.len() < len) {
            self.wants = len;
            return None;
        }
        let mut block = self.chunk.as_mut()?.split_front(len);
        let body = FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.raw_len as usize;
        Some(self.decoder.decode(stored, header, key, &mut block[body]).map(|()| block.freeze()))
    }
}
