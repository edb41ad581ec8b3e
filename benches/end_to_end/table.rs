//! Figures of all rounds, and how they are shown.

use std::fmt;
use std::time::Duration;

/// Rows in the order in which they were first added.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
    /// The row to compare with.
    beside: Option<String>,
}

impl Table {
    /// Adds this round's figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.add_row(name.into(), unit, value, None);
    }

    /// The same, to be shown as a ratio to another row too.
    pub(crate) fn add_beside(&mut self, name: impl Into<String>, unit: &'static str, value: f64, beside: &str) {
        self.add_row(name.into(), unit, value, Some(beside.to_owned()));
    }

    fn add_row(&mut self, name: String, unit: &'static str, value: f64, beside: Option<String>) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { name, unit, values: vec![value], beside }),
        }
    }

    /// Each round's figure of a row that is there, and their unit.
    pub(crate) fn values(&self, name: &str) -> Option<(&[f64], &'static str)> {
        self.rows.iter().find(|row| row.name == name).map(|row| (&row.values[..], row.unit))
    }

    /// Every figure of every round, a line each. No name has a comma in it.
    pub(crate) fn csv(&self) -> String {
        let mut lines = String::from("name,unit,round,value\n");
        for row in &self.rows {
            assert!(!row.name.contains(','), "{} would be two fields", row.name);
            for (round, value) in (1..).zip(&row.values) {
                lines += &format!("{},{},{round},{value}\n", row.name, row.unit);
            }
        }
        lines
    }

    /// p50 and p99 of times, in microseconds.
    pub(crate) fn add_times(&mut self, name: &str, times: &mut [Duration], beside: Option<&str>) {
        times.sort_unstable();
        for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
            let value = crate::measure::micros(percentile(times, part));
            let beside = beside.map(|beside| format!("{beside} / {label}"));
            self.add_row(format!("{name} / {label}"), "µs", value, beside);
        }
    }
}

/// The time that this part of all (sorted) times does not exceed.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (part * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Round by round.
pub(crate) fn ratios(ones: &[f64], others: &[f64]) -> Vec<f64> {
    ones.iter().zip(others).map(|(one, other)| one / other).collect()
}

/// The least and the greatest.
pub(crate) fn span(values: &[f64]) -> String {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} – {}", short(min), short(max))
}

pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | unit | median | min – max | ratio |\n|---|---|---:|---:|---|")?;
        for row in &self.rows {
            let other = row.beside.as_ref().and_then(|name| Some((name, self.values(name)?)));
            let ratio = other.map_or(String::new(), |(name, (others, _))| {
                format!("{} × {name}", short(median(&ratios(&row.values, others))))
            });
            let (median, span) = (short(median(&row.values)), span(&row.values));
            writeln!(f, "| {} | {} | {median} | {span} | {ratio} |", row.name, row.unit)?;
        }
        Ok(())
    }
}
