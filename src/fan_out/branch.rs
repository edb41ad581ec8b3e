//! One sink of several, from outside.

use std::fmt;
use std::time::Duration;

use crate::config::Config;
use crate::delivery::park::ParkedEntry;
use crate::engine::deadline_after;
use crate::entry::Entry;
use crate::error::LogError;
use crate::fan_out::lane::{Lane, LaneError};
use crate::fan_out::left_until;
use crate::health::Health;
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::recovery::Recovery;
use crate::watch::Watch;

/// One sink of a [`FanOutQueue`](crate::FanOutQueue), with its log, cursor and park.
///
/// Its entries have LSNs of this log's own, which rise and never come again like those of any queue: a sink that stores
/// them and answers [`committed`](crate::Sink::committed) gets each entry exactly once.
pub struct Branch<'a, T> {
    source: &'a Queue<T>,
    queue: &'a Queue<T>,
    lane: &'a Lane,
}

impl<T> Clone for Branch<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Branch<'_, T> {}

impl<'a, T> Branch<'a, T> {
    pub(super) const fn new(source: &'a Queue<T>, queue: &'a Queue<T>, lane: &'a Lane) -> Self {
        Self { source, queue, lane }
    }

    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.lane.name
    }

    /// Up to which LSN of the source this branch has everything.
    #[must_use]
    pub fn copied(&self) -> Lsn {
        self.lane.copied()
    }

    /// Waits until everything that was pushed so far is copied, and delivered or parked by this sink, at most this long.
    /// Copying waits for the other branches too, if one of them has no room.
    ///
    /// # Errors
    /// [`LogError::TimedOut`] when the time was over, and others of [`LogError`].
    pub fn drain(&self, within: Duration) -> Result<(), LogError> {
        let deadline = deadline_after(within);
        self.source.drain(within)?;
        self.queue.drain(left_until(deadline))
    }

    /// Stops giving batches to this sink; the one it has is finished. Its log goes on.
    pub fn pause(&self) {
        self.queue.pause();
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.queue.resume();
    }

    /// Counts and gauges of this sink and its log: *pushed* is what was copied, and what was redelivered from its park.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.queue.metrics()
    }

    /// How this sink and its log are doing.
    #[must_use]
    pub fn health(&self) -> Health {
        self.queue.health()
    }

    /// What sees metrics and health from elsewhere, under the name `QUEUE.SINK`.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.queue.watch()
    }

    /// What opening this branch found.
    #[must_use]
    pub fn recovery(&self) -> &'a Recovery {
        self.queue.recovery()
    }

    /// This sink's settings in force.
    #[must_use]
    pub fn config(&self) -> &'a Config {
        self.queue.config()
    }
}

impl<T: Entry> Branch<'_, T> {
    /// Entries that this sink has refused for good: the oldest `max` of them after `after`, as
    /// [`Parked::list`](crate::Parked::list).
    ///
    /// # Errors
    /// When the park cannot be read; see [`LogError`].
    pub fn parked(&self, after: Lsn, max: usize) -> Result<Vec<ParkedEntry>, LogError> {
        self.queue.parked().list(after, max)
    }

    /// Offers those that `which` chooses to this sink again, and to no other, and gives their number; as
    /// [`Parked::redeliver`](crate::Parked::redeliver). Copying waits meanwhile, into the other branches too.
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done. [`LogError::Failed`] also when the branch's note cannot be
    /// written; nothing was put back then.
    pub fn redeliver(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        self.lane.redeliver::<T>(which).map_err(|error| match error {
            LaneError::Log(error) => error,
            LaneError::Note(error) => Lane::note_failed(&error),
        })
    }

    /// Gives those up that `which` chooses, and tells their number; as [`Parked::discard`](crate::Parked::discard).
    ///
    /// # Errors
    /// See [`LogError`]; those before the error are done.
    pub fn discard(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LogError> {
        self.queue.parked().discard(which)
    }
}

impl<T> fmt::Debug for Branch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Branch({:?}, {:?})", self.name(), self.queue)
    }
}
