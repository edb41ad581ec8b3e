//! What a push costs the one who pushes: bursts into a ring that has room, in a queue in memory, beside rtrb and
//! `ArrayQueue` with a consumer that looks every 50 µs, as the flush core does while nobody waits.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use ringwal::{Durability, Io, Queue};

use crate::table::Table;
use crate::throughput::relax;
use crate::{Fixed, LONG, Scale, new_dir, null, open};

/// Entries in a burst: with 100 B a fifth of a ring.
const BURST: usize = 2000;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    sized::<8>(scale, table);
    sized::<64>(scale, table);
    sized::<100>(scale, table);
}

fn sized<const LEN: usize>(scale: Scale, table: &mut Table) {
    let bursts = (scale.entries / BURST).max(1);
    let entry = black_box(Fixed([7; LEN]));
    let name = |who: &str| format!("push, {LEN} B, {who}");
    let rtrb_name = name("rtrb");
    let array_name = name("crossbeam ArrayQueue");

    with_queue(|queue: &Queue<Fixed<LEN>>| {
        let mut producer = queue.producer().pin();
        assert!(producer.has_own_ring(), "eight pinned rings by default");
        let nanos = bursts_of(bursts, || _ = producer.try_push(entry.clone()).expect("room"), || settle(queue));
        table.add_beside(name("pinned"), "ns", nanos, &rtrb_name);
    });
    with_queue(|queue: &Queue<Fixed<LEN>>| {
        let producer = queue.producer();
        let nanos = bursts_of(bursts, || _ = producer.try_push(entry.clone()).expect("room"), || settle(queue));
        table.add_beside(name("shared"), "ns", nanos, &array_name);
    });

    let (mut producer, mut consumer) = rtrb::RingBuffer::<Fixed<LEN>>::new(8 * BURST);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| drain_lazily(&is_done, || black_box(consumer.pop()).is_ok()));
        let capacity = producer.buffer().capacity();
        let cell = std::cell::RefCell::new(&mut producer);
        let push = || assert!(cell.borrow_mut().push(entry.clone()).is_ok(), "room");
        let nanos = bursts_of(bursts, push, || wait_until(|| cell.borrow().slots() == capacity));
        is_done.store(true, Relaxed);
        table.add(rtrb_name, "ns", nanos);
    });
    let queue = ArrayQueue::<Fixed<LEN>>::new(8 * BURST);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| drain_lazily(&is_done, || black_box(queue.pop()).is_some()));
        let push = || assert!(queue.push(entry.clone()).is_ok(), "room");
        let nanos = bursts_of(bursts, push, || wait_until(|| queue.is_empty()));
        is_done.store(true, Relaxed);
        table.add(array_name, "ns", nanos);
    });
}

fn with_queue<const LEN: usize>(measure: impl FnOnce(&Queue<Fixed<LEN>>)) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Memory, Io::Auto, null::<Fixed<LEN>>());
    measure(&queue);
    queue.shutdown(LONG).expect("a sink that works");
}

/// Time of one push, in nanoseconds: the median of the bursts.
fn bursts_of(bursts: usize, mut push: impl FnMut(), mut settle: impl FnMut()) -> f64 {
    let mut times: Vec<Duration> = (0..bursts)
        .map(|_| {
            settle();
            let begun = Instant::now();
            (0..BURST).for_each(|_| push());
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9 / BURST as f64
}

/// Until everything is drained and delivered: a burst finds nobody at work.
fn settle<const LEN: usize>(queue: &Queue<Fixed<LEN>>) {
    wait_until(|| {
        let metrics = queue.metrics();
        metrics.ring_bytes == 0 && metrics.delivered == metrics.pushed
    });
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    let mut tries = 0;
    while !reached() {
        relax(&mut tries);
    }
}

fn drain_lazily(is_done: &AtomicBool, mut take: impl FnMut() -> bool) {
    while !is_done.load(Relaxed) {
        while take() {}
        thread::sleep(Duration::from_micros(50));
    }
}
