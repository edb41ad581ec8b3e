//! The rings by themselves, with more threads than loom can follow: claims, drains, sleeps, watermarks, closing.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringwal::ring::record::Records;
use ringwal::ring::{ClaimError, Drainer, Rings, RingsConfig, Sleep};
use ringwal::watermark::WaitError;
use shuttle::thread;

use crate::explore;
use crate::machine::Bell;

const RING_LEN: usize = 64;

fn rings(shared: u32, pinned: u32) -> (Arc<Rings>, Drainer, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let config = RingsConfig { shared, pinned, ring_len: RING_LEN, entry_len_max: 8 };
    let (rings, drainer) = Rings::new(config, bell.clone()).unwrap();
    (rings, drainer, bell)
}

/// The flush core, reduced to what the rings see of it: drains, calls durable what it has, sleeps without
/// timeout. Gives what it got from each producer, in order.
fn core(mut drainer: Drainer, bell: &Bell) -> BTreeMap<u64, Vec<u64>> {
    let mut got: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let rings = Arc::clone(drainer.rings());
    let mut ends = vec![0; rings.count() as usize];
    while !drainer.is_drained() {
        let mut any = false;
        for ring in 0..rings.count() {
            let mut out = [0; RING_LEN];
            let drained = drainer.drain(ring, &mut out);
            for record in Records::new(&out[..drained.bytes]) {
                let value = u64::from_le_bytes(record.unwrap().payload.try_into().unwrap());
                got.entry(value >> 8).or_default().push(value & 0xff);
            }
            // Also by a claim that was given up: that may have been the last one.
            any |= std::mem::replace(&mut ends[ring as usize], drained.end) < drained.end;
            rings.durable(ring).publish(drained.end);
        }
        if !any && drainer.prepare_sleep(Sleep::Deep) {
            bell.sleep();
            drainer.wake_up();
        }
    }
    (0..rings.count()).for_each(|ring| rings.durable(ring).fail());
    got
}

/// Pushes on a shared ring, waiting for space. `None`: closed.
fn push(rings: &Rings, ring: u32, value: u64) -> Option<u64> {
    loop {
        match rings.claim(ring, 8) {
            Ok(mut claim) => {
                claim.payload_mut().copy_from_slice(&value.to_le_bytes());
                return Some(claim.publish());
            }
            Err(ClaimError::Closed) => return None,
            Err(ClaimError::Full) => {
                let wanted = rings.space_wanted(ring, 8);
                if rings.space(ring).wait(wanted, None).is_err() {
                    return None;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn close(rings: &Rings) {
    rings.close();
    (0..rings.count()).for_each(|ring| rings.space(ring).fail());
}

#[test]
fn eight_producers_that_wait_lose_and_double_nothing() {
    explore(1500, || {
        let (rings, drainer, bell) = rings(2, 2);
        let flush = thread::spawn(move || core(drainer, &bell));
        let producers: Vec<_> = (0..8_u64)
            .map(|who| {
                let rings = Arc::clone(&rings);
                thread::spawn(move || {
                    let ring = u32::try_from(who % 2).unwrap();
                    for number in 0..3 {
                        let end = push(&rings, ring, who << 8 | number).unwrap();
                        if number == who % 3 {
                            assert!(rings.durable(ring).wait(end, None).unwrap() >= end);
                        }
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        close(&rings);
        let got = flush.join().unwrap();
        assert_eq!(got, (0..8).map(|who| (who, vec![0, 1, 2])).collect());
    });
}

#[test]
fn six_producers_that_race_the_close_are_drained_or_refused() {
    explore(1500, || {
        let (rings, drainer, bell) = rings(1, 2);
        let flush = thread::spawn(move || core(drainer, &bell));
        let producers: Vec<_> = (0..6_u64)
            .map(|who| {
                let rings = Arc::clone(&rings);
                thread::spawn(move || {
                    let pinned = if who % 2 == 0 { rings.pin() } else { None };
                    let Some(mut pinned) = pinned else {
                        let pushed = (0..3).take_while(|number| push(&rings, 0, who << 8 | number).is_some());
                        return (who, pushed.collect::<Vec<_>>());
                    };
                    let mut pushed = Vec::new();
                    let ring = pinned.ring();
                    for number in 0..3 {
                        match pinned.claim(8) {
                            Ok(mut claim) => {
                                claim.payload_mut().copy_from_slice(&(who << 8 | number).to_le_bytes());
                                let end = claim.publish();
                                pushed.push(number);
                                // Durable, or the core has ended and said so; never in between.
                                let waited = rings.durable(ring).wait(end, None);
                                assert!(matches!(waited, Ok(_) | Err(WaitError::Failed)));
                            }
                            Err(error) => assert_eq!(error, ClaimError::Closed),
                        }
                    }
                    (who, pushed)
                })
            })
            .collect();
        close(&rings);
        let pushed = producers.into_iter().map(|producer| producer.join().unwrap());
        let pushed: BTreeMap<_, _> = pushed.filter(|(_, numbers)| !numbers.is_empty()).collect();
        assert_eq!(flush.join().unwrap(), pushed);
    });
}
