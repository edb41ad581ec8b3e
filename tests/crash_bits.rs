//! A small store with every bit spoilt, one at a time; and with every block unreadable. Each place is harmless,
//! or is reported exactly, or lies above every promise: "torn or rotted cannot be told". Never a panic.
//!
//! All bits of what says something are flipped: META, cursors, segment headers, frame headers, the first and the
//! last bytes of each body. Of padding, of unused tables and of the middle of bodies one bit of each fifth byte.

mod harness;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;

use harness::rig::pool;
use harness::script::cut_keeping;
use harness::{Failure, Outcome, Plan, Rig, look};
use ringwal::wal::cursor::{CURSOR_LEN, cursor_offset};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameKind};
use ringwal::wal::meta::{META_LEN, meta_offset};
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::segment::{HEADER_BLOCKS, SEGMENT_HEADER_LEN};

/// A store of three segments with consumed, finished and waiting entries; closed in order, or cut off.
fn small_store(closed: bool) -> Rig {
    let plan = Plan { segment_blocks: 10, slots_max: 4, ..Plan::default() };
    let mut rig = Rig::new(plan, pool());
    let mut build = || -> Outcome<()> {
        rig.open()?;
        for _ in 0..7 {
            rig.append(&[60, 300])?;
            rig.flush()?;
            rig.append(&[700])?;
            rig.flush()?;
        }
        rig.ack(1..=5)?;
        rig.ack([8])?;
        if closed {
            return rig.close();
        }
        rig.wait(std::time::Duration::from_millis(6))?;
        while rig.submit(usize::MAX)? > 0 || rig.step()? {}
        // Two frames that nothing behind them promises.
        rig.append(&[60, 300])?;
        rig.flush()?;
        rig.append(&[90])?;
        rig.flush()?;
        cut_keeping(&mut rig, &[]);
        Ok(())
    };
    if let Err(failure) = build() {
        panic!("{failure:?}\n{}", rig.story(40, 40));
    }
    rig
}

/// A frame that a flip may hurt: it has an entry that the sink has not finished.
struct Hurt {
    file: FileId,
    range: Range<u64>,
    waits: Vec<u64>,
}

struct Facts {
    hurt: Vec<Hurt>,
    /// What says something: all bits of it are flipped.
    telling: Vec<(FileId, Range<u64>)>,
    /// The freshest promise that is left when this frame is spoilt: of any other one, headers, META and cursor.
    promises: Vec<(FileId, u64, u64)>,
    /// META's and the cursor's.
    told: u64,
}

fn facts(rig: &Rig, closed: bool) -> Facts {
    let block_len = rig.plan.block_len;
    let meta = FileId::Meta(LogId::Main);
    let (mut hurt, mut telling, mut promises) = (Vec::new(), Vec::new(), Vec::new());
    for generation in 0..2 {
        let (at, cursor) = (meta_offset(generation, block_len), cursor_offset(generation, block_len));
        telling.push((meta, at..at + META_LEN as u64));
        telling.push((meta, cursor..cursor + 96));
        telling.push((meta, cursor + CURSOR_LEN as u64 - 4..cursor + CURSOR_LEN as u64));
    }
    for slot in look::slots(&rig.machine) {
        let file = FileId::Slot(LogId::Main, slot);
        for copy in 0..u64::from(HEADER_BLOCKS) {
            let at = copy * u64::from(block_len);
            telling.push((file, at..at + SEGMENT_HEADER_LEN as u64));
        }
        if let Some(header) = look::segment(&rig.machine, slot, block_len) {
            promises.push((file, u64::MAX, header.durable_lsn.number()));
        }
        for frame in look::frames(&rig.machine, slot, block_len) {
            let (first, next) = (frame.header.first_lsn.number(), frame.header.next_lsn.number());
            let body = frame.offset + FRAME_HEADER_LEN as u64;
            let range = frame.offset..body + u64::from(frame.header.body_len);
            telling.push((file, range.start..body + 16));
            telling.push((file, range.end.saturating_sub(16).max(body)..range.end));
            promises.push((file, frame.offset, frame.header.durable_lsn.number()));
            let waits: Vec<u64> = (first..next).filter(|lsn| !rig.model.ever_done.contains(lsn)).collect();
            if frame.header.kind == FrameKind::Data && !waits.is_empty() {
                hurt.push(Hurt { file, range, waits });
            }
        }
    }
    let told = if closed { rig.model.durable } else { rig.model.cursor_durable };
    Facts { hurt, telling, promises, told }
}

impl Facts {
    /// Whether something else promises this LSN when the frame there is spoilt.
    fn is_promised(&self, lsn: u64, file: FileId, at: u64) -> bool {
        self.told >= lsn || self.promises.iter().any(|(f, offset, to)| (*f, *offset) != (file, at) && *to >= lsn)
    }
}

/// What became of a flip.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Came {
    Harmless,
    Reported,
    Untold,
}

/// Opens a spoilt copy, and compares with what is expected of a flip at `at`.
fn judge(fork: &mut Rig, facts: &Facts, file: FileId, at: u64) -> Result<Came, String> {
    // The other copy of the cursor may step in: what it does not know is delivered again.
    fork.model.cursor_durable = 0;
    let expected = facts.hurt.iter().find(|hurt| hurt.file == file && hurt.range.contains(&at));
    let got = fork.open();
    let ok = match (&got, expected) {
        (Ok(()), None) => Some(Came::Harmless),
        (Err(Failure::Corrupt(holes)), Some(Hurt { waits, .. })) => {
            let ends = (holes[0].first.number(), holes[holes.len() - 1].last.number());
            (ends == (waits[0], waits[waits.len() - 1])).then_some(Came::Reported)
        }
        (Err(Failure::Broken(why)), Some(Hurt { range, waits, .. })) => {
            let cut = why.ends_with(&format!("was told durable, and the log ends at {}", waits[0] - 1));
            (cut && !facts.is_promised(waits[0], file, range.start)).then_some(Came::Untold)
        }
        _ => None,
    };
    ok.ok_or_else(|| {
        let waits = expected.map(|hurt| &hurt.waits);
        format!("{file} at {at}: {got:?}, with {waits:?} at stake\n{}", fork.story(20, 10))
    })
}

fn flip_everything(closed: bool) -> [usize; 3] {
    let mut places = Vec::new();
    {
        let rig = small_store(closed);
        let facts = facts(&rig, closed);
        assert!(facts.hurt.len() > 8, "{} frames wait", facts.hurt.len());
        for file in rig.machine.files() {
            let len = rig.machine.file(file).expect("it is listed").len() as u64;
            for at in 0..len {
                let telling = facts.telling.iter().any(|(f, range)| *f == file && range.contains(&at));
                match telling {
                    true => places.extend((0..8).map(|bit| (file, at, 1 << bit))),
                    false if at % 5 == 0 => places.push((file, at, 1 << (at / 5 % 8))),
                    false => {}
                }
            }
        }
    }
    let counts = Mutex::new([0; 3]);
    let broken = Mutex::new(None);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (places, counts, broken) = (&places, &counts, &broken);
            scope.spawn(move || {
                // A rig is one thread's: both build the same store.
                let rig = small_store(closed);
                let facts = facts(&rig, closed);
                for (file, at, mask) in places.iter().skip(half).step_by(2) {
                    let mut fork = rig.fork(*at);
                    fork.machine.rot(*file, *at, *mask);
                    match judge(&mut fork, &facts, *file, *at) {
                        Ok(came) => counts.lock().expect("nobody panics")[came as usize] += 1,
                        Err(why) => {
                            broken.lock().expect("nobody panics").get_or_insert(format!("mask {mask:#x}: {why}"));
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(why) = broken.into_inner().expect("nobody panics") {
        panic!("{why}");
    }
    let counts = counts.into_inner().expect("nobody panics");
    println!("of {} flips {} harmless, {} reported, {} untold", places.len(), counts[0], counts[1], counts[2]);
    assert_eq!(counts.iter().sum::<usize>(), places.len());
    counts
}

#[test]
fn a_flipped_bit_anywhere_in_a_closed_store_is_harmless_or_reported_exactly() {
    let [harmless, reported, untold] = flip_everything(true);
    assert!(harmless > 1_000 && reported > 1_000 && untold == 0);
}

#[test]
fn a_flipped_bit_anywhere_in_an_unclean_store_is_harmless_or_reported_or_above_every_promise() {
    let [harmless, reported, untold] = flip_everything(false);
    assert!(harmless > 1_000 && reported > 1_000 && untold > 100);
}

/// What the disk says it cannot read is never taken for torn, whatever is promised.
#[test]
fn every_unreadable_block_is_harmless_or_reported_and_never_a_torn_tail() {
    for closed in [true, false] {
        let rig = small_store(closed);
        let block_len = u64::from(rig.plan.block_len);
        let (mut harmless, mut reported, mut refused) = (0, 0, 0);
        for file in rig.machine.files() {
            let blocks = rig.machine.file(file).expect("it is listed").len() as u64 / block_len;
            for (at, count) in (0..blocks).flat_map(|at| [(at, 1), (at, 2), (at, blocks - at)]) {
                let mut fork = rig.fork(at);
                fork.model.cursor_durable = 0;
                fork.machine.make_unreadable(file, at * block_len..(at + count).min(blocks) * block_len);
                match fork.open() {
                    Ok(()) => harmless += 1,
                    Err(Failure::Corrupt(_)) => reported += 1,
                    Err(Failure::Refused(_)) if matches!(file, FileId::Meta(_)) => refused += 1,
                    Err(other) => panic!("{file}, {count} blocks at {at}: {other:?}\n{}", fork.story(20, 20)),
                }
            }
        }
        println!("closed {closed}: {harmless} harmless, {reported} reported, {refused} refused");
        assert!(harmless > 10 && reported > 20 && refused > 0);
    }
}

/// The seams between what is flipped wholly and what is sampled: nothing that is decoded is left out.
#[test]
fn all_that_is_decoded_is_flipped_bit_by_bit() {
    let rig = small_store(true);
    let facts = facts(&rig, true);
    let covered: BTreeSet<(FileId, u64)> =
        facts.telling.iter().flat_map(|(file, range)| range.clone().map(|at| (*file, at))).collect();
    for hurt in &facts.hurt {
        assert!((hurt.range.start..hurt.range.start + 80).all(|at| covered.contains(&(hurt.file, at))));
    }
    assert!(covered.len() > 2_000, "{}", covered.len());
}
