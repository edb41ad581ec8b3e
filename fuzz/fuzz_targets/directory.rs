//! A whole directory that somebody made up: recovery ends with a verdict, and nothing whose checksum does
//! not hold is delivered.
//!
//! The input describes META, the cursor and up to four slots in terms of their fields, so that checksums
//! hold and contradictions are reached; then bytes are flipped, files cut and replaced by noise.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringwal::ring::record::{State, Word, stride_of};
use ringwal::time::UnixNanos;
use ringwal::wal::block::Pool;
use ringwal::wal::cursor::{CURSOR_ATTEMPTS_MAX, CURSOR_LEN, CURSOR_RANGES_MAX, Cursor, cursor_offset, meta_file_len};
use ringwal::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind};
use ringwal::wal::meta::{LogEnd, META_LEN, Meta, meta_offset};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::reader::{ReadEvent, Reader};
use ringwal::wal::recovery::{OnCorruption, Recovered, Repair, Scan, StoreConfig};
use ringwal::wal::segment::{HEADER_BLOCKS, SegmentHeader, StoreId, write_free_mark, write_void_mark};
use ringwal::wal::segments::SegmentTable;
use ringwal::{Lsn, Schema, SegmentUid, SlotNo};
use ringwal_fuzz::disk::Files;
use ringwal_fuzz::make_good;

const BLOCK_LEN: u32 = 512;
const BLOCKS: u32 = 24;
const FRAME_LEN_MAX: u32 = 4 * BLOCK_LEN;
const STORE: StoreId = StoreId([7; 16]);
const LOG: LogId = LogId::Main;
/// More ops than any directory of this size needs: recovery must come to an end.
const OPS_MAX: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Directory {
    meta: [Option<MetaCopy>; 2],
    cursor: [Option<CursorCopy>; 2],
    slots: Vec<Slot>,
    policy: u8,
    flips: Vec<(u8, u16, u8)>,
    cut: Option<(u8, u16)>,
}

#[derive(Arbitrary, Debug)]
struct MetaCopy {
    generation: u8,
    epoch: u8,
    reserved: u8,
    clean: Option<(u8, u8)>,
    recovered: Option<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
struct CursorCopy {
    generation: u8,
    epoch: u8,
    acked: u8,
    durable: u8,
    done: Vec<(u8, u8)>,
    attempts: Vec<(u8, u8)>,
    /// Bytes that no writer of ours would write, under a good checksum.
    patch: Option<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
enum Slot {
    Missing,
    Noise(Vec<u8>),
    Free,
    Void,
    Segment { uid: u8, seq: u8, base: u8, prev_uid: u8, durable: u8, epoch: u8, elsewhere: bool, frames: Vec<FrameAt> },
}

#[derive(Arbitrary, Debug)]
struct FrameAt {
    /// Blocks left out before it.
    gap: u8,
    kind: u8,
    /// Added to the LSN and the position that would be next.
    lsn_off: i8,
    position_off: i8,
    uid: Option<u8>,
    durable: u8,
    payloads: Vec<u8>,
    /// Spoils the body under a good header.
    rot: bool,
    /// A record whose length lies, under a good checksum.
    liar: bool,
}

fn lsn(number: u8) -> Lsn {
    // Now and then a number from the other end.
    Lsn::new(if number == 255 { u64::MAX } else { u64::from(number) })
}

fn end(end: Option<(u8, u8)>) -> Option<LogEnd> {
    end.map(|(number, uid)| LogEnd { lsn: lsn(number), uid: SegmentUid(uid.into()) })
}

impl MetaCopy {
    fn write(&self, place: usize, file: &mut [u8]) {
        let generation = u64::from(self.generation) << 1 | place as u64;
        let meta = Meta {
            generation,
            store: STORE,
            block_len: BLOCK_LEN,
            frame_len_max: FRAME_LEN_MAX,
            segment_len: u64::from(BLOCKS * BLOCK_LEN),
            epoch: self.epoch.into(),
            reserved_lsn: lsn(self.reserved),
            clean: end(self.clean),
            recovered: end(self.recovered),
        };
        meta.encode(&mut file[meta_offset(generation, BLOCK_LEN) as usize..][..META_LEN]);
    }
}

impl CursorCopy {
    fn write(&self, place: usize, file: &mut [u8]) {
        let generation = u64::from(self.generation) << 1 | place as u64;
        let mut floor = lsn(self.acked);
        let mut done = Vec::new();
        for (first, next) in self.done.iter().map(|(first, next)| (lsn(*first), lsn(*next))).take(CURSOR_RANGES_MAX) {
            if first.number() > floor.number().saturating_add(1) && next > first {
                done.push((first, next));
                floor = next.prev();
            }
        }
        let mut attempts: Vec<_> = self.attempts.iter().map(|(at, n)| (lsn(*at), (*n).into())).collect();
        attempts.sort_unstable();
        attempts.dedup_by_key(|row| row.0);
        attempts.truncate(CURSOR_ATTEMPTS_MAX);
        let (epoch, acked, durable) = (self.epoch.into(), lsn(self.acked), lsn(self.durable));
        let cursor = Cursor { generation, epoch, acked, durable, done, attempts };
        let copy = &mut file[cursor_offset(generation, BLOCK_LEN) as usize..][..CURSOR_LEN];
        cursor.encode(copy);
        if let Some((at, flip)) = self.patch {
            copy[usize::from(at)] ^= flip;
            make_good(copy, CURSOR_LEN - 4);
        }
    }
}

impl Slot {
    fn bytes(&self, slot: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; (BLOCKS * BLOCK_LEN) as usize];
        let head = (HEADER_BLOCKS * BLOCK_LEN) as usize;
        match self {
            Self::Missing => return None,
            Self::Noise(noise) => {
                let len = noise.len().min(bytes.len());
                bytes[..len].copy_from_slice(&noise[..len]);
            }
            Self::Free => write_free_mark(&mut bytes[..head], BLOCK_LEN),
            Self::Void => write_void_mark(&mut bytes[..head], BLOCK_LEN),
            Self::Segment { uid, seq, base, prev_uid, durable, epoch, elsewhere, frames } => {
                let base_lsn = lsn(*base);
                let header = SegmentHeader {
                    store: STORE,
                    uid: SegmentUid((*uid).into()),
                    seq: (*seq).into(),
                    base_lsn,
                    prev_uid: SegmentUid((*prev_uid).into()),
                    prev_end_lsn: base_lsn.prev(),
                    durable_lsn: lsn(*durable),
                    epoch: (*epoch).into(),
                    block_len: BLOCK_LEN,
                    slot: SlotNo(slot + u32::from(*elsewhere)),
                    segment_len: u64::from(BLOCKS * BLOCK_LEN),
                    created: UnixNanos(0),
                    log: LOG,
                    schema: Schema::new("bytes", 1),
                };
                header.encode(&mut bytes[..head]);
                write_frames(frames, header.uid, base_lsn, &mut bytes);
            }
        }
        Some(bytes)
    }
}

fn write_frames(frames: &[FrameAt], uid: SegmentUid, base: Lsn, bytes: &mut [u8]) {
    let (mut next, mut position) = (base.number(), HEADER_BLOCKS);
    for frame in frames {
        position += u32::from(frame.gap % 4);
        let mut body = Vec::new();
        let kind = match frame.kind % 8 {
            0 => FrameKind::Mark,
            1 => FrameKind::Seal,
            2 => FrameKind::Skip,
            3 => FrameKind::Unknown(200),
            _ => FrameKind::Data,
        };
        let records = if kind == FrameKind::Data { frame.payloads.len().clamp(1, 16) } else { 0 };
        for i in 0..records {
            let len = usize::from(frame.payloads.get(i).copied().unwrap_or(0));
            let lie = if frame.liar && i + 1 == records { 4096 } else { 8 + len };
            let start = body.len();
            body.extend(Word::new(State::Ready, lie).0.to_le_bytes());
            body.extend([0; 4]);
            body.extend((0..len).map(|at| at as u8));
            body.resize(start + stride_of(len), 0);
        }
        body.truncate(FRAME_LEN_MAX as usize - FRAME_HEADER_LEN);
        let first = next.wrapping_add_signed(frame.lsn_off.into());
        let covered = match kind {
            FrameKind::Data => records as u64,
            FrameKind::Skip => u64::from(frame.payloads.first().copied().unwrap_or(1)),
            _ => 0,
        };
        let body_len = u32::try_from(body.len()).expect("a body fits into a frame");
        let header = FrameHeader {
            kind,
            seg_uid: frame.uid.map_or(uid, |uid| SegmentUid(uid.into())),
            first_lsn: Lsn::new(first),
            next_lsn: Lsn::new(first.wrapping_add(covered)),
            durable_lsn: lsn(frame.durable),
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position: position.wrapping_add_signed(frame.position_off.into()),
            record_count: records as u32,
            body_len,
            raw_len: body_len,
            body_crc: crc32c::crc32c(&body).wrapping_add(frame.rot.into()),
        };
        let start = (position * BLOCK_LEN) as usize;
        let Some(place) = bytes.get_mut(start..start + FRAME_HEADER_LEN + body.len()) else { return };
        header.encode(&mut place[..FRAME_HEADER_LEN]);
        place[FRAME_HEADER_LEN..].copy_from_slice(&body);
        position += header.stored_len(BLOCK_LEN) as u32 / BLOCK_LEN;
        next = header.next_lsn.number();
    }
}

impl Directory {
    fn files(&self) -> Files {
        let mut files = Files::default();
        if self.meta.iter().any(Option::is_some) {
            let mut file = vec![0; meta_file_len(BLOCK_LEN) as usize];
            for place in 0..2 {
                if let Some(meta) = &self.meta[place] {
                    meta.write(place, &mut file);
                }
                if let Some(cursor) = &self.cursor[place] {
                    cursor.write(place, &mut file);
                }
            }
            files.0.insert(FileId::Meta(LOG), file);
        }
        for (slot, number) in self.slots.iter().take(4).zip(0..) {
            if let Some(bytes) = slot.bytes(number) {
                files.0.insert(FileId::Slot(LOG, SlotNo(number)), bytes);
            }
        }
        let count = files.0.len().max(1);
        for (file, at, flip) in &self.flips {
            if let Some(bytes) = files.0.values_mut().nth(usize::from(*file) % count) {
                let at = usize::from(*at) % bytes.len();
                bytes[at] ^= flip;
            }
        }
        if let Some((file, len)) = self.cut
            && let Some(bytes) = files.0.values_mut().nth(usize::from(file) % count)
        {
            bytes.truncate((usize::from(len) % (bytes.len() + 1)).max(1));
        }
        files
    }
}

fn scan(files: &mut Files, config: StoreConfig, pool: &Pool) -> Option<ringwal::wal::recovery::Scanned> {
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
    assert_eq!(crc32c::crc32c(frame.body()), frame.header.body_crc);
    assert_eq!(FrameHeader::decode(&frame.block), Ok(frame.header));
    assert!(frame.header.first_lsn > *last, "{:?} after {last:?}", frame.header);
    *last = frame.header.next_lsn.prev();
}

fn read_all(files: &mut Files, recovered: &Recovered, pool: &Pool) {
    let table = SegmentTable::new(recovered.live.clone(), recovered.absent.clone());
    let mut reader = Reader::new(LOG, &recovered.meta, Mutants::NONE);
    reader.seek(recovered.cursor.acked.next(), None);
    let mut last = Lsn::ZERO;
    for _ in 0..OPS_MAX {
        let op = reader.poll_op(&table, recovered.end, pool);
        match reader.poll_event() {
            Some(ReadEvent::CaughtUp) => return,
            Some(ReadEvent::Frame(frame)) => check(&frame, &mut last),
            Some(ReadEvent::Corrupt(hole)) => reader.skip(&hole),
            Some(ReadEvent::Failed(error)) => panic!("this disk refuses nothing that is there: {error}"),
            None => assert!(op.is_some() || reader.in_flight() > 0, "a reader that waits for nothing"),
        }
        if let Some((token, op)) = op {
            reader.handle_completion(files.run(token, op));
        }
    }
    panic!("the reader does not end");
}

fuzz_target!(|directory: Directory| {
    let mut files = directory.files();
    let config = StoreConfig {
        log: LOG,
        block_len: BLOCK_LEN,
        segment_len: u64::from(BLOCKS * BLOCK_LEN),
        frame_len_max: FRAME_LEN_MAX,
        seed: 1,
        mutants: Mutants::NONE,
    };
    let pool = Pool::new(8, 64 << 10).expect("memory for a pool");
    let before = files.0.clone();
    let Some(scanned) = scan(&mut files, config, &pool) else {
        assert_eq!(files.0, before, "a refused scan has changed something");
        return;
    };
    assert_eq!(files.0, before, "a scan has changed something");
    let policy = match directory.policy % 3 {
        0 if scanned.corruption.is_empty() => OnCorruption::Stop,
        1 => OnCorruption::CutTail,
        _ => OnCorruption::Quarantine,
    };
    let recovered = repair(&mut files, Repair::new(scanned, policy, config, pool.clone()));
    read_all(&mut files, &recovered, &pool);

    // What was repaired is sound: the next opening finds the same log and nothing to complain about.
    let again = scan(&mut files, config, &pool).expect("a repaired store can be opened");
    assert_eq!(again.corruption, [], "a repaired store is corrupt");
    // What a policy gave up counts as done, and the end of a log is never below what is done.
    assert_eq!(again.end, recovered.end.max(recovered.cursor.acked));
    assert_eq!(again.next_lsn, recovered.next_lsn);
});
