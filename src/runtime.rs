//! The setting for whose runtime async sinks work on.

use tokio::runtime::Handle;

use crate::builder::Builder;

impl Builder {
    /// Async sinks work on this tokio runtime: sockets, timers and `tokio::spawn` are at hand, and each delivery is a task
    /// there. Default: they are polled on ringwal's delivery thread, where nothing of a runtime is. Feature `tokio`.
    ///
    /// A delivery costs a task and two wake-ups between threads more, some ten microseconds. A sink that blocks keeps its
    /// own threads, whatever is set here.
    ///
    /// | what happens | what becomes of the batch |
    /// |---|---|
    /// | the task panics | a failed attempt, as with any panic of a sink |
    /// | [`deliver_timeout`](Self::deliver_timeout) passes | the task is aborted, and waited for: it may be in the midst of something. An answer that comes after all counts |
    /// | the runtime is shut down before the queue | delivery ends: what is not acknowledged waits in the log for the next opening, no attempt is counted. Waits end with [`LogError::RuntimeEnded`](crate::LogError::RuntimeEnded), and [`health`](crate::Queue::health) says so |
    ///
    /// `open`, `shutdown` and `wait` block their thread. On the only thread of a runtime, or of its only worker, none of its
    /// tasks goes on meanwhile, the sink's among them: use [`shutdown_async`](crate::Queue::shutdown_async), await instead
    /// of waiting, and open the queue before, or in `spawn_blocking`. Opening there a sink whose
    /// [`committed`](crate::Sink::committed) does not answer at once is refused.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ringwal::{Batch, Queue, sink_fn};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().to_owned();
    /// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    /// runtime.block_on(async {
    ///     let queue = Queue::builder(dir).runtime(tokio::runtime::Handle::current()).open(sink_fn(
    ///         |batch: Batch<String>| async move {
    ///             tokio::time::sleep(Duration::from_millis(1)).await; // a client of tokio's
    ///             Ok(println!("{} lines shipped", batch.len()))
    ///         },
    ///     ))?;
    ///     queue.producer().push_delivered("one".to_owned())?.await?;
    ///     queue.shutdown_async(Duration::from_secs(10)).await?;
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.config.runtime = Some(handle);
        self
    }
}
