//! Which plots there are, and which curves stand in them.

use crate::svg::{Axis, Line, Plot};

fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", round(v / 1e6)),
        v if v >= 1e3 => format!("{} k", round(v / 1e3)),
        v => round(v),
    }
}

fn bytes(value: f64) -> String {
    if value >= 1024.0 { format!("{} Ki", round(value / 1024.0)) } else { round(value) }
}

fn round(value: f64) -> String {
    format!("{}", (value * 1000.0).round() / 1000.0)
}

const fn log(name: &'static str, show: fn(f64) -> String) -> Axis {
    Axis { name, is_log: true, show }
}

const fn line(curve: &'static str, name: &'static str, colour: usize) -> Line {
    Line { curve, name, colour, is_dashed: false }
}

/// What the others are compared with.
const fn beside(curve: &'static str, name: &'static str, colour: usize) -> Line {
    Line { curve, name, colour, is_dashed: true }
}

/// All plots of the report.
pub(crate) fn all() -> Vec<Plot> {
    let push = |file, title, lines| Plot {
        file,
        title,
        x: log("producers at once", number),
        y: Axis { name: "ns per push", is_log: true, show: number },
        lines,
    };
    vec![
        push(
            "push-8",
            "What a push of 8 bytes costs the one who pushes, beside crossbeam's ArrayQueue",
            vec![
                line("push 8 B: pinned", "pinned producers", 0),
                line("push 8 B: shared", "shared rings", 2),
                beside("push 8 B: ArrayQueue", "ArrayQueue", 1),
            ],
        ),
        push(
            "push-64",
            "What a push of 64 bytes costs the one who pushes, beside crossbeam's ArrayQueue",
            vec![
                line("push 64 B: pinned", "pinned producers", 0),
                line("push 64 B: shared", "shared rings", 2),
                beside("push 64 B: ArrayQueue", "ArrayQueue", 1),
            ],
        ),
        Plot {
            file: "latency",
            title: "From when a push is due until it is on disk (Immediate, 100 B), beside one bare 4 KiB DSYNC write",
            x: log("pushes a second, on a fixed schedule", number),
            y: log("µs", number),
            lines: vec![
                line("latency: Immediate p50", "p50", 0),
                line("latency: Immediate p99", "p99", 1),
                line("latency: Immediate p99.9", "p99.9", 4),
                beside("latency: bare write p50", "bare write, p50", 0),
                beside("latency: bare write p99", "bare write, p99", 1),
                beside("latency: bare write p99.9", "bare write, p99.9", 4),
            ],
        },
        Plot {
            file: "throughput",
            title: "Payload through the queue by length of entry, one pinned producer, beside bare 1 MiB direct writes",
            x: log("bytes of an entry", bytes),
            y: log("MB/s of payload", number),
            lines: vec![
                line("throughput: Memory", "Memory", 2),
                line("throughput: Periodic", "Periodic(5 ms)", 0),
                line("throughput: Memory on one CPU", "Memory, one CPU", 3),
                line("throughput: Periodic on one CPU", "Periodic(5 ms), one CPU", 4),
                beside("throughput: bare writes", "bare 1 MiB writes", 1),
            ],
        },
        Plot {
            file: "cpu",
            title: "CPU time per entry of each thread while a producer pushes without pause (Periodic)",
            x: log("bytes of an entry", bytes),
            y: log("ns of CPU per entry", number),
            lines: vec![
                line("cpu Periodic: push", "producer, waits included", 0),
                line("cpu Periodic: flush", "flush core", 1),
                line("cpu Periodic: sink", "delivery", 2),
                line("cpu Periodic: other", "preparer and kernel workers", 5),
            ],
        },
        Plot {
            file: "recovery-time",
            title: "From opening until delivery, by what waits on disk (100 B entries), beside bare direct reads",
            x: log("entries that wait", number),
            y: log("ms", number),
            lines: vec![
                line("recovery: all delivered", "all delivered", 0),
                line("recovery: first delivery", "first delivery", 2),
                beside("recovery: bare reads", "bare 1 MiB reads of it", 1),
            ],
        },
        Plot {
            file: "recovery-rate",
            title: "Rate of recovery to the sink, opening included (100 B entries), beside bare direct reads",
            x: log("entries that wait", number),
            y: Axis { name: "MB/s of payload", is_log: false, show: number },
            lines: vec![
                line("recovery rate: to the sink", "to the sink", 0),
                beside("recovery rate: bare reads", "bare 1 MiB reads of it", 1),
            ],
        },
    ]
}
