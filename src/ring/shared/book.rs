//! The control of the rings, written as the flush core goes: what it drained, what it let go.

use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;

use super::left::{Note, note_at};
use super::{CONTROL_LEN, NOTES_BEGIN, NOTES_END, RELEASED, SPACE};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The mapped controls of all rings. Written by the flush core alone, read by nobody while the process lives.
#[derive(Debug)]
pub(crate) struct Book {
    base: NonNull<u8>,
    rings: u32,
    /// Keeps the mapping.
    _map: Arc<MmapRaw>,
}

// SAFETY: the mapping stays where it is until the last owner is gone, and is touched by atomic stores only.
unsafe impl Send for Book {}

impl Book {
    /// The controls of `rings` rings, from `base` on.
    ///
    /// # Safety
    /// `rings * CONTROL_LEN` bytes from `base` on lie in `map`, aligned to 8, and are nobody else's.
    pub(crate) unsafe fn new(base: NonNull<u8>, rings: u32, map: Arc<MmapRaw>) -> Self {
        Self { base, rings, _map: map }
    }

    fn store(&self, ring: u32, at: usize, value: u64) {
        assert!(ring < self.rings && at.is_multiple_of(8) && at < CONTROL_LEN);
        // SAFETY: within the mapping, by the check above and the contract of `new`.
        let place = unsafe { self.base.as_ptr().add(ring as usize * CONTROL_LEN + at) };
        // SAFETY: aligned to 8, mapped as long as `self` lives, and only ever accessed atomically.
        let place: &AtomicU64 = unsafe { AtomicU64::from_ptr(place.cast()) };
        // ORDERING: Release, so that these stores, and those to the ring's bytes, are carried out in the order in
        // which they stand: that is all that counts in the memory of a dead process.
        place.store(value.to_le(), Ordering::Release);
    }

    /// Everything below is in the log, or done. Before the bytes are made zero.
    pub(crate) fn set_released(&self, ring: u32, position: u64) {
        self.store(ring, RELEASED, position);
    }

    /// Everything below is zero. Before producers are told.
    pub(crate) fn set_space(&self, ring: u32, position: u64) {
        self.store(ring, SPACE, position);
    }

    /// Writes down a note; it counts when `notes_end` is stored.
    pub(crate) fn add_note(&self, ring: u32, number: u64, note: Note) {
        let at = note_at(number);
        for (field, value) in [note.start, note.end, note.first.number()].into_iter().enumerate() {
            self.store(ring, at + 8 * field, value);
        }
        self.store(ring, NOTES_END, number + 1);
    }

    /// The run of the last note goes on up to here.
    pub(crate) fn extend_note(&self, ring: u32, number: u64, end: u64) {
        self.store(ring, note_at(number) + 8, end);
    }

    /// The notes before this number are not needed any more.
    pub(crate) fn drop_notes(&self, ring: u32, until: u64) {
        self.store(ring, NOTES_BEGIN, until);
    }
}
