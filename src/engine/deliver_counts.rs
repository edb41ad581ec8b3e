//! What delivery lets others see of itself: counts, gauges and ages.

use crate::engine::calls::Calls;
use crate::engine::deliver::Delivery;
use crate::entry::Entry;
use crate::time::Instant;

impl<T: Entry> Delivery<T> {
    /// Order as in [`Counters::snapshot`](crate::metrics::Counters::snapshot).
    pub(super) fn publish(&self) {
        let (cells, counts) = (&self.shared.counters, self.dispatcher.counts());
        cells.unfinished.set(self.dispatcher.unfinished());
        cells.in_flight.set(self.dispatcher.in_flight());
        cells.delivered.set(counts.delivered);
        cells.delivery_failures.set(counts.failures);
        cells.batches.set(counts.leases);
        cells.failures.retry.set(counts.retried);
        cells.failures.park.set(counts.refused);
        cells.delivery_timeouts.set(counts.overdue);
        self.shared.status.set_sink_overdue(self.calls.as_ref().map_or(0, Calls::overdue));
        let breaker = self.dispatcher.breaker();
        cells.breaker_opened.set(self.dispatcher.breaker_opened());
        self.shared.set_breaker(breaker);
        self.shared.set_failed_share(self.dispatcher.failed_share());
    }

    /// How old what is here is, and since when nothing of it has had its exit.
    pub(super) fn publish_ages(&mut self, now: Instant) {
        let cells = &self.shared.counters;
        cells.oldest_unix.set(self.dispatcher.oldest_time().map_or(0, |time| time.0));
        let exits = self.dispatcher.counts().delivered + self.dispatcher.counts().parked;
        let moved = std::mem::replace(&mut self.exits, exits) != exits;
        if self.dispatcher.unfinished() == 0 {
            cells.stands_since.set(0);
        } else if moved || cells.stands_since.read() == 0 {
            cells.stands_since.set(now.as_nanos().max(1));
        }
    }
}
