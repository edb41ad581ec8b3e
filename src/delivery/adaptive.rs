//! How long batches are: following the sink.
//!
//! ```text
//!   latency < 0.9 · average    a tenth longer  ─┐
//!   latency > 1.1 · average    a tenth shorter ─┼─ within min ..= max, by one at least
//!   else                       as it is        ─┘
//!   average ← 0.9 · average + 0.1 · latency      (the first latency is the first average)
//! ```
//! This is the rule of the queue's own design documents. Only batches that were taken whole are timed: one that failed
//! says how fast the sink fails.

use std::time::Duration;

/// The length of the next batch.
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    min: usize,
    max: usize,
    len: usize,
    average_nanos: Option<u64>,
}

/// A change of length is one part in so many, and so is the weight of a latency in the average.
const PART: u8 = 10;

impl Adaptive {
    /// Between these bounds, beginning as near to `len` as they allow.
    pub(super) fn new(min: usize, max: usize, len: usize) -> Self {
        let min = min.max(1);
        let max = max.max(min);
        Self { min, max, len: len.clamp(min, max), average_nanos: None }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The sink took a whole batch in this time.
    pub(super) fn handle_latency(&mut self, latency: Duration) {
        let latency = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let Some(average) = self.average_nanos else {
            self.average_nanos = Some(latency);
            return;
        };
        let part = u64::from(PART);
        let tenth = average / part;
        let step = (self.len / usize::from(PART)).max(1);
        if latency < average - tenth {
            self.len = self.len.saturating_add(step).min(self.max);
        } else if latency > average.saturating_add(tenth) {
            self.len = self.len.saturating_sub(step).max(self.min);
        }
        self.average_nanos = Some(average - tenth + latency / part);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Timed batches of a sink whose average begins at 100 ms, and the length after each.
    fn after<const N: usize>(latencies: [u64; N]) -> [usize; N] {
        let mut adaptive = Adaptive::new(100, 5000, 1000);
        latencies.map(|latency| {
            adaptive.handle_latency(ms(latency));
            adaptive.len()
        })
    }

    #[test]
    fn batches_grow_by_a_tenth_when_the_sink_takes_less_than_nine_tenths_of_its_average() {
        // The average goes 100, 100, 99 (after 91), …
        assert_eq!(after([100, 100, 91]), [1000; 3], "within a tenth nothing changes");
        assert_eq!(after([100, 90]), [1000; 2], "nor at it");
        assert_eq!(after([100, 89, 80]), [1000, 1100, 1210]);
    }

    #[test]
    fn batches_shrink_by_a_tenth_when_the_sink_takes_more_than_eleven_tenths_of_its_average() {
        assert_eq!(after([100, 100, 109]), [1000; 3], "within a tenth nothing changes");
        assert_eq!(after([100, 110]), [1000; 2], "nor at it");
        assert_eq!(after([100, 111, 120, 130]), [1000, 900, 810, 729]);
    }

    #[test]
    fn a_short_length_still_moves_and_stays_within_its_bounds() {
        let mut adaptive = Adaptive::new(2, 4, 900);
        assert_eq!(adaptive.len(), 4);
        adaptive.handle_latency(ms(10));
        let lens: Vec<_> = [100, 100, 100, 1, 1, 1]
            .map(|latency| {
                adaptive.handle_latency(ms(latency));
                adaptive.len()
            })
            .into();
        assert_eq!(lens, [3, 2, 2, 3, 4, 4]);
    }

    proptest! {
        #[test]
        fn no_latency_leads_out_of_the_bounds(
            bounds in (0_usize..2000, 0_usize..2000),
            len in any::<usize>(),
            latencies in prop::collection::vec(any::<u64>(), 0..40),
        ) {
            let mut adaptive = Adaptive::new(bounds.0, bounds.1, len);
            let (min, max) = (bounds.0.max(1), bounds.1.max(bounds.0).max(1));
            for nanos in latencies {
                prop_assert!((min..=max).contains(&adaptive.len()));
                adaptive.handle_latency(Duration::from_nanos(nanos));
            }
            prop_assert!((min..=max).contains(&adaptive.len()));
        }
    }
}
