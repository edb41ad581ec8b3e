//! The program with compressed and encrypted queues: with the key all is shown, without it what cannot be is said.

#[path = "cli/mod.rs"]
mod cli;

use cli::{Place, real_text};

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
