//! What opening found: how much of it is left, when it is over, and what opening does not wait for.

use std::task::{Context, Poll, Waker};

use ringwal::sim::OpKind;
use ringwal::{Builder, Durability, Outcome, WhenFull};

use crate::stage::{MS, Stage, few};

/// With a log of 40 segments, and a cursor that is written in time.
fn settings() -> Builder {
    few(Durability::Immediate).log_bytes_max(40 * (512 << 10)).batch_len_max(10).when_full(WhenFull::Reject)
}

/// Pushes that many entries of 2 KB; a segment holds some 250.
fn fill(stage: &mut Stage, entries: u32) {
    stage.sink.hangs();
    let producer = stage.queue.producer();
    for n in 0..entries {
        producer.push(ringwal_entry(n)).expect("it is drained meanwhile");
        if n % 20 == 19 {
            stage.pass(MS);
        }
    }
    stage.pass(100 * MS);
    assert_eq!(stage.metrics().durable_lsn.number(), u64::from(entries));
}

fn ringwal_entry(n: u32) -> crate::common::Numbered {
    crate::common::Numbered::new(0, n, 1900)
}

/// F138: the count falls from what was recovered to nothing, and the recovered entries' end can be waited for.
#[test]
fn what_is_left_of_the_recovered_entries_falls_to_nothing_and_pushes_are_not_among_it() {
    const ENTRIES: u32 = 200;
    let mut stage = Stage::new(settings());
    assert_eq!(stage.metrics().recovered_left, 0);
    fill(&mut stage, ENTRIES);
    assert_eq!(stage.metrics().recovered_left, 0, "what is pushed is not recovered");
    let mut stage = stage.reopen(settings());
    assert_eq!((stage.queue.recovery().recovered, stage.metrics().recovered_left), (200, 200));
    stage.push(ENTRIES..ENTRIES + 50);
    // The sink lets a batch of ten through at a time.
    for upto in (10..=ENTRIES).step_by(10) {
        stage.sink.answers(move |call| call.numbers().iter().all(|n| *n < upto).then(Outcome::ack));
        stage.pass(MS);
        let metrics = stage.metrics();
        assert_eq!(metrics.delivered, u64::from(upto), "{metrics:#?}");
        assert_eq!(metrics.recovered_left, u64::from(ENTRIES - upto), "{metrics:#?}");
    }
    stage.sink.acknowledges();
    stage.pass(MS);
    assert_eq!((stage.metrics().delivered, stage.metrics().recovered_left), (250, 0));
    assert!(stage.close(true).is_ok());
    let stage = stage.reopen(settings());
    assert_eq!((stage.queue.recovery().recovered, stage.metrics().recovered_left), (0, 0));
}

/// Entries that were done before the end, as several batches were out, are neither recovered nor left.
#[test]
fn holes_in_what_was_recovered_are_not_left_over() {
    let mut stage = Stage::new(settings());
    fill(&mut stage, 100);
    // Every second one is refused for the time being.
    stage.sink.answers(|call| {
        Some(crate::stage::each(call, |entry| match entry.number % 2 {
            0 => ringwal::Verdict::Retry("later".into()),
            _ => ringwal::Verdict::Ack,
        }))
    });
    stage.pass(5 * MS);
    stage.pass(60 * MS);
    let done = stage.metrics().delivered;
    assert!(done >= 5, "{done}");
    let stage = stage.reopen(settings());
    let recovered = stage.queue.recovery().recovered;
    assert!(recovered < 100, "the cursor knows of some: {recovered}");
    assert_eq!(stage.metrics().recovered_left, recovered);
}

/// F138: `open` returns once the end of the log is known, however long the log is.
#[test]
fn opening_reads_no_more_of_a_long_log_than_of_a_short_one() {
    let reads_of_opening = |segments: u32| {
        let mut stage = Stage::new(settings());
        fill(&mut stage, segments * 250);
        let metrics = stage.metrics();
        assert!(metrics.segments_live >= u64::from(segments), "{metrics:#?}");
        let before = stage.machine.op_count();
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        let stage = stage.reopen(settings());
        let _ = clock;
        assert_eq!(stage.queue.recovery().recovered, u64::from(segments * 250));
        let reads = machine.history().into_iter().filter(|op| op.number >= before && op.kind == OpKind::Read);
        let reads: Vec<u64> = reads.map(|op| op.len).collect();
        let headers = reads.iter().filter(|len| **len <= 4096).count() as u64;
        (u64::from(segments), metrics.segments_live + metrics.segments_free, headers, reads.iter().sum::<u64>())
    };
    let [short, long] = [3, 30].map(reads_of_opening);
    // A block of each segment file, to know which it is; and of entries two segments at most.
    const SEGMENT: u64 = 512 << 10;
    const BLOCK: u64 = 4096;
    for (segments, files, headers, bytes) in [short, long] {
        assert!(bytes <= 2 * SEGMENT + 2 * (files + 8) * BLOCK, "{segments}: {bytes} bytes in {files} files");
        assert!(headers <= 2 * (files + 8) + 2 * (SEGMENT / BLOCK), "{segments}: {headers} small reads");
    }
    let more_files = long.1 - short.1;
    assert!(long.3 <= short.3 + SEGMENT + 2 * more_files * BLOCK, "{short:?} {long:?}");
}

#[test]
fn the_end_of_recovery_can_be_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = crate::common::Recorder::default();
    let open = || crate::common::small(dir.path(), Durability::Immediate);
    let queue = open().open(recorder.clone()).unwrap();
    queue.recovered().wait().unwrap();
    queue.pause();
    let producer = queue.producer();
    (0..100).for_each(|n| _ = producer.push(ringwal_entry(n)).unwrap());
    // Paused, it does not wait for its sink.
    queue.shutdown(crate::common::LONG).unwrap();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(()));
    let closed = gate.lock().unwrap();
    let queue = open()
        .open(ringwal::blocking_fn({
            let (gate, recorder) = (std::sync::Arc::clone(&gate), recorder.clone());
            move |batch: &ringwal::Batch<crate::common::Numbered>| {
                drop(gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                let _ = &recorder;
                Ok(assert!(!batch.is_empty()))
            }
        }))
        .unwrap();
    let mut recovered = Box::pin(queue.recovered());
    assert!(recovered.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!((queue.metrics().recovered_left, recovered.is_reached()), (100, false));
    drop(closed);
    crate::common::block_on(recovered.as_mut()).unwrap();
    assert_eq!(queue.metrics().recovered_left, 0);
    assert!(matches!(recovered.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
    queue.shutdown(crate::common::LONG).unwrap();
}
