//! What does a push cost when others push too?
//!
//! All begin a burst at once, into rings that have room; the time is that of each one's burst by its own clock, so
//! that who has no core to run on does not count as a slow push. Beside it crossbeam's `ArrayQueue`, with a consumer that looks
//! every 50 µs, as the flush core does while nobody waits.

use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use ringwal::Durability;

use crate::measure::{Fixed, LONG, Scale, new_dir, null, open};
use crate::round::Round;

/// Producers at once; as many as there are pinned rings by default, at most.
const PRODUCERS: [usize; 4] = [1, 2, 4, 8];
/// Pushes in a burst of one: those of all together fit into one ring.
const BURST: usize = 1000;
/// Between two looks of the consumer of `ArrayQueue`.
const DRAIN_PAUSE: Duration = Duration::from_micros(50);

pub(crate) fn run(scale: Scale, round: &mut Round) {
    for producers in PRODUCERS {
        sized::<8>(scale, round, producers);
        sized::<64>(scale, round, producers);
    }
}

fn sized<const LEN: usize>(scale: Scale, round: &mut Round, producers: usize) {
    let bursts = (scale.entries / BURST / 4).max(2);
    let entry = black_box(Fixed([7; LEN]));
    let x = producers as f64;
    for is_pinned in [true, false] {
        let dir = new_dir();
        let queue = open(dir.path(), Durability::Memory, null::<Fixed<LEN>>());
        // Until everything is drained and delivered: a burst finds nobody at work.
        let settle = || {
            wait_until(|| {
                let metrics = queue.metrics();
                metrics.ring_bytes == 0 && metrics.delivered == metrics.pushed
            });
        };
        let nanos = at_once(producers, bursts, settle, || {
            let producer = queue.producer();
            let mut pinned = is_pinned.then(|| queue.producer().pin());
            assert!(pinned.as_ref().is_none_or(ringwal::PinnedProducer::has_own_ring), "eight pinned rings by default");
            move || match &mut pinned {
                Some(pinned) => _ = pinned.try_push(entry).expect("room"),
                None => _ = producer.try_push(entry).expect("room"),
            }
        });
        let kind = if is_pinned { "pinned" } else { "shared" };
        round.add(&format!("push {LEN} B: {kind}"), x, "ns", nanos);
        queue.shutdown(LONG).expect("a sink that works");
    }
    let queue = ArrayQueue::<Fixed<LEN>>::new(2 * BURST * producers);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Relaxed) {
                while black_box(queue.pop()).is_some() {}
                thread::sleep(DRAIN_PAUSE);
            }
        });
        let settle = || wait_until(|| queue.is_empty());
        let nanos = at_once(producers, bursts, settle, || {
            let queue = &queue;
            move || assert!(queue.push(entry).is_ok(), "room")
        });
        is_done.store(true, Relaxed);
        round.add(&format!("push {LEN} B: ArrayQueue"), x, "ns", nanos);
    });
}

/// Time of one push in nanoseconds: the median over the bursts of all.
fn at_once<P: FnMut()>(producers: usize, bursts: usize, settle: impl Fn() + Sync, make: impl Fn() -> P + Sync) -> f64 {
    let barrier = Barrier::new(producers);
    let burst_of = |is_first: bool| {
        let mut push = make();
        let mut times = Vec::with_capacity(bursts);
        for _ in 0..bursts {
            if is_first {
                settle();
            }
            barrier.wait();
            let begun = Instant::now();
            (0..BURST).for_each(|_| push());
            times.push(begun.elapsed());
            barrier.wait();
        }
        times
    };
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let burst_of = &burst_of;
        let others: Vec<_> = (1..producers).map(|_| scope.spawn(move || burst_of(false))).collect();
        let first = burst_of(true);
        others.into_iter().flat_map(|other| other.join().expect("no panic")).chain(first).collect()
    });
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9 / BURST as f64
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    let mut tries = 0_u32;
    while !reached() {
        tries += 1;
        // Who spins for ever holds up the one that it waits for.
        if tries.is_multiple_of(64) { thread::yield_now() } else { spin_loop() }
    }
}
