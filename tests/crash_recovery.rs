//! Crashes of recovery itself, at every step, up to three in a row; and many lives in a row with every mixture
//! of what happens between two crashes. No chance but in what a torn write leaves.
//!
//! An interrupted recovery must find the same end again (I8), lose nothing that was told durable (I1), bring
//! nothing back that was given up (I3), and leave a store that goes on from there.

mod harness;

use std::time::Duration;

use harness::rig::pool;
use harness::script::{calm, cut_keeping, fill, frame_of, is_cursor, is_data, is_header, land, newest, off, send};
use harness::{Failure, Outcome, Plan, Rig};
use ringwal::sim::{DiskKind, SectorFate};
use ringwal::wal::block::Pool;
use ringwal::wal::log::Commit;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::OnCorruption;

/// A store as a crash has left it, and what may be expected of it.
type Making = fn(&mut Rig) -> Outcome<()>;

const STORES: [(&str, Making); 7] = [
    ("new", |_| Ok(())),
    ("abandoned", abandoned),
    ("consumed", consumed),
    ("closed", closed),
    ("spilled", spilled),
    ("quarantined", |rig| spoilt(rig, OnCorruption::Quarantine)),
    ("cut", |rig| spoilt(rig, OnCorruption::CutTail)),
];

/// A torn tail, and behind it a segment that recovery has to void.
fn abandoned(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    fill(rig, 5)?;
    rig.ack(1..=2)?;
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    // Frames are lost until there is a rotation; what the next segment holds is kept.
    for _ in 0..4 {
        let frame = send(rig, &[20])?;
        if let Some(header) = newest(rig, is_header) {
            land(rig, header)?;
            land(rig, frame)?;
            let frame = send(rig, &[20])?;
            cut_keeping(rig, &[frame]);
            return Ok(());
        }
    }
    off("no rotation")
}

/// Everything is consumed, and the power goes while a slot is used again.
fn consumed(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    fill(rig, 14)?;
    rig.ack(1..=14)?;
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    fill(rig, 2)?;
    rig.ack(1..=15)?;
    rig.wait(Duration::from_millis(6))?;
    rig.submit(usize::MAX)?;
    let Some(cursor) = newest(rig, is_cursor) else { return off("no cursor") };
    cut_keeping(rig, &[cursor]);
    Ok(())
}

fn closed(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    fill(rig, 8)?;
    rig.ack([1, 2, 5])?;
    rig.close()
}

/// Numbers were reserved, and shown to the sink, and are not in the log.
fn spilled(rig: &mut Rig) -> Outcome<()> {
    rig.plan.commit = Commit::Spill;
    rig.open()?;
    fill(rig, 3)?;
    rig.append(&[20, 30])?;
    let now = rig.clock.now();
    rig.log().seal(now);
    calm(rig)?;
    if rig.model.shown.len() < 5 {
        return off("the sink has not seen all");
    }
    cut_keeping(rig, &[]);
    Ok(())
}

/// Entry 9 of 12 is rotten, in the segment that recovery reads, and the policy says what to give up for it.
fn spoilt(rig: &mut Rig, policy: OnCorruption) -> Outcome<()> {
    rig.open()?;
    fill(rig, 12)?;
    rig.ack([1, 2])?;
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    let frame = frame_of(rig, 9);
    rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + 90, 1);
    cut_keeping(rig, &[]);
    rig.plan.policy = policy;
    match policy {
        OnCorruption::CutTail => {
            rig.model.injected = Some((9, 12));
            rig.model.cut(8);
        }
        _ => {
            rig.model.injected = Some((9, 9));
            rig.model.current.remove(&9);
        }
    }
    Ok(())
}

const FATES: [Option<SectorFate>; 3] = [Some(SectorFate::Lost), Some(SectorFate::Kept), None];

/// Lets recovery die at every step, `depth` times in a row, and sees what the last one makes of it.
fn die_everywhere(
    rig: &Rig,
    depth: u32,
    fates: &[Option<SectorFate>],
    end: u64,
    count: &mut u64,
) -> Result<(), String> {
    if depth == 0 {
        let mut fork = rig.fork(*count + 1);
        *count += 1;
        return goes_on(&mut fork, end).map_err(|e| format!("{e:?}\n{}", fork.story(30, 40)));
    }
    for fate in fates {
        for fuse in 0.. {
            let mut fork = rig.fork(*count + 1);
            fork.plan.policy = rig.plan.policy;
            fork.fate = *fate;
            fork.fuse = Some(fuse);
            match fork.open() {
                Err(Failure::Died) => {
                    let what = |e| format!("died at step {fuse} ({fate:?}), then {e}");
                    die_everywhere(&fork, depth - 1, fates, end, count).map_err(what)?;
                }
                Ok(()) => break,
                Err(other) => return Err(format!("at step {fuse}: {other:?}\n{}", fork.story(30, 40))),
            }
        }
    }
    Ok(())
}

/// The store opens with this end, takes more in, and has it after another crash.
fn goes_on(fork: &mut Rig, end: u64) -> Outcome<()> {
    fork.open()?;
    if fork.model.durable != end {
        return Err(Failure::Broken(format!("the end was {end}, and is {}", fork.model.durable)));
    }
    fill(fork, 3)?;
    fork.plan.policy = OnCorruption::Stop;
    cut_keeping(fork, &[]);
    fork.open()
}

fn dies(depth: u32, kinds: &[DiskKind], fates: &[Option<SectorFate>]) {
    let pool: Pool = pool();
    for (name, make) in STORES {
        for kind in kinds {
            let plan = Plan { kind: *kind, segment_blocks: 8, slots_max: 4, ..Plan::default() };
            let mut rig = Rig::new(plan, pool.clone());
            if let Err(failure) = make(&mut rig) {
                panic!("{name}: {failure:?}\n{}", rig.story(40, 40));
            }
            let mut first = rig.fork(7);
            first.plan.policy = rig.plan.policy;
            if let Err(failure) = first.open() {
                panic!("{name}, undisturbed: {failure:?}\n{}", first.story(40, 40));
            }
            let (end, mut count) = (first.model.durable, 0);
            if let Err(why) = die_everywhere(&rig, depth, fates, end, &mut count) {
                panic!("{name}, {kind:?}: {why}\nafter\n{}", rig.story(40, 40));
            }
            println!("{name}, {kind:?}: {count} ways to die {depth} times in a row, end {end}");
            assert!(count > 10);
        }
    }
}

#[test]
fn recovery_that_dies_at_any_step_is_done_again_and_decides_the_same() {
    dies(1, &[DiskKind::Flush, DiskKind::Fua], &FATES);
}

#[test]
fn recovery_that_dies_twice_in_a_row_decides_the_same() {
    dies(2, &[DiskKind::Flush, DiskKind::Fua], &FATES[1..]);
}

#[test]
fn recovery_that_dies_three_times_in_a_row_decides_the_same() {
    // With all three fates at each death it is a million images: once in a while.
    let all = std::env::var_os("RINGWAL_SIM_DEEP").is_some();
    dies(3, &[DiskKind::Fua], &FATES[if all { 0 } else { 2 }..]);
}

/// What happens between two crashes.
const BETWEEN: [&str; 4] =
    ["nothing is consumed", "all is consumed", "all is consumed and slots are reused", "a part, out of order"];

fn live(rig: &mut Rig, how: usize) -> Outcome<()> {
    rig.open()?;
    fill(rig, 4)?;
    let last = rig.model.durable;
    match how {
        0 => {}
        3 => {
            let open = rig.unfinished();
            rig.ack(open.into_iter().skip(1).step_by(2))?;
        }
        _ => {
            let all = rig.unfinished();
            rig.ack(all)?;
        }
    }
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    if how == 2 {
        fill(rig, 9)?;
        let all = rig.unfinished();
        rig.ack(all)?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
    }
    // Two frames are in flight when the power goes, the second one landed.
    let room = rig.append(&[20])? == 1;
    let now = rig.clock.now();
    rig.log().seal(now);
    rig.submit(usize::MAX)?;
    if room && rig.append(&[30])? == 1 {
        rig.log().seal(now);
        rig.submit(usize::MAX)?;
        if let Some(second) = newest(rig, is_data) {
            land(rig, second)?;
        }
    }
    if rig.model.durable < last { off("durable fell") } else { Ok(()) }
}

/// Five lives, each with one of four things in between, all 1,024 mixtures; the cuts take everything, nothing,
/// or what the seed says.
#[test]
fn five_crashes_in_a_row_with_every_mixture_of_consuming_and_reuse_lose_nothing() {
    let pool = pool();
    for mixture in 0..BETWEEN.len().pow(5) {
        let fate = FATES[mixture % 3];
        let kind = if mixture % 2 == 0 { DiskKind::Flush } else { DiskKind::Fua };
        let seed = mixture as u64 + 1;
        let plan = Plan { seed, kind, segment_blocks: 8, slots_max: 12, ..Plan::default() };
        let mut rig = Rig::new(plan, pool.clone());
        rig.fate = fate;
        let ran = (0..5_u32).try_for_each(|life| {
            let how = mixture / BETWEEN.len().pow(life) % BETWEEN.len();
            rig.note(BETWEEN[how]);
            live(&mut rig, how)?;
            rig.die(false);
            Ok(())
        });
        let ran = ran.and_then(|()| rig.open()).and_then(|()| fill(&mut rig, 1)).and_then(|()| rig.close());
        if let Err(failure) = ran {
            panic!("mixture {mixture}, {fate:?}: {failure:?}\n{}", rig.story(80, 40));
        }
    }
}
