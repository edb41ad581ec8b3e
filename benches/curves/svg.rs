//! Draws one plot as SVG: lines through medians, a band from the least to the greatest round, names at the lines' ends.
//!
//! The same data gives the same bytes: all places are whole pixels, and nothing is asked of fonts or of the machine.
//! The ground is left open, and all colours are such that the plot can be read on a light page as on a dark one.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::data::Data;

const SIZE: (u32, u32) = (960, 500);
const MARGIN: u32 = 14;
/// Room on the right for the names of the lines.
const NAMES: u32 = 220;
const NAME_HEIGHT: i32 = 17;
const TEXT: i32 = 16;
const TITLE: i32 = 20;
const FONT: &str = "sans-serif";

/// Texts, and what has no other colour: a grey that both grounds bear, as an image is not told which of them it stands on.
pub(crate) const INK: RGBColor = RGBColor(0x7a, 0x7a, 0x7a);
/// Colours of lines, in the order of their first use.
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0xd2, 0x6a, 0x11),
    RGBColor(0x2d, 0x9a, 0x4b),
    RGBColor(0xa3, 0x71, 0xf7),
    RGBColor(0xe0, 0x4f, 0x5f),
    RGBColor(0x80, 0x86, 0x8d),
];

/// A scale of a plot. All values on a logarithmic one are greater than zero.
pub(crate) struct Axis {
    /// What, and in which unit.
    pub(crate) name: &'static str,
    pub(crate) is_log: bool,
    /// How a value is written.
    pub(crate) show: fn(f64) -> String,
}

/// A curve of the data, as it is drawn.
pub(crate) struct Line {
    pub(crate) curve: &'static str,
    pub(crate) name: &'static str,
    pub(crate) colour: usize,
    /// What something is compared with.
    pub(crate) is_dashed: bool,
}

/// What is drawn, and what it says.
pub(crate) struct Plot {
    /// Without its extension.
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// A range with the places that have a label.
struct Places {
    range: Range<f64>,
    keys: Vec<f64>,
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (low, high): (i32, i32)) -> i32 {
        let part = (place - self.range.start) / (self.range.end - self.range.start);
        low + (part * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.keys.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A line's points: where, and its least, median and greatest value there.
type Points = Vec<(f64, [f64; 3])>;

/// Draws it; `None` when the data has nothing of it.
pub(crate) fn draw(plot: &Plot, data: &Data) -> Option<String> {
    let xs: Vec<f64> = plot.lines.iter().flat_map(|line| data.xs(line.curve)).filter(|x| *x > 0.0).collect();
    let (x_min, x_max) = bounds(xs.iter().copied())?;
    let lines: Vec<(&Line, Points)> = plot.lines.iter().map(|line| (line, points(line, data, x_min, x_max))).collect();
    let lines: Vec<_> = lines.into_iter().filter(|(_, points)| !points.is_empty()).collect();
    let values = lines.iter().flat_map(|(_, points)| points.iter().flat_map(|(_, spread)| *spread));
    let (y_keys, y_range) = plot.y.keys(values)?;
    let mut x_keys: Vec<f64> = xs.iter().map(|x| plot.x.place(*x)).collect();
    x_keys.sort_unstable_by(f64::total_cmp);
    x_keys.dedup();
    let x_range = spread_out(plot.x.place(x_min), plot.x.place(x_max));

    let mut out = String::new();
    {
        let root = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        let ink = (FONT, TEXT).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .margin(MARGIN)
            .margin_top(2 * MARGIN + TITLE as u32)
            .margin_right(MARGIN + NAMES)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(Places { range: x_range, keys: x_keys }, Places { range: y_range, keys: y_keys })
            .expect("a text takes every plot");
        chart
            .configure_mesh()
            .x_desc(plot.x.name)
            .y_desc(plot.y.name)
            .x_label_formatter(&|place| (plot.x.show)(plot.x.value(*place)))
            .y_label_formatter(&|place| (plot.y.show)(plot.y.value(*place)))
            .label_style(ink.clone())
            .axis_desc_style(ink)
            .axis_style(INK)
            .bold_line_style(INK.mix(0.25))
            .light_line_style(TRANSPARENT)
            .draw()
            .expect("a text takes every plot");
        let place = |x: f64, y: f64| (plot.x.place(x), plot.y.place(y));
        let mut names = Vec::new();
        for (line, points) in &lines {
            let colour = COLOURS[line.colour];
            let low = points.iter().map(|(x, [min, ..])| place(*x, *min));
            let high = points.iter().rev().map(|(x, [.., max])| place(*x, *max));
            let middle: Vec<_> = points.iter().map(|(x, [_, median, _])| place(*x, *median)).collect();
            let band = Polygon::new(low.chain(high).collect::<Vec<_>>(), colour.mix(0.15).filled());
            chart.draw_series([band]).expect("a text takes every plot");
            let stroke = colour.stroke_width(2);
            if line.is_dashed {
                let dashes = DashedPathElement::new(middle.clone(), 12, 8, stroke);
                chart.draw_series([dashes]).expect("a text takes every plot");
            } else {
                chart.draw_series([PathElement::new(middle.clone(), stroke)]).expect("a text takes every plot");
                let dots = middle.iter().map(|place| Circle::new(*place, 3, colour.filled()));
                chart.draw_series(dots).expect("a text takes every plot");
            }
            let end = *middle.last().expect("lines have points");
            names.push((chart.backend_coord(&end).1, *line));
        }
        let title = Text::new(plot.title, (MARGIN as i32, MARGIN as i32), (FONT, TITLE).into_font().color(&INK));
        root.draw(&title).expect("a text takes every plot");
        write_names(&root, names);
        root.present().expect("a text takes every plot");
    }
    out.push('\n');
    Some(out)
}

/// Names on the right, each as near to its line's end as the others allow.
fn write_names(root: &DrawingArea<SVGBackend<'_>, Shift>, mut names: Vec<(i32, &Line)>) {
    names.sort_by_key(|(y, _)| *y);
    let mut next = i32::MIN;
    let (width, height) = (SIZE.0 as i32, SIZE.1 as i32);
    // From below, too: names at the foot push those above them up.
    let mut limit = height - 50 - NAME_HEIGHT * names.len() as i32;
    for (y, line) in names {
        limit += NAME_HEIGHT;
        let at = y.min(limit).max(next);
        next = at + NAME_HEIGHT;
        let left = width - MARGIN as i32 - NAMES as i32 + 10;
        let colour = COLOURS[line.colour];
        let mark = vec![(left, at), (left + 18, at)];
        if line.is_dashed {
            root.draw(&DashedPathElement::new(mark, 7, 4, colour.stroke_width(2))).expect("a text takes every plot");
        } else {
            root.draw(&PathElement::new(mark, colour.stroke_width(2))).expect("a text takes every plot");
        }
        let style = (FONT, TEXT).into_font().color(&INK);
        root.draw(&Text::new(line.name, (left + 24, at - TEXT / 2), style)).expect("a text takes every plot");
    }
}

fn points(line: &Line, data: &Data, x_min: f64, x_max: f64) -> Points {
    let spread = |x: f64| data.at(line.curve, x).map(|spread| [spread.min, spread.median, spread.max]);
    // What does not depend on x goes from end to end.
    match spread(0.0) {
        Some(constant) => vec![(x_min, constant), (x_max, constant)],
        None => data.xs(line.curve).into_iter().filter_map(|x| Some((x, spread(x)?))).collect(),
    }
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }

    fn value(&self, place: f64) -> f64 {
        if self.is_log { 10_f64.powf(place) } else { place }
    }

    /// Places with a label, and the range that is shown.
    fn keys(&self, values: impl Iterator<Item = f64>) -> Option<(Vec<f64>, Range<f64>)> {
        let (min, max) = bounds(values)?;
        if self.is_log {
            let decades = min.log10().floor() as i32..=max.log10().ceil() as i32;
            let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
            let steps: Vec<f64> = steps.collect();
            let low = steps.iter().copied().rfind(|step| *step <= min).unwrap_or(min);
            let high = steps.iter().copied().find(|step| *step >= max).unwrap_or(max);
            let keys = steps.into_iter().filter(|step| *step >= low && *step <= high).map(f64::log10);
            return Some((keys.collect(), spread_out(low.log10(), high.log10())));
        }
        let rough = max / 5.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade).into_iter().find(|step| *step >= rough)?;
        let count = (max / step).ceil() as i32;
        Some(((0..=count).map(|number| f64::from(number) * step).collect(), 0.0..f64::from(count) * step))
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (min, max) = bounds.unwrap_or((value, value));
        Some((value.min(min), value.max(max)))
    })
}

/// A little room at both ends, so that no point lies on the frame.
fn spread_out(min: f64, max: f64) -> Range<f64> {
    let room = ((max - min) * 0.03).max(0.01);
    min - room..max + room
}
