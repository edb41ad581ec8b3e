//! How full a queue is, in grades, and what a grade does to pushes.
//!
//! ```text
//!   0 %                          soft                hard              100 %
//!   ├──────────── calm ───────────┼─ pushes are slowed ─┼─ `when_full` ───┤
//!                        left at ◄┘           left at ◄┘
//! ```
//! Three things are measured, each for itself; the worst one counts:
//!
//! | measure | what of it counts                                                | 100 %             |
//! |---------|------------------------------------------------------------------|-------------------|
//! | memory  | frames that cannot be let go: not on disk, or more than its share at the sink | new frames' share of `memory_max` |
//! | log     | segments that hold what the sink is not done with                | `log_bytes_max`   |
//! | backlog | entries that the sink is not done with                           | `backlog_len_max` |
//!
//! What is on disk is let go when memory is short, and read back: a pool that is nearly all in use is well used, and no
//! pressure. A grade is left [`FALL`] below where it is entered, so that a level that trembles makes one episode.
//! Who acts on it: `engine/gate.rs` for pushes, `engine/flush/pressure.rs` measures. Decision: `docs/adr/0016-pressure.md`.

use std::fmt;
use std::time::Duration;

use crate::metrics::Cell;

/// Percent of what there is by which a level must fall below a watermark before that is left.
const FALL: u8 = 5;
/// Without [`Builder::watermarks`](crate::Builder::watermarks): from here on health warns, and nothing else happens.
const WARN: u8 = 80;

/// Levels, in percent, from which pushes are slowed down, and from which they meet `when_full`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watermarks {
    pub(crate) soft: u8,
    pub(crate) hard: u8,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Measure {
    /// Memory for frames that cannot be let go.
    Memory,
    /// Bytes of the log that the sink is not done with.
    Log,
    /// Entries that the sink is not done with.
    Backlog,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Log => "log",
            Self::Backlog => "backlog",
        })
    }
}

/// How full something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Grade {
    /// Below its watermarks.
    #[default]
    Calm,
    /// Over the soft one.
    Soft,
    /// Over the hard one.
    Hard,
}

impl Grade {
    pub(crate) const fn of(number: u64) -> Self {
        match number {
            0 => Self::Calm,
            1 => Self::Soft,
            _ => Self::Hard,
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calm => "calm",
            Self::Soft => "soft",
            Self::Hard => "hard",
        })
    }
}

/// Pressure on pushes: how full the queue is, and what that has cost those who push.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Pressure {
    /// How full memory is with what cannot be let go.
    pub memory: Grade,
    /// How full the log is with what the sink is not done with.
    pub log: Grade,
    /// How near the number of entries that the sink is not done with is to `backlog_len_max`; calm without one.
    pub backlog: Grade,
    /// How often one of them rose over its soft watermark.
    pub soft_episodes: u64,
    /// How often one of them rose over its hard watermark.
    pub hard_episodes: u64,
    /// Pushes that were slowed down.
    pub delayed: u64,
    /// For how long, all together.
    pub delayed_for: Duration,
    /// By how much a push is slowed down now.
    pub delay: Duration,
}

impl Pressure {
    /// The worst of the three.
    #[must_use]
    pub fn grade(&self) -> Grade {
        self.memory.max(self.log).max(self.backlog)
    }

    /// All that are not calm.
    pub(crate) fn over(&self) -> impl Iterator<Item = (Measure, Grade)> {
        let all = [(Measure::Memory, self.memory), (Measure::Log, self.log), (Measure::Backlog, self.backlog)];
        all.into_iter().filter(|(_, grade)| *grade != Grade::Calm)
    }
}

/// The cells of [`Pressure`].
#[derive(Debug, Default)]
pub(crate) struct PressureCells {
    // The flush core.
    pub(crate) memory: Cell,
    pub(crate) log: Cell,
    pub(crate) backlog: Cell,
    pub(crate) soft_episodes: Cell,
    pub(crate) hard_episodes: Cell,
    // Producers that were slowed down.
    pub(crate) delayed: Cell,
    pub(crate) delayed_nanos: Cell,
}

impl PressureCells {
    pub(crate) fn cell(&self, measure: Measure) -> &Cell {
        match measure {
            Measure::Memory => &self.memory,
            Measure::Log => &self.log,
            Measure::Backlog => &self.backlog,
        }
    }

    pub(crate) fn read(&self) -> Pressure {
        Pressure {
            memory: Grade::of(self.memory.read()),
            log: Grade::of(self.log.read()),
            backlog: Grade::of(self.backlog.read()),
            soft_episodes: self.soft_episodes.read(),
            hard_episodes: self.hard_episodes.read(),
            delayed: self.delayed.read(),
            delayed_for: Duration::from_nanos(self.delayed_nanos.read()),
            delay: Duration::ZERO,
        }
    }
}

/// Where the grades of a measure begin, in percent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lines {
    soft: u8,
    hard: Option<u8>,
}

impl Lines {
    /// For what has a limit that holds by itself: without watermarks it only warns.
    pub(crate) const fn of(watermarks: Option<Watermarks>) -> Self {
        match watermarks {
            Some(Watermarks { soft, hard }) => Self { soft, hard: Some(hard) },
            None => Self { soft: WARN, hard: None },
        }
    }

    /// For what nothing else holds to its limit.
    pub(crate) const fn of_limit(watermarks: Option<Watermarks>) -> Self {
        let Self { soft, hard } = Self::of(watermarks);
        Self { soft, hard: Some(if let Some(hard) = hard { hard } else { 100 }) }
    }

    /// The grade of a level, after this one.
    pub(crate) const fn judge(self, before: Grade, percent: u64) -> Grade {
        match self.hard {
            Some(hard) if is_over(percent, hard, matches!(before, Grade::Hard)) => Grade::Hard,
            _ if is_over(percent, self.soft, !matches!(before, Grade::Calm)) => Grade::Soft,
            _ => Grade::Calm,
        }
    }
}

/// Whether a level is over a line, or was and has not yet fallen far enough. Nothing at all is over none.
const fn is_over(percent: u64, line: u8, was_over: bool) -> bool {
    let line = if was_over { line.saturating_sub(FALL) } else { line };
    percent > 0 && percent >= line as u64
}

/// `part` of `whole` in whole percent, rounded down.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grades(lines: Lines, levels: &[u64]) -> Vec<Grade> {
        let judge = |grade: &mut Grade, level: &u64| {
            *grade = lines.judge(*grade, *level);
            Some(*grade)
        };
        levels.iter().scan(Grade::Calm, judge).collect()
    }

    #[test]
    fn a_grade_begins_at_its_watermark_and_is_left_some_way_below() {
        use Grade::{Calm, Hard, Soft};
        let lines = Lines::of(Some(Watermarks { soft: 80, hard: 95 }));
        let levels = [79, 80, 76, 75, 74, 79, 94, 95, 91, 90, 89, 75, 74, 100, 0];
        let expected = [Calm, Soft, Soft, Soft, Calm, Calm, Soft, Hard, Hard, Hard, Soft, Soft, Calm, Hard, Calm];
        assert_eq!(grades(lines, &levels), expected);
    }

    #[test]
    fn without_watermarks_it_warns_and_only_what_nothing_else_limits_is_refused() {
        use Grade::{Calm, Hard, Soft};
        assert_eq!(grades(Lines::of(None), &[79, 80, 100, 250, 74]), [Calm, Soft, Soft, Soft, Calm]);
        assert_eq!(
            grades(Lines::of_limit(None), &[79, 80, 99, 100, 95, 94, 74]),
            [Calm, Soft, Soft, Hard, Hard, Soft, Calm]
        );
    }

    #[test]
    fn a_low_watermark_is_left_too() {
        let lines = Lines::of(Some(Watermarks { soft: 1, hard: 3 }));
        assert_eq!(grades(lines, &[0, 1, 3, 1, 0]), [Grade::Calm, Grade::Soft, Grade::Hard, Grade::Hard, Grade::Calm]);
    }

    proptest! {
        /// Whatever a level was, it is over what it stands above, and not over what it has fallen well below.
        #[test]
        fn a_grade_never_lags_by_more_than_the_fall(
            soft in 1_u8..=100, above in 0_u8..=50, levels in prop::collection::vec(0_u64..=120, 1..50),
        ) {
            let hard = soft.saturating_add(above).min(100);
            let lines = Lines::of(Some(Watermarks { soft, hard }));
            for (grade, level) in grades(lines, &levels).into_iter().zip(&levels) {
                let at_least = if *level >= u64::from(hard) { Grade::Hard } else if *level >= u64::from(soft) { Grade::Soft } else { Grade::Calm };
                let fallen = |line: u8| *level == 0 || *level + u64::from(FALL) < u64::from(line);
                prop_assert!(grade >= at_least);
                prop_assert!(grade < Grade::Hard || !fallen(hard));
                prop_assert!(grade < Grade::Soft || !fallen(soft));
            }
        }
    }
}
