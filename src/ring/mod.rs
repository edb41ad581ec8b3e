//! Many producers, one flush core, bytes in memory.
//!
//! ```text
//!            head                                   tail
//!   0  0  0  │ READY │ READY │ SKIP │ CLAIMED │ READY │  0  0  0  0   (zero bytes: free)
//!            ▲ drain takes from here                  ▲ claim adds here
//! ```
//! There is one ring per core, shared by the threads that live on it, and some more that a single producer may pin.
//! A record is *claimed* (the tail moves, its word says CLAIMED and how long), *filled*, and *published* (its word
//! says READY). It has the same bytes as in a frame on disk ([`record`]), so that the drain copies whole runs.
//! Head and tail are positions: bytes since the ring began, 64 bits, which never wrap; a position's place in
//! memory is its remainder by the ring's length. A record never crosses the end: a SKIP fills the rest.
//!
//! # Why it is right
//! | written with | read with | so that the reader sees |
//! |---|---|---|
//! | `word` READY, Release, publish | `word`, Acquire, drain | the record's bytes |
//! | `head`, Release, drain | `head`, Acquire, claim | that the bytes below are zero, and free |
//! | `limit`, Release, claim | `limit`, Acquire, another claim | the same, handed on |
//! | `tail` with its CLOSED bit, exchange | the same word, exchange | a claim is before the closing or refused |
//! | pinned: claim, light barrier, `closed` | `closed`, heavy barrier, `tail` | the same, without a locked instruction |
//! | `word` READY, light barrier, `state` | `state` DEEP, heavy barrier, `word` | a sleeper is woken or does not sleep |
//!
//! A word of zero is what makes bytes free, whatever stood there: the drain stores it before the head moves, so a claim
//! finds nothing else. A producer that stops between claim and publish holds back what lies behind it on its
//! ring, and no other ring.
//!
//! | file | what |
//! |---|---|
//! | [`record`] | what a record is |
//! | `memory` | the bytes: mapped, or watched by loom |
//! | `claim` | the producers' side |
//! | `drain` | the flush core's side |
//! | `doorbell` | how the flush core sleeps and is woken |
//! | `shards` | which ring a thread uses; pinned rings |
//! | `held` | what was drained and is still in the ring |
//! | [`shared`] | rings in a file, which outlive the process |
//!
//! Models: `loom-tests/`, `docs/loom.md`. Decisions: `docs/adr/0003-byte-ring.md`, `docs/adr/0004-asymmetric-wakeup.md`.

mod claim;
mod doorbell;
mod drain;
mod held;
mod memory;
pub mod record;
mod shards;
pub mod shared;

use std::fmt;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

pub use self::claim::{Claim, PinnedClaim, PinnedRunClaim, RunClaim};
pub use self::doorbell::{Doorbell, Sleep};
pub use self::drain::{Drained, Drainer};
pub use self::shards::{PinnedRing, Rings, RingsConfig};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::watermark::Watermark;

/// In a tail word: nothing more may be claimed. Positions have 62 bits, so the bit is free, and a closed tail lies above
/// every limit.
const CLOSED: u64 = 1 << 63;

/// Why nothing was claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ClaimError {
    /// The flush core must free something first; it has been roused.
    Full,
    /// The rings are closed.
    Closed,
    /// Longer than an entry, or a run, may be.
    TooLong,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the ring is full",
            Self::Closed => "the rings are closed",
            Self::TooLong => "longer than an entry may be",
        })
    }
}

impl std::error::Error for ClaimError {}

/// One ring.
#[derive(Debug)]
struct Ring {
    bytes: memory::Bytes,
    /// The producers' line.
    ends: CachePadded<Ends>,
    /// The head: everything below is free. In a line of its own.
    space: Watermark,
    /// Everything below is durable.
    durable: Watermark,
}

#[derive(Debug)]
struct Ends {
    /// Where the next claim begins, and the bit [`CLOSED`] (on shared rings).
    tail: AtomicU64,
    /// How far may be claimed without a look at the head.
    limit: AtomicU64,
}

impl Ring {
    fn new(bytes: memory::Bytes, doorbell: &Arc<Doorbell>) -> Self {
        Self {
            bytes,
            ends: CachePadded::new(Ends { tail: AtomicU64::new(0), limit: AtomicU64::new(0) }),
            space: Watermark::new(0).with_doorbell(Arc::clone(doorbell)),
            durable: Watermark::new(0).with_doorbell(Arc::clone(doorbell)).in_rounds(),
        }
    }

    fn tail(&self) -> u64 {
        // ORDERING: Acquire, so that a position once seen by this thread is not behind what it saw of the ring.
        drain::position_of(self.ends.tail.load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
