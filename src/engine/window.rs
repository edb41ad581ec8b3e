//! The frames between the log and delivery: in memory as long as there is room, else read back.
//!
//! ```text
//!   log:    ├─ delivered ─┼─ handed over ─┼─ in the window ─┼─ let go, on disk only ─┤ durable
//!                                          front             next
//! ```
//! The window is one run without gaps, filled at its end from one of two sources: frames that the log
//! has just made ready, as long as they follow on and memory is not short; or the reader, which brings
//! back what was let go. While the window *lags*, new frames are not kept: they are on disk, and the
//! reader will come to them. (With `Spill` they are not yet: then the log writes them, and until the reader
//! has had them the window lags. If it fails before they are written it gives them once more.)

use std::collections::VecDeque;

use crate::lsn::Lsn;
use crate::wal::frame::{Frame, FrameHeader, Place};
use crate::wal::reader::Border;

/// Frames that wait for the delivery thread, in LSN order.
#[derive(Debug)]
pub(crate) struct Window {
    frames: VecDeque<Frame>,
    /// Neighbours among them that lie in different chunks.
    borders: usize,
    next: Lsn,
    /// One past the last LSN that was not kept, and so must be read back.
    behind: Lsn,
    lagging: bool,
    /// Frames that will never be on disk, as the log has failed; they wait for what must be read back first.
    kept: VecDeque<Frame>,
}

/// A frame whose memory was let go: what is known of it when it is to be read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) header: FrameHeader,
    pub(crate) place: Option<Place>,
}

impl Gone {
    fn new(frame: &Frame) -> Self {
        Self { header: frame.header, place: frame.place }
    }

    /// Where it ends on disk, if it has its place.
    pub(crate) fn border(&self, block_len: u32) -> Option<Border> {
        let Place { uid, position, .. } = self.place?;
        let blocks = u32::try_from(self.header.stored_len(block_len) / u64::from(block_len)).ok()?;
        Some(Border { uid, end: position + blocks, next: self.header.next_lsn })
    }
}

impl Window {
    /// A window that begins with `next`; what lies from there to `durable` is on disk only.
    pub(crate) fn new(next: Lsn, durable: Lsn) -> Self {
        let (frames, kept) = (VecDeque::new(), VecDeque::new());
        Self { frames, borders: 0, next, behind: durable.next(), lagging: next <= durable, kept }
    }

    /// Chunks that would be free if all but the front frame were let go; none while the newest is not on disk, as then
    /// nothing is.
    pub(crate) fn chunks_on_disk(&self, durable: Lsn) -> usize {
        let on_disk = self.frames.back().is_some_and(|frame| frame.header.next_lsn.prev() <= durable);
        if on_disk { self.borders } else { 0 }
    }

    /// Chunks that its frames lie in.
    pub(crate) fn chunks(&self) -> usize {
        self.borders + usize::from(!self.frames.is_empty())
    }

    /// Whether a chunk ends between the frame at `at` and the one behind it.
    fn has_border(&self, at: usize) -> bool {
        let (frame, next) = (self.frames.get(at), self.frames.get(at + 1));
        frame.zip(next).is_some_and(|(frame, next)| !frame.block.shares_chunk(&next.block))
    }

    /// Whether frames must be read back.
    pub(crate) fn is_lagging(&self) -> bool {
        self.lagging
    }

    /// The LSN with which the next frame begins that goes into the window.
    pub(crate) fn next(&self) -> Lsn {
        self.next
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A frame that the log has just made ready; what comes back was not kept.
    pub(crate) fn offer(&mut self, frame: Frame, memory_is_short: bool) -> Option<Gone> {
        if self.lagging || memory_is_short {
            self.lagging = true;
            self.behind = self.behind.max(frame.header.next_lsn);
            return Some(Gone::new(&frame));
        }
        self.push(frame);
        None
    }

    /// A frame that will never be on disk: it is kept whatever else is, if it was not before.
    pub(crate) fn keep(&mut self, frame: Frame) {
        if frame.header.next_lsn <= self.next {
            return;
        }
        if self.lagging {
            self.kept.push_back(frame);
        } else {
            self.push(frame);
        }
    }

    /// A frame that was read back. The first one after opening may begin with entries that are done.
    pub(crate) fn push(&mut self, frame: Frame) {
        assert!(frame.header.next_lsn > self.next, "frames enter the window in order");
        self.next = frame.header.next_lsn;
        self.frames.push_back(frame);
        self.borders += usize::from(self.frames.len() > 1 && self.has_border(self.frames.len() - 2));
    }

    /// Lets the newest frame go, if it is on disk: gives back memory. `None`: there is none to let go.
    pub(crate) fn let_go(&mut self, durable: Lsn) -> Option<Gone> {
        self.frames.back().filter(|frame| frame.header.next_lsn.prev() <= durable)?;
        self.borders -= usize::from(self.frames.len() > 1 && self.has_border(self.frames.len() - 2));
        let frame = self.frames.pop_back()?;
        self.next = frame.header.first_lsn;
        self.lagging = true;
        Some(Gone::new(&frame))
    }

    /// The reader has read all that is durable: what of it is not here holds nothing. With `Spill` what was
    /// not kept may not be durable yet, and is still to be read then.
    pub(crate) fn caught_up(&mut self, durable: Lsn) {
        self.skip_to(durable.next());
        let follows_on = self.kept.front().is_some_and(|frame| frame.header.first_lsn <= self.next);
        if self.next >= self.behind || follows_on {
            self.lagging = false;
            for frame in std::mem::take(&mut self.kept) {
                self.push(frame);
            }
        }
    }

    /// Steps over what is lost.
    pub(crate) fn skip_to(&mut self, next: Lsn) {
        self.next = self.next.max(next);
    }

    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.borders -= usize::from(self.has_border(0));
        self.frames.pop_front()
    }

    pub(crate) fn put_back(&mut self, frame: Frame) {
        self.frames.push_front(frame);
        self.borders += usize::from(self.has_border(0));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::lsn::SegmentUid;
    use crate::time::UnixNanos;
    use crate::wal::block::Pool;
    use crate::wal::coding::BodyCoding;
    use crate::wal::frame::FrameKind;

    fn frame(pool: &Pool, first: u64, next: u64) -> Frame {
        let header = FrameHeader {
            kind: FrameKind::Data,
            seg_uid: SegmentUid::NONE,
            first_lsn: Lsn::new(first),
            next_lsn: Lsn::new(next),
            durable_lsn: Lsn::ZERO,
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position: 0,
            record_count: 1,
            coding: BodyCoding::PLAIN,
            body_len: 8,
            raw_len: 8,
            body_crc: 0,
        };
        Frame { header, block: pool.take().unwrap().freeze(), runs: Vec::new(), place: None }
    }

    fn firsts(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.pop()).map(|frame| frame.header.first_lsn.number()).collect()
    }

    /// Two frames in each chunk.
    fn pairs(pool: &Pool, pairs: u64) -> Vec<Frame> {
        let pair = |n: u64| {
            let mut chunk = pool.take().unwrap();
            let blocks = [chunk.freeze_front(2048), chunk.freeze()];
            let frames = blocks.into_iter().zip([2 * n + 1, 2 * n + 2]);
            frames.map(|(block, lsn)| Frame { block, ..frame(&Pool::new(1, 4096).unwrap(), lsn, lsn + 1) })
        };
        (0..pairs).flat_map(pair).collect()
    }

    #[test]
    fn it_knows_how_many_chunks_letting_go_would_free_however_frames_come_and_go() {
        let pool = Pool::new(4, 4096).unwrap();
        let mut window = Window::new(Lsn::new(1), Lsn::ZERO);
        let all = Lsn::new(8);
        assert_eq!((window.chunks_on_disk(all), window.chunks()), (0, 0));
        for frame in pairs(&pool, 4) {
            assert!(window.offer(frame, false).is_none());
        }
        assert_eq!((window.chunks_on_disk(all), window.chunks_on_disk(Lsn::new(7)), window.chunks()), (3, 0, 4));
        let first = window.pop().unwrap();
        assert_eq!(window.chunks_on_disk(all), 3);
        let second = window.pop().unwrap();
        assert_eq!(window.chunks_on_disk(all), 2);
        window.put_back(second);
        window.put_back(first);
        assert_eq!(window.chunks_on_disk(all), 3);
        let mut left = Vec::new();
        while window.len() > 1 {
            let (before, free) = (window.chunks_on_disk(all), pool.free());
            assert!(window.let_go(all).is_some());
            assert_eq!(before - window.chunks_on_disk(all), pool.free() - free, "each border is a chunk");
            left.push(window.chunks_on_disk(all));
        }
        assert_eq!((left, pool.free()), (vec![3, 2, 2, 1, 1, 0, 0], 3));
        assert!(window.pop().is_some() && window.pop().is_none());
        assert_eq!((window.chunks_on_disk(all), pool.free()), (0, 4));
    }

    #[test]
    fn what_a_failed_log_gives_once_more_is_kept_once() {
        let pool = Pool::new(16, 4096).unwrap();
        let mut window = Window::new(Lsn::new(1), Lsn::ZERO);
        assert!(window.offer(frame(&pool, 1, 3), false).is_none() && window.offer(frame(&pool, 3, 4), false).is_none());
        for (first, next) in [(1, 3), (3, 4), (4, 6)] {
            window.keep(frame(&pool, first, next));
        }
        assert_eq!(firsts(&mut window), [1, 3, 4]);
    }

    #[test]
    fn what_was_not_kept_before_the_log_failed_comes_behind_what_is_read_back() {
        let pool = Pool::new(16, 4096).unwrap();
        let mut window = Window::new(Lsn::new(1), Lsn::ZERO);
        assert!(window.offer(frame(&pool, 1, 3), false).is_none());
        assert!(window.let_go(Lsn::new(2)).is_some() && window.offer(frame(&pool, 3, 4), false).is_some());
        for (first, next) in [(3, 4), (4, 6)] {
            window.keep(frame(&pool, first, next));
        }
        assert_eq!(firsts(&mut window), [0_u64; 0], "they wait");
        window.push(frame(&pool, 1, 3));
        window.caught_up(Lsn::new(2));
        assert!(!window.is_lagging());
        assert_eq!(firsts(&mut window), [1, 3, 4]);
    }
}
