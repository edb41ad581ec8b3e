//! Chance that can be repeated: the same seed gives the same numbers, on every machine, for ever.
//!
//! xoshiro256++ (Blackman and Vigna), its state filled by splitmix64 as its authors advise. Not for
//! anything that must not be guessed.

use std::ops::RangeInclusive;

/// A source of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

/// How far splitmix64 goes with each step.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of splitmix64: a bijection that leaves no pattern of its input behind.
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Prng {
    /// The source that belongs to this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let b = seed.wrapping_add(GAMMA);
        let c = b.wrapping_add(GAMMA);
        Self { state: [mix(seed), mix(b), mix(c), mix(c.wrapping_add(GAMMA))] }
    }

    /// A source of its own, so that what one part draws does not change what another one gets.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// So many random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next_u64().to_le_bytes()[0])
    }

    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        // The bias of the plain product is below bound / 2^64: nothing for a simulation.
        let product = u128::from(self.next_u64()) * u128::from(bound);
        (product >> 64) as u64
    }

    /// An index of something with `len` parts.
    ///
    /// # Panics
    /// When `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "it is below a usize")]
        let index = self.below(len as u64) as usize;
        index
    }

    /// A number of the range, its end included.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True `times` times out of `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// A new order, all orders alike.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_every_time() {
        let numbers = |seed| {
            let mut prng = Prng::new(seed);
            [(); 4].map(|()| prng.next_u64())
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        // As other implementations of xoshiro256++ give it; a seed must replay in every build.
        assert_eq!(numbers(42)[0], 0xd076_4d4f_4476_689f);
    }

    #[test]
    fn numbers_stay_in_bounds_and_reach_them() {
        let mut prng = Prng::new(3);
        let seen: std::collections::BTreeSet<u64> = (0..500).map(|_| prng.within(2..=5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5]);
        let hits = (0..10_000).filter(|_| prng.chance(1, 4)).count();
        assert!((2_200..2_800).contains(&hits), "{hits} of 10,000");
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        Prng::new(9).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
