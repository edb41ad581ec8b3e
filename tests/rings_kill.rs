//! A process with rings in shared memory is killed at any moment, while it pushes and while it takes over: what a push
//! said Ok to is delivered, once.
//!
//! The child writes down each push that returned Ok, in a file that the kernel keeps when the child is killed. Its sink
//! stands still, so that all that was accepted must be found again, and each entry exactly once: a second copy in the
//! log would be delivered too.

#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwal::{Batch, Builder, Durability, Io, Queue, Retry, SinkError, blocking_fn};

/// Threads of a child; the last one has a pinned ring.
const THREADS: u64 = 3;
/// Bounds every wait for another process. Nothing depends on it but that a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(120);

fn builder(dir: &Path, rings: &Path, mode: &str) -> Builder {
    let (durability, segment_len, log_bytes_max) = match mode {
        "immediate" => (Durability::Immediate, 512 << 10, 64 << 20),
        "periodic" => (Durability::Periodic(Duration::from_secs(60)), 512 << 10, 64 << 20),
        "spill" => (Durability::Spill, 512 << 10, 64 << 20),
        // So short that it is full when the child is killed, and what waits in the rings does not fit.
        "full" => (Durability::Immediate, 512 << 10, 1536 << 10),
        other => panic!("no mode {other}"),
    };
    Queue::builder(dir)
        .durability(durability)
        .io(if mode == "periodic" { Io::Threads } else { Io::Auto })
        .rings_in(rings)
        .rings(2)
        .pinned_rings(1)
        .ring_bytes(64 << 10)
        .entry_len_max(1 << 10)
        .memory_max(4 << 20)
        .segment_len(segment_len)
        .log_bytes_max(log_bytes_max)
        .lock_wait(PATIENCE)
        .linger(Duration::ZERO)
        .retry(Retry { attempts_max: None, ..Retry::default() })
}

fn entry(round: u64, thread: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0x5a; 24 + usize::try_from(number % 97).unwrap()];
    for (place, value) in bytes.chunks_exact_mut(8).zip([round, thread, number]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> (u64, u64, u64) {
    let at = |field: usize| u64::from_le_bytes(bytes[8 * field..8 * field + 8].try_into().unwrap());
    let (round, thread, number) = (at(0), at(1), at(2));
    assert_eq!(bytes, entry(round, thread, number), "an entry came back torn");
    (round, thread, number)
}

/// Not a test of its own: what the others start as a process.
#[test]
fn the_child() {
    let Ok(task) = std::env::var("RINGWAL_RINGS_CHILD") else { return };
    let mut words = task.split(' ');
    let mut word = || words.next().expect("a task has five words");
    let (what, mode) = (word(), word());
    let (base, round) = (PathBuf::from(word()), word().parse::<u64>().unwrap());
    let rings = PathBuf::from(word());
    let accepted = File::options().write(true).open(base.join("accepted")).unwrap();
    // The sink never gets on, so nothing leaves the log.
    let sink = blocking_fn(|_: &Batch<Vec<u8>>| Err::<(), SinkError>(SinkError::retry("stands still")));
    let queue = builder(&base.join("store"), &rings, mode).open(sink).unwrap();
    if what == "open" {
        loop {
            std::thread::park();
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (producer, accepted) = (queue.producer(), &accepted);
            scope.spawn(move || {
                let mut pinned = (thread == THREADS - 1).then(|| producer.pin());
                for number in 1.. {
                    let entry = entry(round, thread, number);
                    match &mut pinned {
                        Some(pinned) => drop(pinned.push(entry).unwrap()),
                        None => drop(producer.push(entry).unwrap()),
                    }
                    // Written when it was accepted: the file survives this process.
                    accepted.write_all_at(&number.to_le_bytes(), 8 * thread).unwrap();
                }
            });
        }
    });
}

/// A process that is killed when it is let go of.
struct Killed(Child);

impl Killed {
    fn start(what: &str, mode: &str, base: &Path, round: u64, rings: &Path) -> Self {
        let task = format!("{what} {mode} {} {round} {}", base.display(), rings.display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_child", "--exact", "--nocapture"])
            .env("RINGWAL_RINGS_CHILD", task)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Kills it. It must not have ended by itself.
    fn kill(mut self) {
        self.0.kill().unwrap();
        let status = self.0.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Which pushes have returned Ok, for each thread.
fn accepted(base: &Path) -> Vec<u64> {
    let mut bytes = [0; 8 * THREADS as usize];
    File::open(base.join("accepted")).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().unwrap())).collect()
}

/// splitmix64.
fn chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A folder in memory, removed at the end.
fn rings_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ringwal-test-").tempdir_in("/dev/shm").expect("/dev/shm is there")
}

fn killed_and_taken_over(mode: &str, rounds: u64) {
    let base = tempfile::tempdir().unwrap();
    let rings = rings_folder();
    let mut seed = 0x5eed ^ mode.len() as u64;
    let (mut from_rings, mut killed_in_takeover) = (0, 0);
    for round in 1..=rounds {
        File::create(base.path().join("accepted")).unwrap().write_all_at(&[0; 8 * THREADS as usize], 0).unwrap();
        let child = Killed::start("push", mode, base.path(), round, rings.path());
        // A full log stops them all, at some number; the others stop nowhere.
        let goal = 1 + chance(&mut seed) % 3_000;
        let begun = Instant::now();
        let mut last = (Vec::new(), Instant::now());
        loop {
            let now = accepted(base.path());
            if now.iter().sum::<u64>() >= goal && mode != "full" {
                break;
            }
            if now != last.0 {
                last = (now, Instant::now());
            } else if mode == "full" && now.iter().all(|n| *n > 0) && last.1.elapsed() > Duration::from_millis(200) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "the child does not get on: {last:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill();
        let accepted = accepted(base.path());
        for _ in 0..chance(&mut seed) % 3 {
            let child = Killed::start("open", mode, base.path(), round, rings.path());
            std::thread::sleep(Duration::from_micros(chance(&mut seed) % 60_000));
            child.kill();
            killed_in_takeover += 1;
        }
        from_rings += check(mode, base.path(), rings.path(), round, &accepted);
    }
    println!("{mode}: {from_rings} entries came from rings; {killed_in_takeover} children killed while they opened");
    assert!(from_rings > 0, "in none of {rounds} rounds was anything left in a ring");
}

/// Opens in this process, lets everything be delivered, and compares it with what was accepted.
fn check(mode: &str, base: &Path, rings: &Path, round: u64, accepted: &[u64]) -> u64 {
    let seen = Arc::new(Mutex::new(BTreeMap::<u64, Vec<u64>>::new()));
    let sink = blocking_fn({
        let seen = Arc::clone(&seen);
        move |batch: &Batch<Vec<u8>>| {
            for value in batch.values() {
                let (of, thread, number) = decode(value);
                assert_eq!(of, round, "an entry of a round that was over came back");
                seen.lock().unwrap().entry(thread).or_default().push(number);
            }
            Ok(())
        }
    });
    let queue = builder(&base.join("store"), rings, mode).open(sink).unwrap();
    let recovery = queue.recovery().clone();
    queue.drain(PATIENCE).unwrap();
    let metrics = queue.metrics();
    assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:?}");
    assert_eq!(metrics.recovered_from_rings, recovery.from_rings);
    assert_eq!((metrics.pushed, metrics.lost), (0, 0));
    queue.shutdown(PATIENCE).unwrap();
    let left: Vec<_> = std::fs::read_dir(rings).unwrap().collect();
    assert!(left.is_empty(), "an orderly end leaves no rings: {left:?}");
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    for (thread, accepted) in (0_u64..).zip(accepted) {
        let seen = seen.remove(&thread).unwrap_or_default();
        let context = format!("{mode}, round {round}, thread {thread}: {accepted} accepted, {recovery:?}");
        // In order, without gaps, none twice.
        let expected: Vec<u64> = (1..=seen.len() as u64).collect();
        assert_eq!(seen, expected, "{context}");
        // One push more may have been complete without having told.
        assert!((*accepted..=accepted + 1).contains(&(seen.len() as u64)), "{context}, {} delivered", seen.len());
    }
    assert!(seen.is_empty());
    recovery.from_rings
}

#[test]
fn what_was_pushed_survives_a_kill_under_immediate() {
    killed_and_taken_over("immediate", 24);
}

#[test]
fn what_was_pushed_survives_a_kill_under_a_period_that_never_ends() {
    killed_and_taken_over("periodic", 24);
}

#[test]
fn what_was_pushed_survives_a_kill_under_spill() {
    killed_and_taken_over("spill", 24);
}

#[test]
fn what_was_pushed_survives_a_kill_with_a_full_log() {
    killed_and_taken_over("full", 4);
}
