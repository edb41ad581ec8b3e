//! A history of the real log on the simulated machine: what is done and what breaks comes from the input, what the
//! machine makes of it from a seed in it, and every answer is compared with the model. `tests/crash_sim.rs` plays
//! histories by chance; here coverage leads.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringwal::Lsn;
use ringwal::sim::{DiskKind, Fault, OpKind};
use ringwal::wal::frame::FrameKind;
use ringwal::wal::log::Commit;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::{Corruption, OnCorruption, ScanError};

#[path = "../../tests/harness/mod.rs"]
mod harness;

use harness::rig::pool;
use harness::{Failure, Outcome, Plan, Rig, look};

/// Acts of one history, and entries of one append: enough to go round all slots.
const ACTS_MAX: usize = 400;
const ENTRIES_MAX: usize = 8;
/// Turns in which a log must have come to rest.
const TURNS_MAX: usize = 60;

#[derive(Arbitrary, Debug)]
struct History {
    seed: u16,
    fua: bool,
    large_blocks: bool,
    segment_blocks: u8,
    frame_blocks: u8,
    slots: u8,
    inflight: u8,
    hedge: bool,
    commit: u8,
    period_us: u16,
    quarantine: bool,
    acts: Vec<Act>,
}

#[derive(Arbitrary, Debug)]
enum Act {
    Append(Vec<u8>),
    /// The longest entry that a frame takes, less a few bytes.
    AppendLong(u8),
    Seal,
    CommitNow,
    Spill,
    Submit(u8),
    /// Ops that complete.
    Step(u8),
    Wait(u16),
    /// The sink finishes some of what it has seen.
    Ack {
        from: u8,
        len: u8,
    },
    AckAll,
    Read,
    Flush,
    Settle,
    /// The power goes, or only the process; the fuse counts events of the next opening, which then fails as well.
    Die {
        kill: bool,
        fuse: Option<u8>,
    },
    Close {
        fuse: Option<u8>,
    },
    /// A disk that fails once: until the next death.
    Fail {
        write: u8,
        errno: u8,
        after: u8,
    },
    /// A durable frame that nobody has consumed rots. It ends the history.
    Rot {
        frame: u8,
        byte: u16,
        bit: u8,
    },
}

impl History {
    fn plan(&self) -> Plan {
        let pick = |from: &[u32], by: u8| from[usize::from(by) % from.len()];
        Plan {
            seed: self.seed.into(),
            kind: if self.fua { DiskKind::Fua } else { DiskKind::Flush },
            block_len: if self.large_blocks { 4096 } else { 512 },
            segment_blocks: pick(&[8, 12, 16, 24], self.segment_blocks),
            frame_blocks_max: pick(&[2, 3, 4], self.frame_blocks),
            slots_max: pick(&[3, 4, 6], self.slots),
            inflight_max: pick(&[1, 2, 4], self.inflight),
            hedge_len: if self.hedge { 1 } else { 65_536 },
            commit: match self.commit % 4 {
                0 | 1 => Commit::Immediate,
                2 => Commit::Periodic(Duration::from_micros(u64::from(self.period_us).max(100))),
                _ => Commit::Spill,
            },
            policy: OnCorruption::Stop,
            ..Plan::default()
        }
    }
}

/// Opens until it is open: a fuse may burn down within, and a disk that fails may refuse.
fn open(rig: &mut Rig) -> Outcome<()> {
    loop {
        match rig.open() {
            Err(Failure::Died) => {}
            Err(Failure::Refused(ScanError::Disk(_))) if rig.faulty => {
                rig.machine.heal();
                rig.process = None;
                rig.die(true);
            }
            other => return other,
        }
    }
}

fn has_failed(rig: &Rig) -> bool {
    rig.process.as_ref().is_some_and(|process| process.failed)
}

/// A failed log takes completions in and tells nothing more.
fn run_out(rig: &mut Rig) -> Outcome<()> {
    rig.submit(usize::MAX)?;
    while rig.step()? {
        rig.submit(usize::MAX)?;
    }
    Ok(())
}

fn reopen(rig: &mut Rig, kill: bool, fuse: Option<u8>) -> Outcome<()> {
    rig.die(kill);
    rig.machine.heal();
    rig.fuse = fuse.map(|fuse| (fuse % 80).into());
    rig.fuse_kills = !kill;
    open(rig)?;
    rig.fuse = None;
    Ok(())
}

/// Whatever was appended becomes durable, if the sink only goes on finishing.
fn drain(rig: &mut Rig) -> Outcome<()> {
    for _ in 0..TURNS_MAX {
        rig.flush()?;
        if rig.model.is_durable() {
            return Ok(());
        }
        let open = rig.unfinished();
        rig.ack(open)?;
        rig.wait(Duration::from_millis(20))?;
    }
    let stats = rig.log().stats();
    Err(Failure::Broken(format!("stuck: durable {}, next {}, {stats:?}", rig.model.durable, rig.model.next)))
}

fn act(rig: &mut Rig, act: &Act) -> Outcome<()> {
    let now = rig.clock.now();
    let longest = (rig.plan.frame_blocks_max * rig.plan.block_len) as usize - 80 - 16;
    match act {
        Act::Append(lens) => {
            let lens: Vec<usize> = lens.iter().take(ENTRIES_MAX).map(|len| usize::from(*len) + 8).collect();
            rig.append(&lens)?;
        }
        Act::AppendLong(less) => _ = rig.append(&[longest - usize::from(*less)])?,
        Act::Seal => rig.log().seal(now),
        Act::CommitNow => rig.log().commit_now(now),
        Act::Spill => rig.log().spill(now),
        Act::Submit(most) => _ = rig.submit(usize::from(*most))?,
        Act::Step(ops) => {
            for _ in 0..=*ops % 16 {
                rig.step()?;
            }
        }
        Act::Wait(micros) => rig.wait(Duration::from_micros((*micros).into()))?,
        Act::Ack { from, len } => {
            let open = rig.unfinished();
            if !open.is_empty() {
                let from = usize::from(*from) % open.len();
                let len = (usize::from(*len) + 1).min(open.len() - from);
                rig.ack(open[from..from + len].to_vec())?;
            }
        }
        Act::AckAll => {
            let open = rig.unfinished();
            rig.ack(open)?;
        }
        Act::Read => read(rig)?,
        Act::Flush => rig.flush()?,
        Act::Settle => rig.settle(|_| false)?,
        Act::Die { kill, fuse } => reopen(rig, *kill, *fuse)?,
        Act::Close { fuse } => {
            drain(rig)?;
            rig.fuse = fuse.map(|fuse| (fuse % 16).into());
            match rig.close() {
                Ok(()) | Err(Failure::Died) => {}
                Err(other) => return Err(other),
            }
            rig.fuse = None;
            open(rig)?;
        }
        Act::Fail { write, errno, after } => {
            let kinds = [OpKind::Write, OpKind::Sync, OpKind::Prepare, OpKind::Remove];
            let errno = [libc::EIO, libc::ENOSPC, libc::EROFS][usize::from(*errno) % 3];
            rig.faulty = true;
            rig.machine.inject(Fault::error(kinds[usize::from(*write) % 4], errno).after((*after % 64).into()));
        }
        Act::Rot { .. } => unreachable!("the caller sees to it"),
    }
    Ok(())
}

/// The reader brings what is durable.
fn read(rig: &mut Rig) -> Outcome<()> {
    let (from, durable) = (rig.model.acked + 1, rig.log().durable().number());
    let read = rig.read_from(Lsn::new(from))?;
    rig.events()?;
    let due = rig.model.current.range(from..=durable.max(from)).map(|(lsn, _)| *lsn);
    let mut due = due.filter(|lsn| *lsn <= durable && !rig.model.ever_done.contains(lsn));
    match due.find(|lsn| !read.iter().any(|(got, _)| got == lsn)) {
        Some(lsn) => Err(Failure::Broken(format!("LSN {lsn} is durable, and the reader did not bring it"))),
        None => Ok(()),
    }
}

/// Spoils a frame. False: there is none that is durable and wanted.
fn rot(rig: &mut Rig, which: u8, byte: u16, bit: u8) -> bool {
    let (acked, durable) = (rig.model.acked, rig.model.durable);
    let mut frames = Vec::new();
    for slot in look::slots(&rig.machine) {
        frames.extend(look::frames(&rig.machine, slot, rig.plan.block_len).into_iter().filter(|frame| {
            let (first, next) = (frame.header.first_lsn.number(), frame.header.next_lsn.number());
            // Not one that a tear has stranded, whose LSNs now lie elsewhere.
            let current = rig.model.current.get(&first).is_some_and(|entry| entry.id == frame.first_id);
            frame.header.kind == FrameKind::Data && frame.body_holds && current && first > acked && next <= durable + 1
        }));
    }
    if frames.is_empty() {
        return false;
    }
    let frame = &frames[usize::from(which) % frames.len()];
    let byte = u64::from(byte) % (80 + u64::from(frame.header.body_len));
    rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + byte, 1 << (bit % 8));
    rig.model.injected = Some((frame.header.first_lsn.number(), frame.header.next_lsn.number() - 1));
    true
}

/// After a frame was spoilt: what is reported lies within it, and with leave to give it up the rest is there.
fn spoilt(rig: &mut Rig, quarantine: bool) -> Outcome<()> {
    rig.die(false);
    rig.machine.heal();
    let (first, last) = rig.model.injected.expect("a frame was spoilt");
    let found: Vec<Corruption> = match rig.open() {
        Err(Failure::Corrupt(holes)) => holes,
        // Above every promise it cannot be told from a torn tail; what the model then misses is that frame.
        Err(Failure::Broken(what)) if what.contains("was told durable") || what.contains("comes next") => return Ok(()),
        other => return other,
    };
    if let Some(hole) = found.iter().find(|hole| hole.first.number() < first || hole.last.number() > last) {
        return Err(Failure::Broken(format!("rot at {first}..={last} was reported as {hole:?}")));
    }
    if !quarantine {
        return Ok(());
    }
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

fn play(rig: &mut Rig, history: &History) -> Outcome<()> {
    open(rig)?;
    for step in history.acts.iter().take(ACTS_MAX) {
        if let Act::Rot { frame, byte, bit } = step {
            if !rig.faulty && rot(rig, *frame, *byte, *bit) {
                return spoilt(rig, history.quarantine);
            }
            continue;
        }
        if has_failed(rig) && !matches!(step, Act::Die { .. }) {
            run_out(rig)?;
            continue;
        }
        match act(rig, step) {
            // The disk failed within: the log has said so, and what was on the way is not followed.
            Err(Failure::Broken(_)) if has_failed(rig) => run_out(rig)?,
            other => other?,
        }
    }
    reopen(rig, false, None)?;
    drain(rig)?;
    let open_ones = rig.unfinished();
    rig.ack(open_ones)?;
    rig.close()?;
    rig.open()?;
    if rig.model.current.range(rig.model.acked + 1..).next().is_some() {
        return Err(Failure::Broken(format!("closed with all finished, opened at {}", rig.model.acked)));
    }
    rig.close()
}

fuzz_target!(|history: History| {
    let mut rig = Rig::new(history.plan(), pool());
    if let Err(failure) = play(&mut rig, &history) {
        panic!("{failure:?}\n{}", rig.story(60, 60));
    }
});
