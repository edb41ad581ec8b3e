//! How long until a restarted queue delivers, by what waits on disk? `end_to_end/recovery.rs` measures; beside it bare
//! direct reads of as many bytes.

use std::time::{Duration, Instant};

use ringwal::SlotNo;
use ringwal::io::{self, Disk, IoConfig};
use ringwal::ring::record::stride_of;
use ringwal::wal::block::{Block, BlockMut, Pool};
use ringwal::wal::op::{FileId, LogId, Op, Output, Owner, Token};

use crate::measure::{Scale, new_dir};
use crate::recovery;
use crate::round::Round;
use crate::table::{Table, last_part};

/// Bytes of an entry that `recovery` writes.
const LEN: usize = 100;
/// Backlogs, as parts of the greatest, which is ten times the entries of the scale: two million in a full run.
const PARTS: [usize; 4] = [100, 20, 4, 1];
const MIB: usize = 1 << 20;
/// Reads at once, as the log's reader has.
const IN_FLIGHT: usize = 4;
const FILE: FileId = FileId::Slot(LogId::Main, SlotNo(0));
const TOKEN: Token = Token { owner: Owner::Log(LogId::Main), number: 0 };

pub(crate) fn run(scale: Scale, round: &mut Round) {
    for part in PARTS {
        let entries = 10 * scale.entries / part;
        let bytes = (entries * LEN) as f64;
        let x = entries as f64;
        let mut table = Table::default();
        // It makes ten times as many.
        recovery::run(Scale { entries: entries / 10, ..scale }, &mut table);
        for (name, unit, value) in table.take() {
            match last_part(&name) {
                "first delivery" => round.add("recovery: first delivery", x, unit, value),
                "all delivered" => {
                    round.add("recovery: all delivered", x, unit, value);
                    round.add("recovery rate: to the sink", x, "MB/s", bytes / 1e3 / value);
                }
                _ => {}
            }
        }
        let took = bare_reads((entries * stride_of(LEN)).next_multiple_of(MIB));
        round.add("recovery: bare reads", x, "ms", took.as_secs_f64() * 1e3);
        round.add("recovery rate: bare reads", x, "MB/s", bytes / 1e6 / took.as_secs_f64());
    }
}

/// So many bytes of a written file, read by the same driver.
fn bare_reads(len: usize) -> Duration {
    let dir = new_dir();
    let pool = Pool::new(IN_FLIGHT as u32 + 1, MIB).expect("memory");
    let config = IoConfig { choice: io::Io::Auto, lock_wait: Duration::ZERO, create: true, read_only: false };
    let mut disk = io::open(dir.path(), config).expect("a directory").into_disk(&pool).expect("a disk");
    let mut block = pool.take().expect("a chunk");
    block.fill(7);
    let block = block.freeze();
    let mark = block.slice(0..4096);
    disk.submit(TOKEN, Op::Prepare { file: FILE, len: len as u64, mark, urgent: true });
    await_one(&mut *disk);
    for offset in (0..len).step_by(MIB) {
        disk.submit(TOKEN, write_of(offset, &block));
        await_one(&mut *disk);
    }
    disk.submit(TOKEN, Op::Sync { file: FILE });
    await_one(&mut *disk);
    drop(block);

    let begun = Instant::now();
    let mut offset = 0;
    let mut out = 0;
    while offset < len || out > 0 {
        if offset < len && out < IN_FLIGHT {
            let block = pool.take().expect("a chunk for each that is out");
            disk.submit(TOKEN, Op::Read { file: FILE, offset: offset as u64, block });
            offset += MIB;
            out += 1;
        } else {
            let block = await_one(&mut *disk).expect("a read brings its memory back");
            assert!(block.iter().step_by(4096).all(|byte| *byte == 7), "what was written is read");
            out -= 1;
        }
    }
    begun.elapsed()
}

fn write_of(offset: usize, block: &Block) -> Op {
    Op::Write { file: FILE, offset: offset as u64, block: block.clone(), dsync: false }
}

fn await_one(disk: &mut dyn Disk) -> Option<BlockMut> {
    loop {
        if let Some(completion) = disk.complete(None) {
            return match completion.result.expect("the disk works") {
                Output::Bytes(block) => Some(block),
                _ => None,
            };
        }
    }
}
