//! The cursor: what the sink is done with, in two copies written in turn behind META.
//!
//! Everything up to `acked` is done; above it, `done` lists finished runs, and `attempts` what each
//! unfinished entry has already cost. The places are preallocated, so that a full disk can always be
//! drained. Bytes: `docs/FORMAT.md`.

use crate::lsn::Lsn;
use crate::wal::codec::{crc, len_u32, put_u32, put_u64, u32_at, u64_at};
use crate::wal::meta::meta_copy_len;

/// Length of one cursor copy in bytes.
pub const CURSOR_LEN: usize = 16_384;
/// Most finished runs above `acked` that a cursor can hold.
pub const CURSOR_RANGES_MAX: usize = 512;
/// Most entries whose attempts a cursor can hold.
pub const CURSOR_ATTEMPTS_MAX: usize = 480;
const MAGIC: &[u8; 8] = b"RWALCURS";
const HEADER_LEN: usize = 64;
const RANGE_LEN: usize = 16;
const ATTEMPT_LEN: usize = 16;
const _: () = assert!(HEADER_LEN + CURSOR_RANGES_MAX * RANGE_LEN + CURSOR_ATTEMPTS_MAX * ATTEMPT_LEN + 4 <= CURSOR_LEN);

/// What the sink is done with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// Rises by one with each writing; its lowest bit is the copy's place.
    pub generation: u64,
    /// Incarnation of the store that wrote it.
    pub epoch: u64,
    /// Every LSN up to this one is done.
    pub acked: Lsn,
    /// The promise when it was written.
    pub durable: Lsn,
    /// Finished runs above `acked`: first LSN and one past the last, rising, apart from each other.
    pub done: Vec<(Lsn, Lsn)>,
    /// Failed attempts that unfinished entries have behind them, rising by LSN; a row holds from its
    /// LSN up to the next row's, so that a batch of any length costs two.
    pub attempts: Vec<(Lsn, u32)>,
}

/// Where the copy of this generation lies in the META file.
#[must_use]
pub const fn cursor_offset(generation: u64, block_len: u32) -> u64 {
    2 * meta_copy_len(block_len) + (generation & 1) * cursor_copy_len(block_len)
}

/// Length of one cursor copy's place in the file.
#[must_use]
pub const fn cursor_copy_len(block_len: u32) -> u64 {
    if block_len as usize > CURSOR_LEN { block_len as u64 } else { CURSOR_LEN as u64 }
}

/// Length of the whole META file.
#[must_use]
pub const fn meta_file_len(block_len: u32) -> u64 {
    2 * meta_copy_len(block_len) + 2 * cursor_copy_len(block_len)
}

impl Cursor {
    /// Writes the copy that belongs to this generation.
    ///
    /// # Panics
    /// When a table has more rows than fit, rows do not rise or touch what they must not, or `out` is
    /// shorter than [`CURSOR_LEN`].
    pub fn encode(&self, out: &mut [u8]) {
        assert!(self.rows_rise(), "a cursor that would be refused when read back: {self:?}");
        assert!(self.done.len() <= CURSOR_RANGES_MAX && self.attempts.len() <= CURSOR_ATTEMPTS_MAX);
        out.fill(0);
        out[..8].copy_from_slice(MAGIC);
        put_u64(out, 8, self.generation);
        put_u64(out, 16, self.epoch);
        put_u64(out, 24, self.acked.number());
        put_u64(out, 32, self.durable.number());
        put_u32(out, 40, len_u32(self.done.len()));
        put_u32(out, 44, len_u32(self.attempts.len()));
        let mut at = HEADER_LEN;
        for (first, next) in &self.done {
            put_u64(out, at, first.number());
            put_u64(out, at + 8, next.number());
            at += RANGE_LEN;
        }
        for (lsn, attempts) in &self.attempts {
            put_u64(out, at, lsn.number());
            put_u32(out, at + 8, *attempts);
            at += ATTEMPT_LEN;
        }
        let sum = crc(&out[..CURSOR_LEN - 4]);
        put_u32(out, CURSOR_LEN - 4, sum);
    }

    fn decode(bytes: &[u8], place: u64) -> Option<Self> {
        let bytes = bytes.get(..CURSOR_LEN)?;
        if &bytes[..8] != MAGIC || crc(&bytes[..CURSOR_LEN - 4]) != u32_at(bytes, CURSOR_LEN - 4) {
            return None;
        }
        let (ranges, attempts) = (u32_at(bytes, 40) as usize, u32_at(bytes, 44) as usize);
        if ranges > CURSOR_RANGES_MAX || attempts > CURSOR_ATTEMPTS_MAX {
            return None;
        }
        let rows = &bytes[HEADER_LEN..];
        let cursor = Self {
            generation: u64_at(bytes, 8),
            epoch: u64_at(bytes, 16),
            acked: Lsn::new(u64_at(bytes, 24)),
            durable: Lsn::new(u64_at(bytes, 32)),
            done: (0..ranges)
                .map(|i| (Lsn::new(u64_at(rows, i * RANGE_LEN)), Lsn::new(u64_at(rows, i * RANGE_LEN + 8))))
                .collect(),
            attempts: (0..attempts)
                .map(|i| ranges * RANGE_LEN + i * ATTEMPT_LEN)
                .map(|at| (Lsn::new(u64_at(rows, at)), u32_at(rows, at + 8)))
                .collect(),
        };
        (cursor.generation & 1 == place && cursor.rows_rise()).then_some(cursor)
    }

    /// Runs rise, do not touch each other nor `acked`, and attempts rise.
    fn rows_rise(&self) -> bool {
        let mut floor = self.acked.number();
        for (first, next) in &self.done {
            if first.number() <= floor.saturating_add(1) || next <= first {
                return false;
            }
            floor = next.number() - 1;
        }
        self.attempts.is_sorted_by(|a, b| a.0 < b.0)
    }

    /// The copy that holds, of the two copies' bytes; `None` if neither checks out.
    #[must_use]
    pub fn read(a: &[u8], b: &[u8]) -> Option<Self> {
        match (Self::decode(a, 0), Self::decode(b, 1)) {
            (Some(a), Some(b)) => Some(if a.generation > b.generation { a } else { b }),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_newer_copy_holds_and_the_older_one_steps_in() {
        let older = Cursor { generation: 4, acked: Lsn::new(9), ..Cursor::default() };
        let newer = Cursor {
            generation: 5,
            epoch: 2,
            acked: Lsn::new(10),
            durable: Lsn::new(40),
            done: vec![(Lsn::new(12), Lsn::new(15)), (Lsn::new(20), Lsn::new(21))],
            attempts: vec![(Lsn::new(11), 3), (Lsn::new(16), 1)],
        };
        let (mut a, mut b) = (vec![0; CURSOR_LEN], vec![0; CURSOR_LEN]);
        assert_eq!(Cursor::read(&a, &b), None);
        older.encode(&mut a);
        newer.encode(&mut b);
        assert_eq!(Cursor::read(&a, &b), Some(newer));
        b[70] ^= 4;
        assert_eq!(Cursor::read(&a, &b), Some(older));
    }
}
