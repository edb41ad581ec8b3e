//! Waiting until the sink is done with an entry.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::durable::Receipt;
use crate::engine::waits::{DeliveryWait, Target, Upto};
use crate::engine::{Shared, deadline_after};
use crate::error::LogError;
use crate::lsn::Lsn;

/// Tells when an entry has come to its end: a future, and for threads [`wait`](Self::wait).
///
/// | what became of the entry | what it answers |
/// |---|---|
/// | the sink has acknowledged it | `Ok` |
/// | it was refused for good and is in the park, durably | `Ok`: it is the park's now, see [`Queue::parked`](crate::Queue::parked) |
/// | the same under [`Park::Drop`](crate::Park::Drop), or it could not be decoded | `Ok`; counted as discarded |
/// | it is still on its way when the queue closes | [`LogError::Closed`]: it waits in the log and is delivered after the next opening |
/// | the log has failed, and the queue closes before the sink is done with it | [`LogError::Failed`]; until then what was accepted is still delivered, and answers `Ok` |
/// | it could not be read back from the log, or delivery has halted before it | [`LogError::Corrupt`] |
/// | it never got into the queue ([`PushError`](crate::PushError), `Dropped` among them) | there is no `Delivered` |
///
/// Once one is waited for, delivery hurries: nothing up to there lingers, or waits for the end of a period. Delivery is
/// counted as a prefix: the answer comes when everything up to this entry has come to its end, and at times something of
/// its ring that was taken over together with it. With several batches in flight
/// ([`in_flight_max`](crate::Builder::in_flight_max)), or verdicts of their own for entries of a batch, it may so come
/// later than the sink's acknowledgement of this entry, never earlier. What is told here may, after a crash, be delivered
/// once more: the cursor on disk is some milliseconds behind.
///
/// Any number may wait at once. Of one that is dropped a few bytes stay with the flush core until its entry has left its ring.
///
/// ```
/// # use ringwal::{Batch, Queue, blocking_fn};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let queue = Queue::builder(dir).open(blocking_fn(|batch: &Batch<String>| Ok(println!("{batch:?}"))))?;
/// let orders = queue.producer();
/// orders.push_delivered("two of these".to_owned())?.wait()?; // the sink has it
/// queue.shutdown(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing waits until it is awaited, or `wait` is called"]
pub struct Delivered(DeliveryWait);

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivered({})", if self.is_reached() { "reached" } else { "waiting" })
    }
}

impl Delivered {
    /// For an entry that was just pushed. What was done before the push was done with other entries.
    pub(crate) fn new(shared: &Arc<Shared>, receipt: Receipt, done_before: Lsn) -> Self {
        let asked = shared.ask_lsn(Upto::Ring(receipt.ring, receipt.end));
        Self(DeliveryWait::new(Arc::clone(shared), Target::Asked(asked), done_before))
    }

    /// For everything up to an entry of the log.
    pub(crate) fn upto(shared: Arc<Shared>, last: Lsn) -> Self {
        Self(DeliveryWait::new(shared, Target::Known(last), Lsn::ZERO))
    }

    /// Whether it has come to its end by now, whichever. Never waits, and hurries nobody.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.0.outcome().is_some()
    }

    /// Waits until the entry has come to its end.
    ///
    /// # Errors
    /// See [above](Self), and [`LogError::WouldDeadlock`] in the queue's own sink.
    pub fn wait(self) -> Result<(), LogError> {
        self.0.wait(None)
    }

    /// Waits until the entry has come to its end, at most this long.
    ///
    /// # Errors
    /// [`LogError::TimedOut`], and as [`wait`](Self::wait). The entry stays in the queue.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), LogError> {
        self.0.wait(Some(deadline_after(timeout)))
    }
}

/// Awaited in the queue's own sink it is [`LogError::WouldDeadlock`].
impl Future for Delivered {
    type Output = Result<(), LogError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx)
    }
}
