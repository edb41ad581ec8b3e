//! A record: the same bytes in a ring and in a frame on disk.
//!
//! ```text
//!   0        4        8                        8 + payload      rounded up to 8
//!   │ word   │ meta   │ payload                │ padding        │
//!   meta = lane: 31 bits of a hash of the entry's key, 0 without one
//!   word = state (2 bits) │ total_len (30 bits, header included, padding not)
//! ```

/// Length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 8;
/// Where in the header the second word begins.
pub const META_AT: usize = 4;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// Greatest length of a record, header included.
pub const RECORD_LEN_MAX: usize = (1 << 30) - RECORD_ALIGN;

const STATE_SHIFT: u32 = 30;
const LEN_MASK: u32 = (1 << STATE_SHIFT) - 1;

/// What stands at a record's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Nothing yet: the word is zero.
    Free = 0,
    /// A producer is writing it.
    Claimed = 1,
    /// Complete. The only state that reaches the disk.
    Ready = 2,
    /// To be stepped over: the end of the ring before a wrap, an aborted claim, a failed encoding.
    Skip = 3,
}

/// The first word of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(pub u32);

impl Word {
    /// Nothing yet.
    pub const FREE: Self = Self(0);

    /// The word of a record of `total_len` bytes in this state.
    #[must_use]
    #[cfg_attr(not(test), expect(clippy::cast_possible_truncation, reason = "asserted to be at most 30 bits"))]
    pub const fn new(state: State, total_len: usize) -> Self {
        debug_assert!(total_len >= RECORD_HEADER_LEN && total_len <= RECORD_LEN_MAX);
        Self((state as u32) << STATE_SHIFT | total_len as u32)
    }

    /// The record's state.
    #[must_use]
    pub const fn state(self) -> State {
        match self.0 >> STATE_SHIFT {
            0 => State::Free,
            1 => State::Claimed,
            2 => State::Ready,
            _ => State::Skip,
        }
    }

    /// Its length with its header, without padding.
    #[must_use]
    pub const fn total_len(self) -> usize {
        (self.0 & LEN_MASK) as usize
    }

    /// The bytes it takes: its length rounded up to 8.
    #[must_use]
    pub const fn stride(self) -> usize {
        // Not `next_multiple_of`, which asks whether there is a rest, for each record that is looked at.
        (self.total_len() + (RECORD_ALIGN - 1)) & !(RECORD_ALIGN - 1)
    }
}

/// The bytes that a record with this payload takes.
#[must_use]
pub const fn stride_of(payload_len: usize) -> usize {
    (RECORD_HEADER_LEN + payload_len).next_multiple_of(RECORD_ALIGN)
}

/// The records of a frame's body, in order. Ends early, with an `Err`, at bytes that are no record.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    body: &'a [u8],
    /// Where the next one begins.
    at: usize,
}

/// A record of a frame's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its lane, among which it keeps its order: 31 bits of its key's hash, never 0; 0 without a key.
    pub meta: u32,
    /// The entry's bytes.
    pub payload: &'a [u8],
    /// Where the payload begins in the body.
    pub offset: usize,
}

/// A frame's body is not a run of records, although its checksum holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRecord {
    /// Where in the body.
    pub at: usize,
}

impl<'a> Records<'a> {
    /// The records of `body`.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        if at >= self.body.len() {
            return None;
        }
        let Some((record, behind)) = record_at(self.body, at) else {
            self.at = self.body.len();
            return Some(Err(BadRecord { at }));
        };
        self.at = behind;
        Some(Ok(record))
    }
}

/// The record that begins at `at`, which lies in the body, and where it ends, padding included.
#[inline]
fn record_at(body: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let header = u64::from_le_bytes(*body[at..].first_chunk::<RECORD_HEADER_LEN>()?);
    let (word, meta) = (Word((header & 0xffff_ffff) as u32), (header >> 32) as u32);
    let behind = at + word.stride();
    if word.state() != State::Ready || behind > body.len() {
        return None;
    }
    let offset = at + RECORD_HEADER_LEN;
    Some((Record { meta, payload: body.get(offset..at + word.total_len())?, offset }, behind))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn put(body: &mut Vec<u8>, payload: &[u8]) {
        let start = body.len();
        body.extend(Word::new(State::Ready, 8 + payload.len()).0.to_le_bytes());
        body.extend(0_u32.to_le_bytes());
        body.extend(payload);
        body.resize(start + stride_of(payload.len()), 0);
    }

    #[test]
    fn records_of_a_body_come_back_in_order() {
        let mut body = Vec::new();
        for payload in [&b""[..], b"a", b"12345678", b"123456789"] {
            put(&mut body, payload);
        }
        let all: Result<Vec<_>, _> = Records::new(&body).map(|r| r.map(|r| r.payload)).collect();
        assert_eq!(all.unwrap(), [&b""[..], b"a", b"12345678", b"123456789"]);
    }

    #[test]
    fn a_body_that_is_no_run_of_records_ends_with_an_error() {
        let mut body = Vec::new();
        put(&mut body, b"abc");
        for bad in [&[0_u8; 8][..], &[0xff; 8], &[1, 2, 3]] {
            let mut spoiled = body.clone();
            spoiled.extend(bad);
            let mut records = Records::new(&spoiled);
            assert!(records.next().unwrap().is_ok());
            assert_eq!(records.next(), Some(Err(BadRecord { at: 16 })));
            assert_eq!(records.next(), None);
        }
    }
}
