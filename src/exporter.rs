//! A queue's metrics for the `metrics` facade (feature `metrics`), whatever recorder the service has installed.
//!
//! The queue counts for itself; this copies what it has counted into the recorder, from whichever thread calls it. So
//! nothing of the recorder runs on the way of an entry, however slow it is.

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit as FacadeUnit, with_recorder};

use crate::families::{Family, Kind, Number, Unit, Values, families};
use crate::histogram::Histogram;
use crate::watch::Watch;

const METADATA: Metadata<'static> = Metadata::new("ringwal", Level::INFO, Some("ringwal"));

/// Copies a queue's metrics into the recorder of the [`metrics`](https://docs.rs/metrics) facade, under the names of
/// [`prometheus_text`](crate::prometheus_text) and with the label `queue`.
///
/// Call [`export`](Self::export) as often as the numbers are to be fresh: from a timer of the service, or before each
/// scrape. Between two calls nothing happens.
///
/// Of a histogram's values the recorder gets the bounds of their buckets, at most a quarter too high.
///
/// ```
/// # use ringwal::{blocking_fn, Batch, MetricsExporter, Queue};
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-exporter-{}", std::process::id()));
/// # let sink = blocking_fn(|_: &Batch<String>| Ok(()));
/// let queue = Queue::builder(&dir).open(sink)?;
/// let mut exporter = MetricsExporter::new(queue.watch());
/// exporter.export(); // every few seconds
/// # queue.shutdown(std::time::Duration::from_secs(10))?;
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MetricsExporter {
    watch: Watch,
    /// What each histogram held when it was last exported.
    exported: Vec<(&'static str, Histogram)>,
    described: bool,
}

impl MetricsExporter {
    /// Of this queue.
    #[must_use]
    pub fn new(watch: Watch) -> Self {
        Self { watch, exported: Vec::new(), described: false }
    }

    /// Copies the numbers as they are now. Without a recorder nothing happens.
    pub fn export(&mut self) {
        with_recorder(|recorder| self.export_to(recorder));
    }

    fn export_to(&mut self, recorder: &dyn Recorder) {
        let (metrics, health) = (self.watch.metrics(), self.watch.health());
        let queue = Label::new("queue", self.watch.name().to_owned());
        for family in families(&metrics, &health) {
            if !self.described {
                describe(recorder, &family);
            }
            let name = format!("ringwal_{}", family.name);
            let key = |label: Option<Label>| {
                let labels = std::iter::once(queue.clone()).chain(label).collect::<Vec<_>>();
                Key::from_parts(name.clone(), labels)
            };
            match &family.values {
                Values::One(value) => set(recorder, &key(None), family.kind, *value),
                Values::By(label, rows) => {
                    for (row, value) in rows {
                        let label = Label::new(*label, (*row).to_owned());
                        set(recorder, &key(Some(label)), family.kind, *value);
                    }
                }
                Values::Buckets(histogram, unit) => self.record(recorder, &key(None), family.name, histogram, *unit),
            }
        }
        self.described = true;
    }

    fn record(&mut self, recorder: &dyn Recorder, key: &Key, name: &'static str, now: &Histogram, unit: Unit) {
        let at = self.exported.iter().position(|(exported, _)| *exported == name).unwrap_or_else(|| {
            self.exported.push((name, Histogram::default()));
            self.exported.len() - 1
        });
        let before = &mut self.exported[at].1;
        let handle = recorder.register_histogram(key, &METADATA);
        for (bound, more) in now.since(before) {
            handle.record_many(unit.told(bound), usize::try_from(more).unwrap_or(usize::MAX));
        }
        *before = now.clone();
    }
}

fn set(recorder: &dyn Recorder, key: &Key, kind: Kind, value: Number) {
    match (kind, value) {
        (Kind::Counter, Number::Whole(count)) => recorder.register_counter(key, &METADATA).absolute(count),
        _ => recorder.register_gauge(key, &METADATA).set(value.as_f64()),
    }
}

fn describe(recorder: &dyn Recorder, family: &Family<'_>) {
    let name = KeyName::from(format!("ringwal_{}", family.name));
    let unit = match &family.values {
        Values::Buckets(_, Unit::Time) | Values::One(Number::Seconds(_)) => Some(FacadeUnit::Seconds),
        _ if family.name.contains("bytes") => Some(FacadeUnit::Bytes),
        _ => Some(FacadeUnit::Count),
    };
    match family.kind {
        // The facade counts in whole numbers.
        Kind::Counter if unit == Some(FacadeUnit::Seconds) => recorder.describe_gauge(name, unit, family.help.into()),
        Kind::Counter => recorder.describe_counter(name, unit, family.help.into()),
        Kind::Gauge => recorder.describe_gauge(name, unit, family.help.into()),
        Kind::Histogram => recorder.describe_histogram(name, unit, family.help.into()),
    }
}
