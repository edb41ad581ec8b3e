//! Where batches go: the user's side of delivery.
//!
//! | a sink answers              | what becomes of the entries                                     |
//! |-----------------------------|------------------------------------------------------------------|
//! | [`Verdict::Ack`]            | done: the cursor passes them                                     |
//! | [`Verdict::Retry`]          | offered again after a growing delay, parked after the last time  |
//! | [`Verdict::Park`]           | put into the park log with the reason, then done                 |
//! | one verdict for each entry  | each by itself; only what failed is offered again                |
//! | an error in a closure (`?`) | retry of the whole batch, unless the error says otherwise        |
//! | a panic, or never (timeout) | retry of the whole batch                                         |

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::delivery::batch::Batch;
use crate::lsn::Lsn;

mod outcome;

pub use outcome::{IntoOutcome, Outcome, REASON_LEN_MAX, Reason, SinkError, Verdict};

/// Takes batches of entries to where they belong.
///
/// Most sinks are closures: [`sink_fn`], [`blocking_fn`] and [`blocking_pool_fn`]. Batches come strictly in order and one
/// at a time, unless [`in_flight_max`](crate::Builder::in_flight_max) says otherwise; a batch that fails is offered again
/// before anything behind it that must not overtake it.
pub trait Sink<T>: Send + Sync + 'static {
    /// Delivers a batch and says what became of it.
    fn deliver(&self, batch: Batch<T>) -> impl Future<Output = Outcome> + Send;

    /// The last LSN that is stored together with the data, asked once, at open: what lies at or below
    /// it is not delivered again. Exactly once, for sinks that can tell. While nothing is stored yet it is
    /// `Some(Lsn::ZERO)`: any answer promises a prefix, and so gets batches one at a time. A number that no log comes to,
    /// above 2^61, is refused.
    fn committed(&self) -> impl Future<Output = Option<Lsn>> + Send {
        async { None }
    }

    /// Called once, after the last batch.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether `deliver` blocks its thread while it works, and so must not run on an async runtime.
    fn blocks(&self) -> bool {
        false
    }

    /// How many batches it can take at once; a queue sends no more, whatever its
    /// [`in_flight_max`](crate::Builder::in_flight_max).
    fn at_once_max(&self) -> usize {
        usize::MAX
    }

    /// Whether `deliver` may answer with one verdict for each entry. Then batches are kept so short
    /// that every pattern of verdicts fits into the cursor (1025 entries).
    fn partial(&self) -> bool {
        true
    }
}

impl<T: Send + 'static, S: Sink<T>> Sink<T> for Arc<S> {
    fn deliver(&self, batch: Batch<T>) -> impl Future<Output = Outcome> + Send {
        (**self).deliver(batch)
    }

    fn committed(&self) -> impl Future<Output = Option<Lsn>> + Send {
        (**self).committed()
    }

    fn close(&self) -> impl Future<Output = ()> + Send {
        (**self).close()
    }

    fn blocks(&self) -> bool {
        (**self).blocks()
    }

    fn at_once_max(&self) -> usize {
        (**self).at_once_max()
    }

    fn partial(&self) -> bool {
        (**self).partial()
    }
}

/// A future on the heap.
pub type Boxed<'a, O> = Pin<Box<dyn Future<Output = O> + Send + 'a>>;

/// A [`Sink`] behind a pointer: what the engine holds. Every sink is one.
pub trait DynSink<T>: Send + Sync + 'static {
    /// [`Sink::deliver`].
    fn deliver_boxed(&self, batch: Batch<T>) -> Boxed<'_, Outcome>;
    /// [`Sink::committed`].
    fn committed_boxed(&self) -> Boxed<'_, Option<Lsn>>;
    /// [`Sink::close`].
    fn close_boxed(&self) -> Boxed<'_, ()>;
    /// [`Sink::blocks`].
    fn blocks_thread(&self) -> bool;
    /// [`Sink::at_once_max`].
    fn at_once_max_dyn(&self) -> usize;
    /// [`Sink::partial`].
    fn answers_each(&self) -> bool;
}

impl<T: Send + 'static, S: Sink<T>> DynSink<T> for S {
    fn deliver_boxed(&self, batch: Batch<T>) -> Boxed<'_, Outcome> {
        Box::pin(self.deliver(batch))
    }

    fn committed_boxed(&self) -> Boxed<'_, Option<Lsn>> {
        Box::pin(self.committed())
    }

    fn close_boxed(&self) -> Boxed<'_, ()> {
        Box::pin(self.close())
    }

    fn blocks_thread(&self) -> bool {
        self.blocks()
    }

    fn at_once_max_dyn(&self) -> usize {
        self.at_once_max()
    }

    fn answers_each(&self) -> bool {
        self.partial()
    }
}

/// An async closure as a sink: it gets the batch for itself.
///
/// ```
/// use ringwal::{Batch, sink_fn};
/// # async fn post(_: &str) -> std::io::Result<()> { Ok(()) }
///
/// let sink = sink_fn(|batch: Batch<String>| async move {
///     for line in batch.values() {
///         post(line).await?;           // any error: the batch is retried
///     }
///     Ok(())
/// });
/// # fn check<T, S: ringwal::Sink<T>>(_: S) {}
/// # check(sink);
/// ```
pub fn sink_fn<T, O, Fut, F>(deliver: F) -> SinkFn<F, T, O>
where
    F: Fn(Batch<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, SinkError>> + Send,
    O: IntoOutcome,
{
    SinkFn { deliver, types: PhantomData }
}

/// What [`sink_fn`] makes.
pub struct SinkFn<F, T, O> {
    deliver: F,
    types: PhantomData<fn(T) -> O>,
}

impl<T, O, Fut, F> Sink<T> for SinkFn<F, T, O>
where
    T: Send + 'static,
    F: Fn(Batch<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, SinkError>> + Send,
    O: IntoOutcome,
{
    fn deliver(&self, batch: Batch<T>) -> impl Future<Output = Outcome> + Send {
        let answer = (self.deliver)(batch);
        async move { answer.await.into_outcome() }
    }

    fn partial(&self) -> bool {
        O::EACH
    }
}

impl<F, T, O> fmt::Debug for SinkFn<F, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SinkFn")
    }
}

/// A closure that blocks as a sink: it is called on a thread of its own, one batch at a time, and
/// may hold state.
///
/// ```
/// use ringwal::{Batch, blocking_fn};
///
/// let mut shipped = 0;
/// let sink = blocking_fn(move |batch: &Batch<String>| {
///     shipped += batch.len();
///     Ok(println!("{shipped} so far"))
/// });
/// # fn check<T, S: ringwal::Sink<T>>(_: S) {}
/// # check(sink);
/// ```
pub fn blocking_fn<T, O, F>(deliver: F) -> BlockingFn<F, T, O>
where
    F: FnMut(&Batch<T>) -> Result<O, SinkError> + Send + 'static,
    O: IntoOutcome,
{
    BlockingFn { deliver: Mutex::new(deliver), types: PhantomData }
}

/// What [`blocking_fn`] makes.
pub struct BlockingFn<F, T, O> {
    deliver: Mutex<F>,
    types: PhantomData<fn(T) -> O>,
}

impl<T, O, F> Sink<T> for BlockingFn<F, T, O>
where
    T: Send + 'static,
    F: FnMut(&Batch<T>) -> Result<O, SinkError> + Send + 'static,
    O: IntoOutcome,
{
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        let mut deliver = self.deliver.lock();
        (*deliver)(&batch).into_outcome()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn at_once_max(&self) -> usize {
        1
    }

    fn partial(&self) -> bool {
        O::EACH
    }
}

impl<F, T, O> fmt::Debug for BlockingFn<F, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingFn")
    }
}

/// A closure that blocks as a sink for several batches at once: it is called on as many threads as
/// [`in_flight_max`](crate::Builder::in_flight_max) says, and what it holds is shared by them.
///
/// ```
/// use ringwal::{Batch, blocking_pool_fn};
/// # use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let shipped = AtomicUsize::new(0);
/// let sink = blocking_pool_fn(move |batch: &Batch<String>| {
///     shipped.fetch_add(batch.len(), Ordering::Relaxed);
///     Ok(())
/// });
/// # fn check<T, S: ringwal::Sink<T>>(_: S) {}
/// # check(sink);
/// ```
pub fn blocking_pool_fn<T, O, F>(deliver: F) -> BlockingPoolFn<F, T, O>
where
    F: Fn(&Batch<T>) -> Result<O, SinkError> + Send + Sync + 'static,
    O: IntoOutcome,
{
    BlockingPoolFn { deliver, types: PhantomData }
}

/// What [`blocking_pool_fn`] makes.
pub struct BlockingPoolFn<F, T, O> {
    deliver: F,
    types: PhantomData<fn(T) -> O>,
}

impl<T, O, F> Sink<T> for BlockingPoolFn<F, T, O>
where
    T: Send + 'static,
    F: Fn(&Batch<T>) -> Result<O, SinkError> + Send + Sync + 'static,
    O: IntoOutcome,
{
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        (self.deliver)(&batch).into_outcome()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn partial(&self) -> bool {
        O::EACH
    }
}

impl<F, T, O> fmt::Debug for BlockingPoolFn<F, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingPoolFn")
    }
}
