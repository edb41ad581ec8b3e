//! What does the log's state machine cost by itself?
//!
//! On a disk in memory that completes at once: appending a frame and committing it, scanning a log at open, and
//! reading frames back. Entries of 100 bytes. What a real disk adds is measured in `end_to_end`.

#![cfg(not(loom))]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringwal::io::{Disk, RamDisk, Wake};
use ringwal::ring::record::stride_of;
use ringwal::ring::{Rings, RingsConfig};
use ringwal::time::{Instant, UnixNanos};
use ringwal::wal::block::Pool;
use ringwal::wal::coding::Coding;
use ringwal::wal::frame::RunEnd;
use ringwal::wal::log::{Commit, Event, Log, LogConfig};
use ringwal::wal::meta::Meta;
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{LogId, Owner};
use ringwal::wal::reader::{ReadEvent, Reader};
use ringwal::wal::recovery::{OnCorruption, Recovered, Repair, Scan, StoreConfig};
use ringwal::{Lsn, Schema};

const LEN: usize = 100;
const FRAME_LEN: u32 = 256 << 10;
const STORE: StoreConfig = StoreConfig {
    log: LogId::Main,
    block_len: 4096,
    segment_len: 16 << 20,
    frame_len_max: FRAME_LEN,
    features: 0,
    seed: 1,
    mutants: Mutants::NONE,
};

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// So many records, as the drain copies them into a frame.
fn records(count: usize) -> Vec<u8> {
    let config = RingsConfig { shared: 1, pinned: 0, ring_len: 1 << 20, entry_len_max: LEN };
    let (rings, mut drainer) = Rings::new(config, Arc::new(NoWake)).expect("memory");
    for _ in 0..count {
        let mut claim = rings.claim(0, LEN).expect("room");
        claim.payload_mut().fill(7);
        claim.publish();
    }
    let mut bytes = vec![0; count * stride_of(LEN)];
    assert_eq!(drainer.drain(0, &mut bytes).records as usize, count);
    bytes
}

fn scan(disk: &mut RamDisk, pool: &Pool) -> ringwal::wal::recovery::Scanned {
    let mut scan = Scan::new(STORE, pool.clone());
    loop {
        if let Some(outcome) = scan.outcome() {
            return outcome.expect("memory can be read");
        }
        match scan.poll_op() {
            Some((token, op)) => disk.submit(token, op),
            None => scan.handle_completion(disk.complete(None).expect("an op is out")),
        }
    }
}

fn recover(disk: &mut RamDisk, pool: &Pool) -> Recovered {
    let mut repair = Repair::new(scan(disk, pool), OnCorruption::Stop, STORE, pool.clone());
    loop {
        if let Some(outcome) = repair.outcome() {
            return outcome.expect("memory can be written");
        }
        match repair.poll_op() {
            Some((token, op)) => disk.submit(token, op),
            None => repair.handle_completion(disk.complete(None).expect("an op is out")),
        }
    }
}

/// A log on a disk in memory, with a clock that moves by hand.
struct Wal {
    disk: RamDisk,
    log: Log,
    meta: Meta,
    pool: Pool,
    now: Instant,
    end: u64,
}

impl Wal {
    fn new() -> Self {
        let mut disk = RamDisk::new();
        let pool = Pool::new(32, 512 << 10).expect("memory");
        let recovered = recover(&mut disk, &pool);
        let config = LogConfig {
            log: LogId::Main,
            schema: Schema::new("bench", 1),
            commit: Commit::Immediate,
            slots_max: 32,
            spares_min: 2,
            inflight_max: 4,
            hedge_len: 64 << 10,
            cursor_every: Duration::from_millis(50),
            coding: Coding::default(),
            seed: 1,
            mutants: Mutants::NONE,
            lsn_floor: Lsn::ZERO,
        };
        let meta = recovered.meta.clone();
        let log = Log::new(recovered, config, pool.clone());
        let mut wal = Self { disk, log, meta, pool, now: Instant::START, end: 0 };
        wal.drive();
        wal
    }

    /// Until nothing is left to be done.
    fn drive(&mut self) {
        loop {
            while let Some((token, op)) = self.log.poll_op(self.now) {
                self.disk.submit(token, op);
            }
            let Some(completion) = self.disk.complete(Some(Duration::ZERO)) else { return };
            self.now = self.now + Duration::from_micros(1);
            self.log.handle_completion(self.now, completion);
            while let Some(event) = self.log.poll_event() {
                match event {
                    Event::Durable { runs, .. } => self.log.recycle_runs(runs),
                    Event::Failed(failure) => panic!("{failure}"),
                    event => drop(black_box(event)),
                }
            }
        }
    }

    /// A frame of these records, durable when this returns.
    fn commit(&mut self, records: &[u8], count: u32) {
        let spare = |log: &mut Log, now| log.frame(now, UnixNanos(0)).expect("room and memory").spare_mut().len();
        if spare(&mut self.log, self.now) < records.len() {
            // The rest of a chunk is too short: a whole one.
            self.log.seal(self.now);
        }
        let frame = self.log.frame(self.now, UnixNanos(0)).expect("room and memory");
        frame.spare_mut()[..records.len()].copy_from_slice(records);
        self.end += records.len() as u64;
        frame.advance(records.len(), count, RunEnd { ring: 0, end: self.end });
        self.log.seal(self.now);
        self.drive();
        assert_eq!(self.log.durable(), self.log.end(), "the disk completes at once");
    }

    fn ack_all(&mut self) {
        self.log.ack(self.now, self.log.durable(), &[], &[]);
        self.now = self.now + Duration::from_millis(50);
        self.drive();
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_and_commit");
    for count in [1, 64, 2000] {
        let bytes = records(count);
        let mut wal = Wal::new();
        group.throughput(Throughput::Elements(count as u64));
        let mut commits = 0_u32;
        group.bench_function(format!("{count}_entries"), |bencher| {
            bencher.iter(|| {
                wal.commit(black_box(&bytes), count as u32);
                commits += 1;
                if commits.is_multiple_of(64) {
                    wal.ack_all();
                }
            });
        });
    }
}

/// A log of 100,000 entries that nobody has acknowledged.
fn full() -> Wal {
    let bytes = records(2000);
    let mut wal = Wal::new();
    (0..50).for_each(|_| wal.commit(&bytes, 2000));
    wal
}

fn recovery(criterion: &mut Criterion) {
    let Wal { mut disk, pool, log, .. } = full();
    let end = log.durable();
    let mut group = criterion.benchmark_group("recovery");
    group.throughput(Throughput::Elements(end.number()));
    group.bench_function("scan_100000_entries", |bencher| {
        bencher.iter(|| assert_eq!(scan(&mut disk, &pool).end, end));
    });
}

fn reader(criterion: &mut Criterion) {
    let Wal { mut disk, pool, log, meta, .. } = full();
    let mut group = criterion.benchmark_group("reader");
    group.throughput(Throughput::Elements(log.durable().number()));
    group.bench_function("read_100000_entries", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(LogId::Main, &meta, Mutants::NONE);
            reader.seek(Lsn::FIRST, None);
            let mut records = 0;
            loop {
                while let Some((token, op)) = reader.poll_op(log.segments(), log.durable(), &pool) {
                    assert_eq!(token.owner, Owner::Reader(LogId::Main));
                    disk.submit(token, op);
                }
                match reader.poll_event() {
                    Some(ReadEvent::Frame(frame)) => records += u64::from(frame.header.record_count),
                    Some(ReadEvent::CaughtUp) => break,
                    Some(other) => panic!("{other:?}"),
                    None => reader.handle_completion(disk.complete(None).expect("a read is out")),
                }
            }
            assert_eq!(records, log.durable().number());
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = append, recovery, reader
}
criterion_main!(benches);
