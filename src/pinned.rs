//! A producer for one hot loop: a ring of its own, no locked instruction.

use std::fmt;
use std::marker::PhantomData;

use crate::delivered::Delivered;
use crate::durable::{Durable, Receipt};
use crate::entry::{Entry, InPlace};
use crate::error::PushError;
use crate::lsn::Lsn;
use crate::producer::{Patience, Producer, Refusal, SpaceWait, lane_of_key, with_encoded};
use crate::ring::{ClaimError, PinnedClaim, PinnedRing};

/// Pushes entries from one place at a time, strictly in order, into a ring of its own while there are
/// free ones ([`pinned_rings`](crate::Builder::pinned_rings)). With others its entries have no order, not even those of
/// one [key](Entry::key). Without a ring of its own it pushes as a [`Producer`] does, in that one's order.
pub struct PinnedProducer<T> {
    producer: Producer<T>,
    ring: Option<PinnedRing>,
}

impl<T> fmt::Debug for PinnedProducer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedProducer(own ring: {})", self.ring.is_some())
    }
}

impl<T: Entry> PinnedProducer<T> {
    pub(crate) fn new(producer: Producer<T>) -> Self {
        let ring = producer.shared.rings.pin();
        Self { producer, ring }
    }

    /// Whether it has a ring of its own.
    #[must_use]
    pub const fn has_own_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Puts an entry into the queue, as [`Producer::push`].
    ///
    /// # Errors
    /// As [`Producer::push`].
    #[inline]
    pub fn push(&mut self, entry: T) -> Result<Receipt, PushError<T>> {
        self.push_within(entry, Producer::patience)
    }

    /// Puts an entry into the queue if that can be done at once, as [`Producer::try_push`].
    ///
    /// # Errors
    /// As [`Producer::try_push`].
    #[inline]
    pub fn try_push(&mut self, entry: T) -> Result<Receipt, PushError<T>> {
        self.push_within(entry, |_| Patience::None)
    }

    /// Puts an entry into the queue and gives what tells when it is on disk.
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub fn push_durable(&mut self, entry: T) -> Result<Durable, PushError<T>> {
        self.push(entry).map(|receipt| self.durable(receipt))
    }

    /// Puts an entry into the queue and gives what tells when the sink is done with it, as
    /// [`Producer::push_delivered`].
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub fn push_delivered(&mut self, entry: T) -> Result<Delivered, PushError<T>> {
        let done = Lsn::new(self.producer.shared.done.value());
        self.push(entry).map(|receipt| Delivered::new(&self.producer.shared, receipt, done))
    }

    /// What tells when the sink is done with the entry of this receipt, as [`Producer::delivered`].
    pub fn delivered(&self, receipt: Receipt) -> Delivered {
        self.producer.delivered(receipt)
    }

    /// What tells when the entry of this receipt is on disk, as [`Producer::durable`].
    pub fn durable(&self, receipt: Receipt) -> Durable {
        self.producer.durable(receipt)
    }

    /// `patience` is asked only where a push may have to wait.
    #[inline]
    fn push_within(
        &mut self,
        entry: T,
        patience: impl FnOnce(&Producer<T>) -> Patience,
    ) -> Result<Receipt, PushError<T>> {
        let Some(ring) = &mut self.ring else {
            return self.push_shared(entry, patience(&self.producer));
        };
        let written = match self.producer.shared.is_gated() {
            false => write_entry(ring, &entry),
            true => Err(Refusal::Gated),
        };
        match written {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => {
                let patience = patience(&self.producer);
                self.push_slowly(entry, refusal, patience)
            }
        }
    }

    /// Without a ring of its own.
    #[inline(never)]
    fn push_shared(&self, entry: T, patience: Patience) -> Result<Receipt, PushError<T>> {
        match patience {
            Patience::None => self.producer.try_push(entry),
            Patience::For(wait) => self.producer.push_timeout(entry, wait),
            Patience::Forever => self.producer.push(entry),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_slowly(&mut self, entry: T, refusal: Refusal, patience: Patience) -> Result<Receipt, PushError<T>> {
        let shared = &self.producer.shared;
        let mut wait = SpaceWait::new(shared, patience);
        let mut refusal = refusal;
        loop {
            let Some(ring) = self.ring.as_mut() else {
                return Err(refusal.into_push_error(entry, shared));
            };
            if let Err(refusal) = wait.out(refusal, ring.ring()) {
                return Err(refusal.into_push_error(entry, shared));
            }
            match write_entry(ring, &entry) {
                Ok(receipt) => return Ok(receipt),
                Err(again) => refusal = again,
            }
        }
    }
}

#[inline]
fn write_entry<T: Entry>(ring: &mut PinnedRing, entry: &T) -> Result<Receipt, Refusal> {
    let index = ring.ring();
    if let Some(len) = entry.encoded_len() {
        let mut claim = ring.claim(len).map_err(|error| Refusal::claim(error, len))?;
        if let Some(key) = entry.key() {
            claim.set_lane(lane_of_key(key));
        }
        entry.encode_into(claim.payload_mut());
        return Ok(Receipt { ring: index, end: claim.publish() });
    }
    with_encoded(entry, |bytes| {
        let mut claim = ring.claim(bytes.len()).map_err(|error| Refusal::claim(error, bytes.len()))?;
        if let Some(key) = entry.key() {
            claim.set_lane(lane_of_key(key));
        }
        claim.payload_mut().copy_from_slice(bytes);
        Ok(Receipt { ring: index, end: claim.publish() })
    })
}

impl<T: Entry + InPlace> PinnedProducer<T> {
    /// Bytes in the ring, to be filled in place: for entries that are bytes themselves. Dropping the
    /// claim gives it up. As [`try_push`](Self::try_push) it never waits.
    ///
    /// # Errors
    /// As [`Producer::try_push`], but that there is no entry to come back. Without a ring of its own there is never
    /// room, and a length that the type cannot have is [`PushError::TooLong`].
    pub fn claim(&mut self, len: usize) -> Result<Claim<'_, T>, PushError<()>> {
        let shared = &self.producer.shared;
        if !T::fits(len) {
            return Err(Refusal::TooLong { len }.into_push_error((), shared));
        }
        let Some(ring) = &mut self.ring else {
            let refused = if shared.rings.is_closed() { ClaimError::Closed } else { ClaimError::Full };
            return Err(Refusal::Claim(refused).into_push_error((), shared));
        };
        if shared.is_gated()
            && let Err(refusal) = SpaceWait::new(shared, Patience::None).out(Refusal::Gated, ring.ring())
        {
            return Err(refusal.into_push_error((), shared));
        }
        let index = ring.ring();
        match ring.claim(len) {
            Ok(claim) => Ok(Claim { claim, ring: index, entries: PhantomData }),
            Err(ClaimError::Full) => {
                shared.rings.doorbell().rouse();
                Err(Refusal::Claim(ClaimError::Full).into_push_error((), shared))
            }
            Err(error) => Err(Refusal::claim(error, len).into_push_error((), shared)),
        }
    }
}

/// Bytes claimed in a ring; see [`PinnedProducer::claim`].
#[must_use = "a claim that is dropped is given up"]
pub struct Claim<'a, T> {
    claim: PinnedClaim<'a>,
    ring: u32,
    entries: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for Claim<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim(ring {})", self.ring)
    }
}

impl<T> Claim<'_, T> {
    /// The bytes of the entry; zero at first.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.claim.payload_mut()
    }

    /// Says which [`key`](Entry::key) the entry has. Bytes that are filled in place are asked for none: without this the entry
    /// keeps its order among those that have no key, and not among those of its own when
    /// [`in_flight_max`](crate::Builder::in_flight_max) is above 1.
    pub fn set_key(&mut self, key: u64) {
        self.claim.set_lane(lane_of_key(key));
    }

    /// Puts the entry into the queue.
    pub fn commit(self) -> Receipt {
        Receipt { ring: self.ring, end: self.claim.publish() }
    }
}

#[cfg(all(test, feature = "testing", not(loom)))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::WhenFull;
    use crate::delivery::batch::Batch;
    use crate::entry::DecodeError;
    use crate::queue::Queue;
    use crate::schema::Schema;
    use crate::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
    use crate::sink::{SinkError, sink_fn};
    use crate::wal::mutant::Mutants;

    /// Eight bytes, never more nor less.
    struct Eight([u8; 8]);

    impl Entry for Eight {
        const SCHEMA: Schema = Schema::new("test.eight", 1);

        fn encoded_len(&self) -> Option<usize> {
            Some(8)
        }

        fn encode_into(&self, out: &mut [u8]) {
            out.copy_from_slice(&self.0);
        }

        fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
            bytes.try_into().map(Self).map_err(DecodeError::new)
        }
    }

    impl InPlace for Eight {
        fn fits(len: usize) -> bool {
            len == 8
        }
    }

    #[test]
    fn a_refused_claim_is_counted_and_does_what_when_full_says() {
        for when_full in [WhenFull::Block, WhenFull::DropNewest] {
            let clock = ManualClock::new();
            let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
            let settings = SteppedSettings { seed: 1, clock, store: None, mutants: Mutants::NONE };
            let builder = Queue::builder(Path::new("simulated")).pinned_rings(1).when_full(when_full);
            let sink = sink_fn(|_: Batch<Eight>| async { Ok::<(), SinkError>(()) });
            let mut queue = SteppedQueue::open(builder, settings, &machine, sink).unwrap();
            let mut pinned = queue.producer().pin();
            let mut shares = queue.producer().pin();
            assert!(pinned.has_own_ring() && !shares.has_own_ring());

            assert!(matches!(pinned.claim(7), Err(PushError::TooLong { len: 7, .. })));
            let error = shares.claim(8).unwrap_err();
            let drops = when_full == WhenFull::DropNewest;
            assert!(error.is_full() && matches!(error, PushError::Dropped(())) == drops, "{error:?}");
            let metrics = queue.metrics();
            let (rejected, dropped) = (metrics.rejected_by, metrics.dropped_by);
            assert_eq!((rejected.too_long, rejected.full, dropped.full), (1, u64::from(!drops), u64::from(drops)));

            queue.begin_closing(false);
            for producer in [&mut pinned, &mut shares] {
                assert!(matches!(producer.claim(8), Err(PushError::Closed(()))));
            }
            assert_eq!(queue.metrics().rejected_by.closed, 2);
        }
    }
}
