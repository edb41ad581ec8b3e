//! Making bodies shorter, and long again within bounds.

use std::fmt;

use super::Packing;
#[cfg(any(feature = "lz4", feature = "zstd"))]
use super::features;
use crate::error::ConfigError;

/// Whether frames are compressed on disk.
///
/// A frame is stored as it is where compressing it saves no block of the disk, so that what does not shrink costs no
/// reader anything. Lengths of compressed frames stand in clear, also with encryption: where secrets lie beside what an
/// attacker may choose, lengths can tell about the secrets; leave compression off then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4: some hundred MB/s to GB/s on one core, JSON lines to a third or less. Feature `lz4`.
    #[cfg(feature = "lz4")]
    Lz4 {
        /// Frames with fewer bytes of records are not tried. 0 to 4 GiB; what takes one block is never tried.
        min_len: u32,
    },
    /// zstd: shorter and slower than LZ4. Feature `zstd`.
    #[cfg(feature = "zstd")]
    Zstd {
        /// 1 (fast) to 22 (short); 3 is usual.
        level: i32,
        /// As for LZ4.
        min_len: u32,
    },
}

/// From here on frames are worth trying, if nothing else is said: shorter ones save a block at best.
#[cfg(any(feature = "lz4", feature = "zstd"))]
const MIN_LEN_DEFAULT: u32 = 4096;
/// The usual level of zstd.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL_DEFAULT: i32 = 3;
#[cfg(feature = "zstd")]
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=22;

impl Compression {
    /// LZ4 for frames with 4096 bytes of records and more.
    #[cfg(feature = "lz4")]
    #[must_use]
    pub const fn lz4() -> Self {
        Self::Lz4 { min_len: MIN_LEN_DEFAULT }
    }

    /// zstd at level 3 for frames with 4096 bytes of records and more.
    #[cfg(feature = "zstd")]
    #[must_use]
    pub const fn zstd() -> Self {
        Self::Zstd { level: ZSTD_LEVEL_DEFAULT, min_len: MIN_LEN_DEFAULT }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::None
    }

    /// Whether its level is one.
    pub(crate) fn check(self) -> Result<(), ConfigError> {
        match self {
            #[cfg(feature = "zstd")]
            Self::Zstd { level, .. } if !ZSTD_LEVELS.contains(&level) => {
                Err(ConfigError::new("compression", format!("zstd at level {level}"), "zstd at a level of 1 to 22"))
            }
            _ => Ok(()),
        }
    }

    /// What a reader must know.
    pub(super) const fn features(self) -> u64 {
        match self {
            Self::None => 0,
            #[cfg(feature = "lz4")]
            Self::Lz4 { .. } => features::LZ4,
            #[cfg(feature = "zstd")]
            Self::Zstd { .. } => features::ZSTD,
        }
    }

    pub(super) const fn packing(self) -> Packing {
        match self {
            Self::None => Packing::Plain,
            #[cfg(feature = "lz4")]
            Self::Lz4 { .. } => Packing::Lz4,
            #[cfg(feature = "zstd")]
            Self::Zstd { .. } => Packing::Zstd,
        }
    }

    pub(super) const fn min_len(self) -> usize {
        match self {
            Self::None => usize::MAX,
            #[cfg(feature = "lz4")]
            Self::Lz4 { min_len } => min_len as usize,
            #[cfg(feature = "zstd")]
            Self::Zstd { min_len, .. } => min_len as usize,
        }
    }
}

/// Compresses, with memory that it keeps.
pub(super) struct Packer {
    compression: Compression,
    #[cfg(feature = "lz4")]
    table: Option<lz4_flex::block::CompressTable>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Packer {
    /// One for bodies of up to `body_len_max` bytes; `None` where nothing is compressed.
    #[cfg_attr(
        not(any(feature = "lz4", feature = "zstd")),
        expect(unreachable_code, unused_variables, reason = "nothing is compressed")
    )]
    pub(super) fn new(compression: Compression, body_len_max: usize) -> Option<Self> {
        let room: usize = match compression {
            Compression::None => return None,
            #[cfg(feature = "lz4")]
            Compression::Lz4 { .. } => lz4_flex::block::get_maximum_output_size(body_len_max),
            #[cfg(feature = "zstd")]
            Compression::Zstd { .. } => zstd::zstd_safe::compress_bound(body_len_max),
        };
        Some(Self {
            compression,
            #[cfg(feature = "lz4")]
            table: matches!(compression, Compression::Lz4 { .. }).then(lz4_flex::block::CompressTable::large),
            #[cfg(feature = "zstd")]
            zstd: match compression {
                // Without memory for a context frames are stored as they are.
                Compression::Zstd { level, .. } => zstd::bulk::Compressor::new(level).ok(),
                _ => None,
            },
            out: vec![0; room],
        })
    }

    /// The body, compressed; `None` if it is too short to be tried, or cannot be.
    #[cfg_attr(
        not(any(feature = "lz4", feature = "zstd")),
        expect(unreachable_code, unused_variables, reason = "nothing is compressed")
    )]
    pub(super) fn pack(&mut self, body: &[u8]) -> Option<&[u8]> {
        if body.len() < self.compression.min_len() {
            return None;
        }
        let len: usize = match self.compression {
            Compression::None => return None,
            #[cfg(feature = "lz4")]
            Compression::Lz4 { .. } => {
                lz4_flex::block::compress_into_with_table(body, &mut self.out, self.table.as_mut()?).ok()?
            }
            #[cfg(feature = "zstd")]
            Compression::Zstd { .. } => self.zstd.as_mut()?.compress_to_buffer(body, &mut self.out[..]).ok()?,
        };
        Some(&self.out[..len])
    }

    /// What the last [`Self::pack`] gave.
    pub(super) fn packed(&self, len: usize) -> &[u8] {
        &self.out[..len]
    }

    pub(super) const fn packing(&self) -> Packing {
        self.compression.packing()
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packer({:?})", self.compression)
    }
}

/// Makes a packed body long again: exactly as long as `out`. False: it is not what it says.
#[must_use]
pub(super) fn unpack(packing: Packing, body: &[u8], out: &mut [u8]) -> bool {
    match packing {
        Packing::Plain => {
            let fits = body.len() == out.len();
            if fits {
                out.copy_from_slice(body);
            }
            fits
        }
        #[cfg(feature = "lz4")]
        Packing::Lz4 => lz4_flex::block::decompress_into(body, out).is_ok_and(|len| len == out.len()),
        #[cfg(feature = "zstd")]
        Packing::Zstd => zstd::bulk::decompress_to_buffer(body, out).is_ok_and(|len| len == out.len()),
        // META names the feature, and opening has refused a store that needs what this build has not.
        #[cfg(not(all(feature = "lz4", feature = "zstd")))]
        _ => false,
    }
}
