//! Whether the flush core looks around for a moment before it sleeps, because the one whom it has told is about to come back.
//!
//! ```text
//!   commit ends ─► its only waiter is woken ─► it pushes and waits again: the flush core is awake, nobody wakes it
//!                             └── it did not come while it was looked for: sleep
//! ```
//! A thread alone that pushes, waits and pushes again comes back as soon as it runs. To sleep meanwhile costs it a system
//! call, which wakes the flush core, and the time until that runs. Only for one: several need the processor themselves.
//! Kept up where it pays, as in `siblings`: whoever is looked for in vain is not looked for after so many commits more,
//! twice as many each time.

use std::time::Duration;

use crate::time::Instant;

use super::tries::Tries;

/// How long it looks at most: a few times what it takes a thread to be woken.
const LOOK_MAX: Duration = Duration::from_micros(50);

/// Whether somebody is looked for.
#[derive(Debug, Default)]
pub(super) struct Glance {
    /// There is another processor for whoever is to come back.
    has_room: bool,
    /// Until when, and how many entries there were when it began.
    looks: Option<(Instant, u64)>,
    tries: Tries,
}

impl Glance {
    /// Where the threads of this process may run on so many processors.
    pub(super) fn among(processors: usize) -> Self {
        Self { has_room: processors > 1, ..Self::default() }
    }

    /// A commit has woken so many waiters; it took as long as `usual`, mostly.
    pub(super) fn tell(&mut self, told: u64, now: Instant, usual: Duration, entries: u64) {
        let may_look = self.tries.next() && self.has_room && told == 1;
        self.looks = may_look.then(|| (now + LOOK_MAX.min(usual / 2), entries));
    }

    /// Whether to look once more instead of sleeping.
    pub(super) fn is_worth(&mut self, now: Instant, entries: u64) -> bool {
        let Some((until, before)) = self.looks else {
            return false;
        };
        let is_back = entries > before;
        let is_over = is_back || now >= until;
        if is_over {
            self.looks = None;
            self.tries.tried(is_back);
        }
        !is_over
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Instant {
        Instant::START + Duration::from_micros(micros)
    }

    #[test]
    fn one_who_comes_back_is_looked_for_each_time() {
        let mut glance = Glance::among(2);
        for n in 0..10 {
            glance.tell(1, at(1000 * n), USUAL, n);
            assert!(glance.is_worth(at(1000 * n + 49), n));
            assert!(!glance.is_worth(at(1000 * n + 49), n + 1), "it is back");
            assert!(!glance.is_worth(at(1000 * n + 49), n + 1));
        }
    }

    #[test]
    fn nobody_is_looked_for_who_needs_this_processor_or_is_one_of_many() {
        for (processors, told) in [(1, 1), (2, 0), (2, 2), (8, 64)] {
            let mut glance = Glance::among(processors);
            glance.tell(told, at(0), USUAL, 0);
            assert!(!glance.is_worth(at(0), 0), "{told} on {processors}");
        }
    }

    #[test]
    fn a_look_takes_half_a_commit_at_most_and_one_in_vain_is_repeated_more_and_more_seldom() {
        let mut glance = Glance::among(2);
        glance.tell(1, at(0), Duration::from_micros(20), 0);
        assert!(glance.is_worth(at(9), 0));
        assert!(!glance.is_worth(at(10), 0));
        let mut looks = Vec::new();
        for n in 1..1200 {
            glance.tell(1, at(1000 * n), USUAL, n);
            if glance.is_worth(at(1000 * n), n) {
                looks.push(n);
                assert!(!glance.is_worth(at(1000 * n + 50), n), "it is over");
            }
        }
        let between: Vec<u64> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(between, [3, 5, 9, 17, 33, 65, 129, 257, 257, 257], "{looks:?}");
    }
}
