//! Shutdowns that do not come to their end as they should: a whole queue on a simulated machine and clock.
#![cfg(feature = "testing")]

mod stage;

use ringwal::sim::{Fault, OpKind, SectorFate};
use ringwal::{Durability, Lsn, Shutdown, ShutdownError};
use stage::{MS, Reply, Stage, settings};

/// All times of a shutdown are over, one after the other. Nothing may take another turn for ever.
fn close_late(stage: &mut Stage) -> Result<Shutdown, ShutdownError> {
    stage.queue.begin_closing(true);
    for _ in 0..20 {
        stage.settle();
        if let Some(outcome) = stage.queue.poll_close(true) {
            return outcome;
        }
    }
    panic!("it never closes: {:?}", stage.queue);
}

/// Found by reading: after thirty seconds of waiting for the logs a shutdown counted what nobody knows to be durable as
/// left in the log, and said `Ok`.
#[test]
fn a_shutdown_on_a_disk_that_hangs_says_what_is_not_known_to_be_durable() {
    for durability in [Durability::Immediate, Durability::Periodic(MS), Durability::Spill] {
        let mut stage = Stage::<Vec<u8>>::open(settings(durability));
        stage.script.hold(true);
        let push = |stage: &Stage| _ = stage.producer().push(b"entry".to_vec()).unwrap();
        (0..3).for_each(|_| push(&stage));
        let waits = stage.queue.flush();
        stage.settle();
        drop(waits);
        let durable = stage.queue.metrics().durable_lsn;
        assert!(durable == Lsn::new(3) || durability == Durability::Spill, "{durability:?}: {durable}");
        stage.machine.inject(Fault::hung(OpKind::Write).forever());
        (0..2).for_each(|_| push(&stage));
        stage.settle();
        let Err(ShutdownError::DiskSilent { state, unsure, ring_bytes }) = close_late(&mut stage) else {
            panic!("{durability:?}: the disk hangs, and closing says that all is well");
        };
        assert_eq!((state.delivered, state.lost, ring_bytes), (0, 0, 0));
        assert_eq!((state.left_in_log, unsure), (durable.number(), 5 - durable.number()), "{durability:?}");
        // The power goes, and takes what it can: what was said to be durable is there.
        stage.machine.crash_with(|_, _| SectorFate::Lost);
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        drop(stage);
        machine.heal();
        let stage = Stage::<Vec<u8>>::again(settings(durability), machine, clock);
        assert_eq!(stage.queue.recovery().recovered, state.left_in_log, "{durability:?}");
    }
}

/// Found by the stress test: delivery took the news that its last batch was parked, saw that it had nothing to do, and rested until
/// the deadline of the shutdown, which then said that a batch was out.
#[test]
fn a_shutdown_ends_as_soon_as_the_last_batch_is_in_the_park() {
    for durability in [Durability::Immediate, Durability::Periodic(MS), Durability::Spill] {
        let mut stage = Stage::<Vec<u8>>::open(settings(durability));
        stage.script.hold(true);
        stage.script.then([Reply::Park]);
        stage.producer().push(b"entry".to_vec()).unwrap();
        stage.pass(MS * 50);
        assert!(stage.queue.is_out(), "{durability:?}");
        stage.queue.begin_closing(false);
        stage.settle();
        assert!(stage.queue.poll_close(false).is_none(), "{durability:?}: a batch is out");
        stage.script.hold(false);
        let mut outcomes = (0..10).filter_map(|_| {
            stage.settle();
            stage.queue.poll_close(false)
        });
        let outcome =
            outcomes.next().unwrap_or_else(|| panic!("{durability:?}: it waits, and nothing is left to wait for"));
        assert_eq!(outcome.map(|end| (end.parked, end.left_in_log)), Ok((1, 0)), "{durability:?}");
    }
}
