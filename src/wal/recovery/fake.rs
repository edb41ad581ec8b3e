//! A disk in memory for unit tests: ops answered at once, and a hand that writes by the codecs.

use std::collections::{BTreeMap, BTreeSet};

use super::{OnCorruption, Recovered, Repair, Scan, ScanError, Scanned, StoreConfig};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::ring::record::{State, Word, stride_of};
use crate::schema::Schema;
use crate::time::UnixNanos;
use crate::wal::block::Pool;
use crate::wal::codec::crc;
use crate::wal::coding::BodyCoding;
use crate::wal::cursor::{CURSOR_LEN, Cursor, cursor_offset};
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use crate::wal::meta::{LogEnd, META_LEN, Meta, meta_offset};
use crate::wal::mutant::Mutants;
use crate::wal::op::{Completion, DiskError, FileId, LogId, Op, Output, Token};
use crate::wal::segment::SegmentHeader;

pub(crate) const BLOCK: u32 = 512;
pub(crate) const BLOCKS: u32 = 96;
pub(crate) const META: FileId = FileId::Meta(LogId::Main);

pub(crate) fn slot(number: u32) -> FileId {
    FileId::Slot(LogId::Main, SlotNo(number))
}

pub(crate) fn config() -> StoreConfig {
    StoreConfig {
        log: LogId::Main,
        block_len: BLOCK,
        segment_len: u64::from(BLOCK * BLOCKS),
        frame_len_max: 8192,
        features: 0,
        seed: 5,
        mutants: Mutants::NONE,
    }
}

pub(crate) fn pool() -> Pool {
    Pool::new(8, 16_384).unwrap()
}

/// The files.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) files: BTreeMap<FileId, Vec<u8>>,
    /// Blocks that cannot be read.
    pub(crate) bad: BTreeSet<(FileId, u64)>,
    /// Blocks that can be read from the second time on.
    pub(crate) bad_once: BTreeSet<(FileId, u64)>,
    /// What was done, in order: syncs, reads and changes.
    pub(crate) log: Vec<String>,
    /// Changes that are carried out before the disk is gone.
    pub(crate) changes_left: Option<usize>,
}

impl Fake {
    pub(crate) fn run(&mut self, token: Token, op: Op) -> Completion {
        let result = self.answer(op);
        Completion { token, result }
    }

    fn answer(&mut self, op: Op) -> Result<Output, DiskError> {
        let (name, file) = match &op {
            Op::List { .. } => ("list", META),
            Op::Prepare { file, .. } => ("prepare", *file),
            Op::Write { file, .. } => ("write", *file),
            Op::Sync { file } => ("sync", *file),
            Op::Read { file, .. } => ("read", *file),
            Op::Remove { file } => ("remove", *file),
            Op::Quarantine { file } => ("quarantine", *file),
        };
        self.log.push(format!("{name} {file}"));
        if matches!(op, Op::Prepare { .. } | Op::Write { .. } | Op::Remove { .. } | Op::Quarantine { .. })
            && let Some(left) = &mut self.changes_left
        {
            if *left == 0 {
                return Err(DiskError { what: "write", file: None, offset: None, errno: libc::ENODEV, detail: "" });
            }
            *left -= 1;
        }
        match op {
            Op::List { .. } => {
                return Ok(Output::Files(self.files.iter().map(|(file, bytes)| (*file, bytes.len() as u64)).collect()));
            }
            Op::Prepare { file, len, mark, .. } => {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                bytes[..mark.len()].copy_from_slice(&mark);
                self.files.insert(file, bytes);
            }
            Op::Write { file, offset, block, dsync } => {
                assert!(dsync, "recovery writes durably");
                self.put(file, usize::try_from(offset).unwrap(), &block);
            }
            Op::Read { file, offset, mut block } => {
                let blocks = offset / 512..(offset + block.len() as u64).div_ceil(512);
                // All of them, not only the first.
                let bad_once = blocks.clone().filter(|b| self.bad_once.remove(&(file, *b))).count();
                if bad_once > 0 || blocks.into_iter().any(|b| self.bad.contains(&(file, b))) {
                    let error =
                        DiskError { what: "read", file: Some(file), offset: None, errno: libc::EIO, detail: "" };
                    return Err(error);
                }
                let Some(bytes) = self.files.get(&file) else {
                    let error =
                        DiskError { what: "read", file: Some(file), offset: None, errno: libc::ENOENT, detail: "" };
                    return Err(error);
                };
                let from = usize::try_from(offset).unwrap().min(bytes.len());
                let len = block.len().min(bytes.len() - from);
                block.fill(0);
                block[..len].copy_from_slice(&bytes[from..from + len]);
                return Ok(Output::Bytes(block));
            }
            Op::Remove { file } => drop(self.files.remove(&file)),
            Op::Sync { .. } | Op::Quarantine { .. } => {}
        }
        Ok(Output::Done)
    }

    pub(crate) fn put(&mut self, file: FileId, at: usize, bytes: &[u8]) {
        let content = self.files.entry(file).or_default();
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn scan_with(&mut self, config: StoreConfig) -> Result<Scanned, ScanError> {
        self.run_scan(Scan::new(config, pool()))
    }

    pub(crate) fn run_scan(&mut self, mut scan: Scan) -> Result<Scanned, ScanError> {
        loop {
            if let Some(outcome) = scan.outcome() {
                return outcome;
            }
            let mut ops: Vec<_> = std::iter::from_fn(|| scan.poll_op()).collect();
            assert!(!ops.is_empty(), "a scan never stalls");
            // Completions come in any order.
            ops.reverse();
            for (token, op) in ops {
                scan.handle_completion(self.run(token, op));
            }
        }
    }

    pub(crate) fn scan(&mut self) -> Result<Scanned, ScanError> {
        self.scan_with(config())
    }

    pub(crate) fn repair(&mut self, scanned: Scanned, policy: OnCorruption) -> Result<Recovered, DiskError> {
        self.repair_with(scanned, policy, config())
    }

    pub(crate) fn repair_with(
        &mut self,
        scanned: Scanned,
        policy: OnCorruption,
        config: StoreConfig,
    ) -> Result<Recovered, DiskError> {
        let mut repair = Repair::new(scanned, policy, config, pool());
        loop {
            if let Some(outcome) = repair.outcome() {
                return outcome;
            }
            let (token, op) = repair.poll_op().expect("a repair never stalls");
            repair.handle_completion(self.run(token, op));
        }
    }

    /// Scans and repairs.
    pub(crate) fn open(&mut self, policy: OnCorruption) -> Recovered {
        let scanned = self.scan().unwrap();
        self.repair(scanned, policy).unwrap()
    }
}

/// A store that is written by hand.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) disk: Fake,
    pub(crate) meta: Meta,
    pub(crate) cursor: Cursor,
    /// Where the next frame of each slot goes.
    pub(crate) position: BTreeMap<u32, u32>,
    headers: BTreeMap<u32, SegmentHeader>,
}

impl Store {
    pub(crate) fn new() -> Self {
        let mut disk = Fake::default();
        let recovered = disk.open(OnCorruption::Stop);
        let (meta, cursor) = (recovered.meta, recovered.cursor);
        Self { disk, meta, cursor, position: BTreeMap::new(), headers: BTreeMap::new() }
    }

    /// Writes a segment's header; uid = 100 + seq.
    pub(crate) fn segment(&mut self, slot_no: u32, seq: u64, base: u64, prev_uid: u64, durable: u64) -> &mut Self {
        let header = SegmentHeader {
            store: self.meta.store,
            uid: SegmentUid(100 + seq),
            seq,
            base_lsn: Lsn::new(base),
            prev_uid: SegmentUid(prev_uid),
            prev_end_lsn: Lsn::new(base - 1),
            durable_lsn: Lsn::new(durable),
            epoch: self.meta.epoch,
            block_len: BLOCK,
            slot: SlotNo(slot_no),
            segment_len: self.meta.segment_len,
            created: UnixNanos(0),
            log: LogId::Main,
            schema: Schema::new("t", 1),
            key: None,
        };
        let mut bytes = vec![0; 2 * BLOCK as usize];
        header.encode(&mut bytes);
        self.disk.put(slot(slot_no), 0, &bytes);
        let content = self.disk.files.get_mut(&slot(slot_no)).unwrap();
        content.resize(usize::try_from(self.meta.segment_len).unwrap(), 0);
        self.position.insert(slot_no, 2);
        self.headers.insert(slot_no, header);
        self
    }

    /// Writes a DATA frame with entries of `payload_len` bytes.
    pub(crate) fn data(&mut self, slot_no: u32, first: u64, count: u32, durable: u64, payload_len: usize) -> &mut Self {
        let mut body = Vec::new();
        for i in 0..count {
            let start = body.len();
            body.extend(Word::new(State::Ready, 8 + payload_len).0.to_le_bytes());
            body.extend(0_u32.to_le_bytes());
            body.resize(body.len() + payload_len, (first as u8).wrapping_add(i as u8) | 1);
            body.resize(start + stride_of(payload_len), 0);
        }
        self.frame(slot_no, FrameKind::Data, first, first + u64::from(count), durable, &body)
    }

    pub(crate) fn frame(
        &mut self,
        slot_no: u32,
        kind: FrameKind,
        first: u64,
        next: u64,
        durable: u64,
        body: &[u8],
    ) -> &mut Self {
        let position = self.position[&slot_no];
        let header = FrameHeader {
            kind,
            seg_uid: self.headers[&slot_no].uid,
            first_lsn: Lsn::new(first),
            next_lsn: Lsn::new(next),
            durable_lsn: Lsn::new(durable),
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position,
            record_count: if kind == FrameKind::Data { u32::try_from(next - first).unwrap() } else { 0 },
            coding: BodyCoding::PLAIN,
            body_len: u32::try_from(body.len()).unwrap(),
            raw_len: u32::try_from(body.len()).unwrap(),
            body_crc: crc(body),
        };
        let len = usize::try_from(header.stored_len(BLOCK)).unwrap();
        let mut bytes = vec![0; len];
        header.encode(&mut bytes);
        bytes[FRAME_HEADER_LEN..FRAME_HEADER_LEN + body.len()].copy_from_slice(body);
        self.disk.put(slot(slot_no), (position * BLOCK) as usize, &bytes);
        self.position.insert(slot_no, position + u32::try_from(len).unwrap() / BLOCK);
        self
    }

    pub(crate) fn write_cursor(&mut self, acked: u64, durable: u64) -> &mut Self {
        self.cursor.generation += 1;
        self.cursor.acked = Lsn::new(acked);
        self.cursor.durable = Lsn::new(durable);
        self.cursor.epoch = self.meta.epoch;
        let mut bytes = vec![0; CURSOR_LEN];
        self.cursor.encode(&mut bytes);
        let at = usize::try_from(cursor_offset(self.cursor.generation, BLOCK)).unwrap();
        self.disk.put(META, at, &bytes);
        self
    }

    pub(crate) fn close(&mut self, end: u64, uid: u64) -> &mut Self {
        self.meta.clean = Some(LogEnd { lsn: Lsn::new(end), uid: SegmentUid(uid) });
        self.write_meta()
    }

    pub(crate) fn write_meta(&mut self) -> &mut Self {
        self.meta.generation += 1;
        let mut bytes = vec![0; META_LEN];
        self.meta.encode(&mut bytes);
        let at = usize::try_from(meta_offset(self.meta.generation, BLOCK)).unwrap();
        self.disk.put(META, at, &bytes);
        self
    }

    pub(crate) fn scan(&self) -> Scanned {
        self.disk.clone().scan().unwrap()
    }

    /// Spoils a block.
    pub(crate) fn rot(&mut self, file: FileId, block: u32) -> &mut Self {
        let at = (block * BLOCK) as usize;
        let block = &mut self.disk.files.get_mut(&file).unwrap()[at..at + BLOCK as usize];
        block.iter_mut().for_each(|byte| *byte ^= 0x5a);
        self
    }

    /// Three segments, two of them sealed, entries 1 to 30, ten in each, in frames of two; promises up
    /// to the frame before.
    pub(crate) fn sample() -> Self {
        let mut store = Self::new();
        for n in 0..3_u32 {
            let base = u64::from(n) * 10 + 1;
            store.segment(n, u64::from(n) + 1, base, if n == 0 { 0 } else { 100 + u64::from(n) }, base - 1);
            for first in (base..base + 10).step_by(2) {
                store.data(n, first, 2, first - 1, 300);
            }
        }
        store
    }
}
