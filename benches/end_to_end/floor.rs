//! The disk's own floor, through the same driver: nothing above it can be faster.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::SlotNo;
use ringwal::io::{self, Disk, IoConfig};
use ringwal::wal::block::{Block, Pool};
use ringwal::wal::op::{FileId, LogId, Op, Owner, Token};

use crate::measure::{Scale, new_dir};
use crate::table::Table;

#[path = "copies.rs"]
mod copies;
use copies::Copies;

const FILE: FileId = FileId::Slot(LogId::Main, SlotNo(0));
const FILE_LEN: u64 = 64 << 20;
const MIB: usize = 1 << 20;

pub(crate) const ACK: &str = "floor / 4 KiB DSYNC overwrite";
pub(crate) const WRITE: &str = "floor / 1 MiB direct writes / 4 in flight";
/// As a log does it: out of as much memory as a queue has, not out of a cache, and synced.
const WRITE_AS_A_LOG: &str = "floor / 1 MiB direct writes / 4 in flight / out of 64 MiB / a sync every 5 ms";
/// The same beside a thread that copies as much memory as the queue's threads do: into the ring, out of it into the frame and
/// zero behind, out of the frame for the sink.
const WRITE_BESIDE_COPIES: &str =
    "floor / 1 MiB direct writes / 4 in flight / out of 64 MiB / a sync every 5 ms / each byte copied three times";
const COPIES: u64 = 3;
/// As much memory as a queue has, in MiB.
pub(crate) const MEMORY: usize = 64;
const SYNC_EVERY: Duration = Duration::from_millis(5);
/// Of the sync; writes have others.
const SYNC: u32 = 1 << 29;

fn token(number: u32) -> Token {
    Token { owner: Owner::Log(LogId::Main), number }
}

pub(crate) struct Floor {
    disk: Box<dyn Disk>,
    /// What is written, in turn.
    blocks: Vec<Block>,
}

impl Floor {
    pub(crate) fn write(&mut self, number: u32, len: usize, dsync: bool) {
        let offset = u64::from(number) % (FILE_LEN / len as u64) * len as u64;
        let block = self.blocks[number as usize % self.blocks.len()].slice(0..len);
        self.disk.submit(token(number), Op::Write { file: FILE, offset, block, dsync });
    }

    /// The number of what has ended.
    pub(crate) fn await_one(&mut self) -> u32 {
        loop {
            if let Some(completion) = self.disk.complete(None) {
                completion.result.expect("the disk works");
                return completion.token.number;
            }
        }
    }
}

/// A file that was prepared as a segment is, and what is written to it.
pub(crate) fn open(dir: &Path) -> Floor {
    open_with(dir, 1)
}

fn open_with(dir: &Path, blocks: usize) -> Floor {
    let choice = IoConfig { choice: io::Io::Auto, lock_wait: Duration::ZERO, create: true, read_only: false };
    let pool = Pool::new(blocks as u32, MIB).expect("memory");
    let opened = io::open(dir, choice).expect("a directory");
    let disk = opened.into_disk(&pool).expect("a disk");
    let filled = |_| {
        let mut block = pool.take().expect("a chunk");
        block.fill(7);
        block.freeze()
    };
    let mut floor = Floor { disk, blocks: (0..blocks).map(filled).collect() };
    let mark = floor.blocks[0].slice(0..4096);
    floor.disk.submit(token(0), Op::Prepare { file: FILE, len: FILE_LEN, mark, urgent: true });
    floor.await_one();
    floor
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let mut floor = open(dir.path());
    let mut times = Vec::new();
    let begun = Instant::now();
    for number in 0.. {
        let start = Instant::now();
        floor.write(number, 4096, true);
        floor.await_one();
        times.push(start.elapsed());
        if begun.elapsed() > scale.time {
            break;
        }
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    table.add_times(ACK, &mut times, None);
    table.add(format!("{ACK} / rate"), "1/s", rate);

    writes(scale, &mut floor, None, None, WRITE, table);
    let dir = new_dir();
    let mut floor = open_with(dir.path(), MEMORY);
    writes(scale, &mut floor, Some(SYNC_EVERY), None, WRITE_AS_A_LOG, table);
    let copies = Copies::default();
    thread::scope(|scope| {
        scope.spawn(|| copies.run());
        writes(scale, &mut floor, Some(SYNC_EVERY), Some(&copies), WRITE_BESIDE_COPIES, table);
        copies.end();
    });
}

/// Writes with four in flight, and a sync in between, if there is one, that they do not wait for.
fn writes(
    scale: Scale,
    floor: &mut Floor,
    sync_every: Option<Duration>,
    copies: Option<&Copies>,
    name: &str,
    table: &mut Table,
) {
    let begun = Instant::now();
    let (mut number, mut flying) = (0, 0);
    let (mut synced, mut is_syncing) = (begun, false);
    while number < 4 || begun.elapsed() < scale.time {
        if !is_syncing && sync_every.is_some_and(|every| synced.elapsed() >= every) {
            (synced, is_syncing) = (Instant::now(), true);
            floor.disk.submit(token(SYNC), Op::Sync { file: FILE });
        }
        if let Some(copies) = copies {
            copies.want(COPIES);
        }
        floor.write(number, MIB, false);
        (number, flying) = (number + 1, flying + 1);
        while flying == 4 {
            match floor.await_one() {
                SYNC => is_syncing = false,
                _ => flying -= 1,
            }
        }
    }
    (0..flying + u32::from(is_syncing)).for_each(|_| _ = floor.await_one());
    floor.disk.submit(token(SYNC), Op::Sync { file: FILE });
    floor.await_one();
    table.add(name, "MB/s", f64::from(number) * MIB as f64 / 1e6 / begun.elapsed().as_secs_f64());
}
