//! A whole directory that somebody made up: recovery ends with a verdict, whatever the policy, nothing whose
//! checksum does not hold is given out, and looking at it from outside comes to an end and changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::Lsn;
use ringwal::wal::block::Pool;
use ringwal::wal::frame::{Frame, FrameHeader};
use ringwal::wal::inspect::{Inspect, InspectEvent};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::LogId;
use ringwal::wal::reader::{ReadEvent, Reader};
use ringwal::wal::recovery::{OnCorruption, Recovered, Repair, Scan, Scanned, StoreConfig};
use ringwal::wal::segments::SegmentTable;
use ringwal_fuzz::directory::{Directory, Shape};
use ringwal_fuzz::disk::Files;

const SHAPE: Shape = Shape { log: LogId::Main, block_len: 512 };
/// More ops than any directory of this size needs: recovery must come to an end.
const OPS_MAX: usize = 4096;

fn scan(files: &mut Files, config: StoreConfig, pool: &Pool) -> Option<Scanned> {
    let mut scan = Scan::new(config, pool.clone());
    for _ in 0..OPS_MAX {
        if let Some(outcome) = scan.outcome() {
            return outcome.ok();
        }
        let (token, op) = scan.poll_op().expect("a scan without an outcome has something to ask");
        scan.handle_completion(files.run(token, op));
    }
    panic!("the scan does not end");
}

fn repair(files: &mut Files, mut repair: Repair) -> Recovered {
    for _ in 0..OPS_MAX {
        if let Some(outcome) = repair.outcome() {
            return outcome.expect("this disk refuses nothing that is there");
        }
        let (token, op) = repair.poll_op().expect("a repair without an outcome has something to ask");
        repair.handle_completion(files.run(token, op));
    }
    panic!("the repair does not end");
}

/// A frame that is given out checks out, by a checksum of our own.
fn check(frame: &Frame, last: &mut Lsn) {
    if frame.header.coding.is_plain() {
        assert_eq!(crc32c::crc32c(frame.body()), frame.header.body_crc);
        assert_eq!(FrameHeader::decode(&frame.block), Ok(frame.header));
    }
    assert_eq!(frame.body().len(), frame.header.raw_len as usize);
    assert!(frame.header.first_lsn > *last, "{:?} after {last:?}", frame.header);
    *last = frame.header.next_lsn.prev();
}

fn read_all(files: &mut Files, recovered: &Recovered, pool: &Pool) {
    let table = SegmentTable::new(recovered.live.clone(), recovered.absent.clone());
    let mut reader = Reader::new(SHAPE.log, &recovered.meta, Mutants::NONE);
    reader.seek(recovered.cursor.acked.next(), None);
    let mut last = Lsn::ZERO;
    for _ in 0..OPS_MAX {
        let op = reader.poll_op(&table, recovered.end, pool);
        match reader.poll_event() {
            Some(ReadEvent::CaughtUp) => return,
            Some(ReadEvent::Frame(frame)) => check(&frame, &mut last),
            Some(ReadEvent::Corrupt(hole)) => reader.skip(&hole),
            Some(ReadEvent::Locked { .. }) => {}
            Some(ReadEvent::Failed(error)) => panic!("this disk refuses nothing that is there: {error}"),
            None => assert!(op.is_some() || reader.in_flight() > 0, "a reader that waits for nothing"),
        }
        if let Some((token, op)) = op {
            reader.handle_completion(files.run(token, op));
        }
    }
    panic!("the reader does not end");
}

/// What is outside sees: the survey, and every frame that is live. Gives how many entries are lost.
fn inspect(files: &mut Files, config: StoreConfig, pool: &Pool, from: Option<Lsn>) -> Option<u64> {
    let mut inspect = Inspect::new(config, pool.clone(), from);
    let mut last = Lsn::ZERO;
    let mut surveyed = false;
    // A scan that fails may be tried twenty times.
    for _ in 0..20 * OPS_MAX {
        match inspect.poll_event() {
            Some(InspectEvent::Survey(survey)) => {
                assert!(!surveyed, "surveyed twice");
                surveyed = true;
                let _ = survey.map(|survey| (survey.backlog(), survey.segments()));
            }
            Some(InspectEvent::Frame(frame)) => check(&frame, &mut last),
            Some(InspectEvent::Locked { .. }) => assert!(surveyed),
            Some(InspectEvent::Corrupt(hole)) => assert!(surveyed && hole.first <= hole.last, "{hole:?}"),
            Some(InspectEvent::End(verified)) => {
                assert!(surveyed);
                return Some(verified.lost);
            }
            Some(InspectEvent::Failed(_)) => return None,
            None => {
                if let Some((token, op)) = inspect.poll_op() {
                    inspect.handle_completion(files.run(token, op));
                }
            }
        }
    }
    panic!("the inspection does not end");
}

fuzz_target!(|directory: Directory| {
    let mut files = directory.files(SHAPE);
    let config = StoreConfig {
        log: SHAPE.log,
        block_len: SHAPE.block_len,
        segment_len: SHAPE.segment_len(),
        frame_len_max: SHAPE.frame_len_max(),
        features: 0,
        seed: 1,
        mutants: Mutants::NONE,
    };
    let pool = Pool::new(8, 64 << 10).expect("memory for a pool");
    let before = files.0.clone();
    let seen = inspect(&mut files, config, &pool, None);
    inspect(&mut files, config, &pool, Some(Lsn::new(directory.policy.into())));
    assert_eq!(files.0, before, "looking has changed something");
    let Some(scanned) = scan(&mut files, config, &pool) else {
        assert_eq!(files.0, before, "a refused scan has changed something");
        assert_eq!(seen, None, "opening is refused, and looking is not");
        return;
    };
    assert_eq!(files.0, before, "a scan has changed something");
    let clean = scanned.corruption.is_empty();
    for policy in [OnCorruption::Stop, OnCorruption::CutTail, OnCorruption::Quarantine] {
        if policy == OnCorruption::Stop && !clean {
            continue;
        }
        let mut files = Files(before.clone());
        let scanned = scan(&mut files, config, &pool).expect("the same bytes are scanned as before");
        let recovered = repair(&mut files, Repair::new(scanned, policy, config, pool.clone()));
        read_all(&mut files, &recovered, &pool);

        // What was repaired is sound: the next opening finds the same log and nothing to complain about.
        let again = scan(&mut files, config, &pool).expect("a repaired store can be opened");
        assert_eq!(again.corruption, [], "a repaired store is corrupt");
        // What a policy gave up counts as done, and the end of a log is never below what is done.
        assert_eq!(again.end, recovered.end.max(recovered.cursor.acked));
        assert_eq!(again.next_lsn, recovered.next_lsn);
        assert!(inspect(&mut files, config, &pool, None).is_some(), "a repaired store can be looked at");
    }
});
