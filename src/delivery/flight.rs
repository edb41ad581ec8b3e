//! A batch that was taken, until each of its entries has had its exit.
//!
//! ```text
//!            ┌──────────────── due ────────────────────┐
//!            ▼                 (as a smaller batch)     │
//!   taken ─ Out ── verdict ──┬─ acked                   │
//!                            ├─ left ──────────────► Waiting ◄─ could not be parked
//!                            └─ parking ── Settling ────┤
//!                                            └─ parked  └─ nothing left: gone
//! ```
//! While some are being parked, those left wait too: one step after another keeps the order plain.

use std::ops::Range;

use crate::delivery::batch::{RawBatch, u32_of};
use crate::delivery::lease::LeaseId;
use crate::delivery::park::ParkRecord;
use crate::delivery::progress::Finished;
use crate::lsn::Lsn;
use crate::sink::{Outcome, Reason, Verdict};
use crate::time::{Instant, UnixNanos};

/// What a flight is waiting for.
#[derive(Debug)]
pub(super) enum State {
    /// The sink's answer.
    Out { deadline: Option<Instant>, overdue: bool },
    /// The park log, and then `due`.
    Settling { due: Instant },
    /// The time of its next attempt.
    Waiting { due: Instant },
}

/// A batch that was taken.
#[derive(Debug)]
pub(super) struct Flight {
    /// Of its latest delivery.
    pub(super) lease: LeaseId,
    pub(super) state: State,
    /// As it was last leased.
    pub(super) batch: RawBatch,
    /// Failed attempts that its entries have behind them.
    pub(super) attempts: u32,
    /// Indexes into `batch` of those to be offered again, rising.
    pub(super) left: Vec<u32>,
    /// Indexes into `batch` of those that are being parked, rising.
    pub(super) parking: Vec<u32>,
    /// Entries of `batch` that did not decode, and why.
    pub(super) undecodable: Vec<(u32, Reason)>,
    /// Rows of the cursor that are set aside for it.
    pub(super) rows: usize,
    pub(super) first_out: Instant,
    pub(super) last_out: Instant,
}

/// What a verdict makes of the entries.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// As runs of indexes: mostly it is one, of all.
    pub(super) acked: Vec<Range<usize>>,
    pub(super) retry: Vec<(u32, Reason)>,
    pub(super) park: Vec<(u32, Reason)>,
    /// The answer had not one verdict for each entry.
    pub(super) malformed: bool,
}

impl Sorted {
    fn ack(&mut self, index: usize) {
        match self.acked.last_mut().filter(|run| run.end == index) {
            Some(run) => run.end += 1,
            None => self.acked.push(index..index + 1),
        }
    }
}

impl Flight {
    /// Entries that have not had their exit yet, as they stand.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        match self.state {
            State::Out { .. } => (self.batch.len() as u64, 0, 0),
            State::Settling { .. } | State::Waiting { .. } => (0, self.left.len() as u64, self.parking.len() as u64),
        }
    }

    /// Bytes of those entries.
    pub(super) fn bytes_len(&self) -> u64 {
        match self.state {
            State::Out { .. } => self.batch.bytes_len(),
            State::Settling { .. } | State::Waiting { .. } => {
                self.left.iter().chain(&self.parking).map(|index| self.batch.bytes(*index as usize).len() as u64).sum()
            }
        }
    }

    /// Gives each entry its verdict. The sink has answered for those that decoded.
    pub(super) fn sort(&self, outcome: Outcome) -> Sorted {
        let mut sorted = Sorted::default();
        let answered = self.batch.len() - self.undecodable.len();
        let mut each = match outcome {
            Outcome::All(Verdict::Ack) if self.undecodable.is_empty() => {
                sorted.acked.push(0..answered);
                return sorted;
            }
            Outcome::Each(verdicts) if verdicts.len() == answered => Err(verdicts.into_iter()),
            Outcome::Each(verdicts) => {
                sorted.malformed = true;
                let why = format!("the sink answered {} verdicts for {answered} entries", verdicts.len());
                Ok(Verdict::Retry(why.into()))
            }
            Outcome::All(verdict) => Ok(verdict),
        };
        let mut undecodable = self.undecodable.iter().peekable();
        for index in 0..u32_of(self.batch.len()) {
            if let Some((_, why)) = undecodable.next_if(|(bad, _)| *bad == index) {
                sorted.park.push((index, why.clone()));
                continue;
            }
            let verdict = match &mut each {
                Ok(verdict) => Some(verdict.clone()),
                Err(verdicts) => verdicts.next(),
            };
            match verdict.expect("there are as many verdicts as entries") {
                Verdict::Ack => sorted.ack(index as usize),
                Verdict::Retry(why) => sorted.retry.push((index, why)),
                Verdict::Park(why) => sorted.park.push((index, why)),
            }
        }
        sorted
    }

    pub(super) fn lsn(&self, index: u32) -> Lsn {
        self.batch.lsn(index as usize)
    }

    /// Those left or being parked, as stretches with nothing unfinished of another flight in them: first LSN, and one
    /// past the last.
    pub(super) fn stretches(&self, finished: &Finished) -> Vec<(Lsn, Lsn)> {
        let mut open: Vec<Lsn> = self.left.iter().chain(&self.parking).map(|index| self.lsn(*index)).collect();
        open.sort_unstable();
        let mut stretches: Vec<(Lsn, Lsn)> = Vec::new();
        for lsn in open {
            match stretches.last_mut() {
                Some((_, next)) if finished.first_unfinished(*next) >= lsn => *next = lsn.next(),
                _ => stretches.push((lsn, lsn.next())),
            }
        }
        stretches
    }

    /// What the park log is to keep of an entry. One that did not decode was not offered this time.
    pub(super) fn park_record(&self, index: u32, why: &Reason, unix: impl Fn(Instant) -> UnixNanos) -> ParkRecord {
        let at = index as usize;
        let offered = self.undecodable.iter().all(|(bad, _)| *bad != index);
        ParkRecord {
            lsn: self.batch.lsn(at),
            schema: *self.batch.schema(at),
            attempts: self.batch.attempt() - u32::from(!offered),
            time: self.batch.time(at),
            first_attempt: unix(self.first_out),
            last_attempt: unix(self.last_out),
            error: why.text().to_owned(),
            payload: self.batch.bytes(at).to_vec(),
        }
    }
}
