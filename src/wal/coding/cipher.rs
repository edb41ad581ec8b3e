//! What encrypts frames: the border to whoever has the keys.
//!
//! A [`Cipher`] knows keys by number. For each segment it derives a [`SegmentCipher`] from one of them and from what
//! the [`SegmentIdentity`] says: never the same one for two segments, whichever store, opening or copy they belong to.

use std::fmt;
use std::num::NonZeroU32;

use crate::lsn::SegmentUid;
use crate::wal::op::LogId;
use crate::wal::segment::StoreId;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of the tag behind an encrypted body.
pub const TAG_LEN: usize = 16;
/// Random bytes in a segment's header, from which its key is derived.
pub const SALT_LEN: usize = 32;
/// Bytes in a segment's header by which a wrong key is known.
pub const CHECK_LEN: usize = 8;

/// The number of a key, from 1 on. It stands in clear in the header of every segment that was written with the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(NonZeroU32);

impl KeyId {
    /// The key with this number.
    ///
    /// # Panics
    /// When it is 0, which means "no key" on disk.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(number) => Self(number),
            None => panic!("keys are numbered from 1 on"),
        }
    }

    /// The key with this number; `None` for 0.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes a segment unlike any other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SegmentIdentity {
    #[doc(hidden)]
    pub salt: [u8; SALT_LEN],
    #[doc(hidden)]
    pub log: LogId,
    #[doc(hidden)]
    pub store: StoreId,
    #[doc(hidden)]
    pub uid: SegmentUid,
}

impl SegmentIdentity {
    /// 256 random bits of the opening that wrote the segment: the salt of the derivation.
    #[must_use]
    pub const fn salt(&self) -> &[u8; SALT_LEN] {
        &self.salt
    }

    /// Log, store and segment: what the derivation is bound to.
    #[must_use]
    pub fn info(&self) -> [u8; 25] {
        let mut info = [0; 25];
        info[0] = match self.log {
            LogId::Main => 0,
            LogId::Park => 1,
        };
        info[1..17].copy_from_slice(&self.store.0);
        info[17..].copy_from_slice(&self.uid.0.to_le_bytes());
        info
    }
}

/// Gives each segment a cipher of its own, by keys that have numbers.
///
/// With the feature `aes-gcm` there is `Aes256Gcm`. Another one (a hardware module, a key service) may be written
/// against this trait. Segments keep the number of their key, so keys can be changed while older segments are read;
/// a new one is used from the next segment on.
pub trait Cipher: Send + Sync + 'static {
    /// The number of the algorithm, as segments name it: 1 is AES-256-GCM with HKDF-SHA256; use 128 to 255 for your own.
    fn kind(&self) -> u8;

    /// The key for segments that are begun from now on.
    fn writing_key(&self) -> KeyId;

    /// The cipher of one segment: derived from this key, from [`SegmentIdentity::salt`] and from
    /// [`SegmentIdentity::info`], so that no two segments ever have the same. `None` if there is no such key.
    ///
    /// Called on the queue's flush thread when a segment is begun or read, so it should not wait for long.
    fn for_segment(&self, key: KeyId, segment: &SegmentIdentity) -> Option<Box<dyn SegmentCipher>>;
}

/// Encrypts and decrypts the frames of one segment, with authentication. A nonce is never given twice for different bytes.
pub trait SegmentCipher: Send + Sync {
    /// Bytes that are kept in clear, to tell a wrong key from damage. They must say nothing about the key.
    fn check(&self) -> [u8; CHECK_LEN];

    /// Encrypts `body` in place, and gives the tag over it and `header`.
    fn encrypt(&self, nonce: &[u8; NONCE_LEN], header: &[u8], body: &mut [u8]) -> [u8; TAG_LEN];

    /// Decrypts `body` in place. False: the tag does not fit body and header, and `body` means nothing.
    #[must_use]
    fn decrypt(&self, nonce: &[u8; NONCE_LEN], header: &[u8], body: &mut [u8], tag: &[u8; TAG_LEN]) -> bool;
}

/// What the header of an encrypted segment says of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentKey {
    /// The algorithm, as [`Cipher::kind`] names it.
    pub kind: u8,
    /// The key's number.
    pub id: KeyId,
    /// Random bytes of the opening that wrote the segment.
    pub salt: [u8; SALT_LEN],
    /// By which a wrong key is known.
    pub check: [u8; CHECK_LEN],
}
