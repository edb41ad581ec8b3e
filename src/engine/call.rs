//! A call of the sink: what it is asked, where it works, what comes of it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::config::Config;
use crate::engine::Shared;
#[cfg(feature = "tokio")]
use crate::engine::runtime::{self, Task};
use crate::engine::trace::BatchSpan;
use crate::error::OpenError;
use crate::sink::{Boxed, Outcome};
use crate::sync::thread::{self, Thread};

/// A batch out at the sink. What panics there goes no further.
pub(crate) enum Call {
    /// Whoever polls it does the work.
    Here { asked: Option<Boxed<'static, Outcome>>, span: BatchSpan },
    /// A task of the user's runtime does.
    #[cfg(feature = "tokio")]
    There(Task),
}

/// Asks the sink something besides a delivery, on this thread.
///
/// # Errors
/// When its runtime cannot go on while this thread waits for it.
pub(crate) fn ask<F: Future + Unpin>(config: &Config, future: F) -> Result<F::Output, OpenError> {
    #[cfg(feature = "tokio")]
    return runtime::ask(config.runtime.as_ref(), future);
    #[cfg(not(feature = "tokio"))]
    {
        let _ = config;
        Ok(block_on(future))
    }
}

/// What came of a call.
pub(crate) type Answer = Result<Outcome, SinkPanic>;

/// What a sink said when it panicked.
#[derive(Debug)]
pub(crate) struct SinkPanic(String);

impl fmt::Display for SinkPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sink panicked: {}", self.0)
    }
}

impl Call {
    /// Asks the sink: on the user's runtime if there is one, and the sink does not block.
    pub(crate) fn new(shared: &Arc<Shared>, asked: Boxed<'static, Outcome>, span: BatchSpan, blocks: bool) -> Self {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = shared.config.runtime.as_ref().filter(|_| !blocks) {
            return Self::There(Task::spawn(runtime, shared, asked, span));
        }
        let _ = (shared, blocks);
        Self::Here { asked: Some(asked), span }
    }

    /// Its deadline has passed. True: it ends by itself, soon, and must be waited for until then.
    pub(crate) fn abort(&mut self) -> bool {
        match self {
            Self::Here { .. } => false,
            #[cfg(feature = "tokio")]
            Self::There(task) => {
                task.abort();
                true
            }
        }
    }

    /// Whether dropping it may leave the sink at work for a moment.
    pub(crate) const fn is_elsewhere(&self) -> bool {
        !matches!(self, Self::Here { .. })
    }
}

impl Future for Call {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (asked, span) = match self.get_mut() {
            Self::Here { asked, span } => (asked, span),
            #[cfg(feature = "tokio")]
            Self::There(task) => return task.poll_answer(context),
        };
        let poll = || {
            let polled = asked.as_mut().map_or(Poll::Pending, |asked| asked.as_mut().poll(context));
            if polled.is_ready() {
                // Dropping it is the sink's code too.
                *asked = None;
            }
            polled
        };
        match span.run(|| catch_unwind(AssertUnwindSafe(poll))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(SinkPanic::of(&*panic))),
        }
    }
}

impl SinkPanic {
    pub(crate) fn of(panic: &(dyn Any + Send)) -> Self {
        Self(panic_text(panic).to_owned())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Wakes a thread that is parked.
pub(crate) struct Unpark(Thread);

impl Unpark {
    pub(crate) fn waker(thread: Thread) -> Waker {
        Waker::from(Arc::new(Self(thread)))
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a sink's future on this thread. Wakes meant for the delivery thread's own waiting only make it
/// look once more.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Unpark::waker(thread::current());
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
