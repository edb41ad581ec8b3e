//! A new store, written from its end to its beginning: META, without which nothing opens, comes last.
//!
//! ```text
//!   INCOMPLETE → slots: header, frames as they were, SKIP over each gap, sync → META → INCOMPLETE removed
//! ```
//! Every entry keeps its LSN. The store is described as closed in order, so that everything in it is
//! promised, and with all LSNs reserved that were ever given out: no later entry gets one of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwal::io::{Disk, Io, IoConfig};
use ringwal::time::UnixNanos;
use ringwal::wal::block::Pool;
use ringwal::wal::coding::BodyCoding;
use ringwal::wal::cursor::{Cursor, cursor_copy_len, cursor_offset, meta_file_len};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::meta::{LogEnd, Meta, meta_copy_len, meta_offset};
use ringwal::wal::op::{FileId, LogId, Op, Owner, Token};
use ringwal::wal::segment::{HEADER_BLOCKS, SegmentHeader, StoreId, write_free_mark};
use ringwal::wal::untold::Untold;
use ringwal::{Lsn, Schema, SegmentUid, SlotNo};

use crate::failure::{Failure, Result};
use crate::store::opening_failed;

/// Stands in a target until it is complete.
pub(super) const INCOMPLETE: &str = "INCOMPLETE";
const NOT_COMPLETE: &str = "This directory is being written by `ringwal salvage`, or was when it failed.\n";
const CHUNK_LEN_MIN: usize = 1 << 20;
const CHUNKS: u32 = 2;
/// Segments are as long as a queue can be told to make them.
const SEGMENT_LEN_UNIT: u64 = 64 << 10;
const SEGMENT_LEN_MAX: u64 = 4 << 30;

/// The directory of a new store.
pub(super) struct Target {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    pool: Pool,
    tokens: u32,
    /// The block size of all that is written.
    pub(super) block_len: u32,
}

impl Target {
    /// Takes a directory that is new or empty; `stored_max` is the length of the longest frame.
    pub(super) fn create(dir: &Path, block_len: u32, body_max: u64) -> Result<Self> {
        let config = IoConfig { choice: Io::Threads, lock_wait: Duration::ZERO, create: true, read_only: false };
        let opened = ringwal::io::open(dir, config).map_err(|error| opening_failed(&error))?;
        // In the place of META too: a queue refuses what it cannot read, but would make a new store of nothing.
        for name in [INCOMPLETE, "META"] {
            std::fs::write(dir.join(name), NOT_COMPLETE).map_err(|error| failed(dir, &error.to_string()))?;
        }
        let block_len = block_len.max(opened.report().block_len_min).max(4096);
        let longest = FRAME_HEADER_LEN + usize::try_from(body_max).unwrap_or(usize::MAX / 2) + block_len as usize;
        let chunk_len = longest.max(CHUNK_LEN_MIN).next_multiple_of(64 << 10);
        let memory =
            |error| Failure::new(format!("cannot get {} MiB of memory: {error}", (CHUNKS as usize * chunk_len) >> 20));
        let pool = Pool::new(CHUNKS, chunk_len).map_err(memory)?;
        let disk = opened.into_disk(&pool).map_err(|error| opening_failed(&error))?;
        Ok(Self { dir: dir.to_owned(), disk, pool, tokens: 0, block_len })
    }

    /// It is complete.
    pub(super) fn finish(self) -> Result<()> {
        let Self { dir, disk, .. } = self;
        let removed = std::fs::remove_file(dir.join(INCOMPLETE)).and_then(|()| std::fs::File::open(&dir)?.sync_all());
        removed.map_err(|error| failed(&dir, &error.to_string()))?;
        drop(disk);
        Ok(())
    }

    fn run(&mut self, op: Op) -> Result<()> {
        self.tokens = self.tokens.wrapping_add(1);
        self.disk.submit(Token { owner: Owner::Recovery, number: self.tokens }, op);
        loop {
            if let Some(completion) = self.disk.complete(None) {
                return completion.result.map(drop).map_err(|error| failed(&self.dir, &error.to_string()));
            }
        }
    }

    fn block(&self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<ringwal::wal::block::Block> {
        let mut block =
            self.pool.take().ok_or_else(|| Failure::new("no memory to write with; this is a bug, please report it"))?;
        block.truncate(len);
        block.fill(0);
        fill(&mut block);
        Ok(block.freeze())
    }

    fn write(&mut self, file: FileId, offset: u64, len: u64, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let block = self.block(usize::try_from(len).unwrap_or(0), fill)?;
        self.run(Op::Write { file, offset, block, dsync: true })
    }
}

fn failed(dir: &Path, why: &str) -> Failure {
    Failure::new(format!(
        "{}: {why}; it is not complete, as the file {INCOMPLETE} in it says. Remove it, see to the cause, and run again",
        dir.display()
    ))
}

/// How long a store's segments and frames are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    segment_len: u64,
    frame_len_max: u32,
}

impl Sizes {
    /// The lengths that were, as far as they are known and hold what was found.
    pub(super) fn new(block_len: u32, body_max: u64, segment_len: Option<u64>, frame_len_max: Option<u32>) -> Self {
        let block = u64::from(block_len);
        let longest = (FRAME_HEADER_LEN as u64 + body_max).next_multiple_of(block);
        let known = segment_len.filter(|len| (1..=SEGMENT_LEN_MAX).contains(len)).unwrap_or(64 << 20);
        let segment_len = known.max(longest + 4 * block).next_multiple_of(SEGMENT_LEN_UNIT.max(block));
        let fits = |len: &u64| *len >= longest && len + 4 * block <= segment_len;
        let known = frame_len_max.map(|len| u64::from(len).next_multiple_of(block)).filter(fits);
        Self { segment_len, frame_len_max: u32::try_from(known.unwrap_or(longest)).unwrap_or(u32::MAX) }
    }
}

/// Writes one log of a target.
pub(super) struct Writer<'a> {
    target: &'a mut Target,
    log: LogId,
    sizes: Sizes,
    store: StoreId,
    /// Everything up to here is done, or stands in a segment that is durable.
    durable: Lsn,
    acked: Lsn,
    /// The LSN that comes next.
    next: Lsn,
    segment: Option<SegmentHeader>,
    slots: u32,
    /// Frames that are to be written at `position`.
    pending: Vec<u8>,
    position: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(target: &'a mut Target, log: LogId, sizes: Sizes, acked: Lsn) -> Result<Self> {
        let mut store = [0; 16];
        random(&mut store)?;
        Ok(Self {
            target,
            log,
            sizes,
            store: StoreId(store),
            durable: acked,
            acked,
            next: acked.next(),
            segment: None,
            slots: 0,
            pending: Vec::new(),
            position: HEADER_BLOCKS,
        })
    }

    /// Adds a frame's entries. Frames come in LSN order.
    pub(super) fn frame(&mut self, found: &FrameHeader, body: &[u8], schema: Schema) -> Result<()> {
        if self.next < found.first_lsn {
            let skip = FrameHeader {
                kind: FrameKind::Skip,
                first_lsn: self.next,
                next_lsn: found.first_lsn,
                record_count: 0,
                coding: BodyCoding::PLAIN,
                body_len: 0,
                raw_len: 0,
                body_crc: 0,
                ..*found
            };
            self.put(skip, &[], schema)?;
        }
        // The first one may begin below the cursor.
        assert!(self.segment.is_none() || found.first_lsn == self.next, "frames follow each other");
        // As it was pushed: what encrypted it belonged to the segment that it comes from.
        let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let body_crc = crc32c::crc32c(body);
        self.put(
            FrameHeader { coding: BodyCoding::PLAIN, body_len, raw_len: body_len, body_crc, ..*found },
            body,
            schema,
        )
    }

    fn put(&mut self, mut header: FrameHeader, body: &[u8], schema: Schema) -> Result<()> {
        let block = u64::from(self.target.block_len);
        let blocks = u32::try_from(header.stored_len(self.target.block_len) / block).unwrap_or(u32::MAX);
        let limit = self.sizes.segment_len / block;
        let fits =
            |segment: &SegmentHeader| segment.schema == schema && u64::from(self.position) + u64::from(blocks) <= limit;
        let uid = match self.segment.as_ref().filter(|segment| fits(segment)) {
            Some(segment) => segment.uid,
            None => self.begin(header.first_lsn, schema)?,
        };
        header.seg_uid = uid;
        header.position = self.position;
        header.durable_lsn = self.durable.min(header.first_lsn.prev());
        header.acked_lsn = self.acked;
        let stored = (u64::from(blocks) * block) as usize;
        if self.pending.len() + stored > self.target.pool.chunk_len() {
            self.flush()?;
        }
        let at = self.pending.len();
        self.pending.resize(at + stored, 0);
        header.encode(&mut self.pending[at..]);
        self.pending[at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + body.len()].copy_from_slice(body);
        self.position += blocks;
        self.next = header.next_lsn;
        Ok(())
    }

    /// Writes what is pending, right before `position`.
    fn flush(&mut self) -> Result<()> {
        if let Some(segment) = &self.segment
            && !self.pending.is_empty()
        {
            let end = u64::from(self.position) * u64::from(self.target.block_len);
            let len = self.pending.len() as u64;
            let (file, pending) = (FileId::Slot(self.log, segment.slot), &self.pending);
            self.target.write(file, end - len, len, |bytes| bytes.copy_from_slice(pending))?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Begins the next segment, once everything before it is durable.
    fn begin(&mut self, base: Lsn, schema: Schema) -> Result<SegmentUid> {
        self.flush()?;
        let mut uid = [0; 8];
        random(&mut uid)?;
        let header = SegmentHeader {
            store: self.store,
            uid: SegmentUid(u64::from_le_bytes(uid) | 1),
            seq: u64::from(self.slots) + 1,
            base_lsn: base,
            prev_uid: self.segment.as_ref().map_or(SegmentUid::NONE, |before| before.uid),
            prev_end_lsn: base.prev(),
            durable_lsn: base.prev(),
            epoch: 1,
            block_len: self.target.block_len,
            slot: SlotNo(self.slots),
            segment_len: self.sizes.segment_len,
            created: UnixNanos(0),
            log: self.log,
            schema,
            key: None,
        };
        let file = FileId::Slot(self.log, header.slot);
        let (block_len, head_len) = (self.target.block_len, u64::from(HEADER_BLOCKS * self.target.block_len));
        let mark = self.target.block(head_len as usize, |bytes| write_free_mark(bytes, block_len))?;
        self.target.run(Op::Prepare { file, len: self.sizes.segment_len, mark, urgent: true })?;
        self.target.write(file, 0, head_len, |bytes| header.encode(bytes))?;
        self.durable = self.durable.max(base.prev());
        self.slots += 1;
        self.position = HEADER_BLOCKS;
        let uid = header.uid;
        self.segment = Some(header);
        Ok(uid)
    }

    /// Writes META, and with it the cursor, on which the store begins to count. LSNs up to `seen` stay
    /// reserved, and what was `untold` is told by who opens it.
    pub(super) fn finish(mut self, known: Option<&Cursor>, seen: Lsn, untold: &Untold) -> Result<()> {
        self.flush()?;
        let end = self.next.prev().max(self.acked);
        let (file, block_len) = (FileId::Meta(self.log), self.target.block_len);
        let mark = self.target.block(meta_copy_len(block_len) as usize, |_| {})?;
        self.target.run(Op::Prepare { file, len: meta_file_len(block_len), mark, urgent: true })?;
        let mut cursor = known.cloned().unwrap_or_default();
        cursor.attempts.retain(|(lsn, _)| *lsn > self.acked);
        for generation in 0..=1 {
            let cursor = Cursor { generation, epoch: 1, acked: self.acked, durable: self.acked, ..cursor.clone() };
            let (offset, len) = (cursor_offset(generation, block_len), cursor_copy_len(block_len));
            self.target.write(file, offset, len, |bytes| cursor.encode(bytes))?;
        }
        let uid = self.segment.as_ref().map_or(SegmentUid::NONE, |segment| segment.uid);
        for generation in 0..=1 {
            let meta = Meta {
                generation,
                store: self.store,
                features: 0,
                block_len,
                frame_len_max: self.sizes.frame_len_max,
                segment_len: self.sizes.segment_len,
                epoch: 1,
                reserved_lsn: if seen > end { seen } else { Lsn::ZERO },
                clean: Some(LogEnd { lsn: end, uid }),
                recovered: Some(LogEnd { lsn: Lsn::ZERO, uid: SegmentUid::NONE }),
                untold: untold.clone(),
            };
            self.target.write(file, meta_offset(generation, block_len), meta_copy_len(block_len), |bytes| {
                meta.encode(bytes)
            })?;
        }
        Ok(())
    }
}

fn random(out: &mut [u8]) -> Result<()> {
    getrandom::fill(out).map_err(|error| Failure::new(format!("the kernel gives no random bytes: {error}")))
}
