//! Overload, then calm, in a few seconds; for a minute: `cargo run --release --features testing --example overload`.
//!
//! One test: it looks at the memory of the whole process.

mod common;
#[path = "overload/mod.rs"]
mod overload;

use std::time::Duration;

use ringwal::Durability;

use overload::{Load, Options, run};

const MIB: u64 = 1 << 20;

#[test]
fn ten_times_more_than_the_sink_takes_costs_disk_and_neither_memory_nor_order_nor_a_push_that_waits_for_the_sink() {
    for durability in [Durability::Periodic(Duration::from_millis(5)), Durability::Spill] {
        let dir = common::in_memory();
        let (entries, entry_len) = (160_000, 500);
        let report = run(&Options {
            dir: Some(dir.path().join("queue")),
            durability,
            producers: 3,
            entry_len,
            memory_max: 8 * MIB,
            segment_len: MIB,
            log_bytes_max: 160 * MIB,
            load: Load::Entries(entries),
            sink_keeps_pace: false,
            sample_every: Duration::from_millis(2),
            tell_every: Duration::from_secs(5),
        });
        let text = report.text();
        println!("{durability:?}\n{text}");
        assert!(report.wrong.is_empty(), "{durability:?}: {:#?}\n{text}", report.wrong);
        // It was what it is called: more than the process may have in memory waited, and came back from the disk.
        assert!(report.backlog * entry_len as u64 > report.resident_limit && report.read_back > 100, "{text}");
        assert!(report.calm.len() >= entries / 20 && report.overload.len() >= entries && report.samples > 10, "{text}");
    }
}
