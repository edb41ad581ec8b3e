//! How a frame's body is stored: compressed, encrypted, both or neither.
//!
//! ```text
//!   records ──► pack (if that saves a block) ──► encrypt, header as additional data ──► checksum ──► disk
//!   plain, for delivery ◄── unpack ◄── decrypt and authenticate ◄── checksum ◄────────────────────────┘
//! ```
//! What delivery reads from memory is the plain block; the coded copy lives until its write is over. The checksum is
//! over what is on disk, so that recovery, which decides by checksums, needs no key. Headers stay in clear: the chain of
//! LSNs and the promises are read without one, and are authenticated with the body.
//!
//! # Why no nonce is ever used twice with one key
//! | a nonce could come again when …                      | but                                                        |
//! |------------------------------------------------------|------------------------------------------------------------|
//! | two frames of a segment have it                      | it is (first LSN, place): both rise within a segment (W6)  |
//! | two segments of one opening have it                  | each has a key of its own, derived from its uid; an opening draws no uid twice, and the log's number parts the logs |
//! | a frame is written again behind a crash, its LSN and its place as before | that is another opening: 256 new random bits go into the derivation |
//! | a copied directory is opened twice, or two stores share a key | the same                                          |
//! | a write is sent again                                | then its bytes are the same                                |
//!
//! Decision: `docs/adr/0015-compression-and-encryption.md`. Bytes: `docs/FORMAT.md`.

#[cfg(feature = "aes-gcm")]
mod aes;
mod cipher;
mod decoder;
pub(super) mod encoder;
mod pack;
#[cfg(all(test, not(any(loom, shuttle)), feature = "aes-gcm", feature = "lz4"))]
mod tests;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "aes-gcm")]
pub use aes::Aes256Gcm;
pub use cipher::{CHECK_LEN, Cipher, KeyId, NONCE_LEN, SALT_LEN, SegmentCipher, SegmentIdentity, SegmentKey, TAG_LEN};
pub use decoder::{Decoder, KeyProblem, Undecoded};
pub use pack::Compression;

/// Longest body, decoded, that a coded frame may claim: more than any entry, so that a hostile length costs little.
pub const RAW_LEN_MAX: u32 = 128 << 20;

/// Bits of the features that a reader must know, in META.
pub mod features {
    /// Frames may be packed with LZ4.
    pub const LZ4: u64 = 1;
    /// Frames may be packed with zstd.
    pub const ZSTD: u64 = 1 << 1;
    /// Frames may be encrypted.
    pub const ENCRYPTED: u64 = 1 << 2;

    /// What this build can read.
    pub const KNOWN: u64 =
        ENCRYPTED | if cfg!(feature = "lz4") { LZ4 } else { 0 } | if cfg!(feature = "zstd") { ZSTD } else { 0 };

    /// A feature's name, and what makes a build know it.
    #[must_use]
    pub fn name(bit: u64) -> Option<&'static str> {
        match bit {
            LZ4 => Some("LZ4 compression (built with the feature `lz4`)"),
            ZSTD => Some("zstd compression (built with the feature `zstd`)"),
            ENCRYPTED => Some("encryption"),
            _ => None,
        }
    }

    /// All of these, for people: names where they are known, bits where not.
    #[must_use]
    pub fn names(bits: u64) -> String {
        let mut names: Vec<String> = Vec::new();
        let mut unknown = bits;
        for bit in [LZ4, ZSTD, ENCRYPTED] {
            if let Some(name) = name(bit).filter(|_| bits & bit != 0) {
                names.push(name.to_owned());
                unknown &= !bit;
            }
        }
        if unknown != 0 {
            names.push(format!("unknown features {unknown:#x}"));
        }
        names.join(", ")
    }
}

/// How a body was made shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Packing {
    /// Not at all.
    #[default]
    Plain,
    /// LZ4, block format, without a length in front.
    Lz4,
    /// A zstd frame.
    Zstd,
}

/// How a frame's body is stored, as the flags in its header say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyCoding {
    /// How it was made shorter.
    pub packing: Packing,
    /// Whether it is encrypted, with a tag at its end.
    pub encrypted: bool,
}

const ENCRYPTED_FLAG: u16 = 1 << 4;
/// As the header counts.
const TAG_LEN_U32: u32 = 16;
const _: () = assert!(TAG_LEN_U32 as usize == TAG_LEN);

impl BodyCoding {
    /// As it is in memory.
    pub const PLAIN: Self = Self { packing: Packing::Plain, encrypted: false };

    /// Whether it must be decoded before it can be read.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self == Self::PLAIN
    }

    /// Bytes behind the body proper.
    #[must_use]
    pub const fn tag_len(self) -> u32 {
        if self.encrypted { TAG_LEN_U32 } else { 0 }
    }

    pub(super) const fn flags(self) -> u16 {
        let packing = match self.packing {
            Packing::Plain => 0,
            Packing::Lz4 => 1,
            Packing::Zstd => 2,
        };
        packing | if self.encrypted { ENCRYPTED_FLAG } else { 0 }
    }

    pub(super) const fn from_flags(flags: u16) -> Option<Self> {
        let packing = match flags & !ENCRYPTED_FLAG {
            0 => Packing::Plain,
            1 => Packing::Lz4,
            2 => Packing::Zstd,
            _ => return None,
        };
        Some(Self { packing, encrypted: flags & ENCRYPTED_FLAG != 0 })
    }

    /// Whether a body of these lengths can be stored so.
    pub(super) fn admits(self, body_len: u32, raw_len: u32) -> bool {
        let Some(packed_len) = body_len.checked_sub(self.tag_len()) else { return false };
        match self.packing {
            Packing::Plain => packed_len == raw_len && (!self.encrypted || raw_len <= RAW_LEN_MAX),
            Packing::Lz4 | Packing::Zstd => packed_len > 0 && packed_len < raw_len && raw_len <= RAW_LEN_MAX,
        }
    }
}

/// How a log codes what it writes from now on, and the keys for what it reads.
#[derive(Clone, Default)]
pub struct Coding {
    /// How bodies are made shorter.
    pub compression: Compression,
    /// What encrypts them, and knows the keys of what is on disk.
    pub cipher: Option<Arc<dyn Cipher>>,
    /// Random, new with each opening; makes the keys of its segments unlike those of any other opening.
    pub salt: [u8; SALT_LEN],
}

impl Coding {
    /// Whether frames are stored as they are.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.compression.is_none() && self.cipher.is_none()
    }

    /// What a reader must know of a store that is written so.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.compression.features() | if self.cipher.is_some() { features::ENCRYPTED } else { 0 }
    }

    /// Bytes by which a frame may be longer on disk than in memory.
    #[must_use]
    pub fn overhead(&self) -> usize {
        if self.cipher.is_some() { TAG_LEN } else { 0 }
    }
}

impl fmt::Debug for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = self.cipher.as_ref().map(|cipher| (cipher.kind(), cipher.writing_key()));
        f.debug_struct("Coding")
            .field("compression", &self.compression)
            .field("cipher", &cipher)
            .finish_non_exhaustive()
    }
}
