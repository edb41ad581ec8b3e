//! One file of old rings: what of it is in the log, and the rest into the log.
//!
//! ```text
//!   round:  records ─► frames ─► notes into the file ─► ops to the disk ─► durable ─► marks, notes forgotten
//! ```
//! What may be in the log has a note before any op goes out; a note is forgotten when what it told is marked.

use std::time::Duration;

use crate::engine::clock::Clock;
use crate::io::Disk;
use crate::io::ring_file::RingBytes;
use crate::lsn::Lsn;
use crate::ring::record::{RECORD_HEADER_LEN, State, Word};
use crate::ring::shared::left::{Control, Left, LeftRecord, Note, Walk, note_at};
use crate::ring::shared::{CONTROL_LEN, DONE, Header, NOTES_BEGIN, NOTES_END, NOTES_MAX};
use crate::schema::Schema;
use crate::wal::frame::RunEnd;
use crate::wal::log::{Blocked, Event, Log, Room};
use crate::wal::op::DiskError;

/// Bytes after which what was appended is made durable.
const ROUND_LEN: usize = 4 << 20;
/// Longest wait for a completion, before the log is asked again what is due.
const PATIENCE: Duration = Duration::from_millis(10);

/// Why the rings could not be emptied.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// No slot for them can be had.
    NoSpace,
    /// The log failed.
    Disk(DiskError),
    /// The ring file cannot be read or written.
    Rings(std::io::Error),
}

impl From<std::io::Error> for AppendError {
    fn from(error: std::io::Error) -> Self {
        Self::Rings(error)
    }
}

/// A file of old rings.
#[derive(Debug)]
pub(crate) struct Takeover<F> {
    file: F,
    header: Header,
    /// For each ring: whether its control can be read.
    is_sound: Vec<bool>,
    records: u64,
    bytes: u64,
    longest: usize,
    incomplete: u64,
    damage: Option<String>,
}

/// A ring in memory.
struct Ring {
    number: u32,
    control: Control,
    bytes: Vec<u8>,
}

impl<F: RingBytes> Takeover<F> {
    /// Looks through all rings. Changes nothing.
    pub(crate) fn look(file: F, header: Header) -> std::io::Result<Self> {
        let mut found = Self {
            file,
            header,
            is_sound: vec![true; header.rings as usize],
            records: 0,
            bytes: 0,
            longest: 0,
            incomplete: 0,
            damage: None,
        };
        for number in 0..header.rings {
            let Some(ring) = found.load(number)? else { continue };
            for left in Walk::new(&ring.control, &ring.bytes) {
                match left {
                    Left::Record(record) if record.meta & DONE == 0 => {
                        found.records += 1;
                        found.bytes += record.stride as u64;
                        found.longest = found.longest.max(record.total_len);
                    }
                    Left::Record(_) => {}
                    Left::Incomplete { .. } => found.incomplete += 1,
                    Left::Damage(damage) => found.note_damage(number, damage.position, damage.why),
                }
            }
        }
        Ok(found)
    }

    fn note_damage(&mut self, ring: u32, position: u64, why: &str) {
        self.damage.get_or_insert_with(|| format!("{why}, in ring {ring} at position {position}"));
    }

    fn load(&mut self, number: u32) -> std::io::Result<Option<Ring>> {
        if !self.is_sound[number as usize] {
            return Ok(None);
        }
        let mut control = vec![0; CONTROL_LEN];
        self.file.read(self.header.control_at(number), &mut control)?;
        let control = match Control::decode(&control, self.header.ring_len) {
            Ok(control) => control,
            Err(damage) => {
                self.is_sound[number as usize] = false;
                self.note_damage(number, damage.position, damage.why);
                return Ok(None);
            }
        };
        let len = usize::try_from(self.header.ring_len).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; len];
        self.file.read(self.header.ring_at(number), &mut bytes)?;
        Ok(Some(Ring { number, control, bytes }))
    }

    /// The file.
    pub(crate) const fn file(&self) -> &F {
        &self.file
    }

    /// Complete records, those included that the log may have.
    pub(crate) const fn records(&self) -> u64 {
        self.records
    }

    /// The bytes that they take.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length of the longest record.
    pub(crate) const fn longest(&self) -> usize {
        self.longest
    }

    /// Claims that were never published.
    pub(crate) const fn incomplete(&self) -> u64 {
        self.incomplete
    }

    /// What in it no process of ours has written.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Marks what is in the log, as it was found, and forgets the notes.
    pub(crate) fn settle(&mut self, is_in_log: impl Fn(Lsn) -> bool) -> std::io::Result<()> {
        for number in 0..self.header.rings {
            let Some(mut ring) = self.load(number)? else { continue };
            let in_log = |left| match left {
                Left::Record(record) => record.lsn.is_some_and(&is_in_log).then_some(record),
                _ => None,
            };
            let done: Vec<LeftRecord> = Walk::new(&ring.control, &ring.bytes).filter_map(in_log).collect();
            self.forget(&mut ring, &done)?;
        }
        Ok(())
    }

    /// Marks these records, and then forgets all notes. Marks change single bits of bytes that stay as they are
    /// otherwise, so that half of them may be written.
    fn forget(&mut self, ring: &mut Ring, done: &[LeftRecord]) -> std::io::Result<()> {
        let at = self.header.ring_at(ring.number);
        // A walk crosses the ring's end once.
        let turn = done.windows(2).position(|pair| pair[1].at < pair[0].at).map_or(done.len(), |last| last + 1);
        for part in [&done[..turn], &done[turn..]] {
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            for record in part {
                ring.bytes[record.at + 4..record.at + 8].copy_from_slice(&(record.meta | DONE).to_le_bytes());
            }
            let marked = first.at + 4..last.at + 8;
            self.file.write(at + marked.start as u64, &ring.bytes[marked])?;
        }
        if ring.control.notes_begin != ring.control.notes_end {
            let at = self.header.control_at(ring.number) + NOTES_BEGIN as u64;
            self.file.write(at, &ring.control.notes_end.to_le_bytes())?;
            ring.control.notes_begin = ring.control.notes_end;
        }
        ring.control.notes.clear();
        Ok(())
    }

    /// Appends what is not marked, in ring order, and makes it durable. How many that were.
    pub(crate) fn append(&mut self, log: &mut Log, disk: &mut dyn Disk, clock: &Clock) -> Result<u64, AppendError> {
        let mut appended = 0;
        for number in 0..self.header.rings {
            let Some(mut ring) = self.load(number)? else { continue };
            let is_left = |left| match left {
                Left::Record(record) if record.meta & DONE == 0 => Some((record, false)),
                Left::Record(record) => Some((record, true)),
                _ => None,
            };
            let all: Vec<_> = Walk::new(&ring.control, &ring.bytes).filter_map(is_left).collect();
            let mut round = Round::default();
            let mut is_new_run = true;
            for (record, is_done) in all {
                if is_done {
                    is_new_run = true;
                    continue;
                }
                if appended == 0 && round.records.is_empty() {
                    use_schema(log, disk, clock, self.header.schema)?;
                }
                if round.is_full(is_new_run) {
                    appended += self.finish_round(&mut ring, &mut round, log, disk, clock)?;
                    is_new_run = true;
                }
                let first = loop {
                    match put(log, clock, &ring.bytes, record) {
                        Ok(lsn) => break lsn,
                        Err(Blocked::Failed | Blocked::Closed) => make_durable(log, disk, clock)?,
                        // Nothing is on its way that could give memory or a slot back.
                        Err(_) if round.records.is_empty() => {
                            return Err(AppendError::Rings(std::io::ErrorKind::OutOfMemory.into()));
                        }
                        Err(_) => {
                            appended += self.finish_round(&mut ring, &mut round, log, disk, clock)?;
                            is_new_run = true;
                        }
                    }
                };
                round.add(record, first, is_new_run);
                is_new_run = false;
            }
            appended += self.finish_round(&mut ring, &mut round, log, disk, clock)?;
        }
        Ok(appended)
    }

    /// Writes the round's notes, makes it durable, and marks it. How many records it had.
    fn finish_round(
        &mut self,
        ring: &mut Ring,
        round: &mut Round,
        log: &mut Log,
        disk: &mut dyn Disk,
        clock: &Clock,
    ) -> Result<u64, AppendError> {
        if round.records.is_empty() {
            return Ok(0);
        }
        let at = self.header.control_at(ring.number);
        for note in &round.notes {
            self.file.write(at + note_at(ring.control.notes_end) as u64, &note.encode())?;
            ring.control.notes_end += 1;
        }
        self.file.write(at + NOTES_END as u64, &ring.control.notes_end.to_le_bytes())?;
        make_durable(log, disk, clock)?;
        self.forget(ring, &round.records)?;
        let count = round.records.len() as u64;
        *round = Round::default();
        Ok(count)
    }
}

/// What was appended and is not durable.
#[derive(Default)]
struct Round {
    records: Vec<LeftRecord>,
    notes: Vec<Note>,
    bytes: usize,
}

impl Round {
    fn is_full(&self, is_new_run: bool) -> bool {
        self.bytes >= ROUND_LEN || is_new_run && self.notes.len() as u64 == NOTES_MAX
    }

    fn add(&mut self, record: LeftRecord, lsn: Lsn, is_new_run: bool) {
        let end = record.position + record.stride as u64;
        match self.notes.last_mut() {
            Some(note) if !is_new_run => note.end = end,
            _ => self.notes.push(Note { start: record.position, end, first: lsn }),
        }
        self.bytes += record.stride;
        self.records.push(record);
    }
}

/// Copies a record into the open frame. Its LSN.
fn put(log: &mut Log, clock: &Clock, ring: &[u8], record: LeftRecord) -> Result<Lsn, Blocked> {
    let now = clock.now();
    for _ in 0..3 {
        let lsn = log.next_lsn().advance(u64::from(log.open_records()));
        let frame = log.frame(now, clock.unix())?;
        if let Some(place) = frame.spare_mut().get_mut(..record.stride) {
            place.copy_from_slice(&ring[record.at..record.at + record.stride]);
            // A bit of the ring file's own is not for the log.
            place[..4].copy_from_slice(&Word::new(State::Ready, record.total_len).0.to_le_bytes());
            place[4..RECORD_HEADER_LEN].copy_from_slice(&(record.meta & !DONE).to_le_bytes());
            frame.advance(record.stride, 1, RunEnd { ring: 0, end: 0 });
            return Ok(lsn);
        }
        // The first time the frame is full, the second time the rest of its chunk is too short.
        log.seal(now);
    }
    unreachable!("a whole frame has room for the longest entry: judging has seen to that");
}

/// Makes all that the log has taken in durable.
fn make_durable(log: &mut Log, disk: &mut dyn Disk, clock: &Clock) -> Result<(), AppendError> {
    let now = clock.now();
    log.seal(now);
    log.commit_now(now);
    drive(log, disk, clock, |log, _| log.held() == 0 && log.open_records() == 0)
}

/// From now on the log takes entries of this schema.
pub(crate) fn use_schema(log: &mut Log, disk: &mut dyn Disk, clock: &Clock, schema: Schema) -> Result<(), AppendError> {
    drive(log, disk, clock, |log, now| log.change_schema(now, schema))
}

/// Carries out what the log asks for until that is so, and nothing is in flight.
fn drive(
    log: &mut Log,
    disk: &mut dyn Disk,
    clock: &Clock,
    mut is_over: impl FnMut(&mut Log, crate::time::Instant) -> bool,
) -> Result<(), AppendError> {
    let (mut in_flight, mut room) = (0_u32, log.room());
    loop {
        let now = clock.now();
        log.handle_timeout(now);
        while let Some((token, op)) = log.poll_op(now) {
            disk.submit(token, op);
            in_flight += 1;
        }
        let mut failure = None;
        while let Some(event) = log.poll_event() {
            match event {
                Event::Durable { runs, .. } => log.recycle_runs(runs),
                Event::Room(now) => room = now,
                Event::Failed(failed) => failure = Some(failed.error),
                // What is ready is on the disk, and delivery will read it there.
                Event::Ready(_) | Event::Committed(_) | Event::CursorDurable(_) | Event::Closed => {}
            }
        }
        if let Some(error) = failure.or_else(|| log.failure().map(|failure| failure.error.clone())) {
            return Err(AppendError::Disk(error));
        }
        if in_flight == 0 {
            if is_over(log, now) {
                return Ok(());
            }
            if room != Room::Ok {
                return Err(AppendError::NoSpace);
            }
        }
        let wait = log.poll_timeout().map_or(PATIENCE, |due| due.since(now).min(PATIENCE));
        if let Some(completion) = disk.complete(Some(wait)) {
            in_flight -= 1;
            log.handle_completion(clock.now(), completion);
        }
    }
}
