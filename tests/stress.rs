//! Everything at random for a while, on real directories; for longer: `cargo run --release --example stress -- --minutes 60`.

mod common;
#[path = "stress/mod.rs"]
mod stress;

use std::time::Duration;

use stress::{Options, run};

/// Seconds that the test takes, where the default of 20 is not enough.
const SECONDS: &str = "RINGWAL_STRESS_SECONDS";
/// What chance begins with, where it is to be the same again.
const SEED: &str = "RINGWAL_STRESS_SEED";

/// Not a test: a session that its parent kills.
#[test]
fn child() {
    stress::child();
}

#[test]
fn nothing_is_lost_doubled_or_leaked_whatever_happens_in_whatever_order() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let chance = || u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let seed = number(SEED).unwrap_or_else(chance);
    eprintln!("{SEED}={seed}");
    let summary = run(&Options {
        seed,
        lasts: Duration::from_secs(number(SECONDS).unwrap_or(20)),
        dir: None,
        session_max: Duration::from_millis(800),
        child: |command| _ = command.args(["--exact", "child", "--nocapture", "--test-threads=1"]),
        tell_every: Duration::from_secs(5),
    });
    eprintln!("{summary:#?}");
    assert!(summary.delivered > 0 && summary.stores > 0);
}
