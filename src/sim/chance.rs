//! What a power cut does, where nothing else says it.

use crate::sim::file::SectorFate;
use crate::sim::history::Unstable;
use crate::sim::prng::Prng;

/// What a power cut does, write by write: most of one all the same, some of one mixed.
pub(super) struct Chance {
    prng: Prng,
    garbage: bool,
    of: Option<u64>,
    kept: u64,
}

impl Chance {
    pub(super) const fn new(prng: Prng, garbage: bool) -> Self {
        Self { prng, garbage, of: None, kept: 0 }
    }

    pub(super) fn fate(&mut self, write: &Unstable) -> SectorFate {
        if self.of != Some(write.number) {
            self.of = Some(write.number);
            self.kept = match self.prng.below(4) {
                0 => 0,
                1 => 100,
                _ => self.prng.below(101),
            };
        }
        if self.garbage && self.kept > 0 && self.kept < 100 && self.prng.chance(1, 40) {
            return SectorFate::Garbage(self.prng.next_u64());
        }
        if self.prng.chance(self.kept, 100) { SectorFate::Kept } else { SectorFate::Lost }
    }
}
