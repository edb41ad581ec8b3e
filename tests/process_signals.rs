//! A process that is stopped keeps its directory, and goes on as if nothing had been; one that is killed with
//! writes in flight lets go of it only when the last of them is over; nobody else writes in between.

#[path = "common/child.rs"]
mod child;
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use child::{Child, command, say};
use common::{DRIVERS, LONG, Numbered, Recorder, drain, driver_named, hash_dir, no, slow_retry, small};
use ringwal::{Batch, Builder, Durability, Io, OpenError, sink_fn};

const CHILD: &str = "RINGWAL_SIGNALS_CHILD";

/// Its log has room for all that a child pushes before anybody stops it, on a machine where that takes long.
fn roomy(dir: &Path) -> Builder {
    small(dir, Durability::Immediate).log_bytes_max(64 << 20)
}

/// Not a test: pushes and tells what is durable, until it is killed.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (dir, io) = what.split_once('|').unwrap();
    let io = driver_named(io);
    // Refused, not paused: between opening and a pause some of what an earlier child pushed might be delivered to this one.
    let refuses = sink_fn(|_: Batch<Numbered>| async { Err::<(), _>(no("not here")) });
    let queue = roomy(Path::new(dir)).rings(1).io(io).lock_wait(LONG).retry(slow_retry()).open(refuses).unwrap();
    let producer = queue.producer();
    let first = queue.recovery().next.number() as u32;
    for n in first.. {
        producer.push_durable(Numbered::new(0, n, 1000)).unwrap().wait().unwrap();
        say(&n.to_string());
    }
}

fn start(dir: &Path, io: Io) -> Child {
    Child::start(command("child", CHILD, &format!("{}|{io:?}", dir.display())))
}

fn locked(dir: &Path, pid: u32) {
    let error = roomy(dir).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(p), .. } if p == pid), "{error}");
}

#[test]
fn a_stopped_process_keeps_its_directory_and_goes_on_when_it_may() {
    for &io in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(dir.path(), io);
        let mut last: u32 = 0;
        while last < 20 {
            last = child.line().expect("it runs").parse().unwrap();
        }
        child.signal(libc::SIGSTOP);
        // What the kernel has taken it still finishes, as soon as it has a turn.
        let mut hash = hash_dir(dir.path());
        let (calm, mut same) = (Instant::now(), 0);
        while same < 10 {
            std::thread::sleep(Duration::from_millis(100));
            let now = hash_dir(dir.path());
            assert!(calm.elapsed() < LONG, "something goes on writing");
            (hash, same) = (now, if now == hash { same + 1 } else { 0 });
        }
        let patient = std::thread::scope(|scope| {
            let patient = scope.spawn(|| roomy(dir.path()).lock_wait(LONG).open(Recorder::default()));
            let stopped = Instant::now();
            while stopped.elapsed() < Duration::from_secs(1) {
                locked(dir.path(), child.pid());
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(hash_dir(dir.path()), hash, "somebody else has written");
            assert!(!patient.is_finished(), "a stopped process has lost its directory");
            child.signal(libc::SIGCONT);
            // What it had said before it was stopped, and enough behind that.
            let goal = last + 40;
            while last < goal {
                let n: u32 = child.line().expect("it goes on").parse().unwrap();
                assert_eq!(n, last + 1);
                last = n;
            }
            child.signal(libc::SIGKILL);
            patient.join().unwrap().expect("it is free now")
        });
        last = child.rest().last().map_or(last, |line| line.parse().unwrap());
        child.end();
        drain(&patient);
        assert!(patient.metrics().delivered >= u64::from(last), "{last} were durable: {:#?}", patient.metrics());
        assert!(patient.recovery().lost.is_empty());
        patient.shutdown(LONG).unwrap();
    }
}

/// Eight processes, each started while the one before it still has writes in flight.
#[test]
fn a_killed_process_is_followed_at_once_and_the_numbers_go_on() {
    for &io in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let mut said: Vec<u32> = Vec::new();
        let mut dying: Option<Child> = None;
        for _ in 0..8 {
            let child = start(dir.path(), io);
            if let Some(mut before) = dying.take() {
                said.extend(before.rest().iter().map(|line| line.parse::<u32>().unwrap()));
                before.end();
            }
            let first: u32 = child.line().expect("it runs").parse().unwrap();
            // Who writes at the same time as another gives out a number that was given out.
            assert!(said.last().is_none_or(|last| first > *last), "{first} came again, after {:?}", said.last());
            said.push(first);
            for _ in 0..10 {
                said.push(child.line().expect("it runs").parse().unwrap());
            }
            child.signal(libc::SIGKILL);
            dying = Some(child);
        }
        if let Some(mut last) = dying {
            said.extend(last.rest().iter().map(|line| line.parse::<u32>().unwrap()));
            last.end();
        }
        let sink = Recorder::default();
        let queue = roomy(dir.path()).lock_wait(LONG).open(sink.clone()).unwrap();
        drain(&queue);
        queue.shutdown(LONG).unwrap();
        let delivered: std::collections::HashSet<u32> = sink.0.all().iter().map(|(_, entry, _)| entry.number).collect();
        assert_eq!(delivered.len(), sink.0.len(), "an entry came twice");
        assert!(said.iter().all(|n| delivered.contains(n)));
    }
}
