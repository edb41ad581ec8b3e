//! How long until a restarted queue delivers, and has delivered all that waited on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Io, sink_fn};

use crate::table::Table;
use crate::{Fixed, LONG, Scale, new_dir, null, open};

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let dir = new_dir();
    let durability = Durability::Periodic(Duration::from_millis(5));
    let queue = open(dir.path(), durability, Io::Auto, null::<Fixed<100>>());
    queue.pause();
    let producer = queue.producer();
    for _ in 0..scale.entries {
        producer.push(Fixed([7; 100])).expect("room");
    }
    queue.flush().expect("a disk that works");
    let left = queue.shutdown(Duration::ZERO).expect("a disk that works").left_in_log;

    let (first, first_came) = channel();
    let seen = Arc::new(AtomicU64::new(0));
    let sink = {
        let seen = Arc::clone(&seen);
        sink_fn(move |batch: Batch<Fixed<100>>| {
            if seen.fetch_add(batch.len() as u64, Relaxed) == 0 {
                first.send(Instant::now()).expect("the main thread lives");
            }
            async { Ok(()) }
        })
    };
    let begun = Instant::now();
    let queue = open(dir.path(), durability, Io::Auto, sink);
    let opened = begun.elapsed();
    let first = first_came.recv().expect("a first batch").duration_since(begun);
    queue.drain(LONG).expect("a sink that works");
    let all = begun.elapsed();
    assert_eq!(seen.load(Relaxed), left, "what was left in the log comes again");
    assert_eq!(queue.recovery().recovered, left, "and was announced");

    let name = format!("recovery of {} × 100 B", scale.entries);
    table.add(format!("{name}, open"), "ms", opened.as_secs_f64() * 1e3);
    table.add(format!("{name}, first delivery"), "ms", first.as_secs_f64() * 1e3);
    table.add(format!("{name}, all delivered"), "ms", all.as_secs_f64() * 1e3);
    table.add(format!("{name}, rate"), "M/s", left as f64 / 1e6 / all.as_secs_f64());
}
