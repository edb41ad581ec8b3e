//! Openings that a power cut ends, or follows: a whole queue on a simulated machine and clock.
#![cfg(feature = "testing")]

mod stage;

use ringwal::sim::{Death, Fault, ManualClock, OpKind, SectorFate, SimDisk, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{FileId, LogId};
use ringwal::{Builder, Durability, OnCorruption, OpenError, SlotNo};
use stage::{MS, Script, Stage, settings};

const EIO: i32 = 5;

fn builder() -> Builder {
    settings(Durability::Immediate)
}

/// A process on the machine whose sink says nothing for now. Each draws from a seed of its own.
fn open(machine: &SimDisk, clock: &ManualClock) -> Result<Stage, OpenError> {
    let script = Script::default();
    script.hold(true);
    let given = SteppedSettings { seed: machine.op_count(), clock: clock.clone(), store: None, mutants: Mutants::NONE };
    let queue = SteppedQueue::open(builder(), given, machine, script.clone())?;
    Ok(Stage { queue, machine: machine.clone(), clock: clock.clone(), script })
}

/// A store whose log has failed: three entries are durable, and numbers far beyond them are reserved.
fn failed_store() -> (SimDisk, ManualClock) {
    let mut stage = Stage::<Vec<u8>>::open(builder());
    stage.script.hold(true);
    let push = |stage: &mut Stage| {
        stage.producer().push(b"entry".to_vec()).unwrap();
        stage.settle();
    };
    (0..3).for_each(|_| push(&mut stage));
    stage.machine.inject(Fault::error(OpKind::Write, EIO).on(FileId::Slot(LogId::Main, SlotNo(0))));
    push(&mut stage);
    assert!(stage.queue.has_failed());
    stage.pass(100 * MS);
    stage.machine.heal();
    stage.machine.crash();
    (stage.machine.clone(), stage.clock.clone())
}

/// Found by reading: opening stepped over the numbers that a failed log had reserved, and the cursor that says so went out 50
/// ms later, as any does. Entries pushed meanwhile were durable before it: a power cut between the two, and the next opening
/// told of four thousand million recovered entries.
#[test]
fn a_power_cut_at_any_step_of_an_opening_that_skips_numbers_leaves_the_count_of_what_is_recovered_exact() {
    let (origin, clock) = failed_store();
    for fuse in 1..500 {
        let machine = origin.copy(fuse);
        machine.set_fuse(fuse, Death::PowerCut);
        let (mut durable, mut is_whole) = (3, false);
        if let Ok(mut stage) = open(&machine, &clock) {
            // Less time passes than the cursor takes to be due.
            for _ in 0..2 {
                if machine.is_connected() {
                    stage.producer().push(b"later".to_vec()).unwrap();
                    stage.settle();
                }
            }
            let skipped = stage.queue.recovery().next.prev();
            durable += stage.queue.metrics().durable_lsn.number().saturating_sub(skipped.number());
            is_whole = machine.is_connected();
            if is_whole {
                assert_eq!(durable, 5);
                machine.crash();
            }
        }
        machine.heal();
        let mut stage = open(&machine, &clock).unwrap();
        let recovered = stage.queue.recovery().recovered;
        assert!((durable..=6).contains(&recovered), "fuse {fuse}: {recovered}, and {durable} were told durable");
        stage.script.hold(false);
        stage.pass(100 * MS);
        let metrics = stage.queue.metrics();
        assert_eq!((recovered, metrics.recovered), (metrics.delivered, metrics.delivered), "fuse {fuse}: {metrics:?}");
        stage.close().unwrap();
        if is_whole {
            assert!(fuse > 20, "an opening has more steps");
            return;
        }
    }
    panic!("no opening came to its end");
}

/// A read of one block that failed once was taken for lost: with `Quarantine` the entry in it was given up, and the next read
/// would have brought it. What a write or a sync says is another matter: there nothing is tried again.
#[test]
fn one_read_that_fails_loses_nothing() {
    for policy in [OnCorruption::Stop, OnCorruption::Quarantine] {
        let builder = || builder().on_corruption(policy);
        for at in 0..200 {
            let mut stage = Stage::<Vec<u8>>::open(builder());
            stage.script.hold(true);
            stage.producer().push(b"entry".to_vec()).unwrap();
            stage.settle();
            let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
            // Nothing is left but the entry's own block.
            machine.crash_with(|_, _| SectorFate::Lost);
            drop(stage);
            let opened = machine.op_count();
            machine.inject(Fault::error(OpKind::Read, EIO).after(at));
            let mut stage = Stage::<Vec<u8>>::again(builder(), machine.clone(), clock);
            stage.settle();
            let metrics = stage.queue.metrics();
            assert_eq!((metrics.delivered, metrics.lost), (1, 0), "{policy:?}, read {at}: {:?}", stage.queue.health());
            assert!(stage.queue.recovery().lost.is_empty());
            let history = machine.history();
            let has_failed = history.iter().any(|op| op.number >= opened && op.completed.is_some_and(|c| c.1 == EIO));
            if !has_failed {
                assert!(at > 4, "there are more reads");
                break;
            }
        }
    }
}
