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
//! | `RINGWAL_SIM_BASE` | first seed of the fresh ones; by default the clock gives it |
//! | `RINGWAL_SIM_HISTORIES` | how many fresh ones |

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::rig::pool;
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::sim::{DiskKind, Fault, OpKind, Prng, mix};
use ringwal::wal::block::Pool;
use ringwal::wal::frame::FrameKind;
use ringwal::wal::log::Commit;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::{OnCorruption, ScanError};

/// Errors of the kernel, by their numbers.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

const HISTORIES: u64 = 8_000;
const FIXED: u64 = 2_000;

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    incarnations: u64,
    entries: u64,
    deaths: u64,
    deaths_in_recovery: u64,
    detected: u64,
    undetectable: u64,
    failures: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.incarnations += other.incarnations;
        self.entries += other.entries;
        self.deaths += other.deaths;
        self.deaths_in_recovery += other.deaths_in_recovery;
        self.detected += other.detected;
        self.undetectable += other.undetectable;
        self.failures += other.failures;
    }
}

fn plan(seed: u64) -> Plan {
    let mut prng = Prng::new(seed);
    let commit = match prng.below(10) {
        0..=4 => Commit::Immediate,
        5..=7 => Commit::Periodic(Duration::from_micros(prng.within(200..=5_000))),
        _ => Commit::Spill,
    };
    Plan {
        seed,
        kind: if prng.chance(1, 2) { DiskKind::Fua } else { DiskKind::Flush },
        block_len: if prng.chance(1, 8) { 4096 } else { 512 },
        segment_blocks: *prng.pick(&[8, 12, 16, 24]),
        frame_blocks_max: *prng.pick(&[2, 3, 4]),
        slots_max: *prng.pick(&[3, 4, 6]),
        inflight_max: *prng.pick(&[1, 2, 4]),
        hedge_len: *prng.pick(&[1, 1024, 65_536]),
        commit,
        ..Plan::default()
    }
}

fn lens(rig: &mut Rig) -> Vec<usize> {
    let max = (rig.plan.frame_blocks_max * rig.plan.block_len) as usize - 80 - 16;
    (0..rig.prng.within(1..=5))
        .map(|_| match rig.prng.below(8) {
            0 => rig.prng.index(max) + 1,
            _ => rig.prng.index(160) + 8,
        })
        .collect()
}

fn finish_some(rig: &mut Rig) -> Outcome<()> {
    let open = rig.unfinished();
    if open.is_empty() {
        return Ok(());
    }
    let lsns: Vec<u64> = match rig.prng.below(4) {
        0 => open,
        1 => {
            let at = rig.prng.index(open.len());
            let len = (rig.prng.index(4) + 1).min(open.len() - at);
            open[at..at + len].to_vec()
        }
        _ => open[..=rig.prng.index(open.len())].to_vec(),
    };
    rig.ack(lsns)
}

/// One random thing happens.
fn act(rig: &mut Rig) -> Outcome<()> {
    let now = rig.clock.now();
    match rig.prng.below(100) {
        0..=29 => {
            let lens = lens(rig);
            rig.append(&lens)?;
            if rig.prng.chance(2, 3) {
                rig.submit(usize::MAX)?;
            }
        }
        30..=34 => match rig.prng.below(3) {
            0 => rig.log().seal(now),
            1 => rig.log().commit_now(now),
            _ => rig.log().spill(now),
        },
        35..=44 => {
            let most = rig.prng.index(3) + 1;
            rig.submit(most)?;
        }
        45..=76 => {
            rig.step()?;
        }
        77..=86 => {
            let time = Duration::from_micros(rig.prng.within(1..=4_000));
            rig.wait(time)?;
        }
        87..=97 => finish_some(rig)?,
        _ => {
            let (from, durable) = (rig.model.acked + 1, rig.log().durable().number());
            let read = rig.read_from(ringwal::Lsn::new(from))?;
            rig.events()?;
            let due =
                rig.model.current.range(from..=durable.max(from)).map(|(lsn, _)| *lsn).filter(|lsn| *lsn <= durable);
            let due = due
                .filter(|lsn| !rig.model.ever_done.contains(lsn))
                .find(|lsn| !read.iter().any(|(got, _)| got == lsn));
            if let Some(lsn) = due {
                return Err(Failure::Broken(format!("LSN {lsn} is durable, and the reader did not bring it")));
            }
        }
    }
    Ok(())
}

/// Whatever was appended becomes durable, if the sink only goes on finishing.
fn drain(rig: &mut Rig) -> Outcome<()> {
    for _ in 0..60 {
        rig.flush()?;
        if rig.model.is_durable() {
            return Ok(());
        }
        let open = rig.unfinished();
        rig.ack(open)?;
        rig.wait(Duration::from_millis(20))?;
    }
    let stats = rig.log().stats();
    let (room, held) = (rig.log().room(), rig.log().held());
    Err(Failure::Broken(format!(
        "stuck: durable {}, next {}, acked {}, {room:?}, {held} held, {stats:?}",
        rig.model.durable, rig.model.next, rig.model.acked
    )))
}

/// Runs one history. `rot` spoils a durable frame once.
fn history(rig: &mut Rig, rot: bool, tally: &mut Tally) -> Outcome<()> {
    for _ in 0..rig.prng.within(2..=6) {
        tally.incarnations += 1;
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
        for _ in 0..rig.prng.within(10..=240) {
            act(rig)?;
            if rot && rig.prng.chance(1, 60) && spoil(rig) {
                return spoilt(rig, tally);
            }
        }
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
            let current = rig.model.current.get(&first).is_some_and(|entry| entry.id == f.first_id);
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
    if beyond || !by_reader && waits.into_iter().any(|lsn| !in_holes(lsn)) {
        return Err(Failure::Broken(format!("rot at {first}..={last} was reported as {found:?}")));
    }
    // With leave to give it up, everything else is still there.
    rig.process = None;
    rig.plan.policy = OnCorruption::Quarantine;
    for lsn in first..=last {
        rig.model.current.remove(&lsn);
    }
    rig.model.decided = None;
    rig.open()?;
    drain(rig)?;
    rig.close()
}

/// Runs one history on a disk that fails once in each incarnation, with any error, at any op.
fn failing_history(rig: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    rig.faulty = true;
    for _ in 0..rig.prng.within(2..=6) {
        tally.incarnations += 1;
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
        for _ in 0..rig.prng.within(10..=160) {
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

/// Which kind of history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Play {
    Crashes,
    Rot,
    Failures,
}

fn run(seed: u64, play: Play, pool: &Pool) -> Result<Tally, String> {
    let mut rig = Rig::new(plan(seed), pool.clone());
    let mut tally = Tally::default();
    let ran = catch_unwind(AssertUnwindSafe(|| match play {
        Play::Failures => failing_history(&mut rig, &mut tally),
        Play::Crashes | Play::Rot => history(&mut rig, play == Play::Rot, &mut tally),
    }));
    let why = match ran {
        Ok(Ok(())) => return Ok(tally),
        Ok(Err(failure)) => format!("{failure:?}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        }
    };
    let story = rig.story(60, 60);
    // What panicked may panic again when it is dropped.
    std::mem::forget(rig);
    Err(format!("RINGWAL_SIM_SEED={seed} fails ({play:?}): {why}\n{story}"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Runs the seeds on two threads, and stops at the first that fails.
fn run_all(seeds: &[u64], play: Play) -> Tally {
    let next = AtomicU64::new(0);
    let work = || {
        let (pool, mut sum) = (pool(), Tally::default());
        loop {
            let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("few seeds");
            let Some(seed) = seeds.get(at) else { return Ok(sum) };
            match run(*seed, play, &pool) {
                Ok(tally) => sum.add(tally),
                Err(story) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    return Err(story);
                }
            }
        }
    };
    let results = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|t| t.join().expect("a history's panic is caught"))
    });
    let mut sum = Tally::default();
    for result in results {
        match result {
            Ok(tally) => sum.add(tally),
            Err(story) => panic!("{story}"),
        }
    }
    sum
}

fn seeds(share: u64) -> Vec<u64> {
    if let Some(seed) = number("RINGWAL_SIM_SEED") {
        return vec![seed];
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let base = number("RINGWAL_SIM_BASE").unwrap_or_else(|| mix(u64::try_from(clock).unwrap_or(0)) >> 20);
    let fresh = number("RINGWAL_SIM_HISTORIES").unwrap_or(HISTORIES) / share;
    println!("histories with seeds 1..={} and {base}..{}", FIXED / share, base + fresh);
    (1..=FIXED / share).chain(base..base + fresh).collect()
}

#[test]
fn whatever_was_told_durable_survives_every_crash() {
    let tally = run_all(&seeds(1), Play::Crashes);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.deaths_in_recovery > 0 && tally.deaths > 0, "the simulation does what it says");
}

#[test]
fn rot_below_a_promise_is_reported_exactly_and_nothing_else_is_lost() {
    let tally = run_all(&seeds(4), Play::Rot);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.detected > 20, "rot is detected at all: {tally:?}");
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_told_durable_and_reopening_recovers() {
    let tally = run_all(&seeds(4), Play::Failures);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.failures > 100, "logs do fail: {tally:?}");
}
