//! Opens a directory: locks it, asks it what it can do, chooses the driver.
//!
//! ```text
//!   any thread                              the flush thread
//!   open ──► lock ──► probe ──► Opened ────► into_disk ──► Box<dyn Disk>
//!                                 │
//!                                 └► report: driver, direct, durable, notes
//! ```
//! A ring of io_uring belongs to the thread that made it, so `open` only tries whether one can be
//! had, and [`Opened::into_disk`] makes the one that is used.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::config::Io;
use crate::io::dir::{DIR_MODE, Dir};
use crate::io::error::above;
use crate::io::lock::{LOCK_NAME, Lock};
use crate::io::threads::ThreadsDisk;
#[cfg(feature = "tokio-uring")]
use crate::io::tokio_uring;
use crate::io::uring::{Refusal, UringDisk, UringError};
use crate::io::{Disk, DiskReport, IoOpenError, probe, uring};
use crate::wal::block::Pool;

/// How to open a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoConfig {
    /// Which driver.
    pub choice: Io,
    /// How long to wait for another process to let go of the directory.
    pub lock_wait: Duration,
    /// Whether to create the directory, and what lies above it, when it is missing.
    pub create: bool,
    /// Only look: takes no lock, creates nothing, refuses every op that writes. Meant for inspectors
    /// beside a running queue.
    pub read_only: bool,
}

/// A directory that is locked and understood; becomes a disk on the thread that will drive it.
#[derive(Debug)]
pub struct Opened {
    dir: Arc<Dir>,
    choice: Io,
    report: DiskReport,
}

/// Opens `dir`.
///
/// # Errors
/// See [`IoOpenError`]. A refused opener has changed nothing in the directory.
pub fn open(dir: &Path, config: IoConfig) -> Result<Opened, IoOpenError> {
    let fd = open_dir(dir, config)?;
    let lock = if config.read_only {
        None
    } else {
        rustix::fs::accessat(&fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|errno| IoOpenError::new("write in", dir, errno))?;
        Some(Lock::acquire(dir, fd.as_fd(), config.lock_wait)?)
    };
    let sample = [LOCK_NAME, "META"]
        .into_iter()
        .find(|name| rustix::fs::accessat(&fd, *name, Access::EXISTS, AtFlags::empty()).is_ok());
    let probed = probe::probe(fd.as_fd(), sample).map_err(|errno| IoOpenError::new("examine", dir, errno))?;
    let mut report = DiskReport {
        driver: "",
        direct: probed.direct,
        durable: probed.durable,
        file_system: probed.file_system,
        block_len_min: probed.block_len_min,
        notes: probed.notes,
    };
    let choice = choose(config.choice, &mut report)?;
    let align = usize::try_from(report.block_len_min).unwrap_or(usize::MAX);
    let path = dir.to_path_buf();
    let dir = Dir { path, fd, direct: report.direct, align, read_only: config.read_only, lock };
    Ok(Opened { dir: Arc::new(dir), choice, report })
}

/// The driver that can be had, and its name in the report.
fn choose(choice: Io, report: &mut DiskReport) -> Result<Io, IoOpenError> {
    let on_a_ring = match choice {
        Io::Threads => None,
        Io::Auto | Io::Uring => Some("io_uring"),
        #[cfg(feature = "tokio-uring")]
        Io::TokioUring => Some("tokio-uring"),
    };
    let fall_back = match on_a_ring.map(|driver| (driver, uring::try_setup())) {
        None => None,
        Some((driver, Ok(()))) => {
            report.driver = driver;
            return Ok(choice);
        }
        Some((_, Err(refusal))) => Some(refusal),
    };
    report.driver = "threads";
    match fall_back {
        None => {}
        Some(refusal) if choice == Io::Auto => report.notes.push(fall_back_note(&refusal)),
        Some(Refusal { errno, remedy }) => return Err(IoOpenError::UringRefused { errno, remedy }),
    }
    Ok(Io::Threads)
}

fn fall_back_note(refusal: &Refusal) -> String {
    let error = std::io::Error::from_raw_os_error(refusal.errno);
    format!("threads carry out the writes, as the kernel refuses io_uring ({error}): {}", refusal.remedy)
}

/// Opens the directory, created if it is missing and may be.
fn open_dir(dir: &Path, config: IoConfig) -> Result<OwnedFd, IoOpenError> {
    let open = || rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let may_create = config.create && !config.read_only;
    let opened = match open() {
        Err(Errno::NOENT) if may_create => {
            create_dirs(dir)?;
            open()
        }
        Ok(fd) if may_create && rustix::fs::accessat(&fd, "META", Access::EXISTS, AtFlags::empty()).is_err() => {
            // Whoever made the directory may have been killed before its name was durable.
            sync_name(dir)?;
            Ok(fd)
        }
        other => other,
    };
    opened.map_err(|errno| IoOpenError::new("open", dir, errno))
}

/// Creates a directory and what lies above it, each name made durable in the directory above.
fn create_dirs(dir: &Path) -> Result<(), IoOpenError> {
    let error = |errno| IoOpenError::on_create(dir, errno);
    if dir.parent().is_none() {
        return Ok(());
    }
    let above = above(dir);
    match rustix::fs::mkdir(dir, DIR_MODE) {
        Err(Errno::NOENT) if above != Path::new(".") => {
            create_dirs(above)?;
            // Someone else may have been faster.
            match rustix::fs::mkdir(dir, DIR_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(error(errno)),
            }
        }
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(error(errno)),
    }
    sync_name(dir)
}

/// Makes a directory's name durable in the one above.
fn sync_name(dir: &Path) -> Result<(), IoOpenError> {
    let fd = rustix::fs::open(above(dir), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match fd.and_then(rustix::fs::fsync) {
        // One that may be searched but not read, or lies on another file system, cannot be synced by us: not our refusal.
        Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(IoOpenError::new("sync", above(dir), errno)),
    }
}

impl Opened {
    /// What the disk will be. The disk's own report is newer: it may hold more notes.
    #[must_use]
    pub fn report(&self) -> &DiskReport {
        &self.report
    }

    /// The disk. To be called on the thread that will drive it and drop it; `pool` is the memory
    /// whose blocks will travel, registered with the kernel where that works.
    ///
    /// # Errors
    /// When a helper thread cannot be started, or io_uring was demanded and is refused after all.
    pub fn into_disk(self, pool: &Pool) -> Result<Box<dyn Disk>, IoOpenError> {
        let Self { dir, choice, mut report } = self;
        let path = dir.path.clone();
        let start =
            |source| IoOpenError::Io { what: "start the threads and doorbells for", path: path.clone(), source };
        let on_a_ring = match choice {
            Io::Threads => None,
            Io::Auto | Io::Uring => {
                Some(UringDisk::new(Arc::clone(&dir), report.clone(), pool).map(|disk| Box::new(disk) as Box<dyn Disk>))
            }
            #[cfg(feature = "tokio-uring")]
            Io::TokioUring => Some(tokio_uring::start(Arc::clone(&dir), report.clone())),
        };
        if let Some(started) = on_a_ring {
            match started {
                Ok(disk) => return Ok(disk),
                Err(UringError::Other(source)) => return Err(start(source)),
                Err(UringError::Refused(refusal)) if choice == Io::Auto => {
                    report.driver = "threads";
                    report.notes.push(fall_back_note(&refusal));
                }
                Err(UringError::Refused(Refusal { errno, remedy })) => {
                    return Err(IoOpenError::UringRefused { errno, remedy });
                }
            }
        }
        match ThreadsDisk::new(dir, report) {
            Ok(disk) => Ok(Box::new(disk)),
            Err(source) => Err(start(source)),
        }
    }
}
