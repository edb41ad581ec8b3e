//! Makes a history that breaks something short: leaves out what is not needed, as long as it breaks the same way.

use std::time::{Duration, Instant};

use ringwal::wal::mutant::Mutants;

use super::action::{Action, History};
use super::{Finding, carry_out};

/// Longest time for it.
const WITHIN: Duration = Duration::from_secs(20);

/// What a finding is about: its text up to the first number.
fn about(what: &str) -> &str {
    let from = what.find(char::is_alphabetic).map_or(0, |at| at + usize::from(what.starts_with('I')) * 3);
    let rest = what.get(from..).unwrap_or("");
    let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    &what[..from + end]
}

struct Shrinking<'a> {
    best: History,
    finding: Finding,
    wanted: &'a str,
    mutants: Mutants,
    until: Instant,
}

impl Shrinking<'_> {
    /// Takes this history instead, if it breaks the same way.
    fn try_with(&mut self, actions: Vec<Action>) -> bool {
        let history = History { setup: self.best.setup.clone(), actions };
        let found = carry_out(&history, self.mutants).finding.filter(|found| about(&found.what) == self.wanted);
        let Some(found) = found else { return false };
        (self.best, self.finding) = (history, found);
        true
    }

    fn is_late(&self) -> bool {
        Instant::now() > self.until
    }

    /// Leaves out runs of actions, shorter and shorter ones.
    fn leave_out(&mut self) {
        let mut len = (self.best.actions.len() / 2).max(1);
        loop {
            let mut at = 0;
            while at < self.best.actions.len() && !self.is_late() {
                let mut actions = self.best.actions.clone();
                actions.drain(at..(at + len).min(actions.len()));
                if !self.try_with(actions) {
                    at += len;
                }
            }
            if len == 1 || self.is_late() {
                return;
            }
            len = len.div_ceil(2);
        }
    }

    /// Makes single actions simpler.
    fn simplify(&mut self) {
        for at in 0..self.best.actions.len() {
            for simpler in simpler(&self.best.actions[at]) {
                if self.is_late() {
                    return;
                }
                let mut actions = self.best.actions.clone();
                actions[at] = simpler;
                self.try_with(actions);
            }
        }
    }
}

fn simpler(action: &Action) -> Vec<Action> {
    match *action {
        Action::Push { lane, len, count, wait, poison } => vec![
            Action::Push { lane, len: 16, count, wait, poison },
            Action::Push { lane, len, count: 1, wait, poison },
            Action::Push { lane: 0, len, count, wait, poison },
            Action::Push { lane, len, count, wait: false, poison: false },
        ],
        Action::Open { fuse: Some(_), fault: Some(_) } => vec![Action::Open { fuse: None, fault: None }],
        Action::Run(rounds) if rounds > 1 => vec![Action::Run(1), Action::Run(rounds / 2)],
        _ => Vec::new(),
    }
}

/// The shortest history that was found, and how it breaks.
pub fn shrink(history: &History, finding: &Finding, mutants: Mutants) -> (History, Finding) {
    let mut shrinking = Shrinking {
        best: history.clone(),
        finding: finding.clone(),
        wanted: about(&finding.what),
        mutants,
        until: Instant::now() + WITHIN,
    };
    let mut first = history.actions.clone();
    first.truncate(finding.at + 1);
    shrinking.try_with(first);
    let mut before = usize::MAX;
    while shrinking.best.actions.len() < before && !shrinking.is_late() {
        before = shrinking.best.actions.len();
        shrinking.leave_out();
        shrinking.simplify();
    }
    (shrinking.best, shrinking.finding)
}
