//! When a batch leaves, and what a burst costs the disk.

use std::time::Duration;

use ringwal::sim::OpKind;
use ringwal::{Batch, Durability, Idle, Jitter, Outcome, Queue, Retry, sink_fn};

use crate::common::{LONG, Numbered};
use crate::stage::{MS, Stage, few};

const HOUR: Duration = Duration::from_secs(3600);
/// The longest period.
const MINUTE: Duration = Duration::from_secs(60);

/// F068, F231: as soon as there are as many as make a batch, and not before, they leave; nothing has to be timed.
#[test]
fn as_many_entries_as_make_a_batch_leave_at_once_and_one_fewer_does_not() {
    for len in [1, 7, 100_u32] {
        let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(len as usize).linger(HOUR));
        for batch in 0..3 {
            let first = batch * len;
            stage.push(first..first + len - 1);
            stage.pass(HOUR - Duration::from_secs(1));
            assert_eq!(stage.sink.calls().len(), batch as usize, "{} of {len}", len - 1);
            let begun = stage.now();
            stage.push(first + len - 1..first + len);
            stage.settle();
            let calls = stage.sink.calls();
            assert_eq!(calls.len(), batch as usize + 1, "{len} of {len}");
            assert_eq!((calls[batch as usize].entries.len(), calls[batch as usize].at), (len as usize, begun));
        }
    }
}

/// F068, F232: the time belongs to the oldest entry. In an older implementation each send of others set it back, and
/// the entry of a thread that said nothing more was never delivered.
#[test]
fn the_entry_of_a_quiet_producer_leaves_in_its_time_however_busy_the_others_are() {
    let linger = 20 * MS;
    let mut stage = Stage::new(few(Durability::Memory).rings(1).pinned_rings(2).linger(linger));
    let (mut quiet, mut busy) = (stage.queue.producer().pin(), stage.queue.producer().pin());
    assert!(quiet.has_own_ring() && busy.has_own_ring());
    stage.settle();
    for round in 0..5_u32 {
        let begun = stage.now();
        quiet.push(Numbered::new(1, round, 20)).unwrap();
        stage.settle();
        for n in 0..40 {
            busy.push(Numbered::new(2, round * 40 + n, 20)).unwrap();
            stage.pass(MS);
        }
        let calls = stage.sink.calls();
        let got = calls.iter().find(|call| call.entries.iter().any(|e| (e.producer, e.number) == (1, round)));
        assert_eq!(got.expect("it came").at, begun + linger, "round {round}");
    }
}

const ALL: [Durability; 4] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(5)), Durability::Spill, Durability::Memory];

/// F233: the end is the third trigger: what has lingered leaves at once, and before anything that came later.
#[test]
fn closing_sends_what_lingers_at_once() {
    for durability in ALL {
        let mut stage = Stage::new(few(durability).linger(HOUR).batch_len_max(10));
        stage.push(0..7);
        stage.pass(Duration::from_secs(60));
        assert_eq!(stage.sink.calls().len(), 0, "{durability:?}");
        let begun = stage.now();
        let end = stage.close(true).unwrap();
        assert!(stage.now() - begun <= 5 * MS, "{durability:?}: it lingered for {:?}", stage.now() - begun);
        assert_eq!((end.delivered, stage.sink.numbers()), (7, (0..7).collect()), "{durability:?}");
    }
}

/// F038, F137, F165: closing waits for all that the sink has not taken, retries and their delays included.
#[test]
fn closing_waits_for_what_is_to_be_tried_again() {
    for durability in ALL {
        let retry = Retry { base: MS, factor: 2.0, max: 100 * MS, jitter: Jitter::None, attempts_max: None };
        let mut stage = Stage::new(few(durability).batch_len_max(10).retry(retry));
        stage.sink.answers(|call| Some(if call.attempt < 4 { Outcome::retry("not yet") } else { Outcome::ack() }));
        stage.push(0..25);
        stage.settle();
        assert_eq!(stage.metrics().delivered, 0, "{durability:?}");
        let begun = stage.now();
        let end = stage.close(true).unwrap();
        assert!(stage.now() - begun < Duration::from_secs(1), "{durability:?}");
        assert_eq!((end.delivered, end.parked, end.left_in_log, end.lost), (25, 0, 0, 0), "{durability:?}");
        let acknowledged = stage.sink.calls().into_iter().filter(|call| call.attempt == 4);
        assert_eq!(acknowledged.flat_map(|call| call.numbers()).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
    }
}

/// F168: group commit. While a write is on its way others gather, and go with the next one.
#[test]
fn what_is_pushed_while_the_disk_writes_goes_with_one_more_write() {
    let mut stage = Stage::new(few(Durability::Immediate));
    stage.push(0..1);
    while !stage.machine.in_flight().iter().any(|op| op.kind == OpKind::Write) {
        assert!(stage.queue.turn_core() || stage.machine.step(), "the first entry is not written");
    }
    let writes = |stage: &Stage| {
        let slots = stage.machine.history().into_iter().filter(|op| op.kind == OpKind::Write);
        slots.filter(|op| op.file.to_string().contains("seg")).count()
    };
    let before = writes(&stage);
    let waiting: Vec<_> =
        (1..101).map(|n| stage.queue.producer().push_durable(Numbered::new(0, n, 20)).unwrap()).collect();
    // Being asked wakes the flush core; the disk is not done.
    assert!(waiting.iter().all(|durable| durable.wait_timeout(Duration::ZERO).is_err()));
    assert!(stage.queue.turn_core());
    while stage.queue.turn_core() {}
    assert_eq!(writes(&stage), before, "the second commit waits for the first");
    stage.settle();
    assert!(waiting.iter().all(ringwal::Durable::is_reached));
    assert_eq!(writes(&stage) - before, 1, "{:#?}", stage.machine.history());
}

/// Found by measuring: a record that was published between the drain and a second look was taken for one that finds no room, and
/// the frame was sealed. A flush core that looks all the time cut a stream into hundreds of crumbs, each in blocks of its own.
#[test]
fn what_comes_while_the_flush_core_drains_shares_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Queue::builder(dir.path()).durability(Durability::Periodic(MINUTE)).idle(Idle::Spin).rings(1);
    let queue = settings.open(sink_fn(|_: Batch<Numbered>| async { Ok(()) })).unwrap();
    let producer = queue.producer();
    (0..20_000).for_each(|n| _ = producer.push(Numbered::new(0, n, 20)).unwrap());
    queue.flush().unwrap();
    let metrics = queue.metrics();
    // 32 bytes each, and a frame has room for 256 KiB.
    assert!(metrics.frames <= 6, "{} frames of {} entries", metrics.frames, metrics.pushed);
    queue.shutdown(LONG).unwrap();
}
