//! `ringwal inspect`: what is in a queue's directory.

use ringwal::wal::coding::features;
use ringwal::wal::inspect::Survey;
use ringwal::wal::op::LogId;
use ringwal::wal::recovery::{SlotReport, SlotState};
use ringwal::wal::untold::Untold;
use serde_json::{Value, json};

use crate::args::DirArgs;
use crate::failure::{Failure, Result};
use crate::output::{write_all, write_json};
use crate::store::{Access, Store};
use crate::units::{bytes_text, grouped, ratio};

pub(crate) fn run(args: &DirArgs) -> Result<u8> {
    let mut store = Store::open(&args.dir, Access::Beside)?;
    let Some(survey) = store.survey(LogId::Main)? else {
        return Err(Failure::usage(format!(
            "{} holds no queue yet; give the directory of a queue",
            args.dir.display()
        )));
    };
    let parked = store.parked()?;
    let parked = parked.entries.len() as u64 + parked.locked.map_or(0, |locked| locked.entries);
    let rings = rings(&args.dir);
    if args.json {
        let mut all = as_json(&survey, parked);
        all["rings"] = rings.map_or(Value::Null, |(file, is_there)| json!({ "file": file, "exists": is_there }));
        write_json(&all)?;
    } else {
        let mut all = as_text(&args.dir.display().to_string(), &survey, parked);
        if let Some((file, is_there)) = rings {
            let state = if is_there { "entries may wait there that the log does not have" } else { "gone" };
            all += &format!("\nrings      in {file}: {state}\n");
        }
        write_all(all.as_bytes())?;
    }
    Ok(0)
}

/// The file of rings in shared memory, if the directory names one, and whether it is there.
fn rings(dir: &std::path::Path) -> Option<(String, bool)> {
    let file = ringwal::io::ring_file::read_marker(dir).ok().flatten()?;
    Some((file.display().to_string(), file.exists()))
}

/// What a slot is used for, now that the whole log is known.
fn state_of(survey: &Survey, slot: &SlotReport) -> &'static str {
    let scanned = &survey.scanned;
    match &slot.state {
        SlotState::Segment(header) if scanned.live.iter().any(|live| live.uid == header.uid) => {
            if header.seq == scanned.seq_max { "open" } else { "live" }
        }
        SlotState::Segment(_) if scanned.voids.contains(&slot.slot) => "torn",
        SlotState::Segment(_) => "done",
        SlotState::Free => "free",
        SlotState::Void => "void",
        SlotState::Invalid => "unprepared",
    }
}

/// One line of the table: slot, state, and for segments seq, uid, base, end, fill, schema.
fn segment_json(survey: &Survey, slot: &SlotReport) -> Value {
    let mut row = json!({
        "slot": slot.slot.0,
        "file": format!("seg-{:08}.rwal", slot.slot.0),
        "state": state_of(survey, slot),
        "bytes": slot.file_len,
    });
    let SlotState::Segment(header) = &slot.state else {
        return row;
    };
    row["seq"] = json!(header.seq);
    row["uid"] = json!(format!("{:016x}", header.uid.0));
    row["base_lsn"] = json!(header.base_lsn.number());
    row["schema"] = json!(header.schema.to_string());
    row["key"] = json!(header.key.map(|key| key.id.number()));
    if let Some(live) = survey.scanned.live.iter().find(|live| live.uid == header.uid) {
        let used = u64::from(live.end_position) * u64::from(header.block_len);
        row["end_lsn"] = json!(live.end.number());
        row["fill"] = json!(ratio(used.min(header.segment_len), header.segment_len));
    }
    row
}

/// The keys of live segments.
fn segment_keys(survey: &Survey) -> impl Iterator<Item = u32> {
    survey.scanned.live.iter().filter_map(|live| live.key.map(|key| key.id.number()))
}

/// What openings gave up or found torn, and perhaps told nobody.
pub(crate) fn untold_json(untold: &Untold) -> Value {
    let lost = untold.lost.iter().map(|(first, next)| json!([first.number(), next.prev().number()]));
    json!({
        "lost": lost.collect::<Vec<_>>(),
        "joined": untold.is_joined,
        "unclear": untold.is_unclear,
        "tears": untold.tears,
    })
}

pub(crate) fn untold_text(what: &str, untold: &Untold) -> String {
    let mut out = String::new();
    for (first, next) in &untold.lost {
        out += &format!(
            "GIVEN UP   {what} {first} to {} by an earlier opening, which may have told nobody\n",
            next.prev()
        );
    }
    if untold.is_joined {
        out += "           what lies between some of them is named with them, and not lost\n";
    }
    if untold.is_unclear {
        out += &format!("GIVEN UP   some {what} by an earlier opening; that part of META makes no sense\n");
    }
    if let Some(torn) = untold.torn {
        out +=
            &format!("torn tail  behind LSN {}, found by an earlier opening, which may have told nobody\n", torn.end);
    }
    out
}

fn as_json(survey: &Survey, parked: u64) -> Value {
    let scanned = &survey.scanned;
    let cursor = &scanned.cursor;
    let meta = scanned.meta.as_ref().map(|meta| {
        json!({
            "store": meta.store.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "block_len": meta.block_len,
            "frame_len_max": meta.frame_len_max,
            "segment_len": meta.segment_len,
            "epoch": meta.epoch,
            "generation": meta.generation,
            "features": meta.features,
            "reserved_lsn": meta.reserved_lsn.number(),
            "untold": (!meta.untold.is_empty()).then(|| untold_json(&meta.untold)),
        })
    });
    let first = scanned.live.first().map_or(scanned.end.next(), |live| live.base);
    json!({
        "meta": meta,
        "clean": scanned.report.clean,
        "lsn": { "first": first.number(), "last": scanned.end.number(), "next": scanned.next_lsn.number(), "promised": scanned.report.promise.number() },
        "backlog": survey.backlog(),
        "parked": parked,
        "cursor": {
            "acked": cursor.acked.number(),
            "done": cursor.done.iter().map(|(first, next)| json!([first.number(), next.prev().number()])).collect::<Vec<_>>(),
            "attempts": cursor.attempts.iter().map(|(lsn, attempts)| json!([lsn.number(), attempts])).collect::<Vec<_>>(),
        },
        "torn_tail": scanned.report.torn.map(|torn| json!({
            "slot": torn.slot.0, "offset": torn.offset, "end_lsn": torn.end.number(),
            "broken_frames": torn.broken_frames, "stranded_frames": torn.stranded_frames,
        })),
        "corruption": scanned.corruption.iter().map(crate::verify::damage_json).collect::<Vec<_>>(),
        "segments": scanned.report.slots.iter().map(|slot| segment_json(survey, slot)).collect::<Vec<_>>(),
    })
}

fn as_text(dir: &str, survey: &Survey, parked: u64) -> String {
    let scanned = &survey.scanned;
    let cursor = &scanned.cursor;
    let mut out =
        format!("{dir}: {}\n", if scanned.report.clean { "closed in order" } else { "open, or not closed in order" });
    if let Some(meta) = &scanned.meta {
        out += &format!(
            "store      blocks of {}, frames up to {}, segments of {}, opened {} times\n",
            bytes_text(u64::from(meta.block_len)),
            bytes_text(u64::from(meta.frame_len_max)),
            bytes_text(meta.segment_len),
            grouped(meta.epoch)
        );
        if meta.features != 0 {
            out += &format!("coding     {}", features::names(meta.features));
            let mut keys: Vec<u32> = segment_keys(survey).collect();
            keys.sort_unstable();
            keys.dedup();
            if !keys.is_empty() {
                out += &format!("; keys in use: {}", keys.iter().map(u32::to_string).collect::<Vec<_>>().join(", "));
            }
            out += "\n";
        }
    }
    let first = scanned.live.first().map_or(scanned.end.next(), |live| live.base);
    out += &format!("entries    LSN {first} to {}, the next one is {}\n", scanned.end, scanned.next_lsn);
    out += &format!("backlog    {} entries are not delivered\n", grouped(survey.backlog()));
    out += &format!("cursor     everything up to {} is done", cursor.acked);
    for (first, next) in &cursor.done {
        out += &format!(", {first} to {}", next.prev());
    }
    for (lsn, attempts) in &cursor.attempts {
        out += &format!("; {lsn} failed {attempts} times");
    }
    out += &format!("\nparked     {} entries\n", grouped(parked));
    if let Some(torn) = &scanned.report.torn {
        out += &format!(
            "torn tail  behind LSN {} in seg-{:08}.rwal at offset {}: {} frames broken, {} behind them never acknowledged\n",
            torn.end, torn.slot.0, torn.offset, torn.broken_frames, torn.stranded_frames
        );
    }
    out += &scanned.meta.as_ref().map_or_else(String::new, |meta| untold_text("entries", &meta.untold));
    for corruption in &scanned.corruption {
        out += &format!("DAMAGE     {corruption}; see `ringwal verify {dir}`\n");
    }
    out += &format!(
        "\n{:<18} {:<10} {:>6} {:>10} {:>10}  {:>5}  {:<16}  {}\n",
        "segment", "state", "seq", "base", "end", "fill", "uid", "schema"
    );
    for slot in &scanned.report.slots {
        let row = segment_json(survey, slot);
        let cell = |name: &str| {
            row.get(name)
                .map_or_else(|| "-".to_owned(), |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let fill = row
            .get("fill")
            .and_then(Value::as_f64)
            .map_or_else(|| "-".to_owned(), |fill| format!("{:.0}%", fill * 100.0));
        out += &format!(
            "{:<18} {:<10} {:>6} {:>10} {:>10}  {fill:>5}  {:<16}  {}\n",
            cell("file"),
            cell("state"),
            cell("seq"),
            cell("base_lsn"),
            cell("end_lsn"),
            cell("uid"),
            cell("schema")
        );
    }
    out
}
