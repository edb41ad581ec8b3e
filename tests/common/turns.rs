//! A queue without threads, turned until nothing but its test can make anything happen.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::time::Duration;

use ringwal::Entry;
use ringwal::sim::{ManualClock, SimDisk, SinkTurn, SteppedQueue};

/// The flush core's own pauses are shorter; what settings ask for is longer.
pub const PAUSE_MAX: Duration = Duration::from_micros(900);
/// A queue that is left alone comes to rest long before.
const ROUNDS_MAX: u32 = 100_000;

/// Turns everybody, with a look after each step. Rests that end by themselves within `soon` pass.
pub fn settle_with<T: Entry>(
    queue: &mut SteppedQueue<T>,
    machine: &SimDisk,
    clock: &ManualClock,
    soon: Duration,
    mut look: impl FnMut(&SteppedQueue<T>),
) {
    let out = |queue: &SteppedQueue<T>| (queue.is_out(), queue.metrics().batches);
    for _ in 0..ROUNDS_MAX {
        let before = out(queue);
        let mut moved = queue.turn_core();
        look(queue);
        moved |= machine.step();
        moved |= queue.turn_sink() == SinkTurn::Turned;
        moved |= out(queue) != before;
        look(queue);
        if moved || queue.is_awake() {
            continue;
        }
        let due = [queue.next_due(), machine.next_due()].into_iter().flatten().min();
        match due {
            Some(due) if due.since(clock.now()) <= soon => clock.advance_to(due),
            _ => return,
        }
    }
    panic!("it never rests: {queue:?}");
}

pub fn settle<T: Entry>(queue: &mut SteppedQueue<T>, machine: &SimDisk, clock: &ManualClock) {
    settle_with(queue, machine, clock, PAUSE_MAX, |_| {});
}
