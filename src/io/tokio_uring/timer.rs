//! An alarm clock for the runtime: tokio's own timers know whole milliseconds only, and a commit takes less.

use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel, among what the runtime waits for.
pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
    /// When it will ring.
    at: Option<Instant>,
}

impl Timer {
    /// To be called within the runtime.
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an `OwnedFd` names the descriptor that it owns, always the same one.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, at: None })
    }

    /// Has the task woken at `at`, or earlier.
    pub(super) fn wake_at(&mut self, at: Instant, context: &mut Context<'_>) {
        let now = Instant::now();
        if self.at.is_none_or(|set| at < set || set <= now) {
            // All zeros would stop it.
            let left = at.saturating_duration_since(now).max(Duration::from_nanos(1));
            let it_value = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            // It fails for values out of range and for descriptors that are no timer.
            rustix::time::timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &once)
                .expect("a timer takes every time that is to come");
            self.at = Some(at);
        }
        // It is not read: to set it again takes back that it rang.
        while let Poll::Ready(Ok(mut guard)) = self.fd.poll_read_ready(context) {
            guard.clear_ready();
            if self.at.is_some_and(|at| at <= Instant::now()) {
                context.waker().wake_by_ref();
            }
        }
    }
}
