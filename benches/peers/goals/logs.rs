//! Durable acknowledgements by the two logs that do best at it: threads that each append an entry of 100 B and wait until
//! it would survive a loss of power, as in `acks`.

use std::path::Path;

use crate::acks::{THREADS, by_threads, name};
use crate::measure::{Scale, new_dir};
use crate::table::Table;

/// Opens a log in a directory; each thread then gets what appends and waits.
type Open = fn(&Path) -> Box<dyn Fn(usize) -> Box<dyn FnMut() + Send>>;

pub(crate) const LOGS: [(&str, Open); 2] = [("raft-engine", raft_engine), ("okaywal", okaywal)];

const PAYLOAD: [u8; 100] = [7; 100];

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for threads in [1].into_iter().chain(THREADS) {
        for (peer, open) in LOGS {
            let dir = new_dir();
            let new_worker = open(dir.path());
            let (mut times, took) = by_threads(scale, threads, new_worker);
            let name = name(peer, threads);
            table.add(format!("{name} / acks"), "1/s", times.len() as f64 / took.as_secs_f64());
            table.add_times(&name, &mut times, None);
        }
    }
}

/// As it comes: files of 128 MiB, a checksum over each batch, nothing this short compressed. `write(…, true)` returns when
/// `fdatasync` has; those who wait meanwhile are written by one leader with one sync. Each thread has a region of its own,
/// as threads of its users do, and overwrites one key there, so that its index in memory stays small. Filling
/// files with zeros beforehand (`prefill_for_recycle`) gained it a tenth at 64 threads, and took half a minute to open.
fn raft_engine(dir: &Path) -> Box<dyn Fn(usize) -> Box<dyn FnMut() + Send>> {
    use raft_engine::{Config, Engine, LogBatch};
    let dir = dir.to_str().expect("a path in UTF-8").to_owned();
    let engine = Engine::open(Config { dir, ..Config::default() }).expect("a log");
    let engine = std::sync::Arc::new(engine);
    Box::new(move |number| {
        let engine = std::sync::Arc::clone(&engine);
        let mut batch = LogBatch::with_capacity(1);
        Box::new(move || {
            batch.put(number as u64 + 1, b"key".to_vec(), PAYLOAD.to_vec()).expect("a key of ours");
            engine.write(&mut batch, true).expect("a disk that works");
        })
    })
}

/// Files long enough that it need not move on to another one while it is measured: with its own 1 MiB it spends a third
/// of its time on that at 64 threads. `commit` returns when the entry is synced; one sync serves all who wait.
fn okaywal(dir: &Path) -> Box<dyn Fn(usize) -> Box<dyn FnMut() + Send>> {
    use okaywal::{Configuration, LogVoid};
    const FILE_LEN: u32 = 64 << 20;
    let config = Configuration::default_for(dir).preallocate_bytes(FILE_LEN).checkpoint_after_bytes(FILE_LEN.into());
    let log = config.open(LogVoid).expect("a log");
    Box::new(move |_| {
        let log = log.clone();
        Box::new(move || {
            let mut entry = log.begin_entry().expect("a log that works");
            entry.write_chunk(&PAYLOAD).expect("a disk that works");
            entry.commit().expect("a disk that works");
        })
    })
}
