//! `ringwal parked`: dead letters, listed without opening the queue, discarded or redelivered with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringwal::{Durability, LogError, ParkedEntry, Queue};
use serde_json::json;

use crate::args::{Choice, DiscardArgs, Form, ParkedListArgs, QueueArgs, RedeliverArgs};
use crate::dump::{DAMAGED, payload};
use crate::failure::{Failure, LEFT, Result};
use crate::line::Line;
use crate::output::Out;
use crate::pipe::begin_without_input;
use crate::pipe::signals::Stop;
use crate::queue::{in_options, tell_given_up};
use crate::store::{Access, Locked, Parked, Store};
use crate::units::grouped;

pub(crate) fn list(args: &ParkedListArgs) -> Result<u8> {
    write_list(&mut Store::open(&args.dir, Access::Beside)?, args.form.chosen())
}

pub(crate) fn write_list(store: &mut Store, form: Form) -> Result<u8> {
    let mut out = Out::new();
    let Parked { entries, locked, damage } = store.parked()?;
    for entry in entries {
        let mut facts = json!({
            "lsn": entry.lsn.number(),
            "attempts": entry.attempts,
            "error": entry.error,
            "parked_ms": millis(entry.last_attempt),
            "schema": entry.schema.to_string(),
        });
        let bytes = payload(&mut facts, Some(&entry.schema), &entry.bytes);
        if form == Form::Text {
            out.put(format!("{}\t{} attempts\t{}\t", entry.lsn, entry.attempts, entry.error).as_bytes())?;
        }
        out.entry(form, bytes, facts)?;
    }
    out.flush()?;
    for corruption in &damage {
        eprintln!("ringwal: park/: {corruption}; they are left out");
    }
    match locked {
        None => Ok(if damage.is_empty() { 0 } else { DAMAGED }),
        Some(Locked { entries, key, problem }) => {
            let what = format!("{} parked entries are not shown: they are", grouped(entries));
            Err(Failure::usage(crate::keys::locked(&what, key, problem)))
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn discard(args: &DiscardArgs) -> Result<u8> {
    // Deliveries stand still meanwhile: nothing here says where to.
    let queue = QueueArgs::for_discard(args, must_exist(&args.dir)?.segment_len());
    let stop = Stop::on_signals()?;
    let sink = Arc::new(crate::sinks::refusing());
    let _start = begin_without_input(&queue, &sink)?;
    let opened = crate::queue::open(&queue, sink)?;
    tell_given_up(opened.recovery());
    let discarded = opened.parked().discard(|entry| args.choice.takes(entry));
    let closed = opened.shutdown(Duration::from_secs(5));
    let discarded = discarded.map_err(|error| failed(&queue, "discard", &error))?;
    closed.map_err(|error| Failure::new(format!("{}: {error}", args.dir.display())))?;
    say_count(&args.choice, discarded, "discarded")?;
    Ok(stop.exit_code().unwrap_or(0))
}

pub(crate) fn redeliver(args: &RedeliverArgs) -> Result<u8> {
    must_exist(&args.queue.dir)?;
    if args.queue.durability == Durability::Memory {
        return Err(Failure::usage(
            "--durability memory would take parked lines from the disk; use another durability",
        ));
    }
    let stop = Stop::on_signals()?;
    let sink = Arc::new(args.queue.to.open(&stop, false)?);
    let _start = begin_without_input(&args.queue, &sink)?;
    let queue = crate::queue::open(&args.queue, sink)?;
    tell_given_up(queue.recovery());
    let chosen = |entry: &ParkedEntry| args.choice.takes(entry);
    let redelivered = queue.parked().redeliver(chosen).map_err(|error| failed(&args.queue, "redeliver", &error))?;
    drain(&queue, &stop)?;
    let state = queue
        .shutdown(args.queue.shutdown_within)
        .map_err(|error| Failure::new(format!("{}: {error}", args.queue.dir.display())))?;
    say_count(&args.choice, redelivered, "put back into the queue")?;
    if let Some(code) = stop.exit_code() {
        return Ok(code);
    }
    Ok(if state.left_in_log > 0 || state.parked > 0 { LEFT } else { 0 })
}

fn drain(queue: &Queue<Line>, stop: &Stop) -> Result<()> {
    while !stop.is_set() {
        match queue.drain(Duration::from_millis(200)) {
            Ok(()) => return Ok(()),
            Err(LogError::TimedOut) => {}
            Err(error) => return Err(Failure::new(format!("delivery has ended: {}", in_options(&error)))),
        }
    }
    Ok(())
}

/// The directory as it is: none is made here.
fn must_exist(dir: &std::path::Path) -> Result<Store> {
    Store::open(dir, Access::Beside)
}

fn failed(queue: &QueueArgs, what: &str, error: &LogError) -> Failure {
    let remedy = match error {
        // Of the log itself the library says what to do.
        LogError::Corrupt(what) if what.starts_with("park/") => {
            "; run again with --on-corruption quarantine to go on without them"
        }
        _ => "",
    };
    Failure::new(format!("cannot {what} parked lines of {}: {}{remedy}", queue.dir.display(), in_options(error)))
}

fn say_count(choice: &Choice, count: usize, what: &str) -> Result<()> {
    if count == 0 && !choice.all {
        return Err(Failure::usage("no parked line has such an LSN; see `ringwal parked list`"));
    }
    eprintln!("ringwal: {} parked lines {what}", grouped(count as u64));
    Ok(())
}

impl Choice {
    fn takes(&self, entry: &ParkedEntry) -> bool {
        self.all || self.lsn.contains(&entry.lsn.number())
    }
}
