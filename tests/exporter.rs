//! The `metrics` facade: what a recorder gets.

mod common;
mod exposition;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::{LONG, Numbered, Recorder as Sink, drain, small};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use ringwal::{Durability, MetricsExporter, prometheus_text};

/// Remembers what it is told, by name and labels.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    kind: &'static str,
    unit: Option<Unit>,
    value: f64,
    /// Each value, and how often.
    recorded: Vec<(f64, usize)>,
}

struct Line(Book, String);

impl Line {
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Line {
    fn increment(&self, _: u64) {
        panic!("counts are told as they stand");
    }

    fn absolute(&self, value: u64) {
        self.change(|entry| (entry.kind, entry.value) = ("counter", entry.value.max(value as f64)));
    }
}

impl GaugeFn for Line {
    fn increment(&self, _: f64) {
        panic!("gauges are told as they stand");
    }

    fn decrement(&self, _: f64) {
        panic!("gauges are told as they stand");
    }

    fn set(&self, value: f64) {
        self.change(|entry| (entry.kind, entry.value) = ("gauge", value));
    }
}

impl HistogramFn for Line {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.change(|entry| {
            entry.kind = "histogram";
            entry.recorded.push((value, count));
        });
    }
}

impl Book {
    fn line(&self, key: &Key) -> Arc<Line> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Line(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }

    fn describe(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>) {
        let entry = Entry { kind, unit, ..Entry::default() };
        let before = self.0.lock().unwrap().insert(name.as_str().to_owned(), entry);
        assert!(before.is_none(), "{} is described twice", name.as_str());
    }

    fn get(&self, line: &str) -> Entry {
        self.0.lock().unwrap().get(line).unwrap_or_else(|| panic!("no {line}")).clone()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, "counter", unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, "gauge", unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, "histogram", unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[test]
fn a_recorder_gets_every_metric_and_each_value_once() {
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Immediate).name("orders").open(Sink::default()).unwrap();
    let book = Book::default();
    let mut exporter = MetricsExporter::new(queue.watch());
    let mut pushed = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            queue.producer().push_durable(Numbered::new(0, pushed, 10)).unwrap().wait().unwrap();
            pushed += 1;
        }
        drain(&queue);
        // Nothing happens in between, so that both looks see the same.
        let metrics = queue.metrics();
        metrics::with_local_recorder(&book, || exporter.export());
        assert_eq!(book.get("ringwal_pushed_total{queue=orders}").value, f64::from(pushed));
        for (name, histogram) in
            [("batch_entries", &metrics.batch_entries), ("delivery_seconds", &metrics.delivery_micros)]
        {
            let recorded = book.get(&format!("ringwal_{name}{{queue=orders}}")).recorded;
            let count: usize = recorded.iter().map(|(_, count)| count).sum();
            assert_eq!(count as u64, histogram.count(), "{name}: {recorded:?}");
            let scale = if name == "batch_entries" { 1.0 } else { 1e6 };
            let sum: f64 = recorded.iter().map(|(value, count)| value * scale * *count as f64).sum();
            let (least, most) = (histogram.sum() as f64 - 1e-3, histogram.sum() as f64 * 1.25 + count as f64);
            assert!((least..most).contains(&sum), "{name}: {sum} of {}", histogram.sum());
        }
    }
    // The same names and types as in Prometheus' text.
    let described = exposition::parse(&prometheus_text([("orders", &queue.metrics(), &queue.health())]));
    for (name, family) in &described {
        // The facade counts in whole numbers, so a count of seconds is a gauge there.
        let kind = if name.ends_with("_seconds_total") { "gauge" } else { &*family.kind };
        assert_eq!(book.get(name).kind, kind, "{name}");
        let is_told = book.0.lock().unwrap().keys().any(|line| line.starts_with(&format!("{name}{{queue=orders")));
        assert!(is_told || family.kind == "histogram", "{name} is described and not told");
    }
    assert_eq!(book.get("ringwal_commit_seconds").unit, Some(Unit::Seconds));
    assert_eq!(book.get("ringwal_ring_bytes").unit, Some(Unit::Bytes));
    assert_eq!(book.get("ringwal_rejected_total{queue=orders,reason=full}").value, 0.0);
    queue.shutdown(LONG).unwrap();
    // No recorder is there now: nothing happens.
    exporter.export();
}
