//! Does ringwal reach its goals, beside its peers and the bare disk? One command, one table.
//!
//! ```text
//!   cargo bench --manifest-path benches/peers/Cargo.toml                 five rounds
//!   cargo bench --manifest-path benches/peers/Cargo.toml -- --quick      each measurement once, briefly: does it run?
//!   cargo bench --manifest-path benches/peers/Cargo.toml -- push acks    only the rows of these parts; `--rounds 9` for
//!                                                                        more rounds, `--csv FILE` for their figures,
//!                                                                        `--into FILE.md` to put all of it behind that
//!                                                                        document's mark
//! ```
//! It prints the machine, the goals with what was measured, and all other figures, as Markdown. Each round measures
//! everything once, so that a slow minute of the machine hits ringwal and its peers alike. A figure is the median of
//! the rounds, with the least and the greatest; a ratio is made within each round, and its median is held against the
//! goal. The measurements of ringwal itself are those of `benches/end_to_end/`; the files lie below the build's target
//! directory.

mod channels;
mod coded;
mod goal;
mod goals;
mod logs;
mod machine;
mod unused;

#[path = "../../end_to_end/acks.rs"]
mod acks;
#[path = "../../end_to_end/floor.rs"]
mod floor;
#[path = "../../end_to_end/idle.rs"]
mod idle;
#[path = "../../end_to_end/measure.rs"]
mod measure;
#[path = "../../end_to_end/memory.rs"]
mod memory;
#[path = "../../end_to_end/overload.rs"]
mod overload;
#[path = "../../end_to_end/push.rs"]
mod push;
#[path = "../../end_to_end/push_batch.rs"]
mod push_batch;
#[path = "../../end_to_end/push_cost.rs"]
mod push_cost;
#[path = "../../end_to_end/push_tail.rs"]
mod push_tail;
#[path = "../../end_to_end/recovery.rs"]
mod recovery;
#[path = "../../end_to_end/run.rs"]
mod run;
#[path = "../../end_to_end/table.rs"]
mod table;
#[path = "../../end_to_end/throughput.rs"]
mod throughput;
#[path = "../../end_to_end/told.rs"]
mod told;
#[path = "../../coding/whole_way.rs"]
mod whole_way;

/// What stands side by side in a row is measured side by side: the floor before the acks that are held against it, the
/// peers after what they are held against.
const PARTS: [run::Part; 14] = [
    ("floor", floor::run),
    ("acks", acks::run),
    ("logs", logs::run),
    ("throughput", throughput::run),
    ("memory", memory::run),
    ("channels", channels::run),
    ("push", push::run),
    ("push_tail", push_tail::run),
    ("push_batch", push_batch::run),
    ("unused", unused::run),
    ("recovery", recovery::run),
    ("overload", overload::run),
    ("coded", coded::run),
    ("idle", idle::run),
];

fn main() {
    let wish = run::Wish::read(&PARTS);
    let machine = machine::Machine::look();
    let table = wish.run(&PARTS);
    let verdicts = goal::Verdicts { goals: &goals::goals(), table: &table };
    wish.publish(&format!("{machine}\n{verdicts}\n## All figures\n\n{table}"));
}
