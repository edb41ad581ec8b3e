//! Several batches out at once, by hand.

use super::*;
use crate::delivery::breaker::Breaker;
use crate::sink::{Outcome, Verdict};
use crate::wal::cursor::CURSOR_RANGES_MAX;

/// Batches of up to four at once; nothing lingers.
fn several(in_flight_max: usize) -> DeliveryConfig {
    DeliveryConfig { in_flight_max, linger: ms(0), ..config() }
}

fn give(d: &mut Dispatcher, lanes: &[u32]) {
    let first = d.next_lsn().number();
    let frame = numbered_in(first, lanes.len() as u64, |lsn| lanes[(lsn - first) as usize]);
    feed(d, at(0), frame);
}

#[test]
fn what_shares_no_key_with_what_is_out_goes_out_and_the_rest_waits_for_it() {
    let mut d = dispatcher(several(3));
    give(&mut d, &[1, 2, 1, 2, /* out */ 1, 3, 2, 3, 4]);
    let (first, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [1, 2, 3, 4]);
    let (second, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [6, 8, 9], "lanes 1 and 2 are out");
    assert!(take(&mut d, at(9)).is_none(), "5 and 7 wait, though there is room for a third batch");
    assert_eq!((d.pending(), d.in_flight(), d.poll_timeout()), (2, 7, None));
    // The later one first: the cursor's watermark stays, and remembers it above.
    d.handle_verdict(at(1), second, Outcome::ack());
    let cursor = progress(&mut d);
    assert_eq!((cursor.acked, cursor.done), (lsn(0), vec![(lsn(6), lsn(7)), (lsn(8), lsn(10))]));
    // Lane 1 is free, lane 2 is not.
    let each = vec![Verdict::Ack, Verdict::Ack, Verdict::Ack, Verdict::Retry("no".into())];
    d.handle_verdict(at(2), first, Outcome::Each(each));
    let (third, batch) = take(&mut d, at(2)).unwrap();
    assert_eq!(batch, [5]);
    let (again, batch) = take(&mut d, at(102)).unwrap();
    assert_eq!(batch, [4]);
    d.handle_verdict(at(103), again, Outcome::ack());
    d.handle_verdict(at(103), third, Outcome::ack());
    let (last, batch) = take(&mut d, at(103)).unwrap();
    assert_eq!(batch, [7]);
    d.handle_verdict(at(104), last, Outcome::ack());
    assert_eq!(progress(&mut d), Cursor { acked: lsn(9), ..Cursor::default() });
    check_sums(&d);
}

#[test]
fn an_entry_that_always_fails_holds_up_its_key_only() {
    let mut d = dispatcher(several(2));
    give(&mut d, &[1]);
    let (poison, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), poison, Outcome::retry("no"));
    for round in 0..20 {
        give(&mut d, &[1, 2, 3]);
        let (lease, batch) = take(&mut d, at(1)).unwrap();
        assert_eq!(batch, [2 + 3 * round + 1, 2 + 3 * round + 2]);
        d.handle_verdict(at(1), lease, Outcome::ack());
    }
    assert_eq!((d.pending(), d.waiting()), (20, 1));
}

/// The same frame in a chunk of this pool, if there is one.
fn within(pool: &Pool, frame: Frame) -> Option<Frame> {
    let mut chunk = pool.take()?;
    chunk[..frame.block.len()].copy_from_slice(&frame.block);
    Some(Frame { block: chunk.freeze(), ..frame })
}

/// Each frame with an entry of a key that fails kept its chunk, until delivery had as many as it may have; and what was
/// passed over counted as what the next batches are made of.
#[test]
fn what_is_passed_over_holds_no_frame_and_no_other_key() {
    let pool = Pool::new(1, 4096).unwrap();
    let mut d = dispatcher(several(4));
    give(&mut d, &[1]);
    let (poison, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), poison, Outcome::retry("no"));
    for round in 0..50 {
        assert!(d.wants_frames(), "round {round}");
        let first = d.next_lsn().number();
        let frame = numbered_in(first, 2, |lsn| if lsn == first { 1 } else { 2 });
        feed(&mut d, at(1), within(&pool, frame).expect("no frame from before is kept"));
        let (lease, batch) = take(&mut d, at(1)).unwrap();
        assert_eq!(batch, [first + 1]);
        d.handle_verdict(at(1), lease, Outcome::ack());
    }
    let strange: [&[u8]; 4] = [b"a", b"", b"bcd", b"nine byte"];
    let first = d.next_lsn().number();
    feed(&mut d, at(1), frame_in(first, &strange, |_| 1));
    assert!(d.poll_delivery(at(1)).is_none());

    let (again, _) = take(&mut d, at(101)).unwrap();
    d.handle_verdict(at(101), again, Outcome::ack());
    let (mut seen, mut bytes) = (Vec::new(), Vec::new());
    while let Some((lease, batch)) = d.poll_delivery(at(102)) {
        for at in 0..batch.len() {
            assert!(batch.bytes(at).as_ptr().addr().is_multiple_of(8), "{}", batch.lsn(at));
            seen.push(batch.lsn(at).number());
            bytes.push(batch.bytes(at).to_vec());
        }
        d.handle_verdict(at(102), lease, Outcome::ack());
    }
    assert_eq!(seen, (0..50).map(|round| 2 + 2 * round).chain(first..first + 4).collect::<Vec<_>>());
    let expected = seen[..50].iter().map(|lsn| lsn.to_le_bytes().to_vec()).chain(strange.map(<[u8]>::to_vec));
    assert_eq!(bytes, expected.collect::<Vec<_>>());
    assert_eq!((d.acked().number(), d.pending()), (first + 3, 0));
    check_sums(&d);
}

#[test]
fn what_is_passed_over_takes_no_more_memory_than_it_may() {
    let mut d = dispatcher(DeliveryConfig { held_max: 1000, ..several(2) });
    give(&mut d, &[1]);
    let (poison, _) = take(&mut d, at(0)).unwrap();
    let mut held = 0;
    while d.wants_frames() {
        give(&mut d, &[1, 1, 1]);
        assert!(take(&mut d, at(0)).is_none());
        held += 3;
    }
    assert!((20..100).contains(&held), "entries of 8 bytes with what they are found by: {held}");
    d.handle_verdict(at(1), poison, Outcome::ack());
    while let Some((lease, batch)) = take(&mut d, at(1)) {
        held -= batch.len();
        d.handle_verdict(at(1), lease, Outcome::ack());
    }
    assert_eq!((held, d.wants_frames()), (0, true));
}

/// It was the oldest of those that nobody has looked at, though what is passed over is older.
#[test]
fn the_oldest_entry_may_be_one_that_was_passed_over() {
    let mut d = dispatcher(several(2));
    let give_at = |d: &mut Dispatcher, time: u64, lane: u32| {
        let mut frame = numbered_in(d.next_lsn().number(), 1, |_| lane);
        frame.header.time = UnixNanos(time);
        feed(d, at(0), frame);
    };
    give_at(&mut d, 1, 1);
    let (first, _) = take(&mut d, at(0)).unwrap();
    give_at(&mut d, 2, 1);
    assert!(take(&mut d, at(0)).is_none());
    give_at(&mut d, 3, 2);
    assert_eq!(d.oldest_time(), Some(UnixNanos(1)));
    d.handle_verdict(at(1), first, Outcome::ack());
    assert_eq!(d.oldest_time(), Some(UnixNanos(2)));
}

#[test]
fn entries_without_a_key_keep_their_order_among_themselves() {
    let mut d = dispatcher(several(4));
    give(&mut d, &[0; 6]);
    let (lease, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!((batch.as_slice(), take(&mut d, at(0)).is_none()), (&[1, 2, 3, 4][..], true));
    d.handle_verdict(at(0), lease, Outcome::ack());
    assert_eq!(take(&mut d, at(0)).unwrap().1, [5, 6]);
}

#[test]
fn what_may_be_done_out_of_order_always_fits_into_the_cursor() {
    for partial in [true, false] {
        let mut d = dispatcher(DeliveryConfig { partial, batch_len_max: 400, ..several(8) });
        // Every second entry shares a key with what is out: whatever else goes out leaves gaps.
        let lanes: Vec<_> = (0..4000).map(|n| if n % 2 == 0 { 1 } else { 2 + n / 500 }).collect();
        give(&mut d, &lanes);
        let (mut out, mut acked) = (Vec::new(), Vec::new());
        let mut rounds = 0;
        while !d.is_idle() {
            out.extend(std::iter::from_fn(|| take(&mut d, at(rounds))));
            // The youngest first, so that as much as can be lies above the watermark.
            let (lease, batch) = out.pop().expect("something is out");
            d.handle_verdict(at(rounds), lease, Outcome::ack());
            let cursor = progress(&mut d);
            assert!(cursor.done.len() <= CURSOR_RANGES_MAX);
            let restart = Dispatcher::new(several(8), &cursor);
            acked.extend(batch);
            assert!(acked.iter().all(|n| restart.finished.contains(lsn(*n))), "what was acknowledged is in the cursor");
            rounds += 1;
            assert!(rounds < 4000, "it comes to its end");
        }
        assert_eq!(d.acked(), lsn(4000));
    }
}

#[test]
fn attempts_are_kept_for_each_entry_of_batches_that_lie_in_each_other() {
    let mut d = dispatcher(DeliveryConfig { batch_len_max: 2, ..several(3) });
    give(&mut d, &[1, 1, 2, 1, 2, 1]);
    let (first, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [1, 2]);
    let (second, batch) = take(&mut d, at(0)).unwrap();
    assert_eq!(batch, [3, 5]);
    d.handle_verdict(at(0), second, Outcome::retry("no"));
    assert_eq!(progress(&mut d).attempts, [(lsn(3), 1), (lsn(4), 0), (lsn(5), 1), (lsn(6), 0)]);
    d.handle_verdict(at(0), first, Outcome::retry("no"));
    // A new start offers each as its next attempt.
    let mut d = Dispatcher::new(several(3), &progress(&mut d));
    give(&mut d, &[1, 1, 2, 1, 2, 1]);
    let attempts: Vec<_> = std::iter::from_fn(|| {
        let (lease, batch) = d.poll_delivery(at(0))?;
        d.handle_verdict(at(0), lease, Outcome::ack());
        Some((lsns(&batch), batch.attempt()))
    })
    .collect();
    assert_eq!(attempts, [(vec![1, 2, 3], 2), (vec![4], 1), (vec![5], 2), (vec![6], 1)]);
}

#[test]
fn a_breaker_that_is_half_open_lets_one_batch_through_at_a_time() {
    let breaker = Some(Breaker { failures: 1, open_for: ms(50), ..Breaker::default() });
    let mut d = dispatcher(DeliveryConfig { breaker, ..several(3) });
    give(&mut d, &[1]);
    let (lease, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), lease, Outcome::retry("no"));
    give(&mut d, &[2, 3]);
    assert!(take(&mut d, at(49)).is_none());
    let (probe, batch) = take(&mut d, at(50)).unwrap();
    assert_eq!((batch.as_slice(), take(&mut d, at(150)).is_none()), (&[2, 3][..], true));
    d.handle_verdict(at(150), probe, Outcome::ack());
    assert_eq!(take(&mut d, at(150)).unwrap().1, [1]);
}

#[test]
fn the_length_of_batches_follows_the_sink_and_what_is_there_goes_out_at_once() {
    let adaptive = Some((2, 8));
    let mut d = dispatcher(DeliveryConfig { adaptive, batch_len_max: 6, linger: ms(1000), ..config() });
    let mut now = 0;
    let mut lens = Vec::new();
    for latency in [10, 20, 20, 20, 20, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] {
        while d.wants_frames() {
            let next = d.next_lsn().number();
            feed(&mut d, at(now), numbered(next, 1));
        }
        // A full batch never waits, whatever its length has become.
        let (lease, batch) = take(&mut d, at(now)).expect("as much is there as a batch is long");
        now += latency;
        lens.push(batch.len());
        d.handle_verdict(at(now), lease, Outcome::ack());
    }
    assert_eq!(lens, [6, 6, 5, 4, 3, 2, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]);
    assert_eq!(d.acked().number(), lens.iter().sum::<usize>() as u64);
    // Failures say nothing of its speed.
    let mut again = take(&mut d, at(now)).unwrap();
    for _ in 0..2 {
        d.handle_verdict(at(now + 500), again.0, Outcome::retry("no"));
        now += 1000;
        again = take(&mut d, at(now)).unwrap();
    }
    d.handle_verdict(at(now + 1), again.0, Outcome::ack());
    while d.wants_frames() {
        let next = d.next_lsn().number();
        feed(&mut d, at(now), numbered(next, 1));
    }
    let (_lease, batch) = take(&mut d, at(now)).unwrap();
    assert_eq!(batch.len(), 8);
}
