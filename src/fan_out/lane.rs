//! A branch as the copying sees it: entries go into its one ring in the order of the source, each once.
//!
//! | who        | does under the lock                                                     | and waits there for             |
//! |------------|-------------------------------------------------------------------------|---------------------------------|
//! | copying    | pushes as long as there is room; begins to count where the count breaks | the branch's disk, to begin     |
//! | redelivery | ends the count, puts parked entries back, which have LSNs of their own  | room in the ring, and that disk |
//!
//! Copying leaves the lock to wait for room. Redelivery keeps it: what is put back must not lie between copies that are
//! counted. The branch makes room by itself, and what is put back is no more than was parked when it began.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::delivery::park::ParkedEntry;
use crate::durable::{Receipt, wait_durable};
use crate::engine::{ANSWER_WITHIN, Shared, deadline_after};
use crate::entry::Entry;
use crate::error::LogError;
use crate::fan_out::copies::Copies;
use crate::fan_out::note::{NOTE_LEN, Note};
use crate::lsn::Lsn;
use crate::parked::Parked;
use crate::recovery::Look;
use crate::ring::ClaimError;
use crate::wal::op::DiskError;

/// The one ring of a branch.
const RING: u32 = 0;

/// Where a branch's note is kept.
pub(crate) trait Notes: Send + Sync {
    /// What was last written; `None`: nothing ever was.
    fn read(&self) -> std::io::Result<Option<Vec<u8>>>;
    /// Puts this in its place, durably.
    fn write(&self, bytes: &[u8]) -> std::io::Result<()>;
}

impl dyn Notes {
    fn note(&self) -> std::io::Result<Option<Note>> {
        Ok(self.read()?.and_then(|bytes| Note::decode(&bytes)))
    }

    /// An opening has found this, and has changed nothing so far: what was copied is counted now.
    pub(crate) fn settle(&self, look: &Look) -> std::io::Result<()> {
        let counted = self.note()?.filter(|note| note.from.is_some()).and_then(|note| note.settled(look));
        counted.map_or(Ok(()), |note| self.write(&note.encode()))
    }
}

/// A branch.
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) shared: Arc<Shared>,
    notes: Arc<dyn Notes>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    source: [u8; 16],
    /// The last LSN of the source that is in the ring, or further.
    copied: Lsn,
    /// Whether the note counts from something that is followed by copies alone.
    counting: bool,
}

/// How far a push of copies has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    All,
    /// The ring was full when this much space had been freed.
    Full(u64),
}

/// Why a branch takes no copies.
#[derive(Debug)]
pub(crate) enum LaneError {
    Log(LogError),
    Note(std::io::Error),
}

impl std::fmt::Display for LaneError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Note(error) => write!(f, "its note of what was copied cannot be used: {error}"),
        }
    }
}

impl From<LogError> for LaneError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Lane {
    pub(crate) fn new(name: String, shared: Arc<Shared>, notes: Arc<dyn Notes>) -> Self {
        Self { name, shared, notes, state: Mutex::default() }
    }

    /// Reads what the branch has of this source, and begins to count. Before the first copy.
    pub(crate) fn begin(&self, source: [u8; 16]) -> Result<(), LaneError> {
        let note = self.notes.note().map_err(LaneError::Note)?;
        let copied = note.map_or(Lsn::ZERO, |note| note.copied_of(source, self.shared.recovery.incarnation));
        let mut state = self.state.lock();
        state.source = source;
        self.count_from(&mut state, copied)
    }

    /// Up to where the source is in the branch's ring, or further.
    pub(crate) fn copied(&self) -> Lsn {
        self.state.lock().copied
    }

    /// Pushes what the branch does not have, as far as there is room.
    pub(crate) fn push(&self, copies: &Copies) -> Result<Pushed, LaneError> {
        let rings = &self.shared.rings;
        let mut state = self.state.lock();
        for (lsn, lane, bytes) in copies.after(state.copied) {
            if !state.counting || lsn != state.copied.next() {
                self.count_from(&mut state, lsn.prev())?;
            }
            let seen = rings.space(RING).value();
            match rings.claim(RING, bytes.len()) {
                Ok(mut claim) => {
                    claim.set_lane(lane.0);
                    claim.payload_mut().copy_from_slice(bytes);
                    claim.publish();
                    state.copied = lsn;
                }
                Err(ClaimError::Full) => return Ok(Pushed::Full(seen)),
                Err(_) => return Err(self.shared.status.end_of_waiting().into()),
            }
        }
        Ok(Pushed::All)
    }

    /// Waits a while for the ring to have more room than it had.
    pub(crate) fn await_space(&self, seen: u64, at_most: Duration) {
        self.shared.rings.doorbell().rouse();
        let _ = self.shared.rings.space(RING).wait(seen + 1, Some(at_most));
    }

    /// Makes the log hurry with what was pushed, without waiting.
    pub(crate) fn hurry(&self) {
        self.shared.want_durable();
        self.shared.rings.doorbell().rouse();
    }

    /// Waits until all that was pushed is on disk.
    pub(crate) fn flush(&self) -> Result<(), LogError> {
        let end = self.shared.rings.tail(RING);
        wait_durable(&self.shared, Receipt { ring: RING, end }, None)
    }

    /// Puts parked entries back into this branch alone.
    pub(crate) fn redeliver<T: Entry>(&self, which: impl FnMut(&ParkedEntry) -> bool) -> Result<usize, LaneError> {
        let mut state = self.state.lock();
        // What comes now is no copy. Should all end in the middle of it, it must not be counted as one.
        self.flush()?;
        self.write(&state, None)?;
        state.counting = false;
        Ok(Parked::<T>::new(&self.shared).redeliver(which)?)
    }

    /// A note that cannot be written, in the words of the log.
    pub(crate) fn note_failed(error: &std::io::Error) -> LogError {
        let (errno, detail) =
            (error.raw_os_error().unwrap_or(0), "the file COPIED of a branch, which says what it has");
        LogError::Failed(Arc::new(DiskError { what: "write", file: None, offset: None, errno, detail }))
    }

    /// All up to `copied` is in the branch, or was never to be copied, and what is pushed next comes after it.
    fn count_from(&self, state: &mut State, copied: Lsn) -> Result<(), LaneError> {
        // The note says that all of it is there, and where the log goes on.
        self.flush()?;
        let last = self.shared.fence(deadline_after(ANSWER_WITHIN))?;
        let from = last.next().max(self.shared.recovery.next);
        (state.copied, state.counting) = (copied, false);
        self.write(state, Some(from))?;
        state.counting = true;
        Ok(())
    }

    fn write(&self, state: &State, from: Option<Lsn>) -> Result<(), LaneError> {
        let branch = self.shared.recovery.incarnation;
        let note = Note { source: state.source, branch, copied: state.copied, from };
        self.notes.write(&note.encode()).map_err(LaneError::Note)
    }
}

/// A note as a file in the branch's directory.
pub(crate) struct NoteFile(pub(crate) std::path::PathBuf);

impl Notes for NoteFile {
    fn read(&self) -> std::io::Result<Option<Vec<u8>>> {
        // One more byte than a note has, so that a longer file is none.
        crate::io::read_note(&self.0, NOTE_LEN as u64 + 1)
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        crate::io::write_note(&self.0, bytes)
    }
}
