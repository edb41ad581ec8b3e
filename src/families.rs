//! Every metric by name, kind and meaning, once: the text for Prometheus, the `metrics` facade and the JSON of `serve`
//! are written from this table.

use crate::health::Health;
use crate::histogram::Histogram;
use crate::metrics::Metrics;
use crate::reasons::{Failures, Rejected};

/// What a number does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It only rises, until the queue is opened anew.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It is a distribution.
    Histogram,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a value of a histogram is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// Microseconds; told in seconds.
    Time,
    Count,
}

impl Unit {
    /// As it is told.
    #[expect(clippy::cast_precision_loss, reason = "what is that great is not told apart anyway")]
    pub(crate) fn told(self, value: u64) -> f64 {
        const MICROS: f64 = 1_000_000.0;
        match self {
            Self::Time => value as f64 / MICROS,
            Self::Count => value as f64,
        }
    }

    /// The bounds that are told, as powers of two: 16 µs to 67 s, and 1 to a million.
    pub(crate) const fn bounds(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Time => 4..=26,
            Self::Count => 0..=20,
        }
    }
}

/// A number as it is told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Number {
    Whole(u64),
    Seconds(f64),
}

impl Number {
    #[cfg(feature = "metrics")]
    #[expect(clippy::cast_precision_loss, reason = "what is that great is not told apart anyway")]
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Seconds(seconds) => seconds,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Seconds(seconds) => seconds.fmt(f),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Values<'a> {
    One(Number),
    /// A label of its own, and a number for each value of that.
    By(&'static str, Vec<(&'a str, Number)>),
    Buckets(&'a Histogram, Unit),
}

/// A metric of a queue.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    /// Without the prefix `ringwal_`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) values: Values<'a>,
}

/// Every field of [`Metrics`]: the pattern names them all, so that a new one is not forgotten.
#[rustfmt::skip]
pub(crate) fn families<'a>(metrics: &'a Metrics, health: &Health) -> Vec<Family<'a>> {
    use Kind::{Counter, Gauge};
    let whole = |name, kind, help, value| Family { name, kind, help, values: Values::One(Number::Whole(value)) };
    let seconds = |name, help, time: std::time::Duration| Family { name, kind: Gauge, help, values: Values::One(Number::Seconds(time.as_secs_f64())) };
    let by = |name, help, label, rows: &[(&'a str, u64)]| Family {
        name, kind: Counter, help, values: Values::By(label, rows.iter().map(|(value, count)| (*value, Number::Whole(*count))).collect()),
    };
    let buckets = |name, help, histogram, unit| Family { name, kind: Kind::Histogram, help, values: Values::Buckets(histogram, unit) };
    let &Metrics {
        recovered, recovered_from_rings, recovered_left, recovered_parked, pushed, pushed_bytes, rejected: _, rejected_by, dropped: _, dropped_by, ref pressure, delivered, parked,
        discarded, park_dropped, redelivered, lost, pending, in_flight, batches, delivery_failures, delivery_timeouts, failures_by, ref delivery_micros, ref batch_entries,
        sink_panics, retries, breaker_opened, breaker, ring_bytes, ring_bytes_max, backlog_bytes, oldest_age, memory_bytes, memory_bytes_max,
        last_lsn, durable_lsn, cursor_lsn, frames, log_bytes_written, padding_bytes, writes, syncs, commit_nanos_mean, ref commit_micros,
        ref commit_entries, ref drain_to_durable_micros, log_bytes, log_bytes_max, segments_live, segments_free, frames_let_go,
        frames_read_back, blocked_on_memory, blocked_on_log, driver,
    } = metrics;
    let Rejected { full, watermark, breaker: by_breaker, closed, failed, too_long, encode } = rejected_by;
    let Failures { retry, park, timeout, panic } = failures_by;
    let health = match health {
        Health::Ok => 0,
        Health::Degraded(_) => 1,
        Health::Failed(_) => 2,
    };
    vec![
        whole("health", Gauge, "0 well, 1 degraded, 2 failed.", health),
        whole("recovered_entries", Gauge, "Undelivered entries found in the log at open; less when numbers counted then turn out to hold none.", recovered),
        whole("recovered_from_rings_total", Counter, "Those among them that came from the rings of a dead process.", recovered_from_rings),
        whole("recovered_left_entries", Gauge, "How many of those found in the log at open are still to be delivered or parked.", recovered_left),
        whole("recovered_parked_entries", Gauge, "Parked entries found at open; less when numbers counted then turn out to hold none.", recovered_parked),
        whole("pushed_total", Counter, "Entries taken from producers.", pushed),
        whole("pushed_bytes_total", Counter, "Their bytes, as encoded.", pushed_bytes),
        by("rejected_total", "Entries given back to producers; they were never in the queue.", "reason", &[
            ("full", full), ("watermark", watermark), ("breaker", by_breaker), ("closed", closed), ("failed", failed), ("too_long", too_long), ("encode", encode),
        ]),
        by("dropped_total", "Entries given back under DropNewest; they were never in the queue.", "reason", &[
            ("full", dropped_by.full), ("watermark", dropped_by.watermark),
        ]),
        Family { name: "pressure", kind: Gauge, help: "How full it is: 0 calm, 1 over the soft watermark, 2 over the hard one.", values: Values::By("measure", vec![
            ("memory", Number::Whole(pressure.memory as u64)), ("log", Number::Whole(pressure.log as u64)), ("backlog", Number::Whole(pressure.backlog as u64)),
        ]) },
        by("pressure_episodes_total", "How often a watermark was reached.", "grade", &[
            ("soft", pressure.soft_episodes), ("hard", pressure.hard_episodes),
        ]),
        whole("delayed_pushes_total", Counter, "Pushes that were slowed down.", pressure.delayed),
        Family { name: "delayed_pushes_seconds_total", kind: Counter, help: "For how long, all together.", values: Values::One(Number::Seconds(pressure.delayed_for.as_secs_f64())) },
        seconds("push_delay_seconds", "By how much a push is slowed down now.", pressure.delay),
        whole("delivered_total", Counter, "Entries that the sink acknowledged.", delivered),
        whole("parked_entries", Gauge, "Entries parked now.", parked),
        whole("discarded_total", Counter, "Entries discarded by the user, or refused for good under Park::Drop.", discarded),
        whole("park_dropped_total", Counter, "Those among them that were discarded as the park was full.", park_dropped),
        whole("redelivered_total", Counter, "Parked entries that were put back into the queue.", redelivered),
        whole("lost_total", Counter, "Entries that could not be read back since open, given up under Quarantine.", lost),
        whole("pending_entries", Gauge, "Entries on their way to the sink.", pending),
        whole("in_flight_entries", Gauge, "Entries that the sink has now.", in_flight),
        whole("backlog_bytes", Gauge, "Bytes of undelivered entries in the log, headers and padding included.", backlog_bytes),
        seconds("oldest_age_seconds", "How long ago the oldest entry that delivery has was taken over; 0 for none.", oldest_age),
        whole("batches_total", Counter, "Batches given to the sink, retries included.", batches),
        buckets("batch_entries", "Entries in a batch, retries included.", batch_entries, Unit::Count),
        buckets("delivery_seconds", "How long the sink took for a batch.", delivery_micros, Unit::Time),
        whole("delivery_failures_total", Counter, "Deliveries that failed in whole or in part.", delivery_failures),
        by("delivery_failures_by_kind_total", "The same by what happened; one may count under several kinds.", "kind", &[
            ("retry", retry), ("park", park), ("timeout", timeout), ("panic", panic),
        ]),
        whole("delivery_timeouts_total", Counter, "Deliveries without an answer by their deadline.", delivery_timeouts),
        whole("sink_panics_total", Counter, "Deliveries that ended in a panic of the sink.", sink_panics),
        whole("retried_entries_total", Counter, "Entries that are to be offered again, counted at each retry.", retries),
        whole("breaker_opened_total", Counter, "How often the breaker has opened.", breaker_opened),
        whole("breaker_state", Gauge, "0 closed, 1 open, 2 half-open.", breaker as u64),
        whole("ring_bytes", Gauge, "Bytes in the rings.", ring_bytes),
        whole("ring_bytes_max", Gauge, "What the rings hold at most.", ring_bytes_max),
        whole("memory_bytes", Gauge, "Bytes of the memory pool that are in use.", memory_bytes),
        whole("memory_bytes_max", Gauge, "What the memory pool holds at most.", memory_bytes_max),
        whole("last_lsn", Gauge, "Number of the last entry.", last_lsn.number()),
        whole("durable_lsn", Gauge, "Everything up to here survives a loss of power.", durable_lsn.number()),
        whole("cursor_lsn", Gauge, "Everything up to here is done, durably.", cursor_lsn.number()),
        whole("frames_total", Counter, "Frames written.", frames),
        whole("log_bytes_written_total", Counter, "Bytes written to the log, padding included.", log_bytes_written),
        whole("log_padding_bytes_total", Counter, "Bytes of padding among them.", padding_bytes),
        whole("writes_total", Counter, "Writes submitted.", writes),
        whole("syncs_total", Counter, "Syncs submitted; with Immediate each write is its own.", syncs),
        seconds("commit_mean_seconds", "Moving average of the time of a commit.", std::time::Duration::from_nanos(commit_nanos_mean)),
        buckets("commit_seconds", "How long commits took, from their submission on.", commit_micros, Unit::Time),
        buckets("commit_entries", "Entries that became durable at once.", commit_entries, Unit::Count),
        buckets("drain_to_durable_seconds", "How long frames took to be durable, from their first entry's leaving its ring on.", drain_to_durable_micros, Unit::Time),
        whole("log_bytes", Gauge, "Bytes of the segment files that hold something.", log_bytes),
        whole("log_bytes_max", Gauge, "What these may be at most.", log_bytes_max),
        whole("segments_live", Gauge, "Segment files that hold something.", segments_live),
        whole("segments_free", Gauge, "Segment files that are ready for use.", segments_free),
        whole("frames_let_go_total", Counter, "Frames let go from memory because delivery lags.", frames_let_go),
        whole("frames_read_back_total", Counter, "Frames read back from the log.", frames_read_back),
        whole("blocked_on_memory_total", Counter, "Turns of the flush core without memory for entries.", blocked_on_memory),
        whole("blocked_on_log_total", Counter, "Turns of the flush core without a segment for entries.", blocked_on_log),
        Family { name: "driver", kind: Gauge, help: "The I/O driver in use, as a label; always 1.", values: Values::By("driver", vec![(driver, Number::Whole(1))]) },
    ]
}
