//! How much goes through memory to a sink that reads every entry, by producers, beside `ArrayQueue`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use ringwal::Durability;

use crate::measure::{Fixed, LONG, Scale, new_dir, open, read, reading, relax};
use crate::table::Table;

/// How many producers there are, in turn.
pub(crate) const PRODUCERS: [usize; 3] = [1, 2, 8];
/// Slots of bounded peers: with few the threads often wait for each other, with many the slots leave the caches. Both are
/// measured, and the better one counts.
pub(crate) const SLOTS: [usize; 2] = [8192, 131_072];

type Small = Fixed<8>;

pub(crate) const ENTRY: Small = Fixed([1; 8]);

pub(crate) fn name(who: &str, producers: usize) -> String {
    let plural = if producers == 1 { "" } else { "s" };
    format!("Memory to a sink that reads / 8 B / {who} / {producers} producer{plural}")
}

/// Entries of each producer.
pub(crate) const fn each(scale: Scale, producers: usize) -> usize {
    10 * scale.entries / producers
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for producers in PRODUCERS {
        for pinned in [true, false] {
            let who = if pinned { "pinned" } else { "shared" };
            let rate = queue(scale, producers, pinned);
            table.add_beside(name(who, producers), "M/s", rate, &name("ArrayQueue", producers));
        }
        let rate = SLOTS.map(|slots| array_queue(scale, producers, slots)).into_iter().fold(0.0, f64::max);
        table.add(name("ArrayQueue", producers), "M/s", rate);
    }
}

/// Millions a second, from the first push to the last answer of the sink.
fn queue(scale: Scale, producers: usize, pinned: bool) -> f64 {
    let dir = new_dir();
    let sum = Arc::new(AtomicU64::new(0));
    let queue = open(dir.path(), Durability::Memory, reading(&sum));
    let each = each(scale, producers);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..producers {
            let producer = queue.producer();
            scope.spawn(move || {
                if pinned {
                    let mut producer = producer.pin();
                    (0..each).for_each(|_| _ = producer.push(ENTRY).expect("room"));
                } else {
                    (0..each).for_each(|_| _ = producer.push(ENTRY).expect("room"));
                }
            });
        }
    });
    queue.drain(LONG).expect("a sink that works");
    let took = begun.elapsed();
    let count = each * producers;
    assert_eq!(sum.load(Relaxed), 8 * count as u64, "the sink reads every byte of every entry");
    count as f64 / 1e6 / took.as_secs_f64()
}

fn array_queue(scale: Scale, producers: usize, slots: usize) -> f64 {
    let queue = ArrayQueue::<Small>::new(slots);
    let push = |entry| {
        let mut tries = 0;
        while queue.push(entry).is_err() {
            relax(&mut tries);
        }
    };
    let pop = || {
        let mut tries = 0;
        loop {
            match queue.pop() {
                Some(entry) => return entry,
                None => relax(&mut tries),
            }
        }
    };
    through(scale, producers, || push, pop)
}

/// Millions a second through something with one consumer, this thread, that takes one entry after the other.
pub(crate) fn through<P: Fn(Small) + Send>(
    scale: Scale,
    producers: usize,
    new_producer: impl Fn() -> P,
    mut take: impl FnMut() -> Small,
) -> f64 {
    let each = each(scale, producers);
    let count = each * producers;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..producers {
            let push = new_producer();
            scope.spawn(move || (0..each).for_each(|_| push(ENTRY)));
        }
        let sum: u64 = (0..count).map(|_| read(&take())).sum();
        assert_eq!(sum, 8 * count as u64, "every byte of every entry");
    });
    count as f64 / 1e6 / begun.elapsed().as_secs_f64()
}
