//! What a push says, and what it waits for.

use std::time::Duration;

use ringwal::sim::{Fault, OpKind};
use ringwal::{
    BatchError, Breaker, DecodeError, Durability, EncodeError, Entry, OnBreaker, Outcome, PushError, Schema, WhenFull,
};

use crate::common::Numbered;
use crate::stage::{MS, Stage, few};

const EIO: i32 = 5;

/// Pushes until there is no room; what came back.
fn refused(stage: &Stage) -> PushError<Numbered> {
    let producer = stage.queue.producer();
    (0..10_000)
        .find_map(|n| producer.push(Numbered::new(0, n, 1000)).err())
        .expect("rings of 64 KiB take no ten thousand of these")
}

fn number(error: PushError<Numbered>) -> u32 {
    error.into_entry().number
}

/// F181: no room, and told not to wait for some.
#[test]
fn a_push_into_a_full_queue_gives_its_entry_back_as_full() {
    // Nobody drains.
    let stage = Stage::new(few(Durability::Immediate).when_full(WhenFull::Reject));
    let full = refused(&stage);
    assert!(matches!(full, PushError::Full(_)) && full.is_full() && !full.is_closed());
    assert_eq!(full.to_string(), "the queue is full: its ring has no room, or a hard watermark is reached");
    let at = number(full);
    assert!(at > 0);
    let metrics = stage.metrics();
    assert_eq!((metrics.rejected, metrics.dropped), (1, 0));
    let BatchError { pushed, error, rest, .. } =
        stage.queue.producer().push_batch((at..at + 3).map(|n| Numbered::new(0, n, 1000))).unwrap_err();
    assert_eq!((pushed, number(error), rest.len()), (0, at, 2));
}

/// F173: what is dropped is dropped because that was asked for, and counted, and given back all the same.
#[test]
fn what_is_dropped_is_counted_and_only_where_that_was_asked_for() {
    for when_full in [WhenFull::DropNewest, WhenFull::Reject] {
        let stage = Stage::new(few(Durability::Immediate).when_full(when_full));
        let back = refused(&stage);
        let drops = when_full == WhenFull::DropNewest;
        assert!(matches!(back, PushError::Dropped(_)) == drops && back.is_full(), "{when_full:?}: {back}");
        assert!(number(back) > 0);
        let counts = (stage.metrics().dropped, stage.metrics().rejected);
        assert_eq!(counts, if drops { (1, 0) } else { (0, 1) }, "{when_full:?}");
    }
}

/// F180: after the end there is nothing to push into.
#[test]
fn a_push_after_closing_gives_its_entry_back_as_closed() {
    let mut stage = Stage::new(few(Durability::Immediate));
    let producer = stage.queue.producer();
    stage.close(true).unwrap();
    let closed = producer.push(Numbered::new(0, 4, 20)).unwrap_err();
    assert!(matches!(closed, PushError::Closed(_)) && closed.is_closed() && !closed.is_full());
    assert_eq!((closed.to_string(), number(closed)), ("the queue is closed".to_owned(), 4));
}

/// F182: a sink that is down refuses pushes only where that was asked for; by default the log takes them.
#[test]
fn a_push_at_an_open_breaker_gives_its_entry_back_if_that_was_asked_for() {
    for on_breaker in [OnBreaker::Reject, OnBreaker::Accept] {
        let breaker = Breaker { failures: 1, ..Breaker::default() };
        let mut stage = Stage::new(few(Durability::Immediate).breaker(breaker).on_breaker(on_breaker));
        stage.sink.answers(|_| Some(Outcome::retry("down")));
        stage.push(0..1);
        stage.pass(Duration::from_millis(10));
        let pushed = stage.queue.producer().push(Numbered::new(0, 5, 20));
        if on_breaker == OnBreaker::Accept {
            pushed.unwrap();
            continue;
        }
        let open = pushed.unwrap_err();
        assert!(matches!(open, PushError::Breaker(_)) && !open.is_full() && !open.is_closed());
        assert_eq!(open.to_string(), "the breaker is open: the sink keeps failing; push again later");
        assert_eq!(number(open), 5);
        // Later is when the breaker is closed again.
        stage.sink.acknowledges();
        stage.pass(Duration::from_secs(60));
        stage.queue.producer().push(Numbered::new(0, 5, 20)).unwrap();
    }
}

/// F184: the errors that the documents do not have, each told apart from the others.
#[test]
fn an_entry_that_is_too_long_and_a_log_that_has_failed_are_errors_of_their_own() {
    let mut stage = Stage::new(few(Durability::Immediate));
    let producer = stage.queue.producer();
    let long = producer.push(Numbered::new(0, 3, 2000)).unwrap_err();
    assert!(matches!(long, PushError::TooLong { .. }) && !long.is_full() && !long.is_closed());
    assert_eq!(long.to_string(), "the entry has 2008 bytes, but entry_len_max is 2000");
    assert_eq!(number(long), 3);
    stage.settle();
    stage.machine.inject(Fault::error(OpKind::Write, EIO).forever());
    stage.push(0..1);
    stage.settle();
    let poisoned = producer.push(Numbered::new(0, 6, 20)).unwrap_err();
    assert!(matches!(poisoned, PushError::Poisoned(_)) && !poisoned.is_full());
    assert_eq!(poisoned.to_string(), "the log has failed; close the queue and open it again to recover");
    assert_eq!(number(poisoned), 6);
}

/// An entry that is not encodable.
#[derive(Debug)]
struct Never;

impl Entry for Never {
    const SCHEMA: Schema = Schema::new("test.never", 1);

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::new("no bytes say this"))
    }

    fn decode(_: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

/// F184: any error of a push is a `std::error::Error`, so that `?` and `matches!` both do.
#[test]
fn a_push_error_is_an_error_like_any_other() {
    fn push() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let queue =
            ringwal::Queue::builder(dir.path()).open(ringwal::blocking_fn(|_: &ringwal::Batch<Never>| Ok(())))?;
        queue.producer().push(Never).map_err(|error| error.to_string())?;
        Ok(())
    }
    assert_eq!(push().unwrap_err().to_string(), "the entry cannot be encoded: no bytes say this");
}

/// F071, F211: a push is over when its bytes are in the ring, and durable when the disk says so; the sink has no say in either.
#[test]
fn neither_a_push_nor_its_durability_waits_for_the_sink() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(5)), Durability::Spill] {
        let mut stage = Stage::new(few(durability).batch_len_max(10));
        stage.sink.hangs();
        for n in 0..500 {
            let durable = stage.queue.producer().push_durable(Numbered::new(0, n, 20)).unwrap();
            // Being asked is what makes the log hurry.
            let _ = durable.wait_timeout(Duration::ZERO);
            stage.settle();
            assert!(durable.is_reached(), "{durability:?}: entry {n}");
        }
        assert_eq!((stage.sink.calls().len(), stage.metrics().delivered), (1, 0), "{durability:?}");
        stage.sink.acknowledges();
        stage.pass(Duration::from_millis(10));
        assert_eq!(stage.sink.numbers(), (0..500).collect::<Vec<_>>(), "{durability:?}");
    }
}

/// F071: what nobody asks for is on disk in its time, too. Once the flush core slept so deep while the sink had enough to
/// do that a push did not wake it: with a sink that hung, entries lay in their rings for as long as these were half empty,
/// and would have died with the process.
#[test]
fn what_is_pushed_while_the_sink_hangs_is_on_disk_in_its_time() {
    for durability in [Durability::Immediate, Durability::Periodic(5 * MS)] {
        let mut stage = Stage::new(few(durability));
        stage.sink.hangs();
        for n in 0..300_u32 {
            stage.push(n..n + 1);
            stage.pass(5 * MS);
            assert_eq!(stage.metrics().durable_lsn.number(), u64::from(n) + 1, "{durability:?}: {:?}", stage.queue);
        }
    }
}
