//! The reading half of recovery: asks for the facts, then lets the walk decide.
//!
//! ```text
//!  List → Sync every file → META with the cursor → headers of all slots → frames of the newest segments → walk
//! ```
//! Nothing is changed. A read-only scan leaves the `Sync` out: it decides nothing for anybody else.

use std::collections::VecDeque;

use super::fetch::{Fetch, Fetched};
use super::find::{Finder, Identity, NUMBER_MAX};
use super::judge::{classify, judge_header, next_lsn, read_cursor};
use super::report::{ScanError, ScanReport, Scanned, SlotReport, SlotState, StoreConfig};
use super::walk::{self, Known, Segment};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::block::Pool;
use crate::wal::coding::features;
use crate::wal::cursor::{Cursor, cursor_copy_len, meta_file_len};
use crate::wal::meta::{Meta, MetaError, meta_copy_len};
use crate::wal::mutant::Mutant;
use crate::wal::op::{Completion, FileId, Op, Output, Token};
use crate::wal::segment::{BLOCK_LEN_MAX, HEADER_BLOCKS, read_slot_header};

/// Most syncs in flight.
const SYNCS_MAX: usize = 8;
/// Length of the longest META file.
const META_FILE_LEN_MAX: u64 = meta_file_len(BLOCK_LEN_MAX);

/// Reads a store and says what is in it.
#[derive(Debug)]
pub struct Scan {
    config: StoreConfig,
    sync: bool,
    /// What the disk reads and writes in: the store's blocks must not be shorter.
    unit: u32,
    chunk_len: usize,
    fetch: Fetch,
    phase: Phase,
    /// Ops whose completion is still to come.
    in_flight: usize,
    files: Vec<(FileId, u64)>,
    meta: Option<Meta>,
    cursor: Cursor,
    segments: Vec<Segment>,
    /// Slots of whose header the disk cannot read any copy.
    blind: Vec<SlotNo>,
    report: ScanReport,
    outcome: Option<Result<Scanned, ScanError>>,
}

#[derive(Debug)]
enum Phase {
    List { asked: bool },
    Sync { left: VecDeque<FileId> },
    Meta { bytes: Vec<u8> },
    Headers { bytes: Vec<u8>, unread: usize, slots: VecDeque<(SlotNo, u64)> },
    Frames { left: VecDeque<usize>, finder: Option<Finder> },
    Over,
}

impl Scan {
    /// A scan before recovery: makes everything durable first, so that what it decides on cannot
    /// vanish later.
    #[must_use]
    pub fn new(config: StoreConfig, pool: Pool) -> Self {
        Self::with_sync(config, pool, !config.mutants.has(Mutant::NoSyncBeforeRead))
    }

    /// A scan that changes nothing at all, for inspectors.
    #[must_use]
    pub fn read_only(config: StoreConfig, pool: Pool) -> Self {
        Self::with_sync(config, pool, false)
    }

    fn with_sync(config: StoreConfig, pool: Pool, sync: bool) -> Self {
        let mut scan = Self {
            config,
            sync,
            unit: 0,
            chunk_len: pool.chunk_len(),
            fetch: Fetch::new(pool, config.block_len),
            phase: Phase::List { asked: false },
            in_flight: 0,
            files: Vec::new(),
            meta: None,
            cursor: Cursor::default(),
            segments: Vec::new(),
            blind: Vec::new(),
            report: ScanReport::default(),
            outcome: None,
        };
        if let Err(error) = scan.check_pool(config.block_len) {
            scan.end(Err(error));
        }
        scan
    }

    /// The same on a disk that reads and writes in units of so many bytes: a store of shorter blocks is refused by name,
    /// before anything of it is asked for that such a disk cannot give.
    #[must_use]
    pub fn in_units_of(mut self, unit: u32) -> Self {
        self.unit = unit;
        self
    }

    /// The next op; `None` if there is none before a completion, or none at all.
    pub fn poll_op(&mut self) -> Option<(Token, Op)> {
        let log = self.config.log;
        let op = match &mut self.phase {
            Phase::List { asked } if !*asked => {
                *asked = true;
                Some((self.fetch.token(), Op::List { log }))
            }
            Phase::Sync { left } if self.in_flight < SYNCS_MAX => {
                let file = left.pop_front();
                file.map(|file| (self.fetch.token(), Op::Sync { file }))
            }
            Phase::List { .. } | Phase::Sync { .. } | Phase::Over => None,
            Phase::Meta { .. } | Phase::Headers { .. } | Phase::Frames { .. } => self.fetch.poll_op(),
        };
        self.in_flight += usize::from(op.is_some());
        op
    }

    /// How an op ended.
    pub fn handle_completion(&mut self, completion: Completion) {
        self.in_flight -= 1;
        if let Err(error) = self.take_in(completion) {
            self.end(Err(error));
        }
    }

    /// What was found; once, when nothing is in flight any more.
    pub fn outcome(&mut self) -> Option<Result<Scanned, ScanError>> {
        if self.in_flight == 0 { self.outcome.take() } else { None }
    }

    fn take_in(&mut self, completion: Completion) -> Result<(), ScanError> {
        match self.phase {
            Phase::Over => return Ok(()),
            Phase::List { .. } => {
                if let Output::Files(files) = completion.result? {
                    self.files = files.into_iter().filter(|(file, _)| file.log() == self.config.log).collect();
                }
                let left = if self.sync { self.files.iter().map(|(file, _)| *file).collect() } else { VecDeque::new() };
                self.phase = Phase::Sync { left };
            }
            Phase::Sync { .. } => {
                completion.result?;
            }
            Phase::Meta { .. } | Phase::Headers { .. } | Phase::Frames { .. } => {
                self.fetch.handle_completion(completion)?;
            }
        }
        if let Phase::Sync { left } = &self.phase
            && left.is_empty()
            && self.in_flight == 0
        {
            self.begin_meta()?;
        }
        while let Some(read) = self.fetch.take() {
            self.read(&read)?;
        }
        Ok(())
    }

    fn read(&mut self, read: &Fetched) -> Result<(), ScanError> {
        self.report.bytes_read += read.len as u64;
        match &mut self.phase {
            Phase::Meta { bytes } => {
                append(bytes, read);
                if self.fetch.is_empty() {
                    let bytes = std::mem::take(bytes);
                    self.meta_is_read(&bytes)?;
                }
            }
            Phase::Headers { bytes, unread, .. } => {
                append(bytes, read);
                *unread += if read.bytes.is_none() { read.len } else { 0 };
                self.header_bytes()?;
            }
            Phase::Frames { finder, .. } => {
                if let Some(finder) = finder {
                    finder.pass(read.bytes.as_deref(), read.len);
                }
                if self.fetch.is_empty() {
                    self.segment_is_read();
                }
            }
            Phase::List { .. } | Phase::Sync { .. } | Phase::Over => {}
        }
        Ok(())
    }

    fn slots(&self) -> impl Iterator<Item = (SlotNo, u64)> {
        self.files.iter().filter_map(|(file, len)| match file {
            FileId::Slot(_, slot) => Some((*slot, *len)),
            FileId::Meta(_) => None,
        })
    }

    fn begin_meta(&mut self) -> Result<(), ScanError> {
        let file = FileId::Meta(self.config.log);
        let slots = self.slots().count();
        match self.files.iter().find(|(f, _)| *f == file).map(|(_, len)| *len) {
            None if slots > 0 => return Err(ScanError::MetaMissing { slots }),
            None => self.finish(),
            Some(len) => {
                let unit = u64::from(self.config.block_len).max(4096);
                self.phase = Phase::Meta { bytes: Vec::new() };
                self.fetch.ask(file, 0, len.clamp(1, META_FILE_LEN_MAX).next_multiple_of(unit));
            }
        }
        Ok(())
    }

    fn meta_is_read(&mut self, file: &[u8]) -> Result<(), ScanError> {
        let meta = match Meta::read(file) {
            Ok(_) if self.config.mutants.has(Mutant::OneMeta) && !both_copies_hold(file) => {
                return Err(ScanError::MetaUnreadable);
            }
            Ok(meta) => meta,
            Err(MetaError::Newer { major, features }) => {
                return Err(ScanError::Newer { slot: None, major, features });
            }
            Err(MetaError::Unreadable) => {
                // META is written last when a store is made: as long as no slot is there, and its place
                // is zero, or torn with the cursors behind it as they were made, the making was
                // interrupted.
                let place = usize::try_from(2 * meta_copy_len(self.config.block_len)).unwrap_or(usize::MAX);
                let untouched = file[..place.min(file.len())].iter().all(|byte| *byte == 0);
                let fresh = |cursor: Cursor| cursor.generation <= 1 && cursor.acked == Lsn::ZERO;
                let unused = untouched || read_cursor(file, self.config.block_len).is_some_and(fresh);
                if unused && self.slots().next().is_none() {
                    self.finish();
                    return Ok(());
                }
                return Err(ScanError::MetaUnreadable);
            }
        };
        let counts = [meta.generation, meta.epoch, meta.reserved_lsn.number()];
        let ends = [meta.clean, meta.recovered].map(|end| end.map_or(0, |end| end.lsn.number()));
        let blocks = meta.segment_len / u64::from(meta.block_len);
        if counts.iter().chain(&ends).any(|n| *n >= NUMBER_MAX) || u32::try_from(blocks).is_err() {
            return Err(ScanError::MetaUnreadable);
        }
        if meta.block_len < self.unit {
            return Err(ScanError::BlocksTooShort { block_len: meta.block_len, unit: self.unit });
        }
        self.check_pool(meta.block_len)?;
        self.fetch.set_block_len(meta.block_len);
        self.cursor = read_cursor(file, meta.block_len).ok_or(ScanError::CursorUnreadable)?;
        let slots: VecDeque<_> = self.slots().collect();
        let header_len = u64::from(HEADER_BLOCKS * meta.block_len);
        for (slot, _) in &slots {
            self.fetch.ask(FileId::Slot(self.config.log, *slot), 0, header_len);
        }
        self.meta = Some(meta);
        self.phase = Phase::Headers { bytes: Vec::new(), unread: 0, slots };
        self.header_bytes()
    }

    /// Looks whether a slot's header has been read, and whether all have.
    fn header_bytes(&mut self) -> Result<(), ScanError> {
        let Some(meta) = self.meta.clone() else { return Ok(()) };
        let Phase::Headers { bytes, unread, slots } = &mut self.phase else { return Ok(()) };
        if bytes.len() >= (HEADER_BLOCKS * meta.block_len) as usize {
            let header = read_slot_header(bytes, meta.block_len);
            let is_blind = std::mem::take(unread) == bytes.len();
            bytes.clear();
            if let Some((slot, file_len)) = slots.pop_front() {
                self.blind.extend(is_blind.then_some(slot));
                let state = judge_header(&self.config, &meta, slot, header)?;
                if let SlotState::Segment(header) = &state {
                    // Frames and places name their segment by its uid, so it must be one segment's.
                    if let Some(twin) = self.segments.iter().find(|known| known.header.uid == header.uid) {
                        return Err(ScanError::SameIdentity { slot, other: twin.slot });
                    }
                    // Lossless: checked when META was read.
                    let blocks = u32::try_from(meta.segment_len / u64::from(meta.block_len)).unwrap_or(u32::MAX);
                    self.segments.push(Segment { slot, header: header.clone(), frames: None, blocks });
                }
                self.report.slots.push(SlotReport { slot, file_len, state });
            }
        }
        if let Phase::Headers { slots, .. } = &self.phase
            && slots.is_empty()
        {
            self.phase = Phase::Frames { left: walk::to_read(&self.segments, &self.known(&meta)).into(), finder: None };
            self.next_segment();
        }
        Ok(())
    }

    fn known(&self, meta: &Meta) -> Known {
        // The other copy of META stepped in if anything was written by a later incarnation: what
        // this one says of an orderly end is about another time then.
        let stale = self.newest_epoch() > meta.epoch;
        let mutants = self.config.mutants;
        Known {
            acked: self.cursor.acked,
            done: if mutants.has(Mutant::NoRanges) { Vec::new() } else { self.cursor.done.clone() },
            durable: self.cursor.durable,
            clean: meta.clean.filter(|_| !stale && !mutants.has(Mutant::NoCleanEnd)),
            recovered: meta.recovered,
            epoch: meta.epoch,
            block_len: meta.block_len,
            block_raw_max: match meta.features & (features::LZ4 | features::ZSTD) {
                0 => u64::from(meta.block_len),
                _ => u64::from(meta.frame_len_max),
            },
            mutants,
        }
    }

    fn newest_epoch(&self) -> u64 {
        self.segments.iter().map(|s| s.header.epoch).fold(self.cursor.epoch, u64::max)
    }

    fn next_segment(&mut self) {
        let Some(meta) = &self.meta else { return };
        let Phase::Frames { left, finder } = &mut self.phase else { return };
        let Some(index) = left.front() else {
            self.finish();
            return;
        };
        let segment = &self.segments[*index];
        *finder = Some(Finder::new(Identity {
            uid: segment.header.uid,
            block_len: meta.block_len,
            blocks: segment.blocks,
            frame_len_max: meta.frame_len_max,
            mutants: self.config.mutants,
        }));
        let block_len = u64::from(meta.block_len);
        let file = FileId::Slot(self.config.log, segment.slot);
        let file_len = self.files.iter().find(|(f, _)| *f == file).map_or(0, |(_, len)| *len);
        let until = file_len.min(meta.segment_len).next_multiple_of(block_len);
        let from = u64::from(HEADER_BLOCKS) * block_len;
        if until > from {
            self.fetch.ask(file, from, until - from);
        } else {
            self.segment_is_read();
        }
    }

    fn segment_is_read(&mut self) {
        let Phase::Frames { left, finder } = &mut self.phase else { return };
        if let (Some(index), Some(finder)) = (left.pop_front(), finder.take()) {
            let frames = finder.finish();
            self.report.segments_read += 1;
            self.report.frames += frames.found.iter().filter(|frame| frame.whole).count() as u64;
            self.report.unreadable_blocks += frames.unreadable.len() as u64;
            self.segments[index].frames = Some(frames);
        }
        self.next_segment();
    }

    fn finish(&mut self) {
        let mut scanned = Scanned {
            meta: self.meta.clone(),
            cursor: self.cursor.clone(),
            end: Lsn::ZERO,
            next_lsn: Lsn::FIRST,
            tail_uid: SegmentUid::NONE,
            seq_max: self.segments.iter().map(|s| s.header.seq).max().unwrap_or(0),
            live: Vec::new(),
            voids: Vec::new(),
            free: Vec::new(),
            unprepared: Vec::new(),
            corruption: Vec::new(),
            report: std::mem::take(&mut self.report),
            run: Vec::new(),
            seen: Lsn::ZERO,
            meta_epoch: 0,
            half_made: self.meta.is_none() && !self.files.is_empty(),
        };
        if let Some(mut meta) = self.meta.take() {
            let known = self.known(&meta);
            let mut walked = walk::walk(&self.segments, &known);
            walk::look_at_blind(&mut walked, &self.blind, meta.segment_len, &known);
            scanned.report.stale_meta = self.newest_epoch() > meta.epoch;
            scanned.report.clean = known.clean.is_some();
            scanned.meta_epoch = meta.epoch;
            meta.epoch = meta.epoch.max(self.newest_epoch());
            classify(&self.segments, &walked, &known, meta.segment_len, &mut scanned);
            let seen = self.segments.iter().flat_map(|s| s.frames.iter().flat_map(|f| &f.found)).map(|f| f.last());
            scanned.seen = seen.fold(walked.promise.max(walked.end), Lsn::max);
            scanned.end = walked.end;
            scanned.next_lsn = next_lsn(walked.end, &meta, &self.cursor, self.config.mutants);
            scanned.corruption = walked.corruption;
            scanned.report.lost_marks = walked.lost_marks;
            scanned.report.promise = walked.promise;
            scanned.report.torn = walked.torn;
            scanned.meta = Some(meta);
        }
        self.end(Ok(scanned));
    }

    fn end(&mut self, outcome: Result<Scanned, ScanError>) {
        self.phase = Phase::Over;
        self.outcome = Some(outcome);
    }

    fn check_pool(&self, block_len: u32) -> Result<(), ScanError> {
        let needed = u64::from(HEADER_BLOCKS * block_len).max(meta_copy_len(block_len)).max(cursor_copy_len(block_len));
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if self.chunk_len < needed { Err(ScanError::PoolTooSmall { needed }) } else { Ok(()) }
    }
}

/// Appends what was read, zeros for what could not be.
fn append(bytes: &mut Vec<u8>, read: &Fetched) {
    match &read.bytes {
        Some(block) => bytes.extend_from_slice(block),
        None => bytes.resize(bytes.len() + read.len, 0),
    }
}

/// What a mutant demands of META.
fn both_copies_hold(file: &[u8]) -> bool {
    let (first, second) = file.split_at(file.len().min(4096));
    let second: Vec<u8> = first.iter().map(|_| 0).chain(second.iter().copied()).collect();
    Meta::read(first).is_ok() && Meta::read(&second).is_ok()
}
