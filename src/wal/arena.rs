//! Small blocks for headers, marks, cursors: cut from a chunk that is held in reserve.
//!
//! ```text
//!   current  │ cut │ cut │ rest      │      reserve │ whole chunk │
//! ```
//! Entries that wait may take every chunk of the pool, but making room for them takes a cursor or a
//! segment's header: so the log takes a chunk for those beforehand, and refills before it takes one
//! for a frame.

use crate::wal::block::{BlockMut, Pool};

pub(super) struct Arena {
    pool: Pool,
    current: Option<BlockMut>,
    reserve: Option<BlockMut>,
}

impl Arena {
    pub(super) fn new(pool: Pool) -> Self {
        let mut arena = Self { pool, current: None, reserve: None };
        arena.refill();
        arena
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes a chunk into reserve, if none is there; tells whether one is.
    pub(super) fn refill(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = self.pool.take();
        }
        self.reserve.is_some()
    }

    /// Whether [`Self::cut`] will give this much.
    pub(super) fn has(&mut self, len: usize) -> bool {
        assert!(len <= self.pool.chunk_len(), "a chunk holds {len} bytes");
        if self.current.as_ref().is_some_and(|current| current.len() >= len) {
            return true;
        }
        // The last window of its chunk: this is the chunk to take.
        drop(self.current.take_if(|current| current.is_last()));
        // Else it is kept until there is another one: the chunk would go to whoever asks first.
        if self.refill() {
            self.current = self.reserve.take();
            self.refill();
            return true;
        }
        false
    }

    /// `len` zero bytes; `None` while there is no memory.
    pub(super) fn cut(&mut self, len: usize) -> Option<BlockMut> {
        let mut block = self.cut_unfilled(len)?;
        block.fill(0);
        Some(block)
    }

    /// `len` bytes with whatever is in them; `None` while there is no memory.
    pub(super) fn cut_unfilled(&mut self, len: usize) -> Option<BlockMut> {
        if !self.has(len) {
            return None;
        }
        Some(self.current.as_mut()?.split_front(len))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_kept_back_while_frames_take_the_rest() {
        let pool = Pool::new(3, 4096).unwrap();
        let mut arena = Arena::new(pool.clone());
        let frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(frames.len(), 2);
        let first = arena.cut(3000).unwrap();
        assert!(first.iter().all(|b| *b == 0));
        assert!(arena.cut(3000).is_none(), "what was cut is still out");
        drop(first);
        assert!(arena.cut(3000).is_some());
    }
}
