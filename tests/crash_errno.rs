//! Every error of the kernel at the k-th op of each kind, for every k of a scripted life of a store: once, and
//! for ever. And the failed sync that takes its data with it.
//!
//! The life makes a store, fills segments, reads back, reuses and removes slots, dies, is recovered and closed.
//! After the error: nothing later is told durable (I7), no op goes out but the cursor's, closing ends and
//! nobody waits for ever (I6). When the disk is well again, the store opens with all that was told durable (I1).

mod harness;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::rig::pool;
use harness::script::cut_keeping;
use harness::{Failure, Outcome, Plan, Rig};
use ringwal::sim::{DiskKind, Fault, OpKind, OpRecord};
use ringwal::wal::block::Pool;
use ringwal::wal::log::{Commit, Room};
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::ScanError;

/// The kernel's numbers, with what they stand for here.
const ERRNOS: [(&str, i32); 14] = [
    ("EINTR", 4),
    ("EIO", 5),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EBUSY", 16),
    ("ENODEV", 19),
    ("EINVAL", 22),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("EROFS", 30),
    ("EOVERFLOW", 75),
    ("EBADMSG", 74),
    ("ETIMEDOUT", 110),
    ("EDQUOT", 122),
];
const EIO: i32 = 5;
const KINDS: [OpKind; 6] = [OpKind::List, OpKind::Prepare, OpKind::Write, OpKind::Sync, OpKind::Read, OpKind::Remove];
const COMMITS: [Commit; 3] = [Commit::Immediate, Commit::Periodic(Duration::from_millis(1)), Commit::Spill];

fn plan(commit: Commit, kind: DiskKind) -> Plan {
    Plan { kind, commit, segment_blocks: 8, slots_max: 6, ..Plan::default() }
}

fn has_failed(rig: &Rig) -> bool {
    rig.process.as_ref().is_none_or(|process| process.failed)
}

/// Goes on until all is durable, the log has failed, or it has waited ten times for a slot that does not come.
fn flush(rig: &mut Rig) -> Outcome<()> {
    let now = rig.clock.now();
    rig.log().commit_now(now);
    let end = now + Duration::from_secs(10);
    let over = |rig: &Rig| has_failed(rig) || rig.model.is_durable() || rig.clock.now() >= end;
    rig.settle(over)?;
    if !over(rig) {
        return Err(Failure::Broken(format!("somebody waits for ever: {:?}", rig.log().stats())));
    }
    Ok(())
}

fn finish_up_to(rig: &mut Rig, lsn: u64) -> Outcome<()> {
    let lsns: Vec<u64> = rig.model.current.range(..=lsn).map(|(lsn, _)| *lsn).collect();
    rig.ack(lsns)?;
    rig.wait(Duration::from_millis(6))?;
    while rig.submit(usize::MAX)? > 0 || rig.step()? {}
    Ok(())
}

/// One life of the store; it ends early where the log fails.
fn life(rig: &mut Rig, deaths: bool) -> Outcome<()> {
    rig.open()?;
    for round in 0..8_u64 {
        rig.append(&[40, 300])?;
        rig.submit(usize::MAX)?;
        rig.append(&[500])?;
        flush(rig)?;
        if has_failed(rig) {
            return Ok(());
        }
        match round {
            2 => {
                let from = rig.model.acked + 1;
                rig.read_from(ringwal::Lsn::new(from))?;
            }
            4 => finish_up_to(rig, 6)?,
            6 => finish_up_to(rig, 20)?,
            _ => {}
        }
        if deaths && round == 5 {
            // The sink has the first entries, the cursor knows; a tear leaves something to be voided.
            rig.append(&[40])?;
            rig.submit(usize::MAX)?;
            rig.die(false);
            rig.open()?;
        }
    }
    // Everything is finished: more slots are free than are kept.
    let end = rig.model.next - 1;
    finish_up_to(rig, end)?;
    if has_failed(rig) {
        return Ok(());
    }
    rig.append(&[60])?;
    flush(rig)?;
    if has_failed(rig) {
        return Ok(());
    }
    // What hangs for want of space can close only when the disk is well again.
    if !rig.model.is_durable() {
        return Ok(());
    }
    rig.close()
}

/// The cursor, or META with the numbers reserved of what is delivered from memory (ADR 0013).
fn is_of_the_keeper(op: &OpRecord) -> bool {
    let is = |magic: &[u8]| op.head.starts_with(magic);
    op.kind == OpKind::Write && op.file == FileId::Meta(LogId::Main) && (is(b"RWALCURS") || is(b"RWALMETA"))
}

/// A failed log takes nothing in, sends nothing but the cursor and its reservation, and can be closed.
fn after_failure(rig: &mut Rig) -> Outcome<()> {
    let (durable, ops) = (rig.log().durable(), rig.machine.op_count());
    if rig.append(&[30])? != 0 {
        return Err(Failure::Broken("a failed log took an entry in".into()));
    }
    let now = rig.clock.now();
    rig.log().commit_now(now);
    rig.wait(Duration::from_secs(3))?;
    rig.close()?;
    let later: Vec<OpRecord> = rig.machine.history().into_iter().filter(|op| op.number >= ops).collect();
    if let Some(op) = later.iter().find(|op| !is_of_the_keeper(op)) {
        return Err(Failure::Broken(format!("a failed log, durable {durable}, asked for {op}")));
    }
    Ok(())
}

fn reads_fail(rig: &Rig) -> bool {
    rig.machine.history().iter().any(|op| op.kind == OpKind::Read && op.completed.is_some_and(|c| c.1 != 0))
}

/// What a life with an error came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// Opening was refused.
    Refused,
    /// The log failed.
    Failed,
    /// It waited for space.
    Full,
    /// What could not be read was reported as damaged, and nothing was changed.
    Reported,
    /// Nothing was noticed, or it was tried again.
    Survived,
}

/// One life with this fault, then another one on a disk that is well.
fn suffer(rig: &mut Rig, fault: Option<Fault>, kills: bool) -> Outcome<End> {
    rig.faulty = fault.is_some();
    if let Some(fault) = fault {
        rig.machine.inject(fault);
    }
    let end = match life(rig, true) {
        Ok(()) if rig.process.as_ref().is_some_and(|p| p.failed) => {
            after_failure(rig)?;
            End::Failed
        }
        Ok(()) if rig.process.is_some() => {
            if !matches!(rig.log().room(), Room::NoSpace) {
                return Err(Failure::Broken(format!("not durable, not failed, {:?}", rig.log().room())));
            }
            rig.machine.heal();
            flush(rig)?;
            if !rig.model.is_durable() {
                return Err(Failure::Broken("the space is back, and nothing goes on".into()));
            }
            End::Full
        }
        Ok(()) => End::Survived,
        Err(Failure::Refused(ScanError::Disk(_)) | Failure::Unread(_)) => End::Refused,
        // META or the cursor could not be read; and a block that the disk cannot give back counts as damaged.
        Err(Failure::Refused(_)) if reads_fail(rig) => End::Refused,
        Err(Failure::Corrupt(_)) if reads_fail(rig) => End::Reported,
        Err(other) => return Err(other),
    };
    rig.machine.heal();
    rig.process = None;
    rig.faulty = false;
    if kills {
        rig.machine.kill();
    } else {
        cut_keeping(rig, &[]);
    }
    rig.open()?;
    rig.append(&[70, 80])?;
    rig.flush()?;
    let all = rig.model.next - 1;
    finish_up_to(rig, all)?;
    rig.close()?;
    rig.open()?;
    Ok(end)
}

/// Runs all of it on two threads; the first failure ends it.
fn all<T: Sync>(jobs: &[T], work: impl Fn(&T, &Pool) -> Result<End, String> + Sync) -> BTreeMap<End, u64> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let (pool, mut ends) = (pool(), BTreeMap::<End, u64>::new());
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match work(job, &pool) {
                Ok(end) => *ends.entry(end).or_default() += 1,
                Err(why) => {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                    return Err(why);
                }
            }
        }
        Ok(ends)
    };
    let results =
        std::thread::scope(|scope| [scope.spawn(worker), scope.spawn(worker)].map(|t| t.join().expect("caught")));
    let mut sum: BTreeMap<End, u64> = BTreeMap::new();
    for result in results {
        for (end, count) in result.unwrap_or_else(|why| panic!("{why}")) {
            *sum.entry(end).or_default() += count;
        }
    }
    sum
}

fn play(plan: Plan, pool: &Pool, fault: Option<Fault>, kills: bool, what: &str) -> Result<End, String> {
    let mut rig = Rig::new(plan, pool.clone());
    let ran = catch_unwind(AssertUnwindSafe(|| suffer(&mut rig, fault, kills)));
    let why = match ran {
        Ok(Ok(end)) => return Ok(end),
        Ok(Err(failure)) => format!("{failure:?}"),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into()),
    };
    let story = rig.story(40, 40);
    std::mem::forget(rig);
    Err(format!("{what}: {why}\n{story}"))
}

/// How many ops of each kind a life without errors has.
fn counts(plan: &Plan, pool: &Pool) -> BTreeMap<OpKind, u64> {
    let mut rig = Rig::new(plan.clone(), pool.clone());
    if let Err(failure) = life(&mut rig, true) {
        panic!("without an error: {failure:?}\n{}", rig.story(40, 40));
    }
    let mut counts = BTreeMap::new();
    for op in rig.machine.history() {
        *counts.entry(op.kind).or_default() += 1;
    }
    counts
}

#[test]
fn every_error_at_every_op_once_and_for_ever_loses_nothing_that_was_told_durable() {
    let pool = pool();
    let mut jobs = Vec::new();
    for commit in COMMITS {
        for kind in [DiskKind::Flush, DiskKind::Fua] {
            let plan = plan(commit, kind);
            let counts = counts(&plan, &pool);
            for op in KINDS {
                // What `Spill` never writes needs few slots: none is left over.
                let few = op == OpKind::Remove && commit == Commit::Spill;
                let count = counts.get(&op).copied().unwrap_or(0);
                assert!(count > 0 || few, "{commit:?}: the life has no {}", op.name());
                for k in 0..count {
                    for (at, (name, errno)) in ERRNOS.iter().enumerate() {
                        for forever in [false, true] {
                            // Each (op, k, error, once or for ever) on one kind of device, turn by turn.
                            if (k + at as u64 + u64::from(forever)) % 2 == u64::from(kind == DiskKind::Fua) {
                                jobs.push((plan.clone(), op, k, *name, *errno, forever));
                            }
                        }
                    }
                }
            }
        }
    }
    let ends = all(&jobs, |(plan, op, k, name, errno, forever), pool| {
        let fault = Fault::error(*op, *errno).after(*k);
        let fault = if *forever { fault.forever() } else { fault };
        let what = format!("{name} at {} {k}, {}", op.name(), if *forever { "for ever" } else { "once" });
        play(plan.clone(), pool, Some(fault), k % 2 == 0, &what)
    });
    println!("{} lives: {ends:?}", jobs.len());
    assert!(ends.values().sum::<u64>() == jobs.len() as u64 && ends[&End::Failed] > 1_000, "{ends:?}");
    assert!([End::Refused, End::Full, End::Reported, End::Survived].iter().all(|end| ends[end] > 5), "{ends:?}");
}

/// fsyncgate: the sync fails once, its data is gone, every later sync would succeed. There is no later one.
#[test]
fn a_sync_that_fails_once_with_its_data_gone_is_never_tried_again() {
    let pool = pool();
    let mut jobs = Vec::new();
    for commit in &COMMITS[1..] {
        for kind in [DiskKind::Flush, DiskKind::Fua] {
            let plan = plan(*commit, kind);
            jobs.extend((0..counts(&plan, &pool)[&OpKind::Sync]).map(|k| (plan.clone(), k)));
        }
    }
    let ends = all(&jobs, |(plan, k), pool| {
        let mut rig = Rig::new(plan.clone(), pool.clone());
        let end = suffer(&mut rig, Some(Fault::gone(EIO).after(*k)), false);
        let history = rig.machine.history();
        let told = |op: &OpRecord| op.kind == OpKind::Sync && op.completed.is_some_and(|c| c.1 == EIO);
        let Some(failed) = history.iter().find(|op| told(op)) else { return Err(format!("sync {k} did not fail")) };
        // What follows on the same connection is no sync. Another one was perhaps in flight beside it.
        let again = |op: &&OpRecord| {
            op.connection == failed.connection
                && op.kind == OpKind::Sync
                && failed.completed.is_some_and(|c| op.submitted > c.0)
        };
        match (end, history.iter().find(again)) {
            (Ok(end), None) => Ok(end),
            (Ok(_), Some(op)) => Err(format!("sync {k} failed, and then: {op}\n{}", rig.story(20, 60))),
            (Err(why), _) => Err(format!("sync {k}: {why:?}\n{}", rig.story(40, 60))),
        }
    });
    println!("{ends:?}");
    assert!(ends[&End::Failed] > 20 && ends[&End::Refused] > 2, "{ends:?}");
}
