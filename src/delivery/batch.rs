//! A run of entries for the sink: raw, as the frames hold it, and decoded, as the sink sees it.
//!
//! ```text
//!  RawBatch   runs: [ Block, Block, … ]       shared with the log: no copy
//!             entries: [ (lsn, offset, len), …    run after run ]
//!  Batch<T>   RawBatch + [ Delivery { lsn, value, time, attempt }, … ]
//! ```

use std::fmt;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::delivery::lanes::Lane;
use crate::entry::{DecodeError, Entry};
use crate::lsn::Lsn;
use crate::schema::Schema;
use crate::time::{Instant, UnixNanos};
use crate::wal::block::Block;

/// The records of a frame, and what they share.
#[derive(Clone, Debug)]
pub(super) struct RawFrame {
    pub(super) body: Bytes,
    pub(super) schema: Arc<Schema>,
    pub(super) time: UnixNanos,
    /// When delivery got it.
    pub(super) arrived: Instant,
}

impl RawFrame {
    /// These entries of it in memory of their own, and where they lie there: the frame may be let go.
    pub(super) fn copy_of(&self, entries: &[RawEntry]) -> (Self, Vec<RawEntry>) {
        let aligned = |len: u32| (len as usize).next_multiple_of(8);
        let mut bytes = Vec::with_capacity(entries.iter().map(|entry| aligned(entry.len)).sum());
        let copied = entries.iter().map(|entry| {
            let offset = u32_of(bytes.len());
            bytes.extend_from_slice(&self.body[entry.offset as usize..][..entry.len as usize]);
            bytes.resize(offset as usize + aligned(entry.len), 0);
            RawEntry { offset, ..*entry }
        });
        let copied = copied.collect();
        (Self { body: Bytes::Owned(bytes.into()), ..self.clone() }, copied)
    }
}

/// Bytes of a frame, or of some of its entries alone. Both begin 8-byte aligned: a block by itself, an `Arc`'s bytes as
/// they lie behind its two counts.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Block(Block),
    Owned(Arc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Block(block) => block,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEntry {
    pub(super) lsn: Lsn,
    /// Among what it keeps its order.
    pub(super) lane: Lane,
    /// Where its payload begins in the frame's body, and how long it is.
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// Entries of a batch that lie in one frame.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) frame: RawFrame,
    /// Index in the batch of the first entry behind it.
    pub(super) end: usize,
}

#[derive(Debug)]
struct Raw {
    /// Each with at least one entry.
    runs: Vec<Run>,
    entries: Vec<RawEntry>,
    bytes_len: u64,
    attempt: u32,
}

/// A batch before decoding. Cloning counts a reference.
#[derive(Clone, Debug)]
pub struct RawBatch(Arc<Raw>);

impl RawBatch {
    /// Runs of entries, each with at least one.
    pub(super) fn new(runs: Vec<Run>, entries: Vec<RawEntry>, attempt: u32) -> Self {
        let bytes_len = bytes_of(&entries);
        Self(Arc::new(Raw { runs, entries, bytes_len, attempt }))
    }

    /// Some of its entries, by index, rising, for another attempt. Frames that nothing is left of are let go.
    pub(super) fn subset(&self, indexes: &[u32], attempt: u32) -> Self {
        let entries: Vec<_> = indexes.iter().map(|index| self.0.entries[*index as usize]).collect();
        let mut end = 0;
        let left = self.0.runs.iter().filter_map(|run| {
            let first = end;
            end += indexes[first..].partition_point(|index| (*index as usize) < run.end);
            (first < end).then(|| Run { frame: run.frame.clone(), end })
        });
        Self::new(left.collect(), entries, attempt)
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    /// Which attempt this is for its entries, the first being 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// LSN of entry `index`.
    #[must_use]
    pub fn lsn(&self, index: usize) -> Lsn {
        self.0.entries[index].lsn
    }

    /// Among what entry `index` keeps its order when several batches are out.
    #[must_use]
    pub fn lane(&self, index: usize) -> Lane {
        self.0.entries[index].lane
    }

    /// The encoding of entry `index`, 8-byte aligned.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        let RawEntry { offset, len, .. } = self.0.entries[index];
        &self.frame(index).body[offset as usize..][..len as usize]
    }

    /// What entry `index` was encoded as.
    #[must_use]
    pub fn schema(&self, index: usize) -> &Schema {
        &self.frame(index).schema
    }

    /// When the flush core took the entry out of its ring.
    #[must_use]
    pub fn time(&self, index: usize) -> UnixNanos {
        self.frame(index).time
    }

    /// Bytes of all entries' encodings.
    #[must_use]
    pub fn bytes_len(&self) -> u64 {
        self.0.bytes_len
    }

    /// Some of its entries, as stretches of LSNs without a gap: the first, and one past the last.
    pub(super) fn stretches(&self, indexes: Range<usize>) -> impl Iterator<Item = (Lsn, Lsn)> {
        let stretches = self.0.entries[indexes].chunk_by(|one, other| one.lsn.next() == other.lsn);
        stretches.map(|stretch| (stretch[0].lsn, stretch[stretch.len() - 1].lsn.next()))
    }

    fn frame(&self, index: usize) -> &RawFrame {
        &self.0.runs[self.run_at(index)].frame
    }

    /// The run that entry `index` lies in.
    fn run_at(&self, index: usize) -> usize {
        self.0.runs.partition_point(|run| run.end <= index)
    }
}

/// Bytes of the encodings of these entries.
pub(super) fn bytes_of(entries: &[RawEntry]) -> u64 {
    entries.iter().map(|entry| u64::from(entry.len)).sum()
}

/// Sizes within a frame are below 2³²: its header's fields are that wide.
pub(super) fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("a frame and a batch are shorter than 4 GiB")
}

/// An entry at its delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery<T> {
    /// Its number: rises by one, survives restarts, the same at each attempt. Some may be skipped; see [`Lsn`].
    pub lsn: Lsn,
    /// What was pushed.
    pub value: T,
    /// When it was taken in, to the precision of a group commit.
    pub time: SystemTime,
    /// Which attempt this is, the first being 1; counted over restarts.
    pub attempt: u32,
}

/// Entries for the sink, in the order of their LSNs.
///
/// Behaves as a slice of [`Delivery`]; iterating over it by value moves the values out.
pub struct Batch<T> {
    entries: Vec<Delivery<T>>,
    raw: RawBatch,
    /// For each delivery its place in `raw`, when some entries of that did not decode.
    places: Option<Vec<u32>>,
    deadline: Option<std::time::Instant>,
}

/// An entry that is none of this type any more.
#[derive(Debug)]
pub struct Undecodable {
    /// Its index in the [`RawBatch`].
    pub index: usize,
    /// Why.
    pub error: DecodeError,
}

impl<T: Entry> Batch<T> {
    /// Decodes a batch; what does not decode, or panics while it does, comes back beside it.
    #[must_use]
    pub fn decode(raw: RawBatch, deadline: Option<std::time::Instant>) -> (Self, Vec<Undecodable>) {
        let (mut entries, mut failed) = (Vec::with_capacity(raw.len()), Vec::new());
        while entries.len() + failed.len() < raw.len() {
            // Nothing of ours is left half done by a panic in here: the next one's index is how many have come out.
            let decoding = AssertUnwindSafe(|| decode_rest(&raw, &mut entries, &mut failed));
            if catch_unwind(decoding).is_err() {
                let index = entries.len() + failed.len();
                failed.push(Undecodable { index, error: DecodeError::new("decoding panicked") });
            }
        }
        let places = (!failed.is_empty()).then(|| {
            let bad = |index: &usize| failed.binary_search_by_key(index, |failure| failure.index).is_ok();
            (0..raw.len()).filter(|index| !bad(index)).map(u32_of).collect()
        });
        (Self { entries, raw, places, deadline }, failed)
    }

    /// A batch of these values, numbered from 1, for testing a sink by itself.
    ///
    /// # Panics
    /// When a value cannot be encoded and decoded again.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = T>) -> Self {
        let (mut runs, mut entries) = (Vec::new(), Vec::new());
        for (index, value) in values.into_iter().enumerate() {
            let mut bytes = Vec::new();
            value.encode(&mut bytes).expect("the value has an encoding");
            entries.push(RawEntry {
                lsn: Lsn::FIRST.advance(index as u64),
                lane: Lane::default(),
                offset: 0,
                len: u32_of(bytes.len()),
            });
            let frame = RawFrame {
                body: Bytes::Owned(bytes.into()),
                schema: Arc::new(T::SCHEMA),
                time: UnixNanos(0),
                arrived: Instant::START,
            };
            runs.push(Run { frame, end: index + 1 });
        }
        let (batch, failed) = Self::decode(RawBatch::new(runs, entries, 1), None);
        assert!(failed.is_empty(), "an encoding does not decode: {failed:?}");
        batch
    }
}

/// Decodes all that has not come out yet.
fn decode_rest<T: Entry>(raw: &RawBatch, entries: &mut Vec<Delivery<T>>, failed: &mut Vec<Undecodable>) {
    let Raw { runs, entries: found, attempt, .. } = &*raw.0;
    let mut index = entries.len() + failed.len();
    for Run { frame, end } in &runs[raw.run_at(index)..] {
        let (body, time): (&[u8], _) = (&frame.body, system_time(frame.time));
        let is_own = *frame.schema == T::SCHEMA;
        for RawEntry { lsn, offset, len, .. } in &found[index..*end] {
            let bytes = &body[*offset as usize..][..*len as usize];
            match if is_own { T::decode(bytes) } else { T::decode_from(&frame.schema, bytes) } {
                Ok(value) => entries.push(Delivery { lsn: *lsn, value, time, attempt: *attempt }),
                Err(error) => failed.push(Undecodable { index: entries.len() + failed.len(), error }),
            }
        }
        index = *end;
    }
}

impl<T> Batch<T> {
    /// The values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &T> + DoubleEndedIterator {
        self.entries.iter().map(|delivery| &delivery.value)
    }

    /// The encoding of entry `index` as it lies in the log, 8-byte aligned.
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        assert!(index < self.entries.len(), "entry {index} of a batch of {}", self.entries.len());
        self.raw.bytes(self.places.as_ref().map_or(index, |places| places[index] as usize))
    }

    /// Its entries as they lie in the log, for those who pass them on.
    pub(crate) fn raw(&self) -> RawBatch {
        self.places.as_ref().map_or_else(|| self.raw.clone(), |places| self.raw.subset(places, self.raw.attempt()))
    }

    /// LSN of the first entry; [`Lsn::ZERO`] of an empty batch, which no sink gets.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.entries.first().map_or(Lsn::ZERO, |delivery| delivery.lsn)
    }

    /// LSN of the last entry; [`Lsn::ZERO`] of an empty batch, which no sink gets.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.entries.last().map_or(Lsn::ZERO, |delivery| delivery.lsn)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Which attempt this is for all its entries, the first being 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.raw.attempt()
    }

    /// By when the sink should answer; `None`: it may take its time.
    #[must_use]
    pub const fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline
    }
}

impl<T> Deref for Batch<T> {
    type Target = [Delivery<T>];

    fn deref(&self) -> &[Delivery<T>] {
        &self.entries
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = Delivery<T>;
    type IntoIter = std::vec::IntoIter<Delivery<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a Delivery<T>;
    type IntoIter = std::slice::Iter<'a, Delivery<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<T> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first(), self.last());
        write!(f, "Batch({} entries, {first}..={last}, attempt {})", self.len(), self.attempt())
    }
}

/// Wall-clock time as the standard library has it.
pub(super) fn system_time(time: UnixNanos) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(time.0)
}
