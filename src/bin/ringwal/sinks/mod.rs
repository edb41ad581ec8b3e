//! Where lines go.
//!
//! | sink           | a batch is delivered when               | after a crash                                |
//! |----------------|-----------------------------------------|----------------------------------------------|
//! | `sqlite:FILE`  | rows and LSN are committed together     | each line exactly once: LSNs tell            |
//! | `file:PATH`    | it is appended and synced               | the last batch may be there twice, or partly |
//! | `stdout`       | it is written and flushed               | the last batch may come twice                |
//! | `exec:COMMAND` | the command ended with exit code 0      | the last batch may come twice                |
//! | `null`         | at once                                 | nothing to see                               |

mod exec;
mod file;
mod sqlite;
mod stdout;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringwal::{Batch, Lsn, Outcome, Sink, SinkError};

use crate::failure::Result;
use crate::line::{Head, Line, split};
use crate::pipe::signals::Stop;

pub(crate) use sqlite::Progress;

/// A sink as it is named on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Sqlite(PathBuf),
    File(PathBuf),
    Stdout,
    Null,
    Exec(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", file)) if !file.is_empty() => Ok(Self::Sqlite(file.into())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("exec", command)) if !command.trim().is_empty() => Ok(Self::Exec(command.to_owned())),
            None if text == "stdout" => Ok(Self::Stdout),
            None if text == "null" => Ok(Self::Null),
            _ => Err("expected sqlite:FILE, file:PATH, stdout, null or exec:COMMAND".to_owned()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stdout => f.write_str("stdout"),
            Self::Null => f.write_str("null"),
            Self::Exec(command) => write!(f, "exec:{command}"),
        }
    }
}

impl Target {
    /// Whether it stores LSNs with the lines, and so takes none twice.
    pub(crate) const fn is_exactly_once(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Attempts before a batch is parked, where nothing else was said: a command may refuse a batch for
    /// what is in it; the others fail for reasons that pass.
    pub(crate) const fn attempts_default(&self) -> Option<u32> {
        if matches!(self, Self::Exec(_)) { Some(10) } else { None }
    }

    /// Opens it.
    pub(crate) fn open(&self, stop: &Arc<Stop>, stdout_is_taken: bool) -> Result<LineSink> {
        let work: Box<dyn Deliver> = match self {
            Self::Sqlite(file) => Box::new(sqlite::Sqlite::open(file)?),
            Self::File(path) => Box::new(file::Append::open(path)?),
            Self::Stdout => Box::new(stdout::Stdout::new(Arc::clone(stop))),
            Self::Null => Box::new(Null),
            Self::Exec(command) => Box::new(exec::Exec::new(command, stdout_is_taken)),
        };
        Ok(LineSink { work: Mutex::new(work) })
    }
}

/// What a sink does with a batch. It blocks while it works.
trait Deliver: Send {
    /// Delivers a batch and says what became of it.
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome;

    /// What is stored together with the lines.
    fn progress(&self) -> Option<Progress> {
        None
    }

    /// Takes note of whose lines these are; `memory`: LSNs begin anew with this run.
    fn adopt(&mut self, pipe: &str, memory: bool) -> Result<()> {
        let _ = (pipe, memory);
        Ok(())
    }

    /// The last LSN that is stored together with the lines.
    fn committed(&self) -> Option<Lsn> {
        None
    }
}

/// A sink that takes nothing: for opening a queue without delivering from it.
pub(crate) fn refusing() -> LineSink {
    LineSink { work: Mutex::new(Box::new(Refuse)) }
}

struct Refuse;

impl Deliver for Refuse {
    fn deliver(&mut self, _: &Batch<Line>) -> Outcome {
        let later = SinkError::retry_after(Duration::from_secs(3600), "nothing is delivered meanwhile");
        Outcome::All(later.into_verdict())
    }
}

struct Null;

impl Deliver for Null {
    fn deliver(&mut self, _: &Batch<Line>) -> Outcome {
        Outcome::ack()
    }
}

/// A sink of lines, as the queue takes it.
pub(crate) struct LineSink {
    work: Mutex<Box<dyn Deliver>>,
}

impl LineSink {
    /// What is stored together with the lines.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.work().progress()
    }

    /// Takes note of whose lines these are.
    pub(crate) fn adopt(&self, pipe: &str, memory: bool) -> Result<()> {
        self.work().adopt(pipe, memory)
    }

    fn work(&self) -> std::sync::MutexGuard<'_, Box<dyn Deliver>> {
        // A panic in a sink counts as a retry; the sinks here keep no state that it could leave broken.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink<Line> for LineSink {
    async fn deliver(&self, batch: Batch<Line>) -> Outcome {
        self.work().deliver(&batch)
    }

    async fn committed(&self) -> Option<Lsn> {
        self.work().committed()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn partial(&self) -> bool {
        false
    }
}

/// The lines of a batch: LSN, head and text, the text where it lies.
fn lines(batch: &Batch<Line>) -> impl Iterator<Item = (Lsn, Head, &[u8])> {
    batch.iter().enumerate().map(|(index, delivery)| {
        let text = split(batch.bytes(index)).map_or(&[][..], |(_, text)| text);
        (delivery.lsn, delivery.value.head, text)
    })
}

/// Puts the lines of a batch into `out`, with the newlines that they had.
fn join(batch: &Batch<Line>, out: &mut Vec<u8>) {
    out.clear();
    for (_, head, text) in lines(batch) {
        out.extend_from_slice(text);
        if !head.no_newline {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_named_as_it_is_read() {
        for text in ["sqlite:a.db", "file:/tmp/x", "stdout", "null", "exec:cat > \"a:b\""] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for bad in ["", "sqlite", "sqlite:", "file:", "exec: ", "stdout:", "tcp:1"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
