//! A log that is full of what the sink has not had yet: pushes wait, delivery goes on, nothing stands still.

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, small};
use ringwal::{Batch, Durability, LogError, Outcome, Sink};

/// Takes its time for each batch, so that the log fills up behind it.
struct Slow(Recorder, Duration);

impl Sink<Numbered> for Slow {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        std::thread::sleep(self.1);
        self.0.deliver(batch).await
    }
}

/// Found by a benchmark: frames that wait for a segment held all memory but what counted as short, so nothing
/// was read back, so nothing was delivered, so no segment came free.
#[test]
fn a_full_log_is_read_back_and_delivered_however_short_memory_is() {
    const EACH: u32 = 9_000;
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2))] {
        // Who pushes may get so few turns that the sink keeps up: then it is slower.
        let was_full = [300, 1_500, 7_500, 37_500].into_iter().any(|micros| {
            let dir = tempfile::tempdir().unwrap();
            let recorder = Recorder::default();
            let settings = small(dir.path(), durability).memory_max(3 << 20).log_bytes_max(2 << 20).batch_len_max(50);
            let queue = settings.open(Slow(recorder.clone(), Duration::from_micros(micros))).unwrap();
            std::thread::scope(|scope| {
                for p in 0..2 {
                    let producer = queue.producer();
                    scope.spawn(move || {
                        (0..EACH).for_each(|n| _ = producer.push_timeout(Numbered::new(p, n, 1000), LONG).unwrap());
                    });
                }
            });
            queue.drain(LONG).unwrap();
            let was_full = queue.metrics().frames_read_back > 0;
            assert_accounted(&queue.metrics());
            assert_exactly_once_in_order(&recorder.0.all(), &[EACH; 2]);
            queue.shutdown(LONG).unwrap();
            was_full
        });
        assert!(was_full, "{durability:?}: the log was never full");
    }
}

/// Found by killing processes that were closing: what a full log gave up at its close had left the rings and was
/// held by nobody, which counted as durable. Who waited for it was told that it is.
#[test]
fn what_found_no_room_when_the_queue_closed_is_never_told_durable() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill] {
        // A ring may be full for a second only because the flush core has no turn: then with more patience.
        let was_full = [20, 100, 400].into_iter().any(|patience| a_full_log_closes(durability, patience));
        assert!(was_full, "{durability:?}: all found room");
    }
}

/// False: there was room for everything. `patience`: how often a push finds none before that is believed.
fn a_full_log_closes(durability: Durability, patience: u32) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let open = |sink| small(dir.path(), durability).rings(1).log_bytes_max(2 << 20).open(sink).unwrap();
    let queue = open(Recorder::default());
    queue.pause();
    let producer = queue.producer();
    let (mut receipts, mut refusals) = (Vec::new(), 0);
    // Until there is room in neither log, nor memory, nor ring.
    while refusals < patience {
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
    let waited = waiter.join().unwrap();
    if end.lost > 0 {
        assert_eq!(waited, Err(LogError::Closed), "{durability:?}: it is lost");
    }
    let told = receipts.iter().filter(|receipt| producer.durable(**receipt).wait().is_ok()).count();

    let sink = Recorder::default();
    let queue = open(sink.clone());
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();
    let kept = sink.0.all().iter().map(|(_, entry, _)| entry.number as usize + 1).max().unwrap_or(0);
    assert_eq!((told, kept as u64), (kept, end.left_in_log), "{durability:?}: {end:?}");
    end.lost > 0
}
