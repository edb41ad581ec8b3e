//! Limits hold, are said, and are left behind without a loss: the log's size, memory, the disk's.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, assert_settles, drain, small};
use ringwal::{Concern, Durability, Io, OpenError, Queue, WhenFull};

const LOGGED: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];

fn disk_use(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => disk_use(&entry.path()),
            // One that is made under another name first may be gone from there by now.
            false => entry.metadata().map_or(0, |about| about.len()),
        })
        .sum()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG / 3;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn segments_are_recycled_hundreds_of_times_within_log_bytes_max() {
    for (durability, io) in [
        (Durability::Immediate, Io::Uring),
        (Durability::Periodic(Duration::from_millis(1)), Io::Threads),
        #[cfg(feature = "tokio-uring")]
        (Durability::Periodic(Duration::from_millis(1)), Io::TokioUring),
    ] {
        let dir = common::in_memory();
        let sink = Recorder::default();
        let queue = small(dir.path(), durability).log_bytes_max(2 << 20).io(io).open(sink.clone()).unwrap();
        let done = AtomicBool::new(false);
        // 120 MB through 2 MB of segments of 512 KB: each slot is used some 60 times.
        const EACH: u32 = 15_000;
        std::thread::scope(|scope| {
            let (queue, done, path) = (&queue, &done, dir.path());
            let watcher = scope.spawn(move || {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(disk_use(path));
                    std::thread::sleep(Duration::from_millis(2));
                }
                most
            });
            let pushers: Vec<_> = (0..4)
                .map(|p| {
                    let producer = queue.producer();
                    scope.spawn(move || (0..EACH).for_each(|n| _ = producer.push(Numbered::new(p, n, 1900)).unwrap()))
                })
                .collect();
            pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
            drain(queue);
            done.store(true, Ordering::Relaxed);
            let most = watcher.join().unwrap();
            // META and the park's META and one slot stand beside the log.
            assert!(most <= (2 << 20) + (1 << 20) + (256 << 10), "{most} bytes on disk");
        });
        assert_accounted(&queue.metrics());
        assert!(queue.metrics().log_bytes_written > 100 << 20);
        let seen = sink.0.all();
        let mut next = [0; 4];
        for (_, entry, _) in &seen {
            assert_eq!(entry.number, next[entry.producer as usize]);
            next[entry.producer as usize] += 1;
        }
        assert_eq!(next, [EACH; 4]);
        queue.shutdown(LONG).unwrap();
    }
}

/// Pushes until the log is full and nothing has been taken for a while; gives the next number.
fn fill(queue: &Queue<Numbered>, from: u32) -> u32 {
    let producer = queue.producer();
    let (mut n, mut since) = (from, Instant::now());
    let is_full = || queue.health().reasons().iter().any(|concern| matches!(concern, Concern::LogFull(_)));
    // On a busy machine the queue's threads may stand still for longer than that.
    while since.elapsed() < Duration::from_millis(300) || !is_full() && since.elapsed() < LONG / 3 {
        match producer.try_push(Numbered::new(0, n, 1900)) {
            Ok(_) => (n, since) = (n + 1, Instant::now()),
            Err(error) => {
                assert!(error.is_full(), "{error}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    n
}

#[test]
fn a_full_log_refuses_says_so_and_goes_on_when_the_sink_does() {
    for durability in LOGGED {
        for &io in common::DRIVERS {
            let dir = common::in_memory();
            let sink = Recorder::default();
            let open = |sink: Recorder| {
                small(dir.path(), durability)
                    .rings(1)
                    .io(io)
                    .log_bytes_max(2 << 20)
                    .memory_max(3 << 20)
                    .when_full(WhenFull::BlockFor(Duration::from_millis(20)))
                    .open(sink)
                    .unwrap()
            };
            let queue = open(sink.clone());
            let mut n = 0;
            for _ in 0..3 {
                queue.pause();
                n = fill(&queue, n);
                // Where the flush core had no turn for so long there was room, or it has not looked for any yet.
                let deadline = Instant::now() + LONG;
                let refused = loop {
                    match queue.producer().push(Numbered::new(0, n, 1900)) {
                        Ok(_) => n += 1,
                        Err(refused) if queue.metrics().blocked_on_log > 0 => break refused,
                        Err(_) => assert!(Instant::now() < deadline, "{durability:?} {io:?}: {:#?}", queue.metrics()),
                    }
                };
                assert!(refused.is_full(), "{refused}");
                wait_until("health says that the log is full", || {
                    queue.health().reasons().iter().any(|concern| matches!(concern, Concern::LogFull(_)))
                });
                assert!(disk_use(dir.path()) <= (2 << 20) + (1 << 20) + (256 << 10));
                assert!(queue.metrics().blocked_on_log + queue.metrics().blocked_on_memory > 0);
                assert_settles(&queue);
                queue.resume();
                drain(&queue);
                assert_accounted(&queue.metrics());
                wait_until("health forgets it", || {
                    !queue.health().reasons().iter().any(|concern| matches!(concern, Concern::LogFull(_)))
                });
            }
            assert!(n > 1000);
            assert_exactly_once_in_order(&sink.0.all(), &[n]);

            // Full, and closed, and opened again: what found room is there, the rest was counted, and there is
            // room again.
            queue.pause();
            let filled = fill(&queue, 0);
            let end = queue.shutdown(Duration::from_millis(500)).unwrap();
            assert_eq!(end.left_in_log + end.lost, u64::from(filled), "{durability:?} {io:?}: {end:?}");
            // Of four segments one is being filled, and one may still hold the end of what was delivered
            // before: at least two whole ones were there to be filled, of 128 blocks each, with an entry in a block of its own
            // where nothing else came in time for its commit.
            assert!(end.left_in_log > 200, "{durability:?} {io:?}: {end:?}");
            let last = u32::try_from(end.left_in_log).unwrap();
            let sink = Recorder::default();
            let queue = open(sink.clone());
            assert_eq!(queue.recovery().recovered, u64::from(last));
            drain(&queue);
            assert_eq!(sink.0.len(), last as usize);
            queue.producer().push(Numbered::new(0, last, 10)).unwrap();
            drain(&queue);
            assert_exactly_once_in_order(&sink.0.all(), &[last + 1]);
            assert_accounted(&queue.metrics());
            queue.shutdown(LONG).unwrap();
        }
    }
}

#[test]
fn a_long_backlog_stays_within_memory_max_and_comes_back_in_order() {
    for durability in LOGGED {
        for &io in common::DRIVERS {
            let dir = common::in_memory();
            let sink = Recorder::default();
            let queue = small(dir.path(), durability)
                .io(io)
                .log_bytes_max(64 << 20)
                .segment_len(2 << 20)
                .memory_max(3 << 20)
                .open(sink.clone())
                .unwrap();
            queue.pause();
            const COUNT: u32 = 15_000;
            let producer = queue.producer();
            // 30 MB; pushes block only for the disk, never for the sink.
            (0..COUNT).for_each(|n| {
                let pushed = producer.push_timeout(Numbered::new(0, n, 1900), LONG / 6);
                assert!(
                    pushed.is_ok(),
                    "{durability:?} {io:?}, entry {n}: {:?} {:#?}",
                    queue.health(),
                    queue.metrics()
                );
            });
            queue.flush().unwrap();
            let metrics = queue.metrics();
            assert!(metrics.frames_let_go > 0, "{durability:?} {io:?}: {metrics:#?}");
            assert_settles(&queue);
            queue.resume();
            // New ones come while the old ones are read back.
            (COUNT..COUNT + 2000).for_each(|n| _ = producer.push(Numbered::new(0, n, 1900)).unwrap());
            drain(&queue);
            assert!(queue.metrics().frames_read_back > 0);
            assert_accounted(&queue.metrics());
            assert_exactly_once_in_order(&sink.0.all(), &[COUNT + 2000]);
            queue.shutdown(LONG).unwrap();
        }
    }
}

/// Each run that parks something begins a segment of the park. With four segments, as it once was, the park of a
/// service that parks one entry between two restarts was full after four of them, and delivery stood still.
#[test]
fn entries_that_were_parked_in_many_runs_do_not_fill_the_park() {
    let dir = common::in_memory();
    for run in 0..30 {
        let refuse =
            ringwal::blocking_fn(|_: &ringwal::Batch<Numbered>| Err::<(), _>(ringwal::SinkError::park("of no use")));
        let queue = small(dir.path(), Durability::Immediate).park_bytes_max(32 << 20).open(refuse).unwrap();
        queue.producer().push(Numbered::new(0, run, 100)).unwrap();
        drain(&queue);
        assert_eq!(queue.parked().len(), u64::from(run) + 1);
        queue.shutdown(LONG).unwrap();
    }
}

/// A file system of a few megabytes; `None` where that is not allowed.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(bytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: a tmpfs of a few megabytes cannot be mounted here (root is needed)");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_survived_and_left_behind() {
    for &io in common::DRIVERS {
        let Some(mount) = Mount::new(3 << 20) else { return };
        let dir = mount.0.path().join("queue");
        let sink = Recorder::default();
        // Wants 4 MB where there are 3.
        let queue = small(&dir, Durability::Immediate).rings(1).io(io).memory_max(3 << 20).open(sink.clone()).unwrap();
        queue.pause();
        let n = fill(&queue, 0);
        wait_until("health says so", || {
            queue.health().reasons().iter().any(|concern| matches!(concern, Concern::LogFull(_)))
        });
        queue.resume();
        drain(&queue);
        assert_accounted(&queue.metrics());
        (n..n + 5000).for_each(|n| _ = queue.producer().push(Numbered::new(0, n, 1900)).unwrap());
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[n + 5000]);
        queue.shutdown(LONG).unwrap();

        // No room even for the first segment.
        let Some(mount) = Mount::new(256 << 10) else { return };
        let dir = mount.0.path().join("queue");
        match small(&dir, Durability::Immediate).io(io).open(sink) {
            Err(error @ (OpenError::NoSpace { .. } | OpenError::Disk { .. })) => {
                assert!(error.to_string().contains("space"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

const CHILD: &str = "RINGWAL_LIMITS_CHILD";

/// Not a test: runs under a limit of the length of files.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let limit = libc::rlimit { rlim_cur: 200 << 10, rlim_max: 200 << 10 };
    // SAFETY: ignores a signal; no handler is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: `limit` is a valid place for the call to read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    for &io in common::DRIVERS {
        match small(&Path::new(&dir).join(format!("{io:?}")), Durability::Immediate).io(io).open(Recorder::default()) {
            Err(error) => eprintln!("refused: {error}"),
            Ok(queue) => {
                assert!(!queue.health().is_ok());
                panic!("opened where no segment fits: {:?}", queue.health());
            }
        }
    }
}

#[test]
fn a_limit_of_the_length_of_files_is_an_error_not_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches("refused: ").count(), common::DRIVERS.len(), "{text}");
}

/// `Instant + Duration::MAX` panicked in the hands of whoever meant "without end".
#[test]
fn a_wait_may_be_as_long_as_a_duration_gets() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::builder(dir.path()).open(Recorder::default()).unwrap();
    let durable = queue.producer().push_durable(Numbered::new(0, 0, 10)).unwrap();
    durable.wait_timeout(Duration::MAX).unwrap();
    queue.producer().push_timeout(Numbered::new(0, 1, 10), Duration::MAX).unwrap();
    queue.drain(Duration::MAX).unwrap();
    assert_eq!(queue.shutdown(Duration::MAX).unwrap().delivered, 2);
}
