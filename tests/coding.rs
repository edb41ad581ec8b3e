//! Compressed and encrypted queues through the public API: what comes back, what can be read without a key, and what is
//! said when one is missing, wrong, or the bytes are not what was written.
#![cfg(all(feature = "lz4", feature = "aes-gcm", not(any(loom, shuttle))))]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Judge, LONG, Numbered, Recorder, Seen, drain, hash_dir, small};
use ringwal::wal::coding::{BodyCoding, KeyProblem, Packing};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::segment::{SlotHeader, read_slot_header};
use ringwal::{Aes256Gcm, Builder, Compression, Durability, KeyId, Lsn, OnCorruption, OpenError, Retry, Verdict};

const B: usize = 4096;
const SECRET: &[u8] = b"only for those who have the key";

const DURABILITIES: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(1)), Durability::Spill];

fn keys() -> Aes256Gcm {
    Aes256Gcm::new(KeyId::new(1), [1; 32]).with_key(KeyId::new(2), [2; 32]).unwrap()
}

fn second_key() -> Aes256Gcm {
    Aes256Gcm::new(KeyId::new(2), [2; 32]).with_key(KeyId::new(1), [1; 32]).unwrap()
}

fn settings(dir: &Path, durability: Durability) -> Builder {
    small(dir, durability).rings(1).pinned_rings(1)
}

/// An entry that can be compressed, and that shows in a file if it is not encrypted.
fn entry(n: u32) -> Numbered {
    Numbered { producer: 0, number: n, padding: SECRET.repeat(1 + n as usize % 9) }
}

/// Leaves these in the log, undelivered.
fn leave(builder: Builder, numbers: std::ops::Range<u32>) {
    let hour = Duration::from_secs(3600);
    let never = Judge { seen: Arc::default(), verdict: |_: &Numbered, _| Verdict::Retry("not now".into()) };
    let retry = Retry { attempts_max: None, base: hour, max: hour, ..Retry::default() };
    let queue = builder.retry(retry).open(never).unwrap();
    queue.producer().push_batch(numbers.map(entry)).unwrap();
    queue.flush().unwrap();
    // Paused, it waits for nothing but a batch that is still out.
    queue.pause();
    queue.shutdown(LONG).unwrap();
}

/// Everything that is left, in order.
fn take_all(builder: Builder) -> Vec<Numbered> {
    let sink = Recorder::default();
    let queue = builder.open(sink.clone()).unwrap();
    drain(&queue);
    queue.shutdown(LONG).unwrap();
    sink.0.all().into_iter().map(|(_, entry, _)| entry).collect()
}

fn slots(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut slots: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "rwal")).collect();
    slots.sort();
    slots
}

/// The frames of entries in the segments of a folder: file, offset, header.
fn frames(dir: &Path) -> Vec<(PathBuf, usize, FrameHeader)> {
    let mut found = Vec::new();
    for path in slots(dir) {
        let bytes = std::fs::read(&path).unwrap();
        let SlotHeader::Segment(segment) = read_slot_header(&bytes, 4096) else { continue };
        for at in (2 * B..bytes.len()).step_by(B) {
            if let Ok(header) = FrameHeader::decode(&bytes[at..])
                && header.seg_uid == segment.uid
                && header.kind == FrameKind::Data
            {
                found.push((path.clone(), at, header));
            }
        }
    }
    found.sort_by_key(|(_, _, header)| header.first_lsn);
    found
}

fn is_readable(dir: &Path) -> bool {
    let shows = |path: &PathBuf| std::fs::read(path).unwrap().windows(SECRET.len()).any(|part| part == SECRET);
    slots(dir).iter().chain(&slots(&dir.join("park"))).any(shows)
}

#[test]
fn a_store_opens_with_any_setting_that_has_the_keys_and_gives_back_what_all_the_others_wrote() {
    for durability in DURABILITIES {
        let dir = tempfile::tempdir().unwrap();
        let open = || settings(dir.path(), durability);
        let lz4 = Compression::Lz4 { min_len: 0 };
        let mut ways =
            vec![open(), open().compression(lz4), open().cipher(keys()), open().cipher(second_key()).compression(lz4)];
        #[cfg(feature = "zstd")]
        ways.push(open().cipher(keys()).compression(Compression::zstd()));
        // What was encrypted before is only read with the key then.
        ways.push(open().cipher(keys()));
        let count = ways.len() as u32;
        for (way, at) in ways.into_iter().zip((0..).step_by(200)) {
            leave(way, at..at + 200);
        }
        let stored: BTreeSet<_> =
            frames(dir.path()).iter().map(|(_, _, h)| (h.coding.packing as u8, h.coding.encrypted)).collect();
        let plain = (Packing::Plain as u8, false);
        assert!(stored.contains(&plain) && stored.len() >= 4, "{durability:?}: {stored:?}");
        let all: Vec<_> = (0..count * 200).map(entry).collect();
        assert_eq!(take_all(open().cipher(keys())), all, "{durability:?}");
        // All is delivered, so no key is needed any more.
        assert_eq!(take_all(open()), []);
    }
}

#[test]
fn a_backlog_longer_than_memory_is_read_back_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let builder = settings(dir.path(), Durability::Periodic(Duration::from_millis(1)));
        builder.memory_max(4 << 20).log_bytes_max(64 << 20).cipher(keys()).compression(Compression::lz4())
    };
    const COUNT: u32 = 60_000;
    let sink = Recorder::default();
    let queue = open().open(sink.clone()).unwrap();
    queue.pause();
    queue.producer().push_batch((0..COUNT).map(entry)).unwrap();
    queue.flush().unwrap();
    queue.resume();
    drain(&queue);
    assert!(queue.metrics().frames_read_back > 0, "{:#?}", queue.metrics());
    queue.shutdown(LONG).unwrap();
    let seen: Vec<_> = sink.0.all().into_iter().map(|(_, entry, _)| entry).collect();
    assert!(seen.into_iter().eq((0..COUNT).map(entry)), "each once, in order, as it was pushed");
}

#[test]
fn nothing_of_an_entry_stands_in_clear_neither_in_the_log_nor_in_the_park() {
    for encrypts in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let builder = settings(dir.path(), Durability::Immediate);
            if encrypts { builder.cipher(keys()) } else { builder }
        };
        let verdict = |entry: &Numbered, _| match entry.number {
            0..10 => Verdict::Park("no".into()),
            _ => Verdict::Ack,
        };
        let queue = open().open(Judge { seen: Arc::<Seen>::default(), verdict }).unwrap();
        queue.producer().push_batch((0..60).map(entry)).unwrap();
        drain(&queue);
        queue.shutdown(LONG).unwrap();
        assert_eq!(is_readable(dir.path()), !encrypts);
        let parked = frames(&dir.path().join("park"));
        assert!(!parked.is_empty() && parked.iter().all(|(_, _, header)| header.coding.encrypted == encrypts));
        let queue = open().open(Recorder::default()).unwrap();
        let list = queue.parked().list(Lsn::ZERO, 100).unwrap();
        let list: Vec<Numbered> = list.iter().map(|parked| parked.decode().unwrap()).collect();
        assert!(list.into_iter().eq((0..10).map(entry)));
        queue.shutdown(LONG).unwrap();
        if encrypts {
            // The park alone needs the key now.
            let error = settings(dir.path(), Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
            assert!(matches!(&error, OpenError::KeyMissing { file, .. } if file.starts_with(dir.path().join("park"))));
        }
    }
}

#[test]
fn a_missing_key_and_a_wrong_one_are_said_so_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let open = || settings(dir.path(), Durability::Immediate);
    leave(open().cipher(keys()), 0..50);
    let before = hash_dir(dir.path());
    // Whatever the policy: none of this is damage, and nothing of it may be given up.
    for policy in [OnCorruption::Stop, OnCorruption::Quarantine, OnCorruption::CutTail] {
        let refused = |builder: Builder| {
            let error = builder.on_corruption(policy).open(Recorder::default()).map(drop).unwrap_err();
            assert_eq!(hash_dir(dir.path()), before, "{error}");
            assert!(error.to_string().contains("key 1"), "{error}");
            error
        };
        let is_missing =
            |error: &OpenError, expected| matches!(error, OpenError::KeyMissing { why, .. } if *why == expected);
        assert!(is_missing(&refused(open()), KeyProblem::NoCipher));
        let other = Aes256Gcm::new(KeyId::new(2), [1; 32]);
        assert!(is_missing(&refused(open().cipher(other)), KeyProblem::Unknown));
        let wrong = Aes256Gcm::new(KeyId::new(1), [7; 32]);
        assert!(matches!(refused(open().cipher(wrong)), OpenError::WrongKey { key, .. } if key == KeyId::new(1)));
    }
    assert_eq!(take_all(open().cipher(keys())).len(), 50);
}

#[test]
fn a_key_is_changed_from_one_segment_to_the_next_while_the_queue_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let open = || settings(dir.path(), Durability::Immediate).log_bytes_max(16 << 20);
    let keys = Aes256Gcm::new(KeyId::new(1), [1; 32]);
    let queue = open().cipher(keys.clone()).open(Recorder::default()).unwrap();
    queue.pause();
    queue.producer().push_batch((0..100).map(entry)).unwrap();
    queue.flush().unwrap();
    keys.rotate(KeyId::new(2), [2; 32]).unwrap();
    queue.producer().push_batch((100..10_000).map(entry)).unwrap();
    queue.flush().unwrap();
    queue.shutdown(Duration::ZERO).unwrap();
    let mut used = BTreeSet::new();
    for path in slots(dir.path()) {
        if let SlotHeader::Segment(header) = read_slot_header(&std::fs::read(path).unwrap(), 4096) {
            used.insert((header.base_lsn, header.key.unwrap().id.number()));
        }
    }
    let order: Vec<u32> = used.iter().map(|(_, key)| *key).collect();
    assert!(order[0] == 1 && order.is_sorted() && order.contains(&2), "{used:?}");
    let only_new = Aes256Gcm::new(KeyId::new(2), [2; 32]);
    let error = open().cipher(only_new).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::KeyMissing { key, .. } if key == KeyId::new(1)), "{error}");
    assert_eq!(take_all(open().cipher(second_key())).len(), 10_000);
}

/// The frame in the middle, which is encrypted, and what is done to the file that holds it.
fn spoil(dir: &Path, spoil: impl FnOnce(&mut Vec<u8>, usize, FrameHeader)) -> (PathBuf, usize, FrameHeader) {
    let all = frames(dir);
    let (path, at, header) = all[all.len() / 2].clone();
    assert!(header.coding.encrypted && all.len() > 4, "{} frames", all.len());
    let mut bytes = std::fs::read(&path).unwrap();
    spoil(&mut bytes, at, header);
    std::fs::write(&path, bytes).unwrap();
    (path, at, header)
}

/// What is done to a file, given where the frame lies in it.
type Spoil<'a> = &'a dyn Fn(&mut Vec<u8>, usize, FrameHeader);

/// A log of many encrypted frames, in one segment.
fn encrypted(dir: &Path) -> impl Fn() -> Builder {
    let dir = dir.to_owned();
    let open = move || settings(&dir, Durability::Immediate).cipher(keys());
    let queue = open().open(Recorder::default()).unwrap();
    queue.pause();
    for n in 0..40 {
        queue.producer().push_durable(entry(n)).unwrap().wait().unwrap();
    }
    queue.shutdown(Duration::ZERO).unwrap();
    open
}

#[test]
fn a_flipped_or_cut_off_encrypted_body_is_damage_with_its_exact_place() {
    let flip = |bytes: &mut Vec<u8>, at: usize, _: FrameHeader| bytes[at + FRAME_HEADER_LEN + 3] ^= 4;
    let flip_tag = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        bytes[at + FRAME_HEADER_LEN + header.body_len as usize - 1] ^= 4;
    };
    let truncate = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        let end = at + FRAME_HEADER_LEN + header.body_len as usize;
        bytes[at + FRAME_HEADER_LEN + 5..end].fill(0);
    };
    let ways: [Spoil<'_>; 3] = [&flip, &flip_tag, &truncate];
    for way in ways {
        let dir = tempfile::tempdir().unwrap();
        let open = encrypted(dir.path());
        let (path, at, header) = spoil(dir.path(), way);
        let error = open().open(Recorder::default()).map(drop).unwrap_err();
        let OpenError::Corrupt { file, offset, first, last, .. } = &error else { panic!("{error}") };
        let place = (path, at as u64, header.first_lsn, header.next_lsn.prev());
        assert_eq!((file.clone(), *offset, *first, *last), place);
    }
}

/// Who has no key can make a checksum, but no tag.
#[test]
fn a_forged_frame_under_a_good_checksum_is_damage_with_its_exact_entries() {
    let remake = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        let body = at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + header.body_len as usize;
        let body_crc = crc32c::crc32c(&bytes[body]);
        FrameHeader { body_crc, ..header }.encode(&mut bytes[at..]);
    };
    let flip = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        bytes[at + FRAME_HEADER_LEN + 3] ^= 4;
        remake(bytes, at, header);
    };
    let relabel = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        FrameHeader { acked_lsn: Lsn::new(1), ..header }.encode(&mut bytes[at..]);
    };
    let replace = |bytes: &mut Vec<u8>, at: usize, header: FrameHeader| {
        let (coding, body_len) = (BodyCoding::PLAIN, header.raw_len);
        bytes[at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + 8].copy_from_slice(&[16, 0, 0, 0x80, 0, 0, 0, 0]);
        remake(bytes, at, FrameHeader { coding, body_len, ..header });
    };
    let ways: [Spoil<'_>; 3] = [&flip, &relabel, &replace];
    for way in ways {
        let dir = tempfile::tempdir().unwrap();
        let open = encrypted(dir.path());
        let (_, _, header) = spoil(dir.path(), way);
        let sink = Recorder::default();
        let queue = open().on_corruption(OnCorruption::Quarantine).open(sink.clone()).unwrap();
        drain(&queue);
        assert_eq!(queue.metrics().lost, u64::from(header.record_count));
        queue.shutdown(LONG).unwrap();
        let is_lost = |lsn: u64| (header.first_lsn..header.next_lsn).contains(&Lsn::new(lsn));
        let expected: Vec<_> = (0..40).filter(|n| !is_lost(u64::from(*n) + 1)).map(entry).collect();
        let seen: Vec<_> = sink.0.all().into_iter().map(|(_, entry, _)| entry).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn settings_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |builder: Builder, field: &str| match builder.open(Recorder::default()).map(drop) {
        Err(OpenError::Config(error)) => assert_eq!(error.field, field, "{error}"),
        other => panic!("{other:?}"),
    };
    let open = || settings(dir.path(), Durability::Immediate);
    #[cfg(feature = "zstd")]
    refused(open().compression(Compression::Zstd { level: 23, min_len: 0 }), "compression");
    // Twelve frames are enough for a log that codes nothing.
    let least =
        |builder: Builder| (0..64).find(|n| builder.clone().memory_max(n << 18).open(Recorder::default()).is_ok());
    let plain = least(open()).unwrap() << 18;
    refused(open().memory_max(plain).cipher(keys()), "memory_max");
}
