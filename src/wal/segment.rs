//! A segment's header, and what a slot's first blocks may say instead.
//!
//! ```text
//!  slot file   │ header, copy 0 │ header, copy 1 │ frame │ frame │ …                 │
//!                block 0          block 1          blocks 2, 3 …
//! ```
//! Bytes: `docs/FORMAT.md`.

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::schema::Schema;
use crate::time::UnixNanos;
use crate::wal::codec::{array_at, crc, len_u32, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at, whole};
use crate::wal::coding::{CHECK_LEN, KeyId, SALT_LEN, SegmentKey};
use crate::wal::op::LogId;

/// Length of a segment's header in bytes; each copy has a block of its own.
pub const SEGMENT_HEADER_LEN: usize = 256;
/// Blocks at the start of a slot that hold the header's copies.
pub const HEADER_BLOCKS: u32 = 2;
/// This version of the format. A reader refuses a greater major number and ignores the minor one.
pub const FORMAT_MAJOR: u16 = 1;
/// Counts additions that older readers may ignore.
pub const FORMAT_MINOR: u16 = 0;

/// Where the salt and the check of its key lie, if it has one.
const SALT_AT: usize = 204;
const CHECK_AT: usize = SALT_AT + SALT_LEN;
const _: () = assert!(CHECK_AT + CHECK_LEN <= SEGMENT_HEADER_LEN - 4);
const SEGMENT: &[u8; 8] = b"RWALSEG\x01";
const FREE: &[u8; 8] = b"RWALFREE";
const VOID: &[u8; 8] = b"RWALVOID";

/// Identity of a store: in META, in every segment, so that a file of another store is not taken in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub [u8; 16]);

/// The header of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// Random identity of this use of the slot.
    pub uid: SegmentUid,
    /// Order of segments; never repeats in a log.
    pub seq: u64,
    /// First LSN stored here.
    pub base_lsn: Lsn,
    /// The segment before it that holds a record; none for a log's first.
    pub prev_uid: SegmentUid,
    /// Last LSN assigned before this segment: `base_lsn - 1`. Not a promise.
    pub prev_end_lsn: Lsn,
    /// The promise when the header was built.
    pub durable_lsn: Lsn,
    /// Incarnation of the store that wrote it.
    pub epoch: u64,
    /// The block size, so that a segment can be read without META.
    pub block_len: u32,
    /// The slot it was written for.
    pub slot: SlotNo,
    /// Length of the slot in bytes.
    pub segment_len: u64,
    /// Information only.
    pub created: UnixNanos,
    /// Which log it belongs to.
    pub log: LogId,
    /// What the entries in it are.
    pub schema: Schema,
    /// The key of its frames; `None`: they are not encrypted.
    pub key: Option<SegmentKey>,
}

/// What the first blocks of a slot say.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each slot, while a store is looked at")]
pub enum SlotHeader {
    /// A segment lies here.
    Segment(SegmentHeader),
    /// Zero-written to its end and never used.
    Free,
    /// Abandoned by a recovery.
    Void,
    /// Written by a later version of the format.
    Newer {
        /// Its major number.
        major: u16,
    },
    /// None of these: interrupted while being prepared, torn while being reused, or rotted.
    Invalid,
}

impl SegmentHeader {
    /// Writes both copies, a block each.
    ///
    /// # Panics
    /// When `out` is not two blocks long.
    pub fn encode(&self, out: &mut [u8]) {
        let block_len = self.block_len as usize;
        assert_eq!(out.len(), HEADER_BLOCKS as usize * block_len);
        out.fill(0);
        for (copy, block) in (0..).zip(out.chunks_exact_mut(block_len)) {
            self.encode_copy(copy, block);
        }
    }

    fn encode_copy(&self, copy: u8, out: &mut [u8]) {
        let out = &mut out[..SEGMENT_HEADER_LEN];
        out[0..8].copy_from_slice(SEGMENT);
        put_u16(out, 8, FORMAT_MAJOR);
        put_u16(out, 10, FORMAT_MINOR);
        put_u32(out, 12, len_u32(SEGMENT_HEADER_LEN));
        out[16..32].copy_from_slice(&self.store.0);
        put_u64(out, 32, self.uid.0);
        put_u64(out, 40, self.seq);
        put_u64(out, 48, self.base_lsn.number());
        put_u64(out, 56, self.prev_uid.0);
        put_u64(out, 64, self.prev_end_lsn.number());
        put_u64(out, 72, self.durable_lsn.number());
        put_u64(out, 80, self.epoch);
        put_u32(out, 88, self.block_len);
        put_u32(out, 92, self.slot.0);
        put_u64(out, 96, self.segment_len);
        // 110: flags. Reserved in version 1.
        if let Some(key) = &self.key {
            put_u32(out, 104, key.id.number());
            out[109] = key.kind;
            out[SALT_AT..SALT_AT + SALT_LEN].copy_from_slice(&key.salt);
            out[CHECK_AT..CHECK_AT + CHECK_LEN].copy_from_slice(&key.check);
        }
        out[108] = copy;
        put_u64(out, 112, self.created.0);
        put_u32(
            out,
            120,
            match self.log {
                LogId::Main => 0,
                LogId::Park => 1,
            },
        );
        self.schema.encode(&mut out[124..204]);
        let sum = crc(&out[..252]);
        put_u32(out, 252, sum);
    }

    fn decode_copy(copy: u8, bytes: &[u8]) -> SlotHeader {
        let magic: &[u8] = bytes.get(..8).unwrap_or_default();
        if magic == FREE || magic == VOID {
            let holds = bytes.get(..256).is_some_and(|mark| crc(&mark[..252]) == u32_at(mark, 252));
            return match holds {
                true if magic == FREE => SlotHeader::Free,
                true => SlotHeader::Void,
                false => SlotHeader::Invalid,
            };
        }
        let Some(bytes) = whole(bytes, SEGMENT_HEADER_LEN).filter(|_| magic == SEGMENT) else {
            return SlotHeader::Invalid;
        };
        let major = u16_at(bytes, 8);
        if major > FORMAT_MAJOR {
            return SlotHeader::Newer { major };
        }
        let log = match u32_at(bytes, 120) {
            0 => LogId::Main,
            1 => LogId::Park,
            _ => return SlotHeader::Invalid,
        };
        let Some(schema) = Schema::decode(&bytes[124..204]) else {
            return SlotHeader::Invalid;
        };
        let key = match (KeyId::from_number(u32_at(bytes, 104)), bytes[109]) {
            (None, 0) => None,
            (Some(id), kind @ 1..) => {
                Some(SegmentKey { kind, id, salt: array_at(bytes, SALT_AT), check: array_at(bytes, CHECK_AT) })
            }
            _ => return SlotHeader::Invalid,
        };
        let header = Self {
            store: StoreId(array_at(bytes, 16)),
            uid: SegmentUid(u64_at(bytes, 32)),
            seq: u64_at(bytes, 40),
            base_lsn: Lsn::new(u64_at(bytes, 48)),
            prev_uid: SegmentUid(u64_at(bytes, 56)),
            prev_end_lsn: Lsn::new(u64_at(bytes, 64)),
            durable_lsn: Lsn::new(u64_at(bytes, 72)),
            epoch: u64_at(bytes, 80),
            block_len: u32_at(bytes, 88),
            slot: SlotNo(u32_at(bytes, 92)),
            segment_len: u64_at(bytes, 96),
            created: UnixNanos(u64_at(bytes, 112)),
            log,
            schema,
            key,
        };
        let holds = bytes[108] == copy
            && header.uid != SegmentUid::NONE
            && header.base_lsn > Lsn::ZERO
            && header.prev_end_lsn == header.base_lsn.prev()
            && header.durable_lsn < header.base_lsn
            && block_len_is_valid(header.block_len);
        if holds { SlotHeader::Segment(header) } else { SlotHeader::Invalid }
    }
}

/// What the first blocks of a slot say. A crash may have left copies that differ. Then the slot counts as if all that was
/// being written were there: a segment speaks over a mark, and a newer one over an older one. Recovery settles it, so that
/// no copy is left to speak when the next header is torn.
#[must_use]
pub fn read_slot_header(bytes: &[u8], block_len: u32) -> SlotHeader {
    let copies = bytes.chunks_exact(block_len as usize).take(HEADER_BLOCKS as usize);
    let copies = (0..).zip(copies).map(|(copy, block)| SegmentHeader::decode_copy(copy, block));
    copies.fold(SlotHeader::Invalid, |said, copy| if copy.speaks_over(&said) { copy } else { said })
}

impl SlotHeader {
    /// Whether of two copies this one counts, although the other one stands before it.
    fn speaks_over(&self, first: &Self) -> bool {
        match (first, self) {
            (Self::Newer { .. }, _) | (_, Self::Invalid) => false,
            (Self::Invalid, _) | (_, Self::Newer { .. }) => true,
            (Self::Segment(first), Self::Segment(second)) => {
                let is_of_the_same = (first.store, first.slot) == (second.store, second.slot);
                is_of_the_same && (first.epoch, first.seq) < (second.epoch, second.seq)
            }
            (Self::Segment(_), _) => false,
            (Self::Free | Self::Void, _) => matches!(self, Self::Segment(_)),
        }
    }
}

/// Writes the mark of a slot that is zero to its end and free, over both header blocks.
pub fn write_free_mark(out: &mut [u8], block_len: u32) {
    write_mark(FREE, out, block_len);
}

/// Writes the mark of a slot that recovery abandoned, over both header blocks.
pub fn write_void_mark(out: &mut [u8], block_len: u32) {
    write_mark(VOID, out, block_len);
}

fn write_mark(magic: &[u8; 8], out: &mut [u8], block_len: u32) {
    assert_eq!(out.len(), (HEADER_BLOCKS * block_len) as usize);
    out.fill(0);
    for block in out.chunks_exact_mut(block_len as usize) {
        block[..8].copy_from_slice(magic);
        let sum = crc(&block[..252]);
        put_u32(block, 252, sum);
    }
}

/// The longest block that a store can have, in bytes.
pub const BLOCK_LEN_MAX: u32 = 65_536;

/// Whether a block size is one that a store can have.
#[must_use]
pub const fn block_len_is_valid(block_len: u32) -> bool {
    block_len.is_power_of_two() && block_len >= 512 && block_len <= BLOCK_LEN_MAX
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            uid: SegmentUid(9),
            seq: 3,
            base_lsn: Lsn::new(101),
            prev_uid: SegmentUid(8),
            prev_end_lsn: Lsn::new(100),
            durable_lsn: Lsn::new(96),
            epoch: 2,
            block_len: 512,
            slot: SlotNo(4),
            segment_len: 1 << 20,
            created: UnixNanos(5),
            log: LogId::Park,
            schema: Schema::new("orders", 3),
            key: Some(SegmentKey { kind: 1, id: KeyId::new(7), salt: [5; SALT_LEN], check: [6; CHECK_LEN] }),
        }
    }

    #[test]
    fn a_header_comes_back_from_either_copy() {
        let mut bytes = vec![0; 1024];
        sample().encode(&mut bytes);
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Segment(sample()));
        bytes[3] ^= 1;
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Segment(sample()));
        bytes[512 + 3] ^= 1;
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Invalid);
    }

    #[test]
    fn of_copies_that_differ_the_one_that_was_written_last_speaks() {
        let copies = |write: &dyn Fn(&mut [u8])| {
            let mut bytes = vec![0; 1024];
            write(&mut bytes);
            bytes
        };
        let older = copies(&|out| sample().encode(out));
        let newer = SegmentHeader { epoch: 3, seq: 2, uid: SegmentUid(10), ..sample() };
        let said = SlotHeader::Segment(newer.clone());
        let newer = copies(&|out| newer.encode(out));
        let (free, void) = (copies(&|out| write_free_mark(out, 512)), copies(&|out| write_void_mark(out, 512)));
        for before in [older, free, void] {
            for (first, second) in [(&before, &newer), (&newer, &before)] {
                let bytes = [&first[..512], &second[512..]].concat();
                assert_eq!(read_slot_header(&bytes, 512), said);
            }
        }
    }

    #[test]
    fn marks_are_told_apart_and_zeros_are_nothing() {
        let mut bytes = vec![0; 1024];
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Invalid);
        write_free_mark(&mut bytes, 512);
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Free);
        write_void_mark(&mut bytes, 512);
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Void);
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = vec![0; 1024];
        sample().encode(&mut bytes);
        for block in bytes.chunks_exact_mut(512) {
            put_u16(block, 8, 2);
            let sum = crc(&block[..252]);
            put_u32(block, 252, sum);
        }
        assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Newer { major: 2 });
    }

    /// Its checksum lies further back: a reader that looks for it at the place of its own version takes the
    /// header of a later one for a damaged one.
    #[test]
    fn a_longer_header_is_read_and_a_longer_newer_one_is_named() {
        for (major, len) in [(1, 264), (2, 264), (2, 512)] {
            let mut bytes = vec![0; 1024];
            sample().encode(&mut bytes);
            for block in bytes.chunks_exact_mut(512) {
                put_u32(block, 252, 0x0101_0101);
                put_u16(block, 8, major);
                put_u32(block, 12, len_u32(len));
                let sum = crc(&block[..len - 4]);
                put_u32(block, len - 4, sum);
            }
            let expected = if major == 1 { SlotHeader::Segment(sample()) } else { SlotHeader::Newer { major: 2 } };
            assert_eq!(read_slot_header(&bytes, 512), expected);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_copy_is_noticed() {
        let mut bytes = vec![0; 1024];
        sample().encode(&mut bytes);
        bytes[512..].fill(0);
        for bit in 0..SEGMENT_HEADER_LEN * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_slot_header(&bytes, 512), SlotHeader::Invalid, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
