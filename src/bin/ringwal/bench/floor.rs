//! The disk's own floor, with the driver that the log uses.

use std::time::{Duration, Instant};

use ringwal::SlotNo;
use ringwal::io::{Disk, DiskReport, IoConfig};
use ringwal::wal::block::Pool;
use ringwal::wal::op::{FileId, LogId, Op, Owner, Token};

use super::measure::{nanos, quantile};
use super::{Bench, failed};
use crate::failure::{Failure, Result};

const FILE_LEN: u64 = 64 << 20;
const LONG: usize = 1 << 20;
/// Most long writes of a round, so that no disk is worn out by a long run.
const LONG_MAX: u64 = 512;

pub(super) fn round(bench: &mut Bench) -> Result<DiskReport> {
    let config = IoConfig { choice: bench.io.into(), lock_wait: Duration::ZERO, create: true, read_only: false };
    let dir = bench.dir();
    let opened = ringwal::io::open(&dir, config).map_err(|error| failed("the disk", &error))?;
    let pool = Pool::new(4, LONG).map_err(|error| failed("the disk", &error))?;
    let mut disk =
        Floor { disk: opened.into_disk(&pool).map_err(|error| failed("the disk", &error))?, pool, tokens: 0 };
    let report = disk.disk.report();
    let block_len = usize::try_from(report.block_len_min.max(4096)).unwrap_or(4096);
    let mark = disk.block(block_len)?;
    disk.run(Op::Prepare { file: FILE, len: FILE_LEN, mark, urgent: true })?;
    let mut times = Vec::new();
    let begun = Instant::now();
    let mut at = 0;
    while begun.elapsed() < bench.round {
        let block = disk.block(block_len)?;
        let one = Instant::now();
        disk.run(Op::Write { file: FILE, offset: at, block, dsync: true })?;
        times.push(nanos(one.elapsed()));
        at = (at + block_len as u64) % FILE_LEN;
    }
    let per_second = 1e9 * f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX)) / nanos(begun.elapsed());
    bench.note("floor", "4 KiB durable write, p50", "µs", quantile(&mut times, 0.5) / 1e3);
    bench.note("floor", "4 KiB durable write, p99", "µs", quantile(&mut times, 0.99) / 1e3);
    bench.note("floor", "4 KiB durable writes, one at a time", "1/s", per_second);
    let begun = Instant::now();
    let mut written: u64 = 0;
    while begun.elapsed() < bench.round && written < LONG_MAX {
        let block = disk.block(LONG)?;
        disk.run(Op::Write { file: FILE, offset: written * LONG as u64 % FILE_LEN, block, dsync: false })?;
        written += 1;
    }
    disk.run(Op::Sync { file: FILE })?;
    let megabytes = f64::from(u32::try_from(written * LONG as u64 / 1000).unwrap_or(u32::MAX)) / 1e3;
    bench.note("floor", "1 MiB writes, one sync at the end", "MB/s", megabytes / begun.elapsed().as_secs_f64());
    drop(disk);
    let _ = std::fs::remove_dir_all(&dir);
    Ok(report)
}

const FILE: FileId = FileId::Slot(LogId::Main, SlotNo(0));

struct Floor {
    disk: Box<dyn Disk>,
    pool: Pool,
    tokens: u32,
}

impl Floor {
    fn block(&self, len: usize) -> Result<ringwal::wal::block::Block> {
        let mut block =
            self.pool.take().ok_or_else(|| Failure::new("the disk keeps the memory it was given; this is a bug"))?;
        block.truncate(len);
        block.fill(0x5a);
        Ok(block.freeze())
    }

    fn run(&mut self, op: Op) -> Result<()> {
        self.tokens = self.tokens.wrapping_add(1);
        self.disk.submit(Token { owner: Owner::Log(LogId::Main), number: self.tokens }, op);
        loop {
            if let Some(completion) = self.disk.complete(None) {
                return completion.result.map(drop).map_err(|error| failed("the disk", &error));
            }
        }
    }
}
