//! Everything at random, on real directories, for as long as it is told: the program behind `tests/stress.rs`.
//!
//! `cargo run --release --example stress -- --minutes 60 [--seed N] [--dir DIR]`
//!
//! It panics at the first thing that does not hold, with the seed, and leaves the directory for whoever looks.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/stress/mod.rs"]
mod stress;

use std::time::Duration;

use stress::{Options, run};

fn main() {
    if stress::child() {
        return;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let minutes: f64 = value("--minutes").map_or(1.0, |text| text.parse().expect("--minutes takes a number"));
    let chance = || u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos());
    let seed = value("--seed").map_or_else(chance, |text| text.parse().expect("--seed takes a number"));
    eprintln!("seed {seed}, {minutes} minutes");
    let summary = run(&Options {
        seed,
        lasts: Duration::from_secs_f64(minutes * 60.0),
        dir: value("--dir").map(|dir| std::path::Path::new(dir).join(format!("stress-{seed}"))),
        session_max: Duration::from_secs(3),
        child: |_| {},
        tell_every: Duration::from_secs(10),
    });
    eprintln!("{summary:#?}");
}
