//! `ringwal inspect`, `verify`, `dump`, `tail`: on closed, live, damaged and impossible directories.

#[path = "cli/mod.rs"]
mod cli;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;

use cli::{Place, finish, real_text, signal, until};
use ringwal::Lsn;
use ringwal::wal::meta::{Meta, meta_offset};
use rustix::process::Signal;

/// Lines that lie in the log, as the sink takes none.
fn with_backlog(input: &[u8]) -> Place {
    let place = Place::new();
    place.pipe(&["--to", "exec:exit 1", "--retry-max", "0", "--drain-within", "100ms", "--quiet"], input).expect(3);
    place
}

#[test]
fn a_closed_queue_is_described() {
    let place = with_backlog(b"one\ntwo\n\xffthree\n");
    let text = place.run(&["inspect", "q"]).expect(0).out;
    assert!(text.contains("closed in order") && text.contains("3 entries are not delivered"), "{text}");
    let json = place.json(&["inspect", "--json", "q"]);
    assert_eq!((&json["backlog"], &json["lsn"]["last"], &json["parked"]), (&3.into(), &3.into(), &0.into()));
    assert_eq!(json["segments"][0]["schema"], "ringwal.line v1");
    assert_eq!(place.json(&["verify", "--json", "q"])["log"]["entries"], 3);
    assert_eq!(place.run(&["dump", "q", "--first", "1", "--last", "2"]).expect(0).out, "one\ntwo\n");
    let json = place.run(&["dump", "--json", "q"]).expect(0).out;
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["lsn"], &last["line"], &last["hex"]), (&3.into(), &3.into(), &"ff7468726565".into()));
    assert!(place.run(&["dump", "--as", "hex", "q"]).expect(0).out.contains("6f 6e 65"));
    assert_eq!(place.run(&["tail", "-n", "1", "--as", "text", "q"]).expect(0).out.len(), "?three\n".len() + 2);
}

#[test]
fn what_is_delivered_is_shown_while_it_is_on_disk() {
    let place = Place::new();
    place.pipe(&["--to", "null"], b"one\ntwo\nthree\n").expect(0);
    assert_eq!(place.run(&["dump", "q"]).expect(0).out, "");
    assert_eq!(place.run(&["dump", "--all", "q"]).expect(0).out, "one\ntwo\nthree\n");
    assert_eq!(place.run(&["tail", "-n", "2", "q"]).expect(0).out, "two\nthree\n");
}

#[test]
fn a_live_queue_is_read_without_disturbing_it() {
    let place = Place::new();
    let mut child = place.start_pipe(&["--to", "file:out", "--durability", "immediate"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    until("a line is delivered", || place.path("out").exists() && place.read("out") == "one\n");
    let mut follow = place.command(&["tail", "-f", "-n", "5", "q"]).spawn().unwrap();
    let mut shown = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(shown.next().unwrap().unwrap(), "one");
    stdin.write_all(b"two\n").unwrap();
    assert_eq!(shown.next().unwrap().unwrap(), "two");
    let input = real_text(6_000_000);
    std::thread::scope(|scope| {
        scope.spawn(|| stdin.write_all(&input).unwrap());
        for _ in 0..10 {
            place.run(&["verify", "q"]).expect(0);
            place.run(&["inspect", "q"]).expect(0);
        }
    });
    signal(&follow, Signal::KILL);
    follow.wait().unwrap();
    drop(stdin);
    child.stdin = Some(
        std::process::Command::new("true").stdin(std::process::Stdio::piped()).spawn().unwrap().stdin.take().unwrap(),
    );
    finish(child, b"").expect(0);
    assert_eq!(place.read("out").len(), input.len() + 8);
}

#[test]
fn damage_is_found_and_told_with_file_offset_and_lsns() {
    let input = real_text(600_000);
    let place = with_backlog(&input);
    place.run(&["verify", "q"]).expect(0);
    let file = std::fs::File::options().write(true).open(place.path("q/seg-00000000.rwal")).unwrap();
    // Two whole blocks: how frames lie, and where padding and marks do, is the machine's.
    file.write_all_at(&[0xdd; 8192], 98_304).unwrap();
    let done = place.run(&["verify", "q"]).expect(1);
    assert!(done.out.contains("DAMAGE seg-00000000.rwal at offset"), "{done:?}");
    let json = place.json(&["verify", "--json", "q"]);
    let damage = &json["damage"][0];
    assert_eq!((&json["ok"], &damage["file"]), (&false.into(), &"seg-00000000.rwal".into()));
    let (first, last) = (damage["first_lsn"].as_u64().unwrap(), damage["last_lsn"].as_u64().unwrap());
    assert!(first >= 1 && first <= last, "{json}");
    let dump = place.run(&["dump", "q"]).expect(1);
    assert!(dump.err.contains("left out"), "{dump:?}");
    place.pipe(&["--to", "file:out"], b"").refused(1, &["seg-00000000.rwal", "--on-corruption"]);
    let done = place.pipe(&["--to", "file:out", "--on-corruption", "quarantine"], b"");
    assert_eq!(done.code(), 0, "{done:?}");
    let kept = place.read("out").lines().count() as u64;
    assert_eq!(kept + (last - first + 1), input.iter().filter(|byte| **byte == b'\n').count() as u64);
}

/// They were left out without a word, and the exit code was 0.
#[test]
fn damage_in_the_park_is_told_and_the_rest_of_it_is_listed() {
    let texts = ["the first line", "the second line"];
    for damaged in texts {
        let place = Place::new();
        for text in texts {
            place.pipe(&["--to", "exec:exit 65", "--quiet"], format!("{text}\n").as_bytes()).expect(3);
        }
        let files = std::fs::read_dir(place.path("q/park")).unwrap().map(|entry| entry.unwrap().path());
        let found = files.filter(|path| path.extension().is_some_and(|e| e == "rwal")).find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(damaged.len()).position(|window| window == damaged.as_bytes())?;
            Some((path, at as u64))
        });
        let (path, at) = found.expect("it is parked");
        std::fs::File::options().write(true).open(path).unwrap().write_all_at(b"T", at).unwrap();
        for command in [&["parked", "list", "q"][..], &["dump", "--parked", "q"]] {
            let done = place.run(command).expect(1);
            assert!(done.err.contains("park/: entries ") && done.err.contains("left out"), "{done:?}");
            for text in texts {
                assert_eq!(done.out.contains(text), text != damaged, "{done:?}");
            }
        }
        place.run(&["parked", "discard", "q", "--all"]).refused(1, &["--on-corruption quarantine"]);
        place.run(&["parked", "discard", "q", "--all", "--on-corruption", "quarantine"]).expect(0);
        assert_eq!(place.run(&["parked", "list", "q"]).expect(0).out, "");
    }
}

#[test]
fn what_is_no_queue_is_refused_each_in_its_own_words() {
    let place = Place::new();
    place.write("file", b"text");
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::create_dir(place.path("rotten")).unwrap();
    place.write("rotten/META", &[7; 8192]);
    for command in ["inspect", "verify", "dump", "tail"] {
        place.run(&[command, "missing"]).refused(2, &["missing", "does not exist"]);
        place.run(&[command, "file"]).refused(2, &["file", "directory"]);
        place.run(&[command, "empty"]).refused(2, &["empty", "no META"]);
        place.run(&[command, "rotten"]).refused(2, &["META", "neither"]);
    }
    assert_eq!(std::fs::read_dir(place.path("empty")).unwrap().count(), 0, "nothing is created");
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let place = with_backlog(b"one\n");
    let path = place.path("q/META");
    let mut bytes = std::fs::read(&path).unwrap();
    for at in [0, 4096] {
        bytes[at + 8] = 9;
        let sum = crc32c::crc32c(&bytes[at..at + 252]);
        bytes[at + 252..at + 256].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    place.run(&["inspect", "q"]).refused(2, &["format 9", "up to 1"]);
}

#[test]
fn the_benchmark_measures_every_part_and_cleans_up() {
    let place = Place::new();
    let json = place.json(&["bench", "--seconds", "1", "--rounds", "3", "--json"]);
    for part in ["floor", "push", "acks", "throughput", "recovery"] {
        let rows: Vec<_> = json["results"].as_array().unwrap().iter().filter(|row| row["part"] == part).collect();
        assert!(!rows.is_empty(), "{part}");
        assert!(rows.iter().all(|row| row["median"].as_f64().unwrap() > 0.0), "{part}: {rows:?}");
    }
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
}

/// An opening gave entries up and was cut off before it told anybody: that stands in META, and is no reason to refuse.
#[test]
fn what_an_opening_gave_up_untold_is_shown_kept_and_told() {
    let place = with_backlog(b"one\ntwo\nthree\n");
    let change = |spoil: fn(&mut [u8])| {
        let mut file = std::fs::read(place.path("q/META")).unwrap();
        let mut meta = Meta::read(&file).unwrap();
        meta.generation += 1;
        meta.untold.lost = vec![(Lsn::new(10), Lsn::new(13))];
        let at = meta_offset(meta.generation, meta.block_len) as usize;
        let copy = &mut file[at..at + 4096];
        meta.encode(copy);
        spoil(copy);
        let sum = crc32c::crc32c(&copy[..4092]);
        copy[4092..].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(place.path("q/META"), file).unwrap();
    };
    let pipe = |dir: &str| place.run_with(&["pipe", "--dir", dir, "--to", "null"], b"more\n");

    change(|_| {});
    for word in ["inspect", "verify"] {
        let text = place.run(&[word, "q"]).expect(0).out;
        assert!(text.contains("GIVEN UP   entries 10 to 12 by an earlier opening"), "{text}");
    }
    let rows: serde_json::Value = serde_json::from_str("[[10, 12]]").unwrap();
    assert_eq!(place.json(&["inspect", "--json", "q"])["meta"]["untold"]["lost"], rows);
    assert_eq!(place.json(&["verify", "--json", "q"])["untold"]["lost"], rows);
    place.run(&["salvage", "q", "--to", "saved"]).expect(0);
    assert_eq!(place.json(&["verify", "--json", "saved"])["untold"]["lost"], rows);
    for dir in ["q", "saved"] {
        let told = pipe(dir).expect(0).err;
        assert!(told.contains("entries 10 to 12 were damaged") && told.contains("by an earlier run"), "{told}");
        assert!(!pipe(dir).expect(0).err.contains("10 to 12"), "{dir}: it was told");
    }

    // A row that makes no sense.
    change(|copy| copy[304..312].fill(0xff));
    let text = place.run(&["verify", "q"]).expect(0).out;
    assert!(text.contains("GIVEN UP   some entries by an earlier opening"), "{text}");
    let told = pipe("q").expect(0).err;
    assert!(told.contains("makes no sense"), "{told}");
}
