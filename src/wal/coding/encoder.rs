//! The writer's side: what a frame becomes on disk.
//!
//! ```text
//!   plan      packs, and tells how many bytes the frame will have: then the writer finds it a place
//!   encode    header ─ packed or plain body ─ tag ─ zeros, in memory of its own, for the length of a write
//! ```
//! What `plan` has packed is kept, so that a frame that waits for a place is packed once.

use std::fmt;

use super::pack::Packer;
use super::{BodyCoding, Coding, NONCE_LEN, Packing, SegmentCipher, SegmentIdentity, SegmentKey, TAG_LEN};
use crate::lsn::Lsn;
use crate::wal::arena::Arena;
use crate::wal::block::{Block, Pool};
use crate::wal::codec::{crc, len_u32};
use crate::wal::frame::{AUTHENTICATED_LEN, FRAME_HEADER_LEN, FrameHeader};

/// How a frame will be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::wal) struct Plan {
    coding: BodyCoding,
    /// Bytes of its body, without a tag.
    packed_len: usize,
}

impl Plan {
    /// Bytes that the frame takes on disk.
    pub(in crate::wal) fn stored_len(self, block_len: usize) -> usize {
        (FRAME_HEADER_LEN + self.body_len()).next_multiple_of(block_len)
    }

    fn body_len(self) -> usize {
        self.packed_len + self.coding.tag_len() as usize
    }
}

/// What a segment's header says of its key, and the cipher that it makes.
type Keyed = (SegmentKey, Box<dyn SegmentCipher>);

/// Codes what a log writes.
pub(in crate::wal) struct Encoder {
    coding: Coding,
    packer: Option<Packer>,
    /// The plan for the frame that begins with this LSN.
    planned: Option<(Lsn, Option<Plan>)>,
    /// Memory for coded frames: apart from that for cursors and headers, which must not wait for it.
    arena: Arena,
}

impl Encoder {
    /// `None`: frames are stored as they are.
    pub(in crate::wal) fn new(coding: &Coding, body_len_max: usize, pool: Pool) -> Option<Self> {
        if coding.is_plain() {
            return None;
        }
        let packer = Packer::new(coding.compression, body_len_max);
        Some(Self { coding: coding.clone(), packer, planned: None, arena: Arena::new(pool) })
    }

    /// Whether segments are encrypted.
    pub(in crate::wal) fn encrypts(&self) -> bool {
        self.coding.cipher.is_some()
    }

    /// The key and the cipher of a new segment; `None` where there is none. The error: the cipher has no key.
    pub(in crate::wal) fn begin_segment(
        &self,
        identity: impl FnOnce([u8; super::SALT_LEN]) -> SegmentIdentity,
    ) -> Result<Option<Keyed>, NoKey> {
        let Some(cipher) = &self.coding.cipher else { return Ok(None) };
        let (id, salt) = (cipher.writing_key(), self.coding.salt);
        let of_segment = cipher.for_segment(id, &identity(salt)).ok_or(NoKey)?;
        let key = SegmentKey { kind: cipher.kind(), id, salt, check: of_segment.check() };
        Ok(Some((key, of_segment)))
    }

    /// How the frame that begins with `first` will be stored; `None`: as it is.
    pub(in crate::wal) fn plan(&mut self, first: Lsn, body: &[u8], block_len: usize) -> Option<Plan> {
        if let Some((_, plan)) = self.planned.filter(|(lsn, _)| *lsn == first) {
            return plan;
        }
        let encrypted = self.encrypts();
        let stored_len =
            |packing, packed_len| Plan { coding: BodyCoding { packing, encrypted }, packed_len }.stored_len(block_len);
        let plain = Plan { coding: BodyCoding { packing: Packing::Plain, encrypted }, packed_len: body.len() };
        let mut best = plain;
        // A frame of one block cannot get shorter.
        if let Some(packer) = self.packer.as_mut().filter(|_| plain.stored_len(block_len) > block_len) {
            let packing = packer.packing();
            if let Some(packed) = packer.pack(body)
                && stored_len(packing, packed.len()) < plain.stored_len(block_len)
            {
                best = Plan { coding: BodyCoding { packing, encrypted }, packed_len: packed.len() };
            }
        }
        let plan = Some(best).filter(|plan| !plan.coding.is_plain());
        self.planned = Some((first, plan));
        plan
    }

    /// Whether [`Self::encode`] will have memory.
    pub(in crate::wal) fn has_memory(&mut self, plan: Plan, block_len: usize) -> bool {
        self.arena.has(plan.stored_len(block_len))
    }

    /// The frame as it goes to the disk, and its header there. `header` describes it as it is in memory.
    ///
    /// # Panics
    /// When there is no memory, or `plan` is not of this frame.
    pub(in crate::wal) fn encode(
        &mut self,
        plan: Plan,
        header: FrameHeader,
        body: &[u8],
        cipher: Option<&dyn SegmentCipher>,
        block_len: usize,
    ) -> (Block, FrameHeader) {
        assert_eq!(self.planned.take(), Some((header.first_lsn, Some(plan))), "what was planned is encoded, once");
        assert_eq!(cipher.is_some(), plan.coding.encrypted, "a segment's frames are all encrypted, or none");
        let mut out = self.arena.cut_unfilled(plan.stored_len(block_len)).unwrap_or_else(|| panic!("memory was there"));
        let mut header = FrameHeader { coding: plan.coding, body_len: len_u32(plan.body_len()), ..header };
        let (tag_at, end) = (FRAME_HEADER_LEN + plan.packed_len, FRAME_HEADER_LEN + plan.body_len());
        let packed = match &self.packer {
            Some(packer) if plan.coding.packing != Packing::Plain => packer.packed(plan.packed_len),
            _ => body,
        };
        out[FRAME_HEADER_LEN..tag_at].copy_from_slice(packed);
        out[end..].fill(0);
        if let Some(cipher) = cipher {
            header.encode(&mut out);
            let (head, rest) = out.split_at_mut(FRAME_HEADER_LEN);
            let (packed, rest) = rest.split_at_mut(plan.packed_len);
            let tag = cipher.encrypt(&nonce(&header), &head[..AUTHENTICATED_LEN], packed);
            rest[..TAG_LEN].copy_from_slice(&tag);
        }
        header.body_crc = crc(&out[FRAME_HEADER_LEN..end]);
        header.encode(&mut out);
        (out.freeze(), header)
    }
}

/// The cipher has no key to write with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::wal) struct NoKey;

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("coding", &self.coding).finish_non_exhaustive()
    }
}

/// Rises within a segment, in both its parts.
pub(super) fn nonce(header: &FrameHeader) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&header.first_lsn.number().to_le_bytes());
    nonce[8..].copy_from_slice(&header.position.to_le_bytes());
    nonce
}
