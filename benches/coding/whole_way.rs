//! JSON lines through a queue, compressed or encrypted or neither: the whole way, from push to durable.

use std::path::Path;
use std::time::{Duration, Instant};

use ringwal::{Aes256Gcm, Batch, Builder, Compression, Durability, KeyId, Queue, blocking_fn};

/// Pushes between two looks at the clock.
const STRIDE: usize = 256;
/// Lines that are pushed again and again.
const LINES: u64 = 100_000;

pub(crate) type Set = fn(Builder) -> Builder;

pub(crate) fn keys() -> Aes256Gcm {
    Aes256Gcm::new(KeyId::new(1), [7; 32])
}

pub(crate) const WAYS: [(&str, Set); 5] = [
    ("plain", |builder| builder),
    ("LZ4", |builder| builder.compression(Compression::lz4())),
    ("zstd 3", |builder| builder.compression(Compression::zstd())),
    ("AES-256-GCM", |builder| builder.cipher(keys())),
    ("LZ4 and AES-256-GCM", |builder| builder.cipher(keys()).compression(Compression::lz4())),
];

pub(crate) fn lines() -> Vec<String> {
    (0..LINES).map(line).collect()
}

/// A line as services log them; numbers differ, words come again.
fn line(n: u64) -> String {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
    format!(
        "{{\"ts\":\"2026-11-20T13:{:02}:{:02}.{:06}Z\",\"level\":\"info\",\"service\":\"orders\",\"request_id\":\"{mixed:012x}\",\
         \"user\":{},\"path\":\"/api/v1/orders/{}\",\"status\":200,\"took_us\":{}}}",
        n / 60_000 % 60,
        n / 1000 % 60,
        n % 1_000_000,
        mixed % 100_000,
        mixed % 9_999_991,
        mixed % 20_000,
    )
}

/// Payload in MB/s, and bytes on disk for each byte of it.
pub(crate) fn run(base: &Path, set: Set, lines: &[String], seconds: f64) -> (f64, f64) {
    let dir = tempfile::tempdir_in(base).expect("a directory for the queue");
    let builder = Queue::builder(dir.path()).durability(Durability::Periodic(Duration::from_millis(5)));
    let builder = set(builder.rings(1).log_bytes_max(4 << 30));
    let queue = builder.open(blocking_fn(|_: &Batch<String>| Ok(()))).expect("the queue opens");
    let mut producer = queue.producer().pin();
    let mut all = lines.iter().cycle();
    let mut push_for = |time: f64| {
        let (begun, mut bytes) = (Instant::now(), 0);
        while begun.elapsed().as_secs_f64() < time {
            for line in all.by_ref().take(STRIDE) {
                bytes += line.len();
                producer.push(line.clone()).expect("room");
            }
        }
        bytes as f64
    };
    // The first segments are made meanwhile.
    push_for(seconds / 2.0);
    queue.flush().expect("a disk that works");
    let (before, begun) = (queue.metrics().log_bytes_written, Instant::now());
    let bytes = push_for(seconds);
    queue.flush().expect("a disk that works");
    let took = begun.elapsed().as_secs_f64();
    let written = (queue.metrics().log_bytes_written - before) as f64;
    drop(producer);
    queue.shutdown(Duration::from_secs(60)).expect("an orderly end");
    (bytes / 1e6 / took, written / bytes)
}
