//! What the measurements share: entries, queues, the clock, places for threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ringwal::io::pin_to_cpu;
use ringwal::{Batch, Builder, Durability, Entry, Queue, Sink, sink_fn};

#[path = "../common/fixed.rs"]
mod fixed;
pub(crate) use fixed::Fixed;

/// Waits that end unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How long each measurement lasts, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// Entries of measurements that end by count.
    pub(crate) entries: usize,
}

impl Scale {
    pub(crate) const FULL: Self = Self { rounds: 5, time: Duration::from_millis(500), entries: 200_000 };
    pub(crate) const QUICK: Self = Self { rounds: 1, time: Duration::from_millis(20), entries: 5_000 };
}

/// A directory of its own for a measurement, on the disk that holds the build.
pub(crate) fn new_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory to measure in")
}

/// A queue as most would set it up, with segments short enough to open quickly.
pub(crate) fn builder(dir: &Path, durability: Durability) -> Builder {
    Queue::builder(dir).durability(durability).segment_len(16 << 20).log_bytes_max(512 << 20).drop_timeout(LONG)
}

pub(crate) fn open<T: Entry>(dir: &Path, durability: Durability, sink: impl Sink<T>) -> Queue<T> {
    builder(dir, durability).open(sink).expect("a queue")
}

/// Takes everything and looks at nothing.
pub(crate) fn null<T: Entry>() -> impl Sink<T> {
    sink_fn(|_batch: Batch<T>| async { Ok(()) })
}

/// Reads every byte of every entry, and adds them up.
pub(crate) fn reading<const LEN: usize>(sum: &Arc<AtomicU64>) -> impl Sink<Fixed<LEN>> + use<LEN> {
    let sum = Arc::clone(sum);
    sink_fn(move |batch: Batch<Fixed<LEN>>| {
        sum.fetch_add(batch.values().map(read).sum(), Relaxed);
        async { Ok(()) }
    })
}

pub(crate) fn read<const LEN: usize>(entry: &Fixed<LEN>) -> u64 {
    std::hint::black_box(entry).0.iter().map(|byte| u64::from(*byte)).sum()
}

/// Who measures, and who works for it: the first and the last CPU that this process may use.
pub(crate) fn two_cpus() -> Option<(usize, usize)> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    Some((cpus.next()?, cpus.next_back()?))
}

/// Runs this on a thread of its own, on the first CPU: the flush core, the sink and the consumers of peers have the last
/// one. Without, a round in which the two share a CPU measures the scheduler.
pub(crate) fn on_first_cpu<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let pinned = || {
        pin(two_cpus().map(|(first, _)| first));
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join().expect("no panic"))
}

pub(crate) fn to_last_cpu() {
    pin(two_cpus().map(|(_, last)| last));
}

fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        pin_to_cpu(cpu).expect("a CPU that this process may use");
    }
}

/// The queue's own threads on the last CPU.
pub(crate) fn with_last_cpu(builder: Builder) -> Builder {
    match two_cpus() {
        Some((_, last)) => builder.cpu(last).sink_cpu(last),
        None => builder,
    }
}

/// Two cores and nine threads: who spins for ever holds up the one that it waits for.
pub(crate) fn relax(tries: &mut u32) {
    *tries += 1;
    if tries.is_multiple_of(64) { thread::yield_now() } else { std::hint::spin_loop() }
}

pub(crate) fn wait_until(mut reached: impl FnMut() -> bool) {
    let mut tries = 0;
    while !reached() {
        relax(&mut tries);
    }
}

/// Until everything is drained and delivered: what comes next finds nobody at work.
pub(crate) fn settle<T: Entry>(queue: &Queue<T>) {
    wait_until(|| {
        let metrics = queue.metrics();
        metrics.ring_bytes == 0 && metrics.delivered == metrics.pushed
    });
}

/// What looking at the clock twice shows when nothing happens in between.
pub(crate) fn clock_cost() -> Duration {
    let mut times: Vec<Duration> = (0..1001).map(|_| Instant::now().elapsed()).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// CPU time of this process so far, all threads.
pub(crate) fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `getrusage` fills what it is given.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage of this process cannot fail");
    // SAFETY: filled above.
    let usage = unsafe { usage.assume_init() };
    let of = |time: libc::timeval| Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}
