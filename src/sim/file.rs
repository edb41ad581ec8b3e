//! A file of a simulated machine: what is durable, and what only the device's cache holds.
//!
//! ```text
//!   durable   │ s0 │ s1 │ s2 │ s3 │ s4 │ …        512-byte sectors: a sector is never torn
//!   cached         │ w7 · w7 │                    completed, not flushed: read back, lost by a power cut
//!                       │ w9 · w9 │               newer ones lie above older ones
//! ```
//! A read sees `durable` with everything cached laid over it, in the order of completion. A flush moves
//! cached writes down. A write that is durable by itself (FUA) goes straight down and makes what older
//! cached writes hold of its sectors *stale*: they must not come down over it later.

use std::ops::Range;
use std::sync::Arc;

/// The unit that a power cut keeps or loses as a whole, in bytes.
pub const SECTOR_LEN: usize = 512;

/// A completed write that no flush has covered yet.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    /// Which op wrote it.
    pub(super) number: u64,
    /// When it completed, in steps of the machine.
    pub(super) step: u64,
    pub(super) offset: u64,
    pub(super) bytes: Arc<[u8]>,
    /// False for what is still in flight on the machine that this one is a copy of.
    pub(super) completed: bool,
    /// Sectors that something newer has made durable since.
    stale: Vec<bool>,
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFile {
    durable: Vec<u8>,
    cached: Vec<Cached>,
    /// What stood at each place before it was last written; shorter than the file where nothing was.
    older: Vec<u8>,
    /// Where reading fails.
    unreadable: Vec<Range<u64>>,
}

impl SimFile {
    pub(super) fn new(durable: Vec<u8>) -> Self {
        Self { durable, ..Self::default() }
    }

    pub(super) fn len(&self) -> u64 {
        let cached = self.cached.iter().map(|w| w.offset + w.bytes.len() as u64).max();
        (self.durable.len() as u64).max(cached.unwrap_or(0))
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) const fn cached(&self) -> &Vec<Cached> {
        &self.cached
    }

    /// What a reader sees.
    pub(super) fn visible(&self) -> Vec<u8> {
        let mut out = vec![0; index(self.len())];
        self.read(0, &mut out);
        out
    }

    /// Fills `out` from `offset` on; zeros beyond the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        lay(out, offset, 0, &self.durable);
        for write in &self.cached {
            for (sector, bytes) in write.bytes.chunks(SECTOR_LEN).enumerate() {
                if !write.stale[sector] {
                    lay(out, offset, write.offset + (sector * SECTOR_LEN) as u64, bytes);
                }
            }
        }
    }

    /// Fills `out` with what stood there before the last write.
    pub(super) fn read_stale(&self, offset: u64, out: &mut [u8]) {
        self.read(offset, out);
        lay(out, offset, 0, &self.older);
    }

    /// Keeps what a write is about to cover.
    fn remember(&mut self, offset: u64, len: usize) {
        let (start, end) = (index(offset), index(offset) + len);
        let mut older = std::mem::take(&mut self.older);
        if older.len() < end {
            // What is not written again reads the same, stale or not.
            let had = older.len();
            older.resize(end, 0);
            self.read(had as u64, &mut older[had..]);
        }
        self.read(offset, &mut older[start..end]);
        self.older = older;
    }

    /// A write that the cache has taken.
    pub(super) fn cache(&mut self, number: u64, step: u64, offset: u64, bytes: Arc<[u8]>) {
        self.remember(offset, bytes.len());
        let stale = vec![false; bytes.len().div_ceil(SECTOR_LEN)];
        self.cached.push(Cached { number, step, offset, bytes, completed: true, stale });
    }

    /// A write that is in flight when the machine is copied.
    pub(super) fn cache_in_flight(&mut self, number: u64, step: u64, offset: u64, bytes: Arc<[u8]>) {
        self.cache(number, step, offset, bytes);
        if let Some(write) = self.cached.last_mut() {
            write.completed = false;
        }
    }

    /// A write that is durable by itself.
    pub(super) fn write_through(&mut self, offset: u64, bytes: &[u8]) {
        self.remember(offset, bytes.len());
        for write in &mut self.cached {
            for (sector, stale) in write.stale.iter_mut().enumerate() {
                let at = write.offset + (sector * SECTOR_LEN) as u64;
                *stale |= (offset..offset + bytes.len() as u64).contains(&at);
            }
        }
        self.keep(offset, bytes);
    }

    /// Makes durable what had completed at `step`.
    pub(super) fn flush(&mut self, step: u64) {
        let cached = std::mem::take(&mut self.cached);
        for write in cached {
            if write.step > step {
                self.cached.push(write);
                continue;
            }
            for (sector, bytes) in write.bytes.chunks(SECTOR_LEN).enumerate() {
                if !write.stale[sector] {
                    self.keep(write.offset + (sector * SECTOR_LEN) as u64, bytes);
                }
            }
        }
    }

    /// Forgets what the cache holds, as a device that loses power or fails a flush does.
    pub(super) fn forget(&mut self) {
        self.cached.clear();
    }

    /// A power cut: of each cached sector `fate` says what becomes of it.
    pub(super) fn crash(&mut self, mut fate: impl FnMut(&Cached, usize) -> SectorFate) {
        for write in std::mem::take(&mut self.cached) {
            for (sector, bytes) in write.bytes.chunks(SECTOR_LEN).enumerate() {
                if !write.stale[sector] {
                    self.settle(write.offset + (sector * SECTOR_LEN) as u64, bytes, fate(&write, sector));
                }
            }
        }
    }

    /// Lets a fate be done to one sector of what was being written.
    pub(super) fn settle(&mut self, offset: u64, bytes: &[u8], fate: SectorFate) {
        match fate {
            SectorFate::Kept => self.keep(offset, bytes),
            SectorFate::Lost => {}
            SectorFate::Garbage(seed) => {
                let mut prng = super::Prng::new(seed);
                let garbage: Vec<u8> = bytes.iter().map(|_| prng.next_u64().to_le_bytes()[0]).collect();
                self.keep(offset, &garbage);
            }
        }
    }

    fn keep(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (index(offset), index(offset) + bytes.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(bytes);
    }

    /// Changes a byte for good, wherever it is held.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) {
        if let Some(byte) = self.durable.get_mut(index(offset)) {
            *byte ^= mask;
        }
        for write in &mut self.cached {
            if (write.offset..write.offset + write.bytes.len() as u64).contains(&offset) {
                let mut bytes = write.bytes.to_vec();
                bytes[index(offset - write.offset)] ^= mask;
                write.bytes = bytes.into();
            }
        }
    }

    pub(super) fn make_unreadable(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    pub(super) fn is_unreadable(&self, range: &Range<u64>) -> bool {
        self.unreadable.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// Writing heals a bad sector: the device puts another one in its place.
    pub(super) fn heal(&mut self, range: &Range<u64>) {
        self.unreadable.retain(|bad| !(range.start <= bad.start && bad.end <= range.end));
    }
}

/// What a power cut does to a sector that was being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectorFate {
    /// The new bytes are there.
    Kept,
    /// The old bytes are there.
    Lost,
    /// Neither: the bytes that this seed gives.
    Garbage(u64),
}

/// Copies what `bytes`, which begin at `at`, have in common with `out`, which begins at `offset`.
fn lay(out: &mut [u8], offset: u64, at: u64, bytes: &[u8]) {
    let from = offset.max(at);
    let to = (offset + out.len() as u64).min(at + bytes.len() as u64);
    if from < to {
        out[index(from - offset)..index(to - offset)].copy_from_slice(&bytes[index(from - at)..index(to - at)]);
    }
}

/// A place in a simulated file as an index.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file lies in memory")
}
