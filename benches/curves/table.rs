//! Where the parts that stem from `end_to_end` put their figures: by name here, to be taken as points of a curve.

use std::time::Duration;

use crate::measure::micros;

/// Figures since the last [`Table::take`].
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, &'static str, f64)>,
}

impl Table {
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.rows.push((name.into(), unit, value));
    }

    pub(crate) fn add_beside(&mut self, name: impl Into<String>, unit: &'static str, value: f64, _beside: &str) {
        self.add(name, unit, value);
    }

    /// p50, p99 and p99.9 of times, in microseconds.
    pub(crate) fn add_times(&mut self, name: &str, times: &mut [Duration], _beside: Option<&str>) {
        times.sort_unstable();
        for (label, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.add(format!("{name}, {label}"), "µs", micros(percentile(times, part)));
        }
    }

    /// Name, unit and value of each.
    pub(crate) fn take(&mut self) -> Vec<(String, &'static str, f64)> {
        std::mem::take(&mut self.rows)
    }
}

/// What a name ends with: `p50` of `…, p50`.
pub(crate) fn last_part(name: &str) -> &str {
    name.rsplit([',', '/']).next().unwrap_or(name).trim()
}

/// The time that this part of all (sorted) times does not exceed.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (part * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
