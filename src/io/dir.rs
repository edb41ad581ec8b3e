//! The queue's directory: names, files, and what makes both durable.
//!
//! ```text
//!   dir/  LOCK  META  seg-00000000.rwal  seg-00000001.rwal …
//!         park/        META  seg-00000000.rwal …
//!         quarantine/  seg-00000001.rwal.1  park-seg-00000000.rwal.1 …
//! ```
//! A file's data and its name are two things: a new or removed name is durable only after a sync of
//! the directory that holds it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir as Entries, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::io::lock::Lock;
use crate::lsn::SlotNo;
use crate::wal::op::{FileId, LogId};

/// Rights of files: the entries are nobody else's business.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Rights of directories.
pub(super) const DIR_MODE: Mode = Mode::RWXU;
/// Where the parked entries are.
pub(super) const PARK: &str = "park";
const QUARANTINE: &str = "quarantine";

/// A queue's directory, open and, unless it is only looked at, locked.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    /// Whether files are opened with `O_DIRECT`.
    pub(super) direct: bool,
    /// What offsets, lengths and memory are aligned to.
    pub(super) align: usize,
    pub(super) read_only: bool,
    /// Held until the last user of the directory is gone.
    pub(super) lock: Option<Lock>,
}

impl Dir {
    fn flags(&self) -> OFlags {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let direct = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        // A link is none of our files: what it leads to is not ours to overwrite.
        access | direct | OFlags::CLOEXEC | OFlags::NOFOLLOW
    }

    /// Opens a file that is there.
    pub(super) fn open(&self, file: FileId) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, file.to_string(), self.flags(), Mode::empty())
    }

    /// Opens a file, and says whether it had to be created.
    pub(super) fn create(&self, file: FileId) -> Result<(OwnedFd, bool), Errno> {
        if file.log() == LogId::Park {
            self.make_dir(PARK)?;
        }
        let flags = self.flags() | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(&self.fd, file.to_string(), flags, FILE_MODE) {
            Ok(fd) => Ok((fd, true)),
            Err(Errno::EXIST) => Ok((self.open(file)?, false)),
            Err(errno) => Err(errno),
        }
    }

    /// Creates a file in `quarantine/` for a copy of `file`, under a name that is not taken.
    pub(super) fn create_copy(&self, file: FileId) -> Result<(OwnedFd, String), Errno> {
        self.make_dir(QUARANTINE)?;
        let flat = file.to_string().replace('/', "-");
        let flags = self.flags() | OFlags::CREATE | OFlags::EXCL;
        let mut number = 1_u32;
        loop {
            let name = format!("{QUARANTINE}/{flat}.{number}");
            match rustix::fs::openat(&self.fd, &name, flags, FILE_MODE) {
                Ok(fd) => return Ok((fd, name)),
                Err(Errno::EXIST) => number = number.checked_add(1).ok_or(Errno::EXIST)?,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Removes a name durably; one that is not there is removed already.
    pub(super) fn remove(&self, file: FileId) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.fd, file.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => self.sync_names(file.log()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes a copy that did not come to an end.
    pub(super) fn remove_copy(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// Makes the names of a log's files durable.
    pub(super) fn sync_names(&self, log: LogId) -> Result<(), Errno> {
        match log {
            LogId::Main => rustix::fs::fsync(&self.fd),
            LogId::Park => self.sync_dir(PARK),
        }
    }

    /// Makes the names of the copies durable.
    pub(super) fn sync_copies(&self) -> Result<(), Errno> {
        self.sync_dir(QUARANTINE)
    }

    fn sync_dir(&self, name: &str) -> Result<(), Errno> {
        match self.open_dir(name) {
            Ok(fd) => rustix::fs::fsync(fd),
            // Nothing in it, hence nothing to make durable.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn open_dir(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn make_dir(&self, name: &str) -> Result<(), Errno> {
        match rustix::fs::mkdirat(&self.fd, name, DIR_MODE) {
            // Whoever made it may have been killed before its name was durable.
            Ok(()) | Err(Errno::EXIST) => rustix::fs::fsync(&self.fd),
            Err(errno) => Err(errno),
        }
    }

    /// The files of a log with their lengths, in order of name. Other files are none of our business.
    pub(super) fn list(&self, log: LogId) -> Result<Vec<(FileId, u64)>, Errno> {
        let folder = match log {
            LogId::Main => self.open_dir("."),
            LogId::Park => self.open_dir(PARK),
        };
        let folder = match folder {
            Ok(folder) => folder,
            Err(Errno::NOENT) if log == LogId::Park => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let mut files = Vec::new();
        for entry in Entries::read_from(folder.as_fd())? {
            let entry = entry?;
            let Some(file) = entry.file_name().to_str().ok().and_then(|name| parse(log, name)) else { continue };
            match rustix::fs::statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    files.push((file, u64::try_from(stat.st_size).unwrap_or(0)));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

/// The file of this name, if it is one of ours: exactly the name that we would give it.
fn parse(log: LogId, name: &str) -> Option<FileId> {
    if name == "META" {
        return Some(FileId::Meta(log));
    }
    let digits = name.strip_prefix("seg-")?.strip_suffix(".rwal")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits.len() == 8 || !digits.starts_with('0');
    if !plain || !canonical {
        return None;
    }
    digits.parse().ok().map(|number| FileId::Slot(log, SlotNo(number)))
}

/// Whether a file of this name belongs to a log.
pub(super) fn is_ours(name: &str) -> bool {
    parse(LogId::Main, name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back_and_others_are_left_alone() {
        for file in [FileId::Meta(LogId::Main), FileId::Slot(LogId::Main, SlotNo(7))] {
            assert_eq!(parse(LogId::Main, &file.to_string()), Some(file));
        }
        let big = FileId::Slot(LogId::Main, SlotNo(123_456_789));
        assert_eq!(parse(LogId::Main, &big.to_string()), Some(big));
        for other in
            ["LOCK", "park", "seg-0000001.rwal", "seg-000000001.rwal", "seg-+0000001.rwal", "seg-00000001.rwal~"]
        {
            assert_eq!(parse(LogId::Main, other), None, "{other}");
        }
    }
}
