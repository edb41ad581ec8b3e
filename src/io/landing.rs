//! Writes of a killed process that may still land, where its ring keeps no lock.
//!
//! ```text
//!   driver: opens a file ─► shared flock on it ─► writes ─► killed ─► the kernel ends the write ─► the flock is gone
//!   opener: has the directory's lock ─► can each file be locked? ── no ─► waits, as for the directory ──┘
//! ```
//! The kernel does not wait for a killed process's writes on a ring before it closes its files, and so lets go of the
//! directory's lock. A ring can be given the lock to keep, but not that of `tokio-uring`, which shows nobody its
//! descriptor. What each write in flight does keep is the file that it goes to: so there is a lock on that.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Dir as Entries, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::io::dir::{PARK, is_ours};
use crate::io::lock::{in_children, let_go};

/// An open file of a driver; its lock, if it has one, ends with the last write on it.
#[derive(Debug)]
pub(super) struct OpenFile {
    fd: Arc<OwnedFd>,
    locked: bool,
}

impl OpenFile {
    pub(super) fn new(fd: OwnedFd, lock: bool) -> Self {
        // Where files cannot be locked there is nothing to be done. Nobody but an opener takes these locks for himself,
        // and no opener is there.
        let locked = lock && rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).is_ok();
        if locked {
            in_children::close_after_fork(fd.as_raw_fd());
        }
        Self { fd: Arc::new(fd), locked }
    }

    pub(super) fn share(&self) -> &Arc<OwnedFd> {
        &self.fd
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.locked {
            in_children::forget(self.fd.as_raw_fd());
            // Not if a broken ring has the file yet.
            if Arc::strong_count(&self.fd) == 1 {
                let_go(&self.fd);
            }
        }
    }
}

/// Whether a write of an earlier owner may still land in one of the directory's files. To be asked by who has the
/// directory's lock.
pub(super) fn is_any(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    for folder in [".", PARK] {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(dir, folder, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(errno) if is_ours_to_tell(errno) => return Err(errno),
            Err(_) => continue,
        };
        for entry in Entries::read_from(&folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_ok_and(is_ours) && is_locked(&folder, entry.file_name())? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn is_locked(folder: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    // What is called so may be anything: a pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => {
            let is_locked = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
            let_go(&fd);
            Ok(is_locked)
        }
        Err(errno) if is_ours_to_tell(errno) => Err(errno),
        Err(_) => Ok(false),
    }
}

/// Whether something is short here; else it is the file that cannot be opened, and recovery says so better.
fn is_ours_to_tell(errno: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno)
}
