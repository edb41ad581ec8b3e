//! Doorbells for the drivers: what wakes a sleeping flush core.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::io::Wake;

/// A doorbell that a ring of io_uring can wait for. It counts: a ring before the wait is not lost.
#[derive(Debug)]
pub(super) struct EventBell(OwnedFd);

impl EventBell {
    /// A new doorbell.
    pub(super) fn new() -> Result<Self, Errno> {
        // Not O_NONBLOCK: a read in the ring would then fail instead of waiting.
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map(Self)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for EventBell {
    fn wake(&self) {
        #[expect(clippy::host_endian_bytes, reason = "an eventfd takes the machine's own format")]
        let one = 1_u64.to_ne_bytes();
        while rustix::io::write(&self.0, &one) == Err(Errno::INTR) {}
    }
}

/// A doorbell of threads that share memory. The lock is `std`'s, as a push takes it to ring: who waits for it neither
/// allocates nor yields.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rang: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// Waits until it rings, at most for `timeout`; not at all if it rang since the last wait.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        *wait_while(&self.changed, whole(self.rang.lock()), timeout, |rang| !*rang) = false;
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *whole(self.rang.lock()) = true;
        self.changed.notify_one();
    }
}

/// What a lock guards, behind a panic too: where this is used, one leaves nothing half done.
pub(super) fn whole<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Waits at `changed` while it is `quiet`, at most for `timeout`.
pub(super) fn wait_while<'a, T>(
    changed: &Condvar,
    state: MutexGuard<'a, T>,
    timeout: Option<Duration>,
    quiet: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    match timeout {
        None => whole(changed.wait_while(state, quiet)),
        Some(timeout) => whole(changed.wait_timeout_while(state, timeout, quiet)).0,
    }
}

/// Keeps the program's signals away from a helper thread: no interrupted calls, and no handler runs
/// where nobody expects it.
pub fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` fills what it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set was filled above; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
}
