//! Many entries with one claim. Those of known length are encoded in the ring, once it is claimed; the others before, since
//! how much is to be claimed depends on them.

use std::cell::RefCell;

use crate::entry::Entry;
use crate::error::BatchError;
use crate::producer::{Producer, Refusal, SCRATCH_KEPT, SpaceWait};
use crate::ring::record::{RECORD_HEADER_LEN, stride_of};

/// Longest run that is claimed at once, in bytes: a small part of any ring.
const RUN_LEN_MAX: usize = 16 << 10;

thread_local! {
    static RUN: RefCell<Run> = const { RefCell::new(Run::new()) };
}

/// What is known of entries that are not yet in the ring.
struct Run {
    /// Those of unknown length, encoded.
    bytes: Vec<u8>,
    /// Their lengths.
    lens: Vec<usize>,
    /// Bytes that all will take.
    run_len: usize,
    /// Entries with keys choose their rings one by one.
    has_keys: bool,
}

impl Run {
    const fn new() -> Self {
        Self { bytes: Vec::new(), lens: Vec::new(), run_len: 0, has_keys: false }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lens.clear();
        self.run_len = 0;
        self.has_keys = false;
    }

    fn add<T: Entry>(&mut self, entry: &T, len_max: usize) -> Result<(), Refusal> {
        if let Some(len) = entry.encoded_len() {
            if len > len_max {
                return Err(Refusal::TooLong { len });
            }
            self.run_len += stride_of(len);
            return Ok(());
        }
        let start = self.bytes.len();
        entry.encode(&mut self.bytes).map_err(|error| {
            self.bytes.truncate(start);
            Refusal::Encode(error)
        })?;
        let len = self.bytes.len() - start;
        if len > len_max {
            self.bytes.truncate(start);
            return Err(Refusal::TooLong { len });
        }
        self.lens.push(len);
        self.run_len += stride_of(len);
        Ok(())
    }
}

pub(crate) fn push_batch<T: Entry>(
    producer: &Producer<T>,
    entries: impl IntoIterator<Item = T>,
) -> Result<usize, BatchError<T>> {
    let mut run = RUN.with(|cell| cell.replace(Run::new()));
    run.clear();
    let result = push_runs(producer, entries.into_iter(), &mut run);
    if run.bytes.capacity() <= SCRATCH_KEPT {
        RUN.with(|cell| cell.replace(run));
    }
    result
}

fn push_runs<T: Entry>(
    producer: &Producer<T>,
    mut entries: impl Iterator<Item = T>,
    run: &mut Run,
) -> Result<usize, BatchError<T>> {
    let run_len_max = RUN_LEN_MAX.min(producer.shared.rings.run_len_max() / 2);
    let entry_len_max = producer.shared.config.entry_len_max;
    let mut pushed = 0;
    // The entries of a run are kept until they are in the ring: a refused one must come back.
    let mut kept: Vec<T> = Vec::new();
    loop {
        let next = entries.next();
        let ends = next.is_none();
        if let Some(entry) = next {
            run.has_keys |= entry.key().is_some();
            match run.add(&entry, entry_len_max) {
                Ok(()) => kept.push(entry),
                Err(refusal) => {
                    match commit_run(producer, run, &mut kept, pushed) {
                        Ok(count) => pushed += count,
                        Err(mut stopped) => {
                            stopped.rest.push(entry);
                            return Err(stopped);
                        }
                    }
                    let error = refusal.into_push_error(entry, &producer.shared);
                    return Err(BatchError { pushed, error, rest: Vec::new() });
                }
            }
        }
        if ends || run.run_len >= run_len_max {
            pushed += commit_run(producer, run, &mut kept, pushed)?;
        }
        if ends {
            return Ok(pushed);
        }
    }
}

/// Puts the run into the ring: as one claim, or, where that is refused, entry by entry.
fn commit_run<T: Entry>(
    producer: &Producer<T>,
    run: &mut Run,
    kept: &mut Vec<T>,
    before: usize,
) -> Result<usize, BatchError<T>> {
    let count = kept.len();
    let held = if count > 0 { pass_gate(producer) } else { Ok(()) };
    if held.is_err() || count > 0 && claim_run(producer, run, kept).is_none() {
        let mut entries = kept.drain(..);
        let mut pushed = before;
        if let Err(refusal) = held
            && let Some(entry) = entries.next()
        {
            let error = refusal.into_push_error(entry, &producer.shared);
            return Err(BatchError { pushed, error, rest: entries.collect() });
        }
        while let Some(entry) = entries.next() {
            if let Err(error) = producer.push_past_gate(entry) {
                return Err(BatchError { pushed, error, rest: entries.collect() });
            }
            pushed += 1;
        }
    }
    kept.clear();
    run.clear();
    Ok(count)
}

/// What holds pushes up does so once for a run, with the patience of one push.
fn pass_gate<T: Entry>(producer: &Producer<T>) -> Result<(), Refusal> {
    if producer.shared.is_gated() {
        let ring = producer.shared.rings.ring_of_this_thread();
        return SpaceWait::new(&producer.shared, producer.patience()).out(Refusal::Gated, ring);
    }
    Ok(())
}

/// `None`: nothing of it is in the ring.
fn claim_run<T: Entry>(producer: &Producer<T>, run: &Run, entries: &[T]) -> Option<()> {
    debug_assert!(run.run_len >= entries.len() * RECORD_HEADER_LEN);
    let rings = &producer.shared.rings;
    let ring = rings.ring_of_this_thread();
    if run.has_keys {
        return None;
    }
    let mut claim = rings.claim_run(ring, run.run_len).ok()?;
    let (mut bytes, mut lens) = (&run.bytes[..], run.lens.iter());
    for entry in entries {
        // An entry that says another length now than before finds no room in the end, or leaves some: the claim is skipped, or
        // its rest.
        if let Some(len) = entry.encoded_len() {
            entry.encode_into(claim.next_mut(len)?);
            continue;
        }
        let (payload, after) = bytes.split_at(*lens.next()?);
        claim.next_mut(payload.len())?.copy_from_slice(payload);
        bytes = after;
    }
    claim.publish();
    Some(())
}

#[cfg(all(test, feature = "testing", not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;
    use crate::delivery::batch::Batch;
    use crate::entry::{DecodeError, EncodeError};
    use crate::error::PushError;
    use crate::queue::Queue;
    use crate::schema::Schema;
    use crate::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
    use crate::sink::{SinkError, sink_fn};
    use crate::wal::mutant::Mutants;

    fn open<T: Entry>() -> SteppedQueue<T> {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let settings = SteppedSettings { seed: 1, clock, store: None, mutants: Mutants::NONE };
        let sink = sink_fn(|_: Batch<T>| async { Ok::<(), SinkError>(()) });
        SteppedQueue::open(Queue::builder(Path::new("simulated")), settings, &machine, sink).unwrap()
    }

    /// Says one length when it is asked first, and another one from then on.
    #[derive(Debug)]
    struct Fickle(Cell<usize>, usize);

    impl Entry for Fickle {
        const SCHEMA: Schema = Schema::new("test.fickle", 1);

        fn encoded_len(&self) -> Option<usize> {
            Some(self.0.replace(self.1))
        }

        fn encode_into(&self, out: &mut [u8]) {
            out.fill(1);
        }

        fn decode(_: &[u8]) -> Result<Self, DecodeError> {
            Ok(Self(Cell::new(0), 0))
        }
    }

    /// Found by reading: eight bytes and the greatest length wrapped to nothing, which fits every run. The entry got a slice
    /// over all of memory.
    #[test]
    fn an_entry_that_grows_beyond_all_bounds_after_it_was_asked_for_its_length_is_refused() {
        let queue = open::<Fickle>();
        for len in [24, usize::MAX - 15, usize::MAX - 8, usize::MAX - 7, usize::MAX - 3, usize::MAX] {
            let batch = queue.producer().push_batch([Fickle(Cell::new(8), 8), Fickle(Cell::new(8), len)]);
            if len == 24 {
                assert_eq!(batch.unwrap(), 2, "one by one it has room");
                continue;
            }
            let refused = batch.unwrap_err();
            assert!(matches!(refused.error, PushError::TooLong { len: said, .. } if said == len), "{refused:?}");
            assert_eq!(refused.pushed, 1);
        }
    }

    /// So many bytes.
    struct Long(usize);

    impl Entry for Long {
        const SCHEMA: Schema = Schema::new("test.long", 1);

        fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            out.resize(out.len() + self.0, 1);
            Ok(())
        }

        fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
            Ok(Self(bytes.len()))
        }
    }

    #[test]
    fn a_thread_does_not_keep_the_memory_of_its_longest_batch() {
        let queue = open::<Long>();
        let kept = || RUN.with(|run| run.borrow().bytes.capacity());
        assert_eq!(queue.producer().push_batch([Long(100), Long(200)]).unwrap(), 2);
        assert!(kept() >= 300, "what is short is kept: it will be needed again");
        assert!(queue.producer().push_batch([Long(100), Long(4 * SCRATCH_KEPT)]).is_err());
        assert!(kept() <= SCRATCH_KEPT, "{} bytes are kept", kept());
    }
}
