//! How a rig's log codes what it writes: another way with each opening, and a witness of every encryption.
//!
//! | N1 | no key and nonce ever encrypt two different frames | broken by: nonces that come again |
//! |---|---|---|
//!
//! The witness stands between the log and AES. It knows keys by what they are derived from, so a derivation that leaves
//! something out is noticed as a nonce that comes again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

/// Everything that was encrypted, on a machine and its copies.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    by_key: HashMap<(Vec<u8>, [u8; 12]), u64>,
    by_nonce: HashMap<[u8; 12], u64>,
    encrypted: u64,
    repeated: u64,
}

impl Witness {
    /// Frames that were encrypted.
    pub fn encrypted(&self) -> u64 {
        self.0.lock().expect("nobody panics with it").encrypted
    }

    /// How often a nonce came again for another frame, under another key: what makes the check worth something.
    pub fn repeated(&self) -> u64 {
        self.0.lock().expect("nobody panics with it").repeated
    }

    fn saw(&self, key: &[u8], nonce: [u8; 12], header: &[u8], body: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (header, body).hash(&mut hasher);
        let content = hasher.finish();
        let mut seen = self.0.lock().expect("nobody panics with it");
        seen.encrypted += 1;
        let before = seen.by_nonce.insert(nonce, content);
        seen.repeated += u64::from(before.is_some_and(|before| before != content));
        let before = seen.by_key.insert((key.to_vec(), nonce), content);
        drop(seen);
        assert!(before.is_none_or(|before| before == content), "N1: nonce {nonce:?} comes twice with one key");
    }
}

#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
pub use coded::{coding, keys};

#[cfg(not(all(feature = "lz4", feature = "aes-gcm")))]
pub fn coding(_: u64, _: &Witness) -> ringwal::wal::coding::Coding {
    ringwal::wal::coding::Coding::default()
}

#[cfg(not(all(feature = "lz4", feature = "aes-gcm")))]
pub fn keys(_: &Witness) -> Option<Arc<dyn ringwal::Cipher>> {
    None
}

#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
mod coded {
    use std::sync::Arc;

    use ringwal::sim::Prng;
    use ringwal::wal::coding::Coding;
    use ringwal::{Aes256Gcm, Cipher, Compression, KeyId, SegmentCipher, SegmentIdentity};

    use super::Witness;

    struct Witnessed {
        keys: Aes256Gcm,
        witness: Witness,
    }

    struct OfSegment {
        key: Vec<u8>,
        cipher: Box<dyn SegmentCipher>,
        witness: Witness,
    }

    impl Cipher for Witnessed {
        fn kind(&self) -> u8 {
            self.keys.kind()
        }

        fn writing_key(&self) -> KeyId {
            self.keys.writing_key()
        }

        fn for_segment(&self, key: KeyId, segment: &SegmentIdentity) -> Option<Box<dyn SegmentCipher>> {
            let cipher = self.keys.for_segment(key, segment)?;
            let mut derived_from = key.number().to_le_bytes().to_vec();
            derived_from.extend_from_slice(segment.salt());
            derived_from.extend_from_slice(&segment.info());
            Some(Box::new(OfSegment { key: derived_from, cipher, witness: self.witness.clone() }))
        }
    }

    impl SegmentCipher for OfSegment {
        fn check(&self) -> [u8; 8] {
            self.cipher.check()
        }

        fn encrypt(&self, nonce: &[u8; 12], header: &[u8], body: &mut [u8]) -> [u8; 16] {
            self.witness.saw(&self.key, *nonce, header, body);
            self.cipher.encrypt(nonce, header, body)
        }

        fn decrypt(&self, nonce: &[u8; 12], header: &[u8], body: &mut [u8], tag: &[u8; 16]) -> bool {
            self.cipher.decrypt(nonce, header, body, tag)
        }
    }

    fn cipher(writing: u32, witness: &Witness) -> Arc<dyn Cipher> {
        let (one, two) = ([1; 32], [2; 32]);
        let keys = Aes256Gcm::new(KeyId::new(1), one).with_key(KeyId::new(2), two).expect("another number");
        if writing == 2 {
            keys.rotate(KeyId::new(2), two).expect("the same key");
        }
        Arc::new(Witnessed { keys, witness: witness.clone() })
    }

    /// All keys, for reading.
    pub fn keys(witness: &Witness) -> Option<Arc<dyn Cipher>> {
        Some(cipher(1, witness))
    }

    /// One of six ways, by chance.
    pub fn coding(seed: u64, witness: &Witness) -> Coding {
        let mut prng = Prng::new(seed);
        let way = prng.below(6);
        Coding {
            compression: if way % 2 == 1 { Compression::Lz4 { min_len: 0 } } else { Compression::None },
            cipher: match way {
                2 | 3 => Some(cipher(1, witness)),
                4 | 5 => Some(cipher(2, witness)),
                _ => None,
            },
            salt: prng.bytes(),
        }
    }
}
