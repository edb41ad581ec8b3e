//! Memory that is short: what is let go of it, what is kept, and what is told.

use super::*;

/// What memory was too short to keep is read from where it lies, in reads that end where frames do: blindly nearly every
/// frame was read twice, and each search began at its segment's start.
#[test]
fn what_was_let_go_is_read_back_once() {
    let clock = ManualClock::new();
    let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
    let mut stage = Stage::open_on(machine, clock, Durability::Immediate, 1, 64 << 10);
    stage.queue.set_paused(true);
    let shared = Arc::clone(&stage.shared);
    let mut next = 0;
    for n in 0..9_000_u32 {
        // A ring that is half full is drained: frames of nine blocks to fifteen.
        if n == next {
            stage.settle();
            next += 34 + n * 7 % 23;
        }
        let mut claim = shared.rings.claim(0, 1000).unwrap();
        claim.payload_mut().fill(n as u8);
        claim.publish();
    }
    stage.settle();
    let before = stage.machine.history().len();
    assert!(stage.queue.metrics().frames_let_go > 0, "{:#?}", stage.queue.metrics());
    stage.queue.set_paused(false);
    for _ in 0..100_000 {
        let moved = stage.queue.turn_core() | stage.machine.step();
        let sink = stage.queue.turn_sink();
        if stage.queue.metrics().delivered == 9_000 {
            break;
        }
        if !moved
            && matches!(sink, crate::sim::SinkTurn::Rests)
            && let Some(due) = stage.queue.next_due()
        {
            stage.clock.advance_to(due);
        }
    }
    assert_eq!(stage.queue.metrics().delivered, 9_000, "{:?}", stage.queue);
    let history = stage.machine.history();
    let mut reads: Vec<_> =
        history[before..].iter().filter(|op| op.kind == OpKind::Read).map(|op| (op.file, op.offset, op.len)).collect();
    reads.sort_unstable();
    let twice = reads.windows(2).find(|two| two[0].0 == two[1].0 && two[0].1 + two[0].2 > two[1].1);
    assert_eq!(twice, None, "{reads:?}");
    let end = stage.queue.metrics();
    assert_eq!(end.frames_read_back, end.frames_let_go);
}

/// Producers that are faster than the disk: memory is full of what is to be written. Every frame was let go as it became
/// durable, and read back at once.
#[test]
fn what_delivery_is_about_to_take_is_kept_however_short_memory_is() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(5))] {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let mut stage = Stage::open_on(machine, clock, durability, 1, 64 << 10);
        stage.settle();
        let shared = Arc::clone(&stage.shared);
        let mut pushed = 0_u64;
        // Nothing that is written ends.
        while stage.queue.metrics().blocked_on_memory == 0 {
            while let Ok(claim) = shared.rings.claim(0, 1000) {
                claim.publish();
                pushed += 1;
            }
            while stage.queue.turn_core() {}
            assert!(pushed < 9_000, "{durability:?}: {:#?}", stage.queue.metrics());
        }
        for _ in 0..100_000 {
            let moved = stage.machine.step();
            while stage.queue.turn_core() {}
            let sink = stage.queue.turn_sink();
            if stage.queue.metrics().delivered == pushed {
                break;
            }
            if !moved
                && matches!(sink, crate::sim::SinkTurn::Rests)
                && let Some(due) = stage.queue.next_due()
            {
                stage.clock.advance_to(due);
            }
        }
        let end = stage.queue.metrics();
        assert_eq!((end.delivered, end.frames_let_go), (pushed, 0), "{durability:?}: {end:#?}");
    }
}

/// The log was full, and what it could not take filled the memory: that was counted as a lack of memory, and whoever tuned by
/// these counts gave the queue more of it.
#[test]
fn memory_that_a_full_log_keeps_full_counts_as_a_lack_of_log() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(5)), Durability::Spill] {
        let (machine, clock) = machine();
        let builder = builder(durability, 64 << 10).log_bytes_max(2 << 20);
        let mut stage = Stage::open_with(builder, machine, clock, 1);
        stage.settle();
        let shared = Arc::clone(&stage.shared);
        let push = || {
            while let Ok(claim) = shared.rings.claim(0, 1000) {
                claim.publish();
            }
        };
        // Nothing that is written ends: what is short is memory.
        for turn in 0.. {
            push();
            while stage.queue.turn_core() {}
            let now = stage.queue.metrics();
            if now.blocked_on_memory > 0 {
                break;
            }
            assert!(turn < 1000, "{durability:?}: {now:#?}");
            let ops = stage.machine.in_flight().into_iter().filter(|op| op.kind == OpKind::Prepare);
            ops.for_each(|op| stage.machine.finish(op.number));
        }
        assert_eq!(stage.queue.metrics().blocked_on_log, 0, "{durability:?}");
        stage.settle();
        let before = stage.queue.metrics();
        push();
        stage.settle();
        let end = stage.queue.metrics();
        assert!(stage.queue.health().reasons().iter().any(|concern| matches!(concern, Concern::LogFull(_))));
        assert!(end.blocked_on_log > before.blocked_on_log, "{durability:?}: {end:#?}");
        assert_eq!(end.blocked_on_memory, before.blocked_on_memory, "{durability:?}: {end:#?}");
    }
}
