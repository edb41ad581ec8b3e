//! Scan and repair over a disk in memory, byte by byte.

use proptest::prelude::*;

use super::fake::{BLOCK, Fake, META, Store, config, pool, slot};
use super::{OnCorruption, Recovered, Scan, ScanError, Scanned};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::frame::FrameKind;
use crate::wal::op::FileId;
use crate::wal::segment::{write_free_mark, write_void_mark};

fn holes(scanned: &Scanned) -> Vec<(u64, u64)> {
    scanned.corruption.iter().map(|hole| (hole.first.number(), hole.last.number())).collect()
}

fn result(store: &Store) -> (u64, Vec<(u64, u64)>) {
    let scanned = store.scan();
    (scanned.end.number(), holes(&scanned))
}

#[test]
fn a_new_store_is_made_and_found_again() {
    let mut disk = Fake::default();
    let scanned = disk.scan().unwrap();
    assert!(scanned.meta.is_none());
    let made = disk.repair(scanned, OnCorruption::Stop).unwrap();
    assert_eq!((made.meta.epoch, made.next_lsn), (1, Lsn::FIRST));
    let again = disk.open(OnCorruption::Stop);
    assert_eq!((again.meta.epoch, again.meta.store, again.cursor), (2, made.meta.store, made.cursor));
}

#[test]
fn the_making_of_a_store_can_be_cut_off_at_every_step() {
    for changes in 0..5 {
        let mut disk = Fake { changes_left: Some(changes), ..Fake::default() };
        let scanned = disk.scan().unwrap();
        assert!(disk.repair(scanned, OnCorruption::Stop).is_err());
        disk.changes_left = None;
        assert_eq!(disk.open(OnCorruption::Stop).next_lsn, Lsn::FIRST, "after {changes} changes");
    }
}

#[test]
fn a_missing_meta_beside_segments_is_an_error_and_no_new_store() {
    let mut store = Store::sample();
    let mut gone = store.disk.clone();
    gone.files.remove(&META);
    assert_eq!(gone.scan().err(), Some(ScanError::MetaMissing { slots: 3 }));
    store.disk.files.get_mut(&META).unwrap()[..8192].fill(0);
    assert_eq!(store.disk.scan().err(), Some(ScanError::MetaUnreadable));
}

#[test]
fn everything_is_synced_before_anything_is_read() {
    let mut store = Store::sample();
    store.disk.log.clear();
    store.disk.scan().unwrap();
    let syncs: Vec<_> = store.disk.log.iter().filter(|line| line.starts_with("sync")).collect();
    assert_eq!(syncs.len(), 4, "META and three slots");
    let first_read = store.disk.log.iter().position(|line| line.starts_with("read")).unwrap();
    assert!(store.disk.log[first_read..].iter().all(|line| !line.starts_with("sync")));
    store.disk.log.clear();
    store.disk.run_scan(Scan::read_only(config(), pool())).unwrap();
    assert!(store.disk.log.iter().all(|line| line.starts_with("read") || line.starts_with("list")));
}

#[test]
fn a_log_comes_back_and_only_its_newest_segments_are_read() {
    let store = Store::sample();
    let scanned = store.scan();
    assert_eq!((scanned.end.number(), holes(&scanned)), (30, vec![]));
    let live: Vec<_> = scanned.live.iter().map(|s| (s.slot.0, s.base.number(), s.end.number())).collect();
    assert_eq!(live, [(0, 1, 10), (1, 11, 20), (2, 21, 30)]);
    assert_eq!((scanned.report.segments_read, scanned.tail_uid, scanned.seq_max), (1, SegmentUid(103), 3));
    assert_eq!(scanned.next_lsn, Lsn::new(31));
}

#[test]
fn the_last_frame_torn_at_every_block_and_sector_is_cut_off_whole() {
    let mut store = Store::sample();
    let before = store.disk.clone();
    store.data(2, 31, 3, 30, 700);
    let (from, to) = (12 * BLOCK as usize, store.position[&2] as usize * BLOCK as usize);
    assert!(to - from >= 5 * 512, "it has several sectors");
    for lost in (from..to).step_by(512) {
        // One sector missing, and everything from it on missing.
        for until in [lost + 512, to] {
            let mut torn = store.clone();
            let old = before.files[&slot(2)][lost..until].to_vec();
            torn.disk.put(slot(2), lost, &old);
            assert_eq!(result(&torn), (30, vec![]), "sectors {lost}..{until}");
            assert_eq!(torn.scan().report.torn.is_some(), lost > from, "its header tells that it was begun");
        }
    }
    assert_eq!(result(&store), (33, vec![]));
}

#[test]
fn a_bad_frame_is_corrupt_below_the_promise_and_torn_above() {
    for frame in 0..5_u32 {
        let mut store = Store::sample();
        store.rot(slot(2), 2 + 2 * frame);
        let first = 21 + 2 * u64::from(frame);
        // The newest promise on disk is 28, in the last frame; rotted, it is 26 in the one before.
        let expected = if frame == 4 { (28, vec![]) } else { (30, vec![(first, first + 1)]) };
        assert_eq!(result(&store), expected, "frame {frame}");
        store.write_cursor(0, 30);
        assert_eq!(result(&store).1, [(first, first + 1)], "frame {frame}, promised by the cursor");
        store.write_cursor(30, 30);
        assert_eq!(result(&store), (30, vec![]), "all of it is dead");
    }
}

#[test]
fn an_empty_new_segment_at_the_crash_is_kept_or_voided_but_holds_nothing() {
    let mut store = Store::sample();
    store.segment(3, 4, 31, 103, 30);
    let scanned = store.scan();
    assert_eq!((scanned.end.number(), scanned.voids, scanned.tail_uid), (30, vec![SlotNo(3)], SegmentUid(103)));
}

#[test]
fn two_rotations_in_flight_end_at_the_first_gap() {
    let mut store = Store::sample();
    store.segment(3, 4, 33, 103, 28).data(3, 33, 1, 28, 10);
    store.segment(4, 5, 34, 104, 28).data(4, 34, 1, 28, 10);
    let recovered = store.disk.open(OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.tail_uid), (30, SegmentUid(103)));
    assert_eq!(recovered.free, [SlotNo(3), SlotNo(4)], "voided, hence free");
    let scanned = store.scan();
    assert_eq!((scanned.voids, scanned.free), (vec![], vec![SlotNo(3), SlotNo(4)]));
}

/// Found by a seed of `tests/crash_pair.rs`. A power cut left the second copy of a new header behind a first one as it had
/// been, and only the first was looked at: nothing was voided. When the slot's next header was torn, the second copy spoke
/// of a segment that had never been part of the log, and what was durable was called corrupt.
#[test]
fn a_header_of_which_only_the_second_copy_was_written_is_settled_and_never_speaks_again() {
    for before in ["free", "void", "older"] {
        let mut store = Store::sample();
        store.write_cursor(30, 30);
        let slot_no = if before == "older" { 0 } else { 3 };
        let mut first = vec![0; 2 * BLOCK as usize];
        match before {
            "free" => write_free_mark(&mut first, BLOCK),
            "void" => write_void_mark(&mut first, BLOCK),
            _ => first.copy_from_slice(&store.disk.files[&slot(slot_no)][..2 * BLOCK as usize]),
        }
        store.segment(slot_no, 5, 31, 103, 30);
        store.disk.put(slot(slot_no), 0, &first[..BLOCK as usize]);
        let recovered = store.disk.open(OnCorruption::Stop);
        assert_eq!(recovered.end.number(), 30, "{before}");
        store.meta = recovered.meta;
        store.segment(4, 4, 31, 103, 30).data(4, 31, 2, 30, 300).data(4, 33, 2, 32, 300);
        store.rot(slot(slot_no), 0);
        assert_eq!(result(&store), (34, vec![]), "{before}");
    }
}

/// One that is voided before those that follow it would leave them behind as if it had been lost (J).
#[test]
fn a_recovery_that_is_cut_off_among_abandoned_segments_finds_no_corruption_in_them() {
    let mut store = Store::sample();
    store.segment(3, 4, 33, 103, 28).data(3, 33, 1, 28, 10);
    store.segment(4, 5, 34, 104, 28).data(4, 34, 1, 28, 10);
    store.segment(5, 6, 35, 105, 28).data(5, 35, 1, 28, 10);
    let recovered = recovered_after_every_crash(&store, OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.tail_uid), (30, SegmentUid(103)));
}

/// The disk as `Spill` leaves it that has written one group into three segments: see the walk's case J.
#[test]
fn a_lost_header_costs_its_own_segment_and_not_those_behind_it() {
    let mut store = Store::sample();
    store.segment(3, 4, 31, 103, 30).data(3, 31, 2, 30, 300);
    store.segment(4, 5, 33, 104, 30).data(4, 33, 2, 30, 300);
    store.segment(5, 6, 35, 105, 30).data(5, 35, 2, 30, 300);
    assert_eq!(result(&store), (36, vec![]));
    store.rot(slot(4), 0).rot(slot(4), 1);
    assert_eq!(result(&store), (36, vec![(33, 34)]));
    let recovered = recovered_after_every_crash(&store, OnCorruption::CutTail);
    assert_eq!((recovered.end.number(), recovered.next_lsn.number()), (32, 37));
    store.disk.open(OnCorruption::Quarantine);
    assert_eq!(result(&store), (36, vec![]), "what is behind it is still there at the next opening");
}

#[test]
fn stale_frames_of_a_recycled_slot_never_speak() {
    let mut store = Store::sample();
    store.write_cursor(10, 30);
    // Slot 0 is used again; its old frames still follow, at the right places.
    store.segment(0, 4, 31, 103, 30).data(0, 31, 2, 30, 300);
    assert_eq!(result(&store), (32, vec![]));
    assert_eq!(store.scan().live.len(), 3);
}

#[test]
fn an_acknowledged_log_is_empty_and_its_slots_are_free() {
    let mut store = Store::sample();
    store.write_cursor(30, 30);
    let scanned = store.scan();
    assert_eq!((scanned.end.number(), scanned.live.len(), scanned.voids.len()), (30, 0, 0));
    assert_eq!(scanned.free, [SlotNo(0), SlotNo(1), SlotNo(2)]);
    assert_eq!(scanned.tail_uid, SegmentUid(103));
}

#[test]
fn skipped_and_reserved_lsns_are_passed_on_purpose() {
    let mut store = Store::sample();
    store.frame(2, FrameKind::Skip, 31, 40, 30, &[]).data(2, 40, 1, 39, 10);
    assert_eq!(result(&store), (40, vec![]));
    store.meta.reserved_lsn = Lsn::new(99);
    store.write_meta();
    let recovered = store.disk.open(OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.next_lsn.number()), (40, 100));
}

#[test]
fn one_copy_of_a_header_is_enough_and_none_is_a_hole() {
    let mut store = Store::sample();
    store.rot(slot(1), 0);
    assert_eq!(result(&store), (30, vec![]));
    store.rot(slot(1), 1);
    assert_eq!(result(&store), (30, vec![(11, 20)]));
    assert_eq!(store.scan().unprepared, [SlotNo(1)]);
}

#[test]
fn swapped_and_foreign_segments_are_named() {
    let mut store = Store::sample();
    let (a, b) = (store.disk.files[&slot(0)].clone(), store.disk.files[&slot(1)].clone());
    store.disk.files.insert(slot(0), b);
    store.disk.files.insert(slot(1), a);
    let error = ScanError::WrongPlace { slot: SlotNo(0), says: SlotNo(1) };
    assert_eq!(store.disk.scan().err(), Some(error));
    let mut store = Store::sample();
    store.meta.store.0[0] ^= 1;
    store.segment(7, 9, 31, 103, 30);
    assert_eq!(store.disk.scan().err(), Some(ScanError::WrongStore { slot: SlotNo(7) }));
}

/// Found by reading: on a disk of longer units the headers could not be read, and "Invalid argument" was all that was said.
#[test]
fn a_store_whose_blocks_are_too_short_for_the_disk_is_refused_before_more_than_meta_is_read() {
    let mut store = Store::sample();
    store.disk.log.clear();
    let error = store.disk.run_scan(Scan::new(config(), pool()).in_units_of(4096)).err();
    assert_eq!(error, Some(ScanError::BlocksTooShort { block_len: BLOCK, unit: 4096 }));
    let reads: Vec<_> = store.disk.log.iter().filter(|line| line.starts_with("read")).collect();
    assert!(!reads.is_empty() && reads.iter().all(|line| *line == "read META"), "{reads:?}");
    assert!(store.disk.run_scan(Scan::new(config(), pool()).in_units_of(BLOCK)).is_ok());
}

/// Found by the fuzzer: a reader that looked for a segment by its uid found the other one, for ever.
#[test]
fn two_segments_of_one_identity_are_refused() {
    let mut store = Store::sample();
    store.segment(6, 9, 31, 103, 30);
    store.segment(7, 9, 31, 103, 30);
    let error = ScanError::SameIdentity { slot: SlotNo(7), other: SlotNo(6) };
    assert_eq!(store.disk.scan().err(), Some(error));
}

#[test]
fn short_files_and_half_prepared_slots_are_prepared_again() {
    let mut store = Store::sample();
    store.disk.files.insert(slot(4), vec![]);
    store.disk.files.insert(slot(5), vec![0; 700]);
    let mut mark = vec![0; 1024];
    write_free_mark(&mut mark, BLOCK);
    store.disk.files.insert(slot(6), mark.clone());
    store.disk.files.insert(slot(7), mark);
    store.disk.files.get_mut(&slot(7)).unwrap().resize(usize::try_from(config().segment_len).unwrap(), 0);
    let scanned = store.scan();
    assert_eq!((scanned.unprepared, scanned.free), (vec![SlotNo(4), SlotNo(5), SlotNo(6)], vec![SlotNo(7)]));
    store.disk.files.get_mut(&slot(2)).unwrap().truncate(8 * 512);
    assert_eq!(result(&store), (26, vec![]), "what is cut off is torn above every promise");
}

#[test]
fn a_block_that_cannot_be_read_is_a_bad_block_and_no_failure() {
    let mut store = Store::sample();
    store.disk.bad.insert((slot(2), 4));
    assert_eq!(result(&store), (30, vec![(23, 24)]));
    assert_eq!(store.scan().report.unreadable_blocks, 1);
    store.disk.bad.insert((slot(1), 0));
    assert_eq!(result(&store).1, [(23, 24)], "the other copy of the header speaks");
}

/// Told apart from a tear since a disk that failed for a while cost what it would have given back later.
#[test]
fn case_p_what_would_come_next_and_cannot_be_read_is_no_torn_tail() {
    let mut store = Store::sample();
    let (end, _) = result(&store);
    let torn = |store: &Store| store.scan().report.torn.is_some();
    assert!(!torn(&store));
    // The last frame cannot be read, nor what lies behind it: no more than its blocks can hold.
    let whole = store.disk.files[&slot(2)].len() / 512;
    let last = u64::try_from(whole - 1).unwrap();
    store.disk.bad.insert((slot(2), last));
    assert_eq!(result(&store), (end + 64, vec![(end + 1, end + 64)]));
    let mut store = Store::sample();
    store.disk.bad.extend([(slot(2), 0), (slot(2), 1)]);
    let (blind, missed) = result(&store);
    assert_eq!(missed.len(), 1, "the header of the tail cannot be read");
    assert!(missed[0].0 <= 23 && blind >= end, "{missed:?}");
    // The cursor promises a part of what it held: the rest is missed too, and no number of it is given out again.
    store.write_cursor(4, 25);
    let scanned = store.scan();
    let missed = holes(&scanned);
    assert_eq!(missed[0], (21, 25));
    assert!(missed[1].0 == 26 && missed[1].1 >= 30 && scanned.next_lsn.number() > 30, "{missed:?}");
    let mut store = Store::sample();
    store.write_cursor(4, 30).close(30, 103);
    store.disk.bad.insert((slot(2), last));
    assert_eq!(result(&store), (30, vec![]), "behind the end at which it was closed nothing comes next");
}

/// One that fails may have met a hiccup: what counts as lost is what fails twice.
#[test]
fn a_read_that_fails_once_costs_nothing_wherever_it_reads() {
    let mut sound = Store::sample();
    // So long that its last block is read by itself: a read of several is asked for again in pieces.
    sound.disk.files.get_mut(&slot(2)).unwrap().truncate(2 * 512 + pool().chunk_len() + 512);
    let files: Vec<_> = sound.disk.files.iter().map(|(file, bytes)| (*file, bytes.len() as u64 / 512)).collect();
    for (file, block) in files.into_iter().flat_map(|(file, blocks)| (0..blocks).map(move |block| (file, block))) {
        let mut store = sound.clone();
        store.disk.bad_once.insert((file, block));
        assert_eq!(result(&store), (30, vec![]), "block {block} of {file}");
    }
}

#[test]
fn a_clean_store_ends_exactly_where_it_was_closed() {
    let mut store = Store::sample();
    store.write_cursor(4, 30).close(30, 103);
    let scanned = store.scan();
    assert_eq!((scanned.end.number(), holes(&scanned), scanned.report.clean), (30, vec![], true));
    let recovered = store.disk.open(OnCorruption::Stop);
    assert_eq!(recovered.meta.clean, None);
    assert!(!store.scan().report.clean, "it is open now");
    let mut torn = Store::sample();
    torn.close(30, 103).rot(slot(2), 10);
    assert_eq!(result(&torn).1, [(29, 30)]);
}

#[test]
fn an_older_copy_of_meta_does_not_speak_of_an_orderly_end() {
    let mut store = Store::sample();
    store.close(30, 103);
    store.disk.open(OnCorruption::Stop);
    store.meta.epoch += 1;
    store.segment(3, 4, 31, 103, 30).data(3, 31, 1, 30, 10);
    // The newer META copy, written at that opening, rots.
    let newer = if (store.meta.generation + 1) & 1 == 0 { 0 } else { 8 };
    store.rot(META, newer);
    let scanned = store.scan();
    assert_eq!((scanned.end.number(), holes(&scanned), scanned.report.stale_meta), (31, vec![], true));
}

#[test]
fn lsns_that_were_delivered_from_memory_are_no_hole_and_not_given_out_again() {
    let mut store = Store::sample();
    store.cursor.done = vec![(Lsn::new(33), Lsn::new(36))];
    store.write_cursor(20, 30);
    let recovered = store.disk.open(OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.next_lsn.number()), (30, 36));
}

#[cfg(feature = "testing")]
#[test]
fn a_stale_frame_that_fits_the_lsn_chain_is_told_by_its_uid() {
    use crate::wal::mutant::{Mutant, Mutants};
    let mut store = Store::sample();
    // Abandoned, voided, and its slot begun again with the same base.
    store.segment(3, 4, 31, 103, 30).data(3, 31, 1, 30, 10).segment(3, 5, 31, 103, 30);
    assert_eq!(result(&store), (30, vec![]));
    let broken = super::StoreConfig { mutants: Mutants::only(&[Mutant::NoUid]), ..config() };
    assert_eq!(store.disk.scan_with(broken).unwrap().end.number(), 31, "the mutant takes it in");
}

/// The whole of a recovery under a policy, cut off after every number of changes and begun anew.
fn recovered_after_every_crash(store: &Store, policy: OnCorruption) -> Recovered {
    let whole = store.clone().disk.open(policy);
    for changes in 0.. {
        let mut disk = store.disk.clone();
        disk.changes_left = Some(changes);
        let scanned = disk.scan().unwrap();
        let done = disk.repair(scanned, policy).is_ok();
        disk.changes_left = None;
        let again = disk.open(policy);
        assert_eq!((again.end, again.tail_uid), (whole.end, whole.tail_uid), "after {changes} changes");
        assert!(again.next_lsn >= whole.next_lsn, "after {changes} changes an LSN would be given out twice");
        let ends = |recovered: &Recovered| recovered.live.iter().map(|s| (s.uid, s.base, s.end)).collect::<Vec<_>>();
        assert_eq!(ends(&again), ends(&whole), "after {changes} changes");
        if done {
            break;
        }
    }
    whole
}

/// A store that was closed in order and opened again, and then lost META of that opening.
fn with_stale_meta(write: impl FnOnce(&mut Store)) -> Store {
    let mut store = Store::sample();
    store.close(30, 103);
    store.meta = store.disk.open(OnCorruption::Stop).meta;
    write(&mut store);
    let newest = if store.meta.generation & 1 == 0 { 0 } else { 8 };
    store.rot(META, newest);
    assert!(store.scan().report.stale_meta);
    store
}

/// Found by reading: where META is stale, META written within a recovery got the newest epoch beside the end that the
/// opening before had found. Cut off there, the next one took all that lay behind that end for settled: durable
/// segments that the sink had not had were free to be used again, and the orderly end before was believed.
#[test]
fn a_recovery_on_a_stale_meta_that_is_cut_off_decides_the_same_again() {
    let mut store = with_stale_meta(|store| {
        store.segment(3, 4, 31, 103, 30).data(3, 31, 2, 30, 300).data(3, 33, 2, 30, 300).data(3, 35, 2, 30, 300);
        store.rot(slot(3), 5).rot(slot(3), 7).segment(4, 5, 37, 104, 30).write_cursor(5, 30);
    });
    let recovered = recovered_after_every_crash(&store, OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.live.len(), recovered.meta.epoch), (32, 4, 3));
    // With a hole that is given up: a part of what rotted was promised.
    store.write_cursor(5, 34);
    for policy in [OnCorruption::CutTail, OnCorruption::Quarantine] {
        let recovered = recovered_after_every_crash(&store, policy);
        assert_eq!(recovered.lost[0].0.number(), 33, "{policy:?}");
    }
}

/// The same where all that shows that META is stale is voided.
#[test]
fn a_recovery_that_voids_what_shows_that_meta_is_stale_decides_the_same_again() {
    let mut store = with_stale_meta(|store| {
        store.segment(3, 4, 33, 103, 28).segment(4, 5, 34, 104, 28);
    });
    store.rot(slot(2), 11);
    let recovered = recovered_after_every_crash(&store, OnCorruption::Stop);
    assert_eq!((recovered.end.number(), recovered.meta.epoch), (28, 3));
}

#[test]
fn quarantine_gives_up_exactly_the_hole_and_remembers_it() {
    let mut store = Store::sample();
    store.write_cursor(0, 30).rot(slot(2), 4).rot(slot(2), 10);
    let recovered = recovered_after_every_crash(&store, OnCorruption::Quarantine);
    let lost: Vec<_> = recovered.lost.iter().map(|r| (r.0.number(), r.1.number())).collect();
    assert_eq!(lost, [(23, 25), (29, 31)]);
    assert_eq!((recovered.end.number(), recovered.next_lsn.number()), (30, 31));
    store.disk.open(OnCorruption::Quarantine);
    assert!(store.disk.log.contains(&"quarantine seg-00000002.rwal".to_owned()));
    assert_eq!(result(&store), (30, vec![]), "it is not reported twice");
}

#[test]
fn cut_tail_drops_everything_behind_the_hole_and_never_reissues_it() {
    let mut store = Store::sample();
    store.write_cursor(0, 30).rot(slot(1), 0).rot(slot(1), 1);
    let recovered = recovered_after_every_crash(&store, OnCorruption::CutTail);
    assert_eq!((recovered.end.number(), recovered.tail_uid, recovered.live.len()), (10, SegmentUid(101), 1));
    assert_eq!((recovered.next_lsn.number(), recovered.lost.clone()), (31, vec![(Lsn::new(11), Lsn::new(31))]));
    store.disk.open(OnCorruption::CutTail);
    assert_eq!(result(&store), (10, vec![]), "the cut is settled");
    assert_eq!(store.scan().next_lsn.number(), 31);
    // Within a segment the frames behind the cut stay, and stay silent.
    let mut store = Store::sample();
    store.write_cursor(0, 30).rot(slot(2), 4);
    store.disk.open(OnCorruption::CutTail);
    assert_eq!(result(&store), (22, vec![]));
}

/// What the cursor's rows say of each LSN.
fn attempts(recovered: &Recovered, lsns: std::ops::Range<u64>) -> Vec<u32> {
    let rows = &recovered.cursor.attempts;
    let at = |lsn| rows.iter().rev().find(|(row, _)| row.number() <= lsn).map_or(0, |(_, attempts)| *attempts);
    lsns.map(at).collect()
}

#[test]
fn what_is_given_up_changes_no_attempts_of_what_is_left() {
    let mut store = Store::sample();
    // A batch 23..=28 has failed three times; its first two entries are lost, and so are the two behind it.
    store.cursor.attempts = vec![(Lsn::new(23), 3), (Lsn::new(29), 0)];
    store.write_cursor(20, 30).rot(slot(2), 4).rot(slot(2), 10);
    let mut cut = store.clone();
    let recovered = store.disk.open(OnCorruption::Quarantine);
    assert_eq!(recovered.lost, [(Lsn::new(23), Lsn::new(25)), (Lsn::new(29), Lsn::new(31))]);
    assert_eq!(attempts(&recovered, 25..29), [3; 4]);
    assert_eq!(attempts(&recovered, 31..33), [0; 2]);
    // The same when the loss reaches down to what is acked.
    cut.cursor.attempts = vec![(Lsn::new(21), 2), (Lsn::new(27), 0)];
    cut.write_cursor(22, 30);
    let recovered = cut.clone().disk.open(OnCorruption::Quarantine);
    assert_eq!(recovered.cursor.acked, Lsn::new(24));
    assert_eq!(attempts(&recovered, 25..31), [2, 2, 0, 0, 0, 0]);
    // Cut off within such a run: what comes later under other LSNs has not been tried.
    let mut store = Store::sample();
    store.cursor.attempts = vec![(Lsn::new(21), 2), (Lsn::new(27), 0)];
    store.write_cursor(20, 30).rot(slot(2), 4);
    let recovered = store.disk.open(OnCorruption::CutTail);
    assert_eq!((recovered.end, recovered.next_lsn), (Lsn::new(22), Lsn::new(31)));
    assert_eq!((attempts(&recovered, 21..23), attempts(&recovered, 31..33)), (vec![2; 2], vec![0; 2]));
}

#[test]
#[should_panic(expected = "not opened")]
fn stop_never_reaches_repair() {
    let mut store = Store::sample();
    store.write_cursor(0, 30).rot(slot(2), 4);
    store.disk.open(OnCorruption::Stop);
}

#[cfg(feature = "testing")]
#[test]
fn without_voiding_abandoned_segments_stay() {
    use crate::wal::mutant::{Mutant, Mutants};
    let mut store = Store::sample();
    store.segment(3, 4, 33, 103, 28).data(3, 33, 1, 28, 10);
    let broken = super::StoreConfig { mutants: Mutants::only(&[Mutant::NoVoid]), ..config() };
    let scanned = store.disk.scan_with(broken).unwrap();
    store.disk.repair_with(scanned, OnCorruption::Stop, broken).unwrap();
    assert_eq!(store.scan().voids, [SlotNo(3)], "it would come back");
    let unsynced = super::StoreConfig { mutants: Mutants::only(&[Mutant::NoSyncBeforeRead]), ..config() };
    store.disk.log.clear();
    store.disk.scan_with(unsynced).unwrap();
    assert!(store.disk.log.iter().all(|line| !line.starts_with("sync")));
}

/// Every byte of a cleanly closed store, one bit of it flipped: what is lost is reported exactly, or
/// nothing is lost.
#[test]
fn a_flipped_bit_in_a_clean_store_is_reported_or_harmless() {
    let mut store = Store::new();
    store.segment(0, 1, 1, 0, 0).data(0, 1, 2, 0, 300).data(0, 3, 1, 2, 40);
    store.frame(0, FrameKind::Seal, 4, 4, 3, &[]);
    store.write_cursor(0, 3).write_cursor(0, 3).close(3, 101);
    assert_eq!(result(&store), (3, vec![]));
    let files: Vec<_> = store.disk.files.iter().map(|(file, bytes)| (*file, bytes.len().min(6 * 512))).collect();
    // The cursor's copies lie behind the two META copies.
    let regions = files.into_iter().flat_map(|(file, len)| {
        let cursor = if file == META {
            vec![8192..8192 + 128, 8192 + 16_384..8192 + 16_384 + 128, 4096..4096 + 256]
        } else {
            vec![]
        };
        std::iter::once(0..len).chain(cursor).map(move |range| (file, range))
    });
    let mut reported = 0;
    for (file, at) in regions.flat_map(|(file, range)| range.map(move |at| (file, at))) {
        let mut spoiled = store.disk.clone();
        spoiled.files.get_mut(&file).unwrap()[at] ^= 1 << (at % 8);
        let scanned = spoiled.scan().unwrap();
        let lost = holes(&scanned);
        let expected = match (file, at) {
            (FileId::Slot(..), 1024..1736) if at < 1024 + 80 + 624 => vec![(1, 2)],
            (FileId::Slot(..), 2048..2176) if at < 2048 + 80 + 48 => vec![(3, 3)],
            _ => vec![],
        };
        reported += usize::from(!lost.is_empty());
        assert_eq!((scanned.end.number(), lost), (3, expected), "{file} byte {at}");
    }
    assert_eq!(reported, 80 + 624 + 80 + 48);
}

/// Found by random bytes: the segment in the middle is gone and given up, and the sink is done with all that was promised
/// behind it. The log was taken to end in front of the gap, and what was durable behind it was voided without a word.
#[test]
fn what_lies_behind_a_gap_that_is_done_with_is_still_there_at_the_opening_after_the_next() {
    let mut store = Store::sample();
    store.disk.files.get_mut(&slot(1)).unwrap().truncate(0);
    let recovered = store.disk.open(OnCorruption::Quarantine);
    assert_eq!((recovered.end.number(), recovered.lost), (30, vec![(Lsn::new(11), Lsn::new(21))]));
    // The sink has finished the last ten before the first, and the next entry is durable.
    store.meta = recovered.meta;
    store.cursor = recovered.cursor;
    store.cursor.done = vec![(Lsn::new(11), Lsn::new(31))];
    store.write_cursor(0, 30).segment(3, 4, 31, 103, 30).data(3, 31, 2, 30, 300);
    let again = store.disk.open(OnCorruption::Quarantine);
    assert_eq!((again.end.number(), again.next_lsn, again.lost), (32, Lsn::new(33), vec![]));
    let live: Vec<_> = again.live.iter().map(|s| (s.slot.0, s.base.number(), s.end.number())).collect();
    assert_eq!(live, [(0, 1, 20), (2, 21, 30), (3, 31, 32)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any bytes: headers and frames with good checksums included, as the sample is spoiled piecewise.
    #[test]
    fn any_bytes_are_survived(
        pieces in proptest::collection::vec((0_u32..4, 0_usize..24 * 512, proptest::collection::vec(any::<u8>(), 1..64)), 1..12),
        moved in proptest::collection::vec((0_u32..3, 0_u32..14, 0_u32..3, 0_u32..14), 0..6),
        acked in 0_u64..40,
        lens in proptest::collection::vec(0_usize..60_000, 3),
    ) {
        let mut store = Store::sample();
        store.write_cursor(acked, 30);
        for (from, block, to, place) in moved {
            let at = (block * BLOCK) as usize;
            let bytes = store.disk.files[&slot(from)][at..at + BLOCK as usize].to_vec();
            store.disk.put(slot(to), (place * BLOCK) as usize, &bytes);
        }
        for (file, at, bytes) in pieces {
            store.disk.put(if file == 3 { META } else { slot(file) }, at, &bytes);
        }
        for (n, len) in lens.into_iter().enumerate() {
            store.disk.files.get_mut(&slot(u32::try_from(n).unwrap())).unwrap().resize(len, 7);
        }
        for policy in [OnCorruption::CutTail, OnCorruption::Quarantine] {
            let mut disk = store.disk.clone();
            if let Ok(scanned) = disk.scan() {
                let recovered = disk.repair(scanned, policy).unwrap();
                prop_assert!(recovered.next_lsn > recovered.end && recovered.end >= recovered.cursor.acked, "{recovered:?}");
                // What was repaired stays repaired.
                let again = disk.scan().unwrap();
                prop_assert!(again.corruption.is_empty(), "{:?}", again.corruption);
                prop_assert_eq!(again.end, recovered.end);
            }
        }
    }
}
