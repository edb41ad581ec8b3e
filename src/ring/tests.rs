//! The rings on real threads: what was pushed comes out once, whole, and in its producer's order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::barrier::Barrier;
use crate::io::Wake;
use crate::ring::record::{Records, stride_of};

/// What the flush core sleeps on in these tests.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
    wakes: AtomicU64,
}

impl Wake for Bell {
    fn wake(&self) {
        self.wakes.fetch_add(1, Relaxed);
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Bell {
    /// `false`: nobody rang for ten seconds, so a wake-up was lost.
    fn sleep(&self) -> bool {
        let rung = self.rung.lock().unwrap();
        let (mut rung, result) = self.changed.wait_timeout_while(rung, Duration::from_secs(10), |rung| !*rung).unwrap();
        *rung = false;
        !result.timed_out()
    }
}

fn rings(shared: u32, pinned: u32, ring_len: usize) -> (Arc<Rings>, Drainer, Arc<Bell>) {
    let bell = Arc::<Bell>::default();
    let config = RingsConfig { shared, pinned, ring_len, entry_len_max: ring_len / 4 };
    let (rings, drainer) = Rings::new(config, bell.clone()).unwrap();
    (rings, drainer, bell)
}

/// An entry of a length that its producer and number give: from 0 bytes to the limit, its bytes too.
fn fill(producer: u64, number: u64, payload: &mut [u8]) {
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte = (producer * 31 + number * 7 + at as u64) as u8;
    }
}

fn len_of(producer: u64, number: u64, len_max: usize) -> usize {
    let mixed = (producer << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match mixed % 16 {
        0 => 0,
        1 => len_max,
        2 => mixed as usize / 16 % (len_max + 1),
        _ => 16 + mixed as usize / 16 % 48,
    }
}

/// Every entry begins with its producer and its number, but those too short, which are counted only.
#[derive(Default)]
struct Seen {
    next: HashMap<u64, u64>,
    short: u64,
    total: u64,
}

impl Seen {
    fn take(&mut self, body: &[u8], len_max: usize) -> u32 {
        let mut records = 0;
        for record in Records::new(body) {
            let payload = record.expect("a drain gives whole records").payload;
            records += 1;
            self.total += 1;
            if payload.len() < 16 {
                self.short += 1;
                continue;
            }
            let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
            let (producer, number) = (word(0), word(8));
            let next = self.next.entry(producer).or_default();
            // Those too short to carry a number lie between.
            while len_of(producer, *next, len_max) < 16 {
                *next += 1;
            }
            assert_eq!(*next, number, "producer {producer}");
            *next += 1;
            assert_eq!(payload.len(), len_of(producer, number, len_max));
            let mut expected = vec![0; payload.len() - 16];
            fill(producer, number, &mut expected);
            assert_eq!(payload[16..], expected);
        }
        records
    }
}

/// Writes the entry into its claim and publishes it.
fn put(mut claim: Claim<'_>, producer: u64, number: u64) -> u64 {
    let payload = claim.payload_mut();
    assert!(payload.iter().all(|byte| *byte == 0), "claimed bytes are zero");
    if let Some((head, rest)) = payload.split_at_mut_checked(16) {
        head[..8].copy_from_slice(&producer.to_le_bytes());
        head[8..].copy_from_slice(&number.to_le_bytes());
        fill(producer, number, rest);
    }
    claim.publish()
}

/// `producers` threads, each on a shared ring or on one of its own, against one drain into buffers of odd lengths.
fn stress(producers: u64, pinned: u32, ring_len: usize, entries: u64) {
    let (rings, mut drainer, _bell) = rings(2, pinned, ring_len);
    let len_max = ring_len / 4;
    let producers_live = Arc::new(AtomicU64::new(producers));
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let (rings, live) = (Arc::clone(&rings), Arc::clone(&producers_live));
            thread::spawn(move || {
                let mut own = rings.pin();
                let ring = own.as_ref().map_or_else(|| rings.ring_of_this_thread(), PinnedRing::ring);
                for number in 0..entries {
                    let len = len_of(producer, number, len_max);
                    loop {
                        let claim = match &mut own {
                            Some(own) => own.claim(len),
                            None => rings.claim(ring, len),
                        };
                        match claim {
                            Ok(claim) => {
                                put(claim, producer, number);
                                break;
                            }
                            Err(ClaimError::Full) => {
                                let wanted = rings.space_wanted(ring, len);
                                rings.space(ring).wait(wanted, Some(Duration::from_secs(30))).unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                live.fetch_sub(1, Release);
            })
        })
        .collect();
    let mut seen = Seen::default();
    let mut out = vec![0; ring_len + 8];
    let mut turn = 0_usize;
    loop {
        // Acquire: what they published before they ended is drained by the turn that follows.
        let done = producers_live.load(Acquire) == 0;
        let mut records = 0;
        for ring in 0..rings.count() {
            turn += 1;
            // At least the greatest record fits.
            let room = (stride_of(len_max) + turn * 104 % ring_len).min(out.len());
            let drained = drainer.drain(ring, &mut out[..room]);
            assert_eq!(drained.records, seen.take(&out[..drained.bytes], len_max));
            assert_eq!(drained.end, rings.space(ring).value());
            records += drained.records;
        }
        if done && records == 0 && !drainer.has_ready() {
            break;
        }
        if records == 0 {
            thread::yield_now();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(seen.total, producers * entries);
    let short = |producer| (0..entries).filter(move |number| len_of(producer, *number, len_max) < 16).count() as u64;
    assert_eq!(seen.short, (0..producers).map(short).sum::<u64>());
    assert_eq!(rings.used_len(), 0);
}

#[test]
fn one_producer_loses_nothing() {
    stress(1, 0, 4096, 50_000);
    stress(1, 1, 4096, 50_000);
}

#[test]
fn two_producers_lose_nothing() {
    stress(2, 0, 1024, 30_000);
    stress(2, 1, 1024, 30_000);
}

#[test]
fn eight_producers_lose_nothing() {
    stress(8, 4, 4096, 10_000);
}

#[test]
fn sixty_four_producers_lose_nothing() {
    stress(64, 8, 1 << 14, 1_000);
}

#[test]
fn ten_thousand_short_lived_threads_lose_and_leak_nothing() {
    let (rings, mut drainer, _bell) = rings(4, 1, 1 << 16);
    let (mut out, mut total) = (vec![0; 1 << 16], 0);
    for batch in 0..1_250_u64 {
        let threads: Vec<_> = (0..8)
            .map(|index| {
                let rings = Arc::clone(&rings);
                thread::spawn(move || {
                    if index == 0 {
                        let mut own = rings.pin().expect("the one before has given it back");
                        own.claim(8).unwrap().publish();
                    } else {
                        let mut claim = rings.claim(rings.ring_of_this_thread(), 8).unwrap();
                        claim.payload_mut().copy_from_slice(&batch.to_le_bytes());
                        claim.publish();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        total += (0..5).map(|ring| drainer.drain(ring, &mut out).records).sum::<u32>();
    }
    assert_eq!((total, rings.used_len()), (10_000, 0));
}

/// In a process of its own: threads of other tests would take numbers meanwhile.
#[test]
fn threads_spread_evenly_over_the_rings_and_stay() {
    const ALONE: &str = "RINGWAL_RINGS_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "ring::tests::threads_spread_evenly_over_the_rings_and_stay"]).env(ALONE, "1");
        let out = alone.output().unwrap();
        return assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "{out:?}");
    }
    let (rings, _drainer, _bell) = rings(4, 0, 64);
    let (other, _other_drainer, _other_bell) = self::rings(3, 0, 64);
    let counts: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let ring = rings.ring_of_this_thread();
                assert!(other.ring_of_this_thread() < 3);
                assert_eq!(rings.ring_of_this_thread(), ring);
                counts[ring as usize].fetch_add(1, Relaxed);
            });
        }
    });
    assert_eq!(counts.into_iter().map(AtomicU64::into_inner).collect::<Vec<_>>(), [16; 4]);
}

#[test]
fn full_is_said_only_when_it_is_true_and_goes_away() {
    let (rings, mut drainer, _bell) = rings(1, 0, 64);
    let mut out = [0; 64];
    for _ in 0..100 {
        for _ in 0..4 {
            rings.claim(0, 8).unwrap().publish();
        }
        assert_eq!(rings.claim(0, 0).unwrap_err(), ClaimError::Full);
        assert_eq!(rings.space_wanted(0, 8), rings.tail(0) + 16 - 64);
        assert_eq!(drainer.drain(0, &mut out[..31]).bytes, 16);
        rings.claim(0, 8).unwrap().publish();
        assert_eq!(drainer.drain(0, &mut out).records, 4);
    }
    assert_eq!(rings.claim(0, 17).unwrap_err(), ClaimError::TooLong);
}

#[test]
fn a_record_that_does_not_fit_stops_the_drain_and_a_skip_does_not_count() {
    let (rings, mut drainer, _bell) = rings(1, 0, 128);
    let mut out = [0xff; 64];
    drop(rings.claim(0, 8).unwrap());
    rings.claim(0, 24).unwrap().publish();
    drop(rings.claim(0, 8).unwrap());
    rings.claim(0, 3).unwrap().publish();
    assert_eq!(drainer.drain(0, &mut out[..31]), Drained { bytes: 0, records: 0, payload: 0, end: 16, is_cut: true });
    assert_eq!(drainer.drain(0, &mut out[..32]), Drained { bytes: 32, records: 1, payload: 24, end: 64, is_cut: true });
    assert_eq!(drainer.drain(0, &mut out), Drained { bytes: 16, records: 1, payload: 3, end: 80, is_cut: false });
    // 48 bytes to the end: a record of 40 does not leave room for another, so 8 are skipped.
    rings.claim(0, 32).unwrap().publish();
    assert_eq!(rings.claim(0, 8).unwrap().publish(), 128 + 16);
    assert_eq!(drainer.drain(0, &mut out), Drained { bytes: 56, records: 2, payload: 40, end: 144, is_cut: false });
}

#[test]
fn a_run_lies_together_and_its_rest_is_skipped() {
    let (rings, mut drainer, _bell) = rings(1, 1, 128);
    let (mut own, mut out) = (rings.pin().unwrap(), [0; 128]);
    for _ in 0..20 {
        let mut run = own.claim_run(64).unwrap();
        run.next_mut(1).unwrap().copy_from_slice(b"a");
        run.next_mut(0).unwrap();
        run.next_mut(9).unwrap().copy_from_slice(b"123456789");
        assert!(run.next_mut(9).is_none());
        assert_eq!((run.records(), run.spare_len()), (3, 16));
        let end = run.publish();
        let drained = drainer.drain(1, &mut out);
        assert_eq!(drained, Drained { bytes: 48, records: 3, payload: 10, end, is_cut: false });
        let payloads: Vec<_> = Records::new(&out[..48]).map(|record| record.unwrap().payload).collect();
        assert_eq!(payloads, [&b"a"[..], b"", b"123456789"]);
        drop(own.claim_run(16).unwrap());
        own.claim_run(8).unwrap().publish();
        let skipped = drainer.drain(1, &mut out);
        assert_eq!(skipped, Drained { bytes: 0, records: 0, payload: 0, end: end + 24, is_cut: false });
    }
    assert_eq!(rings.claim_run(0, 72).unwrap_err(), ClaimError::TooLong);
}

#[test]
fn a_claim_that_is_never_published_is_given_up_at_the_end() {
    let (rings, mut drainer, _bell) = rings(1, 0, 128);
    std::mem::forget(rings.claim(0, 8).unwrap());
    let slow = rings.claim(0, 8).unwrap();
    rings.claim(0, 8).unwrap().publish();
    let mut out = [0; 128];
    assert_eq!(drainer.drain(0, &mut out).end, 0);
    rings.close();
    assert!(!drainer.is_drained());
    assert!(drainer.give_up(0) && drainer.give_up(0) && !drainer.give_up(0));
    assert_eq!(drainer.drain(0, &mut out), Drained { bytes: 16, records: 1, payload: 8, end: 48, is_cut: false });
    assert!(drainer.is_drained());
    slow.publish(); // writes into its own bytes still: nobody else ever gets them
    assert_eq!(rings.space(0).value(), 0);
}

#[test]
fn a_closed_ring_refuses_and_its_pinned_producers_too() {
    let (rings, mut drainer, _bell) = rings(1, 1, 128);
    let mut own = rings.pin().unwrap();
    own.claim(8).unwrap().publish();
    rings.close();
    assert!(rings.is_closed() && !drainer.is_drained());
    for _ in 0..100 {
        assert_eq!(own.claim(8).unwrap_err(), ClaimError::Closed);
        assert_eq!(rings.claim(0, 8).unwrap_err(), ClaimError::Closed);
    }
    assert_eq!(drainer.drain(1, &mut [0; 128]).records, 1);
    assert!(drainer.is_drained());
}

#[test]
fn a_pinned_ring_returns_to_the_free_list() {
    let (rings, _drainer, _bell) = rings(1, 2, 64);
    let (first, second) = (rings.pin().unwrap(), rings.pin().unwrap());
    assert_eq!((first.ring(), second.ring()), (1, 2));
    assert!(rings.pin().is_none());
    drop(first);
    assert_eq!(rings.pin().unwrap().ring(), 1);
}

/// Sleep and wake on the hardware, with both kinds of barrier: loom cannot model `membarrier`. Each round the
/// producer pushes at about the moment when the core falls asleep; a lost wake-up costs ten seconds and the test.
fn sleep_and_wake(barrier: Barrier, pinned: bool, rounds: u64) {
    let bell = Arc::<Bell>::default();
    let config = RingsConfig { shared: 1, pinned: 1, ring_len: 1024, entry_len_max: 64 };
    let (rings, mut drainer) = Rings::with_barrier(config, bell.clone(), barrier).unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let is_lost = Arc::new(AtomicBool::new(false));
    let producer = thread::spawn({
        let (rings, taken, is_lost) = (Arc::clone(&rings), Arc::clone(&taken), Arc::clone(&is_lost));
        move || {
            let mut own = rings.pin().unwrap();
            for round in 0..rounds {
                if pinned {
                    own.claim(8).unwrap().publish();
                } else {
                    rings.claim(0, 8).unwrap().publish();
                }
                let mut spins = 0_u64;
                while taken.load(Relaxed) <= round && !is_lost.load(Relaxed) {
                    spins += 1;
                    if spins > 2_000 {
                        thread::yield_now();
                    } else {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    });
    let (mut out, mut count, mut announced) = ([0; 1024], 0_u64, 0_u64);
    loop {
        count += u64::from(drainer.drain(0, &mut out).records + drainer.drain(1, &mut out).records);
        taken.store(count, Relaxed);
        if count == rounds {
            break;
        }
        // The producer pushes as soon as it sees `taken`; here from nothing to some hundred nanoseconds pass, so
        // that in some rounds the push and the look meet.
        (0..count % 512).for_each(|step| _ = std::hint::black_box(step));
        announced += 1;
        if drainer.prepare_sleep(Sleep::Deep) {
            if !bell.sleep() {
                is_lost.store(true, Relaxed);
                panic!("a wake-up was lost in round {count}");
            }
            drainer.wake_up();
        }
    }
    producer.join().unwrap();
    assert!(bell.wakes.load(Relaxed) <= announced, "more than one wake per sleep");
}

#[test]
fn no_wake_up_is_lost_with_membarrier() {
    let barrier = Barrier::new();
    // Where it is refused, the fences are tested twice, and the assertion tells.
    assert_eq!(barrier.is_asymmetric(), cfg!(not(miri)), "no membarrier here");
    sleep_and_wake(barrier, true, 10_000);
    sleep_and_wake(barrier, false, 10_000);
}

#[test]
fn no_wake_up_is_lost_with_fences() {
    sleep_and_wake(Barrier::fences(), true, 10_000);
    sleep_and_wake(Barrier::fences(), false, 10_000);
}

/// Closing against pinned pushes on the hardware, with both barriers: each accepted push is drained.
#[test]
fn every_accepted_push_is_drained_when_closing_races_it() {
    for round in 0..200_u64 {
        let barrier = if round % 4 == 0 { Barrier::fences() } else { Barrier::new() };
        let config = RingsConfig { shared: 1, pinned: 1, ring_len: 1024, entry_len_max: 64 };
        let (rings, mut drainer) = Rings::with_barrier(config, Arc::<Bell>::default(), barrier).unwrap();
        let (accepted, drained) = thread::scope(|scope| {
            let producer = scope.spawn(|| {
                let (mut own, mut accepted) = (rings.pin().unwrap(), 0);
                loop {
                    match own.claim(8) {
                        Ok(claim) => _ = claim.publish(),
                        Err(ClaimError::Full) => continue,
                        Err(_) => return accepted,
                    }
                    accepted += 1;
                }
            });
            scope.spawn(|| {
                (0..round % 50 * 16).for_each(|_| std::hint::spin_loop());
                rings.close();
            });
            let (mut drained, mut out) = (0, [0; 1024]);
            while !drainer.is_drained() {
                drained += drainer.drain(1, &mut out).records;
            }
            (producer.join().unwrap(), drained)
        });
        assert_eq!(accepted, drained);
    }
}
