//! How does ringwal behave over a range: of producers, rates, lengths of entries, backlogs?
//!
//! ```text
//!   cargo bench --bench curves -- --csv FILE --plots DIR     five rounds, about five minutes; data, then plots
//!   cargo bench --bench curves -- --from FILE --plots DIR    measures nothing: plots, and the model's check, of a file
//!   cargo bench --bench curves -- --quick                    each point once, briefly: does it run?
//!   cargo bench --bench curves -- rates sizes --rounds 9     only parts with these names, more rounds
//!   cargo bench --bench curves -- --count memory:100:20000   20,000 entries of 100 B and nothing else: `counts.rs`
//! ```
//! Every round measures every point once, so that a slow minute of the machine hits them all. The floor or the peer is
//! measured in the same round. The files lie below the build's target directory: put that on the disk that is to be
//! measured. At the end stands how well the model of `docs/SCALING.md` predicts what was measured.

#![cfg(not(any(loom, shuttle)))]

mod backlogs;
mod counts;
mod data;
#[path = "../end_to_end/floor.rs"]
mod floor;
#[path = "../end_to_end/latency.rs"]
#[allow(dead_code, reason = "its own choice of rates is end_to_end's")]
mod latency;
#[path = "../end_to_end/measure.rs"]
#[allow(dead_code, reason = "what more end_to_end needs")]
mod measure;
mod model;
mod plots;
mod producers;
mod rates;
#[path = "../end_to_end/recovery.rs"]
mod recovery;
mod round;
mod sizes;
mod svg;
mod table;
mod threads;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process};

use data::Data;
use measure::Scale;
use round::Round;

const FULL: Scale = Scale { rounds: 5, time: Duration::from_millis(400), entries: 200_000 };
const QUICK: Scale = Scale { rounds: 1, time: Duration::from_millis(10), entries: 2_000 };

type Part = (&'static str, fn(Scale, &mut Round));

const PARTS: [Part; 4] =
    [("producers", producers::run), ("rates", rates::run), ("sizes", sizes::run), ("backlogs", backlogs::run)];

/// What is to be done.
struct Plan {
    scale: Scale,
    parts: Vec<Part>,
    csv: Option<PathBuf>,
    from: Option<PathBuf>,
    plots: Option<PathBuf>,
    count: Option<String>,
}

fn main() {
    let done = plan(env::args().skip(1)).and_then(|plan| run(&plan));
    if let Err(error) = done {
        eprintln!("{error}");
        process::exit(2);
    }
}

fn plan(mut args: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan { scale: FULL, parts: Vec::new(), csv: None, from: None, plots: None, count: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
        match arg.as_str() {
            "--rounds" => plan.scale.rounds = value()?.parse().map_err(|_| "--rounds takes a number".to_owned())?,
            "--count" => plan.count = Some(value()?),
            "--csv" => plan.csv = Some(PathBuf::from(value()?)),
            "--from" => plan.from = Some(PathBuf::from(value()?)),
            "--plots" => plan.plots = Some(PathBuf::from(value()?)),
            // The second is what criterion's benchmarks know.
            "--quick" | "--test" => plan.scale = QUICK,
            // Cargo's own.
            "--bench" => {}
            name => match PARTS.iter().find(|(part, _)| *part == name) {
                Some(part) => plan.parts.push(*part),
                None => return Err(format!("no part {name:?}; there are {}", PARTS.map(|(part, _)| part).join(", "))),
            },
        }
    }
    if plan.parts.is_empty() {
        plan.parts = PARTS.to_vec();
    }
    Ok(plan)
}

fn run(plan: &Plan) -> Result<(), String> {
    if let Some(what) = &plan.count {
        return counts::run(what);
    }
    let data = match &plan.from {
        Some(file) => Data::parse(&fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?)
            .map_err(|error| format!("{}, {error}", file.display()))?,
        None => measure(plan),
    };
    match &plan.csv {
        Some(file) => write(file, &data.to_string())?,
        None if plan.from.is_none() => print!("{data}"),
        None => {}
    }
    if let Some(folder) = &plan.plots {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for plot in plots::all() {
            if let Some(drawn) = svg::draw(&plot, &data) {
                write(&folder.join(plot.file).with_extension("svg"), &drawn)?;
            }
        }
    }
    print!("{}", model::check(&data));
    Ok(())
}

fn measure(plan: &Plan) -> Data {
    let mut data = Data::default();
    for number in 1..=plan.scale.rounds {
        for (name, part) in &plan.parts {
            eprintln!("round {number} of {}: {name}", plan.scale.rounds);
            part(plan.scale, &mut Round { data: &mut data, number });
        }
    }
    data
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
