//! Where the figures come from.

use std::fmt;
use std::process::Command;
use std::time::Instant;

use ringwal::io::{self, DiskReport, IoConfig};

use crate::measure::{LONG, new_dir};

/// The machine as it was before the first measurement, for a table that shows itself after the last one.
pub(crate) struct Machine {
    disk: DiskReport,
    load: String,
    /// Looked up before the data are written, which may lie in the tree.
    commit: String,
    begun: Instant,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let dir = new_dir();
        let config = IoConfig { choice: io::Io::Auto, lock_wait: LONG, create: true, read_only: false };
        let pool = ringwal::wal::block::Pool::new(1, 4096).expect("memory");
        let disk = io::open(dir.path(), config).expect("a directory").into_disk(&pool).expect("a disk");
        let commit = says("git", &["describe", "--always", "--dirty"]);
        Self { disk: disk.report(), load: load(), commit, begun: Instant::now() }
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(2).collect::<Vec<_>>().join(" and ")
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, {}", model.map_or("of an unknown model", |(_, model)| model))
}

/// The first line that a program prints.
fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not known").to_owned()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let nice = rustix::process::getpriority_process(None).unwrap_or_default();
        let arguments: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
        let direct = if self.disk.direct { "direct" } else { "through the page cache" };
        writeln!(f, "| | |\n|---|---|")?;
        writeln!(f, "| machine | {} |", processor())?;
        writeln!(f, "| load | {} over one and five minutes before, {} after |", self.load, load())?;
        writeln!(f, "| disk | {}, {direct}, by {} |", self.disk.file_system, self.disk.driver)?;
        for note in &self.disk.notes {
            writeln!(f, "| | {note} |")?;
        }
        writeln!(f, "| kernel | Linux {kernel} |")?;
        writeln!(f, "| rustc | {} |", says("rustc", &["--version"]))?;
        writeln!(f, "| commit | {} |", self.commit)?;
        let command = "cargo bench --manifest-path benches/peers/Cargo.toml";
        let dashes = if arguments.is_empty() { "" } else { " -- " };
        writeln!(f, "| command | `{command}{dashes}{}`, at nice {nice} |", arguments.join(" "))?;
        writeln!(f, "| took | {} s |", self.begun.elapsed().as_secs())
    }
}
