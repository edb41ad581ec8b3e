//! What a push costs, beside rtrb and `ArrayQueue` under the same drain.
//!
//! The peers have as many slots as the ring has room for entries, and their consumer is on the CPU that the flush core has
//! with us. *Lazy*: it sleeps for 50 µs when it has taken all that is there, as the flush core does while nobody waits.

use std::cell::RefCell;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringwal::ring::record::stride_of;

use crate::measure::{Fixed, Scale, on_first_cpu, to_last_cpu, wait_until};
use crate::push_cost::{Pace, RING_LEN, bursts, pinned, shared};
use crate::table::Table;

/// The flush core's own.
const LAZY_PAUSE: Duration = Duration::from_micros(50);

/// Rings of some 8000 entries, which stay in the caches, and those of the defaults.
pub(crate) const fn ring_lens(len: usize) -> [usize; 2] {
    [1 << (8192 * stride_of(len)).ilog2(), RING_LEN]
}

pub(crate) fn name(len: usize, who: &str, ring_len: usize, pace: Pace) -> String {
    format!("push / {len} B / {who} / ring of {} KiB / {}", ring_len >> 10, pace.name())
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for pace in [Pace::Lazy, Pace::Eager] {
        for ring_len in ring_lens(8) {
            sized::<8>(scale, table, ring_len, pace);
        }
        for ring_len in ring_lens(64) {
            sized::<64>(scale, table, ring_len, pace);
        }
    }
}

fn sized<const LEN: usize>(scale: Scale, table: &mut Table, ring_len: usize, pace: Pace) {
    let entry = black_box(Fixed([7; LEN]));
    let rtrb_name = name(LEN, "rtrb", ring_len, pace);
    let array_name = name(LEN, "ArrayQueue", ring_len, pace);
    let slots = ring_len / stride_of(LEN);

    table.add_beside(name(LEN, "pinned", ring_len, pace), "ns", pinned::<LEN>(scale, ring_len, pace), &rtrb_name);
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Fixed<LEN>>::new(slots);
    let take = || black_box(consumer.pop()).is_ok();
    let nanos = beside_drain(pace, take, || {
        let producer = RefCell::new(&mut producer);
        let push = || assert!(producer.borrow_mut().push(entry).is_ok(), "room");
        bursts(scale, push, || wait_until(|| producer.borrow().slots() == slots))
    });
    table.add(rtrb_name, "ns", nanos);

    table.add_beside(name(LEN, "shared", ring_len, pace), "ns", shared::<LEN>(scale, ring_len, pace), &array_name);
    let queue = ArrayQueue::<Fixed<LEN>>::new(slots);
    let take = || black_box(queue.pop()).is_some();
    let nanos = beside_drain(pace, take, || {
        let push = || assert!(queue.push(entry).is_ok(), "room");
        bursts(scale, push, || wait_until(|| queue.is_empty()))
    });
    table.add(array_name, "ns", nanos);
}

/// Measures while another thread takes, until there is nothing more, again and again.
fn beside_drain(pace: Pace, mut take: impl FnMut() -> bool + Send, measure: impl FnOnce() -> f64 + Send) -> f64 {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            to_last_cpu();
            while !is_done.load(Relaxed) {
                while take() {}
                match pace {
                    Pace::Lazy => thread::sleep(LAZY_PAUSE),
                    Pace::Eager => spin_loop(),
                }
            }
        });
        let nanos = on_first_cpu(measure);
        is_done.store(true, Relaxed);
        nanos
    })
}
