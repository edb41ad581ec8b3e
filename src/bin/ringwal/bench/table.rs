//! The results, for people and as JSON.

use ringwal::io::DiskReport;
use serde_json::json;

use super::Bench;
use super::measure::Series;
use crate::args::BenchArgs;
use crate::failure::Result;
use crate::output::{write_all, write_json};

/// What a series is compared with: another one's median, and what the ratio is called.
fn beside(bench: &Bench, series: &Series) -> Option<(f64, &'static str)> {
    let (name, unit, called) = match (series.part, series.unit) {
        ("acks", "µs") if series.name.ends_with("p50") => ("4 KiB durable write, p50", "µs", "of the floor's p50"),
        ("acks", "µs") => ("4 KiB durable write, p99", "µs", "of the floor's p99"),
        ("acks", "1/s") => ("4 KiB durable writes, one at a time", "1/s", "of the floor's rate"),
        ("throughput", "MB/s") => ("1 MiB writes, one sync at the end", "MB/s", "of the floor"),
        _ => return None,
    };
    let floor = bench.median("floor", name, unit).filter(|floor| *floor > 0.0)?;
    Some((series.median() / floor, called))
}

pub(super) fn write(bench: &Bench, report: &DiskReport, args: &BenchArgs) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    if args.json {
        let rows = bench.series.iter().map(|series| {
            let ratio = beside(bench, series);
            json!({
                "part": series.part, "name": series.name, "unit": series.unit, "less_is_better": series.less_is_better,
                "median": series.median(), "min": series.min(), "max": series.max(), "rounds": series.values,
                "ratio": ratio.map(|(ratio, _)| ratio), "ratio_to": ratio.map(|(_, called)| called),
            })
        });
        let rows: Vec<_> = rows.collect();
        return write_json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "optimized": !cfg!(debug_assertions), "cores": cores, "kernel": kernel,
            "driver": report.driver, "direct": report.direct, "durable": report.durable, "file_system": report.file_system,
            "notes": report.notes, "seconds": args.seconds, "results": rows,
        }));
    }
    let mut out = format!(
        "ringwal {} on {cores} cores, Linux {kernel}; {} on {}, {}\n",
        env!("CARGO_PKG_VERSION"),
        report.driver,
        report.file_system,
        if report.direct { "direct" } else { "through the page cache" }
    );
    if !report.durable {
        out +=
            "NOT DURABLE: this file system keeps nothing over a loss of power; these are not the numbers of a disk\n";
    }
    if cfg!(debug_assertions) {
        out += "NOT OPTIMIZED: this program was built without --release\n";
    }
    for note in &report.notes {
        out += &format!("note: {note}\n");
    }
    out += &format!(
        "\n{:<11} {:<46} {:>12} {:<5} {:>25}\n",
        "",
        format!("median of {} rounds", args.rounds),
        "",
        "",
        "span"
    );
    let mut part = "";
    for series in &bench.series {
        if series.part != part {
            part = series.part;
            out += &format!("{part}\n");
        }
        let ratio = beside(bench, series).map_or_else(String::new, |(ratio, called)| format!("   {ratio:.2} {called}"));
        let span = format!("{} … {}", number(series.min()), number(series.max()));
        out += &format!(
            "{:<11} {:<46} {:>12} {:<5} {span:>25}{ratio}\n",
            "",
            series.name,
            number(series.median()),
            series.unit
        );
    }
    write_all(out.as_bytes())
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
