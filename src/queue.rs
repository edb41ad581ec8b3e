//! A queue's owner: opens it, watches it, shuts it down.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::builder::Builder;
use crate::config::{Config, Durability};
use crate::delivered::Delivered;
use crate::durable::{Receipt, wait_durable};
use crate::engine::closing::ShuttingDown;
use crate::engine::lifecycle::{self, Engine};
use crate::engine::{Shared, deadline_after};
use crate::entry::Entry;
use crate::error::{LogError, OpenError, Shutdown, ShutdownError};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::parked::Parked;
use crate::producer::Producer;
use crate::recovery::Recovery;
use crate::sink::Sink;
use crate::watch::{Snapshot, Watch};
use crate::watermark::WaitError;

/// A queue: owns the directory, the threads and the sink.
///
/// Dropping it without [`shutdown`](Self::shutdown) refuses pushes, makes what was pushed durable (within
/// [`drop_timeout`](Builder::drop_timeout)), lets the sink finish its batch, and warns on standard error
/// if something is left. Nothing durable is lost.
#[must_use = "dropping the queue closes it"]
pub struct Queue<T> {
    shared: Arc<Shared>,
    engine: Option<Engine>,
    entries: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({:?} in {})", self.shared.config.name(), self.shared.config.dir().display())
    }
}

impl Queue<()> {
    /// Settings for a queue in this directory, which is created where it is missing.
    pub fn builder(dir: impl AsRef<Path>) -> Builder {
        Builder::new(dir.as_ref())
    }
}

impl Builder {
    /// Opens the queue: checks the settings, locks the directory, recovers what is in it, and starts to
    /// deliver to `sink`.
    ///
    /// # Errors
    /// See [`OpenError`], also for what may have been changed in the directory by then.
    pub fn open<T: Entry, S: Sink<T>>(self, sink: S) -> Result<Queue<T>, OpenError> {
        self.open_part(sink).inspect(Queue::is_handed_over)
    }

    /// The same for a queue that is a part of another one: with the whole it [is handed over](Queue::is_handed_over).
    pub(crate) fn open_part<T: Entry, S: Sink<T>>(self, sink: S) -> Result<Queue<T>, OpenError> {
        let (shared, engine) =
            lifecycle::open::<T, S>(self.config.clone(), sink).map_err(|error| error.traced(&self.config))?;
        Ok(Queue { shared, engine: Some(engine), entries: PhantomData })
    }
}

#[cfg(feature = "testing")]
impl Builder {
    /// Opens the queue on a disk of the test's own, such as
    /// [`SimDisk`](crate::sim::SimDisk), instead of a directory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on<T: Entry, S: Sink<T>>(
        self,
        disk: impl crate::io::Disk + 'static,
        sink: S,
    ) -> Result<Queue<T>, OpenError> {
        self.open_part_on(disk, sink).inspect(Queue::is_handed_over)
    }

    pub(crate) fn open_part_on<T: Entry, S: Sink<T>>(
        self,
        disk: impl crate::io::Disk + 'static,
        sink: S,
    ) -> Result<Queue<T>, OpenError> {
        let (shared, engine) =
            lifecycle::open_on::<T, S>(self.config.clone(), disk, sink).map_err(|error| error.traced(&self.config))?;
        Ok(Queue { shared, engine: Some(engine), entries: PhantomData })
    }
}

impl<T> Queue<T> {
    /// Opening ends well: from now on a push or closing shows that somebody has what it found.
    pub(crate) fn is_handed_over(&self) {
        self.shared.status.set_opened();
    }
}

impl<T: Entry> Queue<T> {
    /// A producer for this queue.
    #[must_use]
    pub fn producer(&self) -> Producer<T> {
        Producer { shared: Arc::clone(&self.shared), entries: PhantomData }
    }

    /// The parked entries.
    #[must_use]
    pub fn parked(&self) -> Parked<'_, T> {
        Parked::new(&self.shared)
    }
}

impl<T> Queue<T> {
    /// Waits until everything pushed so far, from any thread, is on disk.
    ///
    /// # Errors
    /// See [`LogError`]; [`LogError::WouldDeadlock`] in the queue's own sink, if it would have to wait.
    pub fn flush(&self) -> Result<(), LogError> {
        if self.shared.config.durability == Durability::Memory {
            return Err(LogError::NotDurable);
        }
        for receipt in self.tails() {
            wait_durable(&self.shared, receipt, None)?;
        }
        Ok(())
    }

    /// As [`flush`](Self::flush), for tasks.
    ///
    /// # Errors
    /// See [`LogError`].
    pub async fn flush_async(&self) -> Result<(), LogError> {
        for receipt in self.tails() {
            crate::durable::Durable::new(Arc::clone(&self.shared), receipt).await?;
        }
        Ok(())
    }

    /// Waits until everything pushed so far is delivered or parked, at most this long.
    ///
    /// # Errors
    /// [`LogError::TimedOut`] when the time was over, [`LogError::WouldDeadlock`] in the queue's own sink, and others of
    /// [`LogError`].
    pub fn drain(&self, within: Duration) -> Result<(), LogError> {
        self.shared.may_wait()?;
        let deadline = deadline_after(within);
        let last = self.shared.fence(deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        self.shared.done.wait(last.number(), Some(left)).map(drop).map_err(|error| match error {
            WaitError::TimedOut => LogError::TimedOut,
            _ => self.shared.status.end_of_waiting(),
        })
    }

    /// As [`drain`](Self::drain), for tasks of any runtime, and without one: the flush core keeps the time. Dropping it
    /// ends the waiting and nothing else.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub async fn drain_async(&self, within: Duration) -> Result<(), LogError> {
        self.shared.drain_async(within).await
    }

    /// Waits for what opening found in the log: `Ok` once all of it is delivered or parked. How far it is:
    /// [`Metrics::recovered_left`]. Pushes need not wait for it.
    ///
    /// ```
    /// # use ringwal::{Batch, Queue, blocking_fn};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let queue = Queue::builder(dir).open(blocking_fn(|_: &Batch<String>| Ok(())))?;
    /// queue.recovered().wait()?; // or `.await`
    /// assert_eq!(queue.metrics().recovered_left, 0);
    /// # queue.shutdown(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recovered(&self) -> Delivered {
        Delivered::upto(Arc::clone(&self.shared), self.shared.recovery.end)
    }

    /// Closes the queue: pushes are refused from now on, what was pushed is made durable, and the sink is
    /// given what is left until the time is over. What it has not acknowledged by then waits in the log
    /// for the next opening; what it answers later is not heard.
    ///
    /// A push that has begun is waited for, up to a second longer than that time if need be, and so is the disk where it
    /// is about to give room. Let producers end first: a push that takes longer than that may say `Ok` of an entry that
    /// is lost.
    ///
    /// # Errors
    /// [`ShutdownError::Deadline`] when the sink did not finish its batch in time,
    /// [`ShutdownError::Storage`] when the log failed, [`ShutdownError::DiskSilent`] when the disk does not answer for 30 s
    /// beyond that time. The queue is closed all the same.
    pub fn shutdown(mut self, within: Duration) -> Result<Shutdown, ShutdownError> {
        match self.engine.take() {
            Some(engine) if !self.shared.rings.is_at_home() => {
                std::mem::forget(engine);
                Err(ShutdownError::Storage { cause: LogError::Forked, lost: 0 })
            }
            Some(engine) => engine.shutdown(&self.shared, within, true),
            None => Ok(Shutdown::default()),
        }
    }

    /// As [`shutdown`](Self::shutdown), for tasks of any runtime, and without one: a thread of its own takes the steps
    /// and keeps the time, and no thread of the caller is blocked.
    ///
    /// Closing begins with this call, not with the first poll, and goes on to its end if the future is dropped: there is no
    /// way back. Who needs to know that everything is on disk before the process ends awaits it.
    ///
    /// ```
    /// # use ringwal::{Batch, Queue, blocking_fn};
    /// # async fn service(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = Queue::builder(dir).open(blocking_fn(|_: &Batch<String>| Ok(())))?;
    /// queue.producer().push("last words".to_owned())?;
    /// queue.drain_async(std::time::Duration::from_secs(1)).await?;
    /// let closed = queue.shutdown_async(std::time::Duration::from_secs(10)).await?;
    /// assert_eq!(closed.delivered, 1);
    /// # Ok(())
    /// # }
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(service(tempfile::tempdir()?.path()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub fn shutdown_async(mut self, within: Duration) -> ShuttingDown {
        match self.engine.take() {
            Some(engine) if !self.shared.rings.is_at_home() => {
                std::mem::forget(engine);
                ShuttingDown::ended(Err(ShutdownError::Storage { cause: LogError::Forked, lost: 0 }))
            }
            Some(engine) => ShuttingDown::begin(engine, Arc::clone(&self.shared), within),
            None => ShuttingDown::ended(Ok(Shutdown::default())),
        }
    }

    /// Stops giving batches to the sink; the one it has is finished. Pushes go on, into the log.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Counts and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// How the queue is doing, with reasons.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Metrics, health and name together: what exporters take.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.watch().snapshot()
    }

    /// What sees metrics and health from elsewhere, without borrowing the queue: for exporters and HTTP handlers.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(&self.shared)
    }

    /// What opening found, and what the platform gives.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether the queue takes no more entries.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.rings.is_closed()
    }

    fn tails(&self) -> impl Iterator<Item = Receipt> {
        self.shared.tails().into_iter().zip(0_u32..).map(|(end, ring)| Receipt { ring, end })
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        if !self.shared.rings.is_at_home() {
            // A forked child: the threads are not here, and the directory is the parent's.
            std::mem::forget(self.engine.take());
        } else if let Some(engine) = self.engine.take() {
            let within = self.shared.config.drop_timeout;
            let outcome = engine.shutdown(&self.shared, within, false);
            lifecycle::warn_of_drop(&self.shared, &outcome);
        }
    }
}

const _: () = {
    const fn is_shared_by_threads<T: Send + Sync>() {}
    is_shared_by_threads::<Queue<Vec<u8>>>();
    is_shared_by_threads::<Producer<Vec<u8>>>();
};
