//! Options of `pipe` from a file of settings: those that the command line does not give.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use ringwal::Settings;

use crate::args::{Cli, Command};
use crate::failure::{Failure, Result};

/// The keys for which `pipe` has an option, and its name there.
const OPTIONS: &[(&str, &str)] = &[
    ("durability", "durability"),
    ("batch_len_max", "batch-len"),
    ("linger", "linger"),
    ("log_bytes_max", "log-bytes-max"),
    ("segment_len", "segment-len"),
    ("io", "io"),
    ("memory_max", "memory-max"),
    ("entry_len_max", "entry-len-max"),
    ("retry.attempts_max", "retry-max"),
    ("on_corruption", "on-corruption"),
    ("lock_wait", "lock-wait"),
];

/// The command line, with what its `--config` adds.
pub(crate) fn parse(args: Vec<OsString>) -> std::result::Result<Result<Cli>, clap::Error> {
    let mut matches = Cli::command().try_get_matches_from(&args)?;
    let given = matches.subcommand_matches("pipe").cloned();
    let cli = Cli::from_arg_matches_mut(&mut matches)?;
    let (Command::Pipe(pipe), Some(given)) = (&cli.command, given) else {
        return Ok(Ok(cli));
    };
    let Some(file) = &pipe.config else {
        return Ok(Ok(cli));
    };
    match options(file, &given) {
        // Behind all others: nothing else on the line takes more than one value.
        Ok(more) => {
            let mut args = args;
            args.extend(more);
            let again =
                Cli::command().try_get_matches_from(args).and_then(|mut all| Cli::from_arg_matches_mut(&mut all));
            Ok(again.map_err(|error| Failure::usage(format!("{}: {}", file.display(), crate::args::one_line(&error)))))
        }
        Err(failure) => Ok(Err(failure)),
    }
}

/// What the file sets and the command line does not, as options.
fn options(file: &Path, given: &ArgMatches) -> Result<Vec<OsString>> {
    let settings = Settings::from_file(file).map_err(|error| Failure::usage(error.to_string()))?;
    let mut options = Vec::new();
    for (key, value, origin) in settings.iter() {
        let Some((_, option)) = OPTIONS.iter().find(|(name, _)| *name == key) else {
            let known: Vec<&str> = OPTIONS.iter().map(|(name, _)| *name).collect();
            let known = known.join(", ");
            return Err(Failure::usage(format!("{origin}: pipe has no option for {key}; it takes {known}")));
        };
        if given.value_source(&option.replace('-', "_")) == Some(ValueSource::CommandLine) {
            continue;
        }
        let value = match (key, value.as_str()) {
            ("retry.attempts_max", "none") => "0".to_owned(),
            ("on_corruption", word) => word.replace('_', "-"),
            _ => value,
        };
        options.push(format!("--{option}={value}").into());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_exists_and_has_a_key() {
        let command = Cli::command();
        let pipe = command.find_subcommand("pipe").unwrap();
        for (key, option) in OPTIONS {
            assert!(pipe.get_arguments().any(|arg| arg.get_long() == Some(option)), "--{option}");
            let config = ringwal::Queue::builder("queue").build().unwrap();
            assert!(config.settings().iter().any(|setting| setting.key == *key), "{key}");
        }
    }
}
