//! Loops that must not wait: each has a pinned producer, a ring of its own, here a short one, and a push that finds no
//! room is refused at once. At its end each waits until its last tick, and with it all before, is on disk. The sink is
//! much slower than both.
//!
//! `cargo run --release --example hot_loop`

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use ringwal::{Batch, PinnedProducer, PushError, Queue, blocking_fn};

const TICKS: u64 = 100_000;

/// Its bytes are its encoding: a push is one copy (feature `pod`).
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Tick {
    number: u64,
    source: u64,
}
ringwal::entry_pod!(Tick);

/// How many ticks found no room, and how long each took.
fn run(source: u64, mut ticks: PinnedProducer<Tick>) -> Result<(u64, Duration), String> {
    assert!(ticks.has_own_ring());
    let (mut last, mut refused, begun) = (None, 0, Instant::now());
    for number in 1..=TICKS {
        match ticks.try_push(Tick { number, source }) {
            Ok(receipt) => last = Some(receipt),
            // The tick is back in our hands: this loop counts it and goes on.
            Err(PushError::Full(_tick)) => refused += 1,
            Err(error) => return Err(error.to_string()),
        }
    }
    let each = begun.elapsed() / u32::try_from(TICKS).map_err(|error| error.to_string())?;
    // A receipt is two numbers; only asking makes the log hurry. One ring is written in order, so the last is enough.
    if let Some(last) = last {
        ticks.durable(last).wait().map_err(|error| error.to_string())?;
    }
    Ok((refused, each))
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut last = [0; 2];
    let queue = Queue::builder(dir.path()).ring_bytes(64 << 10).entry_len_max(16).open(blocking_fn(
        move |batch: &Batch<Tick>| {
            thread::sleep(Duration::from_millis(1));
            for tick in batch.values() {
                let last = &mut last[usize::try_from(tick.source)?];
                assert!(*last < tick.number, "in order, nothing twice");
                *last = tick.number;
            }
            Ok(())
        },
    ))?;

    let loops = [0, 1].map(|source| {
        let ticks = queue.producer().pin();
        thread::spawn(move || run(source, ticks))
    });
    let mut refused_all = 0;
    for (source, ticking) in loops.into_iter().enumerate() {
        let (refused, each) = ticking.join().map_err(|_| "a loop panicked")??;
        println!("loop {source}: {TICKS} ticks, {each:?} each; {refused} found no room; the rest is on disk");
        refused_all += refused;
    }
    assert_eq!(queue.metrics().rejected, refused_all);
    println!("the sink has {} so far", queue.metrics().delivered);

    queue.drain(Duration::from_secs(60))?;
    let end = queue.shutdown(Duration::from_secs(10))?;
    assert_eq!(end.delivered, 2 * TICKS - refused_all);
    println!("the sink has {}, all that was taken", end.delivered);
    Ok(())
}
