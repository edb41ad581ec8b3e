//! Several sinks over killed processes and power cuts: no sink loses what was durable, and copying never doubles.
//!
//! The sinks store LSNs with the data and answer `committed`, so each is to have each entry exactly once: what comes
//! twice was copied twice.
//!
//! `RINGWAL_FAN_OUT_ROUNDS` is the number of kills and of power cuts; `RINGWAL_FAN_OUT_SEED` fixes the choices.
#![cfg(feature = "testing")]

#[path = "common/child.rs"]
mod child;
mod common;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use child::{Child, command, say};
use common::{LONG, Numbered, assert_accounted, in_memory, small};
use ringwal::sim::{DiskKind, Fault, Mode, OpKind, Prng, SimDisk, SimSettings};
use ringwal::{
    Batch, BranchDisk, Builder, Concern, Durability, FanOut, FanOutQueue, Health, Jitter, LogError, Lsn, Outcome,
    Retry, ShutdownError, Sink, fan_out, sink_fn,
};

const CHILD: &str = "RINGWAL_FAN_OUT_CHILD";
const NAMES: [&str; 3] = ["one", "two", "moody"];
const DURABILITIES: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];
/// Longer than a commit here ever takes.
const SHORT: Duration = Duration::from_secs(2);

fn number_of(var: &str, default: u64) -> u64 {
    std::env::var(var).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn settings(dir: &Path, durability: Durability) -> Builder {
    let retry = Retry {
        attempts_max: None,
        base: Duration::from_millis(1),
        max: Duration::from_millis(5),
        jitter: Jitter::None,
        ..Retry::default()
    };
    small(dir, durability).rings(2).retry(retry).lock_wait(LONG).drop_timeout(Duration::from_millis(50))
}

/// What a sink has: in the order in which it came, by name of the producer and place in its row.
type Rows = Vec<(u64, u32, u32)>;

/// Each row once, in order, from each producer a row without gaps; and all that was acknowledged.
fn check(rows: &Rows, acknowledged: &BTreeMap<u32, u32>, story: &str) {
    let (mut last, mut next) = (0, BTreeMap::<u32, u32>::new());
    for (lsn, producer, number) in rows {
        assert!(*lsn > last, "{story}: LSN {lsn} behind {last}");
        last = *lsn;
        let wanted = next.entry(*producer).or_default();
        assert_eq!(number, wanted, "{story}: of producer {producer}: twice, out of order or lost");
        *wanted += 1;
    }
    for (producer, count) in acknowledged {
        let has = next.get(producer).copied().unwrap_or_default();
        assert!(has >= *count, "{story}: {has} of {count} acknowledged entries of producer {producer}");
    }
}

// Killed processes.

/// A file of rows, which outlives the process.
struct Table {
    file: std::fs::File,
    path: PathBuf,
    refuses: bool,
}

impl Table {
    fn open(path: PathBuf, refuses: bool) -> Self {
        // A kill may cut a write off between two pages.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 16 * 16).unwrap();
        Self { file, path, refuses }
    }

    fn rows(path: &Path) -> Rows {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let row = |row: &[u8]| (u64::from_le_bytes(row[..8].try_into().unwrap()), word(&row[8..12]), word(&row[12..]));
        std::fs::read(path).unwrap().chunks_exact(16).map(row).collect()
    }
}

impl Sink<Numbered> for Table {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        if self.refuses {
            return Outcome::retry("not in the mood");
        }
        let mut bytes = Vec::new();
        for entry in &batch {
            bytes.extend(entry.lsn.number().to_le_bytes());
            bytes.extend(entry.value.producer.to_le_bytes());
            bytes.extend(entry.value.number.to_le_bytes());
        }
        (&self.file).write_all(&bytes).unwrap();
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        Some(Lsn::new(Self::rows(&self.path).last().map_or(0, |(lsn, ..)| *lsn)))
    }
}

fn tables(dir: &Path, moody: bool) -> FanOut<Numbered> {
    NAMES.iter().fold(fan_out(), |sinks, name| {
        sinks.with(*name, Table::open(dir.join(format!("{name}.rows")), moody && *name == "moody"))
    })
}

fn open_tables(dir: &Path, durability: Durability, moody: bool) -> FanOutQueue<Numbered> {
    settings(&dir.join("queue"), durability).open_fan_out(tables(dir, moody)).unwrap()
}

/// The child's part: pushes, and says what is durable, until it is killed.
fn live(what: &str) {
    let mut words = what.splitn(3, ' ');
    let (life, durability) =
        (words.next().unwrap().parse::<u32>().unwrap(), words.next().unwrap().parse::<usize>().unwrap());
    let queue = open_tables(Path::new(words.next().unwrap()), DURABILITIES[durability], life % 3 == 1);
    say("open");
    let producer = queue.producer();
    for number in 0.. {
        let entry = Numbered::new(life, number, if number % 16 == 3 { 1500 } else { 40 });
        let receipt = producer.push(entry).unwrap();
        if number % 50 == 49 {
            producer.durable(receipt).wait().unwrap();
            say(&format!("durable {}", number + 1));
        }
    }
}

#[test]
fn killed_at_any_moment_each_sink_gets_each_entry_once() {
    if let Ok(what) = std::env::var(CHILD) {
        return live(&what);
    }
    let rounds = number_of("RINGWAL_FAN_OUT_ROUNDS", 18);
    let seed = number_of("RINGWAL_FAN_OUT_SEED", 1);
    let mut prng = Prng::new(seed);
    for (index, durability) in DURABILITIES.into_iter().enumerate() {
        let dir = in_memory();
        let mut acknowledged = BTreeMap::new();
        for life in 0..u32::try_from(rounds.div_ceil(3)).unwrap() {
            let what = format!("{life} {index} {}", dir.path().display());
            let mut child = Child::start(command("killed_at_any_moment_each_sink_gets_each_entry_once", CHILD, &what));
            let mut count = |line: String| {
                if let Some(durable) = line.strip_prefix("durable ") {
                    acknowledged.insert(life, durable.trim().parse().unwrap());
                }
            };
            if prng.below(4) > 0 {
                child.wait_for("open", &mut count);
            }
            std::thread::sleep(Duration::from_micros(prng.below(120_000)));
            child.signal(libc::SIGKILL);
            child.rest().into_iter().for_each(count);
            child.end();
        }
        let queue = open_tables(dir.path(), durability, false);
        queue.drain(LONG).unwrap();
        assert_accounted(&queue.metrics());
        queue.branches().for_each(|branch| assert_accounted(&branch.metrics()));
        assert!(queue.shutdown(LONG).is_complete());
        for name in NAMES {
            let story = format!("{name}, {durability:?}, seed {seed}");
            check(&Table::rows(&dir.path().join(format!("{name}.rows"))), &acknowledged, &story);
        }
    }
}

// Power cuts.

/// A table elsewhere, on a machine that stays up: it takes what a life gives until that has ended.
#[derive(Clone)]
struct Remote {
    rows: Arc<Mutex<Rows>>,
    dead: Arc<AtomicBool>,
    refuses: bool,
}

impl Sink<Numbered> for Remote {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        let mut rows = self.rows.lock().unwrap();
        if self.refuses || self.dead.load(Ordering::SeqCst) {
            return Outcome::retry("no answer");
        }
        rows.extend(batch.iter().map(|entry| (entry.lsn.number(), entry.value.producer, entry.value.number)));
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        Some(Lsn::new(self.rows.lock().unwrap().last().map_or(0, |(lsn, ..)| *lsn)))
    }
}

/// A branch's note, and that it is durable as soon as it is written.
type Note = Arc<Mutex<Option<Vec<u8>>>>;

/// The machine's disks: of the source, and of each branch, with its note.
struct Disks {
    source: SimDisk,
    branches: BTreeMap<&'static str, (SimDisk, Note)>,
    tables: BTreeMap<&'static str, Arc<Mutex<Rows>>>,
}

impl Disks {
    fn new(kind: DiskKind, seed: u64) -> Self {
        let latency = (Duration::from_micros(5), Duration::from_micros(200));
        let disk =
            |seed| SimDisk::new(SimSettings { kind, mode: Mode::Threaded, seed, latency, ..SimSettings::default() });
        let branches = (1..).zip(NAMES).map(|(at, name)| (name, (disk(seed * 10 + at), Arc::default())));
        let tables = NAMES.map(|name| (name, Arc::default()));
        Self { source: disk(seed * 10), branches: branches.collect(), tables: tables.into() }
    }

    fn open(&self, durability: Durability, moody: bool, dead: &Arc<AtomicBool>) -> FanOutQueue<Numbered> {
        self.open_with(settings(Path::new("/simulated"), durability), moody, dead)
    }

    fn open_with(&self, builder: Builder, moody: bool, dead: &Arc<AtomicBool>) -> FanOutQueue<Numbered> {
        let sinks = NAMES.iter().fold(fan_out(), |sinks, name| {
            let (rows, dead) = (Arc::clone(&self.tables[name]), Arc::clone(dead));
            sinks.with(*name, Remote { rows, dead, refuses: moody && *name == "moody" })
        });
        let connect = |disk: &SimDisk| disk.connect().expect("the life before has ended");
        let branch = |name: &str| {
            let (disk, note) = &self.branches[name];
            BranchDisk { disk: connect(disk), note: Arc::clone(note) }
        };
        builder.open_fan_out_on(connect(&self.source), branch, sinks).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The power goes. The sinks are elsewhere: what they took before, they have.
    fn cut(&self, dead: &AtomicBool) {
        dead.store(true, Ordering::SeqCst);
        self.tables.values().for_each(|rows| drop(rows.lock().unwrap()));
        self.branches.values().for_each(|(disk, _)| disk.crash());
        self.source.crash();
    }
}

#[test]
fn over_power_cuts_each_sink_gets_each_entry_once_and_all_that_was_durable() {
    let rounds = number_of("RINGWAL_FAN_OUT_ROUNDS", 18);
    let first = number_of("RINGWAL_FAN_OUT_SEED", 1);
    for seed in first..first + rounds.div_ceil(3) {
        let mut prng = Prng::new(seed);
        let kind = [DiskKind::Flush, DiskKind::Fua][usize::try_from(seed % 2).unwrap()];
        let durability = DURABILITIES[usize::try_from(seed % 3).unwrap()];
        let disks = Disks::new(kind, seed);
        let mut acknowledged = BTreeMap::new();
        for life in 0..3_u32 {
            let dead = Arc::new(AtomicBool::new(false));
            let queue = disks.open(durability, prng.below(3) == 0, &dead);
            let after = Duration::from_micros(prng.below(30_000));
            let waits_every = 1 + u32::try_from(prng.below(20)).unwrap();
            let durable = std::thread::scope(|scope| {
                let pusher = scope.spawn(|| {
                    let (producer, mut durable) = (queue.producer(), 0);
                    for number in 0.. {
                        let Ok(receipt) = producer.push_timeout(Numbered::new(life, number, 200), SHORT) else { break };
                        if number % waits_every == 0 {
                            match producer.durable(receipt).wait_timeout(SHORT) {
                                // With `Spill` it may also mean that every branch has it, or a cut has come between.
                                Ok(()) if !dead.load(Ordering::SeqCst) => durable = number + 1,
                                Ok(()) | Err(LogError::Failed(_) | LogError::Closed | LogError::TimedOut) => break,
                                Err(error) => panic!("{error}: {:?}", queue.health()),
                            }
                        }
                    }
                    durable
                });
                std::thread::sleep(after);
                disks.cut(&dead);
                pusher.join().unwrap()
            });
            acknowledged.insert(life, durable);
            drop(queue);
        }
        let story = format!("{kind:?} {durability:?} seed {seed}");
        let queue = disks.open(durability, false, &Arc::default());
        queue.drain(LONG).unwrap_or_else(|error| panic!("{story}: {error} {:?}", queue.health()));
        queue.branches().for_each(|branch| assert_accounted(&branch.metrics()));
        assert_accounted(&queue.metrics());
        assert!(queue.shutdown(LONG).is_complete(), "{story}");
        let all: HashSet<usize> = disks.tables.values().map(|rows| rows.lock().unwrap().len()).collect();
        for (name, rows) in &disks.tables {
            check(&rows.lock().unwrap(), &acknowledged, &format!("{name}, {story}, lengths {all:?}"));
        }
    }
}

#[test]
fn where_the_source_has_gaps_the_count_begins_anew_and_is_right_over_power_cuts() {
    const FITS: u32 = 150;
    let rounds = number_of("RINGWAL_FAN_OUT_ROUNDS", 18);
    let first = number_of("RINGWAL_FAN_OUT_SEED", 1);
    for seed in first..first + rounds.div_ceil(3) {
        let mut prng = Prng::new(seed);
        let disks = Disks::new([DiskKind::Flush, DiskKind::Fua][usize::try_from(seed % 2).unwrap()], seed);
        let durability = DURABILITIES[usize::try_from(prng.below(2)).unwrap()];
        let builder = || settings(Path::new("/simulated"), durability);
        // Every few entries one that is too long for the branches, and so never copied.
        let away = sink_fn(|_: Batch<Numbered>| async { Err::<(), _>(common::no("away")) });
        let plain = builder().open_on(disks.source.connect().unwrap(), away).unwrap();
        // A sink that is at work when the time is over would make the shutdown late.
        plain.pause();
        for number in 0..FITS {
            plain.producer().push_timeout(Numbered::new(0, number, 300), LONG).unwrap();
            if prng.below(3) == 0 {
                plain.producer().push_timeout(Numbered::new(9, number, 1500), LONG).unwrap();
            }
        }
        plain.flush().unwrap();
        plain.shutdown(Duration::ZERO).unwrap();
        for _ in 0..6 {
            let dead = Arc::new(AtomicBool::new(false));
            let queue = disks.open_with(builder().entry_len_max(1000), prng.below(3) == 0, &dead);
            std::thread::sleep(Duration::from_micros(prng.below(12_000)));
            disks.cut(&dead);
            drop(queue);
        }
        let queue = disks.open_with(builder().entry_len_max(1000), false, &Arc::default());
        queue.drain(LONG).unwrap();
        assert!(queue.shutdown(LONG).source.is_ok());
        for (name, rows) in &disks.tables {
            check(&rows.lock().unwrap(), &[(0, FITS)].into(), &format!("{name}, {durability:?}, seed {seed}"));
        }
    }
}

#[test]
fn a_branch_whose_log_has_failed_gives_nothing_up_and_gets_all_of_it_after_reopening() {
    let disks = Disks::new(DiskKind::Fua, 77);
    let queue = disks.open(Durability::Immediate, false, &Arc::default());
    let push = |queue: &FanOutQueue<Numbered>, numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| _ = queue.producer().push_timeout(Numbered::new(0, number, 200), LONG).unwrap());
    };
    push(&queue, 0..50);
    queue.drain(LONG).unwrap();
    disks.branches["two"].0.inject(Fault::error(OpKind::Write, libc::EIO).forever());
    push(&queue, 50..100);
    queue.flush().unwrap();
    let deadline = Instant::now() + LONG;
    while queue.metrics().delivery_failures < 3 {
        assert!(Instant::now() < deadline, "{:#?}", queue.metrics());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(queue.branch("two").unwrap().health(), Health::Failed(why)
        if why.iter().any(|why| matches!(why, Concern::LogFailed(_)))));
    assert!(queue.health().reasons().iter().any(|why| matches!(why, Concern::SinkFailing(_))), "{:?}", queue.health());
    assert_eq!((queue.metrics().parked, queue.metrics().delivered), (0, 50));
    // The others had their copies before it was known.
    queue.branch("one").unwrap().drain(Duration::from_millis(1)).unwrap_err();
    let closed = queue.shutdown(Duration::ZERO);
    assert!(matches!(closed.of("two").unwrap(), Err(ShutdownError::Storage { lost: 0, .. })), "{closed:?}");
    let (Ok(source) | Err(ShutdownError::Deadline(source))) = closed.source else { panic!("{:?}", closed.source) };
    assert_eq!((source.left_in_log, source.lost), (50, 0));

    disks.branches["two"].0.heal();
    let queue = disks.open(Durability::Immediate, false, &Arc::default());
    push(&queue, 100..110);
    queue.drain(LONG).unwrap();
    assert!(queue.shutdown(LONG).is_complete());
    for name in ["one", "moody"] {
        check(&disks.tables[name].lock().unwrap(), &[(0, 110)].into(), name);
    }
    // From a log that has failed entries are delivered from memory, and again from the log.
    let rows = disks.tables["two"].lock().unwrap();
    let numbers: HashSet<u32> = rows.iter().map(|(_, _, number)| *number).collect();
    assert_eq!(numbers, (0..110).collect());
}
