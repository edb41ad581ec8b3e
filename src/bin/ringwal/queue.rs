//! Opens a queue of lines as the command line says.

use std::sync::Arc;
use std::time::Duration;

use ringwal::{Compression, ConfigError, Durability, Io, OnCorruption, OpenError, Queue, Recovery, Retry, WhenFull};

use crate::args::{CompressArg, CorruptionArg, IoArg, QueueArgs};
use crate::failure::{Failure, Result};
use crate::line::{HEAD_LEN, Line};
use crate::sinks::LineSink;

/// How long a push waits before it looks at signals and health.
pub(crate) const PUSH_WAIT: Duration = Duration::from_millis(100);
const RING_BYTES_MIN: usize = 1 << 20;
const LINE_LEN_MAX: u64 = 16 << 20;

impl From<IoArg> for Io {
    fn from(io: IoArg) -> Self {
        match io {
            IoArg::Auto => Self::Auto,
            IoArg::Uring => Self::Uring,
            IoArg::Threads => Self::Threads,
            #[cfg(feature = "tokio-uring")]
            IoArg::TokioUring => Self::TokioUring,
        }
    }
}

impl From<CompressArg> for Compression {
    fn from(compress: CompressArg) -> Self {
        match compress {
            CompressArg::None => Self::None,
            CompressArg::Lz4 => Self::lz4(),
            CompressArg::Zstd => Self::zstd(),
        }
    }
}

impl From<CorruptionArg> for OnCorruption {
    fn from(policy: CorruptionArg) -> Self {
        match policy {
            CorruptionArg::Stop => Self::Stop,
            CorruptionArg::CutTail => Self::CutTail,
            CorruptionArg::Quarantine => Self::Quarantine,
        }
    }
}

/// Longest line that the arguments allow.
pub(crate) fn line_len_max(args: &QueueArgs) -> Result<usize> {
    let len = usize::try_from(args.entry_len_max).ok().filter(|_| (1..=LINE_LEN_MAX).contains(&args.entry_len_max));
    len.ok_or_else(|| {
        Failure::usage(format!("--entry-len-max is {}, but must be 1 to {LINE_LEN_MAX}", args.entry_len_max))
    })
}

/// Opens the queue, which begins to deliver what is left in it.
pub(crate) fn open(args: &QueueArgs, sink: Arc<LineSink>) -> Result<Queue<Line>> {
    let entry_len_max = line_len_max(args)? + HEAD_LEN;
    let attempts_max = match args.retry_max {
        None => args.to.attempts_default(),
        Some(0) => None,
        Some(attempts) => Some(attempts),
    };
    let builder = Queue::builder(&args.dir)
        .durability(args.durability)
        .lock_wait(args.opening.lock_wait)
        .batch_len_max(args.batch_len)
        .linger(args.linger)
        .log_bytes_max(args.log_bytes_max)
        .segment_len(args.segment_len)
        .memory_max(args.memory_max)
        .entry_len_max(entry_len_max)
        .ring_bytes((4 * (entry_len_max + 8)).next_power_of_two().max(RING_BYTES_MIN))
        .rings(1)
        .pinned_rings(1)
        .retry(Retry { attempts_max, ..Retry::default() })
        .when_full(WhenFull::BlockFor(PUSH_WAIT))
        .on_corruption(args.opening.on_corruption.into())
        .compression(args.compress.into())
        .io(args.io.into());
    let builder = match crate::keys::aes() {
        Some(keys) => builder.cipher(keys),
        None => builder,
    };
    builder.open(sink).map_err(|error| refused(&error))
}

fn refused(error: &OpenError) -> Failure {
    match error {
        OpenError::Config(error) => Failure::usage(option_of(error)),
        OpenError::CommittedInMemory => {
            Failure::usage("--durability memory does not go with this sink; use another durability")
        }
        OpenError::KeyMissing { .. } | OpenError::WrongKey { .. } => {
            Failure::usage(error.to_string().replace("to `cipher`", "with --key-file"))
        }
        OpenError::NotADirectory { .. } | OpenError::Schema { .. } | OpenError::NewerFormat { .. } => {
            Failure::usage(error.to_string())
        }
        _ => Failure::new(in_options(error)),
    }
}

/// A setting that does not fit, under the name of its option.
fn option_of(error: &ConfigError) -> String {
    let option = match error.field {
        "batch_len_max" => "--batch-len".to_owned(),
        field if field.starts_with("durability") => "--durability".to_owned(),
        field if field.starts_with("retry") => "--retry-max".to_owned(),
        field => format!("--{}", field.replace('_', "-")),
    };
    format!("{option} is {}, but must be {}", error.value, error.range)
}

/// What the library says, with its setters under the names of their options.
pub(crate) fn in_options(text: &dyn std::fmt::Display) -> String {
    let text = text.to_string();
    text.replace("`on_corruption(Quarantine)`", "--on-corruption quarantine").replace("`CutTail`", "cut-tail")
}

/// Says what opening gave up, and what earlier openings did that may have told nobody.
pub(crate) fn tell_given_up(recovery: &Recovery) {
    let earlier = &recovery.earlier;
    for (what, given_up, before) in
        [("entries", &recovery.lost, &earlier.lost), ("parked entries", &recovery.lost_parked, &earlier.lost_parked)]
    {
        for (first, last) in given_up {
            eprintln!("ringwal: {what} {first} to {last} were damaged and have been given up, as --on-corruption says");
        }
        for (first, last) in before {
            eprintln!(
                "ringwal: {what} {first} to {last} already by an earlier run that was cut off before it could say so"
            );
        }
    }
    for note in &earlier.notes {
        eprintln!("ringwal: {note}");
    }
}

/// What holds for lines, by input, durability and sink.
pub(crate) fn promise(durability: Durability, from_file: bool, exactly_once_sink: bool) -> &'static str {
    match durability {
        Durability::Immediate | Durability::Periodic(_) if from_file && exactly_once_sink => {
            "exactly once: every line of the file, also over kill -9 and loss of power"
        }
        Durability::Immediate | Durability::Periodic(_) if from_file => {
            "at least once: after a crash the last batch may come again, no line is left out"
        }
        Durability::Immediate | Durability::Periodic(_) => {
            "at least once: after a crash the producer must send again what was not acknowledged; what was, is not lost"
        }
        _ => "may lose what is in memory on a crash",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_once_is_promised_only_where_it_holds() {
        let periodic = Durability::Periodic(Duration::from_millis(5));
        assert!(promise(periodic, true, true).starts_with("exactly once"));
        assert!(promise(Durability::Immediate, true, false).starts_with("at least once"));
        assert!(promise(Durability::Immediate, false, true).starts_with("at least once"));
        for lossy in [Durability::Spill, Durability::Memory] {
            assert!(promise(lossy, true, true).starts_with("may lose"));
        }
    }
}
