//! From push to disk at a fixed rate. A time counts from when the push was due, not from when it was made, so
//! that a stall is paid for by every entry that had to wait for it (no coordinated omission).

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::Durability;

use crate::measure::{Fixed, Scale, micros, new_dir, null, open};
use crate::table::{Table, percentile};

pub(crate) fn run(scale: Scale, table: &mut Table) {
    at_rate(scale, table, Durability::Immediate, "Immediate", 2_000);
    at_rate(scale, table, Durability::Immediate, "Immediate", 20_000);
    at_rate(scale, table, Durability::Periodic(Duration::from_millis(5)), "Periodic(5 ms) and nobody urges", 20_000);
}

pub(crate) fn at_rate(scale: Scale, table: &mut Table, durability: Durability, name: &str, rate: u32) {
    let dir = new_dir();
    let queue = open(dir.path(), durability, null::<Fixed<100>>());
    let (pushed, to_watch) = channel();
    let interval = Duration::from_secs(1) / rate;
    let urges = durability == Durability::Immediate;
    let count = (scale.time.as_secs_f64() * 2.0 * f64::from(rate)) as u32;
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let producer = queue.producer();
        let watcher = queue.producer();
        scope.spawn(move || {
            precise_sleep();
            let begun = Instant::now();
            for number in 0..count {
                let due = begun + interval * number;
                let left = due.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    thread::sleep(left);
                }
                let receipt = producer.push(Fixed([7; 100])).expect("room");
                pushed.send((due, receipt)).expect("the watcher lives");
            }
        });
        let watch = move || {
            precise_sleep();
            let mut times = Vec::with_capacity(count as usize);
            for (due, receipt) in to_watch {
                let durable = watcher.durable(receipt);
                if urges {
                    durable.wait().expect("a disk that works");
                } else {
                    while !durable.is_reached() {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
                times.push(due.elapsed());
            }
            times
        };
        scope.spawn(watch).join().expect("no panic")
    });
    times.sort_unstable();
    for (label, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        table.add(
            format!("push to durable / {name} / {rate} a second / {label}"),
            "µs",
            micros(percentile(&times, part)),
        );
    }
}

/// Ends this thread's sleeps when they are over, not up to 50 µs later.
fn precise_sleep() {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    assert_eq!(result, 0, "a thread may choose its timer slack");
}
