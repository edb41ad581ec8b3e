//! Metrics as text, and what is written about them: `docs/observability.md`, the dashboard, the alert rules.

mod exposition;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use exposition::{Family, parse};
use ringwal::sim::SimSettings;
use ringwal::{Durability, Health, Metrics, prometheus_text};
use serde_json::Value;
use stage::{MS, Reply, Stage, settings};

const GUIDE: &str = "docs/observability.md";
const DASHBOARD: &str = "docs/grafana/ringwal.json";
const ALERTS: &str = "docs/prometheus/alerts.yml";

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn families() -> BTreeMap<String, Family> {
    parse(&prometheus_text([("q", &Metrics::default(), &Health::Ok)]))
}

/// A queue that has seen something of everything.
fn busy() -> (Metrics, Health) {
    let slow = SimSettings { latency: (2 * MS, 5 * MS), ..SimSettings::default() };
    let mut stage = Stage::<Vec<u8>>::on(settings(Durability::Immediate), slow);
    stage.script.then([Reply::Retry, Reply::Park, Reply::Panic]);
    for n in 0..30 {
        stage.producer().push_batch((0..n).map(|n| vec![n; 300])).unwrap();
        stage.settle();
    }
    stage.producer().push(vec![0; 3000]).unwrap_err();
    (stage.queue.metrics(), stage.queue.health())
}

#[test]
fn the_text_of_busy_queues_is_as_the_format_says() {
    let (metrics, health) = busy();
    let names = ["orders", "a \"b\" \\ c\nd{}=,"];
    let text = prometheus_text(names.map(|name| (name, &metrics, &health)));
    let families = parse(&text);
    for (name, family) in &families {
        let queues: BTreeSet<&str> = family.samples.iter().map(|sample| sample.labels["queue"].as_str()).collect();
        assert_eq!(queues, BTreeSet::from(names), "{name}");
    }
    let value = |name: &str, row: Option<(&str, &str)>| {
        let family = families.values().find(|family| family.samples.iter().any(|sample| sample.name == name));
        let mut samples = family.unwrap_or_else(|| panic!("no {name}")).samples.iter();
        let found = samples.find(|sample| {
            sample.name == name
                && sample.labels["queue"] == "orders"
                && row.is_none_or(|(label, value)| sample.labels[label] == value)
        });
        found.unwrap_or_else(|| panic!("no {name} {row:?}")).value
    };
    assert_eq!(value("ringwal_pushed_total", None), metrics.pushed as f64);
    assert_eq!(value("ringwal_rejected_total", Some(("reason", "too_long"))), 1.0);
    assert_eq!(value("ringwal_delivery_failures_by_kind_total", Some(("kind", "panic"))), 1.0);
    // The numbers of a histogram are those of its metric, in seconds where it is one of times.
    let commits = &metrics.commit_micros;
    assert!(commits.count() > 20);
    assert_eq!(value("ringwal_commit_seconds_count", None), commits.count() as f64);
    assert!((value("ringwal_commit_seconds_sum", None) - commits.sum() as f64 / 1e6).abs() < 1e-9);
    let upto = |seconds| value("ringwal_commit_seconds_bucket", Some(("le", seconds)));
    assert_eq!((upto("0.001024"), upto("+Inf")), (0.0, commits.count() as f64));
    assert!(upto("0.002048") > 0.0 && upto("0.002048") < commits.count() as f64, "from 2 ms to 5 ms");
    assert_eq!(upto("0.008192"), commits.count() as f64);
    let batches = value("ringwal_batch_entries_bucket", Some(("le", "1")));
    assert!(batches >= 1.0 && batches < metrics.batches as f64, "the first batch had one entry: {batches}");
}

/// Rows of the guide: name, type and the rest.
fn rows(guide: &str) -> Vec<(&str, &str, &str)> {
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `ringwal_")).map(|line| {
        let mut cells = line.split(" | ");
        let name = cells.next().unwrap().trim_end_matches('`').split('{').next().unwrap();
        let kind = cells.next().unwrap_or_else(|| panic!("{line}"));
        let rest = line.splitn(3, " | ").nth(2).unwrap_or_else(|| panic!("{line}"));
        (name, kind, rest)
    });
    rows.collect()
}

#[test]
fn every_metric_is_in_the_guide_and_nothing_else_is() {
    let guide = read(GUIDE);
    let rows = rows(&guide);
    let families = families();
    let mut documented = BTreeSet::new();
    for (name, kind, rest) in &rows {
        let name = format!("ringwal_{name}");
        let family = families.get(&name).unwrap_or_else(|| panic!("{name} is in the guide and does not exist"));
        assert_eq!(family.kind, *kind, "{name}");
        let cells: Vec<&str> = rest.trim_end_matches(" |").split(" | ").collect();
        assert!(
            cells.len() == 3 && cells.iter().all(|cell| !cell.trim().is_empty()),
            "{name}: unit, meaning, what to do"
        );
        assert!(documented.insert(name.clone()), "{name} stands twice");
    }
    let missing: Vec<_> = families.keys().filter(|name| !documented.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the guide: {missing:?}");
}

/// Everything in a text that looks like a metric.
fn mentions(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("ringwal_"));
    words.map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_only_metrics_that_exist() {
    let families = families();
    let lines: BTreeSet<&str> =
        families.values().flat_map(|family| family.samples.iter().map(|sample| sample.name.as_str())).collect();
    for path in [DASHBOARD, ALERTS, GUIDE] {
        let text = read(path);
        let named = mentions(&text);
        assert!(named.len() > 10, "{path} names only {named:?}");
        for name in named {
            // The guide speaks of metrics, queries speak of their lines.
            let exists = lines.contains(name.as_str()) || path == GUIDE && families.contains_key(&name);
            assert!(exists, "{path} names {name}");
        }
    }
}

#[test]
fn the_dashboard_is_one() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert_eq!((&dashboard["title"], &dashboard["id"]), (&Value::from("ringwal"), &Value::Null));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["name"] == "queue"));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut places: Vec<[i64; 4]> = Vec::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "{} has another one's id", panel["title"]);
        let at = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| at[side].as_i64().unwrap());
        assert!(x >= 0 && w > 0 && h > 0 && x + w <= 24, "{}", panel["title"]);
        let apart = |o: &[i64; 4]| x + w <= o[0] || o[0] + o[2] <= x || y + h <= o[1] || o[1] + o[3] <= y;
        assert!(places.iter().all(apart), "{} lies over another one", panel["title"]);
        places.push([x, y, w, h]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && !panel["description"].as_str().unwrap().is_empty());
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("queue=~\"$queue\""), "{query} is of all queues");
            is_balanced(query);
        }
    }
    assert!(panels.len() > 12);
}

fn is_balanced(query: &str) {
    for pair in ["()", "{}", "[]"] {
        let count = |at| query.matches(&pair[at..=at]).count();
        assert_eq!(count(0), count(1), "{query}");
    }
    assert_eq!(query.matches('"').count() % 2, 0, "{query}");
}

#[test]
fn each_alert_has_a_query_a_time_a_severity_and_says_what_to_do() {
    let text = read(ALERTS);
    assert!(!text.contains('\t'), "YAML knows no tabs");
    let alerts: Vec<&str> = text.split("      - alert: ").skip(1).collect();
    assert!(alerts.len() >= 10);
    let guide = read(GUIDE);
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        assert!(names.insert(name), "{name} stands twice");
        assert!(guide.contains(&format!("| `{name}` |")), "{name} is not in the guide");
        let field = |field: &str| {
            let line = alert.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{field}: ")));
            line.unwrap_or_else(|| panic!("{name} has no {field}"))
        };
        is_balanced(field("expr"));
        assert!(!mentions(field("expr")).is_empty(), "{name}");
        assert!(["0m", "1m", "2m", "5m", "10m", "15m"].contains(&field("for")), "{name}");
        assert!(["page", "ticket"].contains(&field("severity")), "{name}");
        for said in ["summary", "description"] {
            let text = field(said);
            assert!(text.starts_with('"') && text.ends_with('"') && text.len() > 20, "{name}: {text}");
        }
    }
}
