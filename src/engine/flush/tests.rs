//! Who waits for what no turn could take over when the wish was told. Time stands still, but for the flush core's short
//! pauses: nothing here may be helped by a period, or by a timeout.

mod closing;
mod lost;
mod memory;
mod spinning;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::builder::Builder;
use crate::config::Durability;
use crate::delivery::batch::Batch;
use crate::durable::{Durable, Receipt};
use crate::engine::{HANDED_FRAMES_MAX, Shared};
use crate::health::Concern;
use crate::queue::Queue;
use crate::sim::{Fault, ManualClock, OpKind, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use crate::sink::{SinkError, sink_fn};
use crate::wal::mutant::Mutants;
use crate::wal::op::{FileId, LogId};

const LEN: usize = 9;
const EIO: i32 = 5;
const META: FileId = FileId::Meta(LogId::Main);
const PAUSE_MAX: Duration = Duration::from_millis(1);

fn machine() -> (SimDisk, ManualClock) {
    let clock = ManualClock::new();
    (SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() }), clock)
}

fn builder(durability: Durability, ring_bytes: usize) -> Builder {
    Queue::builder(Path::new("simulated"))
        .durability(durability)
        .rings(2)
        .ring_bytes(ring_bytes)
        .entry_len_max(1016)
        .memory_max(4 << 20)
        .segment_len(512 << 10)
        .log_bytes_max(16 << 20)
        .park_bytes_max(2 << 20)
}

/// A queue whose sink is never asked.
struct Stage {
    queue: SteppedQueue<Vec<u8>>,
    shared: Arc<Shared>,
    machine: SimDisk,
    clock: ManualClock,
}

impl Stage {
    fn open(durability: Durability) -> Self {
        let (machine, clock) = machine();
        Self::open_on(machine, clock, durability, 1, 4096)
    }

    /// Two processes never have the same `seed`: their segments would have the same identity.
    fn open_on(machine: SimDisk, clock: ManualClock, durability: Durability, seed: u64, ring_bytes: usize) -> Self {
        Self::open_with(builder(durability, ring_bytes), machine, clock, seed)
    }

    fn open_with(builder: Builder, machine: SimDisk, clock: ManualClock, seed: u64) -> Self {
        let settings = SteppedSettings { seed, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let sink = sink_fn(|_: Batch<Vec<u8>>| async { Ok::<(), SinkError>(()) });
        let queue = SteppedQueue::open(builder, settings, &machine, sink).unwrap();
        let shared = queue.producer().shared;
        Self { queue, shared, machine, clock }
    }

    /// Until the flush core rests, and nothing but a minute or somebody else can end that.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let moved = self.queue.turn_core() | self.machine.step();
            match self.queue.next_due() {
                _ if moved => {}
                Some(due) if due.since(self.clock.now()) <= PAUSE_MAX => self.clock.advance_to(due),
                _ => return,
            }
        }
        panic!("it never rests: {:?}", self.queue);
    }

    /// Turns without an end of any op, then lets those on these files end.
    fn finish(&mut self, which: impl Fn(FileId) -> bool) -> usize {
        while self.queue.turn_core() {}
        let ops: Vec<u64> = self.machine.in_flight().iter().filter(|op| which(op.file)).map(|op| op.number).collect();
        ops.iter().for_each(|op| self.machine.finish(*op));
        while self.queue.turn_core() {}
        ops.len()
    }

    fn push(&self) -> Durable {
        let end = self.shared.rings.claim(0, LEN).unwrap().publish();
        Durable::new(Arc::clone(&self.shared), Receipt { ring: 0, end })
    }
}

fn is_told(durable: &mut Durable) -> bool {
    match Pin::new(durable).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
        Poll::Pending => false,
    }
}

/// The wish was used up by the turn that could not take the waiter's entry over: with `Spill` nothing told it again.
#[test]
fn who_waits_behind_a_claim_is_told_when_that_is_published() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60)), Durability::Spill] {
        let mut stage = Stage::open(durability);
        let shared = Arc::clone(&stage.shared);
        let before = shared.rings.claim(0, LEN).unwrap();
        let mut durable = stage.push();
        assert!(!is_told(&mut durable));
        stage.settle();
        assert!(!is_told(&mut durable), "{durability:?}: what lies before it is not there");
        before.publish();
        stage.settle();
        assert!(is_told(&mut durable), "{durability:?}: {:?}", stage.queue);
    }
}

/// Whoever was told alone is back in no time: the flush core is awake for it, for a while, and then sleeps.
#[test]
fn one_who_was_told_alone_is_looked_for_before_the_flush_core_sleeps() {
    for (processors, waiters, looks) in [(2, 1, true), (1, 1, false), (2, 2, false)] {
        let mut stage = Stage::open(Durability::Immediate);
        stage.queue.run_among(processors);
        stage.settle();
        let mut durables: Vec<_> = (0..waiters).map(|_| stage.push()).collect();
        durables.iter_mut().for_each(|durable| assert!(!is_told(durable)));
        for _ in 0..100 {
            if durables.iter_mut().all(is_told) {
                break;
            }
            stage.clock.advance(Duration::from_micros(10));
            let _ = stage.queue.turn_core() || stage.machine.step();
        }
        assert!(durables.iter_mut().all(is_told));
        let turns = (0..100).take_while(|_| stage.queue.turn_core()).count();
        assert_eq!(turns == 100, looks, "{turns} turns for {waiters} on {processors}");
        stage.clock.advance(Duration::from_millis(1));
        stage.settle();
    }
}

/// As a queue begins: the first segment is still being prepared, and the log takes nothing more.
#[test]
fn who_began_to_wait_while_the_log_had_no_room_is_told() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60)), Durability::Spill] {
        let mut stage = Stage::open(durability);
        let mut first = stage.push();
        assert!(!is_told(&mut first));
        while stage.queue.turn_core() {}
        let mut second = stage.push();
        assert!(!is_told(&mut second));
        while stage.queue.turn_core() {}
        if durability == Durability::Spill {
            assert!(stage.queue.metrics().blocked_on_log > 0, "the second found no room");
        }
        stage.settle();
        assert!(is_told(&mut first) && is_told(&mut second), "{durability:?}: {:?}", stage.queue);
    }
}

/// With a sink that stands still the flush core naps, and no push ended that: the one in front of the waiter neither.
#[test]
fn a_publish_that_somebody_waits_for_ends_the_nap_beside_a_sink_that_stands_still() {
    let mut stage = Stage::open(Durability::Immediate);
    // More frames than the sink is given at once: the rest waits with the flush core.
    for _ in 0..HANDED_FRAMES_MAX + 2 {
        let mut durable = stage.push();
        assert!(!is_told(&mut durable));
        stage.settle();
        assert!(is_told(&mut durable));
    }
    let shared = Arc::clone(&stage.shared);
    let before = shared.rings.claim(0, LEN).unwrap();
    let mut durable = stage.push();
    assert!(!is_told(&mut durable));
    stage.settle();
    before.publish();
    stage.settle();
    assert!(is_told(&mut durable), "{:?}", stage.queue);
    // The same for who asks for the end of what is claimed by now.
    let before = shared.rings.claim(0, LEN).unwrap();
    let fence = stage.queue.fence();
    stage.settle();
    assert!(fence.try_recv().is_err(), "what it waits for is not there");
    before.publish();
    stage.settle();
    fence.try_recv().unwrap_or_else(|error| panic!("{error}: {:?}", stage.queue));
}

/// What a failed log has in memory is delivered under numbers that stand in no segment. The sink got them before META
/// said that they are taken: a process that died then had told it numbers which the next opening gave to other entries.
/// Where META cannot be written either, it gets them all the same.
#[test]
fn what_a_failed_log_still_has_waits_until_its_numbers_are_kept_or_cannot_be() {
    for meta_fails in [false, true] {
        for durability in [Durability::Immediate, Durability::Periodic(Duration::from_secs(60))] {
            let mut stage = Stage::open(durability);
            stage.settle();
            if meta_fails {
                stage.machine.inject(Fault::error(OpKind::Write, EIO).on(META).forever());
            }
            let slot = FileId::Slot(LogId::Main, crate::lsn::SlotNo(0));
            stage.machine.inject(Fault::error(OpKind::Write, EIO).on(slot));
            let mut durable = stage.push();
            let _ = Pin::new(&mut durable).poll(&mut Context::from_waker(Waker::noop()));
            // All that it has asked for ends, but what it writes into META.
            for _ in 0..100 {
                stage.finish(|file| file != META);
                stage.clock.advance(PAUSE_MAX);
            }
            assert!(stage.queue.has_failed(), "{durability:?}: {:?}", stage.queue);
            assert_eq!(stage.machine.in_flight_count(), 1, "the numbers are being reserved");
            assert!(stage.shared.frames.is_empty(), "{durability:?}: the sink is shown a number that nobody keeps");
            assert_eq!(stage.finish(|file| file == META), 1);
            assert_eq!(stage.shared.frames.len(), 1, "{durability:?}: it is not delivered: {:?}", stage.queue);
        }
    }
}

fn silent_for(stage: &Stage) -> Option<Duration> {
    stage.queue.health().reasons().iter().find_map(|reason| match reason {
        Concern::DiskSilent(time) => Some(*time),
        _ => None,
    })
}

/// Only writes were looked at once. Where the preparation of a segment hangs, or a read of the backlog before a full
/// log, pushes wait and there may be no write that could be late.
#[test]
fn a_disk_that_does_not_complete_what_it_was_asked_is_called_silent_until_it_does() {
    for kind in [OpKind::Write, OpKind::Read, OpKind::Prepare] {
        let mut stage = Stage::open(Durability::Immediate);
        let mut durable = stage.push();
        assert!(!is_told(&mut durable));
        stage.settle();
        assert!(is_told(&mut durable));
        // Its entry is a backlog on the disk for the next process.
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        machine.kill();
        drop(stage);
        let mut stage = Stage::open_on(machine.clone(), clock.clone(), Durability::Immediate, 2, 4096);
        machine.inject(Fault::hung(kind));
        let mut durable = stage.push();
        assert!(!is_told(&mut durable));
        stage.settle();
        assert!(machine.in_flight().iter().any(|op| op.kind == kind), "{kind:?}: {:?}", machine.in_flight());
        assert_eq!(silent_for(&stage), None, "{kind:?}");
        clock.advance(Duration::from_secs(3));
        stage.settle();
        assert!(silent_for(&stage) >= Some(Duration::from_secs(2)), "{kind:?}: {:?}", stage.queue);
        machine.heal();
        stage.settle();
        assert_eq!(silent_for(&stage), None, "{kind:?}: {:?}", stage.queue);
    }
}

/// Two that push again as soon as they are told. A commit that begins the moment that the disk is free has one of them, and
/// the other one waits for two commits, each time.
#[test]
fn those_who_come_back_together_share_a_commit_and_who_stays_away_holds_nobody_up_for_long() {
    const USUAL: Duration = Duration::from_micros(100);
    let slots = |file| matches!(file, FileId::Slot(LogId::Main, _));
    let asks = |stage: &Stage| {
        let mut durable = stage.push();
        assert!(!is_told(&mut durable));
        durable
    };
    let commit = |stage: &mut Stage| {
        while stage.queue.turn_core() {}
        stage.clock.advance(USUAL);
        stage.finish(slots)
    };
    let mut stage = Stage::open(Durability::Immediate);
    stage.settle();
    // What a commit takes is known from the first ones.
    let mut alone = asks(&stage);
    assert_eq!((commit(&mut stage), is_told(&mut alone)), (2, true), "the segment's header goes before it");

    let mut one = asks(&stage);
    while stage.queue.turn_core() {}
    let mut other = asks(&stage);
    assert_eq!((commit(&mut stage), is_told(&mut one), is_told(&mut other)), (1, true, false));
    assert_eq!(stage.finish(slots), 0, "one is about to come back");
    let due = stage.queue.next_due().unwrap();
    assert_eq!(due.since(stage.clock.now()), USUAL / 2);
    let frames = stage.queue.metrics().frames;
    let mut one = asks(&stage);
    assert_eq!((commit(&mut stage), is_told(&mut one), is_told(&mut other)), (1, true, true));
    assert_eq!(stage.queue.metrics().frames, frames + 1);

    // One of the two never comes again.
    let mut other = asks(&stage);
    while stage.queue.turn_core() {}
    assert_eq!(stage.finish(slots), 0);
    stage.clock.advance(USUAL / 2);
    assert_eq!((commit(&mut stage), is_told(&mut other)), (1, true));
}

/// They are woken by one call: it is to be those who wait for the same commit.
#[test]
fn who_begins_to_wait_while_a_commit_is_on_its_way_belongs_to_the_next_round() {
    let round = |stage: &Stage| stage.shared.rings.durable(0).round();
    let mut stage = Stage::open(Durability::Immediate);
    stage.settle();
    let before = round(&stage);
    let mut one = stage.push();
    assert!(!is_told(&mut one));
    assert_eq!(round(&stage), before, "what it waits for is not on its way");
    while stage.queue.turn_core() {}
    assert_eq!(round(&stage), before + 1);
    let mut other = stage.push();
    assert!(!is_told(&mut other));
    while stage.queue.turn_core() {}
    assert_eq!(round(&stage), before + 1, "one commit at a time");
    stage.settle();
    assert!(is_told(&mut one) && is_told(&mut other));
    assert_eq!(round(&stage), before + 2);
}

/// While a segment was prepared, a second for each 64 MiB of it, the flush core slept so that no push woke it: what was pushed
/// then was durable after the period, or never if the preparation hung.
#[test]
fn what_is_pushed_while_the_next_segment_is_prepared_is_on_disk_in_its_time() {
    for durability in [Durability::Immediate, Durability::Periodic(PAUSE_MAX)] {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let mut stage = Stage::open_on(machine.clone(), clock, durability, 1, 64 << 10);
        stage.settle();
        machine.inject(Fault::hung(OpKind::Prepare).forever());
        let shared = Arc::clone(&stage.shared);
        for _ in 0..90 {
            shared.rings.claim(0, 1000).unwrap().publish();
            stage.settle();
        }
        assert!(machine.in_flight().iter().any(|op| op.kind == OpKind::Prepare), "{:?}", machine.in_flight());
        assert_eq!(stage.queue.metrics().durable_lsn.number(), 90, "{durability:?}: {:?}", stage.queue);
    }
}
