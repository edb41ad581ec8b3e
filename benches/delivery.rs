//! What does delivery cost by itself, for each entry?
//!
//! Frames as the flush core hands them over become batches, are decoded, read by a sink that answers at once, and settled:
//! one thread, no disk, entries of 100 bytes. Beside it, the least that any queue does: `ArrayQueue`, one entry after the
//! other pushed, popped and read. What threads and a real sink add is measured in `end_to_end`.
//!
//! `cargo bench --bench delivery`; for counts of instructions instead of times:
//! `valgrind --tool=callgrind target/release/deps/delivery-… --count`, which does one run of a million entries.

#![cfg(not(loom))]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group};
use crossbeam_queue::ArrayQueue;
use ringwal::delivery::batch::Batch;
use ringwal::delivery::dispatcher::{DeliveryConfig, Dispatcher};
use ringwal::delivery::retry::Retry;
use ringwal::io::Wake;
use ringwal::ring::record::stride_of;
use ringwal::ring::{Rings, RingsConfig};
use ringwal::time::{Instant, UnixNanos};
use ringwal::wal::block::{Block, Pool};
use ringwal::wal::coding::BodyCoding;
use ringwal::wal::cursor::Cursor;
use ringwal::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind};
use ringwal::{Entry, Lsn, Outcome, SegmentUid};

#[path = "common/fixed.rs"]
mod fixed;
use fixed::Fixed;

const LEN: usize = 100;
/// Entries of a frame when producers are busy: some 220 KiB.
const FRAME: u32 = 2000;
const BATCH: usize = 1000;
/// Frames in a run that is only counted.
const COUNTED: usize = 500;

fn read(entry: &Fixed<LEN>) -> u64 {
    black_box(entry).0.iter().map(|byte| u64::from(*byte)).sum()
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// The block of a frame, with its records as the drain copies them.
fn block() -> Block {
    let config = RingsConfig { shared: 1, pinned: 0, ring_len: 1 << 20, entry_len_max: LEN };
    let (rings, mut drainer) = Rings::new(config, Arc::new(NoWake)).expect("memory");
    for _ in 0..FRAME {
        let mut claim = rings.claim(0, LEN).expect("room");
        claim.payload_mut().fill(7);
        claim.publish();
    }
    let mut chunk = Pool::new(1, 256 << 10).expect("memory").take().expect("a chunk");
    let drained = drainer.drain(0, &mut chunk[FRAME_HEADER_LEN..]);
    assert_eq!(drained.records, FRAME);
    chunk.freeze()
}

struct Way {
    dispatcher: Dispatcher,
    block: Block,
    next: Lsn,
    sum: u64,
}

impl Way {
    fn new() -> Self {
        let config = DeliveryConfig {
            batch_len_max: BATCH,
            batch_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            retry: Retry::default(),
            breaker: None,
            deliver_timeout: None,
            in_flight_max: 1,
            held_max: 0,
            adaptive: None,
            partial: false,
            seed: 1,
            unix_start: UnixNanos(0),
        };
        let dispatcher = Dispatcher::new(config, &Cursor::default());
        Self { dispatcher, block: block(), next: Lsn::FIRST, sum: 0 }
    }

    /// One frame, all the way.
    fn frame(&mut self) {
        let body_len = u32::try_from(FRAME as usize * stride_of(LEN)).expect("it fits a chunk");
        let next_lsn = self.next.advance(u64::from(FRAME));
        let header = FrameHeader {
            kind: FrameKind::Data,
            seg_uid: SegmentUid::NONE,
            first_lsn: self.next,
            next_lsn,
            durable_lsn: Lsn::ZERO,
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(1),
            position: 0,
            record_count: FRAME,
            coding: BodyCoding::PLAIN,
            body_len,
            raw_len: body_len,
            body_crc: 0,
        };
        self.next = next_lsn;
        let frame = Frame { header, block: self.block.clone(), runs: Vec::new(), place: None };
        self.dispatcher.handle_frame(Instant::START, frame, &Fixed::<LEN>::SCHEMA).expect("it follows on");
        while let Some((lease, raw)) = self.dispatcher.poll_delivery(Instant::START) {
            let (batch, bad) = Batch::<Fixed<LEN>>::decode(raw, None);
            assert!(bad.is_empty());
            self.sum += batch.values().map(read).sum::<u64>();
            drop(batch);
            self.dispatcher.handle_verdict(Instant::START, lease, Outcome::ack());
            while let Some(event) = self.dispatcher.poll_event() {
                black_box(&event);
            }
            black_box((self.dispatcher.in_flight(), self.dispatcher.unfinished()));
        }
    }
}

fn peer(queue: &ArrayQueue<Fixed<LEN>>) -> u64 {
    for _ in 0..FRAME {
        assert!(queue.push(black_box(Fixed([7; LEN]))).is_ok());
    }
    (0..FRAME).map(|_| read(&queue.pop().expect("an entry"))).sum()
}

fn delivery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delivery");
    group.throughput(Throughput::Elements(u64::from(FRAME)));
    let mut way = Way::new();
    group.bench_function("frames to a sink that reads", |bencher| bencher.iter(|| way.frame()));
    let queue = ArrayQueue::new(FRAME as usize);
    group.bench_function("ArrayQueue, pushed, popped and read", |bencher| bencher.iter(|| peer(&queue)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = delivery
}

fn main() {
    if std::env::args().any(|arg| arg == "--count") {
        let mut way = Way::new();
        (0..COUNTED).for_each(|_| way.frame());
        assert_eq!(way.dispatcher.counts().delivered, COUNTED as u64 * u64::from(FRAME));
        println!("{} entries, sum {}", way.dispatcher.counts().delivered, way.sum);
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
