//! What must be in a directory after its story.
//!
//! | checked                                                   | invariant of the catalogue |
//! |-----------------------------------------------------------|----------------------------|
//! | what was acknowledged by then is there, or was delivered  | I1                         |
//! | LSNs rise by one; each producer's entries in order        | I2                         |
//! | nothing but what was pushed, with its bytes               | I3                         |
//! | what is gone, the sink had                                | I4                         |
//! | all of it the same after the directory was opened before  | I8                         |

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use ringwal::{Builder, Lsn, Recovery};

use super::common::{LONG, Numbered, Recorder, drain, no, small};
use super::story::{Journal, Story, patient};

/// What was found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Acknowledgements that had to hold.
    pub promised: usize,
    pub entries: usize,
    pub torn: bool,
}

fn builder(story: &Story, dir: &Path) -> Builder {
    small(dir, story.durability()).log_bytes_max(story.log_bytes_max).retry(patient()).lock_wait(LONG)
}

/// Opens the directory, lets nothing out, and closes it: recovery has been there, and what it made of the
/// directory must do as well as what was there before.
pub fn only_open(story: &Story, dir: &Path) -> Recovery {
    let refuse = ringwal::blocking_fn(|_: &ringwal::Batch<Numbered>| Err::<(), _>(no("not now")));
    let queue = builder(story, dir).open(refuse).unwrap_or_else(|error| panic!("{error}"));
    let recovery = queue.recovery().clone();
    match queue.shutdown(Duration::ZERO) {
        Ok(_) | Err(ringwal::ShutdownError::Deadline(_)) => recovery,
        Err(error) => panic!("{error}"),
    }
}

/// Opens the directory, twice, and checks that it has what it must have: all that was acknowledged before the
/// device's recording had more than `by` requests.
pub fn check(story: &Story, journal: &Journal, dir: &Path, by: u64) -> Found {
    let promised = journal.acks.iter().filter(|(_, _, count)| *count <= by);
    if !dir.exists() {
        assert_eq!(promised.count(), 0, "entries were acknowledged, and there is no directory");
        return Found::default();
    }
    let first = only_open(story, dir);
    let recorder = Recorder::default();
    let queue = builder(story, dir).open(recorder.clone()).unwrap_or_else(|error| panic!("the second time: {error}"));
    assert_eq!(queue.recovery().recovered, first.recovered, "the second opening found something else");
    drain(&queue);
    let seen = recorder.0.all();
    assert_eq!(seen.len() as u64, first.recovered, "what was delivered is not what was recovered");
    check_entries(story, journal, &seen, by);
    // It goes on, with numbers that nobody had.
    queue.producer().push_durable(Numbered::new(77, 0, 10)).unwrap().wait().unwrap();
    drain(&queue);
    let (lsn, last, _) = recorder.0.all().pop().unwrap();
    assert_eq!(last, Numbered::new(77, 0, 10));
    assert!(seen.iter().all(|(other, _, _)| *other < lsn), "LSN {lsn} was used before");
    queue.shutdown(LONG).unwrap_or_else(|error| panic!("{error}"));
    let left = only_open(story, dir);
    assert_eq!(left.recovered, 0, "what was acknowledged comes back");
    Found { promised: promised.count(), entries: seen.len(), torn: first.torn_tail.is_some() }
}

fn check_entries(story: &Story, journal: &Journal, seen: &[(Lsn, Numbered, u32)], by: u64) {
    let mut of_producer: HashMap<u32, BTreeMap<u32, u64>> = HashMap::new();
    for (before, (lsn, _, _)) in seen.iter().zip(&seen[1.min(seen.len())..]) {
        assert_eq!(before.0.next(), *lsn, "a gap");
    }
    for (lsn, entry, _) in seen {
        let (producer, number) = (entry.producer, entry.number);
        let will = journal.will.get(&producer).unwrap_or_else(|| panic!("LSN {lsn}: producer {producer} is invented"));
        assert!(number <= *will, "LSN {lsn}: entry {number} of {producer} was never pushed");
        assert_eq!(*entry, story.entry(producer, number), "LSN {lsn}: the bytes are others");
        if let Some((of, was, _)) = journal.got.get(&lsn.number()) {
            assert_eq!((producer, number), (*of, *was), "LSN {lsn} was another entry when it was delivered before");
        }
        let numbers = of_producer.entry(producer).or_default();
        if let Some((last, _)) = numbers.last_key_value() {
            assert_eq!(number, last + 1, "LSN {lsn}: producer {producer} is out of order");
        }
        numbers.insert(number, lsn.number());
    }
    let mut delivered: HashMap<u32, Vec<u32>> = HashMap::new();
    for (producer, number, _) in journal.got.values().filter(|(_, _, count)| *count <= by) {
        delivered.entry(*producer).or_default().push(*number);
    }
    for (producer, promised, count) in journal.acks.iter().filter(|(_, _, count)| *count <= by) {
        let numbers = of_producer.entry(*producer).or_default();
        let delivered = delivered.entry(*producer).or_default();
        let is_there = |number: u32| numbers.contains_key(&number) || delivered.binary_search(&number).is_ok();
        // The journal has them in order; only the newest of each producer's groups needs every entry looked up.
        assert!(
            is_there(*promised),
            "LOST: entry {promised} of producer {producer}, acknowledged when the recording had {count} requests, of {by}"
        );
    }
    for (producer, numbers) in &of_producer {
        let Some((first, _)) = numbers.first_key_value() else { continue };
        let delivered = delivered.get(producer).map_or(&[][..], |numbers| numbers);
        for number in 0..*first {
            assert!(
                delivered.binary_search(&number).is_ok(),
                "LOST: entry {number} of producer {producer} before {first}"
            );
        }
    }
}
