//! Power cuts, by recording what reaches the device and building disks from parts of it (row 2, on real file systems).

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringwal::Io;

use super::check::{Found, check};
use super::crash::{Crashes, Cut};
use super::device::Rigged;
use super::machine::{Disk, Fs, Loop, Missing, on_a_real_machine, scratch};
use super::story::{Journal, Story};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn images() -> usize {
    number("RINGWAL_ROOT_IMAGES").unwrap_or(12) as usize
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    number("RINGWAL_ROOT_SEED").unwrap_or(now)
}

/// Of many images.
#[derive(Default)]
struct Sum {
    images: usize,
    dropped: usize,
    torn: usize,
    promised: usize,
    entries: usize,
}

impl Sum {
    fn add(&mut self, cut: Cut, found: Found) {
        self.images += 1;
        self.dropped += cut.dropped;
        self.torn += usize::from(found.torn);
        self.promised += found.promised;
        self.entries += found.entries;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, dropped, torn, promised, entries } = self;
        write!(
            f,
            "{images} crash images, {dropped} sectors lost, {torn} torn tails, {promised} acknowledgements held, {entries} \
             entries recovered"
        )
    }
}

/// What a story left: what the device recorded, the disk before that, the journal.
struct Recording {
    story: Story,
    journal: Journal,
    crashes: Crashes,
}

/// Plays a story over a recording device until its journal is as wanted, and kills it.
fn record(
    mut rigged: Rigged,
    scratch: &Path,
    story: impl FnOnce(Story) -> Story,
    mut is_enough: impl FnMut(&Journal) -> bool,
) -> Recording {
    let plain = Story {
        counter: Some(rigged.counter()),
        rest: Duration::ZERO,
        ..Story::new(&rigged.at().join("queue"), &scratch.join("journal"))
    };
    let story = story(plain);
    let mut player = story.start();
    player.until("enough is on disk", |journal| is_enough(journal));
    let journal = player.kill();
    rigged.unplug();
    let seed = seed();
    let crashes = Crashes::new(rigged.control.take_log(), scratch.join("start"), seed);
    let (writes, flushes) = crashes.counts();
    let (fs, groups) = (rigged.fs.name(), journal.acks.len());
    println!("{fs}: {groups} groups acknowledged, {writes} writes and {flushes} flushes, seed {seed}");
    Recording { story, journal, crashes }
}

impl Recording {
    /// Makes the image of a crash, and mounts it.
    fn crash(&mut self, at: usize, scratch: &Path, fs: Fs) -> Result<(Cut, Disk), Missing> {
        let image = scratch.join("image");
        let cut = self.crashes.image(at, &image);
        Ok((cut, Disk::on(Loop::new(&image)?, fs, &scratch.join("crashed"))))
    }
}

/// Records a story on this file system, and looks at what crashes in it would have left.
fn survives_power_cuts(fs: Fs, is_periodic: bool, delivers: bool) -> Result<(), Missing> {
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), fs, true)?;
    // With delivery so little room that every slot is used several times.
    let log_bytes_max = if delivers { 2 << 20 } else { 128 << 20 };
    let story = |plain| Story { is_periodic, delivers, log_bytes_max, ..plain };
    let mut recording = record(rigged, scratch.path(), story, |journal| {
        journal.acks.len() >= 500 && (!delivers || journal.got.len() >= 15_000)
    });
    let mut sum = Sum::default();
    for at in recording.crashes.moments(images()) {
        let (cut, disk) = recording.crash(at, scratch.path(), fs)?;
        println!("  {cut}");
        let found = check(&recording.story, &recording.journal, &disk.at().join("queue"), cut.at);
        sum.add(cut, found);
    }
    println!("{}: {sum}", fs.name());
    Ok(())
}

#[test]
fn every_write_that_was_acknowledged_survives_a_power_cut_under_ext4() {
    on_a_real_machine("power cut, ext4, immediate", || survives_power_cuts(Fs::Ext4, false, false));
}

#[test]
fn what_a_sync_acknowledged_survives_a_power_cut_under_ext4_while_slots_are_used_again() {
    on_a_real_machine("power cut, ext4, periodic, delivering", || survives_power_cuts(Fs::Ext4, true, true));
}

#[test]
fn every_write_that_was_acknowledged_survives_a_power_cut_under_xfs_while_slots_are_used_again() {
    on_a_real_machine("power cut, xfs, immediate, delivering", || survives_power_cuts(Fs::Xfs, false, true));
}

#[test]
fn what_a_sync_acknowledged_survives_a_power_cut_under_xfs() {
    on_a_real_machine("power cut, xfs, periodic", || survives_power_cuts(Fs::Xfs, true, false));
}

#[test]
fn what_a_sync_acknowledged_survives_a_power_cut_under_btrfs() {
    on_a_real_machine("power cut, btrfs, periodic", || survives_power_cuts(Fs::Btrfs, true, false));
}

/// A crash, then another one while what the first has left is being recovered and goes on.
fn survives_a_power_cut_after_a_power_cut(fs: Fs, is_periodic: bool) -> Result<(), Missing> {
    let first_scratch = scratch();
    let rigged = Rigged::new(first_scratch.path(), fs, true)?;
    let story = |plain| Story { is_periodic, io: Io::Threads, ..plain };
    let mut first = record(rigged, first_scratch.path(), story, |journal| journal.acks.len() >= 200);
    let mut sum = Sum::default();
    for at in first.crashes.moments(3) {
        let scratch = scratch();
        let cut = first.crashes.image(at, &scratch.path().join("backing"));
        println!("  {cut}");
        let rigged = Rigged::over(scratch.path(), fs, true)?;
        let story = |plain| Story { is_periodic, producer_first: 10, ..plain };
        let mut second = record(rigged, scratch.path(), story, |journal| journal.acks.len() >= 20);
        let mut journal = first.journal.clone().settle(cut.at);
        journal.add(second.journal.clone());
        for at in second.crashes.moments(images() / 2) {
            let (cut, disk) = second.crash(at, scratch.path(), fs)?;
            println!("    {cut}");
            let found = check(&second.story, &journal, &disk.at().join("queue"), cut.at);
            sum.add(cut, found);
        }
    }
    println!("{}: {sum}", fs.name());
    Ok(())
}

#[test]
fn a_power_cut_within_recovery_from_a_power_cut_loses_nothing_under_ext4() {
    on_a_real_machine("two power cuts, ext4, threads", || survives_a_power_cut_after_a_power_cut(Fs::Ext4, false));
}

#[test]
fn a_power_cut_within_recovery_from_a_power_cut_loses_nothing_under_xfs() {
    on_a_real_machine("two power cuts, xfs, threads", || survives_a_power_cut_after_a_power_cut(Fs::Xfs, true));
}

/// The check itself: without barriers a sync does not reach the device, and that must be seen.
fn losses_are_seen() -> Result<(), Missing> {
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), Fs::Ext4, true)?;
    rigged.remount("nobarrier");
    let mut recording = record(rigged, scratch.path(), |plain| plain, |journal| journal.acks.len() >= 100);
    let mut lost = Vec::new();
    for at in recording.crashes.moments(4) {
        let looked = quietly(|| {
            let (cut, disk) = recording.crash(at, scratch.path(), Fs::Ext4)?;
            check(&recording.story, &recording.journal, &disk.at().join("queue"), cut.at);
            Ok(())
        });
        match looked {
            Ok(result) => result?,
            Err(what) => lost.push(what),
        }
    }
    println!("without barriers, of 4 crash images: {lost:#?}");
    assert!(!lost.is_empty(), "syncs did nothing, and nothing was found to be missing");
    Ok(())
}

/// What panics in it, without the noise.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn what_is_lost_where_syncs_do_nothing_is_seen_by_this_check() {
    on_a_real_machine("power cut, ext4 without barriers", losses_are_seen);
}
