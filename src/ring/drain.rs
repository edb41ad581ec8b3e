//! The flush core's side: take what is ready, make it zero, free it.
//!
//! ```text
//!       position                                             the end of the ring
//!   … 0 │ READY │ READY │ SKIP │ READY │ CLAIMED │ READY │ 0 … │
//!       └───── copied ──┘      └ copied┘ ▲ stops here
//! ```
//! The drain reads record words, never payloads, and copies runs of ready records whole. It stops at a word that is
//! FREE or CLAIMED, and before a record that does not fit into what is left of `out`. What it has passed it
//! makes zero, every line of it: the zero is what the next claim finds there, and a line that the drain has
//! written comes back to the producer at once, where one it has only read must be asked for again. Then it
//! publishes the head, which is the ring's `space` watermark.
//!
//! Rings that are to outlive the process are *held*: the drain only copies, and zero and head wait for
//! [`Drainer::release`]. See `held`.

use std::ops::Range;
use std::sync::Arc;

use crate::ring::doorbell::Sleep;
use crate::ring::held::Held;
use crate::ring::memory::offset;
use crate::ring::record::{RECORD_HEADER_LEN, State, Word};
use crate::ring::{CLOSED, Ring, Rings};
use crate::sync::atomic::Ordering;

/// How much is copied and made zero at once: small enough to stay in the first cache.
const CHUNK_LEN_MAX: usize = 16 << 10;

/// What a drain has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Bytes copied, a run of whole records.
    pub bytes: usize,
    /// How many records these are.
    pub records: u32,
    /// Bytes of their payloads: without headers and padding.
    pub payload: usize,
    /// The ring's position behind them and behind what was skipped. It may have risen with `records == 0`: then
    /// only skipped bytes were passed, and the position belongs to what was taken before, or is durable at once.
    pub end: u64,
    /// A record stands behind them that is ready and did not fit.
    pub is_cut: bool,
}

/// The only reader of all rings.
#[derive(Debug)]
pub struct Drainer {
    pub(super) rings: Arc<Rings>,
    pub(super) readers: Box<[Reader]>,
    is_drained: bool,
    /// Claims that were given up: the ring, and the positions from where to where.
    given_up: Vec<(u32, Range<u64>)>,
    /// What was taken and is not yet to be freed; `None`: it is freed at once.
    pub(super) held: Option<Held>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader {
    /// Everything below has been taken.
    pub(super) position: u64,
    /// A claim was given up: its bytes may still be written to, so the head stays below it for ever.
    pub(super) is_stuck: bool,
}

impl Drainer {
    pub(crate) fn new(rings: Arc<Rings>) -> Self {
        let readers = rings.rings.iter().map(|_| Reader::default()).collect();
        Self { rings, readers, is_drained: false, given_up: Vec::new(), held: None }
    }

    /// The rings that it drains.
    #[must_use]
    pub const fn rings(&self) -> &Arc<Rings> {
        &self.rings
    }

    /// Copies the longest run of ready records that fits into `out`, and frees their place.
    ///
    /// # Panics
    /// When there is no such ring, or its memory holds what no producer has written.
    pub fn drain(&mut self, ring: u32, out: &mut [u8]) -> Drained {
        let reader = &mut self.readers[ring as usize];
        let ring = &self.rings.rings[ring as usize];
        let len = ring.bytes.len();
        let start = reader.position;
        let stays = reader.is_stuck || self.held.is_some();
        let mut drained = Drained { bytes: 0, records: 0, payload: 0, end: start, is_cut: false };
        // A lap above what is held its records stand again.
        let limit = limit_of(ring);
        while drained.end < limit {
            let at = offset(drained.end, len);
            let ahead = usize::try_from(limit - drained.end).map_or(len - at, |left| left.min(len - at));
            let out = &mut out[drained.bytes..];
            let run = ready_run(ring, at, ahead, out.len());
            if run.bytes > 0 {
                // SAFETY: every record in the run was READY, so its producer has let go of it; the words were in bounds.
                unsafe { ring.bytes.copy_to(at, &mut out[..run.bytes]) };
            }
            let skipped = if let Behind::Skip(stride) = run.behind { stride } else { 0 };
            free(ring, at..at + run.bytes + skipped, stays);
            drained.bytes += run.bytes;
            drained.records += run.records;
            drained.payload += run.payload;
            drained.end += (run.bytes + skipped) as u64;
            drained.is_cut = run.behind == Behind::NoRoom;
            if drained.is_cut || run.behind == Behind::Nothing {
                break;
            }
        }
        if drained.end != start {
            reader.position = drained.end;
            if !stays {
                // Release inside: who sees this head sees the zeroes below it.
                ring.space.publish(drained.end);
            }
        }
        drained
    }

    /// Whether a ring has something to take.
    pub fn has_ready(&mut self) -> bool {
        has_ready(&self.rings, &self.readers)
    }

    /// Whether this ring has something to take.
    pub fn is_ready(&mut self, ring: u32) -> bool {
        let at = ring as usize;
        has_ready_at(&self.rings.rings[at], &self.readers[at])
    }

    /// After `close`: whether everything that was ever accepted has been taken. Once true, always true: what a
    /// pinned producer still claims is refused, and is a SKIP.
    pub fn is_drained(&mut self) -> bool {
        // ORDERING: Acquire: `close` sets it after its barrier, so that every claim it has not refused is seen.
        if !self.is_drained && self.rings.is_sealed.load(Ordering::Acquire) {
            let tails = self.rings.rings.iter().map(|ring| ring.tail());
            self.is_drained = tails.zip(&self.readers).all(|(tail, reader)| tail == reader.position);
        }
        self.is_drained
    }

    /// After `close`, when the time is up: gives up the claim that holds `ring` back, so that what lies behind it can
    /// be taken. Its place is never used again, for its owner may still be writing. `false`: no claim stands
    /// there, or its producer was stopped before it could say how long it is.
    ///
    /// # Panics
    /// When the rings are not closed.
    pub fn give_up(&mut self, ring: u32) -> bool {
        assert!(self.rings.is_closed(), "a claim was given up while the rings were open");
        let reader = &mut self.readers[ring as usize];
        let memory = &self.rings.rings[ring as usize];
        // Beyond that the same claims stand again.
        if reader.position >= limit_of(memory) {
            return false;
        }
        let bytes = &memory.bytes;
        // ORDERING: Relaxed: only the length is used, and the record is not touched.
        let word = bytes.load(offset(reader.position, bytes.len()), Ordering::Relaxed);
        if word.state() != State::Claimed {
            return false;
        }
        let end = reader.position + word.stride() as u64;
        self.given_up.push((ring, reader.position..end));
        reader.is_stuck = true;
        reader.position = end;
        true
    }

    /// Entries that were published after their claims had been given up, as far as can be seen now.
    #[must_use]
    pub fn published_too_late(&self) -> u64 {
        let published = |(ring, claim): &(u32, Range<u64>)| {
            let bytes = &self.rings.rings[*ring as usize].bytes;
            let (mut position, mut count) = (claim.start, 0);
            while position < claim.end {
                // ORDERING: Acquire: the words of a run are written before its first one is made READY.
                let word = bytes.load(offset(position, bytes.len()), Ordering::Acquire);
                if word.state() != State::Ready {
                    break;
                }
                count += 1;
                position += word.stride() as u64;
            }
            count
        };
        self.given_up.iter().map(published).sum()
    }

    /// Announces a sleep and looks once more. `false`: something came, do not sleep.
    pub fn prepare_sleep(&mut self, depth: Sleep) -> bool {
        let Self { rings, readers, .. } = self;
        rings.doorbell().prepare_sleep(depth, || has_ready(rings, readers))
    }

    /// The sleep is over, by a wake or by its timeout.
    pub fn wake_up(&mut self) {
        self.rings.doorbell().wake_up();
    }
}

fn has_ready(rings: &Rings, readers: &[Reader]) -> bool {
    rings.rings.iter().zip(readers).any(|(ring, reader)| has_ready_at(ring, reader))
}

fn has_ready_at(ring: &Ring, reader: &Reader) -> bool {
    if reader.position >= limit_of(ring) {
        return false;
    }
    // ORDERING: Relaxed: `drain` will read it again.
    let word = ring.bytes.load(offset(reader.position, ring.bytes.len()), Ordering::Relaxed);
    matches!(word.state(), State::Ready | State::Skip)
}

/// Up to where anything can have been claimed.
fn limit_of(ring: &Ring) -> u64 {
    ring.space.value() + ring.bytes.len() as u64
}

/// READY records, one behind the other.
struct Run {
    bytes: usize,
    records: u32,
    payload: usize,
    behind: Behind,
}

/// What a run ended at.
#[derive(PartialEq, Eq)]
enum Behind {
    /// It is as long as runs may be: another may follow.
    More,
    /// So many bytes to be stepped over.
    Skip(usize),
    /// A record that does not fit into what is left of the room.
    NoRoom,
    /// Nothing that may be taken now.
    Nothing,
}

/// The run that begins at `at`. It ends behind the first record that reaches `ahead` bytes, or as many as are copied at once, and
/// takes no more than `room`.
fn ready_run(ring: &Ring, at: usize, ahead: usize, room: usize) -> Run {
    let (wanted, fits) = (ahead.min(CHUNK_LEN_MAX), room.min(ring.bytes.len() - at));
    let (mut bytes, mut records, mut total) = (0, 0_u32, 0);
    let behind = loop {
        if bytes >= wanted {
            break Behind::More;
        }
        // ORDERING: Acquire, so that the payload is seen that was written before the word became READY.
        let word = ring.bytes.load(at + bytes, Ordering::Acquire);
        let stride = word.stride();
        if word.state() != State::Ready || stride == 0 || stride > fits - bytes {
            break behind_run(word, ring.bytes.len() - at - bytes);
        }
        bytes += stride;
        records += 1;
        total += word.total_len();
    };
    Run { bytes, records, payload: total - records as usize * RECORD_HEADER_LEN, behind }
}

/// What a run ends at: this word, `left` bytes before the end of the ring, is none that goes into it.
fn behind_run(word: Word, left: usize) -> Behind {
    let (state, stride) = (word.state(), word.stride());
    if matches!(state, State::Free | State::Claimed) {
        return Behind::Nothing;
    }
    assert!(stride > 0 && stride <= left, "a record of {stride} bytes, {left} before the end of the ring");
    if state == State::Skip { Behind::Skip(stride) } else { Behind::NoRoom }
}

/// Makes passed bytes zero. Not where they are held, nor behind a claim that was given up: nothing there is ever
/// claimed again.
fn free(ring: &Ring, passed: Range<usize>, stays: bool) {
    if !stays {
        // SAFETY: the bytes were READY or SKIP, so they are the drain's alone until it publishes the head.
        unsafe { ring.bytes.zero(passed.start, passed.len()) };
    }
}

/// The position in a tail word.
pub(crate) const fn position_of(tail: u64) -> u64 {
    tail & !CLOSED
}
