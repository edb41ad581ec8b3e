//! Tortures ringwal for as long as it is told: the whole queue on a simulated machine, one history after another, each
//! from a seed of its own. (The log alone: `RINGWAL_SIM_HISTORIES=1000000 cargo test --test crash_sim`.)
//!
//! ```text
//! cargo run --release --features testing --example torture -- --minutes 10
//! cargo run --release --features testing --example torture -- --seconds 30 --seed 1
//! ```
//! `--seed` is the first seed (default: from the clock), `--threads` how many work at once (default: 2). A finding is
//! printed with its seed and a shortened history, and ends the program with 1.

#[path = "../tests/whole_queue/mod.rs"]
mod whole_queue;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ringwal::sim::mix;
use ringwal::wal::mutant::Mutants;
use whole_queue::run_seed;
use whole_queue::world::Tally;

struct Arguments {
    time: Duration,
    seed: u64,
    threads: usize,
}

fn arguments() -> Result<Arguments, String> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let seed = mix(u64::try_from(clock).unwrap_or(0)) >> 20;
    let mut arguments = Arguments { time: Duration::from_secs(60), seed, threads: 2 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a number"))?;
        let number: u64 = value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
        match word.as_str() {
            "--minutes" => arguments.time = Duration::from_secs(60 * number),
            "--seconds" => arguments.time = Duration::from_secs(number),
            "--seed" => arguments.seed = number,
            "--threads" => arguments.threads = usize::try_from(number).map_err(|error| error.to_string())?.max(1),
            _ => return Err(format!("{word}: --minutes, --seconds, --seed or --threads, each with a number")),
        }
    }
    Ok(arguments)
}

/// What goes wrong by plan; the line of progress adds it up.
const FAULTS: [&str; 7] = ["errors", "late ops", "hung ops", "full disks", "clock jumps", "rot", "panics of the sink"];
const DEATHS: [&str; 4] = ["power cuts", "kills", "deaths at an op", "deaths in recovery"];

fn progress(tally: &Tally, begun: Instant) {
    let sum = |names: &[&str]| names.iter().map(|name| tally.get(name)).sum::<u64>();
    let (histories, seconds) = (tally.get("histories"), begun.elapsed().as_secs_f64());
    println!(
        "{seconds:5.0} s  {histories} histories ({:.0}/s), {} actions, {} entries, {} deliveries, {} deaths, {} faults",
        histories as f64 / seconds,
        tally.get("actions"),
        tally.get("entries"),
        tally.get("deliveries"),
        sum(&DEATHS),
        sum(&FAULTS)
    );
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    println!("seeds from {} on, for {:?}, {} at once", arguments.seed, arguments.time, arguments.threads);
    let begun = Instant::now();
    let (next, over) = (AtomicU64::new(arguments.seed), AtomicBool::new(false));
    let (sum, findings) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let work = || {
        while !over.load(Ordering::Relaxed) && begun.elapsed() < arguments.time {
            match run_seed(next.fetch_add(1, Ordering::Relaxed), Mutants::NONE) {
                Ok(tally) => sum.lock().expect("nobody panics with it").add(&tally),
                Err(report) => {
                    over.store(true, Ordering::Relaxed);
                    findings.lock().expect("nobody panics with it").push(report);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(100));
            if told.elapsed() > Duration::from_secs(10) {
                progress(&sum.lock().expect("nobody panics with it"), begun);
                told = Instant::now();
            }
        }
    });
    let tally = sum.into_inner().expect("nobody panics with it");
    progress(&tally, begun);
    for (what, count) in &tally.counts {
        println!("{count:>12}  {what}");
    }
    let findings = findings.into_inner().expect("nobody panics with it");
    findings.iter().for_each(|report| println!("\n{report}"));
    println!("{}", if findings.is_empty() { "nothing was found" } else { "something was found" });
    ExitCode::from(u8::from(!findings.is_empty()))
}
