//! A queue's directory, looked at from outside: the same driver and the same recovery as the queue's
//! own, and nothing is written.

mod last;
mod open;

use ringwal::io::Disk;
use ringwal::wal::block::Pool;
use ringwal::wal::coding::{KeyId, KeyProblem};
use ringwal::wal::frame::{Frame, FrameHeader};
use ringwal::wal::inspect::{Inspect, InspectEvent, Survey, Verified};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{DiskError, FileId, LogId, Op, Output, Owner, Token};
use ringwal::wal::recovery::{Corruption, ScanError, StoreConfig};
use ringwal::{Lsn, ParkedEntry};

use crate::failure::{Failure, Result};

pub(crate) use last::LastLine;
pub(crate) use open::{Access, META_READ_LEN, newer_format, opening_failed};

/// A directory that can be read.
pub(crate) struct Store {
    dir: std::path::PathBuf,
    segment_len: u64,
    disk: Box<dyn Disk>,
    pool: Pool,
    tokens: u32,
}

/// Entries that cannot be shown.
pub(crate) struct Locked {
    pub(crate) entries: u64,
    pub(crate) key: KeyId,
    pub(crate) problem: KeyProblem,
}

/// What the park holds.
pub(crate) struct Parked {
    /// The entries that can be shown, oldest first.
    pub(crate) entries: Vec<ParkedEntry>,
    /// Those that cannot be decrypted.
    pub(crate) locked: Option<Locked>,
    /// Those that cannot be read, by their numbers in the park.
    pub(crate) damage: Vec<Corruption>,
}

/// What an inspection comes upon, in LSN order.
pub(crate) enum Found<'a> {
    /// A frame of entries whose checksums hold.
    Frame(&'a Frame),
    /// Encrypted entries whose checksums hold, and the key that is not there.
    Locked(&'a FrameHeader, KeyId, KeyProblem),
    /// Entries that were durable and cannot be read.
    Damage(&'a Corruption),
}

impl Store {
    /// Length of the main log's segments; 0 while there is none.
    pub(crate) const fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// What is in a log; `None` where there is no log yet.
    pub(crate) fn survey(&mut self, log: LogId) -> Result<Option<Survey>> {
        self.inspect(log, Some(Lsn::new(u64::MAX)), &mut |_| Ok(false)).map(|(survey, _)| survey)
    }

    /// Reads the live frames of a log from `from` on (by default from the cursor on) and hands them to
    /// `visit`, until it says `false`.
    pub(crate) fn inspect(
        &mut self,
        log: LogId,
        from: Option<Lsn>,
        visit: &mut dyn FnMut(Found<'_>) -> Result<bool>,
    ) -> Result<(Option<Survey>, Verified)> {
        let inspect = Inspect::new(self.config(log), self.pool.clone(), from);
        let mut inspect = inspect.with_cipher(crate::keys::cipher());
        let mut survey = None;
        let mut in_flight = 0_u32;
        loop {
            while let Some(event) = inspect.poll_event() {
                match event {
                    InspectEvent::Survey(found) => survey = found.map(|survey| *survey),
                    InspectEvent::Frame(frame) => {
                        if !visit(Found::Frame(&frame))? {
                            self.settle(in_flight);
                            return Ok((survey, Verified::default()));
                        }
                    }
                    InspectEvent::Locked { header, key, problem } => {
                        if !visit(Found::Locked(&header, key, problem))? {
                            self.settle(in_flight);
                            return Ok((survey, Verified::default()));
                        }
                    }
                    InspectEvent::Corrupt(corruption) => {
                        if !visit(Found::Damage(&corruption))? {
                            self.settle(in_flight);
                            return Ok((survey, Verified::default()));
                        }
                    }
                    InspectEvent::End(verified) => {
                        self.settle(in_flight);
                        return Ok((survey, verified));
                    }
                    InspectEvent::Failed(error) => {
                        self.settle(in_flight);
                        return Err(self.unreadable(log, &error));
                    }
                }
            }
            while let Some((token, op)) = inspect.poll_op() {
                self.disk.submit(token, op);
                in_flight += 1;
            }
            if in_flight > 0
                && let Some(completion) = self.disk.complete(None)
            {
                in_flight -= 1;
                inspect.handle_completion(completion);
            }
        }
    }

    /// Makes durable what is in the log's files, so that nothing that was read can vanish later.
    pub(crate) fn sync_all(&mut self) -> Result<()> {
        let Output::Files(files) = self.run(Op::List { log: LogId::Main })? else {
            return Ok(());
        };
        for (file, _) in files {
            self.run(Op::Sync { file })?;
        }
        Ok(())
    }

    /// What the park holds, as far as it can be read.
    pub(crate) fn parked(&mut self) -> Result<Parked> {
        let (mut entries, mut hidden, mut why, mut damage) = (Vec::new(), Vec::new(), None, Vec::new());
        let (survey, _) = self.inspect(LogId::Park, None, &mut |found| {
            match found {
                Found::Frame(frame) => {
                    entries.extend(records(frame).filter_map(|(lsn, bytes)| parked_entry(lsn, bytes)));
                }
                Found::Locked(header, key, problem) => {
                    let count = u64::from(header.record_count);
                    hidden.extend((0..count).map(|at| header.first_lsn.advance(at)));
                    why.get_or_insert((key, problem));
                }
                Found::Damage(corruption) => damage.push(corruption.clone()),
            }
            Ok(true)
        })?;
        if let Some(survey) = survey {
            add_unread(&survey, &mut damage);
            entries.retain(|entry| !is_done(&survey, entry.id));
            hidden.retain(|id| !is_done(&survey, *id));
        }
        let locked = why.filter(|_| !hidden.is_empty());
        let locked = locked.map(|(key, problem)| Locked { entries: hidden.len() as u64, key, problem });
        Ok(Parked { entries, locked, damage })
    }

    /// Reads `len` bytes of a file; `None` if it is not there any more.
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(mut block) = self.pool.take() else {
            return Err(Failure::new("no memory to read with; this is a bug, please report it"));
        };
        assert!(len <= block.len(), "a read fits into a chunk");
        block.truncate(len);
        match self.answer(Op::Read { file, offset, block }) {
            Ok(Output::Bytes(block)) => Ok(Some(block.to_vec())),
            Ok(Output::Done | Output::Files(_)) => {
                Err(Failure::new("a read brought no bytes; this is a bug, please report it"))
            }
            Err(error) if error.errno == libc::ENOENT => Ok(None),
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn run(&mut self, op: Op) -> Result<Output> {
        self.answer(op).map_err(|error| self.refused(&error))
    }

    fn answer(&mut self, op: Op) -> std::result::Result<Output, DiskError> {
        self.tokens = self.tokens.wrapping_add(1);
        self.disk.submit(Token { owner: Owner::Recovery, number: self.tokens }, op);
        loop {
            if let Some(completion) = self.disk.complete(None) {
                return completion.result;
            }
        }
    }

    fn refused(&self, error: &DiskError) -> Failure {
        Failure::usage(format!("{}: {error}; see whether it may be read", self.dir.display()))
    }

    /// Waits for reads that nobody wants any more, so that the next answer is not taken for one of them.
    fn settle(&mut self, mut in_flight: u32) {
        while in_flight > 0 {
            if self.disk.complete(None).is_some() {
                in_flight -= 1;
            }
        }
    }

    fn config(&self, log: LogId) -> StoreConfig {
        // Nothing is created, so only the log and the block size to begin with matter.
        let block_len = self.disk.report().block_len_min;
        StoreConfig {
            log,
            block_len,
            segment_len: 1 << 20,
            frame_len_max: block_len,
            features: 0,
            seed: 0,
            mutants: Mutants::default(),
        }
    }

    fn unreadable(&self, log: LogId, error: &ScanError) -> Failure {
        let dir = match log {
            LogId::Main => self.dir.clone(),
            LogId::Park => self.dir.join("park"),
        };
        let remedy = match error {
            ScanError::Newer { .. } => "use the version of ringwal that wrote it, or a later one",
            ScanError::MetaMissing { .. } | ScanError::MetaUnreadable | ScanError::CursorUnreadable => {
                "restore META from a copy"
            }
            ScanError::WrongStore { .. }
            | ScanError::WrongPlace { .. }
            | ScanError::SameIdentity { .. }
            | ScanError::Disagrees { .. } => "put the file back to where it belongs",
            _ => "see whether the disk can be read",
        };
        Failure::usage(format!("{}: {error}; {remedy}", dir.display()))
    }
}

/// Adds to the damage that reading met what the survey saw at the log's end: reading up to that does not always meet it.
pub(crate) fn add_unread(survey: &Survey, damage: &mut Vec<Corruption>) {
    for corruption in &survey.scanned.corruption {
        if !damage.iter().any(|seen| seen.first <= corruption.last && corruption.first <= seen.last) {
            damage.push(corruption.clone());
        }
    }
    damage.sort_by_key(|corruption| corruption.first);
}

/// The entries of a frame.
pub(crate) fn records(frame: &Frame) -> impl Iterator<Item = (Lsn, &[u8])> {
    let first = frame.header.first_lsn;
    let records = ringwal::ring::record::Records::new(frame.body());
    records
        .map_while(std::result::Result::ok)
        .zip(0_u64..)
        .map(move |(record, index)| (first.advance(index), record.payload))
}

fn parked_entry(id: Lsn, bytes: &[u8]) -> Option<ParkedEntry> {
    ringwal::delivery::park::ParkRecord::decode(bytes).ok().map(|record| ParkedEntry::new(id, record))
}

/// Whether the sink, or in the park log the user, is done with an entry.
pub(crate) fn is_done(survey: &Survey, lsn: Lsn) -> bool {
    let cursor = &survey.scanned.cursor;
    lsn <= cursor.acked || cursor.done.iter().any(|(first, next)| *first <= lsn && lsn < *next)
}
