//! What becomes of pushes and of memory when the sink takes a tenth of what is pushed.

use std::thread;
use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Queue, blocking_fn};

use crate::measure::{Fixed, Scale, builder, new_dir};
use crate::table::Table;

const LEN: usize = 100;
/// Pushes are made in bursts with pauses, half a million a second: more than the sink takes, less than anything else
/// here can bear.
const BURST: usize = 500;
const INTERVAL: Duration = Duration::from_millis(1);
/// Entries for each call of the sink, which then takes ten intervals.
const BATCH: usize = BURST;

pub(crate) const PUSH: &str = "overload / push to a sink at a tenth";
pub(crate) const PUSH_BESIDE: &str = "overload / push to a sink that keeps up";
pub(crate) const MEMORY: &str = "overload / memory pool in use at most";
pub(crate) const GROWTH: &str = "overload / resident memory gained in the second half";
pub(crate) const BACKLOG: &str = "overload / backlog at the end";

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let calm = of(scale, Duration::ZERO);
    let overloaded = of(scale, 10 * INTERVAL);
    table.add_beside(PUSH, "ns", overloaded.push, PUSH_BESIDE);
    table.add(PUSH_BESIDE, "ns", calm.push);
    table.add(MEMORY, "%", overloaded.memory);
    table.add(GROWTH, "MiB", overloaded.growth);
    table.add(BACKLOG, "entries", overloaded.backlog);
}

struct Load {
    /// Nanoseconds, the median of the bursts.
    push: f64,
    /// In percent of what it may be.
    memory: f64,
    /// In MiB.
    growth: f64,
    backlog: f64,
}

fn of(scale: Scale, sink_takes: Duration) -> Load {
    let dir = new_dir();
    // Memory that fills within the first half, so that the second one shows what stays.
    let builder = builder(dir.path(), Durability::Periodic(Duration::from_millis(5))).memory_max(16 << 20);
    let sink = blocking_fn(move |_: &Batch<Fixed<LEN>>| {
        thread::sleep(sink_takes);
        Ok(())
    });
    let queue: Queue<Fixed<LEN>> = builder.batch_len_max(BATCH).open(sink).expect("a queue");
    let mut producer = queue.producer().pin();
    let mut times = Vec::new();
    let (mut memory_max, mut resident_at_half) = (0, None);
    let time = 4 * scale.time;
    let begun = Instant::now();
    let mut due = begun;
    while begun.elapsed() < time {
        let start = Instant::now();
        for _ in 0..BURST {
            producer.push(Fixed([7; LEN])).expect("room on disk");
        }
        times.push(start.elapsed());
        memory_max = memory_max.max(queue.metrics().memory_bytes);
        if begun.elapsed() >= time / 2 {
            resident_at_half.get_or_insert_with(resident);
        }
        due += INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let growth = resident() - resident_at_half.unwrap_or_default();
    let metrics = queue.metrics();
    // What is left stays in the log, which goes with its directory.
    queue.shutdown(Duration::ZERO).expect("a disk that works");
    times.sort_unstable();
    Load {
        push: times[times.len() / 2].as_secs_f64() * 1e9 / BURST as f64,
        memory: 100.0 * memory_max as f64 / metrics.memory_bytes_max as f64,
        growth,
        backlog: metrics.pending as f64,
    }
}

/// Memory of this process that is in RAM, in MiB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: f64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as f64 / f64::from(1 << 20)
}
