//! `ringwal bench`: what this machine and this disk give, and what ringwal makes of it, in one run.
//!
//! | part       | what is measured                                                               | beside        |
//! |------------|--------------------------------------------------------------------------------|---------------|
//! | floor      | the same driver by itself: 4 KiB durable overwrites, 1 MiB writes and one sync |               |
//! | push       | a burst that fits into the ring, by the pushing thread alone                   |               |
//! | acks       | threads that each push one entry and wait until it is durable, and again       | 4 KiB floor   |
//! | throughput | one producer, `periodic:5ms`, to a sink that takes everything                  | 1 MiB floor   |
//! | recovery   | from opening a log full of entries to the first and the last delivery          |               |
//!
//! Each part runs several rounds; shown are the median and the span of all rounds. Parts take turns round
//! by round, so that a disk that changes its mood does so for all of them.

mod acks;
mod floor;
mod measure;
mod push;
mod recovery;
mod table;
mod throughput;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwal::io::DiskReport;

use crate::args::{BenchArgs, IoArg};
use crate::failure::{Failure, Result};
use measure::Series;

/// What all parts share.
pub(crate) struct Bench {
    root: PathBuf,
    io: IoArg,
    /// How long one round of one part runs.
    round: Duration,
    series: Vec<Series>,
    /// How many directories were made.
    dirs: u32,
}

impl Bench {
    /// A new directory for one measurement.
    fn dir(&mut self) -> PathBuf {
        self.dirs += 1;
        self.root.join(format!("{}", self.dirs))
    }

    fn series(&mut self, part: &'static str, name: String, unit: &'static str, less_is_better: bool) -> &mut Series {
        let at =
            self.series.iter().position(|series| series.part == part && series.name == name && series.unit == unit);
        let at = at.unwrap_or_else(|| {
            self.series.push(Series::new(part, name, unit, less_is_better));
            self.series.len() - 1
        });
        &mut self.series[at]
    }

    /// Notes the value of this round.
    fn note(&mut self, part: &'static str, name: impl Into<String>, unit: &'static str, value: f64) {
        self.series(part, name.into(), unit, unit != "MB/s" && unit != "1/s").values.push(value);
    }

    /// The median so far.
    fn median(&self, part: &str, name: &str, unit: &str) -> Option<f64> {
        self.series
            .iter()
            .find(|series| series.part == part && series.name == name && series.unit == unit)
            .map(Series::median)
    }
}

/// The directory of a run, removed whatever happens to the run.
struct Root(PathBuf);

impl Root {
    fn new(parent: &Path) -> Result<Self> {
        let root = parent.join(format!("ringwal-bench.{}", std::process::id()));
        std::fs::create_dir(&root).map_err(|error| {
            Failure::usage(format!(
                "cannot make {}: {error}; give a directory that may be written with --dir",
                root.display()
            ))
        })?;
        Ok(Self(root))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("ringwal: cannot remove {}: {error}; please remove it", self.0.display());
        }
    }
}

pub(crate) fn run(args: &BenchArgs) -> Result<u8> {
    let stop = crate::pipe::signals::Stop::on_signals()?;
    let root = Root::new(&args.dir)?;
    let rounds = u32::try_from(args.rounds).unwrap_or(1);
    let round = Duration::from_secs(args.seconds) / rounds;
    let mut bench = Bench { root: root.0.clone(), io: args.io, round, series: Vec::new(), dirs: 0 };
    let is_shown = !args.json && std::io::stderr().is_terminal();
    let mut report = None;
    for number in 1..=rounds {
        if stop.is_set() {
            break;
        }
        if is_shown {
            eprint!("\rringwal: round {number} of {rounds} ");
        }
        report = Some(floor::round(&mut bench)?);
        push::round(&mut bench)?;
        acks::round(&mut bench)?;
        throughput::round(&mut bench)?;
        recovery::round(&mut bench)?;
    }
    if is_shown {
        eprint!("\r                              \r");
    }
    if let Some(code) = stop.exit_code() {
        return Ok(code);
    }
    let report: DiskReport = report.ok_or_else(|| Failure::new("not a single round was made"))?;
    table::write(&bench, &report, args)?;
    Ok(0)
}

/// An entry of `N` bytes.
pub(crate) struct Bytes<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> ringwal::Entry for Bytes<N> {
    const SCHEMA: ringwal::Schema = ringwal::Schema::new("ringwal.bench", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(N)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, ringwal::DecodeError> {
        bytes.try_into().map(Self).map_err(ringwal::DecodeError::new)
    }
}

/// A queue that could not be opened or did not work.
fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot measure {what}: {error}"))
}
