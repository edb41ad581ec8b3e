//! What an opening gives up or finds torn is told to somebody who lives, wherever the opening is cut off: a whole queue on
//! a simulated machine and clock.
//!
//! The random histories had excused it: an opening settled a loss on disk and was cut off before it returned, and the next one
//! found nothing wrong. The loss was told nowhere.
#![cfg(feature = "testing")]

#[path = "harness/look.rs"]
#[expect(dead_code, unreachable_pub, reason = "a part of it is used")]
mod look;
mod stage;

use std::io::Error;
use std::time::Duration;

use ringwal::sim::{Death, Fault, ManualClock, OpKind, SimDisk, SteppedQueue, SteppedSettings};
use ringwal::wal::frame::FrameKind;
use ringwal::wal::mutant::{Mutant, Mutants};
use ringwal::wal::op::{FileId, LogId};
use ringwal::{
    Batch, Builder, Durability, Io, Lsn, OnCorruption, OpenError, Queue, Recovery, Retry, SinkError, fan_out, sink_fn,
};
use stage::{Reply, Script, Stage, settings};

const BLOCK: u32 = 4096;
/// Entries in each store.
const ENTRIES: u64 = 6;

/// What was spoilt in a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spoilt {
    /// Frames in the middle, below a promise.
    Middle,
    /// The last frame, above every promise.
    End,
    /// The same, and nothing else is in its segment, which is taken out of the log.
    LastSegment,
}

/// What an opening tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    lost: Vec<(Lsn, Lsn)>,
    is_torn: bool,
}

impl Told {
    fn of(log: LogId, recovery: &Recovery) -> Self {
        match log {
            LogId::Main => Self { lost: recovery.lost.clone(), is_torn: recovery.torn_tail.is_some() },
            LogId::Park => Self { lost: recovery.lost_parked.clone(), is_torn: recovery.torn_tail_parked.is_some() },
        }
    }

    fn by_an_earlier_one(log: LogId, recovery: &Recovery) -> Vec<(Lsn, Lsn)> {
        let earlier = &recovery.earlier;
        if log == LogId::Main { earlier.lost.clone() } else { earlier.lost_parked.clone() }
    }
}

#[derive(Clone, Copy)]
struct Story {
    log: LogId,
    spoilt: Spoilt,
    policy: OnCorruption,
    mutants: Mutants,
}

impl Story {
    fn builder(&self) -> Builder {
        settings(Durability::Immediate).on_corruption(self.policy)
    }

    /// Each opening draws from a seed of its own.
    fn open(&self, machine: &SimDisk, clock: &ManualClock) -> Result<Stage, OpenError> {
        let script = Script::default();
        script.hold(true);
        let (seed, mutants) = (machine.op_count(), self.mutants);
        let given = SteppedSettings { seed, clock: clock.clone(), store: None, mutants };
        let queue = SteppedQueue::open(self.builder(), given, machine, script.clone())?;
        Ok(Stage { queue, machine: machine.clone(), clock: clock.clone(), script })
    }

    /// A store whose process was killed, and then spoilt.
    fn store(&self) -> (SimDisk, ManualClock) {
        let mut stage = Stage::<Vec<u8>>::open(self.builder());
        let is_parked = self.log == LogId::Park;
        for n in 0..ENTRIES {
            if self.spoilt == Spoilt::LastSegment && n + 1 == ENTRIES {
                // Until the cursor has followed, so that nothing is parked twice.
                stage.pass(Duration::from_millis(100));
                stage.machine.kill();
                stage = self.open(&stage.machine, &stage.clock).expect("nothing is spoilt yet");
            }
            stage.script.hold(!is_parked);
            stage.script.then([Reply::Park]);
            stage.producer().push(vec![n as u8; 100]).unwrap();
            stage.settle();
        }
        assert_eq!(stage.queue.metrics().parked, if is_parked { ENTRIES } else { 0 });
        stage.machine.kill();
        let frames = || {
            let slots = look::slots_of(&stage.machine, self.log).into_iter();
            slots.flat_map(|slot| look::frames_of(&stage.machine, self.log, slot, BLOCK))
        };
        let data: Vec<_> = frames().filter(|frame| frame.header.kind == FrameKind::Data).collect();
        let last = data.last().expect("there are frames").header.first_lsn;
        for frame in frames() {
            let is_last = frame.header.first_lsn >= last;
            let is_middle = [2, 3].contains(&frame.header.first_lsn.number()) && frame.header.kind == FrameKind::Data;
            let hit = if self.spoilt == Spoilt::Middle { is_middle } else { is_last };
            if hit {
                // A body, or the header of what has none.
                let at = if frame.header.kind == FrameKind::Data { 90 } else { 20 };
                stage.machine.rot(FileId::Slot(self.log, frame.slot), frame.offset + at, 1);
            }
        }
        (stage.machine.clone(), stage.clock.clone())
    }

    /// `Err`: a loss that is told nowhere.
    fn run(&self) -> Result<(), String> {
        let (origin, clock) = self.store();
        let expected = Told::of(self.log, self.open(&origin.copy(0), &clock).expect("it opens").queue.recovery());
        assert_eq!(expected.lost.is_empty(), self.spoilt != Spoilt::Middle, "{expected:?}");
        assert!(expected.is_torn || self.spoilt == Spoilt::Middle);
        let mut by_earlier = 0;
        for fuse in 1..500 {
            let machine = origin.copy(fuse);
            machine.set_fuse(fuse, Death::PowerCut);
            if let Ok(stage) = self.open(&machine, &clock) {
                if Told::of(self.log, stage.queue.recovery()) != expected {
                    return Err("an opening that nothing interrupts tells something else".to_owned());
                }
                if machine.is_connected() {
                    assert!(by_earlier > 0, "no opening was cut off behind what it settled");
                    return Ok(());
                }
            }
            machine.heal();
            let stage = self.open(&machine, &clock).expect("the next one opens");
            let recovery = stage.queue.recovery();
            let told = Told::of(self.log, recovery);
            if told != expected {
                return Err(format!("fuse {fuse}: {told:?} is told, not {expected:?}"));
            }
            by_earlier += u32::from(!Told::by_an_earlier_one(self.log, recovery).is_empty());
            let is_earlier =
                |torn: &Option<String>| torn.as_ref().is_some_and(|text| text.contains("an opening before"));
            by_earlier += u32::from(is_earlier(&recovery.torn_tail) || is_earlier(&recovery.torn_tail_parked));
        }
        panic!("no opening came to its end");
    }
}

/// All that can be lost, in either log, by either policy.
fn stories(mutants: Mutants) -> impl Iterator<Item = Story> {
    let both = [LogId::Main, LogId::Park];
    both.into_iter().flat_map(move |log| {
        [
            (Spoilt::Middle, OnCorruption::Quarantine),
            (Spoilt::Middle, OnCorruption::CutTail),
            (Spoilt::End, OnCorruption::Stop),
            (Spoilt::LastSegment, OnCorruption::Stop),
        ]
        .map(|(spoilt, policy)| Story { log, spoilt, policy, mutants })
    })
}

#[test]
fn mutant_settled_untold_is_caught() {
    for story in stories(Mutants::NONE) {
        story.run().unwrap_or_else(|what| panic!("{:?} {:?} {:?}: {what}", story.log, story.spoilt, story.policy));
    }
    for story in stories(Mutants::only(&[Mutant::SettledUntold])) {
        assert!(story.run().is_err(), "{:?} {:?} {:?}: nothing is missed", story.log, story.spoilt, story.policy);
    }
}

#[test]
fn what_was_told_is_told_again_until_whoever_was_told_pushes_or_closes() {
    for log in [LogId::Main, LogId::Park] {
        for closes in [false, true] {
            let (spoilt, policy) = (Spoilt::Middle, OnCorruption::Quarantine);
            let story = Story { log, spoilt, policy, mutants: Mutants::NONE };
            let (machine, clock) = story.store();
            let open = || story.open(&machine, &clock).unwrap();
            let lost = [(Lsn::new(2), Lsn::new(3))];

            let mut stage = open();
            assert_eq!(Told::of(log, stage.queue.recovery()).lost, lost);
            assert_eq!(Told::by_an_earlier_one(log, stage.queue.recovery()), []);
            // Whatever the queue does by itself.
            stage.settle();
            machine.crash();
            drop(stage);

            let mut stage = open();
            let recovery = stage.queue.recovery();
            assert_eq!(Told::of(log, recovery).lost, lost);
            assert_eq!(Told::by_an_earlier_one(log, recovery), lost);
            if closes {
                stage.script.hold(false);
                stage.close().unwrap();
            } else {
                stage.producer().push(b"told".to_vec()).unwrap();
                stage.settle();
                machine.crash();
                drop(stage);
            }

            let stage = open();
            let recovery = stage.queue.recovery();
            assert_eq!((Told::of(log, recovery), &recovery.earlier), (Told::default(), &Default::default()), "{log:?}");
        }
    }
}

/// Where nothing was lost, what is told of nothing costs nothing.
#[test]
fn an_opening_that_loses_nothing_writes_no_more_than_before() {
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    stage.producer().push(b"entry".to_vec()).unwrap();
    stage.settle();
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    machine.crash();
    drop(stage);
    let mut stage = Stage::<Vec<u8>>::again(settings(Durability::Immediate), machine.clone(), clock);
    assert!(stage.queue.recovery().torn_tail.is_none());
    let opened = machine.op_count();
    stage.script.hold(true);
    stage.producer().push(b"entry".to_vec()).unwrap();
    stage.settle();
    let history = machine.history();
    let meta = history
        .iter()
        .filter(|op| op.number >= opened && op.file == FileId::Meta(LogId::Main) && op.kind == OpKind::Write);
    assert_eq!(meta.count(), 0);
}

/// The first policy would have cut all from the hole on, and was cut off before it did; the second gives up the hole.
#[test]
fn what_an_opening_was_about_to_give_up_is_not_told_as_lost_if_the_next_one_saves_it() {
    let story = |policy| Story { log: LogId::Main, spoilt: Spoilt::Middle, policy, mutants: Mutants::NONE };
    let (machine, clock) = story(OnCorruption::CutTail).store();
    // META says what is to be cut; the cursor, which would settle it, is refused.
    machine.inject(Fault::error(OpKind::Write, 5).on(FileId::Meta(LogId::Main)).after(1));
    assert!(story(OnCorruption::CutTail).open(&machine, &clock).is_err());
    machine.heal();
    machine.crash();
    let stage = story(OnCorruption::Quarantine).open(&machine, &clock).unwrap();
    let recovery = stage.queue.recovery();
    assert_eq!(recovery.lost, [(Lsn::new(2), Lsn::new(3))]);
    assert_eq!(recovery.earlier.lost, recovery.lost, "the first one found that too");
    assert_eq!(recovery.recovered, ENTRIES - 2);
}

/// A part of a queue with several sinks opens, and another one does not: nobody is told what the first one gave up.
#[test]
fn what_a_branch_gave_up_is_told_by_the_opening_that_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || {
        let later = Retry { base: Duration::from_secs(3600), max: Duration::from_secs(3600), ..Retry::default() };
        Queue::builder(dir.path()).io(Io::Threads).on_corruption(OnCorruption::Quarantine).retry(later)
    };
    let sinks = || {
        let refuses = || sink_fn(|_: Batch<Vec<u8>>| async { Err::<(), SinkError>(Error::other("later").into()) });
        fan_out().with("first", refuses()).with("second", refuses())
    };
    let queue = builder().open_fan_out(sinks()).unwrap();
    queue.producer().push(vec![7; 500]).unwrap();
    queue.flush().unwrap();
    // For as long as it takes.
    while queue.branches().any(|branch| branch.metrics().durable_lsn < Lsn::new(1)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = queue.shutdown(Duration::ZERO);

    let slot = dir.path().join("fan-out/first/seg-00000000.rwal");
    let mut bytes = std::fs::read(&slot).unwrap();
    let frame = (8192..).step_by(4096).find(|at| &bytes[*at..*at + 4] == b"RWFR").unwrap();
    bytes[frame + 100] ^= 1;
    std::fs::write(&slot, bytes).unwrap();
    let meta = dir.path().join("fan-out/second/META");
    let sound = std::fs::read(&meta).unwrap();
    std::fs::write(&meta, b"nothing").unwrap();
    builder().open_fan_out(sinks()).expect_err("the second one has no META");

    std::fs::write(&meta, sound).unwrap();
    let queue = builder().open_fan_out(sinks()).unwrap();
    let recovery = queue.branch("first").unwrap().recovery().clone();
    assert_eq!((&recovery.lost[..], &recovery.earlier.lost[..]), (&[(Lsn::FIRST, Lsn::FIRST)][..], &recovery.lost[..]));
    let _ = queue.shutdown(Duration::ZERO);
    let queue = builder().open_fan_out(sinks()).unwrap();
    assert!(queue.branch("first").unwrap().recovery().lost.is_empty(), "who closes has been told");
}
