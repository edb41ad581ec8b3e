//! What holds when nothing is said, what the presets change, and how far settings go: by what the queue does.

use std::path::Path;
use std::time::Duration;

use ringwal::{BreakerState, Builder, Durability, Idle, Outcome, Preset, PushError, Queue, Verdict, WhenFull};

use crate::common::Numbered;
use crate::stage::{MS, Stage, each};

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);

fn plain() -> Builder {
    Queue::builder(Path::new("/simulated"))
}

/// The lengths of the batches that have gone out.
fn lens(stage: &Stage) -> Vec<usize> {
    stage.sink.calls().iter().map(|call| call.entries.len()).collect()
}

/// F029: what is pushed is on disk within 5 ms, and not at once; or at once where that is asked for.
#[test]
fn by_default_what_is_pushed_is_on_disk_within_five_milliseconds_and_not_at_once() {
    let durable = |stage: &Stage| stage.metrics().durable_lsn.number();
    let mut stage = Stage::new(plain());
    stage.settle();
    for n in 0..5_u32 {
        stage.push(n..n + 1);
        stage.pass(MS);
        assert_eq!(durable(&stage), u64::from(n));
        stage.pass(4 * MS);
        assert_eq!(durable(&stage), u64::from(n) + 1);
    }

    let mut stage = Stage::new(plain().durability(Durability::Immediate));
    stage.push(0..1);
    stage.settle();
    assert_eq!(durable(&stage), 1);
}

/// How entries come to delivery: at once, or, under `Periodic`, which is the default, with their commit.
fn ways() -> [(Builder, Duration); 4] {
    let of = |durability| (plain().durability(durability), Duration::ZERO);
    [of(Durability::Immediate), of(Durability::Memory), of(Durability::Spill), (plain(), 5 * MS)]
}

/// F030, F159, F204: as many as make a batch when nothing is said.
#[test]
fn by_default_a_thousand_entries_leave_at_once() {
    for (builder, period) in ways() {
        let mut stage = Stage::new(builder);
        stage.push(0..2500);
        stage.pass(period);
        assert_eq!(lens(&stage), [1000, 1000], "after {period:?}: the rest may still be joined by others");
        assert_eq!(stage.sink.numbers(), (0..2000).collect::<Vec<_>>());
    }
}

/// F031, F159: how long fewer wait when nothing is said, from when they come to delivery.
#[test]
fn by_default_fewer_than_a_thousand_leave_after_five_milliseconds() {
    for (builder, period) in ways() {
        let mut stage = Stage::new(builder);
        stage.push(0..1500);
        stage.pass(period);
        assert_eq!(lens(&stage), [1000], "after {period:?}");
        let came = stage.sink.calls()[0].at;
        stage.pass(came + 5 * MS - NANO - stage.now());
        assert_eq!(lens(&stage), [1000], "after {period:?}");
        stage.pass(NANO);
        assert_eq!(lens(&stage), [1000, 500], "after {period:?}");
        assert_eq!(stage.sink.numbers(), (0..1500).collect::<Vec<_>>());
    }
}

/// F087: as many threads as the machine has cores have a ring each.
#[test]
fn by_default_there_is_a_ring_for_each_core() {
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let rings = |builder: Builder| Stage::new(builder.pinned_rings(0)).metrics().ring_bytes_max >> 20;
    assert_eq!(rings(plain()), cores.min(1024));
    assert_eq!(rings(plain().rings(3)), 3);
}

/// F203: what a thread may push before the flush core comes by.
#[test]
fn by_default_a_ring_takes_a_mebibyte() {
    let stage = Stage::new(plain().when_full(WhenFull::Reject));
    let mut pinned = stage.queue.producer().pin();
    assert!(pinned.has_own_ring());
    let full = (0..2000).find_map(|n| pinned.push(Numbered::new(0, n, 1000)).err());
    assert!(matches!(full, Some(PushError::Full(_))), "two megabytes fit");
    let taken = stage.metrics().ring_bytes;
    assert!(((1 << 20) - 1016..=1 << 20).contains(&taken), "{taken}");
}

/// F088: long batches, which wait for more.
#[test]
fn for_high_throughput_five_thousand_leave_at_once_and_fewer_after_fifty_milliseconds() {
    let mut stage = Stage::for_whole_batches(plain().preset(Preset::HighThroughput));
    stage.settle();
    stage.push(0..12_000);
    // The disk hears of it only every 20 ms.
    stage.pass(5 * MS);
    assert_eq!((stage.metrics().durable_lsn.number(), lens(&stage)), (0, vec![]));
    stage.pass(15 * MS);
    assert_eq!((stage.metrics().durable_lsn.number(), lens(&stage)), (12_000, vec![5000, 5000]));
    let came = stage.sink.calls()[1].at;
    stage.pass(came + 50 * MS - NANO - stage.now());
    assert_eq!(lens(&stage).len(), 2);
    stage.pass(NANO);
    assert_eq!(lens(&stage), [5000, 5000, 2000]);
}

/// F089: nothing waits for anything but the disk.
#[test]
fn for_low_latency_an_entry_is_on_disk_and_delivered_before_any_time_has_passed() {
    // It looks around for a while before it sleeps; without time there is no while.
    let mut stage = Stage::new(plain().preset(Preset::LowLatency).idle(Idle::Park));
    stage.settle();
    let begun = stage.now();
    for n in 0..3_u32 {
        stage.push(n..n + 1);
        stage.settle();
        let metrics = stage.metrics();
        assert_eq!((metrics.durable_lsn.number(), metrics.delivered), (u64::from(n) + 1, u64::from(n) + 1));
    }
    stage.push(3..303);
    stage.settle();
    assert_eq!((lens(&stage), stage.now()), (vec![1, 1, 1, 100, 100, 100], begun));
}

/// F090: synced at once, a breaker that spares attempts, and a hundred of them.
#[test]
fn for_high_reliability_syncs_are_at_once_and_an_outage_parks_nothing() {
    let reliable = || plain().preset(Preset::HighReliability);
    let mut stage = Stage::new(reliable());
    stage.push(0..10);
    stage.settle();
    assert_eq!(stage.metrics().durable_lsn.number(), 10);
    // Hours of an outage: each ten seconds one attempt.
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    let mut states = Vec::new();
    for _ in 0..100 {
        stage.pass(SECOND);
        states.push(stage.metrics().breaker);
    }
    assert!(states.contains(&BreakerState::Open) && stage.metrics().parked == 0, "{states:?}");
    let attempts = stage.sink.calls().len();
    assert!(attempts < 20, "{attempts} attempts in 100 s");
    stage.sink.acknowledges();
    stage.pass(20 * SECOND);
    assert_eq!(stage.metrics().delivered, 10);

    // An entry that is to blame itself, while others are taken, is offered a hundred times.
    let mut stage = Stage::new(reliable());
    stage.sink.answers(|call| {
        Some(each(call, |entry| if entry.number == 0 { Verdict::Retry("no".into()) } else { Verdict::Ack }))
    });
    let mut next = 0;
    while stage.metrics().parked == 0 {
        stage.push(next..next + 1);
        next += 1;
        stage.pass(SECOND);
        assert!(next < 100_000, "it is never parked: {:?}", stage.metrics());
    }
    let offered = stage.sink.numbers().iter().filter(|number| **number == 0).count();
    assert_eq!(offered, 100);
}

/// F261: as much memory as the largest machines have, and a word where it is more.
#[test]
fn memory_may_be_a_tebibyte_and_no_more() {
    assert!(plain().memory_max(1 << 40).build().is_ok());
    let refused = plain().memory_max((1 << 40) + 1).build().unwrap_err();
    assert_eq!((refused.field, refused.origin.is_none()), ("memory_max", true));
    assert!(refused.to_string().contains("1TiB"), "{refused}");
    // What is asked for is what there is.
    for mebibytes in [8, 16, 64] {
        let pool = Stage::new(plain().memory_max(mebibytes << 20)).metrics().memory_bytes_max;
        assert!(pool <= mebibytes << 20 && pool > (mebibytes << 20) * 9 / 10, "{pool} of {mebibytes} MiB");
    }
}

/// F262: more rings than cores, for threads that push more than they compute.
#[test]
fn there_may_be_a_thousand_rings_and_each_is_there() {
    assert!(plain().rings(1024).build().is_ok());
    let refused = plain().rings(1025).build().unwrap_err();
    assert_eq!(refused.field, "rings");
    assert!(refused.to_string().contains("1 to 1024"), "{refused}");
    let stage = Stage::new(plain().rings(100).ring_bytes(4 << 10).entry_len_max(1000).pinned_rings(0));
    assert_eq!(stage.metrics().ring_bytes_max, 100 * (4 << 10));
}
