//! AES-256-GCM, with a key for each segment by HKDF-SHA256. Feature `aes-gcm`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::cipher::{CHECK_LEN, Cipher, KeyId, NONCE_LEN, SegmentCipher, SegmentIdentity, TAG_LEN};
use crate::error::ConfigError;
use crate::sync::Mutex;

/// Its number in the headers of segments.
const KIND: u8 = 1;
/// Bytes of a key.
const KEY_LEN: usize = 32;
/// What the two outputs of a derivation are for: the one says nothing about the other.
const FRAME_LABEL: &[u8] = b"ringwal v1 frame key";
const CHECK_LABEL: &[u8] = b"ringwal v1 key check";

/// AES-256-GCM. Each segment is encrypted with a key of its own, derived with HKDF-SHA256 from one of these and from
/// 256 random bits that are new with each opening of the queue.
///
/// Clones share their keys, so that one can be kept to [`rotate`](Self::rotate) while the queue is open. Keys are wiped
/// from memory when the last clone is dropped, and never printed.
///
/// ```
/// use ringwal::{Aes256Gcm, KeyId, Queue, Batch, blocking_fn};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// # let (old, new) = ([1; 32], [2; 32]);
/// let keys = Aes256Gcm::new(KeyId::new(2), new).with_key(KeyId::new(1), old)?; // 1 is only read with
/// let queue = Queue::builder(dir).cipher(keys.clone()).open(blocking_fn(|_: &Batch<String>| Ok(())))?;
/// queue.producer().push("for few eyes".to_owned())?;
/// keys.rotate(KeyId::new(3), [3; 32])?; // from the next segment on
/// queue.shutdown(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Aes256Gcm(Arc<Mutex<Keys>>);

struct Keys {
    writing: KeyId,
    known: BTreeMap<KeyId, Zeroizing<[u8; KEY_LEN]>>,
}

impl Aes256Gcm {
    /// One that writes with this key: 32 bytes of chance, not a password.
    #[must_use]
    pub fn new(id: KeyId, key: [u8; KEY_LEN]) -> Self {
        let known = BTreeMap::from([(id, Zeroizing::new(key))]);
        Self(Arc::new(Mutex::new(Keys { writing: id, known })))
    }

    /// Also knows this key, for segments that were written with it before.
    ///
    /// # Errors
    /// When another key has this number.
    pub fn with_key(self, id: KeyId, key: [u8; KEY_LEN]) -> Result<Self, ConfigError> {
        self.add(id, key, false)?;
        Ok(self)
    }

    /// Writes with this key from the next segment on. Older keys stay known, as long as segments need them.
    ///
    /// # Errors
    /// When another key has this number.
    pub fn rotate(&self, id: KeyId, key: [u8; KEY_LEN]) -> Result<(), ConfigError> {
        self.add(id, key, true)
    }

    fn add(&self, id: KeyId, key: [u8; KEY_LEN], writes: bool) -> Result<(), ConfigError> {
        let key = Zeroizing::new(key);
        let mut keys = self.0.lock();
        if keys.known.get(&id).is_some_and(|known| *known != key) {
            return Err(ConfigError::new("cipher (key)", id, "a number that no other key has"));
        }
        keys.known.insert(id, key);
        if writes {
            keys.writing = id;
        }
        Ok(())
    }
}

impl fmt::Debug for Aes256Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.lock();
        write!(f, "Aes256Gcm(writes with key {}, knows {:?})", keys.writing, keys.known.keys())
    }
}

impl Cipher for Aes256Gcm {
    fn kind(&self) -> u8 {
        KIND
    }

    fn writing_key(&self) -> KeyId {
        self.0.lock().writing
    }

    fn for_segment(&self, key: KeyId, segment: &SegmentIdentity) -> Option<Box<dyn SegmentCipher>> {
        let derivation = {
            let keys = self.0.lock();
            Hkdf::<Sha256>::new(Some(segment.salt()), &keys.known.get(&key)?[..])
        };
        let info = segment.info();
        let (mut frame_key, mut check) = (Zeroizing::new([0; KEY_LEN]), [0; CHECK_LEN]);
        derivation.expand_multi_info(&[FRAME_LABEL, &info], &mut frame_key[..]).ok()?;
        derivation.expand_multi_info(&[CHECK_LABEL, &info], &mut check).ok()?;
        let aes = aes_gcm::Aes256Gcm::new_from_slice(&frame_key[..]).ok()?;
        Some(Box::new(OfSegment { aes, check }))
    }
}

/// The library wipes the expanded key when this is dropped.
struct OfSegment {
    aes: aes_gcm::Aes256Gcm,
    check: [u8; CHECK_LEN],
}

impl SegmentCipher for OfSegment {
    fn check(&self) -> [u8; CHECK_LEN] {
        self.check
    }

    fn encrypt(&self, nonce: &[u8; NONCE_LEN], header: &[u8], body: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.aes.encrypt_inout_detached(nonce.into(), header, body.into());
        tag.unwrap_or_else(|_| panic!("a frame is shorter than the 64 GiB that GCM encrypts")).into()
    }

    fn decrypt(&self, nonce: &[u8; NONCE_LEN], header: &[u8], body: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let whole = self.aes.decrypt_inout_detached(nonce.into(), header, (&mut *body).into(), tag.into()).is_ok();
        if !whole {
            body.zeroize();
        }
        whole
    }
}
