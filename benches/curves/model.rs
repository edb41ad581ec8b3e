//! The model of scale of `docs/SCALING.md`, and how well it predicts what was measured.
//!
//! ```text
//!   cost(stage) = fixed + per_byte · stride          ns of CPU for an entry, stride = its bytes in a ring
//!   rate        = min( producers / push,
//!                      queues / flush,  queues / sink,
//!                      cpus / (push + flush + sink + other),
//!                      disk / (stride · traffic) )
//! ```
//! The costs are fitted to the CPU times of *some* lengths, measured on all CPUs ([`FITTED`]); rates are then predicted for all
//! lengths, and for one CPU. Where other programs took part of the CPUs meanwhile, there are two predictions: for a quiet
//! machine, and for what they left. They also take what the queue leaves idle while it waits for the disk, so the second
//! says how well the costs fit, and only the first what bounds a rate.

use std::fmt::{self, Write};

use ringwal::ring::record::stride_of;

use crate::data::{Data, Spread};

/// Lengths in bytes that the costs are fitted to; the others are predicted.
const FITTED: [f64; 4] = [8.0, 100.0, 1024.0, 16384.0];
/// What threads do, as the data names it.
const STAGES: [&str; 4] = ["push", "flush", "sink", "other"];

/// What an entry costs in a stage.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cost {
    /// Nanoseconds.
    pub(crate) fixed: f64,
    /// Nanoseconds for each byte of the stride.
    pub(crate) per_byte: f64,
}

impl Cost {
    /// The line with the least squares of relative errors; never negative.
    fn fit(points: &[(f64, f64)]) -> Option<Self> {
        if !points.is_empty() && points.iter().all(|(_, nanos)| *nanos <= 0.0) {
            return Some(Self { fixed: 0.0, per_byte: 0.0 });
        }
        // Weighted by 1/y²: a tenth too much is as wrong for 8 bytes as for 64 KiB.
        let mut sums = [0.0; 5];
        for (stride, nanos) in points.iter().filter(|(_, nanos)| *nanos > 0.0) {
            let weight = 1.0 / (nanos * nanos);
            let terms = [1.0, *stride, stride * stride, *nanos, stride * nanos];
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += weight * term);
        }
        let [w, x, xx, y, xy] = sums;
        let det = w * xx - x * x;
        if det <= 0.0 {
            return None;
        }
        let (fixed, per_byte) = ((xx * y - x * xy) / det, (w * xy - x * y) / det);
        // A negative part is noise; the other then carries all.
        Some(match (fixed < 0.0, per_byte < 0.0) {
            (true, _) => Self { fixed: 0.0, per_byte: xy / xx },
            (_, true) => Self { fixed: y / w, per_byte: 0.0 },
            _ => Self { fixed, per_byte },
        })
    }

    pub(crate) fn of(self, stride: f64) -> f64 {
        self.fixed + self.per_byte * stride
    }
}

/// What is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) producers: f64,
    /// Each has a flush core and a delivery thread.
    pub(crate) queues: f64,
    pub(crate) cpus: f64,
}

/// What bounds a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    Producers,
    FlushCore,
    Delivery,
    Cpus,
    Disk,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Producers => "producers",
            Self::FlushCore => "flush core",
            Self::Delivery => "delivery",
            Self::Cpus => "CPUs",
            Self::Disk => "disk",
        })
    }
}

/// Costs of the stages, in the order of [`STAGES`], and the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) costs: [Cost; 4],
    /// Bytes a nanosecond; infinite where nothing is written.
    pub(crate) disk: f64,
    /// Bytes that go to and from the disk for each byte of the log: 1, and what is read back.
    pub(crate) traffic: f64,
}

impl Model {
    /// From the medians of the data; `None` where they are not in it.
    pub(crate) fn fit(data: &Data, mode: &str) -> Option<Self> {
        let cost = |stage: &str| {
            let curve = format!("cpu {mode}: {stage}");
            let at = |len: f64| Some((stride_of(len as usize) as f64, data.median(&curve, len)?));
            Cost::fit(&FITTED.iter().filter_map(|len| at(*len)).collect::<Vec<_>>())
        };
        let [push, flush, sink, other] = STAGES.map(cost);
        let costs = [push?, flush?, sink?, other?];
        if mode == "Memory" {
            return Some(Self { costs, disk: f64::INFINITY, traffic: 1.0 });
        }
        let shares: Vec<f64> =
            FITTED.iter().filter_map(|len| data.median(&format!("read back: {mode}"), *len)).collect();
        let traffic = 1.0 + shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        Some(Self { costs, disk: data.median("throughput: bare writes", 0.0)? / 1e3, traffic })
    }

    /// Entries a second, and what keeps it from being more.
    pub(crate) fn rate(&self, stride: f64, machine: Machine) -> (f64, Limit) {
        let [push, flush, sink, other] = self.costs.map(|cost| cost.of(stride));
        let per_nano = [
            (machine.producers / push, Limit::Producers),
            (machine.queues / flush, Limit::FlushCore),
            (machine.queues / sink, Limit::Delivery),
            (machine.cpus / (push + flush + sink + other), Limit::Cpus),
            (self.disk / (stride * self.traffic), Limit::Disk),
        ];
        let least = per_nano.into_iter().min_by(|one, two| one.0.total_cmp(&two.0));
        least.map(|(rate, limit)| (rate * 1e9, limit)).expect("there are five")
    }
}

/// The parameters, what they predict, and what was measured; empty when the data has nothing to fit.
pub(crate) fn check(data: &Data) -> String {
    let mut out = String::new();
    for mode in ["Memory", "Periodic"] {
        if let Some(model) = Model::fit(data, mode) {
            check_mode(&mut out, data, mode, &model).expect("a text takes everything");
        }
    }
    out
}

fn check_mode(out: &mut String, data: &Data, mode: &str, model: &Model) -> fmt::Result {
    writeln!(out, "\n{mode}: costs fitted at {FITTED:?} bytes on all CPUs")?;
    writeln!(out, "\n| stage | ns per entry | ns per byte of its stride |\n|---|---:|---:|")?;
    for (stage, cost) in STAGES.iter().zip(model.costs) {
        writeln!(out, "| {stage} | {:.2} | {:.4} |", cost.fixed, cost.per_byte)?;
    }
    if model.disk.is_finite() {
        writeln!(
            out,
            "\ndisk {:.0} MB/s, {:.2} bytes of traffic per byte of the log",
            model.disk * 1e3,
            model.traffic
        )?;
    }
    writeln!(
        out,
        "\n| bytes | CPUs | measured M/s | min – max | predicted, limit | ratio | CPUs left | predicted with them | ratio |"
    )?;
    writeln!(out, "|---:|---:|---:|---|---|---:|---:|---:|---:|")?;
    let mut ratios = [Vec::new(), Vec::new()];
    for (place, all) in [("", data.median("cpus", 0.0).unwrap_or(1.0)), (" on one CPU", 1.0)] {
        let curve = format!("entries: {mode}{place}");
        for len in data.xs(&curve) {
            let left = data.median(&format!("cpus left: {mode}{place}"), len);
            let (Some(measured), Some(left)) = (data.at(&curve, len), left) else { continue };
            let rate = |cpus| {
                let machine = Machine { producers: 1.0, queues: 1.0, cpus };
                let (rate, limit) = model.rate(stride_of(len as usize) as f64, machine);
                (rate / 1e6, limit)
            };
            let ((alone, limit), (beside, _)) = (rate(all), rate(left));
            let Spread { min, median, max } = measured;
            let fitted = if place.is_empty() && FITTED.contains(&len) { "*" } else { "" };
            write!(out, "| {len}{fitted} | {all} | {median:.3} | {min:.3} – {max:.3} | {alone:.3}, {limit} |")?;
            writeln!(out, " {:.2} | {left:.2} | {beside:.3} | {:.2} |", alone / median, beside / median)?;
            ratios[0].push(alone / median);
            ratios[1].push(beside / median);
        }
    }
    for (ratios, what) in ratios.iter_mut().zip(["a quiet machine", "the CPUs that others left"]) {
        ratios.sort_unstable_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
            let median = ratios[ratios.len() / 2];
            writeln!(out, "\npredicted for {what} / measured: median {median:.2}, from {least:.2} to {most:.2}")?;
        }
    }
    saturation(out, mode, model)?;
    project(out, mode, model)
}

/// Where each thread of a queue would be the limit, if it had a CPU of its own and nothing else stood in its way.
fn saturation(out: &mut String, mode: &str, model: &Model) -> fmt::Result {
    writeln!(out, "\n{mode}: what one thread of each kind can do, M entries/s and MB/s of payload\n")?;
    writeln!(out, "| bytes | one producer | flush core | delivery |\n|---:|---|---|---|")?;
    for len in [8, 100, 1024, 4096, 16384, 65536] {
        write!(out, "| {len} |")?;
        for cost in &model.costs[..3] {
            let rate = 1e3 / cost.of(stride_of(len) as f64);
            write!(out, " {rate:.2}, {:.0} |", rate * len as f64)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What more CPUs, producers and queues would give if each cost stayed what it is here.
fn project(out: &mut String, mode: &str, model: &Model) -> fmt::Result {
    writeln!(out, "\n{mode}, not measured: M entries/s if costs stayed what they are\n")?;
    writeln!(out, "| CPUs | producers | queues | 8 B | 100 B | 1 KiB | 16 KiB |\n|---:|---:|---:|---|---|---|---|")?;
    for (cpus, producers, queues) in [(4, 2, 1), (8, 6, 1), (8, 4, 2), (16, 8, 4), (32, 16, 8)] {
        write!(out, "| {cpus} | {producers} | {queues} |")?;
        let machine = Machine { producers: producers.into(), queues: queues.into(), cpus: cpus.into() };
        for len in [8, 100, 1024, 16384] {
            let (rate, limit) = model.rate(stride_of(len) as f64, machine);
            write!(out, " {:.2}, {limit} |", rate / 1e6)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
