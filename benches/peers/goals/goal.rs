//! A goal, and what was measured beside it.

use std::fmt;

use crate::table::{Table, median, ratios, short, span};

/// What a figure is held against.
pub(crate) enum Beside {
    /// Nothing but the goal itself.
    Nothing,
    /// This figure of the same round.
    One(String),
    /// The greatest of these figures of the same round, and what they are called together.
    Best(String, Vec<String>),
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// A row of the table of goals.
pub(crate) struct Goal {
    /// The row of the figures that shows it.
    pub(crate) figure: String,
    pub(crate) beside: Beside,
    /// Of the ratio where it stands beside something, else of the figure.
    pub(crate) bound: Bound,
}

impl Goal {
    /// The other's figure in each round.
    fn others(&self, table: &Table) -> Option<Vec<f64>> {
        let names = match &self.beside {
            Beside::Nothing => return None,
            Beside::One(name) => std::slice::from_ref(name),
            Beside::Best(_, names) => names,
        };
        let all: Option<Vec<_>> = names.iter().map(|name| table.values(name).map(|(values, _)| values)).collect();
        let all = all?;
        let rounds = all.iter().map(|values| values.len()).min()?;
        Some((0..rounds).map(|round| all.iter().map(|values| values[round]).fold(0.0, f64::max)).collect())
    }

    fn show(&self, table: &Table, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (beside, sign) = match &self.beside {
            Beside::Nothing => (String::new(), ""),
            Beside::One(name) | Beside::Best(name, _) => (name.clone(), " ×"),
        };
        let goal = match self.bound {
            Bound::AtMost(bound) => format!("≤ {bound}{sign}"),
            Bound::AtLeast(bound) => format!("≥ {bound}{sign}"),
        };
        let Some((values, unit)) = table.values(&self.figure) else {
            return writeln!(f, "| {} | | {beside} | | {goal} | not measured in this run |", self.figure);
        };
        let measured = shown(values, unit);
        let held = match &self.beside {
            Beside::Nothing => values.to_vec(),
            _ => match self.others(table) {
                Some(others) => ratios(values, &others),
                None => {
                    let missing = "the other was not measured in this run";
                    return writeln!(f, "| {} | {measured} | {beside} | | {goal} | {missing} |", self.figure);
                }
            },
        };
        let ratio = match &self.beside {
            Beside::Nothing => String::new(),
            _ => shown(&held, "×"),
        };
        let beside = self.others(table).map_or(beside.clone(), |others| format!("{beside}: {}", shown(&others, unit)));
        let good = held.iter().filter(|value| self.bound.holds(**value)).count();
        let verdict = match (self.bound.holds(median(&held)), good) {
            (true, _) if good == held.len() => "**reached**".to_owned(),
            (true, _) => format!("**reached**, in {good} of {} rounds", held.len()),
            (false, 0) => "missed".to_owned(),
            (false, _) => format!("missed, reached in {good} of {} rounds", held.len()),
        };
        writeln!(f, "| {} | {measured} | {beside} | {ratio} | {goal} | {verdict} |", self.figure)
    }
}

fn shown(values: &[f64], unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    format!("{}{space}{unit} ({})", short(median(values)), span(values))
}

/// All goals with what was measured, as a table.
pub(crate) struct Verdicts<'a> {
    pub(crate) goals: &'a [Goal],
    pub(crate) table: &'a Table,
}

impl fmt::Display for Verdicts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## The goals\n\nMedian (least – greatest) of the rounds.\n")?;
        writeln!(f, "| what | measured | beside | ratio | goal | |\n|---|---|---|---|---|---|")?;
        self.goals.iter().try_for_each(|goal| goal.show(self.table, f))
    }
}
