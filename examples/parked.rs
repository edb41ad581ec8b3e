//! What becomes of entries that a sink refuses: retried with growing delays, parked with the error after the last
//! attempt, listed, and redelivered once the sink is mended.
//!
//! `cargo run --example parked`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ringwal::{Batch, Lsn, Queue, Retry, Verdict, blocking_fn};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (mended, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let sink = {
        let (mended, tries) = (Arc::clone(&mended), Arc::clone(&tries));
        // One verdict for each entry: only what failed comes again.
        blocking_fn(move |batch: &Batch<String>| {
            let judge = |value: &String| match value.as_str() {
                "poison" if !mended.load(Ordering::Relaxed) => {
                    tries.fetch_add(1, Ordering::Relaxed);
                    Verdict::Retry("the table has no such column".into())
                }
                "nonsense" => Verdict::Park("this will never parse".into()),
                _ => Verdict::Ack,
            };
            Ok(batch.values().map(judge).collect::<Vec<_>>())
        })
    };
    let retry = Retry {
        attempts_max: Some(3),
        base: Duration::from_millis(2),
        max: Duration::from_millis(20),
        ..Retry::default()
    };
    let queue = Queue::builder(dir.path()).retry(retry).open(sink)?;
    let producer = queue.producer();
    for entry in ["one", "poison", "nonsense", "two"] {
        producer.push(entry.to_owned())?;
    }
    queue.drain(Duration::from_secs(10))?;
    assert_eq!(tries.load(Ordering::Relaxed), 3, "three attempts, then parked");
    assert_eq!(queue.metrics().delivered, 2);

    let parked = queue.parked();
    for entry in parked.list(Lsn::ZERO, 10)? {
        println!("parked after {} attempts: {}", entry.attempts, entry.error);
    }
    assert_eq!(parked.len(), 2);

    // Somebody adds the column.
    mended.store(true, Ordering::Relaxed);
    let again = parked.redeliver(|entry| entry.attempts > 1)?;
    let given_up = parked.discard(|_| true)?;
    queue.drain(Duration::from_secs(10))?;
    assert_eq!((again, given_up, queue.metrics().delivered), (1, 1, 3));
    println!("{again} redelivered, {given_up} given up, nothing lost in silence");
    queue.shutdown(Duration::from_secs(10))?;
    Ok(())
}
