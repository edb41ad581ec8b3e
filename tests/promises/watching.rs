//! What a queue tells of itself.

use std::collections::HashMap;
use std::time::Duration;

use ringwal::sim::OpKind;
use ringwal::wal::op::FileId;
use ringwal::{BreakerState, Durability, Outcome, Verdict};

use crate::common::{LONG, Numbered, Recorder, small};
use crate::stage::{MS, Stage, each, few};

/// F039, F156: one look has all of them. Each count of the documents under its name here, by a story in which all of them differ.
#[test]
fn each_count_of_the_documents_is_kept_and_exact() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    stage.sink.answers(|call| {
        Some(match call.attempt {
            1 if call.entries[0].number == 10 => Outcome::retry("all of them"),
            _ => each(call, |entry| match entry.number {
                7 if entry.attempt < 3 => Verdict::Retry("not yet".into()),
                8 | 9 => Verdict::Park("never".into()),
                _ => Verdict::Ack,
            }),
        })
    });
    stage.push(0..25);
    assert_eq!(stage.metrics().ring_bytes, 25 * 40, "28 bytes and 8 for the head of each, in words of 8");
    stage.pass(Duration::from_secs(10));
    let metrics = stage.metrics();
    assert_eq!((metrics.pushed, metrics.pushed_bytes), (25, 25 * 28));
    assert_eq!((metrics.delivered, metrics.parked, metrics.lost), (23, 2, 0));
    assert_eq!((metrics.pending, metrics.in_flight, metrics.ring_bytes), (0, 0, 0));
    // The first ten: in part, then the seventh alone twice. The second ten: not at all, then whole. The last five at once.
    assert_eq!((metrics.batches, metrics.delivery_failures), (6, 3));
    assert_eq!(metrics.retries, 2 + 10);
    assert_eq!((metrics.last_lsn.number(), metrics.durable_lsn.number(), metrics.cursor_lsn.number()), (25, 25, 25));
    let written: u64 = stage.machine.history().iter().filter(|op| is_slot(op.file, op.kind)).map(|op| op.len).sum();
    assert!(metrics.log_bytes_written > 25 * 28 && metrics.log_bytes_written <= written, "{metrics:#?}");
    assert!(metrics.segments_live > 0 && metrics.breaker == BreakerState::Closed);

    // What waits, and what is out.
    stage.sink.hangs();
    stage.push(25..50);
    stage.pass(10 * MS);
    let metrics = stage.metrics();
    assert_eq!((metrics.pushed, metrics.in_flight, metrics.pending), (50, 10, 15));
}

fn is_slot(file: FileId, kind: OpKind) -> bool {
    kind == OpKind::Write && matches!(file, FileId::Slot(..))
}

/// F065: a disk likes it best. Only a new use of a file begins at its front again.
#[test]
fn a_segment_is_written_from_front_to_back() {
    let mut stage = Stage::new(few(Durability::Immediate).log_bytes_max(3 << 19));
    let producer = stage.queue.producer();
    for n in 0..3000 {
        // Nobody else would make room.
        producer.try_push(Numbered::new(0, n, 1500)).unwrap();
        stage.settle();
    }
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.metrics().delivered, 3000);
    let mut ends: HashMap<FileId, u64> = HashMap::new();
    let (mut writes, mut anew) = (0, 0);
    for op in stage.machine.history().iter().filter(|op| is_slot(op.file, op.kind)) {
        let end = ends.entry(op.file).or_default();
        if op.offset < *end {
            assert_eq!(op.offset, 0, "{op} goes back to the middle of what was written");
            anew += 1;
        } else {
            writes += 1;
        }
        *end = op.offset + op.len;
    }
    assert!(writes > 2900 && anew >= 4, "{writes} forward, {anew} from the front");
}

/// F044: what is in force can be asked for.
#[test]
fn a_queue_tells_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Periodic(7 * MS)).name("told").open(Recorder::default()).unwrap();
    let config = queue.config();
    assert_eq!((config.dir(), config.name()), (dir.path(), "told"));
    assert_eq!(config.durability(), Durability::Periodic(7 * MS));
    assert_eq!((config.entry_len_max(), config.log_bytes_max()), (2000, 4 << 20));
    assert!(!queue.is_closed() && !queue.producer().is_closed());
    queue.shutdown(LONG).unwrap();
}
