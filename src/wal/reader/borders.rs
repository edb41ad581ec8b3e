//! Where the frames end that will be read back, as far as that is known: reads end there too.
//!
//! ```text
//!  frames     │  1  │   2   │   3   │      not known     │
//!  blindly    ├─ read ─┤├─ read ─┤             2 lies over a border, and is read again by itself
//!  by borders ├─ read ────┤├─ read ─┤├─ read ────────┤
//! ```
//! Only a help: what is read is found by its headers, and checked, whatever stands here.

use std::collections::VecDeque;

use crate::lsn::{Lsn, SegmentUid};

/// Most borders that are kept, 24 bytes each. Beyond them reads are blind.
const BORDERS_MAX: usize = 16_384;

/// Where a frame ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Border {
    /// The segment.
    pub uid: SegmentUid,
    /// One past the frame's last block.
    pub end: u32,
    /// One past its last LSN.
    pub next: Lsn,
}

/// Borders in the order of LSNs.
#[derive(Debug, Default)]
pub(super) struct Borders(VecDeque<Border>);

impl Borders {
    /// A frame will be read back after all that were noted before, or before all of them.
    pub(super) fn note(&mut self, border: Border) {
        if self.0.front().is_some_and(|first| border.next < first.next) {
            // What is read first is worth most.
            self.0.truncate(BORDERS_MAX - 1);
            self.0.push_front(border);
        } else if self.0.len() < BORDERS_MAX && self.0.back().is_none_or(|last| last.next < border.next) {
            self.0.push_back(border);
        }
    }

    /// What ends at or before `expected` has been read.
    pub(super) fn pass(&mut self, expected: Lsn) {
        while self.0.front().is_some_and(|border| border.next <= expected) {
            self.0.pop_front();
        }
    }

    /// How many blocks from `from` on, at most `most`, a read of this segment should have.
    pub(super) fn blocks(&self, uid: SegmentUid, from: u32, most: u32) -> u32 {
        let here = self.0.iter().take_while(|border| border.uid == uid && border.end <= from.saturating_add(most));
        here.filter(|border| border.end > from).last().map_or(most, |border| border.end - from)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn border(uid: u64, end: u32, next: u64) -> Border {
        Border { uid: SegmentUid(uid), end, next: Lsn::new(next) }
    }

    #[test]
    fn a_read_ends_where_the_last_frame_ends_that_fits_into_it() {
        let mut borders = Borders::default();
        for (uid, end, next) in [(1, 12, 5), (1, 20, 9), (1, 29, 10), (2, 8, 14)] {
            borders.note(border(uid, end, next));
        }
        let uid = SegmentUid(1);
        assert_eq!([2, 12, 20].map(|from| borders.blocks(uid, from, 10)), [10, 8, 9]);
        // Unknown, or of a frame that began before: blindly.
        assert_eq!([3, 29].map(|from| borders.blocks(uid, from, 8)), [8, 8]);
        assert_eq!(borders.blocks(SegmentUid(2), 2, 10), 10, "another segment's, as long as this one is read");
        borders.pass(Lsn::new(10));
        assert_eq!(borders.blocks(SegmentUid(2), 2, 10), 6);
    }

    #[test]
    fn there_are_never_too_many_and_those_that_come_first_are_kept() {
        let mut borders = Borders::default();
        for n in 2..BORDERS_MAX as u64 + 10 {
            borders.note(border(1, n as u32, n));
        }
        borders.note(border(1, 1, 1));
        assert_eq!((borders.0.len(), borders.0[0].end), (BORDERS_MAX, 1));
        // Neither before nor behind the others: not noted, they stay in order.
        borders.note(border(1, 7, 7));
        assert!(borders.0.iter().is_sorted_by(|one, other| one.next < other.next));
    }
}
