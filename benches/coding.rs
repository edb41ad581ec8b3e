//! What compression and encryption cost: the same JSON lines into the same queue on this disk, beside one that codes
//! nothing, in turns.
//!
//! `cargo bench --bench coding --features lz4,zstd,aes-gcm [-- SECONDS ROUNDS]`. The directory is made where the bench
//! runs. The first table is the whole way, push to durable; the second one the coding alone, on one core.

#[path = "coding/whole_way.rs"]
mod whole_way;

use std::time::{Duration, Instant};

use ringwal::wal::coding::SegmentIdentity;
use ringwal::wal::op::LogId;
use ringwal::wal::segment::StoreId;
use ringwal::{Cipher, KeyId, SegmentUid};
use whole_way::{WAYS, keys, lines, run};

const DEFAULT_SECONDS: f64 = 1.0;
const DEFAULT_ROUNDS: usize = 5;
/// As long as the longest frames of the defaults.
const FRAME_LEN: usize = 256 << 10;

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn timed(name: &str, bytes: usize, mut work: impl FnMut()) {
    let (begun, mut rounds) = (Instant::now(), 0_u32);
    while begun.elapsed() < Duration::from_millis(500) {
        work();
        rounds += 1;
    }
    println!("{name:<24} {:>8.0} MB/s", bytes as f64 * f64::from(rounds) / 1e6 / begun.elapsed().as_secs_f64());
}

fn alone(lines: &[String]) {
    let body: Vec<u8> = lines.iter().flat_map(|line| line.bytes()).take(FRAME_LEN).collect();
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(body.len())];
    let mut len = 0;
    timed("LZ4, compress", body.len(), || {
        len = lz4_flex::block::compress_into(&body, &mut packed).expect("room");
    });
    let mut out = vec![0; body.len()];
    timed("LZ4, decompress", body.len(), || {
        lz4_flex::block::decompress_into(&packed[..len], &mut out).expect("it was compressed");
    });
    let segment = SegmentIdentity { salt: [1; 32], log: LogId::Main, store: StoreId([2; 16]), uid: SegmentUid(3) };
    let cipher = keys().for_segment(KeyId::new(1), &segment).expect("the key is there");
    let mut buffer = body.clone();
    timed("AES-256-GCM, encrypt", body.len(), || {
        std::hint::black_box(cipher.encrypt(&[0; 12], &[0; 72], &mut buffer));
    });
    let mut copy = vec![0; body.len()];
    timed("copy, for comparison", body.len(), || copy.copy_from_slice(std::hint::black_box(&body)));
}

fn main() {
    // `cargo test` runs it as well, briefly.
    let numbers: Vec<f64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let seconds = numbers.first().copied().unwrap_or(if is_bench { DEFAULT_SECONDS } else { 0.02 });
    let rounds = numbers.get(1).map_or(if is_bench { DEFAULT_ROUNDS } else { 1 }, |n| *n as usize);
    let lines = lines();
    let base = std::env::current_dir().expect("a directory to be in");
    let mut figures = vec![(Vec::new(), 0.0); WAYS.len()];
    for _ in 0..rounds {
        for ((_, set), (speeds, share)) in WAYS.iter().zip(&mut figures) {
            let (speed, written) = run(&base, *set, &lines, seconds);
            speeds.push(speed);
            *share = written;
        }
    }
    println!(
        "{:<20} {:>26} {:>9} {:>20}",
        "JSON lines, 5 ms", "payload MB/s (least, most)", "of plain", "disk bytes per byte"
    );
    let plain = median(figures[0].0.clone()).0;
    for ((name, _), (speeds, share)) in WAYS.iter().zip(figures) {
        let (speed, least, most) = median(speeds);
        println!("{name:<20} {speed:>10.0} ({least:>5.0}, {most:>5.0}) {:>11.2} {share:>20.2}", speed / plain);
    }
    println!();
    alone(&lines);
}
