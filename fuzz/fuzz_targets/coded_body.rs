//! Coded bodies: any bytes under a good header are decoded to exactly the length that it says, or refused; nothing is
//! given out that does not authenticate; and what was coded comes back.
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
/// As the longest frame of a store bounds it, before anything is allocated.
const RAW_LEN_MAX: u32 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let [way, a, b, c, body @ ..] = bytes else { return };
    let packing = [Packing::Plain, Packing::Lz4, Packing::Zstd][usize::from(way % 3)];
    let encrypted = way & 4 != 0;
    let body_len = body.len() as u32;
    let raw_len = match packing {
        Packing::Plain => body_len.saturating_sub(if encrypted { 16 } else { 0 }),
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
    stored.extend_from_slice(body);
    // A header whose lengths do not go together is refused before anything is allocated.
    let Ok(header) = FrameHeader::decode(&stored) else { return };
    let keys = Arc::new(Aes256Gcm::new(KeyId::new(1), [9; 32]));
    let identity = SegmentIdentity { salt: SALT, log: LogId::Main, store: STORE, uid: UID };
    let check = keys.for_segment(KeyId::new(1), &identity).expect("the key is there").check();
    let key = SegmentKey { kind: keys.kind(), id: KeyId::new(1), salt: SALT, check };
    let mut decoder = Decoder::new(LogId::Main, STORE, Some(keys));
    let mut out = vec![0; header.raw_len as usize];
    match decoder.decode(&stored, &header, Some(&key), &mut out) {
        Ok(()) => assert!(!encrypted, "a tag by chance"),
        Err(Undecoded::Damaged(_)) => {}
        Err(Undecoded::Key(..)) => panic!("the key is there"),
    }
});
