//! When to leave a sink alone: the circuit breaker.
//!
//! ```text
//!             failures in a row, or their share          open_for is over
//!   CLOSED ───────────────────────────────────► OPEN ───────────────────► HALF-OPEN
//!     ▲                                          ▲                          │  │
//!     │                                          └────── one failure ───────┘  │
//!     └──────────────────────── `probes` successes ────────────────────────────┘
//! ```
//! While it is open nothing is delivered, so no attempt is used up: an outage does not push entries towards the
//! park. Half-open, one batch at a time goes out and its answer decides; what was out before that, and hangs, does not. The
//! pattern is from M. Nygard, *Release
//! It!* (2007).
//!
//! | the sink                                             | counts as |
//! |------------------------------------------------------|-----------|
//! | acknowledged or parked at least one entry            | success   |
//! | asked to retry all of them, panicked, gave no answer | failure   |
//!
//! A sink that parks an entry has read it: it is there, and the entry is to blame.

use std::fmt;
use std::time::Duration;

use crate::delivery::lease::LeaseId;
use crate::time::Instant;

/// When delivery stops offering batches to a sink that fails, and when it tries again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// Failed deliveries in a row that open it. Default 5, from 1 to 1,000,000.
    pub failures: u32,
    /// Opens it, too, when this share of the latest deliveries failed. Default: none.
    pub share: Option<FailureShare>,
    /// How long it stays open before it lets a delivery through. Default 10 s, from 1 ms to 1 day.
    pub open_for: Duration,
    /// Deliveries that must succeed in a row to close it again. Default 1, from 1 to 1000.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, share: None, open_for: Duration::from_secs(10), probes: 1 }
    }
}

/// A share of the latest deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailureShare {
    /// Failures among them, in percent, from 1 to 100.
    pub percent: u8,
    /// How many deliveries are looked at, from 1 to 64. Until there were so many, the share is not judged.
    pub of: u32,
}

/// What a breaker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BreakerState {
    /// Deliveries go out.
    #[default]
    Closed,
    /// None goes out.
    Open,
    /// They go out, and the first failure opens it again.
    HalfOpen,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

/// Deliveries that [`Circuit::failed_share`] looks at: few, as one that fails is followed by a pause.
const SHARE_OF: u32 = 16;

/// The state machine. Without a configuration it is closed for ever.
#[derive(Debug)]
pub(super) struct Circuit {
    config: Option<Breaker>,
    state: State,
    /// Answers of leases before this one were out when it opened, and say nothing of the sink as it is now.
    counts_from: LeaseId,
    opened: u64,
    /// Whatever the state, and without a configuration too.
    answers: Latest,
}

#[derive(Debug)]
enum State {
    Closed { in_a_row: u32, latest: Latest },
    Open { until: Instant },
    HalfOpen { passed: u32 },
}

impl Circuit {
    pub(super) fn new(config: Option<Breaker>) -> Self {
        Self { config, state: State::closed(), counts_from: LeaseId(0), opened: 0, answers: Latest::NONE }
    }

    pub(super) const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    pub(super) const fn opened(&self) -> u64 {
        self.opened
    }

    /// How many percent of the latest [`SHARE_OF`] deliveries have failed; before there were so many, what is missing
    /// counts as success.
    pub(super) const fn failed_share(&self) -> u32 {
        self.answers.failed_of(SHARE_OF) * 100 / SHARE_OF
    }

    /// Until when nothing may go out.
    pub(super) const fn open_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Whether this delivery is one that the half-open breaker has let through, to decide by its answer.
    pub(super) fn is_probe(&self, lease: LeaseId) -> bool {
        self.state() == BreakerState::HalfOpen && lease >= self.counts_from
    }

    /// Time has passed. The next delivery will have the lease `next`.
    pub(super) fn handle_timeout(&mut self, now: Instant, next: LeaseId) {
        if let State::Open { until } = self.state
            && until <= now
        {
            self.state = State::HalfOpen { passed: 0 };
            self.counts_from = next;
        }
    }

    /// A delivery has succeeded or failed. Answers of deliveries that were out when it opened change nothing, whenever
    /// they come.
    pub(super) fn handle_answer(&mut self, now: Instant, lease: LeaseId, succeeded: bool) {
        self.answers.add(!succeeded);
        let Some(config) = self.config.filter(|_| lease >= self.counts_from) else {
            return;
        };
        let opens = match &mut self.state {
            State::Closed { in_a_row, latest } => {
                *in_a_row = if succeeded { 0 } else { in_a_row.saturating_add(1) };
                latest.add(!succeeded);
                *in_a_row >= config.failures.max(1) || config.share.is_some_and(|share| latest.reaches(share))
            }
            State::Open { .. } => false,
            State::HalfOpen { passed } if succeeded => {
                *passed += 1;
                if *passed >= config.probes {
                    self.state = State::closed();
                }
                false
            }
            State::HalfOpen { .. } => true,
        };
        if opens {
            self.state = State::Open { until: now + config.open_for };
            self.opened += 1;
        }
    }
}

impl State {
    const fn closed() -> Self {
        Self::Closed { in_a_row: 0, latest: Latest::NONE }
    }
}

/// The latest 64 answers, a bit each: set for a failure, the newest lowest.
#[derive(Clone, Copy, Debug)]
struct Latest {
    failed: u64,
    count: u32,
}

impl Latest {
    const NONE: Self = Self { failed: 0, count: 0 };

    /// Failures among the latest `of`, which are at most 64.
    const fn failed_of(self, of: u32) -> u32 {
        (self.failed & (u64::MAX >> (u64::BITS - of))).count_ones()
    }

    fn add(&mut self, failed: bool) {
        self.failed = self.failed << 1 | u64::from(failed);
        self.count = self.count.saturating_add(1);
    }

    fn reaches(self, share: FailureShare) -> bool {
        let of = share.of.clamp(1, u64::BITS);
        self.count >= of && self.failed_of(of) * 100 >= u32::from(share.percent.max(1)) * of
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn circuit(failures: u32, probes: u32) -> Circuit {
        let open_for = Duration::from_millis(100);
        Circuit::new(Some(Breaker { failures, open_for, probes, ..Breaker::default() }))
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_starts_anew() {
        let mut circuit = circuit(3, 1);
        for succeeded in [false, false, true, false, false] {
            circuit.handle_answer(at(0), LeaseId(1), succeeded);
        }
        assert_eq!((circuit.state(), circuit.opened()), (BreakerState::Closed, 0));
        circuit.handle_answer(at(5), LeaseId(1), false);
        assert_eq!((circuit.state(), circuit.opened()), (BreakerState::Open, 1));
        assert_eq!(circuit.open_until(), Some(at(105)));
    }

    #[test]
    fn it_stays_open_for_its_time_and_an_answer_from_before_changes_nothing() {
        let mut circuit = circuit(1, 1);
        circuit.handle_answer(at(0), LeaseId(1), false);
        circuit.handle_answer(at(50), LeaseId(1), true);
        circuit.handle_answer(at(60), LeaseId(1), false);
        circuit.handle_timeout(at(99), LeaseId(1));
        assert_eq!((circuit.state(), circuit.open_until()), (BreakerState::Open, Some(at(100))));
        circuit.handle_timeout(at(100), LeaseId(1));
        assert_eq!((circuit.state(), circuit.open_until()), (BreakerState::HalfOpen, None));
    }

    #[test]
    fn answers_of_leases_from_before_it_was_half_open_decide_nothing() {
        let mut circuit = circuit(1, 1);
        circuit.handle_answer(at(0), LeaseId(5), false);
        circuit.handle_timeout(at(100), LeaseId(6));
        for succeeded in [true, false] {
            circuit.handle_answer(at(101), LeaseId(4), succeeded);
            assert_eq!((circuit.state(), circuit.opened()), (BreakerState::HalfOpen, 1), "{succeeded}");
        }
        assert_eq!([5, 6, 7].map(|lease| circuit.is_probe(LeaseId(lease))), [false, true, true]);
        circuit.handle_answer(at(102), LeaseId(6), true);
        assert_eq!(circuit.state(), BreakerState::Closed);
        circuit.handle_answer(at(103), LeaseId(3), false);
        assert_eq!(circuit.state(), BreakerState::Closed, "nor do they when it is closed again");
    }

    #[test]
    fn half_open_one_failure_opens_it_again_and_enough_successes_close_it() {
        let mut circuit = circuit(2, 2);
        circuit.handle_answer(at(0), LeaseId(1), false);
        circuit.handle_answer(at(0), LeaseId(1), false);
        circuit.handle_timeout(at(100), LeaseId(1));
        circuit.handle_answer(at(100), LeaseId(1), true);
        assert_eq!(circuit.state(), BreakerState::HalfOpen);
        circuit.handle_answer(at(101), LeaseId(1), false);
        assert_eq!((circuit.open_until(), circuit.opened()), (Some(at(201)), 2));
        circuit.handle_timeout(at(201), LeaseId(1));
        circuit.handle_answer(at(201), LeaseId(1), true);
        circuit.handle_answer(at(202), LeaseId(1), true);
        assert_eq!(circuit.state(), BreakerState::Closed);
        // What was before is forgotten.
        circuit.handle_answer(at(203), LeaseId(1), false);
        assert_eq!(circuit.state(), BreakerState::Closed);
    }

    #[test]
    fn a_share_is_judged_over_its_window_and_not_before_that_is_full() {
        let share = FailureShare { percent: 50, of: 4 };
        let mut circuit = Circuit::new(Some(Breaker { failures: 1000, share: Some(share), ..Breaker::default() }));
        for succeeded in [false, true, false] {
            circuit.handle_answer(at(0), LeaseId(1), succeeded);
        }
        assert_eq!(circuit.state(), BreakerState::Closed);
        circuit.handle_answer(at(0), LeaseId(1), true);
        assert_eq!(circuit.state(), BreakerState::Open);
        let all = FailureShare { percent: 100, of: 64 };
        let mut latest = Latest::NONE;
        latest.add(false);
        (0..64).for_each(|_| latest.add(true));
        assert!(latest.reaches(all), "what is older than the window does not count");
    }

    #[test]
    fn the_share_of_failures_is_known_without_a_breaker_and_while_it_is_open() {
        for mut circuit in [Circuit::new(None), circuit(1, 1)] {
            let mut shares = Vec::new();
            for succeeded in [true, false, false].into_iter().chain([false; 14]).chain([true; 17]) {
                circuit.handle_answer(at(0), LeaseId(1), succeeded);
                shares.push(circuit.failed_share());
            }
            assert_eq!(shares[..4], [0, 6, 12, 18]);
            assert_eq!((shares[16], shares[17], shares[32], shares[33]), (100, 93, 0, 0));
        }
    }

    #[test]
    fn without_a_configuration_it_never_opens() {
        let mut circuit = Circuit::new(None);
        (0..10_000).for_each(|_| circuit.handle_answer(at(0), LeaseId(1), false));
        assert_eq!(circuit.state(), BreakerState::Closed);
    }
}
