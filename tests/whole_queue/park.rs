//! What came last: damage and lies in the park's log as in the main one, stale reads, and deaths in the openings that find
//! them. Woven in from chance of its own, as [`more`](super::more) is.

use ringwal::Durability;
use ringwal::sim::{Prng, mix};
use ringwal::wal::op::LogId;

use super::action::{Action, Answer, History, Lying, death};

/// Chance apart from that of the histories before.
const PARK: u64 = 0x7061_726b;

/// Which of these a history has.
struct Taste {
    lies: bool,
    rot: bool,
    stale: bool,
    /// Of the cursor and META too.
    meta: bool,
    /// The same of the main log.
    main: bool,
    /// Openings that are cut off.
    deaths: bool,
}

pub fn weave(history: &mut History) {
    let mut prng = Prng::new(mix(history.setup.seed ^ PARK));
    if history.setup.durability == Durability::Memory || !prng.chance(1, 4) {
        return;
    }
    history.setup.foretells = true;
    let taste = Taste {
        lies: prng.chance(1, 2),
        rot: prng.chance(1, 3),
        stale: prng.chance(1, 3),
        meta: prng.chance(1, 4),
        main: prng.chance(1, 4),
        deaths: prng.chance(1, 2),
    };
    let actions = std::mem::take(&mut history.actions);
    for action in actions {
        if taste.deaths && matches!(action, Action::Open { .. }) && prng.chance(1, 2) {
            let fuse = Some((prng.within(1..=90), death(&mut prng)));
            history.actions.push(Action::Open { fuse, fault: None });
        }
        history.actions.push(action);
        // There is to be something in it, and some of it leaves.
        if prng.chance(1, 20) {
            history.actions.extend([Action::Sink, Action::Answer(Answer::Park), Action::Run(3)]);
        }
        if prng.chance(1, 80) {
            history.actions.push(Action::Park { discard: prng.chance(1, 2), redeliver: prng.chance(1, 3) });
        }
        let log = if taste.main && prng.chance(1, 2) { LogId::Main } else { LogId::Park };
        if taste.lies && prng.chance(1, 60) {
            let how = match prng.below(3) {
                0 if taste.stale => Lying::Stale,
                0 | 1 => Lying::Lost,
                _ => Lying::Misdirected,
            };
            history.actions.push(Action::Lie {
                log,
                how,
                meta: taste.meta && prng.chance(1, 3),
                slot: prng.next_u64(),
                place: prng.next_u64(),
                after: prng.below(3),
            });
        }
        if taste.rot && prng.chance(1, 100) {
            let bit = u8::try_from(prng.below(8)).expect("small");
            history.actions.push(Action::Rot { log, slot: prng.next_u64(), place: prng.next_u64(), bit });
        }
    }
}
