//! What an open queue costs while nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use ringwal::Durability;

use crate::measure::{Fixed, LONG, Scale, cpu_time, new_dir, null, open};
use crate::table::Table;

pub(crate) fn name(durability: &str, what: &str) -> String {
    format!("idle / {durability} / {what}")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for (durability, durability_name) in [
        (Durability::Immediate, "Immediate"),
        (Durability::Periodic(Duration::from_millis(5)), "Periodic"),
        (Durability::Memory, "Memory"),
    ] {
        let dir = new_dir();
        let queue = open(dir.path(), durability, null::<Fixed<100>>());
        queue.producer().push(Fixed([7; 100])).expect("room");
        queue.drain(LONG).expect("a sink that works");
        // The cursor is written within 50 ms, and segments ahead are made.
        thread::sleep(scale.time);
        let (before, begun, cpu) = (queue.metrics(), Instant::now(), cpu_time());
        thread::sleep(scale.time);
        let (cpu, took) = (cpu_time() - cpu, begun.elapsed());
        table.add(name(durability_name, "CPU"), "ms/s", cpu.as_secs_f64() * 1e3 / took.as_secs_f64());
        table.add(name(durability_name, "writes"), "", (queue.metrics().writes - before.writes) as f64);
    }
}
