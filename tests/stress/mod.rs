//! Everything at random, on a real queue in a real directory: used by `tests/stress.rs` for seconds, and by
//! `examples/stress.rs` for as long as it is told.
//!
//! ```text
//!   store: settings that stay ─► session ─► session ─► … ─► last session: drained, all is accounted for
//!   session: open ─► producers come and go, somebody meddles ─► shutdown, drop, or SIGKILL (in a child process)
//! ```
//! | file         | what                                                              |
//! |--------------|--------------------------------------------------------------------|
//! | `ledger.rs`  | what must hold of entries: loss, order, LSNs, repetition           |
//! | `session.rs` | settings, producers, sink and meddler, by chance                   |
//! | `mod.rs`     | the sessions; what the process may hold; the child that is killed  |
//!
//! The seed gives the settings and the plan; threads and kills fall as they fall, so a seed finds the same
//! neighbourhood again and not the same run.
#![allow(dead_code, unreachable_pub, reason = "a test and an example use it")]

mod ledger;
mod session;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwal::sim::Prng;
use ringwal::{Durability, Queue, ShutdownError};

use crate::common::{LONG, Numbered, assert_accounted};
use ledger::{EVENT_LEN, Event, Ledger};
use session::{Moody, ON_PURPOSE, Producers, Report, Store, durability, meddle, settings};

/// What is asked for.
pub struct Options {
    pub seed: u64,
    pub lasts: Duration,
    /// Where the stores lie; removed at the end, kept after a failure.
    pub dir: Option<PathBuf>,
    /// The longest session.
    pub session_max: Duration,
    /// How to start this program as a child that runs [`child`].
    pub child: fn(&mut Command),
    /// How often to tell how it goes.
    pub tell_every: Duration,
}

const CHILD: &str = "RINGWAL_STRESS_CHILD";
/// Sessions of one store.
const SESSIONS: std::ops::RangeInclusive<u64> = 4..=24;
/// What the process may have resident beyond what it had after its first store.
const RESIDENT_MORE: u64 = 64 << 20;
/// A session that takes so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(240);

/// What came of it.
#[derive(Default, Clone, Debug)]
pub struct Summary {
    pub stores: u64,
    pub shut_down: u64,
    pub cut_off: u64,
    pub dropped: u64,
    pub killed: u64,
    pub in_memory: u64,
    pub pushed: u64,
    pub delivered: u64,
    pub repeated: u64,
    pub parked: u64,
    pub lost_at_the_end_of_a_full_log: u64,
    pub disk_most: u64,
    pub disk_may: u64,
    pub resident_most: u64,
    pub threads: usize,
    pub descriptors: usize,
}

/// Runs stores until the time is over; panics at the first thing that does not hold.
pub fn run(options: &Options) -> Summary {
    quiet_on_purpose();
    let root = options.dir.clone().unwrap_or_else(|| tempfile::tempdir().unwrap().keep());
    std::fs::create_dir_all(&root).unwrap();
    let beat = watchdog(options.seed);
    let mut stress = Stress {
        options,
        root: root.clone(),
        chance: Prng::new(options.seed),
        begun: Instant::now(),
        told: Instant::now(),
        summary: Summary::default(),
        next_producer: 0,
        at_rest: None,
        resident_may: None,
        beat,
    };
    while stress.begun.elapsed() < options.lasts {
        stress.store();
    }
    stress.beat.store(u64::MAX, Relaxed);
    std::fs::remove_dir_all(&root).unwrap();
    stress.summary
}

struct Stress<'a> {
    options: &'a Options,
    root: PathBuf,
    chance: Prng,
    begun: Instant,
    told: Instant,
    summary: Summary,
    next_producer: u32,
    /// Threads and descriptors while no queue is open.
    at_rest: Option<(usize, usize)>,
    resident_may: Option<u64>,
    beat: Arc<AtomicU64>,
}

impl Stress<'_> {
    /// A directory from its beginning to its end.
    fn store(&mut self) {
        self.summary.stores += 1;
        let dir = self.root.join(format!("store-{}", self.summary.stores));
        let store = Store::draw(&mut self.chance);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        for _ in 0..self.chance.within(SESSIONS) {
            if self.begun.elapsed() >= self.options.lasts {
                break;
            }
            match self.chance.below(10) {
                0..3 => self.killed(&dir, store, &ledger),
                3 => self.in_memory(store),
                _ => self.session(&dir, store, &ledger, None, false),
            }
            self.after_session(&dir, store, &ledger);
        }
        self.session(&dir, store, &ledger, None, true);
        ledger.lock().unwrap().check_end();
        self.after_session(&dir, store, &ledger);
        let ledger = ledger.lock().unwrap();
        self.summary.delivered += ledger.delivered;
        self.summary.repeated += ledger.repeated;
        self.summary.parked += ledger.parked;
        drop(ledger);
        std::fs::remove_dir_all(&dir).unwrap();
        let resident = resident(std::process::id());
        self.resident_may.get_or_insert(resident + RESIDENT_MORE);
    }

    /// A session in this process. The last one of a store takes what is left, and leaves nothing.
    fn session(
        &mut self,
        dir: &Path,
        store: Store,
        ledger: &Arc<Mutex<Ledger>>,
        as_durable: Option<Durability>,
        is_last: bool,
    ) {
        let report: Report = {
            let ledger = Arc::clone(ledger);
            Arc::new(move |events| {
                let mut ledger = ledger.lock().unwrap();
                events.iter().for_each(|event| ledger.take(*event));
            })
        };
        let durability = as_durable.unwrap_or_else(|| durability(&mut self.chance));
        let calm = Arc::new(AtomicBool::new(is_last));
        let chance = Mutex::new(self.chance.split());
        let sink = Moody { report: Arc::clone(&report), chance, calm: Arc::clone(&calm) };
        let builder = settings(dir, store, durability, &mut self.chance);
        let queue = open(builder, sink, &report);
        let lasts = Duration::from_millis(self.chance.within(1..=self.options.session_max.as_millis() as u64));
        let producers = self.producers(report);
        let until = Instant::now() + if is_last { lasts / 8 } else { lasts };
        let chance = &mut self.chance;
        let (summary, resident_may) = (&mut self.summary, self.resident_may);
        let how = chance.below(10);
        let mut outcome = None;
        std::thread::scope(|scope| {
            let spawn = |queue: &Queue<Numbered>, chance: &mut Prng| {
                let (producers, chance, producer) = (&producers, chance.split(), queue.producer());
                scope.spawn(move || producers.live(&producer, chance));
            };
            for _ in 0..chance.within(1..=6) {
                spawn(&queue, chance);
            }
            let mut more = chance.split();
            meddle(&queue, until, chance, &calm, || {
                if more.below(8) == 0 && producers.living.load(Relaxed) < 12 {
                    spawn(&queue, &mut more);
                }
                look(dir, store, summary, resident_may);
            });
            if is_last {
                // The producers first, so that all they push is counted.
                producers.stop.store(true, Relaxed);
                let deadline = Instant::now() + LONG * 2;
                loop {
                    // An entry that waits for room in the park holds up all behind it.
                    queue.parked().discard(|_| true).unwrap();
                    match queue.drain(LONG / 10) {
                        Ok(()) if producers.living.load(Relaxed) == 0 => break,
                        Ok(()) | Err(ringwal::LogError::TimedOut) => {}
                        Err(error) => panic!("{error}: {:?}", queue.health()),
                    }
                    assert!(Instant::now() < deadline, "not drained: {:?} {:#?}", queue.health(), queue.metrics());
                    std::thread::sleep(Duration::from_millis(1));
                }
                queue.parked().discard(|_| true).unwrap();
                assert_accounted(&queue.metrics());
                outcome = Some(queue.shutdown(LONG));
            } else if how < 7 {
                // Under the hands of the producers.
                outcome = Some(queue.shutdown(Duration::from_millis(chance.below(400))));
            } else {
                drop(queue);
            }
            producers.stop.store(true, Relaxed);
        });
        summary.pushed += producers.pushed.load(Relaxed);
        let mut ledger = ledger.lock().unwrap();
        match outcome {
            Some(Ok(end)) => {
                summary.shut_down += 1;
                summary.lost_at_the_end_of_a_full_log += end.lost;
                if end.lost == 0 && durability != Durability::Memory {
                    ledger.all_is_kept();
                }
                if is_last && (end.left_in_log, end.lost, end.parked) != (0, 0, 0) {
                    ledger.breaks(format!("drained, and yet {end:?}"));
                }
            }
            Some(Err(ShutdownError::Deadline(_))) => {
                summary.cut_off += 1;
                ledger.acknowledgements_may_be_lost();
            }
            Some(Err(error)) => ledger.breaks(error.to_string()),
            None => {
                summary.dropped += 1;
                ledger.acknowledgements_may_be_lost();
            }
        }
        ledger.close_rows();
    }

    /// A session whose entries die with it, in no directory.
    fn in_memory(&mut self, store: Store) {
        self.summary.in_memory += 1;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        self.session(Path::new("/nowhere"), store, &ledger, Some(Durability::Memory), false);
        if let Some(broken) = &ledger.lock().unwrap().broken {
            self.fail(Path::new("/nowhere"), store, broken);
        }
    }

    /// A session in a child process that is killed, in its opening or later.
    fn killed(&mut self, dir: &Path, store: Store, ledger: &Arc<Mutex<Ledger>>) {
        self.summary.killed += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        (self.options.child)(&mut command);
        let (seed, first) = (self.chance.next_u64(), self.next_producer);
        self.next_producer += 100_000;
        let Store { segment_len, log_bytes_max, park_bytes_max } = store;
        let plan = format!("{seed} {first} {segment_len} {log_bytes_max} {park_bytes_max} {}", dir.display());
        // Its events come through what it takes for standard input: to the others a test program writes, too.
        let (mut out, events) = std::io::pipe().unwrap();
        let mut child = command.env(CHILD, plan).stdin(events).stdout(Stdio::null()).spawn().unwrap();
        drop(command);
        let steps = ledger.lock().unwrap().steps();
        let reader = {
            let ledger = Arc::clone(ledger);
            std::thread::spawn(move || {
                let mut bytes = vec![0; EVENT_LEN * 4096];
                let mut filled = 0;
                loop {
                    let read = out.read(&mut bytes[filled..]).unwrap();
                    if read == 0 {
                        return;
                    }
                    filled += read;
                    let whole = filled / EVENT_LEN * EVENT_LEN;
                    let mut ledger = ledger.lock().unwrap();
                    bytes[..whole].chunks(EVENT_LEN).for_each(|event| ledger.take(Event::decode(event)));
                    bytes.copy_within(whole..filled, 0);
                    filled -= whole;
                }
            })
        };
        let until =
            Instant::now() + Duration::from_millis(self.chance.within(1..=self.options.session_max.as_millis() as u64));
        while Instant::now() < until {
            look(dir, store, &mut self.summary, None);
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        let mut ledger = ledger.lock().unwrap();
        if ledger.steps() == steps {
            ledger.step_may_be_unseen();
        }
        if let Some(status) = ended {
            ledger.breaks(format!("the child ended by itself: {status}"));
        }
        ledger.acknowledgements_may_be_lost();
        ledger.close_rows();
    }

    fn producers(&mut self, report: Report) -> Producers {
        let first = self.next_producer;
        self.next_producer += 100_000;
        Producers::new(first, report)
    }

    /// Between two sessions: nothing of the last one is left.
    fn after_session(&mut self, dir: &Path, store: Store, ledger: &Arc<Mutex<Ledger>>) {
        self.beat.fetch_add(1, Relaxed);
        if let Some(broken) = &ledger.lock().unwrap().broken {
            self.fail(dir, store, broken);
        }
        let held = || (threads(), std::fs::read_dir("/proc/self/fd").unwrap().count());
        let at_rest = *self.at_rest.get_or_insert_with(|| {
            // What the first session left behind is gone in a moment, or stays and is counted as rest. A thread that has
            // yet to end may wait for its turn.
            let (mut rest, mut since) = (held(), Instant::now());
            while since.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(20));
                let now = held();
                if now != rest {
                    (rest, since) = (now, Instant::now());
                }
            }
            rest
        });
        let deadline = Instant::now() + LONG;
        while held() != at_rest {
            if Instant::now() > deadline {
                self.fail(dir, store, &format!("threads and descriptors: {:?}, not {at_rest:?}", held()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (self.summary.threads, self.summary.descriptors) = at_rest;
        if self.told.elapsed() >= self.options.tell_every {
            self.told = Instant::now();
            let (delivered, parked) = {
                let ledger = ledger.lock().unwrap();
                (self.summary.delivered + ledger.delivered, self.summary.parked + ledger.parked)
            };
            let s = &self.summary;
            eprintln!(
                "{:6} s: {} stores; sessions: {} shut down, {} cut off, {} dropped, {} killed, {} in memory; {} pushed here, {delivered} \
                 delivered, {parked} parked; at most {} MiB resident",
                self.begun.elapsed().as_secs(),
                s.stores,
                s.shut_down,
                s.cut_off,
                s.dropped,
                s.killed,
                s.in_memory,
                s.pushed,
                s.resident_most >> 20,
            );
        }
    }

    fn fail(&self, dir: &Path, store: Store, what: &str) -> ! {
        panic!("seed {}: {what}\n{store:?}, kept in {}\n{:#?}", self.options.seed, dir.display(), self.summary);
    }
}

fn open(builder: ringwal::Builder, sink: Moody, report: &Report) -> Queue<Numbered> {
    let queue = builder.clone().open(sink).unwrap_or_else(|error| panic!("{error}: {builder:?}"));
    let recovery = queue.recovery();
    assert!(recovery.lost.is_empty(), "{recovery:?}");
    report(&[Event::Opened { end: recovery.end.number(), next: recovery.next.number() }]);
    queue
}

/// Looks at what the process and the directory hold.
fn look(dir: &Path, store: Store, summary: &mut Summary, resident_may: Option<u64>) {
    let disk = disk_use(dir);
    assert!(disk <= store.disk_max(), "{disk} bytes on disk: {store:?}");
    if disk * summary.disk_may.max(1) >= summary.disk_most * store.disk_max() {
        (summary.disk_most, summary.disk_may) = (disk, store.disk_max());
    }
    let resident = resident(std::process::id());
    summary.resident_most = summary.resident_most.max(resident);
    if let Some(may) = resident_may {
        assert!(resident <= may, "{resident} bytes resident, {may} may be");
    }
}

/// The process's threads, but for those that the kernel keeps for io_uring as it likes.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| !name.starts_with("iou-")).count()
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// Bytes of all files; what is removed meanwhile counts nothing.
fn disk_use(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let len = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_use(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(len).sum()
}

/// The child's part: a session without an end. True: this process was one, and is to end.
pub fn child() -> bool {
    let Ok(plan) = std::env::var(CHILD) else { return false };
    quiet_on_purpose();
    let mut words = plan.splitn(6, ' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (seed, first) = (number(), number() as u32);
    let store = Store { segment_len: number(), log_bytes_max: number(), park_bytes_max: number() };
    let dir = PathBuf::from(words.next().unwrap());
    let mut chance = Prng::new(seed);
    let out = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
    let out = Mutex::new(std::fs::File::from(out));
    let report: Report = Arc::new(move |events| {
        let mut bytes = Vec::with_capacity(events.len() * EVENT_LEN);
        events.iter().for_each(|event| event.encode(&mut bytes));
        let mut out = out.lock().unwrap();
        // Nobody reads any more: the parent is gone.
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            std::process::exit(1);
        }
    });
    let calm = Arc::<AtomicBool>::default();
    let sink = Moody { report: Arc::clone(&report), chance: Mutex::new(chance.split()), calm: Arc::clone(&calm) };
    let durability = durability(&mut chance);
    let queue = open(settings(&dir, store, durability, &mut chance), sink, &report);
    let producers = Producers::new(first, report);
    let until = Instant::now() + HANGS_AFTER;
    std::thread::scope(|scope| {
        let mut more = chance.split();
        let mut due = Instant::now();
        meddle(&queue, until, &mut chance, &calm, || {
            if Instant::now() >= due && producers.living.load(Relaxed) < 8 {
                due = Instant::now() + Duration::from_millis(more.below(50));
                let (producers, chance, producer) = (&producers, more.split(), queue.producer());
                scope.spawn(move || producers.live(&producer, chance));
            }
        });
        std::process::exit(2);
    })
}

/// Keeps the message of panics that are part of the plan off the screen.
fn quiet_on_purpose() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&ON_PURPOSE) {
            before(info);
        }
    }));
}

/// Ends the process when nothing has gone on for too long.
fn watchdog(seed: u64) -> Arc<AtomicU64> {
    let beat = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&beat);
    std::thread::spawn(move || {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            match watched.load(Relaxed) {
                u64::MAX => return,
                now if now != last => (last, since) = (now, Instant::now()),
                _ if since.elapsed() > HANGS_AFTER => {
                    eprintln!("seed {seed}: a session hangs after {last} others");
                    std::process::abort();
                }
                _ => {}
            }
        }
    });
    beat
}
