//! The whole queue, push to close, under thousands of schedules: shuttle runs its threads one at a time and
//! chooses at each atomic, lock, channel and park which one goes on. A schedule in which nobody can go on is a
//! lost wake-up, and fails; so does one that does not end.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --profile loom --test shuttle --target-dir target/shuttle
//! ```
//! | variable | means |
//! |---|---|
//! | `RINGWAL_SHUTTLE_SCHEDULES` | schedules of each scenario and scheduler, instead of its own number |
//! | `RINGWAL_SHUTTLE_SEED` | where the schedulers begin; 1 without it, so that a run is the same again |
//! | `RINGWAL_SHUTTLE_REPLAY` | a schedule that a failure has printed: it alone is run |
//!
//! shuttle takes every ordering for sequentially consistent: what weaker ones allow, loom's models look for
//! (`docs/loom.md`), over one structure at a time.
#![cfg(shuttle)]

mod machine;
mod queue;
mod rings;

use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Steps after which a schedule has no end.
const STEPS_MAX: usize = 400_000;
/// The engine's turns need more than shuttle gives by itself.
const STACK_LEN: usize = 1 << 19;
/// Preemptions that PCT places: bugs of a higher depth are left to the random scheduler.
const DEPTH: usize = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Runs a scenario under so many schedules of each scheduler.
pub(crate) fn explore(schedules: usize, scenario: impl Fn() + Send + Sync + Copy + 'static) {
    if let Ok(schedule) = std::env::var("RINGWAL_SHUTTLE_REPLAY") {
        return shuttle::replay(scenario, &schedule);
    }
    let schedules = number("RINGWAL_SHUTTLE_SCHEDULES").map_or(schedules, |n| usize::try_from(n).unwrap());
    let seed = number("RINGWAL_SHUTTLE_SEED").unwrap_or(1);
    let mut config = Config::new();
    config.stack_size = STACK_LEN;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.failure_persistence = FailurePersistence::Print;
    config.silence_warnings = true;
    let begun = Instant::now();
    let random = Runner::new(RandomScheduler::new_from_seed(seed, schedules), config.clone()).run(scenario);
    let pct = Runner::new(PctScheduler::new_from_seed(seed, DEPTH, schedules), config).run(scenario);
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {random} random schedules and {pct} of PCT, {:?}", begun.elapsed());
}
