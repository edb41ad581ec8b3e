//! From opening a log full of entries to their delivery.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Queue, blocking_fn};

use super::{Bench, Bytes, failed};
use crate::failure::Result;

const LEN: usize = 100;
const ENTRIES: u64 = 200_000;
const WITHIN: Duration = Duration::from_secs(60);

pub(super) fn round(bench: &mut Bench) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| failed("recovery", error);
    let dir = bench.dir();
    let builder =
        || Queue::builder(&dir).durability(Durability::Periodic(Duration::from_millis(5))).io(bench.io.into());
    let queue = builder().open(blocking_fn(|_: &Batch<Bytes<LEN>>| Ok(()))).map_err(|error| fail(&error))?;
    queue.pause();
    let mut producer = queue.producer().pin();
    for _ in 0..ENTRIES {
        producer.push(Bytes([7; LEN])).map_err(|error| fail(&error))?;
    }
    drop(producer);
    queue.flush().map_err(|error| fail(&error))?;
    queue.shutdown(Duration::ZERO).map_err(|error| fail(&error))?;

    let first = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&first);
    let begun = Instant::now();
    let queue = builder()
        .batch_len_max(10_000)
        .open(blocking_fn(move |_: &Batch<Bytes<LEN>>| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            Ok(())
        }))
        .map_err(|error| fail(&error))?;
    let recovered = queue.recovery().recovered;
    queue.drain(WITHIN).map_err(|error| fail(&error))?;
    let last = begun.elapsed();
    let first = first.lock().unwrap_or_else(PoisonError::into_inner).map(|first: Instant| first - begun);
    queue.shutdown(WITHIN).map_err(|error| fail(&error))?;
    let _ = std::fs::remove_dir_all(&dir);
    let what = format!("{}k entries of {LEN} B", recovered / 1000);
    if let Some(first) = first {
        bench.note("recovery", format!("{what}, to the first delivery"), "ms", first.as_secs_f64() * 1e3);
    }
    bench.note("recovery", format!("{what}, to the last delivery"), "ms", last.as_secs_f64() * 1e3);
    Ok(())
}
