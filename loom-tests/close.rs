//! Closing races pushes: what was accepted is drained, and what was refused is not in the ring.

use loom::thread;

use crate::common::{drain, model, push, push_pinned, rings};
use ringwal::ring::{ClaimError, Drainer};

/// Drains until the drain says that there is nothing left.
fn drain_to_the_end(drainer: &mut Drainer, rings: u32) -> Vec<u64> {
    let mut seen = Vec::new();
    while !drainer.is_drained() {
        (0..rings).for_each(|ring| _ = drain(drainer, ring, &mut seen));
        thread::yield_now();
    }
    seen
}

#[test]
fn a_shared_push_is_drained_or_refused() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 64);
        let producers = [1, 2].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || match push(&rings, value) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error, ClaimError::Closed);
                    false
                }
            })
        });
        rings.close();
        let seen = drain_to_the_end(&mut drainer, 1);
        let pushed = producers.map(|producer| producer.join().unwrap());
        assert_eq!([seen.contains(&1), seen.contains(&2)], pushed);
        assert_eq!(push(&rings, 3), Err(ClaimError::Closed));
        assert!(drainer.is_drained());
    });
}

#[test]
fn a_pinned_push_is_drained_or_refused() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 1, 64);
        let mut pinned = rings.pin().unwrap();
        let producer = thread::spawn(move || {
            let pushed = [1, 2].map(|value| match push_pinned(&mut pinned, value) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error, ClaimError::Closed);
                    false
                }
            });
            assert!(pushed[0] || !pushed[1], "closed and open again");
            pushed
        });
        rings.close();
        let seen = drain_to_the_end(&mut drainer, 2);
        let pushed = producer.join().unwrap();
        assert_eq!([seen.contains(&1), seen.contains(&2)], pushed);
        assert!(drainer.is_drained());
    });
}

/// The closer and the drain are two threads, as in the engine.
#[test]
fn the_drain_knows_its_end_from_another_thread() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 1, 64);
        let mut pinned = rings.pin().unwrap();
        let producer = thread::spawn(move || push_pinned(&mut pinned, 1).is_ok());
        let closer = thread::spawn({
            let rings = rings.clone();
            move || rings.close()
        });
        let seen = drain_to_the_end(&mut drainer, 2);
        closer.join().unwrap();
        assert_eq!(seen.len(), usize::from(producer.join().unwrap()));
    });
}
