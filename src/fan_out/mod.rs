//! Several sinks for one queue, each with a log, a cursor and a park of its own.
//!
//! ```text
//!                                   ┌─► fan-out/kafka/   log, cursor, park ─► sink "kafka"
//!   producers ─► rings ─► log ─► copying
//!                                   └─► fan-out/s3/      log, cursor, park ─► sink "s3"
//! ```
//! The queue's own log is the *source*; its sink copies into the *branches*, ordinary queues in folders of their own, and
//! acknowledges what all of them have on disk. So a sink that is slow, hangs or fails holds up nobody: its branch's log
//! grows, up to its `log_bytes_max`; then the source's does, up to its own; then pushes meet `when_full`.
//!
//! | file        | what                                                  |
//! |-------------|-------------------------------------------------------|
//! | `mod.rs`    | naming and opening; the whole from outside            |
//! | `branch.rs` | one sink from outside                                 |
//! | `copier.rs` | the source's sink                                     |
//! | `copies.rs` | a batch as bytes in the branches' schema              |
//! | `lane.rs`   | one branch's ring, and what it has                    |
//! | `note.rs`   | how the next opening knows what a branch has          |
//!
//! Decision: `docs/adr/0019-fan-out.md`.

mod branch;
mod copier;
mod copies;
mod lane;
mod note;
mod opening;

pub use branch::Branch;
#[cfg(feature = "testing")]
pub use opening::BranchDisk;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::builder::Builder;
use crate::config::Config;
use crate::engine::deadline_after;
use crate::entry::Entry;
use crate::error::{LogError, Shutdown, ShutdownError};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::parked::Parked;
use crate::producer::Producer;
use crate::queue::Queue;
use crate::recovery::Recovery;
use crate::sink::{DynSink, Sink};
use crate::watch::{Snapshot, Watch};

use self::copier::Copying;
use self::lane::Lane;

/// Several sinks for one queue. Every sink gets every entry, at its own pace, from a log of its own.
///
/// ```
/// use ringwal::{Batch, Queue, blocking_fn, fan_out};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
///
/// let sinks = fan_out()
///     .with("kafka", blocking_fn(|batch: &Batch<String>| Ok(assert!(!batch.is_empty()))))
///     .with_settings("s3", blocking_fn(|_: &Batch<String>| Err::<(), _>("away".into())), |s3| s3.batch_len_max(5000));
/// let queue = Queue::builder(dir).open_fan_out(sinks)?;
/// queue.producer().push("to both".to_owned())?;
/// queue.branch("kafka").unwrap().drain(std::time::Duration::from_secs(10))?;
/// let closed = queue.shutdown(std::time::Duration::ZERO);
/// assert_eq!(closed.of("kafka").unwrap().as_ref().unwrap().delivered, 1);
/// // What s3 has not got waits in its log.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const fn fan_out<T>() -> FanOut<T> {
    FanOut { sinks: Vec::new() }
}

/// Sinks with their names: see [`fan_out`] and [`Builder::open_fan_out`].
#[must_use = "sinks get nothing until the queue is opened"]
pub struct FanOut<T> {
    sinks: Vec<Named<T>>,
}

struct Named<T> {
    name: String,
    sink: Box<dyn DynSink<T>>,
    settings: Box<dyn FnOnce(Builder) -> Builder>,
}

impl<T: Send + 'static> FanOut<T> {
    /// One more sink. Its name is that of its folder below `fan-out/` and, behind the queue's, in metrics: 1 to 32 of
    /// `a-z`, `0-9`, `-` and `_`. It is what its log is found by: a sink with another name is another sink.
    pub fn with(self, name: impl Into<String>, sink: impl Sink<T>) -> Self {
        self.with_settings(name, sink, |builder| builder)
    }

    /// One more sink, with settings of its own: batches, retries, limits. It begins with those of the queue, each of which
    /// then holds once more for it: `memory_max` and `log_bytes_max` too.
    ///
    /// The directory is not its to choose. It has one ring, and is never in memory alone.
    pub fn with_settings(
        mut self,
        name: impl Into<String>,
        sink: impl Sink<T>,
        settings: impl FnOnce(Builder) -> Builder + 'static,
    ) -> Self {
        self.sinks.push(Named { name: name.into(), sink: Box::new(sink), settings: Box::new(settings) });
        self
    }
}

impl<T> fmt::Debug for FanOut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sinks.iter().map(|sink| &sink.name)).finish()
    }
}

/// A queue with several sinks: from [`Builder::open_fan_out`].
///
/// Dropping it without [`shutdown`](Self::shutdown) closes the queue and then each branch as dropping a [`Queue`] does.
#[must_use = "dropping the queue closes it"]
pub struct FanOutQueue<T> {
    // Dropped in this order: what is on its way into a branch gets there, or the branch's end tells that it does not.
    source: Queue<T>,
    branches: Vec<Queue<T>>,
    copying: Arc<Copying>,
    unnamed: Vec<String>,
}

impl<T: Entry> FanOutQueue<T> {
    /// A producer for this queue: what it pushes goes to every sink.
    #[must_use]
    pub fn producer(&self) -> Producer<T> {
        self.source.producer()
    }

    /// Entries that are no value of this type any more, or too long for the branches: no sink has got them. Redelivered,
    /// they go to every sink. What one sink has refused is with its [`Branch`].
    #[must_use]
    pub fn parked(&self) -> Parked<'_, T> {
        self.source.parked()
    }
}

impl<T> FanOutQueue<T> {
    /// The sink of this name.
    #[must_use]
    pub fn branch(&self, name: &str) -> Option<Branch<'_, T>> {
        self.branches().find(|branch| branch.name() == name)
    }

    /// All sinks, in the order in which they were named.
    pub fn branches(&self) -> impl ExactSizeIterator<Item = Branch<'_, T>> {
        self.branches.iter().zip(&self.copying.lanes).map(|(queue, lane)| Branch::new(&self.source, queue, lane))
    }

    /// Branches that lie in the directory and have no sink now: sinks that were removed, or have got another name. They
    /// hold back nothing and get nothing; what is in their logs stays there. One that is named again later goes on with
    /// what it had, and misses what came between. To be rid of one, remove its folder; to rename one, rename its folder;
    /// both while the queue is closed.
    #[must_use]
    pub fn unnamed(&self) -> &[String] {
        &self.unnamed
    }

    /// Waits until everything pushed so far is on disk, in the queue's log or further.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn flush(&self) -> Result<(), LogError> {
        self.source.flush()
    }

    /// As [`flush`](Self::flush), for tasks.
    ///
    /// # Errors
    /// See [`LogError`].
    pub async fn flush_async(&self) -> Result<(), LogError> {
        self.source.flush_async().await
    }

    /// Waits until everything pushed so far is delivered or parked by every sink, at most this long. For one sink:
    /// [`Branch::drain`].
    ///
    /// # Errors
    /// [`LogError::TimedOut`] when the time was over, and others of [`LogError`].
    pub fn drain(&self, within: Duration) -> Result<(), LogError> {
        let deadline = deadline_after(within);
        self.source.drain(within)?;
        self.branches.iter().try_for_each(|branch| branch.drain(left_until(deadline)))
    }

    /// Counts and gauges of the source: *delivered* are entries that every branch has on disk.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.source.metrics()
    }

    /// How the source is doing. Each sink's health is with its [`Branch`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.source.health()
    }

    /// Metrics and health of the source, and then of each sink under the name `QUEUE.SINK`: what
    /// [`prometheus_text`](crate::prometheus_text) and other exporters take.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.watches().iter().map(Watch::snapshot).collect()
    }

    /// What sees the same from elsewhere: the source, then each sink.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch> {
        std::iter::once(&self.source).chain(&self.branches).map(Queue::watch).collect()
    }

    /// What opening the source found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        self.source.recovery()
    }

    /// The source's settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.source.config()
    }

    /// Whether the queue takes no more entries.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.source.is_closed()
    }

    /// Closes the queue: pushes are refused from now on, what was pushed is made durable and copied into the branches,
    /// and the sinks are given what is left until the time is over. What has not come so far waits for the next opening:
    /// in a branch's log for one sink, in the source's for all.
    ///
    /// # Errors
    /// They are in the report, for the source and for each sink: [`FanOutShutdown::is_complete`].
    pub fn shutdown(self, within: Duration) -> FanOutShutdown {
        let deadline = deadline_after(within);
        let Self { source, branches, copying, .. } = self;
        let source = source.shutdown(within);
        // All at once, so that none lingers while the others are waited for.
        branches.iter().for_each(|branch| branch.shared().hurry_delivery(branch.metrics().last_lsn));
        let names = copying.lanes.iter().map(|lane| lane.name.clone());
        let closed = branches.into_iter().map(|branch| without_loss(branch.shutdown(left_until(deadline))));
        FanOutShutdown { source, sinks: names.zip(closed).collect() }
    }
}

fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// What found no room in a branch's log is in the source's still, and counted there.
fn without_loss(closed: Result<Shutdown, ShutdownError>) -> Result<Shutdown, ShutdownError> {
    match closed {
        Ok(state) => Ok(Shutdown { lost: 0, ..state }),
        Err(ShutdownError::Deadline(state)) => Err(ShutdownError::Deadline(Shutdown { lost: 0, ..state })),
        Err(ShutdownError::Storage { cause, .. }) => Err(ShutdownError::Storage { cause, lost: 0 }),
        Err(ShutdownError::DiskSilent { state, unsure, ring_bytes }) => {
            Err(ShutdownError::DiskSilent { state: Shutdown { lost: 0, ..state }, unsure, ring_bytes })
        }
    }
}

impl<T> fmt::Debug for FanOutQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.copying.lanes.iter().map(|lane: &Lane| lane.name.as_str()).collect();
        write!(f, "FanOutQueue({:?} to {})", self.source, names.join(", "))
    }
}

/// What closing a queue with several sinks came to.
#[derive(Debug)]
#[non_exhaustive]
pub struct FanOutShutdown {
    /// The source: *delivered* is what every branch has, `left_in_log` what one at least has not.
    pub source: Result<Shutdown, ShutdownError>,
    /// Each sink by its name, in order.
    pub sinks: Vec<(String, Result<Shutdown, ShutdownError>)>,
}

impl FanOutShutdown {
    /// What became of this sink.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&Result<Shutdown, ShutdownError>> {
        self.sinks.iter().find(|(sink, _)| sink == name).map(|(_, closed)| closed)
    }

    /// Whether nothing went wrong and nothing waits for the next opening.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_done = |closed: &Result<Shutdown, ShutdownError>| {
            closed.as_ref().is_ok_and(|state| state.left_in_log == 0 && state.lost == 0)
        };
        is_done(&self.source) && self.sinks.iter().all(|(_, closed)| is_done(closed))
    }
}
