//! Entries that wait to be taken into a batch, in the order of LSNs.
//!
//! ```text
//!   frame 1               frame 2               frame 3
//!   [· · · 4 5 6]         [7 8 · 10 11]         [12 13 …]        · taken, or finished before
//!          └────── cut ──────────┘
//! ```
//! A frame's memory is let go when the last batch with an entry of it is.

use std::collections::VecDeque;

use crate::delivery::batch::{RawBatch, RawEntry, RawFrame, u32_of};
use crate::delivery::progress::Attempts;
use crate::lsn::Lsn;
use crate::time::{Instant, UnixNanos};

/// A frame whose entries wait, from `at` on.
#[derive(Debug)]
struct Waiting {
    frame: RawFrame,
    entries: Vec<RawEntry>,
    at: usize,
}

/// Entries that wait to be taken.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Each with something left.
    frames: VecDeque<Waiting>,
    len: u64,
    bytes: u64,
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
        self.frames.is_empty()
    }

    /// LSN of the oldest entry, and when it came.
    pub(super) fn oldest(&self) -> Option<(Lsn, Instant)> {
        self.frames.front().map(|front| (front.entries[front.at].lsn, front.frame.arrived))
    }

    /// When the oldest entry's frame was begun, in wall-clock time.
    pub(super) fn oldest_time(&self) -> Option<UnixNanos> {
        self.frames.front().map(|front| front.frame.time)
    }

    /// These entries of a frame wait behind all others.
    pub(super) fn append(&mut self, frame: RawFrame, entries: Vec<RawEntry>) {
        if !entries.is_empty() {
            self.len += entries.len() as u64;
            self.bytes += entries.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
            self.frames.push_back(Waiting { frame, entries, at: 0 });
        }
    }

    /// Takes a batch off the front, and the number of failed attempts that all its entries share.
    ///
    /// # Panics
    /// When nothing waits.
    pub(super) fn cut(&mut self, len_max: usize, bytes_max: u64, attempts: &Attempts) -> (RawBatch, u32) {
        let (mut frames, mut entries) = (Vec::new(), Vec::new());
        let (mut bytes, mut shared) = (0, None);
        'cut: while let Some(front) = self.frames.front_mut() {
            let from = entries.len();
            while let Some(entry) = front.entries.get(front.at) {
                let behind = if attempts.is_empty() { 0 } else { attempts.at(entry.lsn) };
                let fits = entries.is_empty() || bytes + u64::from(entry.len) <= bytes_max;
                if entries.len() == len_max || !fits || *shared.get_or_insert(behind) != behind {
                    if entries.len() > from {
                        frames.push(front.frame.clone());
                    }
                    break 'cut;
                }
                bytes += u64::from(entry.len);
                entries.push(RawEntry { frame: u32_of(frames.len()), ..*entry });
                front.at += 1;
            }
            frames.extend(self.frames.pop_front().map(|front| front.frame));
        }
        assert!(!entries.is_empty(), "a batch is cut off what is pending");
        self.len -= entries.len() as u64;
        self.bytes -= bytes;
        let behind = shared.unwrap_or(0);
        (RawBatch::new(frames, entries, behind.saturating_add(1)), behind)
    }
}
