//! The whole queue, from one seed: everything that can go wrong, as often as there is time for it. The program
//! `examples/torture.rs` runs the same for as long as it is told.
#![cfg(feature = "testing")]

mod whole_queue;

use std::sync::atomic::{AtomicU64, Ordering};

use ringwal::sim::mix;
use ringwal::wal::mutant::{Mutant, Mutants};
use whole_queue::action::History;
use whole_queue::world::Tally;
use whole_queue::{carry_out, run_history, run_seed};

/// Seeds that are the same in each run.
const FIXED: u64 = 300;
/// New ones in each run, from the clock or `RINGWAL_TORTURE_BASE`; `RINGWAL_TORTURE_HISTORIES` says how many.
const FRESH: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = number("RINGWAL_TORTURE_SEED") {
        return vec![seed];
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let base = number("RINGWAL_TORTURE_BASE").unwrap_or_else(|| mix(u64::try_from(clock).unwrap_or(0)) >> 20);
    let fresh = number("RINGWAL_TORTURE_HISTORIES").unwrap_or(FRESH);
    println!("histories with seeds 1..={FIXED} and {base}..{}", base + fresh);
    (1..=FIXED).chain(base..base + fresh).collect()
}

/// Runs the seeds on two threads, and stops at the first that breaks something.
fn run_all(seeds: &[u64]) -> Tally {
    let next = AtomicU64::new(0);
    let work = || {
        let mut sum = Tally::default();
        loop {
            let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("few seeds");
            let Some(seed) = seeds.get(at) else { return Ok(sum) };
            match run_seed(*seed, Mutants::NONE) {
                Ok(tally) => sum.add(&tally),
                Err(report) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    return Err(report);
                }
            }
        }
    };
    let results = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().expect("a history's panic is caught"))
    });
    let mut sum = Tally::default();
    for result in results {
        match result {
            Ok(tally) => sum.add(&tally),
            Err(report) => panic!("{report}"),
        }
    }
    sum
}

#[test]
fn the_whole_queue_keeps_its_promises_whatever_happens() {
    let tally = run_all(&seeds());
    println!("{tally:#?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..=40 {
        let history = History::of(seed);
        assert_eq!(history, History::of(seed));
        let [first, second] = [(); 2].map(|()| carry_out(&history, Mutants::NONE));
        assert_eq!(first.trace, second.trace, "seed {seed} takes another way the second time");
    }
}

/// A simulation that sees nothing would pass as well: with a rule of the log switched off, some of these seeds break.
#[test]
fn a_broken_rule_is_seen() {
    for mutant in [Mutant::SyncEarly, Mutant::RecycleEarly, Mutant::AckOutOfOrder] {
        let seen = (1..=FIXED).any(|seed| carry_out(&History::of(seed), Mutants::only(&[mutant])).finding.is_some());
        assert!(seen, "{mutant:?} breaks nothing in {FIXED} histories");
    }
}

/// An opening settled a loss and was cut off; the one after it told nothing. What a seed draws changes with the queue's
/// timing: one of these comes to it.
#[test]
#[cfg(all(feature = "lz4", feature = "aes-gcm"))]
fn a_loss_that_is_told_nowhere_is_seen() {
    let untold = [2_010_699, 2_004_990, 2_005_345, 2_007_042, 2_008_538, 2_008_984].into_iter().find(|seed| {
        let seen = carry_out(&History::of(*seed), Mutants::only(&[Mutant::SettledUntold])).finding;
        seen.is_some_and(|seen| seen.what.contains("are lost, and an opening that followed others tells"))
    });
    let untold = History::of(untold.expect("it is told nowhere"));
    assert_eq!(carry_out(&untold, Mutants::NONE).finding.map(|finding| finding.what), None);
}

/// Each of these broke something once.
#[test]
fn seeds_that_found_something_find_nothing_any_more() {
    for seed in [
        // Closed with a log that was full for good: what was given up had been told durable, because nothing was held.
        4,
        // An entry that found no room in the park was given up at the close, and its number kept: no entry, so nothing
        // could take it out, and the park's cursor stood below it for ever. The park stayed full, and delivery waited.
        7_352_385_067_769,
        // Parked entries were discarded before delivery had heard that they were parked: counted twice for a while.
        3_136_632_401_035,
        // A frame that rots at the end of the log, under `Quarantine`: delivery was not told that nothing comes, and who
        // waited for it, closing too, waited until the time was over.
        2_879_598_950_866,
        // With `Spill`, delivery was done with a segment that was still being read: its slot was removed meanwhile.
        11_529_720_246_915,
        // The last write of closing failed, and the shutdown said that all was well.
        2_247,
        // The disk died under the first segment of a new store: called a lack of space.
        1_368,
        // Closed while an entry was on its way into the park: delivery ended before it had heard that it was parked. It
        // was in the park and came again, and the shutdown, after it had been discarded, said that nothing was left.
        51_410,
        // The park failed and reserved four thousand million numbers, as the log does: all of them counted as parked.
        52_058,
        51_662,
        // The park failed when it had the first entries of a batch. These were discarded; then all came again, and were
        // counted twice.
        2_546_778_399_598,
        // A segment of the park could not be read: the numbers that it might have held counted as parked, one opening later.
        13_502_927_469_561,
        // Behind a full park lay what had rotted: the simulation itself looked for that too early.
        2_546_778_399_636,
        // A shutdown passed its deadline with a batch out, and the sink answered while the logs closed: counted as delivered,
        // but too late for the cursor. `left_in_log` was too low by it, and it came again.
        15_739_635_580_482,
        // A read was refused, with an error that is no damage: delivery stood still, and who waited at the close was told why.
        // The simulation expected that of damage alone. (Nothing may be missing for it, which it checks.)
        500_003_146,
        600_009_941,
        700_008_050,
        // The last frame rotted, which is a torn tail; the opening that found it failed over the park, behind its settling
        // where the log ends, and the next one had nothing torn to report. No promise covered it: the simulation asked too much.
        800_009_647,
        // A segment of the park could not be read, and the one before it, unread, was taken to reach up to where the last
        // recovery had ended: what was missing counted as parked, and a listing ended in it. And what opening gave up of the
        // park it told nobody.
        900_035_438,
        // The reader had caught up within a segment, and later began it anew: a frame that had rotted since it was given out
        // was reported as lost, though the sink had it.
        1_000_060_091,
    ] {
        if let Err(report) = run_history(&History::plain(seed), Mutants::NONE) {
            panic!("{report}");
        }
    }
}

/// The same, of histories with all that there is.
#[test]
fn newest_seeds_that_found_something_find_nothing_any_more() {
    for seed in [
        // A write of the park's cursor was lost, which alone said that numbers behind a cut are no entries: the simulation
        // asked for their count.
        1_001_581,
        // Several batches were out, and an entry that found no room in a full log was delivered from memory in front of
        // others: the shutdown called it lost, and so told of one entry less in the log than the next opening found.
        7_006_030,
        // The end was torn in a segment that held nothing else. The opening took it out of the log and was cut off before
        // META said so: the next one saw nothing of it.
        1_724_512_177,
        // A lost write of the park's META was the one that said what was still to be told, and the opening was cut off
        // behind it: nothing can know of that any more. The simulation had asked for it.
        7_794_755_934_538,
        // The same of the log's META, where no copy had been looked into: the simulation missed a word for what only that copy
        // could have told. It looks into one wherever META lies, and excuses what that tells, no more.
        176_224_342_564,
        // A bit flipped in the word that a parked entry's frame begins with, above every promise: a recovery sees no frame
        // there. The simulation had asked for a torn end.
        15_024_429_589_390,
        // The park's log failed by itself before the close, so that its META could not say that all was told: it was told
        // again, and the simulation took that for a mistake.
        6_679_113_777_792,
        // What an opening gave up before anything was lied about was forgotten by the simulation when a lie came.
        3_292_555_968,
        // What was lost reached over the 2^32 numbers that a failed log had reserved. The simulation held lost numbers one by
        // one: all memory of the machine was gone before anything could be said.
        5_007_492_416_815,
        // A sink that stores numbers acknowledged after the deadline what had found no place in a full log: the simulation
        // took it off what was left in the log, where nothing was.
        1_269_253_699_422,
        // Five lies in the park's log, META's writes among them: of six numbers only a SKIP still said that they are no entries.
        // They counted as parked, nothing could take them out, and the park stayed full.
        902_594_761_219,
    ] {
        if let Err(report) = run_seed(seed, Mutants::NONE) {
            panic!("{report}");
        }
    }
}

/// The same, of histories with what came later.
#[test]
fn later_seeds_that_found_something_find_nothing_any_more() {
    for seed in [
        // The log was full for good at the close, and a claim leaked: what lay behind that in its ring was counted nowhere.
        1_354_094_279_885,
        // A lie took what was promised, and the opening that gave it up was cut off: the next one told nothing. It was
        // excused for long; now META says what is still to be told.
        3_539_481_011_864,
        // The last two frames rotted, and a promise covered the first alone: that was given up and said, and of the other,
        // whose entries had been told durable, the opening said nothing. It is a torn tail.
        7_525_672_441_996,
        // Behind a log that had failed the cursor was written without what was done above its low watermark: entries that an
        // earlier life had settled, at an orderly close, came again.
        3_938_254_513,
        // With several batches out an entry that was filled in place overtook others of its key.
        24,
    ] {
        if let Err(report) = run_history(&History::before_the_park(seed), Mutants::NONE) {
            panic!("{report}");
        }
    }
}
