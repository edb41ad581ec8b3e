//! What the slowest pushes cost while the log commits without a pause, beside a queue that has no log.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use ringwal::{Durability, Queue};

use crate::measure::{Fixed, LONG, Scale, builder, clock_cost, new_dir, null, on_first_cpu, with_last_cpu};
use crate::table::{Table, percentile};

/// Slow enough that a ring never fills, fast enough that there is something to commit at any time.
const INTERVAL: Duration = Duration::from_micros(1);

pub(crate) fn name(log: &str, part: &str) -> String {
    format!("push / 100 B / every 1 µs / {log} / {part}")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let mut without = times(scale, Durability::Memory);
    let mut with = times(scale, Durability::Immediate);
    without.sort_unstable();
    with.sort_unstable();
    for (label, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let nanos = |times: &[Duration]| percentile(times, part).as_secs_f64() * 1e9;
        table.add_beside(name("log commits", label), "ns", nanos(&with), &name("no log", label));
        table.add(name("no log", label), "ns", nanos(&without));
    }
}

/// Of each push, less what the clock itself takes.
fn times(scale: Scale, durability: Durability) -> Vec<Duration> {
    let dir = new_dir();
    let builder = with_last_cpu(builder(dir.path(), durability));
    let queue: Queue<Fixed<100>> = builder.open(null()).expect("a queue");
    let times = on_first_cpu(|| {
        let mut producer = queue.producer().pin();
        let clock = clock_cost();
        let mut times = Vec::with_capacity(scale.entries);
        let mut due = Instant::now();
        for _ in 0..scale.entries {
            // Late pushes are not made up for: each is measured by itself.
            due = (due + INTERVAL).max(Instant::now());
            while Instant::now() < due {
                spin_loop();
            }
            let begun = Instant::now();
            producer.push(Fixed([7; 100])).expect("room");
            times.push(begun.elapsed().saturating_sub(clock));
        }
        times
    });
    queue.shutdown(LONG).expect("a sink that works");
    times
}
