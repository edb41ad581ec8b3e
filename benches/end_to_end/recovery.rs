//! How long until a restarted queue delivers, and has delivered all that waited on disk, beside bare direct reads of the
//! same files.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ringwal::io::{self, IoConfig};
use ringwal::wal::block::Pool;
use ringwal::wal::op::{FileId, LogId, Op, Output, Owner, Token};
use ringwal::{Batch, Durability, sink_fn};

use crate::floor::MEMORY;
use crate::measure::{Fixed, LONG, Scale, new_dir, null, open};
use crate::table::Table;

const LEN: usize = 100;
const MIB: usize = 1 << 20;
const IN_FLIGHT: usize = 4;

pub(crate) const READ: &str = "floor / 1 MiB direct reads / 4 in flight";
/// As an opening does it: into all the memory of a queue, whose registration counts.
const READ_AS_A_QUEUE: &str = "floor / 1 MiB direct reads / 4 in flight / into 64 MiB / registered first";
pub(crate) const RATE: &str = "recovery / payload";
pub(crate) const FIRST: &str = "recovery / first delivery";

/// Ten times the usual: 2 million.
const fn entries(scale: Scale) -> usize {
    10 * scale.entries
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let durability = Durability::Periodic(Duration::from_millis(5));
    let queue = open(dir.path(), durability, null::<Fixed<LEN>>());
    queue.pause();
    let mut producer = queue.producer().pin();
    for _ in 0..entries(scale) {
        producer.push(Fixed([7; LEN])).expect("room");
    }
    drop(producer);
    queue.flush().expect("a disk that works");
    let left = queue.shutdown(Duration::ZERO).expect("a disk that works").left_in_log;

    forget(dir.path());
    let (_, rate) = bare_reads(dir.path(), IN_FLIGHT);
    forget(dir.path());
    let (as_a_queue, _) = bare_reads(dir.path(), MEMORY);
    forget(dir.path());
    let (first, first_came) = channel();
    let seen = Arc::new(AtomicU64::new(0));
    let sink = {
        let seen = Arc::clone(&seen);
        sink_fn(move |batch: Batch<Fixed<LEN>>| {
            if seen.fetch_add(batch.len() as u64, Relaxed) == 0 {
                first.send(Instant::now()).expect("the main thread lives");
            }
            async { Ok(()) }
        })
    };
    let begun = Instant::now();
    let queue = open(dir.path(), durability, sink);
    let opened = begun.elapsed();
    let first = first_came.recv().expect("a first batch").duration_since(begun);
    queue.drain(LONG).expect("a sink that works");
    let all = begun.elapsed();
    assert_eq!(seen.load(Relaxed), left, "what was left in the log comes again");
    assert_eq!(queue.recovery().recovered, left, "and was announced");

    table.add(READ, "MB/s", rate);
    table.add(READ_AS_A_QUEUE, "MB/s", as_a_queue);
    table.add_beside(RATE, "MB/s", left as f64 * LEN as f64 / 1e6 / all.as_secs_f64(), READ);
    table.add("recovery / entries", "M", left as f64 / 1e6);
    table.add("recovery / open", "ms", opened.as_secs_f64() * 1e3);
    table.add(FIRST, "ms", first.as_secs_f64() * 1e3);
    table.add("recovery / all delivered", "ms", all.as_secs_f64() * 1e3);
}

/// Takes the files out of the page cache, should they be there: the log passes it by, the reads of `open` need not.
fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let file = File::open(path).expect("a file");
            file.sync_all().expect("a disk that works");
            // SAFETY: takes numbers only.
            let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            assert_eq!(result, 0, "posix_fadvise of an open file");
        }
    }
}

/// All segment files, read once through the driver that the log uses, into so many MiB: MB/s from the beginning, and from the
/// first read on.
fn bare_reads(dir: &Path, memory: usize) -> (f64, f64) {
    let begun = Instant::now();
    let config = IoConfig { choice: io::Io::Auto, lock_wait: LONG, create: false, read_only: true };
    let pool = Pool::new(memory as u32, MIB).expect("memory");
    let mut disk = io::open(dir, config).expect("a directory").into_disk(&pool).expect("a disk");
    let token = Token { owner: Owner::Recovery, number: 0 };
    let complete = |disk: &mut Box<dyn io::Disk>| loop {
        if let Some(completion) = disk.complete(None) {
            return completion.result.expect("a disk that works");
        }
    };
    disk.submit(token, Op::List { log: LogId::Main });
    let Output::Files(files) = complete(&mut disk) else { panic!("a list brings files") };
    let reads = files.into_iter().filter(|(file, _)| matches!(file, FileId::Slot(..)));
    let reads = reads.flat_map(|(file, len)| (0..len / MIB as u64).map(move |number| (file, number * MIB as u64)));
    let (reading, mut in_flight, mut count) = (Instant::now(), 0, 0);
    for (number, (file, offset)) in (1..).zip(reads) {
        if in_flight == IN_FLIGHT {
            drop(complete(&mut disk));
            in_flight -= 1;
        }
        let block = pool.take().expect("a chunk for each that is in flight");
        disk.submit(Token { owner: Owner::Recovery, number }, Op::Read { file, offset, block });
        in_flight += 1;
        count += 1;
    }
    (0..in_flight).for_each(|_| drop(complete(&mut disk)));
    let rate = |since: Instant| f64::from(count) * MIB as f64 / 1e6 / since.elapsed().as_secs_f64();
    (rate(begun), rate(reading))
}
