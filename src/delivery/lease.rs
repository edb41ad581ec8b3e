//! A batch that is out at the sink, as a type that has no fourth exit.
//!
//! ```text
//!  poll_delivery ──► Lease ──┬── handle_verdict ──► acked │ waiting for retry │ parked
//!                            └── dropped (panic, lost future, forgotten) ──► waiting for retry
//! ```
//! A lease cannot be made, copied or answered twice. Dropping it puts its number into a queue that
//! the dispatcher empties at its next turn. Only `mem::forget` is left, and the deadline sees that.

use std::sync::Arc;

use crossbeam_queue::SegQueue;

use crate::time::Instant;

/// Names a lease: each delivery of a batch has another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(pub(super) u64);

impl LeaseId {
    /// As a number: it rises with each delivery of this run.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Where dropped leases are found again.
pub(super) type Returns = SegQueue<LeaseId>;

/// The right and the duty to answer for a batch.
#[must_use = "a lease that is dropped means that its batch is retried"]
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    given: Instant,
    deadline: Option<Instant>,
    /// `None` once it is answered.
    returns: Option<Arc<Returns>>,
}

impl Lease {
    pub(super) fn new(id: LeaseId, given: Instant, deadline: Option<Instant>, returns: &Arc<Returns>) -> Self {
        Self { id, given, deadline, returns: Some(Arc::clone(returns)) }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// When it was given out.
    #[must_use]
    pub const fn given(&self) -> Instant {
        self.given
    }

    /// By when the sink should answer.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes the duty off; `None`, and the batch goes back where it belongs, if it is the lease of
    /// another dispatcher.
    pub(super) fn settle(mut self, returns: &Arc<Returns>) -> Option<LeaseId> {
        self.returns.take_if(|own| Arc::ptr_eq(own, returns)).map(|_| self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            returns.push(self.id);
        }
    }
}
