//! What a person sees while lines go through: a line on a terminal, nothing anywhere else.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::units::{bytes_text, grouped, ratio};

const EVERY: Duration = Duration::from_millis(100);

/// The progress line.
pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    drawn: Option<Instant>,
}

/// How far the lines have got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    /// Offset in the input.
    pub(crate) offset: u64,
    /// Lines read by this run.
    pub(crate) read: u64,
    /// Lines delivered by this run.
    pub(crate) delivered: u64,
    /// Lines that wait for the sink.
    pub(crate) waiting: u64,
}

impl Progress {
    /// A line on standard error if that is a terminal; `len`: length of the input where it is known.
    pub(crate) fn new(len: Option<u64>, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(len, target);
        let template = if len.is_some() { "{bar:24} {percent:>3}%  {msg}" } else { "{spinner} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now(), drawn: None }
    }

    /// Whether it is time for [`show`](Self::show).
    pub(crate) fn is_due(&self) -> bool {
        !self.bar.is_hidden() && self.drawn.is_none_or(|drawn| drawn.elapsed() >= EVERY)
    }

    /// Shows a state.
    pub(crate) fn show(&mut self, state: State) {
        self.drawn = Some(Instant::now());
        self.bar.set_position(state.offset);
        self.bar.set_message(text(state, self.begun.elapsed()));
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn text(state: State, elapsed: Duration) -> String {
    let State { offset, read, delivered, waiting } = state;
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let rate = ratio(delivered * 1000, millis.max(1));
    format!(
        "{} lines read ({}), {} delivered, {} waiting, {rate:.0} lines/s",
        grouped(read),
        bytes_text(offset),
        grouped(delivered),
        grouped(waiting)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_was_read_delivered_and_waits() {
        let state = State { offset: 2_500_000, read: 12_345, delivered: 12_000, waiting: 345 };
        let line = text(state, Duration::from_secs(2));
        assert_eq!(line, "12,345 lines read (2.5 MB), 12,000 delivered, 345 waiting, 6000 lines/s");
    }
}
