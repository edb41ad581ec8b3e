//! How long from push to disk, at fixed rates? Times count from when a push was due: `end_to_end/latency.rs` measures.

use ringwal::Durability;

use crate::measure::Scale;
use crate::round::Round;
use crate::table::{Table, last_part};
use crate::{floor, latency};

/// Pushes a second.
const RATES: [u32; 8] = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000];
/// Ends of names that are curves.
const PARTS: [&str; 3] = ["p50", "p99", "p99.9"];

pub(crate) fn run(scale: Scale, round: &mut Round) {
    let mut table = Table::default();
    floor::run(scale, &mut table);
    round.add_table(table, 0.0, |name| match name.strip_prefix(floor::ACK) {
        Some(part) => {
            PARTS.iter().find(|known| part.ends_with(**known)).map(|part| format!("latency: bare write {part}"))
        }
        None => name.starts_with(floor::WRITE).then(|| "throughput: bare writes".to_owned()),
    });
    for rate in RATES {
        let mut table = Table::default();
        latency::at_rate(scale, &mut table, Durability::Immediate, "Immediate", rate);
        let curve_of = |name: &str| {
            let part = last_part(name);
            PARTS.contains(&part).then(|| format!("latency: Immediate {part}"))
        };
        round.add_table(table, f64::from(rate), curve_of);
    }
}
