//! How much goes through: to disk and a sink that does nothing, and from memory to a sink that reads it all.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use ringwal::{Batch, Durability, Io, sink_fn};

use crate::table::Table;
use crate::{Fixed, LONG, Scale, cpu_time, floor, new_dir, null, open};

/// Pushes between two looks at the clock.
const STRIDE: usize = 256;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    periodic::<100>(scale, table);
    periodic::<1024>(scale, table);
    for producers in [1, 2, 8] {
        memory(scale, table, producers);
        array_queue(scale, table, producers);
    }
}

fn periodic<const LEN: usize>(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Periodic(Duration::from_millis(5)), Io::Auto, null::<Fixed<LEN>>());
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
    let name = format!("Periodic(5 ms), {LEN} B");
    table.add_beside(format!("{name}, payload"), "MB/s", bytes / 1e6 / took.as_secs_f64(), floor::WRITE);
    table.add(format!("{name}, entries"), "M/s", count / 1e6 / took.as_secs_f64());
    table.add(format!("{name}, CPU per million entries"), "s", cpu.as_secs_f64() * 1e6 / count);
    let written = (after.log_bytes_written - before.log_bytes_written) as f64;
    table.add(format!("{name}, bytes on disk per payload byte"), "", written / bytes);
    table.add(format!("{name}, frames read back"), "%", {
        (after.frames_read_back - before.frames_read_back) as f64 * 100.0 / (after.frames - before.frames) as f64
    });
}

fn peer(producers: usize) -> String {
    format!("crossbeam ArrayQueue, 100 B, {producers} producers, to a consumer that reads")
}

fn memory(scale: Scale, table: &mut Table, producers: usize) {
    let dir = new_dir();
    let sum = Arc::new(AtomicU64::new(0));
    let sink = {
        let sum = Arc::clone(&sum);
        sink_fn(move |batch: Batch<Fixed<100>>| {
            sum.fetch_add(batch.values().map(read).sum(), Relaxed);
            async { Ok(()) }
        })
    };
    let queue = open(dir.path(), Durability::Memory, Io::Auto, sink);
    let each = 5 * scale.entries / producers;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..producers {
            let producer = queue.producer();
            scope.spawn(move || (0..each).for_each(|_| _ = producer.push(Fixed([1; 100])).expect("room")));
        }
    });
    queue.drain(LONG).expect("a sink that works");
    let took = begun.elapsed();
    let count = each * producers;
    assert_eq!(sum.load(Relaxed), 100 * count as u64, "the sink reads every byte of every entry");
    let name = format!("Memory, 100 B, {producers} producers, to a sink that reads");
    table.add_beside(name, "M/s", count as f64 / 1e6 / took.as_secs_f64(), &peer(producers));
}

fn read(entry: &Fixed<100>) -> u64 {
    black_box(entry).0.iter().map(|byte| u64::from(*byte)).sum()
}

/// Room for as many bytes as a ring has, one consumer that takes one entry after the other.
fn array_queue(scale: Scale, table: &mut Table, producers: usize) {
    let queue = ArrayQueue::<Fixed<100>>::new(2 * (1 << 20) / 108);
    let each = 5 * scale.entries / producers;
    let count = each * producers;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| {
                for _ in 0..each {
                    let mut tries = 0;
                    while queue.push(Fixed([1; 100])).is_err() {
                        relax(&mut tries);
                    }
                }
            });
        }
        let (mut sum, mut tries) = (0, 0);
        for _ in 0..count {
            sum += loop {
                match queue.pop() {
                    Some(entry) => break read(&entry),
                    None => relax(&mut tries),
                }
            };
        }
        assert_eq!(sum, 100 * count as u64, "every byte of every entry");
    });
    table.add(peer(producers), "M/s", count as f64 / 1e6 / begun.elapsed().as_secs_f64());
}

/// Two cores and nine threads: who spins for ever holds up the one that it waits for.
pub(crate) fn relax(tries: &mut u32) {
    *tries += 1;
    if tries.is_multiple_of(64) { thread::yield_now() } else { spin_loop() }
}
