//! A log that is full of what the sink has not had yet: pushes wait, delivery goes on, nothing stands still.

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, small};
use ringwal::{Batch, Durability, Io, LogError, Outcome, Sink, WhenFull};

/// Takes its time for each batch, so that the log fills up behind it.
struct Slow(Recorder);

impl Sink<Numbered> for Slow {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        std::thread::sleep(Duration::from_micros(300));
        self.0.deliver(batch).await
    }
}

/// Found by a benchmark: frames that wait for a segment held all memory but what counted as short, so nothing
/// was read back, so nothing was delivered, so no segment came free.
#[test]
fn a_full_log_is_read_back_and_delivered_however_short_memory_is() {
    const EACH: u32 = 9_000;
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2))] {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let settings = small(dir.path(), durability).memory_max(3 << 20).log_bytes_max(2 << 20).batch_len_max(50);
        let queue = settings.open(Slow(recorder.clone())).unwrap();
        std::thread::scope(|scope| {
            for p in 0..2 {
                let producer = queue.producer();
                scope.spawn(move || {
                    (0..EACH).for_each(|n| _ = producer.push_timeout(Numbered::new(p, n, 1000), LONG).unwrap());
                });
            }
        });
        queue.drain(LONG).unwrap();
        assert!(queue.metrics().frames_read_back > 0, "the log was never full: {:#?}", queue.metrics());
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&recorder.0.all(), &[EACH; 2]);
        queue.shutdown(LONG).unwrap();
    }
}

/// Found by the stress test: at its end a full log gives up what has no place, and with that nothing was held any
/// more, which was taken for all being durable. Who waited just then was told that lost entries were on disk.
#[test]
fn nobody_is_told_that_an_entry_is_durable_which_the_end_of_a_full_log_gives_up() {
    let durabilities = [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];
    for (durability, io) in durabilities.into_iter().flat_map(|d| [(d, Io::Uring), (d, Io::Threads)]) {
        let dir = tempfile::tempdir().unwrap();
        let settings = small(dir.path(), durability).rings(1).io(io).memory_max(3 << 20).log_bytes_max(2 << 20);
        let settings = settings.when_full(WhenFull::BlockFor(Duration::from_millis(300)));
        let queue = settings.clone().open(Recorder::default()).unwrap();
        queue.pause();
        let producer = queue.producer();
        let mut durables = Vec::new();
        while let Ok(durable) = producer.push_durable(Numbered::new(0, durables.len() as u32, 1900)) {
            durables.push(durable);
        }
        let pushed = durables.len() as u64;
        let (end, told) = std::thread::scope(|scope| {
            let some = durables.into_iter().rev().step_by(20);
            let waiters: Vec<_> = some.map(|durable| scope.spawn(|| durable.wait())).collect();
            std::thread::sleep(Duration::from_millis(50));
            let end = queue.shutdown(Duration::from_millis(100)).unwrap();
            let told: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            (end, told)
        });
        assert!(end.lost > 0 && end.left_in_log + end.lost == pushed, "{durability:?} {io:?}: {pushed} {end:?}");
        // The last one first: those that are lost lie behind all that are not.
        for (back, told) in (0..).step_by(20).zip(told) {
            let is_lost = back < end.lost;
            let is_right = if is_lost { told == Err(LogError::Closed) } else { told.is_ok() };
            assert!(is_right, "{durability:?} {io:?}: {back} before the end of {pushed}: {told:?}, {end:?}");
        }
        let queue = settings.open(Recorder::default()).unwrap();
        assert_eq!(queue.recovery().recovered, end.left_in_log);
        queue.shutdown(LONG).unwrap();
    }
}
