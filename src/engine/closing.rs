//! Closing for tasks: the same steps on a thread of their own.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::engine::Shared;
use crate::engine::lifecycle::{Engine, spawn};
use crate::error::{LogError, Shutdown, ShutdownError};
use crate::sync::Mutex;

type Outcome = Result<Shutdown, ShutdownError>;

/// A queue that is being closed: what [`Queue::shutdown_async`](crate::Queue::shutdown_async) gives. Dropping it changes
/// nothing: closing goes on to its end.
#[must_use = "closing goes on by itself, but what it came to is told here"]
pub struct ShuttingDown(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl fmt::Debug for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.lock().outcome.is_some() { "ShuttingDown(ended)" } else { "ShuttingDown" })
    }
}

impl ShuttingDown {
    pub(crate) fn ended(outcome: Outcome) -> Self {
        Self(Arc::new(Mutex::new(Told { outcome: Some(outcome), waker: None })))
    }

    /// Begins to close at once, whether or not anybody ever awaits it.
    pub(crate) fn begin(engine: Engine, shared: Arc<Shared>, within: Duration) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        // Shared with the thread, so that it is still here if there is to be none.
        let job = Arc::new(Mutex::new(Some((engine, Arc::clone(&told)))));
        let close = {
            let (shared, job) = (Arc::clone(&shared), Arc::clone(&job));
            move || {
                let Some((engine, told)) = job.lock().take() else {
                    return;
                };
                let closed = catch_unwind(AssertUnwindSafe(|| engine.shutdown(&shared, within, true)));
                // An error of ours; whoever waits must not wait for ever.
                let outcome = closed.unwrap_or(Err(ShutdownError::Storage { cause: LogError::Closed, lost: 0 }));
                let waker = {
                    let mut told = told.lock();
                    told.outcome = Some(outcome);
                    told.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        };
        if spawn(&shared.config, "close", close.clone()).is_err() {
            // No thread is to be had: closing is not to fail for that, though it blocks this one.
            close();
        }
        Self(told)
    }
}

impl Future for ShuttingDown {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // A waker is somebody else's code: cloned before the lock is taken, dropped after.
        let waker = cx.waker().clone();
        let mut told = self.0.lock();
        if let Some(outcome) = &told.outcome {
            return Poll::Ready(outcome.clone());
        }
        let before = told.waker.replace(waker);
        drop(told);
        drop(before);
        Poll::Pending
    }
}
