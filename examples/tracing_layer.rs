//! A `tracing` layer that writes every event into a queue: logging costs a push, and what is logged is on disk and
//! reaches its sink, a collector for example, though that is slow or away.
//!
//! Two loops have to be cut. ringwal's own events (feature `tracing`), which each batch makes: the layer leaves out the
//! target `ringwal`. And the events of the sink's own libraries, an HTTP client for example, which each batch makes
//! too: the sink works without a subscriber.
//!
//! `cargo run --features tracing --example tracing_layer`

use std::error::Error;
use std::fmt::{Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringwal::{Batch, Producer, Queue, blocking_fn};
use tracing::field::{Field, Visit};
use tracing::subscriber::{NoSubscriber, with_default};
use tracing::{Event, Subscriber, info, warn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

struct ToQueue {
    lines: Producer<String>,
    /// Events that found no room: a logger must not wait.
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for ToQueue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        if about.target() == "ringwal" {
            return;
        }
        let mut line = Line(format!("{} {}:", about.level(), about.target()));
        event.record(&mut line);
        if self.lines.try_push(line.0).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event as text: `INFO shop: sold price=3`.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing into a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shipped = Arc::new(AtomicU64::new(0));
    let sink = {
        let shipped = Arc::clone(&shipped);
        blocking_fn(move |batch: &Batch<String>| {
            with_default(NoSubscriber::default(), || {
                for line in batch.values() {
                    println!("shipped: {line}");
                    info!("this would be an event for each event");
                }
            });
            shipped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            Ok(())
        })
    };
    let queue = Queue::builder(dir.path()).open(sink)?;

    let lost = Arc::new(AtomicU64::new(0));
    let layer = ToQueue { lines: queue.producer(), lost: Arc::clone(&lost) };
    // Of the whole process, ringwal's threads included.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;

    for number in 1..=3 {
        info!(target: "shop", number, "sold");
        // Batch after batch: ringwal tells of each.
        queue.drain(Duration::from_secs(60))?;
    }
    warn!(target: "shop", left = 0, "sold out");
    queue.drain(Duration::from_secs(60))?;

    assert_eq!(lost.load(Ordering::Relaxed), 0);
    assert_eq!(shipped.load(Ordering::Relaxed), 4, "what was logged, and nothing that logging made");
    let end = queue.shutdown(Duration::from_secs(10))?;
    println!("{} events shipped, {} left in the log", end.delivered, end.left_in_log);
    Ok(())
}
