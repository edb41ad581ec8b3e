//! `ringwal dump`: entries of a log, or of the park, as text, hexadecimal or JSON.

use ringwal::wal::op::LogId;
use ringwal::{Lsn, Schema};
use serde_json::{Value, json};

use crate::args::{DumpArgs, Form};
use crate::failure::{Failure, Result};
use crate::line::{LINE_SCHEMA, split};
use crate::output::Out;
use crate::store::{Access, Found, Store, is_done, records};

/// Exit code when entries could not be read.
pub(crate) const DAMAGED: u8 = 1;

pub(crate) fn run(args: &DumpArgs) -> Result<u8> {
    let mut store = Store::open(&args.dir, Access::Beside)?;
    if args.parked {
        return crate::parked::write_list(&mut store, args.form.chosen());
    }
    let Some(survey) = store.survey(LogId::Main)? else {
        return Err(Failure::usage(format!(
            "{} holds no queue yet; give the directory of a queue",
            args.dir.display()
        )));
    };
    let acked = survey.scanned.cursor.acked;
    let first = args.first.map_or_else(|| if args.all { Lsn::FIRST } else { acked.next() }, Lsn::new);
    let last = Lsn::new(args.last.unwrap_or(u64::MAX));
    let (form, mut out, mut damaged, mut locked) = (args.form.chosen(), Out::new(), false, None);
    if first <= acked {
        // Delivered already: there as long as its segment is not used again, and nothing is promised.
        store.read_all(&survey, first, last.min(acked), &mut |frame, lsn, bytes| {
            write_entry(&mut out, form, frame.time.0, lsn, bytes)
        })?;
    }
    let first = first.max(acked.next());
    let everything = args.all || args.first.is_some();
    store.inspect(LogId::Main, Some(first), &mut |found| {
        match found {
            Found::Damage(corruption) => {
                eprintln!("ringwal: {corruption}; they are left out");
                damaged = true;
            }
            Found::Locked(header, key, problem) => {
                let what = format!("entries {} to {} are left out: they are", header.first_lsn, header.next_lsn.prev());
                locked = Some(Failure::usage(crate::keys::locked(&what, key, problem)));
                return Ok(header.next_lsn <= last);
            }
            Found::Frame(frame) => {
                for (lsn, bytes) in records(frame) {
                    if lsn >= first && lsn <= last && (everything || !is_done(&survey, lsn)) {
                        write_entry(&mut out, form, frame.header.time.0, lsn, bytes)?;
                    }
                }
                return Ok(frame.header.next_lsn <= last);
            }
        }
        Ok(true)
    })?;
    out.flush()?;
    if let Some(failure) = locked {
        return Err(failure);
    }
    Ok(if damaged { DAMAGED } else { 0 })
}

/// Writes an entry; lines are shown as lines, whatever their encoding carries besides.
pub(crate) fn write_entry(out: &mut Out, form: Form, time: u64, lsn: Lsn, bytes: &[u8]) -> Result<()> {
    let mut facts = json!({ "lsn": lsn.number(), "time_ns": time });
    let bytes = payload(&mut facts, None, bytes);
    out.entry(form, bytes, facts)
}

/// What of an entry is shown as its bytes, what goes into its facts.
pub(crate) fn payload<'a>(facts: &mut Value, schema: Option<&Schema>, bytes: &'a [u8]) -> &'a [u8] {
    // A frame does not name its schema; a line's head is hard to meet by chance, and nothing depends on it.
    let line = if schema.is_none_or(|schema| *schema == LINE_SCHEMA) { split(bytes) } else { None };
    let Some((head, text)) = line.filter(|(head, _)| head.number > 0 && head.offset >= head.number - 1 && head.run > 0)
    else {
        return bytes;
    };
    facts["line"] = json!(head.number);
    facts["offset"] = json!(head.offset);
    facts["run"] = json!(head.run);
    text
}
