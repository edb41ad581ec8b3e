//! Saved entries in a file, as text, hexadecimal or JSON; with `--all` also what must not be delivered,
//! each marked with its standing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ringwal::Lsn;
use ringwal::delivery::park::ParkRecord;
use ringwal::ring::record::Records;
use ringwal::wal::op::LogId;
use ringwal::wal::salvage::{Findings, Judged, Standing};
use serde_json::{Value, json};

use super::source::Source;
use super::{Damaged, report};
use crate::args::{Form, SalvageArgs, SalvageForm};
use crate::dump::payload;
use crate::failure::{Failure, Result};
use crate::output::Out;

/// The name under which a file is written until it is complete.
pub(super) fn unfinished(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

pub(super) fn write(args: &SalvageArgs, form: SalvageForm, source: &Source, logs: &mut [Damaged; 2]) -> Result<()> {
    let form = match form {
        SalvageForm::Hex => Form::Hex,
        SalvageForm::Json => Form::Json,
        SalvageForm::Queue | SalvageForm::Text => Form::Text,
    };
    let part = unfinished(&args.to);
    let create = File::options().write(true).create_new(true).open(&part);
    let file = create.map_err(|error| Failure::usage(format!("cannot create {}: {error}", part.display())))?;
    let mut out = Out::to(&file, failed);
    for damaged in logs.iter_mut() {
        let log = damaged.log;
        let mut put = |findings: &Findings, judged: &Judged, body: &[u8]| {
            for (lsn, bytes) in entries(judged, body) {
                let is_wanted = judged.standing != Standing::Live || report::is_wanted(findings, lsn);
                if is_wanted || args.all {
                    let standing = if is_wanted { judged.standing } else { Standing::Done };
                    put_entry(&mut out, form, log, lsn, bytes, origin(args, source, judged, standing))?;
                }
            }
            Ok(())
        };
        damaged.each_live(source, &mut put)?;
        let others = damaged.findings.frames.iter().filter(|judged| judged.standing != Standing::Live);
        for judged in others.filter(|_| args.all) {
            if let Some(body) = source.body(judged) {
                put(&damaged.findings, judged, &body)?;
            }
        }
    }
    out.flush()?;
    drop(out);
    let ended = file.sync_all().and_then(|()| std::fs::rename(&part, &args.to));
    ended.map_err(|error| {
        Failure::new(format!("cannot complete {}: {error}; {} is what there is", args.to.display(), part.display()))
    })
}

/// What is said of an entry besides its bytes.
fn origin(args: &SalvageArgs, source: &Source, judged: &Judged, standing: Standing) -> Value {
    let mut facts = json!({ "time_ns": judged.piece.header.time.0 });
    if args.all {
        facts["standing"] = json!(standing.to_string());
        facts["file"] = json!(source.name(judged.file));
        facts["offset"] = json!(judged.piece.offset);
    }
    facts
}

fn put_entry(out: &mut Out<&File>, form: Form, log: LogId, lsn: Lsn, bytes: &[u8], mut facts: Value) -> Result<()> {
    if log == LogId::Main {
        facts["lsn"] = json!(lsn.number());
        let bytes = payload(&mut facts, None, bytes);
        return out.entry(form, bytes, facts);
    }
    facts["parked"] = json!(lsn.number());
    let Ok(record) = ParkRecord::decode(bytes) else {
        return out.entry(form, bytes, facts);
    };
    facts["lsn"] = json!(record.lsn.number());
    facts["attempts"] = json!(record.attempts);
    facts["error"] = json!(record.error);
    facts["schema"] = json!(record.schema.to_string());
    let bytes = payload(&mut facts, Some(&record.schema), &record.payload);
    out.entry(form, bytes, facts)
}

fn entries<'a>(judged: &Judged, body: &'a [u8]) -> impl Iterator<Item = (Lsn, &'a [u8])> {
    let first = judged.piece.header.first_lsn;
    let records = Records::new(body).map_while(std::result::Result::ok);
    records.zip(0_u64..).map(move |(record, index)| (first.advance(index), record.payload))
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(format!(
        "cannot write what is saved: {error}; the file is not complete, as its name says. Remove it, see to the cause, and run again"
    ))
}
