//! What a power cut may leave: everything up to the last flush before it, and of what came later each sector or not.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringwal::sim::Prng;

use super::device::Entry;
use super::machine::{run, text};

const SECTOR_LEN: usize = 512;
/// Where ext4 and btrfs have their superblocks: a torn one has a wrong checksum, and cannot be mounted. They rely on
/// disks that write it whole, and so does this: nothing of ours lies there.
const SUPERBLOCKS_LEN: u64 = 128 << 10;

/// Copies a file with its holes.
pub fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", text(from), text(to)]);
}

/// Makes images of crashes, each further on in the recording than the one before.
pub struct Crashes {
    log: Vec<Entry>,
    /// The disk with everything up to `applied`.
    base: PathBuf,
    applied: usize,
    prng: Prng,
}

/// How an image came about.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Requests before it.
    pub at: u64,
    /// Everything before this one is there.
    pub last_flush: usize,
    /// Sectors written since then that are there.
    pub kept: usize,
    /// And that are not.
    pub dropped: usize,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, last_flush, kept, dropped } = self;
        write!(f, "cut before request {at}; since the flush {last_flush}, {kept} sectors kept and {dropped} lost")
    }
}

impl Crashes {
    /// `start` is the disk as it was before the recording; it is changed.
    pub fn new(log: Vec<Entry>, start: PathBuf, seed: u64) -> Self {
        Self { log, base: start, applied: 0, prng: Prng::new(seed) }
    }

    /// Moments to crash at, in order: every other one beside a flush, where the most hangs on it.
    pub fn moments(&mut self, count: usize) -> Vec<usize> {
        let len = self.log.len();
        let mut moments: Vec<usize> = (0..count)
            .map(|number| {
                let any = self.prng.below(len as u64 + 1) as usize;
                match number % 2 {
                    0 => any,
                    // The moment before a flush: all since the last one is open.
                    _ => (any..len).find(|at| matches!(self.log[*at], Entry::Flush)).unwrap_or(len),
                }
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// The disk after a crash just before request `at`, as a new file at `image`.
    pub fn image(&mut self, at: usize, image: &Path) -> Cut {
        let last_flush = self.log[..at].iter().rposition(|entry| matches!(entry, Entry::Flush)).unwrap_or(0);
        let base = File::options().write(true).open(&self.base).unwrap();
        for entry in &self.log[self.applied..last_flush.max(self.applied)] {
            if let Entry::Write { offset, data } = entry {
                base.write_all_at(data, *offset).unwrap();
            }
        }
        self.applied = self.applied.max(last_flush);
        copy(&self.base, image);
        let image = File::options().write(true).open(image).unwrap();
        let (mut kept, mut dropped) = (0, 0);
        for entry in &self.log[last_flush..at] {
            let Entry::Write { offset, data } = entry else { continue };
            let torn_at = if *offset < SUPERBLOCKS_LEN { data.len() } else { SECTOR_LEN };
            for (number, sector) in data.chunks(torn_at).enumerate() {
                if self.prng.below(2) == 0 {
                    image.write_all_at(sector, offset + (number * torn_at) as u64).unwrap();
                    kept += 1;
                } else {
                    dropped += 1;
                }
            }
        }
        Cut { at: at as u64, last_flush, kept, dropped }
    }

    /// Writes and flushes in the recording.
    pub fn counts(&self) -> (usize, usize) {
        let flushes = self.log.iter().filter(|entry| matches!(entry, Entry::Flush)).count();
        (self.log.len() - flushes, flushes)
    }
}
