//! The floor of threads that wait for a disk together.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use rustix::thread::futex;

use crate::floor::open;
use crate::measure::{Scale, new_dir};
use crate::table::Table;

/// What a frame has for an entry of 100 B.
const RECORD_LEN: usize = 112;

pub(crate) fn name(threads: usize) -> String {
    format!("floor / {threads} threads told of each write")
}

/// One thread that is told of so many entries by each write.
pub(crate) fn name_of_one(entries: usize) -> String {
    format!("floor / one thread told of each write of {entries}")
}

/// Each of so many threads waits for an entry of its own.
pub(crate) fn run(scale: Scale, threads: usize, table: &mut Table) {
    let acks = acks(scale, threads, threads);
    table.add(format!("{} / acks", name(threads)), "1/s", acks);
}

/// One thread waits for so many entries.
pub(crate) fn run_one(scale: Scale, entries: usize, table: &mut Table) {
    let acks = acks(scale, 1, entries);
    table.add(format!("{} / acks", name_of_one(entries)), "M/s", acks / 1e6);
}

/// Durable acknowledgements a second without a queue: when all threads are back, one writes all records, and wakes them by
/// one call. No log that keeps to one writer, and one write at a time, can tell them more often.
fn acks(scale: Scale, threads: usize, entries: usize) -> f64 {
    let dir = new_dir();
    let mut floor = open(dir.path());
    let (back, write, is_over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let len = (entries * RECORD_LEN).next_multiple_of(4096);
    let writer = thread::current();
    let (mut count, begun) = (0, Instant::now());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut seen = 0;
                while !is_over.load(Ordering::Acquire) {
                    if back.fetch_add(1, Ordering::AcqRel) + 1 == threads as u32 {
                        writer.unpark();
                    }
                    while write.load(Ordering::Acquire) == seen {
                        let _ = futex::wait(&write, futex::Flags::PRIVATE, seen, None);
                    }
                    seen += 1;
                }
            });
        }
        while !is_over.load(Ordering::Acquire) {
            while back.load(Ordering::Acquire) < threads as u32 {
                thread::park();
            }
            back.store(0, Ordering::Release);
            floor.write(count, len, true);
            floor.await_one();
            count += 1;
            is_over.store(begun.elapsed() > scale.time, Ordering::Release);
            write.store(count, Ordering::Release);
            let _ = futex::wake(&write, futex::Flags::PRIVATE, u32::MAX >> 1);
        }
    });
    f64::from(count) * entries as f64 / begun.elapsed().as_secs_f64()
}
