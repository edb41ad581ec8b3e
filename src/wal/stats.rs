//! What a log counts.

use std::time::Duration;

/// How many buckets there are for commit times.
pub const COMMIT_TIME_BUCKETS: usize = 24;

/// Counts and times of a log since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Frames that carry records.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their headers and bodies.
    pub bytes: u64,
    /// Zeros that fill their last blocks.
    pub padding_bytes: u64,
    /// Writes submitted, headers of segments and record-less frames included; not cursor and META.
    pub writes: u64,
    /// Syncs submitted.
    pub syncs: u64,
    /// Times that the durable watermark moved.
    pub groups: u64,
    /// Cursors written.
    pub cursors: u64,
    /// Slots that hold a segment.
    pub slots_live: u32,
    /// Slots that are ready to be used.
    pub slots_free: u32,
    /// Preparations of slots that failed.
    pub prepare_failures: u64,
    /// How long the last commit took, from submission to durability.
    pub commit_last: Duration,
    /// Moving average of that: an eighth of each new one.
    pub commit_ewma: Duration,
    /// Commits by time: bucket 0 holds those under 2 µs, each next one doubles, the last holds the rest.
    pub commit_times: [u64; COMMIT_TIME_BUCKETS],
}

impl LogStats {
    /// Takes in how long a commit took.
    pub(crate) fn commit_took(&mut self, time: Duration) {
        self.commit_last = time;
        self.commit_ewma = if self.commit_ewma.is_zero() { time } else { (self.commit_ewma * 7 + time) / 8 };
        let log2 = (time.as_micros().max(1)).ilog2() as usize;
        self.commit_times[log2.min(COMMIT_TIME_BUCKETS - 1)] += 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn commit_times_fall_into_doubling_buckets() {
        let mut stats = LogStats::default();
        for micros in [0, 1, 2, 3, 80, 1 << 40] {
            stats.commit_took(Duration::from_micros(micros));
        }
        assert_eq!(stats.commit_times[0], 2);
        assert_eq!(stats.commit_times[1], 2);
        assert_eq!(stats.commit_times[6], 1);
        assert_eq!(stats.commit_times[COMMIT_TIME_BUCKETS - 1], 1);
    }

    #[test]
    fn the_average_follows_by_an_eighth() {
        let mut stats = LogStats::default();
        stats.commit_took(Duration::from_micros(80));
        stats.commit_took(Duration::from_micros(160));
        assert_eq!(stats.commit_ewma, Duration::from_micros(90));
    }
}
