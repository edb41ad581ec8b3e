//! How many free slots a log keeps: those that it would want back at once.
//!
//! ```text
//!   live
//!    6 ┤        ╭╮ ╭╮ ╭╮                 what the cursor frees at once, and what was free before:
//!    4 ┤       ╭╯╰─╯╰─╯╰╮                kept, since the next moment takes it again
//!    2 ┤    ╭──╯        ╰──────
//!      └────┴───────────┴──┴────► time   for one to two spans (half a second each) afterwards; then given back
//! ```
//! Preparing a slot writes all of it, so a busy log that gave back each slot as it came free would write everything twice.
//! It wants no more of them than it has taken lately, and no more in all than it has had in use at once lately: `fewest`
//! beyond that. A log that rests takes none, so it keeps `fewest`, as does one that is closed.
//!
//! While the disk is short of space nothing is kept beyond `fewest`: somebody waits for what could be given back. That holds
//! until a preparation shows that there is space again. Decision: `docs/adr/0023-what-a-busy-log-keeps.md`.

use std::time::Duration;

use crate::time::Instant;

/// Use is counted in spans of this length; the present one and the one before it count.
const SPAN: Duration = Duration::from_millis(500);

/// What happened within a span.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// Slots that were taken.
    taken: usize,
    /// Most that held something at once.
    live_max: usize,
}

/// Counts the use of slots.
#[derive(Debug)]
pub(super) struct Spares {
    /// Kept in any case.
    fewest: usize,
    since: Instant,
    now: Use,
    before: Use,
    disk_is_short: bool,
    is_closed: bool,
}

impl Spares {
    pub(super) fn new(fewest: usize) -> Self {
        let (now, before) = (Use::default(), Use::default());
        Self { fewest, since: Instant::START, now, before, disk_is_short: false, is_closed: false }
    }

    /// Begins a new span when the present one is over; `live` slots hold something.
    pub(super) fn advance(&mut self, now: Instant, live: impl FnOnce() -> usize) {
        let passed = now.since(self.since);
        if passed >= SPAN {
            let next = Use { taken: 0, live_max: live() };
            self.before = if passed < SPAN * 2 { self.now } else { next };
            self.now = next;
            self.since = now;
        }
    }

    /// A slot was taken; with it `live` hold something.
    pub(super) fn take(&mut self, live: usize) {
        self.now.taken += 1;
        self.now.live_max = self.now.live_max.max(live);
    }

    /// The disk has refused space, to this log or to another one on it.
    pub(super) fn refused(&mut self) {
        self.disk_is_short = true;
    }

    /// The disk has given space.
    pub(super) fn given(&mut self) {
        self.disk_is_short = false;
    }

    /// Nothing will be taken any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// How many free slots are kept beside `live` ones.
    pub(super) fn kept(&self, live: usize) -> usize {
        if self.disk_is_short || self.is_closed {
            return self.fewest;
        }
        let taken = self.now.taken + self.before.taken;
        let in_use = self.now.live_max.max(self.before.live_max);
        self.fewest + taken.min(in_use.saturating_sub(live))
    }

    /// How many are kept in any case.
    pub(super) fn fewest(&self) -> usize {
        self.fewest
    }

    /// When `kept` may fall though nothing happens.
    pub(super) fn falls_at(&self) -> Instant {
        self.since + SPAN
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    /// Ten slots taken and freed again, never more than six in use.
    fn busy() -> Spares {
        let mut spares = Spares::new(2);
        spares.advance(at(1000), || 0);
        for _ in 0..5 {
            spares.take(5);
            spares.take(6);
        }
        spares
    }

    #[test]
    fn a_busy_log_keeps_what_it_had_in_use_at_once() {
        let spares = busy();
        assert_eq!([spares.kept(6), spares.kept(4), spares.kept(0)], [2, 4, 8]);
    }

    #[test]
    fn no_more_is_kept_than_was_taken_lately() {
        let mut spares = Spares::new(2);
        // A long backlog, worked off without much that is new.
        spares.advance(at(1000), || 100);
        spares.take(101);
        assert_eq!(spares.kept(50), 3);
    }

    #[test]
    fn what_was_used_is_kept_for_a_span_or_two_and_then_given_back() {
        let mut spares = busy();
        spares.advance(at(1499), || 1);
        assert_eq!((spares.kept(1), spares.falls_at()), (7, at(1500)));
        spares.advance(at(1500), || 1);
        assert_eq!(spares.kept(1), 7, "the span before counts");
        spares.advance(at(2000), || 1);
        assert_eq!(spares.kept(1), 2);
        let mut spares = busy();
        spares.advance(at(9000), || 1);
        assert_eq!(spares.kept(1), 2, "nothing happened for long");
    }

    #[test]
    fn a_disk_without_space_gets_all_of_it_until_it_has_some() {
        let mut spares = busy();
        spares.refused();
        assert_eq!(spares.kept(0), 2);
        spares.take(6);
        spares.advance(at(1600), || 6);
        assert_eq!(spares.kept(0), 2);
        spares.given();
        assert_eq!(spares.kept(0), 8);
        spares.close();
        assert_eq!(spares.kept(0), 2, "nor does one that is closed keep any");
    }
}
