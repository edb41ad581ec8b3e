//! File systems that promise less, or work in another way: used as far as they go, with a plain word about the rest
//! (row 31).

use std::path::Path;

use ringwal::{Concern, Durability, OpenError};

use super::check::check;
use super::common::{LONG, Recorder, hash_dir, small};
use super::machine::{Disk, Fs, Missing, Mount, need, need_file_system, on_a_real_machine, run, scratch, text};
use super::story::Story;

/// Plays a story in this directory, kills it, and looks. `says` are words that health must have for the user;
/// none: all is well.
fn works_and_says(dir: &Path, journal: &Path, is_durable: bool, says: &[&str]) {
    for is_periodic in [false, true] {
        let dir = dir.join(if is_periodic { "periodic" } else { "immediate" });
        // With recycling, and as a killed process leaves it.
        for delivers in [false, true] {
            let dir = dir.join(if delivers { "delivering" } else { "keeping" });
            let story = Story {
                is_periodic,
                delivers,
                log_bytes_max: if delivers { 2 << 20 } else { 64 << 20 },
                ..Story::new(&dir, journal)
            };
            let mut player = story.start();
            player.until_acks(50);
            if delivers {
                player.until("slots are used again", |journal| journal.got.len() > 10_000);
            }
            let journal = player.kill();
            check(&story, &journal, &dir, u64::MAX);
        }
        let queue = small(&dir.join("said"), Durability::Immediate).open(Recorder::default()).unwrap();
        let notes: Vec<String> = queue
            .health()
            .reasons()
            .iter()
            .filter_map(|reason| match reason {
                Concern::Platform(note) => Some(note.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(queue.recovery().disk.durable, is_durable, "{notes:?}");
        assert_eq!(says.is_empty(), notes.is_empty(), "{notes:?}");
        for word in says {
            assert!(notes.iter().any(|note| note.contains(word)), "{word:?} is missing: {notes:?}");
        }
        queue.shutdown(LONG).unwrap();
    }
}

fn on_tmpfs() -> Result<(), Missing> {
    need(&["mount", "umount"])?;
    let (scratch, place) = (scratch(), scratch());
    let mount =
        Mount::with(&["-t", "tmpfs", "-o", "size=512m", "tmpfs"], &place.path().join("mnt")).map_err(Missing)?;
    works_and_says(&mount.at, &scratch.path().join("journal"), false, &["nothing here survives a loss of power"]);
    Ok(())
}

#[test]
fn tmpfs_keeps_what_a_killed_process_was_told_and_says_that_it_is_memory() {
    on_a_real_machine("tmpfs", on_tmpfs);
}

/// The kernel's plainest file system: it cannot reserve space either.
fn on_ramfs() -> Result<(), Missing> {
    need(&["mount", "umount"])?;
    let (scratch, place) = (scratch(), scratch());
    let mount = Mount::with(&["-t", "ramfs", "ramfs"], &place.path().join("mnt")).map_err(Missing)?;
    works_and_says(&mount.at, &scratch.path().join("journal"), false, &["ramfs is memory: nothing here survives"]);
    Ok(())
}

#[test]
fn ramfs_keeps_what_a_killed_process_was_told_and_says_that_it_is_memory() {
    on_a_real_machine("ramfs", on_ramfs);
}

/// Without a journal, and without extents.
fn on_ext2() -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), Fs::Ext2, 1 << 30)?;
    works_and_says(disk.at(), &scratch.path().join("journal"), true, &[]);
    Ok(())
}

#[test]
fn ext2_keeps_everything_as_its_sibling_does() {
    on_a_real_machine("ext2", on_ext2);
}

fn on_btrfs() -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), Fs::Btrfs, 2 << 30)?;
    let journal = scratch.path().join("journal");
    works_and_says(disk.at(), &journal, true, &["btrfs copies on write", "past the page cache"]);
    Ok(())
}

#[test]
fn btrfs_keeps_everything_and_says_what_a_full_disk_does_there() {
    on_a_real_machine("btrfs", on_btrfs);
}

/// overlayfs on a real ext4, with these options.
fn on_overlay(options: &str, is_durable: bool, says: &[&str]) -> Result<(), Missing> {
    need_file_system("overlay")?;
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), Fs::Ext4, 1 << 30)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
        let path = disk.at().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    // So that files are copied up: a store of an image's lower layer.
    small(&lower.join("immediate/said"), Durability::Immediate)
        .open(Recorder::default())
        .unwrap()
        .shutdown(LONG)
        .unwrap();
    let layers = format!("lowerdir={},upperdir={},workdir={}{options}", text(&lower), text(&upper), text(&work));
    let at = scratch.path().join("overlay");
    let overlay = Mount::with(&["-t", "overlay", "-o", &layers, "overlay"], &at)
        .map_err(|error| Missing(format!("no overlay with {options:?}: {error}")))?;
    works_and_says(&overlay.at, &scratch.path().join("journal"), is_durable, says);
    Ok(())
}

#[test]
fn overlayfs_keeps_what_its_layer_keeps_and_says_so() {
    on_a_real_machine("overlay", || on_overlay("", true, &["overlayfs promises what the layer below it promises"]));
}

#[test]
fn a_volatile_overlayfs_says_that_nothing_survives_a_loss_of_power() {
    on_a_real_machine("overlay, volatile", || {
        on_overlay(",volatile", false, &["it is mounted `volatile`: syncs do nothing"])
    });
}

fn without_barriers() -> Result<(), Missing> {
    let scratch = scratch();
    let disk = Disk::new(scratch.path(), Fs::Ext4, 1 << 30)?;
    run("mount", &["-o", "remount,nobarrier", text(disk.at())]);
    works_and_says(disk.at(), &scratch.path().join("journal"), true, &["mounted without barriers"]);
    Ok(())
}

#[test]
fn an_ext4_without_barriers_says_that_syncs_do_not_reach_the_disk() {
    on_a_real_machine("ext4, nobarrier", without_barriers);
}

/// A whole file system that is mounted read-only refuses to be opened, and lets itself be inspected.
fn on_a_read_only_mount() -> Result<(), Missing> {
    let scratch = scratch();
    let mut disk = Disk::new(scratch.path(), Fs::Ext4, Fs::Ext4.disk_len())?;
    let dir = disk.at().join("queue");
    let story = Story::new(&dir, &scratch.path().join("journal"));
    let mut player = story.start();
    player.until_acks(50);
    let journal = player.kill();
    disk.remount();
    run("mount", &["-o", "remount,ro", text(disk.at())]);
    let before = hash_dir(&dir);
    for place in [dir.clone(), disk.at().join("new")] {
        let error = small(&place, Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
        let is_read_only = matches!(&error, OpenError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_read_only && error.to_string().contains("mount it writable"), "{error:?}");
    }
    assert_eq!(hash_dir(&dir), before);
    run("mount", &["-o", "remount,rw", text(disk.at())]);
    check(&story, &journal, &dir, u64::MAX);
    Ok(())
}

#[test]
fn a_read_only_mount_is_refused_with_what_to_do_and_goes_on_when_it_is_writable() {
    on_a_real_machine("read-only ext4", on_a_read_only_mount);
}
