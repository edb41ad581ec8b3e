//! Directories of every released format open for ever, and give exactly what was put into them; what a later
//! version wrote is refused by the name of the file that says so, and nothing is changed.
//!
//! `tests/golden/v1/*.txt` are directories as text: a line `= NAME LENGTH` for each file, then a line `OFFSET HEX`
//! for each 32 bytes that are not all zero. They were written by the function below that is called after them,
//! when the format was released, and are never written again: a change of the format gets a `v2` beside it.

mod common;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Judge, LONG, Numbered, Recorder, Seen, assert_accounted, copy_dir, drain, hash_dir, small};
use ringwal::wal::frame::{FrameHeader, FrameKind};
use ringwal::{Builder, Durability, Lsn, OpenError, Retry, Verdict};

const LINE_LEN: usize = 32;

/// A directory as text.
fn packed(dir: &Path, below: &str, out: &mut String) {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names.iter().filter(|name| *name != "LOCK") {
        let (path, name) = (dir.join(name), format!("{below}{}", name.to_str().unwrap()));
        if path.is_dir() {
            packed(&path, &format!("{name}/"), out);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        writeln!(out, "= {name} {}", bytes.len()).unwrap();
        for (at, line) in bytes.chunks(LINE_LEN).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
            write!(out, "{:x} ", at * LINE_LEN).unwrap();
            line.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
            out.push('\n');
        }
    }
}

/// The directory again.
fn unpack(text: &str, dir: &Path) {
    let mut file: Option<(PathBuf, Vec<u8>)> = None;
    let put = |file: Option<(PathBuf, Vec<u8>)>| {
        let Some((path, bytes)) = file else { return };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["=", name, len] = words[..] {
            put(file.replace((dir.join(name), vec![0; len.parse().unwrap()])));
            continue;
        }
        let at = usize::from_str_radix(words[0], 16).unwrap();
        let (_, bytes) = file.as_mut().expect("a file's name comes first");
        for (i, pair) in words[1].as_bytes().chunks(2).enumerate() {
            bytes[at + i] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
    }
    put(file);
}

fn text_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(format!("{name}.txt"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A golden directory, unpacked.
struct Golden {
    root: tempfile::TempDir,
}

impl Golden {
    fn new(name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        unpack(&text_of(name), &root.path().join("queue"));
        // Every opening makes one; no opening decides anything by what it holds.
        std::fs::write(root.path().join("queue/LOCK"), "").unwrap();
        Self { root }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("queue")
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut [u8])) {
        let path = self.dir().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        edit(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    /// The slots that hold a segment.
    fn segments(&self, below: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.dir().join(below)).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names
            .map(|name| format!("{below}{}", name.to_str().unwrap()))
            .filter(|name| name.ends_with(".rwal"))
            .filter(|name| std::fs::read(self.dir().join(name)).unwrap().starts_with(b"RWALSEG"))
            .collect();
        names.sort();
        names
    }

    fn refused(&self) -> OpenError {
        let before = hash_dir(&self.dir());
        let error = settings(&self.dir()).open(Recorder::default()).map(drop).unwrap_err();
        assert_eq!(hash_dir(&self.dir()), before, "a refused opening changed something: {error}");
        error
    }

    /// Opens it and checks that all is there that was put into it.
    fn opens_whole(&self, story: &Story) {
        let sink = Recorder::default();
        let queue = settings(&self.dir()).open(sink.clone()).unwrap();
        let recovery = queue.recovery();
        assert_eq!((recovery.clean, recovery.recovered), (story.clean, story.waiting.len() as u64));
        assert!(!recovery.new && recovery.lost.is_empty() && recovery.torn_tail.is_none(), "{recovery:?}");
        assert_eq!((recovery.end, recovery.parked), (Lsn::new(story.end), story.parked.len() as u64));
        let list = queue.parked().list(Lsn::ZERO, 1000).unwrap();
        let parked: Vec<(Lsn, u32, &str)> =
            list.iter().map(|p| (p.lsn, p.decode::<Numbered>().unwrap().number, &*p.error)).collect();
        let expected: Vec<_> = story.parked.iter().map(|n| (lsn_of(*n), *n, "divisible by ten")).collect();
        assert_eq!(parked, expected);
        drain(&queue);
        queue.producer().push(entry(9999)).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        queue.shutdown(LONG).unwrap();
        let mut seen = sink.0.all();
        let (lsn, new, _) = seen.pop().unwrap();
        assert!(lsn > Lsn::new(story.end) && new == entry(9999));
        let expected: Vec<_> = story.waiting.iter().map(|(n, attempt)| (lsn_of(*n), entry(*n), *attempt)).collect();
        assert_eq!(seen, expected);
    }
}

/// What was put into a golden directory.
struct Story {
    clean: bool,
    end: u64,
    /// Number and next attempt.
    waiting: Vec<(u32, u32)>,
    parked: Vec<u32>,
}

const COUNT: u32 = 280;
/// Of the first entries the sink takes some; the rest comes while it is paused.
const OFFERED: u32 = 40;

fn entry(n: u32) -> Numbered {
    Numbered::new(7, n, (n % 50) as usize)
}

/// Each entry was pushed alone and in order.
fn lsn_of(n: u32) -> Lsn {
    Lsn::new(u64::from(n) + 1)
}

/// `clean` was closed in order, `crashed` is the same directory as it was a moment before.
fn story(clean: bool) -> Story {
    let refused = (0..OFFERED).filter(|n| n % 10 != 0 && n % 3 == 0).map(|n| (n, 2));
    let waiting = refused.chain((OFFERED..COUNT).map(|n| (n, 1))).collect();
    Story { clean, end: u64::from(COUNT), waiting, parked: (0..OFFERED).filter(|n| n % 10 == 0).collect() }
}

fn settings(dir: &Path) -> Builder {
    let hour = Duration::from_secs(3600);
    small(dir, Durability::Immediate).rings(1).park_bytes_max(1 << 20).retry(Retry {
        attempts_max: None,
        base: Duration::from_millis(1),
        max: hour,
        ..Retry::default()
    })
}

/// Writes the golden directories of this version's format, where that is asked for: once for each format.
#[test]
fn writer() {
    let Some(to) = std::env::var_os("RINGWAL_GOLDEN_WRITE") else { return };
    let root = tempfile::tempdir().unwrap();
    let (dir, crashed) = (root.path().join("clean"), root.path().join("crashed"));
    let seen = Arc::new(Seen::default());
    let verdict = |entry: &Numbered, _| match entry.number {
        n if n % 10 == 0 => Verdict::Park("divisible by ten".into()),
        n if n % 3 == 0 => Verdict::Retry("divisible by three".into()),
        _ => Verdict::Ack,
    };
    let hour = Duration::from_secs(3600);
    let queue = settings(&dir)
        .retry(Retry { attempts_max: None, base: hour, max: hour, ..Retry::default() })
        .batch_len_max(OFFERED as usize)
        .linger(hour)
        .open(Judge { seen: Arc::clone(&seen), verdict })
        .unwrap();
    let push = |n| queue.producer().push_durable(entry(n)).unwrap().wait().unwrap();
    (0..OFFERED).for_each(push);
    let acked = (0..OFFERED).filter(|n| n % 10 != 0 && n % 3 != 0).count();
    seen.wait_for(acked);
    queue.pause();
    let deadline = std::time::Instant::now() + LONG;
    while queue.metrics().parked < 4 {
        assert!(std::time::Instant::now() < deadline, "{:#?}", queue.metrics());
        std::thread::sleep(Duration::from_millis(10));
    }
    (OFFERED..COUNT).for_each(push);
    // The cursor is written every 50 ms.
    std::thread::sleep(Duration::from_millis(500));
    copy_dir(&dir, &crashed);
    queue.shutdown(LONG).unwrap();
    for (name, dir) in [("clean", dir), ("crashed", crashed)] {
        let mut text = String::new();
        packed(&dir, "", &mut text);
        std::fs::write(Path::new(&to).join(format!("{name}.txt")), text).unwrap();
    }
}

#[test]
fn every_golden_directory_opens_and_gives_exactly_what_was_put_into_it() {
    for (name, clean) in [("clean", true), ("crashed", false)] {
        Golden::new(name).opens_whole(&story(clean));
    }
}

#[test]
fn unpacking_gives_the_bytes_that_were_packed() {
    let golden = Golden::new("clean");
    let mut text = String::new();
    packed(&golden.dir(), "", &mut text);
    assert_eq!(text, text_of("clean"));
}

/// Changes a structure, and makes its checksum right again, at the place that its length says.
fn patch(bytes: &mut [u8], edit: impl FnOnce(&mut [u8])) {
    edit(bytes);
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let sum = crc32c::crc32c(&bytes[..len - 4]);
    bytes[len - 4..len].copy_from_slice(&sum.to_le_bytes());
}

/// Changes both copies of META, or of a segment's header.
fn patch_copies(golden: &Golden, name: &str, edit: impl Fn(&mut [u8])) {
    golden.edit(name, |bytes| bytes[..8192].chunks_exact_mut(4096).for_each(|copy| patch(copy, &edit)));
}

const MAJOR: usize = 8;
const MINOR: usize = 10;
const LEN: usize = 12;

fn assert_newer(error: &OpenError, golden: &Golden, name: &str, unknown: u64) {
    let OpenError::NewerFormat { file, found, known: 1, features } = error else { panic!("{name}: {error:?}") };
    assert_eq!((file, *features), (&golden.dir().join(name), unknown), "{error}");
    assert_eq!(*found, if unknown == 0 { 2 } else { 1 }, "{error}");
    let text = error.to_string();
    assert!(text.contains(name) && text.contains("or a later one"), "{text}");
}

/// It was refused with META as the file that says so.
#[test]
fn a_segment_of_a_later_format_is_refused_by_its_own_name() {
    for (below, at_least) in [("", 3), ("park/", 1)] {
        let names = Golden::new("clean").segments(below);
        assert!(names.len() >= at_least, "{names:?}");
        for name in names {
            for longer in [false, true] {
                let golden = Golden::new("clean");
                patch_copies(&golden, &name, |copy| {
                    copy[MAJOR] = 2;
                    if longer {
                        copy[252..256].fill(9);
                        copy[LEN..LEN + 4].copy_from_slice(&320_u32.to_le_bytes());
                    }
                });
                assert_newer(&golden.refused(), &golden, &name, 0);
            }
        }
    }
}

/// It came as `Unusable`, with the advice to restore META from a copy.
#[test]
fn meta_of_a_later_format_or_with_unknown_features_is_refused_as_newer() {
    for name in ["META", "park/META"] {
        for longer in [false, true] {
            let golden = Golden::new("clean");
            patch_copies(&golden, name, |copy| {
                copy[MAJOR] = 2;
                if longer {
                    copy[LEN..LEN + 4].copy_from_slice(&4096_u32.to_le_bytes());
                }
            });
            assert_newer(&golden.refused(), &golden, name, 0);
        }
        for at in [40, 48] {
            let golden = Golden::new("clean");
            patch_copies(&golden, name, |copy| copy[at] = 0x80);
            assert_newer(&golden.refused(), &golden, name, 0x80);
        }
    }
}

#[test]
fn what_a_later_minor_version_adds_is_ignored() {
    let additions: [fn(&mut [u8]); 3] = [
        |copy| copy[MINOR] = 9,
        |copy| copy[204..240].fill(3),
        |copy| {
            copy[252..300].fill(9);
            copy[LEN..LEN + 4].copy_from_slice(&320_u32.to_le_bytes());
        },
    ];
    for add in additions {
        for (name, clean) in [("clean", true), ("crashed", false)] {
            let golden = Golden::new(name);
            patch_copies(&golden, "META", add);
            for segment in golden.segments("") {
                patch_copies(&golden, &segment, add);
            }
            golden.opens_whole(&story(clean));
        }
    }
}

/// The frames of a segment: where they begin, with their headers.
fn frames(bytes: &[u8]) -> Vec<(usize, FrameHeader)> {
    let blocks = bytes.chunks_exact(4096).enumerate();
    blocks.filter_map(|(block, bytes)| Some((block * 4096, FrameHeader::decode(bytes).ok()?))).collect()
}

#[test]
fn a_frame_of_an_unknown_kind_is_stepped_over_or_its_entries_are_missed_exactly() {
    let golden = Golden::new("clean");
    let mut stepped = 0;
    for segment in golden.segments("") {
        golden.edit(&segment, |bytes| {
            for (at, header) in frames(bytes) {
                if matches!(header.kind, FrameKind::Mark | FrameKind::Seal) {
                    FrameHeader { kind: FrameKind::Unknown(200), ..header }.encode(&mut bytes[at..]);
                    stepped += 1;
                }
            }
        });
    }
    assert!(stepped >= 2, "{stepped} frames without records");
    golden.opens_whole(&story(true));

    // A kind that may not be stepped over comes with a feature bit, by which META refuses. Without it the
    // frame is none, and its entry is missed where it stood.
    let golden = Golden::new("clean");
    let wanted = lsn_of(COUNT - 3);
    let mut place = None;
    for segment in golden.segments("") {
        golden.edit(&segment, |bytes| {
            let found = frames(bytes).into_iter().find(|(_, h)| h.kind == FrameKind::Data && h.first_lsn == wanted);
            if let Some((at, header)) = found {
                FrameHeader { kind: FrameKind::Unknown(5), ..header }.encode(&mut bytes[at..]);
                place = Some((segment.clone(), at as u64));
            }
        });
    }
    let (segment, at) = place.expect("each entry has a frame of its own");
    match golden.refused() {
        OpenError::Corrupt { file, offset, first, last, .. } => {
            assert_eq!((file, offset, first, last), (golden.dir().join(segment), at, wanted, wanted));
        }
        other => panic!("{other}"),
    }
}

/// Directories of compressed and of encrypted frames: `lz4`, `encrypted`.
#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
mod coded {
    use ringwal::{Aes256Gcm, Compression, KeyId};

    use super::*;

    const NAMES: [&str; 2] = ["lz4", "encrypted"];
    const COUNT: u32 = 300;

    fn open(name: &str, dir: &Path) -> Builder {
        let builder = settings(dir).durability(Durability::Periodic(Duration::from_millis(1)));
        match name {
            "lz4" => builder.compression(Compression::lz4()),
            _ => builder.cipher(Aes256Gcm::new(KeyId::new(7), *b"the key of a golden directory 32")),
        }
    }

    fn entry(n: u32) -> Numbered {
        Numbered { producer: 7, number: n, padding: [b'=', b'-'].repeat(30) }
    }

    #[test]
    fn writer() {
        let Some(to) = std::env::var_os("RINGWAL_GOLDEN_WRITE") else { return };
        for name in NAMES {
            let dir = tempfile::tempdir().unwrap();
            let seen = Arc::new(Seen::default());
            let verdict = |entry: &Numbered, _| match entry.number {
                n if n % 10 == 0 => Verdict::Park("divisible by ten".into()),
                _ => Verdict::Ack,
            };
            let queue = open(name, dir.path()).open(Judge { seen, verdict }).unwrap();
            queue.producer().push_batch((0..20).map(entry)).unwrap();
            drain(&queue);
            queue.pause();
            queue.producer().push_batch((20..COUNT).map(entry)).unwrap();
            queue.shutdown(LONG).unwrap();
            let mut text = String::new();
            packed(dir.path(), "", &mut text);
            std::fs::write(Path::new(&to).join(format!("{name}.txt")), text).unwrap();
        }
    }

    #[test]
    fn golden_directories_of_coded_frames_open_and_give_exactly_what_was_put_into_them() {
        for name in NAMES {
            let golden = Golden::new(name);
            let coded = |header: &FrameHeader| header.kind == FrameKind::Data && !header.coding.is_plain();
            let files = golden.segments("").into_iter().map(|file| std::fs::read(golden.dir().join(file)).unwrap());
            assert!(files.flat_map(|bytes| frames(&bytes)).any(|(_, header)| coded(&header)), "{name}");
            let sink = Recorder::default();
            let queue = open(name, &golden.dir()).open(sink.clone()).unwrap();
            drain(&queue);
            let parked = queue.parked().list(Lsn::ZERO, 100).unwrap();
            let parked: Vec<Numbered> = parked.iter().map(|parked| parked.decode().unwrap()).collect();
            assert_eq!(parked, [entry(0), entry(10)], "{name}");
            queue.shutdown(LONG).unwrap();
            let seen: Vec<_> = sink.0.all().into_iter().map(|(lsn, entry, _)| (lsn, entry)).collect();
            let expected: Vec<_> = (20..COUNT).map(|n| (lsn_of(n), entry(n))).collect();
            assert_eq!(seen, expected, "{name}");
        }
    }
}
