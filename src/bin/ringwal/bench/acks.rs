//! Durable acknowledgements: threads that each wait for their own entry.

use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, LogError, Producer, Queue, blocking_fn};

use super::measure::{nanos, quantile};
use super::{Bench, Bytes, failed};
use crate::failure::{Failure, Result};

const LEN: usize = 100;

pub(super) fn round(bench: &mut Bench) -> Result<()> {
    for threads in [1, 4, 16, 64] {
        of_threads(bench, threads)?;
    }
    Ok(())
}

fn of_threads(bench: &mut Bench, threads: u32) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| failed("durable acknowledgements", error);
    let dir = bench.dir();
    let queue = Queue::builder(&dir)
        .durability(Durability::Immediate)
        .io(bench.io.into())
        .open(blocking_fn(|_: &Batch<Bytes<LEN>>| Ok(())))
        .map_err(|error| fail(&error))?;
    let until = Instant::now() + bench.round / 2;
    let begun = Instant::now();
    let times = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let producer = queue.producer();
                scope.spawn(move || push_and_wait(&producer, until))
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            let joined = worker.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()));
            times.extend(joined.map_err(|error| fail(&error))?);
        }
        Ok::<_, Failure>(times)
    });
    let (mut times, took) = (times?, begun.elapsed());
    queue.shutdown(Duration::from_secs(5)).map_err(|error| fail(&error))?;
    let _ = std::fs::remove_dir_all(&dir);
    let per_second = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX)) / took.as_secs_f64();
    let name = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    bench.note("acks", format!("{name}, p50"), "µs", quantile(&mut times, 0.5) / 1e3);
    bench.note("acks", format!("{name}, p99"), "µs", quantile(&mut times, 0.99) / 1e3);
    bench.note("acks", name, "1/s", per_second);
    Ok(())
}

fn push_and_wait(producer: &Producer<Bytes<LEN>>, until: Instant) -> std::result::Result<Vec<f64>, String> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        let durable = producer.push_durable(Bytes([7; LEN])).map_err(|error| error.to_string())?;
        durable.wait().map_err(|error: LogError| error.to_string())?;
        times.push(nanos(begun.elapsed()));
    }
    Ok(times)
}
