//! Metrics as text that Prometheus and whatever speaks its language can read.
//!
//! The [exposition format](https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4: a name is
//! described once and then has a line for each queue, told apart by the label `queue`. Serving it is the service's
//! own business; an HTTP handler answers with `Content-Type: text/plain; version=0.0.4` and this text.

use std::fmt::Write;

use crate::health::Health;
use crate::metrics::Metrics;

/// The metrics of some queues as one text for Prometheus, named `ringwal_*` with a label `queue`.
///
/// Counters count from the opening of the queue; they fall to zero when it is opened anew, which Prometheus
/// understands as a restart. `ringwal_health` is 0 when all is well, 1 when degraded, 2 when failed.
///
/// ```
/// # use ringwal::{blocking_fn, prometheus_text, Batch, Queue};
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-prometheus-{}", std::process::id()));
/// # let sink = blocking_fn(|_: &Batch<String>| Ok(()));
/// let queue = Queue::builder(&dir).name("orders").open(sink)?;
/// let text = prometheus_text([("orders", &queue.metrics(), &queue.health())]);
/// assert!(text.contains("# TYPE ringwal_pushed_total counter\nringwal_pushed_total{queue=\"orders\"} 0\n"));
/// # queue.shutdown(std::time::Duration::from_secs(10))?;
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn prometheus_text<'a>(queues: impl IntoIterator<Item = (&'a str, &'a Metrics, &'a Health)>) -> String {
    let queues: Vec<_> = queues
        .into_iter()
        .map(|(name, metrics, health)| (escaped(name), metrics.driver, samples(metrics, health)))
        .collect();
    let mut text = String::new();
    let Some((_, _, first)) = queues.first() else {
        return text;
    };
    for (index, Sample { name, kind, help, .. }) in first.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(text, "# HELP ringwal_{name} {help}\n# TYPE ringwal_{name} {kind}\n");
        for (queue, _, samples) in &queues {
            let _ = writeln!(text, "ringwal_{name}{{queue=\"{queue}\"}} {}", samples[index].value);
        }
    }
    text.push_str("# HELP ringwal_driver The I/O driver in use, as a label; always 1.\n# TYPE ringwal_driver gauge\n");
    for (queue, driver, _) in &queues {
        let _ = writeln!(text, "ringwal_driver{{queue=\"{queue}\",driver=\"{}\"}} 1", escaped(driver));
    }
    text
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

struct Sample {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: u64,
}

/// Every field of [`Metrics`]: the pattern names them all, so that a new one is not forgotten.
#[rustfmt::skip]
fn samples(metrics: &Metrics, health: &Health) -> Vec<Sample> {
    let sample = |name, kind, help, value| Sample { name, kind, help, value };
    let &Metrics {
        recovered, recovered_from_rings, recovered_parked, pushed, pushed_bytes, rejected, dropped, delivered, parked, discarded, redelivered,
        lost, pending, in_flight, batches, delivery_failures, delivery_timeouts, sink_panics, retries, breaker_opened, breaker, ring_bytes, last_lsn, durable_lsn,
        cursor_lsn, frames, log_bytes_written, padding_bytes, writes, syncs, commit_nanos_mean, segments_live,
        segments_free, frames_let_go, frames_read_back, blocked_on_memory, blocked_on_log, driver: _,
    } = metrics;
    let health = match health {
        Health::Ok => 0,
        Health::Degraded(_) => 1,
        Health::Failed(_) => 2,
    };
    vec![
        sample("health", GAUGE, "0 well, 1 degraded, 2 failed.", health),
        sample("recovered_total", COUNTER, "Undelivered entries found in the log at open.", recovered),
        sample("recovered_from_rings_total", COUNTER, "Those among them that came from the rings of a dead process.", recovered_from_rings),
        sample("recovered_parked_total", COUNTER, "Parked entries found at open.", recovered_parked),
        sample("pushed_total", COUNTER, "Entries taken from producers.", pushed),
        sample("pushed_bytes_total", COUNTER, "Their bytes, as encoded.", pushed_bytes),
        sample("rejected_total", COUNTER, "Entries given back because a ring was full.", rejected),
        sample("dropped_total", COUNTER, "Entries given back under DropNewest.", dropped),
        sample("delivered_total", COUNTER, "Entries that the sink acknowledged.", delivered),
        sample("parked_entries", GAUGE, "Entries parked now.", parked),
        sample("discarded_total", COUNTER, "Entries discarded by the user, or refused for good under Park::Drop.", discarded),
        sample("redelivered_total", COUNTER, "Parked entries that were put back into the queue.", redelivered),
        sample("lost_total", COUNTER, "Entries given up: a failed log at shutdown, or corruption.", lost),
        sample("pending_entries", GAUGE, "Entries on their way to the sink.", pending),
        sample("in_flight_entries", GAUGE, "Entries that the sink has now.", in_flight),
        sample("batches_total", COUNTER, "Batches that the sink acknowledged at least in part.", batches),
        sample("delivery_failures_total", COUNTER, "Deliveries that failed in whole or in part.", delivery_failures),
        sample("delivery_timeouts_total", COUNTER, "Deliveries without an answer by their deadline.", delivery_timeouts),
        sample("sink_panics_total", COUNTER, "Deliveries that ended in a panic of the sink.", sink_panics),
        sample("retried_entries_total", COUNTER, "Entries delivered again because of a retry.", retries),
        sample("breaker_opened_total", COUNTER, "How often the breaker has opened.", breaker_opened),
        sample("breaker_state", GAUGE, "0 closed, 1 open, 2 half-open.", breaker as u64),
        sample("ring_bytes", GAUGE, "Bytes in the rings.", ring_bytes),
        sample("last_lsn", GAUGE, "Number of the last entry.", last_lsn.number()),
        sample("durable_lsn", GAUGE, "Everything up to here survives a loss of power.", durable_lsn.number()),
        sample("cursor_lsn", GAUGE, "Everything up to here is done, durably.", cursor_lsn.number()),
        sample("frames_total", COUNTER, "Frames written.", frames),
        sample("log_bytes_written_total", COUNTER, "Bytes written to the log, padding included.", log_bytes_written),
        sample("log_padding_bytes_total", COUNTER, "Bytes of padding among them.", padding_bytes),
        sample("writes_total", COUNTER, "Writes completed.", writes),
        sample("syncs_total", COUNTER, "Syncs completed; with Immediate each write is its own.", syncs),
        sample("commit_nanoseconds_mean", GAUGE, "Moving average of the time of a commit.", commit_nanos_mean),
        sample("segments_live", GAUGE, "Segment files that hold something.", segments_live),
        sample("segments_free", GAUGE, "Segment files that are ready for use.", segments_free),
        sample("frames_let_go_total", COUNTER, "Frames let go from memory because delivery lags.", frames_let_go),
        sample("frames_read_back_total", COUNTER, "Frames read back from the log.", frames_read_back),
        sample("blocked_on_memory_total", COUNTER, "Turns of the flush core without memory for entries.", blocked_on_memory),
        sample("blocked_on_log_total", COUNTER, "Turns of the flush core without a segment for entries.", blocked_on_log),
    ]
}

/// As the value of a label is written.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::health::Concern;

    #[test]
    fn each_name_is_described_once_and_has_a_line_for_each_queue() {
        let (one, two) = (Metrics { pushed: 7, ..Metrics::default() }, Metrics { pushed: 9, ..Metrics::default() });
        let failed = Health::Failed(vec![Concern::Closed]);
        let text = prometheus_text([("a", &one, &Health::Ok), ("b", &two, &failed)]);
        assert!(
            text.contains("\nringwal_pushed_total{queue=\"a\"} 7\nringwal_pushed_total{queue=\"b\"} 9\n"),
            "{text}"
        );
        assert!(text.contains("\nringwal_health{queue=\"a\"} 0\nringwal_health{queue=\"b\"} 2\n"), "{text}");
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(names.len(), once.len(), "a name stands twice");
        for name in names {
            let (name, kind) = name.split_once(' ').unwrap();
            assert_eq!(kind == COUNTER, name.ends_with("_total"), "{name} is a {kind}");
            let lines = text.lines().filter(|line| line.split('{').next() == Some(name)).count();
            assert_eq!(lines, 2, "{name}");
        }
    }

    #[test]
    fn a_name_cannot_end_its_label() {
        let text = prometheus_text([("a\"b\\c\nd", &Metrics::default(), &Health::Ok)]);
        assert!(text.contains(r#"{queue="a\"b\\c\nd"}"#), "{text}");
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("ringwal_")), "{text}");
    }

    #[test]
    fn no_queue_is_no_text() {
        assert_eq!(prometheus_text([]), "");
    }
}
