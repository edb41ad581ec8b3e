//! The reads of a reader: in order of place, a few of them with the disk.

use std::collections::VecDeque;

use crate::lsn::SlotNo;
use crate::wal::block::Block;
use crate::wal::op::{Completion, DiskError, Output};
use crate::wal::recovery::fetch::is_bad_medium;

/// Reads that may be in flight or waiting to be looked at, however short memory is.
pub(super) const READS_MIN: usize = 2;

/// Some blocks of the segment, wanted or here.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) position: u32,
    pub(super) blocks: u32,
    pub(super) bytes: Bytes,
    pub(super) kind: Kind,
    /// It has failed once, alone or as part of a longer one.
    is_second: bool,
}

#[derive(Debug)]
pub(super) enum Bytes {
    Wanted,
    InFlight(u32),
    Here(Block),
    Unreadable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// As much as a chunk holds.
    Run,
    /// Exactly one frame, which lay over the border of two reads.
    Exact,
    /// A block of such a frame, which could not be read whole.
    Part,
}

impl Read {
    const fn end(&self) -> u32 {
        self.position + self.blocks
    }
}

/// Reads in order of place.
#[derive(Debug, Default)]
pub(super) struct Reads {
    reads: VecDeque<Read>,
    /// Reads whose bytes are not wanted any more.
    dropped: Vec<u32>,
    /// The slots of all that are with the disk, dropped or not.
    slots: Vec<(u32, SlotNo)>,
    number: u32,
}

impl Reads {
    pub(super) fn front(&self) -> Option<&Read> {
        self.reads.front()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.dropped.len() + self.reads.iter().filter(|read| matches!(read.bytes, Bytes::InFlight(_))).count()
    }

    fn held(&self) -> usize {
        let holds = |read: &&Read| matches!(read.bytes, Bytes::InFlight(_) | Bytes::Here(_));
        self.dropped.len() + self.reads.iter().filter(holds).count()
    }

    /// The first read that the disk does not know of yet.
    pub(super) fn wanted(&mut self) -> Option<&mut Read> {
        self.reads.iter_mut().find(|read| matches!(read.bytes, Bytes::Wanted))
    }

    /// A number for the token of a read in this slot.
    pub(super) fn number(&mut self, slot: SlotNo) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.slots.push((self.number, slot));
        self.number
    }

    /// Takes a read's completion. What a bad medium cannot give back is asked again block by block.
    pub(super) fn handle_completion(&mut self, completion: Completion) -> Result<(), DiskError> {
        let number = completion.token.number;
        self.slots.retain(|(flies, _)| *flies != number);
        if let Some(i) = self.dropped.iter().position(|dropped| *dropped == number) {
            self.dropped.swap_remove(i);
            return Ok(());
        }
        let at = self.reads.iter().position(|read| matches!(read.bytes, Bytes::InFlight(n) if n == number));
        let at = at.unwrap_or_else(|| panic!("read {number} completes once"));
        match completion.result {
            Ok(Output::Bytes(block)) => self.reads[at].bytes = Bytes::Here(block.freeze()),
            Ok(other) => panic!("a read brings bytes, not {other:?}"),
            Err(error) if is_bad_medium(&error) => self.split(at),
            Err(error) => {
                let _ = self.reads.remove(at);
                return Err(error);
            }
        }
        Ok(())
    }

    fn split(&mut self, at: usize) {
        let Read { position, blocks, kind, .. } = self.reads[at];
        let kind = if kind == Kind::Run { Kind::Run } else { Kind::Part };
        if blocks == 1 {
            // A medium that gives it the second time has lost nothing.
            let is_second = std::mem::replace(&mut self.reads[at].is_second, true);
            self.reads[at].bytes = if is_second { Bytes::Unreadable } else { Bytes::Wanted };
            return;
        }
        let _ = self.reads.remove(at);
        for i in 0..blocks {
            let read = Read { position: position + i, blocks: 1, bytes: Bytes::Wanted, kind, is_second: true };
            self.reads.insert(at + i as usize, read);
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        for read in self.reads.drain(..) {
            if let Bytes::InFlight(number) = read.bytes {
                self.dropped.push(number);
            }
        }
    }

    /// Lets go of what lies wholly before `position`.
    pub(super) fn pass(&mut self, position: u32) {
        while self.reads.front().is_some_and(|read| read.end() <= position) {
            if let Some(Read { bytes: Bytes::InFlight(number), .. }) = self.reads.pop_front() {
                self.dropped.push(number);
            }
        }
    }

    /// Asks for a frame, whole, in place of the read in which it begins.
    pub(super) fn again(&mut self, position: u32, blocks: u32) {
        self.reads.pop_front();
        self.reads.push_front(Read { position, blocks, bytes: Bytes::Wanted, kind: Kind::Exact, is_second: false });
    }

    /// Queues reads of what is not yet on its way, from `position` up to `limit`; `blocks` says how long a read from
    /// some block on should be.
    pub(super) fn plan(&mut self, position: u32, limit: u32, reads_max: usize, blocks: impl Fn(u32) -> u32) {
        let run = |position, blocks| Read { position, blocks, bytes: Bytes::Wanted, kind: Kind::Run, is_second: false };
        if let Some(end) = self.reads.front().map(|read| read.position).filter(|end| *end > position) {
            // A whole read of a frame ended in front of what was read ahead.
            self.reads.push_front(run(position, blocks(position).min(end - position)));
        }
        while self.reads.len() < reads_max {
            let from = self.reads.back().map_or(position, Read::end).max(position);
            let blocks = blocks(from).min(limit.saturating_sub(from));
            if blocks == 0 {
                return;
            }
            self.reads.push_back(run(from, blocks));
        }
    }
}

impl super::Reader {
    /// How many chunks of the pool it has, those with the disk included.
    #[must_use]
    pub fn held(&self) -> usize {
        self.reads.held() + self.decoding.held()
    }

    /// The slots that the disk is reading for it, also where it has left the segment meanwhile.
    pub fn reading(&self) -> impl Iterator<Item = SlotNo> + Clone {
        self.reads.slots.iter().map(|(_, slot)| *slot)
    }
}
