//! A log that is full of what the sink has not had yet: pushes wait, delivery goes on, nothing stands still.

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, small};
use ringwal::{Batch, Durability, Outcome, Sink};

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
