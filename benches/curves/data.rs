//! Measured points of curves, as they stand in a file: one line for each point and round.

use std::fmt;

const HEADER: &str = "curve,x,unit,round,value";
/// Significant digits after the first: what is measured is not known better.
const DIGITS: usize = 4;

/// One measured value.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    curve: String,
    x: f64,
    unit: String,
    round: usize,
    value: f64,
}

/// All values of a run, in the order in which they were measured.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Data {
    rows: Vec<Row>,
}

/// The rounds of one point.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Data {
    /// Adds a value; a curve that does not depend on x has its values at 0.
    ///
    /// # Panics
    /// When the value is no number, or a name would break the line.
    pub(crate) fn add(&mut self, curve: &str, x: f64, unit: &str, round: usize, value: f64) {
        assert!(value.is_finite(), "{curve} at {x}: {value} is not a measurement");
        assert!(!curve.contains([',', '\n']) && !unit.contains([',', '\n']), "{curve} ({unit}) does not fit a line");
        let rounded = format!("{value:.DIGITS$e}").parse().expect("a number that was just written");
        self.rows.push(Row { curve: curve.to_owned(), x, unit: unit.to_owned(), round, value: rounded });
    }

    /// Reads what `Display` has written.
    ///
    /// # Errors
    /// With the line that cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, HEADER)) => {}
            other => return Err(format!("the first line is {other:?}, not {HEADER:?}")),
        }
        let rows = lines.map(|(at, line)| row(line).ok_or_else(|| format!("line {}: {line:?}", at + 1)));
        Ok(Self { rows: rows.collect::<Result<_, _>>()? })
    }

    /// Where this curve has values, in rising order.
    pub(crate) fn xs(&self, curve: &str) -> Vec<f64> {
        let mut xs: Vec<f64> = self.rows.iter().filter(|row| row.curve == curve).map(|row| row.x).collect();
        xs.sort_unstable_by(f64::total_cmp);
        xs.dedup();
        xs
    }

    /// The rounds of a point; `None` where nothing was measured.
    pub(crate) fn at(&self, curve: &str, x: f64) -> Option<Spread> {
        let rows = self.rows.iter().filter(|row| row.curve == curve && row.x.total_cmp(&x).is_eq());
        let mut values: Vec<f64> = rows.map(|row| row.value).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Spread { min, median, max })
    }

    /// The median of a point.
    pub(crate) fn median(&self, curve: &str, x: f64) -> Option<f64> {
        self.at(curve, x).map(|spread| spread.median)
    }
}

fn row(line: &str) -> Option<Row> {
    let mut cells = line.split(',');
    let mut cell = || cells.next();
    let (curve, x, unit, round, value) = (cell()?, cell()?, cell()?, cell()?, cell()?);
    if cells.next().is_some() {
        return None;
    }
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let (x, round) = (x.parse().ok()?, round.parse().ok()?);
    Some(Row { curve: curve.to_owned(), x, unit: unit.to_owned(), round, value })
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        self.rows
            .iter()
            .try_for_each(|Row { curve, x, unit, round, value }| writeln!(f, "{curve},{x},{unit},{round},{value}"))
    }
}
