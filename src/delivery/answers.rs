//! The dispatcher's other half: what comes back for a batch that is out.
//!
//! | answer                        | acked     | failed, attempts left | failed for the last time, or parked |
//! |-------------------------------|-----------|-----------------------|-------------------------------------|
//! | what becomes of these entries | finished  | wait for their delay  | `Park`, finished by `handle_parked` |
//! | what the cursor is told       | a run     | one attempt more      | nothing before the park log has it  |

use std::fmt::Display;
use std::ops::Range;

use crate::delivery::batch::{RawBatch, u32_of};
use crate::delivery::dispatcher::Dispatcher;
use crate::delivery::flight::{Flight, State};
use crate::delivery::lease::{Lease, LeaseId};
use crate::delivery::seam::DeliveryEvent;
use crate::sink::{Outcome, Reason};
use crate::time::{Instant, UnixNanos};

impl Dispatcher {
    /// Entry `index` of the leased batch is no value of the queue's type: whatever the sink says of the
    /// others, it will be parked.
    pub fn handle_undecodable(&mut self, lease: &Lease, index: usize, error: impl Display) {
        let flight = self.flights.iter_mut().find(|flight| flight.lease == lease.id());
        let Some(flight) = flight.filter(|flight| index < flight.batch.len()) else {
            self.counts.stray += 1;
            return;
        };
        let index = u32_of(index);
        if let Err(at) = flight.undecodable.binary_search_by_key(&index, |(bad, _)| *bad) {
            flight.undecodable.insert(at, (index, format!("does not decode: {error}").into()));
            self.counts.undecodable += 1;
        }
    }

    /// The sink has answered. If no entry of the batch decoded, answer in its place, with anything.
    pub fn handle_verdict(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        match lease.settle(&self.returns) {
            Some(id) => self.settle(now, id, outcome),
            None => self.counts.stray += 1,
        }
    }

    /// The park log holds durably what [`DeliveryEvent::Park`] named.
    pub fn handle_parked(&mut self, lease: LeaseId) {
        let Some(at) = self.settling(lease) else {
            return;
        };
        self.handle_first_parked(lease, usize::MAX);
        let flight = &mut self.flights[at];
        if let State::Settling { due } = flight.state {
            flight.state = State::Waiting { due };
        }
        if flight.left.is_empty() {
            self.flights.swap_remove(at);
        }
    }

    /// The park log holds durably the first `count` of what [`DeliveryEvent::Park`] named. What becomes of the others is
    /// told after it.
    pub fn handle_first_parked(&mut self, lease: LeaseId, count: usize) {
        let Some(at) = self.settling(lease) else {
            return;
        };
        let flight = &mut self.flights[at];
        let count = count.min(flight.parking.len());
        let parked: Vec<u32> = flight.parking.drain(..count).collect();
        self.counts.parked += parked.len() as u64;
        let batch = flight.batch.clone();
        for index in parked {
            self.finish(&batch, index as usize..index as usize + 1);
        }
        self.note_progress();
    }

    /// The park log could not take them: they stay in retry, and the cursor waits.
    pub fn handle_park_failed(&mut self, now: Instant, lease: LeaseId, why: &str) {
        let Some(at) = self.settling(lease) else {
            return;
        };
        if self.flights[at].parking.is_empty() {
            // It has them all, and says so in two steps.
            return self.handle_parked(lease);
        }
        let flight = &mut self.flights[at];
        flight.left.append(&mut flight.parking);
        flight.left.sort_unstable();
        let due = now + self.config.retry.jittered(flight.attempts, &mut self.chance);
        flight.state = State::Waiting { due };
        let (entries, attempts) = (flight.left.len(), flight.attempts);
        let why = Reason::from(format!("parking failed: {why}"));
        self.events.push_back(DeliveryEvent::Retry { entries, attempts, due, why });
    }

    pub(super) fn collect_returns(&mut self, now: Instant) {
        while let Some(id) = self.returns.pop() {
            self.counts.dropped_leases += 1;
            self.settle(now, id, Outcome::retry("the delivery ended without an answer"));
        }
    }

    /// The flight whose parking this answers; counts the answer as stray if there is none.
    fn settling(&mut self, lease: LeaseId) -> Option<usize> {
        let found = |f: &Flight| f.lease == lease && matches!(f.state, State::Settling { .. });
        let at = self.flights.iter().position(found);
        self.counts.stray += u64::from(at.is_none());
        at
    }

    fn settle(&mut self, now: Instant, id: LeaseId, outcome: Outcome) {
        let out = |f: &Flight| f.lease == id && matches!(f.state, State::Out { .. });
        let Some(at) = self.flights.iter().position(out) else {
            self.counts.stray += 1;
            return;
        };
        let mut flight = self.flights.swap_remove(at);
        let mut sorted = flight.sort(outcome);
        // Entries that did not decode were not offered: parking them says nothing of the sink.
        let offered = flight.batch.len() - flight.undecodable.len();
        if offered > 0 {
            let is_there = !sorted.acked.is_empty() || sorted.park.len() > flight.undecodable.len();
            self.circuit.handle_answer(now, id, is_there);
        }
        self.counts.malformed += u64::from(sorted.malformed);
        for run in std::mem::take(&mut sorted.acked) {
            self.counts.delivered += run.len() as u64;
            self.finish(&flight.batch, run);
        }
        if sorted.retry.is_empty() && sorted.park.is_empty() {
            if let Some(adaptive) = &mut self.adaptive {
                adaptive.handle_latency(now.since(flight.last_out));
            }
        } else {
            self.counts.failures += 1;
            flight.attempts = flight.attempts.saturating_add(1);
            if self.config.retry.is_exhausted(flight.attempts) {
                sorted.park.append(&mut sorted.retry);
                sorted.park.sort_unstable_by_key(|(index, _)| *index);
            }
            self.counts.retried += u64::from(!sorted.retry.is_empty());
            self.counts.refused += u64::from(!sorted.park.is_empty());
            self.keep(now, flight, &sorted.retry, &sorted.park);
        }
        self.note_progress();
    }

    /// These entries of a batch have had their exit.
    fn finish(&mut self, batch: &RawBatch, indexes: Range<usize>) {
        for (first, next) in batch.stretches(indexes.clone()) {
            self.finished.add(first, next);
        }
        if !self.lanes.is_strict() {
            for index in indexes {
                let lane = batch.lane(index);
                if self.lanes.free(lane) {
                    self.pending.handle_freed(lane);
                }
            }
        }
    }

    /// Keeps what failed: to be offered again, to be parked.
    fn keep(&mut self, now: Instant, mut flight: Flight, retry: &[(u32, Reason)], park: &[(u32, Reason)]) {
        // The latest time that a reason asks for: nobody is asked again before he wants to be.
        let asked = retry.iter().filter_map(|(_, why)| why.delay()).max();
        let due = now + asked.unwrap_or_else(|| self.config.retry.jittered(flight.attempts, &mut self.chance));
        flight.left = retry.iter().map(|(index, _)| *index).collect();
        flight.parking = park.iter().map(|(index, _)| *index).collect();
        for (first, next) in flight.stretches(&self.finished) {
            self.attempts.set(first, next, flight.attempts);
        }
        if let Some((_, why)) = retry.first() {
            let (entries, attempts, why) = (retry.len(), flight.attempts, why.clone());
            self.events.push_back(DeliveryEvent::Retry { entries, attempts, due, why });
        }
        flight.state = State::Waiting { due };
        if !park.is_empty() {
            let unix = |at: Instant| UnixNanos(self.config.unix_start.0.saturating_add(at.as_nanos()));
            let entries = park.iter().map(|(index, why)| flight.park_record(*index, why, unix)).collect();
            self.events.push_back(DeliveryEvent::Park { lease: flight.lease, entries });
            flight.state = State::Settling { due };
        }
        self.flights.push(flight);
    }
}
