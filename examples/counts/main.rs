//! What a push, and an entry on its way through the queue, cost in instructions, locked instructions, system calls and
//! allocations. Exact, and the same on a busy machine. `tests/counts.rs` holds the figures to their bounds.
//!
//! ```text
//!   cargo run --release --features testing --example counts              the table
//!   cargo run --release --features testing --example counts -- acks 100  so many durable acks, one after the other, and
//!                                                     nothing else: for strace; `groups 100`: of 64 entries each; `spins 100`:
//!                                                     beside a flush core that spins
//! ```
//! The queue has no threads here and its disk is made up, so that nothing happens but what is counted.

#[cfg(target_arch = "x86_64")]
mod acks;
#[cfg(target_arch = "x86_64")]
mod path;
#[cfg(target_arch = "x86_64")]
mod step;

#[cfg(target_arch = "x86_64")]
use ringwal::Idle;

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => path::print_table(),
        [what @ ("acks" | "groups" | "spins"), count] if count.parse::<u32>().is_ok() => {
            let group = if what == "groups" { acks::GROUP } else { 1 };
            let idle = if what == "spins" { Idle::Spin } else { Idle::Park };
            acks::run(group, count.parse().unwrap_or(0), idle);
        }
        _ => {
            eprintln!("{args:?} is none of: nothing, `acks COUNT`, `groups COUNT`, `spins COUNT`");
            return std::process::ExitCode::from(2);
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("instructions are counted on x86-64 only");
}
