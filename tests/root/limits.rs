//! Limits that only root can set: memory and disk bandwidth of a control group (rows 13, 22).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::check;
use super::errors::assert_memory_is_bounded;
use super::machine::{Disk, Fs, Missing, on_a_real_machine, scratch, until};
use super::story::Story;

/// A control group of one controller, version 1 or 2; removed when dropped, after its last process.
struct Cgroup {
    path: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    fn new(controller: &str, controller_v2: &str) -> Result<Self, Missing> {
        let base = Path::new("/sys/fs/cgroup");
        let is_v2 = base.join("cgroup.controllers").exists();
        let base = if is_v2 { base.to_owned() } else { base.join(controller) };
        if is_v2 {
            // Whether that worked shows below.
            let _ = std::fs::write(base.join("cgroup.subtree_control"), format!("+{controller_v2}"));
        }
        let path = base.join(format!("ringwal-root-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| Missing(format!("no control group {}: {error}", path.display())))?;
        Ok(Self { path, is_v2 })
    }

    fn set(&self, name_v1: &str, name_v2: &str, value: &str) -> Result<(), Missing> {
        let path = self.path.join(if self.is_v2 { name_v2 } else { name_v1 });
        std::fs::write(&path, value).map_err(|error| Missing(format!("cannot set {}: {error}", path.display())))
    }

    fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("left behind: {}", self.path.display());
    }
}

/// Bytes that a process with a queue of 8 MiB may have, its program and its page cache included.
const MEMORY_MAX: u64 = 48 << 20;
/// Entries of a backlog several times as long.
const BACKLOG: u64 = 150_000;

fn a_backlog_longer_than_memory() -> Result<(), Missing> {
    let group = Cgroup::new("memory", "memory")?;
    group.set("memory.limit_in_bytes", "memory.max", &MEMORY_MAX.to_string())?;
    // On the machine's own disk: what lies on a disk in memory would be charged to the group.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let story = Story {
        cgroups: vec![group.procs()],
        is_periodic: true,
        log_bytes_max: 1 << 30,
        group_len: 64,
        padding_max: 1900,
        rest: Duration::ZERO,
        ..Story::new(&place.path().join("queue"), &place.path().join("journal"))
    };
    let mut player = story.start();
    player.until("a long backlog", |journal| {
        journal
            .all("state")
            .last()
            .is_some_and(|said| said.split(' ').next().unwrap().parse::<u64>().unwrap() > BACKLOG)
    });
    let written = player.kill();
    // Another process, with as little: it finds everything, and delivers it.
    let again = Story { groups: Some(0), delivers: true, journal: place.path().join("again"), ..story.clone() };
    let read = again.start().finish();
    let entries: std::collections::HashSet<(u32, u32)> =
        read.got.values().map(|(producer, number, _)| (*producer, *number)).collect();
    for (producer, number, _) in &written.acks {
        assert!(entries.contains(&(*producer, *number)), "LOST: entry {number} of {producer}");
    }
    // The newest of them, which nobody was told to be durable, may have died with the process.
    assert!(read.got.len() as u64 > BACKLOG * 9 / 10, "{}", read.got.len());
    assert!(read.all("end").all(|said| said.starts_with("Ok(")), "{:?}", read.last_lines());
    println!("{} entries, about {} MB, through {} MB", read.got.len(), read.got.len() / 1000, MEMORY_MAX >> 20);
    Ok(())
}

#[test]
fn a_backlog_longer_than_the_memory_of_a_control_group_is_written_and_delivered() {
    on_a_real_machine("memory limit", a_backlog_longer_than_memory);
}

const BYTES_PER_SECOND: u32 = 4 << 20;

fn a_throttled_disk(fs: Fs) -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), fs, fs.disk_len())?;
    let group = Cgroup::new("blkio", "io")?;
    let device = disk.device.numbers();
    let story = Story {
        cgroups: vec![group.procs()],
        rejects: true,
        group_len: 64,
        padding_max: 1900,
        rest: Duration::ZERO,
        ..Story::new(&disk.at().join("queue"), &scratch.path().join("journal"))
    };
    let mut player = story.start();
    player.until_acks(20);
    let limit = format!("{device} {BYTES_PER_SECOND}");
    group.set(
        "blkio.throttle.write_bps_device",
        "io.max",
        &if group.is_v2 { limit.replace(' ', " wbps=") } else { limit },
    )?;
    player.until("pushes are given back", |journal| journal.all("full").count() >= 3);
    player.until("its memory is known", |journal| journal.all("state").count() >= 2);
    // At a trickle, but on.
    player.until_acks(5);
    let none = if group.is_v2 { format!("{device} wbps=max") } else { format!("{device} 0") };
    group.set("blkio.throttle.write_bps_device", "io.max", &none)?;
    player.until("there is room again", |journal| journal.all("room").next().is_some());
    let journal = player.kill();
    until("its last write is over", || std::fs::read_to_string(group.procs()).unwrap().is_empty());
    assert_memory_is_bounded(&journal);
    assert!(journal.all("refused").next().is_none(), "{:?}", journal.last_lines());
    check(&story, &journal, &story.dir, u64::MAX);
    Ok(())
}

#[test]
fn a_throttled_disk_holds_pushes_up_in_bounded_memory() {
    on_a_real_machine("throttled disk, ext4", || a_throttled_disk(Fs::Ext4));
}
