//! Thousands of random histories of the real log on the simulated machine, from seeds.
//!
//! A history is several incarnations of a store: entries come in, writes complete in any order, the
//! sink finishes entries, segments are rotated and slots reused, and at any step, also within recovery,
//! the power goes or the process dies. After each death the store is opened and every answer compared
//! with the model (`harness/model.rs` has the invariants).
//!
//! | variable | means |
//! |---|---|
//! | `RINGWAL_SIM_SEED` | run this one history, with its story |
//! | `RINGWAL_SIM_ONLY` | and of that only these actions: what a failure prints when it has been shrunk |
//! | `RINGWAL_SIM_MUTANTS` | measure in how many of so many seeds each mutant is caught |
//! | `RINGWAL_SIM_BASE` | first seed of the fresh ones; by default the clock gives it |
//! | `RINGWAL_SIM_HISTORIES` | how many fresh ones |

mod harness;

use std::time::Duration;

use harness::random::{act, drain, finish_some, lens, plan};
use harness::rig::pool;
use harness::seeds::{Play, Tally, fails, number, run, run_all, seeds};
use harness::{Failure, Outcome, Rig, look};
use ringwal::Lsn;
use ringwal::sim::{Fault, OpKind};
use ringwal::wal::frame::FrameKind;
use ringwal::wal::mutant::{Mutant, Mutants};
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::{OnCorruption, ScanError};

/// Errors of the kernel, by their numbers.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// Runs one history. `rot` spoils a durable frame once.
fn history(rig: &mut Rig, rot: bool, tally: &mut Tally) -> Outcome<()> {
    for life in 0..rig.prng.within(2..=6) {
        tally.incarnations += 1;
        rig.chapter(life);
        if rig.prng.chance(1, 4) {
            rig.fuse = Some(rig.prng.below(70));
            rig.fuse_kills = rig.prng.chance(1, 3);
        }
        match rig.open() {
            Err(Failure::Died) => {
                tally.deaths_in_recovery += 1;
                continue;
            }
            other => other?,
        }
        rig.fuse = None;
        for number in 0..rig.prng.within(10..=240) {
            if rig.turn(life << 16 | number) {
                act(rig)?;
                if rot && rig.prng.chance(1, 60) && spoil(rig) {
                    return spoilt(rig, tally);
                }
            }
        }
        rig.chapter(life + 100);
        match rig.prng.below(8) {
            0 => {
                drain(rig)?;
                rig.close()?;
                continue;
            }
            1 => drain(rig)?,
            // In the middle of closing.
            2 => {
                rig.fuse = Some(rig.prng.below(12));
                rig.fuse_kills = rig.prng.chance(1, 3);
                match rig.close() {
                    Err(Failure::Died) => {
                        tally.deaths += 1;
                        continue;
                    }
                    other => other?,
                }
                rig.fuse = None;
                continue;
            }
            _ => {}
        }
        tally.deaths += 1;
        let kill = rig.prng.chance(1, 3);
        rig.die(kill);
    }
    rig.open()?;
    drain(rig)?;
    let open = rig.unfinished();
    rig.ack(open)?;
    rig.close()?;
    rig.open()?;
    if rig.model.current.range(rig.model.acked + 1..).next().is_some() {
        return Err(Failure::Broken(format!("closed with all finished, opened at {}", rig.model.acked)));
    }
    rig.close()?;
    tally.entries += rig.model.next_id;
    Ok(())
}

/// Spoils a frame that is durable and not consumed; false if there is none.
fn spoil(rig: &mut Rig) -> bool {
    let (acked, durable) = (rig.model.acked, rig.model.durable);
    let mut frames = Vec::new();
    for slot in look::slots(&rig.machine) {
        frames.extend(look::frames(&rig.machine, slot, rig.plan.block_len).into_iter().filter(|f| {
            let (first, next) = (f.header.first_lsn.number(), f.header.next_lsn.number());
            // Not one that a tear has stranded, whose LSNs now lie elsewhere.
            let current = if f.header.coding.is_plain() {
                rig.model.current.get(&first).is_some_and(|entry| entry.id == f.first_id)
            } else {
                // Whose entries these are cannot be seen. Their segment is the one that counts for them.
                let segments = rig.process.as_ref().map(|process| process.log.segments());
                let counts = segments.and_then(|segments| segments.find(Lsn::new(first)));
                counts.is_some_and(|s| {
                    s.uid == f.header.seg_uid && f.offset < u64::from(s.end_position) * u64::from(rig.plan.block_len)
                })
            };
            f.header.kind == FrameKind::Data && f.body_holds && current && first > acked && next <= durable + 1
        }));
    }
    if frames.is_empty() {
        return false;
    }
    let frame = rig.prng.pick(&frames).clone();
    let byte = rig.prng.below(80 + u64::from(frame.header.body_len));
    let mask = 1 << rig.prng.below(8);
    rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + byte, mask);
    let last = frame.header.next_lsn.number() - 1;
    rig.model.injected = Some((frame.header.first_lsn.number(), last));
    rig.note(format!("rot at byte {byte} of the frame {}..={last} in slot {}", frame.header.first_lsn, frame.slot.0));
    true
}

/// After a frame was spoilt: it is reported exactly, or no promise is left that covers it.
fn spoilt(rig: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    rig.die(false);
    let (first, last) = rig.model.injected.expect("a frame was spoilt");
    // Promises of the frame's own segment, behind it or not: those are surely looked at.
    let mut promise = 0;
    for slot in look::slots(&rig.machine) {
        let frames = look::frames(&rig.machine, slot, rig.plan.block_len);
        if look::segment(&rig.machine, slot, rig.plan.block_len).is_some_and(|s| {
            s.base_lsn.number() <= first && frames.iter().any(|f| f.header.next_lsn.number() <= first + 1)
        }) {
            promise = promise.max(frames.iter().map(|f| f.header.durable_lsn.number()).max().unwrap_or(0));
        }
    }
    let found = match rig.open() {
        Err(Failure::Corrupt(holes)) => holes,
        // The frame is gone, and what it held was told durable, or shown to the sink: what the model
        // complains of then.
        Err(Failure::Broken(what)) if what.contains("was told durable") || what.contains("comes next") => Vec::new(),
        Ok(()) if (first..=last).all(|lsn| lsn <= rig.model.acked || rig.model.done.contains(&lsn)) => return Ok(()),
        Err(other) => return Err(other),
        Ok(()) => Vec::new(),
    };
    if found.is_empty() {
        if promise >= first {
            return Err(Failure::Broken(format!(
                "rot at {first}..={last} was not reported, with a promise of {promise}"
            )));
        }
        tally.undetectable += 1;
        return Ok(());
    }
    tally.detected += 1;
    // What the sink has finished of it is not lost.
    let in_holes = |lsn: u64| found.iter().any(|hole| (hole.first.number()..=hole.last.number()).contains(&lsn));
    let beyond = found.iter().any(|hole| hole.first.number() < first || hole.last.number() > last);
    let waits = (first..=last).filter(|lsn| !rig.model.ever_done.contains(lsn));
    let by_reader = found.len() == 1;
    let by_scan = rig.process.is_none();
    if beyond || !by_reader && waits.into_iter().any(|lsn| !in_holes(lsn)) {
        return Err(Failure::Broken(format!("rot at {first}..={last} was reported as {found:?}")));
    }
    // With leave to give it up, everything else is still there.
    rig.process = None;
    // What a cut takes is known where the scan has found the hole; the reader's are skipped one by one.
    let cuts = by_scan && rig.prng.chance(1, 2);
    rig.plan.policy = if cuts { OnCorruption::CutTail } else { OnCorruption::Quarantine };
    if cuts {
        let end = found[0].first.number() - 1;
        rig.model.injected = Some((end + 1, u64::MAX));
        rig.model.cut(end);
        tally.others += 1;
    }
    for lsn in first..=last {
        rig.model.current.remove(&lsn);
    }
    rig.model.decided = None;
    rig.open()?;
    drain(rig)?;
    rig.die(false);
    rig.open()?;
    drain(rig)?;
    rig.close()
}

/// Runs one history on a disk that fails once in each incarnation, with any error, at any op.
fn failing_history(rig: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    rig.faulty = true;
    for life in 0..rig.prng.within(2..=6) {
        tally.incarnations += 1;
        rig.chapter(life);
        let kind = *rig.prng.pick(&[OpKind::Write, OpKind::Write, OpKind::Sync, OpKind::Prepare, OpKind::Remove]);
        let errno = *rig.prng.pick(&[EIO, ENOSPC, EROFS]);
        let after = rig.prng.below(40);
        rig.machine.inject(Fault::error(kind, errno).after(after));
        match rig.open() {
            Err(Failure::Refused(ScanError::Disk(_))) => {
                rig.machine.heal();
                rig.process = None;
                let kill = rig.prng.chance(1, 2);
                rig.die(kill);
                continue;
            }
            other => other?,
        }
        for number in 0..rig.prng.within(10..=160) {
            if !rig.turn(life << 16 | number) {
                continue;
            }
            let failed = rig.process.as_ref().is_some_and(|p| p.failed);
            if failed && rig.prng.chance(1, 8) {
                break;
            }
            // A failed log takes completions in, and tells nothing more.
            if failed {
                rig.submit(usize::MAX)?;
                rig.step()?;
            } else {
                act_on_failing(rig)?;
            }
        }
        rig.chapter(life + 100);
        rig.machine.heal();
        tally.deaths += 1;
        tally.failures += u64::from(rig.process.as_ref().is_some_and(|p| p.failed));
        let kill = rig.prng.chance(1, 2);
        rig.die(kill);
    }
    rig.open()?;
    drain(rig)?;
    rig.close()
}

/// Reads fail here only by what was injected, which is never a read.
fn act_on_failing(rig: &mut Rig) -> Outcome<()> {
    match rig.prng.below(8) {
        0..=2 => {
            let lens = lens(rig);
            rig.append(&lens)?;
            rig.submit(usize::MAX).map(|_| ())
        }
        3..=5 => rig.step().map(|_| ()),
        6 => {
            let time = Duration::from_micros(rig.prng.within(1..=4_000));
            rig.wait(time)
        }
        _ => finish_some(rig),
    }
}

/// A history in which every opening codes in a way of its own; after each death a copy of the machine is opened too.
#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
fn coded_history(rig: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    for life in 0..rig.prng.within(3..=8) {
        rig.chapter(life);
        rig.open()?;
        for number in 0..rig.prng.within(10..=120) {
            if rig.turn(life << 16 | number) {
                act(rig)?;
            }
        }
        rig.chapter(life + 100);
        let kill = rig.prng.chance(1, 3);
        rig.die(kill);
        tally.deaths += 1;
        // Both write on from here, the copy other entries under the same numbers.
        let mut copy = rig.fork(rig.plan.seed ^ life << 32 | 1 << 50);
        copy.model.next_id += 1 << 30;
        copy.open()?;
        for _ in 0..8 {
            copy.append(&[50, 400])?;
            copy.submit(usize::MAX)?;
        }
        copy.die(false);
    }
    rig.open()?;
    drain(rig)?;
    rig.close()?;
    tally.entries += rig.witness.encrypted();
    tally.others += rig.witness.repeated();
    Ok(())
}

const CRASHES: Play = Play { name: "crashes", plan, run: |rig, tally| history(rig, false, tally) };
const ROT: Play = Play { name: "rot", plan, run: |rig, tally| history(rig, true, tally) };
const FAILURES: Play = Play { name: "failures", plan, run: failing_history };

#[test]
fn whatever_was_told_durable_survives_every_crash() {
    let tally = run_all(&seeds(1), CRASHES);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.deaths_in_recovery > 0 && tally.deaths > 0, "the simulation does what it says");
}

#[test]
fn rot_below_a_promise_is_reported_exactly_and_nothing_else_is_lost() {
    let tally = run_all(&seeds(4), ROT);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.detected > 20, "rot is detected at all: {tally:?}");
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_told_durable_and_reopening_recovers() {
    let tally = run_all(&seeds(4), FAILURES);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.failures > 100, "logs do fail: {tally:?}");
}

/// Of the histories that draw a nonce again for another frame after a crash or on a copy, none does so with one key.
#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
#[test]
fn no_key_and_nonce_ever_encrypt_two_frames_over_crashes_reused_slots_and_copies() {
    let plan = |seed| harness::Plan { coded: true, ..plan(seed) };
    let tally = run_all(&seeds(8), Play { name: "nonces", plan, run: coded_history });
    println!("{} frames encrypted, {} nonces came again under another key", tally.entries, tally.others);
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.others > 100, "nonces alone do come again, or this shows nothing: {tally:?}");
}

/// A history that fails is shrunk to few actions, and what is left replays.
#[test]
fn a_failure_is_shrunk_and_replays_exactly() {
    let pool = pool();
    let mutants = Mutants::only(&[Mutant::NoDsync]);
    let seed = (1..100).find(|seed| fails(*seed, CRASHES, mutants, &pool)).expect("it is noticed in 100 histories");
    let story = || run(seed, CRASHES, mutants, &pool).expect_err("it failed before");
    let told = story();
    assert_eq!(told, story(), "a seed replays exactly");
    let (all, rest) =
        told.split_once("shrunk from ").expect("it says so").1.split_once(" actions to ").expect("it says how far");
    let least = rest.split_once(':').expect("a list follows").0;
    let [all, least] = [all, least].map(|n| n.parse::<u32>().expect("a number"));
    println!("{all} actions became {least}");
    assert!(least < all && least <= 30, "{told}");
}

/// How often chance alone notices that a rule is missing: for the table in `docs/simulation.md`.
#[test]
fn how_often_each_mutant_is_caught_by_chance() {
    let histories = number("RINGWAL_SIM_MUTANTS").unwrap_or(40);
    let pool = pool();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut sum = 0;
    // With two segments of one uid recovery walks in circles: that one is the scripts'.
    for mutant in Mutant::ALL.iter().filter(|mutant| **mutant != Mutant::SameUid) {
        let caught =
            |play: Play| (1..=histories).filter(|seed| fails(*seed, play, Mutants::only(&[*mutant]), &pool)).count();
        let counts = [CRASHES, ROT, FAILURES].map(caught);
        println!("| `{mutant:?}` | {} | {} | {} | of {histories}", counts[0], counts[1], counts[2]);
        sum += counts.iter().sum::<usize>();
    }
    std::panic::set_hook(hook);
    assert!(sum > 100, "chance finds the plain ones");
}
