//! Rings in shared memory beside a simulated disk that fails: what the log did not take waits in them.
#![cfg(feature = "testing")]

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_accounted, drain, small};
use ringwal::sim::{DiskKind, Fault, Mode, OpKind, SimDisk, SimSettings};
use ringwal::{Builder, Durability, Queue, ShutdownError};

/// EIO.
const EIO: i32 = 5;

fn settings(rings: &std::path::Path, durability: Durability) -> Builder {
    small(std::path::Path::new("/simulated"), durability).rings(1).rings_in(rings)
}

/// The log fails, and the process ends in order: it loses nothing, because the next opening finds the rings. Without them
/// the same entries are counted as lost (`tests/queue_on_sim.rs::what_a_failed_log_takes_with_it_is_counted_at_shutdown`).
#[test]
fn what_a_failed_log_did_not_take_waits_in_the_rings_for_the_next_opening() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill] {
        let rings = tempfile::Builder::new().prefix("ringwal-test-").tempdir_in("/dev/shm").unwrap();
        let latency = (Duration::from_micros(5), Duration::from_micros(200));
        let kind = DiskKind::Flush;
        let machine =
            SimDisk::new(SimSettings { kind, mode: Mode::Threaded, seed: 7, latency, ..SimSettings::default() });
        let recorder = Recorder::default();
        let queue: Queue<Numbered> =
            settings(rings.path(), durability).open_on(machine.connect().unwrap(), recorder.clone()).unwrap();
        let producer = queue.producer();
        producer.push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
        drain(&queue);
        queue.pause();
        machine.inject(Fault::error(OpKind::Write, EIO).forever());
        let mut accepted = 0;
        // Until the failure is known, pushes are accepted.
        while accepted < 100 && producer.push(Numbered::new(0, 1 + accepted, 10)).is_ok() {
            accepted += 1;
        }
        assert!(accepted >= 1);
        match queue.shutdown(LONG) {
            Err(ShutdownError::Storage { lost: 0, .. }) => {}
            other => panic!("{durability:?}: {other:?}"),
        }
        machine.heal();
        let again = Recorder::default();
        let queue: Queue<Numbered> =
            settings(rings.path(), durability).open_on(machine.connect().unwrap(), again.clone()).unwrap();
        let recovery = queue.recovery().clone();
        drain(&queue);
        assert_accounted(&queue.metrics());
        // The write that failed may have reached the disk all the same.
        assert!(recovery.from_rings <= u64::from(accepted), "{recovery:?}");
        queue.shutdown(LONG).unwrap();
        let numbers = |recorder: &Recorder| -> Vec<u32> { recorder.0.all().iter().map(|(_, e, _)| e.number).collect() };
        // The first was delivered, and its cursor may not have been written any more.
        assert_eq!(numbers(&recorder), [0]);
        let mut left = numbers(&again);
        left.retain(|number| *number != 0);
        assert_eq!(left, (1..=accepted).collect::<Vec<_>>(), "{durability:?}: {recovery:?}");
    }
}
