//! Any command line: it is understood, or refused in one line; sizes and times never overflow, and what is
//! understood opens a queue or is refused by the name of its option.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the program's own sources, of which this target uses a part")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use arbitrary::Arbitrary;
use clap::Parser;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/ringwal/args.rs"]
mod args;
#[path = "../../src/bin/ringwal/failure.rs"]
mod failure;
#[path = "../../src/bin/ringwal/keys.rs"]
mod keys;
#[path = "../../src/bin/ringwal/line.rs"]
mod line;
#[path = "../../src/bin/ringwal/output.rs"]
mod output;
#[path = "../../src/bin/ringwal/pipe"]
mod pipe {
    pub(crate) mod signals;
}
#[path = "../../src/bin/ringwal/queue.rs"]
mod queue;
#[path = "../../src/bin/ringwal/sinks/mod.rs"]
mod sinks;
#[path = "../../src/bin/ringwal/units.rs"]
mod units;

use args::{Cli, Command, ParkedCommand, QueueArgs, one_line};
use units::{bytes_text, grouped, parse_duration, parse_size};

/// Words that are likely to mean something, so that random bytes get past the first one.
const WORDS: &[&str] = &[
    "pipe",
    "inspect",
    "verify",
    "dump",
    "tail",
    "parked",
    "bench",
    "list",
    "discard",
    "redeliver",
    "help",
    "--help",
    "--version",
    "--dir",
    "--from",
    "--ack",
    "--restart",
    "--drain-within",
    "--quiet",
    "-q",
    "--to",
    "--durability",
    "--batch-len",
    "--linger",
    "--log-bytes-max",
    "--segment-len",
    "--io",
    "--memory-max",
    "--entry-len-max",
    "--retry-max",
    "--on-corruption",
    "--shutdown-within",
    "--lock-wait",
    "--json",
    "--first",
    "--last",
    "--all",
    "--parked",
    "-n",
    "--lines",
    "--follow",
    "-f",
    "--as",
    "--lsn",
    "--seconds",
    "--rounds",
    "immediate",
    "periodic",
    "periodic:5ms",
    "spill",
    "memory",
    "stdout",
    "null",
    "sqlite:a.db",
    "file:b",
    "exec:true",
    "auto",
    "uring",
    "tokio-uring",
    "threads",
    "stop",
    "cut-tail",
    "quarantine",
    "text",
    "hex",
    "json",
    "d",
    "-",
    "--",
    "0",
    "1",
    "64KiB",
    "1GiB",
    "18446744073709551615",
    "18446744073709551616",
    "5ms",
    "30s",
    "300m",
    "9999999999m",
    "-1",
    "1,2,3",
];

#[derive(Arbitrary, Debug)]
enum Word {
    Known(u8),
    /// A known one with something behind it: `--dir=x`, `periodic:…`.
    Joined(u8, u8, Vec<u8>),
    Any(Vec<u8>),
    Number(u64, u8),
}

const UNITS: &[&str] =
    &["", "B", "KiB", "MiB", "GiB", "k", "kB", "MB", "GB", "ns", "us", "µs", "ms", "s", "m", " s", "x"];

impl Word {
    fn bytes(&self) -> Vec<u8> {
        let known = |at: u8| WORDS[usize::from(at) % WORDS.len()];
        match self {
            Self::Known(at) => known(*at).into(),
            Self::Joined(at, by, rest) => [known(*at).as_bytes(), &[b"=:,"[usize::from(by % 3)]], rest].concat(),
            Self::Any(bytes) => bytes.clone(),
            Self::Number(number, unit) => format!("{number}{}", UNITS[usize::from(*unit) % UNITS.len()]).into(),
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    words: Vec<Word>,
    /// A text for the readers of units by themselves.
    text: String,
    /// A number with a unit, likewise.
    number: (u64, u8),
}

/// What the rest of the program makes of it, as far as nothing is touched.
fn look_at(args: &QueueArgs) {
    let shown = args.to.to_string();
    assert_eq!(shown.parse(), Ok(args.to.clone()), "a sink is shown as it is read");
    let len = queue::line_len_max(args);
    assert!(len.is_err() || (1..=16 << 20).contains(&args.entry_len_max));
    let _ = (args.to.is_exactly_once(), args.to.attempts_default());
    if let ringwal::Durability::Periodic(period) = args.durability {
        assert!((Duration::from_micros(100)..=Duration::from_secs(60)).contains(&period));
    }
}

fn read_units(text: &str) {
    if let Ok(bytes) = parse_size(text) {
        // What was read as a number of bytes can be written as one.
        assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        let _ = (bytes_text(bytes), grouped(bytes));
    }
    if let Ok(time) = parse_duration(text) {
        assert_eq!(parse_duration(&format!("{}ns", time.as_nanos())), Ok(time));
    }
}

fuzz_target!(|input: Input| {
    read_units(&input.text);
    read_units(&format!("{}{}", input.number.0, UNITS[usize::from(input.number.1) % UNITS.len()]));
    let words = input.words.iter().map(|word| OsString::from_vec(word.bytes()));
    match Cli::try_parse_from(std::iter::once(OsString::from("ringwal")).chain(words)) {
        Ok(cli) => match &cli.command {
            Command::Pipe(args) => look_at(&args.queue),
            Command::Parked(ParkedCommand::Redeliver(args)) => {
                look_at(&args.queue);
                assert!(args.choice.all || !args.choice.lsn.is_empty());
            }
            Command::Bench(args) => assert!((1..=60).contains(&args.seconds) && (3..=25).contains(&args.rounds)),
            _ => {}
        },
        Err(error) if error.exit_code() == 0 => assert!(!error.render().to_string().is_empty()),
        Err(error) => {
            let line = one_line(&error);
            assert!(!line.contains('\n') && line.ends_with("see `ringwal help`"), "{line:?}");
            // The same as the program says it, whatever control characters were given.
            assert!(!failure::Failure::usage(line).to_string().contains('\n'));
        }
    }
});
