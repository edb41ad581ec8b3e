//! Distributions: times and sizes counted in buckets of bounded number, by one writer, read at any time.
//!
//! ```text
//!   bound   1  2  3  4 │ 5  6  7  8 │ 10  12  14  16 │ 20  24  28  32 │ … │ 2^27 and all above
//!           one each   │ four to each doubling
//! ```
//! A value lies at most a quarter below the bound of its bucket, so quantiles are at most that much too high. Recording
//! takes two adds to cells of its own: no lock, no allocation. The form is that of Tene's HdrHistogram.

use std::time::Duration;

use crate::sync::plain::{AtomicU64, Ordering};

/// Buckets to each doubling, as a power of two.
const PARTS_LOG2: u32 = 2;
const PARTS: usize = 1 << PARTS_LOG2;
/// The last doubling ends with 2^27: two minutes in microseconds, and more than any batch has entries.
const BOUND_LOG2_MAX: u32 = 27;
const BUCKETS: usize = PARTS + (BOUND_LOG2_MAX - PARTS_LOG2) as usize * PARTS;

/// The bucket of a value. Bounds belong to the bucket that they close.
fn bucket_of(value: u64) -> usize {
    let below = value.saturating_sub(1);
    if below < PARTS as u64 {
        return usize::try_from(below).unwrap_or(0);
    }
    let log2 = below.ilog2();
    if log2 >= BOUND_LOG2_MAX {
        return BUCKETS - 1;
    }
    // Below `PARTS`, by the mask.
    let part = usize::try_from(below >> (log2 - PARTS_LOG2)).unwrap_or(0) & (PARTS - 1);
    (log2 - PARTS_LOG2 + 1) as usize * PARTS + part
}

/// The greatest value of a bucket; of the last one, the greatest that is told from others.
fn bound_of(bucket: usize) -> u64 {
    let (doubling, part) = (bucket / PARTS, bucket % PARTS);
    match doubling.checked_sub(1) {
        None => part as u64 + 1,
        Some(shift) => ((PARTS + part + 1) as u64) << shift,
    }
}

/// A distribution with one writing thread. Nothing hangs on its numbers, so no model looks at them.
#[derive(Debug)]
pub(crate) struct HistogramCells {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for HistogramCells {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

/// Adds; only the one writer may call it.
fn add(cell: &AtomicU64, n: u64) {
    // ORDERING: Relaxed, both: there is one writer, and each number stands for itself.
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl HistogramCells {
    /// Only the one writer may call it.
    pub(crate) fn record(&self, value: u64) {
        add(&self.sum, value);
        add(&self.counts[bucket_of(value)], 1);
    }

    /// The same for a time, in whole microseconds rounded up. Only the one writer may call it.
    pub(crate) fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX));
    }

    pub(crate) fn read(&self) -> Histogram {
        // ORDERING: Relaxed, see `add`: what is recorded meanwhile may be in one of them and not yet in the other.
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Histogram { counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// How often which values came, since the queue was opened.
///
/// Each value is counted in a bucket; four buckets double. What is told of a value is the bound of its bucket, which is
/// at most a quarter too high. Values above 2²⁷ count as 2²⁷.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// One count for each bucket; empty where nothing was ever looked at.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    /// How many values came.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Their mean; 0 where none came.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean to look at")]
    pub fn mean(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.sum as f64 / self.count() as f64 }
    }

    /// The value that this share of all values does not exceed: `quantile(0.99)`. 0 where none came. What lies outside
    /// 0 to 1 is taken for the nearer of the two.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count: it is neither negative nor greater"
    )]
    pub fn quantile(&self, share: f64) -> u64 {
        let count = self.count();
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        self.buckets().find(|(_, upto)| *upto >= rank).map_or(0, |(bound, _)| bound)
    }

    /// The greatest value, as the bound of its bucket; 0 where none came.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.quantile(1.0)
    }

    /// The bound of each bucket, and how many values do not exceed it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().scan(0, |upto, (bucket, count)| {
            *upto += count;
            Some((bound_of(bucket), *upto))
        })
    }

    /// How many values do not exceed this power of two.
    pub(crate) fn count_upto(&self, log2: u32) -> u64 {
        self.counts.iter().take(bucket_of(1 << log2) + 1).sum()
    }

    /// What came since an earlier look: the bound of each bucket, and how many values more it holds.
    #[cfg(feature = "metrics")]
    pub(crate) fn since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        self.counts.iter().zip(before).enumerate().filter_map(|(bucket, (now, before))| {
            let more = now.saturating_sub(before);
            (more > 0).then(|| (bound_of(bucket), more))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let cells = HistogramCells::default();
        values.into_iter().for_each(|value| cells.record(value));
        cells.read()
    }

    #[test]
    fn every_value_lies_in_the_bucket_whose_bound_is_the_next_one_above() {
        for bucket in 1..BUCKETS {
            let (low, high) = (bound_of(bucket - 1), bound_of(bucket));
            assert!(low < high, "{bucket}");
            assert_eq!((bucket_of(low), bucket_of(low + 1)), (bucket - 1, bucket));
            assert_eq!(bucket_of(high), bucket);
            // At most a quarter too high.
            assert!(high <= low + 1 || (high - low - 1) * PARTS as u64 <= low + 1, "{low} {high}");
        }
        assert_eq!((bucket_of(0), bound_of(0), bound_of(BUCKETS - 1)), (0, 1, 1 << BOUND_LOG2_MAX));
        assert_eq!((bucket_of((1 << BOUND_LOG2_MAX) + 1), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_bounds_that_the_share_does_not_exceed() {
        let even = of(1..=1000);
        assert_eq!((even.count(), even.sum(), even.max()), (1000, 500_500, 1024));
        assert!((even.mean() - 500.5).abs() < 1e-9);
        for (share, exact) in [(0.5, 500), (0.9, 900), (0.99, 990)] {
            let told = even.quantile(share);
            assert!((exact..=exact + exact / 4).contains(&told), "{share}: {told}");
        }
        assert_eq!((even.quantile(0.0), even.quantile(-1.0), even.quantile(7.0)), (1, 1, 1024));
        let none = Histogram::default();
        assert_eq!((none.count(), none.quantile(0.5), none.max(), none.count_upto(3)), (0, 0, 0, 0));
        assert!(none.mean().abs() < f64::EPSILON);
    }

    #[test]
    fn powers_of_two_are_bounds() {
        let histogram = of([1, 2, 3, 4, 5, 8, 9, 1024, 1025]);
        let upto: Vec<u64> = [0, 1, 2, 3, 4, 10, 11].map(|log2| histogram.count_upto(log2)).into();
        assert_eq!(upto, [1, 2, 4, 6, 7, 8, 9]);
    }

    #[test]
    fn a_time_is_rounded_up_to_a_microsecond() {
        let cells = HistogramCells::default();
        for nanos in [0, 1, 1000, 1001] {
            cells.record_time(Duration::from_nanos(nanos));
        }
        assert_eq!((cells.read().sum(), cells.read().count_upto(0), cells.read().max()), (4, 3, 2));
    }
}
