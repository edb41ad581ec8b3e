//! What a push says, and what it waits for.

use std::time::Duration;

use ringwal::sim::{Fault, OpKind};
use ringwal::{
    BatchError, Breaker, DecodeError, Durability, EncodeError, Entry, OnBreaker, Outcome, PushError, Schema, WhenFull,
};

use crate::common::Numbered;
use crate::stage::{Stage, few};

const EIO: i32 = 5;

/// Pushes until there is no room; what came back.
fn refused(stage: &Stage) -> PushError<Numbered> {
    let producer = stage.queue.producer();
    (0..10_000)
        .find_map(|n| producer.push(Numbered::new(0, n, 1000)).err())
        .expect("rings of 64 KiB take no ten thousand of these")
}

/// F180 to F184: the documents' errors by kind, each with the entry and a text that says what to do.
#[test]
fn errors_of_pushes_are_told_apart_and_give_the_entry_back() {
    let number = |error: PushError<Numbered>| error.into_entry().number;

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

    let stage = Stage::new(few(Durability::Immediate).when_full(WhenFull::DropNewest));
    let dropped = refused(&stage);
    assert!(matches!(dropped, PushError::Dropped(_)) && dropped.is_full());
    assert_eq!(number(dropped), at);
    assert_eq!((stage.metrics().rejected, stage.metrics().dropped), (0, 1));

    let mut stage = Stage::new(few(Durability::Immediate));
    let producer = stage.queue.producer();
    let long = producer.push(Numbered::new(0, 3, 2000)).unwrap_err();
    assert_eq!(long.to_string(), "the entry has 2008 bytes, but entry_len_max is 2000");
    assert_eq!(number(long), 3);
    stage.close(true).unwrap();
    let closed = producer.push(Numbered::new(0, 4, 20)).unwrap_err();
    assert!(matches!(closed, PushError::Closed(_)) && closed.is_closed() && !closed.is_full());
    assert_eq!((closed.to_string(), number(closed)), ("the queue is closed".to_owned(), 4));

    let breaker = Breaker { failures: 1, ..Breaker::default() };
    let mut stage = Stage::new(few(Durability::Immediate).breaker(breaker).on_breaker(OnBreaker::Reject));
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..1);
    stage.pass(Duration::from_millis(10));
    let open = stage.queue.producer().push(Numbered::new(0, 5, 20)).unwrap_err();
    assert!(matches!(open, PushError::Breaker(_)) && !open.is_full() && !open.is_closed());
    assert_eq!(open.to_string(), "the breaker is open: the sink keeps failing; push again later");
    assert_eq!(number(open), 5);

    let mut stage = Stage::new(few(Durability::Immediate));
    stage.settle();
    stage.machine.inject(Fault::error(OpKind::Write, EIO).forever());
    stage.push(0..1);
    stage.settle();
    let poisoned = stage.queue.producer().push(Numbered::new(0, 6, 20)).unwrap_err();
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
