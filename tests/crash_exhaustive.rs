//! No chance here: one scripted run, crashed after every single event of the machine, torn at every
//! sector of every write at stake, each image recovered twice; and a small store with every byte spoilt.

mod harness;

use std::time::Duration;

use harness::rig::pool;
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::sim::{DiskKind, SectorFate};
use ringwal::wal::cursor::cursor_copy_len;
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameKind};
use ringwal::wal::log::Commit;
use ringwal::wal::meta::meta_copy_len;
use ringwal::wal::op::{FileId, LogId};

/// Entries, three rotations, a reuse, a restart in the middle, and a close in order.
fn script(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    for round in 0..9_u64 {
        rig.append(&[40, 100 + 150 * usize::try_from(round % 4).expect("small"), 600])?;
        rig.submit(usize::MAX)?;
        rig.append(&[30])?;
        let now = rig.clock.now();
        rig.log().seal(now);
        rig.submit(2)?;
        rig.step()?;
        if round % 3 == 2 {
            rig.flush()?;
            let acked = rig.model.durable.saturating_sub(4);
            let lsns: Vec<u64> = rig.model.current.range(..=acked).map(|(lsn, _)| *lsn).collect();
            rig.ack(lsns)?;
            let one_more: Vec<u64> = rig.model.current.range(acked + 2..).map(|(lsn, _)| *lsn).take(1).collect();
            rig.ack(one_more)?;
            rig.wait(Duration::from_millis(6))?;
        }
        rig.submit(usize::MAX)?;
        while rig.machine.in_flight_count() > 1 {
            rig.step()?;
        }
        if round == 4 {
            rig.die(false);
            rig.open()?;
        }
    }
    rig.flush()?;
    rig.close()
}

/// Every crash that the machine can have now.
fn every_crash(rig: &Rig) -> Result<u64, String> {
    let unstable = rig.machine.unstable();
    let mut images = 0;
    let mut check = |what: &str, fate: &mut dyn FnMut(u64, usize) -> bool| {
        let mut fork = rig.fork(images + 1);
        fork.machine.crash_with(
            |write, sector| {
                if fate(write.number, sector) { SectorFate::Kept } else { SectorFate::Lost }
            },
        );
        images += 1;
        recover_twice(&mut fork)
            .map_err(|e| format!("crash with {what}: {e:?}\n{}\nafter\n{}", fork.story(20, 20), rig.story(40, 20)))
    };
    check("everything lost", &mut |_, _| false)?;
    if unstable.is_empty() {
        return Ok(images);
    }
    check("everything kept", &mut |_, _| true)?;
    for write in unstable.iter().filter(|w| !w.completed) {
        let sectors = usize::try_from(write.len / 512).expect("small");
        for cut in 0..=sectors {
            // A cursor's 32 sectors differ from a frame's four in nothing but number.
            if sectors > 8 && cut % 8 > 1 {
                continue;
            }
            let what = format!("write #{} torn at sector {cut}", write.number);
            check(&what, &mut |n, sector| n == write.number && sector < cut)?;
            check(&what, &mut |n, sector| n != write.number || sector < cut)?;
            check(&what, &mut |n, sector| n != write.number || sector >= cut)?;
        }
    }
    Ok(images)
}

fn recover_twice(fork: &mut Rig) -> Outcome<()> {
    fork.open()?;
    let first = (fork.model.durable, fork.model.next, fork.model.acked, fork.model.done.clone());
    fork.die(false);
    fork.open()?;
    let second = (fork.model.durable, fork.model.next, fork.model.acked, fork.model.done.clone());
    if first != second {
        return Err(Failure::Broken(format!("recovered as {first:?}, then as {second:?}")));
    }
    // And it goes on from there.
    fork.append(&[50])?;
    fork.submit(usize::MAX)?;
    Ok(())
}

fn crash_everywhere(commit: Commit, kind: DiskKind) {
    let plan = Plan { kind, commit, slots_max: 3, segment_blocks: 12, ..Plan::default() };
    let mut rig = Rig::new(plan, pool());
    rig.probe = Some(every_crash);
    if let Err(failure) = script(&mut rig) {
        panic!("{failure:?}\n{}", rig.story(40, 40));
    }
    assert!(rig.machine.history().iter().filter(|op| op.offset == 0 && op.dsync).count() > 3, "segments were rotated");
    println!("{commit:?} {kind:?}: {} images after {} ops", rig.probed, rig.machine.op_count());
    assert!(rig.probed > 400);
}

#[test]
fn every_crash_of_an_immediate_run_on_a_flushing_device() {
    crash_everywhere(Commit::Immediate, DiskKind::Flush);
}

#[test]
fn every_crash_of_an_immediate_run_on_a_fua_device() {
    crash_everywhere(Commit::Immediate, DiskKind::Fua);
}

#[test]
fn every_crash_of_a_periodic_run_on_a_flushing_device() {
    crash_everywhere(Commit::Periodic(Duration::from_millis(1)), DiskKind::Flush);
}

#[test]
fn every_crash_of_a_periodic_run_on_a_fua_device() {
    crash_everywhere(Commit::Periodic(Duration::from_millis(1)), DiskKind::Fua);
}

#[test]
fn every_crash_of_a_spilling_run() {
    crash_everywhere(Commit::Spill, DiskKind::Fua);
}

/// A closed store of two segments with consumed, finished and waiting entries.
fn small_closed_store() -> Rig {
    let plan = Plan { segment_blocks: 10, slots_max: 4, ..Plan::default() };
    let mut rig = Rig::new(plan, pool());
    let built = (|| {
        rig.open()?;
        for _ in 0..7 {
            rig.append(&[60, 300])?;
            rig.flush()?;
            rig.append(&[700])?;
            rig.flush()?;
        }
        rig.ack(1..=5)?;
        rig.ack([8])?;
        rig.close()
    })();
    if let Err(failure) = built {
        panic!("{failure:?}\n{}", rig.story(40, 40));
    }
    rig
}

#[test]
fn a_flipped_bit_anywhere_in_a_closed_store_is_harmless_or_reported_exactly() {
    let rig = small_closed_store();
    let block_len = rig.plan.block_len;
    // What a flip may hurt: frames with an entry that the sink has not finished.
    let mut hurt = Vec::new();
    for slot in look::slots(&rig.machine) {
        for frame in look::frames(&rig.machine, slot, block_len) {
            let (first, next) = (frame.header.first_lsn.number(), frame.header.next_lsn.number());
            let waits: Vec<u64> = (first..next).filter(|lsn| !rig.model.ever_done.contains(lsn)).collect();
            if frame.header.kind == FrameKind::Data && !waits.is_empty() {
                let len = (FRAME_HEADER_LEN + frame.header.body_len as usize) as u64;
                hurt.push((FileId::Slot(LogId::Main, slot), frame.offset..frame.offset + len, waits));
            }
        }
    }
    assert!(hurt.len() > 8, "{} frames wait in {:?}", hurt.len(), look::uids(&rig.machine, block_len));
    let cursors = 2 * meta_copy_len(block_len)..2 * meta_copy_len(block_len) + 2 * cursor_copy_len(block_len);
    let (mut harmless, mut reported) = (0, 0);
    for file in rig.machine.files() {
        let len = rig.machine.file(file).expect("it is listed").len() as u64;
        for at in 0..len {
            // Of the long tables and unused space a sample; of what says something, all.
            let sparse = matches!(file, FileId::Meta(_)) && cursors.contains(&at) && at % 16_384 > 96 && at % 61 != 0;
            if sparse {
                continue;
            }
            let mut fork = rig.fork(at);
            fork.machine.rot(file, at, 1 << (at % 8));
            // The other copy of the cursor may step in: what it does not know is delivered again.
            fork.model.cursor_durable = 0;
            let expected = hurt.iter().find(|(f, range, _)| *f == file && range.contains(&at));
            match (fork.open(), expected) {
                (Ok(()), None) => harmless += 1,
                (Err(Failure::Corrupt(holes)), Some((_, _, waits))) => {
                    reported += 1;
                    let (first, last) = (holes[0].first.number(), holes.last().expect("one").last.number());
                    assert_eq!((first, last), (waits[0], waits[waits.len() - 1]), "{file} at {at}: {holes:?}");
                }
                (got, expected) => {
                    panic!("{file} at {at}: {got:?}, with {expected:?} at stake\n{}", fork.story(20, 10))
                }
            }
        }
    }
    println!("{harmless} flips were harmless, {reported} were reported");
    assert!(harmless > 1_000 && reported > 1_000);
}
