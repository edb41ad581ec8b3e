//! A disk that lies, at the k-th op for every k of a scripted life: writes that are lost or land on another
//! frame's place, reads that bring an older state. And one that hangs, or is full for an hour.
//!
//! A lie is found by the next opening and reported, or it is harmless, or what it took lies above every promise.
//! Never a panic, never wrong bytes, never something that was given up (I3, I5).

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use harness::rig::pool;
use harness::script::{calm, fill};
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::sim::{DiskKind, Fault, OpKind, SectorFate};
use ringwal::wal::block::Pool;
use ringwal::wal::log::{Commit, Room};
use ringwal::wal::op::{FileId, LogId};

fn plan(kind: DiskKind) -> Plan {
    Plan { kind, segment_blocks: 8, slots_max: 4, ..Plan::default() }
}

/// Three segments, a reuse, an opening in the middle.
fn life(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    fill(rig, 9)?;
    rig.ack(1..=8)?;
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    fill(rig, 5)?;
    rig.process = None;
    rig.open()?;
    fill(rig, 6)
}

/// The freshest promise that can be read anywhere but there: a segment whose header is not seen for what it is
/// hides the promises in its frames.
fn promise(rig: &Rig, except: Option<FileId>) -> u64 {
    let mut promise = 0;
    let seen = |slot: &ringwal::SlotNo| except != Some(FileId::Slot(LogId::Main, *slot));
    for slot in look::slots(&rig.machine).into_iter().filter(seen) {
        let header = look::segment(&rig.machine, slot, 512).map_or(0, |header| header.durable_lsn.number());
        let frames = look::frames(&rig.machine, slot, 512);
        let limit = rig.model.durable;
        let of_frames = frames.iter().map(|f| f.header.durable_lsn.number()).filter(|p| *p <= limit).max();
        promise = promise.max(header).max(of_frames.unwrap_or(0));
    }
    promise
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    Harmless,
    Reported,
    Untold,
}

/// A life with this fault; then every sector is kept, and the store is opened on a disk that tells the truth.
fn lied_to(rig: &mut Rig, fault: Fault, except: Option<FileId>) -> Result<Came, String> {
    rig.faulty = true;
    rig.machine.inject(fault);
    let lived = life(rig);
    rig.machine.heal();
    rig.machine.crash_with(|_, _| SectorFate::Kept);
    rig.process = None;
    let opened = lived.and_then(|()| {
        rig.model.decided = None;
        rig.open()
    });
    match opened {
        Ok(()) => Ok(Came::Harmless),
        Err(Failure::Corrupt(_) | Failure::Refused(_) | Failure::Unread(_)) => Ok(Came::Reported),
        Err(Failure::Broken(why)) => {
            let end =
                why.split_once("was told durable, and the log ends at ").and_then(|(_, end)| end.parse::<u64>().ok());
            let promise = promise(rig, except);
            match end {
                // It ends where the last promise does, or behind it.
                Some(end) if end >= promise => Ok(Came::Untold),
                Some(end) => Err(format!("silent below a promise: ends at {end}, promised {promise}: {why}")),
                // What the lost write of a cursor, or a stale read of it, costs: a second delivery.
                None if why.starts_with("the cursor fell") => Ok(Came::Untold),
                None => Err(why),
            }
        }
        Err(other) => Err(format!("{other:?}")),
    }
}

fn at_every_op(kind: OpKind, fault: impl Fn(u64) -> Fault) -> [usize; 3] {
    let pool: Pool = pool();
    let mut counts = [0; 3];
    for device in [DiskKind::Flush, DiskKind::Fua] {
        let mut well = Rig::new(plan(device), pool.clone());
        assert!(life(&mut well).is_ok(), "the life itself");
        let history = well.machine.history().into_iter().filter(|op| op.kind == kind);
        let ops: Vec<FileId> = history.map(|op| op.file).collect();
        drop(well);
        for (k, file) in (0_u64..).zip(ops) {
            let except = (kind == OpKind::Read).then_some(file);
            let mut rig = Rig::new(plan(device), pool.clone());
            let came = catch_unwind(AssertUnwindSafe(|| lied_to(&mut rig, fault(k).after(k), except)));
            match came {
                Ok(Ok(came)) => counts[came as usize] += 1,
                Ok(Err(why)) => panic!("{device:?}, {} {k}: {why}\n{}", kind.name(), rig.story(60, 60)),
                Err(_) => panic!("{device:?}, {} {k}: a panic\n{}", kind.name(), rig.story(60, 60)),
            }
        }
    }
    println!("{} harmless, {} reported, {} above every promise or delivered again", counts[0], counts[1], counts[2]);
    counts
}

#[test]
fn a_write_that_is_lost_is_reported_or_harmless_or_above_every_promise() {
    let [harmless, reported, _] = at_every_op(OpKind::Write, |_| Fault::lost());
    assert!(harmless > 5 && reported > 5);
}

#[test]
fn a_write_that_lands_on_another_frame_is_reported_or_harmless_or_above_every_promise() {
    for offset in [0, 1024, 2048, 3072] {
        let slot = |k: u64| FileId::Slot(LogId::Main, ringwal::SlotNo(u32::try_from(k % 3).expect("small")));
        let [harmless, reported, _] = at_every_op(OpKind::Write, |k| Fault::misdirected(slot(k), offset));
        assert!(harmless + reported > 5);
    }
}

#[test]
fn a_read_that_brings_an_older_state_is_reported_or_harmless_or_above_every_promise() {
    let [harmless, reported, _] = at_every_op(OpKind::Read, |_| Fault::stale());
    assert!(harmless > 0 && reported > 5);
}

/// Nothing is told durable while a write hangs, nothing else is lost by it, and it goes on when the disk does.
#[test]
fn a_disk_that_hangs_holds_everything_back_until_it_goes_on_or_the_machine_dies() {
    for commit in [Commit::Immediate, Commit::Periodic(Duration::from_millis(1))] {
        for kind in [OpKind::Write, OpKind::Sync, OpKind::Prepare] {
            for dies in [false, true] {
                let mut rig = Rig::new(Plan { commit, ..plan(DiskKind::Flush) }, pool());
                let mut script = || -> Outcome<()> {
                    rig.open()?;
                    fill(&mut rig, 2)?;
                    rig.machine.inject(Fault::hung(kind).forever());
                    let told = rig.model.durable;
                    let mut taken = 0;
                    for _ in 0..4_000 {
                        taken += rig.append(&[1_200])?;
                        rig.submit(usize::MAX)?;
                        rig.step()?;
                        rig.wait(Duration::from_secs(1))?;
                    }
                    if kind == OpKind::Write && rig.model.durable != told {
                        return Err(Failure::Broken("told durable, and the write hangs".into()));
                    }
                    if taken == 4_000 {
                        return Err(Failure::Broken("memory without bound".into()));
                    }
                    if dies {
                        rig.machine.crash_with(|_, _| SectorFate::Lost);
                        rig.process = None;
                        rig.machine.heal();
                        return rig.open();
                    }
                    rig.machine.heal();
                    let lsns: Vec<u64> = rig.model.shown.keys().copied().collect();
                    rig.ack(lsns)?;
                    for _ in 0..4_000 {
                        rig.flush()?;
                        if rig.model.is_durable() {
                            break;
                        }
                        let open = rig.unfinished();
                        rig.ack(open)?;
                        rig.wait(Duration::from_millis(20))?;
                    }
                    if !rig.model.is_durable() {
                        return Err(Failure::Broken("the disk goes on, and the log does not".into()));
                    }
                    rig.close()
                };
                if let Err(failure) = script() {
                    panic!("{commit:?}, {kind:?}, dies {dies}: {failure:?}\n{}", rig.story(30, 40));
                }
            }
        }
    }
}

/// An hour without space: nobody fails, what has a place is durable, the cursor still works; then it goes on.
#[test]
fn a_disk_that_is_full_for_an_hour_is_no_failure_and_goes_on_when_it_is_freed() {
    for commit in [Commit::Immediate, Commit::Periodic(Duration::from_millis(1))] {
        let mut rig = Rig::new(Plan { commit, slots_max: 8, ..plan(DiskKind::Flush) }, pool());
        let mut script = || -> Outcome<()> {
            rig.open()?;
            fill(&mut rig, 2)?;
            let used: u64 =
                rig.machine.files().iter().filter_map(|f| rig.machine.file(*f)).map(|f| f.len() as u64).sum();
            rig.machine.set_space(Some(used));
            for _ in 0..3_600 {
                rig.append(&[300])?;
                rig.submit(usize::MAX)?;
                rig.step()?;
                rig.wait(Duration::from_secs(1))?;
            }
            if rig.log().failure().is_some() || rig.log().room() != Room::NoSpace {
                return Err(Failure::Broken(format!("{:?}", rig.log().room())));
            }
            let (cursor, durable) = (rig.model.cursor_durable, rig.model.durable);
            rig.ack([1, 2])?;
            rig.wait(Duration::from_millis(6))?;
            calm(&mut rig)?;
            if rig.model.cursor_durable == cursor || durable < 4 {
                return Err(Failure::Broken("acknowledging needs no space".into()));
            }
            rig.machine.set_space(None);
            rig.flush()?;
            if !rig.model.is_durable() {
                return Err(Failure::Broken("the space is back, and nothing goes on".into()));
            }
            rig.close()?;
            rig.open()
        };
        if let Err(failure) = script() {
            panic!("{commit:?}: {failure:?}\n{}", rig.story(30, 40));
        }
    }
}
