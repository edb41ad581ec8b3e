//! A set of LSNs that are done: a floor below which all are, and runs above it.

use crate::lsn::Lsn;

/// Finished LSNs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranges {
    floor: Lsn,
    above: Vec<(Lsn, Lsn)>,
}

impl Ranges {
    /// All up to `floor`, and the runs `above` (first, one past the last), rising and apart.
    pub(crate) fn new(floor: Lsn, above: Vec<(Lsn, Lsn)>) -> Self {
        let mut ranges = Self { floor, above };
        ranges.raise_floor();
        ranges
    }

    /// Everything up to here is in the set.
    pub(crate) fn floor(&self) -> Lsn {
        self.floor
    }

    /// The runs above the floor.
    pub(crate) fn above(&self) -> &[(Lsn, Lsn)] {
        &self.above
    }

    /// All runs, where the floor is one from the first number on.
    pub(crate) fn all(&self) -> Vec<(Lsn, Lsn)> {
        let floor = (self.floor > Lsn::ZERO).then(|| (Lsn::FIRST, self.floor.next()));
        floor.into_iter().chain(self.above.iter().copied()).collect()
    }

    pub(crate) fn ranges_above_floor(&self) -> usize {
        self.above.len()
    }

    pub(crate) fn contains(&self, lsn: Lsn) -> bool {
        lsn <= self.floor || self.above.iter().any(|(first, next)| (*first..*next).contains(&lsn))
    }

    /// How many of `first..next` are in the set.
    pub(crate) fn count(&self, first: Lsn, next: Lsn) -> u64 {
        let above = self.above.iter().map(|(from, to)| (*to).min(next).since((*from).max(first))).sum::<u64>();
        self.floor.next().min(next).since(first) + above
    }

    /// Adds `first..next`. False: all of it was there.
    pub(crate) fn add(&mut self, first: Lsn, next: Lsn) -> bool {
        let first = first.max(self.floor.next());
        if first >= next || self.above.iter().any(|(a, b)| *a <= first && next <= *b) {
            return false;
        }
        let from = self.above.partition_point(|(_, end)| *end < first);
        let to = self.above.partition_point(|(start, _)| *start <= next);
        let merged = self.above[from..to].iter().fold((first, next), |(a, b), (c, d)| (a.min(*c), b.max(*d)));
        self.above.splice(from..to, [merged]);
        self.raise_floor();
        true
    }

    fn raise_floor(&mut self) {
        let reached = self.above.iter().take_while(|(first, _)| *first <= self.floor.next()).count();
        if let Some((_, next)) = self.above.drain(..reached).next_back() {
            self.floor = self.floor.max(next.prev());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    #[test]
    fn runs_join_and_raise_the_floor() {
        let mut set = Ranges::new(lsn(3), vec![]);
        assert!(set.add(lsn(6), lsn(8)));
        assert!(set.add(lsn(10), lsn(11)));
        assert!(!set.add(lsn(7), lsn(8)));
        assert!(!set.add(lsn(1), lsn(4)));
        assert!(set.add(lsn(8), lsn(10)));
        assert_eq!(set.above(), [(lsn(6), lsn(11))]);
        assert!(set.add(lsn(2), lsn(6)));
        assert_eq!((set.floor(), set.above()), (lsn(10), &[][..]));
    }

    #[test]
    fn any_order_gives_the_same_set() {
        let mut state = 1_u64;
        for _ in 0..200 {
            let mut set = Ranges::new(lsn(0), vec![]);
            let mut model = std::collections::BTreeSet::new();
            for _ in 0..30 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = (state >> 33) % 50 + 1;
                let len = (state >> 50) % 4 + 1;
                set.add(lsn(first), lsn(first + len));
                model.extend(first..first + len);
            }
            for n in 1..60 {
                assert_eq!(set.contains(lsn(n)), model.contains(&n), "{n} in {set:?}");
            }
            for (first, next) in [(0, 60), (1, 1), (3, 20), (10, 55), (50, 60)] {
                let expected = (first..next).filter(|n| *n == 0 || model.contains(n)).count() as u64;
                assert_eq!(set.count(lsn(first), lsn(next)), expected, "{first}..{next} of {set:?}");
            }
            assert!(set.above().windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}
