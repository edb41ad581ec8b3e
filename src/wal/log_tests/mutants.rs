//! Each rule, switched off, shows in what goes out: so the checks above can fail.
use super::*;
use crate::wal::mutant::Mutant;
use crate::wal::segments::SegmentTable;

fn with(mutant: Mutant, blocks: u64) -> Bench {
    let config = LogConfig { hedge_len: 1, mutants: Mutants::only(&[mutant]), ..config(Commit::Immediate) };
    Bench::with(recovered(blocks, 4), config)
}

#[test]
fn ack_out_of_order_acknowledges_behind_a_gap() {
    let mut b = with(Mutant::AckOutOfOrder, 64);
    b.push(1, 64).push(1, 64);
    b.end(frame_at(2));
    assert_eq!(b.log.durable(), Lsn::new(2));
}

#[test]
fn promise_early_promises_what_is_in_flight() {
    let mut b = with(Mutant::PromiseEarly, 64);
    b.push(1, 64).push(1, 64);
    assert_eq!(b.frames()[1].durable_lsn, Lsn::new(1));
}

#[test]
fn two_headers_are_in_flight_together() {
    let mut b = with(Mutant::TwoHeaders, 4);
    b.push(1, 600).push(1, 600);
    assert_eq!(b.headers(), 2);
}

#[test]
fn recycle_early_reuses_before_the_cursor_is_durable() {
    let mut b = with(Mutant::RecycleEarly, 4);
    for lsn in 1..=4 {
        b.push(1, 600).end_all();
        assert_eq!(b.log.durable().number(), lsn);
    }
    b.ack(1).push(1, 600);
    assert_eq!((b.headers(), b.log.cursor_durable()), (1, Lsn::ZERO));
}

#[test]
fn sync_early_does_not_wait_for_the_write() {
    let mut config = config(Commit::Periodic(Duration::from_millis(1)));
    config.mutants = Mutants::only(&[Mutant::SyncEarly]);
    let mut b = Bench::with(recovered(16, 2), config);
    b.push(1, 64).wait(1000);
    assert_eq!((b.frames().len(), b.syncs()), (1, 1));
    b.end(is_header);
    b.end(|w| matches!(w, Wrote::Sync(_)));
    assert_eq!(b.log.durable(), Lsn::new(1));
    b.end(is_frame);
}

fn with_tail(mutants: Mutants, tail_end: u64) -> Bench {
    let mut recovered = recovered(16, 0);
    let mut live = Vec::new();
    for (slot, uid, base, end) in [(0, 70, 1, 5), (1, 71, 6, tail_end)] {
        let base = Lsn::new(base);
        let mut segment = crate::wal::segments::LiveSegment::opened(
            SlotNo(slot),
            SegmentUid(uid),
            u64::from(slot) + 1,
            base,
            Schema::new("test", 1),
        );
        (segment.end, segment.end_position) = (Lsn::new(end), 4);
        live.push(segment);
    }
    let _ = SegmentTable::new(live.clone(), Vec::new());
    recovered.live = live;
    recovered.free = vec![SlotNo(2), SlotNo(3)];
    recovered.seq_max = 2;
    recovered.end = Lsn::new(tail_end);
    recovered.next_lsn = Lsn::new(tail_end + 1);
    recovered.tail_uid = SegmentUid(if tail_end > 5 { 71 } else { 70 });
    Bench::with(recovered, LogConfig { mutants, ..config(Commit::Immediate) })
}

#[test]
fn after_recovery_a_new_segment_is_begun_and_append_to_tail_does_not() {
    let mut b = with_tail(Mutants::NONE, 8);
    b.push(1, 64);
    let wrote = b.wrote();
    let [Wrote::Header(header), Wrote::Frame(_)] = &wrote[..2] else { panic!("{wrote:?}") };
    assert_eq!((header.prev_uid, header.seq, header.base_lsn), (SegmentUid(71), 3, Lsn::new(9)));

    let mut b = with_tail(Mutants::only(&[Mutant::AppendToTail]), 8);
    b.push(1, 64);
    assert_eq!((b.headers(), b.frames()[0].seg_uid, b.frames()[0].position), (0, SegmentUid(71), 4));
}

#[test]
fn a_new_segment_is_linked_to_the_last_one_with_a_record_and_link_to_empty_is_not() {
    let prev_uid = |mutants| {
        let mut b = with_tail(mutants, 5);
        b.push(1, 64);
        let Some(Wrote::Header(header)) = b.wrote().into_iter().next() else { panic!() };
        header.prev_uid
    };
    assert_eq!(prev_uid(Mutants::NONE), SegmentUid(70));
    assert_eq!(prev_uid(Mutants::only(&[Mutant::LinkToEmpty])), SegmentUid(71));
}
