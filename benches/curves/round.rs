//! Where one round of measurements goes.

use crate::data::Data;
use crate::table::Table;

/// Adds to the data with the number of the round.
pub(crate) struct Round<'a> {
    pub(crate) data: &'a mut Data,
    pub(crate) number: usize,
}

impl Round<'_> {
    pub(crate) fn add(&mut self, curve: &str, x: f64, unit: &str, value: f64) {
        self.data.add(curve, x, unit, self.number, value);
    }

    /// Figures of a part of `end_to_end`, as points at `x` of the curves that `curve_of` gives to their names.
    pub(crate) fn add_table(&mut self, mut table: Table, x: f64, curve_of: impl Fn(&str) -> Option<String>) {
        for (name, unit, value) in table.take() {
            if let Some(curve) = curve_of(&name) {
                self.add(&curve, x, unit, value);
            }
        }
    }
}
