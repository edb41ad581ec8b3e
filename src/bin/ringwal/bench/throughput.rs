//! Bytes of entries through the log to a sink that takes everything, all durable at the end.

use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Queue, blocking_fn};

use super::{Bench, Bytes, failed};
use crate::failure::Result;

const PERIOD: Duration = Duration::from_millis(5);
/// Entries between two looks at the clock.
const STEP: u64 = 256;

pub(super) fn round(bench: &mut Bench) -> Result<()> {
    of_len::<100>(bench, "100 B entries")?;
    of_len::<1024>(bench, "1 KiB entries")
}

fn of_len<const N: usize>(bench: &mut Bench, name: &'static str) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| failed("throughput", error);
    let dir = bench.dir();
    let queue = Queue::builder(&dir)
        .durability(Durability::Periodic(PERIOD))
        .io(bench.io.into())
        .batch_len_max(10_000)
        .open(blocking_fn(|_: &Batch<Bytes<N>>| Ok(())))
        .map_err(|error| fail(&error))?;
    let mut producer = queue.producer().pin();
    let begun = Instant::now();
    let mut pushed: u64 = 0;
    while begun.elapsed() < bench.round {
        for _ in 0..STEP {
            producer.push(Bytes([7; N])).map_err(|error| fail(&error))?;
        }
        pushed += STEP;
    }
    queue.flush().map_err(|error| fail(&error))?;
    let took = begun.elapsed();
    drop(producer);
    queue.shutdown(Duration::from_secs(30)).map_err(|error| fail(&error))?;
    let _ = std::fs::remove_dir_all(&dir);
    let kilobytes = u32::try_from(pushed * N as u64 / 1000).unwrap_or(u32::MAX);
    bench.note("throughput", name, "MB/s", f64::from(kilobytes) / 1e3 / took.as_secs_f64());
    Ok(())
}
