//! A frame: a run of entries on disk under one header; the unit of checksum, compression and encryption.
//!
//! ```text
//!  block border                                          block border
//!  ├ header, 80 bytes ┬ record ┬ record ┬ … ┬ record ┬ zeros ┤
//! ```
//! A record has the layout it had in the ring: `word: u32, meta: u32, payload, padding to 8`. On disk the records may be
//! compressed and encrypted (`coding/`); in memory, for delivery, they never are.
//! Bytes of the header: `docs/FORMAT.md`.

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::time::UnixNanos;
use crate::wal::block::Block;
use crate::wal::codec::{crc, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::wal::coding::BodyCoding;

/// Length of a frame's header in bytes.
pub const FRAME_HEADER_LEN: usize = 80;
/// The same in units of 8 bytes, as the header says it.
const HEADER_LEN_UNITS: u8 = 10;
const _: () = assert!(HEADER_LEN_UNITS as usize * 8 == FRAME_HEADER_LEN);
/// So much of the header is authenticated with an encrypted body: all but the checksums.
pub(crate) const AUTHENTICATED_LEN: usize = 72;
const MAGIC: &[u8; 4] = b"RWFR";
/// Kinds from here on may be stepped over by readers that do not know them.
const KIND_SKIPPABLE: u8 = 128;

/// What a frame is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Carries records: LSNs `first_lsn..next_lsn`.
    Data,
    /// Carries nothing but a fresher promise. May vanish in a crash.
    Mark,
    /// The last frame of a segment that was left in order.
    Seal,
    /// Says that the LSNs `first_lsn..next_lsn` were never written, on purpose.
    Skip,
    /// A kind of a later version that may be stepped over.
    Unknown(u8),
}

impl FrameKind {
    const fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Mark => 2,
            Self::Seal => 3,
            Self::Skip => 4,
            Self::Unknown(number) => number,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Mark),
            3 => Some(Self::Seal),
            4 => Some(Self::Skip),
            KIND_SKIPPABLE.. => Some(Self::Unknown(number)),
            _ => None,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame is there for.
    pub kind: FrameKind,
    /// Identity of the segment it was written into.
    pub seg_uid: SegmentUid,
    /// LSN of its first entry: where the frame before it ended.
    pub first_lsn: Lsn,
    /// One past its last entry: where the frame after it begins.
    pub next_lsn: Lsn,
    /// The promise: every LSN up to this one was durable before this frame was built.
    pub durable_lsn: Lsn,
    /// What the sink had acknowledged; a hint.
    pub acked_lsn: Lsn,
    /// When the first of its entries was drained from a ring. Information only.
    pub time: UnixNanos,
    /// Its own place in the segment, in blocks.
    pub position: u32,
    /// Records in the body.
    pub record_count: u32,
    /// How the body is stored.
    pub coding: BodyCoding,
    /// Bytes stored after the header, without the zeros to the block's end.
    pub body_len: u32,
    /// Bytes of the body when it is decoded.
    pub raw_len: u32,
    /// CRC32C of the body as stored.
    pub body_crc: u32,
}

/// Why bytes are not a frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAFrame {
    /// Too short, or no magic: nothing was written here, or something else.
    Magic,
    /// The header's CRC does not hold.
    Checksum,
    /// The CRC holds, but a field contradicts another one or this version.
    Field(&'static str),
}

impl FrameHeader {
    /// Writes the header, its CRC included.
    ///
    /// # Panics
    /// When `out` is shorter than [`FRAME_HEADER_LEN`].
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..FRAME_HEADER_LEN];
        out[0..4].copy_from_slice(MAGIC);
        out[4] = self.kind.number();
        out[5] = HEADER_LEN_UNITS;
        put_u16(out, 6, self.coding.flags());
        put_u64(out, 8, self.seg_uid.0);
        put_u64(out, 16, self.first_lsn.number());
        put_u64(out, 24, self.next_lsn.number());
        put_u64(out, 32, self.durable_lsn.number());
        put_u64(out, 40, self.acked_lsn.number());
        put_u64(out, 48, self.time.0);
        put_u32(out, 56, self.position);
        put_u32(out, 60, self.record_count);
        put_u32(out, 64, self.body_len);
        put_u32(out, 68, self.raw_len);
        put_u32(out, 72, self.body_crc);
        let sum = crc(&out[..76]);
        put_u32(out, 76, sum);
    }

    /// Reads a header and checks all that can be checked without its segment.
    ///
    /// # Errors
    /// When these bytes are not a header of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAFrame> {
        Self::decode_with(bytes, true)
    }

    /// As [`Self::decode`]; without its checksum for a mutant.
    pub(crate) fn decode_with(bytes: &[u8], checked: bool) -> Result<Self, NotAFrame> {
        let Some(bytes) = bytes.get(..FRAME_HEADER_LEN) else {
            return Err(NotAFrame::Magic);
        };
        if &bytes[..4] != MAGIC {
            return Err(NotAFrame::Magic);
        }
        if checked && crc(&bytes[..76]) != u32_at(bytes, 76) {
            return Err(NotAFrame::Checksum);
        }
        let header = Self {
            kind: FrameKind::from_number(bytes[4]).ok_or(NotAFrame::Field("kind"))?,
            seg_uid: SegmentUid(u64_at(bytes, 8)),
            first_lsn: Lsn::new(u64_at(bytes, 16)),
            next_lsn: Lsn::new(u64_at(bytes, 24)),
            durable_lsn: Lsn::new(u64_at(bytes, 32)),
            acked_lsn: Lsn::new(u64_at(bytes, 40)),
            time: UnixNanos(u64_at(bytes, 48)),
            position: u32_at(bytes, 56),
            record_count: u32_at(bytes, 60),
            coding: BodyCoding::from_flags(u16_at(bytes, 6)).ok_or(NotAFrame::Field("flags"))?,
            body_len: u32_at(bytes, 64),
            raw_len: u32_at(bytes, 68),
            body_crc: u32_at(bytes, 72),
        };
        if bytes[5] != HEADER_LEN_UNITS {
            return Err(NotAFrame::Field("header_len"));
        }
        header.check_lsns()?;
        Ok(header)
    }

    fn check_lsns(&self) -> Result<(), NotAFrame> {
        let covers = self.next_lsn.number().checked_sub(self.first_lsn.number());
        let records = u64::from(self.record_count);
        let holds = match self.kind {
            FrameKind::Data => records > 0 && covers == Some(records),
            FrameKind::Skip => records == 0 && covers.is_some_and(|n| n > 0),
            FrameKind::Mark | FrameKind::Seal => records == 0 && covers == Some(0),
            FrameKind::Unknown(_) => covers == Some(0),
        };
        let lsns = self.first_lsn > Lsn::ZERO && self.durable_lsn < self.first_lsn;
        let lens = self.coding.admits(self.body_len, self.raw_len) && u64::from(self.raw_len) >= records * 8;
        match (holds && lsns, lens, self.coding.is_plain() || self.kind == FrameKind::Data) {
            (true, true, true) => Ok(()),
            (false, ..) => Err(NotAFrame::Field("lsn")),
            (_, false, _) => Err(NotAFrame::Field("body_len")),
            (.., false) => Err(NotAFrame::Field("flags")),
        }
    }

    /// Whether `body` is what was written under this header.
    #[must_use]
    pub fn body_matches(&self, body: &[u8]) -> bool {
        body.len() == self.body_len as usize && crc(body) == self.body_crc
    }

    /// Bytes the frame takes on disk: header, body and zeros up to a whole block.
    #[must_use]
    pub fn stored_len(&self, block_len: u32) -> u64 {
        (FRAME_HEADER_LEN as u64 + u64::from(self.body_len)).next_multiple_of(u64::from(block_len))
    }
}

/// A frame in memory: what the writer puts on disk, and the same bytes that delivery reads.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its header, as it is on disk if it is there.
    pub header: FrameHeader,
    /// The header's place, then the body, decoded. The bytes of the header, and what is behind the body, mean nothing.
    pub block: Block,
    /// The runs of rings that were drained into it. Empty for a frame that was read back.
    pub runs: Vec<RunEnd>,
    /// Where it lies on disk, once that is settled.
    pub place: Option<Place>,
}

impl Frame {
    /// The records, back to back.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.block[FRAME_HEADER_LEN..FRAME_HEADER_LEN + self.header.raw_len as usize]
    }
}

/// The end of a run of records that was drained from a ring into a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunEnd {
    /// Which ring.
    pub ring: u32,
    /// The position in the ring behind the run.
    pub end: u64,
}

/// Where a frame lies on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The slot.
    pub slot: SlotNo,
    /// The use of the slot, so that a place in recycled space is not taken for the frame.
    pub uid: SegmentUid,
    /// First block of the frame in the slot.
    pub position: u32,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    pub(crate) fn sample() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Data,
            seg_uid: SegmentUid(0x1122_3344_5566_7788),
            first_lsn: Lsn::new(10),
            next_lsn: Lsn::new(13),
            durable_lsn: Lsn::new(9),
            acked_lsn: Lsn::new(4),
            time: UnixNanos(77),
            position: 5,
            record_count: 3,
            coding: BodyCoding::PLAIN,
            body_len: 48,
            raw_len: 48,
            body_crc: 1,
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        let mut bytes = [0; FRAME_HEADER_LEN];
        for kind in [FrameKind::Data, FrameKind::Mark, FrameKind::Seal, FrameKind::Skip] {
            let mut header = FrameHeader { kind, ..sample() };
            if kind != FrameKind::Data {
                header.record_count = 0;
            }
            if matches!(kind, FrameKind::Mark | FrameKind::Seal) {
                header.next_lsn = header.first_lsn;
            }
            header.encode(&mut bytes);
            assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = [0; FRAME_HEADER_LEN];
        sample().encode(&mut bytes);
        for bit in 0..FRAME_HEADER_LEN * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn contradictions_are_refused_even_under_a_good_checksum() {
        let refused = [
            FrameHeader { next_lsn: Lsn::new(14), ..sample() },
            FrameHeader { next_lsn: Lsn::new(9), ..sample() },
            FrameHeader { durable_lsn: Lsn::new(10), ..sample() },
            FrameHeader { kind: FrameKind::Mark, ..sample() },
            FrameHeader { kind: FrameKind::Unknown(5), ..sample() },
            FrameHeader { raw_len: 49, ..sample() },
            FrameHeader { body_len: 23, raw_len: 23, ..sample() },
        ];
        for header in refused {
            let mut bytes = [0; FRAME_HEADER_LEN];
            header.encode(&mut bytes);
            assert!(matches!(FrameHeader::decode(&bytes), Err(NotAFrame::Field(_))), "{header:?}");
        }
    }
}
