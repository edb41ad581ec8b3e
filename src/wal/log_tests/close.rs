use super::*;
use crate::wal::keeper::RESERVE_AHEAD;
use crate::wal::meta::LogEnd;

fn closed(b: &Bench) -> bool {
    b.events.iter().any(|e| matches!(e, Event::Closed))
}

fn spill() -> Bench {
    let mut b = Bench::with(recovered(16, 2), config(Commit::Spill));
    b.pump();
    let Wrote::Meta(meta) = b.end(is_meta) else { panic!() };
    assert_eq!((meta.reserved_lsn, meta.generation), (Lsn::new(1 + RESERVE_AHEAD), 3));
    b
}

#[test]
fn closing_commits_seals_writes_the_cursor_and_then_where_the_log_ends() {
    for commit in [Commit::Immediate, Commit::Periodic(Duration::from_secs(1))] {
        let mut b = Bench::new(commit);
        b.push(2, 64).end_all();
        b.push(1, 64);
        b.log.close(b.now);
        b.pump();
        assert_eq!(b.try_push(1, 64), Err(Blocked::Closed));
        while b.log.durable() < Lsn::new(3) {
            assert!(b.frames().iter().all(|f| f.kind == FrameKind::Data), "SEAL comes after the last commit");
            b.end(|_| true);
        }
        let seal = b.frames()[0];
        assert_eq!((seal.kind, seal.durable_lsn), (FrameKind::Seal, Lsn::new(3)));
        assert!(matches!(b.out[0].1, Op::Write { dsync: true, .. }));
        b.log.ack(b.now, Lsn::new(2), &[], &[]);
        b.end(is_frame);
        assert_eq!(b.wrote(), vec![Wrote::Cursor(2)]);
        b.end(|_| true);
        assert!(!closed(&b));
        let Wrote::Meta(meta) = b.end(is_meta) else { panic!() };
        assert_eq!(meta.clean, Some(LogEnd { lsn: Lsn::new(3), uid: seal.seg_uid }));
        assert!(closed(&b) && b.log.is_closed() && b.out.is_empty());
        assert_eq!(b.log.poll_timeout(), None);
    }
}

#[test]
fn closing_an_empty_log_writes_only_where_it_ends() {
    let mut b = Bench::with(
        Recovered { end: Lsn::new(9), next_lsn: Lsn::new(50), ..recovered(16, 2) },
        config(Commit::Immediate),
    );
    b.log.close(b.now);
    b.pump();
    let [Wrote::Meta(meta)] = &b.wrote()[..] else { panic!("{:?}", b.wrote()) };
    assert_eq!(meta.clean.unwrap().lsn, Lsn::new(9));
    assert_eq!(meta.reserved_lsn, Lsn::new(49), "LSNs that a sink may have seen stay reserved");
    b.end_all();
    assert!(closed(&b));
}

#[test]
fn a_failed_log_closes_too_and_is_not_called_clean() {
    let mut b = Bench::new(Commit::Immediate);
    b.push(1, 64);
    b.log.close(b.now);
    b.pump();
    b.end_with(is_frame, Err(eio()));
    assert!(!closed(&b), "the header is still in flight");
    b.end_all();
    assert!(closed(&b) && !b.wrote().iter().any(is_meta));
    let order: Vec<_> = b.events.iter().map(std::mem::discriminant).collect();
    assert_eq!(order.last(), Some(&std::mem::discriminant(&Event::Closed)));
}

#[test]
fn spill_gives_out_what_is_reserved_and_writes_nothing() {
    let mut b = Bench::with(recovered(16, 2), config(Commit::Spill));
    b.push(1, 64);
    b.log.seal(b.now);
    b.pump();
    assert_eq!(b.ready().len(), 0, "the reservation is not durable");
    b.end(is_meta);
    assert_eq!(b.ready(), vec![1]);
    b.push(1, 64);
    b.log.seal(b.now);
    b.wait(1_000_000);
    assert_eq!((b.ready(), b.frames().len(), b.log.held()), (vec![1, 2], 0, 2));
    b.ack(2);
    assert_eq!((b.log.held(), b.log.settled(), b.log.durable()), (0, Lsn::new(2), Lsn::ZERO));
    assert_eq!(b.durable_events(), vec![(1, 64), (2, 128)]);
}

#[test]
fn more_is_reserved_when_half_is_used() {
    let mut b = spill();
    let half = u32::try_from(RESERVE_AHEAD / 2).unwrap();
    b.log.frame(b.now, UnixNanos(0)).unwrap();
    for _ in 0..half / 400 {
        b.try_push(400, 8).unwrap();
        b.log.seal(b.now);
        b.pump();
        let end = b.log.end().number();
        b.ack(end);
        b.events.clear();
        while b.wrote().iter().any(|w| matches!(w, Wrote::Cursor(_))) {
            b.end(|w| matches!(w, Wrote::Cursor(_)));
        }
    }
    assert!(!b.wrote().iter().any(is_meta));
    b.try_push(400, 8).unwrap();
    b.try_push(400, 8).unwrap();
    b.log.seal(b.now);
    b.pump();
    let reserved = b.log.next_lsn().advance(RESERVE_AHEAD);
    assert!(b.wrote().iter().any(|w| matches!(w, Wrote::Meta(m) if m.reserved_lsn == reserved)));
}

#[test]
fn spilling_leaves_out_what_was_acknowledged_and_says_so() {
    let mut b = spill();
    for _ in 0..3 {
        b.push(1, 800);
        b.log.seal(b.now);
    }
    b.pump();
    b.ack(1);
    b.log.spill(b.now);
    b.pump();
    let wrote = b.wrote();
    let [
        Wrote::Header(header),
        Wrote::Frame(skip),
        Wrote::Frame(second),
        Wrote::Body,
        Wrote::Frame(third),
        Wrote::Body,
        ..,
    ] = &wrote[..]
    else {
        panic!("{wrote:?}")
    };
    assert_eq!((header.base_lsn, skip.kind, skip.next_lsn), (Lsn::new(1), FrameKind::Skip, Lsn::new(2)));
    assert_eq!((second.first_lsn, second.acked_lsn, third.first_lsn), (Lsn::new(2), Lsn::new(1), Lsn::new(3)));
    while b.syncs() == 0 {
        b.end(|_| true);
    }
    b.end(|w| matches!(w, Wrote::Sync(_)));
    assert_eq!((b.log.durable(), b.log.held()), (Lsn::new(3), 0));
    assert_eq!(b.ready(), vec![1, 2, 3], "each is given out once");
}

#[test]
fn what_spill_writes_in_two_parts_is_one_frame_on_disk() {
    let mut b = spill();
    b.push(1, 900);
    b.log.commit_now(b.now);
    b.pump();
    let mut disk = vec![0; 16 * B as usize];
    for (_, op) in &b.out {
        if let Op::Write { file: FileId::Slot(..), offset, block, .. } = op {
            let at = usize::try_from(*offset).unwrap();
            disk[at..at + block.len()].copy_from_slice(block);
        }
    }
    let frame = &disk[2 * B as usize..];
    let header = FrameHeader::decode(frame).unwrap();
    assert!(header.body_matches(&frame[FRAME_HEADER_LEN..FRAME_HEADER_LEN + 900]));
}

#[test]
fn closing_spills_what_is_not_acknowledged() {
    let mut b = spill();
    b.push(1, 64);
    b.log.seal(b.now);
    b.push(1, 64);
    b.ack(1);
    b.log.close(b.now);
    let all = b.end_all();
    let firsts: Vec<_> = all
        .iter()
        .filter_map(|w| if let Wrote::Frame(f) = w { Some((f.kind, f.first_lsn.number())) } else { None })
        .collect();
    assert_eq!(firsts, vec![(FrameKind::Skip, 1), (FrameKind::Data, 2), (FrameKind::Seal, 3)]);
    let Some(Wrote::Meta(meta)) = all.last() else { panic!("{all:?}") };
    assert_eq!((meta.clean.unwrap().lsn, meta.reserved_lsn), (Lsn::new(2), Lsn::ZERO));
    assert!(closed(&b));
}

#[test]
fn the_clean_end_promises_nothing_that_only_memory_knows() {
    let mut b = Bench::new(Commit::Immediate);
    b.push(2, 64).end_all();
    b.log.close(b.now);
    while !b.wrote().iter().any(is_meta) {
        b.pump();
        if !b.wrote().iter().any(is_meta) {
            b.end(|_| true);
        }
    }
    b.ack(2);
    let Wrote::Meta(meta) = b.end(is_meta) else { panic!() };
    assert_eq!((meta.clean.unwrap().lsn, b.log.cursor_durable()), (Lsn::new(2), Lsn::ZERO));
    assert!(closed(&b));
}

#[test]
fn what_finds_no_slot_in_a_full_log_is_given_up_at_the_close_and_counted() {
    let mut b = Bench::with(recovered(4, 2), LogConfig { slots_max: 2, ..config(Commit::Immediate) });
    b.push(1, 600).end_all();
    b.push(1, 600).end_all();
    b.push(1, 600);
    assert_eq!(b.log.held(), 1);
    b.log.close(b.now);
    b.pump();
    b.end_all();
    assert!(!closed(&b) && b.log.held() == 1, "the sink may still make room");
    b.log.expect_no_acks();
    b.pump();
    while !b.out.is_empty() {
        b.end_all();
    }
    assert!(closed(&b) && b.failures() == 0);
    assert_eq!((b.log.durable(), b.log.held()), (Lsn::new(2), 0));
    assert_eq!((b.log.unplaced(Lsn::FIRST), b.log.unplaced(Lsn::new(4))), (1, 0));

    // One whose slot only waits for the cursor is no such entry.
    let mut b = Bench::with(recovered(4, 2), LogConfig { slots_max: 2, ..config(Commit::Immediate) });
    b.push(1, 600).end_all();
    b.push(1, 600).end_all();
    b.push(1, 600);
    b.log.ack(b.now, Lsn::new(1), &[], &[]);
    b.log.close(b.now);
    b.log.expect_no_acks();
    b.pump();
    while !b.out.is_empty() {
        b.end_all();
    }
    assert!(closed(&b));
    assert_eq!((b.log.durable(), b.log.unplaced(Lsn::FIRST)), (Lsn::new(3), 0));
}
