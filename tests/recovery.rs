//! What was durable is there after any end of the process, once and in order; what was torn was promised to
//! nobody; what has rotted is said exactly, or is of no account.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{
    Judge, LONG, Numbered, Recorder, Seen, assert_accounted, assert_exactly_once_in_order, assert_settles, copy_dir,
    drain, hash_dir, slow_retry, small,
};
use ringwal::{Batch, Concern, Durability, Health, Io, Lsn, OnCorruption, OpenError, Outcome, Queue, Sink, Verdict};

const LOGGED: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];

/// A directory of the test's own, on the disk or in memory.
fn tempdir(in_memory: bool) -> tempfile::TempDir {
    if in_memory { common::in_memory() } else { tempfile::tempdir().unwrap() }
}

/// All runs of the cases that differ by durability, driver and file system, in turn.
fn cases() -> impl Iterator<Item = (Durability, Io, bool)> {
    LOGGED.into_iter().flat_map(|durability| {
        [false, true]
            .into_iter()
            .flat_map(move |in_memory| common::DRIVERS.iter().map(move |io| (durability, *io, in_memory)))
    })
}

fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    for n in numbers {
        producer.push(Numbered::new(0, n, (n % 180) as usize)).unwrap();
    }
}

/// Waits until the cursor on disk has come so far. It is written every 50 ms, or later on a busy machine.
fn await_cursor(queue: &Queue<Numbered>, lsn: Lsn) {
    let deadline = std::time::Instant::now() + LONG;
    while queue.metrics().cursor_lsn < lsn {
        assert!(std::time::Instant::now() < deadline, "the cursor stays behind {lsn}: {:#?}", queue.metrics());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn any_number_of_entries_outlives_a_clean_and_an_unclean_stop() {
    for (durability, io, in_memory) in cases() {
        for count in [0, 1, 3, 2500] {
            for clean in [false, true] {
                let (dir, copy) = (tempdir(in_memory), tempdir(in_memory));
                let open = |dir: &Path, sink: Recorder| small(dir, durability).io(io).rings(1).open(sink).unwrap();
                let queue = open(dir.path(), Recorder::default());
                queue.pause();
                push(&queue, 0..count);
                queue.flush().unwrap();
                assert_settles(&queue);
                if !clean {
                    copy_dir(dir.path(), copy.path());
                }
                let end = queue.shutdown(LONG).unwrap();
                assert_eq!((end.delivered, end.left_in_log, end.lost), (0, u64::from(count), 0));
                let path = if clean { dir.path() } else { copy.path() };

                let sink = Recorder::default();
                let queue = open(path, sink.clone());
                let recovery = queue.recovery();
                let case = format!("{durability:?} {io:?} in memory: {in_memory}, {count} entries, clean: {clean}");
                assert_eq!((recovery.recovered, recovery.clean), (u64::from(count), clean), "{case}");
                assert!(!recovery.new && recovery.lost.is_empty() && recovery.torn_tail.is_none(), "{case}");
                assert!(recovery.next > recovery.end, "{case}");
                push(&queue, count..count + 100);
                drain(&queue);
                assert_accounted(&queue.metrics());
                assert_exactly_once_in_order(&sink.0.all(), &[count + 100]);
                queue.shutdown(LONG).unwrap();

                let sink = Recorder::default();
                let queue = open(path, sink.clone());
                assert_eq!(queue.recovery().recovered, 0, "{case}");
                queue.shutdown(LONG).unwrap();
                assert_eq!(sink.0.len(), 0, "what was acknowledged does not come again: {case}");
            }
        }
    }
}

#[test]
fn reopening_again_and_again_loses_nothing_and_reuses_no_lsn() {
    for durability in LOGGED {
        let dir = tempdir(true);
        let mut path = dir.path().join("0");
        let mut lsns = HashSet::new();
        for round in 0..12_u32 {
            // A queue that is opened delivers before it can be paused.
            let verdict =
                move |_: &Numbered, _| if round % 4 == 3 { Verdict::Ack } else { Verdict::Retry("later".into()) };
            let seen = Arc::<Seen>::default();
            let sink = Judge { seen: Arc::clone(&seen), verdict };
            let queue = small(&path, durability).rings(1).retry(slow_retry()).open(sink).unwrap();
            if round % 4 == 3 {
                drain(&queue);
                let seen = seen.all();
                let numbers: Vec<u32> = seen.iter().map(|(_, entry, _)| entry.number).collect();
                assert_eq!(numbers, ((round - 3) * 50..round * 50).collect::<Vec<_>>(), "{durability:?}");
                assert!(seen.iter().all(|(lsn, ..)| lsns.insert(*lsn)), "{durability:?}: an LSN was given out twice");
            }
            queue.pause();
            if round % 4 != 3 {
                push(&queue, round * 50..(round + 1) * 50);
            } else {
                // Counted in the next round.
                push(&queue, round * 50..round * 50);
            }
            queue.flush().unwrap();
            assert_settles(&queue);
            if round % 2 == 0 {
                let next = dir.path().join((round + 1).to_string());
                // Let the cursor be written, if there is something to write.
                std::thread::sleep(Duration::from_millis(120));
                copy_dir(&path, &next);
                path = next;
            }
            // Paused, it waits for nothing but a batch that is still out.
            queue.shutdown(LONG).unwrap();
            if round % 4 != 3 {
                assert_eq!(seen.len(), 0, "{durability:?}: all was refused");
            }
        }
    }
}

#[test]
fn what_spill_delivered_from_memory_is_not_numbered_again_after_a_crash() {
    for &io in common::DRIVERS {
        let (dir, copy) = (tempdir(false), tempdir(false));
        let sink = Recorder::default();
        let queue = small(dir.path(), Durability::Spill).io(io).open(sink.clone()).unwrap();
        let mut copies = Vec::new();
        for round in 0..5 {
            push(&queue, round * 100..(round + 1) * 100);
            drain(&queue);
            let to = copy.path().join(round.to_string());
            copy_dir(dir.path(), &to);
            copies.push((to, sink.0.all().last().unwrap().0));
        }
        assert_eq!(queue.metrics().writes, 0, "nothing had to be written");
        queue.shutdown(LONG).unwrap();
        for (path, last) in copies {
            let later = Recorder::default();
            let queue = small(&path, Durability::Spill).open(later.clone()).unwrap();
            assert!(queue.recovery().next > last, "{last} was shown to a sink");
            push(&queue, 0..10);
            drain(&queue);
            assert_accounted(&queue.metrics());
            assert!(later.0.all().iter().all(|(lsn, ..)| *lsn > last));
            assert_eq!(later.0.len(), 10);
            queue.shutdown(LONG).unwrap();
        }
    }
}

#[test]
fn a_half_acknowledged_batch_is_not_offered_again_and_attempts_go_on_counting() {
    for durability in LOGGED {
        for clean in [false, true] {
            let (dir, copy) = (tempdir(false), tempdir(false));
            let seen = Arc::new(Seen::default());
            let verdict = |entry: &Numbered, _| match entry.number % 2 {
                0 => Verdict::Ack,
                _ => Verdict::Retry("odd".into()),
            };
            let queue = small(dir.path(), durability)
                .retry(slow_retry())
                .batch_len_max(100)
                .linger(Duration::from_secs(3600))
                .open(Judge { seen: Arc::clone(&seen), verdict })
                .unwrap();
            push(&queue, 0..100);
            queue.flush().unwrap();
            seen.wait_for(50);
            await_cursor(&queue, Lsn::FIRST);
            queue.flush().unwrap();
            copy_dir(dir.path(), copy.path());
            let end = queue.shutdown(Duration::ZERO).unwrap();
            assert_eq!((end.delivered, end.left_in_log), (50, 50));

            let sink = Recorder::default();
            let path = if clean { dir.path() } else { copy.path() };
            let queue = small(path, durability).open(sink.clone()).unwrap();
            let recovered = queue.recovery().recovered;
            drain(&queue);
            assert_accounted(&queue.metrics());
            let numbers: Vec<(u32, u32)> = sink.0.all().iter().map(|(_, e, attempt)| (e.number, *attempt)).collect();
            assert_eq!(numbers, (0..50).map(|n| (2 * n + 1, 2)).collect::<Vec<_>>(), "{durability:?}, clean: {clean}");
            assert_eq!(recovered, 50);
            queue.shutdown(LONG).unwrap();
        }
    }
}

#[test]
fn parked_entries_are_still_parked() {
    for durability in LOGGED {
        for clean in [false, true] {
            let (dir, copy) = (tempdir(false), tempdir(false));
            let seen = Arc::new(Seen::default());
            let verdict = |entry: &Numbered, _| match entry.number % 3 {
                0 => Verdict::Park("divisible".into()),
                _ => Verdict::Ack,
            };
            let queue = small(dir.path(), durability).open(Judge { seen: Arc::clone(&seen), verdict }).unwrap();
            push(&queue, 0..300);
            drain(&queue);
            assert_accounted(&queue.metrics());
            await_cursor(&queue, queue.metrics().last_lsn);
            copy_dir(dir.path(), copy.path());
            assert_eq!(queue.shutdown(LONG).unwrap().parked, 100);
            for reopening in 0..2 {
                let path = if clean { dir.path() } else { copy.path() };
                let queue = small(path, durability).open(Recorder::default()).unwrap();
                assert_eq!(queue.recovery().parked, 100);
                assert!(queue.health().reasons().contains(&Concern::Parked(100)));
                let list = queue.parked().list(Lsn::ZERO, 1000).unwrap();
                let numbers: Vec<u32> = list.iter().map(|p| p.decode::<Numbered>().unwrap().number).collect();
                assert_eq!(numbers, (0..100).map(|n| 3 * n).collect::<Vec<_>>());
                assert!(list.iter().all(|parked| parked.error == "divisible" && parked.attempts == 1));
                assert_accounted(&queue.metrics());
                if reopening == 1 {
                    assert_eq!(queue.parked().redeliver(|_| true).unwrap(), 100);
                    drain(&queue);
                    assert_eq!((queue.metrics().delivered, queue.metrics().parked), (100, 0));
                    assert_accounted(&queue.metrics());
                }
                queue.shutdown(LONG).unwrap();
            }
        }
    }
}

// Killed for good.

const CHILD: &str = "RINGWAL_RECOVERY_CHILD";

/// The sink of a child: appends `lsn number` lines to a file; `committed()` reads the last one.
struct Journal {
    file: std::fs::File,
    path: PathBuf,
    commits: bool,
}

impl Journal {
    fn open(path: &Path, commits: bool) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // A kill may have cut a long write at any of its pages; that batch was not acknowledged.
        file.set_len(file.metadata().unwrap().len() / 12 * 12).unwrap();
        Self { file, path: path.to_owned(), commits }
    }

    fn read(path: &Path) -> Vec<(u64, u32)> {
        let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
        let records = bytes.chunks_exact(12);
        records
            .map(|r| (u64::from_le_bytes(r[..8].try_into().unwrap()), u32::from_le_bytes(r[8..].try_into().unwrap())))
            .collect()
    }
}

impl Sink<Numbered> for Journal {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        let mut bytes = Vec::new();
        for delivery in &batch {
            bytes.extend_from_slice(&delivery.lsn.number().to_le_bytes());
            bytes.extend_from_slice(&delivery.value.number.to_le_bytes());
        }
        (&self.file).write_all(&bytes).unwrap();
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        self.commits.then(|| Lsn::new(Self::read(&self.path).last().map_or(0, |(lsn, _)| *lsn)))
    }
}

fn durability_of(name: &str) -> Durability {
    LOGGED.into_iter().find(|durability| format!("{durability:?}") == name).unwrap()
}

/// Not a test: what the killed process does. Pushes and acknowledges, until it is killed.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = what.split('|').collect();
    let [dir, durability, io, start, commits] = parts[..] else { panic!("{what}") };
    let dir = Path::new(dir);
    let io = common::driver_named(io);
    let journal = Journal::open(&dir.with_file_name("journal"), commits == "true");
    let queue = small(dir, durability_of(durability)).io(io).lock_wait(LONG).open(journal).unwrap();
    let producer = queue.producer();
    let mut out = std::io::stdout();
    for n in start.parse::<u32>().unwrap().. {
        let receipt = producer.push(Numbered::new(0, n, (n % 150) as usize)).unwrap();
        if n % 7 == 0 {
            producer.durable(receipt).wait().unwrap();
            out.write_all(format!("ack {n}\n").as_bytes()).unwrap();
        }
    }
}

/// Runs a child for a while, kills it, and gives the last number that it knew to be durable.
fn run_and_kill(dir: &Path, durability: Durability, io: Io, start: u32, commits: bool, millis: u64) -> Option<u32> {
    let what = format!("{}|{durability:?}|{io:?}|{start}|{commits}", dir.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, what)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let pid = child.id();
    let mut killer = None;
    let mut last = None;
    for line in out.lines() {
        let line = line.unwrap();
        // The harness's own words may stand before the first one.
        let Some((_, number)) = line.split_once("ack ") else { continue };
        last = number.parse().ok().or(last);
        killer.get_or_insert_with(|| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(millis));
                // SAFETY: a plain system call; the child is not reaped before this thread is joined.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            })
        });
    }
    if let Some(killer) = killer {
        killer.join().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(!status.success() && last.is_some(), "the child ended by itself: {status:?}");
    last
}

/// Kills a process under load, again and again, on one directory.
fn kill_again_and_again(durability: Durability, io: Io, in_memory: bool, commits: bool) {
    let root = tempdir(in_memory);
    let dir = root.path().join("queue");
    let journal = root.path().join("journal");
    let mut start = 0;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let last = run_and_kill(&dir, durability, io, start, commits, 5 + 17 * round).unwrap();
        acknowledged.extend(start..=last);
        // The numbers of the next child are above all that this one can have pushed.
        start = last + 1_000_000;
    }
    let queue = small(&dir, durability).io(io).lock_wait(LONG).open(Journal::open(&journal, commits)).unwrap();
    assert!(!queue.recovery().clean && queue.recovery().lost.is_empty());
    drain(&queue);
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();

    let case = format!("{durability:?} {io:?} in memory: {in_memory}, commits: {commits}");
    let records = Journal::read(&journal);
    let mut number_of = HashMap::new();
    for (lsn, number) in &records {
        let known = *number_of.entry(*lsn).or_insert(*number);
        assert_eq!(known, *number, "{case}: LSN {lsn} stands for two entries");
    }
    let delivered: HashSet<u32> = records.iter().map(|(_, number)| *number).collect();
    let missing: Vec<u32> = acknowledged.iter().copied().filter(|n| !delivered.contains(n)).collect();
    assert!(
        missing.is_empty(),
        "{case}: {} acknowledged entries are missing: {:?}…",
        missing.len(),
        &missing[..5.min(missing.len())]
    );
    assert_eq!(delivered.len(), number_of.len(), "{case}: an entry has two LSNs");
    if commits {
        assert!(records.windows(2).all(|pair| pair[0].0 < pair[1].0), "{case}: not exactly once, or not in order");
        assert_eq!(records.len(), delivered.len(), "{case}: not exactly once");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    for (durability, io, in_memory) in cases() {
        if in_memory == (io == Io::Uring) {
            kill_again_and_again(durability, io, in_memory, false);
        }
    }
}

#[test]
fn a_sink_that_commits_gets_everything_exactly_once_over_kills() {
    for (durability, io, in_memory) in cases() {
        if in_memory != (io == Io::Uring) {
            kill_again_and_again(durability, io, in_memory, true);
        }
    }
}

// Torn, rotted.

/// A store with one frame for each entry, of which the sink has seen nothing. Gives the directory, and
/// for each entry the slot file, and where its frame begins and its payload ends.
struct Store {
    root: tempfile::TempDir,
    frames: Vec<(PathBuf, u64, u64)>,
}

const MARKED: usize = 48;

fn marked(n: u32) -> Numbered {
    Numbered::new(0xabcd, 0x1234_5600 + n, MARKED)
}

fn store(count: u32, clean: bool) -> Store {
    let root = tempdir(true);
    let dir = root.path().join("open");
    let queue = small(&dir, Durability::Immediate).rings(1).open(Recorder::default()).unwrap();
    queue.pause();
    for n in 0..count {
        queue.producer().push_durable(marked(n)).unwrap().wait().unwrap();
    }
    if !clean {
        copy_dir(&dir, &root.path().join("store"));
    }
    queue.shutdown(Duration::ZERO).unwrap();
    if clean {
        copy_dir(&dir, &root.path().join("store"));
    }
    let mut files = slot_files(&root.path().join("store"));
    files.sort();
    let files: Vec<(PathBuf, Vec<u8>)> =
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let frames = (0..count).map(|n| {
        let mut payload = vec![0; 8 + MARKED];
        ringwal::Entry::encode_into(&marked(n), &mut payload);
        let (path, at) = files
            .iter()
            .find_map(|(path, bytes)| {
                bytes.windows(payload.len()).position(|window| window == payload).map(|at| (path, at))
            })
            .unwrap();
        (path.file_name().unwrap().into(), at as u64 / 4096 * 4096, (at + payload.len()) as u64)
    });
    let frames = frames.collect();
    Store { root, frames }
}

fn slot_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "rwal")).collect()
}

impl Store {
    /// A fresh copy.
    fn copy(&self) -> PathBuf {
        let to = self.root.path().join("copy");
        let _ = std::fs::remove_dir_all(&to);
        copy_dir(&self.root.path().join("store"), &to);
        to
    }
}

fn open_with(dir: &Path, policy: OnCorruption, sink: &Recorder) -> Result<Queue<Numbered>, OpenError> {
    small(dir, Durability::Immediate).rings(1).io(Io::Threads).on_corruption(policy).open(sink.clone())
}

/// Opens it, and gives the numbers that come to the sink.
fn numbers_in(dir: &Path, policy: OnCorruption) -> Result<(Vec<u32>, ringwal::Recovery), OpenError> {
    let sink = Recorder::default();
    let queue = open_with(dir, policy, &sink)?;
    let recovery = queue.recovery().clone();
    drain(&queue);
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
    let seen = sink.0.all();
    for (lsn, entry, _) in &seen {
        let n = entry.number - 0x1234_5600;
        assert_eq!((*lsn, entry), (Lsn::new(u64::from(n) + 1), &marked(n)), "the bytes are as they were");
    }
    Ok((seen.iter().map(|(_, entry, _)| entry.number - 0x1234_5600).collect(), recovery))
}

#[test]
fn a_tail_torn_at_any_byte_ends_the_log_before_it_and_nowhere_else() {
    const COUNT: u32 = 3;
    let store = store(COUNT, false);
    let (name, start, end) = store.frames.last().unwrap().clone();
    let whole: Vec<u32> = (0..COUNT).collect();
    for at in (start - 8..end + 24).chain([start + 2048, start + 4095, start + 4096]) {
        // A tear at `end` or behind it leaves the frame whole.
        let expected = if at >= end { &whole[..] } else { &whole[..whole.len() - 1] };
        for tear in ["zeros", "garbage", "cut"] {
            let dir = store.copy();
            let file = std::fs::OpenOptions::new().write(true).open(dir.join(&name)).unwrap();
            let len = file.metadata().unwrap().len();
            let rest = (len - at) as usize;
            match tear {
                "cut" => file.set_len(at).unwrap(),
                "zeros" => file.write_all_at(&vec![0; rest], at).unwrap(),
                _ => file.write_all_at(&(0..rest).map(|i| (i * 37 + 101) as u8 | 1).collect::<Vec<_>>(), at).unwrap(),
            }
            let result = numbers_in(&dir, OnCorruption::Stop);
            let (numbers, recovery) =
                result.unwrap_or_else(|error| panic!("{tear} at {at} of {start}..{end}: {error}"));
            assert_eq!(numbers, expected, "{tear} at {at} of {start}..{end}");
            assert_eq!(recovery.end, Lsn::new(expected.len() as u64));
            assert!(recovery.lost.is_empty() && !recovery.clean);
        }
    }
}

#[test]
fn a_flipped_bit_is_said_exactly_or_is_of_no_account() {
    const COUNT: u32 = 2;
    let store = store(COUNT, true);
    let whole: Vec<u32> = (0..COUNT).collect();
    let slot = store.frames[0].0.clone();
    assert!(store.frames.iter().all(|(name, ..)| *name == slot));
    let meta_len = std::fs::metadata(store.root.path().join("store/META")).unwrap().len();
    // Every second byte of what says something, and some of the padding.
    let meta = (0..meta_len)
        .filter(|at| (at % 4096 < 260 && at % 2 == at / 4096 % 2) || at % 1013 == 0)
        .map(|at| ("META".into(), at));
    let headers =
        (0..8192).filter(|at| (at % 4096 < 260 && at % 2 == at / 4096) || at % 1013 == 0).map(|at| (slot.clone(), at));
    let frames = store.frames.iter().flat_map(|(_, start, end)| (*start..end + 16).chain([start + 1000, start + 4095]));
    let places: Vec<(PathBuf, u64)> = meta.chain(headers).chain(frames.map(|at| (slot.clone(), at))).collect();
    let mut errors = HashMap::new();
    for (name, at) in places {
        let dir = store.copy();
        let path = dir.join(&name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1 << (at % 8);
        file.write_all_at(&byte, at).unwrap();
        let before = hash_dir(&dir);
        let within = store.frames.iter().position(|(frame, start, end)| *frame == name && (*start..*end).contains(&at));
        match numbers_in(&dir, OnCorruption::Stop) {
            Ok((numbers, recovery)) => {
                assert_eq!(numbers, whole, "{} at {at}: opened without all of the data", name.display());
                assert!(recovery.lost.is_empty());
                assert!(within.is_none(), "a damaged frame was taken for whole: {at}");
            }
            Err(error) => {
                assert_eq!(
                    hash_dir(&dir),
                    before,
                    "a refused opening changed the directory: {} at {at}",
                    name.display()
                );
                let kind = match &error {
                    OpenError::Corrupt { file, offset, first, last, .. } => {
                        let index = within.unwrap_or_else(|| panic!("{} at {at}: {error}", name.display()));
                        let lsn = Lsn::new(index as u64 + 1);
                        assert_eq!((first, last, file), (&lsn, &lsn, &path), "{at}");
                        assert_eq!(*offset, store.frames[index].1, "{at}");
                        "corrupt"
                    }
                    OpenError::Unusable { .. } | OpenError::NewerFormat { .. } => "unusable",
                    other => panic!("{} at {at}: {other}", name.display()),
                };
                *errors.entry((name.clone(), kind)).or_insert(0) += 1;
            }
        }
    }
    assert!(errors[&(slot, "corrupt")] > 250, "{errors:?}");
    // Two copies of each: one alone is never missed.
    assert_eq!(errors.len(), 1, "{errors:?}");
}

/// Damages one frame.
fn damage(dir: &Path, frame: &(PathBuf, u64, u64)) {
    let file = std::fs::OpenOptions::new().write(true).open(dir.join(&frame.0)).unwrap();
    file.write_all_at(b"rot", frame.1 + 100).unwrap();
}

#[test]
fn each_policy_gives_up_what_it_says_and_no_more() {
    const COUNT: u32 = 6;
    for hole in 0..COUNT {
        let store = store(COUNT, true);
        let lsn = Lsn::new(u64::from(hole) + 1);

        let dir = store.copy();
        damage(&dir, &store.frames[hole as usize]);
        let before = hash_dir(&dir);
        let Err(OpenError::Corrupt { first, last, .. }) = numbers_in(&dir, OnCorruption::Stop) else {
            panic!("opened with a hole at {hole}")
        };
        assert_eq!((first, last), (lsn, lsn));
        assert_eq!(hash_dir(&dir), before);

        let (numbers, recovery) = numbers_in(&dir, OnCorruption::Quarantine).unwrap();
        assert_eq!(numbers, (0..COUNT).filter(|n| *n != hole).collect::<Vec<_>>());
        assert_eq!(recovery.lost, [(lsn, lsn)]);
        let kept = std::fs::read_dir(dir.join("quarantine")).unwrap().count();
        assert_eq!(kept, 1, "the damaged segment was put aside");
        let (numbers, recovery) = numbers_in(&dir, OnCorruption::Stop).unwrap();
        assert_eq!((numbers, recovery.lost), (vec![], vec![]), "given up once, and done");

        let dir = store.copy();
        damage(&dir, &store.frames[hole as usize]);
        let (numbers, recovery) = numbers_in(&dir, OnCorruption::CutTail).unwrap();
        assert_eq!(numbers, (0..hole).collect::<Vec<_>>());
        assert_eq!(recovery.lost, [(lsn, Lsn::new(u64::from(COUNT)))]);
        assert!(recovery.next > Lsn::new(u64::from(COUNT)), "what was given up keeps its numbers");
        let sink = Recorder::default();
        let queue = open_with(&dir, OnCorruption::Stop, &sink).unwrap();
        push(&queue, 0..5);
        drain(&queue);
        assert!(sink.0.all().iter().all(|(lsn, ..)| lsn.number() > u64::from(COUNT)));
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn damage_in_an_old_segment_halts_delivery_before_the_hole() {
    // `CutTail` is for opening: what delivery finds later halts it as under `Stop`.
    for policy in [OnCorruption::Stop, OnCorruption::CutTail, OnCorruption::Quarantine] {
        let dir = tempdir(true);
        let open = |sink: &Recorder| {
            small(dir.path(), Durability::Immediate).rings(1).io(Io::Threads).on_corruption(policy).open(sink.clone())
        };
        let queue = open(&Recorder::default()).unwrap();
        queue.pause();
        for n in 0..1200 {
            queue.producer().push(Numbered::new(0, n, 1900)).unwrap();
        }
        queue.flush().unwrap();
        assert!(queue.metrics().segments_live >= 4, "{:?}", queue.metrics());
        assert_settles(&queue);
        queue.shutdown(Duration::ZERO).unwrap();

        let mut payload = vec![0; 1908];
        ringwal::Entry::encode_into(&Numbered::new(0, 130, 1900), &mut payload);
        let (path, at) = slot_files(dir.path())
            .into_iter()
            .find_map(|path| {
                let bytes = std::fs::read(&path).unwrap();
                let at = bytes.windows(payload.len()).position(|window| window == payload)?;
                Some((path, at as u64))
            })
            .unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"rot", at + 50).unwrap();

        let sink = Recorder::default();
        let queue = open(&sink).unwrap();
        assert_eq!(queue.recovery().recovered, 1200, "not yet found");
        match policy {
            OnCorruption::Stop | OnCorruption::CutTail => {
                let error = queue.drain(LONG).unwrap_err();
                assert!(matches!(error, ringwal::LogError::Corrupt(_)), "{error:?}");
                let Health::Failed(reasons) = queue.health() else { panic!("{:?}", queue.health()) };
                assert!(matches!(reasons[0], Concern::LogCorrupt(_)), "{reasons:?}");
                let seen = sink.0.all();
                assert!(seen.iter().all(|(_, entry, _)| entry.number < 130), "delivery went past the hole");
                // Pushes go on, into the log; nothing of it is thrown away.
                queue.producer().push_durable(Numbered::new(0, 1200, 10)).unwrap().wait().unwrap();
                let metrics = queue.metrics();
                assert!(metrics.accounted() <= metrics.came_in());
                queue.shutdown(LONG).unwrap();
                assert!(std::fs::read(&path).unwrap()[at as usize + 50..].starts_with(b"rot"));
            }
            _ => {
                drain(&queue);
                common::block_on(queue.drain_async(LONG)).unwrap();
                let numbers: Vec<u32> = sink.0.all().iter().map(|(_, entry, _)| entry.number).collect();
                let lost: Vec<u32> = (0..1200).filter(|n| !numbers.contains(n)).collect();
                assert!(lost.contains(&130) && lost.len() < 140, "{lost:?}");
                assert!(lost.windows(2).all(|pair| pair[0] + 1 == pair[1]), "one hole: {lost:?}");
                assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
                assert_eq!(queue.metrics().lost, lost.len() as u64);
                assert_accounted(&queue.metrics());
                queue.shutdown(LONG).unwrap();
            }
        }
    }
}
