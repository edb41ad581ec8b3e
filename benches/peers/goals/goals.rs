//! What ringwal is to reach.

use crate::acks::{self, OUTSTANDING_NAME, PARKED_NAME, SPINNING_NAME, TASKS_NAME};
use crate::channels::CHANNELS;
use crate::goal::{Beside, Bound, Goal};
use crate::logs::LOGS;
use crate::push_cost::Pace;
use crate::{coded, floor, idle, memory, overload, push, push_batch, push_tail, recovery, throughput, unused};

use Bound::{AtLeast, AtMost};

pub(crate) fn goals() -> Vec<Goal> {
    let parts = [pushes(), through_memory(), durable_acks(), log(), features()];
    parts.into_iter().flatten().collect()
}

fn beside(figure: impl Into<String>, other: impl Into<String>, bound: Bound) -> Goal {
    Goal { figure: figure.into(), beside: Beside::One(other.into()), bound }
}

fn alone(figure: impl Into<String>, bound: Bound) -> Goal {
    Goal { figure: figure.into(), beside: Beside::Nothing, bound }
}

fn pushes() -> Vec<Goal> {
    let push = |len, ours, pace, other, most| {
        let name = move |who, ring_len| push::name(len, who, ring_len, pace);
        push::ring_lens(len).map(|ring_len| beside(name(ours, ring_len), name(other, ring_len), AtMost(most)))
    };
    let lengths = [
        push(8, "pinned", Pace::Lazy, "rtrb", 0.6),
        push(64, "pinned", Pace::Lazy, "rtrb", 0.6),
        push(8, "shared", Pace::Lazy, "ArrayQueue", 1.25),
        push(64, "shared", Pace::Lazy, "ArrayQueue", 0.8),
        push(8, "pinned", Pace::Eager, "rtrb", 1.1),
        push(64, "pinned", Pace::Eager, "rtrb", 1.1),
        push(8, "shared", Pace::Eager, "ArrayQueue", 0.5),
        push(64, "shared", Pace::Eager, "ArrayQueue", 0.5),
    ];
    let mut goals: Vec<_> = lengths.into_iter().flatten().collect();
    goals.push(beside(push_tail::name("log commits", "p99.9"), push_tail::name("no log", "p99.9"), AtMost(1.5)));
    // Of the documents, not of the peers: 100,000 batches of 1000 a second, p99 below 10 ms.
    for (len, durability) in [(8, "Memory"), (100, "Periodic")] {
        goals.push(alone(push_batch::name(len, durability, "batches"), AtLeast(100e3)));
        goals.push(alone(push_batch::name(len, durability, "p99"), AtMost(10e3)));
    }
    goals
}

fn through_memory() -> Vec<Goal> {
    let of = |producers, who, least| {
        let best = CHANNELS.iter().map(|(peer, _)| memory::name(peer, producers));
        let best = best.chain([memory::name("ArrayQueue", producers)]).collect();
        let called = "the best of crossbeam-channel, flume, kanal and ArrayQueue".to_owned();
        Goal { figure: memory::name(who, producers), beside: Beside::Best(called, best), bound: AtLeast(least) }
    };
    memory::PRODUCERS
        .into_iter()
        .flat_map(|producers| [of(producers, "pinned", 1.2), of(producers, "shared", 1.0)])
        .collect()
}

fn durable_acks() -> Vec<Goal> {
    let latency = |who, part, most| {
        beside(format!("{} / {part}", acks::name(who, 1)), format!("{} / {part}", floor::ACK), AtMost(most))
    };
    let rate = |(threads, least)| {
        let best = LOGS.iter().map(|(peer, _)| format!("{} / acks", acks::name(peer, threads))).collect();
        let figure = format!("{} / acks", acks::name(PARKED_NAME, threads));
        let called = "the better of raft-engine and okaywal".to_owned();
        Goal { figure, beside: Beside::Best(called, best), bound: AtLeast(least) }
    };
    let mut goals = vec![
        latency(SPINNING_NAME, "p50", 1.15),
        latency(SPINNING_NAME, "p99", 1.5),
        latency(PARKED_NAME, "p50", 1.3),
        latency(PARKED_NAME, "p99", 2.0),
    ];
    goals.extend(acks::THREADS.into_iter().zip([1.5, 1.5, 2.0, 2.0]).map(rate));
    goals.push(alone(format!("{OUTSTANDING_NAME} / acks"), AtLeast(5.0)));
    goals.push(alone(format!("{TASKS_NAME} / acks"), AtLeast(1.0)));
    goals
}

fn log() -> Vec<Goal> {
    vec![
        beside(throughput::name(100, "payload"), floor::WRITE, AtLeast(0.5)),
        alone(throughput::name(100, throughput::CPU), AtMost(0.10)),
        beside(throughput::name(1024, "payload"), floor::WRITE, AtLeast(0.85)),
        alone(throughput::name(1024, throughput::CPU), AtMost(0.35)),
        alone(throughput::name(100, throughput::BYTES), AtMost(1.15)),
        beside(recovery::RATE, recovery::READ, AtLeast(0.8)),
        alone(recovery::FIRST, AtMost(100.0)),
        // "Keeps its cost", as far as this can be told from noise.
        beside(overload::PUSH, overload::PUSH_BESIDE, AtMost(1.2)),
        // "Flat": within the pool, and nothing to speak of beside it.
        alone(overload::MEMORY, AtMost(100.0)),
        alone(overload::GROWTH, AtMost(2.0)),
    ]
}

fn features() -> Vec<Goal> {
    let coded = |way, least| beside(coded::name(way), coded::name("plain"), AtLeast(least));
    let mut goals = vec![coded("LZ4", 0.6), coded("AES-256-GCM", 0.5)];
    // "Nothing measurable".
    goals
        .extend(unused::PUSHES.map(|push| beside(unused::name(push, "all"), unused::name(push, "none"), AtMost(1.05))));
    for durability in ["Immediate", "Periodic", "Memory"] {
        // "No CPU": less than a thousandth of one.
        goals.push(alone(idle::name(durability, "CPU"), AtMost(1.0)));
        goals.push(alone(idle::name(durability, "writes"), AtMost(0.0)));
    }
    goals
}
