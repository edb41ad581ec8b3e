//! What a directory's file system is and what it promises: asked once, at open.
//!
//! | question                     | who answers            | if nobody does            |
//! |------------------------------|------------------------|---------------------------|
//! | which file system            | `statfs`               | its number                |
//! | does anything survive here   | its name, and options  | yes                       |
//! | past the page cache, aligned | `STATX_DIOALIGN`       | no: through the page cache |
//! | physical block               | `/sys/dev/block`       | 4096                      |
//! | longest file                 | `RLIMIT_FSIZE`         |                           |
//!
//! That `open` accepts `O_DIRECT` says nothing: btrfs and tmpfs accept it and use the page cache.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use crate::wal::segment::BLOCK_LEN_MAX;

/// The unit where the device's own is not known.
const BLOCK_LEN_DEFAULT: u32 = 4096;
const BLOCK_LEN_LEAST: u32 = 512;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Probed {
    pub(super) file_system: String,
    pub(super) durable: bool,
    pub(super) direct: bool,
    pub(super) block_len_min: u32,
    pub(super) notes: Vec<String>,
}

/// Asks about the directory, by a regular file of it where there is one.
pub(super) fn probe(dir: BorrowedFd<'_>, sample: Option<&str>) -> Result<Probed, Errno> {
    // The type of the field differs between architectures; the numbers fit 32 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magic number has 32 bits")]
    let magic = rustix::fs::fstatfs(dir)?.f_type as u32;
    let (file_system, mut durable, note) = file_system(magic);
    let mut notes: Vec<String> = note.into_iter().map(str::to_owned).collect();
    match mounted(dir).as_deref().and_then(unsafe_option) {
        Some(Unsafe::Volatile) => {
            durable = false;
            notes.push(
                "it is mounted `volatile`: syncs do nothing, and nothing here survives a loss of power".to_owned(),
            );
        }
        Some(Unsafe::NoBarrier) => notes.push(
            "it is mounted without barriers: syncs do not reach through the device's cache, and unless that has a \
             battery nothing is safe from a loss of power; mount it with `barrier=1`"
                .to_owned(),
        ),
        None => {}
    }

    let align = sample.and_then(|name| direct_align(dir, name));
    let mut block_len_min = physical_block(dir).unwrap_or(BLOCK_LEN_DEFAULT).max(BLOCK_LEN_LEAST);
    if let Some(align) = align {
        block_len_min = block_len_min.max(align);
    }
    if !block_len_min.is_power_of_two() || block_len_min > BLOCK_LEN_MAX {
        block_len_min = BLOCK_LEN_DEFAULT;
    }
    let direct = align.is_some_and(|align| block_len_min.is_multiple_of(align));
    if !direct && durable {
        notes.push(format!(
            "{file_system} does not say how to write past the page cache here, so that writes go through it: \
             just as durable, slower, and memory is used twice"
        ));
    }
    if let Some(limit) = file_len_max() {
        notes.push(format!(
            "files of this process are limited to {limit} bytes (RLIMIT_FSIZE): a longer segment cannot be prepared; \
             raise it with `ulimit -f`"
        ));
    }
    Ok(Probed { file_system, durable, direct, block_len_min, notes })
}

/// The longest file that this process may write, where there is a limit.
pub(super) fn file_len_max() -> Option<u64> {
    rustix::process::getrlimit(Resource::Fsize).current
}

/// What direct reads and writes must be aligned to, in memory and in the file; `None`: there are none.
fn direct_align(dir: BorrowedFd<'_>, name: &str) -> Option<u32> {
    let stat = rustix::fs::statx(dir, name, AtFlags::empty(), StatxFlags::DIOALIGN).ok()?;
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 || stat.stx_dio_offset_align == 0 {
        return None;
    }
    // Reported and still refused would be a surprise; then the page cache it is.
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
    Some(stat.stx_dio_offset_align.max(stat.stx_dio_mem_align))
}

/// The device's physical block, where the directory lies on one device.
fn physical_block(dir: BorrowedFd<'_>) -> Option<u32> {
    let device = rustix::fs::fstat(dir.as_fd()).ok()?.st_dev;
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A partition has no queue of its own: its disk has.
    ["queue", "../queue"].iter().find_map(|queue| {
        let text = std::fs::read_to_string(format!("{device}/{queue}/physical_block_size")).ok()?;
        text.trim().parse().ok()
    })
}

/// The file system's name, unless its files are memory.
pub(super) fn not_in_memory(magic: u32) -> Option<String> {
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];
    (!IN_MEMORY.contains(&magic)).then(|| file_system(magic).0)
}

/// A mount option that takes the meaning from a sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unsafe {
    /// overlayfs: no sync is passed on.
    Volatile,
    /// ext4, btrfs: no flush of the device.
    NoBarrier,
}

/// The options of the file system that the directory lies on, where `/proc` tells.
fn mounted(dir: BorrowedFd<'_>) -> Option<String> {
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    let all = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    options_of(&all, stat.stx_mnt_id)
}

/// The last field of a mount's line: `ID PARENT DEVICE ROOT PLACE OPTIONS … - TYPE SOURCE OPTIONS`.
fn options_of(mountinfo: &str, id: u64) -> Option<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next().is_some_and(|first| first.parse() == Ok(id)))?;
    let (_, behind) = line.split_once(" - ")?;
    behind.split(' ').nth(2).map(str::to_owned)
}

fn unsafe_option(options: &str) -> Option<Unsafe> {
    options.split(',').find_map(|option| match option {
        "volatile" | "fsync=volatile" => Some(Unsafe::Volatile),
        "nobarrier" | "barrier=0" => Some(Unsafe::NoBarrier),
        _ => None,
    })
}

/// Name, whether it outlives a loss of power, and what it does not promise.
fn file_system(magic: u32) -> (String, bool, Option<&'static str>) {
    const NETWORK: &str = "a network file system: what a sync promises, and whether the directory's lock holds between \
         machines, is up to the server and its mount options";
    let (name, durable, note) = match magic {
        0x0000_EF53 => ("ext4", true, None),
        0x5846_5342 => ("xfs", true, None),
        0xF2F5_2010 => ("f2fs", true, None),
        0x0102_1994 => ("tmpfs", false, Some("tmpfs is memory: nothing here survives a loss of power or a restart")),
        0x8584_58F6 => ("ramfs", false, Some("ramfs is memory: nothing here survives a loss of power or a restart")),
        0x794C_7630 => (
            "overlayfs",
            true,
            Some(
                "overlayfs promises what the layer below it promises, and nothing if mounted `volatile`; every write \
                 takes a detour through a kernel worker: use a volume instead",
            ),
        ),
        0x9123_683E => (
            "btrfs",
            true,
            Some(
                "btrfs copies on write: each commit also writes metadata, and a full disk can fail a commit in space \
                 that was reserved; `chattr +C` on the empty directory helps in part",
            ),
        ),
        0xCA45_1A4E => {
            ("bcachefs", true, Some("bcachefs copies on write: a full disk can fail a commit in reserved space"))
        }
        0x2FC1_2FC1 => ("zfs", true, Some("zfs copies on write: a full disk can fail a commit in reserved space")),
        0x0000_6969 => ("nfs", true, Some(NETWORK)),
        0xFF53_4D42 | 0xFE53_4D42 => ("cifs", true, Some(NETWORK)),
        0x00C3_6400 => ("ceph", true, Some(NETWORK)),
        0x6573_5546 => {
            ("fuse", true, Some("a FUSE file system promises what the program behind it promises: ask its manual"))
        }
        0x0102_1997 => ("9p", true, Some("9p promises what the host's server promises, and its cache mode allows")),
        _ => {
            let note = "an unknown file system: whether a sync reaches the disk is up to it";
            return (format!("{magic:#x}"), true, Some(note));
        }
    };
    (name.to_owned(), durable, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_file_systems_are_not_durable() {
        for magic in [0x0102_1994, 0x8584_58F6] {
            let (_, durable, note) = file_system(magic);
            assert!(!durable && note.is_some());
        }
        assert_eq!(file_system(0xEF53), ("ext4".to_owned(), true, None));
        assert_eq!(file_system(0x1234).0, "0x1234");
    }
    /// As the kernel wrote them: a volatile overlay was taken for a durable one, as nobody looked.
    #[test]
    fn mount_options_that_make_syncs_void_are_found_in_the_right_line() {
        let mountinfo = "\
            29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
            102 29 0:48 / /tmp/o rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c,volatile\n\
            103 29 7:1 / /tmp/volatile rw,relatime - ext4 /dev/loop1 rw,nobarrier,data=ordered\n";
        let of = |id| options_of(mountinfo, id).as_deref().and_then(unsafe_option);
        assert_eq!(of(29), None);
        assert_eq!(of(102), Some(Unsafe::Volatile));
        assert_eq!(of(103), Some(Unsafe::NoBarrier));
        assert_eq!(of(10), None);
        assert_eq!(unsafe_option("rw,upperdir=/volatile/nobarrier"), None);
    }
}
