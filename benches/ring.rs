//! What does a push cost the one who pushes?
//!
//! A consumer on another thread drains, without pause (*eager*) or with 20 µs between two drains (*lazy*, as the
//! flush core does while nobody waits). The time is the producer's alone, waiting for room included. Beside it, in
//! the same run and with room for as many entries: rtrb (one producer) and crossbeam's `ArrayQueue` (many).
//! *in_file*: rings that outlive the process, in `/dev/shm`; the drain only copies, and what it has drained is released
//! before the next drain, as if its write took that long.
//! Times from machine to machine, and from hour to hour, mean little: compare within a run.

#![cfg(not(loom))]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;
use ringwal::io::Wake;
use ringwal::io::ring_file::RingFile;
use ringwal::ring::record::stride_of;
use ringwal::ring::shared::{BootId, Header, file_name};
use ringwal::ring::{Drainer, PinnedRing, Rings, RingsConfig};
use ringwal::wal::segment::StoreId;
use ringwal::{Lsn, Schema};

const ENTRIES: usize = 1 << 16;
const DRAIN_LEN: usize = 64 << 10;

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

#[derive(Clone, Copy)]
enum Pace {
    Eager,
    Lazy,
}

/// Runs `drain` on a thread of its own, again and again, while the criterion measures `push`, which says whether there
/// was room.
fn measure<const LEN: usize>(
    criterion: &mut Criterion,
    name: &str,
    pace: Pace,
    mut push: impl FnMut(&[u8; LEN]) -> bool,
    mut drain: impl FnMut() + Send,
) {
    let pace_name = match pace {
        Pace::Eager => "eager",
        Pace::Lazy => "lazy",
    };
    let mut group = criterion.benchmark_group(format!("push_{LEN}_bytes_{pace_name}"));
    group.throughput(Throughput::Elements(1));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Relaxed) {
                drain();
                if matches!(pace, Pace::Lazy) {
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_micros(20) {
                        spin_loop();
                    }
                }
            }
        });
        group.bench_function(name, |bencher| {
            let entry = black_box([7; LEN]);
            bencher.iter(|| {
                while !push(&entry) {
                    spin_loop();
                }
            });
        });
        is_done.store(true, Relaxed);
    });
}

fn new_rings<const LEN: usize>() -> (Arc<Rings>, Drainer) {
    let ring_len = (ENTRIES * stride_of(LEN)).next_power_of_two();
    let config = RingsConfig { shared: 1, pinned: 1, ring_len, entry_len_max: 4096 };
    Rings::new(config, Arc::new(NoWake)).expect("memory for two rings")
}

/// The same in a file, whose name is gone when this returns.
fn rings_in_file<const LEN: usize>() -> (Arc<Rings>, Drainer) {
    let ring_len = (ENTRIES * stride_of(LEN)).next_power_of_two();
    let config = RingsConfig { shared: 1, pinned: 1, ring_len, entry_len_max: 4096 };
    let header = Header {
        store: StoreId([1; 16]),
        boot: BootId([1; 16]),
        epoch: 1,
        rings: 2,
        ring_len: ring_len as u64,
        schema: Schema::new("bench", 1),
    };
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let file = RingFile::create(folder.path(), &file_name(header.store), &header).expect("a ring file");
    Rings::in_file(config, Arc::new(NoWake), file.fd(), &header).expect("memory for two rings")
}

/// Like the flush core with rings in a file: what was drained before is in the log now.
fn holding_drainer(mut drainer: Drainer, ring: u32) -> impl FnMut() + Send {
    let mut block = vec![0; DRAIN_LEN];
    let (mut position, mut next) = (0, Lsn::FIRST);
    move || {
        drainer.release(next.prev());
        while drainer.may_hold(ring) {
            let drained = black_box(drainer.drain(ring, &mut block));
            if drained.records == 0 {
                return;
            }
            drainer.hold(ring, position, drained, next, next);
            (position, next) = (drained.end, next.advance(u64::from(drained.records)));
        }
    }
}

/// Like the flush core: whole runs into a block.
fn drainer(mut drainer: Drainer, ring: u32) -> impl FnMut() + Send {
    let mut block = vec![0; DRAIN_LEN];
    move || while black_box(drainer.drain(ring, &mut block)).records > 0 {}
}

fn push_pinned<const LEN: usize>(pinned: &mut PinnedRing, entry: &[u8; LEN]) -> bool {
    pinned.claim(LEN).is_ok_and(|mut claim| {
        claim.payload_mut().copy_from_slice(entry);
        claim.publish();
        true
    })
}

fn push_shared<const LEN: usize>(rings: &Rings, entry: &[u8; LEN]) -> bool {
    rings.claim(rings.ring_of_this_thread(), LEN).is_ok_and(|mut claim| {
        claim.payload_mut().copy_from_slice(entry);
        claim.publish();
        true
    })
}

fn push<const LEN: usize>(criterion: &mut Criterion) {
    for pace in [Pace::Eager, Pace::Lazy] {
        let (rings, drain) = new_rings::<LEN>();
        let mut pinned = rings.pin().expect("a pinned ring");
        let ring = pinned.ring();
        measure(
            criterion,
            "ringwal_pinned",
            pace,
            |entry| push_pinned::<LEN>(&mut pinned, entry),
            drainer(drain, ring),
        );

        let (rings, drain) = rings_in_file::<LEN>();
        let mut pinned = rings.pin().expect("a pinned ring");
        let drain = holding_drainer(drain, pinned.ring());
        measure(criterion, "ringwal_pinned_in_file", pace, |entry| push_pinned::<LEN>(&mut pinned, entry), drain);

        let (rings, drain) = new_rings::<LEN>();
        measure(criterion, "ringwal_shared", pace, |entry| push_shared::<LEN>(&rings, entry), drainer(drain, 0));

        let (rings, drain) = rings_in_file::<LEN>();
        let drain = holding_drainer(drain, 0);
        measure(criterion, "ringwal_shared_in_file", pace, |entry| push_shared::<LEN>(&rings, entry), drain);

        let (mut producer, mut consumer) = rtrb::RingBuffer::<[u8; LEN]>::new(ENTRIES);
        let drain = move || while black_box(consumer.pop()).is_ok() {};
        measure(criterion, "rtrb", pace, |entry| producer.push(*entry).is_ok(), drain);

        let queue = ArrayQueue::<[u8; LEN]>::new(ENTRIES);
        let drain = || while black_box(queue.pop()).is_some() {};
        measure(criterion, "crossbeam_array_queue", pace, |entry| queue.push(*entry).is_ok(), drain);
    }
}

fn pushes(criterion: &mut Criterion) {
    push::<8>(criterion);
    push::<64>(criterion);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = pushes
}
criterion_main!(benches);
