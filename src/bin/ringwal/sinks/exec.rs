//! A command for each batch: the lines on its standard input, its exit code the verdict.
//!
//! | it ends with            | the batch is                                                  |
//! |-------------------------|----------------------------------------------------------------|
//! | exit code 0             | delivered, even if it did not read all of it                  |
//! | exit code 65 EX_DATAERR | parked at once                                                |
//! | another code, a signal  | tried again after a growing delay, parked after the last time |
//!
//! The command runs in a process group of its own, so that Ctrl-C lets it finish its batch.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use ringwal::{Batch, Outcome};

use super::{Deliver, join};
use crate::line::Line;

/// `EX_DATAERR` of sysexits.h: the input was wrong.
const PARK: i32 = 65;

pub(super) struct Exec {
    command: String,
    stdout_is_taken: bool,
    buffer: Vec<u8>,
}

impl Exec {
    pub(super) fn new(command: &str, stdout_is_taken: bool) -> Self {
        Self { command: command.to_owned(), stdout_is_taken, buffer: Vec::new() }
    }

    fn run(&self, input: &[u8]) -> io::Result<ExitStatus> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &self.command]).stdin(Stdio::piped()).process_group(0);
        if self.stdout_is_taken {
            command.stdout(io::stderr());
        }
        let mut child = command.spawn()?;
        let written = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(input),
            None => Ok(()),
        };
        // It is waited for in any case; what it did not care to read is its own affair.
        let status = child.wait()?;
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(status),
        }
    }
}

impl Deliver for Exec {
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome {
        let mut buffer = std::mem::take(&mut self.buffer);
        join(batch, &mut buffer);
        let status = self.run(&buffer);
        self.buffer = buffer;
        match status {
            Ok(status) => verdict(status),
            Err(error) => Outcome::retry(format!("cannot run the command: {error}")),
        }
    }
}

fn verdict(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::ack(),
        (Some(PARK), _) => Outcome::park("the command ended with exit code 65"),
        (Some(code), _) => Outcome::retry(format!("the command ended with exit code {code}")),
        (None, Some(signal)) => Outcome::retry(format!("the command was ended by signal {signal}")),
        (None, None) => Outcome::retry("the command ended in an unknown way"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwal::Outcome;

    fn outcome_of(command: &str, input: &[u8]) -> Outcome {
        verdict(Exec::new(command, true).run(input).unwrap())
    }

    #[test]
    fn the_exit_code_is_the_verdict() {
        assert_eq!(outcome_of("test \"$(cat)\" = ab", b"ab\n"), Outcome::ack());
        assert_eq!(outcome_of("exit 65", b"x"), Outcome::park("the command ended with exit code 65"));
        assert_eq!(outcome_of("exit 3", b"x"), Outcome::retry("the command ended with exit code 3"));
        assert_eq!(outcome_of("kill -9 $$", b"x"), Outcome::retry("the command was ended by signal 9"));
    }

    #[test]
    fn a_command_that_does_not_read_its_input_may_still_accept_it() {
        assert_eq!(outcome_of("exit 0", &[b'x'; 1 << 20]), Outcome::ack());
    }
}
