//! `ringwal salvage`: saves what can be saved of a damaged queue, and says exactly what could not be.
//!
//! ```text
//!   source ─► judge ─► report      what each frame is worth: `ringwal::wal::salvage`
//!                └───► target      a queue that opens and delivers, every LSN as it was
//!                └───► entries     or a file
//! ```
//! The damaged directory is only read. What is written is marked as incomplete until it is whole.

mod entries;
mod report;
mod source;
mod target;

use std::path::{Path, PathBuf};

use ringwal::Schema;
use ringwal::delivery::park::PARK_SCHEMA;
use ringwal::wal::op::LogId;
use ringwal::wal::salvage::{Findings, Judged, Standing, judge};
use ringwal::wal::segment::SlotHeader;

use crate::args::{SalvageArgs, SalvageForm};
use crate::failure::{Failure, Result};

use report::{LogReport, Report};
use source::{Description, Source};
use target::{INCOMPLETE, Sizes, Target, Writer};

/// The program's own account of how far the input of `pipe` was read.
const SIDECAR: &str = "pipe.json";

/// Is given a frame, and its body.
type VisitFrame<'a> = &'a mut dyn FnMut(&Findings, &Judged, &[u8]) -> Result<()>;

/// A log of the damaged queue.
struct Damaged {
    log: LogId,
    findings: Findings,
    report: LogReport,
}

pub(crate) fn run(args: &SalvageArgs) -> Result<u8> {
    if args.all && matches!(args.form, SalvageForm::Queue | SalvageForm::Text) {
        return Err(Failure::usage(
            "--all also gives what must not be delivered, and marks it as such; use it with --as json or --as hex",
        ));
    }
    if args.form == SalvageForm::Queue {
        check_new_directory(&args.to)?;
    } else {
        check_new_file(&args.to)?;
    }
    let source = Source::open(&args.dir)?;
    check_apart(&args.dir, &args.to)?;
    let mut logs = [judged(&source, LogId::Main)?, judged(&source, LogId::Park)?];
    let is_encrypted = check_keys(&source, &logs)?;
    match args.form {
        SalvageForm::Queue => write_queue(args, &source, &mut logs)?,
        form => entries::write(args, form, &source, &mut logs)?,
    }
    if is_encrypted {
        eprintln!("ringwal: {}: what was encrypted is saved, but not encrypted there", args.to.display());
    }
    let [main, park] = logs.map(|damaged| damaged.report);
    Report { main, park, files: report::files(&source) }.tell(args)
}

/// Whether anything that is to be saved is encrypted. Without its key nothing is begun: it could be saved with it.
fn check_keys(source: &Source, logs: &[Damaged]) -> Result<bool> {
    let mut is_encrypted = false;
    let frames = logs.iter().flat_map(|damaged| &damaged.findings.frames);
    for judged in frames.filter(|judged| judged.standing == Standing::Live) {
        is_encrypted |= judged.piece.header.coding.encrypted;
        if let Some((key, problem)) = source.locked(judged) {
            let what = format!("{}: entries in {} are", source.dir.display(), source.name(judged.file));
            return Err(Failure::usage(crate::keys::locked(&what, key, problem)));
        }
    }
    Ok(is_encrypted)
}

fn judged(source: &Source, log: LogId) -> Result<Damaged> {
    let Description { meta, cursor, .. } = description(source, log);
    let findings = judge(log, &source.files, meta.clone(), cursor.clone()).map_err(|error| {
        Failure::usage(format!(
            "{}: {error}; copy the directory without the files of the other one, and save from the copy",
            source.dir.display()
        ))
    })?;
    let report = LogReport::new(&findings, meta.is_some());
    Ok(Damaged { log, findings, report })
}

fn description(source: &Source, log: LogId) -> &Description {
    match log {
        LogId::Main => &source.main,
        LogId::Park => &source.park,
    }
}

impl Damaged {
    /// Reads the frames that may be delivered, in LSN order. One that does not check out any more is left out.
    fn each_live(&mut self, source: &Source, visit: VisitFrame<'_>) -> Result<()> {
        let Self { findings, report, .. } = self;
        for judged in findings.frames.iter().filter(|judged| judged.standing == Standing::Live) {
            match source.body(judged) {
                Some(body) => {
                    visit(findings, judged, &body)?;
                    report.saved(findings, &judged.piece.header);
                }
                None => report.lost_again(findings, &judged.piece.header),
            }
        }
        Ok(())
    }

    fn body_max(&self) -> u64 {
        let live = self.findings.frames.iter().filter(|judged| judged.standing == Standing::Live);
        live.map(|judged| u64::from(judged.piece.header.raw_len)).max().unwrap_or(0)
    }

    /// What entries are whose segment has no header: what all others are.
    fn schema(&self, source: &Source, asked: Option<Schema>) -> Result<Option<Schema>> {
        if self.log == LogId::Park {
            return Ok(Some(PARK_SCHEMA));
        }
        if asked.is_some() {
            return Ok(asked);
        }
        let mut schemas: Vec<Schema> = source
            .files
            .iter()
            .filter_map(|file| match &file.header {
                SlotHeader::Segment(header) if header.log == self.log && Some(header.store) == self.findings.store => {
                    Some(header.schema)
                }
                _ => None,
            })
            .collect();
        schemas.dedup();
        let is_needed =
            self.findings.frames.iter().any(|judged| judged.standing == Standing::Live && judged.schema.is_none());
        match schemas[..] {
            [one] => Ok(Some(one)),
            _ if !is_needed => Ok(None),
            _ => Err(Failure::usage(format!(
                "{}: nothing says what the entries of some segments are, as their headers are damaged; name it with --schema, \
                 or save them into a file with --as json",
                source.dir.display()
            ))),
        }
    }
}

fn write_queue(args: &SalvageArgs, source: &Source, logs: &mut [Damaged; 2]) -> Result<()> {
    let headers = source.files.iter().filter_map(|file| match &file.header {
        SlotHeader::Segment(header) => Some(header),
        _ => None,
    });
    let known = headers.map(|header| (header.log, header.block_len, header.segment_len)).collect::<Vec<_>>();
    let metas = logs.iter().filter_map(|damaged| damaged.findings.meta.as_ref()).map(|meta| meta.block_len);
    let block_len = metas.chain(known.iter().map(|(_, block_len, _)| *block_len)).max().unwrap_or(4096);
    let schemas = [logs[0].schema(source, args.schema)?, logs[1].schema(source, None)?];
    let body_max = logs.iter().map(Damaged::body_max).max().unwrap_or(0);
    let mut target = Target::create(&args.to, block_len, body_max)?;
    // The main log comes last: without its META nothing opens.
    for (damaged, schema) in logs.iter_mut().zip(schemas).rev() {
        let log = damaged.log;
        let is_there = description(source, log).is_there || !damaged.findings.frames.is_empty();
        if log == LogId::Park && !is_there {
            continue;
        }
        let meta = damaged.findings.meta.as_ref();
        let header_len = known.iter().filter(|known| known.0 == log).map(|known| known.2).max();
        let sizes = Sizes::new(
            target.block_len,
            damaged.body_max(),
            meta.map(|meta| meta.segment_len).or(header_len),
            meta.map(|meta| meta.frame_len_max),
        );
        let mut writer = Writer::new(&mut target, log, sizes, damaged.findings.floor)?;
        damaged.each_live(source, &mut |_, judged, body| {
            let schema = judged.schema.or(schema).ok_or_else(|| Failure::new("a schema is missing; this is a bug"))?;
            writer.frame(&judged.piece.header, body, schema)
        })?;
        let untold = damaged.findings.meta.as_ref().map(|meta| meta.untold.clone()).unwrap_or_default();
        writer.finish(damaged.findings.cursor.as_ref(), damaged.findings.seen, &untold)?;
    }
    copy_sidecar(&source.dir, &args.to)?;
    target.finish()
}

/// With it `pipe` goes on in its input where it was.
fn copy_sidecar(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join(SIDECAR), to.join(SIDECAR));
    match std::fs::read(&from) {
        Ok(bytes) => std::fs::write(&to, bytes).and_then(|()| std::fs::File::open(&to)?.sync_all()).map_err(|error| {
            Failure::new(format!("cannot write {}: {error}; {INCOMPLETE} stands beside it", to.display()))
        }),
        Err(_) => Ok(()),
    }
}

fn check_new_directory(to: &Path) -> Result<()> {
    match std::fs::read_dir(to).map(|mut names| names.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let why = if to.join(INCOMPLETE).exists() {
                "is what an earlier salvage left that did not come to its end; remove it"
            } else {
                "is not empty; nothing is overwritten, give a new directory"
            };
            Err(Failure::usage(format!("{} {why}", to.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::usage(format!("cannot use {}: {error}; give a new directory", to.display()))),
    }
}

fn check_new_file(to: &Path) -> Result<()> {
    for path in [to.to_owned(), entries::unfinished(to)] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::usage(format!(
                "{} exists; nothing is overwritten, give a new file or remove it",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The damaged directory must stay as it is: nothing is written into it.
fn check_apart(dir: &Path, to: &Path) -> Result<()> {
    let dir = dir.canonicalize().map_err(|error| Failure::usage(format!("cannot use {}: {error}", dir.display())))?;
    let above: Option<PathBuf> =
        std::path::absolute(to).ok().and_then(|to| to.ancestors().find_map(|p| p.canonicalize().ok()));
    if above.is_some_and(|above| above.starts_with(&dir)) {
        return Err(Failure::usage(format!(
            "{} lies within {}, which must stay as it is; give a place outside",
            to.display(),
            dir.display()
        )));
    }
    Ok(())
}
