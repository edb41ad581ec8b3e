//! Taking old rings over, stopped at every write into the ring file and at every op for the disk: exactly once.
//!
//! The disk is memory that outlives the run, as the kernel's does when a process is killed. A run may do so many things;
//! then it ends as by SIGKILL, and the next one gets the bytes as they are.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::takeover::Takeover;
use crate::engine::clock::Clock;
use crate::io::ring_file::RingBytes;
use crate::io::{Disk, DiskReport, RamDisk, Wake};
use crate::lsn::Lsn;
use crate::ring::record::{Records, State, Word, stride_of};
use crate::ring::shared::left::{Note, note_at};
use crate::ring::shared::{BootId, CONTROL_LEN, Header, NOTES_END};
use crate::schema::Schema;
use crate::wal::block::Pool;
use crate::wal::coding::Coding;
use crate::wal::frame::FRAME_HEADER_LEN;
use crate::wal::log::{Commit, Log, LogConfig};
use crate::wal::mutant::Mutants;
use crate::wal::op::{Completion, LogId, Op, Token};
use crate::wal::reader::{ReadEvent, Reader};
use crate::wal::recovery::{OnCorruption, Recovered, Repair, Scan, Scanned, StoreConfig};
use crate::wal::segment::StoreId;

const SCHEMA: Schema = Schema::new("test", 1);

static OPENINGS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// How many steps a run may still take.
#[derive(Clone)]
struct Budget(Arc<Mutex<u64>>);

struct Killed;

impl Budget {
    fn new(steps: u64) -> Self {
        Self(Arc::new(Mutex::new(steps)))
    }

    fn step(&self) {
        let mut left = self.0.lock().unwrap();
        if *left == 0 {
            drop(left);
            panic_any(Killed);
        }
        *left -= 1;
    }
}

/// A ring file in memory. A write may end in its middle.
#[derive(Clone)]
struct File {
    bytes: Arc<Mutex<Vec<u8>>>,
    budget: Budget,
}

impl RingBytes for File {
    fn read(&mut self, at: u64, into: &mut [u8]) -> std::io::Result<()> {
        let at = usize::try_from(at).unwrap();
        into.copy_from_slice(&self.bytes.lock().unwrap()[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let at = usize::try_from(at).unwrap();
        // Numbers of 8 bytes are stored at once.
        let parts = if bytes.len() == 8 { 1 } else { 3 };
        for part in bytes.chunks(bytes.len().div_ceil(parts)).scan(at, |at, part| {
            let start = *at;
            *at += part.len();
            Some((start, part))
        }) {
            self.budget.step();
            self.bytes.lock().unwrap()[part.0..part.0 + part.1.len()].copy_from_slice(part.1);
        }
        Ok(())
    }
}

/// The same disk for run after run.
struct Kept {
    disk: Arc<Mutex<RamDisk>>,
    budget: Budget,
}

impl Disk for Kept {
    fn submit(&mut self, token: Token, op: Op) {
        if matches!(op, Op::Write { .. } | Op::Prepare { .. } | Op::Sync { .. }) {
            self.budget.step();
        }
        self.disk.lock().unwrap().submit(token, op);
    }

    fn complete(&mut self, _: Option<Duration>) -> Option<Completion> {
        self.disk.lock().unwrap().complete(Some(Duration::ZERO))
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.disk.lock().unwrap().doorbell()
    }

    fn report(&self) -> DiskReport {
        self.disk.lock().unwrap().report()
    }
}

const STORE: StoreConfig = StoreConfig {
    log: LogId::Main,
    block_len: 4096,
    segment_len: 256 << 10,
    frame_len_max: 8192,
    features: 0,
    seed: 5,
    mutants: Mutants::NONE,
};

fn pump(disk: &mut dyn Disk, op: Option<(Token, Op)>, handle: impl FnOnce(Completion)) {
    match op {
        Some((token, op)) => disk.submit(token, op),
        None => {
            if let Some(completion) = disk.complete(None) {
                handle(completion);
            }
        }
    }
}

fn scan(disk: &mut dyn Disk, pool: &Pool) -> Scanned {
    let mut scan = Scan::new(STORE, pool.clone());
    loop {
        if let Some(outcome) = scan.outcome() {
            return outcome.unwrap();
        }
        pump(disk, scan.poll_op(), |completion| scan.handle_completion(completion));
    }
}

fn repair(disk: &mut dyn Disk, pool: &Pool, scanned: Scanned) -> Recovered {
    let mut repair = Repair::new(scanned, OnCorruption::Stop, STORE, pool.clone());
    loop {
        if let Some(outcome) = repair.outcome() {
            return outcome.unwrap();
        }
        pump(disk, repair.poll_op(), |completion| repair.handle_completion(completion));
    }
}

fn log(recovered: Recovered, commit: Commit, schema: Schema, pool: &Pool) -> Log {
    let config = LogConfig {
        log: LogId::Main,
        schema,
        commit,
        slots_max: 8,
        spares_min: 2,
        inflight_max: 4,
        hedge_len: 64 << 10,
        cursor_every: Duration::from_millis(50),
        // A new one for each opening: it gives segments their identity.
        coding: Coding::default(),
        seed: 11 + OPENINGS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 0x1234_5678,
        mutants: Mutants::NONE,
        lsn_floor: Lsn::ZERO,
    };
    Log::new(recovered, config, pool.clone())
}

/// Two rings of 32 KiB with records in them, some of them drained before the process died.
fn left_behind(first: u64) -> (Header, Vec<u8>, Vec<String>) {
    let header = Header {
        store: StoreId([1; 16]),
        boot: BootId([2; 16]),
        epoch: 1,
        rings: 2,
        ring_len: 32 << 10,
        schema: SCHEMA,
    };
    let mut bytes = vec![0; usize::try_from(header.file_len()).unwrap()];
    let mut all = Vec::new();
    let mut lsn = first;
    for ring in 0..2 {
        let base = usize::try_from(header.ring_at(ring)).unwrap();
        let control = usize::try_from(header.control_at(ring)).unwrap();
        let mut at = 0;
        for number in 0..120_usize {
            let text = format!("{ring}-{number}-{}", "x".repeat(number % 50 * 4));
            // A dead claim between them.
            if number == 60 {
                bytes[base + at..base + at + 4].copy_from_slice(&Word::new(State::Claimed, 40).0.to_le_bytes());
                at += 40;
            }
            let word = Word::new(State::Ready, 8 + text.len());
            bytes[base + at..base + at + 4].copy_from_slice(&word.0.to_le_bytes());
            bytes[base + at + 8..base + at + 8 + text.len()].copy_from_slice(text.as_bytes());
            // The first 30 were drained, in runs of 10.
            let end = at + stride_of(text.len());
            if number < 30 && number % 10 == 0 {
                let note = Note { start: at as u64, end: 0, first: Lsn::new(lsn) }.encode();
                let place = control + note_at(number as u64 / 10);
                bytes[place..place + note.len()].copy_from_slice(&note);
                let count = control + NOTES_END;
                bytes[count..count + 8].copy_from_slice(&(number as u64 / 10 + 1).to_le_bytes());
            }
            if number < 30 {
                let place = control + note_at(number as u64 / 10) + 8;
                bytes[place..place + 8].copy_from_slice(&(end as u64).to_le_bytes());
                lsn += 1;
            }
            all.push(text);
            at = end;
        }
        assert!(control + CONTROL_LEN <= bytes.len() && at < 32 << 10);
    }
    (header, bytes, all)
}

/// One opening: as `Opening::run`, with nothing but the log and the rings.
fn take_over(disk: &mut dyn Disk, file: File, header: Header, commit: Commit, schema: Schema) {
    let pool = Pool::new(24, 64 << 10).unwrap();
    let scanned = scan(disk, &pool);
    let mut found = Takeover::look(file, header).unwrap();
    assert_eq!((found.damage(), found.incomplete()), (None, 2));
    let end = scanned.end;
    found.settle(|lsn| lsn <= end).unwrap();
    let recovered = repair(disk, &pool, scanned);
    let mut log = log(recovered, commit, schema, &pool);
    found.append(&mut log, disk, &Clock::start()).unwrap();
    super::takeover::use_schema(&mut log, disk, &Clock::start(), schema).unwrap();
}

/// Everything in the log, in order.
fn entries(disk: &mut dyn Disk) -> Vec<String> {
    let pool = Pool::new(24, 64 << 10).unwrap();
    let scanned = scan(disk, &pool);
    assert!(scanned.corruption.is_empty(), "{:?}", scanned.corruption);
    let recovered = repair(disk, &pool, scanned);
    let (meta, end) = (recovered.meta.clone(), recovered.end);
    let log = log(recovered, Commit::Immediate, SCHEMA, &pool);
    let mut reader = Reader::new(LogId::Main, &meta, Mutants::NONE);
    reader.seek(Lsn::FIRST, None);
    let mut all = Vec::new();
    loop {
        while let Some((token, op)) = reader.poll_op(log.segments(), end, &pool) {
            disk.submit(token, op);
        }
        while let Some(completion) = disk.complete(None) {
            reader.handle_completion(completion);
        }
        while let Some(event) = reader.poll_event() {
            match event {
                ReadEvent::Frame(frame) => {
                    let body = &frame.block[FRAME_HEADER_LEN..FRAME_HEADER_LEN + frame.header.body_len as usize];
                    let text = |r: Result<crate::ring::record::Record<'_>, _>| {
                        let record = r.unwrap();
                        assert_eq!(record.meta, 0, "marks are the ring file's own");
                        String::from_utf8(record.payload.to_vec()).unwrap()
                    };
                    all.extend(Records::new(body).map(text));
                }
                ReadEvent::CaughtUp => return all,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A store with `count` entries of the dead process in its log, with LSNs from 1 on, as in its notes.
fn written_before(disk: &mut dyn Disk, texts: &[String]) {
    let (header, mut bytes, _) = left_behind(1);
    // A file with just these in its first ring, and no notes.
    bytes[usize::try_from(header.control_at(0)).unwrap()..].fill(0);
    let mut at = usize::try_from(header.ring_at(0)).unwrap();
    for text in texts {
        bytes[at..at + 4].copy_from_slice(&Word::new(State::Ready, 8 + text.len()).0.to_le_bytes());
        bytes[at + 8..at + 8 + text.len()].copy_from_slice(text.as_bytes());
        at += stride_of(text.len());
    }
    let file = File { bytes: Arc::new(Mutex::new(bytes)), budget: Budget::new(u64::MAX) };
    let pool = Pool::new(24, 64 << 10).unwrap();
    let scanned = scan(disk, &pool);
    let mut log = log(repair(disk, &pool, scanned), Commit::Immediate, SCHEMA, &pool);
    Takeover::look(file, header).unwrap().append(&mut log, disk, &Clock::start()).unwrap();
}

/// Runs it with `steps` steps for the first run, `again` for the second, and as many as it wants for the last. Whether
/// the first one came to its end.
fn killed_at(steps: u64, again: u64, in_log: usize, commit: Commit, schema: Schema) -> bool {
    let disk = Arc::new(Mutex::new(RamDisk::new()));
    let unlimited = Budget::new(u64::MAX);
    let (header, bytes, all) = left_behind(1);
    // What the dead process had in its log: the front of what it had drained, ring 0 first.
    let drained: Vec<String> = all[..30].iter().chain(&all[120..150]).cloned().collect();
    let before = drained[..in_log].to_vec();
    written_before(&mut Kept { disk: Arc::clone(&disk), budget: unlimited.clone() }, &before);
    let bytes = Arc::new(Mutex::new(bytes));
    let mut ended = Vec::new();
    for steps in [steps, again, u64::MAX] {
        let budget = Budget::new(steps);
        let file = File { bytes: Arc::clone(&bytes), budget: budget.clone() };
        let mut kept = Kept { disk: Arc::clone(&disk), budget };
        let run = catch_unwind(AssertUnwindSafe(|| take_over(&mut kept, file, header, commit, schema)));
        if let Err(why) = &run {
            assert!(why.is::<Killed>(), "after {steps} steps, then {again}, with {in_log} in the log");
        }
        ended.push(run.is_ok());
        // What the dead process had asked for is nobody's any more.
        while disk.lock().unwrap().complete(Some(Duration::ZERO)).is_some() {}
    }
    let mut kept = Kept { disk: Arc::clone(&disk), budget: unlimited };
    let found = entries(&mut kept);
    let context = format!("after {steps} steps, then {again}, with {in_log} in the log, {commit:?}");
    assert_eq!(found[..in_log], before, "{context}");
    let mut counts = BTreeMap::<&String, u32>::new();
    found.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    for text in &all {
        assert_eq!(counts.remove(text), Some(1), "{text}: {context}");
    }
    assert!(counts.is_empty(), "{context}");
    // And in ring order.
    let rest: Vec<_> = all.iter().filter(|text| !before.contains(text)).collect();
    assert_eq!(found[in_log..].iter().collect::<Vec<_>>(), rest, "{context}");
    ended[0]
}

/// A silent end of a run, however many there are.
fn without_reports(check: impl FnOnce()) {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Killed>() {
                usual(info);
            }
        }));
    });
    check();
}

#[test]
fn a_takeover_stopped_at_every_step_brings_each_entry_into_the_log_exactly_once() {
    without_reports(|| {
        let mut steps = 0;
        while !killed_at(steps, u64::MAX, 0, Commit::Immediate, SCHEMA) {
            steps += 1;
        }
        assert!(steps > 20, "only {steps} steps");
    });
}

#[test]
fn a_takeover_stopped_twice_brings_each_entry_into_the_log_exactly_once() {
    without_reports(|| {
        for steps in (0..60).step_by(7) {
            for again in (0..60).step_by(3) {
                killed_at(steps, again, 20, Commit::Immediate, SCHEMA);
            }
        }
    });
}

#[test]
fn what_the_log_has_is_not_appended_again_wherever_the_log_ends() {
    without_reports(|| {
        for in_log in [0, 1, 9, 10, 29, 30, 31, 45, 60] {
            for commit in [Commit::Immediate, Commit::Periodic(Duration::from_secs(60)), Commit::Spill] {
                for steps in [3, 9, 17, u64::MAX] {
                    killed_at(steps, u64::MAX, in_log, commit, SCHEMA);
                }
            }
        }
    });
}

#[test]
fn entries_of_an_older_schema_go_to_segments_of_their_own() {
    let disk = Arc::new(Mutex::new(RamDisk::new()));
    let (header, bytes, all) = left_behind(1);
    let mut kept = Kept { disk, budget: Budget::new(u64::MAX) };
    let file = File { bytes: Arc::new(Mutex::new(bytes)), budget: Budget::new(u64::MAX) };
    let newer = Schema::new("test", 2);
    let pool = Pool::new(24, 64 << 10).unwrap();
    let scanned = scan(&mut kept, &pool);
    let mut log = log(repair(&mut kept, &pool, scanned), Commit::Immediate, newer, &pool);
    Takeover::look(file, header).unwrap().append(&mut log, &mut kept, &Clock::start()).unwrap();
    super::takeover::use_schema(&mut log, &mut kept, &Clock::start(), newer).unwrap();
    // One more entry, of the new schema.
    let (mut header, mut bytes, _) = left_behind(1);
    header.schema = newer;
    bytes[usize::try_from(header.control_at(0)).unwrap()..].fill(0);
    let at = usize::try_from(header.ring_at(1)).unwrap();
    bytes[at..at + 4].copy_from_slice(&Word::new(State::Ready, 8).0.to_le_bytes());
    let file = File { bytes: Arc::new(Mutex::new(bytes)), budget: Budget::new(u64::MAX) };
    assert_eq!(Takeover::look(file, header).unwrap().append(&mut log, &mut kept, &Clock::start()).unwrap(), 1);
    let schema_of = |lsn: usize| log.segments().find(Lsn::new(lsn as u64)).map(|segment| segment.schema);
    assert_eq!(schema_of(1), Some(SCHEMA));
    assert_eq!(schema_of(all.len()), Some(SCHEMA));
    assert_eq!(schema_of(all.len() + 1), Some(newer));
}
