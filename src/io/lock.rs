//! One process per directory: an advisory lock on the file `LOCK`, and one on the directory itself.
//!
//! ```text
//!   open LOCK ─► flock ──given──► still the file of that name? ──yes──► flock the directory ─► write the pid ─► held
//!       ▲          │refused                  │no: someone removed it      │refused
//!       └─ pause ◄─┴─────────────────────────┴────────────────────────────┘     (time is up: Locked { pid })
//! ```
//! `LOCK` alone would not do: whoever removes it while its holder lives lets a second one in. The directory
//! alone would not either: not every file system locks directories (NFS does not).
//!
//! The kernel gives the lock up when the last one that has the open file lets go of it, so a killed process leaves
//! none behind. Who could have it longer:
//!
//! | who                              | what is done                                        |
//! |----------------------------------|-----------------------------------------------------|
//! | a program that a child executes  | `O_CLOEXEC`                                         |
//! | a child that only forks          | a handler of `fork` closes the child's descriptor   |
//! | a ring of io_uring               | wanted: it is registered there, and kept until the ring's last write has ended |
//! | a ring of tokio-uring            | it cannot keep the lock; the files that it writes are locked instead: `landing.rs` |
//!
//! The rings matter: the kernel does not wait for a killed process's writes before it closes its files, and
//! such a write may land where the next owner has stored something since.
//!
//! The pid in the file is for people. Nothing is decided by it.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::io::{IoOpenError, landing};

/// Name of the file that is locked.
pub(super) const LOCK_NAME: &str = "LOCK";
/// How long to pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub(super) struct Lock {
    fd: ManuallyDrop<OwnedFd>,
    /// The directory, opened once more; `None` where a directory cannot be locked.
    dir: ManuallyDrop<Option<OwnedFd>>,
    /// The process that took it: a forked child must not let go of its parent's lock.
    pid: u32,
}

impl Lock {
    /// Locks `dir`, waiting for at most `wait`.
    pub(super) fn acquire(dir: &Path, dir_fd: BorrowedFd<'_>, wait: Duration) -> Result<Self, IoOpenError> {
        let path = dir.join(LOCK_NAME);
        let begun = Instant::now();
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(dir_fd, LOCK_NAME, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| IoOpenError::on_create(&path, errno))?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still_named(dir_fd, &fd) => {
                    let dir_lock = lock_dir(dir_fd);
                    let is_free = dir_lock.as_ref().err() != Some(&Errno::WOULDBLOCK);
                    let is_landing = if is_free { landing::is_any(dir_fd) } else { Ok(true) };
                    if is_landing == Ok(false) {
                        return Ok(Self::held(fd, dir_lock.ok()));
                    }
                    dir_lock.iter().chain([&fd]).for_each(let_go);
                    is_landing.map_err(|errno| IoOpenError::new("read", dir, errno))?;
                }
                Ok(()) | Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(IoOpenError::new("lock", &path, errno)),
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(IoOpenError::Locked { dir: dir.to_path_buf(), pid: read_pid(&fd) });
            }
            thread::sleep(left.min(PAUSE));
        }
    }

    fn held(fd: OwnedFd, dir: Option<OwnedFd>) -> Self {
        let pid = std::process::id();
        // Best effort: the pid helps whoever is refused, and a full disk must not keep us out.
        let text = format!("{pid}\n");
        let _ = rustix::fs::ftruncate(&fd, 0);
        let _ = rustix::io::pwrite(&fd, text.as_bytes(), 0);
        for fd in dir.iter().chain([&fd]) {
            in_children::close_after_fork(fd.as_raw_fd());
        }
        Self { fd: ManuallyDrop::new(fd), dir: ManuallyDrop::new(dir), pid }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // In a child the descriptor is closed already, and its number may be another file's.
            return;
        }
        for fd in self.dir.iter().chain([&*self.fd]) {
            in_children::forget(fd.as_raw_fd());
            let_go(fd);
        }
        // SAFETY: `dir` is not used again: this is its owner's drop.
        unsafe { ManuallyDrop::drop(&mut self.dir) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
    }
}

/// Ends a lock explicitly, so that a child forked a moment ago, which has the descriptor too, does not keep it.
pub(super) fn let_go(fd: &OwnedFd) {
    let _ = rustix::fs::flock(fd, FlockOperation::Unlock);
}

/// Locks the directory itself, by a description of its own: one that a forked child can let go of.
fn lock_dir(dir_fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::openat(dir_fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// Whether the name still leads to the file that was locked.
fn is_still_named(dir_fd: BorrowedFd<'_>, fd: &OwnedFd) -> bool {
    let named = rustix::fs::statat(dir_fd, LOCK_NAME, AtFlags::SYMLINK_NOFOLLOW);
    let locked = rustix::fs::fstat(fd);
    matches!((named, locked), (Ok(a), Ok(b)) if a.st_dev == b.st_dev && a.st_ino == b.st_ino)
}

/// The pid that the holder wrote.
fn read_pid(fd: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let len = rustix::io::pread(fd, &mut text, 0).ok()?;
    std::str::from_utf8(&text[..len]).ok()?.trim().parse().ok()
}

impl Lock {
    /// For who has to keep the lock as long as its writes may land.
    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The descriptors that a forked child closes: of locks, of rings, which keep locks, and of locked files.
pub(super) mod in_children {
    use super::{Once, RawFd};

    /// Locks, rings and locked files of one process beyond this number are not closed in its children. Enough for
    /// thirty drivers that lock all the files that they keep open.
    const LOCKS_MAX: usize = 4096;

    #[cfg(not(any(loom, shuttle)))]
    static HELD: [crate::sync::atomic::AtomicI32; LOCKS_MAX] =
        [const { crate::sync::atomic::AtomicI32::new(-1) }; LOCKS_MAX];

    #[cfg(not(any(loom, shuttle)))]
    fn replace(from: RawFd, to: RawFd) {
        use crate::sync::atomic::Ordering::Relaxed;
        for slot in &HELD {
            // ORDERING: Relaxed: a slot carries nothing but itself, and `fork` copies memory as it is.
            if slot.compare_exchange(from, to, Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(in crate::io) fn close_after_fork(fd: RawFd) {
        static HANDLER: Once = Once::new();
        // The handler does nothing but close descriptors, which may be done in a forked child of a process
        // with threads.
        HANDLER.call_once(|| crate::io::fork::on_fork(in_child));
        replace(-1, fd);
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(in crate::io) fn forget(fd: RawFd) {
        replace(fd, -1);
    }

    #[cfg(not(any(loom, shuttle)))]
    extern "C" fn in_child() {
        for slot in &HELD {
            // ORDERING: Relaxed: a child has one thread.
            let fd = slot.swap(-1, crate::sync::atomic::Ordering::Relaxed);
            if fd >= 0 {
                // SAFETY: the table holds descriptors of locks, rings and locked files only, and a child neither
                // uses nor closes one otherwise.
                unsafe { libc::close(fd) };
            }
        }
    }

    /// Loom's atomics cannot be static, and its models open no directory.
    #[cfg(any(loom, shuttle))]
    pub(in crate::io) fn close_after_fork(_: RawFd) {
        let _ = (LOCKS_MAX, Once::new());
    }

    #[cfg(any(loom, shuttle))]
    pub(in crate::io) fn forget(_: RawFd) {}
}
