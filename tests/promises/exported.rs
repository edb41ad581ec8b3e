//! What the documents exported to Prometheus, in the text that is exported here: each by what the queue has done.

use std::collections::BTreeMap;

use ringwal::{Durability, Metrics, Outcome, prometheus_text};

use crate::stage::{MS, Stage, few};

/// The lines of the text, by what stands before the value.
fn lines(stage: &Stage) -> BTreeMap<String, f64> {
    let text = prometheus_text([("q", &stage.metrics(), &stage.queue.health())]);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.replace("queue=\"q\"", "").replace("{,", "{").replace("{}", ""), value.parse().unwrap())
        })
        .collect()
}

/// Two full batches of ten, the first of which fails once, and five entries that are out at a sink that hangs.
fn busy() -> Stage {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(10));
    stage.sink.answers(|call| Some(if call.attempt == 1 { Outcome::retry("not yet") } else { Outcome::ack() }));
    stage.push(0..20);
    stage.pass(10_000 * MS);
    stage.sink.hangs();
    stage.push(20..45);
    stage.pass(10 * MS);
    stage
}

/// F095: the queue's size.
#[test]
fn the_exported_size_of_the_queue_is_what_waits_and_what_is_at_the_sink() {
    let lines = lines(&busy());
    assert_eq!((lines["ringwal_pending_entries"], lines["ringwal_in_flight_entries"]), (15.0, 10.0));
}

/// F096: what was sent.
#[test]
fn the_exported_count_of_what_was_sent_is_what_the_sink_acknowledged() {
    assert_eq!(lines(&busy())["ringwal_delivered_total"], 20.0);
}

/// F097: errors.
#[test]
fn the_exported_count_of_errors_is_of_deliveries_that_failed() {
    assert_eq!(lines(&busy())["ringwal_delivery_failures_total"], 2.0);
}

/// F098: a histogram of the times of deliveries, whose buckets contain those below them.
#[test]
fn the_exported_histogram_has_each_delivery_in_the_buckets_of_its_time() {
    let mut stage = Stage::new(few(Durability::Immediate));
    for (n, time) in [(0, 3 * MS), (1, 40 * MS), (2, 40 * MS)] {
        stage.sink.hangs();
        stage.push(n..n + 1);
        stage.pass(5 * MS);
        assert_eq!(stage.sink.calls().len(), n as usize + 1);
        // It has waited for its linger, and the call lasts since then.
        let called = stage.sink.calls()[n as usize].at;
        stage.pass(called + time - stage.now().min(called + time));
        stage.sink.acknowledges();
        stage.settle();
    }
    let Metrics { delivery_micros, .. } = stage.metrics();
    let lines = lines(&stage);
    let upto = |seconds: &str| lines[&format!("ringwal_delivery_seconds_bucket{{le=\"{seconds}\"}}")];
    assert_eq!((lines["ringwal_delivery_seconds_count"], upto("+Inf")), (3.0, 3.0));
    assert_eq!((upto("0.001024"), upto("0.008192"), upto("0.032768"), upto("0.065536")), (0.0, 1.0, 1.0, 3.0));
    let sum = lines["ringwal_delivery_seconds_sum"];
    assert!((sum - delivery_micros.sum() as f64 / 1e6).abs() < 1e-9 && sum >= 0.083, "{sum}");
}
