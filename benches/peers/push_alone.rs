//! What a push of 8 B costs, and nothing else: for builds with other features, beside each other. See `goals/unused.rs`.
//!
//! Takes how many entries to push, prints the nanoseconds of a push on a line for each kind.

#[expect(dead_code, reason = "one measurement needs few of them")]
#[path = "../end_to_end/measure.rs"]
mod measure;
#[expect(dead_code, reason = "there is no eager one here")]
#[path = "../end_to_end/push_cost.rs"]
mod push_cost;

use measure::Scale;
use push_cost::{Pace, RING_LEN, pinned, shared};

fn main() {
    let entries = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(Scale::QUICK.entries);
    let scale = Scale { entries, ..Scale::QUICK };
    println!("pinned {}", pinned::<8>(scale, RING_LEN, Pace::Lazy));
    println!("shared {}", shared::<8>(scale, RING_LEN, Pace::Lazy));
}
