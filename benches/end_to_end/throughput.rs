//! How much goes through the log to a sink that does nothing, for as long as one likes.

use std::time::{Duration, Instant};

use ringwal::Durability;

use crate::floor;
use crate::measure::{Fixed, Scale, cpu_time, new_dir, null, open};
use crate::table::Table;

/// Pushes between two looks at the clock.
const STRIDE: usize = 256;

pub(crate) const CPU: &str = "CPU per million entries";
pub(crate) const BYTES: &str = "bytes on disk per payload byte";

pub(crate) fn name(len: usize, what: &str) -> String {
    format!("Periodic(5 ms) / {len} B / {what}")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    periodic::<100>(scale, table);
    periodic::<1024>(scale, table);
}

fn periodic<const LEN: usize>(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Periodic(Duration::from_millis(5)), null::<Fixed<LEN>>());
    let mut producer = queue.producer().pin();
    let mut push_for = |time: Duration| {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            for _ in 0..STRIDE {
                producer.push(Fixed([7; LEN])).expect("room");
            }
            count += STRIDE;
        }
        count as f64
    };
    // The first segments are made while the queue runs; what is sustained comes after.
    push_for(scale.time);
    queue.flush().expect("a disk that works");
    let before = queue.metrics();
    let (begun, cpu) = (Instant::now(), cpu_time());
    let count = push_for(2 * scale.time);
    queue.flush().expect("a disk that works");
    let (took, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let after = queue.metrics();
    let bytes = count * LEN as f64;
    table.add_beside(name(LEN, "payload"), "MB/s", bytes / 1e6 / took.as_secs_f64(), floor::WRITE);
    table.add(name(LEN, "entries"), "M/s", count / 1e6 / took.as_secs_f64());
    table.add(name(LEN, CPU), "s", cpu.as_secs_f64() * 1e6 / count);
    let written = (after.log_bytes_written - before.log_bytes_written) as f64;
    table.add(name(LEN, BYTES), "", written / bytes);
    table.add(name(LEN, "frames read back"), "%", {
        (after.frames_read_back - before.frames_read_back) as f64 * 100.0 / (after.frames - before.frames) as f64
    });
}
