//! The reader and the inspector over a disk in memory.

use super::{ReadEvent, Reader};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::block::Pool;
use crate::wal::frame::{FrameKind, Place};
use crate::wal::inspect::{Inspect, InspectEvent, Verified};
use crate::wal::mutant::Mutants;
use crate::wal::op::{Completion, DiskError, LogId, Op};
use crate::wal::recovery::fake::{Fake, Store, config, pool, slot};
use crate::wal::recovery::{Corruption, OnCorruption};
use crate::wal::segment::HEADER_BLOCKS;
use crate::wal::segments::{LiveSegment, SegmentTable};

/// A reader at work.
struct Rig {
    disk: Fake,
    reader: Reader,
    table: SegmentTable,
    pool: Pool,
    reads: u32,
}

impl Rig {
    fn new(store: &Store, policy: OnCorruption) -> Self {
        let mut disk = store.disk.clone();
        let recovered = disk.open(policy);
        let reader = Reader::new(LogId::Main, &recovered.meta, Mutants::NONE);
        let table = SegmentTable::new(recovered.live, recovered.absent);
        Self { disk, reader, table, pool: pool(), reads: 0 }
    }

    fn event(&mut self, durable: u64) -> ReadEvent {
        for _ in 0..10_000 {
            let ops: Vec<_> =
                std::iter::from_fn(|| self.reader.poll_op(&self.table, Lsn::new(durable), &self.pool)).collect();
            assert!(ops.len() <= 2, "two reads are in flight at most");
            if let Some(event) = self.reader.poll_event() {
                for (token, op) in ops {
                    self.reader.handle_completion(self.disk.run(token, op));
                }
                return event;
            }
            assert!(!ops.is_empty(), "the reader never stalls");
            // Completions come in any order.
            for (token, op) in ops.into_iter().rev() {
                self.reads += 1;
                self.reader.handle_completion(self.disk.run(token, op));
            }
        }
        panic!("the reader never ends");
    }

    /// First and last LSN of every frame up to the end; corruption is noted and skipped.
    fn all(&mut self, durable: u64) -> (Vec<(u64, u64)>, Vec<Corruption>) {
        let (mut frames, mut corrupt) = (Vec::new(), Vec::new());
        loop {
            match self.event(durable) {
                ReadEvent::Frame(frame) => {
                    assert!(frame.header.body_matches(frame.body()));
                    frames.push((frame.header.first_lsn.number(), frame.header.next_lsn.number() - 1));
                }
                ReadEvent::CaughtUp => return (frames, corrupt),
                ReadEvent::Corrupt(corruption) => {
                    self.reader.skip(&corruption);
                    corrupt.push(corruption);
                }
                ReadEvent::Failed(error) => panic!("{error}"),
                ReadEvent::Locked { key, problem, .. } => panic!("key {key}: {problem}"),
            }
        }
    }
}

fn pairs(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    range.step_by(2).map(|first| (first, first + 1)).collect()
}

fn without(all: Vec<(u64, u64)>, lost: &[u64]) -> Vec<(u64, u64)> {
    all.into_iter().filter(|frame| !lost.contains(&frame.0)).collect()
}

/// Frames from one block to a whole chunk's length, over borders of reads, in one segment.
fn long_store() -> (Store, Vec<(u64, u64)>) {
    let mut store = Store::new();
    store.segment(0, 1, 1, 0, 0);
    let mut frames = Vec::new();
    for (i, payload_len) in [7000, 10, 7900, 3000, 1, 5000, 8000, 400, 6000].into_iter().enumerate() {
        let lsn = i as u64 + 1;
        store.data(0, lsn, 1, lsn - 1, payload_len);
        frames.push((lsn, lsn));
    }
    assert!(store.position[&0] <= crate::wal::recovery::fake::BLOCKS, "it fits");
    (store, frames)
}

#[test]
fn frames_come_back_in_order_over_segments_up_to_what_is_durable() {
    let mut rig = Rig::new(&Store::sample(), OnCorruption::Stop);
    assert_eq!(rig.all(14), (pairs(1..=14), vec![]));
    assert_eq!(rig.all(30), (pairs(15..=30), vec![]));
    assert!(rig.reader.poll_event().is_none(), "it is said once");
    assert_eq!(rig.pool.free(), 8, "what was read is let go");
}

#[test]
fn a_frame_over_the_end_of_a_read_is_read_again_whole() {
    let (store, frames) = long_store();
    let mut rig = Rig::new(&store, OnCorruption::Stop);
    assert_eq!(rig.all(9), (frames, vec![]));
    assert!(rig.reads <= 3 + 3, "three large reads and the frames at their ends, not {}", rig.reads);
}

#[test]
fn seeking_begins_at_the_frame_that_holds_the_lsn_with_or_without_a_hint() {
    let mut rig = Rig::new(&Store::sample(), OnCorruption::Stop);
    rig.reader.seek(Lsn::new(16), None);
    assert_eq!(rig.all(30).0, pairs(15..=30));
    let place = |position, uid| Some(Place { slot: SlotNo(1), uid: SegmentUid(uid), position });
    for hint in [place(6, 102), place(4, 102), place(5, 102), place(6, 7), place(4000, 102)] {
        rig.reader.seek(Lsn::new(16), hint);
        assert_eq!(rig.all(30), (pairs(15..=30), vec![]), "{hint:?}");
    }
}

#[test]
fn a_read_never_goes_beyond_the_readable_end_of_an_open_segment() {
    let mut store = Store::sample();
    let mut rig = Rig::new(&store, OnCorruption::Stop);
    rig.reader.seek(Lsn::new(29), None);
    assert_eq!(rig.all(30).0, pairs(29..=30));
    let end = store.position[&2];
    store.data(2, 31, 2, 30, 300);
    rig.disk.files = store.disk.files.clone();
    let op = rig.reader.poll_op(&rig.table, Lsn::new(32), &rig.pool);
    assert!(op.is_none(), "the table does not say yet that they may be read");
    rig.table.extend_end(SegmentUid(103), Lsn::new(32), end + 2);
    assert_eq!(rig.all(32).0, pairs(31..=32));
}

#[test]
fn rot_in_an_older_segment_is_found_and_exact_and_can_be_skipped() {
    let mut store = Store::sample();
    store.rot(slot(0), 4).rot(slot(1), 3).rot(slot(1), 10).rot(slot(1), 11);
    let mut rig = Rig::new(&store, OnCorruption::Stop);
    let (frames, corrupt) = rig.all(30);
    assert_eq!(frames, without(pairs(1..=30), &[3, 11, 19]));
    let facts: Vec<_> = corrupt.iter().map(|c| (c.slot.0, c.offset / 512, c.first.number(), c.last.number())).collect();
    assert_eq!(facts, [(0, 4, 3, 4), (1, 2, 11, 12), (1, 10, 19, 20)]);
}

#[test]
fn blocks_that_cannot_be_read_cost_exactly_their_frames() {
    let (mut store, frames) = long_store();
    // The first frame takes blocks 2 to 15: one lies in its middle, one in a frame over a border.
    store.disk.bad.extend([(slot(0), 5), (slot(0), 34)]);
    store.cursor.durable = Lsn::new(9);
    store.write_cursor(0, 9);
    let mut rig = Rig::new(&store, OnCorruption::Quarantine);
    rig.table = SegmentTable::new(rig.table.iter().cloned().collect(), vec![]);
    let (read, corrupt) = rig.all(9);
    let lost: Vec<_> = corrupt.iter().map(|c| c.first.number()).collect();
    assert!(lost.len() == 2 && lost[0] == 1, "{lost:?}");
    assert_eq!(read, without(frames, &lost));
}

#[test]
fn what_recovery_gave_up_is_passed_in_silence() {
    let mut store = Store::sample();
    store.write_cursor(0, 30).rot(slot(2), 4).rot(slot(2), 10);
    let mut rig = Rig::new(&store, OnCorruption::Quarantine);
    assert_eq!(rig.all(30), (without(pairs(1..=30), &[23, 29]), vec![]));
}

#[test]
fn lost_marks_are_stepped_over_and_skips_are_given_out() {
    let mut store = Store::sample();
    let mark = store.position[&2];
    store.frame(2, FrameKind::Mark, 31, 31, 30, &[]).data(2, 31, 1, 30, 10);
    store.frame(2, FrameKind::Skip, 32, 40, 31, &[]).data(2, 40, 1, 39, 10).rot(slot(2), mark);
    let mut rig = Rig::new(&store, OnCorruption::Stop);
    rig.reader.seek(Lsn::new(31), None);
    assert_eq!(rig.all(40), (vec![(31, 31), (32, 39), (40, 40)], vec![]));
}

/// The whole-queue simulation found it: who caught up in a segment lost the place there as soon as the next one had been
/// opened. What had rotted since it was given out was then reported as lost, and the segment was read from its start each time.
#[test]
fn who_has_caught_up_goes_on_where_that_was_although_the_next_segment_has_been_opened() {
    let store = Store::sample();
    let mut rig = Rig::new(&store, OnCorruption::Stop);
    let [first, second] = [101, 102].map(|uid| rig.table.by_uid(SegmentUid(uid)).unwrap().clone());
    let written = LiveSegment { end: Lsn::new(4), end_position: HEADER_BLOCKS + 4, ..first.clone() };
    let opened = LiveSegment::opened(second.slot, second.uid, second.seq, second.base, second.schema);
    rig.table = SegmentTable::new(vec![written, opened], Vec::new());
    assert_eq!(rig.all(4), (pairs(1..=4), vec![]));
    rig.disk.bad.insert((slot(0), 2));
    rig.table.extend_end(first.uid, first.end, first.end_position);
    assert_eq!(rig.all(10), (pairs(5..=10), vec![]));
}

/// As the park is listed: what is taken out of it meanwhile frees segments that the reader has yet to come to, or stands in.
#[test]
fn what_is_forgotten_may_be_gone_and_all_else_is_missed_exactly() {
    for stands_in_it in [false, true] {
        let mut store = Store::sample();
        store.rot(slot(2), 2);
        let mut rig = Rig::new(&store, OnCorruption::Quarantine);
        rig.table = SegmentTable::new(rig.table.iter().cloned().collect(), vec![]);
        let until = if stands_in_it { 14 } else { 4 };
        assert_eq!(rig.all(until), (pairs(1..=until), vec![]));
        // The cursor has passed both; a read in flight has kept the first.
        rig.table.remove(SegmentUid(102));
        rig.reader.forget(Lsn::new(20));
        let (frames, corrupt) = rig.all(30);
        assert_eq!(frames, pairs(23..=30));
        let facts: Vec<_> = corrupt.iter().map(|c| (c.slot.0, c.first.number(), c.last.number())).collect();
        assert_eq!(facts, [(2, 21, 22)]);
    }
}

#[test]
fn a_refused_read_is_said_and_waits_for_seek() {
    let mut rig = Rig::new(&Store::sample(), OnCorruption::Stop);
    let (token, op) = rig.reader.poll_op(&rig.table, Lsn::new(30), &rig.pool).unwrap();
    assert!(matches!(op, Op::Read { .. }));
    drop(op);
    let error = DiskError { what: "read", file: None, offset: None, errno: libc::EBADF, detail: "" };
    rig.reader.handle_completion(Completion { token, result: Err(error) });
    assert!(matches!(rig.reader.poll_event(), Some(ReadEvent::Failed(_))));
    assert!(rig.reader.poll_op(&rig.table, Lsn::new(30), &rig.pool).is_none());
    rig.reader.seek(Lsn::FIRST, None);
    assert_eq!(rig.all(30).0, pairs(1..=30));
}

/// Inspects a store; `meanwhile` is done once, when `after` reads have been made.
fn inspect(disk: &mut Fake, after: u32, meanwhile: impl FnOnce(&mut Fake)) -> (u64, Vec<Corruption>, Verified) {
    let mut inspect = Inspect::new(config(), pool(), None);
    let (mut meanwhile, mut reads, mut records, mut corrupt) = (Some(meanwhile), 0, 0, Vec::new());
    disk.log.clear();
    for _ in 0..10_000 {
        while let Some((token, op)) = inspect.poll_op() {
            if reads == after
                && let Some(change) = meanwhile.take()
            {
                change(disk);
            }
            reads += 1;
            inspect.handle_completion(disk.run(token, op));
        }
        match inspect.poll_event() {
            Some(InspectEvent::Survey(survey)) => assert_eq!(survey.unwrap().backlog(), 30),
            Some(InspectEvent::Frame(frame)) => records += u64::from(frame.header.record_count),
            Some(InspectEvent::Corrupt(corruption)) => corrupt.push(corruption),
            Some(InspectEvent::End(verified)) => {
                assert!(disk.log.iter().all(|line| line.starts_with("read") || line.starts_with("list")));
                return (records, corrupt, verified);
            }
            Some(InspectEvent::Failed(error)) => panic!("{error}"),
            Some(InspectEvent::Locked { key, problem, .. }) => panic!("key {key}: {problem}"),
            None => {}
        }
    }
    panic!("an inspection never ends");
}

#[test]
fn an_inspection_reads_every_live_frame_and_changes_nothing() {
    let (records, corrupt, verified) = inspect(&mut Store::sample().disk, 0, |_| {});
    assert_eq!((records, corrupt.len(), verified.frames), (30, 0, 15));
}

#[test]
fn an_inspection_names_what_cannot_be_read() {
    let mut store = Store::sample();
    store.rot(slot(0), 4);
    let (records, corrupt, verified) = inspect(&mut store.disk, 0, |_| {});
    assert_eq!((records, corrupt.len(), verified.lost), (28, 1, 2));
    assert_eq!((corrupt[0].first.number(), corrupt[0].last.number()), (3, 4));
}

#[test]
fn a_slot_that_is_reused_while_it_is_inspected_is_not_corrupt() {
    for after in 7..16 {
        let mut store = Store::sample();
        let mut later = store.clone();
        // The sink finishes the first two segments, and the second one's slot is used again.
        later.write_cursor(20, 30).segment(1, 4, 31, 103, 30);
        later.disk.put(slot(1), 1024, &[9; 9 * 512]);
        let (_, corrupt, _) = inspect(&mut store.disk, after, |disk| disk.files = later.disk.files);
        assert_eq!(corrupt, [], "after {after} reads");
    }
}
