//! One rule each.

use super::*;
use crate::delivery::batch::Batch;
use crate::delivery::dispatcher::FrameRefused;
use crate::ring::record::BadRecord;
use crate::sink::{Outcome, Reason, Verdict};

fn retry() -> Verdict {
    Verdict::Retry("no".into())
}

fn park() -> Verdict {
    Verdict::Park("never".into())
}

#[test]
fn a_full_batch_leaves_at_once_and_the_rest_when_the_oldest_has_lingered() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 6));
    let (lease, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [1, 2, 3, 4]);
    assert!(take(&mut d, at(9)).is_none(), "one at a time");
    d.handle_verdict(at(1), lease, Outcome::ack());
    assert!(take(&mut d, at(4)).is_none(), "two entries have not lingered");
    // Other traffic does not begin the time anew.
    feed(&mut d, at(4), numbered(7, 1));
    assert_eq!(d.poll_timeout(), Some(at(5)));
    let (lease, batch) = take(&mut d, at(5)).unwrap();
    assert_eq!(batch, [5, 6, 7]);
    d.handle_verdict(at(6), lease, Outcome::ack());
    assert_eq!(progress(&mut d).acked, lsn(7));
    assert!(d.is_idle() && d.poll_timeout().is_none());
}

#[test]
fn bytes_fill_a_batch_and_a_longer_entry_goes_alone() {
    let mut d = dispatcher(DeliveryConfig { batch_bytes_max: 100, ..config() });
    feed(&mut d, at(0), frame(1, &[&[1; 60], &[2; 40], &[3; 500], &[4; 10]]));
    let mut lens = Vec::new();
    d.handle_closing();
    while let Some((lease, batch)) = d.poll_delivery(at(0)) {
        lens.push((batch.len(), batch.bytes_len()));
        d.handle_verdict(at(0), lease, Outcome::ack());
    }
    assert_eq!(lens, [(2, 100), (1, 500), (1, 10)]);
    feed(&mut d, at(0), frame(5, &[&[1; 60]]));
    assert_eq!((d.pending_bytes(), d.unfinished_bytes()), (60, 60));
}

#[test]
fn bytes_are_a_trigger_too() {
    let mut d = dispatcher(DeliveryConfig { batch_bytes_max: 100, ..config() });
    feed(&mut d, at(0), frame(1, &[&[1; 60]]));
    assert!(d.poll_delivery(at(0)).is_none());
    feed(&mut d, at(0), frame(2, &[&[1; 60]]));
    assert_eq!(d.poll_delivery(at(0)).unwrap().1.len(), 1);
}

#[test]
fn closing_and_hurry_end_the_lingering() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 2));
    d.hurry(lsn(1));
    let (lease, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [1, 2]);
    d.handle_verdict(at(0), lease, Outcome::ack());
    feed(&mut d, at(0), numbered(3, 2));
    assert!(take(&mut d, at(0)).is_none());
    d.handle_closing();
    assert_eq!(take(&mut d, at(0)).unwrap().1, [3, 4]);
}

#[test]
fn only_what_failed_is_offered_again_and_before_anything_behind_it() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 8));
    let (lease, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), lease, Outcome::Each(vec![retry(), Verdict::Ack, retry(), Verdict::Ack]));
    let cursor = progress(&mut d);
    assert_eq!((cursor.acked, &cursor.done[..]), (lsn(0), &[(lsn(2), lsn(3)), (lsn(4), lsn(5))][..]));
    assert_eq!(cursor.attempts, [(lsn(1), 1), (lsn(4), 0)]);
    assert!(take(&mut d, at(99)).is_none(), "the four behind are blocked");
    assert_eq!((d.waiting(), d.pending(), d.poll_timeout()), (2, 4, Some(at(100))));
    let (lease, again) = d.poll_delivery(at(100)).unwrap();
    assert_eq!((lsns(&again), again.attempt()), (vec![1, 3], 2));
    d.handle_verdict(at(100), lease, Outcome::ack());
    let cursor = progress(&mut d);
    assert_eq!(cursor, Cursor { acked: lsn(4), ..Cursor::default() });
    assert_eq!(take(&mut d, at(100)).unwrap().1, [5, 6, 7, 8]);
    check_sums(&d);
}

#[test]
fn delays_grow_and_a_sink_can_ask_for_its_own() {
    let mut d = dispatcher(DeliveryConfig { retry: Retry { attempts_max: None, ..config().retry }, ..config() });
    feed(&mut d, at(0), numbered(1, 4));
    let mut now = at(0);
    for delay in [100, 200, 300, 300] {
        let (lease, _) = take(&mut d, now).unwrap();
        d.handle_verdict(now, lease, Outcome::retry("no"));
        assert_eq!(d.poll_timeout(), Some(now + ms(delay)));
        now = now + ms(delay);
    }
    let (lease, _) = take(&mut d, now).unwrap();
    let asks = |n| Verdict::Retry(Reason::new("busy").after(ms(n)));
    d.handle_verdict(now, lease, Outcome::Each(vec![retry(), asks(7000), asks(9), retry()]));
    assert_eq!(d.poll_timeout(), Some(now + ms(7000)), "the longest that was asked for");
}

#[test]
fn after_the_last_attempt_entries_are_parked_with_their_story() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 5));
    for now in [at(0), at(100), at(300)] {
        let (lease, batch) = take(&mut d, now).unwrap();
        assert_eq!(batch, [1, 2, 3, 4]);
        d.handle_verdict(now, lease, Outcome::retry("no route"));
    }
    assert_eq!((d.parking(), d.waiting()), (4, 0));
    assert!(take(&mut d, at(9000)).is_none(), "what follows waits until they are parked durably");
    let parks = events(&mut d).into_iter().filter_map(|event| match event {
        DeliveryEvent::Park { lease, entries } => Some((lease, entries)),
        _ => None,
    });
    let [(lease, entries)] = <[_; 1]>::try_from(parks.collect::<Vec<_>>()).unwrap();
    assert_eq!(entries.iter().map(|e| e.lsn.number()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let entry = &entries[1];
    assert_eq!((entry.attempts, &*entry.error, &entry.payload[..]), (3, "no route", &2_u64.to_le_bytes()[..]));
    assert_eq!((entry.first_attempt, entry.last_attempt), (UnixNanos(1_000_000_000), UnixNanos(1_300_000_000)));
    assert_eq!((entry.schema, entry.time), (SCHEMA, UnixNanos(5_000_000_000)));
    assert_eq!(d.acked(), Lsn::ZERO, "the cursor waits for the park log");
    d.handle_parked(lease);
    assert_eq!((d.acked(), d.counts().parked), (lsn(4), 4));
    d.handle_parked(lease);
    assert_eq!((d.counts().parked, d.counts().stray), (4, 1), "a second answer changes nothing");
    assert_eq!(take(&mut d, at(300)).unwrap().1, [5]);
    check_sums(&d);
}

#[test]
fn while_parking_fails_the_entries_stay_in_retry_and_the_cursor_waits() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 4));
    let (lease, _) = take(&mut d, at(0)).unwrap();
    let id = lease.id();
    d.handle_verdict(at(0), lease, Outcome::Each(vec![park(), Verdict::Ack, park(), retry()]));
    d.handle_park_failed(at(0), id, "disk full");
    assert_eq!((d.parking(), d.waiting(), d.acked()), (0, 3, Lsn::ZERO));
    let (lease, batch) = take(&mut d, at(100)).unwrap();
    assert_eq!(batch, [1, 3, 4]);
    assert_eq!(progress(&mut d).attempts, [(lsn(1), 1), (lsn(5), 0)]);
    d.handle_verdict(at(100), lease, Outcome::ack());
    assert_eq!(d.acked(), lsn(4));
    d.handle_park_failed(at(100), id, "late");
    assert_eq!(d.counts().stray, 1);
    check_sums(&d);
}

#[test]
fn an_entry_that_does_not_decode_is_parked_and_the_others_are_delivered() {
    let mut d = dispatcher(config());
    d.handle_frame(at(0), frame(1, &[b"a", b"\xff", b"c", b"\xfe"]), &Schema::new("string", 1)).unwrap();
    let (lease, raw) = d.poll_delivery(at(0)).unwrap();
    let (batch, failed) = Batch::<String>::decode(raw, None);
    assert_eq!(batch.values().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!((batch.bytes(1), batch.first(), batch.last()), (&b"c"[..], lsn(1), lsn(3)));
    for failure in &failed {
        d.handle_undecodable(&lease, failure.index, &failure.error);
        d.handle_undecodable(&lease, failure.index, "told twice");
    }
    d.handle_undecodable(&lease, 4, "there is no fifth");
    assert_eq!((d.counts().undecodable, d.counts().stray), (2, 1));
    d.handle_verdict(at(0), lease, Outcome::Each(vec![Verdict::Ack, retry()]));
    let park = events(&mut d).into_iter().find_map(|event| match event {
        DeliveryEvent::Park { lease, entries } => Some((lease, entries)),
        _ => None,
    });
    let (id, entries) = park.unwrap();
    let parked: Vec<_> = entries.iter().map(|e| (e.lsn.number(), &e.payload[..], e.attempts)).collect();
    assert_eq!(parked, [(2, &b"\xff"[..], 0), (4, &b"\xfe"[..], 0)]);
    assert!(entries[0].error.starts_with("does not decode: "), "{}", entries[0].error);
    d.handle_parked(id);
    assert_eq!((d.acked(), d.waiting()), (lsn(2), 1));
    check_sums(&d);
}

#[test]
fn a_decoder_that_panics_costs_one_entry_not_the_batch() {
    #[derive(Debug)]
    struct Fussy;
    impl crate::Entry for Fussy {
        const SCHEMA: Schema = SCHEMA;
        fn decode(bytes: &[u8]) -> Result<Self, crate::DecodeError> {
            assert_ne!(bytes, b"b", "this message belongs to the test");
            Ok(Self)
        }
    }
    let mut d = dispatcher(config());
    feed(&mut d, at(0), frame(1, &[b"a", b"b", b"c", b"d"]));
    let (_lease, raw) = d.poll_delivery(at(0)).unwrap();
    let (batch, failed) = Batch::<Fussy>::decode(raw, None);
    assert_eq!((batch.len(), failed.len(), failed[0].index), (3, 1, 1));
    assert_eq!(failed[0].error.to_string(), "decoding panicked");
}

#[test]
fn a_dropped_lease_means_retry() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 4));
    drop(take(&mut d, at(0)).unwrap());
    d.handle_timeout(at(1));
    assert_eq!((d.counts().dropped_leases, d.waiting(), d.poll_timeout()), (1, 4, Some(at(101))));
    drop(take(&mut d, at(101)).unwrap());
    assert!(take(&mut d, at(102)).is_none(), "found at the next poll as well");
    assert_eq!((d.counts().dropped_leases, d.waiting()), (2, 4));
    check_sums(&d);
}

#[test]
fn a_lease_of_another_dispatcher_goes_home_and_changes_nothing_here() {
    let (mut here, mut there) = (dispatcher(config()), dispatcher(config()));
    feed(&mut here, at(0), numbered(1, 4));
    feed(&mut there, at(0), numbered(1, 4));
    let (own, _) = take(&mut here, at(0)).unwrap();
    let (strange, _) = take(&mut there, at(0)).unwrap();
    here.handle_verdict(at(0), strange, Outcome::ack());
    assert_eq!((here.counts().stray, here.counts().delivered, here.in_flight()), (1, 0, 4));
    there.handle_timeout(at(0));
    assert_eq!((there.counts().dropped_leases, there.waiting()), (1, 4));
    here.handle_verdict(at(0), own, Outcome::ack());
    assert_eq!(here.acked(), lsn(4));
}

#[test]
fn a_wrong_number_of_verdicts_retries_all_of_the_batch() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 4));
    for (malformed, verdicts) in [(1, 0), (2, 3), (3, 5)] {
        let now = d.poll_timeout().unwrap();
        let (lease, batch) = take(&mut d, now).unwrap();
        assert_eq!(batch, [1, 2, 3, 4]);
        d.handle_verdict(now, lease, Outcome::Each(vec![Verdict::Ack; verdicts]));
        assert_eq!((d.counts().malformed, d.counts().delivered), (malformed, 0));
    }
    assert_eq!(d.parking(), 4, "a lie is an attempt as well");
}

#[test]
fn an_overdue_lease_is_told_once_and_may_still_be_answered() {
    let mut d = dispatcher(DeliveryConfig { deliver_timeout: Some(ms(50)), ..config() });
    feed(&mut d, at(0), numbered(1, 4));
    let (lease, _) = take(&mut d, at(0)).unwrap();
    assert_eq!((lease.deadline(), d.poll_timeout()), (Some(at(50)), Some(at(50))));
    d.handle_timeout(at(49));
    assert_eq!(events(&mut d), []);
    d.handle_timeout(at(50));
    d.handle_timeout(at(51));
    assert_eq!(events(&mut d), [DeliveryEvent::Overdue { lease: lease.id() }]);
    assert_eq!(d.poll_timeout(), None);
    d.handle_verdict(at(60), lease, Outcome::ack());
    assert_eq!((d.acked(), d.counts().overdue), (lsn(4), 1));
}

#[test]
fn a_new_start_delivers_neither_what_was_done_nor_forgets_what_it_cost() {
    let cursor = Cursor {
        acked: lsn(3),
        done: vec![(lsn(5), lsn(7)), (lsn(9), lsn(10))],
        attempts: vec![(lsn(4), 2), (lsn(9), 0)],
        ..Cursor::default()
    };
    let mut d = Dispatcher::new(config(), &cursor);
    assert_eq!(d.next_lsn(), lsn(4));
    feed(&mut d, at(0), numbered(1, 6));
    feed(&mut d, at(0), numbered(1, 6));
    feed(&mut d, at(0), numbered(7, 6));
    assert_eq!(d.pending(), 6);
    let (lease, raw) = d.poll_delivery(at(0)).unwrap();
    assert_eq!((lsns(&raw), raw.attempt()), (vec![4, 7, 8], 3), "cut where the attempts change");
    d.handle_verdict(at(0), lease, Outcome::retry("no"));
    assert_eq!(d.parking(), 3, "that was the third attempt");
    let id = events(&mut d).into_iter().find_map(|event| match event {
        DeliveryEvent::Park { lease, .. } => Some(lease),
        _ => None,
    });
    d.handle_parked(id.unwrap());
    assert_eq!(progress(&mut d), Cursor { acked: lsn(9), ..Cursor::default() });
    let (_lease, raw) = d.poll_delivery(at(5)).unwrap();
    assert_eq!((lsns(&raw), raw.attempt()), (vec![10, 11, 12], 1));
    check_sums(&d);
}

#[test]
fn the_cursor_of_a_new_start_may_lie_before_finished_runs() {
    let cursor = Cursor { acked: lsn(0), done: vec![(lsn(2), lsn(9))], ..Cursor::default() };
    let mut d = Dispatcher::new(config(), &cursor);
    feed(&mut d, at(0), numbered(1, 1));
    assert_eq!(d.next_lsn(), lsn(9), "a reader may go on behind what is done");
    feed(&mut d, at(0), numbered(9, 1));
    assert_eq!(take(&mut d, at(5)).unwrap().1, [1, 9]);
}

#[test]
fn a_frame_out_of_order_or_out_of_shape_changes_nothing() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 2));
    let refused = d.handle_frame(at(0), numbered(4, 1), &SCHEMA);
    assert_eq!(refused, Err(FrameRefused::Gap { wanted: lsn(3), found: lsn(4) }));
    let mut short = numbered(3, 2);
    short.header.next_lsn = lsn(6);
    assert_eq!(d.handle_frame(at(0), short, &SCHEMA), Err(FrameRefused::Count));
    let mut long = numbered(3, 2);
    long.header.raw_len = 5000;
    assert_eq!(d.handle_frame(at(0), long, &SCHEMA), Err(FrameRefused::Count));
    let torn = frame_of(FrameKind::Data, 3, 1, &[7; 16]);
    assert_eq!(d.handle_frame(at(0), torn, &SCHEMA), Err(FrameRefused::Record(BadRecord { at: 0 })));
    assert_eq!((d.pending(), d.next_lsn()), (2, lsn(3)));
    check_sums(&d);
}

#[test]
fn skipped_numbers_are_done_and_marks_bring_nothing() {
    let mut d = dispatcher(config());
    feed(&mut d, at(0), numbered(1, 1));
    feed(&mut d, at(0), frame_of(FrameKind::Mark, 2, 0, &[]));
    feed(&mut d, at(0), frame_of(FrameKind::Skip, 2, 8, &[]));
    assert_eq!((d.next_lsn(), d.counts().skipped, d.acked()), (lsn(10), 8, Lsn::ZERO));
    d.handle_skipped(lsn(5), lsn(13));
    assert_eq!((d.next_lsn(), d.counts().skipped), (lsn(13), 11));
    feed(&mut d, at(0), numbered(13, 1));
    let (lease, batch) = take(&mut d, at(5)).unwrap();
    assert_eq!(batch, [1, 13]);
    d.handle_verdict(at(5), lease, Outcome::ack());
    assert_eq!(d.acked(), lsn(13));
}

#[test]
fn a_batch_is_cut_so_that_any_pattern_of_verdicts_fits_into_the_cursor() {
    let long = DeliveryConfig { batch_len_max: 5000, ..config() };
    let mut d = dispatcher(long.clone());
    feed(&mut d, at(0), numbered(1, 3000));
    let (lease, batch) = take(&mut d, at(5)).unwrap();
    assert_eq!(batch.len(), 1025);
    let pattern = (0..1025).map(|i| if i % 2 == 0 { retry() } else { Verdict::Ack });
    d.handle_verdict(at(5), lease, Outcome::Each(pattern.collect()));
    let cursor = progress(&mut d);
    assert_eq!((cursor.done.len(), cursor.attempts.len()), (512, 2));
    // A start with a full table goes on one by one, and so makes room.
    let mut d = Dispatcher::new(long.clone(), &cursor);
    feed(&mut d, at(0), numbered(1, 3000));
    let (_lease, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [1]);
    // A sink that answers for all of a batch gets it as long as it wants.
    let mut d = dispatcher(DeliveryConfig { partial: false, ..long });
    feed(&mut d, at(0), numbered(1, 3000));
    assert_eq!(take(&mut d, at(5)).unwrap().1.len(), 3000);
}

#[test]
fn a_frame_is_let_go_with_its_last_entry() {
    let pool = Pool::new(1, 4096).unwrap();
    let mut block = pool.take().unwrap();
    let template = numbered(1, 4);
    block.copy_from_slice(&template.block);
    let mut d = dispatcher(DeliveryConfig { batch_len_max: 2, ..config() });
    feed(&mut d, at(0), Frame { block: block.freeze(), ..template });
    for (now, free) in [(0, 0), (0, 1)] {
        let (lease, _) = take(&mut d, at(now)).unwrap();
        d.handle_verdict(at(now), lease, Outcome::ack());
        assert_eq!(pool.free(), free);
    }
}
