//! JSON lines through the log, compressed and encrypted, beside neither.

use std::sync::OnceLock;

use crate::measure::Scale;
use crate::table::Table;
use crate::whole_way::{self, WAYS};

pub(crate) fn name(way: &str) -> String {
    format!("JSON lines / {way} / payload")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    let lines = LINES.get_or_init(whole_way::lines);
    for (way, set) in WAYS {
        let dir = crate::measure::new_dir();
        let (speed, share) = whole_way::run(dir.path(), set, lines, scale.time.as_secs_f64());
        if way == "plain" {
            table.add(name(way), "MB/s", speed);
        } else {
            table.add_beside(name(way), "MB/s", speed, &name("plain"));
        }
        table.add(format!("JSON lines / {way} / bytes on disk per payload byte"), "", share);
    }
}
