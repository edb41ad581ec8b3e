//! The curves of `docs/benchmarks`: the data is read as it was written, the plots are those of the data, and the model of
//! `docs/SCALING.md` does the arithmetic that stands there.
#![cfg(not(any(loom, shuttle)))]
#![allow(dead_code, reason = "the bench uses all of it")]

#[path = "../benches/curves/data.rs"]
mod data;
#[path = "../benches/curves/model.rs"]
mod model;
#[path = "../benches/curves/plots.rs"]
mod plots;
#[path = "../benches/curves/svg.rs"]
mod svg;

use std::fs;
use std::path::{Path, PathBuf};

use data::Data;
use model::{Cost, Limit, Machine, Model};
use plotters::style::RGBColor;
use svg::{Axis, Line, Plot};

/// The data of the report, and where its plots stand.
const REPORT: &str = "docs/benchmarks/2026-11-21-curves.csv";
const PLOTS: &str = "docs/benchmarks/plots";
/// How the plots are drawn again.
const REDRAW: &str =
    "cargo bench --bench curves -- --from docs/benchmarks/2026-11-21-curves.csv --plots docs/benchmarks/plots";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn small() -> Data {
    Data::parse(&read("tests/curves/small.csv")).expect("a file of the tests")
}

fn small_plot() -> Plot {
    let line = |curve, name, colour, is_dashed| Line { curve, name, colour, is_dashed };
    Plot {
        file: "small",
        title: "One, beside a floor",
        x: Axis { name: "of something", is_log: true, show: |value| format!("{value:.0}") },
        y: Axis { name: "ns", is_log: false, show: |value| format!("{value:.0}") },
        lines: vec![
            line("one", "one", 0, false),
            line("floor", "floor", 1, true),
            line("nothing", "nothing", 2, false),
        ],
    }
}

#[test]
fn data_comes_back_from_its_file_as_it_went() {
    let text = read("tests/curves/small.csv");
    assert_eq!(small().to_string(), text);
    let one = small().at("one", 2.0).expect("three rounds");
    assert_eq!([one.min, one.median, one.max], [20.0, 21.0, 30.5]);
    assert_eq!(small().xs("one"), [1.0, 2.0, 8.0]);
    assert_eq!(small().at("one", 3.0), None);
}

#[test]
fn a_line_that_is_no_measurement_is_refused_with_its_number() {
    let head = "curve,x,unit,round,value\n";
    assert_eq!(Data::parse(head), Ok(Data::default()));
    for line in ["one,1,ns,1", "one,1,ns,1,2,3", "one,1,ns,1,NaN", "one,x,ns,1,2", "one,1,ns,-1,2"] {
        let refused = Data::parse(&format!("{head}one,1,ns,1,2\n{line}\n")).expect_err(line);
        assert!(refused.contains("line 3") && refused.contains(line), "{refused}");
    }
    assert!(Data::parse("x,curve\n").is_err());
}

#[test]
fn values_are_kept_to_five_digits() {
    let mut data = Data::default();
    data.add("one", 1.0, "ns", 1, 123.456_789);
    assert_eq!(data.median("one", 1.0), Some(123.46));
}

#[test]
fn the_same_data_gives_the_same_plot_to_the_byte() {
    let drawn = svg::draw(&small_plot(), &small()).expect("there is data");
    assert_eq!(drawn, svg::draw(&small_plot(), &small()).unwrap());
    let kept = read("tests/curves/small.svg");
    if drawn != kept {
        let seen = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small.svg");
        fs::write(&seen, drawn).unwrap();
        panic!("another plot than tests/curves/small.svg: look at {}; if it is right, keep it", seen.display());
    }
}

#[test]
fn a_plot_says_what_it_shows_and_in_which_unit() {
    let drawn = svg::draw(&small_plot(), &small()).unwrap();
    for text in ["One, beside a floor", "of something", "\nns\n", "\none\n", "\nfloor\n"] {
        assert!(drawn.contains(text), "{text:?} is missing");
    }
    assert!(!drawn.contains("\nnothing\n"), "a curve without data has no line");
    // The band of the one point with a spread: from the least to the greatest of its rounds.
    assert_eq!(drawn.matches("<polygon").count(), 2);
    assert_eq!(svg::draw(&small_plot(), &Data::default()), None);
    for plot in plots::all() {
        assert!(!plot.title.is_empty() && !plot.x.name.is_empty() && !plot.y.name.is_empty(), "{}", plot.file);
        assert!(plot.title.chars().count() <= 110, "{}: longer titles do not fit", plot.file);
    }
}

/// As the guidelines for accessible contents on the web count it.
fn contrast(one: RGBColor, two: RGBColor) -> f64 {
    let luminance = |RGBColor(red, green, blue)| {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    };
    let (one, two) = (luminance(one), luminance(two));
    (one.max(two) + 0.05) / (one.min(two) + 0.05)
}

#[test]
fn lines_and_texts_are_seen_on_a_light_page_and_on_a_dark_one() {
    let lines = svg::COLOURS.map(|colour| (colour, 3.0));
    for (colour, least) in lines.into_iter().chain([(svg::INK, 4.2)]) {
        for ground in [RGBColor(0xff, 0xff, 0xff), RGBColor(0x0d, 0x11, 0x17)] {
            assert!(contrast(colour, ground) >= least, "{colour:?} on {ground:?}: {:.2}", contrast(colour, ground));
        }
    }
    let drawn = svg::draw(&small_plot(), &small()).unwrap();
    assert!(!drawn.contains("<rect"), "the ground is the page's");
}

#[test]
fn the_plots_of_the_report_are_those_of_its_data() {
    let data = Data::parse(&read(REPORT)).expect("the report's data");
    for plot in plots::all() {
        let path = format!("{PLOTS}/{}.svg", plot.file);
        let drawn = svg::draw(&plot, &data).unwrap_or_else(|| panic!("{path}: no data"));
        assert!(drawn == read(&path), "{path} is not what {REPORT} gives; draw it again: {REDRAW}");
        for line in &plot.lines {
            assert!(!data.xs(line.curve).is_empty(), "{path}: no data of {:?}", line.curve);
        }
    }
}

fn model(disk: f64, other: f64) -> Model {
    let cost = |fixed, per_byte| Cost { fixed, per_byte };
    Model { costs: [cost(6.0, 0.0), cost(4.0, 0.5), cost(10.0, 0.0), cost(other, 0.0)], disk, traffic: 2.0 }
}

#[test]
fn a_rate_is_what_the_scarcest_allows() {
    let machine = |producers, queues, cpus| Machine { producers, queues, cpus };
    let rate = |disk, stride, machine| {
        let (rate, limit) = model(disk, 2.0).rate(stride, machine);
        ((rate / 1e3).round(), limit)
    };
    let free = f64::INFINITY;
    // At 8 bytes: push 6 ns, flush core 8, delivery 10, and what else there is 2.
    assert_eq!(rate(free, 8.0, machine(1.0, 1.0, 2.0)), (76_923.0, Limit::Cpus));
    assert_eq!(rate(free, 8.0, machine(1.0, 1.0, 8.0)), (100_000.0, Limit::Delivery));
    assert_eq!(rate(free, 8.0, machine(1.0, 4.0, 8.0)), (166_667.0, Limit::Producers));
    // At 32: flush core 20. A second queue brings a second one.
    assert_eq!(rate(free, 32.0, machine(4.0, 1.0, 8.0)), (50_000.0, Limit::FlushCore));
    assert_eq!(rate(free, 32.0, machine(4.0, 2.0, 8.0)), (100_000.0, Limit::FlushCore));
    // One byte a nanosecond; each byte of the log goes twice.
    assert_eq!(rate(1.0, 32.0, machine(4.0, 2.0, 8.0)), (15_625.0, Limit::Disk));
}

#[test]
fn costs_that_lie_on_a_line_are_found_and_predict_what_was_not_fitted() {
    // The costs are fitted to four of these; the one of 64 bytes is predicted.
    let mut data = Data::default();
    data.add("cpus", 0.0, "CPUs", 1, 2.0);
    // Nothing at all in a stage is a cost, too.
    let model = model(f64::INFINITY, 0.0);
    for len in [8.0, 64.0, 100.0, 1024.0, 16384.0] {
        let stride = ringwal::ring::record::stride_of(len as usize) as f64;
        for (stage, cost) in ["push", "flush", "sink", "other"].iter().zip(model.costs) {
            data.add(&format!("cpu Memory: {stage}"), len, "ns", 1, cost.of(stride));
        }
        data.add("cpus left: Memory", len, "CPUs", 1, 2.0);
        let (rate, _) = model.rate(stride, Machine { producers: 1.0, queues: 1.0, cpus: 2.0 });
        data.add("entries: Memory", len, "M/s", 1, rate / 1e6);
    }
    let found = Model::fit(&data, "Memory").expect("five lengths");
    for (found, made) in found.costs.iter().zip(model.costs) {
        let near = (found.fixed - made.fixed).abs() < 0.01 && (found.per_byte - made.per_byte).abs() < 0.001;
        assert!(near, "{found:?} instead of {made:?}");
    }
    let check = model::check(&data);
    assert_eq!(check.matches("/ measured: median 1.00, from 1.00 to 1.00").count(), 2, "{check}");
    assert_eq!(model::check(&Data::default()), "", "nothing is predicted from nothing");
}
