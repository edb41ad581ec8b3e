//! The producers' side: claim, fill, publish.
//!
//! ```text
//!   shared ring                              pinned ring (one producer)
//!   tail, limit  ── load                     tail, limit  in the handle
//!   end > limit? ── look at head (slow)      end > limit? ── look at head (slow)
//!   tail         ── exchange for end         tail         ── store end
//!   word         ── store CLAIMED, length    word         ── store CLAIMED, length
//!                                            closed?      ── load, behind the light barrier
//!   … payload …                              … payload …
//!   word         ── store READY, Release     word         ── store READY, Release
//!   asleep?      ── load, behind the light barrier
//! ```
//! `limit` is how far may be claimed without a look at the head: half a ring above the head last seen, and never beyond
//! the end of the lap. Beyond it the producer looks again, and if the ring is really more than half full, it rouses the
//! flush core and takes the whole ring as the limit. So the head's line is fetched two or three times in a lap, a nap ends
//! before a ring is full, "full" is never an old truth, and only who looks at the head must see to the end of the ring.

use std::mem::ManuallyDrop;

use crate::ring::doorbell::Doorbell;
use crate::ring::memory::{View, offset};
use crate::ring::record::{META_AT, RECORD_ALIGN, RECORD_HEADER_LEN, State, Word, stride_of};
use crate::ring::{CLOSED, ClaimError, Ring};
use crate::sync::atomic::Ordering;
use crate::sync::plain::compiler_fence;

/// What a claim of `stride` bytes at position `from` takes: a record never crosses the end of the ring.
#[derive(Clone, Copy)]
struct Extent {
    /// Bytes to skip up to the end of the ring.
    pad: usize,
    start: u64,
    end: u64,
}

impl Extent {
    #[inline(always)]
    const fn new(from: u64, stride: usize, ring_len: usize) -> Self {
        let room = ring_len - offset(from, ring_len);
        let pad = if stride > room { room } else { 0 };
        let start = from + pad as u64;
        Self { pad, start, end: start + stride as u64 }
    }
}

/// Where a pinned ring's only producer stands.
#[derive(Debug)]
pub(crate) struct Position {
    tail: u64,
    limit: u64,
}

impl Ring {
    /// Claims a record of `total_len` bytes, header included.
    #[inline(always)]
    pub(crate) fn claim_shared<'a>(
        &'a self,
        doorbell: &'a Doorbell,
        total_len: usize,
    ) -> Result<Claim<'a>, ClaimError> {
        let stride = total_len.next_multiple_of(RECORD_ALIGN);
        // ORDERING: Relaxed: the exchange decides, and the bytes are known to be free by `limit` and `head`.
        let mut tail = self.ends.tail.load(Ordering::Relaxed);
        let start = loop {
            let end = tail + stride as u64;
            // Above the limit is a tail that is closed, too. A limit of the next lap, which would let the record cross the
            // end, is stored when the tail is there already: the exchange fails.
            // ORDERING: Acquire, so that the zeroes are seen that the drain stored before the head on which another
            // producer has founded this limit.
            if end > self.ends.limit.load(Ordering::Acquire) {
                break self.claim_beyond_limit(doorbell, stride)?;
            }
            // ORDERING: Relaxed: it hands out positions and nothing else; see above for the bytes.
            match self.ends.tail.compare_exchange_weak(tail, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break tail,
                Err(seen) => tail = seen,
            }
        };
        let bytes = self.bytes.view();
        let at = mark_claimed(bytes, start, total_len);
        Ok(Claim { bytes, doorbell, at, total_len, end: start + stride as u64 })
    }

    /// A look at the head, and the claim; gives its start.
    #[cold]
    #[inline(never)]
    fn claim_beyond_limit(&self, doorbell: &Doorbell, stride: usize) -> Result<u64, ClaimError> {
        loop {
            // ORDERING: Relaxed, as in `claim_shared`.
            let tail = self.ends.tail.load(Ordering::Relaxed);
            if tail & CLOSED != 0 {
                return Err(ClaimError::Closed);
            }
            let extent = Extent::new(tail, stride, self.bytes.len());
            let limit = self.look_at_head(doorbell, extent)?;
            // ORDERING: Relaxed, as in `claim_shared`.
            if self.ends.tail.compare_exchange_weak(tail, extent.end, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Two producers may leave the older of two limits here: too low is only slow.
                // ORDERING: Release, for the Acquire in `claim_shared`.
                self.ends.limit.store(limit, Ordering::Release);
                self.skip_to_lap(extent);
                return Ok(extent.start);
            }
        }
    }

    /// The same for the only producer of a pinned ring.
    #[inline(always)]
    pub(crate) fn claim_pinned<'a>(
        &'a self,
        doorbell: &'a Doorbell,
        position: &mut Position,
        total_len: usize,
    ) -> Result<Claim<'a>, ClaimError> {
        let stride = total_len.next_multiple_of(RECORD_ALIGN);
        let mut start = position.tail;
        if start + stride as u64 > position.limit {
            start = self.move_limit(doorbell, position, stride)?;
        }
        let end = start + stride as u64;
        position.tail = end;
        // ORDERING: Relaxed: who must not miss it (`Drainer::is_drained`) is ordered by the barrier in `close`.
        self.ends.tail.store(end, Ordering::Relaxed);
        let bytes = self.bytes.view();
        let at = mark_claimed(bytes, start, total_len);
        if doorbell.is_closed_after_claim() {
            position.limit = 0; // so that the next claim comes by the check in `move_limit`
            // ORDERING: Release, as for every SKIP: the drain frees what it steps over.
            bytes.store(at, Word::new(State::Skip, total_len), Ordering::Release);
            doorbell.announce();
            return Err(ClaimError::Closed);
        }
        // Not before: a `Claim` that may still be dropped here would live in memory and not in registers.
        Ok(Claim { bytes, doorbell, at, total_len, end })
    }

    /// A look at the head, for a pinned ring: a new limit, and where the claim begins.
    #[cold]
    #[inline(never)]
    fn move_limit(&self, doorbell: &Doorbell, position: &mut Position, stride: usize) -> Result<u64, ClaimError> {
        if doorbell.is_closed() {
            return Err(ClaimError::Closed);
        }
        let extent = Extent::new(position.tail, stride, self.bytes.len());
        position.limit = self.look_at_head(doorbell, extent)?;
        if extent.pad != 0 {
            position.tail = extent.start;
            // ORDERING: Relaxed, as in `claim_pinned`, and before the SKIP: the drain never overtakes the tail.
            self.ends.tail.store(extent.start, Ordering::Relaxed);
            self.skip_to_lap(extent);
        }
        Ok(extent.start)
    }

    /// Which head a claim of `stride` bytes needs, as the tail stands.
    pub(crate) fn space_wanted(&self, stride: usize) -> u64 {
        Extent::new(self.tail(), stride, self.bytes.len()).end.saturating_sub(self.bytes.len() as u64)
    }

    /// Where the producer of a pinned ring begins: where the one before has ended.
    pub(crate) fn position(&self) -> Position {
        // ORDERING: Relaxed: the lock of the free list orders it after the last store.
        Position { tail: self.ends.tail.load(Ordering::Relaxed), limit: 0 }
    }

    /// Up to where may be claimed without another look: never beyond the lap in which `extent` lies.
    #[cold]
    #[inline(never)]
    fn look_at_head(&self, doorbell: &Doorbell, extent: Extent) -> Result<u64, ClaimError> {
        let len = self.bytes.len() as u64;
        let lap_end = (extent.start & !(len - 1)) + len;
        // Acquire inside: the zeroes that the drain stored before it published this head are seen.
        let head = self.space.value();
        // `end` may be below `head` when the tail was old; the exchange of the tail will find out.
        if extent.end <= head + len / 2 {
            return Ok(lap_end.min(head + len / 2));
        }
        doorbell.rouse();
        if extent.end <= head + len { Ok(lap_end.min(head + len)) } else { Err(ClaimError::Full) }
    }

    /// Says in the ring that the rest of the lap before the claim is to be stepped over.
    fn skip_to_lap(&self, extent: Extent) {
        if extent.pad != 0 {
            let at = self.bytes.len() - extent.pad;
            // ORDERING: Release, as in `publish`: the drain frees what it steps over, so it must see the claim.
            self.bytes.view().store(at, Word::new(State::Skip, extent.pad), Ordering::Release);
        }
    }
}

/// Says in the ring what is claimed, and gives the offset of the record.
#[inline(always)]
fn mark_claimed(bytes: View<'_>, start: u64, total_len: usize) -> usize {
    let at = offset(start, bytes.len());
    debug_assert!(bytes.is_free(at), "claimed bytes that are not free");
    debug_assert!(at + total_len <= bytes.len(), "a record crosses the end");
    // ORDERING: Relaxed: it hands over nothing yet.
    bytes.store(at, Word::new(State::Claimed, total_len), Ordering::Relaxed);
    // The word stands before any payload byte does, for one who looks at the memory of a killed process: the
    // processor carries out a dead thread's stores in full, so keeping the compiler's order is enough.
    compiler_fence(Ordering::Release);
    at
}

/// Bytes of a ring that belong to one producer until it publishes them. Dropped unpublished, they are skipped.
#[derive(Debug)]
#[must_use = "what is not published is skipped"]
pub struct Claim<'a> {
    bytes: View<'a>,
    doorbell: &'a Doorbell,
    at: usize,
    total_len: usize,
    end: u64,
}

/// A claim on a pinned ring.
pub type PinnedClaim<'a> = Claim<'a>;

impl Claim<'_> {
    /// The entry's bytes: zero at first.
    #[inline(always)]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        // SAFETY: the claim gave [at, at + total_len) to this producer alone, and the drain waits for `publish`.
        unsafe { self.bytes.bytes_mut(self.at + RECORD_HEADER_LEN, self.total_len - RECORD_HEADER_LEN) }
    }

    /// Says among what the entry keeps its order: a hash of its key. Without this, among those without a key.
    #[inline(always)]
    pub fn set_lane(&mut self, lane: u32) {
        // SAFETY: as for the payload; the first word of the header is the drain's, the second is read behind it.
        let meta = unsafe { self.bytes.bytes_mut(self.at + META_AT, RECORD_HEADER_LEN - META_AT) };
        meta.copy_from_slice(&lane.to_le_bytes());
    }

    /// Where the claim ends: the ring position that a watermark must reach.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Gives the entry to the flush core, and the position where it ends to the caller.
    #[inline(always)]
    pub fn publish(self) -> u64 {
        let claim = ManuallyDrop::new(self);
        claim.set(State::Ready, claim.total_len);
        claim.doorbell.announce();
        claim.end
    }

    #[inline(always)]
    fn set(&self, state: State, total_len: usize) {
        // ORDERING: Release, so that the Acquire load of the word in `drain` sees the bytes of the payload.
        self.bytes.store(self.at, Word::new(state, total_len), Ordering::Release);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.set(State::Skip, self.total_len);
        self.doorbell.announce();
    }
}

/// One claim for several records: they become visible together, and lie together.
///
/// ```text
///   claimed:    │ CLAIMED, run_len                              │
///   filled:     │ CLAIMED, run_len │ READY │ READY │ … │ SKIP   │
///   published:  │ READY            │ READY │ READY │ … │ SKIP   │   the first word last
/// ```
#[derive(Debug)]
#[must_use = "what is not published is skipped"]
pub struct RunClaim<'a> {
    claim: Claim<'a>,
    /// Total length of the first record; 0 before it.
    first_len: usize,
    /// Bytes taken by records so far.
    filled: usize,
    records: u32,
}

/// A run claim on a pinned ring.
pub type PinnedRunClaim<'a> = RunClaim<'a>;

impl<'a> RunClaim<'a> {
    pub(crate) const fn new(claim: Claim<'a>) -> Self {
        Self { claim, first_len: 0, filled: 0, records: 0 }
    }

    /// Bytes that are still without a record; one of `payload_len` bytes takes `stride_of(payload_len)`.
    #[must_use]
    pub const fn spare_len(&self) -> usize {
        self.claim.total_len - self.filled
    }

    /// How many records have been begun.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Begins the next record, and gives its bytes, zero at first. `None`: the run has no room for it.
    #[inline]
    pub fn next_mut(&mut self, payload_len: usize) -> Option<&mut [u8]> {
        // The length alone first: the stride of one near the greatest number would wrap.
        let stride = if payload_len <= self.spare_len() { stride_of(payload_len) } else { return None };
        if stride > self.spare_len() {
            return None;
        }
        let at = self.claim.at + self.filled;
        let total_len = RECORD_HEADER_LEN + payload_len;
        if self.records == 0 {
            self.first_len = total_len;
        } else {
            // ORDERING: Relaxed: the drain comes here only by the first word.
            self.claim.bytes.store(at, Word::new(State::Ready, total_len), Ordering::Relaxed);
        }
        self.filled += stride;
        self.records += 1;
        // SAFETY: within the claim, which belongs to this producer alone until it is published.
        Some(unsafe { self.claim.bytes.bytes_mut(at + RECORD_HEADER_LEN, payload_len) })
    }

    /// Gives all records to the flush core at once, and the position where the run ends to the caller.
    pub fn publish(self) -> u64 {
        let Self { claim, first_len, filled, records } = self;
        if records == 0 {
            return claim.end; // and `claim` becomes a SKIP
        }
        let spare_len = claim.total_len - filled;
        if spare_len > 0 {
            // ORDERING: Relaxed, as for the records behind the first.
            claim.bytes.store(claim.at + filled, Word::new(State::Skip, spare_len), Ordering::Relaxed);
        }
        let claim = ManuallyDrop::new(claim);
        claim.set(State::Ready, first_len);
        claim.doorbell.announce();
        claim.end
    }
}
