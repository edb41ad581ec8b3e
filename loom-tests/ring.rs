//! Claim, publish, drain.

use loom::thread;
use ringwal::Lsn;
use ringwal::ring::Drainer;

use crate::common::{drain, model, push, push_pinned, rings, until_room};

#[test]
fn two_producers_lose_and_double_nothing() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        let producers = [1, 2].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || push(&rings, value).unwrap())
        });
        let mut seen = Vec::new();
        drain(&mut drainer, 0, &mut seen);
        let ends = producers.map(|producer| producer.join().unwrap());
        let end = drain(&mut drainer, 0, &mut seen);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!((end, ends[0].max(ends[1]), ends[0].min(ends[1])), (32, 32, 16));
    });
}

#[test]
fn a_full_ring_goes_round_in_order() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        let producer = thread::spawn({
            let rings = rings.clone();
            move || (1..=3).for_each(|value| _ = until_room(|| push(&rings, value)))
        });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            drain(&mut drainer, 0, &mut seen);
            thread::yield_now();
        }
        producer.join().unwrap();
        assert_eq!(seen, [1, 2, 3]);
    });
}

#[test]
fn a_full_pinned_ring_goes_round_in_order() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 1, 32);
        let mut pinned = rings.pin().unwrap();
        let producer = thread::spawn(move || {
            (1..=3).for_each(|value| _ = until_room(|| push_pinned(&mut pinned, value)));
        });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            drain(&mut drainer, 1, &mut seen);
            thread::yield_now();
        }
        producer.join().unwrap();
        assert_eq!(seen, [1, 2, 3]);
    });
}

/// Records of 24 bytes in a ring of 64: the third does not fit behind the second, and 16 bytes are skipped.
#[test]
fn a_record_never_crosses_the_end() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 64);
        let producer = thread::spawn({
            let rings = rings.clone();
            move || {
                for value in 1..=3_u8 {
                    until_room(|| {
                        rings.claim(0, 16).map(|mut claim| {
                            claim.payload_mut().fill(value);
                            claim.publish()
                        })
                    });
                }
            }
        });
        let (mut seen, mut end) = (Vec::new(), 0);
        while seen.len() < 3 {
            let mut out = [0; 64];
            let drained = drainer.drain(0, &mut out);
            for record in ringwal::ring::record::Records::new(&out[..drained.bytes]) {
                let payload = record.unwrap().payload;
                assert!(payload.len() == 16 && payload.iter().all(|byte| *byte == payload[0]));
                seen.push(payload[0]);
            }
            end = drained.end;
            thread::yield_now();
        }
        producer.join().unwrap();
        assert_eq!((seen, end), (vec![1, 2, 3], 64 + 24));
    });
}

/// The limit up to which is claimed without a look at the head ends with the lap. Otherwise the third look would leave one of
/// 72, and the last record, from 48 to 72, would cross the end.
fn the_limit_ends_with_the_lap(ring: u32, mut drainer: Drainer, mut push: impl FnMut(usize) + Send + 'static) {
    push(0);
    assert_eq!(drainer.drain(ring, &mut [0; 64]).end, 8);
    push(16);
    push(0);
    assert_eq!(drainer.drain(ring, &mut [0; 64]).end, 40);
    let producer = thread::spawn(move || {
        push(0);
        push(16);
    });
    let (mut records, mut end) = (0, 0);
    while records < 2 {
        let drained = drainer.drain(ring, &mut [0; 64]);
        (records, end) = (records + drained.records, drained.end);
        thread::yield_now();
    }
    producer.join().unwrap();
    assert_eq!(end, 64 + 24);
}

#[test]
fn a_record_of_a_shared_ring_never_crosses_the_end_by_its_limit() {
    model(3, || {
        let (rings, drainer, _bell) = rings(1, 0, 64);
        the_limit_ends_with_the_lap(0, drainer, move |len| {
            until_room(|| rings.claim(0, len).map(|claim| claim.publish()));
        });
    });
}

#[test]
fn a_record_of_a_pinned_ring_never_crosses_the_end() {
    model(3, || {
        let (rings, drainer, _bell) = rings(1, 1, 64);
        let mut pinned = rings.pin().unwrap();
        the_limit_ends_with_the_lap(1, drainer, move |len| {
            until_room(|| pinned.claim(len).map(|claim| claim.publish()));
        });
    });
}

/// Two producers stand 16 bytes before the end with 24 bytes each. One looks at the head, and its limit lies in the next
/// lap: the other, which has read the tail before, must not claim by it across the end.
#[test]
fn two_producers_never_cross_the_end() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 64);
        let push = |rings: &ringwal::ring::Rings, value: u8| {
            let mut claim = rings.claim(0, 16).unwrap();
            claim.payload_mut().fill(value);
            claim.publish()
        };
        (1..=2).for_each(|value| _ = push(&rings, value));
        assert_eq!(drainer.drain(0, &mut [0; 64]).end, 48);
        let producer = thread::spawn({
            let rings = rings.clone();
            move || push(&rings, 3)
        });
        let ends = [push(&rings, 4), producer.join().unwrap()];
        assert_eq!((ends[0].min(ends[1]), ends[0].max(ends[1])), (64 + 24, 64 + 48));
        let drained = drainer.drain(0, &mut [0; 64]);
        assert_eq!((drained.records, drained.end), (2, 64 + 48));
    });
}

/// One producer looks at the head and leaves the limit; the other claims by that limit, in bytes used before.
#[test]
fn a_limit_hands_on_that_bytes_are_free() {
    model(2, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 64);
        let mut seen = Vec::new();
        (1..=4).for_each(|value| _ = push(&rings, value).unwrap());
        let producers = [5, 6].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || push(&rings, value).is_ok())
        });
        drain(&mut drainer, 0, &mut seen);
        let pushed = producers.map(|producer| producer.join().unwrap()).into_iter().filter(|ok| *ok).count();
        drain(&mut drainer, 0, &mut seen);
        assert_eq!(seen.len(), 4 + pushed);
        assert_eq!(seen[..4], [1, 2, 3, 4]);
    });
}

#[test]
fn two_producers_share_a_ring_that_is_full() {
    model(2, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        push(&rings, 1).unwrap();
        let producers = [2, 3].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || _ = until_room(|| push(&rings, value)))
        });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            drain(&mut drainer, 0, &mut seen);
            thread::yield_now();
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(seen[0], 1);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3]);
    });
}

#[test]
fn a_run_is_seen_whole_or_not_at_all() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 128);
        let producer = thread::spawn({
            let rings = rings.clone();
            move || {
                let mut run = rings.claim_run(0, 56).unwrap();
                for value in 1..=3_u64 {
                    run.next_mut(8).unwrap().copy_from_slice(&value.to_le_bytes());
                }
                assert!(run.next_mut(8).is_none());
                assert_eq!(run.publish(), 56);
            }
        });
        let mut seen = Vec::new();
        drain(&mut drainer, 0, &mut seen);
        assert!(seen.is_empty() || seen == [1, 2, 3]);
        producer.join().unwrap();
        assert_eq!(drain(&mut drainer, 0, &mut seen), 56);
        assert_eq!(seen, [1, 2, 3]);
    });
}

#[test]
fn an_aborted_claim_is_skipped_and_its_bytes_come_back_as_zero() {
    model(2, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        let aborter = thread::spawn({
            let rings = rings.clone();
            move || {
                let mut claim = rings.claim(0, 8).unwrap();
                claim.payload_mut().fill(0xaa);
                drop(claim);
            }
        });
        let producer = thread::spawn({
            let rings = rings.clone();
            move || push(&rings, 1).unwrap()
        });
        let mut seen = Vec::new();
        drain(&mut drainer, 0, &mut seen);
        aborter.join().unwrap();
        producer.join().unwrap();
        assert_eq!(drain(&mut drainer, 0, &mut seen), 32);
        assert_eq!(seen, [1]);
        for _ in 0..2 {
            let mut claim = rings.claim(0, 8).unwrap();
            assert_eq!(claim.payload_mut(), [0; 8]);
        }
    });
}

#[test]
fn a_pinned_ring_goes_from_one_thread_to_the_next() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 1, 64);
        let users = [1, 2].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || match rings.pin() {
                Some(mut pinned) => push_pinned(&mut pinned, value).is_ok(),
                None => false,
            })
        });
        let mut seen = Vec::new();
        drain(&mut drainer, 1, &mut seen);
        let pushed = users.map(|user| user.join().unwrap()).into_iter().filter(|ok| *ok).count();
        drain(&mut drainer, 1, &mut seen);
        assert!(pushed >= 1);
        assert_eq!(seen.len(), pushed);
    });
}

/// Drains `ring` once, holds what came, and appends its entries. Its last LSN; they are numbered as they come.
fn drain_and_hold(drainer: &mut Drainer, position: &mut u64, into: &mut Vec<u64>) -> Lsn {
    let mut out = [0; 64];
    let (drained, first) = (drainer.drain(0, &mut out), Lsn::new(into.len() as u64 + 1));
    drainer.hold(0, *position, drained, first, first);
    *position = drained.end;
    for record in ringwal::ring::record::Records::new(&out[..drained.bytes]) {
        into.push(u64::from_le_bytes(record.unwrap().payload.try_into().unwrap()));
    }
    Lsn::new(into.len() as u64)
}

/// Held bytes are not made zero when they are drained but later, when a write has completed: they go round all the same,
/// nothing is taken twice, and no claim gets bytes that are still to be made zero.
#[test]
fn a_ring_that_is_held_goes_round_in_order() {
    model(3, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        drainer.hold_until_released();
        let producer = thread::spawn({
            let rings = rings.clone();
            move || (1..=3).for_each(|value| _ = until_room(|| push(&rings, value)))
        });
        let (mut seen, mut position, mut written) = (Vec::new(), 0, Lsn::ZERO);
        while seen.len() < 3 {
            // What was drained a turn before is written now.
            drainer.release(written);
            written = drain_and_hold(&mut drainer, &mut position, &mut seen);
            thread::yield_now();
        }
        producer.join().unwrap();
        assert_eq!(seen, [1, 2, 3]);
        drainer.release(Lsn::new(3));
        assert_eq!(rings.used_len(), 0);
    });
}

#[test]
fn two_producers_share_a_ring_that_is_held() {
    model(2, || {
        let (rings, mut drainer, _bell) = rings(1, 0, 32);
        drainer.hold_until_released();
        push(&rings, 1).unwrap();
        let producers = [2, 3].map(|value| {
            let rings = rings.clone();
            thread::spawn(move || _ = until_room(|| push(&rings, value)))
        });
        let (mut seen, mut position, mut written) = (Vec::new(), 0, Lsn::ZERO);
        while seen.len() < 3 {
            drainer.release(written);
            written = drain_and_hold(&mut drainer, &mut position, &mut seen);
            thread::yield_now();
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(seen[0], 1);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3]);
    });
}
