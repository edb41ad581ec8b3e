//! Threads and tasks that push an entry and wait until it is on disk.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::{Durability, Idle, Io};

use crate::floor;
use crate::measure::{Fixed, Scale, builder, cpu_time, new_dir, null, open};
use crate::table::Table;
use crate::told;

/// How many threads there are, in turn, beside one by itself.
pub(crate) const THREADS: [usize; 4] = [4, 16, 64, 256];
const OUTSTANDING: usize = 1000;

/// How the flush core waits, and who writes for it.
#[derive(Clone, Copy)]
struct Way {
    io: Io,
    idle: Idle,
    name: &'static str,
}

const PARKED: Way = Way { io: Io::Uring, idle: Idle::Park, name: PARKED_NAME };
const SPINNING: Way = Way { io: Io::Uring, idle: Idle::Spin, name: SPINNING_NAME };
const BY_THREADS: Way = Way { io: Io::Threads, idle: Idle::Park, name: "driver of threads" };
#[cfg(feature = "tokio-uring")]
const BY_TOKIO: Way = Way { io: Io::TokioUring, idle: Idle::Park, name: "driver of tokio-uring" };

pub(crate) const PARKED_NAME: &str = "parked";
pub(crate) const SPINNING_NAME: &str = "spinning";
pub(crate) const OUTSTANDING_NAME: &str = "ack / one thread with 1000 outstanding";
pub(crate) const TASKS_NAME: &str = "ack / 1000 tasks on one runtime thread";

pub(crate) fn name(who: &str, threads: usize) -> String {
    format!("ack / {who} / {threads} thread{}", if threads == 1 { "" } else { "s" })
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for way in [PARKED, SPINNING, BY_THREADS] {
        each_waits(scale, table, way, 1);
    }
    #[cfg(feature = "tokio-uring")]
    each_waits(scale, table, BY_TOKIO, 1);
    for threads in THREADS {
        told::run(scale, threads, table);
        each_waits(scale, table, PARKED, threads);
    }
    told::run_one(scale, OUTSTANDING, table);
    many_outstanding(scale, table);
    many_tasks(scale, table);
}

/// The times of threads that each do this again and again, and how long all of it took.
pub(crate) fn by_threads<W: FnMut() + Send>(
    scale: Scale,
    threads: usize,
    mut new_worker: impl FnMut(usize) -> W,
) -> (Vec<Duration>, Duration) {
    let begun = Instant::now();
    let times = thread::scope(|scope| {
        let workers = (0..threads).map(|number| {
            let mut work = new_worker(number);
            scope.spawn(move || {
                let mut times = Vec::new();
                while begun.elapsed() < scale.time {
                    let start = Instant::now();
                    work();
                    times.push(start.elapsed());
                }
                times
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    (times, begun.elapsed())
}

fn each_waits(scale: Scale, table: &mut Table, way: Way, threads: usize) {
    let dir = new_dir();
    let builder = builder(dir.path(), Durability::Immediate).io(way.io).idle(way.idle);
    let queue = builder.open(null::<Fixed<100>>()).expect("a queue");
    let cpu = cpu_time();
    let (mut times, took) = by_threads(scale, threads, |_| {
        let producer = queue.producer();
        move || producer.push_durable(Fixed([7; 100])).expect("room").wait().expect("a disk that works")
    });
    let cpu = cpu_time() - cpu;
    let name = name(way.name, threads);
    let count = times.len() as f64;
    let metrics = queue.metrics();
    table.add_times(&name, &mut times, (threads == 1).then_some(floor::ACK));
    let floor = if threads == 1 { format!("{} / rate", floor::ACK) } else { format!("{} / acks", told::name(threads)) };
    table.add_beside(format!("{name} / acks"), "1/s", count / took.as_secs_f64(), &floor);
    table.add(format!("{name} / CPU per million acks"), "s", cpu.as_secs_f64() * 1e6 / count);
    table.add(format!("{name} / entries per write"), "", count / metrics.writes as f64);
    table.add(
        format!("{name} / bytes on disk per payload byte"),
        "",
        metrics.log_bytes_written as f64 / (100.0 * count),
    );
}

/// One thread that has a thousand receipts out, and waits for the oldest.
fn many_outstanding(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Immediate, null::<Fixed<100>>());
    let producer = queue.producer();
    let mut receipts = VecDeque::with_capacity(OUTSTANDING);
    let mut times = Vec::new();
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut now = begun;
    // The clock is read once for each: it costs as much as a push.
    while now - begun < scale.time {
        let oldest = if receipts.len() == OUTSTANDING { receipts.pop_front() } else { None };
        if let Some((receipt, _)) = oldest {
            producer.durable(receipt).wait().expect("a disk that works");
        }
        now = Instant::now();
        times.extend(oldest.map(|(_, pushed)| now - pushed));
        receipts.push_back((producer.push(Fixed([7; 100])).expect("room"), now));
    }
    queue.flush().expect("a disk that works");
    let (took, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let count = times.len() + receipts.len();
    table.add_times(OUTSTANDING_NAME, &mut times, None);
    add_many(table, OUTSTANDING_NAME, count, took, cpu);
}

/// A thousand tasks that each await their own entry, all on one thread.
fn many_tasks(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let queue = open(dir.path(), Durability::Immediate, null::<Fixed<100>>());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (begun, cpu) = (Instant::now(), cpu_time());
    let count = runtime.block_on(async {
        let task = |_| {
            let producer = queue.producer();
            tokio::spawn(async move {
                let mut count = 0;
                while begun.elapsed() < scale.time {
                    producer.push_durable(Fixed([7; 100])).expect("room").await.expect("a disk that works");
                    count += 1;
                }
                count
            })
        };
        let tasks: Vec<_> = (0..OUTSTANDING).map(task).collect();
        let mut count = 0;
        for task in tasks {
            count += task.await.expect("no panic");
        }
        count
    });
    add_many(table, TASKS_NAME, count, begun.elapsed(), cpu_time() - cpu);
}

fn add_many(table: &mut Table, name: &str, count: usize, took: Duration, cpu: Duration) {
    let count = count as f64;
    let floor = format!("{} / acks", told::name_of_one(OUTSTANDING));
    table.add_beside(format!("{name} / acks"), "M/s", count / 1e6 / took.as_secs_f64(), &floor);
    table.add(format!("{name} / CPU per million acks"), "s", cpu.as_secs_f64() * 1e6 / count);
}
