//! Metrics as text that Prometheus and whatever speaks its language can read.
//!
//! The [exposition format](https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4: a name is
//! described once and then has a line for each queue, told apart by the label `queue`. An HTTP handler answers with
//! `Content-Type: text/plain; version=0.0.4` and this text; the feature `serve` brings one.

use std::fmt::Write;

use crate::families::{Family, Values, families};
use crate::health::Health;
use crate::metrics::Metrics;

/// The metrics of some queues as one text for Prometheus, named `ringwal_*` with a label `queue`.
///
/// Counters and histograms count from the opening of the queue; they fall to zero when it is opened anew, which
/// Prometheus understands as a restart. `ringwal_health` is 0 when all is well, 1 when degraded, 2 when failed. Each
/// name, with what to do about it: `docs/observability.md` in the repository.
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
    let queues: Vec<(String, Vec<Family<'_>>)> =
        queues.into_iter().map(|(name, metrics, health)| (escaped(name), families(metrics, health))).collect();
    let mut text = String::new();
    let Some((_, first)) = queues.first() else {
        return text;
    };
    for (index, Family { name, kind, help, .. }) in first.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(text, "# HELP ringwal_{name} {help}\n# TYPE ringwal_{name} {}\n", kind.name());
        for (queue, families) in &queues {
            write_values(&mut text, name, queue, &families[index].values);
        }
    }
    text
}

fn write_values(text: &mut String, name: &str, queue: &str, values: &Values<'_>) {
    // Writing into a string cannot fail.
    let _ = match values {
        Values::One(value) => writeln!(text, "ringwal_{name}{{queue=\"{queue}\"}} {value}"),
        Values::By(label, rows) => rows.iter().try_for_each(|(row, value)| {
            writeln!(text, "ringwal_{name}{{queue=\"{queue}\",{label}=\"{}\"}} {value}", escaped(row))
        }),
        Values::Buckets(histogram, unit) => {
            let mut bucket = |le: &dyn std::fmt::Display, count: u64| {
                writeln!(text, "ringwal_{name}_bucket{{queue=\"{queue}\",le=\"{le}\"}} {count}")
            };
            let bounds = unit.bounds();
            let written =
                bounds.into_iter().try_for_each(|log2| bucket(&unit.told(1 << log2), histogram.count_upto(log2)));
            let written = written.and_then(|()| bucket(&"+Inf", histogram.count()));
            let (sum, count) = (unit.told(histogram.sum()), histogram.count());
            written.and_then(|()| {
                writeln!(
                    text,
                    "ringwal_{name}_sum{{queue=\"{queue}\"}} {sum}\nringwal_{name}_count{{queue=\"{queue}\"}} {count}"
                )
            })
        }
    };
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
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let last = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
            for queue in ["a", "b"] {
                let begin = format!("{last}{{queue=\"{queue}\"");
                assert!(text.lines().any(|line| line.starts_with(&begin)), "{name} of {queue}");
            }
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
