//! Receipts, and waiting until what they stand for is on disk.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::config::Durability;
use crate::engine::Shared;
use crate::error::LogError;
use crate::watermark::{Registration, WaitError};

/// Where an entry lies: a ring and a position in it. Allocates nothing and may be copied.
///
/// [`Producer::durable`](crate::Producer::durable) turns it into something to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Receipt {
    pub(crate) ring: u32,
    pub(crate) end: u64,
}

/// Tells when an entry, and all that its ring took before it, survives a loss of power: a future, and for
/// threads [`wait`](Self::wait).
///
/// Waiting makes the log hurry: under `Periodic` the sync is made at once, under `Spill` the entries are
/// written. With `Memory` it ends at once with [`LogError::NotDurable`].
#[must_use = "nothing waits until it is awaited, or `wait` is called"]
pub struct Durable {
    shared: Arc<Shared>,
    receipt: Receipt,
    registration: Registration,
    asked: bool,
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable({:?}, {})", self.receipt, if self.is_reached() { "reached" } else { "waiting" })
    }
}

impl Durable {
    pub(crate) fn new(shared: Arc<Shared>, receipt: Receipt) -> Self {
        Self { shared, receipt, registration: Registration::default(), asked: false }
    }

    /// The receipt it stands for.
    #[must_use]
    pub const fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// Whether it is on disk by now. Never waits.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.shared.rings.durable(self.receipt.ring).value() >= self.receipt.end
    }

    /// Waits until it is on disk.
    ///
    /// # Errors
    /// See [`LogError`]. After [`LogError::Failed`] the entry may or may not be on disk. [`LogError::WouldDeadlock`] in the
    /// queue's own sink, if it would have to wait.
    pub fn wait(self) -> Result<(), LogError> {
        self.wait_for(None)
    }

    /// Waits until it is on disk, at most this long.
    ///
    /// # Errors
    /// [`LogError::TimedOut`], and as [`wait`](Self::wait). The entry stays in the queue.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), LogError> {
        self.wait_for(Some(timeout))
    }

    fn wait_for(&self, timeout: Option<Duration>) -> Result<(), LogError> {
        wait_durable(&self.shared, self.receipt, timeout)
    }
}

/// Waits for a position of a ring to be durable, and makes the log hurry.
pub(crate) fn wait_durable(shared: &Shared, receipt: Receipt, timeout: Option<Duration>) -> Result<(), LogError> {
    if shared.config.durability == Durability::Memory {
        return Err(LogError::NotDurable);
    }
    let watermark = shared.rings.durable(receipt.ring);
    if watermark.value() >= receipt.end {
        return Ok(());
    }
    shared.may_wait()?;
    // The watermark rouses the flush core, once we are in its list: once is enough.
    shared.want_durable();
    watermark.wait(receipt.end, timeout).map(drop).map_err(|error| match error {
        WaitError::TimedOut => LogError::TimedOut,
        _ => shared.status.end_of_waiting(),
    })
}

impl Future for Durable {
    type Output = Result<(), LogError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.shared.config.durability == Durability::Memory {
            return Poll::Ready(Err(LogError::NotDurable));
        }
        let watermark = this.shared.rings.durable(this.receipt.ring);
        if watermark.value() < this.receipt.end && !this.shared.rings.is_at_home() {
            return Poll::Ready(Err(LogError::Forked));
        }
        if !this.asked && watermark.value() < this.receipt.end {
            this.asked = true;
            // The watermark rouses the flush core, once we are in its list.
            this.shared.want_durable();
        }
        match watermark.poll(this.receipt.end, &mut this.registration, cx) {
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(this.shared.status.end_of_waiting())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // In a forked child the list is nobody's, and its lock may be held for ever.
        if self.shared.rings.is_at_home() {
            self.shared.rings.durable(self.receipt.ring).cancel(&mut self.registration);
        }
    }
}
