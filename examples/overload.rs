//! Producers ten times faster than the sink for a minute, then calm: shows what a push costs meanwhile, and where the
//! backlog lies. Ends with 1 when memory goes over its limit, something is lost or comes twice or out of order, the counts
//! do not add up, or the backlog does not go.
//!
//! ```text
//! cargo run --release --features testing --example overload -- --seconds 60
//! cargo run --release --features testing --example overload -- --seconds 10 --sink-recovers --dir /var/tmp/overload
//! ```
//! | option | default | |
//! |---|---|---|
//! | `--seconds N` | 60 | how long the overload lasts |
//! | `--per-second N` | 100000 | entries that the producers push in a second, all together |
//! | `--entry-len N` | 200 | bytes of an entry |
//! | `--producers N` | 2 | threads; the first has a ring of its own |
//! | `--memory-mib N` | 64 | `memory_max` |
//! | `--immediate`, `--spill` | periodic, 5 ms | durability |
//! | `--sink-recovers` | it keeps its pace | in calm the sink takes what it can: else calm takes ten times as long as the overload |
//! | `--dir DIR` | a temporary one | where the queue lies; it must not exist, and is removed |

#[path = "../tests/overload/mod.rs"]
mod overload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use overload::{Load, Options, run};
use ringwal::Durability;

const MIB: u64 = 1 << 20;
/// Of a record in the log, beyond the entry.
const RECORD_EXTRA: u64 = 32;

fn options() -> Result<Options, String> {
    let (mut seconds, mut per_second, mut entry_len, mut producers, mut memory) = (60, 100_000, 200, 2, 64);
    let mut options = Options {
        dir: None,
        durability: Durability::Periodic(Duration::from_millis(5)),
        producers: 0,
        entry_len: 0,
        memory_max: 0,
        segment_len: 16 * MIB,
        log_bytes_max: 0,
        load: Load::Entries(0),
        sink_keeps_pace: true,
        sample_every: Duration::from_millis(100),
        tell_every: Duration::from_secs(5),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"));
        match word.as_str() {
            "--seconds" => seconds = number(value()?)?.max(1),
            "--per-second" => per_second = number(value()?)?.max(1),
            "--entry-len" => entry_len = number(value()?)?.max(16),
            "--producers" => producers = number(value()?)?.clamp(1, 1000),
            "--memory-mib" => memory = number(value()?)?,
            "--immediate" => options.durability = Durability::Immediate,
            "--spill" => options.durability = Durability::Spill,
            "--sink-recovers" => options.sink_keeps_pace = false,
            "--dir" => options.dir = Some(PathBuf::from(value()?)),
            _ => return Err(format!("{word}: the options stand at the head of examples/overload.rs")),
        }
    }
    if options.dir.as_ref().is_some_and(|dir| dir.exists()) {
        return Err("--dir: there is something already".to_owned());
    }
    options.producers = u32::try_from(producers).map_err(|error| error.to_string())?;
    options.entry_len = usize::try_from(entry_len).map_err(|error| error.to_string())?;
    options.memory_max = memory * MIB;
    // All of it and a half more: the log is never the limit here.
    options.log_bytes_max = seconds * per_second * (entry_len + RECORD_EXTRA) / 2 * 3 + 256 * MIB;
    options.load = Load::Paced { lasts: Duration::from_secs(seconds), per_second };
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    println!("{options:?}");
    let report = run(&options);
    if let Some(dir) = &options.dir
        && let Err(error) = std::fs::remove_dir_all(dir)
    {
        eprintln!("{} stays: {error}", dir.display());
    }
    print!("{}", report.text());
    println!("{}", if report.wrong.is_empty() { "all held" } else { "not all held" });
    ExitCode::from(u8::from(!report.wrong.is_empty()))
}
