//! Rings in shared memory, at opening and at the end: what a dead process left in them goes into the log before
//! anything else does.
//!
//! ```text
//!   Scan ─► find ─► judge ─► settle ─► Repair ─► Log ─► append ─► clear ─► new rings ─► … ─► end: removed
//!           files   an error    notes against       the rest,  old ones   first the path,
//!           of old  here leaves the log, once and   durably    are gone   then the file
//!           rings   all as is   for all
//! ```
//! It may be killed at any point and run again:
//!
//! | killed | what is there | the next one |
//! |---|---|---|
//! | before or in `settle` | the same log, the same notes, some records marked | finds the same, marks the rest |
//! | between `settle` and `append` | no notes: what the log does not have is not marked | appends it |
//! | in `append` | a note for all that may be in the log | marks what is, appends the rest |
//! | between `append` and `clear` | notes for all of it, or marks | finds that nothing is left to append |
//! | between `clear` and new rings | no file | has nothing to do |
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | finding and judging, new rings, the end |
//! | `takeover.rs` | one file: settle, append |

mod takeover;
#[cfg(all(test, not(loom)))]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, OnCorruption, Rings as RingsIn};
use crate::engine::clock::Clock;
use crate::engine::lifecycle::io_error;
use crate::error::{ConfigError, OpenError};
use crate::io::ring_file::{RingFile, absolute, boot_id, check_folder, read_marker, write_marker};
use crate::io::{Disk, IoOpenError, Wake};
use crate::lsn::Lsn;
use crate::ranges::Ranges;
use crate::ring::record::RECORD_HEADER_LEN;
use crate::ring::shared::{Header, MAJOR, NotAHeader, file_name};
use crate::ring::{Drainer, Rings, RingsConfig};
use crate::schema::Schema;
use crate::wal::log::Log;
use crate::wal::meta::Meta;
use crate::wal::recovery::Scanned;

use self::takeover::{AppendError, Takeover};

/// What dead processes left in rings of this store.
#[derive(Debug, Default)]
pub(crate) struct OldRings {
    takeovers: Vec<Takeover<RingFile>>,
    /// To be kept, but not to be taken over.
    aside: Vec<(RingFile, String)>,
    /// Made and never used.
    unmade: Vec<RingFile>,
    /// Where the store's directory is, if it has one.
    dir: Option<PathBuf>,
    /// Entries appended.
    pub(crate) appended: u64,
    /// Interrupted pushes.
    pub(crate) incomplete: u64,
    /// For health.
    pub(crate) notes: Vec<String>,
}

impl OldRings {
    /// Looks for them, and refuses what cannot be taken over. Changes nothing.
    pub(crate) fn find(
        config: &Config,
        dir: Option<PathBuf>,
        scanned: &Scanned,
        accepts: fn(&Schema) -> bool,
    ) -> Result<Self, OpenError> {
        let mut old = Self { dir, ..Self::default() };
        if let RingsIn::Shared(folder) = &config.rings_at {
            let allowed = check_folder(folder, config.rings_on_any_file_system).map_err(io_error)?;
            old.notes.extend(allowed.map(|file_system| {
                format!("the rings lie on {file_system}, which is not memory: a push may wait for the disk")
            }));
        }
        let Some(meta) = &scanned.meta else { return Ok(old) };
        let mut places = Vec::new();
        if let Some(dir) = &old.dir {
            places.extend(read_marker(dir).map_err(io_error)?);
        }
        if let RingsIn::Shared(dir) = &config.rings_at {
            places.push(absolute(dir).map_err(io_error)?.join(file_name(meta.store)));
        }
        places.dedup();
        for path in places {
            // One file may have two names, by a link on the way to it.
            if let Some((file, head)) = RingFile::find(&path).map_err(io_error)?
                && !old.files().any(|known| known.is_same(&file))
            {
                old.judge(config, meta, accepts, file, &head)?;
            }
        }
        Ok(old)
    }

    fn files(&self) -> impl Iterator<Item = &RingFile> {
        let taken = self.takeovers.iter().map(Takeover::file);
        taken.chain(&self.unmade).chain(self.aside.iter().map(|(file, _)| file))
    }

    fn judge(
        &mut self,
        config: &Config,
        meta: &Meta,
        accepts: fn(&Schema) -> bool,
        file: RingFile,
        head: &[u8],
    ) -> Result<(), OpenError> {
        let path = file.path().to_owned();
        let refused = |why: &str| OpenError::Rings {
            file: path.clone(),
            why: format!(
                "{}, which holds rings of this store, cannot be taken over: {why}. Nothing was changed; move the file away \
                 to go on without the entries that are only there",
                path.display()
            ),
        };
        let damaged = |old: &mut Self, file: RingFile, why: String| {
            if config.on_corruption == OnCorruption::Stop {
                return Err(refused(&format!("{why} (`on_corruption` says what to do then; it is `Stop`)")));
            }
            old.aside.push((file, why));
            Ok(())
        };
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(NotAHeader::Unmade) => {
                self.unmade.push(file);
                return Ok(());
            }
            Err(NotAHeader::Newer(found)) => {
                return Err(OpenError::NewerFormat { file: path, found, known: MAJOR, features: 0 });
            }
            Err(NotAHeader::Damaged(why)) => return damaged(self, file, why.to_owned()),
        };
        if header.store != meta.store {
            return Err(refused("it belongs to another store"));
        }
        if header.boot != boot_id().map_err(io_error)? {
            self.aside.push((file, "the machine was restarted since, so that it may be torn".to_owned()));
            return Ok(());
        }
        if header.epoch > meta.epoch {
            return Err(refused("it is newer than the log, which looks like an older copy of the directory"));
        }
        let failed = |source| OpenError::Io { what: "read".to_owned(), path: path.clone(), source };
        if file.file_len().map_err(failed)? != header.file_len() {
            return damaged(self, file, "it is not as long as its header says".to_owned());
        }
        let found = Takeover::look(file, header).map_err(failed)?;
        if let Some(why) = found.damage() {
            if config.on_corruption == OnCorruption::Stop {
                return Err(refused(&format!("{why} (`on_corruption` says what to do then; it is `Stop`)")));
            }
            self.notes.push(format!("{}: {why}; what lies behind it in that ring is not taken over", path.display()));
        }
        if found.records() > 0 && !accepts(&header.schema) {
            return Err(refused(&format!(
                "its entries have the schema {}; open it with the old type once, or list the old version in `entry!(…, from = \
                 […])`",
                header.schema
            )));
        }
        let longest = found.longest().saturating_sub(RECORD_HEADER_LEN);
        if longest > config.entry_len_max {
            let range = format!("at least {longest}, for an entry that a dead process left in its rings");
            return Err(ConfigError::new("entry_len_max", config.entry_len_max, range).into());
        }
        self.takeovers.push(found);
        Ok(())
    }

    /// Compares them with the log as it was found, once and for all: before anything is written to it.
    pub(crate) fn settle(
        &mut self,
        scanned: &Scanned,
        committed: Option<Lsn>,
        policy: OnCorruption,
    ) -> Result<(), OpenError> {
        let mut done = Ranges::new(scanned.cursor.acked, scanned.cursor.done.clone());
        done.add(Lsn::FIRST, committed.unwrap_or(Lsn::ZERO).next());
        let cut = scanned.corruption.first().filter(|_| policy == OnCorruption::CutTail);
        let end = cut.map_or(scanned.end, |corruption| scanned.end.min(corruption.first.prev()));
        let is_lost = |lsn: Lsn| scanned.corruption.iter().any(|c| c.first <= lsn && lsn <= c.last);
        for found in &mut self.takeovers {
            let is_in_log = |lsn: Lsn| done.contains(lsn) || lsn <= end && !is_lost(lsn);
            found.settle(is_in_log).map_err(|source| failed("write", found.file().path(), source))?;
            self.incomplete += found.incomplete();
        }
        for (file, why) in self.aside.drain(..) {
            let kept = file.put_aside().map_err(|source| failed("rename", file.path(), source))?;
            self.notes.push(format!(
                "rings of this store were put aside, and what was only there is not in the queue: {why}; they are {}",
                kept.display()
            ));
        }
        Ok(())
    }

    /// Slots that appending may take beyond the limit: a log that is full was full when the process died, and what waits
    /// in the rings was accepted.
    pub(crate) fn slots(&self, segment_len: u64, frame_len_max: u32) -> u32 {
        let bytes: u64 = self.takeovers.iter().map(Takeover::bytes).sum();
        if bytes == 0 {
            return 0;
        }
        // A frame is at least half full, but for the last of each round.
        let room = (segment_len / 2).saturating_sub(2 * u64::from(frame_len_max)).max(1);
        u32::try_from(bytes / room).unwrap_or(u32::MAX - 2) + 2
    }

    /// Appends what the log does not have, durably, and removes the old rings.
    pub(crate) fn append(
        &mut self,
        log: &mut Log,
        disk: &mut dyn Disk,
        clock: &Clock,
        schema: Schema,
        config: &Config,
    ) -> Result<(), OpenError> {
        let dir = || config.dir.clone();
        for found in &mut self.takeovers {
            let appended = found.append(log, disk, clock).and_then(|n| {
                takeover::use_schema(log, disk, clock, schema)?;
                Ok(n)
            });
            self.appended += appended.map_err(|error| match error {
                AppendError::NoSpace => OpenError::NoSpace { dir: dir(), need: config.segment_len },
                AppendError::Disk(error) => OpenError::Disk { dir: dir(), error },
                AppendError::Rings(source) => failed("read", found.file().path(), source),
            })?;
        }
        for file in &self.unmade {
            file.remove().map_err(|source| failed("remove", file.path(), source))?;
        }
        for found in &self.takeovers {
            let file = found.file();
            // What could not be told is kept for people.
            let gone = if found.damage().is_some() { file.put_aside().map(drop) } else { file.remove() };
            gone.map_err(|source| failed("remove", file.path(), source))?;
        }
        if self.incomplete > 0 {
            self.notes.push(format!(
                "the process before was killed within {} pushes, which never returned and are skipped",
                self.incomplete
            ));
        }
        match &self.dir {
            Some(dir) => write_marker(dir, None).map_err(io_error),
            None => Ok(()),
        }
    }
}

/// The rings' own file, and the name by which the next opening finds it.
#[derive(Debug)]
pub(crate) struct Home {
    file: RingFile,
    dir: Option<PathBuf>,
}

impl Home {
    /// Nothing is in the rings that is not in the log: the next opening need not look.
    pub(crate) fn remove(self) {
        // If that fails, the next opening finds nothing in them.
        let _ = self.file.remove();
        if let Some(dir) = &self.dir {
            let _ = write_marker(dir, None);
        }
    }
}

/// The new rings of a queue.
pub(crate) fn make(
    config: &Config,
    dir: Option<PathBuf>,
    meta: &Meta,
    schema: Schema,
    wake: Arc<dyn Wake>,
) -> Result<(Arc<Rings>, Drainer, Option<Home>), OpenError> {
    let lens = RingsConfig {
        shared: config.rings,
        pinned: config.pinned_rings,
        ring_len: config.ring_bytes,
        entry_len_max: config.entry_len_max,
    };
    let no_memory = |source| OpenError::Resources { what: "memory for the rings".to_owned(), source };
    let RingsIn::Shared(folder) = &config.rings_at else {
        let (rings, drainer) = Rings::new(lens, wake).map_err(no_memory)?;
        return Ok((rings, drainer, None));
    };
    let header = Header {
        store: meta.store,
        boot: boot_id().map_err(io_error)?,
        epoch: meta.epoch,
        rings: lens.shared + lens.pinned,
        ring_len: lens.ring_len as u64,
        schema,
    };
    let (folder, name) = (absolute(folder).map_err(io_error)?, file_name(meta.store));
    if let Some(dir) = &dir {
        write_marker(dir, Some(&folder.join(&name))).map_err(io_error)?;
    }
    let file = RingFile::create(&folder, &name, &header).map_err(|error| {
        let _ = dir.as_ref().map(|dir| write_marker(dir, None));
        match error {
            IoOpenError::NoSpace { path } => OpenError::NoSpace { dir: path, need: header.file_len() },
            error => io_error(error),
        }
    })?;
    let (rings, drainer) = Rings::in_file(lens, wake, file.fd(), &header).map_err(no_memory)?;
    Ok((rings, drainer, Some(Home { file, dir })))
}

fn failed(what: &str, path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { what: what.to_owned(), path: path.to_owned(), source }
}
