//! What a queue counts: each count and gauge of the documents by itself.

use ringwal::{Durability, Outcome, Queue, Verdict};

use crate::common::Numbered;
use crate::stage::{MS, Stage, each, few};

fn entry(n: u32) -> Numbered {
    Numbered::new(0, n, 20)
}

/// F034: nobody has to switch counting on, and the first entry counts like any other, whichever way it came.
#[test]
fn counting_needs_no_setting_and_is_exact_from_the_first_entry_on() {
    let mut stage = Stage::new(Queue::builder(std::path::Path::new("/simulated")));
    let producer = stage.queue.producer();
    let mut expected = 0;
    let mut counts = |stage: &mut Stage, more: u64| {
        expected += more;
        stage.pass(20 * MS);
        let metrics = stage.metrics();
        assert_eq!((metrics.pushed, metrics.delivered), (expected, expected));
    };
    counts(&mut stage, 0);
    producer.push(entry(0)).unwrap();
    counts(&mut stage, 1);
    producer.try_push(entry(1)).unwrap();
    counts(&mut stage, 1);
    producer.pin().push(entry(2)).unwrap();
    counts(&mut stage, 1);
    producer.push_batch((3..10).map(entry)).unwrap();
    counts(&mut stage, 7);
    let _durable = producer.push_durable(entry(10)).unwrap();
    counts(&mut stage, 1);
}

/// F042: how long the queue is: what waits, and what is out at the sink.
#[test]
fn what_is_not_delivered_is_pending_or_at_the_sink() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    let size = |stage: &Stage| {
        let metrics = stage.metrics();
        (metrics.pending, metrics.in_flight)
    };
    assert_eq!(size(&stage), (0, 0));
    stage.sink.hangs();
    stage.push(0..25);
    stage.settle();
    assert_eq!(size(&stage), (15, 10));
    stage.push(25..30);
    stage.settle();
    assert_eq!(size(&stage), (20, 10));
    // The sink takes the half of it, and hangs with the rest.
    stage.sink.answers(|call| {
        let verdict = |n: u32| if n.is_multiple_of(2) { Verdict::Ack } else { Verdict::Retry("not yet".into()) };
        (call.attempt == 1).then(|| each(call, |entry| verdict(entry.number)))
    });
    stage.settle();
    assert_eq!(size(&stage), (25, 0), "what failed waits for its delay, and holds up what must not overtake it");
    stage.pass(200 * MS);
    assert_eq!(size(&stage), (20, 5));
    stage.sink.acknowledges();
    stage.pass(1000 * MS);
    assert_eq!(size(&stage), (0, 0));
}

/// F045: each entry that was taken counts once, with its bytes; one that was given back does not, nor a second delivery.
#[test]
fn an_entry_that_was_taken_counts_once_and_one_that_was_given_back_does_not() {
    let mut stage = Stage::new(few(Durability::Immediate));
    stage.sink.answers(|call| Some(if call.attempt < 3 { Outcome::retry("not yet") } else { Outcome::ack() }));
    let producer = stage.queue.producer();
    producer.push_batch((0..4).map(entry)).unwrap();
    producer.push(Numbered::new(0, 4, 2000)).unwrap_err();
    producer.push(Numbered::new(0, 4, 100)).unwrap();
    stage.pass(1000 * MS);
    let metrics = stage.metrics();
    assert_eq!((metrics.pushed, metrics.pushed_bytes), (5, 4 * 28 + 108));
    assert_eq!((metrics.rejected, metrics.retries), (1, 10), "{metrics:#?}");
    stage.close(true).unwrap();
    producer.push(entry(5)).unwrap_err();
    assert_eq!((stage.metrics().pushed, stage.metrics().rejected), (5, 2));
}

/// F046: sent is what the sink has said that it has: not what it was given, nor what it refused for good.
#[test]
fn only_what_the_sink_acknowledged_counts_as_delivered() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    stage.sink.hangs();
    stage.push(0..10);
    stage.settle();
    assert_eq!((stage.sink.calls().len(), stage.metrics().delivered), (1, 0), "it has them, and says nothing yet");
    stage.sink.answers(|call| {
        Some(each(call, |entry| match (entry.number, entry.attempt) {
            (0..3, 1) => Verdict::Retry("not yet".into()),
            (3..5, _) => Verdict::Park("never".into()),
            _ => Verdict::Ack,
        }))
    });
    stage.settle();
    assert_eq!((stage.metrics().delivered, stage.metrics().parked), (5, 2));
    stage.pass(1000 * MS);
    assert_eq!((stage.metrics().delivered, stage.metrics().parked), (8, 2));
}

/// F047: a delivery that fails counts, in whole or in part, and one that succeeds does not.
#[test]
fn each_delivery_that_fails_in_whole_or_in_part_counts_once() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    // Not at all, then in part, then whole.
    stage.sink.answers(|call| {
        Some(match call.attempt {
            1 => Outcome::retry("all of them"),
            2 => each(call, |entry| if entry.number < 4 { Verdict::Retry("these".into()) } else { Verdict::Ack }),
            _ => Outcome::ack(),
        })
    });
    let failures = |stage: &Stage| stage.metrics().delivery_failures;
    stage.push(0..10);
    stage.settle();
    assert_eq!(failures(&stage), 1);
    stage.pass(10_000 * MS);
    assert_eq!((failures(&stage), stage.metrics().delivered), (2, 10));
    stage.sink.acknowledges();
    stage.push(10..20);
    stage.pass(10 * MS);
    assert_eq!((failures(&stage), stage.metrics().delivered), (2, 20));
    // Refused for good is a failure as well.
    stage.sink.answers(|call| Some(each(call, |_| Verdict::Park("never".into()))));
    stage.push(20..30);
    stage.pass(10 * MS);
    assert_eq!((failures(&stage), stage.metrics().parked), (3, 10));
}

/// F048: a batch counts when the sink is called with it, each time anew.
#[test]
fn each_call_of_the_sink_counts_as_a_batch() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    stage.sink.hangs();
    stage.push(0..30);
    stage.settle();
    assert_eq!(stage.metrics().batches, 1, "two more are full, and wait for it");
    stage.sink.answers(|call| Some(if call.attempt == 1 { Outcome::retry("not yet") } else { Outcome::ack() }));
    stage.pass(10_000 * MS);
    assert_eq!(stage.metrics().batches, 6, "each came twice");
    assert_eq!(stage.metrics().batches as usize, stage.sink.calls().len());
}

/// F049: what waits counts wherever it waits: in a ring, in memory, or on disk when memory has let it go.
#[test]
fn what_waits_counts_the_same_in_memory_and_on_disk() {
    let mut stage = Stage::new(few(Durability::Immediate).memory_max(3 << 20).log_bytes_max(64 << 20));
    stage.queue.set_paused(true);
    stage.push(0..10);
    assert_eq!(stage.metrics().ring_bytes, 10 * 40, "28 bytes and 8 for the head of each, in words of 8");
    assert_eq!(stage.metrics().pending, 0, "an entry counts from when the flush core takes it");
    stage.settle();
    assert_eq!((stage.metrics().ring_bytes, stage.metrics().pending), (0, 10));
    let mut n = 10;
    while stage.metrics().frames_let_go == 0 {
        stage.queue.producer().try_push(Numbered::new(0, n, 1900)).unwrap();
        n += 1;
        // The flush core lets a little gather.
        stage.pass(MS);
        assert_eq!(stage.metrics().pending, u64::from(n));
        assert!(n < 100_000, "memory of 3 MiB holds all of it");
    }
}
