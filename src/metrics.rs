//! Counts of everything that happens to entries: always on, one writer per cell, read at any time.
//!
//! Nothing is counted on the push path: the flush core counts what it drains.

use std::time::Duration;

use crate::delivery::breaker::BreakerState;
use crate::histogram::{Histogram, HistogramCells};
use crate::lsn::Lsn;
use crate::pressure::{Pressure, PressureCells};
use crate::reasons::{Dropped, DroppedCells, FailureCells, Failures, Rejected, RejectedCells};
use crate::sync::atomic::{AtomicU64, Ordering};

/// A counter or gauge with one writing thread (or, where said, several).
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    /// Adds; only the one writer may call it.
    pub(crate) fn add(&self, n: u64) {
        // ORDERING: the load Relaxed, as there is one writer; the store Release, so that who reads this
        // count (Acquire) also sees the cells that were lowered before it.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Release);
    }

    /// Adds; any thread may call it.
    pub(crate) fn add_shared(&self, n: u64) {
        // ORDERING: Relaxed, as above; the operation itself is atomic.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        // ORDERING: Release, so that who reads this gauge (Acquire) sees the counts stored before it.
        self.0.store(n, Ordering::Release);
    }

    pub(crate) fn read(&self) -> u64 {
        // ORDERING: Acquire, see `set`.
        self.0.load(Ordering::Acquire)
    }
}

/// The cells, by who writes them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    // Opening.
    pub(crate) recovered: Cell,
    pub(crate) recovered_from_rings: Cell,
    // Opening, then the flush core.
    pub(crate) recovered_parked: Cell,
    // The flush core.
    pub(crate) pushed: Cell,
    pub(crate) pushed_bytes: Cell,
    pub(crate) next_lsn: Cell,
    pub(crate) durable_lsn: Cell,
    pub(crate) cursor_lsn: Cell,
    pub(crate) frames: Cell,
    pub(crate) log_bytes_written: Cell,
    pub(crate) padding_bytes: Cell,
    pub(crate) writes: Cell,
    pub(crate) syncs: Cell,
    pub(crate) commit_nanos_mean: Cell,
    /// When the oldest op at the disk was submitted, on the queue's clock; 0: none is there.
    pub(crate) waiting_since: Cell,
    pub(crate) slots_live: Cell,
    pub(crate) slots_free: Cell,
    pub(crate) frames_let_go: Cell,
    pub(crate) frames_read_back: Cell,
    pub(crate) unparked: Cell,
    pub(crate) discarded: Cell,
    pub(crate) redelivered: Cell,
    pub(crate) park_dropped: Cell,
    pub(crate) lost: Cell,
    pub(crate) blocked_on_memory: Cell,
    pub(crate) blocked_on_log: Cell,
    pub(crate) log_bytes: Cell,
    pub(crate) log_bytes_max: Cell,
    pub(crate) backlog_bytes: Cell,
    pub(crate) memory_bytes: Cell,
    pub(crate) memory_bytes_max: Cell,
    pub(crate) commit_time: HistogramCells,
    pub(crate) commit_len: HistogramCells,
    pub(crate) drain_to_durable: HistogramCells,
    // The delivery thread.
    pub(crate) delivered: Cell,
    pub(crate) delivery_failures: Cell,
    pub(crate) delivery_timeouts: Cell,
    pub(crate) sink_panics: Cell,
    pub(crate) batches: Cell,
    pub(crate) retries: Cell,
    pub(crate) parked_in: Cell,
    pub(crate) refused_for_good: Cell,
    pub(crate) seen_lsn: Cell,
    /// LSNs that were counted as recovered and turned out to hold nothing.
    pub(crate) never_were: Cell,
    pub(crate) unfinished: Cell,
    pub(crate) in_flight: Cell,
    pub(crate) breaker_opened: Cell,
    pub(crate) failures: FailureCells,
    /// When the flush core took over the oldest entry that delivery has, in wall-clock nanoseconds; 0: it has none.
    pub(crate) oldest_unix: Cell,
    /// Since when delivery has had entries and been done with none of them, on the queue's clock; 0: it has none.
    pub(crate) stands_since: Cell,
    pub(crate) delivery_time: HistogramCells,
    pub(crate) batch_len: HistogramCells,
    // Producers, on their slow path.
    pub(crate) rejected: RejectedCells,
    pub(crate) dropped: DroppedCells,
    pub(crate) pressure: PressureCells,
}

/// A snapshot of a queue's counts and gauges.
///
/// When the queue is quiescent, [`Metrics::accounted`] equals [`Metrics::came_in`] exactly; a live
/// snapshot never accounts for more than that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Undelivered entries found in the log at open. After a crash under `Spill` also LSNs of entries that
    /// were delivered from memory and never written; these go as delivery comes to them.
    pub recovered: u64,
    /// How many of these a dead process had left in its rings.
    pub recovered_from_rings: u64,
    /// How many of them are still to be delivered or parked: falls to 0, with which recovery is over. As a cursor
    /// counts: what is done before its turn counts as left until all before it is done.
    pub recovered_left: u64,
    /// Parked entries found at open. Numbers that turn out to be no entries, as the park is listed, go.
    pub recovered_parked: u64,
    /// Entries taken from producers since open (counted when the flush core takes them over).
    pub pushed: u64,
    /// Their bytes, as encoded.
    pub pushed_bytes: u64,
    /// Entries given back, for whatever reason. They were never in the queue.
    pub rejected: u64,
    /// The same by reason.
    pub rejected_by: Rejected,
    /// Entries given back under `DropNewest`, for whatever reason. They were never in the queue.
    pub dropped: u64,
    /// The same by reason.
    pub dropped_by: Dropped,
    /// How full the queue is, and what that has cost those who push.
    pub pressure: Pressure,
    /// Entries that the sink acknowledged.
    pub delivered: u64,
    /// Entries parked now.
    pub parked: u64,
    /// Entries that the user discarded, or that were refused for good under `Park::Drop`.
    pub discarded: u64,
    /// Those among them that were discarded as the park was full ([`ParkFull`](crate::ParkFull)).
    pub park_dropped: u64,
    /// Parked entries that were put back into the queue; they count as pushed again.
    pub redelivered: u64,
    /// Entries given up since open, under `Quarantine` only: they could not be read back for delivery, or for a listing of
    /// the park. What opening gave up is in [`Recovery::lost`](crate::Recovery::lost), what a log that failed or was full
    /// has lost at the end only in what [`shutdown`](crate::Queue::shutdown) answers.
    pub lost: u64,
    /// Entries on their way to the sink: in memory or in the log.
    pub pending: u64,
    /// Entries in the batches that the sink has now.
    pub in_flight: u64,
    /// Batches given to the sink, retries included.
    pub batches: u64,
    /// Deliveries that failed in whole or in part.
    pub delivery_failures: u64,
    /// The same by what happened.
    pub failures_by: Failures,
    /// How long the sink took for a batch, in microseconds: from the call to its answer.
    pub delivery_micros: Histogram,
    /// Entries in a batch, as it was given to the sink, retries included.
    pub batch_entries: Histogram,
    /// Deliveries that had no answer by their deadline. An async one has failed by that; one that blocks may still succeed.
    pub delivery_timeouts: u64,
    /// Deliveries that ended in a panic of the sink.
    pub sink_panics: u64,
    /// Entries that are to be offered again, counted at each retry.
    pub retries: u64,
    /// How often the breaker has opened.
    pub breaker_opened: u64,
    /// What the breaker does now.
    pub breaker: BreakerState,
    /// Bytes in the rings now. With rings in shared memory this includes what was taken over and is not written yet.
    pub ring_bytes: u64,
    /// What the rings hold at most, all together.
    pub ring_bytes_max: u64,
    /// Bytes of undelivered entries that the log has or is being given, headers and padding included. Of the segment
    /// in which delivery stands it is the share that the numbers of its entries suggest.
    pub backlog_bytes: u64,
    /// How long ago the oldest entry that delivery has was taken over from its ring, restarts included; zero when it
    /// has none. By the wall clock: when that is set, this jumps.
    pub oldest_age: Duration,
    /// Bytes of the memory pool that are in use: entries on their way to the disk and to the sink.
    pub memory_bytes: u64,
    /// What the pool holds at most.
    pub memory_bytes_max: u64,
    /// The last entry's LSN.
    pub last_lsn: Lsn,
    /// Everything up to here survives a loss of power.
    pub durable_lsn: Lsn,
    /// Everything up to here is done, durably.
    pub cursor_lsn: Lsn,
    /// Frames written.
    pub frames: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes_written: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Syncs submitted (with `Immediate`, the writes are their own syncs).
    pub syncs: u64,
    /// Moving average of the time of a commit, in nanoseconds.
    pub commit_nanos_mean: u64,
    /// How long commits took, in microseconds: a durable write (`Immediate`) or a sync, from its submission on.
    pub commit_micros: Histogram,
    /// Entries that became durable at once.
    pub commit_entries: Histogram,
    /// How long it took until frames were durable, in microseconds: from the moment when the flush core took over the
    /// first entry. What an entry waits in its ring before that is not in it.
    pub drain_to_durable_micros: Histogram,
    /// Bytes of the segment files that hold something.
    pub log_bytes: u64,
    /// What these may be at most.
    pub log_bytes_max: u64,
    /// Segment files that hold something.
    pub segments_live: u64,
    /// Segment files that are ready for use.
    pub segments_free: u64,
    /// Frames let go from memory because delivery lags.
    pub frames_let_go: u64,
    /// Frames read back from the log.
    pub frames_read_back: u64,
    /// Turns of the flush core in which there was no memory to take entries over, though the log had room.
    pub blocked_on_memory: u64,
    /// Turns of the flush core in which there was no segment to take entries over, whether memory was full as well or not.
    pub blocked_on_log: u64,
    /// The I/O driver in use.
    pub driver: &'static str,
}

impl Metrics {
    /// What has become of the entries: on every quiescent snapshot equal to
    /// `recovered + recovered_parked + pushed`.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.delivered + self.parked + self.discarded + self.redelivered + self.lost + self.pending + self.in_flight
    }

    /// All that ever came in: `recovered + recovered_parked + pushed`.
    #[must_use]
    pub fn came_in(&self) -> u64 {
        self.recovered + self.recovered_parked + self.pushed
    }
}

/// LSNs that stand for no entry to be delivered: explicit skips and runs that were done before open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes(Vec<(Lsn, Lsn)>);

impl Holes {
    /// Adds `first..next`, and tells how many of them were not known.
    pub(crate) fn add(&mut self, first: Lsn, next: Lsn) -> u64 {
        let new = next.since(first) - self.count(first, next);
        let (mut first, mut next) = (first, next);
        if new > 0 {
            self.0.retain(|(from, to)| {
                let apart = *to < first || next < *from;
                if !apart {
                    (first, next) = (first.min(*from), next.max(*to));
                }
                apart
            });
            self.0.push((first, next));
        }
        new
    }

    /// The first LSN of `from..to` that may be an entry.
    pub(crate) fn first_outside(&self, from: Lsn, to: Lsn) -> Option<Lsn> {
        let mut lsn = from;
        while lsn < to {
            match self.0.iter().find(|(first, next)| (*first..*next).contains(&lsn)) {
                Some((_, next)) => lsn = *next,
                None => return Some(lsn),
            }
        }
        None
    }

    /// How many LSNs of `from..to` are no entries.
    pub(crate) fn count(&self, from: Lsn, to: Lsn) -> u64 {
        self.0.iter().map(|(first, next)| (*next).min(to).since((*first).max(from))).sum()
    }
}

impl Counters {
    /// A snapshot. Who lowers one cell and raises another does it in that order, from the ring to the
    /// sink, and here the last in that order is read first: a live snapshot may miss an entry on its way
    /// from one to the other, but never counts one twice.
    pub(crate) fn snapshot(&self, holes: &Holes) -> Metrics {
        let never_were = self.never_were.read();
        let recovered_parked = self.recovered_parked.read();
        let (discarded, redelivered, lost) = (self.discarded.read(), self.redelivered.read(), self.lost.read());
        let unparked = self.unparked.read();
        let (delivered, parked_in) = (self.delivered.read(), self.parked_in.read());
        let refused = self.refused_for_good.read();
        let in_flight = self.in_flight.read();
        let unfinished = self.unfinished.read();
        let seen = Lsn::new(self.seen_lsn.read());
        let next = Lsn::new(self.next_lsn.read());
        let queued = next.since(seen).saturating_sub(holes.count(seen, next));
        // Who empties the park may be faster than the notice to delivery, which then still counts as its own what has
        // already left the park.
        let parked_ever = recovered_parked + parked_in;
        let left_early = unparked.saturating_sub(parked_ever);
        let rejected_by = self.rejected.read();
        let dropped_by = self.dropped.read();
        Metrics {
            recovered: self.recovered.read().saturating_sub(never_were),
            recovered_left: 0,
            recovered_from_rings: self.recovered_from_rings.read(),
            recovered_parked,
            pushed: self.pushed.read(),
            pushed_bytes: self.pushed_bytes.read(),
            rejected: rejected_by.total(),
            rejected_by,
            dropped: dropped_by.total(),
            dropped_by,
            pressure: self.pressure.read(),
            delivered,
            parked: parked_ever.saturating_sub(unparked),
            discarded: discarded + refused,
            park_dropped: self.park_dropped.read(),
            redelivered,
            lost,
            pending: queued + unfinished.saturating_sub(in_flight).saturating_sub(left_early),
            in_flight: in_flight.min(unfinished),
            batches: self.batches.read(),
            delivery_failures: self.delivery_failures.read(),
            failures_by: Failures {
                retry: self.failures.retry.read(),
                park: self.failures.park.read(),
                timeout: self.delivery_timeouts.read(),
                panic: self.sink_panics.read(),
            },
            delivery_micros: self.delivery_time.read(),
            batch_entries: self.batch_len.read(),
            delivery_timeouts: self.delivery_timeouts.read(),
            sink_panics: self.sink_panics.read(),
            retries: self.retries.read(),
            breaker_opened: self.breaker_opened.read(),
            breaker: BreakerState::Closed,
            ring_bytes: 0,
            ring_bytes_max: 0,
            backlog_bytes: self.backlog_bytes.read(),
            oldest_age: Duration::ZERO,
            memory_bytes: self.memory_bytes.read(),
            memory_bytes_max: self.memory_bytes_max.read(),
            last_lsn: next.prev(),
            durable_lsn: Lsn::new(self.durable_lsn.read()),
            cursor_lsn: Lsn::new(self.cursor_lsn.read()),
            frames: self.frames.read(),
            log_bytes_written: self.log_bytes_written.read(),
            padding_bytes: self.padding_bytes.read(),
            writes: self.writes.read(),
            syncs: self.syncs.read(),
            commit_nanos_mean: self.commit_nanos_mean.read(),
            commit_micros: self.commit_time.read(),
            commit_entries: self.commit_len.read(),
            drain_to_durable_micros: self.drain_to_durable.read(),
            log_bytes: self.log_bytes.read(),
            log_bytes_max: self.log_bytes_max.read(),
            segments_live: self.slots_live.read(),
            segments_free: self.slots_free.read(),
            frames_let_go: self.frames_let_go.read(),
            frames_read_back: self.frames_read_back.read(),
            blocked_on_memory: self.blocked_on_memory.read(),
            blocked_on_log: self.blocked_on_log.read(),
            driver: "",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn holes_are_counted_within_bounds_only() {
        let mut holes = Holes::default();
        assert_eq!(holes.add(Lsn::new(5), Lsn::new(8)), 3);
        assert_eq!(holes.add(Lsn::new(10), Lsn::new(10)), 0);
        assert_eq!(holes.add(Lsn::new(6), Lsn::new(8)), 0);
        assert_eq!(holes.count(Lsn::new(1), Lsn::new(20)), 3);
        assert_eq!(holes.count(Lsn::new(6), Lsn::new(7)), 1);
        assert_eq!(holes.count(Lsn::new(8), Lsn::new(20)), 0);
        assert_eq!(holes.first_outside(Lsn::new(5), Lsn::new(8)), None);
        assert_eq!(holes.first_outside(Lsn::new(5), Lsn::new(9)), Some(Lsn::new(8)));
        assert_eq!(holes.first_outside(Lsn::new(4), Lsn::new(6)), Some(Lsn::new(4)));
        assert_eq!(holes.add(Lsn::new(12), Lsn::new(14)), 2);
        assert_eq!(holes.add(Lsn::new(7), Lsn::new(13)), 4);
        assert_eq!(holes.count(Lsn::new(1), Lsn::new(20)), 9);
    }

    /// Found by the stress test: entries that were discarded at once, before the delivery thread had counted them
    /// as parked, were counted as discarded and as pending.
    #[test]
    fn what_leaves_the_park_before_it_is_counted_there_is_not_counted_twice() {
        let counters = Counters::default();
        counters.pushed.add(10);
        counters.next_lsn.set(11);
        counters.seen_lsn.set(11);
        counters.unfinished.set(10);
        counters.unparked.add(7);
        counters.discarded.add(7);
        let snapshot = counters.snapshot(&Holes::default());
        assert_eq!((snapshot.pending, snapshot.parked, snapshot.accounted()), (3, 0, 10));
    }

    #[test]
    fn what_is_queued_counts_as_pending() {
        let counters = Counters::default();
        counters.pushed.add(10);
        counters.next_lsn.set(11);
        counters.seen_lsn.set(8);
        counters.unfinished.set(3);
        counters.in_flight.set(1);
        counters.delivered.add(4);
        let snapshot = counters.snapshot(&Holes::default());
        assert_eq!((snapshot.pending, snapshot.accounted(), snapshot.came_in()), (5, 10, 10));
    }
}
