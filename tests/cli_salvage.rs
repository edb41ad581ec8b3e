//! `ringwal salvage`: whatever is damaged, what is whole is saved under its own number, what is not is
//! said, nothing is invented, and the damaged directory stays as it is.

#[path = "cli/mod.rs"]
mod cli;
mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cli::{Done, Place, real_text};
use common::{Judge, LONG, Numbered, Recorder, Seen, copy_dir, hash_dir, small};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::op::LogId;
use ringwal::wal::salvage::{SECTOR_LEN, Sift, SlotFile, Standing, judge, read_cursor};
use ringwal::wal::segment::{SegmentHeader, SlotHeader, read_slot_header};
use ringwal::{Durability, Lsn, Queue, SlotNo, Verdict};

/// How many entries a store has here; entry n has LSN n + 1.
const COUNT: u32 = 2400;
const BLOCK: usize = 4096;
/// Where the cursor's copies lie.
const CURSOR: u64 = 8192;

fn entry(n: u32) -> Numbered {
    Numbered::new(0, n, 300 + (n % 1200) as usize)
}

fn open(dir: &Path, sink: Recorder) -> Queue<Numbered> {
    small(dir, Durability::Immediate).rings(1).open(sink).unwrap()
}

/// Pushes entries in groups, so that there are many frames.
fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    for n in numbers {
        producer.push(entry(n)).unwrap();
        if n % 8 == 7 {
            queue.flush().unwrap();
        }
    }
    queue.flush().unwrap();
}

/// A queue of `COUNT` entries in several segments, of which the sink has got none. Closed in order, or
/// copied while it was open.
fn store(place: &Place, clean: bool) -> PathBuf {
    let dir = place.path("q");
    let made = if clean { dir.clone() } else { place.path("made") };
    let queue = open(&made, Recorder::default());
    queue.pause();
    push(&queue, 0..COUNT);
    if !clean {
        copy_dir(&made, &dir);
    }
    queue.shutdown(LONG).unwrap();
    dir
}

/// A frame of entries on disk.
#[derive(Clone, Debug)]
struct OnDisk {
    path: PathBuf,
    offset: u64,
    /// Header and body.
    len: usize,
    header: FrameHeader,
}

fn slot_files(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "rwal")).collect();
    files.sort();
    files
}

fn header_of(path: &Path) -> Option<SegmentHeader> {
    match read_slot_header(&fs::read(path).unwrap(), BLOCK as u32) {
        SlotHeader::Segment(header) => Some(header),
        _ => None,
    }
}

/// The frames of entries of the segments that lie in a healthy store, in LSN order.
fn frames(dir: &Path) -> Vec<OnDisk> {
    let mut found = frames_of_any_kind(dir);
    found.retain(|frame| frame.header.kind == FrameKind::Data);
    found
}

fn frames_of_any_kind(dir: &Path) -> Vec<OnDisk> {
    let mut found = Vec::new();
    for path in slot_files(dir) {
        let (bytes, Some(segment)) = (fs::read(&path).unwrap(), header_of(&path)) else { continue };
        for (block, at) in bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)).skip(2) {
            if let Ok(header) = FrameHeader::decode(block)
                && header.seg_uid == segment.uid
            {
                let len = FRAME_HEADER_LEN + header.body_len as usize;
                found.push(OnDisk { path: path.clone(), offset: at as u64, len, header });
            }
        }
    }
    found.sort_by_key(|frame| frame.header.first_lsn);
    found
}

fn lsns(frame: &OnDisk) -> std::ops::Range<u64> {
    frame.header.first_lsn.number()..frame.header.next_lsn.number()
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// The segments in order, each with its file.
fn segments(dir: &Path) -> Vec<(PathBuf, SegmentHeader)> {
    let mut found: Vec<_> =
        slot_files(dir).into_iter().filter_map(|path| header_of(&path).map(|header| (path, header))).collect();
    found.sort_by_key(|(_, header)| header.seq);
    found
}

/// Runs salvage into a new queue, sees to it that the original stays as it is, and gives the report.
fn salvage(place: &Place, code: i32) -> serde_json::Value {
    let before = whole_hash(&place.path("q"));
    let done = place.run(&["salvage", "q", "--to", "n", "--json"]).expect(code);
    assert_eq!(whole_hash(&place.path("q")), before, "the damaged directory was changed");
    assert!(!place.path("n/INCOMPLETE").exists(), "{done:?}");
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// Names and bytes of everything, the lock's content too.
fn whole_hash(dir: &Path) -> (u64, Option<Vec<u8>>) {
    (hash_dir(dir), fs::read(dir.join("LOCK")).ok())
}

/// What a queue delivers, by LSN; each entry has the bytes that it was pushed with.
fn delivered(dir: &Path) -> BTreeMap<u64, u32> {
    let sink = Recorder::default();
    let queue = open(dir, sink.clone());
    common::drain(&queue);
    assert_eq!(queue.recovery().lost, [], "what is missing was no surprise to the new queue");
    queue.shutdown(LONG).unwrap();
    let mut last = Lsn::ZERO;
    let mut out = BTreeMap::new();
    for (lsn, got, _) in sink.0.all() {
        assert!(lsn > last, "LSN {lsn} came after {last}");
        last = lsn;
        assert_eq!(got, entry(got.number), "an entry has other bytes than it was pushed with");
        out.insert(lsn.number(), got.number);
    }
    out
}

fn expect_only(got: &BTreeMap<u64, u32>, lsns: impl IntoIterator<Item = u64>) {
    let expected: BTreeMap<u64, u32> = lsns.into_iter().map(|lsn| (lsn, lsn as u32 - 1)).collect();
    let missing: Vec<_> = expected.keys().filter(|lsn| !got.contains_key(lsn)).collect();
    let invented: Vec<_> = got.keys().filter(|lsn| !expected.contains_key(lsn)).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing {missing:?}, too many {invented:?}");
    assert_eq!(*got, expected, "an LSN names another entry");
}

fn all() -> std::ops::Range<u64> {
    1..u64::from(COUNT) + 1
}

#[test]
fn a_healthy_store_is_saved_whole_and_goes_on_under_its_numbers() {
    for clean in [true, false] {
        let place = Place::new();
        let dir = store(&place, clean);
        assert!(segments(&dir).len() >= 4);
        let report = salvage(&place, 0);
        assert_eq!(report["log"]["saved"], COUNT, "{report}");
        assert_eq!((&report["log"]["lost_entries"], &report["log"]["cursor_known"]), (&0.into(), &true.into()));
        assert_eq!(place.json(&["verify", "--json", "n"])["log"]["entries"], COUNT);
        let sink = Recorder::default();
        let queue = open(&place.path("n"), sink.clone());
        queue.producer().push_durable(entry(COUNT)).unwrap().wait().unwrap();
        common::drain(&queue);
        queue.shutdown(LONG).unwrap();
        let got: Vec<_> = sink.0.all();
        assert_eq!(got.len() as u32, COUNT + 1);
        assert!(got[COUNT as usize].0.number() > u64::from(COUNT), "its LSN was another entry's");
        assert!(got.iter().take(COUNT as usize).all(|(lsn, got, _)| lsn.number() == u64::from(got.number) + 1));
    }
}

#[test]
fn rot_costs_the_frames_it_hits_and_their_numbers_stay_empty() {
    let place = Place::new();
    let dir = store(&place, true);
    let frames = frames(&dir);
    let hit = [&frames[frames.len() / 3], &frames[frames.len() / 2]];
    overwrite(&hit[0].path, hit[0].offset + 200, b"rot");
    overwrite(&hit[1].path, hit[1].offset + 30, b"rot");
    let report = salvage(&place, 4);
    let lost: Vec<_> = hit.iter().map(|f| serde_json::json!([lsns(f).start, lsns(f).end - 1])).collect();
    assert_eq!(report["log"]["lost"], serde_json::json!(lost), "{report}");
    let got = delivered(&place.path("n"));
    expect_only(&got, all().filter(|lsn| !hit.iter().any(|frame| lsns(frame).contains(lsn))));
}

#[test]
fn without_meta_all_entries_are_saved() {
    for gone in ["removed", "rotten", "of another store"] {
        let place = Place::new();
        let dir = store(&place, gone != "rotten");
        let meta = dir.join("META");
        match gone {
            "removed" => fs::remove_file(&meta).unwrap(),
            "rotten" => (0..10).for_each(|at| overwrite(&meta, at * 4096 + 10, &[7; 64])),
            _ => {
                let queue = open(&place.path("other"), Recorder::default());
                push(&queue, 0..100);
                common::drain(&queue);
                queue.shutdown(LONG).unwrap();
                fs::copy(place.path("other/META"), &meta).unwrap();
            }
        }
        let report = salvage(&place, 4);
        assert_eq!((&report["log"]["saved"], &report["log"]["meta_known"]), (&COUNT.into(), &false.into()), "{gone}");
        assert_eq!(report["log"]["cursor_known"], false, "{gone}: {report}");
        assert_eq!(report["log"]["lost_entries"], 0, "{gone}: {report}");
        assert!(report["log"]["next_lsn"].as_u64().unwrap() > (1 << 32), "what was reserved is not given out again");
        expect_only(&delivered(&place.path("n")), all());
        let sink = Recorder::default();
        let queue = open(&place.path("n"), sink.clone());
        push(&queue, 0..1);
        common::drain(&queue);
        queue.shutdown(LONG).unwrap();
        assert!(sink.0.all()[0].0.number() >= report["log"]["next_lsn"].as_u64().unwrap(), "{gone}");
    }
}

#[test]
fn without_a_cursor_the_hints_in_the_frames_are_the_floor() {
    let place = Place::new();
    let dir = place.path("q");
    let queue = open(&dir, Recorder::default());
    push(&queue, 0..200);
    common::drain(&queue);
    queue.pause();
    push(&queue, 200..COUNT);
    queue.shutdown(LONG).unwrap();
    for at in [CURSOR, CURSOR + 16_384] {
        overwrite(&dir.join("META"), at, &[0; 16_384]);
    }
    let report = salvage(&place, 4);
    assert_eq!((&report["log"]["meta_known"], &report["log"]["cursor_known"]), (&true.into(), &false.into()));
    assert_eq!(report["log"]["done_up_to"], 200, "every frame behind them says that they were acknowledged: {report}");
    expect_only(&delivered(&place.path("n")), all().filter(|lsn| *lsn > 200));
}

#[test]
fn a_missing_segment_costs_what_it_held_and_no_more() {
    let count = {
        let place = Place::new();
        segments(&store(&place, true)).len()
    };
    for index in [0, count / 2, count - 1] {
        let place = Place::new();
        let dir = store(&place, true);
        let segments = segments(&dir);
        let (path, header) = &segments[index];
        fs::remove_file(path).unwrap();
        let first = header.base_lsn.number();
        let next = segments.get(index + 1).map_or(all().end, |(_, header)| header.base_lsn.number());
        let report = salvage(&place, 4);
        assert_eq!(report["log"]["lost"], serde_json::json!([[first, next - 1]]), "{report}");
        expect_only(&delivered(&place.path("n")), all().filter(|lsn| !(first..next).contains(lsn)));
    }
}

#[test]
fn a_segment_without_a_header_is_known_by_its_frames() {
    for meta in [true, false] {
        let place = Place::new();
        let dir = store(&place, true);
        for (path, _) in segments(&dir).iter().skip(1) {
            overwrite(path, 0, &[0; 2 * BLOCK]);
        }
        if !meta {
            fs::remove_file(dir.join("META")).unwrap();
        }
        let report = salvage(&place, if meta { 0 } else { 4 });
        assert_eq!(report["log"]["saved"], COUNT, "{report}");
        assert!(report["files"].as_array().unwrap().len() > 2, "{report}");
        expect_only(&delivered(&place.path("n")), all());
    }
}

#[test]
fn where_no_header_is_left_the_schema_must_be_named() {
    let place = Place::new();
    let dir = store(&place, true);
    for path in slot_files(&dir) {
        overwrite(&path, 0, &[0; 2 * BLOCK]);
    }
    place.run(&["salvage", "q", "--to", "n"]).refused(2, &["--schema", "--as json"]);
    assert!(!place.path("n").exists(), "nothing was begun");
    place.run(&["salvage", "q", "--to", "n", "--schema", "test.numbered:1"]).expect(0);
    expect_only(&delivered(&place.path("n")), all());
    place.run(&["salvage", "q", "--to", "f", "--as", "json"]).expect(0);
    assert_eq!(place.read("f").lines().count() as u32, COUNT);
}

#[test]
fn a_cut_file_keeps_what_stands_before_the_cut() {
    let place = Place::new();
    let dir = store(&place, true);
    let (path, _) = &segments(&dir)[1];
    let cut = 200_001;
    let gone: Vec<_> = frames(&dir).into_iter().filter(|f| f.path == *path && f.offset + f.len as u64 > cut).collect();
    File::options().write(true).open(path).unwrap().set_len(cut).unwrap();
    assert!(!gone.is_empty());
    salvage(&place, 4);
    expect_only(&delivered(&place.path("n")), all().filter(|lsn| !gone.iter().any(|f| lsns(f).contains(lsn))));
}

#[test]
fn a_torn_tail_is_no_loss_and_what_stands_behind_it_is_saved() {
    let place = Place::new();
    let dir = store(&place, false);
    let frames = frames(&dir);
    // Written together, so no promise covers them: the last but one is torn, the last is whole.
    let [.., torn, last] = &frames[..] else { panic!("too few frames") };
    // Unless the queue was idle for long enough to write down that they are durable before it was copied.
    let promises = frames_of_any_kind(&dir).into_iter().map(|frame| frame.header.durable_lsn);
    let cursor = read_cursor(&fs::read(dir.join("META")).unwrap()).map(|cursor| cursor.durable);
    let promise = promises.chain(cursor).max().unwrap().number();
    overwrite(&torn.path, torn.offset + torn.len as u64 / 2, &[0; 64]);
    let is_promised = promise >= torn.header.first_lsn.number();
    let report = salvage(&place, if is_promised { 4 } else { 0 });
    let hole = serde_json::json!([[lsns(torn).start, lsns(torn).end - 1]]);
    assert_eq!(report["log"][if is_promised { "lost" } else { "never_promised" }], hole, "{report}");
    let got = delivered(&place.path("n"));
    assert!(lsns(last).all(|lsn| got.contains_key(&lsn)));
    expect_only(&got, all().filter(|lsn| !lsns(torn).contains(lsn)));
}

#[test]
fn the_very_last_frame_torn_is_no_loss_at_all() {
    let place = Place::new();
    let dir = store(&place, false);
    let torn = frames(&dir).pop().unwrap();
    // Marks and cursor of the idle queue may have promised it already; they go too.
    let meta = dir.join("META");
    fs::remove_file(&meta).unwrap();
    overwrite(&torn.path, torn.offset, &vec![0; 1 << 16]);
    let report = salvage(&place, 4);
    assert_eq!(report["log"]["lost_entries"], 0, "{report}");
    expect_only(&delivered(&place.path("n")), all().filter(|lsn| !lsns(&torn).contains(lsn)));
}

#[test]
fn swapped_files_are_put_in_order_by_what_they_say() {
    let place = Place::new();
    let dir = store(&place, true);
    let segments = segments(&dir);
    let aside = dir.join("aside");
    fs::rename(&segments[0].0, &aside).unwrap();
    fs::rename(&segments[2].0, &segments[0].0).unwrap();
    fs::rename(&aside, &segments[2].0).unwrap();
    // And one is there twice.
    fs::copy(&segments[1].0, dir.join("seg-00000077.rwal")).unwrap();
    let report = salvage(&place, 0);
    assert_eq!(report["log"]["saved"], COUNT, "{report}");
    assert_eq!(report["files"].as_array().unwrap().len(), 3, "{report}");
    expect_only(&delivered(&place.path("n")), all());
}

#[test]
fn a_segment_of_another_store_is_left_out() {
    for meta in [true, false] {
        let place = Place::new();
        let dir = store(&place, true);
        let queue = open(&place.path("other"), Recorder::default());
        queue.pause();
        push(&queue, 100..200);
        queue.shutdown(LONG).unwrap();
        let foreign = segments(&place.path("other")).remove(0).0;
        fs::copy(&foreign, dir.join("seg-00000088.rwal")).unwrap();
        if !meta {
            fs::remove_file(dir.join("META")).unwrap();
        }
        let report = salvage(&place, if meta { 0 } else { 4 });
        assert_eq!((&report["log"]["saved"], &report["log"]["left_out"]["foreign"]), (&COUNT.into(), &100.into()));
        expect_only(&delivered(&place.path("n")), all());
    }
}

#[test]
fn as_many_segments_of_two_stores_are_refused() {
    let place = Place::new();
    let dir = store(&place, true);
    for (path, _) in segments(&dir).iter().skip(1) {
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(dir.join("META")).unwrap();
    let queue = open(&place.path("other"), Recorder::default());
    queue.pause();
    push(&queue, 0..8);
    queue.shutdown(LONG).unwrap();
    fs::copy(segments(&place.path("other")).remove(0).0, dir.join("seg-00000088.rwal")).unwrap();
    place.run(&["salvage", "q", "--to", "n"]).refused(2, &["2 stores", "without the files of the other"]);
}

/// Whether whole frames of an earlier use stand in a slot that is in use.
fn has_left_overs(dir: &Path) -> bool {
    slot_files(dir).iter().any(|path| {
        let (bytes, Some(segment)) = (fs::read(path).unwrap(), header_of(path)) else { return false };
        let whole = |at: usize| {
            let header = FrameHeader::decode(&bytes[at..]).ok().filter(|header| header.seg_uid != segment.uid);
            header.filter(|header| header.kind == FrameKind::Data).is_some_and(|header| {
                let body = bytes[at + FRAME_HEADER_LEN..].get(..header.body_len as usize);
                body.is_some_and(|body| header.body_matches(body))
            })
        };
        (2 * BLOCK..bytes.len()).step_by(BLOCK).any(whole)
    })
}

/// A queue whose slots have been used several times over: everything up to a certain LSN is delivered, and 100
/// more are not. Which slots are kept depends on how fast everybody is, so it is made until it has left-overs.
fn recycled(place: &Place) -> (PathBuf, u64) {
    let dir = place.path("q");
    for _ in 0..20 {
        let queue = open(&dir, Recorder::default());
        for round in 0..6 {
            push(&queue, round * 1000..(round + 1) * 1000);
            common::drain(&queue);
        }
        queue.pause();
        push(&queue, 6000..6100);
        queue.shutdown(LONG).unwrap();
        if has_left_overs(&dir) {
            return (dir, 6000);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    panic!("no slot is ever used again");
}

#[test]
fn what_is_left_over_in_reused_files_is_not_taken_for_the_log() {
    let place = Place::new();
    let (dir, acked) = recycled(&place);
    let report = salvage(&place, 0);
    assert_eq!(report["log"]["saved"], 100, "{report}");
    expect_only(&delivered(&place.path("n")), acked + 1..6101);
    // Not even without META and cursor.
    fs::remove_file(dir.join("META")).unwrap();
    fs::remove_dir_all(place.path("n")).unwrap();
    let report = salvage(&place, 4);
    let floor = report["log"]["done_up_to"].as_u64().unwrap();
    assert!(report["log"]["left_out"]["recycled"].as_u64().unwrap() > 0, "{report}");
    let got = delivered(&place.path("n"));
    assert!(!got.is_empty() && floor <= acked);
    expect_only(&got, floor + 1..6101);
    // But it is there for whoever asks, marked.
    place.run(&["salvage", "q", "--to", "f", "--as", "json", "--all"]).expect(4);
    let lines: Vec<serde_json::Value> =
        place.read("f").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |standing: &str| lines.iter().filter(|line| line["standing"] == standing).count();
    assert_eq!(of("live"), got.len());
    assert!(of("recycled") > 0 && lines.iter().all(|line| line["lsn"].as_u64().unwrap() <= 6100));
    place.run(&["salvage", "q", "--to", "g", "--all"]).refused(2, &["--as json"]);
}

#[test]
fn entries_that_a_recovery_gave_up_do_not_come_back_under_numbers_of_others() {
    let place = Place::new();
    let dir = store(&place, false);
    // Torn in the first frame of the last segment but one: everything behind it is given up.
    let segments = segments(&dir);
    let torn = &segments[segments.len() - 2];
    for frame in frames_of_any_kind(&dir).iter().filter(|frame| frame.header.first_lsn > torn.1.base_lsn) {
        // Without later promises, as after a crash.
        let mut bytes = [0; FRAME_HEADER_LEN];
        FrameHeader { durable_lsn: torn.1.base_lsn.prev(), ..frame.header }.encode(&mut bytes);
        overwrite(&frame.path, frame.offset, &bytes);
    }
    let (path, header) = segments.last().unwrap();
    let mut bytes = vec![0; 2 * BLOCK];
    SegmentHeader { durable_lsn: torn.1.base_lsn.prev(), ..header.clone() }.encode(&mut bytes);
    overwrite(path, 0, &bytes);
    let first = frames(&dir).into_iter().find(|frame| frame.header.first_lsn > torn.1.base_lsn).unwrap();
    overwrite(&first.path, first.offset + 100, b"torn");
    let end = first.header.first_lsn.number();
    for copy in [0, 1] {
        let at = CURSOR + copy * 16_384;
        let mut bytes = fs::read(dir.join("META")).unwrap()[at as usize..][..16_384].to_vec();
        bytes[32..40].copy_from_slice(&0_u64.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..16_380]);
        bytes[16_380..].copy_from_slice(&sum.to_le_bytes());
        overwrite(&dir.join("META"), at, &bytes);
    }
    let queue = open(&dir, Recorder::default());
    queue.pause();
    assert_eq!(queue.recovery().end.number(), end - 1, "{:?}", queue.recovery());
    push(&queue, 5000..5040);
    queue.shutdown(LONG).unwrap();
    for meta in [true, false] {
        if !meta {
            fs::remove_file(dir.join("META")).unwrap();
            fs::remove_dir_all(place.path("n")).unwrap();
        }
        let report = salvage(&place, if meta { 0 } else { 4 });
        assert!(report["log"]["left_out"]["abandoned"].as_u64().unwrap() > 0, "{report}");
        let got = delivered(&place.path("n"));
        let expected = (1..end).map(|lsn| (lsn, lsn as u32 - 1)).chain((end..end + 40).zip(5000..));
        assert_eq!(got, expected.collect(), "with META: {meta}");
    }
}

#[test]
fn parked_entries_are_saved_with_their_reason_and_may_be_redelivered() {
    for damage in ["none", "META", "both"] {
        let place = Place::new();
        let dir = place.path("q");
        let seen = std::sync::Arc::<Seen>::default();
        let verdict = |entry: &Numbered, _| match entry.number % 10 {
            3 => Verdict::Park("not today".into()),
            _ => Verdict::Ack,
        };
        let queue = small(&dir, Durability::Immediate).rings(1).open(Judge { seen, verdict }).unwrap();
        push(&queue, 0..100);
        common::drain(&queue);
        assert_eq!(queue.parked().list(Lsn::ZERO, 100).unwrap().len(), 10);
        queue.parked().discard(|entry| entry.lsn.number() == 44).unwrap();
        queue.shutdown(LONG).unwrap();
        if damage != "none" {
            fs::remove_file(dir.join("park/META")).unwrap();
        }
        if damage == "both" {
            fs::remove_file(dir.join("META")).unwrap();
        }
        let report = salvage(&place, if damage == "none" { 0 } else { 4 });
        // Without its cursor a discarded one is back.
        let expected = if damage == "none" { 9 } else { 10 };
        assert_eq!((&report["park"]["saved"], &report["park"]["lost_entries"]), (&expected.into(), &0.into()));
        let queue = open(&place.path("n"), Recorder::default());
        let parked = queue.parked().list(Lsn::ZERO, 100).unwrap();
        assert_eq!(parked.len(), expected as usize);
        assert!(parked.iter().all(|entry| entry.error == "not today" && entry.lsn.number() % 10 == 4));
        assert_eq!(queue.parked().redeliver(|_| true).unwrap(), parked.len());
        common::drain(&queue);
        queue.shutdown(LONG).unwrap();
        place.run(&["salvage", "q", "--to", "f", "--as", "json"]);
        let with_reason = place.read("f").lines().filter(|line| line.contains("not today")).count();
        assert_eq!(with_reason, expected as usize);
    }
}

#[test]
fn a_sink_that_keeps_numbers_gets_nothing_twice_from_a_saved_queue() {
    let place = Place::new();
    let input = real_text(1_500_000);
    let lines = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    place.write("in", &input);
    // All of it fits into one segment: without a cursor, segments that were delivered and used again look like lost ones.
    let q = ["pipe", "--dir", "q", "--segment-len", "4MiB", "--from", "in", "--to", "sqlite:db"];
    let left = place.run(&[&q[..], &["--drain-within", "1ms", "--shutdown-within", "1ms", "--quiet"]].concat());
    assert!([0, 3].contains(&left.code()), "{left:?}");
    for copy in [0, 1] {
        overwrite(&place.path("q/META"), CURSOR + copy * 16_384, &[0; 16_384]);
    }
    let report = salvage(&place, 4);
    assert_eq!(report["log"]["lost_entries"], 0, "{report}");
    place.run_with(&["pipe", "--dir", "n", "--to", "sqlite:db", "--from", "in", "--quiet"], b"").expect(0);
    let rows = place.rows("db");
    assert_eq!(rows.len(), lines, "some came twice, or not at all");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let place = Place::new();
    let dir = store(&place, true);
    let run = |args: &[&str]| place.run(args);
    run(&["salvage", "missing", "--to", "n"]).refused(2, &["missing", "does not exist"]);
    place.write("file", b"text");
    run(&["salvage", "file", "--to", "n"]).refused(2, &["file", "not a directory"]);
    fs::create_dir(place.path("empty")).unwrap();
    run(&["salvage", "empty", "--to", "n"]).refused(2, &["empty", "neither META nor a segment"]);
    run(&["salvage", "q", "--to", "made-by-somebody"]).expect(0);
    run(&["salvage", "q", "--to", "made-by-somebody"]).refused(2, &["made-by-somebody", "not empty"]);
    run(&["salvage", "q", "--to", "file"]).refused(2, &["file", "give a new directory"]);
    run(&["salvage", "q", "--to", "file", "--as", "text"]).refused(2, &["file", "nothing is overwritten"]);
    run(&["salvage", "q", "--to", "q/new"]).refused(2, &["q/new", "must stay as it is"]);
    run(&["salvage", "q", "--to", "q/a/b", "--as", "json"]).refused(2, &["must stay as it is"]);
    run(&["salvage", "q", "--to", "file/below"]).refused(2, &["file/below"]);
    run(&["salvage", "q", "--to", "no/such/folder", "--as", "text"]).refused(2, &["no/such/folder"]);
    assert!(!place.path("n").exists() && !dir.join("new").exists());
    let queue = open(&dir, Recorder::default());
    run(&["salvage", "q", "--to", "n"]).refused(1, &["is open in process", "close it there"]);
    queue.shutdown(LONG).unwrap();
    let mut meta = fs::read(dir.join("META")).unwrap();
    for at in [0, 4096] {
        meta[at + 8] = 9;
        let sum = crc32c::crc32c(&meta[at..at + 252]);
        meta[at + 252..at + 256].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(dir.join("META"), meta).unwrap();
    run(&["salvage", "q", "--to", "n"]).refused(2, &["format 9", "use the version that wrote it"]);
}

/// Runs the program with a limit on the length of the files that it writes: as a full disk, for everybody.
fn with_little_room(place: &Place, args: &str) -> Done {
    let program = env!("CARGO_BIN_EXE_ringwal");
    let script = format!("trap '' XFSZ; ulimit -f 200; exec {program} {args}");
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script]).current_dir(place.0.path());
    let piped = std::process::Stdio::piped;
    cli::finish(command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap(), b"")
}

#[test]
fn a_full_disk_leaves_a_target_that_says_so_and_does_not_open() {
    let place = Place::new();
    store(&place, true);
    with_little_room(&place, "salvage q --to n").refused(1, &["n: ", "not complete", "INCOMPLETE", "run again"]);
    assert!(place.path("n/INCOMPLETE").exists());
    assert!(small(&place.path("n"), Durability::Immediate).open::<Numbered, _>(Recorder::default()).is_err());
    place.run(&["salvage", "q", "--to", "n"]).refused(2, &["an earlier salvage", "remove it"]);
    with_little_room(&place, "salvage q --to f --as json").refused(1, &["not complete"]);
    assert!(!place.path("f").exists() && place.path("f.incomplete").exists());
    place.run(&["salvage", "q", "--to", "f", "--as", "json"]).refused(2, &["f.incomplete"]);
    fs::remove_dir_all(place.path("n")).unwrap();
    salvage(&place, 0);
    expect_only(&delivered(&place.path("n")), all());
}

#[test]
fn a_store_without_entries_is_saved_as_one() {
    let place = Place::new();
    open(&place.path("q"), Recorder::default()).shutdown(LONG).unwrap();
    salvage(&place, 0);
    expect_only(&delivered(&place.path("n")), []);
    let place = Place::new();
    let queue = open(&place.path("q"), Recorder::default());
    push(&queue, 0..50);
    common::drain(&queue);
    queue.shutdown(LONG).unwrap();
    let report = salvage(&place, 0);
    assert_eq!((&report["log"]["saved"], &report["log"]["done_up_to"]), (&0.into(), &50.into()), "{report}");
    let sink = Recorder::default();
    let queue = open(&place.path("n"), sink.clone());
    push(&queue, 50..51);
    common::drain(&queue);
    queue.shutdown(LONG).unwrap();
    assert!(sink.0.all()[0].0.number() > 50);
}

// ---- any damage at all ------------------------------------------------------------------------------

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) ^ (self.0 << 20 >> 40)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A directory in memory.
type Image = BTreeMap<String, Vec<u8>>;

fn image(dir: &Path) -> Image {
    let files = slot_files(dir).into_iter().chain([dir.join("META")]);
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

/// Damages an image; the names of files are as they were in `origin`, which is damaged likewise.
fn damage(image: &mut Image, chance: &mut Chance) {
    let names: Vec<String> = image.keys().cloned().collect();
    let name = |chance: &mut Chance| names[chance.below(names.len())].clone();
    for _ in 0..=chance.below(12) {
        let (at, other) = (name(chance), name(chance));
        let Some(len) = image.get(&at).map(Vec::len).filter(|len| *len > 0) else { continue };
        let place = chance.below(len);
        let sector = place / 512 * 512;
        match chance.below(10) {
            0..=2 => image.get_mut(&at).unwrap()[place] ^= 1 << chance.below(8),
            3 => {
                // Headers, META and the cursor, of which random places hit little.
                let place = chance.below(8) * 4096 % len;
                let end = (place + 1 + chance.below(400)).min(len);
                image.get_mut(&at).unwrap()[place..end].fill(chance.next() as u8);
            }
            4 => {
                let end = (sector + 512 * (1 + chance.below(64))).min(len);
                image.get_mut(&at).unwrap()[sector..end].fill(0);
            }
            5 => image.get_mut(&at).unwrap()[place..].fill_with(|| chance.next() as u8),
            6 => image.get_mut(&at).unwrap().truncate(place),
            7 if at != "META" && other != "META" => {
                // Swapped, or one of them twice.
                let (a, b) = (image[&at].clone(), image.get(&other).cloned().unwrap_or_default());
                image.insert(at, b);
                if chance.below(2) == 0 {
                    image.insert(other, a);
                }
            }
            8 => drop(image.remove(&at)),
            _ => {
                // A write that went to another place, or file.
                let bytes = image[&at][sector..(sector + 4096).min(len)].to_vec();
                let to = image.entry(other).or_default();
                let place = if to.len() > bytes.len() { chance.below(to.len() - bytes.len()) / 512 * 512 } else { 0 };
                let end = (place + bytes.len()).min(to.len());
                to[place..end].copy_from_slice(&bytes[..end - place]);
            }
        }
    }
}

fn sifted(image: &Image) -> Vec<SlotFile> {
    let slots = image.iter().filter(|(name, _)| *name != "META");
    slots
        .map(|(name, bytes)| {
            let mut sift = Sift::default();
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN), 0);
            bytes.chunks(96 << 10).for_each(|chunk| sift.pass(Some(chunk), chunk.len()));
            sift.finish(LogId::Main, SlotNo(name[4..12].parse().unwrap()))
        })
        .collect()
}

/// Entries that are saved of an image, by LSN.
fn saved(image: &Image) -> (BTreeMap<u64, Numbered>, u64) {
    let files = sifted(image);
    let names: Vec<&String> = image.keys().filter(|name| *name != "META").collect();
    let meta = image.get("META").and_then(|bytes| ringwal::wal::meta::Meta::read(bytes).ok());
    let cursor = image.get("META").and_then(|bytes| read_cursor(bytes));
    let findings = judge(LogId::Main, &files, meta, cursor).expect("one store");
    let mut out = BTreeMap::new();
    for judged in findings.frames.iter().filter(|judged| judged.standing == Standing::Live) {
        let (bytes, header) = (&image[names[judged.file]], judged.piece.header);
        // What a file was cut off by reads as zeros.
        let mut body = bytes[judged.piece.offset as usize + FRAME_HEADER_LEN..].to_vec();
        body.resize(body.len().max(header.body_len as usize), 0);
        body.truncate(header.body_len as usize);
        assert!(header.body_matches(&body), "a frame that is not whole");
        let records = ringwal::ring::record::Records::new(&body).map(Result::unwrap);
        for (record, lsn) in records.zip(header.first_lsn.number()..) {
            let entry = ringwal::Entry::decode(record.payload).unwrap();
            assert!(out.insert(lsn, entry).is_none(), "LSN {lsn} twice");
        }
    }
    (out, findings.floor.number())
}

/// LSNs of frames that stand anywhere in the image at their own offset, byte for byte.
fn undamaged<'a>(image: &'a Image, origin: &'a Image, frames: &'a [OnDisk]) -> impl Iterator<Item = u64> + 'a {
    let is_whole = |frame: &&OnDisk| {
        let range = frame.offset as usize..frame.offset as usize + frame.len;
        let bytes = &origin[frame.path.file_name().unwrap().to_str().unwrap()][range.clone()];
        image.iter().any(|(name, file)| name != "META" && file.get(range.clone()) == Some(bytes))
    };
    frames.iter().filter(is_whole).flat_map(lsns)
}

#[test]
fn whatever_is_damaged_what_is_whole_is_saved_and_nothing_is_invented() {
    let place = Place::new();
    let dir = store(&place, true);
    let (origin, frames) = (image(&dir), frames(&dir));
    for seed in 0..150 {
        let (mut image, mut chance) = (origin.clone(), Chance(seed * 7919 + 1));
        damage(&mut image, &mut chance);
        let (saved, floor) = saved(&image);
        for (lsn, got) in &saved {
            assert_eq!(*got, entry(*lsn as u32 - 1), "seed {seed}: LSN {lsn} names another entry");
        }
        let lost: Vec<_> = undamaged(&image, &origin, &frames).filter(|lsn| !saved.contains_key(lsn)).collect();
        assert!(saved.is_empty() || floor < saved.keys().next().copied().unwrap(), "seed {seed}: floor {floor}");
        assert!(lost.is_empty(), "seed {seed}: whole and not saved: {lost:?}");
    }
}

#[test]
fn in_reused_files_too_nothing_is_invented_and_nothing_live_is_left_out() {
    let place = Place::new();
    let (dir, acked) = recycled(&place);
    let (origin, frames) = (image(&dir), frames(&dir));
    for seed in 0..150 {
        let (mut image, mut chance) = (origin.clone(), Chance(seed * 104_729 + 3));
        damage(&mut image, &mut chance);
        let (saved, _) = saved(&image);
        for (lsn, got) in &saved {
            assert_eq!(*got, entry(*lsn as u32 - 1), "seed {seed}: LSN {lsn} names another entry");
        }
        let wanted = undamaged(&image, &origin, &frames).filter(|lsn| *lsn > acked);
        let lost: Vec<_> = wanted.filter(|lsn| !saved.contains_key(lsn)).collect();
        assert!(lost.is_empty(), "seed {seed}: whole and not saved: {lost:?}");
    }
}

#[test]
fn the_program_survives_any_damage_and_what_it_writes_opens() {
    let template = Place::new();
    let dir = store(&template, true);
    let origin = image(&dir);
    for seed in 0..12 {
        let place = Place::new();
        let (mut image, mut chance) = (origin.clone(), Chance(seed * 31_337 + 5));
        damage(&mut image, &mut chance);
        fs::create_dir(place.path("q")).unwrap();
        image.iter().for_each(|(name, bytes)| place.write(&format!("q/{name}"), bytes));
        let before = whole_hash(&place.path("q"));
        let done = place.run(&["salvage", "q", "--to", "n", "--schema", "test.numbered:1"]);
        assert!([0, 4].contains(&done.code()), "seed {seed}: {done:?}");
        assert_eq!(whole_hash(&place.path("q")), before, "seed {seed}");
        let (saved, _) = saved(&image);
        expect_only(&delivered(&place.path("n")), saved.into_keys());
    }
}
