//! A look at a queue without owning it: for exporters, and for handlers that outlive a borrow.

use std::fmt;
use std::sync::Arc;

use crate::engine::Shared;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::prometheus::prometheus_text;

/// Sees a queue's metrics and health from anywhere: cheap to clone, of the same type for every queue, and usable after
/// the queue is closed (which its health then says). From [`Queue::watch`](crate::Queue::watch).
///
/// It keeps the queue's memory, not its directory or its threads.
///
/// ```
/// # use ringwal::{blocking_fn, Batch, Queue};
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-watch-{}", std::process::id()));
/// # let sink = blocking_fn(|_: &Batch<String>| Ok(()));
/// let queue = Queue::builder(&dir).name("orders").open(sink)?;
/// let watch = queue.watch();
/// let handler = move || watch.snapshot().prometheus_text();
/// assert!(handler().contains("ringwal_pending_entries{queue=\"orders\"} 0\n"));
/// # queue.shutdown(std::time::Duration::from_secs(10))?;
/// assert!(handler().contains("ringwal_health{queue=\"orders\"} 2\n")); // closed
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

/// A queue at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The queue's [`name`](crate::Builder::name).
    pub name: String,
    /// Counts, gauges and distributions.
    pub metrics: Metrics,
    /// How it is doing.
    pub health: Health,
}

impl Snapshot {
    /// As text for Prometheus; several queues into one text: [`prometheus_text`].
    #[must_use]
    pub fn prometheus_text(&self) -> String {
        prometheus_text([(self.name.as_str(), &self.metrics, &self.health)])
    }
}

impl Watch {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// The queue's [`name`](crate::Builder::name).
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.config.name()
    }

    /// As [`Queue::metrics`](crate::Queue::metrics).
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// As [`Queue::health`](crate::Queue::health).
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Metrics, health and name together.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { name: self.name().to_owned(), metrics: self.metrics(), health: self.health() }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.name())
    }
}
