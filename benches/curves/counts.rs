//! How many instructions does an entry cost each thread? Work for callgrind, which counts them.
//!
//! ```text
//!   valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file=OUT curves-HASH --count memory:100:10000
//!   valgrind …                                                                            --count memory:100:30000
//! ```
//! The difference of the two, by thread, for 20,000 entries: opening and closing cost the same in both. `periodic` is the
//! other word, with the driver that needs no io_uring. `curves-HASH` is the
//! program that `cargo bench --bench curves --no-run` names.

use std::thread;
use std::time::Duration;

use ringwal::{Durability, Io};

use crate::measure::{LONG, builder, new_dir, null};
use crate::sizes::{BYTES_MAX, Filled};
use crate::threads::PUSHER;

/// Entries that are pushed before all of them are delivered: a frame or a few.
const BURST: usize = 1000;
/// Bytes that are pushed at once at most: half of a ring.
const BURST_BYTES: usize = 512 << 10;

/// `MODE:LEN:ENTRIES`.
pub(crate) fn run(what: &str) -> Result<(), String> {
    let words: Vec<&str> = what.split(':').collect();
    let (durability, len, count) = match words[..] {
        ["memory", len, count] => (Durability::Memory, len, count),
        ["periodic", len, count] => (Durability::Periodic(Duration::from_millis(5)), len, count),
        _ => return Err(format!("--count takes memory or periodic:LEN:ENTRIES, not {what:?}")),
    };
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
    let (len, count) = (number(len)?, number(count)?);
    if len == 0 || len > BYTES_MAX {
        return Err(format!("an entry has 1 to {BYTES_MAX} bytes, not {len}"));
    }
    let dir = new_dir();
    let builder = builder(dir.path(), durability).io(Io::Threads);
    let queue = builder.open(null::<Filled>()).expect("a queue");
    let burst = BURST.min(BURST_BYTES / len);
    let push = || {
        let mut producer = queue.producer().pin();
        let mut left = count;
        while left > 0 {
            let now = burst.min(left);
            for _ in 0..now {
                producer.push(Filled { len }).expect("room");
            }
            left -= now;
            queue.drain(LONG).expect("a sink that works");
        }
    };
    thread::scope(|scope| {
        let pusher = thread::Builder::new().name(PUSHER.to_owned()).spawn_scoped(scope, push).expect("a thread");
        pusher.join().expect("no panic");
    });
    let metrics = queue.metrics();
    println!("{count} entries of {len} bytes: {} frames, {} batches", metrics.frames, metrics.batches);
    queue.shutdown(LONG).map_err(|error| error.to_string())?;
    Ok(())
}
