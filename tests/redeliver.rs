//! Parked entries that go back into a queue whose type has moved on.

mod common;

use std::sync::{Arc, Mutex};

use common::{LONG, Numbered, Recorder, in_memory, small};
use ringwal::{
    Batch, DecodeError, Durability, Entry, LogError, Lsn, Outcome, ParkedEntry, Queue, Schema, SinkError, Verdict,
    blocking_fn,
};

/// As it once was: a number.
#[derive(Debug)]
struct Old(u32);

impl Entry for Old {
    const SCHEMA: Schema = Schema::new("test.price", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(4)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(u32::from_le_bytes(bytes.try_into().map_err(DecodeError::new)?)))
    }
}

/// As it is now: the same four bytes mean another thing.
#[derive(Clone, PartialEq, Eq, Debug)]
struct New {
    cents: u32,
}

impl Entry for New {
    const SCHEMA: Schema = Schema::new("test.price", 2);

    fn encoded_len(&self) -> Option<usize> {
        Some(4)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.cents.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { cents: u32::from_be_bytes(bytes.try_into().map_err(DecodeError::new)?) })
    }

    fn accepts(schema: &Schema) -> bool {
        *schema == Self::SCHEMA || *schema == Old::SCHEMA
    }

    fn decode_from(schema: &Schema, bytes: &[u8]) -> Result<Self, DecodeError> {
        if *schema != Old::SCHEMA {
            return Self::decode(bytes);
        }
        match Old::decode(bytes)?.0 {
            0 => Err(DecodeError::new("nothing is free any more")),
            euros => Ok(Self { cents: euros * 100 }),
        }
    }
}

/// Found when lanes were built: the bytes went back as they were, under the schema of today, and were then read as what
/// they are not.
#[test]
fn what_was_parked_by_an_older_version_is_encoded_anew_when_it_is_redelivered() {
    let dir = in_memory();
    let queue: Queue<Old> = small(dir.path(), Durability::Immediate)
        .open(blocking_fn(|_: &Batch<Old>| Err::<(), _>(SinkError::park("not now"))))
        .unwrap();
    let producer = queue.producer();
    [7, 0, 9].into_iter().for_each(|euros| _ = producer.push(Old(euros)).unwrap());
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();

    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let queue: Queue<New> = small(dir.path(), Durability::Immediate)
        .open(blocking_fn(move |batch: &Batch<New>| {
            sink.lock().unwrap().extend(batch.values().cloned());
            Ok(())
        }))
        .unwrap();
    assert_eq!(queue.parked().redeliver(|_| true).unwrap(), 2, "one has no meaning any more");
    queue.drain(LONG).unwrap();
    assert_eq!(*seen.lock().unwrap(), [New { cents: 700 }, New { cents: 900 }]);
    let left = queue.parked().list(Lsn::ZERO, 10).unwrap();
    assert_eq!((left.len(), left[0].schema), (1, Old::SCHEMA), "it stays where it can be looked at");
    assert_eq!(queue.parked().discard(|_| true).unwrap(), 1);
    queue.shutdown(LONG).unwrap();
}

/// Parks whatever it gets, and says why.
fn refusing(why: impl Fn(u32) -> &'static str + Send + Sync + 'static) -> impl ringwal::Sink<Numbered> {
    blocking_fn(move |batch: &Batch<Numbered>| {
        Ok(Outcome::Each(batch.values().map(|entry| Verdict::Park(why(entry.number).into())).collect()))
    })
}

fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    numbers.for_each(|number| _ = producer.push_timeout(Numbered::new(0, number, 8), LONG).unwrap());
}

/// It went on to what it had itself put back, for as long as the sink refused it.
#[test]
fn what_is_refused_again_meanwhile_is_not_redelivered_once_more_nor_discarded() {
    const FIRST_PAGE: u32 = 1000;
    let dir = in_memory();
    let queue = small(dir.path(), Durability::Immediate).open(refusing(|_| "never")).unwrap();
    push(&queue, 0..FIRST_PAGE + 1);
    queue.drain(LONG).unwrap();
    let mut asked = 0;
    let redelivered = queue.parked().redeliver(|_| {
        asked += 1;
        if asked == FIRST_PAGE + 1 {
            // The first thousand are parked again before the next page is read.
            queue.drain(LONG).unwrap();
        }
        asked <= 5 * FIRST_PAGE
    });
    assert_eq!((redelivered.unwrap(), asked), (1001, 1001));
    queue.drain(LONG).unwrap();
    assert_eq!(queue.metrics().parked, 1001);

    let mut asked = 0;
    let discarded = queue.parked().discard(|_| {
        asked += 1;
        if asked == 1 {
            push(&queue, 2000..2010);
            queue.drain(LONG).unwrap();
        }
        true
    });
    assert_eq!((discarded.unwrap(), queue.metrics().parked), (1001, 10));
    queue.shutdown(LONG).unwrap();
}

/// They were put back first, and then did not leave the park: delivered, and once more at each further try.
#[test]
fn what_would_leave_too_many_holes_is_not_put_back_at_all() {
    let dir = in_memory();
    let why = |number| if number % 2 == 0 { "even" } else { "odd" };
    let queue = small(dir.path(), Durability::Immediate).open(refusing(why)).unwrap();
    push(&queue, 0..2000);
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();

    let seen = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).open(seen.clone()).unwrap();
    let number = |entry: &ParkedEntry| entry.decode::<Numbered>().unwrap().number;
    for _ in 0..2 {
        let redelivered = queue.parked().redeliver(|entry| entry.error == "odd");
        assert!(matches!(redelivered, Err(LogError::TooManyHoles)), "{redelivered:?}");
        queue.drain(LONG).unwrap();
    }
    // What one page has is put back before the next one is looked at.
    let mut delivered: Vec<u32> = seen.0.all().into_iter().map(|(_, entry, _)| entry.number).collect();
    delivered.sort_unstable();
    assert_eq!(delivered, (1..1000).step_by(2).collect::<Vec<_>>(), "each once");
    let left = queue.parked().list(Lsn::ZERO, 2000).unwrap();
    assert_eq!((left.len(), left.iter().filter(|entry| delivered.contains(&number(entry))).count()), (1500, 0));
    queue.shutdown(LONG).unwrap();
}

/// Those before it were put back and stayed in the park, and the error was that of a queue that is closed.
#[test]
fn what_is_longer_than_an_entry_may_be_by_now_stays_in_the_park_and_holds_up_no_other() {
    let dir = in_memory();
    let queue = small(dir.path(), Durability::Immediate).open(refusing(|_| "never")).unwrap();
    let producer = queue.producer();
    for (number, padding) in [(0, 8), (1, 1000), (2, 8)] {
        let _ = producer.push(Numbered::new(0, number, padding)).unwrap();
    }
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();

    let seen = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).entry_len_max(500).open(seen.clone()).unwrap();
    assert_eq!(queue.parked().redeliver(|_| true).unwrap(), 2);
    queue.drain(LONG).unwrap();
    assert_eq!(seen.0.all().into_iter().map(|(_, entry, _)| entry.number).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(queue.parked().list(Lsn::ZERO, 10).unwrap()[0].bytes.len(), 1008);
    queue.shutdown(LONG).unwrap();
}
