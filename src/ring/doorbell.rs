//! How the flush core sleeps, and what wakes it.
//!
//! ```text
//!            prepare_sleep(Nap)          prepare_sleep(Deep)
//!   NAP ◄──────────────────── AWAKE ────────────────────────► DEEP
//!    │                        ▲   │                             │
//!    │ rouse: wakes           │   │ rouse                       │ a push: wakes, → AWAKE
//!    ▼                        │   ▼                             │ rouse: wakes, → ROUSED
//!  ROUSED ◄───────────────────┼── ROUSED ◄──────────────────────┘
//!                             └── wake_up, or a prepare_sleep that answers "do not"
//! ```
//!
//! | what comes | costs the one who brings it |
//! |---|---|
//! | a push, the core awake or napping | one relaxed load behind the light half of the barrier |
//! | the first push into a deep sleep | one exchange, one wake |
//! | [`Doorbell::rouse`]: a waiter, a ring half full or full | one exchange, and a wake if the core sleeps |
//!
//! A nap is a pause between two drains while nobody waits: pushes do not end it, since draining lazily is what
//! makes them cheap. `ROUSED` is kept until the core has seen it, so that a rouse that comes just before a sleep
//! prevents it. For the push there is the barrier: see [`crate::barrier`].
//!
//! "Closed" lies in the same line, because a pinned push reads it too.

use std::fmt;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::barrier::Barrier;
use crate::io::Wake;
use crate::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use crate::sync::plain::compiler_fence;

const AWAKE: u32 = 0;
const NAP: u32 = 1;
const ROUSED: u32 = 2;
/// The greatest, so that a push asks by one comparison whether there is anything to do.
const DEEP: u32 = 3;
/// Beside each of them, always, where the light half of the barrier is a fence: a push that finds a word above `DEEP` goes by
/// way of the fence, and one that finds none pays for no other question.
const FENCED: u32 = 4;

/// The same for the byte that a pinned push reads.
const CLOSED: u8 = 1;
const CLOSED_FENCED: u8 = 2;

/// How deep the flush core sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    /// Pushes do not end it; waiters and rings half full do.
    Nap,
    /// Any push ends it.
    Deep,
}

/// What producers and waiters look at to know whether the flush core must be woken.
pub struct Doorbell {
    /// The one line that every push reads; written once or twice per sleep.
    line: CachePadded<Line>,
    wake: Arc<dyn Wake>,
}

#[derive(Debug)]
struct Line {
    state: AtomicU32,
    closed: AtomicU8,
    barrier: Barrier,
}

impl Doorbell {
    /// The doorbell of a core that is awake.
    #[must_use]
    pub fn new(wake: Arc<dyn Wake>, barrier: Barrier) -> Self {
        let (fenced, closed_fenced) = if barrier.is_asymmetric() { (0, 0) } else { (FENCED, CLOSED_FENCED) };
        let line = Line { state: AtomicU32::new(AWAKE | fenced), closed: AtomicU8::new(closed_fenced), barrier };
        Self { line: CachePadded::new(line), wake }
    }

    /// Wakes the core from any sleep, and if it is awake, keeps it from its next one.
    pub fn rouse(&self) {
        // ORDERING: AcqRel: what the caller did before is seen by the core, which reads the state with Acquire.
        let state = self.line.state.swap(self.word(ROUSED), Ordering::AcqRel) & !FENCED;
        if state == NAP || state == DEEP {
            self.wake.wake();
        }
    }

    /// A state as it stands in the word.
    fn word(&self, state: u32) -> u32 {
        if self.line.barrier.is_asymmetric() { state } else { state | FENCED }
    }

    /// After a publish: wakes the core from a deep sleep.
    #[inline(always)]
    pub(crate) fn announce(&self) {
        // ORDERING: SeqCst, between the store that published and the load of the state: all of the barrier's light half,
        // where there is no FENCED. A checker has fences always, and need not look twice.
        compiler_fence(Ordering::SeqCst);
        // ORDERING: Relaxed: the barrier orders it; the exchange in `wake_sleeper` decides.
        if cfg!(any(loom, shuttle)) || self.line.state.load(Ordering::Relaxed) >= DEEP {
            self.announce_behind_fence();
        }
    }

    #[cold]
    #[inline(never)]
    fn announce_behind_fence(&self) {
        self.line.barrier.light();
        // ORDERING: Relaxed, as above.
        if self.line.state.load(Ordering::Relaxed) & !FENCED == DEEP {
            self.wake_sleeper();
        }
    }

    fn wake_sleeper(&self) {
        // One of the many producers that see DEEP wakes; a ROUSED is left as it is.
        // ORDERING: AcqRel, as in `rouse`.
        if self
            .line
            .state
            .compare_exchange(self.word(DEEP), self.word(AWAKE), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            self.wake.wake();
        }
    }

    /// Whether nothing more may be claimed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // ORDERING: Acquire: what `close` did before is seen.
        self.line.closed.load(Ordering::Acquire) & CLOSED != 0
    }

    /// After a pinned claim: whether the rings were closed before it.
    #[inline(always)]
    pub(crate) fn is_closed_after_claim(&self) -> bool {
        // ORDERING: SeqCst, between the stores of the claim and the load of `closed`, as in `announce`.
        compiler_fence(Ordering::SeqCst);
        // ORDERING: Relaxed: the barrier orders it against `close`.
        (cfg!(any(loom, shuttle)) || self.line.closed.load(Ordering::Relaxed) != 0) && self.is_closed_behind_fence()
    }

    #[cold]
    #[inline(never)]
    fn is_closed_behind_fence(&self) -> bool {
        self.line.barrier.light();
        // ORDERING: Relaxed, as above.
        self.line.closed.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Closes. After it, each pinned claim either has seen that, or is seen by this thread.
    pub(crate) fn close(&self) {
        // ORDERING: Release, for `is_closed`; against claims the barrier orders it.
        self.line.closed.fetch_or(CLOSED, Ordering::Release);
        while !self.line.barrier.heavy() {
            // The kernel was out of memory for a moment; without the barrier nobody could tell what was pushed.
            std::hint::spin_loop();
        }
    }

    /// The flush core goes to sleep, unless it has been roused or `something_came` after the announcement.
    /// `false`: it must not sleep, and is awake.
    pub(crate) fn prepare_sleep(&self, depth: Sleep, something_came: impl FnOnce() -> bool) -> bool {
        let asleep = match depth {
            Sleep::Nap => NAP,
            Sleep::Deep => DEEP,
        };
        // ORDERING: AcqRel: Acquire on failure, to see what the one who roused did before.
        if self
            .line
            .state
            .compare_exchange(self.word(AWAKE), self.word(asleep), Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            self.wake_up();
            return false;
        }
        if depth == Sleep::Deep && (!self.line.barrier.heavy() || something_came()) {
            self.wake_up();
            return false;
        }
        true
    }

    /// The flush core is awake again, for whatever reason.
    pub(crate) fn wake_up(&self) {
        // ORDERING: AcqRel: what the one who roused did before is seen from here on.
        self.line.state.swap(self.word(AWAKE), Ordering::AcqRel);
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("line", &*self.line).field("wake", &self.wake).finish()
    }
}
