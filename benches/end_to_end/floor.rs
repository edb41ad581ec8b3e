//! The disk's own floor, through the same driver: nothing above it can be faster.

use std::path::Path;
use std::time::{Duration, Instant};

use ringwal::SlotNo;
use ringwal::io::{self, Disk, IoConfig};
use ringwal::wal::block::{Block, Pool};
use ringwal::wal::op::{FileId, LogId, Op, Owner, Token};

use crate::measure::{Scale, new_dir};
use crate::table::Table;

const FILE: FileId = FileId::Slot(LogId::Main, SlotNo(0));
const FILE_LEN: u64 = 64 << 20;
const MIB: usize = 1 << 20;

pub(crate) const ACK: &str = "floor / 4 KiB DSYNC overwrite";
pub(crate) const WRITE: &str = "floor / 1 MiB direct writes / 4 in flight";

fn token(number: u32) -> Token {
    Token { owner: Owner::Log(LogId::Main), number }
}

pub(crate) struct Floor {
    disk: Box<dyn Disk>,
    block: Block,
}

impl Floor {
    pub(crate) fn write(&mut self, number: u32, len: usize, dsync: bool) {
        let offset = u64::from(number) % (FILE_LEN / len as u64) * len as u64;
        self.disk.submit(token(number), Op::Write { file: FILE, offset, block: self.block.slice(0..len), dsync });
    }

    pub(crate) fn await_one(&mut self) {
        loop {
            if let Some(completion) = self.disk.complete(None) {
                completion.result.expect("the disk works");
                return;
            }
        }
    }
}

/// A file that was prepared as a segment is, and what is written to it.
pub(crate) fn open(dir: &Path) -> Floor {
    let choice = IoConfig { choice: io::Io::Auto, lock_wait: Duration::ZERO, create: true, read_only: false };
    let pool = Pool::new(4, MIB).expect("memory");
    let opened = io::open(dir, choice).expect("a directory");
    let disk = opened.into_disk(&pool).expect("a disk");
    let mut block = pool.take().expect("a chunk");
    block.fill(7);
    let mut floor = Floor { disk, block: block.freeze() };
    let mark = floor.block.slice(0..4096);
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

    let begun = Instant::now();
    let mut number = 0;
    while number < 4 || begun.elapsed() < scale.time {
        if number >= 4 {
            floor.await_one();
        }
        floor.write(number, MIB, false);
        number += 1;
    }
    (0..4).for_each(|_| floor.await_one());
    floor.disk.submit(token(0), Op::Sync { file: FILE });
    floor.await_one();
    table.add(WRITE, "MB/s", f64::from(number) * MIB as f64 / 1e6 / begun.elapsed().as_secs_f64());
}
