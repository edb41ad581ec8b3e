//! What does the whole queue cost, from push to disk to sink, beside the disk's own floor and plain rings?
//!
//! ```text
//!   cargo bench --bench end_to_end                 five rounds, about four minutes
//!   cargo bench --bench end_to_end -- --quick      each measurement once, briefly: does it run?
//!   cargo bench --bench end_to_end -- acks floor   only parts with these names; `--rounds 9` for more rounds,
//!                                                  `--csv FILE` for every figure of every round, `--into FILE.md`
//!                                                  to put the table behind that document's mark
//! ```
//! Every round runs every measurement once, so that a slow minute of the machine hits them all. A figure is
//! the median of the rounds with the least and the greatest; a ratio is the median of the ratios within a round.
//! The files lie below the build's target directory: put that on the disk that is to be measured.
//!
//! `benches/peers/` runs the same parts beside other logs and channels, and holds them against the goals.

#![cfg(not(loom))]

mod acks;
mod floor;
mod idle;
mod latency;
mod measure;
mod memory;
mod overload;
mod push;
mod push_batch;
mod push_cost;
mod push_tail;
mod recovery;
mod run;
mod table;
mod throughput;
mod told;

const PARTS: [run::Part; 11] = [
    ("floor", floor::run),
    ("acks", acks::run),
    ("latency", latency::run),
    ("throughput", throughput::run),
    ("memory", memory::run),
    ("push", push::run),
    ("push_batch", push_batch::run),
    ("push_tail", push_tail::run),
    ("recovery", recovery::run),
    ("overload", overload::run),
    ("idle", idle::run),
];

fn main() {
    let wish = run::Wish::read(&PARTS);
    wish.publish(&wish.run(&PARTS).to_string());
}
