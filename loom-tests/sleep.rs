//! The flush core's sleep: no timeout here, so a wake-up that is lost is a deadlock, which loom reports.

use loom::thread;

use crate::common::{Bell, drain, model, push, push_pinned, rings};
use ringwal::ring::{Drainer, Sleep};

/// Drains and sleeps until `count` entries are there. Gives how often it has slept.
fn drain_and_sleep(drainer: &mut Drainer, bell: &Bell, rings: u32, count: usize, depth: Sleep) -> u32 {
    let (mut seen, mut sleeps) = (Vec::new(), 0);
    loop {
        (0..rings).for_each(|ring| _ = drain(drainer, ring, &mut seen));
        if seen.len() == count {
            return sleeps;
        }
        if drainer.prepare_sleep(depth) {
            bell.sleep();
            sleeps += 1;
            drainer.wake_up();
        }
    }
}

#[test]
fn a_push_ends_a_deep_sleep() {
    model(3, || {
        let (rings, mut drainer, bell) = rings(1, 0, 64);
        let producer = thread::spawn(move || push(&rings, 1).unwrap());
        drain_and_sleep(&mut drainer, &bell, 1, 1, Sleep::Deep);
        producer.join().unwrap();
    });
}

#[test]
fn a_pinned_push_ends_a_deep_sleep() {
    model(3, || {
        let (rings, mut drainer, bell) = rings(1, 1, 64);
        let mut pinned = rings.pin().unwrap();
        let producer = thread::spawn(move || push_pinned(&mut pinned, 1).unwrap());
        drain_and_sleep(&mut drainer, &bell, 2, 1, Sleep::Deep);
        producer.join().unwrap();
    });
}

#[test]
fn two_pushes_into_deep_sleeps_wake_at_most_once_each_sleep() {
    model(2, || {
        let (rings, mut drainer, bell) = rings(1, 0, 64);
        let producers = [1, 2].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || push(&rings, value).unwrap())
        });
        let mut seen = Vec::new();
        let (mut announced, mut wakes) = (0, 0);
        loop {
            drain(&mut drainer, 0, &mut seen);
            if seen.len() == 2 {
                break;
            }
            announced += 1;
            if drainer.prepare_sleep(Sleep::Deep) {
                wakes += bell.sleep();
                drainer.wake_up();
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(wakes + bell.rung() <= announced, "{wakes} wakes, {announced} sleeps");
    });
}

#[test]
fn a_full_ring_ends_a_nap() {
    model(3, || {
        let (rings, mut drainer, bell) = rings(1, 0, 32);
        let producer = thread::spawn(move || {
            for value in 1..=3 {
                while push(&rings, value).is_err() {
                    let wanted = rings.space_wanted(0, 8);
                    rings.space(0).wait(wanted, None).unwrap();
                }
            }
            // Nobody waits for the last one; without this it would lie there as long as the nap takes.
            rings.doorbell().rouse();
        });
        drain_and_sleep(&mut drainer, &bell, 1, 3, Sleep::Nap);
        producer.join().unwrap();
    });
}

/// The core naps without end: the producer must rouse it before the ring is full.
#[test]
fn a_ring_more_than_half_full_ends_a_nap() {
    model(3, || {
        let (rings, mut drainer, bell) = rings(1, 0, 64);
        let producer = thread::spawn(move || (1..=3).for_each(|value| _ = push(&rings, value).unwrap()));
        let mut seen = Vec::new();
        if drainer.prepare_sleep(Sleep::Nap) {
            bell.sleep();
            drainer.wake_up();
        }
        drain(&mut drainer, 0, &mut seen);
        producer.join().unwrap();
        assert!(seen.len() >= 2, "roused before it was half full");
    });
}

/// A receipt's life: push, wait; the core commits only what somebody waits for, and naps between.
#[test]
fn a_waiter_ends_a_nap() {
    model(3, || {
        let (rings, mut drainer, bell) = rings(1, 0, 64);
        let producer = thread::spawn({
            let rings = rings.clone();
            move || {
                let end = push(&rings, 1).unwrap();
                assert_eq!(rings.durable(0).wait(end, None), Ok(end));
            }
        });
        let (mut seen, mut end) = (Vec::new(), 0);
        while rings.durable(0).value() == 0 {
            // First who waits, then what there is: so what is waited for is among it.
            let is_waited_for = rings.durable(0).is_waited_for();
            end = drain(&mut drainer, 0, &mut seen).max(end);
            if is_waited_for {
                assert_eq!(seen, [1], "who waits has pushed before");
                rings.durable(0).publish(end);
            } else if drainer.prepare_sleep(Sleep::Nap) {
                bell.sleep();
                drainer.wake_up();
            }
        }
        producer.join().unwrap();
    });
}
