//! The program `ringwal`: pipes lines through a queue, looks into queues, measures.
//!
//! ```text
//!   main ─ args ─┬─ pipe     source ─► queue ─► sinks      opens the queue
//!                ├─ parked   discard, redeliver            opens the queue
//!                ├─ inspect, verify, dump, tail ─► store   only reads, also while a queue is open
//!                ├─ salvage  whole frames ─► a new queue, or a file; reads alone, follows nothing
//!                └─ bench    the disk's floor and ours, in one run
//! ```
//! Every error is one line: what, where, what to do. Exit codes: `failure.rs`.

mod args;
mod bench;
mod dump;
mod failure;
mod inspect;
mod keys;
mod line;
mod output;
mod parked;
mod pipe;
mod queue;
mod salvage;
mod settings;
mod sinks;
mod store;
mod tail;
mod units;
mod verify;

use std::process::ExitCode;

use args::{Command, ParkedCommand};
use failure::{Failure, Result};

fn main() -> ExitCode {
    let cli = match settings::parse(std::env::args_os().collect()) {
        Ok(Ok(cli)) => cli,
        Ok(Err(failure)) => return end(Err(failure)),
        Err(error) if error.exit_code() == 0 => {
            let text = output::write_all(error.render().to_string().as_bytes());
            return end(text.map(|()| 0));
        }
        Err(error) => return end(Err(Failure::usage(args::one_line(&error)))),
    };
    end(cli.key_file.as_deref().map_or(Ok(()), keys::load).and_then(|()| run(&cli.command)))
}

fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Pipe(args) => pipe::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Salvage(args) => salvage::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Parked(ParkedCommand::List(args)) => parked::list(args),
        Command::Parked(ParkedCommand::Discard(args)) => parked::discard(args),
        Command::Parked(ParkedCommand::Redeliver(args)) => parked::redeliver(args),
        Command::Bench(args) => bench::run(args),
    }
}

fn end(result: Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.is_quiet() {
                eprintln!("ringwal: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}
