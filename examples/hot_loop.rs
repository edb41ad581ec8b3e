//! A loop that must not wait: a pinned producer with a ring of its own, entries written in place, and a sink
//! that is much slower than the loop.
//!
//! `cargo run --release --example hot_loop`

use std::error::Error;
use std::time::{Duration, Instant};

use ringwal::{Batch, PushError, Queue, WhenFull, blocking_fn};

const TICKS: u64 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut last = None;
    let queue = Queue::builder(dir.path()).when_full(WhenFull::Reject).ring_bytes(4 << 20).open(blocking_fn(
        move |batch: &Batch<Vec<u8>>| {
            std::thread::sleep(Duration::from_millis(1));
            for tick in batch.values() {
                let tick = u64::from_le_bytes(tick.as_slice().try_into()?);
                assert!(last < Some(tick), "in order, nothing twice");
                last = Some(tick);
            }
            Ok(())
        },
    ))?;

    let mut producer = queue.producer().pin();
    assert!(producer.has_own_ring());
    let (mut refused, begun) = (0, Instant::now());
    for tick in 0..TICKS {
        // Eight bytes in the ring, written by the loop itself: no allocation, no copy.
        match producer.claim(8) {
            Ok(mut claim) => {
                claim.bytes_mut().copy_from_slice(&tick.to_le_bytes());
                claim.commit();
            }
            Err(PushError::Full(())) => refused += 1,
            Err(error) => return Err(error.to_string().into()),
        }
    }
    let each = begun.elapsed() / u32::try_from(TICKS)?;
    queue.drain(Duration::from_secs(30))?;
    let metrics = queue.metrics();
    assert_eq!((metrics.delivered, metrics.rejected), (TICKS - refused, refused));
    println!("{TICKS} ticks, {each:?} each; {refused} found no room; the sink has {}", metrics.delivered);
    queue.shutdown(Duration::from_secs(10))?;
    Ok(())
}
