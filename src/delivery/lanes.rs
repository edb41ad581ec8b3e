//! Who must not overtake whom when several batches are out.
//!
//! ```text
//!   lane of an entry    its key's, or the one lane of all entries without a key
//!   out, or in retry    A A B ──►  lanes A, B are taken
//!   pending             A C B C A ──►  C C may go out; A, B, A are passed over until their lane is free
//! ```
//! A lane is taken from the moment an entry of it goes out until the last such entry has had its exit. Keys that share a
//! lane by chance wait for each other: that costs time, never order.

use std::collections::HashMap;

/// What keeps its order, as it stands in a record: 31 bits of a key's hash, or 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lane(pub u32);

/// The lanes of entries that were taken and have not had their exit.
#[derive(Debug)]
pub(super) struct Lanes {
    /// One batch is out at a time: nothing else can overtake.
    strict: bool,
    /// How many such entries each has.
    taken: HashMap<Lane, u32>,
}

impl Lanes {
    pub(super) fn new(strict: bool) -> Self {
        Self { strict, taken: HashMap::new() }
    }

    /// Whether all is one lane: there is nothing to look up.
    pub(super) const fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether an entry of this lane may not go out now.
    pub(super) fn is_taken(&self, lane: Lane) -> bool {
        !self.strict && self.taken.contains_key(&lane)
    }

    /// An entry of this lane goes out for the first time.
    pub(super) fn take(&mut self, lane: Lane) {
        *self.taken.entry(lane).or_default() += 1;
    }

    /// An entry of this lane has had its exit. Tells whether the lane is free by that.
    pub(super) fn free(&mut self, lane: Lane) -> bool {
        let Some(count) = self.taken.get_mut(&lane) else {
            return false;
        };
        *count -= 1;
        let is_free = *count == 0;
        if is_free {
            self.taken.remove(&lane);
        }
        is_free
    }
}
