//! A log that is full of what the sink has not had yet: pushes wait, delivery goes on, nothing stands still.

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, small};
use ringwal::{Batch, Durability, LogError, Outcome, Sink};

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

/// Found by killing processes that were closing: what a full log gave up at its close had left the rings and was
/// held by nobody, which counted as durable. Who waited for it was told that it is.
#[test]
fn what_found_no_room_when_the_queue_closed_is_never_told_durable() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill] {
        let dir = tempfile::tempdir().unwrap();
        let open = |sink| small(dir.path(), durability).rings(1).log_bytes_max(2 << 20).open(sink).unwrap();
        let queue = open(Recorder::default());
        queue.pause();
        let producer = queue.producer();
        let (mut receipts, mut refusals) = (Vec::new(), 0);
        // Until there is room in neither log, nor memory, nor ring.
        while refusals < 20 {
            match producer.push_timeout(Numbered::new(0, receipts.len() as u32, 1000), Duration::from_millis(50)) {
                Ok(receipt) => {
                    receipts.push(receipt);
                    refusals = 0;
                }
                Err(error) if error.is_full() => refusals += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let last = producer.durable(*receipts.last().unwrap());
        let waiter = std::thread::spawn(move || last.wait());
        // The rings cannot be emptied, however long that may take.
        let end = queue.shutdown(Duration::from_millis(200)).unwrap();
        assert!(end.lost > 0, "{durability:?}: all found room: {end:?}");
        assert_eq!(waiter.join().unwrap(), Err(LogError::Closed), "{durability:?}: it is lost");
        let told = receipts.iter().filter(|receipt| producer.durable(**receipt).wait().is_ok()).count();

        let sink = Recorder::default();
        let queue = open(sink.clone());
        queue.drain(LONG).unwrap();
        queue.shutdown(LONG).unwrap();
        let kept = sink.0.all().iter().map(|(_, entry, _)| entry.number as usize + 1).max().unwrap_or(0);
        assert_eq!((told, kept as u64), (kept, end.left_in_log), "{durability:?}: {end:?}");
    }
}
