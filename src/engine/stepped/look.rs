//! What can be seen of a stepped queue, and asked of it, without a turn of its threads.

use std::sync::Arc;

use super::{Closing, SinkState, SteppedQueue, is_over};
use crate::config::Durability;
use crate::delivery::park::ParkedEntry;
use crate::durable::{Durable, Receipt};
use crate::engine::{Command, ParkExit};
use crate::error::LogError;
use crate::health::Health;
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::recovery::Recovery;
use crate::sync::mpsc::{Receiver, sync_channel};

impl<T> SteppedQueue<T> {
    /// How far closing has come, if it has begun.
    #[must_use]
    pub fn closing(&self) -> Option<Closing> {
        self.close.as_ref().map(|close| close.at)
    }

    /// Whether the flush core or delivery would turn now. A batch that is out does not count.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        let now = self.clock.now();
        let core = self.core.is_some() && is_over(&self.rest, self.rests_since, now, &self.machine);
        let sink = match self.sink {
            SinkState::Awake => true,
            SinkState::Rests(until) => self.woken.is_set() || until.is_some_and(|until| until <= now),
            SinkState::Out(..) | SinkState::Ended => false,
        };
        core || sink
    }

    /// Whether the flush core has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.core.is_none()
    }

    /// Whether a batch is out at the sink.
    #[must_use]
    pub fn is_out(&self) -> bool {
        matches!(self.sink, SinkState::Out(..)) || self.delivery.is_out()
    }

    /// What [`Queue::flush`](crate::Queue::flush) waits for.
    #[must_use]
    pub fn flush(&self) -> Vec<Durable> {
        let receipts = self.shared.tails().into_iter().zip(0..).map(|(end, ring)| Receipt { ring, end });
        receipts.map(|receipt| Durable::new(Arc::clone(&self.shared), receipt)).collect()
    }

    /// Asks for the last LSN of what the rings hold now. [`hurry`](Self::hurry) goes with it.
    #[must_use]
    pub fn fence(&self) -> Receiver<Lsn> {
        let (reply, answer) = sync_channel(1);
        let asker = Arc::downgrade(&self.asker);
        self.shared.command(Command::Fence { tails: self.shared.tails(), asker, reply });
        answer
    }

    /// Somebody waits for the delivery of all up to here, as in [`Queue::drain`](crate::Queue::drain).
    pub fn hurry(&self, last: Lsn) {
        self.shared.hurry_delivery(last);
    }

    /// Up to where everything is delivered or parked.
    #[must_use]
    pub fn done(&self) -> Lsn {
        Lsn::new(self.shared.done.value())
    }

    /// Asks for parked entries, as [`Parked::list`](crate::Parked::list).
    #[must_use]
    pub fn list_parked(&self, after: Lsn, max: usize) -> Receiver<Result<Vec<ParkedEntry>, LogError>> {
        let (reply, answer) = sync_channel(1);
        self.shared.command(Command::ListParked { after, max, reply });
        answer
    }

    /// Takes entries out of the park: discarded, or because they were redelivered.
    #[must_use]
    pub fn unpark(&self, ids: Vec<Lsn>, redelivered: bool) -> Receiver<Result<(), LogError>> {
        let (reply, answer) = sync_channel(1);
        let exit = if redelivered { ParkExit::Redelivered } else { ParkExit::Discarded };
        self.shared.command(Command::Unpark { ids, exit, reply });
        answer
    }

    /// As [`Queue::pause`](crate::Queue::pause) and [`Queue::resume`](crate::Queue::resume).
    pub fn set_paused(&self, paused: bool) {
        self.shared.set_paused(paused);
    }

    /// As [`Queue::metrics`](crate::Queue::metrics).
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// As [`Queue::health`](crate::Queue::health).
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Whether the log has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.status.failure().is_some()
    }

    /// As [`Queue::recovery`](crate::Queue::recovery).
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// When entries are on disk.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.shared.config.durability
    }

    /// The park's last number that is durable; zero once the queue has ended.
    #[must_use]
    pub fn park_durable(&self) -> Lsn {
        self.core.as_ref().map_or(Lsn::ZERO, |core| core.parking.log.durable())
    }
}
