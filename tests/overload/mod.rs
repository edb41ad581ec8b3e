//! Producers ten times faster than the sink for a while, then calm: what must hold all the time, and in the end.
//!
//! ```text
//!   overload   the sink takes its n-th entry only when 10 · n were pushed: ten times slower on any machine
//!   calm       a producer pushes one entry for ten that the sink takes, until nothing is left
//! ```
//! That the sink waits for the producers is the point: a push that waited for the sink would wait for itself, and the run
//! would stand still, which is seen. So "no push waits for the sink" needs no clock. Latencies are shown, not judged.
#![allow(dead_code, unreachable_pub, reason = "the test and the program each use a part")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringwal::{
    Batch, Concern, DecodeError, Durability, Entry, Health, Metrics, Queue, Schema, Shutdown, WhenFull, blocking_fn,
};

/// How much faster producers are than the sink, and in calm the sink than producers.
const RATIO: u64 = 10;
/// Nothing moves for so long: it stands still. Longer than a busy machine ever takes.
const STANDSTILL: Duration = Duration::from_secs(120);
/// What the process needs beyond the frames' memory and the rings: stacks of threads, histograms, the batch that the sink
/// looks at, what the allocator keeps.
const BESIDE: u64 = 24 << 20;
/// How long who has nothing to do rests.
const REST: Duration = Duration::from_millis(1);
/// Latencies above this count as this, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

/// How the producers push while there is overload.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// So many entries, as fast as they are taken.
    Entries(u64),
    /// So many each second, all together, for so long.
    Paced { lasts: Duration, per_second: u64 },
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Where; `None`: a directory for the time of the run.
    pub dir: Option<PathBuf>,
    pub durability: Durability,
    /// Threads that push. The first has a ring of its own.
    pub producers: u32,
    /// Bytes of an entry, 16 at least.
    pub entry_len: usize,
    pub memory_max: u64,
    pub segment_len: u64,
    pub log_bytes_max: u64,
    pub load: Load,
    /// In calm the sink keeps its pace, if that was paced; else it takes what it can.
    pub sink_keeps_pace: bool,
    pub sample_every: Duration,
    /// A line so often.
    pub tell_every: Duration,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub pushed: u64,
    /// What was not delivered when calm began.
    pub backlog: u64,
    /// Times that a push found its ring full.
    pub waits: u64,
    pub overload: Histogram<u64>,
    pub calm: Histogram<u64>,
    pub resident_max: u64,
    pub resident_limit: u64,
    pub memory_max: u64,
    pub log_bytes_max: u64,
    pub samples: u64,
    pub read_back: u64,
    /// What did not hold.
    pub wrong: Vec<String>,
}

/// An entry that names its producer and its place in that producer's row.
struct Item {
    producer: u32,
    number: u64,
    len: usize,
}

impl Entry for Item {
    const SCHEMA: Schema = Schema::new("test.overload", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.fill(filling(self.producer, self.number));
        out[..4].copy_from_slice(&self.producer.to_le_bytes());
        out[4..12].copy_from_slice(&self.number.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (head, rest) = bytes.split_at_checked(12).ok_or_else(|| DecodeError::new("too short"))?;
        let producer = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let number = u64::from_le_bytes(head[4..].try_into().expect("eight bytes"));
        match rest.iter().all(|byte| *byte == filling(producer, number)) {
            true => Ok(Self { producer, number, len: bytes.len() }),
            false => Err(DecodeError::new("other bytes than were pushed")),
        }
    }
}

/// What stands behind the numbers of an entry.
fn filling(producer: u32, number: u64) -> u8 {
    number.wrapping_mul(31).wrapping_add(u64::from(producer)).to_le_bytes()[0]
}

const OVERLOAD: u8 = 0;
const CALM: u8 = 1;
const OVER: u8 = 2;

/// A counter in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Count {
    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::SeqCst);
    }
}

/// What producers, sink and whoever looks share.
struct Stage {
    options: Options,
    phase: AtomicU8,
    begun: Instant,
    pushed: Vec<Count>,
    waits: Count,
    /// Producers that have pushed all they had for the overload.
    through: Count,
    /// Entries that the sink has taken; how many of them before calm.
    taken: Count,
    taken_before: Count,
    /// Of the sink in calm, entries a second; 0: as it can.
    pace: Count,
    wrong: Mutex<Vec<String>>,
}

impl Stage {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::SeqCst)
    }

    fn pushed(&self) -> u64 {
        self.pushed.iter().map(Count::get).sum()
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().expect("nobody panics with it");
        // The first few say it all.
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    fn is_wrong(&self) -> bool {
        !self.wrong.lock().expect("nobody panics with it").is_empty()
    }

    /// Before the sink takes so many more.
    fn wait_for_turn(&self, count: u64) {
        while self.phase() == OVERLOAD && self.pushed() < RATIO * (self.taken.get() + count) {
            std::thread::sleep(REST);
        }
        let pace = self.pace.get();
        if self.phase() == CALM && pace > 0 {
            std::thread::sleep(Duration::from_secs_f64(count as f64 / pace as f64));
        }
    }

    /// How many entries this producer may have pushed by now in the overload; `None`: it is through.
    fn allowed(&self) -> Option<u64> {
        let producers = u64::from(self.options.producers);
        match self.options.load {
            Load::Entries(all) => Some(all.div_ceil(producers)),
            Load::Paced { per_second, .. } => {
                let seconds = self.begun.elapsed().as_secs_f64();
                (self.phase() == OVERLOAD).then_some((seconds * per_second as f64) as u64 / producers)
            }
        }
    }
}

/// The sink: each producer's entries one after the other, none missing, none twice.
fn sink(stage: &Arc<Stage>) -> impl FnMut(&Batch<Item>) -> Result<(), ringwal::SinkError> + Send + 'static {
    let stage = Arc::clone(stage);
    let mut next = vec![0_u64; stage.options.producers as usize];
    move |batch| {
        stage.wait_for_turn(batch.len() as u64);
        for entry in batch.values() {
            let expected = &mut next[entry.producer as usize];
            if entry.number != *expected || entry.len != stage.options.entry_len {
                stage.wrong(format!("producer {}: {} came where {expected} must", entry.producer, entry.number));
            }
            *expected = entry.number + 1;
        }
        stage.taken.add(batch.len() as u64);
        Ok(())
    }
}

/// A producer's life. Gives what its pushes took: in overload, and in calm.
fn produce(stage: &Stage, queue: &Queue<Item>, index: u32) -> [Histogram<u64>; 2] {
    let producer = queue.producer();
    let mut pinned = (index == 0).then(|| producer.pin());
    let mut histograms = [(); 2].map(|()| Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("bounds in order"));
    let mut number = 0;
    let mut push = |histogram: &mut Histogram<u64>| {
        let entry = Item { producer: index, number, len: stage.options.entry_len };
        let begun = Instant::now();
        let tried = match &mut pinned {
            Some(pinned) => pinned.try_push(entry),
            None => producer.try_push(entry),
        };
        let pushed = match tried {
            Err(ringwal::PushError::Full(entry)) => {
                stage.waits.add(1);
                match &mut pinned {
                    Some(pinned) => pinned.push(entry),
                    None => producer.push(entry),
                }
            }
            other => other,
        };
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        histogram.saturating_record(took.max(1));
        match pushed {
            Ok(_) => {
                number += 1;
                stage.pushed[index as usize].add(1);
                true
            }
            Err(error) => {
                stage.wrong(format!("a push was refused: {error}"));
                false
            }
        }
    };
    let [overload, calm] = &mut histograms;
    let mut sent = 0;
    while let Some(allowed) = stage.allowed() {
        if sent < allowed {
            if !push(overload) {
                break;
            }
            sent += 1;
        } else if matches!(stage.options.load, Load::Entries(_)) {
            break;
        } else {
            std::thread::sleep(REST);
        }
    }
    stage.through.add(1);
    let mut sent = 0;
    while stage.phase() != OVER {
        let taken = stage.taken.get().saturating_sub(stage.taken_before.get());
        let allowed = taken / RATIO / u64::from(stage.options.producers);
        if stage.phase() == CALM && sent < allowed {
            if !push(calm) {
                break;
            }
            sent += 1;
        } else {
            std::thread::sleep(REST);
        }
    }
    histograms
}

/// What this process has in memory, as the kernel counts it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux has it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Looks at the queue, again and again.
struct Looker<'a> {
    stage: &'a Stage,
    queue: &'a Queue<Item>,
    resident_limit: u64,
    resident_max: u64,
    memory_max: u64,
    log_bytes_max: u64,
    samples: u64,
    moved: (u64, Instant),
    told: (u64, Instant),
}

impl Looker<'_> {
    /// One look; everything that can be seen is compared.
    fn look(&mut self) -> Metrics {
        let metrics = self.exact();
        let (queue, stage) = (self.queue, self.stage);
        self.samples += 1;
        let resident = resident();
        self.resident_max = self.resident_max.max(resident);
        self.memory_max = self.memory_max.max(metrics.memory_bytes);
        self.log_bytes_max = self.log_bytes_max.max(metrics.log_bytes);
        if resident > self.resident_limit {
            stage.wrong(format!("{resident} bytes are resident, more than {}", self.resident_limit));
        }
        if metrics.memory_bytes > metrics.memory_bytes_max || metrics.ring_bytes > metrics.ring_bytes_max {
            let Metrics { memory_bytes, ring_bytes, .. } = metrics;
            stage.wrong(format!("more memory than allowed: {memory_bytes} bytes of frames, {ring_bytes} in rings"));
        }
        if metrics.log_bytes > metrics.log_bytes_max {
            stage.wrong(format!("the log is longer than allowed: {} bytes", metrics.log_bytes));
        }
        let health = queue.health();
        if health.reasons().iter().any(|why| matches!(why, Concern::LogFull(_))) {
            stage.wrong("the log is full, though it has room for all".to_owned());
        }
        if let Health::Failed(why) = &health {
            stage.wrong(format!("the queue has failed: {why:?}"));
        }
        let now = stage.pushed() + stage.taken.get();
        if now > self.moved.0 {
            self.moved = (now, Instant::now());
        } else if self.moved.1.elapsed() > STANDSTILL {
            stage.wrong(format!("nothing moves: a push waits for the sink; {health:?}"));
        }
        self.tell(&metrics, resident);
        metrics
    }

    /// A snapshot in which nothing is between two places: what is counted never exceeds what came in, and as soon as no
    /// thread moves anything while it is taken, it is the same.
    fn exact(&self) -> Metrics {
        let begun = Instant::now();
        loop {
            let metrics = self.queue.metrics();
            let is_exact = metrics.accounted() == metrics.came_in();
            if metrics.accounted() > metrics.came_in() || !is_exact && begun.elapsed() > STANDSTILL {
                let (accounted, came_in) = (metrics.accounted(), metrics.came_in());
                self.stage.wrong(format!("{accounted} entries are accounted for, {came_in} came in"));
                return metrics;
            }
            if is_exact {
                return metrics;
            }
            std::thread::yield_now();
        }
    }

    fn tell(&mut self, metrics: &Metrics, resident: u64) {
        let (since, told) = (self.told.1.elapsed(), self.told.0);
        if since < self.stage.options.tell_every {
            return;
        }
        let taken = self.stage.taken.get();
        println!(
            "{:5.0} s  {}  backlog {:>9}  sink {:>8.0}/s  resident {:>4} MiB  pool {:>3} MiB  log {:>5} MiB  full rings {}",
            self.stage.begun.elapsed().as_secs_f64(),
            if self.stage.phase() == OVERLOAD { "overload" } else { "calm    " },
            metrics.pending + metrics.in_flight,
            (taken - told) as f64 / since.as_secs_f64(),
            resident >> 20,
            metrics.memory_bytes >> 20,
            metrics.log_bytes >> 20,
            self.stage.waits.get(),
        );
        self.told = (taken, Instant::now());
    }

    /// Looks until this is so, or something is wrong.
    fn look_until(&mut self, is_so: impl Fn(&Stage, &Metrics) -> bool) {
        loop {
            let metrics = self.look();
            if self.stage.is_wrong() || is_so(self.stage, &metrics) {
                return;
            }
            std::thread::sleep(self.stage.options.sample_every);
        }
    }
}

/// Runs it. What did not hold is in the report.
pub fn run(options: &Options) -> Report {
    let temp = options.dir.is_none().then(|| tempfile::tempdir().expect("a directory"));
    let dir = temp.as_ref().map_or_else(|| options.dir.clone().expect("given"), |temp| temp.path().join("queue"));
    let before = resident();
    let stage = Arc::new(Stage {
        options: options.clone(),
        phase: AtomicU8::new(OVERLOAD),
        begun: Instant::now(),
        pushed: (0..options.producers).map(|_| Count::default()).collect(),
        waits: Count::default(),
        through: Count::default(),
        taken: Count::default(),
        taken_before: Count::default(),
        pace: Count::default(),
        wrong: Mutex::default(),
    });
    let queue = Queue::builder(&dir)
        .durability(options.durability)
        .entry_len_max(options.entry_len)
        .memory_max(options.memory_max)
        .segment_len(options.segment_len)
        .log_bytes_max(options.log_bytes_max)
        // Only so that a run in which nothing moves comes to its end.
        .when_full(WhenFull::BlockFor(2 * STANDSTILL))
        .open(blocking_fn(sink(&stage)))
        .expect("the directory can be opened");
    let metrics = queue.metrics();
    let resident_limit = before + metrics.memory_bytes_max + metrics.ring_bytes_max + BESIDE;
    let mut looker = Looker {
        stage: &stage,
        queue: &queue,
        resident_limit,
        resident_max: 0,
        memory_max: 0,
        log_bytes_max: 0,
        samples: 0,
        moved: (0, Instant::now()),
        told: (0, Instant::now()),
    };
    let producers = u64::from(options.producers);
    let (histograms, backlog) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.producers)
            .map(|index| {
                let (stage, queue) = (&stage, &queue);
                scope.spawn(move || produce(stage, queue, index))
            })
            .collect();
        looker.look_until(|stage, _| match stage.options.load {
            Load::Entries(_) => stage.through.get() == producers,
            Load::Paced { lasts, .. } => stage.begun.elapsed() >= lasts,
        });
        let (pushed, taken) = (stage.pushed(), stage.taken.get());
        stage.taken_before.add(taken);
        if options.sink_keeps_pace {
            stage.pace.add((taken as f64 / stage.begun.elapsed().as_secs_f64()).ceil() as u64);
        }
        stage.phase.store(CALM, Ordering::SeqCst);
        looker.look_until(|stage, metrics| {
            let left = metrics.pending + metrics.in_flight + metrics.ring_bytes;
            // Nor is it over before producers that had no turn have pushed their share of calm.
            let share = (stage.taken.get() - taken) / RATIO;
            left == 0
                && stage.through.get() == producers
                && stage.taken.get() == stage.pushed()
                && stage.pushed() + producers >= pushed + share
        });
        // However few turns this thread had meanwhile.
        while looker.samples <= 10 {
            looker.look();
        }
        stage.phase.store(OVER, Ordering::SeqCst);
        let histograms: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        (histograms, pushed - taken)
    });
    let Looker { resident_max, memory_max, log_bytes_max, samples, .. } = looker;
    let metrics = queue.metrics();
    let pushed = stage.pushed();
    match queue.shutdown(STANDSTILL) {
        Ok(Shutdown { delivered, parked: 0, discarded: 0, left_in_log: 0, lost: 0, .. }) if delivered == pushed => {}
        other => stage.wrong(format!("{pushed} were pushed, and closing tells {other:?}")),
    }
    if stage.taken.get() != pushed {
        stage.wrong(format!("{pushed} were pushed, and the sink took {}", stage.taken.get()));
    }
    let mut sums = [(); 2].map(|()| Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("bounds in order"));
    for of in &histograms {
        sums.iter_mut().zip(of).for_each(|(sum, part)| sum.add(part).expect("the same bounds"));
    }
    let [overload, calm] = sums;
    let wrong = stage.wrong.lock().expect("nobody panics with it").clone();
    let waits = stage.waits.get();
    let read_back = metrics.frames_read_back;
    Report {
        pushed,
        backlog,
        waits,
        overload,
        calm,
        resident_max,
        resident_limit,
        memory_max,
        log_bytes_max,
        samples,
        read_back,
        wrong,
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::from("push latency   count        p50       p90       p99     p99.9       max\n");
        for (name, histogram) in [("overload", &self.overload), ("calm", &self.calm)] {
            let _ = write!(out, "{name:10} {:>9}", histogram.len());
            for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
                let nanos = histogram.value_at_quantile(share);
                let _ = write!(out, " {:>9}", format!("{:?}", Duration::from_nanos(nanos)));
            }
            out.push('\n');
        }
        let _ = write!(
            out,
            "{} entries, {} of them waiting when calm began; {} pushes found their ring full\n\
             resident {} MiB at most, limit {} MiB; pool {} MiB; log {} MiB; {} frames read back; {} looks\n",
            self.pushed,
            self.backlog,
            self.waits,
            self.resident_max >> 20,
            self.resident_limit >> 20,
            self.memory_max >> 20,
            self.log_bytes_max >> 20,
            self.read_back,
            self.samples
        );
        for what in &self.wrong {
            let _ = writeln!(out, "WRONG: {what}");
        }
        out
    }
}
