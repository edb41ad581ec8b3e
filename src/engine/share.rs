//! Who may have how much of the frames' memory, in chunks.
//!
//! ```text
//!   chunks ├─ small blocks of the log ──┼─ frames being filled or written ─┼─ delivery's share ─┤
//!             2 at most, 4 with coding    as long as `may_fill`              pinned │ reads
//! ```
//! A chunk is free again when the last frame in it is let go, so one short frame holds all of it, and chunks
//! are what counts. What delivery has got cannot be taken from it, however long the sink takes: that is *pinned*.
//! What waits in the window can be let go once it is on disk; it is read back later.
//!
//! | rule                                                         | so that                                     |
//! |--------------------------------------------------------------|---------------------------------------------|
//! | frames are handed over while less than `pinned_max` is pinned | a sink that stands still stops no push      |
//! | new frames leave delivery what it has not got of its share | what was let go can always be read back     |
//! | of what is on disk and next for delivery `kept` is not let go | a disk faster than the pushes is not read   |
//! | a short window is read no further than that, or by one frame | reads stay within delivery's share          |
//! | what is short is let go before nothing more is taken         | the log goes on at the speed of the disk    |
//!
//! While producers are faster than the disk memory is always short: without `kept` each frame would be let go as it became
//! durable and read back at once, however closely delivery follows. Decision: `docs/adr/0023-what-a-busy-log-keeps.md`.

use crate::pressure::percent;
use crate::wal::block::Pool;

/// Two reads ahead, and the frames of one that has been passed.
const READS: usize = 3;
/// One of so many chunks is for what is on disk and about to be delivered.
const KEPT_PART: usize = 4;
/// Most chunks that small blocks of the log take, in a pool for plain frames.
const SMALL: usize = 2;

/// The shares of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pool: Pool,
    kept: usize,
}

impl Share {
    /// Of a pool for what is written only when memory is short: nothing of it is kept then.
    pub(crate) const fn new(pool: Pool) -> Self {
        Self { pool, kept: 0 }
    }

    /// The same, and what is written at once and about to be delivered is kept.
    pub(crate) fn keeping(self) -> Self {
        Self { kept: self.pool.chunks() / KEPT_PART, ..self }
    }

    /// Chunks that delivery may have pinned.
    fn pinned_max(&self) -> usize {
        (self.pool.chunks() / 8).max(2)
    }

    /// Chunks of what waits for delivery that are never let go, however short memory is.
    pub(crate) const fn kept(&self) -> usize {
        self.kept
    }

    /// Chunks of delivery's share beside what is pinned.
    fn reads_max(&self) -> usize {
        self.kept.max(READS)
    }

    /// Whether delivery may be given more.
    pub(crate) fn may_hand_over(&self) -> bool {
        self.pool.pinned() < self.pinned_max()
    }

    /// Chunks that new frames may take. Delivery's share is left free, less what it has of it: what is pinned,
    /// and `reads` chunks that hold what was read back. (One that is both counts twice. That costs delivery a
    /// read ahead, but never the read it waits for: the chunk is free when both are over.)
    fn left_to_fill(&self, reads: usize) -> usize {
        let has = self.pool.pinned().min(self.pinned_max()) + reads.min(self.reads_max());
        (self.pool.free() + has).saturating_sub(self.pinned_max() + self.reads_max())
    }

    /// Whether a new frame may take a chunk.
    pub(crate) fn may_fill(&self, reads: usize) -> bool {
        self.left_to_fill(reads) > 0
    }

    /// Whether what can be let go is to be let go.
    pub(crate) fn is_short(&self, reads: usize) -> bool {
        self.left_to_fill(reads) <= self.margin()
    }

    /// Whether more may be read back than the frame that comes next: only what need not be let go at once.
    pub(crate) fn may_read_ahead(&self, reads: usize) -> bool {
        self.left_to_fill(reads) > self.margin() + self.reads_max()
    }

    /// How much of the chunks for new frames is taken, in percent, beside `can_go` of them that can be let go. Small
    /// blocks of the log are no frames: what they may take is left out of both.
    pub(crate) fn taken_percent(&self, reads: usize, can_go: usize) -> u64 {
        let room = self.pool.chunks().saturating_sub(self.pinned_max() + self.reads_max());
        let taken = room.saturating_sub(self.left_to_fill(reads));
        // Of what was read back some counts as delivery's already.
        let frames = taken.saturating_sub(can_go.saturating_sub(reads.min(self.reads_max())) + SMALL);
        percent(frames as u64, room.saturating_sub(SMALL) as u64).min(100)
    }

    /// The same for memory that is filled on purpose, and written only when it is short: how much is taken of the margin
    /// that is left for what comes while the rest is on its way to the disk.
    pub(crate) fn margin_percent(&self, reads: usize, can_go: usize) -> u64 {
        let left = self.left_to_fill(reads) + can_go;
        percent(self.margin().saturating_sub(left) as u64, self.margin() as u64)
    }

    fn margin(&self) -> usize {
        (self.pool.chunks() / 8).max(1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn new_frames_leave_delivery_its_share_and_what_is_pinned_counts_as_taken_from_it() {
        let pool = Pool::new(12, 4096).unwrap();
        let share = Share::new(pool.clone());
        let mut filled = Vec::new();
        while share.may_fill(0) {
            filled.push(pool.take().unwrap());
        }
        assert_eq!((filled.len(), pool.free()), (7, 5));
        assert!(share.is_short(0) && share.may_hand_over());
        // Delivery gets two of the chunks that were filled: these it need not take any more.
        let mut handed: Vec<_> = filled.drain(..2).map(|chunk| chunk.freeze().pin()).collect();
        assert!(!share.may_hand_over() && share.may_fill(0));
        while share.may_fill(0) {
            filled.push(pool.take().unwrap());
        }
        assert_eq!(pool.free(), READS);
        // The same for what it reads back into.
        let mut reads = vec![pool.take().unwrap(), pool.take().unwrap()];
        assert!(!share.may_fill(2));
        drop(filled.pop());
        assert!(share.may_fill(2));
        filled.push(pool.take().unwrap());
        assert!(!share.may_fill(2) && pool.free() == 1);
        reads.clear();
        assert!(!share.may_fill(0));
        // What it pins beyond its share is not counted in its favour.
        handed.push(filled.pop().unwrap().freeze().pin());
        assert!(!share.may_fill(0));
    }

    #[test]
    fn what_is_next_for_delivery_has_a_share_of_its_own_where_frames_are_written_at_once() {
        let pool = Pool::new(64, 4096).unwrap();
        let share = Share::new(pool.clone()).keeping();
        assert_eq!((share.kept(), Share::new(pool.clone()).kept()), (16, 0));
        let mut filled = Vec::new();
        while share.may_fill(0) {
            filled.push(pool.take().unwrap());
        }
        assert_eq!(pool.free(), 8 + 16);
        // Written, and now the next for delivery: others may take their place, as long as that is not more than its share.
        assert!(share.may_fill(1));
        while share.may_fill(16) {
            filled.push(pool.take().unwrap());
        }
        assert_eq!(pool.free(), 8);
        assert!(!share.may_fill(40));
        assert!(
            Share::new(Pool::new(12, 4096).unwrap()).keeping().reads_max() == READS,
            "the smallest pool is as it was"
        );
    }

    #[test]
    fn a_pool_is_as_full_as_what_cannot_be_let_go_makes_it() {
        let pool = Pool::new(64, 4096).unwrap();
        let share = Share::new(pool.clone());
        assert_eq!(share.taken_percent(0, 0), 0);
        // Eight and three of the 64 are delivery's, two are for small blocks: 51 are left.
        let mut filled: Vec<_> = (0..SMALL + 51 / 2).map(|_| pool.take().unwrap()).collect();
        assert_eq!(share.taken_percent(0, 0), 49);
        while share.may_fill(0) {
            filled.push(pool.take().unwrap());
        }
        assert_eq!((share.taken_percent(0, 0), share.taken_percent(0, 10), share.taken_percent(0, 51)), (100, 80, 0));
        // What delivery has of its share is not taken from new frames; what it keeps beyond that is.
        let mut handed: Vec<_> = filled.drain(..8).map(|chunk| chunk.freeze().pin()).collect();
        assert_eq!(share.taken_percent(0, 0), 84);
        handed.extend(filled.drain(..8).map(|chunk| chunk.freeze().pin()));
        assert_eq!(share.taken_percent(0, 0), 84);
        drop(handed);
        assert_eq!(share.taken_percent(0, 0), 68);
        assert_eq!(share.margin_percent(0, 0), 0);
        while share.may_fill(0) {
            let before = share.margin_percent(0, 0);
            assert!(share.is_short(0) || before == 0, "there is no pressure before what can be written is");
            filled.push(pool.take().unwrap());
        }
        assert_eq!((share.margin_percent(0, 0), share.margin_percent(0, 2), share.margin_percent(0, 8)), (100, 75, 0));
    }
}
