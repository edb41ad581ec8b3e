//! The whole queue as one deterministic simulation: rings, flush core, log, delivery, park and sink, in one thread, on a
//! simulated machine and clock, from one seed.
//!
//! ```text
//!   seed ─► History { setup, actions } ─► World ─► SteppedQueue on SimDisk, Desk (the sink), ManualClock
//!                    ▲                      └────► Model: what was pushed, told and answered
//!                    └── shrink: fewer actions, as long as it still breaks
//! ```
//! | file | what |
//! |---|---|
//! | `action` | what can happen; histories from seeds |
//! | `more`, `park` | what came later than the first histories, woven into them |
//! | `item` | entries and the sink |
//! | `model` | what must hold |
//! | `world` | carries a history out |
//! | `shrink` | makes a history that breaks short |

#![allow(dead_code, unreachable_pub, reason = "the tests and the program each use a part")]

pub mod action;
pub mod item;
#[path = "../harness/look.rs"]
pub mod look;
pub mod model;
pub mod more;
pub mod park;
pub mod shrink;
pub mod world;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use ringwal::wal::mutant::Mutants;

use self::action::{Action, History};
use self::world::{Tally, World};

/// A history that breaks something.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: String,
    /// The action after which it was seen; as many as there are: in the end.
    pub at: usize,
    pub story: String,
}

/// What a history came to.
pub struct Ran {
    pub tally: Tally,
    pub trace: u64,
    pub finding: Option<Finding>,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The sink panics by plan, and a shortened history again and again: those are not printed.
fn quietly<R>(run: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.with(|text| *text.borrow_mut() = info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let out = run();
    QUIET.set(false);
    out
}

/// Carries out a history, to its first finding.
pub fn carry_out(history: &History, mutants: Mutants) -> Ran {
    let mut world = World::new(&history.setup, mutants);
    let ran = quietly(|| {
        catch_unwind(AssertUnwindSafe(|| {
            for (at, action) in history.actions.iter().enumerate() {
                world.at = at;
                world.act(action)?;
            }
            world.finish()
        }))
    });
    let what = match ran {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken.0),
        Err(_) => Some(PANIC.with(RefCell::take)),
    };
    let finding = what.map(|what| Finding { what, at: world.at, story: world.story(60, 40) });
    let mut tally = world.tally.clone();
    tally.count("histories", 1);
    tally.count("actions", history.actions.len() as u64);
    let trace = world.trace;
    if finding.is_some() {
        // What panicked may panic again when it is dropped.
        std::mem::forget(world);
    }
    Ran { tally, trace, finding }
}

/// Runs a seed. A finding comes with all that is needed to look into it.
///
/// # Errors
/// The report.
pub fn run_seed(seed: u64, mutants: Mutants) -> Result<Tally, String> {
    run_history(&History::of(seed), mutants)
}

/// The same for a history.
///
/// # Errors
/// The report.
pub fn run_history(history: &History, mutants: Mutants) -> Result<Tally, String> {
    let ran = carry_out(history, mutants);
    match ran.finding {
        None => Ok(ran.tally),
        Some(finding) => Err(report(history, &finding, mutants)),
    }
}

fn report(history: &History, finding: &Finding, mutants: Mutants) -> String {
    let (short, last) = shrink::shrink(history, finding, mutants);
    let actions: Vec<String> = short.actions.iter().map(|action: &Action| format!("    {action:?},")).collect();
    format!(
        "seed {seed} breaks: {}\nreplay: RINGWAL_TORTURE_SEED={seed} cargo test --all-features --test torture whole -- --nocapture\n{:?}\n\
         {} of {} actions are enough ({}):\n{}\n{}",
        finding.what,
        short.setup,
        short.actions.len(),
        history.actions.len(),
        last.what,
        actions.join("\n"),
        last.story,
        seed = history.setup.seed
    )
}
