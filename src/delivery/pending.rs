//! Entries that wait to be taken into a batch, in the order of LSNs.
//!
//! ```text
//!   held                     frames
//!   [1 · · 4]  [6 ·]         [· · · 14 15]         [17 18 · 20 21]        · taken, or finished before
//!    passed over: something         └────── cut ───────┘
//!    of their lane was out
//! ```
//! A cut takes from the front what may go out, and moves what may not over to `held`. That is looked through again once
//! one of their lanes has become free, always before what came later. A frame's memory is let go when it was looked
//! through and the last batch with an entry of it is done: what is passed over is copied out of it, as one entry would
//! hold up the whole chunk that the frame lies in, and enough of them all that delivery may have.

use std::collections::{HashMap, VecDeque};

use crate::delivery::batch::{RawBatch, RawEntry, RawFrame, Run, bytes_of};
use crate::delivery::lanes::{Lane, Lanes};
use crate::delivery::progress::Attempts;
use crate::delivery::room::Room;
use crate::lsn::Lsn;
use crate::time::{Instant, UnixNanos};

/// A frame whose entries wait, from `at` on.
#[derive(Debug)]
struct Waiting {
    frame: RawFrame,
    entries: Vec<RawEntry>,
    at: usize,
}

/// Entries of a frame that were passed over, in memory of their own.
#[derive(Debug)]
struct Held {
    frame: RawFrame,
    entries: Vec<RawEntry>,
}

impl Held {
    /// Bytes that it takes. It does not shrink before the last of its entries goes out.
    fn memory(&self) -> u64 {
        (self.frame.body.len() + self.entries.capacity() * size_of::<RawEntry>()) as u64
    }
}

/// Entries that wait to be taken.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Passed over; each with something left.
    held: VecDeque<Held>,
    /// How many entries of each lane they have.
    held_lanes: HashMap<Lane, u32>,
    /// Behind them, not looked at yet; each with something left.
    frames: VecDeque<Waiting>,
    len: u64,
    bytes: u64,
    held_len: u64,
    held_bytes: u64,
    held_memory: u64,
    /// Something in `held` may go out.
    freed: bool,
}

/// Where a batch ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits<'a> {
    pub(super) len_max: usize,
    pub(super) bytes_max: u64,
    /// It ends where these change.
    pub(super) attempts: &'a Attempts,
    pub(super) lanes: &'a Lanes,
}

impl Pending {
    /// How many entries wait.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of their encodings.
    pub(super) const fn bytes_len(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.held.is_empty()
    }

    /// The frame of the oldest entry.
    fn front(&self) -> Option<&RawFrame> {
        self.held.front().map(|held| &held.frame).or(self.frames.front().map(|front| &front.frame))
    }

    /// Bytes of memory that what was passed over takes.
    pub(super) const fn held_memory(&self) -> u64 {
        self.held_memory
    }

    /// Of the entries that were not passed over: how many they are, and their bytes.
    pub(super) const fn fresh(&self) -> (u64, u64) {
        (self.len - self.held_len, self.bytes - self.held_bytes)
    }

    /// LSN of the oldest entry that was not passed over, and when it came.
    pub(super) fn oldest_fresh(&self) -> Option<(Lsn, Instant)> {
        self.frames.front().map(|front| (front.entries[front.at].lsn, front.frame.arrived))
    }

    /// When the oldest entry's frame was begun, in wall-clock time.
    pub(super) fn oldest_time(&self) -> Option<UnixNanos> {
        self.front().map(|frame| frame.time)
    }

    /// Whether something that was passed over may go out now.
    pub(super) fn has_freed(&self) -> bool {
        self.freed && !self.held.is_empty()
    }

    /// This lane has become free.
    pub(super) fn handle_freed(&mut self, lane: Lane) {
        self.freed |= self.held_lanes.contains_key(&lane);
    }

    /// These entries of a frame wait behind all others.
    pub(super) fn append(&mut self, frame: RawFrame, entries: Vec<RawEntry>) {
        if !entries.is_empty() {
            self.len += entries.len() as u64;
            self.bytes += bytes_of(&entries);
            self.frames.push_back(Waiting { frame, entries, at: 0 });
        }
    }

    /// Takes a batch off the front, and the number of failed attempts that all its entries share. `None`: nothing of
    /// what waits may go out.
    pub(super) fn cut(&mut self, limits: Limits<'_>, room: &mut Room) -> Option<(RawBatch, u32)> {
        let entries =
            Vec::with_capacity(usize::try_from(self.len).map_or(limits.len_max, |len| len.min(limits.len_max)));
        let mut cut = Cut { limits, room, runs: Vec::new(), entries, bytes: 0, shared: None, full: false };
        if self.freed {
            self.look_through_held(&mut cut);
        }
        while !cut.full
            && let Some(mut front) = self.frames.pop_front()
        {
            let (mut passed, mut begun) = (Vec::new(), false);
            if cut.is_plain() {
                front.at += cut.take_run(&front.frame, &front.entries[front.at..]);
            }
            while !cut.is_plain()
                && let Some(entry) = front.entries.get(front.at)
            {
                match cut.offer(&front.frame, entry, &mut begun) {
                    Fit::Taken => {}
                    Fit::Passed => passed.push(*entry),
                    Fit::Full => break,
                }
                front.at += 1;
            }
            if !passed.is_empty() {
                self.hold(&front.frame, &passed);
            }
            if cut.full {
                self.frames.push_front(front);
            }
        }
        let Cut { runs, entries, bytes, shared, .. } = cut;
        if entries.is_empty() {
            return None;
        }
        self.len -= entries.len() as u64;
        self.bytes -= bytes;
        let behind = shared.unwrap_or(0);
        Some((RawBatch::new(runs, entries, behind.saturating_add(1)), behind))
    }

    /// Keeps these entries of a frame, and not the frame.
    fn hold(&mut self, frame: &RawFrame, passed: &[RawEntry]) {
        let (frame, entries) = frame.copy_of(passed);
        let held = Held { frame, entries };
        self.held_len += passed.len() as u64;
        self.held_bytes += bytes_of(passed);
        self.held_memory += held.memory();
        passed.iter().for_each(|entry| *self.held_lanes.entry(entry.lane).or_default() += 1);
        self.held.push_back(held);
    }

    fn look_through_held(&mut self, cut: &mut Cut<'_>) {
        for Held { frame, entries } in &mut self.held {
            if cut.full {
                break;
            }
            let mut begun = false;
            entries.retain(|entry| cut.full || cut.offer(frame, entry, &mut begun) != Fit::Taken);
        }
        for entry in &cut.entries {
            if let Some(count) = self.held_lanes.get_mut(&entry.lane) {
                *count -= 1;
                if *count == 0 {
                    self.held_lanes.remove(&entry.lane);
                }
            }
        }
        self.held.retain(|held| !held.entries.is_empty());
        self.held_memory = self.held.iter().map(Held::memory).sum();
        self.held_len -= cut.entries.len() as u64;
        self.held_bytes -= cut.bytes;
        // What the batch had no space for comes next.
        self.freed = cut.full;
    }
}

/// A batch while it is cut.
struct Cut<'a> {
    limits: Limits<'a>,
    room: &'a mut Room,
    runs: Vec<Run>,
    entries: Vec<RawEntry>,
    bytes: u64,
    /// Failed attempts behind each of its entries.
    shared: Option<u32>,
    full: bool,
}

#[derive(PartialEq, Eq)]
enum Fit {
    Taken,
    /// Its lane is taken.
    Passed,
    /// The batch ends before it.
    Full,
}

impl Cut<'_> {
    /// Whether entries differ in nothing that decides where the batch ends but their lengths: one batch at a time, of
    /// entries that were never tried.
    fn is_plain(&self) -> bool {
        self.limits.lanes.is_strict() && self.limits.attempts.is_empty()
    }

    /// What `offer` does, for a run of entries in a cut that is plain. How many of them were taken.
    fn take_run(&mut self, frame: &RawFrame, entries: &[RawEntry]) -> usize {
        let wanted = &entries[..entries.len().min(self.limits.len_max - self.entries.len())];
        let (mut taken, mut bytes) = (wanted.len(), self.bytes + bytes_of(wanted));
        if bytes > self.limits.bytes_max {
            (taken, bytes) = self.fitting(wanted);
        }
        self.full = taken < entries.len();
        if taken > 0 {
            self.entries.extend_from_slice(&entries[..taken]);
            self.runs.push(Run { frame: frame.clone(), end: self.entries.len() });
            self.bytes = bytes;
        }
        taken
    }

    /// How many of these fit by their bytes, and the batch's bytes with them. The first one of a batch fits whatever it has.
    fn fitting(&self, entries: &[RawEntry]) -> (usize, u64) {
        let (mut taken, mut bytes) = (0, self.bytes);
        for entry in entries {
            let with = bytes + u64::from(entry.len);
            if with > self.limits.bytes_max && self.entries.len() + taken > 0 {
                break;
            }
            (taken, bytes) = (taken + 1, with);
        }
        (taken, bytes)
    }

    /// Takes the entry if it may and fits; `begun` says whether its frame is in the batch already.
    fn offer(&mut self, frame: &RawFrame, entry: &RawEntry, begun: &mut bool) -> Fit {
        let Limits { len_max, bytes_max, attempts, lanes } = self.limits;
        if lanes.is_taken(entry.lane) {
            return Fit::Passed;
        }
        let behind = if attempts.is_empty() { 0 } else { attempts.at(entry.lsn) };
        let fits = self.entries.is_empty() || self.bytes + u64::from(entry.len) <= bytes_max;
        let is_full = self.entries.len() == len_max || !fits || *self.shared.get_or_insert(behind) != behind;
        if is_full || !self.room.admit(entry.lsn) {
            self.full = true;
            return Fit::Full;
        }
        self.bytes += u64::from(entry.len);
        self.entries.push(*entry);
        let end = self.entries.len();
        match self.runs.last_mut().filter(|_| *begun) {
            Some(run) => run.end = end,
            None => self.runs.push(Run { frame: frame.clone(), end }),
        }
        *begun = true;
        Fit::Taken
    }
}
