//! What a push costs the thread that pushes.

use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Queue, blocking_fn};

use super::measure::{nanos, quantile};
use super::{Bench, Bytes, failed};
use crate::failure::Result;

/// Entries in a burst: with 100 bytes each they fill less than half of a ring.
const BURST: u32 = 4000;
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) fn round(bench: &mut Bench) -> Result<()> {
    of_len::<8>(bench)?;
    of_len::<64>(bench)?;
    of_len::<100>(bench)
}

fn of_len<const N: usize>(bench: &mut Bench) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| failed("pushes", error);
    let queue = Queue::builder(bench.dir())
        .durability(Durability::Memory)
        .io(bench.io.into())
        .rings(1)
        .pinned_rings(1)
        .open(blocking_fn(|_: &Batch<Bytes<N>>| Ok(())))
        .map_err(|error| fail(&error))?;
    let producer = queue.producer();
    let mut pinned = producer.pin();
    for own in [true, false] {
        let mut costs = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < bench.round / 6 {
            let burst = Instant::now();
            for _ in 0..BURST {
                let pushed = if own { pinned.push(Bytes([7; N])) } else { producer.push(Bytes([7; N])) };
                pushed.map_err(|error| fail(&error))?;
            }
            costs.push(nanos(burst.elapsed()) / f64::from(BURST));
            // The next burst finds an empty ring.
            queue.drain(PAUSE_MAX).map_err(|error| fail(&error))?;
        }
        let name = format!("{N} B, {}", if own { "pinned producer" } else { "shared ring" });
        bench.note("push", name, "ns", quantile(&mut costs, 0.5));
    }
    drop(pinned);
    queue.shutdown(PAUSE_MAX).map(drop).map_err(|error| fail(&error))
}
