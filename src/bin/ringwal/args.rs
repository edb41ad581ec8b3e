//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::sinks::Target;
use crate::units::{parse_duration, parse_size};

/// Durable buffering of lines between a producer and a slow sink, and a look into queues of ringwal.
#[derive(Debug, Parser)]
#[command(name = "ringwal", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Keys to what is encrypted: one in a line, as NUMBER:KEY with 64 hexadecimal digits. What is written anew is
    /// encrypted with the last one; what `salvage` saves is not.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) key_file: Option<PathBuf>,
}

const AFTER_HELP: &str = "Exit codes: 0 done; 1 failed, or damage was found; 2 wrong arguments, or not a queue that can be read; \
3 the input was read to its end, but lines are left in the log, parked or not kept; 130, 143 stopped in order by a signal; \
4 salvage is done, but something is lost, or may be delivered again; 141 standard output was closed.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Reads lines from a file or standard input, keeps them in a queue on disk, and delivers them.
    Pipe(PipeArgs),
    /// Shows what is in a queue's directory: segments, LSNs, backlog, cursor, torn tail, parked entries.
    Inspect(DirArgs),
    /// Reads every live frame and checks it. Exit code 1 when something is damaged.
    Verify(DirArgs),
    /// Saves what can be saved of a damaged queue into a new directory or a file; the damaged one is only read.
    Salvage(SalvageArgs),
    /// Writes entries to standard output.
    Dump(DumpArgs),
    /// Writes the last entries to standard output, and with -f those that come.
    Tail(TailArgs),
    /// Lists, discards or redelivers parked lines.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// Measures this machine and this disk: pushes, durable acknowledgements, throughput, recovery.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PipeArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    /// A file of settings, .toml or .json, for the options that are not given here: durability, batch_len_max,
    /// linger, log_bytes_max, segment_len, io, memory_max, entry_len_max, retry.attempts_max, on_corruption, lock_wait.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The input. A regular file is read from where the last run ended; without it, or with "-",
    /// standard input is read.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Print each line's number to standard output once the line is durable; a last one without the end of its line, as a kill
    /// leaves it, is a piece of a number.
    #[arg(long)]
    pub(crate) ack: bool,
    /// Begin the input file anew, whatever was read of it or of another one before. Refused while the
    /// queue holds undelivered lines.
    #[arg(long)]
    pub(crate) restart: bool,
    /// How long the end of the input may wait for the sink; without it, as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) drain_within: Option<Duration>,
    /// Serve /metrics, /health and /stats at this address while it runs, such as 127.0.0.1:9464. With port 0 a free
    /// one is taken and told.
    #[cfg(feature = "serve")]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) serve: Option<String>,
    /// No progress, no promise, no summary; errors only.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What opens a queue of lines.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// The queue's directory, created where it is missing.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where the lines go: sqlite:FILE (table lines(lsn, line), exactly once), file:PATH (appended),
    /// stdout, null, exec:COMMAND (each batch on standard input; exit 0: delivered, 65: parked, else:
    /// tried again).
    #[arg(long, value_name = "SINK", default_value = "sqlite:ringwal.db")]
    pub(crate) to: Target,
    /// When a line is on disk: immediate, periodic:TIME (0.1 ms to 60 s), spill (only what does not fit
    /// into memory) or memory (never).
    #[arg(long, value_name = "MODE", default_value = "periodic:5ms", value_parser = parse_durability)]
    pub(crate) durability: ringwal::Durability,
    /// Most lines in a batch. 1 to 1,000,000.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) batch_len: usize,
    /// How long a line may wait for its batch to fill. 0 to 1 h.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = parse_duration)]
    pub(crate) linger: Duration,
    /// Most bytes of the log on disk. At least three segments.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse_size)]
    pub(crate) log_bytes_max: u64,
    /// Length of a segment file: a multiple of 64 KiB up to 4 GiB. Fixed when the directory is created.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_size)]
    pub(crate) segment_len: u64,
    /// How what is written is compressed.
    #[arg(long, value_enum, default_value_t = CompressArg::None)]
    pub(crate) compress: CompressArg,
    /// The I/O driver.
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    pub(crate) io: IoArg,
    /// Most bytes of memory for lines between ring and sink.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_size)]
    pub(crate) memory_max: u64,
    /// Longest line, without its newline. 1 byte to 16 MiB. A longer one is refused before any of it is
    /// written.
    #[arg(long, value_name = "BYTES", default_value = "255KiB", value_parser = parse_size)]
    pub(crate) entry_len_max: u64,
    /// Attempts before a batch is parked; 0: for ever. Default: 10 for exec:, for ever for the others.
    #[arg(long, value_name = "N")]
    pub(crate) retry_max: Option<u32>,
    /// How long a shutdown by a signal goes on delivering. What is left waits for the next run.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) shutdown_within: Duration,
    #[command(flatten)]
    pub(crate) opening: OpeningArgs,
}

/// What opening does with a directory that is damaged, or in use.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OpeningArgs {
    /// What to do when durable lines in the log are damaged: refuse to open, give up all from there on,
    /// or keep a copy and give up only what is damaged.
    #[arg(long, value_enum, default_value_t = CorruptionArg::Stop)]
    pub(crate) on_corruption: CorruptionArg,
    /// How long to wait for another process to let go of the directory. A killed one does so when the
    /// kernel has finished its last write, which on a busy disk takes seconds.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) lock_wait: Duration,
}

impl QueueArgs {
    /// For opening a directory whose segments have this length, to push nothing and deliver nothing. Whoever discards a
    /// line need not know how the directory was made: every size is one that fits.
    pub(crate) fn for_discard(args: &DiscardArgs, segment_len: u64) -> Self {
        Self {
            dir: args.dir.clone(),
            to: Target::Null,
            // No segment is made ready for lines that never come.
            durability: ringwal::Durability::Spill,
            batch_len: 1000,
            linger: Duration::from_millis(5),
            log_bytes_max: segment_len.saturating_mul(3).max(1 << 30),
            // That of the directory holds, whatever is said here.
            segment_len: 64 << 20,
            compress: CompressArg::None,
            io: IoArg::Auto,
            // In chunks as long as the directory's longest frame, of which there are to be few.
            memory_max: 8 << 20,
            entry_len_max: 255 << 10,
            retry_max: Some(0),
            shutdown_within: Duration::from_secs(5),
            opening: args.opening,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum IoArg {
    /// io_uring where the kernel allows it, else threads.
    Auto,
    /// io_uring or an error.
    Uring,
    /// Worker threads.
    Threads,
    /// io_uring through the runtime of tokio-uring, or an error.
    #[cfg(feature = "tokio-uring")]
    TokioUring,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CompressArg {
    /// Not.
    None,
    /// With LZ4: fast.
    Lz4,
    /// With zstd, level 3: shorter.
    Zstd,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CorruptionArg {
    /// Refuse to open.
    Stop,
    /// Give up everything from the damage on.
    CutTail,
    /// Copy the segment aside and give up only what is damaged.
    Quarantine,
}

#[derive(Debug, Args)]
pub(crate) struct DirArgs {
    /// The queue's directory. It is only read, also while the queue is open.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SalvageArgs {
    /// The damaged queue's directory. It is only read, and must not be open elsewhere.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where what is saved goes: a new or empty directory, or, with --as, a new file. Not within DIR.
    #[arg(long, value_name = "NEWDIR|FILE")]
    pub(crate) to: PathBuf,
    /// What is written: a queue that opens and delivers, with every LSN as it was, or a file.
    #[arg(long = "as", value_enum, default_value_t = SalvageForm::Queue, value_name = "FORM")]
    pub(crate) form: SalvageForm,
    /// Also every other whole frame: delivered, given up by a recovery, left over in a reused file, of another
    /// store. Each is marked, so only with --as json or hex.
    #[arg(long)]
    pub(crate) all: bool,
    /// What the entries are, as NAME:VERSION: needed for a new queue where no segment's header is whole.
    #[arg(long, value_name = "SCHEMA", value_parser = parse_schema)]
    pub(crate) schema: Option<ringwal::Schema>,
    /// Write the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SalvageForm {
    /// A directory that a queue opens.
    Queue,
    /// Their bytes and a newline.
    Text,
    /// Offset, hexadecimal and printable characters.
    Hex,
    /// An object in a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The queue's directory. It is only read, also while the queue is open.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    /// First LSN. Default: the first one that is not delivered.
    #[arg(long, value_name = "LSN")]
    pub(crate) first: Option<u64>,
    /// Last LSN. Default: the last one in the log.
    #[arg(long, value_name = "LSN")]
    pub(crate) last: Option<u64>,
    /// Also what is delivered already and still on disk.
    #[arg(long, conflicts_with = "first")]
    pub(crate) all: bool,
    /// Parked entries, with their reason, instead of those in the log.
    #[arg(long, conflicts_with_all = ["first", "last", "all"])]
    pub(crate) parked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The queue's directory. It is only read, also while the queue is open.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    /// How many entries.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub(crate) lines: usize,
    /// Go on with entries as they become durable, until interrupted.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// How an entry is written out.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FormArgs {
    /// How entries are shown.
    #[arg(long = "as", value_enum, default_value_t = Form::Text, value_name = "FORM")]
    pub(crate) form: Form,
    /// As --as json.
    #[arg(long, conflicts_with = "form")]
    pub(crate) json: bool,
}

impl FormArgs {
    pub(crate) const fn chosen(self) -> Form {
        if self.json { Form::Json } else { self.form }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Form {
    /// Their bytes and a newline.
    Text,
    /// Offset, hexadecimal and printable characters.
    Hex,
    /// An object in a line: LSN, time, and the bytes as text, or as hexadecimal where they are none.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ParkedCommand {
    /// Lists parked entries with their reason. Only reads, also while the queue is open.
    List(ParkedListArgs),
    /// Removes parked lines for good. The queue must not be open elsewhere.
    Discard(DiscardArgs),
    /// Puts parked lines back into the queue and delivers them.
    Redeliver(RedeliverArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ParkedListArgs {
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Which parked lines.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Choice {
    /// Those with these LSNs (the number under which they were first in the log), with commas.
    #[arg(long, value_name = "LSN", value_delimiter = ',')]
    pub(crate) lsn: Vec<u64>,
    /// All of them.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) opening: OpeningArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RedeliverArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) choice: Choice,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Where to measure: a directory is made here and removed at the end. Default: the current one.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long each part runs. 1 to 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) seconds: u64,
    /// Rounds of each part, of which the median is shown. 3 to 25.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=25))]
    pub(crate) rounds: u64,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The I/O driver.
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    pub(crate) io: IoArg,
}

fn parse_durability(text: &str) -> Result<ringwal::Durability, String> {
    use ringwal::Durability;
    match text.split_once(':') {
        None if text == "immediate" => Ok(Durability::Immediate),
        None if text == "periodic" => Ok(Durability::Periodic(Duration::from_millis(5))),
        None if text == "spill" => Ok(Durability::Spill),
        None if text == "memory" => Ok(Durability::Memory),
        Some(("periodic", period)) => {
            let period = parse_duration(period)?;
            let range = Duration::from_micros(100)..=Duration::from_secs(60);
            if range.contains(&period) {
                return Ok(Durability::Periodic(period));
            }
            Err(format!("a period of {period:?} is not within 0.1 ms to 60 s"))
        }
        _ => Err("expected immediate, periodic:TIME (as periodic:5ms), spill or memory".to_owned()),
    }
}

fn parse_schema(text: &str) -> Result<ringwal::Schema, String> {
    let parts = text.rsplit_once(':').and_then(|(name, version)| Some((name, version.parse().ok()?)));
    match parts {
        Some((name, version)) if (1..=72).contains(&name.len()) && !name.contains('\0') => {
            Ok(ringwal::Schema::new(name, version))
        }
        _ => Err("expected NAME:VERSION, as ringwal.line:1, with 1 to 72 bytes of name".to_owned()),
    }
}

/// A refusal of the command line, as one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut what = String::new();
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")) {
        if line.is_empty() || line.starts_with("For more information") {
            continue;
        }
        if !what.is_empty() {
            what.push(' ');
        }
        what.push_str(line.trim_start_matches("error: "));
    }
    format!("{what}; see `ringwal help`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_argument_is_refused_in_one_line_that_names_it() {
        for (args, named) in [
            (&["ringwal", "pipe", "--dir", "d", "--linger", "soon"][..], "--linger"),
            (&["ringwal", "pipe", "--dir", "d", "--durability", "periodic:61s"], "0.1 ms to 60 s"),
            (&["ringwal", "pipe", "--dir", "d", "--to", "kafka:x"], "--to"),
            (&["ringwal", "pipe"], "--dir"),
            (&["ringwal", "bench", "--seconds", "0"], "1..=60"),
            (&["ringwal", "frobnicate"], "frobnicate"),
        ] {
            let line = one_line(&Cli::try_parse_from(args).unwrap_err());
            assert!(line.contains(named) && !line.contains('\n'), "{line}");
        }
    }
}
