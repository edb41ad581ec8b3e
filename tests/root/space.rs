//! A full disk (row 12): no failure but backpressure, and what was stored can be delivered on a disk without a free byte.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringwal::{Batch, Builder, Concern, Durability, Health, OpenError, PushError, Queue, Sink, WhenFull};

use rustix::fs::FallocateFlags;

use super::check::check;
use super::common::{LONG, Numbered, Recorder, Seen, assert_accounted, drain, small};
use super::machine::{Disk, Fs, Missing, on_a_real_machine, scratch, until};
use super::story::{Story, patient};

/// Room in the log for far more than the disk has.
fn builder(dir: &Path, durability: Durability) -> Builder {
    small(dir, durability).log_bytes_max(1 << 30).retry(patient()).when_full(WhenFull::Reject)
}

/// Refuses until it is opened.
#[derive(Clone, Default)]
struct Gate {
    recorder: Recorder,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    fn seen(&self) -> &Seen {
        &self.recorder.0
    }
}

impl Sink<Numbered> for Gate {
    async fn deliver(&self, batch: Batch<Numbered>) -> ringwal::Outcome {
        // Held up rather than refused: it goes on at once when it may. The queue's own shutdown does not wait.
        while !self.is_open.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.recorder.deliver(batch).await
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// A file that takes all the space there is, and more as often as it is asked to.
struct Ballast {
    path: PathBuf,
    file: File,
}

impl Ballast {
    fn new(path: &Path) -> Self {
        // Made before the disk is full: a name takes space too.
        Self { file: File::create(path).unwrap(), path: path.to_owned() }
    }

    /// Takes all but this many bytes.
    fn leave(&mut self, free: u64) {
        let stat = rustix::fs::fstatvfs(&self.file).unwrap();
        let len = (stat.f_bavail * stat.f_frsize).saturating_sub(free);
        if rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len).is_ok() {
            self.file.seek(SeekFrom::End(0)).unwrap();
            return;
        }
        // It cannot be reserved here.
        for _ in 0..len >> 20 {
            self.file.write_all(&[7; 1 << 20]).unwrap();
        }
    }

    /// Takes what is left.
    fn grow(&mut self) {
        for len in [1 << 20, 4096] {
            while self.file.write_all(&vec![7; len]).is_ok() && self.file.sync_data().is_ok() {}
        }
        let error = self.file.write_all(&[7; 4096]).and_then(|()| self.file.sync_data()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    /// Gives everything back, and waits until it can be had.
    fn free(&mut self) {
        self.file = File::create(&self.path).unwrap();
        rustix::fs::syncfs(&self.file).unwrap();
    }
}

fn is_full<T>(queue: &Queue<T>) -> bool {
    let health = queue.health();
    assert!(!matches!(health, Health::Failed(_)), "a full disk is no failure: {health:?}");
    health.reasons().iter().any(|reason| matches!(reason, Concern::LogFull(_)))
}

/// Pushes until nothing more is taken and health says why; the number of entries that were.
fn fill(queue: &Queue<Numbered>, from: u32) -> u32 {
    let producer = queue.producer();
    let mut next = from;
    until("the disk is full", || {
        for _ in 0..2000 {
            match producer.push(Numbered::new(0, next, 800)) {
                Ok(_) => next += 1,
                Err(PushError::Full(_)) => return is_full(queue),
                Err(error) => panic!("{error}"),
            }
        }
        false
    });
    next
}

/// Pushes one entry, as soon as there is room.
fn push_when_free(queue: &Queue<Numbered>, number: u32) {
    let producer = queue.producer();
    let mut entry = Numbered::new(0, number, 800);
    until("there is room again", || match producer.push_durable(entry.clone()) {
        Ok(durable) => {
            durable.wait_timeout(LONG).unwrap();
            true
        }
        Err(PushError::Full(back)) => {
            entry = back;
            false
        }
        Err(error) => panic!("{error}"),
    });
}

fn assert_all(seen: &Seen, count: u32) {
    let all = seen.all();
    assert_eq!(all.len(), count as usize);
    for (number, (_, entry, _)) in (0..).zip(&all) {
        assert_eq!(*entry, Numbered::new(0, number, 800));
    }
}

/// Fills a disk, frees some of it, fills it again, delivers on the full disk, and opens it again.
fn a_full_disk_is_backpressure(fs: Fs, durability: Durability) -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), fs, fs.disk_len())?;
    let dir = disk.at().join("queue");
    let gate = Gate::default();
    // Two of them: what stays, so that the disk is small, and what comes and goes.
    Ballast::new(&disk.at().join("large")).leave(24 << 20);
    let mut ballast = Ballast::new(&disk.at().join("small"));
    let queue = builder(&dir, durability).open(gate.clone()).unwrap();
    push_when_free(&queue, 0);
    // What others have taken, and give back later.
    ballast.grow();
    let first = fill(&queue, 1);
    assert!(first > 100, "segments that were prepared are used though the disk is full: {first}");
    ballast.free();
    push_when_free(&queue, first);
    let second = fill(&queue, first + 1);
    // What is left between two segments' lengths goes too: no free byte.
    ballast.grow();
    gate.open();
    gate.seen().wait_for(1);
    // Delivery and the cursor need no space; the segments that become free take new entries.
    push_when_free(&queue, second);
    drain(&queue);
    assert_all(gate.seen(), second + 1);
    until("it has room again", || !is_full(&queue));
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();

    // Opened on a disk without a free byte: what is there is enough.
    ballast.grow();
    let recorder = Recorder::default();
    let queue = builder(&dir, durability).open(recorder.clone()).unwrap();
    assert_eq!(queue.recovery().recovered, 0);
    for number in 0..10 {
        push_when_free(&queue, number);
    }
    drain(&queue);
    assert_all(&recorder.0, 10);
    queue.shutdown(LONG).unwrap();

    ballast.grow();
    // A new one finds no place, says so, and leaves nothing that takes space.
    let error = builder(&disk.at().join("other"), durability).open(Recorder::default()).map(drop).unwrap_err();
    let is_no_space = match &error {
        OpenError::NoSpace { .. } => true,
        OpenError::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        _ => false,
    };
    assert!(is_no_space, "{error:?}");
    ballast.free();
    builder(&disk.at().join("other"), durability).open(Recorder::default()).unwrap().shutdown(LONG).unwrap();
    Ok(())
}

#[test]
fn a_full_ext4_is_backpressure_and_delivery_goes_on() {
    on_a_real_machine("full disk, ext4, immediate", || a_full_disk_is_backpressure(Fs::Ext4, Durability::Immediate));
}

#[test]
fn a_full_xfs_is_backpressure_and_delivery_goes_on() {
    let periodic = Durability::Periodic(Duration::from_millis(5));
    on_a_real_machine("full disk, xfs, periodic", || a_full_disk_is_backpressure(Fs::Xfs, periodic));
}

#[test]
fn a_full_disk_that_cannot_reserve_space_is_found_by_writing_and_is_backpressure_too() {
    // ext2 has no fallocate: ENOSPC comes from the writes of zeros.
    on_a_real_machine("full disk, ext2, immediate", || a_full_disk_is_backpressure(Fs::Ext2, Durability::Immediate));
}

/// A process that is killed when the disk is full leaves a backlog: it is recovered, delivered, and gone on
/// from, without a free byte.
fn a_backlog_is_recovered_on_a_full_disk(fs: Fs) -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), fs, fs.disk_len())?;
    let mut ballast = Ballast::new(&disk.at().join("ballast"));
    ballast.leave(20 << 20);
    let story = Story {
        rejects: true,
        rest: Duration::ZERO,
        log_bytes_max: 1 << 30,
        ..Story::new(&disk.at().join("queue"), &scratch.path().join("journal"))
    };
    let mut player = story.start();
    player.until("health says that the disk is full", |journal| {
        journal.all("state").any(|said| said.contains("LogFull"))
    });
    let journal = player.kill();
    ballast.grow();
    let found = check(&story, &journal, &story.dir, u64::MAX);
    assert!(found.entries > 10_000, "{found:?}");
    Ok(())
}

#[test]
fn a_backlog_is_recovered_and_delivered_on_a_disk_without_a_free_byte() {
    on_a_real_machine("recovery on a full disk, ext4", || a_backlog_is_recovered_on_a_full_disk(Fs::Ext4));
    on_a_real_machine("recovery on a full disk, xfs", || a_backlog_is_recovered_on_a_full_disk(Fs::Xfs));
}
