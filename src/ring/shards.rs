//! Which ring a producer uses.
//!
//! ```text
//!   0 … shared-1            a thread's own: its number modulo `shared`, for as long as it lives
//!   shared … shared+pinned  a free list: one producer has it, and gives it back when dropped
//! ```
//! Threads are numbered in the order of their first push, so live threads spread evenly, and a thread that ends
//! leaves nothing behind. A pinned ring that was given back goes on where its last producer stopped: what that
//! one has published lies in front.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::barrier::Barrier;
use crate::io::Wake;
use crate::io::fork;
use crate::ring::claim::{Claim, PinnedClaim, PinnedRunClaim, Position, RunClaim};
use crate::ring::doorbell::Doorbell;
use crate::ring::drain::Drainer;
use crate::ring::record::{RECORD_HEADER_LEN, RECORD_LEN_MAX, stride_of};
use crate::ring::{CLOSED, ClaimError, Ring, memory};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(shuttle))]
use crate::sync::plain;
use crate::sync::thread_local;
use crate::watermark::Watermark;

/// How many rings, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingsConfig {
    /// Rings that threads share; at least one.
    pub shared: u32,
    /// Rings that single producers may pin.
    pub pinned: u32,
    /// Bytes of each ring, a power of two.
    pub ring_len: usize,
    /// Greatest entry, in bytes. A record of it takes at most half a ring, so that it always fits an empty one.
    pub entry_len_max: usize,
}

impl RingsConfig {
    fn check(&self) {
        let Self { shared, pinned, ring_len, entry_len_max } = *self;
        assert!(shared >= 1, "there is no ring for threads that pin none");
        assert!(shared.checked_add(pinned).is_some(), "{shared} and {pinned} rings");
        assert!(ring_len.is_power_of_two() && ring_len <= RECORD_LEN_MAX + 8, "a ring of {ring_len} bytes");
        assert!(
            entry_len_max < ring_len && stride_of(entry_len_max) <= ring_len / 2,
            "an entry of {entry_len_max} bytes takes more than half of a ring of {ring_len}"
        );
    }
}

/// All rings, as producers see them.
pub struct Rings {
    /// Each by itself, so that a pinned one need not be looked for.
    pub(super) rings: Box<[Arc<Ring>]>,
    /// The first of them once more, so that a claim has one bound to keep.
    shared_rings: Box<[Arc<Ring>]>,
    shared: u32,
    entry_len_max: usize,
    run_len_max: usize,
    doorbell: Arc<Doorbell>,
    /// The process that made them: in a forked child their memory is not there.
    made_in: fork::Home,
    /// Set by `close` after its barrier: every claim that was not refused is visible.
    pub(super) is_sealed: AtomicBool,
    /// Pinned rings that nobody has.
    free: Mutex<Vec<u32>>,
}

impl Rings {
    /// Maps the rings. `wake` ends the flush core's sleep.
    ///
    /// # Errors
    /// The memory is not to be had.
    ///
    /// # Panics
    /// When the configuration does not hold together: the builder checks it.
    pub fn new(config: RingsConfig, wake: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Drainer)> {
        Self::with_barrier(config, wake, Barrier::new())
    }

    /// The same with a given barrier, so that tests can take the one with fences.
    ///
    /// # Errors
    /// The memory is not to be had.
    ///
    /// # Panics
    /// When the configuration does not hold together.
    pub fn with_barrier(
        config: RingsConfig,
        wake: Arc<dyn Wake>,
        barrier: Barrier,
    ) -> io::Result<(Arc<Self>, Drainer)> {
        config.check();
        let parts = memory::map((config.shared + config.pinned) as usize, config.ring_len)?;
        Ok(Self::of_parts(config, wake, barrier, parts))
    }

    /// Maps the rings of a file that was made for them, see [`shared`](crate::ring::shared). The drain holds what it has
    /// copied until it is released.
    ///
    /// # Errors
    /// The file cannot be mapped.
    ///
    /// # Panics
    /// When the configuration does not hold together, or is another than the header's.
    #[cfg(not(any(loom, shuttle)))]
    pub fn in_file(
        config: RingsConfig,
        wake: Arc<dyn Wake>,
        file: std::os::fd::BorrowedFd<'_>,
        header: &crate::ring::shared::Header,
    ) -> io::Result<(Arc<Self>, Drainer)> {
        config.check();
        assert!(header.rings == config.shared + config.pinned && header.ring_len == config.ring_len as u64);
        let (parts, book) = memory::map_file(file, header)?;
        let (rings, mut drainer) = Self::of_parts(config, wake, Barrier::new(), parts);
        drainer.hold_in(book);
        Ok((rings, drainer))
    }

    /// Loom watches memory of its own.
    ///
    /// # Errors
    /// Always.
    #[cfg(any(loom, shuttle))]
    pub fn in_file(
        _: RingsConfig,
        _: Arc<dyn Wake>,
        _: std::os::fd::BorrowedFd<'_>,
        _: &crate::ring::shared::Header,
    ) -> io::Result<(Arc<Self>, Drainer)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn of_parts(
        config: RingsConfig,
        wake: Arc<dyn Wake>,
        barrier: Barrier,
        parts: Vec<memory::Bytes>,
    ) -> (Arc<Self>, Drainer) {
        let RingsConfig { shared, pinned, ring_len, entry_len_max } = config;
        let doorbell = Arc::new(Doorbell::new(wake, barrier));
        let all: Box<[Arc<Ring>]> = parts.into_iter().map(|bytes| Arc::new(Ring::new(bytes, &doorbell))).collect();
        let rings = Arc::new(Self {
            shared_rings: all.iter().take(shared as usize).cloned().collect(),
            rings: all,
            shared,
            entry_len_max,
            run_len_max: ring_len / 2,
            doorbell,
            made_in: fork::Home::here(),
            is_sealed: AtomicBool::new(false),
            free: Mutex::new((shared..shared + pinned).rev().collect()),
        });
        let drainer = Drainer::new(Arc::clone(&rings));
        (rings, drainer)
    }

    /// The ring of the calling thread, always the same for it.
    #[inline]
    #[must_use]
    pub fn ring_of_this_thread(&self) -> u32 {
        let home = HOME.with(Cell::get);
        if home.shared == self.shared { home.ring } else { find_home(self.shared) }
    }

    /// Claims a record with `payload_len` bytes of payload on a shared ring.
    ///
    /// # Errors
    /// The ring is full, the rings are closed, or the entry is too long.
    ///
    /// # Panics
    /// When `ring` is not a shared one.
    // Always inline: a `Claim` that is handed back through memory is written in parts and read as a whole, which
    // costs a locked claim twice its time: the read waits for every store before it, the exchange included.
    #[inline(always)]
    pub fn claim(&self, ring: u32, payload_len: usize) -> Result<Claim<'_>, ClaimError> {
        let ring = &self.shared_rings[ring as usize];
        if payload_len > self.entry_len_max {
            return Err(ClaimError::TooLong);
        }
        if !self.made_in.is_here() {
            return Err(ClaimError::Closed);
        }
        ring.claim_shared(&self.doorbell, RECORD_HEADER_LEN + payload_len)
    }

    /// Claims `run_len` bytes for several records on a shared ring: the sum of their strides.
    ///
    /// # Errors
    /// The ring is full, the rings are closed, or the run is longer than [`Rings::run_len_max`].
    ///
    /// # Panics
    /// When `ring` is not a shared one, or `run_len` is no sum of strides.
    pub fn claim_run(&self, ring: u32, run_len: usize) -> Result<RunClaim<'_>, ClaimError> {
        let ring = &self.shared_rings[ring as usize];
        self.check_run(run_len)?;
        ring.claim_shared(&self.doorbell, run_len).map(RunClaim::new)
    }

    /// Greatest length of a run: half a ring.
    #[must_use]
    pub const fn run_len_max(&self) -> usize {
        self.run_len_max
    }

    fn check_run(&self, run_len: usize) -> Result<(), ClaimError> {
        assert!(run_len >= 8 && run_len.is_multiple_of(8), "a run of {run_len} bytes is no sum of strides");
        match () {
            () if run_len > self.run_len_max => Err(ClaimError::TooLong),
            () if !self.made_in.is_here() => Err(ClaimError::Closed),
            () => Ok(()),
        }
    }

    /// A ring for one producer alone, if one is free.
    #[must_use]
    pub fn pin(self: &Arc<Self>) -> Option<PinnedRing> {
        // In a child the lock may be held by a thread that is not there.
        let ring = self.made_in.is_here().then(|| self.free.lock().pop()).flatten()?;
        let own = Arc::clone(&self.rings[ring as usize]);
        Some(PinnedRing { rings: Arc::clone(self), position: own.position(), own, ring })
    }

    /// Where the next claim on `ring` begins: everything pushed before lies below.
    #[must_use]
    pub fn tail(&self, ring: u32) -> u64 {
        self.rings[ring as usize].tail()
    }

    /// What `space` must reach so that a claim of `payload_len` bytes on `ring` finds room, as things stand: to be
    /// waited for after [`ClaimError::Full`].
    #[must_use]
    pub fn space_wanted(&self, ring: u32, payload_len: usize) -> u64 {
        self.rings[ring as usize].space_wanted(stride_of(payload_len))
    }

    /// How many rings there are: first the shared, then the pinned.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.rings.len()).unwrap_or(u32::MAX)
    }

    /// How many rings are shared.
    #[must_use]
    pub const fn shared_count(&self) -> u32 {
        self.shared
    }

    /// Bytes in all rings, claimed and not yet drained.
    #[must_use]
    pub fn used_len(&self) -> u64 {
        // The head first: it never overtakes a tail that is read later.
        let used = |ring: &Arc<Ring>| {
            let head = ring.space.value();
            ring.tail().saturating_sub(head)
        };
        self.rings.iter().map(used).sum()
    }

    /// How far `ring` is durable.
    #[must_use]
    pub fn durable(&self, ring: u32) -> &Watermark {
        &self.rings[ring as usize].durable
    }

    /// How far `ring` is drained and free.
    #[must_use]
    pub fn space(&self, ring: u32) -> &Watermark {
        &self.rings[ring as usize].space
    }

    /// Refuses every claim from now on. What was claimed before can still be published and is drained.
    pub fn close(&self) {
        self.doorbell.close();
        for ring in &self.rings[..self.shared as usize] {
            // ORDERING: Relaxed: the tail hands out nothing but positions; each claim is before it or refused.
            ring.ends.tail.fetch_or(CLOSED, Ordering::Relaxed);
        }
        // ORDERING: Release, so that the drain sees all tails as this thread does.
        self.is_sealed.store(true, Ordering::Release);
        self.doorbell.rouse();
    }

    /// Whether the rings are closed. In a forked child they are, whatever they are at home.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.doorbell.is_closed() || !self.is_at_home()
    }

    /// Whether this is the process that made them, and not a forked child of it.
    #[must_use]
    pub fn is_at_home(&self) -> bool {
        self.made_in.is_here()
    }

    /// What wakes the flush core.
    #[must_use]
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings")
            .field("shared", &self.shared)
            .field("count", &self.rings.len())
            .field("used_len", &self.used_len())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// A ring that one producer has for itself: no locked instruction on a push. Given back when dropped.
#[derive(Debug)]
pub struct PinnedRing {
    rings: Arc<Rings>,
    own: Arc<Ring>,
    ring: u32,
    position: Position,
}

impl PinnedRing {
    /// Its number.
    #[must_use]
    pub const fn ring(&self) -> u32 {
        self.ring
    }

    /// All rings.
    #[must_use]
    pub const fn rings(&self) -> &Arc<Rings> {
        &self.rings
    }

    /// Claims a record with `payload_len` bytes of payload.
    ///
    /// # Errors
    /// The ring is full, the rings are closed, or the entry is too long.
    #[inline(always)]
    pub fn claim(&mut self, payload_len: usize) -> Result<PinnedClaim<'_>, ClaimError> {
        let rings = &*self.rings;
        if payload_len > rings.entry_len_max {
            return Err(ClaimError::TooLong);
        }
        if !rings.made_in.is_here() {
            return Err(ClaimError::Closed);
        }
        self.own.claim_pinned(&rings.doorbell, &mut self.position, RECORD_HEADER_LEN + payload_len)
    }

    /// Claims `run_len` bytes for several records: the sum of their strides.
    ///
    /// # Errors
    /// The ring is full, the rings are closed, or the run is longer than [`Rings::run_len_max`].
    ///
    /// # Panics
    /// When `run_len` is no sum of strides.
    pub fn claim_run(&mut self, run_len: usize) -> Result<PinnedRunClaim<'_>, ClaimError> {
        let rings = &*self.rings;
        rings.check_run(run_len)?;
        self.own.claim_pinned(&rings.doorbell, &mut self.position, run_len).map(RunClaim::new)
    }
}

impl Drop for PinnedRing {
    fn drop(&mut self) {
        if self.rings.made_in.is_here() {
            self.rings.free.lock().push(self.ring);
        }
    }
}

/// A thread's number, and its ring among `shared` ones.
#[derive(Clone, Copy)]
struct Home {
    /// 0: it has no number yet.
    shared: u32,
    ring: u32,
    number: u32,
}

thread_local! {
    static HOME: Cell<Home> = const { Cell::new(Home { shared: 0, ring: 0, number: 0 }) };
}

#[cfg(not(shuttle))]
static NEXT_NUMBER: plain::AtomicU32 = plain::AtomicU32::new(0);

#[cfg(not(shuttle))]
fn next_number() -> u32 {
    // ORDERING: Relaxed: only the number counts.
    NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// The same number in the same schedule.
#[cfg(shuttle)]
fn next_number() -> u32 {
    u32::try_from(usize::from(crate::sync::thread::current().id())).unwrap_or(0)
}

#[cold]
fn find_home(shared: u32) -> u32 {
    let home = HOME.with(Cell::get);
    let number = if home.shared == 0 { next_number() } else { home.number };
    let ring = number % shared;
    HOME.with(|cell| cell.set(Home { shared, ring, number }));
    ring
}
