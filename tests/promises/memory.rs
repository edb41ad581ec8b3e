//! What is in memory, what is on disk, and how much of each.

use ringwal::sim::OpKind;
use ringwal::wal::op::LogId;
use ringwal::{Durability, PushError, WhenFull};

use crate::common::Numbered;
use crate::stage::{MS, Stage, few};

const LOGGED: [Durability; 3] = [Durability::Immediate, Durability::Periodic(MS), Durability::Spill];
/// Their padding; with its head such an entry takes 1920 bytes.
const LONG_ENTRY: usize = 1900;

fn ops(stage: &Stage, kind: OpKind) -> usize {
    let slots = stage.machine.history().into_iter().filter(|op| op.kind == kind && op.file.to_string().contains("seg"));
    slots.count()
}

/// F008: as long as the sink keeps up, delivery comes from memory alone; the log is there for what it has not taken.
#[test]
fn a_sink_that_keeps_up_is_served_from_memory_and_what_it_has_not_taken_outlives_a_crash() {
    let mut stage = Stage::new(few(Durability::Immediate));
    stage.settle();
    let reads = ops(&stage, OpKind::Read);
    for n in 0..500 {
        stage.push(n..n + 1);
        stage.pass(2 * MS);
        assert_eq!(stage.metrics().delivered, u64::from(n) + 1);
    }
    assert_eq!((ops(&stage, OpKind::Read) - reads, stage.metrics().frames_read_back), (0, 0));
    stage.sink.hangs();
    stage.push(500..520);
    stage.settle();
    stage.machine.crash();
    let mut stage = stage.reopen(few(Durability::Immediate));
    stage.pass(10 * MS);
    let numbers = stage.sink.numbers();
    assert!(numbers.ends_with(&(500..520).collect::<Vec<_>>()), "{numbers:?}");
}

/// F228: with `Spill` the disk hears of nothing while memory has room, and of all that does not fit as soon as it has none.
#[test]
fn what_spills_is_written_only_when_memory_fills_and_no_push_is_refused_for_it() {
    let mut stage = Stage::new(few(Durability::Spill).log_bytes_max(64 << 20).when_full(WhenFull::Reject));
    stage.settle();
    let memory = stage.metrics().memory_bytes_max;
    let before = ops(&stage, OpKind::Write);
    // Many times the memory, which the sink takes as it comes.
    let mut next = 0;
    while u64::from(next) * 1900 < 3 * memory {
        (next..next + 20).for_each(|n| _ = stage.queue.producer().push(Numbered::new(0, n, LONG_ENTRY)).unwrap());
        next += 20;
        stage.pass(2 * MS);
    }
    let metrics = stage.metrics();
    assert_eq!((metrics.delivered, metrics.writes), (u64::from(next), 0), "{metrics:#?}");
    assert_eq!(ops(&stage, OpKind::Write), before);
    // And now it does not.
    stage.sink.hangs();
    let first = next;
    let mut written_at = None;
    while u64::from(next - first) * 1900 < 3 * memory {
        (next..next + 20).for_each(|n| _ = stage.queue.producer().push(Numbered::new(0, n, LONG_ENTRY)).unwrap());
        next += 20;
        stage.pass(2 * MS);
        if written_at.is_none() && stage.metrics().writes > 0 {
            written_at = Some(u64::from(next - first) * 1900);
        }
        assert!(stage.metrics().memory_bytes <= memory);
    }
    let written_at = written_at.expect("three times the memory is written");
    assert!((memory / 4..=memory).contains(&written_at), "after {written_at} of {memory} bytes");
    stage.sink.acknowledges();
    stage.pass(1000 * MS);
    // The first batch was given to a sink that hung, and is not delivered twice.
    assert_eq!(stage.metrics().delivered, u64::from(next));
}

/// F243: an entry that memory has no room for waits on disk, and comes in its turn.
#[test]
fn what_memory_cannot_hold_waits_on_disk_and_comes_back_in_its_turn() {
    for durability in LOGGED {
        let mut stage = Stage::new(few(durability).memory_max(3 << 20).log_bytes_max(64 << 20));
        stage.queue.set_paused(true);
        let mut next = 0;
        while u64::from(next) * 1900 < 9 << 20 {
            (next..next + 20)
                .for_each(|n| _ = stage.queue.producer().try_push(Numbered::new(0, n, LONG_ENTRY)).unwrap());
            next += 20;
            stage.pass(2 * MS);
            let metrics = stage.metrics();
            assert!(metrics.memory_bytes <= 3 << 20, "{durability:?}: {metrics:#?}");
        }
        assert_eq!((stage.metrics().pending, stage.metrics().frames_read_back), (u64::from(next), 0));
        stage.queue.set_paused(false);
        // New ones come while the old ones are read back.
        stage.push(next..next + 50);
        stage.pass(1000 * MS);
        let metrics = stage.metrics();
        assert!(metrics.frames_let_go > 0 && metrics.frames_read_back > 0, "{durability:?}: {metrics:#?}");
        assert_eq!(stage.sink.numbers(), (0..next + 50).collect::<Vec<_>>(), "{durability:?}");
    }
}

/// F028: the log is filled up to `log_bytes_max` and never takes more disk than that, whatever is pushed.
#[test]
fn the_log_is_filled_up_to_its_limit_and_never_over_it() {
    for limit in [2 << 20, 6 << 20_u64] {
        let mut stage = Stage::new(few(Durability::Immediate).log_bytes_max(limit).when_full(WhenFull::Reject));
        stage.sink.hangs();
        let producer = stage.queue.producer();
        let mut next = 0;
        loop {
            match producer.push(Numbered::new(0, next, LONG_ENTRY)) {
                Ok(_) => next += 1,
                Err(PushError::Full(_)) => break,
                Err(other) => panic!("{other}"),
            }
            stage.settle();
            let (told, taken) = (stage.metrics().log_bytes, stage.machine.used(LogId::Main));
            assert!(told <= limit && taken <= limit + META, "{told} told, {taken} taken of {limit}");
        }
        assert_eq!(stage.metrics().log_bytes, limit, "it is refused with room left: {:#?}", stage.metrics());
        stage.sink.acknowledges();
        stage.pass(1000 * MS);
        producer.push(Numbered::new(0, next, LONG_ENTRY)).expect("there is room again");
        stage.pass(1000 * MS);
        assert_eq!(stage.sink.numbers(), (0..=next).collect::<Vec<_>>());
    }
}

/// F150: compression costs time, so only who asks for it has it; what comes back is the same.
#[cfg(feature = "lz4")]
#[test]
fn the_log_is_compressed_only_where_that_was_asked_for() {
    use ringwal::{Builder, Compression};

    let written = |builder: Builder| {
        let mut stage = Stage::new(builder);
        stage.queue.set_paused(true);
        // Runs of one value.
        for group in 0..20_u32 {
            let entry = |n| Numbered { producer: 0, number: n, padding: vec![7; 1000] };
            let producer = stage.queue.producer();
            (group * 30..group * 30 + 30).for_each(|n| _ = producer.try_push(entry(n)).unwrap());
            stage.settle();
        }
        let written = stage.metrics().log_bytes_written;
        stage.machine.crash();
        let mut stage = stage.reopen(few(Durability::Immediate));
        stage.pass(MS);
        assert_eq!(stage.sink.numbers(), (0..600).collect::<Vec<_>>());
        written
    };
    let plain = written(few(Durability::Immediate));
    assert!(plain >= 600 * 1008, "{plain}");
    let short = written(few(Durability::Immediate).compression(Compression::Lz4 { min_len: 4096 }));
    assert!(short < plain / 4, "{short} of {plain} bytes");
}

/// What a log has beside its segments.
const META: u64 = 64 << 10;
