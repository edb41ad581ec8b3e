//! `ringwal verify`: reads every live frame of both logs and checks it.

use ringwal::wal::inspect::Verified;
use ringwal::wal::op::LogId;
use ringwal::wal::recovery::Corruption;
use ringwal::wal::untold::Untold;
use serde_json::{Value, json};

use crate::args::DirArgs;
use crate::failure::{Failure, Result};
use crate::inspect;
use crate::output::{write_all, write_json};
use crate::store::{Access, Found, Store, add_unread};
use crate::units::{bytes_text, grouped};

/// Exit code when something is damaged.
const DAMAGED: u8 = 1;

pub(crate) fn run(args: &DirArgs) -> Result<u8> {
    let mut store = Store::open(&args.dir, Access::Beside)?;
    let Some((main, mut damage, untold)) = check(&mut store, LogId::Main)? else {
        return Err(Failure::usage(format!(
            "{} holds no queue yet; give the directory of a queue",
            args.dir.display()
        )));
    };
    let park = check(&mut store, LogId::Park)?;
    let (park, untold_parked) = park.map_or((None, Untold::default()), |(park, more, untold)| {
        damage.extend(more);
        (Some(park), untold)
    });
    let damaged = !damage.is_empty();
    if args.json {
        let log = |verified: &Verified| json!({ "frames": verified.frames, "entries": verified.records, "bytes": verified.bytes, "locked": verified.locked });
        let damage: Vec<_> = damage.iter().map(|(log, corruption)| with_log(damage_json(corruption), *log)).collect();
        write_json(
            &json!({ "ok": !damaged, "log": log(&main), "park": park.as_ref().map(log), "damage": damage, "untold": inspect::untold_json(&untold), "untold_parked": inspect::untold_json(&untold_parked) }),
        )?;
    } else {
        let mut out = format!("{}: {}\n", args.dir.display(), summary("log", &main));
        if let Some(park) = park.filter(|park| park.frames > 0) {
            out += &format!("{}/park: {}\n", args.dir.display(), summary("park", &park));
        }
        for (log, corruption) in &damage {
            let (file, first, last) = (file_of(*log, corruption), corruption.first, corruption.last);
            out += &format!(
                "DAMAGE {file} at offset {}: entries {first} to {last} cannot be read: {}\n",
                corruption.offset, corruption.why
            );
        }
        out += &inspect::untold_text("entries", &untold);
        out += &inspect::untold_text("parked entries", &untold_parked);
        out += if damaged { "damaged\n" } else { "ok\n" };
        write_all(out.as_bytes())?;
    }
    if damaged {
        let entries: u64 = damage.iter().map(|(_, corruption)| corruption.last.next().since(corruption.first)).sum();
        eprintln!(
            "ringwal: {}: {entries} durable entries cannot be read; restore the files from a copy, or open the queue with \
             on_corruption(Quarantine) (--on-corruption quarantine) to go on without them",
            args.dir.display()
        );
        return Ok(DAMAGED);
    }
    Ok(0)
}

type Damage = Vec<(LogId, Corruption)>;

/// `None`: there is no such log.
fn check(store: &mut Store, log: LogId) -> Result<Option<(Verified, Damage, Untold)>> {
    let mut damage = Vec::new();
    let (survey, verified) = store.inspect(log, None, &mut |found| {
        if let Found::Damage(corruption) = found {
            damage.push(corruption.clone());
        }
        Ok(true)
    })?;
    let Some(survey) = survey else {
        return Ok(None);
    };
    add_unread(&survey, &mut damage);
    let untold = survey.scanned.meta.map(|meta| meta.untold).unwrap_or_default();
    Ok(Some((verified, damage.into_iter().map(|corruption| (log, corruption)).collect(), untold)))
}

fn summary(name: &str, verified: &Verified) -> String {
    format!(
        "{name}: {} frames with {} entries in {} are whole",
        grouped(verified.frames),
        grouped(verified.records),
        bytes_text(verified.bytes)
    ) + &match verified.locked {
        0 => String::new(),
        locked => format!(
            "; {} of the entries are encrypted, and only their checksums were looked at: give their keys with --key-file",
            grouped(locked)
        ),
    }
}

fn file_of(log: LogId, corruption: &Corruption) -> String {
    ringwal::wal::op::FileId::Slot(log, corruption.slot).to_string()
}

pub(crate) fn damage_json(corruption: &Corruption) -> Value {
    json!({
        "file": file_of(LogId::Main, corruption),
        "offset": corruption.offset,
        "first_lsn": corruption.first.number(),
        "last_lsn": corruption.last.number(),
        "why": corruption.why,
    })
}

fn with_log(mut damage: Value, log: LogId) -> Value {
    if log == LogId::Park
        && let Some(file) = damage["file"].as_str()
    {
        damage["file"] = json!(format!("park/{file}"));
    }
    damage
}
