use std::sync::Arc;

use super::decoder::{Decoder, KeyProblem, Undecoded};
use super::encoder::Encoder;
use super::{Aes256Gcm, Cipher, Coding, Compression, KeyId, Packing, RAW_LEN_MAX, SegmentIdentity, SegmentKey};
use crate::lsn::{Lsn, SegmentUid};
use crate::time::UnixNanos;
use crate::wal::block::Pool;
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind, NotAFrame};
use crate::wal::op::LogId;
use crate::wal::segment::StoreId;

const B: usize = 512;
const STORE: StoreId = StoreId([3; 16]);
const UID: SegmentUid = SegmentUid(77);

fn pool() -> Pool {
    Pool::new(4, 64 << 10).unwrap()
}

fn cipher(id: u32, key: u8) -> Arc<dyn Cipher> {
    Arc::new(Aes256Gcm::new(KeyId::new(id), [key; 32]))
}

fn coding(compression: Compression, cipher: Option<Arc<dyn Cipher>>) -> Coding {
    Coding { compression, cipher, salt: [9; 32] }
}

fn header(body: &[u8]) -> FrameHeader {
    let len = u32::try_from(body.len()).unwrap();
    FrameHeader {
        kind: FrameKind::Data,
        seg_uid: UID,
        first_lsn: Lsn::new(5),
        next_lsn: Lsn::new(6),
        durable_lsn: Lsn::new(4),
        acked_lsn: Lsn::ZERO,
        time: UnixNanos(1),
        position: 2,
        record_count: 1,
        coding: super::BodyCoding::PLAIN,
        body_len: len,
        raw_len: len,
        body_crc: 0,
    }
}

/// The frame as it is on disk, and the key that its segment's header would say.
fn stored(coding: &Coding, body: &[u8]) -> Option<(Vec<u8>, FrameHeader, Option<SegmentKey>)> {
    let mut encoder = Encoder::new(coding, 32 << 10, pool())?;
    let identity = |salt| SegmentIdentity { salt, log: LogId::Main, store: STORE, uid: UID };
    let (key, of_segment) = encoder.begin_segment(identity).unwrap().unzip();
    let plan = encoder.plan(Lsn::new(5), body, B)?;
    let (block, header) = encoder.encode(plan, header(body), body, of_segment.as_deref(), B);
    assert_eq!(block.len() as u64, header.stored_len(512));
    assert!(header.body_matches(&block[FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.body_len as usize]));
    assert_eq!(FrameHeader::decode(&block), Ok(header));
    Some((block.to_vec(), header, key))
}

fn decode(bytes: &[u8], key: Option<&SegmentKey>, cipher: Option<Arc<dyn Cipher>>) -> Result<Vec<u8>, Undecoded> {
    let header = FrameHeader::decode(bytes).unwrap();
    let mut out = vec![0; header.raw_len as usize];
    Decoder::new(LogId::Main, STORE, cipher).decode(bytes, &header, key, &mut out).map(|()| out)
}

fn lines(len: usize) -> Vec<u8> {
    b"{\"level\":\"info\",\"request\":1723,\"path\":\"/orders\"}".iter().copied().cycle().take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut word = 1_u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_body_comes_back_from_every_way_of_storing_it() {
    let mut ways = vec![
        (coding(Compression::lz4(), None), Packing::Lz4),
        (coding(Compression::None, Some(cipher(1, 1))), Packing::Plain),
        (coding(Compression::lz4(), Some(cipher(1, 1))), Packing::Lz4),
    ];
    #[cfg(feature = "zstd")]
    ways.push((coding(Compression::zstd(), Some(cipher(1, 1))), Packing::Zstd));
    for (coding, packing) in ways {
        let body = lines(9000);
        let (bytes, header, key) = stored(&coding, &body).unwrap();
        assert_eq!((header.coding.packing, header.coding.encrypted), (packing, coding.cipher.is_some()));
        assert_eq!(packing != Packing::Plain, bytes.len() < 9000);
        if coding.cipher.is_some() {
            assert!(!bytes.windows(8).any(|part| part == &body[..8]), "nothing of it stands in clear");
        }
        assert_eq!(decode(&bytes, key.as_ref(), coding.cipher.clone()), Ok(body));
    }
}

#[test]
fn what_does_not_get_shorter_by_a_block_is_stored_as_it_is() {
    let lz4 = coding(Compression::lz4(), None);
    assert!(stored(&lz4, &noise(9000)).is_none());
    assert!(stored(&lz4, &lines(4000)).is_none(), "shorter than min_len");
    let all = coding(Compression::Lz4 { min_len: 0 }, None);
    assert!(stored(&all, &lines(400)).is_none(), "one block is one block");
    assert!(stored(&all, &lines(600)).is_some());
    let (bytes, header, key) = stored(&coding(Compression::lz4(), Some(cipher(1, 1))), &noise(9000)).unwrap();
    assert_eq!(header.coding.packing, Packing::Plain);
    assert_eq!(decode(&bytes, key.as_ref(), Some(cipher(1, 1))), Ok(noise(9000)));
}

#[test]
fn every_flipped_bit_of_an_encrypted_frame_and_of_its_header_is_noticed_without_the_checksums() {
    let coding = coding(Compression::lz4(), Some(cipher(1, 1)));
    let (bytes, header, key) = stored(&coding, &lines(5000)).unwrap();
    let mut decoder = Decoder::new(LogId::Main, STORE, coding.cipher.clone());
    let mut out = vec![0; 5000];
    let end = FRAME_HEADER_LEN + header.body_len as usize;
    for at in (0..super::super::frame::AUTHENTICATED_LEN).chain(FRAME_HEADER_LEN..end) {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1 << (at % 8);
        let result = decoder.decode(&spoilt, &header, key.as_ref(), &mut out);
        assert!(matches!(result, Err(Undecoded::Damaged(_))), "byte {at}: {result:?}");
    }
    assert_eq!(decoder.decode(&bytes, &header, key.as_ref(), &mut out), Ok(()));
}

#[test]
fn a_wrong_key_is_not_a_missing_one_and_neither_is_damage() {
    let (bytes, _, key) = stored(&coding(Compression::None, Some(cipher(7, 1))), &lines(100)).unwrap();
    let id = KeyId::new(7);
    let with = |cipher| decode(&bytes, key.as_ref(), cipher).unwrap_err();
    assert_eq!(with(None), Undecoded::Key(id, KeyProblem::NoCipher));
    assert_eq!(with(Some(cipher(6, 1))), Undecoded::Key(id, KeyProblem::Unknown));
    assert_eq!(with(Some(cipher(7, 2))), Undecoded::Key(id, KeyProblem::Wrong));
    let other = key.map(|key| SegmentKey { kind: 200, ..key });
    let result = decode(&bytes, other.as_ref(), Some(cipher(7, 1)));
    assert_eq!(result, Err(Undecoded::Key(id, KeyProblem::OtherCipher)));
}

#[test]
fn a_frame_belongs_to_its_segment_its_store_its_log_and_its_opening() {
    let keys = cipher(1, 1);
    let here = SegmentIdentity { salt: [9; 32], log: LogId::Main, store: STORE, uid: UID };
    let others = [
        SegmentIdentity { salt: [8; 32], ..here },
        SegmentIdentity { log: LogId::Park, ..here },
        SegmentIdentity { store: StoreId([4; 16]), ..here },
        SegmentIdentity { uid: SegmentUid(78), ..here },
    ];
    let encrypted = |identity| {
        let mut body = [0; 64];
        keys.for_segment(KeyId::new(1), identity).unwrap().encrypt(&[0; 12], &[], &mut body);
        body
    };
    for other in &others {
        assert_ne!(encrypted(other), encrypted(&here), "{other:?}");
    }
}

#[test]
fn a_hostile_length_is_refused_before_anything_is_allocated_for_it() {
    let (bytes, header, _) = stored(&coding(Compression::lz4(), None), &lines(9000)).unwrap();
    for raw_len in [RAW_LEN_MAX + 1, u32::MAX, header.body_len, header.body_len - 1] {
        let mut bytes = bytes.clone();
        FrameHeader { raw_len, ..header }.encode(&mut bytes);
        assert_eq!(FrameHeader::decode(&bytes), Err(NotAFrame::Field("body_len")), "{raw_len}");
    }
    for raw_len in [8999, 9001, RAW_LEN_MAX] {
        let mut bytes = bytes.clone();
        FrameHeader { raw_len, ..header }.encode(&mut bytes);
        assert!(matches!(decode(&bytes, None, None), Err(Undecoded::Damaged(_))), "{raw_len}");
    }
}

#[test]
fn keys_are_never_printed_and_a_number_names_one_key() {
    let keys = Aes256Gcm::new(KeyId::new(1), [0xab; 32]);
    assert!(keys.rotate(KeyId::new(1), [2; 32]).is_err());
    keys.rotate(KeyId::new(2), [2; 32]).unwrap();
    assert_eq!(keys.writing_key(), KeyId::new(2));
    let coding = coding(Compression::None, Some(Arc::new(keys.clone())));
    for text in [format!("{keys:?}"), format!("{coding:?}")] {
        assert!(!text.contains("171") && !text.to_lowercase().contains("ab,"), "{text}");
    }
}
