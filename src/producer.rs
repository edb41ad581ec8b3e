//! The way of an entry begins here: encoded once, straight into a ring.
//!
//! The uncontended push makes no system call, allocates nothing, takes no lock and reads no clock.
//! A full ring is the slow path: there, and only there, a push may wait.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::WhenFull;
use crate::delivered::Delivered;
use crate::durable::{Durable, Receipt};
use crate::engine::gate::{Held, MayWait};
use crate::engine::{Shared, in_sink_of};
use crate::entry::{EncodeError, Entry};
use crate::error::{BatchError, PushError};
use crate::lsn::Lsn;
use crate::pinned::PinnedProducer;
use crate::ring::ClaimError;
use crate::watermark::Watermark;

/// Pushes entries. Cheap to clone, and usable from any number of threads.
///
/// Entries without a [key](Entry::key) reach the sink in the order in which their thread pushed them. Entries of one key
/// do so whichever threads push them, if all go through a `Producer`; those of a [`PinnedProducer`] are ordered only
/// among themselves. There is no other order: of entries with different keys, or one with a key and one without, what a
/// thread pushed later may come first.
pub struct Producer<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entries: PhantomData<fn(T)>,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), entries: PhantomData }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({:?})", self.shared.config.name())
    }
}

/// How long a push waits for space.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    None,
    For(Duration),
    Forever,
}

impl<T: Entry> Producer<T> {
    /// Puts an entry into the queue. When its ring is full, or a hard [watermark](crate::Builder::watermarks) is reached,
    /// it does what [`when_full`](crate::Builder::when_full) says; by default it waits. Over a soft watermark it is slowed
    /// down, if it may wait.
    ///
    /// # Errors
    /// The entry comes back in each of them; see [`PushError`].
    #[inline]
    pub fn push(&self, entry: T) -> Result<Receipt, PushError<T>> {
        match self.try_claim(&entry) {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => self.push_slowly(entry, refusal, self.patience()),
        }
    }

    /// Puts an entry into the queue if that can be done at once: for hot loops. A soft watermark does not slow it down, a
    /// hard one refuses it.
    ///
    /// # Errors
    /// [`PushError::Full`] when it cannot, under `DropNewest` [`PushError::Dropped`], and as [`push`](Self::push).
    #[inline]
    pub fn try_push(&self, entry: T) -> Result<Receipt, PushError<T>> {
        match self.try_claim(&entry) {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => self.push_slowly(entry, refusal, Patience::None),
        }
    }

    /// Puts an entry into the queue, waiting at most this long: for space, for a hard watermark to be left, and for the
    /// delay of a soft one.
    ///
    /// # Errors
    /// [`PushError::Full`] when that was not enough, under `DropNewest` [`PushError::Dropped`], and as
    /// [`push`](Self::push).
    pub fn push_timeout(&self, entry: T, timeout: Duration) -> Result<Receipt, PushError<T>> {
        match self.try_claim(&entry) {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => self.push_slowly(entry, refusal, Patience::For(timeout)),
        }
    }

    /// Puts an entry into the queue; while its ring is full or a hard watermark is reached, and for the delay of the soft
    /// one, the task waits, not the thread. It does so whatever `when_full` says.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`PushError::Full`], or [`PushError::Dropped`] under `DropNewest`, only to the queue's own
    /// sink, which must not wait for itself.
    pub async fn push_async(&self, entry: T) -> Result<Receipt, PushError<T>> {
        let mut delayed = false;
        loop {
            if self.shared.is_gated()
                && let Err(held) = self.shared.pass_gate_async(&mut delayed).await
            {
                return Err(Refusal::from(held).into_push_error(entry, &self.shared));
            }
            let ring = self.ring_for(&entry);
            let seen = self.shared.rings.space(ring).value();
            match self.put(ring, &entry) {
                Ok(receipt) => return Ok(receipt),
                Err(Refusal::Claim(ClaimError::Full)) => {
                    if in_sink_of(&self.shared) {
                        return Err(Refusal::Claim(ClaimError::Full).into_push_error(entry, &self.shared));
                    }
                    self.shared.rings.doorbell().rouse();
                    let space = self.shared.rings.space(ring);
                    // An error says that the queue has ended; the next claim tells how.
                    let _ = Watermark::reached(space, seen + 1).await;
                }
                Err(refusal) => return Err(refusal.into_push_error(entry, &self.shared)),
            }
        }
    }

    /// Puts entries into the queue, many with one claim where they fit. Gives their number. Where pushes are slowed down
    /// it waits once for each run of 16 KiB.
    ///
    /// # Errors
    /// When one is refused: it comes back, those before it are in the queue, and those after it, as far as
    /// they were taken from the iterator, come back too.
    pub fn push_batch(&self, entries: impl IntoIterator<Item = T>) -> Result<usize, BatchError<T>> {
        crate::batch_push::push_batch(self, entries)
    }

    /// Puts an entry into the queue and gives what tells when it is on disk.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_durable(&self, entry: T) -> Result<Durable, PushError<T>> {
        self.push(entry).map(|receipt| self.durable(receipt))
    }

    /// What tells when the entry of this receipt, and all that its ring took before it, is on disk. What one thread pushes
    /// without keys goes into one ring: push a thousand, wait for the last. Entries of several keys, and those of a task
    /// that changes threads, lie in several: wait for each, or for [`Queue::flush`](crate::Queue::flush).
    pub fn durable(&self, receipt: Receipt) -> Durable {
        Durable::new(Arc::clone(&self.shared), receipt)
    }

    /// Puts an entry into the queue and gives what tells when the sink is done with it: end to end.
    ///
    /// It asks the flush core for the entry's number, which wakes it: for a hot loop [`push`](Self::push), and
    /// [`delivered`](Self::delivered) with the last receipt.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_delivered(&self, entry: T) -> Result<Delivered, PushError<T>> {
        let done = Lsn::new(self.shared.done.value());
        self.push(entry).map(|receipt| Delivered::new(&self.shared, receipt, done))
    }

    /// What tells when the sink is done with the entry of this receipt, and with all that its ring took before it, as for
    /// [`durable`](Self::durable). Asked for long after the push, it may wait for what came into the same ring since. A
    /// receipt of this queue.
    pub fn delivered(&self, receipt: Receipt) -> Delivered {
        Delivered::new(&self.shared, receipt, self.shared.recovery.end)
    }

    /// A producer with a ring of its own, while rings last: its pushes take no locked instruction, and stay in order
    /// whichever thread it is moved to. Without one it pushes as this one does.
    #[must_use]
    pub fn pin(&self) -> PinnedProducer<T> {
        PinnedProducer::new(self.clone())
    }

    /// Whether the queue takes no more entries.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.rings.is_closed()
    }

    pub(crate) fn patience(&self) -> Patience {
        match self.shared.config.when_full {
            WhenFull::Block => Patience::Forever,
            WhenFull::BlockFor(wait) => Patience::For(wait),
            WhenFull::Reject | WhenFull::DropNewest => Patience::None,
        }
    }

    /// Entries of one key go through one ring, so that they stay in order across threads.
    #[inline]
    fn ring_for(&self, entry: &T) -> u32 {
        match entry.key() {
            None => self.shared.rings.ring_of_this_thread(),
            Some(key) => ring_of_key(key, self.shared.rings.shared_count()),
        }
    }

    #[inline(always)]
    fn try_claim(&self, entry: &T) -> Result<Receipt, Refusal> {
        self.claim_on(self.ring_for(entry), entry)
    }

    #[inline(always)]
    fn claim_on(&self, ring: u32, entry: &T) -> Result<Receipt, Refusal> {
        if self.shared.is_gated() {
            return Err(Refusal::Gated);
        }
        self.put(ring, entry)
    }

    /// Past the gate.
    #[inline(always)]
    fn put(&self, ring: u32, entry: &T) -> Result<Receipt, Refusal> {
        if let Some(len) = entry.encoded_len() {
            let mut claim = self.shared.rings.claim(ring, len).map_err(|error| Refusal::claim(error, len))?;
            if let Some(key) = entry.key() {
                claim.set_lane(lane_of_key(key));
            }
            entry.encode_into(claim.payload_mut());
            return Ok(Receipt { ring, end: claim.publish() });
        }
        with_encoded(entry, |bytes| {
            let mut claim =
                self.shared.rings.claim(ring, bytes.len()).map_err(|error| Refusal::claim(error, bytes.len()))?;
            if let Some(key) = entry.key() {
                claim.set_lane(lane_of_key(key));
            }
            claim.payload_mut().copy_from_slice(bytes);
            Ok(Receipt { ring, end: claim.publish() })
        })
    }

    /// For an entry that has been held up already, with others.
    pub(crate) fn push_past_gate(&self, entry: T) -> Result<Receipt, PushError<T>> {
        match self.put(self.ring_for(&entry), &entry) {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => {
                let wait = SpaceWait::new(&self.shared, self.patience());
                self.push_waiting(entry, refusal, SpaceWait { delayed: true, ..wait })
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn push_slowly(&self, entry: T, refusal: Refusal, patience: Patience) -> Result<Receipt, PushError<T>> {
        self.push_waiting(entry, refusal, SpaceWait::new(&self.shared, patience))
    }

    fn push_waiting(&self, entry: T, refusal: Refusal, mut wait: SpaceWait<'_>) -> Result<Receipt, PushError<T>> {
        let mut refusal = refusal;
        loop {
            let ring = self.ring_for(&entry);
            if let Err(refusal) = wait.out(refusal, ring) {
                return Err(refusal.into_push_error(entry, &self.shared));
            }
            match self.put(ring, &entry) {
                Ok(receipt) => return Ok(receipt),
                Err(again) => refusal = again,
            }
        }
    }
}

/// Fibonacci hashing: the upper half of a product with 2^64 / φ, spread over the rings.
pub(crate) fn ring_of_key(key: u64, rings: u32) -> u32 {
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((hash * u64::from(rings)) >> 32) as u32
}

/// The lane of a key: the upper bits of another product, so that keys of one ring do not share a lane for that. Never 0,
/// which is the lane of entries without a key.
pub(crate) fn lane_of_key(key: u64) -> u32 {
    ((key.wrapping_mul(0xd134_2543_de82_ef95) >> 33) as u32).max(1)
}

/// Why an entry did not get into a ring.
pub(crate) enum Refusal {
    Claim(ClaimError),
    /// Something holds pushes up: it is to be asked what.
    Gated,
    Breaker,
    /// A hard watermark.
    Watermark,
    TooLong {
        len: usize,
    },
    Encode(EncodeError),
}

impl Refusal {
    pub(crate) fn claim(error: ClaimError, len: usize) -> Self {
        match error {
            ClaimError::TooLong => Self::TooLong { len },
            other => Self::Claim(other),
        }
    }

    pub(crate) fn into_push_error<T>(self, entry: T, shared: &Shared) -> PushError<T> {
        let (rejected, dropped) = (&shared.counters.rejected, &shared.counters.dropped);
        let drops = shared.config.when_full == WhenFull::DropNewest;
        let (reason, error) = match self {
            Self::TooLong { len } => {
                (&rejected.too_long, PushError::TooLong { entry, len, max: shared.config.entry_len_max })
            }
            Self::Encode(error) => (&rejected.encode, PushError::Encode { entry, error }),
            Self::Claim(ClaimError::Full) if drops => (&dropped.full, PushError::Dropped(entry)),
            Self::Claim(ClaimError::Full) => (&rejected.full, PushError::Full(entry)),
            Self::Gated | Self::Watermark if drops => (&dropped.watermark, PushError::Dropped(entry)),
            Self::Gated | Self::Watermark => (&rejected.watermark, PushError::Full(entry)),
            Self::Breaker if !shared.rings.is_closed() => (&rejected.breaker, PushError::Breaker(entry)),
            Self::Claim(_) if shared.status.failure().is_some() => (&rejected.failed, PushError::Poisoned(entry)),
            Self::Claim(_) | Self::Breaker => (&rejected.closed, PushError::Closed(entry)),
        };
        reason.add_shared(1);
        error
    }
}

impl From<Held> for Refusal {
    fn from(held: Held) -> Self {
        match held {
            Held::Breaker => Self::Breaker,
            Held::Hard => Self::Watermark,
        }
    }
}

/// Waiting for a place in a ring, all in all no longer than the patience lasts.
pub(crate) struct SpaceWait<'a> {
    shared: &'a Shared,
    deadline: Option<Instant>,
    gave_up: bool,
    seen: Option<(u32, u64)>,
    /// The entry has had its delay.
    delayed: bool,
}

impl<'a> SpaceWait<'a> {
    pub(crate) fn new(shared: &'a Shared, patience: Patience) -> Self {
        // A sink that pushes into its own queue must never wait for itself.
        let patience = if in_sink_of(shared) { Patience::None } else { patience };
        let (deadline, gave_up) = match patience {
            Patience::None => (None, true),
            Patience::For(wait) => (Instant::now().checked_add(wait), false),
            Patience::Forever => (None, false),
        };
        Self { shared, deadline, gave_up, seen: None, delayed: false }
    }

    /// Waits until it may help to try again. `Err`: it is not to be tried again.
    pub(crate) fn out(&mut self, refusal: Refusal, ring: u32) -> Result<(), Refusal> {
        match refusal {
            Refusal::Claim(ClaimError::Full) if !self.for_space(ring) => return Err(refusal),
            Refusal::Claim(ClaimError::Full) | Refusal::Gated => {}
            other => return Err(other),
        }
        if self.shared.is_gated() {
            let may_wait = if self.gave_up { MayWait::No } else { MayWait::Until(self.deadline) };
            self.shared.pass_gate(may_wait, &mut self.delayed)?;
        }
        Ok(())
    }

    /// Waits until the ring has moved since the last call. False: the time is over.
    fn for_space(&mut self, ring: u32) -> bool {
        if self.gave_up {
            return false;
        }
        self.shared.rings.doorbell().rouse();
        let space = self.shared.rings.space(ring);
        // First time round only the position is noted: the claim may succeed by now.
        let Some((_, seen)) = self.seen.filter(|(of, _)| *of == ring) else {
            self.seen = Some((ring, space.value()));
            return true;
        };
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return false;
        }
        // Whatever ends the wait, the next claim tells what holds now.
        let _ = space.wait(seen + 1, left);
        self.seen = Some((ring, space.value()));
        true
    }
}

thread_local! {
    /// Where entries of unknown length are encoded. Taken out while in use, so that an entry whose
    /// encoding pushes another one gets a fresh buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Longest scratch buffer that a thread keeps.
pub(crate) const SCRATCH_KEPT: usize = 1 << 20;

pub(crate) fn with_encoded<T: Entry, R>(
    entry: &T,
    then: impl FnOnce(&[u8]) -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    let mut scratch = SCRATCH.with(RefCell::take);
    scratch.clear();
    let result = match entry.encode(&mut scratch) {
        Ok(()) => then(&scratch),
        Err(error) => Err(Refusal::Encode(error)),
    };
    if scratch.capacity() <= SCRATCH_KEPT {
        SCRATCH.with(|cell| cell.replace(scratch));
    }
    result
}
