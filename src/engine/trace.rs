//! What the queue says to [`tracing`](https://docs.rs/tracing), with the feature of that name; without it, nothing.
//!
//! | about | level | when |
//! |---|---|---|
//! | opening, recovery and its end, closing | INFO; WARN for what was lost or is not as asked for | once |
//! | segments | DEBUG | one is begun, or some came free |
//! | batches | DEBUG; ERROR for a panic, WARN for retries and entries that are parked | each delivery, each answer |
//! | the breaker | WARN when it opens, else INFO | it changes |
//! | watermarks | WARN once per episode when one is reached, INFO when it is left | it happens |
//! | the log | ERROR when it fails or is corrupt, WARN without room | it happens |
//!
//! The target is `ringwal`, and every event has the field `queue`. Nothing is said on the way of a push: who pushes what
//! `tracing` tells into a queue leaves the target `ringwal` out, or each batch would make an entry for the next one.

use std::time::Duration;

use crate::delivery::batch::Batch;
use crate::delivery::breaker::BreakerState;
use crate::delivery::lease::Lease;
use crate::delivery::park::ParkRecord;
use crate::engine::Shared;
use crate::engine::call::SinkPanic;
use crate::error::{Shutdown, ShutdownError};
use crate::lsn::Lsn;
use crate::pressure::{Grade, Measure};
use crate::sink::{Outcome, Reason, Verdict};
#[cfg(feature = "tracing")]
use crate::wal::segments::LiveSegment;

/// An event. Its values are looked at only where somebody listens, and without the feature never.
macro_rules! tell {
    ($level:ident, $shared:expr, $text:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        #[cfg(feature = "tracing")]
        tracing::event!(
            target: "ringwal",
            tracing::Level::$level,
            queue = $shared.config.name(),
            $($field = $value,)*
            $text
        );
        #[cfg(not(feature = "tracing"))]
        if false {
            let _ = (&$shared $(, &$value)*);
        }
    }};
}

/// Around the sink's own code while it has a batch: what it tells is told within.
pub(crate) struct BatchSpan(#[cfg(feature = "tracing")] tracing::Span);

impl BatchSpan {
    /// Runs some of that code.
    pub(crate) fn run<R>(&self, code: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        return self.0.in_scope(code);
        #[cfg(not(feature = "tracing"))]
        code()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(crate) fn tell_opened(&self) {
        let found = &self.recovery;
        tell!(
            INFO,
            self,
            "opened",
            dir = self.config.dir.display().to_string(),
            driver = found.disk.driver,
            new = found.new,
            clean = found.clean,
            recovered = found.recovered,
            recovered_from_rings = found.from_rings,
            parked = found.parked,
            next_lsn = found.next.number(),
            took_ns = nanos(found.took),
        );
        for note in &found.disk.notes {
            tell!(WARN, self, "the platform does not give all that was asked for", note = note.as_str());
        }
        if let Some(torn) = &found.torn_tail {
            tell!(INFO, self, "a crash had cut the log", torn_tail = torn.as_str());
        }
        if let Some(torn) = &found.torn_tail_parked {
            tell!(INFO, self, "a crash had cut the park", torn_tail = torn.as_str());
        }
        let earlier = found.earlier.lost.len() + found.earlier.lost_parked.len();
        if earlier > 0 {
            tell!(WARN, self, "of what follows an earlier opening gave up some", runs = earlier as u64);
        }
        for note in &found.earlier.notes {
            tell!(WARN, self, "what was given up is not all known", note = note.as_str());
        }
        for (first, last) in &found.lost {
            tell!(WARN, self, "damaged entries were given up", first_lsn = first.number(), last_lsn = last.number());
        }
        for (first, last) in &found.lost_parked {
            tell!(
                WARN,
                self,
                "damaged parked entries were given up",
                first_id = first.number(),
                last_id = last.number()
            );
        }
    }

    /// What opening found is delivered or parked.
    pub(crate) fn tell_recovered(&self) {
        let since_open = self.status.now().since(crate::time::Instant::START).saturating_sub(self.recovery.took);
        tell!(INFO, self, "recovered", recovered = self.recovery.recovered, took_ns = nanos(since_open));
    }

    pub(crate) fn tell_closing(&self) {
        tell!(INFO, self, "closing");
    }

    pub(crate) fn tell_closed(&self, outcome: &Result<Shutdown, ShutdownError>) {
        match outcome {
            Ok(state) => tell!(
                INFO,
                self,
                "closed",
                delivered = state.delivered,
                parked = state.parked,
                discarded = state.discarded,
                left_in_log = state.left_in_log,
                lost = state.lost,
            ),
            Err(error) => tell!(WARN, self, "closed", error = error.to_string()),
        }
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn tell_segment(&self, segment: &LiveSegment) {
        tell!(
            DEBUG,
            self,
            "a segment was begun",
            slot = u64::from(segment.slot.0),
            seq = segment.seq,
            first_lsn = segment.base.number(),
        );
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn tell_segments_freed(&self, live: u64, freed: u64, cursor: u64) {
        tell!(DEBUG, self, "segments came free", freed = freed, live = live, cursor_lsn = cursor);
    }

    pub(crate) fn tell_log_failed(&self, error: &dyn std::fmt::Display) {
        tell!(
            ERROR,
            self,
            "the log has failed: pushes are refused until the queue is opened anew",
            error = error.to_string()
        );
    }

    pub(crate) fn tell_corrupt(&self, what: &str) {
        tell!(ERROR, self, "delivery has halted", error = what);
    }

    pub(crate) fn tell_park_lost(&self, first: Lsn, last: Lsn) {
        let (first, last) = (first.number(), last.number());
        tell!(WARN, self, "damaged parked entries were given up", first_id = first, last_id = last);
    }

    pub(crate) fn tell_room(&self, why: Option<&str>) {
        match why {
            Some(why) => tell!(WARN, self, "the log has no room: pushes wait or are refused", reason = why),
            None => tell!(INFO, self, "the log has room again"),
        }
    }

    pub(crate) fn tell_breaker(&self, from: BreakerState, to: BreakerState) {
        let (from, to) = (from.to_string(), to.to_string());
        match to.as_str() {
            "open" => tell!(WARN, self, "the breaker has opened", from = from.as_str(), to = to.as_str()),
            _ => tell!(INFO, self, "the breaker has changed", from = from.as_str(), to = to.as_str()),
        }
    }

    pub(crate) fn tell_grade(&self, measure: Measure, from: Grade, to: Grade) {
        let (what, from, to) = (measure.to_string(), from.to_string(), to.to_string());
        match to.as_str() {
            "calm" => tell!(INFO, self, "it is below its watermarks again", what = what, from = from, to = to),
            "hard" => tell!(WARN, self, "it is over its hard watermark", what = what, from = from, to = to),
            _ if from == "calm" => {
                tell!(WARN, self, "it is over its soft watermark", what = what, from = from, to = to)
            }
            _ => tell!(INFO, self, "it is below its hard watermark again", what = what, from = from, to = to),
        }
    }

    /// A batch is about to be given to the sink.
    pub(crate) fn tell_asked<T>(&self, lease: &Lease, batch: &Batch<T>) -> BatchSpan {
        tell!(
            DEBUG,
            self,
            "a batch goes to the sink",
            lease = lease.id().number(),
            first_lsn = batch.first().number(),
            last_lsn = batch.last().number(),
            entries = batch.len() as u64,
            attempt = u64::from(batch.attempt()),
        );
        BatchSpan(
            #[cfg(feature = "tracing")]
            tracing::info_span!(
                target: "ringwal",
                "deliver",
                queue = self.config.name(),
                lease = lease.id().number(),
                first_lsn = batch.first().number(),
                entries = batch.len() as u64,
                attempt = u64::from(batch.attempt()),
            ),
        )
    }

    pub(crate) fn tell_answer(&self, lease: &Lease, answer: Result<&Outcome, &SinkPanic>, took: Duration) {
        match answer {
            Ok(outcome) => tell!(
                DEBUG,
                self,
                "the sink has answered",
                lease = lease.id().number(),
                answer = name_of(outcome),
                took_ns = nanos(took),
            ),
            Err(panic) => {
                tell!(ERROR, self, "the sink panicked", lease = lease.id().number(), error = panic.to_string());
            }
        }
    }

    pub(crate) fn tell_retry(&self, entries: usize, attempts: u32, wait: Duration, why: &Reason) {
        tell!(
            WARN,
            self,
            "entries are to be offered again",
            entries = entries as u64,
            attempts = u64::from(attempts),
            wait_ns = nanos(wait),
            reason = why.text(),
        );
    }

    pub(crate) fn tell_park(&self, records: &[ParkRecord]) {
        let Some(first) = records.first() else {
            return;
        };
        tell!(
            WARN,
            self,
            "entries are refused for good",
            entries = records.len() as u64,
            first_lsn = first.lsn.number(),
            attempts = u64::from(first.attempts),
            reason = first.error.as_str(),
        );
    }

    pub(crate) fn tell_park_dropped(&self, entries: u64, last: Lsn) {
        tell!(
            WARN,
            self,
            "the park is full: its oldest entries were discarded",
            entries = entries,
            last_id = last.number()
        );
    }

    pub(crate) fn tell_overdue(&self) {
        tell!(WARN, self, "the sink has not answered by the deadline");
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::All(Verdict::Ack) => "acknowledged",
        Outcome::All(Verdict::Retry(_)) => "retry",
        Outcome::All(Verdict::Park(_)) => "park",
        Outcome::Each(_) => "one for each entry",
    }
}
