//! Whether the next commit waits a moment for those whom the last one has told.
//!
//! ```text
//!   commit ends ─► its waiters are woken ─► they push and wait again ─► all are back: commit
//!                             └── nobody came for half a commit's time, or a whole one is over: commit what there is
//! ```
//! Threads that push, wait and push again come back together. Who commits the moment that the disk is free takes half of
//! them, and the other half next time: each waits for two commits. Waiting for the woken takes one commit and their way
//! back. PostgreSQL does that (`commit_delay`, where `commit_siblings` others are at work) for a time that somebody has to set.
//!
//! Here it is tried, and kept up where it pays: where the commit after a wait leaves hardly anybody behind who came too
//! late for it. Entries that come by themselves do leave some; then so many commits go by without another try, twice as
//! many after each try in vain. Figures: `docs/adr/0024-wait-for-those-who-come-back.md`.

use std::time::Duration;

use crate::config::Durability;
use crate::time::Instant;

use super::Flush;
use super::tries::Tries;

/// Counts that only grow, as they stood at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// Waits for durability that were begun.
    pub(super) asks: u64,
    /// Entries that were taken over from the rings.
    pub(super) entries: u64,
}

/// Who was told, and who of them is back.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// Waiters that the last commit has woken and that are awaited; none where nobody is to be awaited.
    told: u64,
    /// Entries of that commit.
    len: u64,
    /// As it was when they were told.
    then: Counts,
    /// As it was when last somebody came, and when that was.
    seen: Option<(Instant, Counts)>,
    /// When the first of this wait's turns was.
    since: Option<Instant>,
    /// Whether the commit in flight was made to wait.
    has_waited: bool,
    tries: Tries,
}

impl Siblings {
    /// A commit of `len` entries has woken so many waiters, and `left` entries came too late for it.
    pub(super) fn tell(&mut self, told: u64, len: u64, left: u64, now: Counts) {
        if std::mem::take(&mut self.has_waited) {
            self.tries.tried(left * 2 <= len);
        }
        (self.told, self.len, self.then) = (if self.tries.next() { told } else { 0 }, len, now);
        (self.seen, self.since) = (None, None);
    }

    /// Whether those whom the next commit tells are awaited.
    pub(super) const fn is_trying(&self) -> bool {
        self.tries.is_trying()
    }

    /// Until when the next commit waits, if it does; `usual` is what a commit takes.
    pub(super) fn awaits(&mut self, now: Instant, usual: Duration, counts: Counts) -> Option<Instant> {
        let is_back = counts.asks - self.then.asks >= self.told || counts.entries - self.then.entries >= self.len;
        if self.told == 0 || is_back {
            self.told = 0;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let seen = match self.seen {
            Some((at, before)) if before == counts => at,
            _ => now,
        };
        self.seen = Some((seen, counts));
        let until = (seen + usual / 2).min(since + usual);
        if now >= until {
            self.told = 0;
            return None;
        }
        self.has_waited |= counts.entries > self.then.entries;
        Some(until)
    }
}

impl Flush {
    /// The counts, as this turn has found them.
    pub(super) fn counts(&self) -> Counts {
        Counts { asks: self.state.asks, entries: self.next_lsn().number() }
    }

    /// Lets the open frame wait for those who were told, or go. True: there is something to be done at once.
    pub(super) fn await_siblings(&mut self, now: Instant) -> bool {
        if self.shared.config.durability != Durability::Immediate {
            return false;
        }
        // Who is to come back must be told before the next commit begins. Where nobody is awaited that goes first: waking
        // many takes a while.
        let any = self.state.siblings.is_trying() && self.take_events();
        let usual = self.log.stats().commit_ewma;
        let until = self.state.siblings.awaits(now, usual, self.counts());
        self.log.set_awaits(until);
        any
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Instant {
        Instant::START + Duration::from_micros(micros)
    }

    fn counts(asks: u64, entries: u64) -> Counts {
        Counts { asks, entries }
    }

    #[test]
    fn a_commit_waits_until_all_are_back_who_were_told() {
        let mut siblings = Siblings::default();
        siblings.tell(3, 3, 1, counts(4, 4));
        assert_eq!(siblings.awaits(at(0), USUAL, counts(4, 4)), Some(at(50)));
        assert_eq!(siblings.awaits(at(20), USUAL, counts(5, 5)), Some(at(70)));
        assert_eq!(siblings.awaits(at(40), USUAL, counts(6, 6)), Some(at(90)));
        assert_eq!(siblings.awaits(at(41), USUAL, counts(6, 6)), Some(at(90)), "nobody came");
        assert_eq!(siblings.awaits(at(42), USUAL, counts(7, 6)), None, "the third waits, whatever it has pushed");
        assert_eq!(siblings.awaits(at(43), USUAL, counts(7, 6)), None);
    }

    #[test]
    fn one_alone_is_not_held_up_nor_is_anybody_when_nobody_waits() {
        let mut siblings = Siblings::default();
        siblings.tell(1, 1, 0, counts(1, 1));
        assert_eq!(siblings.awaits(at(0), USUAL, counts(1, 2)), None, "its entry is there");
        siblings.tell(0, 7, 0, counts(1, 9));
        assert_eq!(siblings.awaits(at(1), USUAL, counts(1, 10)), None);
    }

    #[test]
    fn the_wait_ends_when_nobody_comes_for_half_a_commit_and_after_a_whole_one_in_any_case() {
        let mut siblings = Siblings::default();
        siblings.tell(9, 9, 0, counts(9, 9));
        assert_eq!(siblings.awaits(at(0), USUAL, counts(9, 10)), Some(at(50)));
        assert_eq!(siblings.awaits(at(50), USUAL, counts(9, 10)), None);
        assert_eq!(siblings.awaits(at(51), USUAL, counts(10, 11)), None, "it is over");
        siblings.tell(9, 9, 0, counts(20, 20));
        for n in 0..3 {
            let until = [50, 90, 100][n as usize];
            assert_eq!(siblings.awaits(at(40 * n), USUAL, counts(20 + n, 20 + n)), Some(at(until)));
        }
        assert_eq!(siblings.awaits(at(100), USUAL, counts(24, 24)), None);
        assert_eq!(
            Siblings::default().awaits(at(0), Duration::ZERO, counts(0, 0)),
            None,
            "nothing is known of commits"
        );
    }

    /// Entries that come by themselves: while a commit is under way as many come as it has.
    #[test]
    fn what_does_not_come_back_together_is_awaited_more_and_more_seldom() {
        let (mut siblings, mut waits) = (Siblings::default(), Vec::new());
        for n in 0..2000 {
            siblings.tell(4, 4, 4, counts(4 * n, 4 * n));
            if siblings.awaits(at(1000 * n), USUAL, counts(4 * n, 4 * n + 1)).is_some() {
                waits.push(n);
            }
        }
        let between: Vec<u64> = waits.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(between, [2, 3, 5, 9, 17, 33, 65, 129, 257, 257, 257, 257, 257, 257], "{waits:?}");
        // Once it pays, it is done at each commit.
        siblings.tries = Tries::default();
        for n in 2000..2010 {
            siblings.tell(4, 4, 1, counts(4 * n, 4 * n));
            assert!(siblings.awaits(at(1000 * n), USUAL, counts(4 * n, 4 * n + 1)).is_some(), "{n}");
        }
    }
}
