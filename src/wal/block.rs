//! Aligned memory that travels with an op: written once, then shared, never copied.
//!
//! ```text
//!   chunk   ┌────────────┬────────────┬──────────────────────┐
//!           │ Block      │ Block      │ BlockMut             │
//!           │ frame 7    │ frame 8    │ being filled         │
//!           └────────────┴────────────┴──────────────────────┘
//!             shared, read only         one owner, may write
//! ```
//! A [`Pool`] is a fixed number of chunks, mapped once. A [`BlockMut`] is a window of a chunk with
//! one owner; [`BlockMut::freeze_front`] cuts off its front as a [`Block`], which may be cloned, sent
//! to the disk and read by delivery at the same time. A chunk goes back to the pool when the last
//! window of it is gone. An empty pool *is* the backpressure towards the rings.
//!
//! # Pins
//! [`Block::pin`] marks a window, and all windows made of it, as one that only its reader lets go of: delivery's.
//! [`Pool::pinned`] counts the chunks that have such windows. One short frame pins its whole chunk, so chunks
//! are what is counted, and what is bounded (`engine/share.rs`).
//!
//! # Why it is right
//! Windows of one chunk never overlap: they are only ever made by cutting one. A `Block`'s bytes are
//! never written again before all its clones are gone, because writing takes a `BlockMut`, and a new
//! `BlockMut` of these bytes is only made when the chunk has no window left.
//!
//! | written with                     | read with                       | so that                      |
//! |----------------------------------|---------------------------------|------------------------------|
//! | `refs` −1, Release, drop         | `refs` fence, Acquire, last drop | all reads of the chunk are over before it is filled again |

use std::fmt;
use std::ops::{Deref, DerefMut, Range};

use memmap2::MmapMut;

use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Arc, ArrayQueue};

/// A fixed number of chunks of aligned memory.
#[derive(Clone)]
pub struct Pool(Arc<Chunks>);

struct Chunks {
    base: *mut u8,
    chunk_len: usize,
    refs: Box<[AtomicU32]>,
    /// Pinned windows of each chunk.
    pins: Box<[AtomicU32]>,
    /// Chunks with a pinned window.
    pinned: AtomicU32,
    free: ArrayQueue<u32>,
    /// Keeps the memory mapped. Only `base` is used.
    _map: MmapMut,
}

// SAFETY: `base` points into `_map`, which lives as long as `Chunks`; who may touch which bytes is
// settled by the windows (see the module's text), not by this type.
unsafe impl Send for Chunks {}
// SAFETY: as above; the other fields are `Sync` by themselves.
unsafe impl Sync for Chunks {}

impl Pool {
    /// Maps `chunks` chunks of `chunk_len` bytes, page-aligned and zero.
    ///
    /// # Errors
    /// When the memory cannot be mapped.
    ///
    /// # Panics
    /// When `chunk_len` is not a multiple of 4096, or a size is zero.
    pub fn new(chunks: u32, chunk_len: usize) -> std::io::Result<Self> {
        assert!(chunks > 0, "a pool holds at least one chunk");
        assert!(chunk_len > 0 && chunk_len.is_multiple_of(4096), "chunks are whole pages");
        let len = chunk_len.checked_mul(chunks as usize).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut map = MmapMut::map_anon(len)?;
        // A child that writes into a copied page would tear it from under a write in flight: keep
        // the memory out of children. Best effort, as the fork check refuses their handles anyway.
        let _ = map.advise(memmap2::Advice::DontFork);
        let free = ArrayQueue::new(chunks as usize);
        for chunk in 0..chunks {
            free.push(chunk).expect("the queue holds every chunk");
        }
        Ok(Self(Arc::new(Chunks {
            base: map.as_mut_ptr(),
            chunk_len,
            refs: (0..chunks).map(|_| AtomicU32::new(0)).collect(),
            pins: (0..chunks).map(|_| AtomicU32::new(0)).collect(),
            pinned: AtomicU32::new(0),
            free,
            _map: map,
        })))
    }

    /// A whole chunk, with whatever bytes were left in it; `None` while all are in use.
    #[must_use]
    pub fn take(&self) -> Option<BlockMut> {
        let chunk = self.0.free.pop()?;
        // ORDERING: Relaxed: the chunk came out of the queue, so nobody else counts on it.
        self.0.refs[chunk as usize].store(1, Ordering::Relaxed);
        Some(BlockMut(Window { pool: self.clone(), chunk, range: 0..self.0.chunk_len, pinned: false }))
    }

    /// Length of a chunk in bytes.
    #[must_use]
    pub fn chunk_len(&self) -> usize {
        self.0.chunk_len
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.0.refs.len()
    }

    /// How many chunks nobody uses.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.free.len()
    }

    /// How many chunks have pinned windows.
    #[must_use]
    pub fn pinned(&self) -> usize {
        // ORDERING: Relaxed: a number to go by; that memory may be used again is settled by `refs`.
        self.0.pinned.load(Ordering::Relaxed) as usize
    }

    /// The pool's whole memory, for a driver that registers it with the kernel: address and length.
    #[must_use]
    pub fn memory(&self) -> (*const u8, usize) {
        (self.0.base, self.0.chunk_len * self.0.refs.len())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} chunks free)", self.free(), self.chunks())
    }
}

/// A part of a chunk that counts as one reference to it.
struct Window {
    pool: Pool,
    chunk: u32,
    range: Range<usize>,
    pinned: bool,
}

impl Window {
    fn ptr(&self) -> *mut u8 {
        let at = self.chunk as usize * self.pool.0.chunk_len + self.range.start;
        // SAFETY: a window lies within its chunk, and the chunk within the mapping.
        unsafe { self.pool.0.base.add(at) }
    }

    fn refs(&self) -> &AtomicU32 {
        &self.pool.0.refs[self.chunk as usize]
    }

    fn share(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && self.range.start <= range.start && range.end <= self.range.end);
        // ORDERING: Relaxed, as in `Arc`: this window itself keeps the chunk alive meanwhile.
        self.refs().fetch_add(1, Ordering::Relaxed);
        if self.pinned {
            self.add_pin();
        }
        Self { pool: self.pool.clone(), chunk: self.chunk, range, pinned: self.pinned }
    }

    fn add_pin(&self) {
        // ORDERING: Relaxed, see `Pool::pinned`. The count never falls below zero: who drops the last pinned
        // window of a chunk got it from where the first one had been counted.
        if self.pool.0.pins[self.chunk as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            self.pool.0.pinned.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drop_pin(&self) {
        // ORDERING: Relaxed, see `add_pin`.
        if self.pool.0.pins[self.chunk as usize].fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pool.0.pinned.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.pinned {
            self.drop_pin();
        }
        // ORDERING: Release, so that what this window's owner read or wrote is over …
        if self.refs().fetch_sub(1, Ordering::Release) == 1 {
            // ORDERING: … before (Acquire) the chunk can be taken and filled again.
            fence(Ordering::Acquire);
            let returned = self.pool.0.free.push(self.chunk);
            assert!(returned.is_ok(), "a chunk came back twice");
        }
    }
}

/// A window of a chunk with one owner, who may write.
pub struct BlockMut(Window);

impl BlockMut {
    /// Cuts off the first `len` bytes as a shared, immutable block; `self` keeps the rest.
    ///
    /// # Panics
    /// When `len` is more than there is.
    #[must_use]
    pub fn freeze_front(&mut self, len: usize) -> Block {
        let mid = self.0.range.start + len;
        let front = self.0.share(self.0.range.start..mid);
        self.0.range.start = mid;
        Block(front)
    }

    /// Cuts off the first `len` bytes as a window of their own, still to be written; `self` keeps the rest.
    ///
    /// # Panics
    /// When `len` is more than there is.
    #[must_use]
    pub fn split_front(&mut self, len: usize) -> Self {
        let mid = self.0.range.start + len;
        let front = self.0.share(self.0.range.start..mid);
        self.0.range.start = mid;
        Self(front)
    }

    /// Whether nobody else has a window of its chunk: that is free when this one is dropped.
    #[must_use]
    pub fn is_last(&self) -> bool {
        // ORDERING: Relaxed: whoever takes the chunk next is ordered by the drop of this window.
        self.0.refs().load(Ordering::Relaxed) == 1
    }

    /// Makes all of it shared and immutable.
    #[must_use]
    pub fn freeze(self) -> Block {
        Block(self.0)
    }

    /// Keeps the first `len` bytes and gives the rest up.
    ///
    /// # Panics
    /// When `len` is more than there is.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len());
        self.0.range.end = self.0.range.start + len;
    }
}

impl Deref for BlockMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the window lies in mapped memory, and nobody else has these bytes.
        unsafe { std::slice::from_raw_parts(self.0.ptr(), self.0.range.len()) }
    }
}

impl DerefMut for BlockMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the window lies in mapped memory, and nobody else has these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.0.ptr(), self.0.range.len()) }
    }
}

impl fmt::Debug for BlockMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockMut(chunk {}, {:?})", self.0.chunk, self.0.range)
    }
}

/// A window of a chunk that is never written again while it exists. Cloning counts a reference.
pub struct Block(Window);

impl Block {
    /// A part of it, sharing the memory.
    ///
    /// # Panics
    /// When the range does not lie within.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let start = self.0.range.start;
        Self(self.0.share(start + range.start..start + range.end))
    }

    /// Whether both lie in one chunk, which is free again only when both are gone.
    #[must_use]
    pub fn shares_chunk(&self, other: &Self) -> bool {
        self.0.chunk == other.0.chunk
    }

    /// Marks it, and what is made of it, as held by a reader that nobody can take it from.
    #[must_use]
    pub fn pin(mut self) -> Self {
        if !self.0.pinned {
            self.0.add_pin();
            self.0.pinned = true;
        }
        self
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        Self(self.0.share(self.0.range.clone()))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the window lies in mapped memory, and no `BlockMut` of these bytes exists.
        unsafe { std::slice::from_raw_parts(self.0.ptr(), self.0.range.len()) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block(chunk {}, {:?})", self.0.chunk, self.0.range)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_returns_when_its_last_window_is_gone() {
        let pool = Pool::new(1, 8192).unwrap();
        let mut open = pool.take().unwrap();
        assert!(pool.take().is_none());
        open[..3].copy_from_slice(b"abc");
        let frame = open.freeze_front(4096);
        let copy = frame.clone();
        drop(frame);
        open[0] = b'z';
        drop(open);
        assert!(pool.take().is_none(), "a clone is still out");
        assert_eq!(&copy[..3], b"abc");
        assert_eq!(copy.slice(1..3).to_vec(), b"bc");
        drop(copy);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn a_chunk_counts_as_pinned_once_until_its_last_pinned_window_is_gone() {
        let pool = Pool::new(2, 8192).unwrap();
        let (mut open, other) = (pool.take().unwrap(), pool.take().unwrap());
        let (first, second) = (open.freeze_front(16).pin(), open.freeze_front(16).pin().pin());
        let unpinned = open.freeze_front(16);
        assert_eq!(pool.pinned(), 1);
        let other = other.freeze().pin();
        assert_eq!(pool.pinned(), 2);
        let (copy, part) = (first.clone(), second.slice(2..4));
        drop((first, second, other));
        assert_eq!(pool.pinned(), 1);
        drop((copy, part));
        assert_eq!((pool.pinned(), pool.free()), (0, 1));
        drop((open, unpinned));
        assert_eq!((pool.pinned(), pool.free()), (0, 2));
    }

    #[test]
    fn windows_of_a_chunk_do_not_overlap() {
        let pool = Pool::new(2, 8192).unwrap();
        let mut open = pool.take().unwrap();
        open.fill(1);
        let first = open.freeze_front(4096);
        open.fill(2);
        let second = open.freeze_front(4096);
        assert!(open.is_empty());
        assert!(first.iter().all(|b| *b == 1) && second.iter().all(|b| *b == 2));
    }
}
