//! What was saved and what was not, exactly.

use std::collections::BTreeMap;

use ringwal::Lsn;
use ringwal::wal::frame::FrameHeader;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::salvage::{Findings, Missing, Standing};
use ringwal::wal::segment::SlotHeader;
use serde_json::{Value, json};

use super::source::Source;
use crate::args::{SalvageArgs, SalvageForm};
use crate::failure::{NOT_ALL, Result};
use crate::output::{write_all, write_json};
use crate::units::{bytes_text, grouped};

/// What became of a log.
pub(super) struct LogReport {
    saved: u64,
    bytes: u64,
    first: Option<Lsn>,
    last: Lsn,
    missing: Vec<Missing>,
    /// Entries of whole frames that are not saved, by what they are worth.
    left_out: BTreeMap<Standing, u64>,
    has_meta: bool,
    knows_cursor: bool,
    floor: Lsn,
    next: Lsn,
    is_there: bool,
}

/// What became of a queue.
pub(super) struct Report {
    pub(super) main: LogReport,
    pub(super) park: LogReport,
    /// Files with something wrong, and what.
    pub(super) files: Vec<(String, String)>,
}

/// Whether the sink is not done with an entry, as far as is known.
pub(super) fn is_wanted(findings: &Findings, lsn: Lsn) -> bool {
    let done = findings.cursor.as_ref().map_or(&[][..], |cursor| &cursor.done);
    let behind = done.partition_point(|run| run.1 <= lsn);
    lsn > findings.floor && done.get(behind).is_none_or(|run| lsn < run.0)
}

fn wanted(findings: &Findings, header: &FrameHeader) -> Vec<Lsn> {
    let count = header.next_lsn.since(header.first_lsn);
    (0..count).map(|at| header.first_lsn.advance(at)).filter(|lsn| is_wanted(findings, *lsn)).collect()
}

impl LogReport {
    pub(super) fn new(findings: &Findings, has_meta: bool) -> Self {
        let mut left_out = BTreeMap::new();
        for judged in findings.frames.iter().filter(|judged| judged.standing != Standing::Live) {
            *left_out.entry(judged.standing).or_default() += u64::from(judged.piece.header.record_count);
        }
        Self {
            saved: 0,
            bytes: 0,
            first: None,
            last: Lsn::ZERO,
            missing: findings.missing.clone(),
            left_out,
            has_meta: has_meta && findings.meta.is_some(),
            knows_cursor: findings.cursor.is_some(),
            floor: findings.floor,
            next: findings.seen.max(findings.floor).next(),
            is_there: has_meta || findings.store.is_some() || !findings.frames.is_empty(),
        }
    }

    /// A frame is saved.
    pub(super) fn saved(&mut self, findings: &Findings, header: &FrameHeader) {
        let wanted = wanted(findings, header);
        self.saved += wanted.len() as u64;
        self.bytes += u64::from(header.raw_len);
        self.first = self.first.or(wanted.first().copied());
        self.last = wanted.last().copied().unwrap_or(self.last);
    }

    /// A frame was whole when it was looked for, and is not any more, or its records contradict its header.
    pub(super) fn lost_again(&mut self, findings: &Findings, header: &FrameHeader) {
        let last = header.next_lsn.prev();
        let missing = Missing { first: header.first_lsn, last, promised: last <= findings.promise };
        self.missing.push(missing);
        self.missing.sort_unstable_by_key(|missing| missing.first);
    }

    /// Entries that were durable, and are gone.
    fn lost(&self) -> u64 {
        self.missing.iter().filter(|run| run.promised).map(|run| run.last.next().since(run.first)).sum()
    }

    fn is_all(&self) -> bool {
        let ambiguous = self.left_out.contains_key(&Standing::Ambiguous);
        !self.is_there || self.lost() == 0 && !ambiguous && self.knows_cursor
    }

    fn as_json(&self) -> Value {
        let runs = |promised: bool| {
            let runs = self.missing.iter().filter(|run| run.promised == promised);
            runs.map(|run| json!([run.first.number(), run.last.number()])).collect::<Vec<_>>()
        };
        json!({
            "saved": self.saved,
            "bytes": self.bytes,
            "first_lsn": self.first.map(Lsn::number),
            "last_lsn": self.first.map(|_| self.last.number()),
            "lost": runs(true),
            "lost_entries": self.lost(),
            "never_promised": runs(false),
            "left_out": self.left_out.iter().map(|(standing, count)| (standing.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
            "meta_known": self.has_meta,
            "cursor_known": self.knows_cursor,
            "done_up_to": self.floor.number(),
            "next_lsn": self.next.number(),
        })
    }

    fn text(&self, name: &str) -> String {
        let mut out = format!("{name:<10} {} entries saved", grouped(self.saved));
        if let Some(first) = self.first {
            out += &format!(", LSN {first} to {}, {}", self.last, bytes_text(self.bytes));
        }
        out.push('\n');
        for Missing { first, last, promised } in &self.missing {
            let count = grouped(last.next().since(*first));
            let what = if *promised { "LOST" } else { "not found" };
            let why = if *promised { "they were durable" } else { "nothing says that they were ever durable" };
            out += &format!("{what:<10} {count} entries, LSN {first} to {last}: {why}\n");
        }
        for (standing, count) in &self.left_out {
            let why = match standing {
                Standing::Done => "the sink is done with them",
                Standing::Abandoned => "an earlier recovery gave them up, and their LSNs out again",
                Standing::Recycled => "left over in a file that is in use for others; the sink is done with them",
                Standing::Ambiguous => "different ones with the same LSNs, and nothing says which are right",
                Standing::Foreign => "they belong to another queue",
                Standing::Live => "",
            };
            out += &format!("left out   {} entries: {why}\n", grouped(*count));
        }
        if !self.has_meta {
            out += "META       gone; sizes and order are taken from the segments\n";
        }
        out += &match self.knows_cursor {
            true => format!("cursor     everything up to LSN {} is done\n", self.floor),
            false => format!(
                "cursor     GONE: what the sink acknowledged above LSN {} is saved too, and would be delivered a second time\n",
                self.floor
            ),
        };
        out
    }
}

/// Files with something wrong.
pub(super) fn files(source: &Source) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (index, file) in source.files.iter().enumerate() {
        let mut wrong = Vec::new();
        let description = if file.log == LogId::Main { &source.main } else { &source.park };
        match &file.header {
            SlotHeader::Segment(header) => {
                if header.slot != file.slot || header.log != file.log {
                    wrong.push(format!("was written as {}", FileId::Slot(header.log, header.slot)));
                }
                if description.meta.as_ref().is_some_and(|meta| meta.store != header.store) {
                    wrong.push("names another queue than META".to_owned());
                }
            }
            SlotHeader::Newer { major } => wrong.push(format!("was written by format {major}")),
            SlotHeader::Invalid if source.salt_is_lost(file) => wrong.push(
                "has no whole header, and with it the salt of its key is lost: entries in it cannot be decrypted"
                    .to_owned(),
            ),
            SlotHeader::Invalid => wrong.push("has no whole header".to_owned()),
            SlotHeader::Free | SlotHeader::Void => {}
        }
        if file.unreadable > 0 {
            wrong.push(format!("{} bytes of it cannot be read", grouped(file.unreadable)));
        }
        if !wrong.is_empty() {
            out.push((source.name(index), wrong.join(", ")));
        }
    }
    out.extend(source.closed.iter().cloned());
    out
}

impl Report {
    /// Says it, and gives the exit code.
    pub(super) fn tell(&self, args: &SalvageArgs) -> Result<u8> {
        let is_all = self.main.is_all() && self.park.is_all();
        if args.json {
            let files: Vec<_> =
                self.files.iter().map(|(file, wrong)| json!({ "file": file, "wrong": wrong })).collect();
            let (log, park) = (self.main.as_json(), self.park.as_json());
            write_json(&json!({ "all": is_all, "log": log, "park": park, "files": files }))?;
        } else {
            let mut out = self.main.text("log");
            if self.park.is_there {
                out += &self.park.text("parked");
            }
            for (file, wrong) in &self.files {
                out += &format!("file       {file}: {wrong}\n");
            }
            let to = args.to.display();
            out += &match args.form {
                SalvageForm::Queue => format!("{to}: complete; the next entry gets LSN {}\n", self.main.next),
                _ => format!("{to}: complete\n"),
            };
            write_all(out.as_bytes())?;
        }
        Ok(if is_all { 0 } else { NOT_ALL })
    }
}
