//! `ringwal tail`: the last entries of a log, and with `-f` those that come.

use std::time::Duration;

use ringwal::Lsn;
use ringwal::wal::op::LogId;

use crate::args::{Form, TailArgs};
use crate::dump::write_entry;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::store::{Access, Store};

/// How often `-f` looks for new entries.
const EVERY: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &TailArgs) -> Result<u8> {
    let mut store = Store::open(&args.dir, Access::Beside)?;
    let Some(survey) = store.survey(LogId::Main)? else {
        return Err(Failure::usage(format!(
            "{} holds no queue yet; give the directory of a queue",
            args.dir.display()
        )));
    };
    let form = args.form.chosen();
    let end = survey.scanned.end;
    let from = Lsn::new(end.number().saturating_sub(args.lines as u64).saturating_add(1));
    let mut out = Out::new();
    store
        .read_all(&survey, from, end, &mut |frame, lsn, bytes| write_entry(&mut out, form, frame.time.0, lsn, bytes))?;
    out.flush()?;
    if args.follow { follow(&mut store, end, form) } else { Ok(0) }
}

fn follow(store: &mut Store, shown: Lsn, form: Form) -> Result<u8> {
    let mut shown = shown;
    let mut out = Out::new();
    loop {
        std::thread::sleep(EVERY);
        let Some(survey) = store.survey(LogId::Main)? else {
            continue;
        };
        let end = survey.scanned.end;
        store.read_all(&survey, shown.next(), end, &mut |frame, lsn, bytes| {
            write_entry(&mut out, form, frame.time.0, lsn, bytes)
        })?;
        shown = shown.max(end);
        out.flush()?;
    }
}
