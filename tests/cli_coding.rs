//! The program with compressed and encrypted queues: with the key all is shown, without it what cannot be is said.

#[path = "cli/mod.rs"]
mod cli;

use std::fs;
use std::path::PathBuf;

use cli::{Place, real_text};
use ringwal::ring::record::{RECORD_HEADER_LEN, State, Word, stride_of};
use ringwal::wal::coding::BodyCoding;
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};

const KEYS: &str = "# two keys\n1:0101010101010101010101010101010101010101010101010101010101010101\n\
                    2:0202020202020202020202020202020202020202020202020202020202020202\n";
const WRONG: &str = "2:ff02020202020202020202020202020202020202020202020202020202020202\n";

/// Lines in an encrypted log, compressed as well where that helps, and some that are parked.
fn encrypted(input: &[u8]) -> Place {
    let place = Place::new();
    place.write("keys", KEYS.as_bytes());
    place.write("wrong", WRONG.as_bytes());
    let args = ["--key-file", "keys", "--compress", "lz4", "--drain-within", "100ms", "--quiet"];
    place.pipe(&[&args[..], &["--to", "exec:exit 1", "--retry-max", "0"]].concat(), input).expect(3);
    place
}

#[test]
fn with_the_key_everything_is_shown_and_without_it_only_what_stands_in_clear() {
    let input = real_text(200_000);
    let place = encrypted(&input);
    let lines = input.split(|byte| *byte == b'\n').count() as u64 - 1;
    let whole = String::from_utf8_lossy(&input).into_owned();
    assert_eq!(place.run(&["dump", "q", "--key-file", "keys"]).expect(0).out, whole);
    assert!(place.run(&["tail", "-n", "1", "q", "--key-file", "keys"]).expect(0).out.len() > 1);
    let verified = place.json(&["verify", "--json", "q", "--key-file", "keys"]);
    assert_eq!((&verified["log"]["entries"], &verified["log"]["locked"]), (&lines.into(), &0.into()));

    let described = place.json(&["inspect", "--json", "q"]);
    assert_eq!((&described["backlog"], &described["segments"][0]["key"]), (&lines.into(), &2.into()));
    let text = place.run(&["inspect", "q"]).expect(0).out;
    assert!(text.contains("LZ4 compression") && text.contains("keys in use: 2"), "{text}");
    let verified = place.json(&["verify", "--json", "q"]);
    assert_eq!((&verified["ok"], &verified["log"]["locked"]), (&true.into(), &lines.into()));
    let text = place.run(&["verify", "q"]).expect(0).out;
    assert!(text.contains("only their checksums were looked at"), "{text}");
    for (args, problem) in [(vec![], "no cipher was given"), (vec!["--key-file", "wrong"], "is another one")] {
        let refused = |command: &[&str]| {
            let done = place.run(&[command, &args].concat());
            assert_eq!(done.out, "", "{command:?}");
            done.refused(2, &["encrypted with", "key 2", "--key-file"]);
            let done = place.run(&[command, &args].concat());
            assert!(done.err.contains(problem) || done.err.contains("another key"), "{done:?}");
        };
        refused(&["dump", "q"]);
        refused(&["tail", "-n", "1", "q"]);
        refused(&["salvage", "q", "--to", "saved"]);
        assert!(!place.path("saved").exists(), "nothing was begun");
    }
    // Nor is it opened.
    let done = place.pipe(&["--to", "null", "--quiet"], b"");
    done.refused(2, &["encrypted with key 2", "--key-file"]);
}

#[test]
fn what_is_saved_of_an_encrypted_queue_opens_without_a_key_and_that_is_said() {
    let input = real_text(100_000);
    let place = encrypted(&input);
    let done = place.run(&["salvage", "q", "--to", "saved", "--key-file", "keys"]).expect(0);
    assert!(done.err.contains("not encrypted there"), "{done:?}");
    assert_eq!(place.run(&["dump", "saved"]).expect(0).out, String::from_utf8_lossy(&input));
    let text = place.run(&["salvage", "q", "--to", "text", "--as", "text", "--key-file", "keys"]).expect(0);
    assert!(text.err.contains("not encrypted there"), "{text:?}");
    assert_eq!(place.read("text"), String::from_utf8_lossy(&input));
}

#[test]
fn parked_lines_are_listed_with_the_key_and_counted_without_it() {
    let place = Place::new();
    place.write("keys", KEYS.as_bytes());
    let args = ["--key-file", "keys", "--to", "exec:exit 65", "--quiet"];
    place.pipe(&args, b"one\ntwo\n").expect(3);
    let shown = place.run(&["parked", "list", "q", "--key-file", "keys"]).expect(0).out;
    assert!(shown.contains("one") && shown.contains("two"), "{shown}");
    assert_eq!(place.json(&["inspect", "--json", "q"])["parked"], 2);
    place.run(&["parked", "list", "q"]).refused(2, &["2 parked entries are not shown", "key 2", "--key-file"]);
}

#[test]
fn a_key_file_that_is_none_is_refused_without_showing_what_is_in_it() {
    let place = encrypted(b"one\n");
    place.write("bad", b"2:02020202 secret\n");
    let done = place.run(&["dump", "q", "--key-file", "bad"]);
    assert!(!done.err.contains("secret"), "{done:?}");
    done.refused(2, &["bad", "line 1", "64 hexadecimal digits"]);
    place.run(&["dump", "q", "--key-file", "absent"]).refused(2, &["cannot read the key file absent"]);
}

/// The first frame of entries in the log: its file, where it begins there, and its header.
fn first_frame(place: &Place) -> (PathBuf, usize, FrameHeader) {
    let names = fs::read_dir(place.path("q")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|e| e == "rwal"))
        .flat_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let blocks = (0..bytes.len()).step_by(4096);
            let frames = blocks.filter_map(|at| Some((path.clone(), at, FrameHeader::decode(&bytes[at..]).ok()?)));
            frames.filter(|(_, _, header)| header.kind == FrameKind::Data).collect::<Vec<_>>()
        })
        .collect();
    found.sort_by_key(|(_, _, header)| header.first_lsn);
    found.into_iter().next().unwrap()
}

/// `salvage` and `tail` once took it for what it says it is: only the reader of the log refused it.
#[test]
fn a_frame_that_somebody_without_a_key_has_put_there_is_neither_shown_nor_saved() {
    const FORGED: &[u8] = b"forged";
    let place = encrypted(b"one\n");
    let (path, at, header) = first_frame(&place);
    assert!(header.coding.encrypted && header.record_count == 1, "{header:?}");
    let mut body = Word::new(State::Ready, RECORD_HEADER_LEN + FORGED.len()).0.to_le_bytes().to_vec();
    body.resize(RECORD_HEADER_LEN, 0);
    body.extend(FORGED);
    body.resize(stride_of(FORGED.len()), 0);
    let len = u32::try_from(body.len()).unwrap();
    let body_crc = crc32c::crc32c(&body);
    let mut bytes = fs::read(&path).unwrap();
    FrameHeader { coding: BodyCoding::PLAIN, body_len: len, raw_len: len, body_crc, ..header }.encode(&mut bytes[at..]);
    bytes[at + FRAME_HEADER_LEN..][..body.len()].copy_from_slice(&body);
    fs::write(&path, bytes).unwrap();

    let key = ["--key-file", "keys"];
    for command in [&["dump", "q"][..], &["tail", "-n", "1", "q"]] {
        for args in [&key[..], &[]] {
            let done = place.run(&[command, args].concat());
            assert!(!done.out.contains("forged"), "{done:?}");
        }
    }
    for form in ["queue", "text"] {
        let done = place.run(&[&["salvage", "q", "--to", form, "--as", form, "--json"], &key[..]].concat()).expect(4);
        let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        let lost = serde_json::json!([[header.first_lsn.number(), header.first_lsn.number()]]);
        assert_eq!((&report["log"]["saved"], &report["log"]["lost"]), (&0.into(), &lost));
    }
    assert_eq!(place.read("text"), "");
}

#[test]
fn a_segment_that_has_lost_the_salt_of_its_key_is_named_and_its_entries_are_counted() {
    let place = encrypted(b"one\ntwo\n");
    let (path, _, header) = first_frame(&place);
    let mut bytes = fs::read(&path).unwrap();
    // Both copies.
    bytes[..8192].fill(0);
    fs::write(&path, bytes).unwrap();
    let args = ["salvage", "q", "--to", "text", "--as", "text", "--json", "--key-file", "keys"];
    let report: serde_json::Value = serde_json::from_str(&place.run(&args).expect(4).out).unwrap();
    assert_eq!((&report["log"]["saved"], &report["log"]["lost_entries"]), (&0.into(), &2.into()));
    let file = serde_json::json!(path.file_name().unwrap().to_str().unwrap());
    let named = report["files"].as_array().unwrap().iter().find(|row| row["file"] == file).unwrap();
    assert!(named["wrong"].as_str().unwrap().contains("salt of its key is lost"), "{named} {header:?}");
}
