//! Each rule of the table, by hand.

use super::*;
use crate::lsn::SegmentUid;
use crate::schema::Schema;
use crate::time::UnixNanos;
use crate::wal::codec::crc;
use crate::wal::coding::BodyCoding;
use crate::wal::frame::{FRAME_HEADER_LEN, FrameKind};
use crate::wal::meta::LogEnd;
use crate::wal::segment::{SegmentHeader, write_void_mark};

const BLOCK: usize = 4096;

fn segment(seq: u64, base: u64, prev: u64) -> SegmentHeader {
    SegmentHeader {
        store: StoreId([1; 16]),
        uid: SegmentUid(seq * 10),
        seq,
        base_lsn: Lsn::new(base),
        prev_uid: SegmentUid(prev),
        prev_end_lsn: Lsn::new(base - 1),
        durable_lsn: Lsn::ZERO,
        epoch: 1,
        block_len: 4096,
        slot: SlotNo(0),
        segment_len: 1 << 20,
        created: UnixNanos(0),
        log: LogId::Main,
        schema: Schema::new("a", 1),
        key: None,
    }
}

fn header(uid: u64, first: u64, next: u64) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Data,
        seg_uid: SegmentUid(uid),
        first_lsn: Lsn::new(first),
        next_lsn: Lsn::new(next),
        durable_lsn: Lsn::ZERO,
        acked_lsn: Lsn::ZERO,
        time: UnixNanos(0),
        position: 2,
        record_count: u32::try_from(next - first).unwrap(),
        coding: BodyCoding::PLAIN,
        body_len: 8,
        raw_len: 8,
        body_crc: 0,
    }
}

fn file(slot: SlotHeader, frames: &[FrameHeader]) -> SlotFile {
    let pieces = frames.iter().zip(2..).map(|(header, at)| Piece { offset: at * 4096, header: *header }).collect();
    SlotFile { log: LogId::Main, slot: SlotNo(0), header: slot, pieces, broken: 0, unreadable: 0 }
}

fn known(seq: u64, base: u64, prev: u64, frames: &[(u64, u64)]) -> SlotFile {
    let frames: Vec<_> = frames.iter().map(|(first, next)| header(seq * 10, *first, *next)).collect();
    file(SlotHeader::Segment(segment(seq, base, prev)), &frames)
}

fn standings(files: &[SlotFile], meta: Option<Meta>, cursor: Option<Cursor>) -> Vec<(u64, u64, Standing)> {
    let found = judge(LogId::Main, files, meta, cursor).unwrap();
    let row = |j: &Judged| (j.piece.header.seg_uid.0, j.piece.header.first_lsn.number(), j.standing);
    found.frames.iter().map(row).collect()
}

fn meta(epoch: u64, recovered: u64) -> Meta {
    let recovered = Some(LogEnd { lsn: Lsn::new(recovered), uid: SegmentUid(10) });
    let (store, reserved_lsn) = (StoreId([1; 16]), Lsn::ZERO);
    Meta {
        generation: 2,
        store,
        features: 0,
        block_len: 4096,
        frame_len_max: 8192,
        segment_len: 1 << 20,
        epoch,
        reserved_lsn,
        clean: None,
        recovered,
        untold: Default::default(),
    }
}

#[test]
fn of_two_segments_with_an_lsn_the_one_begun_later_is_right() {
    let files = [known(1, 1, 0, &[(1, 5), (5, 9)]), known(2, 5, 10, &[(5, 7)])];
    let expected = [(10, 1, Standing::Live), (20, 5, Standing::Live), (10, 5, Standing::Abandoned)];
    assert_eq!(standings(&files, None, None), expected);
}

#[test]
fn what_lies_behind_a_settled_end_is_abandoned_even_if_its_lsns_are_nobody_elses() {
    let files = [known(1, 1, 0, &[(1, 5), (5, 9)])];
    let expected = [(10, 1, Standing::Live), (10, 5, Standing::Abandoned)];
    assert_eq!(standings(&files, Some(meta(2, 4)), None), expected);
    assert_eq!(standings(&files, Some(meta(1, 4)), None)[1].2, Standing::Live, "of the same incarnation");
}

#[test]
fn a_segment_without_header_counts_if_it_is_named_or_alone_with_its_lsns() {
    let lost = |uid, first, next| file(SlotHeader::Invalid, &[header(uid, first, next)]);
    // Named as the predecessor: up to where the next one begins.
    let files = [lost(10, 1, 5), known(2, 5, 10, &[(5, 7)])];
    assert_eq!(standings(&files, None, None)[0], (10, 1, Standing::Live));
    let files = [lost(10, 1, 9), known(2, 5, 10, &[(5, 7)])];
    assert!(standings(&files, None, None).contains(&(10, 1, Standing::Abandoned)));
    // Named by nobody.
    let files = [lost(77, 7, 9), known(2, 5, 10, &[(5, 7)])];
    assert_eq!(standings(&files, None, None)[1], (77, 7, Standing::Live));
    let files = [lost(77, 6, 9), known(2, 5, 10, &[(5, 7)])];
    assert_eq!(standings(&files, None, None)[1], (77, 6, Standing::Abandoned));
    // One of its frames is another's: none of them is believed.
    let files = [file(SlotHeader::Invalid, &[header(77, 6, 7), header(77, 7, 9)]), known(2, 5, 10, &[(5, 7)])];
    assert!(standings(&files, None, None)[1..].iter().all(|row| row.2 == Standing::Abandoned));
}

#[test]
fn only_the_last_use_of_a_file_without_header_counts() {
    let files = [file(SlotHeader::Invalid, &[header(30, 9, 11), header(10, 2, 3)])];
    assert_eq!(standings(&files, None, None), [(10, 2, Standing::Recycled), (30, 9, Standing::Live)]);
}

#[test]
fn left_overs_marked_files_and_other_stores_are_told_apart() {
    let mut foreign = known(3, 9, 0, &[(9, 10)]);
    if let SlotHeader::Segment(header) = &mut foreign.header {
        header.store = StoreId([2; 16]);
    }
    let mut reused = known(2, 5, 10, &[(5, 7)]);
    reused.pieces.push(Piece { offset: 9 * 4096, header: header(99, 3, 4) });
    let void = file(SlotHeader::Void, &[header(55, 7, 8)]);
    let files = [known(1, 1, 0, &[(1, 5)]), reused, void, foreign];
    let expected = [
        (10, 1, Standing::Live),
        (99, 3, Standing::Recycled),
        (20, 5, Standing::Live),
        (55, 7, Standing::Abandoned),
        (30, 9, Standing::Foreign),
    ];
    assert_eq!(standings(&files, None, None), expected);
}

#[test]
fn what_nothing_can_tell_apart_is_not_given_out() {
    let lost = |uid| file(SlotHeader::Invalid, &[header(uid, 7, 9)]);
    let rows = standings(&[lost(77), lost(78), lost(77)], None, None);
    assert_eq!(rows, [(77, 7, Standing::Ambiguous), (78, 7, Standing::Ambiguous)], "a copy is not another one");
}

#[test]
fn a_frame_counts_wherever_it_lies_if_its_segment_is_known() {
    let mut swapped = [known(1, 1, 0, &[(1, 5)]), known(2, 5, 10, &[(5, 7)])];
    let [a, b] = &mut swapped;
    std::mem::swap(&mut a.header, &mut b.header);
    assert!(standings(&swapped, None, None).iter().all(|row| row.2 == Standing::Live));
}

#[test]
fn a_hole_is_split_where_the_promise_ends() {
    let mut files = [known(1, 1, 0, &[(1, 3)]), known(2, 9, 10, &[(9, 11)])];
    let missing = |files: &[SlotFile], cursor| judge(LogId::Main, files, None, cursor).unwrap().missing;
    let run = |first, last, promised| Missing { first: Lsn::new(first), last: Lsn::new(last), promised };
    assert_eq!(missing(&files, None), [run(3, 8, false)]);
    files[1].pieces[0].header.durable_lsn = Lsn::new(5);
    assert_eq!(missing(&files, None), [run(3, 5, true), run(6, 8, false)]);
    let done = vec![(Lsn::new(4), Lsn::new(5))];
    let cursor = Cursor { acked: Lsn::new(2), done, durable: Lsn::new(12), ..Cursor::default() };
    assert_eq!(missing(&files, Some(cursor)), [run(3, 3, true), run(5, 8, true), run(11, 12, true)]);
}

#[test]
fn what_the_cursor_or_else_a_hint_says_is_done() {
    let mut files = [known(1, 1, 0, &[(1, 3), (3, 5), (5, 9)])];
    let cursor = Cursor { acked: Lsn::new(2), done: vec![(Lsn::new(5), Lsn::new(9))], ..Cursor::default() };
    let rows = standings(&files, None, Some(cursor));
    assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), [Standing::Done, Standing::Live, Standing::Done]);
    files[0].pieces[2].header.acked_lsn = Lsn::new(3);
    let found = judge(LogId::Main, &files, None, None).unwrap();
    assert_eq!((found.floor, found.frames[0].standing), (Lsn::new(3), Standing::Done));
    assert_eq!(found.frames[1].standing, Standing::Live, "the rest of it is not done");
}

#[test]
fn a_cursor_is_not_believed_when_its_file_is_another_stores() {
    let files = [known(1, 1, 0, &[(1, 3)])];
    let foreign = Meta { store: StoreId([9; 16]), ..meta(4, 0) };
    let cursor = Cursor { acked: Lsn::new(2), ..Cursor::default() };
    let found = judge(LogId::Main, &files, Some(foreign), Some(cursor)).unwrap();
    assert!(found.meta.is_none() && found.cursor.is_none() && found.floor == Lsn::ZERO);
    assert_eq!(found.frames[0].standing, Standing::Live);
}

#[test]
fn no_lsn_that_anything_speaks_of_is_free() {
    let files = [known(1, 1, 0, &[(1, 3)]), file(SlotHeader::Void, &[header(5, 40, 50)])];
    let seen = |meta| judge(LogId::Main, &files, meta, None).unwrap().seen.number();
    assert_eq!(seen(Some(meta(1, 0))), 49);
    assert_eq!(seen(Some(Meta { reserved_lsn: Lsn::new(90), ..meta(1, 0) })), 90);
    assert_eq!(seen(None), 49 + (1 << 32), "as far as may have been reserved");
}

// ---- finding ----------------------------------------------------------------------------------------

/// A frame with these bytes as its body, for this place.
fn frame(position: u32, first: u64, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        position,
        body_len: u32::try_from(body.len()).unwrap(),
        raw_len: u32::try_from(body.len()).unwrap(),
        body_crc: crc(body),
        ..header(10, first, first + 1)
    };
    let mut out = vec![0; (FRAME_HEADER_LEN + body.len()).next_multiple_of(BLOCK)];
    header.encode(&mut out);
    out[FRAME_HEADER_LEN..FRAME_HEADER_LEN + body.len()].copy_from_slice(body);
    out
}

fn sift(bytes: &[u8], chunk_len: usize) -> SlotFile {
    let mut sift = Sift::default();
    bytes.chunks(chunk_len).for_each(|chunk| sift.pass(Some(chunk), chunk.len()));
    sift.finish(LogId::Main, SlotNo(3))
}

#[test]
fn frames_are_found_however_the_bytes_come() {
    let frames = [frame(2, 1, &[7; 9000]), frame(5, 2, &[8; 16]), frame(6, 3, &[9; 4016])];
    let bytes = [vec![0; 2 * BLOCK], frames.concat()].concat();
    for chunk_len in [512, 1024, 4096, 1 << 20] {
        let found = sift(&bytes, chunk_len);
        assert_eq!(found.pieces.iter().map(|piece| piece.offset).collect::<Vec<_>>(), [8192, 20_480, 24_576]);
        assert_eq!((found.header, found.broken), (SlotHeader::Invalid, 0));
    }
    let found = sift(&bytes[512..], 512);
    assert_eq!(found.pieces, [], "not where they were written");
}

#[test]
fn an_entry_that_looks_like_a_frame_is_none() {
    // The body begins 80 bytes into the frame, so the image stands on a block border like a real one.
    let image = frame(3, 9, &[5; 100]);
    let body = [vec![0; BLOCK - FRAME_HEADER_LEN], image].concat();
    let found = sift(&[vec![0; 2 * BLOCK], frame(2, 1, &body)].concat(), 4096);
    assert_eq!(found.pieces.len(), 1);
    assert_eq!((found.pieces[0].header.first_lsn, found.broken), (Lsn::new(1), 0));
}

#[test]
fn what_cannot_be_read_costs_the_frames_that_it_touches() {
    let frames = [frame(2, 1, &[7; 9000]), frame(5, 2, &[8; 16])];
    let bytes = [vec![0; 2 * BLOCK], frames.concat()].concat();
    let mut sift = Sift::default();
    for (at, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
        sift.pass((at != 30).then_some(sector), SECTOR_LEN);
    }
    let found = sift.finish(LogId::Main, SlotNo(3));
    assert_eq!(found.pieces.iter().map(|piece| piece.offset).collect::<Vec<_>>(), [20_480]);
    assert_eq!((found.unreadable, found.broken), (512, 1));
}

#[test]
fn a_header_that_was_written_to_the_wrong_file_does_not_speak_for_it() {
    let (own, other) = (SegmentHeader { slot: SlotNo(3), ..segment(4, 7, 3) }, segment(5, 9, 4));
    let (mut bytes, mut stray) = (vec![0; 2 * BLOCK], vec![0; 2 * BLOCK]);
    own.encode(&mut bytes);
    other.encode(&mut stray);
    bytes[..BLOCK].copy_from_slice(&stray[..BLOCK]);
    assert_eq!(sift(&bytes, 512).header, SlotHeader::Segment(own));
    bytes.copy_from_slice(&stray);
    assert_eq!(sift(&bytes, 512).header, SlotHeader::Segment(other), "but a file that was renamed");
}

#[test]
fn a_header_is_found_in_either_copy_at_every_block_size() {
    for block_len in (9..=16).map(|power| 1_u32 << power) {
        let header = SegmentHeader { block_len, ..segment(4, 7, 3) };
        let mut bytes = vec![0; 2 * block_len as usize];
        header.encode(&mut bytes);
        assert_eq!(sift(&bytes, 512).header, SlotHeader::Segment(header.clone()));
        let mut mark = vec![0; bytes.len()];
        write_void_mark(&mut mark, block_len);
        assert_eq!(sift(&mark, 512).header, SlotHeader::Void);
        bytes[..512].copy_from_slice(&mark[..512]);
        assert_eq!(sift(&bytes, 512).header, SlotHeader::Segment(header.clone()), "a mark that was being written");
        bytes[..512].fill(3);
        assert_eq!(sift(&bytes, 512).header, SlotHeader::Segment(header));
    }
}
