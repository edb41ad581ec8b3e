//! Batches as a `futures::Stream`: the queue's sink is whoever polls it.
//!
//! ```text
//!   queue ── deliver(batch) ──► offered ──► Batches::poll_next ──► Handed ── ack, retry, park, drop ──┐
//!     ▲                            │ deadline over: taken back                                        │
//!     └──────── outcome ───────────┴──────────────────────────────────────────────────────────────────┘
//! ```
//! Who does not poll takes nothing: what is offered and not taken is all that delivery gives out, the rest waits in the
//! log.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use parking_lot::Mutex;

use crate::delivery::batch::Batch;
use crate::sink::{Outcome, Reason, Sink};

/// A sink, and the stream on which its batches come. Feature `futures`.
///
/// Each item is a batch that must be answered: [`ack`](Handed::ack), [`retry`](Handed::retry), [`park`](Handed::park) or
/// [`answer`](Handed::answer). One that is dropped without an answer is retried. There is one batch at a time, or up to
/// [`in_flight_max`](crate::Builder::in_flight_max) of them, and with
/// [`deliver_timeout`](crate::Builder::deliver_timeout) the time until the answer is limited: a batch that was not taken
/// by then is taken back. The stream ends when the queue has been shut down. Once the stream is dropped, every batch
/// fails, is retried as [`Retry`](crate::Retry) says, and parked in the end: shut the queue down first, or pause it.
///
/// ```
/// use futures_util::StreamExt;
/// use ringwal::{Queue, stream_sink};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
///
/// let (sink, mut batches) = stream_sink();
/// let queue = Queue::builder(dir).open(sink)?;
/// queue.producer().push("one".to_owned())?;
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let batch = batches.next().await.expect("the queue is open");
/// assert_eq!(batch[0].value, "one");
/// batch.ack();
/// # });
/// let closed = queue.shutdown(std::time::Duration::from_secs(10))?;
/// assert_eq!((closed.delivered, closed.left_in_log), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stream_sink<T: Send + 'static>() -> (StreamSink<T>, Batches<T>) {
    let between = Arc::new(Mutex::new(Between::default()));
    (StreamSink { between: Arc::clone(&between) }, Batches { between })
}

/// The sink's half of [`stream_sink`].
pub struct StreamSink<T> {
    between: Arc<Mutex<Between<T>>>,
}

/// Batches on their way to whoever polls: the stream's half of [`stream_sink`].
#[must_use = "streams do nothing unless polled"]
pub struct Batches<T> {
    between: Arc<Mutex<Between<T>>>,
}

/// What both halves see.
struct Between<T> {
    offered: VecDeque<Handed<T>>,
    /// Of the task that polls.
    waker: Option<Waker>,
    /// The queue gives no more.
    closed: bool,
    /// Nobody polls any more.
    gone: bool,
}

impl<T> Default for Between<T> {
    fn default() -> Self {
        Self { offered: VecDeque::new(), waker: None, closed: false, gone: false }
    }
}

/// A batch in the hands of whoever polls the stream. Behaves as its [`Batch`].
///
/// Dropped without an answer, its entries are retried.
#[must_use = "a batch that is dropped without an answer is retried"]
pub struct Handed<T> {
    // `None` once it has been answered.
    batch: Option<Batch<T>>,
    reply: Arc<Mutex<Reply>>,
}

/// An answer on its way to the queue.
enum Reply {
    Waiting(Waker),
    Given(Outcome),
    /// The queue does not wait for it any more, or has taken it.
    Over,
}

impl<T> Handed<T> {
    /// All entries are delivered. False: the answer came too late, the batch's deadline was over; the entries are
    /// delivered again. (True is no promise that they are not: what is acknowledged when the time of a shutdown is over is
    /// not heard, and a crash may come before the cursor is on disk.)
    pub fn ack(self) -> bool {
        self.answer(Outcome::ack())
    }

    /// All entries are to be offered again. False as in [`ack`](Self::ack).
    pub fn retry(self, why: impl Into<Reason>) -> bool {
        self.answer(Outcome::retry(why))
    }

    /// All entries are to be parked. False as in [`ack`](Self::ack).
    pub fn park(self, why: impl Into<Reason>) -> bool {
        self.answer(Outcome::park(why))
    }

    /// Any outcome, with one verdict for each entry if need be. False as in [`ack`](Self::ack).
    pub fn answer(mut self, outcome: Outcome) -> bool {
        self.batch = None;
        give(&self.reply, outcome)
    }

    /// Whether the queue does not wait for an answer any more.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(*self.reply.lock(), Reply::Over)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn give(reply: &Mutex<Reply>, outcome: Outcome) -> bool {
    let mut state = reply.lock();
    if !matches!(*state, Reply::Waiting(_)) {
        return false;
    }
    let before = mem::replace(&mut *state, Reply::Given(outcome));
    // A waker is somebody else's code: not under the lock.
    drop(state);
    if let Reply::Waiting(waker) = before {
        waker.wake();
    }
    true
}

impl<T> Deref for Handed<T> {
    type Target = Batch<T>;

    fn deref(&self) -> &Batch<T> {
        self.batch.as_ref().expect("answering takes it by value")
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        if self.batch.take().is_some() {
            give(&self.reply, Outcome::retry("the batch was dropped without an answer"));
        }
    }
}

/// The wait for an answer. Dropped before it came (the deadline was over), it takes the batch back.
struct Asked<'a, T> {
    between: &'a Mutex<Between<T>>,
    reply: Arc<Mutex<Reply>>,
}

impl<T> Future for Asked<'_, T> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // A waker is somebody else's code: cloned before the lock is taken, and the old one dropped after.
        let waker = cx.waker().clone();
        let mut reply = self.reply.lock();
        let before = mem::replace(&mut *reply, Reply::Over);
        if let Reply::Given(outcome) = before {
            return Poll::Ready(outcome);
        }
        *reply = Reply::Waiting(waker);
        drop(reply);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Asked<'_, T> {
    fn drop(&mut self) {
        let before = mem::replace(&mut *self.reply.lock(), Reply::Over);
        drop(before);
        let mut between = self.between.lock();
        let at = between.offered.iter().position(|offer| Arc::ptr_eq(&offer.reply, &self.reply));
        let back = at.and_then(|at| between.offered.remove(at));
        // Values are somebody else's code: not under the lock.
        drop(between);
        drop(back);
    }
}

impl<T> StreamSink<T> {
    /// Puts a batch where the stream finds it. `None`: nobody polls any more.
    fn offer(&self, batch: Batch<T>) -> Option<Asked<'_, T>> {
        let reply = Arc::new(Mutex::new(Reply::Waiting(Waker::noop().clone())));
        let asked = Asked { between: &self.between, reply: Arc::clone(&reply) };
        let mut between = self.between.lock();
        if between.gone {
            return None;
        }
        between.offered.push_back(Handed { batch: Some(batch), reply });
        let waker = between.waker.take();
        drop(between);
        wake(waker);
        Some(asked)
    }

    fn end(&self) {
        let mut between = self.between.lock();
        between.closed = true;
        let waker = between.waker.take();
        drop(between);
        wake(waker);
    }
}

impl<T: Send + 'static> Sink<T> for StreamSink<T> {
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        match self.offer(batch) {
            Some(asked) => asked.await,
            None => Outcome::retry("the stream of batches was dropped"),
        }
    }

    async fn close(&self) {
        self.end();
    }
}

/// A queue that did not open, or whose sink did not come back in time, closes nothing.
impl<T> Drop for StreamSink<T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<T> Stream for Batches<T> {
    type Item = Handed<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Handed<T>>> {
        let waker = cx.waker().clone();
        let mut between = self.between.lock();
        if let Some(handed) = between.offered.pop_front() {
            return Poll::Ready(Some(handed));
        }
        if between.closed {
            return Poll::Ready(None);
        }
        let before = between.waker.replace(waker);
        drop(between);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        let mut between = self.between.lock();
        between.gone = true;
        let left = (mem::take(&mut between.offered), between.waker.take());
        drop(between);
        // Each answers as it goes.
        drop(left);
    }
}

impl<T> fmt::Debug for StreamSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamSink")
    }
}

impl<T> fmt::Debug for Batches<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batches({} offered)", self.between.lock().offered.len())
    }
}

impl<T> fmt::Debug for Handed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.batch {
            Some(batch) => write!(f, "Handed({batch:?})"),
            None => f.write_str("Handed(answered)"),
        }
    }
}
