//! Coded bodies: any bytes under a good header are decoded to exactly the length that it says, or refused; nothing is
//! given out that does not authenticate; and what was encrypted with the key, by the rules of `docs/FORMAT.md`, comes
//! back, or is refused for what is packed in it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ringwal::time::UnixNanos;
use ringwal::wal::coding::{BodyCoding, Decoder, Packing, SegmentIdentity, SegmentKey, Undecoded};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::op::LogId;
use ringwal::wal::segment::StoreId;
use ringwal::{Aes256Gcm, Cipher, KeyId, Lsn, SegmentUid};

const STORE: StoreId = StoreId([1; 16]);
const UID: SegmentUid = SegmentUid(5);
const SALT: [u8; 32] = [3; 32];
/// How much of a header is authenticated.
const AUTHENTICATED_LEN: usize = 72;
const TAG_LEN: usize = 16;
/// As the longest frame of a store bounds it, before anything is allocated.
const RAW_LEN_MAX: u32 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let [way, a, b, c, body @ ..] = bytes else { return };
    let packing = [Packing::Plain, Packing::Lz4, Packing::Zstd][usize::from(way % 3)];
    let encrypted = way & 4 != 0;
    // With a tag that fits: by somebody who has the key, and may have packed anything.
    let sealed = encrypted && way & 8 != 0;
    let body_len = (body.len() + if sealed { TAG_LEN } else { 0 }) as u32;
    let raw_len = match packing {
        Packing::Plain => body_len.saturating_sub(if encrypted { TAG_LEN as u32 } else { 0 }),
        _ => u32::from_le_bytes([*a, *b, *c, 0]) % RAW_LEN_MAX,
    };
    let header = FrameHeader {
        kind: FrameKind::Data,
        seg_uid: UID,
        first_lsn: Lsn::new(1),
        next_lsn: Lsn::new(2),
        durable_lsn: Lsn::ZERO,
        acked_lsn: Lsn::ZERO,
        time: UnixNanos(0),
        position: 2,
        record_count: 1,
        coding: BodyCoding { packing, encrypted },
        body_len,
        raw_len,
        body_crc: crc32c::crc32c(body),
    };
    let mut stored = vec![0; FRAME_HEADER_LEN];
    header.encode(&mut stored);
    // A header whose lengths do not go together is refused before anything is allocated.
    let Ok(header) = FrameHeader::decode(&stored) else { return };
    let keys = Arc::new(Aes256Gcm::new(KeyId::new(1), [9; 32]));
    let identity = SegmentIdentity { salt: SALT, log: LogId::Main, store: STORE, uid: UID };
    let of_segment = keys.for_segment(KeyId::new(1), &identity).expect("the key is there");
    stored.extend_from_slice(body);
    if sealed {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&header.first_lsn.number().to_le_bytes());
        nonce[8..].copy_from_slice(&header.position.to_le_bytes());
        let (head, body) = stored.split_at_mut(FRAME_HEADER_LEN);
        let tag = of_segment.encrypt(&nonce, &head[..AUTHENTICATED_LEN], body);
        stored.extend_from_slice(&tag);
    }
    let key =
        encrypted.then(|| SegmentKey { kind: keys.kind(), id: KeyId::new(1), salt: SALT, check: of_segment.check() });
    let mut decoder = Decoder::new(LogId::Main, STORE, Some(keys));
    // Whatever was in memory before: a body that is shorter than it says would leave some of it.
    let [zeros, ones] = [0, 0xff].map(|before| {
        let mut out = vec![before; header.raw_len as usize];
        match decoder.decode(&stored, &header, key.as_ref(), &mut out) {
            Ok(()) => Some(out),
            Err(Undecoded::Damaged(_)) => None,
            Err(Undecoded::Key(..)) => panic!("the key is there"),
        }
    });
    assert_eq!(zeros, ones, "a body that says nothing of some of its bytes");
    match zeros {
        Some(_) if encrypted && !sealed => panic!("a tag by chance"),
        None if packing == Packing::Plain && (sealed || !encrypted) => panic!("what was stored does not come back"),
        Some(out) if packing == Packing::Plain => assert_eq!(out, body),
        _ => {}
    }
});
