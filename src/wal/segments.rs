//! The segments that hold something to deliver, in LSN order.
//!
//! ```text
//!   seq      7              8              9
//!          ├ base … end ┤ ├ base … end ┤ ├ base … end ┤
//!            sealed         sealed         open: `end` rises as frames become durable
//! ```
//! Recovery fills the table, the log extends and shortens it, readers look up where an LSN lies.
//! `end` and `end_position` only ever cover frames that may be read: in the open segment they are
//! moved when a frame has become durable, so a read never meets a write that is still in flight.
//!
//! LSNs that a recovery gave up are kept as *lost* ranges: a reader steps over them silently,
//! because they have been reported once.

use std::collections::VecDeque;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::schema::Schema;
use crate::wal::coding::SegmentKey;
use crate::wal::segment::HEADER_BLOCKS;

/// A segment that holds something to deliver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveSegment {
    /// Where it lies.
    pub slot: SlotNo,
    /// This use of the slot.
    pub uid: SegmentUid,
    /// Order of segments.
    pub seq: u64,
    /// First LSN in it.
    pub base: Lsn,
    /// Last readable LSN in it; less than `base` if it holds none.
    pub end: Lsn,
    /// First block behind what may be read.
    pub end_position: u32,
    /// What its entries are.
    pub schema: Schema,
    /// The key of its frames; `None`: they are not encrypted.
    pub key: Option<SegmentKey>,
}

impl LiveSegment {
    /// A segment that was just opened and holds nothing yet.
    #[must_use]
    pub const fn opened(slot: SlotNo, uid: SegmentUid, seq: u64, base: Lsn, schema: Schema) -> Self {
        Self { slot, uid, seq, base, end: base.prev(), end_position: HEADER_BLOCKS, schema, key: None }
    }

    /// Whether it holds no LSN.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end < self.base
    }
}

/// The live segments of a log, in LSN order, and the LSNs that are known to be lost.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    segments: VecDeque<LiveSegment>,
    /// First LSN and one past the last, rising.
    lost: Vec<(Lsn, Lsn)>,
}

impl SegmentTable {
    /// The table of what recovery found: its live segments and lost ranges (first, one past last).
    ///
    /// # Panics
    /// When the segments are not in order.
    #[must_use]
    pub fn new(live: Vec<LiveSegment>, lost: Vec<(Lsn, Lsn)>) -> Self {
        let mut table = Self::default();
        for segment in live {
            table.add(segment);
        }
        for (first, next) in lost {
            table.lose(first, next);
        }
        table
    }

    /// Appends the newest segment.
    ///
    /// # Panics
    /// When it does not come behind the last one.
    pub fn add(&mut self, segment: LiveSegment) {
        if let Some(last) = self.segments.back() {
            assert!(segment.seq > last.seq && segment.base > last.end, "segments are added in order");
        }
        self.segments.push_back(segment);
    }

    /// Says that everything up to `end`, which lies before block `end_position` of this segment, may
    /// be read. To be called when a frame has become durable, in LSN order.
    ///
    /// # Panics
    /// When the segment is not in the table, or the end would fall.
    pub fn extend_end(&mut self, uid: SegmentUid, end: Lsn, end_position: u32) {
        let segment = self.segments.iter_mut().rev().find(|s| s.uid == uid);
        let segment = segment.unwrap_or_else(|| panic!("segment {uid:?} is extended while it is live"));
        assert!(end >= segment.end && end_position >= segment.end_position, "a segment's end never falls");
        segment.end = end;
        segment.end_position = end_position;
    }

    /// Takes a segment out, because its slot is to be used for something else.
    pub fn remove(&mut self, uid: SegmentUid) -> Option<LiveSegment> {
        let at = self.segments.iter().position(|s| s.uid == uid)?;
        self.segments.remove(at)
    }

    /// The segment that holds `lsn`; if none does, the first one behind it.
    #[must_use]
    pub fn find(&self, lsn: Lsn) -> Option<&LiveSegment> {
        self.segments.get(self.segments.partition_point(|s| s.end < lsn))
    }

    /// The segment with this identity.
    #[must_use]
    pub fn by_uid(&self, uid: SegmentUid) -> Option<&LiveSegment> {
        self.segments.iter().find(|s| s.uid == uid)
    }

    /// How many hold something above `lsn`.
    #[must_use]
    pub fn count_above(&self, lsn: Lsn) -> usize {
        self.segments.len() - self.segments.partition_point(|s| s.end <= lsn)
    }

    /// The oldest segment.
    #[must_use]
    pub fn first(&self) -> Option<&LiveSegment> {
        self.segments.front()
    }

    /// The newest segment.
    #[must_use]
    pub fn last(&self) -> Option<&LiveSegment> {
        self.segments.back()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &LiveSegment> + DoubleEndedIterator {
        self.segments.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Records that the LSNs `first..next` were given up: readers step over them.
    pub fn lose(&mut self, first: Lsn, next: Lsn) {
        if first >= next {
            return;
        }
        let at = self.lost.partition_point(|range| range.0 < first);
        self.lost.insert(at, (first, next));
    }

    /// Where the first known loss behind `lsn` begins.
    #[must_use]
    pub fn next_lost(&self, lsn: Lsn) -> Option<Lsn> {
        self.lost.iter().map(|range| range.0).find(|first| *first > lsn)
    }

    /// The first LSN from `lsn` on that is not known to be lost.
    #[must_use]
    pub fn not_lost_from(&self, lsn: Lsn) -> Lsn {
        let mut from = lsn;
        for (first, next) in &self.lost {
            if *first <= from && from < *next {
                from = *next;
            }
        }
        from
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn segment(seq: u64, base: u64, end: u64) -> LiveSegment {
        let slot = SlotNo(u32::try_from(seq).unwrap());
        let mut segment = LiveSegment::opened(slot, SegmentUid(seq + 100), seq, Lsn::new(base), Schema::new("t", 1));
        segment.end = Lsn::new(end);
        segment
    }

    #[test]
    fn segments_above_an_lsn_are_counted() {
        let table = SegmentTable::new(vec![segment(1, 1, 10), segment(2, 20, 30), segment(3, 31, 40)], vec![]);
        let counts = [0, 9, 10, 29, 30, 39, 40].map(|lsn| table.count_above(Lsn::new(lsn)));
        assert_eq!(counts, [3, 3, 2, 2, 1, 1, 0]);
    }

    #[test]
    fn an_lsn_is_found_in_its_segment_or_in_the_next_one_behind_it() {
        let table = SegmentTable::new(vec![segment(1, 5, 9), segment(2, 10, 19), segment(3, 25, 24)], vec![]);
        let seq_of = |lsn| table.find(Lsn::new(lsn)).map(|s| s.seq);
        assert_eq!([seq_of(1), seq_of(9), seq_of(10), seq_of(19)], [Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!(seq_of(20), Some(3));
        assert_eq!(seq_of(25), None);
    }

    #[test]
    fn the_open_end_moves_and_a_removed_segment_is_gone() {
        let mut table = SegmentTable::new(vec![segment(1, 5, 9), segment(2, 10, 9)], vec![]);
        assert!(table.last().unwrap().is_empty());
        table.extend_end(SegmentUid(102), Lsn::new(14), 7);
        assert_eq!(table.find(Lsn::new(14)).unwrap().end_position, 7);
        assert_eq!(table.remove(SegmentUid(101)).unwrap().seq, 1);
        assert_eq!(table.first().unwrap().seq, 2);
        assert!(table.by_uid(SegmentUid(101)).is_none());
    }

    #[test]
    fn lost_ranges_are_stepped_over_as_one_when_they_touch() {
        let table = SegmentTable::new(vec![], vec![(Lsn::new(7), Lsn::new(9)), (Lsn::new(3), Lsn::new(7))]);
        assert_eq!(table.not_lost_from(Lsn::new(2)), Lsn::new(2));
        assert_eq!(table.not_lost_from(Lsn::new(3)), Lsn::new(9));
        assert_eq!(table.not_lost_from(Lsn::new(9)), Lsn::new(9));
    }

    #[test]
    #[should_panic(expected = "in order")]
    fn segments_out_of_order_are_refused() {
        let _ = SegmentTable::new(vec![segment(2, 10, 19), segment(1, 5, 9)], vec![]);
    }
}
