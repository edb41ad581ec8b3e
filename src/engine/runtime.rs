//! Async sinks on the user's tokio runtime, where their sockets and timers live.
//!
//! ```text
//!   delivery thread ── spawn ──► task on the runtime: polls the sink's future
//!          ▲                        │
//!          └── answer, panic, cancelled ◄┘
//! ```
//! | the task             | is                                                                              |
//! |----------------------|---------------------------------------------------------------------------------|
//! | answers              | the answer                                                                      |
//! | panics               | a failed attempt, like a panic anywhere in a sink                               |
//! | passes its deadline  | aborted, and waited for: an answer that comes after all counts, else it is a failed attempt |
//! | is cancelled         | the runtime was shut down: delivery ends, and nothing counts as an attempt      |
//!
//! Spawned, not polled under `Handle::enter`: `docs/adr/0017-async-sinks-and-runtimes.md`.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use crate::engine::call::{Answer, SinkPanic, block_on};
use crate::engine::trace::BatchSpan;
use crate::engine::{InSink, Shared};
use crate::error::OpenError;
use crate::sink::{Boxed, Outcome};

/// A call of the sink at work on the runtime. Dropping it aborts it.
pub(crate) struct Task {
    task: JoinHandle<Outcome>,
    shared: Arc<Shared>,
    aborted: bool,
}

impl Task {
    pub(crate) fn spawn(
        runtime: &Handle,
        shared: &Arc<Shared>,
        asked: Boxed<'static, Outcome>,
        span: BatchSpan,
    ) -> Self {
        let work = Work { shared: Arc::clone(shared), asked, span };
        Self { task: runtime.spawn(work), shared: Arc::clone(shared), aborted: false }
    }

    pub(crate) fn abort(&mut self) {
        self.aborted = true;
        self.task.abort();
    }

    pub(crate) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.task).poll(context).map(|ended| {
            match ended.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(outcome) => Ok(outcome),
                Err(Ok(panic)) => Err(SinkPanic::of(&*panic)),
                Err(Err(_)) if self.aborted => Ok(Outcome::retry("the sink gave no answer in time")),
                Err(Err(_)) => {
                    self.shared.end_with_runtime();
                    Ok(Outcome::retry("the runtime was shut down"))
                }
            }
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sink's future, with the marks that its own thread would carry.
struct Work {
    shared: Arc<Shared>,
    asked: Boxed<'static, Outcome>,
    span: BatchSpan,
}

impl Future for Work {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Self { shared, asked, span } = self.get_mut();
        // The runtime's threads do other things in between.
        let _mark = InSink::mark(shared);
        span.run(|| asked.as_mut().poll(context))
    }
}

/// Asks the sink something on this thread, within the runtime if there is one: `committed` and `close`, which borrow it.
pub(crate) fn ask<F: Future + Unpin>(runtime: Option<&Handle>, mut future: F) -> Result<F::Output, OpenError> {
    block_on(poll_fn(|context| {
        let _entered = runtime.map(Handle::enter);
        match Pin::new(&mut future).poll(context) {
            Poll::Pending if runtime.is_some_and(is_driven_by_this_thread) => Poll::Ready(Err(would_block_runtime())),
            polled => polled.map(Ok),
        }
    }))
}

/// Whether this thread is the only one that drives the runtime, so that to block it is to wait for ever.
fn is_driven_by_this_thread(runtime: &Handle) -> bool {
    let alone = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread || runtime.metrics().num_workers() == 1;
    alone && Handle::try_current().is_ok_and(|current| current.id() == runtime.id())
}

/// The sink was asked what it has, in a runtime that cannot go on meanwhile.
fn would_block_runtime() -> OpenError {
    OpenError::Resources {
        what: "the sink's committed LSN: its runtime has no other thread than this one; open the queue in \
               `spawn_blocking`"
            .to_owned(),
        source: std::io::ErrorKind::WouldBlock.into(),
    }
}
