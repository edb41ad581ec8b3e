//! What came later than the first histories: woven into them from chance of its own, so that a seed's first history stays
//! what it was ([`History::plain`](super::action::History::plain)).
//!
//! | | |
//! |---|---|
//! | several batches at once | `in_flight_max`, with a deadline or without, a sink that blocks or does not |
//! | `push_batch` | with keys, and without: one claim for many |
//! | claims | committed, dropped, and leaked |
//! | `Idle` | a flush core that never sleeps, or looks around first |
//! | a disk that lies | writes that are lost, or land elsewhere |

use std::time::Duration;

use ringwal::sim::{Prng, mix};
use ringwal::wal::op::LogId;
use ringwal::{Durability, Idle};

use super::action::{Action, History, How, LANES, LOOSE, Lying, PINNED, Setup};

/// Chance apart from that of the first history.
const MORE: u64 = 0x6d6f_7265;

/// Which of these a history has.
struct Taste {
    batches: bool,
    claims: bool,
    leaks: bool,
    lies: bool,
    /// Of the cursor and META too.
    meta: bool,
}

pub fn weave(history: &mut History) {
    let mut prng = Prng::new(mix(history.setup.seed ^ MORE));
    setup(&mut history.setup, &mut prng);
    let taste = Taste {
        batches: prng.chance(1, 3),
        claims: prng.chance(1, 4),
        leaks: prng.chance(1, 3),
        lies: history.setup.durability != Durability::Memory && prng.chance(1, 8),
        meta: prng.chance(1, 3),
    };
    let actions = std::mem::take(&mut history.actions);
    for action in actions {
        history.actions.push(action);
        if taste.batches && prng.chance(1, 12) {
            let keyed = history.setup.rings > 1 || prng.chance(1, 2);
            history.actions.push(Action::PushBatch {
                lane: if keyed { lane(&mut prng, 0, LANES - PINNED) } else { LOOSE },
                len: len(&mut prng),
                count: u8::try_from(prng.within(1..=40)).expect("small"),
            });
        }
        if taste.claims && prng.chance(1, 20) {
            let how = match prng.below(8) {
                0 if taste.leaks => How::Leaked,
                1..=3 => How::Dropped,
                _ => How::Committed,
            };
            let lane = lane(&mut prng, LANES - PINNED, LANES);
            history.actions.push(Action::Claim { lane, len: len(&mut prng), how });
        }
        if taste.lies && prng.chance(1, 60) {
            history.actions.push(Action::Lie {
                log: LogId::Main,
                how: if prng.chance(1, 2) { Lying::Lost } else { Lying::Misdirected },
                meta: taste.meta && prng.chance(1, 3),
                slot: prng.next_u64(),
                place: prng.next_u64(),
                after: prng.below(6),
            });
        }
    }
}

fn setup(setup: &mut Setup, prng: &mut Prng) {
    let several = *prng.pick(&[1, 1, 2, 4, 8]);
    // A sink that stores numbers gets one at a time, whatever is asked for; that is asked for as well.
    setup.in_flight_max = several;
    let times = [None, None, Some(1), Some(50), Some(1_000)];
    setup.deliver_timeout = prng.pick(&times).map(Duration::from_millis);
    setup.blocks = prng.chance(1, 2);
    setup.idle = *prng.pick(&[Idle::Park, Idle::Park, Idle::Park, Idle::Backoff, Idle::Spin]);
}

fn lane(prng: &mut Prng, from: u32, to: u32) -> u32 {
    from + u32::try_from(prng.below(u64::from(to - from))).expect("small")
}

fn len(prng: &mut Prng) -> u16 {
    u16::try_from(prng.within(16..=500)).expect("small")
}
