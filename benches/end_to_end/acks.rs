//! Threads that push an entry and wait until it is on disk.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::{Durability, Io};

use crate::table::Table;
use crate::{Fixed, Scale, cpu_time, floor, new_dir, null, open};

const OUTSTANDING: usize = 1000;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let drivers = [
        (Io::Uring, "io_uring"),
        (Io::Threads, "threads"),
        #[cfg(feature = "tokio-uring")]
        (Io::TokioUring, "tokio-uring"),
    ];
    for (io, driver) in drivers {
        for threads in [1, 4, 16, 64] {
            each_waits(scale, table, io, driver, threads);
        }
    }
    many_outstanding(scale, table);
}

fn each_waits(scale: Scale, table: &mut Table, io: Io, driver: &str, threads: usize) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Immediate, io, null::<Fixed<100>>());
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let worker = |_| {
            let producer = queue.producer();
            scope.spawn(move || {
                let mut times = Vec::new();
                while begun.elapsed() < scale.time {
                    let start = Instant::now();
                    producer.push_durable(Fixed([7; 100])).expect("room").wait().expect("a disk that works");
                    times.push(start.elapsed());
                }
                times
            })
        };
        let workers: Vec<_> = (0..threads).map(worker).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let (took, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let name = format!("ack, {driver}, {threads} threads");
    let count = times.len() as f64;
    let metrics = queue.metrics();
    let beside = (threads == 1).then_some(floor::ACK);
    table.add_times(&name, &mut times, beside);
    table.add_beside(format!("{name}, acks"), "1/s", count / took.as_secs_f64(), &format!("{}, rate", floor::ACK));
    table.add(format!("{name}, CPU per million acks"), "s", cpu.as_secs_f64() * 1e6 / count);
    table.add(format!("{name}, entries per write"), "", count / metrics.writes as f64);
    table.add(
        format!("{name}, bytes on disk per payload byte"),
        "",
        metrics.log_bytes_written as f64 / (100.0 * count),
    );
}

/// One thread that has a thousand receipts out, and waits for the oldest.
fn many_outstanding(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Immediate, Io::Auto, null::<Fixed<100>>());
    let producer = queue.producer();
    let mut receipts = VecDeque::with_capacity(OUTSTANDING);
    let mut times = Vec::new();
    let (begun, cpu) = (Instant::now(), cpu_time());
    while begun.elapsed() < scale.time {
        if receipts.len() == OUTSTANDING
            && let Some((receipt, pushed)) = receipts.pop_front()
        {
            producer.durable(receipt).wait().expect("a disk that works");
            let pushed: Instant = pushed;
            times.push(pushed.elapsed());
        }
        let now = Instant::now();
        receipts.push_back((producer.push(Fixed([7; 100])).expect("room"), now));
    }
    queue.flush().expect("a disk that works");
    let (took, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let count = (times.len() + receipts.len()) as f64;
    let name = "ack, one thread, 1000 outstanding";
    table.add_times(name, &mut times, None);
    table.add_beside(format!("{name}, acks"), "1/s", count / took.as_secs_f64(), &format!("{}, rate", floor::ACK));
    table.add(format!("{name}, CPU per million acks"), "s", cpu.as_secs_f64() * 1e6 / count);
}
