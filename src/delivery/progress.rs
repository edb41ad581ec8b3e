//! What is finished, and what the unfinished has cost: the cursor's content while it lives.
//!
//! ```text
//!   finished   ████████████│  ██  █████   █
//!                        acked └──── runs ──┘
//!   attempts              3 3 3 3 3 0 0 0 …       rows: (acked + 1, 3) (acked + 6, 0)
//! ```
//! Attempts are a step function: a row holds from its LSN up to the next row. As a batch is cut where
//! the attempts change, its entries always share one number, and a batch of any length costs two rows.

use std::collections::BTreeMap;

use crate::lsn::Lsn;
use crate::wal::cursor::{CURSOR_ATTEMPTS_MAX, CURSOR_RANGES_MAX};

/// What is done.
#[derive(Debug, Default)]
pub(super) struct Finished {
    acked: Lsn,
    /// First LSN and one past the last; apart from each other and from `acked`.
    runs: BTreeMap<Lsn, Lsn>,
}

impl Finished {
    pub(super) fn new(acked: Lsn, done: &[(Lsn, Lsn)]) -> Self {
        let mut finished = Self { acked, runs: BTreeMap::new() };
        for (first, next) in done {
            finished.add(*first, *next);
        }
        finished
    }

    /// Everything up to here is finished.
    pub(super) const fn acked(&self) -> Lsn {
        self.acked
    }

    pub(super) fn contains(&self, lsn: Lsn) -> bool {
        lsn <= self.acked || self.runs.range(..=lsn).next_back().is_some_and(|(_, next)| lsn < *next)
    }

    /// The first at or after `lsn` that is not finished.
    pub(super) fn first_unfinished(&self, lsn: Lsn) -> Lsn {
        let lsn = lsn.max(self.acked.next());
        self.runs.range(..=lsn).next_back().map_or(lsn, |(_, next)| lsn.max(*next))
    }

    /// `first..next` is finished, whatever of it was before.
    pub(super) fn add(&mut self, first: Lsn, next: Lsn) {
        let (mut first, mut next) = (first.max(self.acked.next()), next);
        if first >= next {
            return;
        }
        if let Some((start, end)) = self.runs.range(..=first).next_back()
            && *end >= first
        {
            (first, next) = (*start, next.max(*end));
        }
        while let Some((start, end)) = self.runs.range(first..=next).next() {
            let start = *start;
            next = next.max(*end);
            self.runs.remove(&start);
        }
        if first == self.acked.next() {
            self.acked = next.prev();
        } else {
            self.runs.insert(first, next);
        }
    }

    /// The runs above `acked`, as many as the cursor holds.
    pub(super) fn rows(&self) -> Vec<(Lsn, Lsn)> {
        self.runs.iter().take(CURSOR_RANGES_MAX).map(|(first, next)| (*first, *next)).collect()
    }

    /// How many runs there are above `acked`.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// How long a batch may be so that its runs fit into the cursor, whichever of its entries get
    /// done: at worst every second one, and the first one moves `acked`. At least one.
    pub(super) fn batch_len_max(&self) -> usize {
        2 * CURSOR_RANGES_MAX.saturating_sub(self.runs.len()) + 1
    }
}

/// What the unfinished has cost.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    rows: Vec<(Lsn, u32)>,
}

impl Attempts {
    pub(super) fn new(rows: &[(Lsn, u32)]) -> Self {
        Self { rows: rows.to_vec() }
    }

    /// Failed attempts that this entry has behind it.
    pub(super) fn at(&self, lsn: Lsn) -> u32 {
        let after = self.rows.partition_point(|(row, _)| *row <= lsn);
        after.checked_sub(1).map_or(0, |i| self.rows[i].1)
    }

    /// `first..next` has so many behind it.
    pub(super) fn set(&mut self, first: Lsn, next: Lsn, attempts: u32) {
        let (before, after) = (self.at(first.prev()), self.at(next));
        let from = self.rows.partition_point(|(row, _)| *row < first);
        let to = self.rows.partition_point(|(row, _)| *row <= next);
        let opens = (attempts != before).then_some((first, attempts));
        let closes = (after != attempts).then_some((next, after));
        self.rows.splice(from..to, opens.into_iter().chain(closes));
    }

    /// Forgets what lies at or below `acked`.
    pub(super) fn forget(&mut self, acked: Lsn) {
        let floor = acked.next();
        let at_floor = self.at(floor);
        let passed = self.rows.partition_point(|(row, _)| *row <= floor);
        if passed > 0 {
            self.rows.splice(..passed, (at_floor > 0).then_some((floor, at_floor)));
        }
    }

    /// The rows, as many as the cursor holds. What does not fit counts as never tried: such entries
    /// get more attempts after a restart, none gets fewer.
    pub(super) fn rows(&self) -> Vec<(Lsn, u32)> {
        let mut rows = self.rows.clone();
        if rows.len() > CURSOR_ATTEMPTS_MAX {
            rows.truncate(CURSOR_ATTEMPTS_MAX);
            rows[CURSOR_ATTEMPTS_MAX - 1].1 = 0;
        }
        rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    proptest! {
        #[test]
        fn finished_runs_are_the_set_of_what_was_added(
            acked in 0_u64..20,
            adds in prop::collection::vec((1_u64..60, 0_u64..12), 0..20),
        ) {
            let mut finished = Finished::new(lsn(acked), &[]);
            let mut model: std::collections::BTreeSet<u64> = (0..=acked).collect();
            for (first, len) in adds {
                finished.add(lsn(first), lsn(first + len));
                model.extend(first..first + len);
                for n in 0..80 {
                    prop_assert_eq!(finished.contains(lsn(n)), model.contains(&n), "{}", n);
                }
                let prefix = (0..).take_while(|n| model.contains(n)).last().unwrap();
                prop_assert_eq!(finished.acked(), lsn(prefix));
                for n in 0..80 {
                    let open = (n..).find(|n| !model.contains(n)).unwrap();
                    prop_assert_eq!(finished.first_unfinished(lsn(n)), lsn(open));
                }
                let mut floor = prefix;
                for (first, next) in finished.rows() {
                    prop_assert!(first.number() > floor + 1 && next > first, "apart and rising");
                    floor = next.number() - 1;
                }
            }
        }

        #[test]
        fn attempts_are_what_was_set_last(
            sets in prop::collection::vec((1_u64..40, 1_u64..12, 0_u32..4), 0..20),
            acked in 0_u64..50,
        ) {
            let mut attempts = Attempts::default();
            let mut model = [0_u32; 80];
            for (first, len, n) in sets {
                attempts.set(lsn(first), lsn(first + len), n);
                model[first as usize..(first + len) as usize].fill(n);
                for (i, n) in model.iter().enumerate() {
                    prop_assert_eq!(attempts.at(lsn(i as u64)), *n);
                }
                prop_assert!(attempts.rows().is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1));
            }
            attempts.forget(lsn(acked));
            for (i, n) in model.iter().enumerate().skip(acked as usize + 1) {
                prop_assert_eq!(attempts.at(lsn(i as u64)), *n);
            }
            prop_assert!(attempts.rows().iter().all(|(row, _)| row.number() > acked));
        }
    }

    #[test]
    fn a_batch_of_the_greatest_length_fits_into_the_cursor_whatever_is_done_of_it() {
        let finished = Finished::default();
        let len = finished.batch_len_max() as u64;
        for odd in [0, 1] {
            let mut finished = Finished::default();
            (1..=len).filter(|n| n % 2 == odd).for_each(|n| finished.add(lsn(n), lsn(n + 1)));
            assert!(finished.runs.len() <= CURSOR_RANGES_MAX);
        }
        let mut full = Finished::default();
        (1..=len + 1).filter(|n| n % 2 == 0).for_each(|n| full.add(lsn(n), lsn(n + 1)));
        assert_eq!(full.runs.len(), CURSOR_RANGES_MAX + 1, "one entry more would not have fitted");
        assert_eq!((full.rows().len(), full.batch_len_max()), (CURSOR_RANGES_MAX, 1));
    }

    #[test]
    fn attempts_beyond_what_the_cursor_holds_count_as_none() {
        let mut attempts = Attempts::default();
        for n in 1..=CURSOR_ATTEMPTS_MAX as u64 + 5 {
            attempts.set(lsn(n), lsn(n + 1), n as u32);
        }
        let rows = attempts.rows();
        assert_eq!(rows.len(), CURSOR_ATTEMPTS_MAX);
        let read = Attempts::new(&rows);
        assert_eq!(read.at(lsn(479)), 479);
        assert_eq!((read.at(lsn(480)), read.at(lsn(485)), read.at(lsn(1000))), (0, 0, 0));
    }
}
