//! What is pushed, and the sink that gets it: both do only what a history says.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use ringwal::sim::mix;
use ringwal::{Batch, DecodeError, Entry, Lsn, Outcome, Schema, Sink};

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
        Some(u64::from(self.lane))
    }
}

/// What the sink says to a batch.
#[derive(Clone, Debug)]
pub enum Reply {
    Outcome(Outcome),
    Panic,
}

/// A sink in the hands of a history: a batch lies on it until it is answered.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<Mutex<OnDesk>>);

#[derive(Debug, Default)]
pub struct OnDesk {
    pub batch: Option<Vec<(Lsn, Item)>>,
    pub reply: Option<Reply>,
    /// What `committed` says.
    pub committed: Option<Lsn>,
}

impl Desk {
    pub fn look(&self) -> MutexGuard<'_, OnDesk> {
        // A sink's panic is part of the history.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sink<Item> for Desk {
    async fn deliver(&self, batch: Batch<Item>) -> Outcome {
        self.look().batch = Some(batch.iter().map(|entry| (entry.lsn, entry.value.clone())).collect());
        let reply = poll_fn(|_| self.look().reply.take().map_or(Poll::Pending, Poll::Ready)).await;
        match reply {
            Reply::Outcome(outcome) => outcome,
            Reply::Panic => panic!("the sink panics, as the history says"),
        }
    }

    async fn committed(&self) -> Option<Lsn> {
        self.look().committed
    }
}
