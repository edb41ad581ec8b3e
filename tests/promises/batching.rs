//! When a batch leaves, and what a burst costs the disk.

use std::path::Path;
use std::time::Duration;

use ringwal::sim::OpKind;
use ringwal::{Durability, Jitter, Outcome, Queue, Retry};

use crate::common::Numbered;
use crate::stage::{MS, Stage, few};

/// F030, F031, F159, F204, F231, F232: the numbers that hold when nothing is said. Under `Periodic`, which is the default
/// of the durability, entries come to delivery with their commit.
#[test]
fn by_default_a_thousand_entries_leave_at_once_and_fewer_after_five_milliseconds() {
    let commits = [
        (Durability::Immediate, 0),
        (Durability::Memory, 0),
        (Durability::Spill, 0),
        (Durability::Periodic(5 * MS), 5),
    ];
    for (durability, period) in commits {
        let mut builder = Queue::builder(Path::new("/simulated"));
        if period == 0 {
            builder = builder.durability(durability);
        }
        let mut stage = Stage::new(builder);
        stage.push(0..2500);
        stage.pass(period * MS);
        let calls = stage.sink.calls();
        let lens: Vec<usize> = calls.iter().map(|call| call.entries.len()).collect();
        assert_eq!(lens, [1000, 1000], "{durability:?}: the rest may still be joined by others");
        let full = calls[1].at;
        stage.pass(full + 5 * MS - Duration::from_nanos(1) - stage.now());
        assert_eq!(stage.sink.calls().len(), 2, "{durability:?}");
        stage.pass(Duration::from_nanos(1));
        assert_eq!(stage.sink.calls()[2].entries.len(), 500, "{durability:?}");
        assert_eq!(stage.sink.numbers(), (0..2500).collect::<Vec<_>>(), "{durability:?}");
        assert_eq!(stage.metrics().batches, 3);
    }
}

/// F068, F159, F232: the time belongs to the oldest entry. In an older implementation each send of others set it back, and
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

/// F038, F137, F165, F233: closing is the third trigger, and waits for what is being tried again.
#[test]
fn closing_sends_what_lingers_and_what_is_to_be_tried_again() {
    for durability in [Durability::Immediate, Durability::Periodic(5 * MS), Durability::Spill, Durability::Memory] {
        let hour = Duration::from_secs(3600);
        let retry = Retry { base: MS, factor: 2.0, max: 100 * MS, jitter: Jitter::None, attempts_max: None };
        let mut stage = Stage::new(few(durability).linger(hour).batch_len_max(10).retry(retry));
        stage.sink.answers(|call| Some(if call.attempt < 4 { Outcome::retry("not yet") } else { Outcome::ack() }));
        stage.push(0..25);
        stage.settle();
        assert_eq!(stage.metrics().delivered, 0, "{durability:?}");
        let begun = stage.now();
        let end = stage.close(true).unwrap();
        assert!(stage.now() - begun < Duration::from_secs(1), "{durability:?}: it lingered");
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
