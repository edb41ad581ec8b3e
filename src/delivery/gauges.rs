//! Where a dispatcher's entries stand: its getters.

use crate::delivery::breaker::BreakerState;
use crate::delivery::dispatcher::{DeliveryCounts, Dispatcher};
use crate::delivery::flight::{Flight, State};
use crate::lsn::Lsn;
use crate::time::{Instant, UnixNanos};

impl Dispatcher {
    /// The LSN that the next frame must bring.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Every LSN up to this one is done.
    #[must_use]
    pub const fn acked(&self) -> Lsn {
        self.finished.acked()
    }

    /// Entries that wait to be taken into a batch.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.pending.len()
    }

    /// Bytes of the encodings of all entries that have not had their exit.
    #[must_use]
    pub fn unfinished_bytes(&self) -> u64 {
        self.pending.bytes_len() + self.flights.iter().map(Flight::bytes_len).sum::<u64>()
    }

    /// Bytes of the encodings of pending entries.
    #[must_use]
    pub const fn pending_bytes(&self) -> u64 {
        self.pending.bytes_len()
    }

    /// Entries out at the sink.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.flights.iter().map(|flight| flight.counts().0).sum()
    }

    /// Entries that wait to be offered again.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.flights.iter().map(|flight| flight.counts().1).sum()
    }

    /// Entries on their way into the park log.
    #[must_use]
    pub fn parking(&self) -> u64 {
        self.flights.iter().map(|flight| flight.counts().2).sum()
    }

    /// Entries that have not had their exit yet, wherever they are.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.pending() + self.in_flight() + self.waiting() + self.parking()
    }

    /// When the oldest entry that has not had its exit was taken over from its ring, in wall-clock time.
    #[must_use]
    pub fn oldest_time(&self) -> Option<UnixNanos> {
        let taken = self.flights.iter().filter(|flight| !flight.batch.is_empty()).map(|flight| flight.batch.time(0));
        taken.chain(self.pending.oldest_time()).min()
    }

    /// Most batches out or waiting for another attempt at once.
    #[must_use]
    pub const fn in_flight_max(&self) -> usize {
        self.config.in_flight_max
    }

    /// Whether as many batches as may be are out or wait for another attempt.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flights.len() >= self.config.in_flight_max
    }

    /// Whether it can use more frames: of what was not passed over it keeps as much as the next batches need, and one of
    /// them more. What was passed over waits for its lanes, and has a bound of its own.
    #[must_use]
    pub fn wants_frames(&self) -> bool {
        let batches = self.config.in_flight_max as u64 + 1;
        let (len_max, bytes_max) = (self.len_wanted() as u64, self.config.batch_bytes_max);
        let (len, bytes) = self.pending.fresh();
        len < batches.saturating_mul(len_max)
            && bytes < batches.saturating_mul(bytes_max)
            && self.pending.held_memory() <= self.config.held_max
    }

    /// By when the next of the batches that are out is to be answered.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = |flight: &Flight| match flight.state {
            State::Out { deadline, overdue: false } => deadline,
            _ => None,
        };
        self.flights.iter().filter_map(deadline).min()
    }

    /// What the breaker does.
    #[must_use]
    pub const fn breaker(&self) -> BreakerState {
        self.circuit.state()
    }

    /// How many percent of the latest deliveries have failed.
    #[must_use]
    pub const fn failed_share(&self) -> u32 {
        self.circuit.failed_share()
    }

    /// Until when the breaker is open.
    #[must_use]
    pub const fn breaker_open_until(&self) -> Option<Instant> {
        self.circuit.open_until()
    }

    /// How often the breaker has opened.
    #[must_use]
    pub const fn breaker_opened(&self) -> u64 {
        self.circuit.opened()
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> &DeliveryCounts {
        &self.counts
    }

    /// Whether there is nothing left to deliver, park or tell.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.flights.is_empty() && self.events.is_empty() && !self.progressed
    }
}
