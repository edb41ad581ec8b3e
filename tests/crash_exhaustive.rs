//! No chance here: one scripted run, crashed after every single event of the machine, torn at every
//! sector of every write at stake, each image recovered twice.

mod harness;

use std::time::Duration;

use harness::rig::pool;
use harness::{Failure, Outcome, Plan, Rig};
use ringwal::sim::{DiskKind, SectorFate};
use ringwal::wal::log::Commit;

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
