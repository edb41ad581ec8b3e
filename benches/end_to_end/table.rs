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

    /// p50 and p99 of times, in microseconds.
    pub(crate) fn add_times(&mut self, name: &str, times: &mut [Duration], beside: Option<&str>) {
        times.sort_unstable();
        for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
            let value = crate::micros(percentile(times, part));
            let beside = beside.map(|beside| format!("{beside}, {label}"));
            self.add_row(format!("{name}, {label}"), "µs", value, beside);
        }
    }
}

/// The time that this part of all (sorted) times does not exceed.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (part * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

fn short(value: f64) -> String {
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
            let min = row.values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let other = self.rows.iter().find(|other| Some(&other.name) == row.beside.as_ref());
            let ratio = other.map_or(String::new(), |other| {
                let ratios: Vec<f64> = row.values.iter().zip(&other.values).map(|(one, two)| one / two).collect();
                format!("{} × {}", short(median(&ratios)), other.name)
            });
            let (median, min, max) = (short(median(&row.values)), short(min), short(max));
            writeln!(f, "| {} | {} | {median} | {min} – {max} | {ratio} |", row.name, row.unit)?;
        }
        Ok(())
    }
}
