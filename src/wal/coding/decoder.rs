//! The reader's side: a body as it was pushed, out of what is on disk. Nothing is allocated beyond what the frame's
//! header may claim, and nothing is given out that does not authenticate.

use std::fmt;
use std::sync::Arc;

use super::encoder::nonce;
use super::pack::unpack;
use super::{Cipher, KeyId, Packing, SegmentCipher, SegmentIdentity, SegmentKey, TAG_LEN};
use crate::lsn::SegmentUid;
use crate::wal::frame::{AUTHENTICATED_LEN, FRAME_HEADER_LEN, FrameHeader, FrameKind};
use crate::wal::op::LogId;
use crate::wal::segment::StoreId;

/// Why a segment cannot be decrypted. No damage: with the right key all of it can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyProblem {
    /// No cipher was given.
    NoCipher,
    /// The cipher is of another kind than the one that wrote it.
    OtherCipher,
    /// The cipher does not know this key.
    Unknown,
    /// The key that was given under this number is another one.
    Wrong,
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCipher => "no cipher was given",
            Self::OtherCipher => "the cipher that was given is of another kind",
            Self::Unknown => "the key is not among those that were given",
            Self::Wrong => "the key that was given under this number is another one",
        })
    }
}

impl std::error::Error for KeyProblem {}

/// Why a frame could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undecoded {
    /// Its key is missing, or wrong.
    Key(KeyId, KeyProblem),
    /// The body is not what was written: damage that no checksum has noticed.
    Damaged(&'static str),
}

/// Decodes frames of one log.
pub struct Decoder {
    log: LogId,
    store: StoreId,
    cipher: Option<Arc<dyn Cipher>>,
    /// Of the segment that was decoded last.
    open: Option<(SegmentUid, Box<dyn SegmentCipher>)>,
    /// For what is both encrypted and packed.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Without a cipher only what is not encrypted can be decoded.
    #[must_use]
    pub fn new(log: LogId, store: StoreId, cipher: Option<Arc<dyn Cipher>>) -> Self {
        Self { log, store, cipher, open: None, scratch: Vec::new() }
    }

    /// Whether this segment can be decrypted.
    ///
    /// # Errors
    /// When its key is missing, or wrong.
    pub fn check(&mut self, uid: SegmentUid, key: &SegmentKey) -> Result<(), KeyProblem> {
        self.segment(uid, key).map(|_| ())
    }

    fn segment(&mut self, uid: SegmentUid, key: &SegmentKey) -> Result<&dyn SegmentCipher, KeyProblem> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != uid) {
            let cipher = self.cipher.as_ref().ok_or(KeyProblem::NoCipher)?;
            if cipher.kind() != key.kind {
                return Err(KeyProblem::OtherCipher);
            }
            let identity = SegmentIdentity { salt: key.salt, log: self.log, store: self.store, uid };
            let of_segment = cipher.for_segment(key.id, &identity).ok_or(KeyProblem::Unknown)?;
            if of_segment.check() != key.check {
                return Err(KeyProblem::Wrong);
            }
            self.open = Some((uid, of_segment));
        }
        match &self.open {
            Some((_, of_segment)) => Ok(&**of_segment),
            None => Err(KeyProblem::Unknown),
        }
    }

    /// The body under `header`, which begins `stored`, into `out`: exactly `raw_len` bytes. Its checksum has been
    /// looked at.
    ///
    /// # Errors
    /// When the key of the frame's segment is not there, or the body is damaged. `out` means nothing then.
    ///
    /// # Panics
    /// When `stored` is shorter than the frame, or `out` not as long as its body.
    pub fn decode(
        &mut self,
        stored: &[u8],
        header: &FrameHeader,
        key: Option<&SegmentKey>,
        out: &mut [u8],
    ) -> Result<(), Undecoded> {
        assert_eq!(out.len(), header.raw_len as usize, "a body is decoded into its own length");
        let body = &stored[FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.body_len as usize];
        let packing = header.coding.packing;
        if !header.coding.encrypted {
            if key.is_some() && header.kind == FrameKind::Data {
                // Somebody has put it there who has no key.
                return Err(Undecoded::Damaged("the frame is not encrypted, its segment is"));
            }
            return if unpack(packing, body, out) { Ok(()) } else { Err(Undecoded::Damaged(NOT_PACKED)) };
        }
        let Some(key) = key else { return Err(Undecoded::Damaged("the frame is encrypted, its segment is not")) };
        let (packed, tag) = body.split_at(body.len() - TAG_LEN);
        let mut given = [0; TAG_LEN];
        given.copy_from_slice(tag);
        let mut scratch = std::mem::take(&mut self.scratch);
        let plain: &mut [u8] = if packing == Packing::Plain {
            out.copy_from_slice(packed);
            &mut *out
        } else {
            scratch.clear();
            scratch.extend_from_slice(packed);
            &mut scratch
        };
        let decrypted = self
            .segment(header.seg_uid, key)
            .map_err(|problem| Undecoded::Key(key.id, problem))
            .map(|segment| segment.decrypt(&nonce(header), &stored[..AUTHENTICATED_LEN], plain, &given));
        let result = match decrypted {
            Err(problem) => Err(problem),
            Ok(false) => Err(Undecoded::Damaged("the frame does not authenticate")),
            Ok(true) if packing == Packing::Plain || unpack(packing, &scratch, out) => Ok(()),
            Ok(true) => Err(Undecoded::Damaged(NOT_PACKED)),
        };
        self.scratch = scratch;
        result
    }
}

const NOT_PACKED: &str = "the frame's body cannot be decompressed";

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = self.cipher.as_ref().map(|cipher| cipher.kind());
        f.debug_struct("Decoder").field("log", &self.log).field("cipher", &cipher).finish_non_exhaustive()
    }
}
