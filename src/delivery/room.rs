//! How much of the cursor's table a batch may come to need.
//!
//! ```text
//!   finished  ████ acked    ██    ██          2 runs
//!   out               █████    █  ███         at worst, when every second one of them is done: 3 + 1 + 2 runs more
//!   next      only what fits into the rest
//! ```
//! Whatever is done of a stretch of `n` entries, in whatever order, it leaves at most ⌈n / 2⌉ runs; ⌊n / 2⌋ if it begins
//! right above `acked`, as its first entry then moves that. A sink that answers for whole batches leaves one at most. So
//! an entry that is acknowledged always has a row in the cursor, however many batches are out.

use crate::lsn::Lsn;

/// Rows of the cursor for a batch that is being cut.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    /// The first that is not done.
    floor: Lsn,
    /// Whether the sink may answer for each entry by itself.
    each: bool,
    /// Rows for stretches that have ended.
    ended: usize,
    /// The stretch that may go on: its first LSN, and one past its last.
    stretch: (Lsn, Lsn),
}

impl Room {
    pub(super) const fn new(left: usize, acked: Lsn, each: bool) -> Self {
        Self { left, floor: acked.next(), each, ended: 0, stretch: (Lsn::ZERO, Lsn::ZERO) }
    }

    /// For one batch at a time, which is cut by its length ([`batch_len_max`](super::progress::Finished::batch_len_max)).
    pub(super) const fn without_end() -> Self {
        Self::new(usize::MAX, Lsn::ZERO, false)
    }

    /// Takes the rows for one more entry, if there are enough.
    pub(super) fn admit(&mut self, lsn: Lsn) -> bool {
        let goes_on = lsn == self.stretch.1;
        let stretch = (if goes_on { self.stretch.0 } else { lsn }, lsn.next());
        let ended = if goes_on { self.ended } else { self.used() };
        let fits = ended + self.rows(stretch) <= self.left;
        if fits {
            (self.ended, self.stretch) = (ended, stretch);
        }
        fits
    }

    /// Rows that the batch may come to need.
    pub(super) fn used(&self) -> usize {
        self.ended + self.rows(self.stretch)
    }

    fn rows(&self, (first, next): (Lsn, Lsn)) -> usize {
        let len = usize::try_from(next.since(first)).unwrap_or(usize::MAX);
        match (len, first == self.floor) {
            (0, _) => 0,
            (_, at_floor) if !self.each => usize::from(!at_floor),
            (_, true) => len / 2,
            (_, false) => len.div_ceil(2),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::delivery::progress::Finished;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is done, in whatever order, never takes more rows than were set aside.
        #[test]
        fn whatever_is_done_of_a_batch_fits_into_the_rows_that_were_set_aside(
            acked in 0_u64..5,
            done in prop::collection::vec(6_u64..60, 0..12),
            batch in prop::collection::btree_set(1_u64..60, 1..30),
            order in prop::collection::vec(any::<usize>(), 60),
        ) {
            let lsn = Lsn::new;
            let mut finished = Finished::new(lsn(acked), &[]);
            done.iter().for_each(|n| finished.add(lsn(*n), lsn(n + 1)));
            let mut open: Vec<_> = batch.into_iter().filter(|n| !finished.contains(lsn(*n))).collect();
            let mut room = Room::new(usize::MAX, finished.acked(), true);
            open.iter().for_each(|n| assert!(room.admit(lsn(*n))));
            let most = finished.runs() + room.used();
            for draw in order {
                if open.is_empty() {
                    break;
                }
                let n = open.swap_remove(draw % open.len());
                finished.add(lsn(n), lsn(n + 1));
                prop_assert!(finished.runs() <= most, "{} rows of {}", finished.runs(), most);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_admitted_and_takes_nothing() {
        let mut room = Room::new(1, Lsn::ZERO, true);
        assert!(room.admit(Lsn::new(1)) && room.admit(Lsn::new(2)) && room.admit(Lsn::new(3)));
        assert!(!room.admit(Lsn::new(4)) && !room.admit(Lsn::new(9)));
        assert_eq!(room.used(), 1);
        let mut room = Room::new(0, Lsn::ZERO, false);
        assert!(room.admit(Lsn::new(1)) && room.admit(Lsn::new(2)), "whole batches from the floor need no row");
        assert!(!room.admit(Lsn::new(4)));
    }
}
