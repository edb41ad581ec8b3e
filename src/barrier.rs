//! A barrier with a light half for the many and a heavy half for the one.
//!
//! Two threads that each store and then load what the other has stored must not both see the old value:
//! the producer stores a record and looks whether the flush core sleeps, the flush core says that it
//! sleeps and looks for records. That takes a full barrier on both sides, and on the producer's side it
//! doubles the cost of a push. Here the flush core pays for both:
//!
//! ```text
//!   producer (each push)                flush core (each sleep)
//!   store  record, ready                store  state = DEEP
//!   light  (the compiler only)          heavy  (a full barrier on every core of this process)
//!   load   state                        load   records
//! ```
//!
//! Whatever instruction a producer is at when the heavy half runs, its core passes a full barrier there: the
//! store above it is visible to the flush core afterwards, or the load below it sees `DEEP`.
//!
//! | where                                       | light          | heavy                             |
//! |---------------------------------------------|----------------|-----------------------------------|
//! | `membarrier(PRIVATE_EXPEDITED)` is there    | compiler fence | the system call                   |
//! | it is refused                               | `SeqCst` fence | `SeqCst` fence                    |
//! | loom, shuttle, Miri                         | `SeqCst` fence | `SeqCst` fence                    |
//!
//! loom cannot model the first row; `ring::tests` stresses it on hardware. Decision:
//! `docs/adr/0004-asymmetric-wakeup.md`.

use crate::sync::atomic::{Ordering, fence};
#[cfg(not(loom))]
use crate::sync::plain::compiler_fence;

/// Both halves, and which kind this process uses.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    expedited: bool,
}

impl Barrier {
    /// The best this machine gives.
    #[must_use]
    pub fn new() -> Self {
        #[cfg(not(any(loom, shuttle, miri)))]
        return Self { expedited: crate::io::membarrier::register() };
        #[cfg(any(loom, shuttle, miri))]
        Self::fences()
    }

    /// Full fences on both sides, whatever the machine gives.
    #[must_use]
    pub const fn fences() -> Self {
        Self { expedited: false }
    }

    /// Whether the light half costs nothing here.
    #[must_use]
    pub const fn is_asymmetric(self) -> bool {
        self.expedited
    }

    /// The half of the many: between a store and a load.
    #[inline(always)]
    pub fn light(self) {
        #[cfg(not(loom))]
        if self.expedited {
            // ORDERING: keeps the compiler from exchanging the two; `heavy` does the same to the processor.
            compiler_fence(Ordering::SeqCst);
            return;
        }
        // ORDERING: SeqCst, against the SeqCst fence in `heavy`: one of the two comes first, and what stands
        // before that one is seen by what stands after the other.
        fence(Ordering::SeqCst);
    }

    /// The half of the one: between a store and a load. `false`: the kernel failed, and nothing holds.
    #[must_use]
    pub fn heavy(self) -> bool {
        // ORDERING: as in `light`; it also orders this thread's own store and load around the system call.
        fence(Ordering::SeqCst);
        #[cfg(not(loom))]
        if self.expedited {
            return crate::io::membarrier::barrier_everywhere();
        }
        true
    }
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}
