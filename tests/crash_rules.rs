//! What carries weight beside the order of writing: for each rule a scripted history that holds with it and
//! breaks without it, as in `crash_scripts.rs`. And: no mutant is left without a test and a row in the table.
//!
//! | rule | mutant | what happens without it |
//! |---|---|---|
//! | a failed sync is final | `SyncAgain` | the next sync succeeds over data that is gone |
//! | a frame of `Immediate` is a durable write | `NoDsync` | acknowledged entries sit in a cache |
//! | a frame is written when all of it is | `PartIsAll` | a half of it is synced and acknowledged |
//! | `Spill` reserves before it shows | `NoReserve` | a number names two entries |
//! | what was reserved is not given out | `ReservedForgotten` | the same |
//! | what is left out is said by a SKIP (W5) | `NoSkip` | acknowledged entries behind the gap are lost |
//! | each use of a slot has its own uid (W6) | `SameUid` | a frame of an older use is taken in |
//! | a body's checksum | `BodyUnchecked` | bytes that nobody appended |
//! | a header's checksum | `HeaderUnchecked` | a promise that nobody made |
//! | two copies of META | `OneMeta` | a torn META costs the store |
//! | the copy that holds is not touched | `CursorInPlace` | a torn cursor falls back too far |
//! | what is finished above the cursor is dead | `NoRanges` | rot in it stops the log |
//! | the end at which the log was closed | `NoCleanEnd` | rot in its last entries is taken for a tear |
//! | a cut takes its promises with it | `CutKeepsPromise` | the next opening calls the cut a hole |
//! | what is in flight is not written | `InFlightIsWritten` | rings in shared memory let go of what a killed process never wrote |

mod harness;

use std::time::Duration;

use harness::script::{
    BOTH, calm, caught, cut_keeping, fill, frame_of, is_cursor, is_data, is_slot, land, newest, off, plan, reopen, send,
};
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::Lsn;
use ringwal::sim::{Fault, OpKind, OpRecord, SectorFate};
use ringwal::wal::cursor::{CURSOR_LEN, cursor_offset};
use ringwal::wal::frame::FrameKind;
use ringwal::wal::log::Commit;
use ringwal::wal::mutant::Mutant;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::OnCorruption;

const EIO: i32 = 5;

/// Every error of the kernel is final, and nothing waits to be tried again: what fsyncgate taught.
#[test]
fn mutant_sync_again_is_caught() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_millis(2)), ..plan() };
    caught(&[Mutant::SyncAgain], &BOTH, &plan, &|rig| {
        rig.faulty = true;
        rig.open()?;
        fill(rig, 1)?;
        let op = send(rig, &[20])?;
        land(rig, op)?;
        rig.machine.inject(Fault::gone(EIO));
        rig.settle(|_| false)?;
        // No second sync, whatever time passes and whoever asks.
        let now = rig.clock.now();
        rig.log().commit_now(now);
        rig.wait(Duration::from_secs(10))?;
        calm(rig)?;
        let history = rig.machine.history();
        let failed = history.iter().position(|op| op.kind == OpKind::Sync && op.completed.is_some_and(|c| c.1 == EIO));
        let Some(failed) = failed else { return off("no sync failed") };
        if let Some(again) = history[failed + 1..].iter().find(|op| op.kind == OpKind::Sync) {
            return Err(Failure::Broken(format!("after a failed sync: {again}")));
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// The same mutant by what is lost: the entry is told durable, and gone.
#[test]
fn what_a_failed_sync_has_lost_is_not_told_durable_by_a_later_one() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_millis(2)), ..plan() };
    caught(&[Mutant::SyncAgain], &BOTH, &plan, &|rig| {
        rig.faulty = true;
        rig.open()?;
        fill(rig, 1)?;
        let op = send(rig, &[20])?;
        land(rig, op)?;
        rig.machine.inject(Fault::gone(EIO));
        rig.settle(|_| false)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_no_dsync_is_caught() {
    caught(&[Mutant::NoDsync], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 3)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_part_is_all_is_caught() {
    let plan = Plan { commit: Commit::Spill, ..plan() };
    caught(&[Mutant::PartIsAll], &BOTH, &plan, &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        // Two blocks: the header's block and the rest are two ops, because delivery reads the frame already.
        rig.append(&[700])?;
        let now = rig.clock.now();
        rig.log().spill(now);
        rig.submit(usize::MAX)?;
        let Some(front) = newest(rig, is_data) else { return off("the frame did not go out") };
        land(rig, front)?;
        rig.submit(usize::MAX)?;
        if let Some(sync) = newest(rig, |op| op.kind == OpKind::Sync) {
            land(rig, sync)?;
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// An entry of `Spill` that only the sink has seen, when the power goes.
fn shown_and_lost(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    rig.append(&[20])?;
    let now = rig.clock.now();
    rig.log().seal(now);
    calm(rig)?;
    if rig.model.shown.is_empty() {
        return off("the sink has seen nothing");
    }
    cut_keeping(rig, &[]);
    rig.open()?;
    fill(rig, 1)?;
    cut_keeping(rig, &[]);
    reopen(rig)
}

#[test]
fn mutant_no_reserve_is_caught() {
    let plan = Plan { commit: Commit::Spill, ..plan() };
    caught(&[Mutant::NoReserve], &BOTH, &plan, &shown_and_lost);
}

#[test]
fn mutant_reserved_forgotten_is_caught() {
    let plan = Plan { commit: Commit::Spill, ..plan() };
    caught(&[Mutant::ReservedForgotten], &BOTH, &plan, &shown_and_lost);
}

#[test]
fn mutant_no_skip_is_caught() {
    let plan = Plan { commit: Commit::Spill, ..plan() };
    caught(&[Mutant::NoSkip], &BOTH, &plan, &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        for _ in 0..3 {
            rig.append(&[20])?;
            let now = rig.clock.now();
            rig.log().seal(now);
        }
        calm(rig)?;
        // The second is finished, and need not be written; the cursor that says so is not on disk yet.
        rig.ack([1, 2])?;
        let now = rig.clock.now();
        rig.log().spill(now);
        calm(rig)?;
        let skip = |op: &OpRecord| is_slot(op) && op.head.starts_with(b"RWFR") && op.head[4] == 4;
        if !rig.plan.mutants.has(Mutant::NoSkip) && !rig.machine.history().iter().any(skip) {
            return off("nothing was left out");
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// As the script of `NoUid`: an old frame with the very LSN that comes next stands behind the new one.
#[test]
fn mutant_same_uid_is_caught() {
    let script = |rig: &mut Rig| -> Outcome<()> {
        rig.open()?;
        fill(rig, 30)?;
        rig.ack(1..=28)?;
        fill(rig, 8)?;
        rig.ack(1..=36)?;
        fill(rig, 8)?;
        let mut seen = std::collections::BTreeSet::new();
        for op in rig.machine.history().iter().filter(|op| op.kind == OpKind::Write && is_slot(op) && op.offset == 0) {
            if !seen.insert(op.head[32..40].to_vec()) {
                return Err(Failure::Broken("a uid was used twice".into()));
            }
        }
        if seen.len() > 3 { Ok(()) } else { off("too few segments") }
    };
    caught(&[Mutant::SameUid], &BOTH, &Plan { slots_max: 8, ..plan() }, &script);
}

fn rot_body_of(rig: &Rig, lsn: u64) {
    let frame = frame_of(rig, lsn);
    rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + 100, 1);
}

#[test]
fn mutant_body_unchecked_is_caught() {
    caught(&[Mutant::BodyUnchecked], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        rot_body_of(rig, 2);
        cut_keeping(rig, &[]);
        match rig.open() {
            Err(Failure::Corrupt(holes)) if (holes[0].first, holes[0].last) == (Lsn::new(2), Lsn::new(2)) => Ok(()),
            Ok(()) => Err(Failure::Broken("rot was not noticed".into())),
            Err(other) => Err(other),
        }
    });
}

/// A frame that was never acknowledged rots so that it promises what a tear has taken.
#[test]
fn mutant_header_unchecked_is_caught() {
    caught(&[Mutant::HeaderUnchecked], &BOTH, &Plan { segment_blocks: 16, ..plan() }, &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        for _ in 0..3 {
            send(rig, &[20])?;
        }
        let last = send(rig, &[20])?;
        land(rig, last)?;
        let frame = frame_of(rig, 8);
        if frame.header.durable_lsn != Lsn::new(4) {
            return off("it promises something else");
        }
        rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + 32, 2);
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// The power goes while META is written by an opening: the copy that is not being written holds.
#[test]
fn mutant_one_meta_is_caught() {
    caught(&[Mutant::OneMeta], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 2)?;
        cut_keeping(rig, &[]);
        for fuse in 0..60 {
            rig.fuse = Some(fuse);
            match rig.open() {
                Err(Failure::Died) => {}
                other => return other,
            }
            // Whatever was in flight is garbage now, as far as META goes.
            for op in rig.machine.history().iter().rev().take(1) {
                if op.file == FileId::Meta(LogId::Main) && op.kind == OpKind::Write && op.completed.is_none() {
                    for byte in 0..256 {
                        rig.machine.rot(op.file, op.offset + byte, 0x5a);
                    }
                }
            }
        }
        off("opening takes more steps")
    });
}

#[test]
fn mutant_cursor_in_place_is_caught() {
    caught(&[Mutant::CursorInPlace], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        for acked in 1..=2 {
            rig.ack(1..=acked)?;
            rig.wait(Duration::from_millis(6))?;
            calm(rig)?;
        }
        rig.ack(1..=3)?;
        rig.wait(Duration::from_millis(6))?;
        rig.submit(usize::MAX)?;
        let Some(cursor) = newest(rig, is_cursor) else { return off("no cursor") };
        rig.machine.crash_with(|w, sector| match w.number == cursor {
            true => SectorFate::Garbage(sector as u64),
            false => SectorFate::Lost,
        });
        rig.process = None;
        reopen(rig)
    });
}

#[test]
fn mutant_no_ranges_is_caught() {
    caught(&[Mutant::NoRanges], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 5)?;
        rig.ack([3])?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        rot_body_of(rig, 3);
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// The last frame and the SEAL behind it rot: only META knows still that the log went so far.
#[test]
fn mutant_no_clean_end_is_caught() {
    caught(&[Mutant::NoCleanEnd], &BOTH, &Plan { segment_blocks: 16, ..plan() }, &|rig| {
        rig.open()?;
        fill(rig, 3)?;
        rig.close()?;
        let frame = frame_of(rig, 3);
        let file = FileId::Slot(LogId::Main, frame.slot);
        let seal = look::frames(&rig.machine, frame.slot, 512).into_iter().find(|f| f.header.kind == FrameKind::Seal);
        let Some(seal) = seal else { return off("no SEAL") };
        rig.machine.rot(file, frame.offset + 100, 1);
        rig.machine.rot(file, seal.offset + 8, 1);
        match rig.open() {
            Err(Failure::Corrupt(holes)) if (holes[0].first, holes[0].last) == (Lsn::new(3), Lsn::new(3)) => Ok(()),
            Ok(()) => Err(Failure::Broken("rot was not noticed".into())),
            Err(other) => Err(other),
        }
    });
}

/// Opens with leave to cut before 2, and then thrice without: what the cut left must not be called a hole.
fn cut_before_2_and_reopen(rig: &mut Rig) -> Outcome<()> {
    rig.plan.policy = OnCorruption::CutTail;
    rig.model.injected = Some((2, rig.model.next - 1));
    rig.model.cut(1);
    rig.open()?;
    rig.plan.policy = OnCorruption::Stop;
    for _ in 0..2 {
        cut_keeping(rig, &[]);
        rig.open()?;
    }
    fill(rig, 2)?;
    cut_keeping(rig, &[]);
    rig.open()
}

/// The cursor's promise: found by fuzzing whole directories, see `crash_found.rs`.
#[test]
fn mutant_cut_keeps_promise_is_caught() {
    caught(&[Mutant::CutKeepsPromise], &BOTH, &Plan { segment_blocks: 16, ..plan() }, &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        rig.ack([1])?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        rot_body_of(rig, 2);
        cut_keeping(rig, &[]);
        cut_before_2_and_reopen(rig)
    });
}

/// What `Log::written` covers is let go of by rings that outlive the process: whoever opens next must find it, though
/// nothing of it was synced and what was in flight has not landed.
#[test]
fn mutant_in_flight_is_written_is_caught() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_secs(60)), inflight_max: 2, ..plan() };
    caught(&[Mutant::InFlightIsWritten], &BOTH, &plan, &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let frames = [send(rig, &[20])?, send(rig, &[20])?];
        for landed in 0..=frames.len() {
            let written = rig.log().written().number();
            if written < 1 + landed as u64 {
                return off("a write that has ended does not count");
            }
            // The process dies on a copy of the machine, and takes what is in flight along.
            let mut heir = rig.fork(landed as u64);
            heir.machine.crash_with(|write, _| if write.completed { SectorFate::Kept } else { SectorFate::Lost });
            heir.open()?;
            let end = heir.log().end().number();
            if end < written {
                return Err(Failure::Broken(format!("{written} were called written, and {end} are there")));
            }
            if let Some(frame) = frames.get(landed) {
                land(rig, *frame)?;
            }
        }
        Ok(())
    });
}

/// Every mutant has a test that is named after it, here, in `crash_scripts.rs` or in `told_at_least_once.rs`, and a row in
/// the table.
#[test]
fn every_mutant_has_its_script_and_its_row() {
    let sources =
        [include_str!("crash_scripts.rs"), include_str!("crash_rules.rs"), include_str!("told_at_least_once.rs")];
    let table = include_str!("../docs/simulation.md");
    assert_eq!(Mutant::ALL.len(), Mutant::SettledUntold as usize + 1, "ALL has them all");
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        let test = format!("#[test]\nfn mutant{snake}_is_caught()");
        assert!(sources.iter().any(|source| source.contains(&test)), "no mutant{snake}_is_caught");
        assert!(table.contains(&format!("`{name}`")), "{name} has no row in docs/simulation.md");
    }
    // A cursor's copies lie apart, or one tear could take both.
    assert!(cursor_offset(1, 512) - cursor_offset(0, 512) >= CURSOR_LEN as u64);
}
