use super::*;
use crate::wal::log::Room;

const IMMEDIATE: Commit = Commit::Immediate;

fn enospc() -> DiskError {
    DiskError { what: "prepare", file: None, offset: None, errno: libc::ENOSPC, detail: "" }
}

fn is_prepare(w: &Wrote) -> bool {
    matches!(w, Wrote::Prepare(..))
}

fn is_cursor(w: &Wrote) -> bool {
    matches!(w, Wrote::Cursor(_))
}

#[test]
fn a_slot_is_prepared_at_the_start_and_the_next_one_when_the_active_one_is_half_full() {
    let mut b = Bench::with(recovered(8, 0), config(IMMEDIATE));
    b.pump();
    assert_eq!(b.wrote(), vec![Wrote::Prepare(0, true)]);
    b.end_all();
    b.push(1, 64);
    assert!(!b.wrote().iter().any(is_prepare));
    b.end_all();
    b.push(1, 64);
    assert!(b.wrote().contains(&Wrote::Prepare(1, false)), "block 4 of 8 is next: {:?}", b.wrote());
}

#[test]
fn a_frame_that_waits_makes_the_preparation_urgent() {
    let mut b = Bench::with(recovered(8, 0), config(IMMEDIATE));
    b.push(1, 64);
    assert_eq!(b.wrote(), vec![Wrote::Prepare(0, true)]);
    assert_eq!(b.try_push(1, 64), Err(Blocked::Log));
    assert_eq!(b.log.room(), Room::Ok, "it is being prepared");
    b.end_all();
    assert_eq!(b.log.durable(), Lsn::new(1));
    b.push(1, 64);
}

/// Found by reading: one empty file with such a name made the log ask for 100 GiB, for the slots that are not there.
#[test]
fn a_slot_of_any_number_is_prepared_and_those_below_it_need_not_be_there() {
    let unprepared = vec![SlotNo(u32::MAX)];
    let mut b = Bench::with(Recovered { unprepared, ..recovered(4, 0) }, config(IMMEDIATE));
    b.push(1, 600);
    assert_eq!(b.wrote(), vec![Wrote::Prepare(u32::MAX, true)]);
    b.end_all();
    b.push(1, 600).end_all();
    assert!(b.wrote().iter().all(|w| *w == Wrote::Prepare(0, true)), "the lowest number that is free: {:?}", b.wrote());
    b.end_all();
    assert_eq!(b.log.durable(), Lsn::new(2));
}

#[test]
fn w4_a_slot_is_reused_only_when_the_cursor_behind_it_is_durable() {
    let mut b = Bench::with(recovered(4, 2), LogConfig { slots_max: 2, ..config(IMMEDIATE) });
    b.push(1, 600).end_all();
    b.push(1, 600).end_all();
    b.push(1, 600);
    assert_eq!((b.headers(), b.log.room()), (0, Room::Full));
    assert_eq!(b.try_push(1, 64), Err(Blocked::Log));
    b.ack(1);
    assert_eq!(b.wrote(), vec![Wrote::Cursor(1)], "at once, because a slot waits for it");
    assert_eq!(b.log.segments().len(), 2);
    b.end(is_cursor);
    assert_eq!((b.headers(), b.log.room(), b.log.cursor_durable()), (1, Room::Ok, Lsn::new(1)));
    b.end_all();
    assert_eq!((b.log.durable(), b.log.segments().len()), (Lsn::new(3), 2));
    let rooms: Vec<_> = b.events.iter().filter_map(|e| if let Event::Room(r) = e { Some(*r) } else { None }).collect();
    assert_eq!(rooms, vec![Room::Full, Room::Ok]);
}

#[test]
fn no_space_is_no_failure_and_is_tried_again_after_a_second() {
    let mut b = Bench::with(recovered(8, 0), config(IMMEDIATE));
    b.push(1, 64);
    b.end_with(is_prepare, Err(enospc()));
    assert_eq!((b.log.room(), b.failures(), b.out.len()), (Room::NoSpace, 0, 0));
    assert_eq!(b.log.poll_timeout(), Some(b.now + Duration::from_secs(1)));
    b.wait(999_999);
    assert_eq!(b.out.len(), 0);
    b.wait(1);
    assert_eq!(b.wrote(), vec![Wrote::Prepare(0, true)]);
    b.end_all();
    assert_eq!((b.log.room(), b.log.durable(), b.log.stats().prepare_failures), (Room::Ok, Lsn::new(1), 1));
}

/// A dead disk was taken for a full one: those who waited for durability waited for ever.
#[test]
fn a_preparation_that_fails_for_another_reason_than_space_is_final() {
    let mut b = Bench::with(recovered(8, 0), config(IMMEDIATE));
    b.push(1, 64);
    b.end_with(is_prepare, Err(DiskError { errno: libc::ENODEV, ..enospc() }));
    assert_eq!((b.failures(), b.log.failure().map(|f| f.error.errno)), (1, Some(libc::ENODEV)));
    b.end(is_meta);
    b.wait(10_000_000);
    assert_eq!(b.out.len(), 0);
}

#[test]
fn without_space_a_freed_slot_is_used_again() {
    let mut b = Bench::with(recovered(4, 2), config(IMMEDIATE));
    b.push(1, 600).end_all_but_prepare();
    b.push(1, 600).end_all_but_prepare();
    b.end_with(is_prepare, Err(enospc()));
    b.push(1, 600);
    assert_eq!(b.log.room(), Room::NoSpace);
    b.ack(2);
    b.end(is_cursor);
    assert_eq!((b.headers(), b.log.room()), (1, Room::Ok));
}

#[test]
fn free_slots_beyond_the_spare_ones_are_removed() {
    let mut b = Bench::with(recovered(8, 4), config(IMMEDIATE));
    let all = b.end_all();
    assert_eq!(all, vec![Wrote::Remove(3), Wrote::Remove(2)]);
    assert_eq!(b.log.stats().slots_free, 2);
}

/// A log that has just filled six segments, of which five came free at once.
fn busy() -> Bench {
    let mut b = Bench::with(recovered(4, 2), LogConfig { slots_max: 8, ..config(IMMEDIATE) });
    for _ in 0..6 {
        b.push(1, 600).end_all();
    }
    b.ack(5).wait(50_000);
    b
}

/// Slots that were about to be used again were removed, and prepared anew: a busy log wrote everything twice.
#[test]
fn what_a_busy_log_frees_is_kept_until_it_rests() {
    let mut b = busy();
    let removed = |all: &[Wrote]| all.iter().filter(|w| matches!(w, Wrote::Remove(_))).count();
    assert_eq!(removed(&b.end_all()), 0);
    let free = b.log.stats().slots_free;
    assert!(free >= 5, "{free} are free");
    for _ in 0..5 {
        b.push(1, 600);
        assert!(!b.wrote().iter().any(is_prepare), "they are used");
        b.end_all();
    }
    b.ack(10).wait(50_000);
    b.end_all();
    let mut waits = 0;
    while b.log.stats().slots_free > 2 {
        let due = b.log.poll_timeout().unwrap_or_else(|| panic!("{waits}: nothing ends this"));
        b.wait(u64::try_from(due.since(b.now).as_micros()).unwrap() + 1).end_all();
        waits += 1;
        assert!(waits < 10, "a log that rests gives them back: {:?}", b.log);
    }
    b.wait(5_000_000).end_all();
    assert_eq!((b.log.stats().slots_free, b.log.poll_timeout()), (2, None), "and nothing more to wake up for");
}

#[test]
fn a_disk_that_is_short_of_space_for_another_log_gets_back_what_is_kept() {
    let mut b = busy();
    b.end_all();
    b.log.disk_is_short();
    assert!(b.end_all().iter().all(|w| matches!(w, Wrote::Remove(_))));
    assert_eq!(b.log.stats().slots_free, 2);
}

#[test]
fn a_log_that_closes_gives_back_what_it_kept_before_it_is_closed() {
    let mut b = busy();
    b.end_all();
    assert!(b.log.stats().slots_free > 2);
    b.log.close(b.now);
    b.end_all();
    assert!(b.log.is_closed());
    assert_eq!(b.log.stats().slots_free, 2);
}

/// A log that delivery followed closely prepared segments while the one it was about to have waited for its cursor.
#[test]
fn a_segment_that_the_cursor_will_free_is_not_prepared_anew() {
    let mut b = Bench::with(recovered(4, 1), LogConfig { slots_max: 8, ..config(IMMEDIATE) });
    b.push(1, 600);
    b.end_all_but_prepare();
    b.end_all();
    b.push(1, 600).end_all_but_prepare();
    assert_eq!(b.wrote(), vec![Wrote::Prepare(2, false)], "nothing is acknowledged");
    b.end_all();
    b.ack(1).push(1, 600);
    assert_eq!(b.log.stats().slots_free, 0);
    b.end_all_but_cursor();
    assert_eq!(b.wrote(), vec![Wrote::Cursor(1)], "before it is due, and instead of a preparation");
    b.end(is_cursor);
    assert!(!b.wrote().iter().any(is_prepare));
    assert_eq!(b.log.stats().slots_free, 1);
}

#[test]
fn never_more_slots_than_allowed() {
    let mut b = Bench::with(recovered(4, 0), LogConfig { slots_max: 3, ..config(IMMEDIATE) });
    let mut prepared = 0;
    for _ in 0..5 {
        if b.try_push(1, 600).is_ok() {
            prepared += b.end_all().iter().filter(|w| is_prepare(w)).count();
        }
    }
    assert_eq!((prepared, b.log.room(), b.log.durable()), (3, Room::Full, Lsn::new(3)));
}

#[test]
fn the_cursor_is_due_after_its_time_or_64_acks_and_its_copies_take_turns() {
    let mut b = Bench::with(recovered(64, 2), config(IMMEDIATE));
    b.push(100, 16).end_all();
    b.wait(5000).end_all();
    b.ack(1).wait(49_999);
    assert_eq!(b.wrote(), vec![]);
    b.wait(1);
    assert_eq!(b.wrote(), vec![Wrote::Cursor(1)]);
    let place = |b: &Bench| {
        b.out.iter().find_map(|(_, op)| if let Op::Write { offset, .. } = op { Some(*offset) } else { None })
    };
    let first = place(&b).unwrap();
    for acked in 2..=70 {
        b.ack(acked);
    }
    assert_eq!(b.wrote(), vec![Wrote::Cursor(1)], "one at a time");
    b.end(is_cursor);
    assert_eq!(b.wrote(), vec![Wrote::Cursor(70)]);
    assert_eq!(place(&b).unwrap().abs_diff(first), CURSOR_LEN as u64);
    b.end(is_cursor);
    assert!(matches!(b.events.last(), Some(Event::CursorDurable(lsn)) if lsn.number() == 70));
}

#[test]
fn a_failed_cursor_write_is_final_and_none_follows() {
    let mut b = Bench::with(recovered(64, 2), config(IMMEDIATE));
    b.push(3, 16).end_all();
    b.ack(1).wait(50_000);
    b.end_with(is_cursor, Err(eio()));
    assert_eq!(b.failures(), 1);
    b.ack(2).wait(100_000);
    assert!(!b.wrote().iter().any(is_cursor));
    assert_eq!(b.log.poll_timeout(), None);
}

#[test]
fn an_empty_pool_blocks_frames_and_spares_what_the_log_needs() {
    let mut b = Bench::with(recovered(1000, 2), config(IMMEDIATE));
    let mut taken = 0;
    // Nothing completes: sealed frames keep their chunks.
    let blocked = loop {
        match b.try_push(1, 3000) {
            Ok(()) => taken += 1,
            Err(blocked) => break blocked,
        }
        assert!(taken < 1000);
    };
    assert_eq!(blocked, Blocked::Pool);
    b.events.clear();
    b.end_all();
    b.events.clear();
    assert_eq!(b.log.end(), b.log.durable());
    b.push(1, 3000);
}

/// Found by reading, after one of some 300 runs of `tests/coding.rs` had hung. What is encrypted goes into memory of its
/// own: when that was used up while the pool was empty, the chunk that the disk then gave back went to the next frame, for
/// which there was none to encrypt it into, nor for any other.
#[cfg(feature = "aes-gcm")]
#[test]
fn an_empty_pool_spares_what_frames_are_encrypted_into() {
    let keys = crate::Aes256Gcm::new(crate::KeyId::new(1), [1; 32]);
    let coding = Coding { cipher: Some(std::sync::Arc::new(keys)), ..Coding::default() };
    for len in [100, 700, 1500, 3000] {
        let mut b = Bench::with(recovered(100_000, 2), LogConfig { coding: coding.clone(), ..config(IMMEDIATE) });
        let mut taken = 0;
        while taken < 2000 {
            // Producers are faster than the disk: whatever memory there is they take.
            while b.try_push(1, len).is_ok() {
                taken += 1;
            }
            b.wait(1000);
            assert!(!b.out.is_empty(), "{len}: after {taken} nothing is written any more: {:?}", b.log);
            let (token, op) = b.out.remove(0);
            drop(op);
            b.log.handle_completion(b.now, Completion { token, result: Ok(Output::Done) });
            // Nobody keeps what is durable.
            b.events.clear();
            while b.log.poll_event().is_some() {}
        }
        b.end_all();
        assert_eq!(b.log.end(), b.log.durable(), "{len}");
    }
}

impl Bench {
    fn end_all_but_prepare(&mut self) {
        self.end_all_but(is_prepare);
    }

    fn end_all_but_cursor(&mut self) {
        self.end_all_but(is_cursor);
    }

    fn end_all_but(&mut self, stays: impl Fn(&Wrote) -> bool) {
        self.pump();
        while self.wrote().iter().any(|w| !stays(w)) {
            self.end(|w| !stays(w));
        }
    }
}
