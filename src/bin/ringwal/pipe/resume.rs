//! Where reading goes on: exactly behind the last line that is in the log or delivered.
//!
//! ```text
//!   the input file     │ delivered, maybe recycled │ in the log │ not read yet │
//!                                                                ▲ resume point
//! ```
//! Every line carries the run that read it and the offset behind it, and `(run, offset)` rises. Three
//! places know lines; the greatest pair of them is the resume point.
//!
//! | place                             | knows                                      | may be behind when          |
//! |-----------------------------------|--------------------------------------------|------------------------------|
//! | the newest record in the log      | the last line pushed and durable           | its slot was used again      |
//! | the SQLite sink's progress        | the last line delivered, in its transaction | lines wait in the log       |
//! | `pipe.json` in the directory      | where this run began, or ended in order    | the run pushed anything      |
//!
//! Why the greatest is exact. Under `immediate` and `periodic` only durable lines are delivered, so the
//! log has seen them all. The slot of the newest record is used again only by a segment that begins behind
//! it, and while the run lives only after that record's successor is in another one; so its record can only
//! be gone if a *later* run began its first segment there, and that run has written `pipe.json` before it
//! opened the queue. `pipe.json` is written with the directory's lock held, from what is read under that
//! lock, everything in it synced before: no write of a killed process is still on its way then.
//!
//! A place counts only for the run that `pipe.json` names: what a run found is folded into the point that
//! it writes down. So runs that read something else (standard input, `parked redeliver`) keep the point, and a run
//! that has not kept lines which its sink refused ends as if it had been one of these.
//!
//! # The same file?
//! | checked                                           | against                                     |
//! |---------------------------------------------------|---------------------------------------------|
//! | inode (the device may be numbered anew at a boot) | another file under the old name             |
//! | hash of its first bytes, up to 4 KiB              | an inode used again                         |
//! | length at least the resume point                  | truncation                                  |
//! | the bytes before the resume point, up to 4 KiB    | another content; they are compared with the |
//! |                                                   | line in the log itself where it is there    |

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use ringwal::Durability;
use ringwal::wal::op::LogId;

use super::lock::RunLock;
use super::sidecar::{Identity, Point, Sidecar, Source, TAIL_LEN, Tail};
use crate::args::{CorruptionArg, QueueArgs};
use crate::failure::{Failure, Result};
use crate::line::Head;
use crate::sinks::{LineSink, Target};
use crate::store::{Access, LastLine, Store};

/// What a run is asked for.
pub(crate) struct Request<'a> {
    pub(crate) dir: &'a Path,
    /// The input, if it is a regular file, and its name.
    pub(crate) file: Option<(&'a File, &'a Path)>,
    pub(crate) restart: bool,
    pub(crate) lock_wait: Duration,
    pub(crate) durability: Durability,
    pub(crate) stop_on_corruption: bool,
    pub(crate) target: &'a Target,
}

/// How a run begins.
pub(crate) struct Start {
    /// The last line that is not to be read again; its run is this run's.
    pub(crate) from: Head,
    /// What was written down, to be written again at the end.
    pub(crate) sidecar: Sidecar,
    /// The last LSN in log and sink before the queue was opened.
    pub(crate) end: u64,
    /// Keeps other runs out while this one lasts.
    pub(crate) _lock: RunLock,
}

/// Finds the resume point and writes down that a run begins there. The queue must not be open.
pub(crate) fn begin(request: &Request<'_>, sink: &LineSink) -> Result<Start> {
    let mut store = Store::open(request.dir, Access::Alone(request.lock_wait))?;
    let lock = RunLock::acquire(request.dir, request.lock_wait)?;
    store.sync_all()?;
    let survey = store.survey(LogId::Main)?;
    let (mut end, mut backlog, mut last) = (0, 0, None);
    if let Some(survey) = &survey {
        if let Some(corruption) = survey.scanned.corruption.first().filter(|_| request.stop_on_corruption) {
            return Err(Failure::new(format!(
                "{}: {corruption}; nothing was changed. Restore the file from a copy, or run again with --on-corruption \
                 quarantine to go on without these lines",
                request.dir.display()
            )));
        }
        (end, backlog) = (survey.scanned.end.number(), survey.backlog());
        last = store.last_line(survey)?;
    }
    let old = Sidecar::read(request.dir)?;
    if old.is_none() && last.is_some() && !request.restart {
        return Err(Failure::new(format!(
            "{} is missing, which says how far the input was read; restore it from a copy, or begin the input anew with --restart",
            Sidecar::path(request.dir).display()
        )));
    }
    let old = old.unwrap_or_else(Sidecar::first);
    check_backlog(request, backlog)?;
    let progress = sink.progress().filter(|progress| progress.lsn > 0);
    // The queue begins above what the sink has stored.
    end = end.max(progress.as_ref().map_or(0, |progress| progress.lsn));
    if let Some(progress) = progress.as_ref().filter(|progress| progress.pipe != old.pipe) {
        check_foreign(request, backlog, &progress.pipe)?;
    }
    let delivered = progress.filter(|progress| progress.pipe == old.pipe && progress.run == old.run);
    let delivered =
        delivered.map(|progress| Point { offset: progress.offset, number: progress.number, tail: Tail::default() });
    let point = newest_point(&old, last.as_ref().filter(|last| last.head.run == old.run), delivered);
    let run =
        old.run.checked_add(1).ok_or_else(|| Failure::new("2^32 runs on one directory are enough; use a new one"))?;
    let (sidecar, from) = match request.file {
        None => (Sidecar { run, source: Source::Other, point, ..old }, Head { run, ..Head::default() }),
        Some((file, path)) => {
            let point = if request.restart { None } else { point };
            let known = old.file.as_ref().filter(|_| point.is_some());
            let identity = check_identity(file, path, known, point.as_ref())?;
            let from = point.as_ref().map_or(Head::default(), |point| Head {
                offset: point.offset,
                number: point.number,
                ..Head::default()
            });
            let point = point_at(file, path, from)?;
            (
                Sidecar { run, source: Source::File, point: Some(point), file: Some(identity), pipe: old.pipe },
                Head { run, ..from },
            )
        }
    };
    // Still under the directory's lock: `store` lives until the end.
    sidecar.write(request.dir)?;
    sink.adopt(&sidecar.pipe, request.durability == Durability::Memory)?;
    drop(store);
    Ok(Start { from, sidecar, end, _lock: lock })
}

/// Writes down how far a run came that ended in order.
pub(crate) fn end(request: &Request<'_>, start: &Start, pushed: Head) -> Result<()> {
    let Some((file, path)) = request.file else {
        return Ok(());
    };
    let point = point_at(file, path, pushed)?;
    Sidecar { point: Some(point), ..start.sidecar.clone() }.write(request.dir)
}

/// Writes down that the next run begins where this one did, whatever the sink has stored: lines that it refused lie
/// before others that it took.
pub(crate) fn end_unkept(request: &Request<'_>, start: &Start) -> Result<()> {
    if request.file.is_none() {
        return Ok(());
    }
    Sidecar { source: Source::Other, ..start.sidecar.clone() }.write(request.dir)
}

/// Says that a run which reads no input is about to put lines into the queue: their places in the input
/// must not be taken for the resume point. The queue must not be open.
pub(crate) fn begin_without_input(queue: &QueueArgs, sink: &LineSink) -> Result<Start> {
    begin(&Request::new(queue), sink)
}

impl<'a> Request<'a> {
    /// Of a run that reads nothing that it could resume.
    pub(crate) fn new(queue: &'a QueueArgs) -> Self {
        Self {
            dir: &queue.dir,
            file: None,
            restart: false,
            lock_wait: queue.opening.lock_wait,
            durability: queue.durability,
            stop_on_corruption: matches!(queue.opening.on_corruption, CorruptionArg::Stop),
            target: &queue.to,
        }
    }
}

fn check_backlog(request: &Request<'_>, backlog: u64) -> Result<()> {
    let dir = request.dir.display();
    if backlog > 0 && request.durability == Durability::Memory {
        return Err(Failure::usage(format!(
            "{dir} holds {backlog} undelivered lines, and --durability memory would pass them by; deliver them first with \
             `ringwal pipe --dir {dir} --to {} </dev/null`",
            request.target
        )));
    }
    if backlog > 0 && request.restart {
        return Err(Failure::usage(format!(
            "--restart is refused, as {dir} holds {backlog} undelivered lines; deliver them first with \
             `ringwal pipe --dir {dir} --to {} </dev/null`",
            request.target
        )));
    }
    Ok(())
}

fn check_foreign(request: &Request<'_>, backlog: u64, pipe: &str) -> Result<()> {
    let (target, dir) = (request.target, request.dir.display());
    if backlog > 0 {
        return Err(Failure::usage(format!(
            "{target} holds the lines of another queue directory ({pipe}), and {dir} has {backlog} undelivered lines, which it \
             would take for delivered; give another database"
        )));
    }
    if !request.restart {
        return Err(Failure::usage(format!(
            "{target} holds the lines of another queue directory ({pipe}); give another database, or append to it with --restart"
        )));
    }
    Ok(())
}

/// The greatest of what is known about the last run, or what was known before it.
fn newest_point(old: &Sidecar, last: Option<&LastLine>, delivered: Option<Point>) -> Option<Point> {
    if old.source != Source::File {
        return old.point.clone();
    }
    let logged = last.map(|last| Point {
        offset: last.head.offset,
        number: last.head.number,
        tail: Tail::of_line(&last.text, last.head.no_newline),
    });
    // The last of equal ones is taken: what the log and the sidecar know can be checked.
    [delivered, old.point.clone(), logged].into_iter().flatten().max_by_key(|point| point.offset)
}

fn check_identity(file: &File, path: &Path, known: Option<&Identity>, point: Option<&Point>) -> Result<Identity> {
    let name = path.display();
    let metadata = file.metadata().map_err(|error| cannot_read(path, &error))?;
    let head = Tail::read(file, 0, metadata.len().min(TAIL_LEN)).map_err(|error| cannot_read(path, &error))?;
    let identity = Identity { path: name.to_string(), dev: metadata.dev(), inode: metadata.ino(), head };
    let Some(known) = known else {
        return Ok(identity);
    };
    let refused = |why: String| {
        Err(Failure::usage(format!(
            "{name} is not the file that was read before: {why}; give that file ({}), or begin this one anew with --restart",
            known.path
        )))
    };
    if known.inode != identity.inode {
        return refused(format!("its inode is {}, not {}", identity.inode, known.inode));
    }
    let head = Tail::read(file, 0, known.head.len).map_err(|error| cannot_read(path, &error))?;
    if head != known.head {
        return refused(format!("its first {} bytes have changed", known.head.len));
    }
    let Some(point) = point else {
        return Ok(identity);
    };
    if metadata.len() < point.offset {
        return refused(format!("it has {} bytes now, and {} were read", metadata.len(), point.offset));
    }
    let tail =
        Tail::read(file, point.offset - point.tail.len, point.tail.len).map_err(|error| cannot_read(path, &error))?;
    if tail != point.tail {
        return refused(format!(
            "the {} bytes before offset {}, where reading ended, have changed",
            tail.len, point.offset
        ));
    }
    Ok(identity)
}

/// The point behind a line, with what stands before it in the file.
fn point_at(file: &File, path: &Path, head: Head) -> Result<Point> {
    let len = head.offset.min(TAIL_LEN);
    let tail = Tail::read(file, head.offset - len, len).map_err(|error| cannot_read(path, &error))?;
    Ok(Point { offset: head.offset, number: head.number, tail })
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot read {}: {error}; see whether it is a file that may be read", path.display()))
}

impl Tail {
    /// What stands in `file` there. Shorter if the file ends before.
    fn read(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::of(&bytes[..filled]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwal::Lsn;

    fn point(offset: u64) -> Point {
        Point { offset, number: offset / 10, tail: Tail::default() }
    }

    fn logged(offset: u64) -> LastLine {
        LastLine {
            lsn: Lsn::new(1),
            head: Head { offset, number: offset / 10, run: 1, no_newline: false },
            text: b"x".to_vec(),
        }
    }

    fn of_file(offset: u64) -> Sidecar {
        Sidecar { source: Source::File, point: Some(point(offset)), ..Sidecar::first() }
    }

    #[test]
    fn the_greatest_of_log_sink_and_sidecar_is_the_resume_point() {
        let newest = |sidecar, log: Option<u64>, sink: Option<u64>| {
            newest_point(&of_file(sidecar), log.map(logged).as_ref(), sink.map(point)).map(|point| point.offset)
        };
        assert_eq!(newest(10, None, None), Some(10));
        assert_eq!(newest(10, Some(40), Some(30)), Some(40));
        assert_eq!(newest(10, Some(40), Some(50)), Some(50));
        assert_eq!(newest(60, Some(40), Some(50)), Some(60));
    }

    #[test]
    fn a_run_that_read_something_else_leaves_the_point_as_it_was() {
        let other = Sidecar { source: Source::Other, ..of_file(10) };
        assert_eq!(newest_point(&other, Some(&logged(40)), Some(point(50))).map(|point| point.offset), Some(10));
    }

    #[test]
    fn the_same_file_is_known_again_and_changes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        std::fs::write(&path, b"one\ntwo\nthree\n").unwrap();
        let open = || File::open(&path).unwrap();
        let at = point_at(&open(), &path, Head { offset: 8, number: 2, ..Head::default() }).unwrap();
        let known = check_identity(&open(), &path, None, None).unwrap();
        let check = || check_identity(&open(), &path, Some(&known), Some(&at)).map_err(|failure| failure.to_string());
        assert!(check().is_ok());
        let append = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
        append(b"one\ntwo\nthree\nfour\n");
        assert!(check().is_ok(), "a longer file is still the same");
        append(b"one\n");
        assert!(check().unwrap_err().contains("first 14 bytes"));
        append(b"one\ntwO\nthree\n");
        assert!(check().unwrap_err().contains("--restart"));
        append(b"one\ntwo\nthree\n");
        let moved = Identity { inode: known.inode.wrapping_add(1), ..known.clone() };
        let error = check_identity(&open(), &path, Some(&moved), Some(&at)).unwrap_err().to_string();
        assert!(error.contains("inode"), "{error}");
    }

    #[test]
    fn what_the_log_holds_is_compared_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        let long: Vec<u8> = (0..10_000).map(|i| b'a' + (i % 23) as u8).collect();
        let content = [&b"one\n"[..], &long, b"\nend"].concat();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        for (text, no_newline, offset) in [(&b"one"[..], false, 4), (&long, false, 10_005), (b"end", true, 10_008)] {
            let tail = Tail::of_line(text, no_newline);
            assert!(tail.len > 0 && tail.len <= TAIL_LEN);
            assert_eq!(Tail::read(&file, offset - tail.len, tail.len).unwrap(), tail);
        }
    }
}
