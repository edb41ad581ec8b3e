//! Random histories of a main log and a park log on one machine, in one process, over one connection to the disk: entries
//! go from the one into the other as the queue moves what a sink has refused. The same invariants as in
//! `crash_sim.rs` hold for each of them, whatever the other has in flight when the power goes or the process dies, and
//! an entry is finished in the main log when the park has told it durable, as the queue does it.
//!
//! The variables of `crash_sim.rs` hold here too.

mod harness;

use std::time::Duration;

use harness::random::{act, drain, plan};
use harness::rig::pool;
use harness::seeds::{Play, Tally, fails, number, run_all, seeds};
use harness::{Failure, Outcome, Plan, Rig};
use ringwal::sim::mix;
use ringwal::wal::log::Commit;
use ringwal::wal::mutant::{Mutant, Mutants};
use ringwal::wal::op::LogId;

/// Two logs of one store, open together and dead together.
struct Pair<'a> {
    main: &'a mut Rig,
    park: Rig,
    /// LSNs of the main log, and those that their entries have in the park: not finished before these are durable.
    moving: Vec<(u64, u64)>,
    moved: u64,
}

impl<'a> Pair<'a> {
    fn new(main: &'a mut Rig, mutants: Mutants) -> Self {
        let plan = Plan {
            seed: mix(main.plan.seed ^ 0x9a4c),
            log: LogId::Park,
            commit: Commit::Immediate,
            mutants,
            ..main.plan.clone()
        };
        let mut park = Rig::new(plan, main.pool.clone());
        park.machine = main.machine.clone();
        park.clock = main.clock.clone();
        Self { main, park, moving: Vec::new(), moved: 0 }
    }

    /// Opens the one and then the other; either may die of its fuse.
    fn open(&mut self) -> Outcome<()> {
        self.main.open()?;
        self.park.beside = self.main.process.as_ref().map(|process| process.port.clone());
        self.park.open()
    }

    /// Both have died with the machine, or their process, or were closed.
    fn gone(&mut self) {
        self.main.process = None;
        self.park.process = None;
        self.park.beside = None;
        self.moving.clear();
    }

    fn die(&mut self, kill: bool) {
        self.main.die(kill);
        self.park.note("died with the main log");
        self.gone();
    }

    /// What the sink refuses goes into the park.
    fn refuse(&mut self) -> Outcome<()> {
        let waits = |lsn: &u64| !self.moving.iter().any(|(of, _)| of == lsn);
        let Some(lsn) = self.main.unfinished().into_iter().find(waits) else { return Ok(()) };
        let to = self.park.model.next;
        let len = self.main.prng.index(200) + 8;
        if self.park.append(&[len])? == 1 {
            self.moving.push((lsn, to));
        }
        Ok(())
    }

    /// What has arrived there is finished here.
    fn arrive(&mut self) -> Outcome<()> {
        let durable = self.park.model.durable;
        let (there, on_the_way) = std::mem::take(&mut self.moving).into_iter().partition(|(_, to)| *to <= durable);
        self.moving = on_the_way;
        let there: Vec<(u64, u64)> = there;
        // Chance may have finished it meanwhile.
        let open = self.main.unfinished();
        let lsns: Vec<u64> = there.into_iter().map(|(lsn, _)| lsn).filter(|lsn| open.contains(lsn)).collect();
        self.moved += lsns.len() as u64;
        if lsns.is_empty() { Ok(()) } else { self.main.ack(lsns) }
    }

    fn act(&mut self, number: u64) -> Outcome<()> {
        match self.main.prng.below(6) {
            0 => self.refuse(),
            1 => self.arrive(),
            2 | 3 => {
                self.park.turn(number);
                act(&mut self.park)
            }
            _ => act(self.main),
        }?;
        // Whoever moved the machine, each hears what is its own.
        self.main.reap()?;
        self.park.reap()?;
        self.main.submit(usize::MAX)?;
        self.park.submit(usize::MAX).map(|_| ())
    }

    fn close(&mut self) -> Outcome<()> {
        drain(&mut self.park)?;
        self.arrive()?;
        drain(self.main)?;
        // In the queue's order.
        self.main.close()?;
        self.park.close()?;
        self.gone();
        Ok(())
    }
}

fn pair(main: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    let mutants = main.plan.mutants;
    lives(&mut Pair::new(main, mutants), tally)
}

/// Only the park's rules are switched off.
fn pair_with_a_broken_park(main: &mut Rig, tally: &mut Tally) -> Outcome<()> {
    let mutants = std::mem::replace(&mut main.plan.mutants, Mutants::NONE);
    lives(&mut Pair::new(main, mutants), tally)
}

fn lives(pair: &mut Pair<'_>, tally: &mut Tally) -> Outcome<()> {
    for life in 0..pair.main.prng.within(2..=5) {
        tally.incarnations += 1;
        pair.main.chapter(life);
        pair.park.chapter(life);
        if pair.main.prng.chance(1, 3) {
            let fuse = Some(pair.main.prng.below(80));
            let burns_in_park = pair.main.prng.chance(1, 2);
            let rig = if burns_in_park { &mut pair.park } else { &mut *pair.main };
            rig.fuse = fuse;
            rig.fuse_kills = life % 2 == 0;
        }
        match pair.open() {
            Err(Failure::Died) => {
                tally.deaths_in_recovery += 1;
                pair.gone();
                continue;
            }
            other => other?,
        }
        (pair.main.fuse, pair.park.fuse) = (None, None);
        for number in 0..pair.main.prng.within(20..=160) {
            let number = life << 16 | number;
            if pair.main.turn(number) {
                pair.act(number)?;
            }
        }
        pair.main.chapter(life + 100);
        if pair.main.prng.chance(1, 5) {
            pair.close()?;
            continue;
        }
        tally.deaths += 1;
        let kill = pair.main.prng.chance(1, 3);
        pair.die(kill);
    }
    pair.open()?;
    pair.close()?;
    pair.open()?;
    pair.main.wait(Duration::from_millis(1))?;
    pair.close()?;
    tally.entries += pair.main.model.next_id + pair.park.model.next_id;
    tally.others += pair.moved;
    Ok(())
}

const PAIR: Play = Play { name: "pair", plan, run: pair };
const BROKEN_PARK: Play = Play { name: "broken park", plan, run: pair_with_a_broken_park };

#[test]
fn two_logs_of_one_process_keep_their_promises_whatever_the_other_has_in_flight() {
    let tally = run_all(&seeds(4), PAIR);
    println!("{tally:?}");
    let alone = number("RINGWAL_SIM_SEED").is_some();
    assert!(alone || tally.deaths_in_recovery > 50 && tally.others > 1000, "the simulation does what it says");
}

/// A log that breaks a rule is noticed beside one that keeps them all.
#[test]
fn a_rule_that_only_the_park_breaks_is_noticed() {
    let (pool, hook) = (pool(), std::panic::take_hook());
    std::panic::set_hook(Box::new(|_| {}));
    let rules = [Mutant::NoDsync, Mutant::AckOutOfOrder, Mutant::RecycleEarly, Mutant::PromiseEarly];
    let caught = rules.map(|rule| (1..=60).filter(|s| fails(*s, BROKEN_PARK, Mutants::only(&[rule]), &pool)).count());
    std::panic::set_hook(hook);
    println!("{rules:?}: {caught:?} of 60");
    assert!(caught.iter().all(|count| *count > 0), "{rules:?}: {caught:?} of 60");
}
