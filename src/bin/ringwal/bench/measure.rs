//! Numbers of several rounds.

/// One measured quantity, a value a round.
pub(crate) struct Series {
    pub(crate) part: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) less_is_better: bool,
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) const fn new(part: &'static str, name: String, unit: &'static str, less_is_better: bool) -> Self {
        Self { part, name, unit, less_is_better, values: Vec::new() }
    }

    pub(crate) fn median(&self) -> f64 {
        quantile(&mut self.values.clone(), 0.5)
    }

    pub(crate) fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The value below which this share of all values lies; 0 of none.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Nanoseconds as a number that can be divided.
pub(crate) fn nanos(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values = vec![5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&mut values, share)), [1.0, 3.0, 5.0, 5.0]);
        assert!(quantile(&mut [], 0.5).abs() < f64::EPSILON);
    }
}
