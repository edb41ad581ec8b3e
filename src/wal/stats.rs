//! What a log counts.

use std::time::Duration;

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
    /// Moving average of how long a commit takes, from submission to durability: an eighth of each new one. What each
    /// took is told by [`Event::Committed`](crate::wal::config::Event).
    pub commit_ewma: Duration,
}

impl LogStats {
    /// Takes in how long a commit took.
    pub(crate) fn commit_took(&mut self, time: Duration) {
        self.commit_ewma = if self.commit_ewma.is_zero() { time } else { (self.commit_ewma * 7 + time) / 8 };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_by_an_eighth() {
        let mut stats = LogStats::default();
        stats.commit_took(Duration::from_micros(80));
        stats.commit_took(Duration::from_micros(160));
        assert_eq!(stats.commit_ewma, Duration::from_micros(90));
    }
}
