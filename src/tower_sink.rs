//! A `tower::Service` as a sink.
//!
//! ```text
//!   batch ─► request(batch) ─► clone of the service: poll_ready … call ─► answer(result) ─► verdicts
//! ```
//! Each batch gets a clone of the service, which is made ready and then called: with several batches at once the clones
//! work side by side, and layers that share state between clones (limits, buffers) hold for all of them.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;

use parking_lot::Mutex;
use tower_service::Service;

use crate::delivery::batch::Batch;
use crate::sink::{IntoOutcome, Outcome, Sink, SinkError};

/// What [`tower_sink`] and [`tower_sink_with`] make.
pub struct TowerSink<S, R, Q, A> {
    // Only so that a service need not be `Sync`: it is held for the length of a clone.
    service: Mutex<S>,
    request: Q,
    answer: A,
    types: PhantomData<fn() -> R>,
}

/// How [`tower_sink`] asks a service, and understands its answer.
type Plain<S, T, O, E> = TowerSink<S, Batch<T>, fn(Batch<T>) -> Batch<T>, fn(Result<O, E>) -> Result<O, SinkError>>;

/// A service that takes batches as a sink: its response says what became of the entries, as a closure's answer does
/// (`()`, [`Verdict`](crate::Verdict), one verdict for each), and any error means: try again.
///
/// A service whose requests or responses are something else, or whose errors are not all alike, goes through
/// [`tower_sink_with`]. Feature `tower`.
///
/// `poll_ready` is waited for before each call; the wait counts towards
/// [`deliver_timeout`](crate::Builder::deliver_timeout). A service that fails in `poll_ready` has failed the batch: the
/// next attempt begins with a new clone. The service is polled on the queue's delivery thread. What needs a runtime,
/// such as tower's `Timeout`, belongs behind a layer that calls it there, such as `Buffer`.
///
/// ```
/// use ringwal::{Batch, Queue, tower_sink};
/// use tower::{ServiceBuilder, service_fn};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let service = ServiceBuilder::new()
///     .concurrency_limit(2) // at most two batches are out, whatever `in_flight_max` says
///     .service(service_fn(|batch: Batch<String>| async move {
///         assert!(batch.values().all(|line| line.starts_with("line")));
///         Ok::<(), std::io::Error>(())
///     }));
/// let queue = Queue::builder(dir).in_flight_max(4).open(tower_sink(service))?;
/// queue.producer().push("line 1".to_owned())?;
/// let closed = queue.shutdown(std::time::Duration::from_secs(10))?;
/// assert_eq!(closed.delivered, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tower_sink<T, S, O, E>(service: S) -> Plain<S, T, O, E>
where
    T: Send + 'static,
    S: Service<Batch<T>, Response = O, Error = E> + Clone + Send + 'static,
    S::Future: Send,
    O: IntoOutcome,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    tower_sink_with(service, std::convert::identity, |result| result.map_err(SinkError::retry))
}

/// A service as a sink, with a request made of each batch, and a reading of what came of it.
///
/// `answer` gets the response or the error, `poll_ready`'s too: [`SinkError::park`] gives the batch up,
/// [`SinkError::retry_after`] says when to come back. Feature `tower`.
///
/// ```
/// use std::time::Duration;
/// use ringwal::{Batch, SinkError, tower_sink_with};
/// use tower::service_fn;
///
/// // Stands for an HTTP client.
/// let client = service_fn(|body: String| async move { Ok::<u16, std::io::Error>(if body.is_empty() { 400 } else { 200 }) });
/// let sink = tower_sink_with(
///     client,
///     |batch: Batch<String>| batch.values().map(String::as_str).collect::<Vec<_>>().join("\n"),
///     |result| match result? {
///         200..300 => Ok(()),
///         429 => Err(SinkError::retry_after(Duration::from_secs(30), "told to slow down")),
///         status @ 400..500 => Err(SinkError::park(format!("refused with {status}"))),
///         status => Err(SinkError::retry(format!("failed with {status}"))),
///     },
/// );
/// # fn check<T, S: ringwal::Sink<T>>(_: &S) {}
/// # check::<String, _>(&sink);
/// ```
pub fn tower_sink_with<T, S, R, Q, A, O>(service: S, request: Q, answer: A) -> TowerSink<S, R, Q, A>
where
    T: Send + 'static,
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
    Q: Fn(Batch<T>) -> R + Send + Sync + 'static,
    A: Fn(Result<S::Response, S::Error>) -> Result<O, SinkError> + Send + Sync + 'static,
    O: IntoOutcome,
{
    TowerSink { service: Mutex::new(service), request, answer, types: PhantomData }
}

impl<T, S, R, Q, A, O> Sink<T> for TowerSink<S, R, Q, A>
where
    T: Send + 'static,
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
    Q: Fn(Batch<T>) -> R + Send + Sync + 'static,
    A: Fn(Result<S::Response, S::Error>) -> Result<O, SinkError> + Send + Sync + 'static,
    O: IntoOutcome,
{
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        let mut service = self.service.lock().clone();
        if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
            return (self.answer)(Err(error)).into_outcome();
        }
        let response = service.call((self.request)(batch));
        (self.answer)(response.await).into_outcome()
    }

    fn partial(&self) -> bool {
        O::EACH
    }
}

impl<S, R, Q, A> fmt::Debug for TowerSink<S, R, Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TowerSink")
    }
}
