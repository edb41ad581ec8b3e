//! A process under load is killed again and again on one directory: in the middle of pushes, while it opens,
//! while it reuses segments, while it closes. The parent knows what was acknowledged, and what the sink saw.
//!
//! | what is checked, over all rounds of a directory                                   | catalogue |
//! |------------------------------------------------------------------------------------|-----------|
//! | what was acknowledged as durable comes to the sink, with the same bytes            | I1        |
//! | LSNs rise within a run; the entries of a thread come without a gap, in order       | I2        |
//! | no entry that was not pushed, no number for two entries, no entry with two numbers | I3        |
//! | nothing at or below a cursor that was durable comes again                          | I4        |
//!
//! `RINGWAL_KILL_ROUNDS` is the number of kills, all in all; `RINGWAL_KILL_SEED` fixes the choices.

#[path = "common/child.rs"]
mod child;
mod common;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use child::{Chance, Child, command, say};
use common::{LONG, Numbered, assert_accounted, drain, small};
use ringwal::{Batch, Builder, Durability, Io, Lsn, Outcome, Producer, Sink};

const CHILD: &str = "RINGWAL_KILL_CHILD";
const ROUNDS: u64 = 400;
const LOGGED: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];
const THREADS: u32 = 3;
const SHM: &str = "/dev/shm";

/// Every durability, every driver, a disk and memory.
fn cases() -> Vec<(Durability, Io, bool)> {
    let both = [
        (Io::Uring, false),
        (Io::Threads, true),
        (Io::Threads, false),
        (Io::Uring, true),
        #[cfg(feature = "tokio-uring")]
        (Io::TokioUring, false),
        #[cfg(feature = "tokio-uring")]
        (Io::TokioUring, true),
    ];
    let all = both.into_iter().flat_map(|(io, in_memory)| LOGGED.map(|durability| (durability, io, in_memory)));
    all.filter(|case| !case.2 || Path::new(SHM).is_dir()).collect()
}

/// What a child does, and when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Killed {
    UnderLoad,
    Opening,
    Recycling,
    Closing,
}

const ALL: [Killed; 4] = [Killed::UnderLoad, Killed::Opening, Killed::Recycling, Killed::Closing];

fn settings(dir: &Path, durability: Durability, io: Io, killed: Killed) -> Builder {
    let builder = small(dir, durability).rings(2).io(io).lock_wait(LONG);
    // Three segments are the least there may be: each is used again at once.
    if killed == Killed::Recycling { builder.log_bytes_max(3 * (512 << 10)) } else { builder }
}

fn entry(thread: u32, n: u32) -> Numbered {
    let len = (n ^ thread).wrapping_mul(2_654_435_761) >> 24;
    Numbered::new(thread, n, if n % 16 == 3 { 1900 } else { len as usize })
}

// What a sink has seen: rows of 24 bytes in a file, which outlives the process.

struct Row {
    lsn: u64,
    thread: u32,
    number: u32,
    good: bool,
}

/// In place of a thread: a run begins, of which the number follows.
const BEGINS: u32 = u32::MAX;
/// Numbers of a run are below this one, from its own number times this one on.
const RUN_LEN: u32 = 1_000_000;

struct Journal {
    file: std::fs::File,
    /// Number of the run that writes it.
    run: u32,
}

impl Journal {
    fn open(path: &Path, run: u32) -> Self {
        Self { file: std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap(), run }
    }

    fn write(&self, rows: impl Iterator<Item = Row>) {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.extend_from_slice(&row.lsn.to_le_bytes());
            bytes.extend_from_slice(&row.thread.to_le_bytes());
            bytes.extend_from_slice(&row.number.to_le_bytes());
            bytes.extend_from_slice(&u64::from(row.good).to_le_bytes());
        }
        (&self.file).write_all(&bytes).unwrap();
    }

    fn read(path: &Path) -> Vec<Row> {
        let bytes = std::fs::read(path).unwrap_or_default();
        assert!(bytes.len().is_multiple_of(24), "half a row");
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let row = |r: &[u8]| Row {
            lsn: u64::from_le_bytes(r[..8].try_into().unwrap()),
            thread: word(&r[8..12]),
            number: word(&r[12..16]),
            good: r[16] == 1,
        };
        bytes.chunks_exact(24).map(row).collect()
    }
}

impl Sink<Numbered> for Journal {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        self.write(batch.iter().map(|d| {
            let Numbered { producer, number, .. } = d.value;
            Row { lsn: d.lsn.number(), thread: producer, number, good: d.value == entry(producer, number) }
        }));
        Outcome::ack()
    }

    /// Asked once the directory is locked and before anything is delivered.
    async fn committed(&self) -> Option<Lsn> {
        // A kill may have cut the last write of the run before, at any page of it. Its batch was not acknowledged.
        let len = self.file.metadata().unwrap().len();
        self.file.set_len(len / 24 * 24).unwrap();
        self.write(std::iter::once(Row { lsn: 0, thread: BEGINS, number: self.run, good: true }));
        None
    }
}

// The child.

/// Not a test: pushes, waits, tells what is durable, until it is killed.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = what.split('|').collect();
    let [dir, durability, io, killed, consume, start, load_us] = parts[..] else { panic!("{what}") };
    let durability = LOGGED.into_iter().find(|d| format!("{d:?}") == durability).unwrap();
    let io = common::driver_named(io);
    let killed = ALL.into_iter().find(|k| format!("{k:?}") == killed).unwrap();
    let (dir, start) = (Path::new(dir), start.parse::<u32>().unwrap());
    let journal = Journal::open(&dir.with_file_name("journal"), start / RUN_LEN);
    say("opening");
    let queue = settings(dir, durability, io, killed).open(journal).unwrap();
    assert!(queue.recovery().lost.is_empty());
    if consume == "false" {
        queue.pause();
    }
    say("open");
    for thread in 0..THREADS {
        let producer = queue.producer();
        std::thread::spawn(move || push_and_wait(&producer, thread, start));
    }
    let begun = Instant::now();
    let load = Duration::from_micros(load_us.parse().unwrap());
    let mut last = Lsn::ZERO;
    // Until the kill, however long that takes on this machine.
    while begun.elapsed() < 2 * LONG && (killed != Killed::Closing || begun.elapsed() < load) {
        let cursor = queue.metrics().cursor_lsn;
        if cursor > last {
            say(&format!("cursor {}", cursor.number()));
            last = cursor;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(killed, Killed::Closing, "nobody came to kill it");
    say("closing");
    queue.shutdown(LONG).unwrap();
}

/// What a thread of the child does, until it is refused.
fn push_and_wait(producer: &Producer<Numbered>, thread: u32, start: u32) {
    let mut pinned = (thread == 2).then(|| producer.pin());
    for n in start.. {
        let entry = entry(thread, n);
        let pushed = match &mut pinned {
            Some(pinned) => pinned.push(entry),
            None => producer.push(entry),
        };
        let Ok(receipt) = pushed else { return };
        if (n - start) % (7 + 20 * thread) == 6 {
            match producer.durable(receipt).wait() {
                Ok(()) => say(&format!("ack {thread} {n}")),
                Err(_) => return,
            }
        }
    }
}

// The parent.

/// A directory over its rounds, with all that is known of it.
struct Chain {
    root: tempfile::TempDir,
    durability: Durability,
    io: Io,
    in_memory: bool,
    start: u32,
    /// Of each thread, the numbers that were acknowledged.
    acked: Vec<(u32, u32)>,
    /// The highest cursor known to be durable when each run had ended.
    cursors: Vec<u64>,
    /// A child that was killed and not waited for.
    dying: Option<(Child, Vec<String>)>,
    open_us: u64,
}

impl Chain {
    fn new((durability, io, in_memory): (Durability, Io, bool)) -> Self {
        let root = if in_memory { tempfile::tempdir_in(SHM) } else { tempfile::tempdir() }.unwrap();
        let (acked, cursors) = (Vec::new(), Vec::new());
        Self { root, durability, io, in_memory, start: 0, acked, cursors, dying: None, open_us: 3000 }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("queue")
    }

    fn name(&self) -> String {
        format!("{:?} {:?} in memory: {}", self.durability, self.io, self.in_memory)
    }

    /// Starts a child and kills it; `linger` says whether to wait for its death before the next one.
    fn round(&mut self, killed: Killed, consume: bool, chance: &mut Chance) {
        let Self { durability, io, start, .. } = self;
        let load_us = 100 + chance.below(20_000);
        let dir = self.root.path().join("queue");
        let what = format!("{}|{durability:?}|{io:?}|{killed:?}|{consume}|{start}|{load_us}", dir.display());
        self.start += RUN_LEN;
        let mut child = Child::start(command("child", CHILD, &what));
        // What this one is told before the one before it is dead: a lock that the kernel still holds.
        self.bury();
        let mut lines = Vec::new();
        child.wait_for("opening", |_| ());
        let begun = Instant::now();
        let wait_us = match killed {
            Killed::Opening => chance.below(self.open_us + self.open_us / 4),
            Killed::UnderLoad | Killed::Recycling | Killed::Closing => {
                child.wait_for("open", |line| lines.push(line));
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
                // Where an opening takes longer, a kill within it must have a chance to come late.
                self.open_us = (self.open_us + took) / 2;
                if killed == Killed::Closing {
                    child.wait_for("closing", |line| lines.push(line));
                    chance.below(6000)
                } else if chance.below(4) == 0 {
                    chance.below(3000)
                } else {
                    chance.below(60_000)
                }
            }
        };
        std::thread::sleep(Duration::from_micros(wait_us));
        // One that closes may have ended by itself; it is not reaped, so that its number is still its own.
        child.signal(libc::SIGKILL);
        self.dying = Some((child, lines));
        if chance.below(2) == 0 {
            self.bury();
        }
    }

    /// Waits for the death of the last child, and learns what it said.
    fn bury(&mut self) {
        let Some((mut child, mut lines)) = self.dying.take() else { return };
        lines.extend(child.rest());
        let (status, errors) = child.end();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL);
        assert!(killed || status.success(), "{}: a child failed: {errors}", self.name());
        if keeps() {
            std::fs::write(self.root.path().join(format!("said-{}", self.cursors.len())), lines.join("\n")).unwrap();
        }
        let mut cursor = self.cursors.last().copied().unwrap_or(0);
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["ack", thread, number] => self.acked.push((thread.parse().unwrap(), number.parse().unwrap())),
                ["cursor", lsn] => cursor = cursor.max(lsn.parse().unwrap()),
                _ => {}
            }
        }
        self.cursors.push(cursor);
    }

    /// Opens the directory itself, takes all that is left, and looks at all that the sinks have seen.
    fn finish(mut self) -> usize {
        let case = self.name();
        self.bury();
        if keeps() {
            common::copy_dir(&self.dir(), &self.root.path().join("before"));
        }
        let open = || {
            let journal = Journal::open(&self.root.path().join("journal"), self.start / RUN_LEN);
            settings(&self.dir(), self.durability, self.io, Killed::UnderLoad).open(journal).unwrap()
        };
        let queue = open();
        assert!(queue.recovery().lost.is_empty(), "{case}: {:?}", queue.recovery());
        drain(&queue);
        assert_accounted(&queue.metrics());
        queue.shutdown(LONG).unwrap();
        let queue = open();
        assert_eq!((queue.recovery().clean, queue.recovery().recovered), (true, 0), "{case}");
        queue.shutdown(LONG).unwrap();

        let rows = Journal::read(&self.root.path().join("journal"));
        let (mut of_lsn, mut of_entry) = (HashMap::new(), HashMap::new());
        let (mut floor, mut last) = (0, 0);
        for row in &rows {
            if row.thread == BEGINS {
                // The cursor that was known to be durable before it began.
                floor = self.cursors[..row.number as usize].last().copied().unwrap_or(0);
                last = 0;
                continue;
            }
            let Row { lsn, thread, number, good } = *row;
            assert!(good, "{case}: entry {number} of thread {thread} came with other bytes, as LSN {lsn}");
            assert!(thread < THREADS && number < self.start, "{case}: nobody pushed {number} of {thread}");
            assert!(lsn > last, "{case}: LSN {lsn} came after {last}");
            assert!(lsn > floor, "{case}: LSN {lsn} came again, although the cursor was durable at {floor}");
            last = lsn;
            let known = *of_lsn.entry(lsn).or_insert((thread, number));
            assert_eq!(known, (thread, number), "{case}: LSN {lsn} stands for two entries");
            let known = *of_entry.entry((thread, number)).or_insert(lsn);
            assert_eq!(known, lsn, "{case}: entry {number} of thread {thread} has two LSNs");
        }
        let missing: Vec<_> = self.acked.iter().filter(|entry| !of_entry.contains_key(*entry)).collect();
        assert!(
            missing.is_empty(),
            "{case}: acknowledged and lost: {} of {}: {:?}…",
            missing.len(),
            self.acked.len(),
            missing[0]
        );
        self.assert_no_gaps(&of_entry);
        self.acked.len()
    }

    /// What came of a thread in a round is a run of numbers from its first one on.
    fn assert_no_gaps(&self, of_entry: &HashMap<(u32, u32), u64>) {
        let mut by_run: HashMap<(u32, u32), Vec<(u32, u64)>> = HashMap::new();
        for ((thread, number), lsn) in of_entry {
            by_run.entry((*thread, number / RUN_LEN)).or_default().push((*number, *lsn));
        }
        for ((thread, run), mut entries) in by_run {
            entries.sort_unstable();
            let what = format!("{}: thread {thread} of run {run}", self.name());
            for (at, pair) in entries.iter().zip(run * RUN_LEN..) {
                assert_eq!(at.0, pair, "{what}: a gap");
            }
            assert!(entries.windows(2).all(|pair| pair[0].1 < pair[1].1), "{what}: out of order");
        }
    }
}

/// Whether the directories of a failure are kept, for who looks into it.
fn keeps() -> bool {
    std::env::var_os("RINGWAL_KILL_KEEP").is_some()
}

impl Drop for Chain {
    fn drop(&mut self) {
        if std::thread::panicking() && keeps() {
            self.root.disable_cleanup(true);
            eprintln!("kept: {}", self.root.path().display());
        }
    }
}

/// Kills `share` percent of the rounds asked for, in chains of `len` on one directory.
fn kill(share: u64, len: u64, mut round: impl FnMut(&mut Chain, u64, &mut Chance)) {
    if !Path::new(SHM).is_dir() {
        eprintln!("SKIPPED: there is no {SHM}, so that nothing is killed on tmpfs");
    }
    let mut chance = Chance::from_env("RINGWAL_KILL_SEED");
    let rounds = std::env::var("RINGWAL_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let cases = cases();
    let first = chance.below(cases.len() as u64);
    let chains = (rounds * share).div_ceil(100 * len);
    let mut acked = 0;
    for number in 0..chains {
        let mut chain = Chain::new(cases[usize::try_from(first + number).unwrap() % cases.len()]);
        (0..len).for_each(|i| round(&mut chain, i, &mut chance));
        acked += chain.finish();
    }
    eprintln!("{} kills in {chains} directories, {acked} acknowledgements", chains * len);
    assert!(acked > 0, "nothing was ever acknowledged");
}

#[test]
fn what_was_acknowledged_survives_kills_under_load() {
    kill(40, 5, |chain, _, chance| {
        // A store is used over several rounds without anything being taken, and with.
        let consume = chance.below(2) == 0;
        chain.round(Killed::UnderLoad, consume, chance);
    });
}

#[test]
fn what_was_acknowledged_survives_kills_in_openings_one_after_the_other() {
    kill(25, 8, |chain, i, chance| {
        let killed = if i % 4 == 0 { Killed::UnderLoad } else { Killed::Opening };
        let consume = chance.below(2) == 0;
        chain.round(killed, consume, chance);
    });
}

#[test]
fn what_was_acknowledged_survives_kills_while_segments_are_used_again() {
    kill(20, 5, |chain, _, chance| chain.round(Killed::Recycling, true, chance));
}

#[test]
fn what_was_acknowledged_survives_kills_while_the_queue_closes() {
    kill(15, 6, |chain, _, chance| {
        let consume = chance.below(3) > 0;
        chain.round(Killed::Closing, consume, chance);
    });
}

/// The check itself: it must see what it is there for.
#[test]
fn a_lost_a_doubled_and_an_invented_entry_are_seen() {
    let seen = |spoil: fn(&mut Chain, &mut Vec<Row>)| {
        let mut chain = Chain::new((Durability::Immediate, Io::Threads, false));
        let mut rows: Vec<Row> =
            (0..10).map(|n| Row { lsn: u64::from(n) + 1, thread: 0, number: n, good: true }).collect();
        rows.insert(0, Row { lsn: 0, thread: BEGINS, number: 0, good: true });
        chain.start = RUN_LEN;
        chain.acked = vec![(0, 3), (0, 9)];
        chain.cursors = vec![5];
        spoil(&mut chain, &mut rows);
        Journal::open(&chain.root.path().join("journal"), 0).write(rows.into_iter());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| chain.finish())).is_err()
    };
    assert!(!seen(|_, _| ()), "all was well");
    let spoils: [fn(&mut Chain, &mut Vec<Row>); 7] = [
        |chain, _| chain.acked.push((0, 10)),
        |_, rows| rows[4].good = false,
        |_, rows| rows[4].number = 2_000_000,
        |_, rows| rows[4].lsn = 4 + 1,
        |_, rows| rows.retain(|row| row.number != 5 || row.thread == BEGINS),
        |_, rows| rows.swap(4, 5),
        |chain, rows| {
            chain.cursors.push(5);
            chain.start += RUN_LEN;
            rows.push(Row { lsn: 0, thread: BEGINS, number: 1, good: true });
            rows.push(Row { lsn: 5, thread: 0, number: 4, good: true });
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        assert!(seen(spoil), "spoil {number} was not noticed");
    }
}
