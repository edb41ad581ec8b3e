//! What has gone wrong, as the threads tell it and others ask.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::engine::clock::Clock;
use crate::error::LogError;
use crate::health::Concern;
use crate::lsn::Lsn;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::time::Instant;
use crate::wal::op::DiskError;

/// After so long without an answer of the disk health says so: longer than a busy disk takes.
const DISK_SILENT: Duration = Duration::from_secs(2);

/// What has gone wrong, for health and for those who wait.
#[derive(Debug, Default)]
pub(crate) struct Status {
    clock: Option<Clock>,
    failure: OnceLock<Arc<DiskError>>,
    corruption: OnceLock<Arc<str>>,
    log_room: Mutex<Option<String>>,
    park_room: Mutex<Option<String>>,
    sink_attempts: AtomicU32,
    /// Calls of the sink that have not come back in time.
    sink_overdue: AtomicUsize,
    /// Set at the end: such a call was left behind.
    sink_hung: AtomicBool,
    /// Set at the end: entries that were accepted and found no room in the log.
    left_in_rings: AtomicU64,
    /// The same, of those that have an LSN.
    unplaced: AtomicU64,
    /// Set at the end: both are in rings that the next opening finds.
    rings_left: AtomicBool,
    /// The runtime that the sink worked on was shut down.
    runtime_ended: AtomicBool,
    /// Whoever opened the queue has it, and with it what the opening found.
    opened: AtomicBool,
    /// Entries that were given up since the queue was opened: first LSN and one past the last.
    lost: Mutex<Vec<(Lsn, Lsn)>>,
}

impl Status {
    pub(crate) fn at(clock: Clock) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// Now, on the queue's clock.
    pub(crate) fn now(&self) -> Instant {
        self.clock.as_ref().map_or(Instant::START, Clock::now)
    }

    /// How long the disk has been silent, when the oldest op that it has was submitted then.
    pub(super) fn silent_for(&self, since: u64) -> Option<Duration> {
        self.since(since).filter(|silent| *silent >= DISK_SILENT)
    }

    /// How long a moment of the queue's clock is over; `None` for 0, which stands for no moment.
    pub(super) fn since(&self, moment: u64) -> Option<Duration> {
        let now = self.clock.as_ref()?.now();
        (moment > 0).then(|| now.since(Instant::from_nanos(moment)))
    }

    /// The same for a moment of the wall clock, which may have been set back meanwhile: then no time at all.
    pub(super) fn since_unix(&self, moment: u64) -> Option<Duration> {
        let now = self.clock.as_ref()?.unix();
        (moment > 0).then(|| Duration::from_nanos(now.0.saturating_sub(moment)))
    }

    pub(crate) fn failure(&self) -> Option<&Arc<DiskError>> {
        self.failure.get()
    }

    /// The first failure counts.
    pub(crate) fn fail(&self, cause: DiskError) {
        let _ = self.failure.set(Arc::new(cause));
    }

    pub(crate) fn corruption(&self) -> Option<&Arc<str>> {
        self.corruption.get()
    }

    /// The first one counts.
    pub(crate) fn corrupt(&self, what: &str) {
        let _ = self.corruption.set(what.into());
    }

    pub(crate) fn set_log_room(&self, why: Option<String>) {
        *self.log_room.lock() = why;
    }

    pub(crate) fn set_park_room(&self, why: Option<String>) {
        *self.park_room.lock() = why;
    }

    pub(crate) fn set_sink_attempts(&self, attempts: u32) {
        // ORDERING: Relaxed: a number to look at.
        self.sink_attempts.store(attempts, Ordering::Relaxed);
    }

    pub(crate) fn set_sink_overdue(&self, calls: usize) {
        // ORDERING: Relaxed: a number to look at.
        self.sink_overdue.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn set_sink_hung(&self) {
        // ORDERING: Relaxed: read after the delivery thread has said that it ended, by a channel.
        self.sink_hung.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_sink_hung(&self) -> bool {
        // ORDERING: see `set_sink_hung`.
        self.sink_hung.load(Ordering::Relaxed)
    }

    pub(crate) fn set_left_in_rings(&self, entries: u64) {
        // ORDERING: Relaxed: read after the flush core has said that it ended, by a channel.
        self.left_in_rings.store(entries, Ordering::Relaxed);
    }

    pub(crate) fn left_in_rings(&self) -> u64 {
        // ORDERING: see `set_left_in_rings`.
        self.left_in_rings.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unplaced(&self, entries: u64) {
        // ORDERING: Relaxed, as `set_left_in_rings`.
        self.unplaced.store(entries, Ordering::Relaxed);
    }

    pub(crate) fn unplaced(&self) -> u64 {
        // ORDERING: see `set_unplaced`.
        self.unplaced.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rings_left(&self, left: bool) {
        // ORDERING: Relaxed, as `set_left_in_rings`.
        self.rings_left.store(left, Ordering::Relaxed);
    }

    pub(crate) fn rings_left(&self) -> bool {
        // ORDERING: see `set_rings_left`.
        self.rings_left.load(Ordering::Relaxed)
    }

    /// Opening returns.
    pub(crate) fn set_opened(&self) {
        // ORDERING: Relaxed: a flag by itself. Who sees it late tells something twice.
        self.opened.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_opened(&self) -> bool {
        // ORDERING: see `set_opened`.
        self.opened.load(Ordering::Relaxed)
    }

    #[cfg(feature = "tokio")]
    pub(super) fn set_runtime_ended(&self) {
        // ORDERING: Release/Acquire: a flag by itself; those who waited are woken afterwards.
        self.runtime_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_runtime_ended(&self) -> bool {
        // ORDERING: see `set_runtime_ended`.
        self.runtime_ended.load(Ordering::Acquire)
    }

    pub(super) fn concerns(&self) -> Vec<Concern> {
        let mut concerns = Vec::new();
        concerns.extend(self.log_room.lock().clone().map(Concern::LogFull));
        concerns.extend(self.park_room.lock().clone().map(Concern::ParkFull));
        // ORDERING: Relaxed, see `set_sink_attempts`.
        let attempts = self.sink_attempts.load(Ordering::Relaxed);
        if attempts > 0 {
            concerns.push(Concern::SinkFailing(attempts));
        }
        // ORDERING: Relaxed, see `set_sink_overdue`.
        let overdue = self.sink_overdue.load(Ordering::Relaxed);
        if overdue > 0 {
            concerns.push(Concern::SinkOverdue(overdue));
        }
        concerns
    }

    /// These LSNs, up to one past the last, are lost. Told before delivery passes them.
    pub(crate) fn lose(&self, first: Lsn, next: Lsn) {
        self.lost.lock().push((first, next));
    }

    /// Whether nothing was lost above the one and up to the other.
    pub(crate) fn lost_between(&self, above: Lsn, upto: Lsn) -> Result<(), LogError> {
        let lost = self.lost.lock();
        match lost.iter().find(|(first, next)| *first <= upto && next.prev() > above) {
            None => Ok(()),
            Some((first, next)) => Err(LogError::Corrupt(
                format!(
                    "LSN {first} to {} could not be read back and were given up; what is waited for is one of \
                         them, or came about the same time",
                    next.prev()
                )
                .into(),
            )),
        }
    }

    /// What those are told whose watermark will not move any more.
    pub(crate) fn end_of_waiting(&self) -> LogError {
        if let Some(cause) = self.failure() {
            return LogError::Failed(Arc::clone(cause));
        }
        if let Some(what) = self.corruption() {
            return LogError::Corrupt(Arc::clone(what));
        }
        if self.has_runtime_ended() {
            return LogError::RuntimeEnded;
        }
        LogError::Closed
    }
}
