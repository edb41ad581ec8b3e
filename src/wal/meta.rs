//! META: what a store is, in two copies written in turn, so that one is always whole.
//!
//! ```text
//!  META file   │ META-A │ META-B │ CURSOR-A │ CURSOR-B │
//!                M        M        16 KiB     16 KiB       M = max(block, 4096)
//! ```
//! The copy with the higher generation that checks out is the one that holds. Bytes: `docs/FORMAT.md`.

use crate::lsn::{Lsn, SegmentUid};
use crate::wal::codec::{array_at, crc, len_u32, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at, whole};
use crate::wal::coding::features;
use crate::wal::segment::{FORMAT_MAJOR, FORMAT_MINOR, StoreId, block_len_is_valid};
use crate::wal::untold::{META_WITH_UNTOLD_LEN, Untold};

/// Bytes of a META copy that carry something; the rest of its block is zero.
pub const META_LEN: usize = 256;
const MAGIC: &[u8; 8] = b"RWALMETA";
/// Of the features that may be ignored: the table of what is untold follows.
const HAS_UNTOLD: u64 = 1;

/// What a store is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Rises by one with each writing; its lowest bit is the copy's place.
    pub generation: u64,
    /// Identity of the store.
    pub store: StoreId,
    /// Features that a reader must know: [`features`].
    pub features: u64,
    /// The block size: unit of writing, and where frames begin.
    pub block_len: u32,
    /// Longest frame, header and padding included.
    pub frame_len_max: u32,
    /// Length of every slot in bytes.
    pub segment_len: u64,
    /// Incarnation: rises by one with each opening.
    pub epoch: u64,
    /// LSNs up to this one may have been shown to a sink without being in the log.
    pub reserved_lsn: Lsn,
    /// Where the log ended when it was closed in order; `None` while it is open or after a crash.
    pub clean: Option<LogEnd>,
    /// Where the last recovery found the end.
    pub recovered: Option<LogEnd>,
    /// What openings settled, and nobody may have been told.
    pub untold: Untold,
}

/// An end of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The last LSN.
    pub lsn: Lsn,
    /// The segment that holds it, if any does.
    pub uid: SegmentUid,
}

/// Why a store's META cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaError {
    /// Neither copy checks out.
    Unreadable,
    /// A later major version of the format, or a feature that this version does not know.
    Newer {
        /// Major number of the format.
        major: u16,
        /// Bits of features that are not known here.
        features: u64,
    },
}

/// Length of one META copy's place in the file.
#[must_use]
pub const fn meta_copy_len(block_len: u32) -> u64 {
    if block_len > 4096 { block_len as u64 } else { 4096 }
}

/// Where the copy of this generation lies in the file.
#[must_use]
pub const fn meta_offset(generation: u64, block_len: u32) -> u64 {
    (generation & 1) * meta_copy_len(block_len)
}

impl Meta {
    /// Writes the copy that belongs to this generation.
    ///
    /// # Panics
    /// When `out` is shorter than [`META_LEN`], or than a whole copy where something is untold.
    pub fn encode(&self, out: &mut [u8]) {
        out.fill(0);
        out[0..8].copy_from_slice(MAGIC);
        put_u16(out, 8, FORMAT_MAJOR);
        put_u16(out, 10, FORMAT_MINOR);
        put_u32(out, 12, len_u32(META_LEN));
        put_u64(out, 16, self.generation);
        out[24..40].copy_from_slice(&self.store.0);
        put_u64(out, 40, self.features);
        // 48: features that a writer must know. None in version 1.
        put_u32(out, 64, self.block_len);
        put_u32(out, 68, self.frame_len_max);
        put_u64(out, 72, self.segment_len);
        put_u64(out, 80, self.epoch);
        put_u64(out, 88, self.reserved_lsn.number());
        put_end(out, 96, self.clean);
        put_end(out, 120, self.recovered);
        let mut len = META_LEN;
        if !self.untold.is_empty() {
            len = META_WITH_UNTOLD_LEN;
            put_u32(out, 12, len_u32(len));
            put_u64(out, 56, HAS_UNTOLD);
            self.untold.encode(out);
        }
        let sum = crc(&out[..len - 4]);
        put_u32(out, len - 4, sum);
    }

    /// Reads one copy; `None` if it does not check out.
    fn decode(bytes: &[u8], place: u64) -> Option<Result<Self, MetaError>> {
        let bytes = whole(bytes, META_LEN).filter(|bytes| &bytes[..8] == MAGIC)?;
        let (major, features) = (u16_at(bytes, 8), u64_at(bytes, 40) & !features::KNOWN | u64_at(bytes, 48));
        if major > FORMAT_MAJOR || features != 0 {
            return Some(Err(MetaError::Newer { major, features }));
        }
        let meta = Self {
            generation: u64_at(bytes, 16),
            store: StoreId(array_at(bytes, 24)),
            features: u64_at(bytes, 40),
            block_len: u32_at(bytes, 64),
            frame_len_max: u32_at(bytes, 68),
            segment_len: u64_at(bytes, 72),
            epoch: u64_at(bytes, 80),
            reserved_lsn: Lsn::new(u64_at(bytes, 88)),
            clean: end_at(bytes, 96),
            recovered: end_at(bytes, 120),
            untold: if u64_at(bytes, 56) & HAS_UNTOLD == 0 { Untold::default() } else { Untold::decode(bytes) },
        };
        let block = u64::from(meta.block_len);
        let holds = meta.generation & 1 == place
            && block_len_is_valid(meta.block_len)
            && meta.segment_len >= 4 * block
            && meta.segment_len.is_multiple_of(block)
            && meta.frame_len_max >= meta.block_len
            && meta.frame_len_max.is_multiple_of(meta.block_len);
        holds.then_some(Ok(meta))
    }

    /// The copy that holds, of a META file's first bytes. Looks for the second copy at both places
    /// where the unknown block size may have put it.
    ///
    /// # Errors
    /// When no copy checks out, or the one that holds is of a later version.
    pub fn read(file: &[u8]) -> Result<Self, MetaError> {
        let first = Self::decode(file, 0);
        let second = [4096, 8192, 16_384, 32_768, 65_536].iter().find_map(|at| Self::decode(file.get(*at..)?, 1));
        match (first, second) {
            (Some(Err(newer)), _) | (_, Some(Err(newer))) => Err(newer),
            (Some(Ok(a)), Some(Ok(b))) => Ok(if a.generation > b.generation { a } else { b }),
            (Some(Ok(one)), None) | (None, Some(Ok(one))) => Ok(one),
            (None, None) => Err(MetaError::Unreadable),
        }
    }
}

fn put_end(out: &mut [u8], at: usize, end: Option<LogEnd>) {
    put_u64(out, at, u64::from(end.is_some()));
    put_u64(out, at + 8, end.map_or(0, |e| e.lsn.number()));
    put_u64(out, at + 16, end.map_or(0, |e| e.uid.0));
}

fn end_at(bytes: &[u8], at: usize) -> Option<LogEnd> {
    (u64_at(bytes, at) == 1)
        .then(|| LogEnd { lsn: Lsn::new(u64_at(bytes, at + 8)), uid: SegmentUid(u64_at(bytes, at + 16)) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sample(generation: u64) -> Meta {
        Meta {
            generation,
            store: StoreId([3; 16]),
            features: features::ENCRYPTED,
            block_len: 4096,
            frame_len_max: 1 << 18,
            segment_len: 1 << 20,
            epoch: 5,
            reserved_lsn: Lsn::new(12),
            clean: Some(LogEnd { lsn: Lsn::new(11), uid: SegmentUid(4) }),
            recovered: None,
            untold: Untold::default(),
        }
    }

    #[test]
    fn the_newer_copy_holds_and_the_older_one_steps_in() {
        let mut file = vec![0; 8192];
        assert_eq!(Meta::read(&file), Err(MetaError::Unreadable));
        sample(6).encode(&mut file[..4096]);
        assert_eq!(Meta::read(&file), Ok(sample(6)));
        sample(7).encode(&mut file[4096..]);
        assert_eq!(Meta::read(&file), Ok(sample(7)));
        file[4096 + 100] ^= 1;
        assert_eq!(Meta::read(&file), Ok(sample(6)));
    }

    #[test]
    fn a_longer_copy_is_read_and_a_longer_newer_one_is_named() {
        for major in [1, 2] {
            let mut file = vec![0; 8192];
            sample(6).encode(&mut file[..4096]);
            put_u16(&mut file, 8, major);
            put_u32(&mut file, 12, 1024);
            file[META_LEN - 4..1020].fill(7);
            let sum = crc(&file[..1020]);
            put_u32(&mut file, 1020, sum);
            let expected = if major == 1 { Ok(sample(6)) } else { Err(MetaError::Newer { major: 2, features: 0 }) };
            assert_eq!(Meta::read(&file), expected);
        }
    }

    #[test]
    fn an_unknown_feature_is_refused_by_name() {
        let mut file = vec![0; 8192];
        sample(6).encode(&mut file[..4096]);
        put_u64(&mut file, 40, 1 << 40 | features::ENCRYPTED);
        let sum = crc(&file[..META_LEN - 4]);
        put_u32(&mut file, META_LEN - 4, sum);
        assert_eq!(Meta::read(&file), Err(MetaError::Newer { major: 1, features: 1 << 40 }));
    }
}
