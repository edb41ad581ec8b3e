//! What is pushed, and the sink that gets it: both do only what a history says.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use ringwal::sim::mix;
use ringwal::{Batch, DecodeError, Entry, InPlace, Lsn, Outcome, Schema, Sink};

use super::action::LOOSE;

/// Shortest encoding.
pub const LEN_MIN: usize = 16;
/// Of an id: the entry does not decode.
const POISON: u64 = 1 << 63;

/// An entry whose bytes follow from its id and its length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub id: u64,
    pub lane: u32,
    pub len: usize,
    /// Its bytes are those that were pushed.
    pub whole: bool,
    /// It will not decode.
    pub poison: bool,
}

impl Item {
    pub const fn new(id: u64, lane: u32, len: usize, poison: bool) -> Self {
        Self { id, lane, len, whole: true, poison }
    }

    fn fill(id: u64, at: usize) -> u8 {
        mix(id ^ (at as u64 / 8) << 20).to_le_bytes()[at % 8]
    }

    /// What these bytes say, whole or not.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(LEN_MIN)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (mark, place) = (word(0), word(8));
        let id = mark & !POISON;
        let (lane, len) = (u32::try_from(place & 0xffff).ok()?, usize::try_from(place >> 16).ok()?);
        let whole = len == bytes.len() && rest.iter().enumerate().all(|(at, byte)| *byte == Self::fill(id, at));
        Some(Self { id, lane, len, whole, poison: mark & POISON != 0 })
    }
}

impl Entry for Item {
    const SCHEMA: Schema = Schema::new("torture", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len)
    }

    fn encode_into(&self, out: &mut [u8]) {
        let mark = self.id | if self.poison { POISON } else { 0 };
        out[..8].copy_from_slice(&mark.to_le_bytes());
        out[8..16].copy_from_slice(&((self.len as u64) << 16 | u64::from(self.lane)).to_le_bytes());
        for (at, byte) in out[LEN_MIN..].iter_mut().enumerate() {
            *byte = Self::fill(self.id, at);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match Self::read(bytes) {
            Some(item) if item.poison => Err(DecodeError::new("poison")),
            Some(item) => Ok(item),
            None => Err(DecodeError::new("too short for anything that was pushed")),
        }
    }

    fn key(&self) -> Option<u64> {
        (self.lane != LOOSE).then_some(u64::from(self.lane))
    }
}

impl InPlace for Item {
    fn fits(len: usize) -> bool {
        len >= LEN_MIN
    }
}

/// What the sink says to a batch.
#[derive(Clone, Debug)]
pub enum Reply {
    Outcome(Outcome),
    Panic,
}

/// A sink in the hands of a history: batches lie on it until they are answered, each by its number.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    desk: Arc<Mutex<OnDesk>>,
    blocks: bool,
}

/// What has happened to a batch.
#[derive(Debug)]
pub enum DeskEvent {
    Given(u64, Vec<(Lsn, Item)>),
    /// It was dropped unanswered.
    Dropped(u64),
}

#[derive(Debug, Default)]
pub struct OnDesk {
    /// What was not looked at yet, in order.
    pub events: Vec<DeskEvent>,
    pub replies: BTreeMap<u64, Reply>,
    /// What `committed` says.
    pub committed: Option<Lsn>,
    next: u64,
}

impl Desk {
    pub fn new(blocks: bool) -> Self {
        Self { desk: Arc::default(), blocks }
    }

    pub fn look(&self) -> MutexGuard<'_, OnDesk> {
        // A sink's panic is part of the history.
        self.desk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Tells when a delivery ends without an answer.
struct Stay {
    desk: Desk,
    number: u64,
    answered: bool,
}

impl Drop for Stay {
    fn drop(&mut self) {
        if !self.answered {
            self.desk.look().events.push(DeskEvent::Dropped(self.number));
        }
    }
}

impl Sink<Item> for Desk {
    async fn deliver(&self, batch: Batch<Item>) -> Outcome {
        let number = {
            let mut desk = self.look();
            desk.next += 1;
            let number = desk.next;
            let entries = batch.iter().map(|entry| (entry.lsn, entry.value.clone())).collect();
            desk.events.push(DeskEvent::Given(number, entries));
            number
        };
        let mut stay = Stay { desk: self.clone(), number, answered: false };
        let reply = poll_fn(|_| self.look().replies.remove(&number).map_or(Poll::Pending, Poll::Ready)).await;
        stay.answered = true;
        match reply {
            Reply::Outcome(outcome) => outcome,
            Reply::Panic => panic!("the sink panics, as the history says"),
        }
    }

    async fn committed(&self) -> Option<Lsn> {
        self.look().committed
    }

    fn blocks(&self) -> bool {
        self.blocks
    }
}
