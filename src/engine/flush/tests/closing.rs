//! What is taken over when the queue closes and its time is over.

use crate::error::{Shutdown, ShutdownError};
use crate::ring::record::stride_of;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Closes with a sink that never ends its batch, until nothing but the logs is waited for.
fn close_late(stage: &mut Stage) {
    stage.queue.begin_closing(true);
    for _ in 0..2 {
        while stage.queue.turn_core() {}
        assert!(stage.queue.poll_close(true).is_none());
    }
    while stage.queue.turn_core() {}
}

/// How it closed, if it has.
fn closed(stage: &mut Stage) -> Option<Shutdown> {
    stage.settle();
    match stage.queue.poll_close(false)? {
        Err(ShutdownError::Deadline(state)) => Some(state),
        other => panic!("a sink that hangs, and nothing else: {other:?}"),
    }
}

fn leak_claim(stage: &Stage) -> bool {
    // Sixteen bytes with the header: a ring is full of them to the last byte.
    stage.shared.rings.claim(0, 8).map(std::mem::forget).is_ok()
}

/// Found by reading: as soon as the time was over claims were given up. Whoever had one was on the way to publish it, was
/// told that all went well, even that it is durable, and the entry was in no log.
#[test]
fn a_claim_is_waited_for_although_the_time_is_over() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60)), Durability::Spill] {
        let mut stage = Stage::open(durability);
        let shared = Arc::clone(&stage.shared);
        stage.settle();
        let before = shared.rings.claim(0, LEN).unwrap();
        let mut behind = stage.push();
        close_late(&mut stage);
        assert_eq!(closed(&mut stage), None, "{durability:?}: somebody has begun to push");
        before.publish();
        let state = closed(&mut stage).expect("nothing is left to wait for");
        assert_eq!((state.left_in_log, state.lost), (2, 0), "{durability:?}");
        assert!(is_told(&mut behind));
    }
}

/// Only the first of them was given up: what lay behind the second was counted as lost.
#[test]
fn claims_that_are_never_published_are_all_passed_after_a_second() {
    let mut stage = Stage::open(Durability::Immediate);
    stage.settle();
    assert!((0..3).all(|_| leak_claim(&stage)));
    let mut behind = stage.push();
    close_late(&mut stage);
    stage.clock.advance(SECOND - PAUSE_MAX * 2);
    assert_eq!(closed(&mut stage), None);
    stage.clock.advance(PAUSE_MAX * 2);
    let state = closed(&mut stage).expect("a second is over");
    assert_eq!((state.left_in_log, state.lost), (1, 0));
    assert!(is_told(&mut behind));
}

/// The flush core went round and round in such a ring, for ever.
#[test]
fn a_ring_that_is_full_of_leaked_claims_is_passed_once() {
    let mut stage = Stage::open(Durability::Immediate);
    stage.settle();
    while leak_claim(&stage) {}
    close_late(&mut stage);
    stage.clock.advance(SECOND);
    assert_eq!(closed(&mut stage).map(|state| (state.left_in_log, state.lost)), Some((0, 0)));
}

#[test]
fn what_is_published_after_it_was_given_up_is_counted_as_lost() {
    let mut stage = Stage::open(Durability::Immediate);
    let shared = Arc::clone(&stage.shared);
    stage.settle();
    let before = shared.rings.claim(0, LEN).unwrap();
    let mut run = shared.rings.claim_run(0, 2 * stride_of(LEN)).unwrap();
    (0..2).for_each(|_| _ = run.next_mut(LEN).unwrap());
    let _behind = stage.push();
    close_late(&mut stage);
    stage.clock.advance(SECOND);
    while stage.queue.turn_core() {}
    // The logs are not closed yet.
    before.publish();
    run.publish();
    assert_eq!(closed(&mut stage).map(|state| (state.left_in_log, state.lost)), Some((1, 3)));
}

/// A segment was being prepared, and there would have been room in a moment: what had none yet was lost all the same.
#[test]
fn what_finds_no_room_for_the_moment_is_waited_for() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60)), Durability::Spill] {
        let mut stage = Stage::open(durability);
        let mut first = stage.push();
        assert!(!is_told(&mut first));
        stage.settle();
        assert!(is_told(&mut first), "the next process has a backlog, and needs a segment of its own");
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        machine.kill();
        drop(stage);
        let mut stage = Stage::open_on(machine, clock, durability, 2, 4096);
        let mut durables: Vec<Durable> = Vec::new();
        for _ in 0..2 {
            let mut durable = stage.push();
            assert!(!is_told(&mut durable));
            durables.push(durable);
            while stage.queue.turn_core() {}
        }
        assert!(stage.queue.metrics().blocked_on_log > 0, "{durability:?}: the second found no room");
        close_late(&mut stage);
        let state = closed(&mut stage).expect("the disk is well");
        assert_eq!((state.left_in_log, state.lost), (3, 0), "{durability:?}");
        assert!(durables.iter_mut().all(is_told));
    }
}

/// It counted only what had been given a number.
#[test]
fn a_log_that_has_failed_counts_what_is_left_in_the_rings_as_lost() {
    let clock = ManualClock::new();
    let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
    let mut stage = Stage::open_on(machine, clock, Durability::Immediate, 1, 4 << 20);
    stage.settle();
    let shared = Arc::clone(&stage.shared);
    let mut pushed = 0;
    while stage.queue.metrics().blocked_on_memory == 0 {
        while let Ok(claim) = shared.rings.claim(0, 1000) {
            claim.publish();
            pushed += 1;
        }
        while stage.queue.turn_core() {}
    }
    stage.machine.inject(Fault::error(OpKind::Write, EIO).forever());
    stage.settle();
    assert!(stage.queue.has_failed());
    let durable = stage.queue.metrics().durable_lsn.number();
    assert!(stage.queue.metrics().ring_bytes > 0, "memory is full, and nobody delivers");
    close_late(&mut stage);
    stage.settle();
    match stage.queue.poll_close(false) {
        Some(Err(ShutdownError::Storage { lost, .. })) => assert_eq!(lost, pushed - durable),
        other => panic!("the log has failed: {other:?}"),
    }
}
