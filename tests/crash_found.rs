//! What the histories have found, each as the shortest history that showed it, with its story.

mod harness;

use std::time::Duration;

use harness::rig::pool;
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::sim::{DiskKind, SectorFate};
use ringwal::wal::cursor::Cursor;
use ringwal::wal::log::Commit;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::OnCorruption;
use ringwal::{Lsn, SlotNo};

fn plan() -> Plan {
    Plan { segment_blocks: 8, slots_max: 4, garbage: false, ..Plan::default() }
}

fn play(plan: Plan, script: impl Fn(&mut Rig) -> Outcome<()>) {
    for kind in [DiskKind::Flush, DiskKind::Fua] {
        let mut rig = Rig::new(Plan { kind, ..plan.clone() }, pool());
        if let Err(failure) = script(&mut rig) {
            panic!("{kind:?}: {failure:?}\n{}", rig.story(60, 60));
        }
    }
}

fn lose_all(rig: &mut Rig) {
    rig.machine.crash_with(|_, _| SectorFate::Lost);
    rig.process = None;
}

/// `Periodic`, all slots full: the group of syncs waited for a frame that waited for a slot, the slot
/// for the sink, and the sink for the very entries that the group was to make durable.
#[test]
fn a_group_of_syncs_does_not_wait_for_a_frame_that_waits_for_the_sink() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_millis(1)), slots_max: 2, ..plan() };
    play(plan, |rig| {
        rig.open()?;
        let mut appended = 0;
        while rig.append(&[300])? == 1 && appended < 40 {
            appended += 1;
            let now = rig.clock.now();
            rig.log().seal(now);
            rig.submit(usize::MAX)?;
            while rig.machine.in_flight_count() > 0 {
                rig.step()?;
                rig.submit(usize::MAX)?;
            }
        }
        assert!(appended < 40, "the slots fill up");
        rig.flush()?;
        let told = rig.model.durable;
        if told < 12 {
            return Err(Failure::Broken(format!("two segments are full, and only {told} entries are durable")));
        }
        rig.ack(1..=told)?;
        rig.flush()?;
        assert!(rig.model.is_durable(), "the rest follows when the sink has made room");
        rig.close()
    });
}

/// `Spill`: the cursor's finished runs were taken for promises. What lies below such a run need not
/// have been written at all.
#[test]
fn a_finished_run_above_entries_that_were_never_written_promises_nothing() {
    play(Plan { commit: Commit::Spill, ..plan() }, |rig| {
        rig.open()?;
        rig.append(&[40])?;
        rig.flush()?;
        rig.settle(|_| false)?;
        for _ in 0..3 {
            rig.append(&[40])?;
            let now = rig.clock.now();
            rig.log().seal(now);
        }
        rig.submit(usize::MAX)?;
        rig.events()?;
        let lsns: Vec<u64> = rig.model.shown.keys().copied().collect();
        assert_eq!(lsns.len(), 4, "the sink has seen what is only in memory");
        rig.ack([lsns[0], lsns[3]])?;
        rig.settle(|rig| rig.model.cursor_durable == lsns[0])?;
        lose_all(rig);
        rig.open()
    });
}

/// A tear that left garbage in META's place while the store was made: it could never be opened again.
#[test]
fn a_store_whose_making_was_torn_is_made_again() {
    for write in 0..5 {
        play(Plan { slots_max: 2, ..plan() }, |rig| {
            rig.fuse = Some(1 + 2 * write);
            match rig.open() {
                Err(Failure::Died) => {}
                other => panic!("the making takes more steps: {other:?}"),
            }
            // Whatever was being written there is garbage now.
            let meta = FileId::Meta(LogId::Main);
            if let Some(mut bytes) = rig.machine.file(meta).filter(|bytes| bytes.len() >= 4096) {
                bytes[..512].fill(0xd1);
                rig.machine.set_file(meta, Some(bytes));
                if rig.machine.file(meta).is_some_and(|b| Cursor::read(&b[8192..24_576], &b[24_576..]).is_none()) {
                    return Ok(());
                }
            }
            rig.open()?;
            rig.append(&[20])?;
            rig.flush()?;
            rig.close()
        });
    }
}

/// A hole whose first frames were promised and rotted, and whose others were only torn, was reported
/// as lost up to the next whole frame, and that one was kept.
#[test]
fn a_hole_is_reported_up_to_the_last_promise_and_there_the_log_ends() {
    play(plan(), |rig| {
        rig.open()?;
        for _ in 0..3 {
            rig.append(&[20])?;
            rig.flush()?;
        }
        // 3 rots; it is promised by 4, which is torn; 5 lands, and promises 3 as well.
        let mut ops = Vec::new();
        for _ in 0..2 {
            rig.append(&[20])?;
            let now = rig.clock.now();
            rig.log().seal(now);
            rig.submit(usize::MAX)?;
            ops.extend(rig.machine.in_flight().iter().map(|op| op.number).max());
        }
        let frame = look::frames(&rig.machine, SlotNo(0), 512).into_iter().find(|f| f.header.first_lsn == Lsn::new(3));
        let frame = frame.expect("it is durable");
        rig.machine.rot(FileId::Slot(LogId::Main, SlotNo(0)), frame.offset + 90, 1);
        rig.machine.crash_with(|w, _| if w.number == ops[1] { SectorFate::Kept } else { SectorFate::Lost });
        rig.process = None;
        match rig.open() {
            Err(Failure::Corrupt(holes)) => {
                let holes: Vec<_> = holes.iter().map(|h| (h.first.number(), h.last.number())).collect();
                assert_eq!(holes, [(3, 3)]);
                Ok(())
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Where the sink was done with the first entries of a torn frame, the recovered end lies within the
/// frame; the reader took the rest of it for lost.
#[test]
fn a_torn_frame_of_which_the_sink_has_finished_a_part_is_not_reported_by_the_reader() {
    play(Plan { commit: Commit::Spill, ..plan() }, |rig| {
        rig.open()?;
        rig.append(&[40])?;
        rig.flush()?;
        rig.settle(|_| false)?;
        // A frame of three blocks with two entries, the first of which is finished.
        rig.append(&[300, 900])?;
        let now = rig.clock.now();
        rig.log().seal(now);
        rig.submit(usize::MAX)?;
        rig.events()?;
        let lsns: Vec<u64> = rig.model.shown.keys().copied().collect();
        rig.ack([lsns[1]])?;
        let cursors = rig.log().stats().cursors;
        rig.settle(|rig| rig.process.as_ref().is_some_and(|p| p.log.stats().cursors > cursors))?;
        while rig.step()? {}
        let now = rig.clock.now();
        rig.log().spill(now);
        rig.submit(usize::MAX)?;
        // Its first block lands, the others do not.
        let frame = rig.machine.in_flight().into_iter().find(|op| op.head.starts_with(b"RWFR"));
        let frame = frame.map(|op| op.number);
        rig.machine.crash_with(|w, _| if Some(w.number) == frame { SectorFate::Kept } else { SectorFate::Lost });
        rig.process = None;
        for _ in 0..3 {
            rig.open()?;
            lose_all(rig);
        }
        Ok(())
    });
}

/// `CutTail` gave up what lay behind the first hole, and left the cursor's promise for it: the next opening called
/// the cut a hole, and after every further cut the next one. Found by fuzzing whole directories.
#[test]
fn a_cut_leaves_no_promise_behind() {
    play(Plan { segment_blocks: 16, ..plan() }, |rig| {
        rig.open()?;
        for _ in 0..4 {
            rig.append(&[20])?;
            rig.flush()?;
        }
        rig.ack([1])?;
        rig.settle(|rig| rig.model.cursor_durable == 1)?;
        let frame = look::frames(&rig.machine, SlotNo(0), 512).into_iter().find(|f| f.header.first_lsn == Lsn::new(2));
        let frame = frame.expect("it is durable");
        rig.machine.rot(FileId::Slot(LogId::Main, SlotNo(0)), frame.offset + 90, 1);
        lose_all(rig);
        rig.plan.policy = OnCorruption::CutTail;
        rig.model.injected = Some((2, 4));
        rig.model.cut(1);
        rig.open()?;
        rig.plan.policy = OnCorruption::Stop;
        for _ in 0..3 {
            lose_all(rig);
            rig.open()?;
            rig.append(&[20])?;
            rig.flush()?;
        }
        rig.close()
    });
}

/// The making of a store was cut off, then its second making while it wrote zeros over what the first had left:
/// garbage in META's place, cursors that said nothing. It could never be opened. Found by `crash_recovery.rs`.
#[test]
fn a_store_whose_making_was_torn_twice_is_made_again() {
    play(plan(), |rig| {
        let meta = FileId::Meta(LogId::Main);
        rig.fuse = Some(9);
        match rig.open() {
            Err(Failure::Died) => {}
            other => panic!("the making takes more steps: {other:?}"),
        }
        // META's first sector is garbage, the cursors hold: that is taken for a half-made store.
        let mut bytes = rig.machine.file(meta).expect("it was prepared");
        bytes[..512].fill(0xd1);
        rig.machine.set_file(meta, Some(bytes));
        // At any step of the second making, whatever the cut makes of it, no state may be left that is neither.
        for (fuse, seed) in (0..20).flat_map(|fuse| (1..20).map(move |seed| (fuse, seed))) {
            let mut fork = rig.fork(seed);
            fork.fuse = Some(fuse);
            match fork.open() {
                Err(Failure::Died) => fork.open()?,
                other => other?,
            }
        }
        Ok(())
    });
}

/// The disk refused to read for a while when the store was opened. What it did not give back was taken for torn,
/// the newest segment was voided, and what had been told durable was gone. Found by `crash_errno.rs`.
#[test]
fn a_disk_that_cannot_be_read_for_a_while_costs_nothing() {
    play(plan(), |rig| {
        rig.open()?;
        for _ in 0..8 {
            rig.append(&[20])?;
            rig.flush()?;
        }
        lose_all(rig);
        let newest = look::slots(&rig.machine)
            .into_iter()
            .max_by_key(|slot| look::segment(&rig.machine, *slot, 512).map_or(0, |header| header.base_lsn.number()));
        let file = FileId::Slot(LogId::Main, newest.expect("there are segments"));
        // All of it, its header too; and its frames alone.
        for from in [0, 1024] {
            let whole = rig.machine.file(file).expect("it is there");
            rig.machine.make_unreadable(file, from..4096);
            match rig.open() {
                Err(Failure::Corrupt(_)) => {}
                other => panic!("from {from}: {other:?}"),
            }
            rig.process = None;
            rig.machine.set_file(file, Some(whole));
        }
        rig.open()
    });
}

/// Runs that touched each other made a cursor that no reader takes: the copy before it stepped in,
/// and what had been said to be finished was delivered again.
#[test]
#[should_panic(expected = "refused when read back")]
fn a_cursor_that_would_be_refused_is_not_written() {
    let run = (Lsn::new(6), Lsn::new(8));
    Cursor { acked: Lsn::new(5), done: vec![run], ..Cursor::default() }.encode(&mut vec![0; 16_384]);
}
