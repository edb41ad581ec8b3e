//! Looks at a log without touching it: no sync, no repair, nothing written.
//!
//! ```text
//!  Scan (read only) → Survey → Reader over its live segments ─ frames ─► dump, tail, verify
//!    ▲    └ again ┘                                          └ corrupt? read it once more; still?
//!    └─────────────── then headers and cursor, which have the last word ◄────────────┘
//! ```
//! The log may be open and writing meanwhile, and nothing holds it up. What is beyond the end of the
//! survey is left to the next one. What looks wrong and may only have changed:
//!
//! | met                                                | because the queue                  | so                                                          |
//! |----------------------------------------------------|------------------------------------|-------------------------------------------------------------|
//! | a listed file is not there                         | removed a spare slot               | surveyed again; a reader passes the segment                 |
//! | META or both cursor copies do not check out        | was writing one copy, then the other | surveyed again                                            |
//! | a promised frame is missing in the survey          | was writing it, or reused the slot | surveyed again: counts if it is missing there as before     |
//! | a frame does not check out                         | was writing it                     | read once more                                              |
//! | neither the second time                            | reused the slot, or moved the cursor | headers and cursor are read *after* both: counts only if the segment is still there and its entries are not done |

use std::fmt;
use std::mem;
use std::sync::Arc;

use super::block::Pool;
use super::coding::{Cipher, KeyId, KeyProblem};
use super::frame::{Frame, FrameHeader, FrameKind};
use super::op::{Completion, DiskError, FileId, Op, Owner, Token};
use super::reader::{ReadEvent, Reader};
use super::recovery::{Corruption, Scan, ScanError, Scanned, SlotState, StoreConfig};
use super::segments::SegmentTable;
use crate::lsn::{Lsn, SlotNo};

/// Scans in a row that may fail because the queue changed something meanwhile. A store at rest that
/// cannot be read says so as often, which costs reading META so many times.
const TRIES_MAX: u32 = 20;

/// What a log looks like from outside.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Everything the scan found: META, cursor, every slot with its header, live segments with their
    /// LSNs, torn tail, corruption.
    pub scanned: Scanned,
}

impl Survey {
    /// The survey of a scan.
    #[must_use]
    pub const fn new(scanned: Scanned) -> Self {
        Self { scanned }
    }

    /// Entries that the sink is not done with.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        let Scanned { cursor, end, .. } = &self.scanned;
        let done: u64 = cursor.done.iter().map(|(first, next)| next.since(*first)).sum();
        end.since(cursor.acked).saturating_sub(done)
    }

    /// The live segments, for a reader.
    #[must_use]
    pub fn segments(&self) -> SegmentTable {
        SegmentTable::new(self.scanned.live.clone(), self.scanned.cursor.done.clone())
    }
}

/// What an inspection has to say.
#[derive(Debug)]
pub enum InspectEvent {
    /// The survey is there: comes first. `None`: there is no store yet.
    Survey(Option<Box<Survey>>),
    /// The next live frame in LSN order; its checksums hold.
    Frame(Frame),
    /// The next live frame in LSN order, whose checksums hold, but which is encrypted, and the key is not there.
    Locked {
        /// The frame's header.
        header: FrameHeader,
        /// The key.
        key: KeyId,
        /// Why it cannot be used.
        problem: KeyProblem,
    },
    /// These entries cannot be read, on looking twice.
    Corrupt(Corruption),
    /// Everything live has been read.
    End(Verified),
    /// The store cannot be looked at.
    Failed(ScanError),
}

/// Counts of what an inspection read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Whole frames.
    pub frames: u64,
    /// Entries in them.
    pub records: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Entries in whole frames that were not decrypted, for want of the key.
    pub locked: u64,
    /// Entries that cannot be read.
    pub lost: u64,
    /// Times that something looked corrupt and had only changed meanwhile.
    pub changed: u64,
}

/// Reads every live frame of a log and verifies it.
pub struct Inspect {
    config: StoreConfig,
    pool: Pool,
    cipher: Option<Arc<dyn Cipher>>,
    from: Option<Lsn>,
    phase: Phase,
    events: Vec<InspectEvent>,
    verified: Verified,
    /// Scans that failed since the last one that did not.
    failed_scans: u32,
}

#[derive(Debug)]
enum Phase {
    /// With the corruption that a first survey saw, while it is being looked at again.
    Survey(Box<Scan>, Option<Vec<Corruption>>),
    Read(Box<Reading>),
    /// Something looks wrong: what do headers and cursor say now?
    Again(Box<Scan>, Box<Reading>, Doubt),
    Over,
}

/// What the headers and the cursor must settle.
#[derive(Debug)]
enum Doubt {
    /// These entries did not check out, twice.
    Corrupt(Corruption),
    /// The file of this slot was not there.
    Gone(SlotNo, DiskError),
}

#[derive(Debug)]
struct Reading {
    reader: Reader,
    table: SegmentTable,
    block_len: u32,
    end: Lsn,
    /// Everything below has been given out.
    next: Lsn,
    /// Corruption that has been seen once and is being read again.
    doubted: Option<Corruption>,
}

impl fmt::Debug for Inspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspect").field("config", &self.config).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Inspect {
    /// An inspection of everything live from `from` on, by default from the cursor on.
    #[must_use]
    pub fn new(config: StoreConfig, pool: Pool, from: Option<Lsn>) -> Self {
        let scan = Box::new(Scan::read_only(config, pool.clone()));
        Self {
            config,
            pool,
            cipher: None,
            from,
            phase: Phase::Survey(scan, None),
            events: Vec::new(),
            verified: Verified::default(),
            failed_scans: 0,
        }
    }

    /// The same, with the keys to what is encrypted.
    #[must_use]
    pub fn with_cipher(mut self, cipher: Option<Arc<dyn Cipher>>) -> Self {
        self.cipher = cipher;
        self
    }

    /// The next read.
    pub fn poll_op(&mut self) -> Option<(Token, Op)> {
        let op = match &mut self.phase {
            Phase::Survey(scan, _) | Phase::Again(scan, ..) => scan.poll_op(),
            Phase::Read(reading) if self.events.is_empty() => {
                reading.reader.poll_op(&reading.table, reading.end, &self.pool)
            }
            Phase::Read(_) | Phase::Over => None,
        };
        self.advance();
        op
    }

    /// How a read ended.
    pub fn handle_completion(&mut self, completion: Completion) {
        match (&mut self.phase, completion.token.owner) {
            (Phase::Read(reading) | Phase::Again(_, reading, _), Owner::Reader(_)) => {
                reading.reader.handle_completion(completion);
            }
            (Phase::Survey(scan, _) | Phase::Again(scan, ..), Owner::Recovery) => scan.handle_completion(completion),
            _ => {}
        }
        self.advance();
    }

    /// The next event. Reading goes on when all have been taken.
    pub fn poll_event(&mut self) -> Option<InspectEvent> {
        self.advance();
        if self.events.is_empty() { None } else { Some(self.events.remove(0)) }
    }

    fn advance(&mut self) {
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Survey(mut scan, seen) => match scan.outcome() {
                None => self.phase = Phase::Survey(scan, seen),
                Some(Ok(scanned)) => {
                    self.failed_scans = 0;
                    self.surveyed(scanned, seen);
                }
                Some(Err(error)) => {
                    self.phase = self.scan_again(error).map_or(Phase::Over, |scan| Phase::Survey(scan, seen));
                }
            },
            Phase::Read(mut reading) => match reading.reader.poll_event() {
                None => self.phase = Phase::Read(reading),
                Some(event) => self.read(event, reading),
            },
            Phase::Again(mut scan, reading, doubt) => match scan.outcome() {
                None => self.phase = Phase::Again(scan, reading, doubt),
                Some(Ok(scanned)) => {
                    self.failed_scans = 0;
                    self.looked_again(&scanned, reading, doubt);
                }
                Some(Err(error)) => {
                    self.phase = self.scan_again(error).map_or(Phase::Over, |scan| Phase::Again(scan, reading, doubt));
                }
            },
            Phase::Over => {}
        }
    }

    fn new_scan(&self) -> Box<Scan> {
        Box::new(Scan::read_only(self.config, self.pool.clone()))
    }

    /// Another scan in place of one that may have failed only because the queue was at work; `None`, and
    /// the failure told, if that is not why.
    fn scan_again(&mut self, error: ScanError) -> Option<Box<Scan>> {
        self.failed_scans += 1;
        if is_passing(&error) && self.failed_scans < TRIES_MAX {
            self.verified.changed += 1;
            return Some(self.new_scan());
        }
        self.events.push(InspectEvent::Failed(error));
        None
    }

    fn surveyed(&mut self, mut scanned: Scanned, seen: Option<Vec<Corruption>>) {
        match seen {
            None if !scanned.corruption.is_empty() => {
                // A slot may have been reused between the reading of its header and of its frames.
                self.phase = Phase::Survey(self.new_scan(), Some(scanned.corruption));
                return;
            }
            None => {}
            Some(seen) => scanned.corruption.retain(|corruption| seen.contains(corruption)),
        }
        let Some(meta) = scanned.meta.clone() else {
            self.events.push(InspectEvent::Survey(None));
            self.events.push(InspectEvent::End(self.verified));
            return;
        };
        let survey = Survey::new(scanned);
        let reader = Reader::new(self.config.log, &meta, self.config.mutants);
        let mut reader = reader.with_cipher(&meta, self.cipher.clone());
        let next = self.from.unwrap_or_else(|| survey.scanned.cursor.acked.next());
        reader.seek(next, None);
        let (table, end) = (survey.segments(), survey.scanned.end);
        self.events.push(InspectEvent::Survey(Some(Box::new(survey))));
        self.phase =
            Phase::Read(Box::new(Reading { reader, table, block_len: meta.block_len, end, next, doubted: None }));
    }

    fn read(&mut self, event: ReadEvent, mut reading: Box<Reading>) {
        match event {
            ReadEvent::Frame(frame) => {
                reading.doubted = None;
                reading.next = frame.header.next_lsn;
                self.verified.frames += 1;
                self.verified.records += u64::from(frame.header.record_count);
                self.verified.bytes += frame.header.stored_len(reading.block_len);
                if frame.header.kind == FrameKind::Data {
                    self.events.push(InspectEvent::Frame(frame));
                }
            }
            ReadEvent::Locked { header, key, problem, .. } => {
                reading.doubted = None;
                reading.next = header.next_lsn;
                self.verified.frames += 1;
                self.verified.records += u64::from(header.record_count);
                self.verified.locked += u64::from(header.record_count);
                self.verified.bytes += header.stored_len(reading.block_len);
                self.events.push(InspectEvent::Locked { header, key, problem });
            }
            ReadEvent::CaughtUp => {
                self.events.push(InspectEvent::End(self.verified));
                return;
            }
            ReadEvent::Corrupt(corruption) if reading.doubted.as_ref() == Some(&corruption) => {
                self.phase = Phase::Again(self.new_scan(), reading, Doubt::Corrupt(corruption));
                return;
            }
            ReadEvent::Corrupt(corruption) => {
                reading.reader.seek(corruption.first, None);
                reading.doubted = Some(corruption);
            }
            ReadEvent::Failed(error) => {
                match error.file {
                    Some(FileId::Slot(_, slot)) if is_missing(&error) => {
                        self.phase = Phase::Again(self.new_scan(), reading, Doubt::Gone(slot, error));
                    }
                    _ => self.events.push(InspectEvent::Failed(ScanError::Disk(error))),
                }
                return;
            }
        }
        self.phase = Phase::Read(reading);
    }

    /// Headers and cursor have been read again: is what looked wrong still expected to be there?
    fn looked_again(&mut self, scanned: &Scanned, mut reading: Box<Reading>, doubt: Doubt) {
        let slot = match &doubt {
            Doubt::Corrupt(corruption) => corruption.slot,
            Doubt::Gone(slot, _) => *slot,
        };
        let (uid, end) = reading.table.iter().find(|s| s.slot == slot).map(|s| (s.uid, s.end)).unzip();
        let slots = &scanned.report.slots;
        let still = slots.iter().any(|s| matches!(&s.state, SlotState::Segment(header) if Some(header.uid) == uid));
        let acked = scanned.cursor.acked;
        match doubt {
            Doubt::Corrupt(corruption) if still && acked < corruption.first => {
                // The segment was there when its entries were read for the second time, and they are wanted.
                self.verified.lost += corruption.last.next().since(corruption.first);
                reading.next = corruption.last.next();
                self.events.push(InspectEvent::Corrupt(corruption));
            }
            Doubt::Gone(_, error) if still && acked < reading.next => {
                // A use of a slot never comes back: it was there all the time, and could not be opened.
                self.events.push(InspectEvent::Failed(ScanError::Disk(error)));
                return;
            }
            Doubt::Corrupt(_) | Doubt::Gone(..) => {
                self.verified.changed += 1;
                let gone = reading.table.iter().filter(|s| s.end <= acked).map(|s| s.uid).collect::<Vec<_>>();
                for uid in gone.into_iter().chain(uid.filter(|_| !still)) {
                    reading.table.remove(uid);
                }
                let behind = end.filter(|_| !still).map_or(reading.next, Lsn::next);
                reading.next = reading.next.max(behind).max(acked.next());
            }
        }
        reading.doubted = None;
        reading.reader.seek(reading.next, None);
        self.phase = Phase::Read(reading);
    }
}

/// Whether a scan may have failed only because the queue was writing: see the table above.
fn is_passing(error: &ScanError) -> bool {
    match error {
        ScanError::MetaMissing { .. } | ScanError::MetaUnreadable | ScanError::CursorUnreadable => true,
        ScanError::Disk(error) => is_missing(error),
        _ => false,
    }
}

const fn is_missing(error: &DiskError) -> bool {
    error.errno == libc::ENOENT
}
