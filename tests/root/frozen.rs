//! A file system that is frozen, dies, or is unmounted under a running queue (rows 13, 18).

use ringwal::Io;

use super::check::check;
use super::errors::assert_failed;
use super::machine::{Disk, Fs, Missing, need, on_a_real_machine, run, scratch, text, until};
use super::story::Story;

/// Thaws the file system also when the test fails: nothing could unmount it otherwise.
struct Frozen<'a>(&'a str);

impl<'a> Frozen<'a> {
    fn new(at: &'a str) -> Self {
        run("fsfreeze", &["-f", at]);
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["-u", self.0]);
    }
}

/// With io_uring a kernel may hold up the flush core itself, at the first write into what is frozen: nothing is told
/// durable then, right or wrong. With threads only the write waits.
fn survives_a_freeze(fs: Fs, is_periodic: bool, io: Io) -> Result<(), Missing> {
    need(&["fsfreeze"])?;
    let scratch = scratch();
    let mut disk = Disk::new(scratch.path(), fs, fs.disk_len())?;
    let (dir, journal) = (disk.at().join("queue"), scratch.path().join("journal"));
    let story = Story { is_periodic, io, ..Story::new(&dir, &journal) };
    let mut player = story.start();
    player.until_acks(50);
    let frozen = Frozen::new(text(disk.at()));
    let before = player.journal();
    let states_then = before.all("state").count();
    player.until("time passes", |journal| journal.all("state").count() >= states_then + 100);
    let then = player.journal();
    // Freezing waits for writes under way; what became durable then, each producer may learn once.
    assert!(then.acks.len() <= before.acks.len() + 3, "{} then {}", before.acks.len(), then.acks.len());
    drop(frozen);
    player.until_acks(50);
    let journal = player.finish();
    assert!(journal.all("refused").next().is_none(), "{:?}", journal.last_lines());
    disk.remount();
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn a_frozen_ext4_holds_the_queue_up_and_costs_nothing() {
    on_a_real_machine("freeze, ext4, io_uring", || survives_a_freeze(Fs::Ext4, false, Io::Auto));
    on_a_real_machine("freeze, ext4, threads", || survives_a_freeze(Fs::Ext4, false, Io::Threads));
}

#[test]
fn a_frozen_xfs_holds_the_queue_up_and_costs_nothing() {
    on_a_real_machine("freeze, xfs, io_uring", || survives_a_freeze(Fs::Xfs, true, Io::Auto));
    on_a_real_machine("freeze, xfs, threads", || survives_a_freeze(Fs::Xfs, true, Io::Threads));
}

/// `xfs_io -x -c shutdown`: every access is an error from then on, as after an error that the file system could
/// not stand.
fn survives_a_dead_file_system(fs: Fs, is_periodic: bool) -> Result<(), Missing> {
    need(&["xfs_io"])?;
    let scratch = scratch();
    let mut disk = Disk::new(scratch.path(), fs, fs.disk_len())?;
    let story = Story { is_periodic, ..Story::new(&disk.at().join("queue"), &scratch.path().join("journal")) };
    let mut player = story.start();
    player.until_acks(100);
    run("xfs_io", &["-x", "-c", "shutdown", text(disk.at())]);
    until("the child ends", || !player.is_running());
    let journal = player.finish();
    assert_failed(&journal);
    disk.remount();
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn an_ext4_that_dies_fails_the_log_at_once_and_keeps_what_was_acknowledged() {
    on_a_real_machine("shutdown, ext4", || survives_a_dead_file_system(Fs::Ext4, true));
}

#[test]
fn an_xfs_that_dies_fails_the_log_at_once_and_keeps_what_was_acknowledged() {
    on_a_real_machine("shutdown, xfs", || survives_a_dead_file_system(Fs::Xfs, false));
}

/// `umount -l`: the names are gone, the open files are not, and new segments are made through the open directory.
fn survives_a_lazy_unmount() -> Result<(), Missing> {
    let scratch = scratch();
    let mut disk = Disk::new(scratch.path(), Fs::Ext4, Fs::Ext4.disk_len())?;
    let story = Story::new(&disk.at().join("queue"), &scratch.path().join("journal"));
    let mut player = story.start();
    player.until_acks(50);
    run("umount", &["-l", text(disk.at())]);
    disk.forget_mount();
    // Several segments, of 512 KiB: entries have 450 bytes and more.
    player.until("other segments are begun", |journal| journal.will.values().sum::<u32>() > 10_000);
    player.until_acks(10);
    let journal = player.finish();
    assert!(journal.all("refused").next().is_none(), "{:?}", journal.last_lines());
    disk.remount();
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn a_file_system_that_is_unmounted_lazily_is_used_to_the_end() {
    on_a_real_machine("lazy unmount, ext4", survives_a_lazy_unmount);
}
