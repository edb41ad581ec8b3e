//! How much goes through, by the length of an entry, and what does each thread pay for it?
//!
//! One pinned producer pushes as fast as it can; a sink takes everything and looks at nothing. Once on all CPUs and
//! once on one: what the threads cost together bounds the second, and that is how the model of scale is checked.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::{DecodeError, Durability, Entry, Queue, Schema};

use crate::measure::{LONG, Scale, new_dir, null, open};
use crate::round::Round;
use crate::threads::{OneCpu, PUSHER, ROLES, cpu_nanos, machine_busy};

/// Lengths of entries in bytes.
const LENS: [usize; 8] = [8, 64, 100, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
/// Bytes between two looks at the clock.
const STRIDE: usize = 64 << 10;
/// Longest entry.
pub(crate) const BYTES_MAX: usize = 64 << 10;
static BYTES: [u8; BYTES_MAX] = [7; BYTES_MAX];

/// An entry of any length that costs one copy to encode and nothing to make or decode.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) len: usize,
}

impl Entry for Filled {
    const SCHEMA: Schema = Schema::new("bench.filled", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len)
    }

    fn encode_into(&self, out: &mut [u8]) {
        // So that it is a copy, and not a fill with what the compiler knows.
        out.copy_from_slice(&black_box(&BYTES)[..self.len]);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { len: bytes.len() })
    }
}

pub(crate) fn run(scale: Scale, round: &mut Round) {
    round.add("cpus", 0.0, "CPUs", all_cpus());
    for len in LENS {
        for durability in [Durability::Memory, Durability::Periodic(Duration::from_millis(5))] {
            measure(scale, round, durability, len, None);
            let one_cpu = OneCpu::new();
            measure(scale, round, durability, len, Some(one_cpu.cpu));
        }
    }
}

fn measure(scale: Scale, round: &mut Round, durability: Durability, len: usize, cpu: Option<usize>) {
    let dir = new_dir();
    let queue = open(dir.path(), durability, null::<Filled>());
    let mode = if durability == Durability::Memory { "Memory" } else { "Periodic" };
    let cpus = if cpu.is_some() { " on one CPU" } else { "" };
    let bring_home = || match durability {
        Durability::Memory => queue.drain(LONG).expect("a sink that works"),
        _ => queue.flush().expect("a disk that works"),
    };
    // The first segments are made while the queue runs; what is sustained comes after.
    push_for(&queue, len, scale.time / 2, || ());
    bring_home();
    let (before, busy, begun, metrics) = (cpu_nanos(), machine_busy(cpu), Instant::now(), queue.metrics());
    let mut pusher = 0.0;
    let count = push_for(&queue, len, scale.time / 2, || pusher = cpu_nanos()[0]);
    bring_home();
    let took = begun.elapsed().as_secs_f64();
    let (after, busy) = (cpu_nanos(), machine_busy(cpu) - busy);
    let x = len as f64;
    round.add(&format!("throughput: {mode}{cpus}"), x, "MB/s", count * x / 1e6 / took);
    round.add(&format!("entries: {mode}{cpus}"), x, "M/s", count / 1e6 / took);
    let mut ours = 0.0;
    for (at, role) in ROLES.iter().enumerate() {
        // The pusher has ended, and told before.
        let nanos = if at == 0 { pusher } else { (after[at] - before[at]).max(0.0) };
        ours += nanos;
        round.add(&format!("cpu {mode}{cpus}: {role}"), x, "ns", nanos / count);
    }
    let all = if cpu.is_some() { 1.0 } else { all_cpus() };
    let others = (busy - ours / 1e9).max(0.0) / took;
    round.add(&format!("cpus left: {mode}{cpus}"), x, "CPUs", (all - others).max(0.0));
    let (frames, read) = {
        let after = queue.metrics();
        (after.frames - metrics.frames, after.frames_read_back - metrics.frames_read_back)
    };
    round.add(&format!("read back: {mode}{cpus}"), x, "share", read as f64 / frames.max(1) as f64);
    queue.shutdown(LONG).expect("a sink that works");
}

fn all_cpus() -> f64 {
    thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64)
}

/// How many it were. `at_end` is called on the thread that pushed.
fn push_for(queue: &Queue<Filled>, len: usize, time: Duration, at_end: impl FnOnce() + Send) -> f64 {
    let stride = (STRIDE / len).clamp(1, 256);
    let push = || {
        let mut producer = queue.producer().pin();
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            for _ in 0..stride {
                producer.push(Filled { len }).expect("room");
            }
            count += stride;
        }
        at_end();
        count as f64
    };
    thread::scope(|scope| {
        let pusher = thread::Builder::new().name(PUSHER.to_owned()).spawn_scoped(scope, push).expect("a thread");
        pusher.join().expect("no panic")
    })
}
