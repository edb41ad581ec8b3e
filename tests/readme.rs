//! The README's table of settings, held against the code: every setter is there, with its default, and
//! what lies outside its range is refused by name.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwal::{Batch, Breaker, Builder, Durability, FailureShare, OpenError, Queue, WhenFull, blocking_fn};

const README: &str = include_str!("../README.md");
const BUILDER: &str = include_str!("../src/builder.rs");

/// Name → default and range, as the README says.
fn rows() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let (_, after) = README.split_once("| setting | default | range |").expect("the README has its table");
    let table = after.split("\n\n").next().unwrap();
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let mut cells = line.trim_end_matches('|').split(" | ").map(str::trim);
            let name = cells.next().unwrap().trim_end_matches('`');
            (name, (cells.next().unwrap(), cells.next().unwrap()))
        })
        .collect()
}

/// The methods of the builder that set something.
fn setters() -> Vec<&'static str> {
    let builder = BUILDER.split("impl Builder {").nth(1).expect("the builder is in builder.rs");
    builder
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self,"))
        .map(|s| s.0)
        .collect()
}

/// What a builder's `Debug` says about a field.
fn default_of(field: &str) -> String {
    let text = format!("{:?}", Queue::builder("x"));
    let (_, after) = text.split_once(&format!(" {field}: ")).unwrap_or_else(|| panic!("no field {field} in {text}"));
    let mut depth = 0_i32;
    let end = after.find(|c: char| {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        (c == ',' && depth == 0) || depth < 0
    });
    after[..end.unwrap_or(after.len())].trim().to_owned()
}

#[test]
fn every_setter_has_its_row_and_every_row_its_setter() {
    let rows = rows();
    let setters = setters();
    assert!(setters.len() > 15, "{setters:?}");
    for setter in &setters {
        assert!(rows.contains_key(setter), "`{setter}` is not in the README's table");
    }
    for row in rows.keys() {
        assert!(setters.contains(row), "`{row}` stands in the README and is no setter");
    }
}

#[test]
fn the_defaults_are_the_readmes() {
    const MIB: u64 = 1 << 20;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let in_code = [
        ("preset", "Default".to_owned(), "`Default`"),
        ("durability", "Periodic(5ms)".to_owned(), "`Periodic` 5 ms"),
        ("batch_len_max", "1000".to_owned(), "1000"),
        ("batch_bytes_max", MIB.to_string(), "1 MiB"),
        ("linger", "5ms".to_owned(), "5 ms"),
        ("adaptive", "None".to_owned(), "none"),
        ("deliver_timeout", "None".to_owned(), "none"),
        ("in_flight_max", "1".to_owned(), "1"),
        ("rings", cores.min(1024).to_string(), "one per core"),
        ("pinned_rings", "8".to_owned(), "8"),
        ("ring_bytes", MIB.to_string(), "1 MiB"),
        ("rings_at", "Private".to_owned(), "`Private`"),
        ("rings_on_any_file_system", "false".to_owned(), "false"),
        ("entry_len_max", (256 * 1024 - 8).to_string(), "256 KiB less 8"),
        ("memory_max", (64 * MIB).to_string(), "64 MiB"),
        ("segment_len", (64 * MIB).to_string(), "64 MiB"),
        ("log_bytes_max", (1024 * MIB).to_string(), "1 GiB"),
        ("park_bytes_max", (64 * MIB).to_string(), "64 MiB"),
        ("park_full", "Wait".to_owned(), "`Wait`"),
        ("backlog_len_max", "None".to_owned(), "none"),
        ("when_full", "Block".to_owned(), "`Block`"),
        ("watermarks", "None".to_owned(), "none"),
        ("soft_delay", "1ms".to_owned(), "1 ms"),
        ("failure_delay", "None".to_owned(), "none"),
        ("breaker", "None".to_owned(), "none"),
        ("on_breaker", "Accept".to_owned(), "`Accept`"),
        ("park", "Dir".to_owned(), "`Dir`"),
        ("on_corruption", "Stop".to_owned(), "`Stop`"),
        ("io", "Auto".to_owned(), "`Auto`"),
        ("cpu", "None".to_owned(), "none"),
        ("sink_cpu", "None".to_owned(), "none"),
        ("idle", "Park".to_owned(), "`Park`"),
        ("lock_wait", "5s".to_owned(), "5 s"),
        ("drop_timeout", "1s".to_owned(), "1 s"),
        ("name", "\"ringwal\"".to_owned(), "\"ringwal\""),
    ];
    let rows = rows();
    for (field, code, readme) in &in_code {
        assert_eq!(default_of(field), *code, "{field}");
        assert_eq!(rows[field].0, *readme, "{field}");
    }
    assert_eq!(rows["retry"].0, "60 attempts, 100 ms doubling to 30 s");
    let retry = default_of("retry");
    for part in ["attempts_max: Some(60)", "base: 100ms", "factor: 2.0", "max: 30s"] {
        assert!(retry.contains(part), "{part} in {retry}");
    }
    let coding = default_of("coding");
    for (field, name) in [("compression", "compression: None"), ("cipher", "cipher: None")] {
        assert_eq!(rows[field].0, "none");
        assert!(coding.contains(name), "{name} in {coding}");
    }
    let Breaker { failures, share, open_for, probes } = Breaker::default();
    assert_eq!((failures, share, open_for, probes), (5, None, Duration::from_secs(10), 1));
    assert_eq!(rows.len(), in_code.len() + 3, "a row is not compared");
}

/// What opening a queue with these settings refuses.
fn refused(builder: Builder) -> String {
    match builder.open(blocking_fn(|_: &Batch<String>| Ok(()))) {
        Err(OpenError::Config(error)) => error.field.to_owned(),
        other => panic!("a setting outside its range was not refused: {other:?}"),
    }
}

#[test]
fn what_lies_outside_a_range_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let queue = || Queue::builder(&path);
    let hour = Duration::from_secs(3600);
    let more = Duration::from_nanos(1);
    let periodic = |d| queue().durability(Durability::Periodic(d));
    let share = |percent, of| Breaker { share: Some(FailureShare { percent, of }), ..Breaker::default() };
    let cases = [
        ("durability", periodic(Duration::from_micros(100) - more)),
        ("durability", periodic(Duration::from_secs(60) + more)),
        ("batch_len_max", queue().batch_len_max(0)),
        ("batch_len_max", queue().batch_len_max(1_000_001)),
        ("adaptive", queue().adaptive(0, 10)),
        ("adaptive", queue().adaptive(10, 9)),
        ("adaptive", queue().adaptive(10, 1_000_001)),
        ("deliver_timeout", queue().deliver_timeout(Duration::from_millis(1) - more)),
        ("deliver_timeout", queue().deliver_timeout(24 * hour + more)),
        ("in_flight_max", queue().in_flight_max(0)),
        ("in_flight_max", queue().in_flight_max(65)),
        ("batch_bytes_max", queue().batch_bytes_max(0)),
        ("batch_bytes_max", queue().batch_bytes_max((1 << 30) + 1)),
        ("linger", queue().linger(hour + more)),
        ("rings", queue().rings(0)),
        ("rings", queue().rings(1025)),
        ("pinned_rings", queue().pinned_rings(1025)),
        ("ring_bytes", queue().ring_bytes(2 << 10)),
        ("ring_bytes", queue().ring_bytes(2 << 30)),
        ("ring_bytes", queue().ring_bytes((1 << 20) + 8)),
        ("entry_len_max", queue().entry_len_max(0)),
        ("entry_len_max", queue().entry_len_max(256 * 1024 - 7)),
        ("memory_max", queue().memory_max(1 << 20)),
        ("memory_max", queue().memory_max((1 << 40) + 1)),
        ("segment_len", queue().segment_len(256 << 10)),
        ("segment_len", queue().segment_len((64 << 20) + 512)),
        ("segment_len", queue().segment_len((4 << 30) + (64 << 10)).log_bytes_max(1 << 40)),
        ("log_bytes_max", queue().log_bytes_max(2 * (64 << 20))),
        ("park_bytes_max", queue().park_bytes_max(64 << 10)),
        ("backlog_len_max", queue().backlog_len_max(0)),
        ("watermarks", queue().watermarks(0.004, 0.9)),
        ("watermarks", queue().watermarks(0.9, 0.8)),
        ("watermarks", queue().watermarks(0.9, 1.01)),
        ("watermarks", queue().watermarks(f64::NAN, 0.9)),
        ("watermarks", queue().watermarks(80.0, 95.0)),
        ("soft_delay", queue().soft_delay(hour / 60 + more)),
        ("failure_delay", queue().failure_delay(hour / 60 + more)),
        ("when_full", queue().when_full(WhenFull::BlockFor(24 * hour + more))),
        ("breaker.failures", queue().breaker(Breaker { failures: 0, ..Breaker::default() })),
        ("breaker.open_for", queue().breaker(Breaker { open_for: Duration::ZERO, ..Breaker::default() })),
        ("breaker.probes", queue().breaker(Breaker { probes: 1001, ..Breaker::default() })),
        ("breaker.share.percent", queue().breaker(share(101, 10))),
        ("breaker.share.of", queue().breaker(share(50, 65))),
        ("lock_wait", queue().lock_wait(hour + more)),
        ("drop_timeout", queue().drop_timeout(hour + more)),
        ("name", queue().name("")),
        ("name", queue().name("x".repeat(65))),
    ];
    for (field, builder) in cases {
        assert_eq!(refused(builder), field);
    }
    assert!(!path.exists(), "a refused opening has made the directory");
}

#[test]
fn the_two_commands_are_two_and_the_file_that_one_reads_is_here() {
    let shell = README.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let commands: Vec<&str> = shell.flat_map(str::lines).filter(|line| line.starts_with("cargo ")).collect();
    let [pipe, tests] = commands[..] else { panic!("two commands, not {commands:?}") };
    let from = pipe.split("--from ").nth(1).and_then(|after| after.split(' ').next()).expect("--from FILE");
    assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(from).is_file(), "{from}");
    assert!(tests.starts_with("cargo test"), "{tests}");
}
