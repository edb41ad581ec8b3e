//! The way of an entry, in a queue that is turned by hand.

use std::future::ready;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringwal::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{Batch, Durability, Producer, Queue, Receipt, sink_fn};

use crate::step::{Counts, counted};

#[path = "../../benches/common/fixed.rs"]
mod fixed;
use fixed::Fixed;

/// Pushes that are counted: a loop as in a user's program, so that what it keeps in registers stays there. One is like the
/// other, and an instruction under watch may take a tenth of a millisecond in a virtual machine: hence few.
const PUSHES: usize = 16;
/// Entries of a call of `push_batch`, and of a batch at the sink.
const MANY: usize = 100;
/// Rounds of entries before the ones that are counted.
const WARM_UP: usize = 10;
const RING_BYTES: usize = 1 << 20;
/// More than any of it takes.
const TURNS_MAX: usize = 1000;

pub(crate) fn print_table() {
    println!("{:20} | {:>12} | {:>6} | {:>6} | {:>11}", "of one", "instructions", "locked", "calls", "allocations");
    pushes::<8>();
    pushes::<64>();
    pushes::<100>();
    entries::<8>();
    entries::<100>();
}

fn line(name: &str, counts: Counts, of: usize) {
    let each = |count: u64| count as f64 / of as f64;
    let Counts { instructions, locked, calls, allocations } = counts;
    println!(
        "{name:20} | {:>12.1} | {:>6.2} | {:>6.2} | {:>11.2}",
        each(instructions),
        each(locked),
        each(calls),
        each(allocations)
    );
}

/// A queue in memory, without threads: its sink reads every entry.
struct World<const LEN: usize> {
    queue: SteppedQueue<Fixed<LEN>>,
    machine: SimDisk,
    clock: ManualClock,
}

impl<const LEN: usize> World<LEN> {
    fn new() -> Self {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let settings = SteppedSettings { seed: 1, clock: clock.clone(), store: None, mutants: Mutants::default() };
        let builder = Queue::builder(Path::new("/simulated")).durability(Durability::Memory).rings(1).pinned_rings(1);
        let builder = builder.ring_bytes(RING_BYTES).batch_len_max(MANY).linger(Duration::ZERO);
        let sink = sink_fn(|batch: Batch<Fixed<LEN>>| {
            batch.values().for_each(|entry| _ = black_box(entry));
            ready(Ok(()))
        });
        let queue = SteppedQueue::open(builder, settings, &machine, sink).expect("it opens");
        Self { queue, machine, clock }
    }

    fn producer(&self) -> Producer<Fixed<LEN>> {
        self.queue.producer()
    }

    /// Takes the rings empty; what the flush core does for it.
    fn drain(&mut self, look: Look) -> Counts {
        self.until(look, |queue| queue.metrics().ring_bytes == 0, |queue| _ = queue.turn_core())
    }

    /// Delivers all that is drained; what delivery, the sink, and the flush core, which hears of the acks, do for it.
    fn deliver(&mut self, look: Look) -> Counts {
        let is_delivered = |queue: &SteppedQueue<_>| queue.metrics().delivered == queue.metrics().pushed;
        self.until(look, is_delivered, |queue| _ = (queue.turn_sink(), queue.turn_core()))
    }

    fn until(
        &mut self,
        look: Look,
        is_reached: impl Fn(&SteppedQueue<Fixed<LEN>>) -> bool,
        turn: impl Fn(&mut SteppedQueue<Fixed<LEN>>),
    ) -> Counts {
        let mut all = Counts::default();
        for _ in 0..TURNS_MAX {
            if is_reached(&self.queue) {
                return all;
            }
            all += look(&mut || turn(&mut self.queue));
            self.machine.step();
            self.clock.advance(Duration::from_millis(1));
        }
        panic!("nothing has come of {TURNS_MAX} turns: {:?}", self.queue.health());
    }

    fn settle(&mut self) {
        self.drain(unseen);
        self.deliver(unseen);
    }
}

/// Does something, and counts it or not.
type Look = fn(&mut dyn FnMut()) -> Counts;

fn seen(work: &mut dyn FnMut()) -> Counts {
    counted(work)
}

fn unseen(work: &mut dyn FnMut()) -> Counts {
    work();
    Counts::default()
}

/// Some pushes behind the first, which looks at the head of the ring, and wakes the flush core.
fn of_pushes(mut push: impl FnMut()) -> Counts {
    push();
    counted(|| (0..PUSHES).for_each(|_| push()))
}

fn pushes<const LEN: usize>() {
    let entry = black_box(Fixed([7; LEN]));
    // Kept as a user keeps it who waits for the last one.
    let mut last: Option<Receipt> = None;

    let world = World::<LEN>::new();
    let mut pinned = world.producer().pin();
    assert!(pinned.has_own_ring());
    let counts = of_pushes(|| last = Some(pinned.push(black_box(entry)).expect("room")));
    line(&format!("push, pinned, {LEN} B"), counts, PUSHES);

    let world = World::<LEN>::new();
    let producer = world.producer();
    let counts = of_pushes(|| last = Some(producer.push(black_box(entry)).expect("room")));
    line(&format!("push, shared, {LEN} B"), counts, PUSHES);

    let mut world = World::<LEN>::new();
    let producer = world.producer();
    let entries = vec![entry; MANY];
    let push_batch = || _ = black_box(producer.push_batch(black_box(&entries).iter().copied()).expect("room"));
    push_batch();
    world.settle();
    line(&format!("push_batch, {LEN} B"), counted(push_batch), MANY);
    black_box(last);

    let (mut producer, _consumer) = rtrb::RingBuffer::new(RING_BYTES / 8);
    let counts = of_pushes(|| assert!(producer.push(black_box(entry)).is_ok()));
    line(&format!("rtrb, {LEN} B"), counts, PUSHES);
    let queue = ArrayQueue::new(RING_BYTES / 8);
    let counts = of_pushes(|| assert!(queue.push(black_box(entry)).is_ok()));
    line(&format!("ArrayQueue, {LEN} B"), counts, PUSHES);
}

fn entries<const LEN: usize>() {
    let mut world = World::<LEN>::new();
    let producer = world.producer();
    let push_many = || (0..MANY).for_each(|_| _ = producer.push(Fixed([7; LEN])).expect("room"));
    // What is allocated once, is.
    for _ in 0..WARM_UP {
        push_many();
        world.settle();
    }
    push_many();
    line(&format!("drain, {LEN} B"), world.drain(seen), MANY);
    line(&format!("deliver, {LEN} B"), world.deliver(seen), MANY);
}
