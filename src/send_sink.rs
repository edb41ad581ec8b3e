//! A producer as a `futures::Sink`.
//!
//! | `Sink`       | here                                                                              |
//! |--------------|-----------------------------------------------------------------------------------|
//! | `poll_ready` | what was sent last is in the queue; while its ring is full, the task waits         |
//! | `start_send` | pushes                                                                            |
//! | `poll_flush` | all that was sent through this handle is on disk                                  |
//! | `poll_close` | as `poll_flush`; the queue stays open                                             |

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::durable::{Durable, Receipt};
use crate::entry::Entry;
use crate::error::{LogError, PushError};
use crate::producer::Producer;

/// A push that waits for space.
type Sending<T> = Pin<Box<dyn Future<Output = Result<Receipt, PushError<T>>> + Send>>;

/// A [`Producer`] as a `futures::Sink`: see [`Producer::sink`].
#[must_use = "sinks do nothing unless entries are sent"]
pub struct ProducerSink<T> {
    producer: Producer<T>,
    /// Sent, and not yet in its ring, which was full.
    sending: Option<Sending<T>>,
    /// The last position in each ring, by the ring's number; 0: nothing that is not known to be on disk.
    ends: Vec<u64>,
    flushing: Option<Durable>,
}

/// Why a [`ProducerSink`] did not take an entry, or cannot say that it is on disk.
#[non_exhaustive]
pub enum SendError<T> {
    /// The entry was not taken; it comes back. The handle goes on with the next one.
    Push(PushError<T>),
    /// What was taken is in the queue, but not known to be on disk. [`LogError::NotDurable`] with
    /// [`Durability::Memory`](crate::Durability::Memory): `feed` there, and never flush.
    Log(LogError),
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(error) => write!(f, "SendError::Push({error:?})"),
            Self::Log(error) => write!(f, "SendError::Log({error:?})"),
        }
    }
}

impl<T: 'static> Error for SendError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Push(error) => Some(error),
            Self::Log(error) => Some(error),
        }
    }
}

impl<T: Entry> Producer<T> {
    /// This producer as a `futures::Sink`: `feed` waits for space and pushes, `flush`, `send` and `close` wait until it is
    /// on disk. Feature `futures`.
    ///
    /// It waits for space as [`push_async`](Self::push_async) does, and costs an allocation for each entry: hot loops
    /// call [`push`](Self::push). Closing it closes this handle, not the queue. An entry that was sent while its ring was
    /// full is in the queue once the handle is ready again or flushed; dropping the handle before takes it along.
    ///
    /// ```
    /// use futures_util::{SinkExt, stream};
    /// use ringwal::{Batch, Queue, blocking_fn};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    ///
    /// let queue = Queue::builder(dir).open(blocking_fn(|batch: &Batch<String>| Ok(assert!(!batch.is_empty()))))?;
    /// let mut lines = queue.producer().sink();
    /// # futures_util_block_on(async {
    /// lines.send("on disk when this returns".to_owned()).await?;
    /// lines.send_all(&mut stream::iter(["these".to_owned(), "too".to_owned()].map(Ok))).await?;
    /// # Ok::<(), ringwal::SendError<String>>(()) })?;
    /// assert_eq!(queue.metrics().durable_lsn.number(), 3);
    /// queue.shutdown(std::time::Duration::from_secs(10))?;
    /// # fn futures_util_block_on<F: Future>(future: F) -> F::Output {
    /// #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sink(&self) -> ProducerSink<T> {
        let ends = vec![0; self.shared.rings.count() as usize];
        ProducerSink { producer: self.clone(), sending: None, ends, flushing: None }
    }
}

impl<T: Entry> ProducerSink<T> {
    /// The producer behind it.
    #[must_use]
    pub const fn producer(&self) -> &Producer<T> {
        &self.producer
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<T>>> {
        let Some(sending) = &mut self.sending else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(sending.as_mut().poll(cx));
        self.sending = None;
        let receipt = sent.map_err(SendError::Push)?;
        self.ends[receipt.ring as usize] = receipt.end;
        Poll::Ready(Ok(()))
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<T>>> {
        loop {
            if let Some(flushing) = &mut self.flushing {
                let receipt = flushing.receipt();
                let flushed = ready!(Pin::new(flushing).poll(cx));
                self.flushing = None;
                flushed.map_err(SendError::Log)?;
                // What was sent meanwhile lies behind it, and is waited for as well.
                let end = &mut self.ends[receipt.ring as usize];
                *end = if *end > receipt.end { *end } else { 0 };
            }
            let Some((ring, end)) = (0..).zip(&self.ends).find(|(_, end)| **end > 0) else {
                return Poll::Ready(Ok(()));
            };
            let receipt = Receipt { ring, end: *end };
            self.flushing = Some(Durable::new(Arc::clone(&self.producer.shared), receipt));
        }
    }
}

// Nothing of it is pinned in place: the future has a box of its own.
impl<T> Unpin for ProducerSink<T> {}

impl<T: Entry> futures_sink::Sink<T> for ProducerSink<T> {
    type Error = SendError<T>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().poll_sending(cx)
    }

    fn start_send(self: Pin<&mut Self>, entry: T) -> Result<(), Self::Error> {
        let this = self.get_mut();
        assert!(this.sending.is_none(), "start_send is called when poll_ready has said that it is ready");
        let producer = this.producer.clone();
        this.sending = Some(Box::pin(async move { producer.push_async(entry).await }));
        // Nearly always there is space. If not, whoever polls next is woken.
        match this.poll_sending(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        ready!(this.poll_sending(cx))?;
        this.poll_durable(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_flush(cx)
    }
}

impl<T> fmt::Debug for ProducerSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.sending.is_some() { "waits for space" } else { "ready" };
        write!(f, "ProducerSink({:?}, {state})", self.producer)
    }
}
