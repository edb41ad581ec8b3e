//! Scripts: histories without chance, one op at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ringwal::Lsn;
use ringwal::sim::{DiskKind, OpKind, OpRecord, SectorFate};
use ringwal::wal::mutant::{Mutant, Mutants};
use ringwal::wal::op::{FileId, LogId};

use super::rig::pool;
use super::{Outcome, Plan, Rig, look};

pub const BOTH: [DiskKind; 2] = [DiskKind::Flush, DiskKind::Fua];

pub fn run(plan: Plan, script: &dyn Fn(&mut Rig) -> Outcome<()>) -> Result<(), String> {
    let mut rig = Rig::new(plan, pool());
    let ran = catch_unwind(AssertUnwindSafe(|| script(&mut rig)));
    let why = match ran {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failure)) => format!("{failure:?}"),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into()),
    };
    let story = rig.story(60, 60);
    std::mem::forget(rig);
    Err(format!("{why}\n{story}"))
}

/// The script holds on both kinds of device with every rule, and breaks on `kinds` without some.
pub fn caught(mutants: &[Mutant], kinds: &[DiskKind], plan: &Plan, script: &dyn Fn(&mut Rig) -> Outcome<()>) {
    for kind in BOTH {
        if let Err(why) = run(Plan { kind, ..plan.clone() }, script) {
            panic!("{kind:?}, with every rule: {why}");
        }
    }
    for kind in kinds {
        let spoilt = Plan { kind: *kind, mutants: Mutants::only(mutants), ..plan.clone() };
        let ran = run(spoilt, script);
        let why = ran.expect_err(&format!("{kind:?}: {mutants:?} was not noticed"));
        println!("{kind:?}: {}", why.lines().next().unwrap_or_default());
        assert!(!why.starts_with("script:"), "the script itself went wrong: {why}");
    }
}

pub fn plan() -> Plan {
    Plan { segment_blocks: 8, slots_max: 4, garbage: false, ..Plan::default() }
}

/// The script could not be played as written: that is no catch.
pub fn off<T>(what: &str) -> Outcome<T> {
    panic!("script: {what}");
}

pub fn is_slot(op: &OpRecord) -> bool {
    matches!(op.file, FileId::Slot(..))
}

pub fn is_header(op: &OpRecord) -> bool {
    op.kind == OpKind::Write && is_slot(op) && op.offset == 0
}

pub fn is_data(op: &OpRecord) -> bool {
    op.kind == OpKind::Write && is_slot(op) && op.head.get(4) == Some(&1) && op.head.starts_with(b"RWFR")
}

pub fn is_cursor(op: &OpRecord) -> bool {
    op.kind == OpKind::Write && op.file == FileId::Meta(LogId::Main) && op.head.starts_with(b"RWALCURS")
}

pub fn newest(rig: &Rig, which: fn(&OpRecord) -> bool) -> Option<u64> {
    rig.machine.in_flight().iter().rev().find(|op| which(op)).map(|op| op.number)
}

pub fn land(rig: &mut Rig, op: u64) -> Outcome<()> {
    rig.machine.finish(op);
    rig.reap().map(|_| ())
}

/// A frame with these entries goes out; its op.
pub fn send(rig: &mut Rig, lens: &[usize]) -> Outcome<u64> {
    if rig.append(lens)? != lens.len() {
        return off("there is no room for a frame");
    }
    let now = rig.clock.now();
    rig.log().seal(now);
    let before = rig.machine.op_count();
    rig.submit(usize::MAX)?;
    match newest(rig, is_data).filter(|op| *op >= before) {
        Some(op) => Ok(op),
        None => off("the frame did not go out"),
    }
}

/// Everything in flight lands and everything wanted goes out; the clock stands still.
pub fn calm(rig: &mut Rig) -> Outcome<()> {
    while rig.submit(usize::MAX)? > 0 || rig.step()? {}
    Ok(())
}

/// Frames of one small entry each, durable.
pub fn fill(rig: &mut Rig, frames: usize) -> Outcome<()> {
    for _ in 0..frames {
        rig.append(&[20])?;
        let now = rig.clock.now();
        rig.log().commit_now(now);
        calm(rig)?;
    }
    if rig.model.durable + 1 == rig.model.next { Ok(()) } else { off("not durable after a calm") }
}

/// A power cut that keeps exactly these writes.
pub fn cut_keeping(rig: &mut Rig, kept: &[u64]) {
    rig.machine.crash_with(|w, _| if kept.contains(&w.number) { SectorFate::Kept } else { SectorFate::Lost });
    rig.process = None;
    rig.note(format!("power cut, kept {kept:?}"));
}

/// The store is opened twice, with a power cut between: it must be the same.
pub fn reopen(rig: &mut Rig) -> Outcome<()> {
    rig.open()?;
    cut_keeping(rig, &[]);
    rig.open()
}

pub fn frame_of(rig: &Rig, lsn: u64) -> look::Seen {
    let of = |slot| look::frames(&rig.machine, slot, rig.plan.block_len);
    let mut all = look::slots(&rig.machine).into_iter().flat_map(of);
    all.find(|f| (f.header.first_lsn..f.header.next_lsn).contains(&Lsn::new(lsn))).expect("it was written")
}
