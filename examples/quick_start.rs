//! The shortest whole program: a queue, a sink, two ways to push.
//!
//! `cargo run --example quick_start`

use std::error::Error;
use std::time::Duration;

use ringwal::{Batch, Queue, blocking_fn};

#[derive(serde::Serialize, serde::Deserialize)]
struct Click {
    user: u64,
    page: String,
}
ringwal::entry!(Click);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let queue = Queue::builder(dir.path()).open(blocking_fn(|batch: &Batch<Click>| {
        for click in batch.values() {
            println!("user {} went to {}", click.user, click.page);
        }
        Ok(())
    }))?;
    let clicks = queue.producer();
    // A sync begins within the period, 5 ms by default; on disk when that ends.
    clicks.push(Click { user: 7, page: "/".into() })?;
    // On disk when `wait` returns.
    clicks.push_durable(Click { user: 7, page: "/buy".into() })?.wait()?;

    let end = queue.shutdown(Duration::from_secs(10))?;
    assert_eq!((end.delivered, end.left_in_log), (2, 0));
    Ok(())
}
