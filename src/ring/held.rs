//! What was drained and is held in the ring until the log has it.
//!
//! ```text
//!   head                                position
//!   │ run, up to LSN 9 │ run, up to 12 │ READY │ …
//!   └── held: copied into frames ──────┘
//!   release(9): ↑ here, zero behind it
//! ```
//! The flush core tells after each drain which LSNs the run got ([`Drainer::hold`]), and later up to which LSN nothing
//! need be held ([`Drainer::release`]). Runs of a ring are released in the order in which they were drained. Rings in a
//! file write both down (`shared::book`), in an order that makes sense of any moment at which the process may die.

use std::collections::VecDeque;
use std::ops::Range;

use crate::lsn::Lsn;
use crate::ring::drain::{Drained, Drainer};
use crate::ring::memory::{Bytes, offset};
#[cfg(not(any(loom, shuttle)))]
use crate::ring::shared::{book::Book, left::Note};

/// Runs of a ring that may be held.
const RUNS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Held {
    rings: Box<[Runs]>,
    #[cfg(not(any(loom, shuttle)))]
    book: Option<Book>,
}

#[derive(Debug)]
struct Runs {
    runs: VecDeque<Run>,
    /// Everything below has been freed.
    released: u64,
    /// The next note's number.
    notes: u64,
    /// The oldest note that counts.
    notes_begin: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    end: u64,
    first: Lsn,
    /// Its last LSN; less than `first` where it holds nothing but what is skipped.
    last: Lsn,
    is_noted: bool,
}

impl Held {
    fn new(rings: usize) -> Self {
        let runs = |_| Runs { runs: VecDeque::with_capacity(RUNS_MAX + 1), released: 0, notes: 0, notes_begin: 0 };
        Self {
            rings: (0..rings).map(runs).collect(),
            #[cfg(not(any(loom, shuttle)))]
            book: None,
        }
    }
}

impl Drainer {
    /// From now on a drain only copies; what it has passed is held until [`Drainer::release`].
    pub fn hold_until_released(&mut self) {
        self.held = Some(Held::new(self.rings.rings.len()));
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(super) fn hold_in(&mut self, book: Book) {
        self.hold_until_released();
        if let Some(held) = &mut self.held {
            held.book = Some(book);
        }
    }

    /// Whether what was drained is held.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Whether a run more of this ring may be held.
    #[must_use]
    pub fn may_hold(&self, ring: u32) -> bool {
        self.held.as_ref().is_none_or(|held| held.rings[ring as usize].runs.len() < RUNS_MAX)
    }

    /// Says that what was just drained from `ring`, from position `start` on, has the LSNs from `first` on. Before it is
    /// written anywhere. Runs from `frame` on, which is the first LSN of the frame that is being filled, are written
    /// together, so that they may be held as one.
    pub fn hold(&mut self, ring: u32, start: u64, drained: Drained, first: Lsn, frame: Lsn) {
        let Some(held) = &mut self.held else { return };
        if drained.end == start {
            return;
        }
        let runs = &mut held.rings[ring as usize];
        let last = first.advance(u64::from(drained.records)).prev();
        if let Some(run) = runs.runs.back_mut() {
            let is_empty = drained.records == 0;
            let follows = run.is_noted && run.first >= frame && run.last.next() == first && !has_gap(run.end, start);
            if is_empty || follows {
                run.end = drained.end;
                if !is_empty {
                    run.last = last;
                }
                #[cfg(not(any(loom, shuttle)))]
                if let Some(book) = held.book.as_ref().filter(|_| run.is_noted && !is_empty) {
                    book.extend_note(ring, runs.notes - 1, drained.end);
                }
                return;
            }
        }
        let is_noted = drained.records > 0;
        runs.runs.push_back(Run { end: drained.end, first, last, is_noted });
        if is_noted {
            #[cfg(not(any(loom, shuttle)))]
            if let Some(book) = &held.book {
                book.add_note(ring, runs.notes, Note { start, end: drained.end, first });
            }
            runs.notes += 1;
        }
    }

    /// Frees what is held up to and with this LSN: it is in the log, or done with. True: there was something.
    pub fn release(&mut self, upto: Lsn) -> bool {
        let Self { rings, readers, held: Some(held), .. } = self else { return false };
        let mut any = false;
        for (number, runs) in (0_u32..).zip(&mut held.rings) {
            let mut end = runs.released;
            let mut notes = runs.notes_begin;
            // Behind a claim that was given up nothing is ever claimed again, and its own bytes may still be written to.
            while !readers[number as usize].is_stuck
                && let Some(run) = runs.runs.front().filter(|run| run.last <= upto)
            {
                end = run.end;
                notes += u64::from(run.is_noted);
                runs.runs.pop_front();
            }
            if end == runs.released {
                continue;
            }
            any = true;
            let ring = &rings.rings[number as usize];
            #[cfg(not(any(loom, shuttle)))]
            if let Some(book) = &held.book {
                book.set_released(number, end);
            }
            for part in parts(runs.released, end, ring.bytes.len()) {
                zero(&ring.bytes, part);
            }
            #[cfg(not(any(loom, shuttle)))]
            if let Some(book) = &held.book {
                book.drop_notes(number, notes);
                book.set_space(number, end);
            }
            (runs.released, runs.notes_begin) = (end, notes);
            // Release inside: who sees this head sees the zeroes below it.
            ring.space.publish(end);
        }
        any
    }

    /// Whether so much is held that producers find no room, or will soon: one waits, or it is more than half of a ring, or
    /// most of the notes.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        let Some(held) = &self.held else { return false };
        let crowded = |(number, runs): (usize, &Runs)| {
            let (ring, held) = (&self.rings.rings[number], self.readers[number].position - runs.released);
            let is_long = held > ring.bytes.len() as u64 / 2 || runs.runs.len() > RUNS_MAX / 4 * 3;
            is_long || held > 0 && ring.space.is_waited_for()
        };
        held.rings.iter().enumerate().any(crowded)
    }

    /// Whether nothing is held above this LSN.
    #[must_use]
    pub fn is_released(&self, upto: Lsn) -> bool {
        self.held.as_ref().is_none_or(|held| held.rings.iter().all(|runs| runs.runs.iter().all(|run| run.last <= upto)))
    }
}

/// Between two runs lies what was given up.
const fn has_gap(end: u64, start: u64) -> bool {
    end != start
}

/// The places of `from..to` in a ring of `len` bytes: one, or two where it crosses the end.
fn parts(from: u64, to: u64, len: usize) -> [Range<usize>; 2] {
    let start = offset(from, len);
    let count = usize::try_from(to - from).unwrap_or(usize::MAX);
    debug_assert!(count <= len);
    let first = count.min(len - start);
    [start..start + first, 0..count - first]
}

fn zero(bytes: &Bytes, part: Range<usize>) {
    if !part.is_empty() {
        // SAFETY: these bytes were taken by the drain, and are its alone until it publishes the head.
        unsafe { bytes.zero(part.start, part.len()) };
    }
}
