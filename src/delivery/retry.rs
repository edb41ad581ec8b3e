//! When to try again: growing, capped, jittered delays.
//!
//! ```text
//!  delay(n) = min(max, base · factorⁿ⁻¹)     after the n-th failure in a row
//!  None:  delay         Equal: delay/2 + random(0 ..= delay/2)       Full: random(0 ..= delay)
//! ```
//! *Equal* is the default: it spreads out those who failed together, and still never hammers a sink
//! that has just failed, as Full may.

use std::time::Duration;

/// How failed deliveries are tried again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Retry {
    /// Attempts before an entry is parked, the first included; `None`: for ever. Default 60: with the
    /// other defaults a sink may be away for some 19 minutes (13 at least, 26 at most: half of each
    /// delay is left to chance) before what came first is parked. At least 1.
    pub attempts_max: Option<u32>,
    /// Delay after the first failure. Default 100 ms. From 0 to 1 day, at most `max`.
    pub base: Duration,
    /// By how much each next delay is longer. Default 2. From 1 to 100.
    pub factor: f64,
    /// Longest delay. Default 30 s. From 1 ms to 1 day.
    pub max: Duration,
    /// How much of the delay is left to chance. Default [`Jitter::Equal`].
    pub jitter: Jitter,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: Some(60),
            base: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: Jitter::Equal,
        }
    }
}

/// How much of a delay is left to chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Jitter {
    /// Nothing.
    None,
    /// The second half of it.
    #[default]
    Equal,
    /// All of it.
    Full,
}

impl Retry {
    /// The delay after `failures` failures, before jitter.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let (base, max) = (self.base.as_secs_f64(), self.max.as_secs_f64());
        // Not `max(1.0)` alone: a factor that is no number must not become a delay that is none.
        let factor = if self.factor > 1.0 { self.factor } else { 1.0 };
        let power = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let delay = base * factor.powi(power);
        if delay < max { Duration::from_secs_f64(delay) } else { self.max }
    }

    /// Whether an entry with so many failed attempts is to be parked.
    #[must_use]
    pub fn is_exhausted(&self, attempts: u32) -> bool {
        self.attempts_max.is_some_and(|max| attempts >= max.max(1))
    }

    /// The delay after `failures` failures.
    pub(super) fn jittered(&self, failures: u32, chance: &mut Chance) -> Duration {
        let delay = self.delay(failures);
        match self.jitter {
            Jitter::None => delay,
            Jitter::Equal => delay / 2 + chance.up_to(delay / 2),
            Jitter::Full => chance.up_to(delay),
        }
    }
}

/// Chance from a seed: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration in `0 ..= limit`. Its bias is one in 2⁶⁴ / nanoseconds: nothing.
    fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let draw = self.draw();
        Duration::from_nanos(nanos.checked_add(1).map_or(draw, |n| draw % n))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn delays_grow_by_the_factor_up_to_the_cap() {
        let retry = Retry { base: ms(100), factor: 3.0, max: ms(1000), ..Retry::default() };
        let delays: Vec<_> = (1..6).map(|n| retry.delay(n)).collect();
        assert_eq!(delays, [ms(100), ms(300), ms(900), ms(1000), ms(1000)]);
    }

    #[test]
    fn no_settings_make_a_delay_panic_or_exceed_the_cap() {
        let factors = [0.0, -1.0, 1.0, 1e300, f64::NAN, f64::INFINITY];
        let durations = [Duration::ZERO, Duration::from_nanos(1), ms(5), Duration::MAX];
        for factor in factors {
            for base in durations {
                for max in durations {
                    for jitter in [Jitter::None, Jitter::Equal, Jitter::Full] {
                        let retry = Retry { attempts_max: None, base, factor, max, jitter };
                        for failures in [0, 1, 2, 40, u32::MAX] {
                            assert!(retry.jittered(failures, &mut Chance::new(1)) <= max, "{retry:?} {failures}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn equal_jitter_keeps_half_and_full_jitter_keeps_nothing() {
        let mut chance = Chance::new(7);
        let equal = Retry { base: ms(100), jitter: Jitter::Equal, ..Retry::default() };
        let full = Retry { jitter: Jitter::Full, ..equal };
        let of = |retry: &Retry, chance: &mut Chance| (0..1000).map(|_| retry.jittered(1, chance)).collect::<Vec<_>>();
        let (equal, full) = (of(&equal, &mut chance), of(&full, &mut chance));
        assert!(equal.iter().all(|d| (ms(50)..=ms(100)).contains(d)));
        assert!(equal.iter().any(|d| *d < ms(55)) && equal.iter().any(|d| *d > ms(95)));
        assert!(full.iter().all(|d| *d <= ms(100)));
        assert!(full.iter().any(|d| *d < ms(5)) && full.iter().any(|d| *d > ms(95)));
    }
}
