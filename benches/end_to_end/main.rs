//! What does the whole queue cost, from push to disk to sink, beside the disk's own floor and its peers?
//!
//! ```text
//!   cargo bench --bench end_to_end                 five rounds, about two minutes
//!   cargo bench --bench end_to_end -- --quick      each measurement once, briefly: does it run?
//!   cargo bench --bench end_to_end -- acks floor   only parts with these names; `--rounds 9` for more rounds
//! ```
//! Every round runs every measurement once, so that a slow minute of the machine hits them all. A figure is
//! the median of the rounds with the least and the greatest; a ratio is the median of the ratios within a round.
//! The files lie below the build's target directory: put that on the disk that is to be measured.

#![cfg(not(loom))]

mod acks;
mod floor;
mod idle;
mod latency;
mod push;
mod recovery;
mod table;
mod throughput;

use std::time::Duration;

use ringwal::{Batch, DecodeError, Durability, Entry, Io, Queue, Schema, Sink, sink_fn};
use table::Table;

/// An entry of a fixed length that costs nothing to encode.
#[derive(Clone)]
struct Fixed<const LEN: usize>([u8; LEN]);

impl<const LEN: usize> Entry for Fixed<LEN> {
    const SCHEMA: Schema = Schema::new("bench.fixed", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(LEN)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(Self).map_err(DecodeError::new)
    }
}

/// How long each measurement lasts, and how often.
#[derive(Clone, Copy)]
struct Scale {
    rounds: usize,
    time: Duration,
    /// Entries of measurements that end by count.
    entries: usize,
}

const FULL: Scale = Scale { rounds: 5, time: Duration::from_millis(500), entries: 200_000 };
const QUICK: Scale = Scale { rounds: 1, time: Duration::from_millis(20), entries: 5_000 };

const LONG: Duration = Duration::from_secs(60);

type Part = (&'static str, fn(Scale, &mut Table));

const PARTS: [Part; 7] = [
    ("floor", floor::run),
    ("acks", acks::run),
    ("latency", latency::run),
    ("throughput", throughput::run),
    ("push", push::run),
    ("recovery", recovery::run),
    ("idle", idle::run),
];

fn main() {
    let mut scale = FULL;
    let mut wanted = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => {
                let rounds = args.next().and_then(|rounds| rounds.parse().ok());
                scale.rounds = rounds.expect("--rounds takes a number");
            }
            // The second is what criterion's benchmarks know.
            "--quick" | "--test" => scale = QUICK,
            // Cargo's own.
            "--bench" => {}
            name => wanted.push(name.to_owned()),
        }
    }
    if let Some(unknown) = wanted.iter().find(|name| PARTS.iter().all(|(part, _)| part != name)) {
        let parts: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!("no part {unknown:?}; there are {}", parts.join(", "));
        std::process::exit(2);
    }
    let mut table = Table::default();
    for round in 1..=scale.rounds {
        for (name, part) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
            eprintln!("round {round} of {}: {name}", scale.rounds);
            part(scale, &mut table);
        }
    }
    print!("{table}");
}

/// A directory of its own for a measurement, on the disk that holds the build.
fn new_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory to measure in")
}

/// A queue as most would set it up, with segments short enough to open quickly.
fn open<T: Entry>(dir: &std::path::Path, durability: Durability, io: Io, sink: impl Sink<T>) -> Queue<T> {
    Queue::builder(dir)
        .durability(durability)
        .io(io)
        .segment_len(16 << 20)
        .log_bytes_max(512 << 20)
        .drop_timeout(LONG)
        .open(sink)
        .expect("a queue")
}

/// Takes everything and looks at nothing.
fn null<T: Entry>() -> impl Sink<T> {
    sink_fn(|_batch: Batch<T>| async { Ok(()) })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// CPU time of this process so far, all threads.
fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `getrusage` fills what it is given.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage of this process cannot fail");
    // SAFETY: filled above.
    let usage = unsafe { usage.assume_init() };
    let of = |time: libc::timeval| Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}
