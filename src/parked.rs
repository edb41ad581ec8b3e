//! The parked entries, for their owner: list, redeliver, discard.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::config::{Durability, Park};
use crate::delivery::park::ParkedEntry;
use crate::durable::{Receipt, wait_durable};
use crate::engine::{ANSWER_WITHIN, Command, ParkExit, Shared};
use crate::entry::Entry;
use crate::error::LogError;
use crate::lsn::Lsn;
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
    /// # Errors
    /// See [`LogError`]; those before the error are done.
    pub fn redeliver(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        self.for_chosen(which, ParkExit::Redelivered, |entries| {
            let receipts: Result<Vec<_>, _> = entries.iter().map(|entry| self.put_back(entry)).collect();
            if self.shared.config.durability == Durability::Memory {
                return receipts.map(drop);
            }
            receipts?.into_iter().try_for_each(|receipt| wait_durable(self.shared, receipt, None))
        })
    }

    /// Gives those up that `which` chooses, and tells their number.
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
        let (mut after, mut count) = (Lsn::ZERO, 0);
        loop {
            let page = self.list(after, PAGE)?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = last.id;
            let chosen: Vec<ParkedEntry> = page.into_iter().filter(|entry| which(entry)).collect();
            if chosen.is_empty() {
                continue;
            }
            before(&chosen)?;
            count += chosen.len();
            let ids = chosen.iter().map(|entry| entry.id).collect();
            let deadline = Instant::now() + ANSWER_WITHIN;
            self.shared.ask(deadline, |reply| Command::Unpark { ids, exit, reply })??;
        }
    }

    /// An entry's bytes go back as they are: they need not even decode.
    fn put_back(&self, entry: &ParkedEntry) -> Result<Receipt, LogError> {
        let rings = &self.shared.rings;
        let ring = rings.ring_of_this_thread();
        loop {
            let seen = rings.space(ring).value();
            match rings.claim(ring, entry.bytes.len()) {
                Ok(mut claim) => {
                    claim.payload_mut().copy_from_slice(&entry.bytes);
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
