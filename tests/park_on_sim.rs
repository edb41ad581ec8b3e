//! The park over power cuts: a whole queue on a simulated machine and clock.
#![cfg(feature = "testing")]

mod stage;

use ringwal::sim::{Closing, Death, Fault, ManualClock, OpKind, SimDisk, SinkTurn, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::OnCorruption;
use ringwal::{Builder, Concern, Durability, LogError, Lsn, ParkFull, ShutdownError};
use stage::{MS, Reply, Script, Stage, settings};

/// A later process on the machine: each draws its segments' identities from a seed of its own.
fn again(machine: &SimDisk, clock: &ManualClock, seed: u64) -> Stage {
    let script = Script::default();
    let given = SteppedSettings { seed, clock: clock.clone(), store: None, mutants: Mutants::NONE };
    let queue = SteppedQueue::open(builder(), given, machine, script.clone()).unwrap();
    Stage { queue, machine: machine.clone(), clock: clock.clone(), script }
}

fn builder() -> Builder {
    settings(Durability::Immediate).on_corruption(OnCorruption::CutTail)
}

/// Pushes so many entries, each of which the sink refuses for good.
fn refuse(stage: &mut Stage, count: usize) {
    stage.script.then([Reply::Park].repeat(count));
    for _ in 0..count {
        stage.producer().push(b"refused".to_vec()).unwrap();
        stage.settle();
    }
}

fn listed(stage: &mut Stage) -> usize {
    let answer = stage.queue.list_parked(Lsn::ZERO, 100);
    stage.settle();
    answer.try_recv().expect("answered").expect("the park can be read").len()
}

/// Nothing of the park can be read any more but its segments' headers.
fn rot_park(machine: &SimDisk) {
    let slots = machine.files().into_iter().filter(|file| matches!(file, FileId::Slot(LogId::Park, _)));
    for slot in slots.collect::<Vec<_>>() {
        let len = machine.file(slot).expect("there").len();
        // Behind the two copies of the header.
        (2 * 4096..len).step_by(4096).for_each(|at| machine.rot(slot, at as u64, 0xff));
    }
}

/// Found by reading: what opening gave up of the park has numbers that are no entries, and only the park's cursor says so. Frames
/// behind them could be durable earlier than that cursor: after a power cut between the two they counted as parked.
#[test]
fn numbers_that_a_cut_took_from_the_park_are_on_disk_as_gone_before_anything_is_parked_behind_them() {
    let mut stage = Stage::<Vec<u8>>::open(builder());
    refuse(&mut stage, 3);
    assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (3, 3));
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    stage.close().unwrap();
    rot_park(&machine);

    let mut stage = again(&machine, &clock, 2);
    assert_eq!(stage.queue.recovery().lost_parked, [(Lsn::new(1), Lsn::new(3))]);
    assert_eq!(stage.queue.metrics().parked, 0);
    // Less time passes than the cursor takes to be due.
    refuse(&mut stage, 1);
    machine.crash();
    drop(stage);

    let mut stage = again(&machine, &clock, 3);
    let parked = stage.queue.metrics().parked;
    assert_eq!(parked, listed(&mut stage) as u64, "{:?}", stage.queue.recovery());
    stage.settle();

    // Nothing waits for ever: as soon as the cursor is there, the park takes entries again.
    refuse(&mut stage, 2);
    stage.pass(100 * MS);
    let parked_now = stage.queue.metrics().parked;
    assert!(parked_now > parked, "{:?}", stage.queue.metrics());
    assert_eq!(parked_now, listed(&mut stage) as u64);
    stage.close().unwrap();
    let mut stage = again(&machine, &clock, 4);
    assert_eq!((stage.queue.metrics().parked, listed(&mut stage) as u64), (parked_now, parked_now));
}

/// As above, up to the opening that gives up what was parked.
fn opened_after_a_loss() -> Stage {
    let mut stage = Stage::<Vec<u8>>::open(builder());
    refuse(&mut stage, 1);
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    stage.close().unwrap();
    rot_park(&machine);
    again(&machine, &clock, 2)
}

#[test]
fn a_park_whose_cursor_cannot_be_written_after_a_loss_lets_go_of_who_waits_for_it() {
    let mut stage = opened_after_a_loss();
    let eio = 5;
    stage.machine.inject(Fault::error(OpKind::Write, eio).on(FileId::Meta(LogId::Park)).forever());
    // One waits while the write fails, one comes later: both are offered again, and taken.
    refuse(&mut stage, 1);
    for _ in 0..10 {
        stage.pass(100 * MS);
    }
    assert_eq!(stage.queue.metrics().delivered, 1, "{:?}", stage.queue.metrics());
    refuse(&mut stage, 1);
    for _ in 0..10 {
        stage.pass(100 * MS);
    }
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.delivered, metrics.parked), (2, 0), "{metrics:?}");
}

/// Found by reading: the number after the greatest was asked for, and that ended the flush core.
#[test]
fn whoever_lists_the_park_behind_its_end_is_told_that_nothing_is_there() {
    let mut stage = Stage::<Vec<u8>>::open(builder());
    refuse(&mut stage, 3);
    for (after, ids) in [(2, vec![3]), (3, vec![]), (4, vec![]), (u64::MAX - 1, vec![]), (u64::MAX, vec![])] {
        let answer = stage.queue.list_parked(Lsn::new(after), 10);
        stage.settle();
        let page = answer.try_recv().expect("answered").expect("the park can be read");
        assert_eq!(page.iter().map(|entry| entry.id.number()).collect::<Vec<_>>(), ids, "after {after}");
    }
    stage.close().unwrap();
}

/// Found by reading: who came after the failure waited for a cursor that nobody would write, and was counted as answered.
#[test]
fn nothing_leaves_a_park_whose_cursor_cannot_be_written_and_whoever_asks_is_told_why() {
    let eio = 5;
    for frame_first in [false, true] {
        let mut stage = Stage::<Vec<u8>>::open(builder());
        refuse(&mut stage, 3);
        if frame_first {
            // The log tells this failure. The cursor can still be written.
            let slot = FileId::Slot(LogId::Park, ringwal::SlotNo(0));
            stage.machine.inject(Fault::error(OpKind::Write, eio).on(slot));
            refuse(&mut stage, 1);
            let answer = stage.queue.unpark(vec![Lsn::new(1)], false);
            stage.settle();
            stage.pass(100 * MS);
            assert_eq!(answer.try_recv().expect("answered"), Ok(()));
        }
        let discarded = stage.queue.metrics().discarded;
        stage.machine.inject(Fault::error(OpKind::Write, eio).on(FileId::Meta(LogId::Park)).forever());
        for (id, counted) in [(2, 1), (3, 0)] {
            let before = stage.queue.metrics();
            let answer = stage.queue.unpark(vec![Lsn::new(id)], false);
            stage.settle();
            stage.pass(100 * MS);
            let answer =
                answer.try_recv().unwrap_or_else(|_| panic!("{id}, {frame_first}: no answer: {:?}", stage.queue));
            assert!(matches!(answer, Err(LogError::Failed(_))), "{id}: {answer:?}");
            let after = stage.queue.metrics();
            assert_eq!((after.discarded - before.discarded, before.parked - after.parked), (counted, counted), "{id}");
        }
        assert_eq!(stage.queue.metrics().discarded, discarded + 1);
        assert_accounted(&stage);
    }
}

/// A park of four segments, which some 250 entries fill; the first of each process begins a segment.
fn bounded() -> Builder {
    settings(Durability::Immediate).park_bytes_max(2 << 20).park_full(ParkFull::DropOldest)
}

/// What lies in the park: numbers of the queue, in the order of the park's.
fn parked_lsns(stage: &mut Stage) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), Lsn::ZERO);
    loop {
        let answer = stage.queue.list_parked(after, 100);
        stage.settle();
        let page = answer.try_recv().expect("answered").expect("the park can be read");
        let Some(last) = page.last() else {
            return found;
        };
        after = last.id;
        found.extend(page.iter().map(|entry| entry.lsn.number()));
    }
}

fn assert_accounted(stage: &Stage) {
    let metrics = stage.queue.metrics();
    assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:#?}");
}

/// Under `DropOldest` a full park holds nothing up: what is discarded is the oldest, is counted, and is all that is gone.
#[test]
fn a_full_park_that_drops_its_oldest_takes_the_newest_and_counts_what_is_gone() {
    let mut stage = Stage::<Vec<u8>>::open(bounded());
    const ENTRIES: u64 = 700;
    for n in 0..ENTRIES {
        stage.script.then([Reply::Park]);
        stage.producer().push(vec![n as u8; 1900]).unwrap();
        stage.settle_with(|queue| {
            let metrics = queue.metrics();
            assert_eq!(metrics.accounted(), metrics.came_in(), "entry {n}: {metrics:#?}");
        });
    }
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.parked + metrics.park_dropped, metrics.pending), (ENTRIES, 0), "{metrics:#?}");
    assert_eq!((metrics.discarded, metrics.retries), (metrics.park_dropped, 0), "nothing waited for room");
    assert!(metrics.park_dropped > ENTRIES / 4 && metrics.parked > 150, "{metrics:#?}");
    let health = stage.queue.health();
    assert!(health.reasons().contains(&Concern::ParkDropped(metrics.park_dropped)), "{health:?}");
    let found = parked_lsns(&mut stage);
    assert_eq!(found, (metrics.park_dropped + 1..=ENTRIES).collect::<Vec<_>>());
    stage.close().unwrap();
}

/// While the cursor that frees the first one is on its way, no second one is given up for the same want.
#[test]
fn one_segment_of_the_park_is_dropped_at_a_time_however_long_its_cursor_takes() {
    let mut stage = Stage::<Vec<u8>>::open(bounded());
    let meta = FileId::Meta(LogId::Park);
    stage.machine.inject(Fault::hung(OpKind::Write).on(meta));
    for n in 0..400_u32 {
        stage.script.then([Reply::Park]);
        // Once the park is full the ring fills as well.
        let _ = stage.producer().try_push(vec![n as u8; 1900]);
        stage.pass(100 * MS);
    }
    let metrics = stage.queue.metrics();
    assert!((1..=63).contains(&metrics.park_dropped), "a segment holds 63: {metrics:#?}");
    assert!(metrics.parked + metrics.park_dropped < metrics.pushed, "some wait: {metrics:#?}");
    stage.machine.heal();
    stage.pass(100 * MS);
    for _ in 0..50 {
        stage.pass(100 * MS);
    }
    assert_accounted(&stage);
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.parked + metrics.park_dropped + metrics.delivered, metrics.pending), (metrics.pushed, 0));
}

/// As `settle`, but a machine without power gives a queue no rest.
fn until_it_dies(stage: &mut Stage) {
    for _ in 0..10_000 {
        let moved = stage.queue.turn_core() | stage.machine.step() | (stage.queue.turn_sink() == SinkTurn::Turned);
        let due = [stage.queue.next_due(), stage.machine.next_due()].into_iter().flatten().min();
        match due.filter(|_| !moved) {
            _ if stage.queue.has_failed() => return,
            Some(due) => stage.clock.advance_to(due),
            None if !moved && !stage.queue.is_out() && !stage.queue.is_awake() => return,
            None => {}
        }
    }
    panic!("it does neither rest nor die: {:?}", stage.queue);
}

/// A crash at any op around the discarding: the next process finds every entry but the oldest in the park, or offers it again.
#[test]
fn a_crash_while_the_oldest_parked_entries_are_dropped_loses_nothing_else() {
    // Up to shortly before the park is full.
    let mut stage = Stage::<Vec<u8>>::open(bounded());
    let mut count = 0;
    let push = |stage: &mut Stage, count: &mut u64| {
        stage.script.then([Reply::Park]);
        *count += 1;
        stage.producer().push(vec![*count as u8; 1900]).unwrap();
    };
    while stage.queue.metrics().park_dropped == 0 {
        push(&mut stage, &mut count);
        stage.settle();
        assert!(count < 700, "the park is never full");
    }
    let until_full = count;
    drop(stage);
    let mut dropped_at_crash = [0_u32; 2];
    for ops in 1..=60 {
        let mut stage = Stage::<Vec<u8>>::open(bounded());
        let mut count = 0;
        while count + 2 < until_full {
            push(&mut stage, &mut count);
            stage.settle();
        }
        stage.machine.set_fuse(ops, Death::PowerCut);
        for _ in 0..6 {
            if !stage.queue.has_failed() {
                push(&mut stage, &mut count);
                until_it_dies(&mut stage);
            }
        }
        if !stage.queue.has_failed() {
            stage.machine.crash();
        }
        let durable = stage.queue.metrics().durable_lsn.number();
        dropped_at_crash[usize::from(stage.queue.metrics().park_dropped > 0)] += 1;
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        drop(stage);
        let script = Script::default();
        script.then([Reply::Park].repeat(700));
        let given = SteppedSettings { seed: 9, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let queue = SteppedQueue::open(bounded(), given, &machine, script.clone()).unwrap();
        let mut stage = Stage { queue, machine, clock, script };
        stage.settle();
        for _ in 0..10 {
            stage.pass(100 * MS);
        }
        assert_accounted(&stage);
        let metrics = stage.queue.metrics();
        assert_eq!(metrics.pending, 0, "after {ops} ops: {metrics:#?}");
        let mut found = parked_lsns(&mut stage);
        assert_eq!(found.len() as u64, metrics.parked, "after {ops} ops");
        // Parked twice is at least once: the crash came before the cursor said so.
        found.sort_unstable();
        found.dedup();
        let (first, last) = (found[0], found[found.len() - 1]);
        assert_eq!(found, (first..=last).collect::<Vec<_>>(), "after {ops} ops there is a hole");
        assert!(last >= durable, "after {ops} ops: {last}, and {durable} was durable");
        assert!(last - first > 100, "after {ops} ops only {first} to {last} are left");
    }
    assert!(dropped_at_crash.iter().all(|count| *count > 3), "{dropped_at_crash:?}");
}

/// A park that waits for its cursor after a loss, and a refused entry that waits for the park, while the queue closes.
fn closing_while_the_park_waits() -> Stage {
    let mut stage = opened_after_a_loss();
    // Less time passes than the cursor takes to be due.
    refuse(&mut stage, 1);
    let metrics = stage.queue.metrics();
    assert_eq!((metrics.parked, metrics.pending, metrics.delivered), (0, 1, 0), "{metrics:?}");
    stage.queue.begin_closing(true);
    stage.settle();
    assert!(stage.queue.poll_close(false).is_none());
    assert_eq!(stage.queue.closing(), Some(Closing::Sink), "it waits for the park");
    stage
}

#[test]
fn closing_while_the_park_waits_for_its_cursor_waits_with_it_and_then_parks() {
    let mut stage = closing_while_the_park_waits();
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    let mut outcome = None;
    for _ in 0..20 {
        stage.pass(10 * MS);
        outcome = outcome.or_else(|| stage.queue.poll_close(false));
    }
    let state = outcome.expect("nothing is left to wait for").expect("all is well");
    assert_eq!((state.parked, state.left_in_log, state.delivered), (1, 0, 0), "{state:?}");
    drop(stage);
    let mut stage = again(&machine, &clock, 3);
    assert_eq!((stage.queue.recovery().recovered, stage.queue.metrics().parked, listed(&mut stage)), (0, 1, 1));
}

/// The deadline is over first: the entry comes again, wherever the power goes on the way.
#[test]
fn closing_that_does_not_wait_for_the_parks_cursor_leaves_the_entry_in_the_log_whatever_a_power_cut_takes() {
    for fuse in 1..200 {
        let mut stage = closing_while_the_park_waits();
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        machine.set_fuse(fuse, Death::PowerCut);
        let mut outcome = None;
        // When it has ended it lets go of the machine itself.
        let lives = |stage: &Stage| machine.is_connected() || stage.queue.has_ended();
        for _ in 0..20 {
            if outcome.is_none() && lives(&stage) {
                outcome = stage.queue.poll_close(stage.queue.closing() != Some(Closing::Logs));
            }
            if outcome.is_none() && lives(&stage) {
                stage.settle();
            }
        }
        if let Some(Ok(state) | Err(ShutdownError::Deadline(state))) = &outcome {
            assert_eq!((state.parked, state.left_in_log, state.lost), (0, 1, 0), "{state:?}");
        }
        drop(stage);
        machine.heal();
        let mut stage = again(&machine, &clock, 3);
        let parked = stage.queue.metrics().parked;
        assert_eq!((parked, listed(&mut stage)), (0, 0), "fuse {fuse}: {:?}", stage.queue.recovery());
        assert_eq!(stage.queue.recovery().recovered, 1, "fuse {fuse}");
        stage.settle();
        assert_eq!(stage.queue.metrics().delivered, 1, "fuse {fuse}");
        if outcome.is_some() {
            assert!(fuse > 2, "closing has more steps");
            return;
        }
    }
    panic!("closing never came to its end");
}

/// Taking entries out of the park waits for the park's cursor; closing meanwhile waits with it, and what was answered holds.
#[test]
fn a_discard_that_waits_for_the_parks_cursor_while_the_queue_closes_is_answered_and_holds() {
    for late in [false, true] {
        let mut stage = Stage::<Vec<u8>>::open(builder());
        refuse(&mut stage, 3);
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        // The cursor comes no further until the machine is let go.
        machine.inject(Fault::hung(OpKind::Write).on(FileId::Meta(LogId::Park)));
        let answer = stage.queue.unpark(vec![Lsn::new(1), Lsn::new(3)], false);
        stage.pass(1000 * MS);
        assert!(answer.try_recv().is_err(), "its cursor is not on disk");
        stage.queue.begin_closing(true);
        for _ in 0..10 {
            stage.settle();
            // The sink has nothing to do: it is the logs that are waited for, and these have no deadline of the user's.
            assert!(stage.queue.poll_close(late && stage.queue.closing() != Some(Closing::Logs)).is_none());
        }
        assert_eq!((stage.queue.closing(), stage.queue.has_ended()), (Some(Closing::Logs), false));
        assert!(answer.try_recv().is_err(), "nor is it yet");
        machine.heal();
        let mut outcome = None;
        for _ in 0..10 {
            stage.settle();
            outcome = outcome.or_else(|| stage.queue.poll_close(false));
        }
        answer.try_recv().expect("an answer").expect("it is done");
        let state = outcome.expect("nothing is left to wait for").expect("all is well");
        assert_eq!((state.parked, state.discarded, state.left_in_log), (1, 2, 0), "{state:?}");
        drop(stage);
        machine.crash();
        let mut stage = again(&machine, &clock, 3);
        assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (1, 1));
    }
}

/// A bit of the body of this parked entry, each being in a frame of its own, flips.
fn rot_one(machine: &SimDisk, id: u64) {
    let slots = machine.files().into_iter().filter(|file| matches!(file, FileId::Slot(LogId::Park, _)));
    for slot in slots.collect::<Vec<_>>() {
        let bytes = machine.file(slot).expect("there");
        let is_it = |at: &usize| bytes[*at..].starts_with(b"RWFR\x01") && bytes[*at + 16..*at + 24] == id.to_le_bytes();
        if let Some(at) = (8192..bytes.len()).step_by(4096).find(is_it) {
            machine.rot(slot, at as u64 + 100, 1);
            return;
        }
    }
    panic!("{id} is not there");
}

/// Found when rot was drawn in the park's log: a parked entry that rotted while the queue was open ended every listing, so that
/// nobody could take out what lay behind it, nor make room: with `Quarantine` too, and in every later life.
#[test]
fn what_rots_in_the_park_is_given_up_where_that_is_allowed_and_hides_nothing_behind_it() {
    for policy in [OnCorruption::Quarantine, OnCorruption::Stop] {
        let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate).on_corruption(policy));
        refuse(&mut stage, 4);
        rot_one(&stage.machine, 2);
        let answer = stage.queue.list_parked(Lsn::ZERO, 100);
        stage.settle();
        let listed_ids = answer.try_recv().expect("answered").map(|page| page.iter().map(|e| e.id.number()).collect());
        let metrics = stage.queue.metrics();
        assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:?}");
        if policy == OnCorruption::Stop {
            let error: Result<Vec<u64>, _> = listed_ids;
            assert!(matches!(&error, Err(LogError::Corrupt(what)) if what.contains("entries 2 to 2")), "{error:?}");
            assert_eq!((metrics.parked, metrics.lost), (4, 0));
            continue;
        }
        assert_eq!(listed_ids.unwrap(), [1, 3, 4]);
        assert_eq!((metrics.parked, metrics.lost), (3, 1), "it is told");
        // And for good.
        stage.pass(100 * MS);
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        machine.crash();
        drop(stage);
        let mut stage = again(&machine, &clock, 2);
        assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (3, 3), "{:?}", stage.queue.recovery());
    }
}

/// Found by a seed: of numbers that opening had given up only the cursor said that they are no entries, and its write was lost.
/// They counted as parked for ever after, nothing could take them out, and their segment never came free.
#[test]
fn numbers_that_the_log_itself_says_are_none_leave_the_park_when_it_is_listed() {
    let mut stage = opened_after_a_loss();
    assert_eq!(stage.queue.recovery().lost_parked, [(Lsn::new(1), Lsn::new(1))]);
    let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
    let meta = FileId::Meta(LogId::Park);
    let before = machine.file(meta).expect("there");
    refuse(&mut stage, 2);
    stage.pass(100 * MS);
    stage.close().unwrap();
    // Both copies of the cursor are what they were before the cut was noted.
    let mut after = machine.file(meta).expect("there");
    after[8192..].copy_from_slice(&before[8192..]);
    machine.set_file(meta, Some(after));

    let mut stage = again(&machine, &clock, 3);
    assert_eq!(stage.queue.metrics().parked, 3, "{:?}", stage.queue.recovery());
    assert_eq!((listed(&mut stage), stage.queue.metrics().parked), (2, 2));
    let metrics = stage.queue.metrics();
    assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:?}");
    // And for good.
    stage.pass(100 * MS);
    machine.crash();
    drop(stage);
    let mut stage = again(&machine, &clock, 4);
    assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (2, 2));
}

/// Found by the stress test: while the park was listed everything in a segment that the listing had yet to come to was taken
/// out, and the segment came free. Its numbers were told as lost, though nothing was wrong with the disk.
#[test]
fn a_segment_of_the_park_that_comes_free_under_a_listing_is_not_taken_for_lost() {
    // Each entry has a block, and a segment 63 of them. The listing waits in the first one, or in the second.
    for (waits_in, found_before) in [(0, 0), (1, 63)] {
        let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
        stage.script.then([Reply::Park].repeat(160));
        for n in 1..=160 {
            stage.producer().push(vec![n; 1900]).unwrap();
            stage.settle();
        }
        let slot = FileId::Slot(LogId::Park, ringwal::SlotNo(waits_in));
        stage.machine.inject(Fault::hung(OpKind::Read).on(slot).forever());
        let listing = stage.queue.list_parked(Lsn::ZERO, 1000);
        stage.settle();
        let discarded = stage.queue.unpark((1..=140).map(Lsn::new).collect(), false);
        stage.settle();
        stage.pass(100 * MS);
        discarded.try_recv().expect("answered").expect("they are gone, on disk too");
        assert!(listing.try_recv().is_err(), "it waits for the disk");
        stage.machine.heal();
        stage.settle();
        let page = listing.try_recv().expect("answered").expect("the park can be read");
        let ids: Vec<u64> = page.iter().map(|entry| entry.id.number()).collect();
        assert_eq!(ids, (1..=found_before).chain(141..=160).collect::<Vec<_>>());
        assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (20, 20));
    }
}

/// As an opening does, which passes what the cursor says is gone.
#[test]
fn what_rots_after_it_was_taken_out_of_the_park_is_not_missed() {
    let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
    refuse(&mut stage, 4);
    let discarded = stage.queue.unpark(vec![Lsn::new(2), Lsn::new(3)], false);
    stage.settle();
    stage.pass(100 * MS);
    assert_eq!(discarded.try_recv().expect("answered"), Ok(()));
    // Each has a block behind the two copies of the header.
    let slot = FileId::Slot(LogId::Park, ringwal::SlotNo(0));
    for block in [3, 4] {
        stage.machine.rot(slot, block * 4096, 0xff);
    }
    assert_eq!((stage.queue.metrics().parked, listed(&mut stage)), (2, 2));
    // What was not taken out is.
    stage.machine.rot(slot, 2 * 4096, 0xff);
    let answer = stage.queue.list_parked(Lsn::ZERO, 100);
    stage.settle();
    assert!(matches!(answer.try_recv().expect("answered"), Err(LogError::Corrupt(_))));
}
