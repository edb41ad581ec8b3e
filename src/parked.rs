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
    /// durable in the queue before it leaves the park: a crash in between leaves it in both, never in none.
    ///
    /// `which` is asked about those that are parked when it is called. What is put back, refused again and parked anew
    /// meanwhile is not among them.
    ///
    /// What was encoded by another version of the type is encoded anew; what cannot be, because it does not decode or has
    /// become too long, stays in the park and is not counted.
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done. With [`LogError::TooManyHoles`] nothing else was put back.
    pub fn redeliver(&self, mut which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        let which = |entry: &ParkedEntry| which(entry) && self.bytes_for_now(entry).is_some();
        self.for_chosen(which, ParkExit::Redelivered, |entries| {
            // What could not leave the park is not put back at all: it would be in both, and once more after each try.
            let (ids, deadline) = (ids_of(entries), Instant::now() + ANSWER_WITHIN);
            self.shared.ask(deadline, |reply| Command::MayUnpark { ids, reply })??;
            let receipts: Result<Vec<_>, _> = entries.iter().map(|entry| self.put_back(entry)).collect();
            if self.shared.config.durability == Durability::Memory {
                return receipts.map(drop);
            }
            receipts?.into_iter().try_for_each(|receipt| wait_durable(self.shared, receipt, None))
        })
    }

    /// Gives those up that `which` chooses, and tells their number. It is asked about those that are parked when it is
    /// called.
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done.
    pub fn discard(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        self.for_chosen(which, ParkExit::Discarded, |_| Ok(()))
    }

    fn for_chosen(
        &self,
        mut which: impl FnMut(&ParkedEntry) -> bool,
        exit: ParkExit,
        mut before: impl FnMut(&[ParkedEntry]) -> Result<(), LogError>,
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
            before(&chosen)?;
            count += chosen.len();
            let (ids, deadline) = (ids_of(&chosen), Instant::now() + ANSWER_WITHIN);
            self.shared.ask(deadline, |reply| Command::Unpark { ids, exit, reply })??;
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
        if entry.schema == T::SCHEMA {
            return Some((Cow::Borrowed(&entry.bytes), key));
        }
        let mut bytes = Vec::new();
        value?.encode(&mut bytes).ok()?;
        (bytes.len() <= self.shared.config.entry_len_max).then_some((Cow::Owned(bytes), key))
    }

    fn put_back(&self, entry: &ParkedEntry) -> Result<Receipt, LogError> {
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
