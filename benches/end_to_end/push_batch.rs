//! What `push_batch` of a thousand entries costs, and how many such batches go through.

use std::time::{Duration, Instant};

use ringwal::Durability;

use crate::measure::{Fixed, LONG, Scale, micros, new_dir, null, open};
use crate::table::{Table, percentile};

const BATCH: usize = 1000;

pub(crate) fn name(len: usize, durability: &str, what: &str) -> String {
    format!("push_batch / {BATCH} × {len} B / {durability} / {what}")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let periodic = Durability::Periodic(Duration::from_millis(5));
    of::<8>(scale, table, Durability::Memory, "Memory");
    of::<8>(scale, table, periodic, "Periodic");
    of::<100>(scale, table, Durability::Memory, "Memory");
    of::<100>(scale, table, periodic, "Periodic");
}

fn of<const LEN: usize>(scale: Scale, table: &mut Table, durability: Durability, durability_name: &str) {
    let dir = new_dir();
    let queue = open(dir.path(), durability, null::<Fixed<LEN>>());
    let producer = queue.producer();
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < scale.time {
        let start = Instant::now();
        let pushed = producer.push_batch((0..BATCH).map(|_| Fixed([7; LEN]))).expect("room");
        times.push(start.elapsed());
        assert_eq!(pushed, BATCH);
    }
    queue.drain(LONG).expect("a sink that works");
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    times.sort_unstable();
    table.add(name(LEN, durability_name, "batches"), "1/s", rate);
    for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
        table.add(name(LEN, durability_name, label), "µs", micros(percentile(&times, part)));
    }
}
