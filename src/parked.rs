//! The parked entries, for their owner: list, redeliver, discard.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::config::{Durability, Park};
use crate::delivery::park::ParkedEntry;
use crate::durable::{Receipt, wait_durable};
use crate::engine::{ANSWER_WITHIN, Command, ParkExit, Shared};
use crate::entry::Entry;
use crate::error::LogError;
use crate::lsn::Lsn;
use crate::producer::{lane_of_key, ring_of_key};
use crate::ring::ClaimError;

/// Entries that are read at a time.
const PAGE: usize = 1000;

/// The entries that the sink has refused for good, oldest first. See [`Queue::parked`](crate::Queue::parked).
pub struct Parked<'a, T> {
    shared: &'a Shared,
    entries: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for Parked<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parked({})", self.shared.metrics().parked)
    }
}

impl<'a, T: Entry> Parked<'a, T> {
    pub(crate) const fn new(shared: &'a Shared) -> Self {
        Self { shared, entries: PhantomData }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.shared.metrics().parked
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The oldest `max` of them after `after`; begin with [`Lsn::ZERO`], go on with the last one's `id`.
    ///
    /// # Errors
    /// When the park cannot be read; see [`LogError`].
    pub fn list(&self, after: Lsn, max: usize) -> Result<Vec<ParkedEntry>, LogError> {
        if self.shared.config.park == Park::Drop {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + ANSWER_WITHIN;
        self.shared.ask(deadline, |reply| Command::ListParked { after, max, reply })?
    }

    /// Puts those that `which` chooses back into the queue as new entries, and gives their number. Each is
    /// durable in the queue before it leaves the park: a crash in between, or a log that fails then, leaves it in both, never in none.
    ///
    /// `which` is asked about those that are parked when it is called. What is put back, refused again and parked anew
    /// meanwhile is not among them.
    ///
    /// What was encoded by another version of the type is encoded anew; what cannot be, because it does not decode, stays
    /// in the park and is not counted, as what is longer than an entry may be now.
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done. With [`LogError::TooManyHoles`] nothing else was put back.
    pub fn redeliver(&self, mut which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        let which = |entry: &ParkedEntry| which(entry) && self.bytes_for_now(entry).is_some();
        self.for_chosen(which, ParkExit::Redelivered, |entries| self.put_back(entries))
    }

    /// Gives those up that `which` chooses, and tells their number. It is asked about those that are parked when it is
    /// called.
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done.
    pub fn discard(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        self.for_chosen(which, ParkExit::Discarded, |entries| (ids_of(entries), Ok(())))
    }

    /// `before` tells which of those that it gets may leave the park, and what keeps the others there.
    fn for_chosen(
        &self,
        mut which: impl FnMut(&ParkedEntry) -> bool,
        exit: ParkExit,
        before: impl Fn(&[ParkedEntry]) -> (Vec<Lsn>, Result<(), LogError>),
    ) -> Result<usize, LogError> {
        let upto = self.last()?;
        let (mut after, mut count) = (Lsn::ZERO, 0);
        while after < upto {
            let mut page = self.list(after, PAGE)?;
            page.retain(|entry| entry.id <= upto);
            let Some(last) = page.last() else {
                break;
            };
            after = last.id;
            let chosen: Vec<ParkedEntry> = page.into_iter().filter(|entry| which(entry)).collect();
            if chosen.is_empty() {
                continue;
            }
            let (ids, result) = before(&chosen);
            if !ids.is_empty() {
                count += ids.len();
                let deadline = Instant::now() + ANSWER_WITHIN;
                self.shared.ask(deadline, |reply| Command::Unpark { ids, exit, reply })??;
            }
            result?;
        }
        Ok(count)
    }

    /// The id of the entry that was parked last, whether it is there still or gone.
    fn last(&self) -> Result<Lsn, LogError> {
        if self.shared.config.park == Park::Drop {
            return Ok(Lsn::ZERO);
        }
        self.shared.ask(Instant::now() + ANSWER_WITHIN, |reply| Command::LastParked { reply })
    }

    /// Its bytes as the queue's type is encoded now, with its key: as they are, or encoded anew. Bytes of today's encoding
    /// need not even decode.
    fn bytes_for_now<'e>(&self, entry: &'e ParkedEntry) -> Option<(Cow<'e, [u8]>, Option<u64>)> {
        // What panics when it is decoded lies here for that.
        let value = catch_unwind(AssertUnwindSafe(|| entry.decode::<T>().ok())).unwrap_or_default();
        let key = value.as_ref().and_then(T::key);
        let bytes = if entry.schema == T::SCHEMA {
            Cow::Borrowed(&*entry.bytes)
        } else {
            let mut bytes = Vec::new();
            value?.encode(&mut bytes).ok()?;
            Cow::Owned(bytes)
        };
        (bytes.len() <= self.shared.config.entry_len_max).then_some((bytes, key))
    }

    /// Puts them into the queue, as far as it takes them: those that are durable there, and what became of the others.
    fn put_back(&self, entries: &[ParkedEntry]) -> (Vec<Lsn>, Result<(), LogError>) {
        // What could not leave the park is not put back at all: it would be in both, and once more after each try.
        let (ids, deadline) = (ids_of(entries), Instant::now() + ANSWER_WITHIN);
        let may = self.shared.ask(deadline, |reply| Command::MayUnpark { ids, reply });
        if let Err(error) = may.and_then(|may| may) {
            return (Vec::new(), Err(error));
        }
        let (mut pushed, mut result) = (Vec::with_capacity(entries.len()), Ok(()));
        for entry in entries {
            match self.push(entry) {
                Ok(receipt) => pushed.push((entry.id, receipt)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if self.shared.config.durability != Durability::Memory {
            pushed.retain(|(_, receipt)| match wait_durable(self.shared, *receipt, None) {
                Ok(()) => true,
                Err(error) => {
                    result = Err(error);
                    false
                }
            });
        }
        (pushed.into_iter().map(|(id, _)| id).collect(), result)
    }

    fn push(&self, entry: &ParkedEntry) -> Result<Receipt, LogError> {
        // Those that have none were not chosen.
        let (bytes, key) = self.bytes_for_now(entry).unwrap_or((Cow::Borrowed(&entry.bytes), None));
        let rings = &self.shared.rings;
        let ring = key.map_or_else(|| rings.ring_of_this_thread(), |key| ring_of_key(key, rings.shared_count()));
        loop {
            let seen = rings.space(ring).value();
            match rings.claim(ring, bytes.len()) {
                Ok(mut claim) => {
                    if let Some(key) = key {
                        claim.set_lane(lane_of_key(key));
                    }
                    claim.payload_mut().copy_from_slice(&bytes);
                    return Ok(Receipt { ring, end: claim.publish() });
                }
                Err(ClaimError::Full) => {
                    let _ = rings.space(ring).wait(seen + 1, Some(Duration::from_secs(1)));
                }
                Err(_) => return Err(self.shared.status.end_of_waiting()),
            }
        }
    }
}

fn ids_of(entries: &[ParkedEntry]) -> Vec<Lsn> {
    entries.iter().map(|entry| entry.id).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::*;
    use crate::config::Io;
    use crate::delivery::batch::Batch;
    use crate::entry::DecodeError;
    use crate::queue::Queue;
    use crate::schema::Schema;
    use crate::sink::{SinkError, blocking_fn};

    thread_local! {
        /// The queue that refuses pushes from the third of these on that this thread decodes.
        static CLOSES: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
    }

    struct Third(u8);

    impl Entry for Third {
        const SCHEMA: Schema = Schema::new("test.third", 1);

        fn encoded_len(&self) -> Option<usize> {
            Some(1)
        }

        fn encode_into(&self, out: &mut [u8]) {
            out[0] = self.0;
        }

        fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
            CLOSES.with_borrow(|queue| queue.iter().filter(|_| bytes[0] == 3).for_each(|queue| queue.close_rings()));
            Ok(Self(bytes[0]))
        }
    }

    #[test]
    fn what_was_put_back_before_the_queue_took_no_more_has_left_the_park() {
        let dir = tempfile::tempdir().unwrap();
        let long = Duration::from_secs(60);
        let queue: Queue<Third> = Queue::builder(dir.path())
            .durability(Durability::Immediate)
            // Under valgrind no thread runs beside one that waits in io_uring.
            .io(Io::Threads)
            .open(blocking_fn(|_: &Batch<Third>| Err::<(), _>(SinkError::park("no"))))
            .unwrap();
        let producer = queue.producer();
        (1..=5).for_each(|number| _ = producer.push(Third(number)).unwrap());
        queue.drain(long).unwrap();
        queue.pause();
        let redelivered = queue.parked().redeliver(|entry| {
            if entry.bytes[..] == [5] {
                CLOSES.set(Some(Arc::clone(queue.shared())));
            }
            true
        });
        CLOSES.set(None);
        assert!(matches!(redelivered, Err(LogError::Closed)), "{redelivered:?}");
        let left = queue.parked().list(Lsn::ZERO, 10).unwrap();
        assert_eq!(left.iter().map(|entry| entry.bytes[0]).collect::<Vec<_>>(), [3, 4, 5]);
        let metrics = queue.metrics();
        assert_eq!((metrics.pushed, metrics.redelivered, metrics.pending), (7, 2, 2));
    }
}
