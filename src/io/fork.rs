//! Whether this process is a forked child of the one that opened a queue: its handles must refuse to
//! work there, since the queue's threads and memory stayed behind.
//!
//! A handler of `fork` counts generations, so that a push can ask with one load of a word that never
//! changes while the process lives.

#[cfg(not(any(loom, shuttle)))]
use crate::sync::atomic::{AtomicU32, Ordering};

#[cfg(not(any(loom, shuttle)))]
static GENERATION: AtomicU32 = AtomicU32::new(0);

#[cfg(not(any(loom, shuttle)))]
unsafe extern "C" {
    /// As in `pthread_atfork(3)`; the crate `libc` lacks it for Linux.
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> libc::c_int;
}

/// From now on every forked child runs `in_child` before anything else. It may do what a signal handler may.
#[cfg(not(any(loom, shuttle)))]
pub(super) fn on_fork(in_child: extern "C" fn()) {
    // SAFETY: the handler is a plain function that stays; what it does is its own affair, see there.
    unsafe { pthread_atfork(None, None, Some(in_child)) };
}

#[cfg(not(any(loom, shuttle)))]
extern "C" fn in_child() {
    // ORDERING: Relaxed: a child has one thread.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process that something was made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home(#[cfg(not(any(loom, shuttle)))] u32);

impl Home {
    /// This process.
    #[cfg(not(any(loom, shuttle)))]
    #[must_use]
    pub fn here() -> Self {
        static HANDLER: std::sync::Once = std::sync::Once::new();
        HANDLER.call_once(|| on_fork(in_child));
        // ORDERING: Relaxed: the word changes in children only, before they run anything else.
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is still that process.
    #[cfg(not(any(loom, shuttle)))]
    #[inline(always)]
    #[must_use]
    pub fn is_here(self) -> bool {
        // ORDERING: as in `here`.
        GENERATION.load(Ordering::Relaxed) == self.0
    }

    /// A checker's threads do not fork, and its atomics cannot be static.
    #[cfg(any(loom, shuttle))]
    #[must_use]
    pub const fn here() -> Self {
        Self()
    }

    /// See above.
    #[cfg(any(loom, shuttle))]
    #[must_use]
    pub const fn is_here(self) -> bool {
        true
    }
}
