//! One test for each case of the table in the module above, fed by hand.

use super::find::{Found, Frames};
use super::walk::{Known, Segment, Walked, look_at_blind, to_read, walk};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::schema::Schema;
use crate::time::UnixNanos;
use crate::wal::coding::BodyCoding;
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::meta::LogEnd;
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::op::LogId;
use crate::wal::segment::{SegmentHeader, StoreId};

/// A segment `n` with uid `100 + n` behind `prev`, its header's promise, and whole one-block frames
/// from block 2 on: first LSN, entries (0: MARK), promise.
fn segment(n: u32, base: u64, prev: u64, durable: u64, frames: &[(u64, u64, u64)]) -> Segment {
    let header = SegmentHeader {
        store: StoreId([1; 16]),
        uid: SegmentUid(100 + u64::from(n)),
        seq: u64::from(n),
        base_lsn: Lsn::new(base),
        prev_uid: SegmentUid(prev),
        prev_end_lsn: Lsn::new(base - 1),
        durable_lsn: Lsn::new(durable),
        epoch: 1,
        block_len: 512,
        slot: SlotNo(n),
        segment_len: 512 * 32,
        created: UnixNanos(0),
        log: LogId::Main,
        schema: Schema::new("t", 1),
        key: None,
    };
    let found = frames.iter().zip(2..).map(|((first, count, durable), position)| Found {
        header: FrameHeader {
            kind: if *count == 0 { FrameKind::Mark } else { FrameKind::Data },
            seg_uid: header.uid,
            first_lsn: Lsn::new(*first),
            next_lsn: Lsn::new(first + count),
            durable_lsn: Lsn::new(*durable),
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position,
            record_count: u32::try_from(*count).unwrap(),
            coding: BodyCoding::PLAIN,
            body_len: 8 * u32::try_from(*count).unwrap(),
            raw_len: 8 * u32::try_from(*count).unwrap(),
            body_crc: 0,
        },
        blocks: 1,
        whole: true,
    });
    let frames = Frames { found: found.collect(), ..Frames::default() };
    Segment { slot: SlotNo(n), header, frames: Some(frames), blocks: 32 }
}

/// Takes the frame at `position` away.
fn lose(segment: &mut Segment, position: u32) {
    segment.frames.as_mut().unwrap().found.retain(|frame| frame.position() != position);
}

fn known(acked: u64, durable: u64) -> Known {
    Known {
        acked: Lsn::new(acked),
        done: Vec::new(),
        durable: Lsn::new(durable),
        clean: None,
        recovered: None,
        epoch: 2,
        block_len: 512,
        block_raw_max: 512,
        mutants: Mutants::NONE,
    }
}

fn mutated(known: &Known, mutant: Mutant) -> Known {
    Known { mutants: Mutants::only(&[mutant]), ..known.clone() }
}

fn holes(walked: &Walked) -> Vec<(u64, u64)> {
    walked.corruption.iter().map(|hole| (hole.first.number(), hole.last.number())).collect()
}

/// End of the log and the holes in it.
fn result(segments: &[Segment], known: &Known) -> (u64, Vec<(u64, u64)>) {
    let walked = walk(segments, known);
    (walked.end.number(), holes(&walked))
}

#[test]
fn case_a_frames_that_follow_each_other_are_taken() {
    let segments =
        [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 1, 2)]), segment(2, 4, 101, 3, &[(4, 3, 3), (7, 0, 6), (7, 1, 6)])];
    assert_eq!(result(&segments, &known(0, 0)), (7, vec![]));
}

#[test]
fn case_b_a_lost_mark_is_stepped_over() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 0, 2), (3, 1, 2), (4, 1, 3)])];
    lose(&mut segments[0], 3);
    let walked = walk(&segments, &known(0, 0));
    assert_eq!((walked.end.number(), walked.lost_marks, holes(&walked)), (4, 1, vec![]));
    let mutant = mutated(&known(0, 0), Mutant::MarkNotSteppedOver);
    assert_ne!(result(&segments, &mutant), (4, vec![]), "the mutant loses an acknowledged entry or cries wolf");
}

#[test]
fn case_c_what_the_sink_is_done_with_can_be_gone() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 1, 4), (6, 1, 5)])];
    lose(&mut segments[0], 3);
    assert_eq!(result(&segments, &known(4, 6)), (6, vec![]));
    assert_eq!(result(&segments, &mutated(&known(4, 6), Mutant::DeadIsError)), (6, vec![(3, 4)]));
    let done = Known { done: vec![(Lsn::new(3), Lsn::new(5))], ..known(1, 6) };
    assert_eq!(result(&segments, &done), (6, vec![]));
    let half = Known { done: vec![(Lsn::new(3), Lsn::new(4))], ..known(1, 6) };
    assert_eq!(result(&segments, &half), (6, vec![(4, 4)]), "exactly what is missed is reported");
}

#[test]
fn case_c_a_consumed_tail_whose_slot_was_being_reused_is_no_hole() {
    // Segment 2 held 5 to 9 and is gone: acknowledged, its slot torn in reuse.
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2)])];
    assert_eq!(result(&segments, &known(9, 9)), (9, vec![]));
    assert_eq!(result(&segments, &mutated(&known(9, 9), Mutant::DeadIsError)).1, [(5, 9)]);
}

#[test]
fn case_d_a_hole_below_a_promise_is_exact_and_the_log_goes_on_behind_it() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 1, 4)])];
    segments[0].frames.as_mut().unwrap().found[1].whole = false;
    assert_eq!(result(&segments, &known(0, 0)), (5, vec![(3, 4)]), "the frame behind promises it");
    assert_eq!(result(&segments, &mutated(&known(0, 0), Mutant::NoLookAhead)), (2, vec![]), "taken for torn");
}

#[test]
fn case_e_a_hole_to_the_end_of_a_segment_ends_where_the_next_begins() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 1, 2)]), segment(2, 6, 101, 4, &[(6, 1, 5)])];
    lose(&mut segments[0], 3);
    lose(&mut segments[0], 4);
    assert_eq!(result(&segments, &known(0, 0)), (6, vec![(3, 5)]));
}

#[test]
fn case_f_a_hole_at_the_end_reaches_up_to_the_promise() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0)])];
    assert_eq!(result(&segments, &known(0, 5)), (5, vec![(3, 5)]));
    let closed = Known { clean: Some(LogEnd { lsn: Lsn::new(4), uid: SegmentUid(101) }), ..known(0, 2) };
    assert_eq!(result(&segments, &closed), (4, vec![(3, 4)]), "an orderly end is a promise");
}

/// Two frames at the end had rotted; the promise reached up to the first. The second was gone without a word.
#[test]
fn case_f_what_was_begun_behind_the_promise_is_said_to_be_torn() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 4, 4)])];
    let frames = segments[0].frames.as_mut().unwrap();
    frames.found[1].whole = false;
    frames.found[2].whole = false;
    let position = frames.found[2].position();
    let walked = walk(&segments, &known(0, 4));
    assert_eq!((walked.end.number(), holes(&walked)), (4, vec![(3, 4)]));
    let torn = walked.torn.expect("5 to 8 had been begun");
    assert_eq!((torn.end, torn.offset), (Lsn::new(4), u64::from(position) * 512));
    assert_eq!((torn.broken_frames, torn.stranded_frames), (1, 0), "3 and 4 are said already");
    // Where nothing was begun behind it, nothing is torn.
    assert!(walk(&[segment(1, 1, 0, 0, &[(1, 2, 0)])], &known(0, 5)).torn.is_none());
}

#[test]
fn case_g_a_hole_above_every_promise_is_the_torn_tail() {
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 1, 2)])];
    lose(&mut segments[0], 3);
    let walked = walk(&segments, &known(0, 2));
    assert_eq!((walked.end.number(), holes(&walked)), (2, vec![]));
    let torn = walked.torn.unwrap();
    assert_eq!((torn.offset, torn.broken_frames, torn.stranded_frames), (3 * 512, 0, 1));
}

#[test]
fn case_h_a_log_that_goes_on_behind_its_orderly_end_is_corrupt() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2)])];
    let closed = Known { clean: Some(LogEnd { lsn: Lsn::new(2), uid: SegmentUid(101) }), ..known(0, 2) };
    assert_eq!(result(&segments, &closed).1, [(3, 4)]);
}

#[test]
fn case_i_abandoned_segments_alone_are_an_empty_log() {
    let segments = [segment(1, 12, 0, 9, &[(12, 1, 9)])];
    assert_eq!(result(&segments, &known(9, 9)), (9, vec![]));
    assert_eq!(walk(&segments, &known(9, 9)).spans, [], "it is not part of the log");
}

#[test]
fn case_j_missing_segments_are_reported_and_the_log_goes_on_behind_them() {
    let head = [segment(2, 5, 101, 4, &[(5, 1, 4), (6, 1, 5)])];
    assert_eq!(result(&head, &known(0, 0)), (6, vec![(1, 4)]), "the first one is missing");
    let middle = [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(3, 8, 102, 7, &[(8, 2, 7)])];
    assert_eq!(result(&middle, &known(0, 0)), (9, vec![(3, 7)]), "one in the middle is missing");
}

#[test]
fn case_k_a_segment_behind_the_tear_is_not_part_of_the_log() {
    // Two rotations in flight: the tail of segment 1 is torn, segment 2's header has landed.
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(2, 5, 101, 2, &[(5, 1, 2)])];
    assert_eq!(result(&segments, &known(0, 2)), (2, vec![]));
    let mutant = mutated(&known(0, 2), Mutant::PrevEndIsPromise);
    assert_eq!(result(&segments, &mutant).1, [(3, 4)], "the mutant takes a torn rotation for corruption");
}

#[test]
fn case_l_a_wholly_promised_segment_is_not_read() {
    let segments = [segment(1, 1, 0, 0, &[]), segment(2, 10, 101, 7, &[]), segment(3, 20, 102, 15, &[(20, 1, 19)])];
    assert_eq!(to_read(&segments, &known(0, 0)), [1, 2], "19 is above the newest promise, 15");
    assert_eq!(to_read(&segments, &known(0, 19)), [2]);
    assert_eq!(to_read(&segments, &known(9, 15)), [1, 2], "the first one is dead");
    let mut unread = segments;
    unread[0].frames = None;
    unread[1].frames = None;
    assert_eq!(result(&unread, &known(0, 19)), (20, vec![]));
}

#[test]
fn case_m_an_end_at_which_nothing_was_begun_leaves_no_trace() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0)])];
    let walked = walk(&segments, &known(0, 2));
    assert_eq!((walked.end.number(), walked.torn), (2, None));
}

#[test]
fn frames_behind_the_recovered_end_are_given_up_for_good() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2), (5, 1, 4)])];
    let cut = Known { recovered: Some(LogEnd { lsn: Lsn::new(2), uid: SegmentUid(101) }), ..known(0, 2) };
    assert_eq!(result(&segments, &cut), (2, vec![]));
}

#[test]
fn of_two_successors_the_newer_one_counts() {
    let segments =
        [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(2, 3, 101, 2, &[(3, 5, 2)]), segment(3, 3, 101, 2, &[(3, 1, 2)])];
    assert_eq!(result(&segments, &known(0, 2)), (3, vec![]));
}

#[test]
fn a_frame_of_another_use_is_only_taken_without_the_lsn_chain() {
    let mut segments = [segment(1, 10, 0, 9, &[(10, 2, 9), (4, 2, 3)])];
    segments[0].frames.as_mut().unwrap().found[1].header.seg_uid = SegmentUid(7);
    assert_eq!(result(&segments, &known(9, 9)), (11, vec![]));
    assert_ne!(result(&segments, &mutated(&known(9, 9), Mutant::NoLsnChain)), (11, vec![]));
}

#[test]
fn case_n_a_hole_is_corrupt_up_to_the_promise_and_torn_behind_it() {
    // 3 and 4 are promised and gone; 5 was never promised and is gone; 6 stands behind them.
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (6, 1, 4)])];
    let (end, corruption) = result(&segments, &known(0, 2));
    assert_eq!((end, corruption), (4, vec![(3, 4)]));
}

#[test]
fn case_o_an_older_incarnation_counts_up_to_the_end_of_the_last_recovery() {
    // 3 is gone, 4 was stranded behind it; what replaced them, up to 3, is consumed and removed.
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (4, 1, 2)])];
    let later = Known { recovered: Some(LogEnd { lsn: Lsn::new(3), uid: SegmentUid(200) }), ..known(3, 3) };
    assert_eq!(result(&segments, &later), (3, vec![]));
    assert_eq!(result(&segments, &mutated(&later, Mutant::NoSettledEnd)), (4, vec![]));
}

/// A block that cannot be read may have held the start of a frame: of compressed ones it stands for much more than it
/// has bytes, and none of the numbers in it may be given out again.
#[test]
fn case_p_an_unreadable_block_counts_for_all_that_a_compressed_frame_may_hold() {
    let mut one = segment(1, 1, 0, 0, &[(1, 2, 0)]);
    one.frames.as_mut().unwrap().unreadable.push(3);
    let lost = |block_raw_max| {
        let known = Known { block_raw_max, ..known(0, 2) };
        let walked = walk(std::slice::from_ref(&one), &known);
        walked.corruption.iter().map(|hole| (hole.first.number(), hole.last.number())).collect::<Vec<_>>()
    };
    assert_eq!(lost(512), [(3, 2 + 512 / 8)]);
    assert_eq!(lost(4096), [(3, 2 + 4096 / 8)]);
}

/// The whole-queue simulation found it: a recovery had settled that the log ends at 9, in segment 2. That segment's header could
/// not be read at the next opening, and segment 1 was taken, unread, to reach up to 9: nothing was reported.
#[test]
fn case_l_what_a_recovery_settled_says_nothing_of_how_far_a_segment_reaches_whose_successor_is_missing() {
    let settled = |uid| Known { recovered: Some(LogEnd { lsn: Lsn::new(9), uid: SegmentUid(uid) }), ..known(0, 0) };
    let mut segments = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2)])];
    assert_eq!(to_read(&segments, &settled(102)), [0]);
    assert_eq!(result(&segments, &settled(102)), (9, vec![(5, 9)]));
    segments[0].frames = None;
    assert_eq!(to_read(&segments, &settled(101)), [0_usize; 0], "it is the one that the recovery found the end in");
    assert_eq!(result(&segments, &settled(101)), (9, vec![]));
}

/// What lies behind a hole that was given up is still there when the store is opened once more.
#[test]
fn case_j_a_segment_behind_a_missing_one_is_reached_after_a_recovery_too() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(3, 8, 102, 7, &[(8, 2, 7)])];
    let settled = Known {
        done: vec![(Lsn::new(3), Lsn::new(8))],
        recovered: Some(LogEnd { lsn: Lsn::new(9), uid: SegmentUid(103) }),
        ..known(0, 9)
    };
    let walked = walk(&segments, &settled);
    assert_eq!((walked.end.number(), holes(&walked)), (9, vec![]));
    assert_eq!(walked.spans.len(), 2, "else its slot would be used again");
}

/// 31 and 32 are durable, and nothing on the disk promises that yet; all that is promised is done with.
#[test]
fn case_j_a_segment_behind_a_missing_one_is_reached_though_all_that_was_promised_is_done_with() {
    let first = segment(1, 1, 0, 0, &[(1, 2, 0)]);
    let mut last = segment(4, 31, 103, 30, &[(31, 2, 30)]);
    last.header.epoch = 2;
    let settled = Some(LogEnd { lsn: Lsn::new(30), uid: SegmentUid(103) });
    for recovered in [None, settled] {
        let known = Known { done: vec![(Lsn::new(3), Lsn::new(31))], recovered, ..known(0, 30) };
        let middle = segment(3, 21, 102, 20, &[(21, 10, 20)]);
        assert_eq!(result(&[first.clone(), middle, last.clone()], &known), (32, vec![]));
        assert_eq!(result(&[first.clone(), last.clone()], &known), (32, vec![]), "that one is gone too");
        // K stays K: one that was begun behind what was never durable.
        let abandoned = segment(5, 33, 104, 30, &[(33, 1, 30)]);
        assert_eq!(result(&[first.clone(), abandoned.clone()], &known), (30, vec![]));
        // Nor is it reached by what was done with from memory and never durable.
        let from_memory = Known { done: vec![(Lsn::new(3), Lsn::new(33))], ..known };
        assert_eq!(walk(&[first.clone(), abandoned], &from_memory).spans.len(), 1);
    }
}

/// Found by reading: `Spill` writes one group into three segments, and no promise reaches the disk before the next frame,
/// cursor or close. The header in the middle was lost, and the segment behind it, whole and told durable, was voided
/// without a word. Headers are written one after the other, so the one in the middle had been durable.
#[test]
fn case_j_a_segment_that_is_missing_though_no_promise_covers_it_is_no_torn_tail() {
    let [a, mut b, mut c] =
        [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(2, 3, 101, 0, &[(3, 4, 0)]), segment(3, 7, 102, 0, &[(7, 2, 0)])];
    (b.header.epoch, c.header.epoch) = (2, 2);
    let whole = [a.clone(), b.clone(), c.clone()];
    assert_eq!(result(&whole, &known(0, 0)), (8, vec![]));
    let middle_gone = [a.clone(), c.clone()];
    assert_eq!(result(&middle_gone, &known(0, 0)), (8, vec![(3, 6)]));
    assert_eq!(result(&middle_gone, &known(0, 4)), (8, vec![(3, 6)]), "a promise that ends in it says no more");
    assert_eq!(result(&[b.clone(), c.clone()], &known(0, 0)), (8, vec![(1, 2)]), "the first one is gone");
    assert_eq!(result(&[c.clone()], &known(0, 0)), (8, vec![(1, 6)]), "both are");
    // The tail of the one in front may be torn besides: no more than these are lost.
    let mut torn = a.clone();
    torn.frames.as_mut().unwrap().found[0].whole = false;
    assert_eq!(result(&[torn, c.clone()], &known(0, 0)), (8, vec![(1, 6)]));
    // What the sink is done with is not missing; what it is done with altogether may be used again.
    let done = Known { done: vec![(Lsn::new(3), Lsn::new(7))], ..known(0, 0) };
    assert_eq!(result(&middle_gone, &done), (8, vec![]));
    assert_eq!(result(&middle_gone, &known(6, 6)), (8, vec![]));
    // K stays K: where the one that it follows is there, and behind the end at which the log was closed.
    let mut tear = b;
    tear.frames.as_mut().unwrap().found[0].whole = false;
    assert_eq!(result(&[a.clone(), tear, c.clone()], &known(0, 0)), (2, vec![]));
    let closed = Known { clean: Some(LogEnd { lsn: Lsn::new(2), uid: SegmentUid(101) }), ..known(0, 0) };
    assert_eq!(result(&middle_gone, &closed), (2, vec![]));
    // One of an incarnation before: the recovery behind it has settled what belongs to it.
    let settled = Known { epoch: 3, recovered: Some(LogEnd { lsn: Lsn::new(2), uid: SegmentUid(101) }), ..known(0, 0) };
    assert_eq!(result(&middle_gone, &settled), (2, vec![]));
}

/// Found by random bytes: the segment between these two was gone and given up, and what the later one holds was looked for
/// in the earlier one, up to the end that the recovery had settled. Corrupt again at each opening.
#[test]
fn case_l_what_a_later_segment_holds_is_not_looked_for_in_one_whose_successor_is_missing() {
    let segments = [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(3, 21, 102, 0, &[(21, 2, 0)])];
    let done = vec![(Lsn::new(3), Lsn::new(21)), (Lsn::new(23), Lsn::new(31))];
    let recovered = Some(LogEnd { lsn: Lsn::new(30), uid: SegmentUid(103) });
    assert_eq!(result(&segments, &Known { done, recovered, ..known(0, 30) }), (30, vec![]));
}

/// Found by reading: the cursor promised a part of what the unreadable tail held. That part was reported, and the rest,
/// durable too, was not: nothing said that it is missing, and its numbers were given out again.
#[test]
fn case_p_a_hole_up_to_the_promise_says_nothing_of_what_an_unreadable_segment_holds_behind_it() {
    let segment_len = 32 * 512;
    let most = segment_len / 8;
    let seen = |segments: &[Segment], known: &Known, blind: &[u32]| {
        let mut walked = walk(segments, known);
        let blind: Vec<_> = blind.iter().copied().map(SlotNo).collect();
        look_at_blind(&mut walked, &blind, segment_len, known);
        (walked.end.number(), holes(&walked))
    };
    let tail_gone = [segment(1, 1, 0, 0, &[(1, 2, 0), (3, 2, 2)])];
    assert_eq!(seen(&tail_gone, &known(0, 5), &[]), (5, vec![(5, 5)]));
    assert_eq!(seen(&tail_gone, &known(0, 5), &[2]), (5 + most, vec![(5, 5), (6, 5 + most)]));
    // Each of several slots may be a part of the tail.
    let both = vec![(5, 4 + most), (5 + most, 4 + 2 * most)];
    assert_eq!(seen(&tail_gone, &known(0, 4), &[2, 3]), (4 + 2 * most, both));
    // One that was bridged has its place: only another one may be the tail.
    let middle_gone = [segment(1, 1, 0, 0, &[(1, 2, 0)]), segment(3, 8, 102, 7, &[(8, 2, 7)])];
    assert_eq!(seen(&middle_gone, &known(0, 0), &[2]), (9, vec![(3, 7)]));
    let (end, found) = seen(&middle_gone, &known(0, 0), &[2, 4]);
    assert_eq!((end, found[0], found[1].0), (9 + 2 * most, (3, 7), 10));
    let closed = Known { clean: Some(LogEnd { lsn: Lsn::new(9), uid: SegmentUid(103) }), ..known(0, 0) };
    assert_eq!(seen(&middle_gone, &closed, &[2, 4]), (9, vec![(3, 7)]), "closed in order: nothing comes behind it");
}
