//! Reads that are issued a few at a time and taken in the order in which they were asked for.
//!
//! A read that fails because the medium cannot give the bytes back is asked again block by block, one of a single block once
//! more, so that exactly the blocks that two reads could not have are missing: what they held is judged like any other bad
//! content. Every other failure is the caller's.

use std::collections::VecDeque;

use crate::wal::block::{BlockMut, Pool};
use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Owner, Token};

/// Most reads in flight.
const IN_FLIGHT_MAX: usize = 4;

/// A read that is over.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) len: usize,
    /// The bytes; `None` if the medium cannot give them back.
    pub(super) bytes: Option<BlockMut>,
}

#[derive(Debug)]
enum State {
    Todo,
    InFlight(u32),
    Done(Option<BlockMut>),
}

#[derive(Debug)]
struct Read {
    file: FileId,
    offset: u64,
    len: usize,
    state: State,
    /// It has failed once, alone or as part of a longer one.
    is_second: bool,
}

/// A queue of reads.
#[derive(Debug)]
pub(super) struct Fetch {
    pool: Pool,
    block_len: usize,
    reads: VecDeque<Read>,
    number: u32,
}

impl Fetch {
    pub(super) fn new(pool: Pool, block_len: u32) -> Self {
        Self { pool, block_len: block_len as usize, reads: VecDeque::new(), number: 0 }
    }

    /// The unit in which a failed read is tried again.
    pub(super) fn set_block_len(&mut self, block_len: u32) {
        self.block_len = block_len as usize;
    }

    /// A token that no other op of this recovery has.
    pub(super) fn token(&mut self) -> Token {
        self.number = self.number.wrapping_add(1);
        Token { owner: Owner::Recovery, number: self.number }
    }

    /// Asks for `len` bytes, in reads as large as the pool's chunks.
    pub(super) fn ask(&mut self, file: FileId, offset: u64, len: u64) {
        let chunk_len = self.pool.chunk_len() / self.block_len * self.block_len;
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let len = chunk_len.min(usize::try_from(end - at).unwrap_or(usize::MAX));
            self.reads.push_back(Read { file, offset: at, len, state: State::Todo, is_second: false });
            at += len as u64;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    pub(super) fn poll_op(&mut self) -> Option<(Token, Op)> {
        let window = self.reads.len().min(IN_FLIGHT_MAX);
        let at = self.reads.iter().take(window).position(|read| matches!(read.state, State::Todo))?;
        let mut block = self.pool.take()?;
        let token = self.token();
        let read = &mut self.reads[at];
        block.truncate(read.len);
        read.state = State::InFlight(token.number);
        Some((token, Op::Read { file: read.file, offset: read.offset, block }))
    }

    /// Takes a read's completion.
    pub(super) fn handle_completion(&mut self, completion: Completion) -> Result<(), DiskError> {
        let number = completion.token.number;
        let at = self.reads.iter().position(|read| matches!(read.state, State::InFlight(n) if n == number));
        let at = at.unwrap_or_else(|| panic!("read {number} completes once"));
        match completion.result {
            Ok(Output::Bytes(block)) => {
                assert_eq!(block.len(), self.reads[at].len, "a read comes back whole");
                self.reads[at].state = State::Done(Some(block));
            }
            Ok(other) => panic!("a read brings bytes, not {other:?}"),
            Err(error) if is_bad_medium(&error) => self.split(at),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Asks again for what a failed read should have brought, block by block.
    fn split(&mut self, at: usize) {
        let Read { file, offset, len, .. } = self.reads[at];
        if len <= self.block_len {
            let is_second = std::mem::replace(&mut self.reads[at].is_second, true);
            self.reads[at].state = if is_second { State::Done(None) } else { State::Todo };
            return;
        }
        let _ = self.reads.remove(at);
        for (i, start) in (0..len).step_by(self.block_len).enumerate() {
            let len = self.block_len.min(len - start);
            self.reads
                .insert(at + i, Read { file, offset: offset + start as u64, len, state: State::Todo, is_second: true });
        }
    }

    /// The oldest read, if it is over.
    pub(super) fn take(&mut self) -> Option<Fetched> {
        if !matches!(self.reads.front()?.state, State::Done(_)) {
            return None;
        }
        let Read { len, state, .. } = self.reads.pop_front()?;
        let State::Done(bytes) = state else { unreachable!("looked at above") };
        Some(Fetched { len, bytes })
    }
}

/// Whether the medium cannot give the bytes back, rather than the call having failed.
pub(crate) fn is_bad_medium(error: &DiskError) -> bool {
    matches!(error.errno, libc::EIO | libc::EILSEQ | libc::ENODATA | libc::EBADMSG | libc::EUCLEAN)
}
