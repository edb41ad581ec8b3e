//! For each rule of the log a scripted history that holds with the rule and breaks without it.
//!
//! | rule | mutant | what happens without it |
//! |---|---|---|
//! | W1 acknowledged in LSN order | `AckOutOfOrder` | an acknowledged entry behind a lost one is lost |
//! | W2 a promise is what is durable | `PromiseEarly` | a torn tail looks like corruption |
//! | W3 one segment header in flight | `TwoHeaders` | (second line) two headers in flight |
//! | W4 the cursor is durable before a slot is reused | `RecycleEarly` | entries overwritten that come back |
//! | never append to a recovered tail | `AppendToTail` | given up entries come back behind new ones |
//! | link to a segment that holds a record | `LinkToEmpty` | the chain is cut, entries behind it lost |
//! | void what was abandoned | `NoVoid` | (with `NoSettledEnd`) given up entries come back two crashes later |
//! | nothing older counts beyond the end the last recovery found | `NoSettledEnd` | the same, from the tail itself |
//! | compare the uid | `NoUid` | a frame of the slot's last use is taken in |
//! | demand the LSN chain | `NoLsnChain` | (with `NoUid`) any old frame at the right place is taken in |
//! | step over a lost MARK | `MarkNotSteppedOver` | acknowledged entries behind it are lost |
//! | look ahead for promises | `NoLookAhead` | rot is taken for a torn tail |
//! | `prev_end_lsn` is no promise | `PrevEndIsPromise` | a torn rotation looks like corruption |
//! | what is consumed is dead | `DeadIsError` | rot in consumed entries stops the log |
//! | sync before deciding | `NoSyncBeforeRead` | what was recovered and said to be durable is lost |
//! | a sync waits for its writes | `SyncEarly` | what was told durable never was |

mod harness;

use std::time::Duration;

use harness::script::{
    BOTH, calm, caught, cut_keeping, fill, frame_of, is_cursor, is_header, is_slot, land, newest, off, plan, reopen,
    run, send,
};
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::sim::{DiskKind, OpKind, OpRecord, SectorFate};
use ringwal::wal::frame::FrameHeader;
use ringwal::wal::log::Commit;
use ringwal::wal::mutant::{Mutant, Mutants};
use ringwal::wal::op::{FileId, LogId};
use ringwal::{Lsn, SlotNo};

#[test]
fn mutant_ack_out_of_order_is_caught() {
    caught(&[Mutant::AckOutOfOrder], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let _first = send(rig, &[20])?;
        let second = send(rig, &[20])?;
        land(rig, second)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_promise_early_is_caught() {
    caught(&[Mutant::PromiseEarly], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let _first = send(rig, &[20])?;
        let second = send(rig, &[20])?;
        land(rig, second)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// What a segment's header says to lie in front of it is no promise: `docs/DURABILITY.md`, section 4.
#[test]
fn mutant_prev_end_is_promise_is_caught() {
    caught(&[Mutant::PrevEndIsPromise], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 5)?;
        let _last_of_first = send(rig, &[20])?;
        let in_second = send(rig, &[20])?;
        let Some(header) = newest(rig, is_header) else { return off("no rotation") };
        cut_keeping(rig, &[header, in_second]);
        reopen(rig)?;
        fill(rig, 3)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// Case 2: a tail that was wholly consumed, whose slot was being reused at the crash, is no hole.
#[test]
fn a_consumed_tail_whose_slot_was_torn_in_reuse_is_no_hole() {
    caught(&[], &[], &plan(), &|rig| {
        rig.open()?;
        fill(rig, 3)?;
        rig.ack(1..=3)?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        cut_keeping(rig, &[]);
        rig.open()?;
        let _frame = send(rig, &[20])?;
        let Some(header) = newest(rig, is_header) else { return off("no new segment") };
        rig.machine.crash_with(|w, sector| match w.number == header {
            true => SectorFate::Garbage(sector as u64),
            false => SectorFate::Lost,
        });
        rig.process = None;
        reopen(rig)?;
        fill(rig, 2)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_dead_is_error_is_caught() {
    caught(&[Mutant::DeadIsError], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        rig.ack(1..=2)?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        let frame = frame_of(rig, 1);
        rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + 90, 1);
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// Case 3: however many rotations were asked for at the crash, one header at most is not durable, and
/// every mixture of what landed recovers.
#[test]
fn every_mixture_of_two_rotations_in_flight_recovers() {
    for mixture in 0..64_u64 {
        caught(&[], &[], &plan(), &|rig| {
            rig.open()?;
            fill(rig, 5)?;
            let mut sent = vec![send(rig, &[20])?, send(rig, &[20])?];
            let Some(header) = newest(rig, is_header) else { return off("no rotation") };
            sent.push(header);
            rig.append(&[1000])?;
            rig.append(&[1200])?;
            rig.append(&[1400])?;
            rig.submit(usize::MAX)?;
            sent.extend(rig.machine.in_flight().iter().filter(|op| is_slot(op)).map(|op| op.number));
            sent.sort_unstable();
            sent.dedup();
            let kept: Vec<u64> =
                sent.iter().enumerate().filter(|(i, _)| mixture >> i & 1 == 1).map(|(_, op)| *op).collect();
            cut_keeping(rig, &kept);
            reopen(rig)?;
            fill(rig, 2)?;
            cut_keeping(rig, &[]);
            reopen(rig)
        });
    }
}

#[test]
fn mutant_two_headers_is_caught() {
    // Rotations that nobody completes: frames so long that two do not fit a segment.
    let script = |rig: &mut Rig| -> Outcome<()> {
        rig.open()?;
        fill(rig, 1)?;
        rig.append(&[20])?;
        calm(rig)?;
        // Three slots ahead, so that none of it waits for one.
        fill(rig, 20)?;
        rig.ack(1..=21)?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        let now = rig.clock.now();
        for _ in 0..4 {
            rig.append(&[1800])?;
            rig.log().seal(now);
            rig.submit(usize::MAX)?;
        }
        let headers: Vec<OpRecord> = rig.machine.history().into_iter().filter(is_header).collect();
        if headers.len() < 4 {
            return off("too few rotations");
        }
        for (i, one) in headers.iter().enumerate() {
            if let Some(two) = headers[i + 1..].iter().find(|two| one.overlaps(two)) {
                return Err(Failure::Broken(format!("two headers in flight: {one}, {two}")));
            }
        }
        Ok(())
    };
    caught(&[Mutant::TwoHeaders], &BOTH, &Plan { slots_max: 6, ..plan() }, &script);
}

/// Case 4, the rarest: a segment that was abandoned speaks again when its replacement has been
/// consumed and is being reused.
#[test]
fn mutant_no_void_is_caught() {
    let script = |rig: &mut Rig| -> Outcome<()> {
        rig.open()?;
        // Slot 0 holds 1 to 6; slot 1 from 7 on; slot 2 will be abandoned.
        fill(rig, 11)?;
        let _lost = send(rig, &[20])?;
        let mut kept = vec![send(rig, &[20])?];
        let Some(header) = newest(rig, is_header) else { return off("no rotation") };
        kept.push(header);
        for op in kept.clone() {
            land(rig, op)?;
        }
        for _ in 0..3 {
            let op = send(rig, &[20])?;
            land(rig, op)?;
        }
        // The sink finishes slot 0, and the cursor says so, after slot 2 was taken.
        rig.ack(1..=6)?;
        rig.wait(Duration::from_millis(6))?;
        rig.submit(usize::MAX)?;
        let Some(cursor) = newest(rig, is_cursor) else { return off("no cursor") };
        rig.machine.finish(cursor);
        cut_keeping(rig, &[]);
        rig.open()?;
        if rig.model.durable != 11 {
            return off("the log ends elsewhere");
        }
        let abandoned = FileId::Slot(LogId::Main, SlotNo(2));
        let voided = rig.machine.durable_file(abandoned).is_some_and(|bytes| bytes.starts_with(b"RWALVOID"));
        if voided == rig.plan.mutants.has(Mutant::NoVoid) {
            return off("what is abandoned is voided, unless a mutant spares it");
        }
        // Its replacement, in slot 0, is consumed.
        fill(rig, 2)?;
        consume_and_tear_the_reuse(rig, 12)
    };
    // The end that the last recovery found is a second line behind it.
    caught(&[Mutant::NoVoid, Mutant::NoSettledEnd], &BOTH, &plan(), &script);
    for mutant in [Mutant::NoVoid, Mutant::NoSettledEnd] {
        let one = run(Plan { mutants: Mutants::only(&[mutant]), ..plan() }, &script);
        assert!(one.is_ok(), "one of them is enough here: {one:?}");
    }
}

/// The segment in slot 0, which begins at `base`, is consumed; the power goes while its slot is reused.
fn consume_and_tear_the_reuse(rig: &mut Rig, base: u64) -> Outcome<()> {
    if look::segment(&rig.machine, SlotNo(0), 512).is_none_or(|s| s.base_lsn != Lsn::new(base)) {
        return off("the replacement lies elsewhere");
    }
    let durable = rig.model.durable;
    rig.ack(1..=durable)?;
    rig.wait(Duration::from_millis(6))?;
    calm(rig)?;
    cut_keeping(rig, &[]);
    rig.open()?;
    let _frame = send(rig, &[20])?;
    let Some(header) = newest(rig, is_header) else { return off("no new segment") };
    rig.machine.crash_with(|w, sector| match w.number == header {
        true => SectorFate::Garbage(sector as u64),
        false => SectorFate::Lost,
    });
    rig.process = None;
    reopen(rig)
}

/// As case 4, with frames that a tear stranded in the tail itself, which no VOID can reach. Found by
/// seed 5446269799137: the successor's file was removed, and the old tail spoke.
#[test]
fn mutant_no_settled_end_is_caught() {
    caught(&[Mutant::NoSettledEnd], &BOTH, &plan(), &|rig| {
        rig.open()?;
        // Slot 0 holds 1 to 6, slot 1 holds 7 and 8; 9 is lost, 10 and 11 are stranded behind it.
        fill(rig, 8)?;
        let _lost = send(rig, &[20])?;
        for _ in 0..2 {
            let op = send(rig, &[20])?;
            land(rig, op)?;
        }
        rig.ack(1..=6)?;
        rig.wait(Duration::from_millis(6))?;
        rig.submit(usize::MAX)?;
        let Some(cursor) = newest(rig, is_cursor) else { return off("no cursor") };
        rig.machine.finish(cursor);
        cut_keeping(rig, &[]);
        rig.open()?;
        if rig.model.durable != 8 {
            return off("the log ends elsewhere");
        }
        fill(rig, 1)?;
        consume_and_tear_the_reuse(rig, 9)
    });
}

#[test]
fn mutant_append_to_tail_is_caught() {
    caught(&[Mutant::AppendToTail], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let _lost = send(rig, &[20])?;
        let stranded = send(rig, &[20])?;
        cut_keeping(rig, &[stranded]);
        rig.open()?;
        if rig.model.durable != 1 {
            return off("the log ends elsewhere");
        }
        // A frame of the same length where the lost one was: what was stranded behind it fits again.
        fill(rig, 1)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// Case 5.
#[test]
fn mutant_link_to_empty_is_caught() {
    caught(&[Mutant::LinkToEmpty], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 6)?;
        let _lost = send(rig, &[20])?;
        let Some(header) = newest(rig, is_header) else { return off("no rotation") };
        cut_keeping(rig, &[header]);
        rig.open()?;
        // One durable frame: what it promises ends below it.
        fill(rig, 1)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_recycle_early_is_caught() {
    caught(&[Mutant::RecycleEarly], &BOTH, &Plan { slots_max: 2, ..plan() }, &|rig| {
        rig.open()?;
        fill(rig, 10)?;
        rig.ack(1..=8)?;
        // The cursor's write goes out and does not complete; everything else does.
        for _ in 0..4 {
            rig.append(&[20])?;
            let now = rig.clock.now();
            rig.log().commit_now(now);
            for _ in 0..8 {
                rig.submit(usize::MAX)?;
                let others: Vec<u64> =
                    rig.machine.in_flight().iter().filter(|op| !is_cursor(op)).map(|op| op.number).collect();
                for op in others {
                    land(rig, op)?;
                }
            }
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// Slot 1 is abandoned with frames in it, and used again; behind the new frame stands an old one with
/// the very LSN that comes next.
#[test]
fn mutant_no_uid_is_caught() {
    caught(&[Mutant::NoUid], &BOTH, &Plan { slots_max: 2, ..plan() }, &|rig| {
        rig.open()?;
        fill(rig, 5)?;
        let _lost = send(rig, &[20])?;
        let mut kept = vec![send(rig, &[20])?];
        let Some(header) = newest(rig, is_header) else { return off("no rotation") };
        kept.push(header);
        for op in kept.clone() {
            land(rig, op)?;
        }
        let op = send(rig, &[20])?;
        land(rig, op)?;
        cut_keeping(rig, &[]);
        rig.open()?;
        if rig.model.durable != 5 {
            return off("the log ends elsewhere");
        }
        // 6 and 7 in one block: the old frame behind it is 8.
        let op = send(rig, &[20, 20])?;
        calm(rig)?;
        assert!(rig.machine.history().iter().any(|r| r.number == op && r.offset == 1024));
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

/// What the uid rests on: every frame that goes out carries its segment's, and its own place.
#[test]
fn every_frame_that_goes_out_carries_its_segments_uid_and_its_place() {
    caught(&[], &[], &plan(), &|rig| {
        rig.open()?;
        fill(rig, 20)?;
        rig.ack(1..=15)?;
        fill(rig, 8)?;
        let mut uid = std::collections::BTreeMap::new();
        let mut frames = 0;
        for op in rig.machine.history().iter().filter(|op| op.kind == OpKind::Write && is_slot(op)) {
            if op.offset == 0 {
                let seen = u64::from_le_bytes(op.head[32..40].try_into().expect("8 bytes"));
                if uid.values().any(|other| *other == seen) {
                    return Err(Failure::Broken("a uid was used twice".into()));
                }
                uid.insert(op.file, seen);
                continue;
            }
            let header = FrameHeader::decode(&op.head).map_err(|e| format!("{op}: {e:?}"))?;
            if uid.get(&op.file) != Some(&header.seg_uid.0) || u64::from(header.position) * 512 != op.offset {
                return Err(Failure::Broken(format!("{op} carries {header:?}")));
            }
            frames += 1;
        }
        if frames < 20 { off("too few frames") } else { Ok(()) }
    });
}

/// The chain alone is a second line behind the uid: without both, old frames at the right place count.
#[test]
fn mutant_no_lsn_chain_is_caught() {
    let script = |rig: &mut Rig| -> Outcome<()> {
        rig.open()?;
        fill(rig, 10)?;
        rig.ack(1..=10)?;
        rig.wait(Duration::from_millis(6))?;
        calm(rig)?;
        // A slot is used again; behind the new frame stand frames of its last use.
        fill(rig, 3)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    };
    let plan = Plan { slots_max: 2, ..plan() };
    caught(&[Mutant::NoUid, Mutant::NoLsnChain], &BOTH, &plan, &script);
    for mutant in [Mutant::NoUid, Mutant::NoLsnChain] {
        let one = run(Plan { mutants: Mutants::only(&[mutant]), ..plan.clone() }, &script);
        assert!(one.is_ok(), "one of them is enough here: {one:?}");
    }
}

/// Case 6: only a device with FUA can lose a MARK in front of what was acknowledged.
#[test]
fn mutant_mark_not_stepped_over_is_caught() {
    caught(&[Mutant::MarkNotSteppedOver], &[DiskKind::Fua], &plan(), &|rig| {
        rig.open()?;
        fill(rig, 2)?;
        rig.wait(Duration::from_millis(6))?;
        rig.submit(usize::MAX)?;
        let mark = |op: &OpRecord| op.kind == OpKind::Write && is_slot(op) && op.head.get(4) == Some(&2);
        if newest(rig, mark).is_none() {
            return off("no MARK");
        }
        calm(rig)?;
        fill(rig, 2)?;
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_no_look_ahead_is_caught() {
    caught(&[Mutant::NoLookAhead], &BOTH, &plan(), &|rig| {
        rig.open()?;
        fill(rig, 4)?;
        let frame = frame_of(rig, 2);
        rig.machine.rot(FileId::Slot(LogId::Main, frame.slot), frame.offset + 90, 1);
        cut_keeping(rig, &[]);
        match rig.open() {
            Err(Failure::Corrupt(holes)) if holes.len() == 1 && holes[0].first.number() == 2 => {
                if holes[0].last.number() == 2 { Ok(()) } else { Err(Failure::Corrupt(holes)) }
            }
            Ok(()) => Err(Failure::Broken("rot was not reported".into())),
            Err(other) => Err(other),
        }
    });
}

#[test]
fn mutant_no_sync_before_read_is_caught() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_secs(1)), ..plan() };
    caught(&[Mutant::NoSyncBeforeRead], &[DiskKind::Fua], &plan, &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let op = send(rig, &[20])?;
        land(rig, op)?;
        // Only the process dies: the next one reads what no sync has covered, and goes by it.
        rig.machine.kill();
        rig.process = None;
        rig.open()?;
        if rig.model.durable != 2 {
            return off("the second entry is not there");
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}

#[test]
fn mutant_sync_early_is_caught() {
    let plan = Plan { commit: Commit::Periodic(Duration::from_millis(2)), ..plan() };
    caught(&[Mutant::SyncEarly], &BOTH, &plan, &|rig| {
        rig.open()?;
        fill(rig, 1)?;
        let op = send(rig, &[20])?;
        rig.wait(Duration::from_millis(3))?;
        rig.submit(usize::MAX)?;
        // A sync that is out already completes, and covers nothing.
        if let Some(sync) = newest(rig, |op| op.kind == OpKind::Sync) {
            land(rig, sync)?;
        }
        if rig.machine.in_flight().iter().any(|r| r.number == op) {
            land(rig, op)?;
        }
        cut_keeping(rig, &[]);
        reopen(rig)
    });
}
