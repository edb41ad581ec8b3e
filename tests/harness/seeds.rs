//! Runs histories from seeds, and shrinks the one that fails.
//!
//! A history is made of numbered actions, each of which draws from chance of its own
//! ([`Rig::turn`](super::Rig::turn)): so any of them can be left out, and the others stay what they were. A seed
//! and a list of actions repeat a run exactly.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use ringwal::sim::mix;
use ringwal::wal::block::Pool;
use ringwal::wal::mutant::Mutants;

use super::rig::pool;
use super::{Outcome, Plan, Rig};

pub const HISTORIES: u64 = 8_000;
pub const FIXED: u64 = 2_000;

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub incarnations: u64,
    pub entries: u64,
    pub deaths: u64,
    pub deaths_in_recovery: u64,
    pub detected: u64,
    pub undetectable: u64,
    pub failures: u64,
    /// What only one kind of history counts.
    pub others: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.incarnations += other.incarnations;
        self.entries += other.entries;
        self.deaths += other.deaths;
        self.deaths_in_recovery += other.deaths_in_recovery;
        self.detected += other.detected;
        self.undetectable += other.undetectable;
        self.failures += other.failures;
        self.others += other.others;
    }
}

/// A kind of history.
#[derive(Clone, Copy)]
pub struct Play {
    pub name: &'static str,
    pub plan: fn(u64) -> Plan,
    pub run: fn(&mut Rig, &mut Tally) -> Outcome<()>,
}

/// A history that failed.
struct Failed {
    why: String,
    story: String,
    played: BTreeSet<u64>,
}

fn run_once(
    seed: u64,
    play: Play,
    mutants: Mutants,
    only: Option<BTreeSet<u64>>,
    pool: &Pool,
) -> Result<Tally, Failed> {
    // What a panic has kept for ever must not change the histories after it.
    let whole = pool.free() == pool.chunks();
    let pool = if whole { pool.clone() } else { super::rig::pool() };
    let mut rig = Rig::new(Plan { mutants, ..(play.plan)(seed) }, pool);
    rig.only = only;
    let mut tally = Tally::default();
    let ran = catch_unwind(AssertUnwindSafe(|| (play.run)(&mut rig, &mut tally)));
    let panicked = ran.is_err();
    let why = match ran {
        Ok(Ok(())) => return Ok(tally),
        Ok(Err(failure)) => format!("{failure:?}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        }
    };
    let (story, played) = (rig.story(60, 60), std::mem::take(&mut rig.played));
    // What panicked may panic again when it is dropped.
    if panicked {
        std::mem::forget(rig);
    }
    Err(Failed { why, story, played })
}

/// Whether a seed fails with these rules switched off.
pub fn fails(seed: u64, play: Play, mutants: Mutants, pool: &Pool) -> bool {
    run_once(seed, play, mutants, None, pool).is_err()
}

/// A failure without its numbers: what stays the same while a history is shrunk.
fn kind_of(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

/// Leaves actions out, in ever smaller pieces, as long as the history fails in the same way.
fn shrink(seed: u64, play: Play, mutants: Mutants, first: Failed, pool: &Pool) -> Failed {
    let kind = kind_of(&first.why);
    let mut least = first;
    let mut piece = least.played.len().div_ceil(2);
    let mut tries = 0;
    while piece > 0 && tries < 3_000 {
        let before = least.played.len();
        let mut at = 0;
        while at < least.played.len() && tries < 3_000 {
            tries += 1;
            let kept = least.played.iter().enumerate().filter(|(i, _)| !(at..at + piece).contains(i));
            let rest: BTreeSet<u64> = kept.map(|(_, number)| *number).collect();
            match run_once(seed, play, mutants, Some(rest), pool) {
                Err(failed) if kind_of(&failed.why) == kind => least = failed,
                _ => at += piece,
            }
        }
        if least.played.len() == before || piece > 1 {
            piece /= 2;
        }
    }
    least
}

/// Runs one history; a failure is told with its seed, shrunk.
pub fn run(seed: u64, play: Play, mutants: Mutants, pool: &Pool) -> Result<Tally, String> {
    let only = std::env::var("RINGWAL_SIM_ONLY").ok().map(|list| {
        list.split(',').map(|n| n.trim().parse().unwrap_or_else(|e| panic!("RINGWAL_SIM_ONLY={list}: {e}"))).collect()
    });
    let first = match run_once(seed, play, mutants, only, pool) {
        Ok(tally) => return Ok(tally),
        Err(failed) => failed,
    };
    let (all, why) = (first.played.len(), first.why.clone());
    let least = shrink(seed, play, mutants, first, pool);
    let list: Vec<String> = least.played.iter().map(u64::to_string).collect();
    Err(format!(
        "RINGWAL_SIM_SEED={seed} fails ({}): {why}\nshrunk from {all} actions to {}: RINGWAL_SIM_ONLY={} gives: {}\n{}",
        play.name,
        list.len(),
        list.join(","),
        least.why,
        least.story
    ))
}

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Runs the seeds on two threads, and stops at the first that fails.
pub fn run_all(seeds: &[u64], play: Play) -> Tally {
    let next = AtomicU64::new(0);
    let work = || {
        let (pool, mut sum) = (pool(), Tally::default());
        loop {
            let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("few seeds");
            let Some(seed) = seeds.get(at) else { return Ok(sum) };
            match run(*seed, play, Mutants::NONE, &pool) {
                Ok(tally) => sum.add(tally),
                Err(story) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    return Err(story);
                }
            }
        }
    };
    let results = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|t| t.join().expect("a history's panic is caught"))
    });
    let mut sum = Tally::default();
    for result in results {
        match result {
            Ok(tally) => sum.add(tally),
            Err(story) => panic!("{story}"),
        }
    }
    sum
}

pub fn seeds(share: u64) -> Vec<u64> {
    if let Some(seed) = number("RINGWAL_SIM_SEED") {
        return vec![seed];
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let base = number("RINGWAL_SIM_BASE").unwrap_or_else(|| mix(u64::try_from(clock).unwrap_or(0)) >> 20);
    let fresh = number("RINGWAL_SIM_HISTORIES").unwrap_or(HISTORIES) / share;
    println!("histories with seeds 1..={} and {base}..{}", FIXED / share, base + fresh);
    (1..=FIXED / share).chain(base..base + fresh).collect()
}
