//! The bytes of a ring: mapped memory, or in a checker one that it can watch. Two types with the same methods, so
//! that claim and drain are written once.
//!
//! | | [`Bytes`] that ships | [`Bytes`] under loom |
//! |---|---|---|
//! | record words | `AtomicU32` in the mapping | loom's `AtomicU32`, one for every 8 bytes |
//! | everything else | the mapping | plain memory, with a loom cell for every 8 bytes that notes who touches it |
//!
//! Under shuttle the words are shuttle's, and nothing notes who touches the rest: its threads take turns.
//!
//! All rings lie in one anonymous private mapping, so that huge pages can serve small rings too; or in one mapped
//! file, see [`shared`](crate::ring::shared).

#[cfg(not(any(loom, shuttle)))]
pub(crate) use self::mapped::{Bytes, View, map, map_file};
#[cfg(any(loom, shuttle))]
pub(crate) use self::watched::{Bytes, View, map};

/// Where in a ring of `len` bytes a position lies.
#[inline(always)]
#[cfg_attr(
    not(test),
    expect(clippy::cast_possible_truncation, reason = "a remainder by a length in memory fits an address")
)]
pub(crate) const fn offset(position: u64, len: usize) -> usize {
    (position & (len as u64 - 1)) as usize
}

#[cfg(not(any(loom, shuttle)))]
mod mapped {
    use std::io;
    use std::marker::PhantomData;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::ptr::{self, NonNull};
    use std::slice;
    use std::sync::Arc;

    use memmap2::{Advice, MmapMut, MmapRaw};

    use crate::ring::record::{RECORD_ALIGN, Word};
    use crate::ring::shared::book::Book;
    use crate::ring::shared::{CONTROLS_AT, Header};
    use crate::sync::atomic::{AtomicU32, Ordering};

    /// The bytes of one ring: a part of the mapping.
    #[derive(Clone, Debug)]
    pub(crate) struct Bytes {
        base: NonNull<u8>,
        len: usize,
        /// Keeps the mapping.
        _map: Arc<MmapRaw>,
    }

    // SAFETY: the mapping stays where it is until the last `Bytes` is gone; who may touch which of its bytes is the
    // contract of the methods.
    unsafe impl Send for Bytes {}
    // SAFETY: as above.
    unsafe impl Sync for Bytes {}

    /// Where the bytes of a ring are. By value: behind a reference they would be read anew after every store.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct View<'a> {
        base: NonNull<u8>,
        len: usize,
        _bytes: PhantomData<&'a Bytes>,
    }

    // SAFETY: as for `Bytes`, which it borrows.
    unsafe impl Send for View<'_> {}
    // SAFETY: as above.
    unsafe impl Sync for View<'_> {}

    /// Maps `count` rings of `len` zero bytes each.
    pub(crate) fn map(count: usize, len: usize) -> io::Result<Vec<Bytes>> {
        let total = count.checked_mul(len).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapRaw::from(MmapMut::map_anon(total)?);
        // Both are wishes: fewer misses of the TLB, and no copy of the rings in a child process.
        let _ = map.advise(Advice::HugePage);
        let _ = map.advise(Advice::DontFork);
        parts(&Arc::new(map), 0, count, len)
    }

    /// Maps the rings of a file, which has the length that its header gives, all of it allocated, and is zero but for
    /// the header.
    pub(crate) fn map_file(file: BorrowedFd<'_>, header: &Header) -> io::Result<(Vec<Bytes>, Book)> {
        let as_len = |len: u64| usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory));
        let map = MmapRaw::map_raw(file.as_raw_fd())?;
        if map.len() < as_len(header.file_len())? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let _ = map.advise(Advice::DontFork);
        let map = Arc::new(map);
        let rings = parts(&map, as_len(header.ring_at(0))?, header.rings as usize, as_len(header.ring_len)?)?;
        // SAFETY: the controls lie behind the header and before the rings.
        let base = unsafe { map.as_mut_ptr().add(as_len(CONTROLS_AT)?) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the header's lengths put that many controls before the first ring, on a page's border.
        let book = unsafe { Book::new(base, header.rings, map) };
        Ok((rings, book))
    }

    /// Cuts `count` rings of `len` bytes out of a mapping, from `start` on.
    fn parts(map: &Arc<MmapRaw>, start: usize, count: usize, len: usize) -> io::Result<Vec<Bytes>> {
        assert!(start + count * len <= map.len(), "rings lie within their mapping");
        let ring = |index: usize| {
            // SAFETY: `index` < `count`, so the part lies within the mapping, as asserted.
            let base = unsafe { map.as_mut_ptr().add(start + index * len) };
            let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Bytes { base, len, _map: Arc::clone(map) })
        };
        (0..count).map(ring).collect()
    }

    impl Bytes {
        #[inline(always)]
        pub(crate) const fn len(&self) -> usize {
            self.len
        }

        /// The same bytes, to be kept in registers.
        #[inline(always)]
        pub(crate) const fn view(&self) -> View<'_> {
            View { base: self.base, len: self.len, _bytes: PhantomData }
        }

        /// The word at `at`.
        #[inline(always)]
        pub(crate) fn load(&self, at: usize, order: Ordering) -> Word {
            self.view().load(at, order)
        }

        /// Copies `out.len()` bytes from `at` on.
        ///
        /// # Safety
        /// `at + out.len() <= self.len()`, and nobody writes these bytes meanwhile.
        #[inline]
        pub(crate) unsafe fn copy_to(&self, at: usize, out: &mut [u8]) {
            debug_assert!(at + out.len() <= self.len);
            let start = self.view().pointer(at);
            // SAFETY: within the ring, not written meanwhile, and `out` is no part of it.
            unsafe { ptr::copy_nonoverlapping(start, out.as_mut_ptr(), out.len()) };
        }

        /// Makes `at..at + len` zero, words and all.
        ///
        /// # Safety
        /// `at + len <= self.len()`, and these bytes belong to the caller alone.
        #[inline]
        pub(crate) unsafe fn zero(&self, at: usize, len: usize) {
            debug_assert!(at + len <= self.len);
            let start = self.view().pointer(at);
            // SAFETY: within the ring, and the caller's alone.
            unsafe { ptr::write_bytes(start, 0, len) };
        }
    }

    impl View<'_> {
        #[inline(always)]
        pub(crate) const fn len(self) -> usize {
            self.len
        }

        #[inline(always)]
        fn word(&self, at: usize) -> &AtomicU32 {
            debug_assert!(at.is_multiple_of(RECORD_ALIGN) && at < self.len);
            let word = self.pointer(at).cast();
            // SAFETY: `at` is within the ring, a multiple of 8 in a page-aligned mapping, and the mapping lives as
            // long as `self`. Where a word may stand, other accesses are made only by the one who owns the bytes.
            unsafe { AtomicU32::from_ptr(word) }
        }

        #[inline(always)]
        fn pointer(&self, at: usize) -> *mut u8 {
            debug_assert!(at < self.len);
            // SAFETY: `at` is within the ring: it comes from `offset`, or from a record that a claim put there.
            unsafe { self.base.as_ptr().add(at) }
        }

        /// The word at `at`.
        #[inline(always)]
        pub(crate) fn load(&self, at: usize, order: Ordering) -> Word {
            Word(u32::from_le(self.word(at).load(order)))
        }

        /// Whether the word at `at` is zero. For assertions by its owner.
        pub(crate) fn is_free(&self, at: usize) -> bool {
            self.load(at, Ordering::Relaxed) == Word::FREE
        }

        /// Sets the word at `at`.
        #[inline(always)]
        pub(crate) fn store(&self, at: usize, word: Word, order: Ordering) {
            self.word(at).store(word.0.to_le(), order);
        }

        /// The bytes `at..at + len`, but for the words that records have there.
        ///
        /// # Safety
        /// `at + len <= self.len()`, and these bytes belong to the caller alone while the slice lives.
        #[inline(always)]
        #[expect(clippy::mut_from_ref, reason = "the caller owns these bytes of the shared ring")]
        pub(crate) unsafe fn bytes_mut(&self, at: usize, len: usize) -> &mut [u8] {
            debug_assert!(at + len <= self.len);
            // SAFETY: `at` is within the ring, or just behind it when `len` is 0.
            let start = unsafe { self.base.as_ptr().add(at) };
            // SAFETY: within the ring, initialised (a fresh mapping is zero), and the caller's alone.
            unsafe { slice::from_raw_parts_mut(start, len) }
        }
    }
}

#[cfg(any(loom, shuttle))]
mod watched {
    use std::cell::UnsafeCell as Plain;
    use std::io;
    use std::ptr;
    use std::slice;

    use crate::ring::record::{RECORD_ALIGN, Word};
    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::plain;

    /// What stands at a multiple of 8.
    #[derive(Debug)]
    struct Unit {
        word: AtomicU32,
        /// Whether `word` may be other than zero: spares the model the storing of zero over zero.
        used: plain::AtomicU32,
        /// Notes who reads and writes these 8 bytes.
        #[cfg(loom)]
        watch: loom::cell::UnsafeCell<()>,
    }

    #[derive(Debug)]
    pub(crate) struct Bytes {
        units: Box<[Unit]>,
        bytes: Box<[Plain<u64>]>,
    }

    pub(crate) type View<'a> = &'a Bytes;

    // SAFETY: a checker runs one thread at a time, and under loom `watch` makes the model fail where two meet.
    unsafe impl Send for Bytes {}
    // SAFETY: as above.
    unsafe impl Sync for Bytes {}

    pub(crate) fn map(count: usize, len: usize) -> io::Result<Vec<Bytes>> {
        let unit = |_| Unit {
            word: AtomicU32::new(0),
            used: plain::AtomicU32::new(0),
            #[cfg(loom)]
            watch: loom::cell::UnsafeCell::new(()),
        };
        let units = len / RECORD_ALIGN;
        let ring =
            |_| Bytes { units: (0..units).map(unit).collect(), bytes: (0..units).map(|_| Plain::new(0)).collect() };
        Ok((0..count).map(ring).collect())
    }

    impl Bytes {
        pub(crate) fn len(&self) -> usize {
            self.units.len() * RECORD_ALIGN
        }

        pub(crate) fn view(&self) -> View<'_> {
            self
        }

        fn base(&self) -> *mut u8 {
            self.bytes.as_ptr().cast_mut().cast()
        }

        #[cfg(shuttle)]
        fn watch(&self, _: usize, _: usize, _: bool) {}

        #[cfg(loom)]
        fn watch(&self, at: usize, len: usize, write: bool) {
            for unit in &self.units[at / RECORD_ALIGN..(at + len).div_ceil(RECORD_ALIGN)] {
                if write {
                    unit.watch.with_mut(|_| ());
                } else {
                    unit.watch.with(|_| ());
                }
            }
        }

        pub(crate) fn load(&self, at: usize, order: Ordering) -> Word {
            Word(self.units[at / RECORD_ALIGN].word.load(order))
        }

        /// Looks past loom: its search would take an owner's own load for the last that could conflict with the
        /// store that follows, and never try the drain's load after that store.
        pub(crate) fn is_free(&self, at: usize) -> bool {
            self.units[at / RECORD_ALIGN].used.load(Ordering::Relaxed) == 0
        }

        pub(crate) fn store(&self, at: usize, word: Word, order: Ordering) {
            let unit = &self.units[at / RECORD_ALIGN];
            // Who stores a word owns the record, so its bytes are written like the rest; the drain copies them.
            self.watch(at, RECORD_ALIGN, true);
            unsafe { self.base().add(at).cast::<u32>().write(word.0.to_le()) };
            unit.used.store(1, Ordering::Relaxed);
            unit.word.store(word.0, order);
        }

        #[expect(clippy::mut_from_ref, reason = "the caller owns these bytes of the shared ring")]
        pub(crate) unsafe fn bytes_mut(&self, at: usize, len: usize) -> &mut [u8] {
            self.watch(at, len, true);
            unsafe { slice::from_raw_parts_mut(self.base().add(at), len) }
        }

        pub(crate) unsafe fn copy_to(&self, at: usize, out: &mut [u8]) {
            self.watch(at, out.len(), false);
            unsafe { ptr::copy_nonoverlapping(self.base().add(at), out.as_mut_ptr(), out.len()) };
        }

        pub(crate) unsafe fn zero(&self, at: usize, len: usize) {
            self.watch(at, len, true);
            unsafe { ptr::write_bytes(self.base().add(at), 0, len) };
            for unit in &self.units[at / RECORD_ALIGN..(at + len) / RECORD_ALIGN] {
                if unit.used.swap(0, Ordering::Relaxed) != 0 {
                    unit.word.store(0, Ordering::Relaxed);
                }
            }
        }
    }
}
