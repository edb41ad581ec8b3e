//! What a dead process left in a ring: read from bytes that may be anything.
//!
//! ```text
//!   space      released                                              space + length
//!   │ not looked │ READY │ READY │ CLAIMED │ 0 0 │ READY │ 0 0 0 0 0 0 │
//!                  note: LSNs 7, 8   dead    dead   never drained   free
//! ```

use super::{CONTROL_LEN, NOTE_LEN, NOTES_AT, NOTES_BEGIN, NOTES_END, NOTES_MAX, RELEASED, SPACE};
use crate::lsn::Lsn;
use crate::ring::memory::offset;
use crate::ring::record::{RECORD_ALIGN, RECORD_HEADER_LEN, State, Word};
use crate::wal::codec::{u32_at, u64_at};

/// Positions and LSNs from here on are damage.
const NUMBER_MAX: u64 = 1 << 62;

/// Bytes that no process of ours leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The position in the ring.
    pub position: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// A run of positions that was drained, and the LSN of its first record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Where the run begins.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// Its records have the LSNs from here on, in order.
    pub first: Lsn,
}

impl Note {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; NOTE_LEN] {
        let mut out = [0; NOTE_LEN];
        for (place, value) in out.chunks_exact_mut(8).zip([self.start, self.end, self.first.number()]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        out
    }
}

/// What a ring's control says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Everything below is in the log.
    pub released: u64,
    /// Everything below is zero, or claimed again.
    pub space: u64,
    /// The first note's number.
    pub notes_begin: u64,
    /// One past the last note's.
    pub notes_end: u64,
    /// The notes above `released`.
    pub notes: Vec<Note>,
}

impl Control {
    /// Reads a control of a ring of `ring_len` bytes.
    ///
    /// # Errors
    /// It says what cannot be.
    pub fn decode(bytes: &[u8], ring_len: u64) -> Result<Self, Damage> {
        let damage = |position, why| Err(Damage { position, why });
        if bytes.len() < CONTROL_LEN || !ring_len.is_power_of_two() {
            return damage(0, "the ring's control is cut off");
        }
        let (released, space) = (u64_at(bytes, RELEASED), u64_at(bytes, SPACE));
        let (notes_begin, notes_end) = (u64_at(bytes, NOTES_BEGIN), u64_at(bytes, NOTES_END));
        let is_position = |at: u64| at < NUMBER_MAX && at.is_multiple_of(8);
        if !is_position(released) || !is_position(space) || space > released || released - space > ring_len {
            return damage(released, "the ring's positions contradict each other");
        }
        if notes_begin > notes_end || notes_end - notes_begin > NOTES_MAX || notes_end >= NUMBER_MAX {
            return damage(released, "the numbers of the ring's notes contradict each other");
        }
        let mut notes: Vec<Note> = Vec::new();
        for number in notes_begin..notes_end {
            let at = note_at(number);
            let [start, end, first] = [0, 8, 16].map(|field| u64_at(bytes, at + field));
            let (after, above) = notes.last().map_or((0, 0), |note| (note.end, note.first.number()));
            let is_sound = is_position(start) && is_position(end) && start < end && first < NUMBER_MAX;
            if !is_sound
                || first <= above
                || start < after
                || end > space + ring_len
                || start < released && end > released
            {
                return damage(start, "a note of what was drained contradicts the ring's positions");
            }
            // What was released and is still noted: the process died in between.
            if end > released {
                notes.push(Note { start, end, first: Lsn::new(first) });
            }
        }
        Ok(Self { released, space, notes_begin, notes_end, notes })
    }
}

/// Where the note of this number lies in a control.
pub(crate) const fn note_at(number: u64) -> usize {
    NOTES_AT + (number % NOTES_MAX) as usize * NOTE_LEN
}

/// A complete record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftRecord {
    /// Its position.
    pub position: u64,
    /// Where it lies in the ring's bytes.
    pub at: usize,
    /// Bytes that it takes, padding included.
    pub stride: usize,
    /// Its length, header included.
    pub total_len: usize,
    /// Its second word.
    pub meta: u32,
    /// The LSN that it was drained under, if it was.
    pub lsn: Option<Lsn>,
}

/// Something in a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// A complete record.
    Record(LeftRecord),
    /// A claim whose producer never published.
    Incomplete {
        /// Where.
        position: u64,
    },
    /// Nothing behind it can be told. The last item.
    Damage(Damage),
}

/// Goes over what is left in a ring, in order.
#[derive(Debug)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    notes: &'a [Note],
    position: u64,
    limit: u64,
    /// The LSN of the next record, within the first of `notes`.
    next_lsn: Option<Lsn>,
    is_in_gap: bool,
}

impl<'a> Walk<'a> {
    /// Over a ring's bytes, whose length is a power of two.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn new(control: &'a Control, bytes: &'a [u8]) -> Self {
        assert!(bytes.len().is_power_of_two() && bytes.len() >= RECORD_ALIGN, "a ring of {} bytes", bytes.len());
        Self {
            bytes,
            notes: &control.notes,
            position: control.released,
            limit: control.space + bytes.len() as u64,
            next_lsn: None,
            is_in_gap: false,
        }
    }

    fn damage(&mut self, why: &'static str) -> Option<Left> {
        let position = std::mem::replace(&mut self.position, self.limit);
        Some(Left::Damage(Damage { position, why }))
    }

    /// Goes on to the notes that concern what stands here. False: one begins or ends within it.
    fn note_at(&mut self, stride: u64) -> bool {
        while self.notes.first().is_some_and(|note| note.end <= self.position) {
            self.notes = &self.notes[1..];
            self.next_lsn = None;
        }
        let is_within = |border: u64| self.position < border && border < self.position + stride;
        !self.notes.first().is_some_and(|note| is_within(note.start) || is_within(note.end))
    }

    /// The LSN of the record here.
    fn lsn(&mut self) -> Option<Lsn> {
        let note = self.notes.first().filter(|note| note.start <= self.position)?;
        let lsn = self.next_lsn.unwrap_or(note.first);
        self.next_lsn = Some(lsn.next());
        Some(lsn)
    }
}

impl Iterator for Walk<'_> {
    type Item = Left;

    fn next(&mut self) -> Option<Left> {
        while self.position < self.limit {
            let at = offset(self.position, self.bytes.len());
            let word = Word(u32_at(self.bytes, at));
            if word == Word::FREE {
                self.is_in_gap = true;
                self.position += RECORD_ALIGN as u64;
                continue;
            }
            if std::mem::take(&mut self.is_in_gap) {
                return Some(Left::Incomplete { position: self.position });
            }
            let (stride, position) = (word.stride(), self.position);
            let fits = word.total_len() >= RECORD_HEADER_LEN
                && stride <= self.bytes.len() - at
                && stride as u64 <= self.limit - position;
            if word.state() == State::Free || !fits {
                return self.damage("a record's length leaves the ring");
            }
            if !self.note_at(stride as u64) {
                return self.damage("a note of what was drained begins or ends within a record");
            }
            let record = match word.state() {
                State::Ready => Left::Record(LeftRecord {
                    position,
                    at,
                    stride,
                    total_len: word.total_len(),
                    meta: u32_at(self.bytes, at + 4),
                    lsn: self.lsn(),
                }),
                State::Claimed => Left::Incomplete { position },
                State::Skip | State::Free => {
                    self.position += stride as u64;
                    continue;
                }
            };
            self.position += stride as u64;
            return Some(record);
        }
        None
    }
}
