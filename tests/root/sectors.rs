//! Devices with 512 and 4096 byte sectors, with and without a volatile cache (row 20).

use super::check::check;
use super::common::copy_dir;
use super::machine::{Disk, Fs, Loop, Missing, on_a_real_machine, scratch, sparse_file};
use super::story::{Journal, Story};

/// Demands that the file system was used the way it says it can be, in units of the device's sectors.
fn assert_direct(journal: &Journal, fs: Fs, sector_len: u32) {
    let opened = journal.all("open").next().unwrap();
    assert!(opened.contains("direct: true"), "{}: {opened}", fs.name());
    assert!(opened.contains(&format!("block_len_min: {sector_len},")), "{}: {opened}", fs.name());
    assert!(journal.all("refused").next().is_none(), "{:?}", journal.last_lines());
}

fn works_on_sectors(sector_len: u32) -> Result<(), Missing> {
    for fs in [Fs::Ext4, Fs::Xfs] {
        for cache in ["write back", "write through"] {
            fs.need()?;
            let scratch = scratch();
            let file = scratch.path().join("disk");
            sparse_file(&file, fs.disk_len());
            let device = Loop::with_sectors(&file, sector_len)?;
            device.set_cache(cache);
            assert_eq!(
                std::fs::read_to_string(device.queue("logical_block_size")).unwrap().trim(),
                sector_len.to_string()
            );
            fs.make(&device.path);
            let mut disk = Disk::on(device, fs, &scratch.path().join("mnt"));
            for is_periodic in [false, true] {
                let dir = disk.at().join(if is_periodic { "periodic" } else { "immediate" });
                let story = Story { is_periodic, ..Story::new(&dir, &scratch.path().join("journal")) };
                let mut player = story.start();
                player.until_acks(50);
                let journal = player.kill();
                assert_direct(&journal, fs, sector_len);
                disk.remount();
                check(&story, &journal, &dir, u64::MAX);
            }
        }
    }
    Ok(())
}

#[test]
fn sectors_of_512_bytes_are_used_directly_with_either_cache() {
    on_a_real_machine("512-byte sectors", || works_on_sectors(512));
}

#[test]
fn sectors_of_4096_bytes_are_used_directly_with_either_cache() {
    on_a_real_machine("4096-byte sectors", || works_on_sectors(4096));
}

/// A directory is copied to a device with other sectors, and goes on there.
fn moves_between_sectors(from_len: u32, to_len: u32) -> Result<(), Missing> {
    let disk = |name: &str, sector_len| -> Result<_, Missing> {
        Fs::Ext4.need()?;
        let scratch = scratch();
        let file = scratch.path().join(name);
        sparse_file(&file, Fs::Ext4.disk_len());
        let device = Loop::with_sectors(&file, sector_len)?;
        Fs::Ext4.make(&device.path);
        let disk = Disk::on(device, Fs::Ext4, &scratch.path().join("mnt"));
        // In this order: what is bound last is dropped first.
        Ok((scratch, disk))
    };
    let (scratch, from) = disk("from", from_len)?;
    let story = Story::new(&from.at().join("queue"), &scratch.path().join("journal"));
    let mut player = story.start();
    player.until_acks(50);
    let journal = player.kill();
    assert_direct(&journal, Fs::Ext4, from_len);
    let (_scratch, to) = disk("to", to_len)?;
    let moved = to.at().join("queue");
    copy_dir(&story.dir, &moved);
    check(&story, &journal, &moved, u64::MAX);
    Ok(())
}

#[test]
fn a_directory_moves_between_devices_with_different_sectors() {
    on_a_real_machine("from 512 to 4096", || moves_between_sectors(512, 4096));
    on_a_real_machine("from 4096 to 512", || moves_between_sectors(4096, 512));
}
