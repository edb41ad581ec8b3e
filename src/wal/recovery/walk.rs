//! The decision: where the log ends, and what of it is lost. Pure, over facts.
//!
//! The text and the table of cases are in the module above.

use super::find::{Found, Frames};
use super::links::Links;
use super::report::{Corruption, TornTail};
use super::tail::{torn, torn_behind};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::ring::record::RECORD_HEADER_LEN;
use crate::wal::meta::LogEnd;
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::segment::{HEADER_BLOCKS, SegmentHeader};

/// A segment and, if it was read, its frames.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) slot: SlotNo,
    pub(crate) header: SegmentHeader,
    pub(crate) frames: Option<Frames>,
    /// Blocks of the slot.
    pub(crate) blocks: u32,
}

/// What is known besides the segments.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) acked: Lsn,
    /// Finished runs above `acked`: first, one past the last.
    pub(crate) done: Vec<(Lsn, Lsn)>,
    /// `cursor.durable`.
    pub(crate) durable: Lsn,
    pub(crate) clean: Option<LogEnd>,
    pub(crate) recovered: Option<LogEnd>,
    /// The incarnation that `recovered` is the beginning of.
    pub(crate) epoch: u64,
    pub(crate) block_len: u32,
    /// Most bytes of records that a block on disk may stand for: more than it has, where frames may be compressed.
    pub(crate) block_raw_max: u64,
    pub(crate) mutants: Mutants,
}

/// A walked segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Index of the segment.
    pub(crate) index: usize,
    /// Last LSN in it.
    pub(crate) end: Lsn,
    /// First block behind its last good frame.
    pub(crate) end_position: u32,
    /// Wholly at or below the cursor.
    pub(crate) dead: bool,
}

/// The log as the walk found it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Walked {
    pub(crate) spans: Vec<Span>,
    pub(crate) end: Lsn,
    pub(crate) promise: Lsn,
    pub(crate) corruption: Vec<Corruption>,
    pub(crate) torn: Option<TornTail>,
    pub(crate) lost_marks: u64,
    /// Holes that are missing segments and that the log goes on behind: at least so many segments have their place.
    pub(crate) bridged: usize,
}

/// The freshest promise outside the frames.
pub(crate) fn header_promise(segments: &[Segment], known: &Known) -> Lsn {
    let mut promise = known.durable.max(known.acked);
    for end in [known.clean, known.recovered].into_iter().flatten() {
        promise = promise.max(end.lsn);
    }
    for segment in segments {
        promise = promise.max(segment.header.durable_lsn);
        if known.mutants.has(Mutant::PrevEndIsPromise) {
            promise = promise.max(segment.header.prev_end_lsn);
        }
    }
    promise
}

/// The segments whose every block must be read: those that can hold a frame that no header promised.
pub(crate) fn to_read(segments: &[Segment], known: &Known) -> Vec<usize> {
    let links = Links::new(segments, known);
    let promise = header_promise(segments, known);
    let is_promised = |i: usize| links.reaches[i] && links.limit[i].is_some_and(|limit| limit <= promise);
    let wanted = |i: &usize| !links.is_dead(*i, known) && !is_promised(*i);
    (0..segments.len()).filter(wanted).collect()
}

const UNREADABLE: &str = "the disk cannot read what comes next; no more than these";
const MISSING: &str = "promised entries are not where they should be";
const UNKNOWN: &str = "a segment that the next one follows is not there; no more than these";

/// How many records so many bytes can hold.
const fn most_records(len: u64) -> u64 {
    len / RECORD_HEADER_LEN as u64
}

/// Whether the log was closed in order, and ends there: nothing comes next.
fn is_closed(known: &Known, end: Lsn) -> bool {
    known.clean.is_some_and(|clean| end >= clean.lsn)
}

/// P, for segments whose header cannot be read: any of them may be one that the log goes on in. Not where the log
/// was closed in order, nor where each has its place in the chain (J: in front of a segment that the walk went on in).
/// A hole alone does not settle it: it ends at the promise, and an unreadable tail may hold more than was promised.
pub(crate) fn look_at_blind(walked: &mut Walked, blind: &[SlotNo], segment_len: u64, known: &Known) {
    if is_closed(known, walked.end) || blind.len() <= walked.bridged {
        return;
    }
    let raw_max = segment_len / u64::from(known.block_len) * known.block_raw_max;
    for slot in blind {
        let (first, last) = (walked.end.next(), walked.end.advance(most_records(raw_max)));
        walked.corruption.push(Corruption { slot: *slot, offset: 0, first, last, why: UNREADABLE });
        walked.end = last;
    }
}

/// Walks the log from the cursor to its end.
pub(crate) fn walk(segments: &[Segment], known: &Known) -> Walked {
    let mut walk = Walk {
        segments,
        known,
        links: Links::new(segments, known),
        out: Walked { promise: header_promise(segments, known), ..Walked::default() },
        expected: None,
    };
    walk.collect_promises();
    walk.run();
    walk.out
}

struct Walk<'a> {
    segments: &'a [Segment],
    known: &'a Known,
    links: Links,
    out: Walked,
    /// The LSN that comes next; none before the first segment that is not dead.
    expected: Option<Lsn>,
}

impl Walk<'_> {
    /// Pass 1: every promise in every frame, before anything is judged.
    fn collect_promises(&mut self) {
        if self.known.mutants.has(Mutant::NoLookAhead) {
            return;
        }
        for (i, segment) in self.segments.iter().enumerate() {
            let frames = segment.frames.iter().flat_map(|frames| &frames.found);
            for frame in frames.filter(|frame| frame.header.seg_uid == segment.header.uid) {
                // Behind its limit a segment's frames were given up: what they say of LSNs beyond it
                // is about another history.
                let promise = self.links.limit[i].map_or(frame.header.durable_lsn, |l| l.min(frame.header.durable_lsn));
                self.out.promise = self.out.promise.max(promise);
            }
        }
    }

    /// Pass 2: from segment to segment until the log ends.
    fn run(&mut self) {
        let acked = self.known.acked;
        let start = (0..self.segments.len())
            .filter(|i| self.segments[*i].header.base_lsn <= acked.next())
            .max_by_key(|i| self.segments[*i].header.seq);
        let mut at = start;
        if start.is_none() {
            self.expected = Some(acked.next());
            at = self.bridge(None);
        }
        while let Some(index) = at {
            let goes_on = self.segment(index);
            at = if goes_on { self.links.next[index].or_else(|| self.bridge(Some(index))) } else { None };
        }
        let walked = self.expected.map_or(acked, Lsn::prev);
        self.out.end = walked.max(acked);
        self.check_clean();
    }

    /// The chain has ended in `walked`, but the log goes on: segments are missing. Reports what they held, and gives
    /// the segment behind them (J).
    fn bridge(&mut self, walked: Option<usize>) -> Option<usize> {
        let expected = self.expected.unwrap_or_else(|| self.known.acked.next());
        let (promise, first) = (self.out.promise, self.alive_from(expected.max(self.floor())));
        if promise < first
            && let Some(index) = self.behind_what_is_done(expected, walked)
        {
            return Some(index);
        }
        let prev_end = |i: usize| self.segments[i].header.prev_end_lsn;
        let orphan = self.orphan(expected, walked);
        // Behind the last promise the log was torn: what lies there was never acknowledged, but for an orphan.
        let promised = self.behind(expected, walked).filter(|i| first <= promise && prev_end(*i) <= promise);
        let (behind, why) = match promised {
            Some(index) => (Some(index), MISSING),
            None => (orphan, if orphan.is_some() { UNKNOWN } else { MISSING }),
        };
        let last = behind.map_or(promise, prev_end);
        if first > last {
            return behind;
        }
        let (slot, position) = match walked {
            Some(i) => (self.segments[i].slot, self.out.spans.last().map_or(HEADER_BLOCKS, |s| s.end_position)),
            None => (self.behind(expected, None).map_or(SlotNo(0), |i| self.segments[i].slot), 0),
        };
        self.report(slot, position, expected.max(self.floor()), last, why);
        self.expected = Some(expected.max(last.next()));
        self.out.bridged += usize::from(behind.is_some());
        if let (None, Some(span)) = (behind, self.out.spans.last_mut()) {
            span.end = span.end.max(last);
        }
        if let (None, Some(index)) = (behind, walked) {
            self.out.torn = torn_behind(&self.segments[index], position, last, self.known.block_len);
        }
        behind
    }

    /// The next segment behind one that is gone, though nothing may have promised what that held. A header is written
    /// only when the one before it is durable (W3), and a recovery voids the newest segment first: so what this
    /// incarnation linked to a segment that the sink is not done with has lost it to something else than a crash.
    fn orphan(&self, expected: Lsn, walked: Option<usize>) -> Option<usize> {
        let is_orphan = |header: &SegmentHeader| {
            header.epoch >= self.known.epoch
                // Segments are linked to one that holds something.
                && header.base_lsn > expected.max(self.floor())
                && header.prev_uid != SegmentUid::NONE
                && !self.segments.iter().any(|s| s.header.uid == header.prev_uid)
        };
        // What lies behind the end at which the log was closed is judged there (H).
        let orphans = self.beyond(expected, walked).filter(|i| is_orphan(&self.segments[*i].header));
        self.nearest(orphans).filter(|_| self.known.clean.is_none())
    }

    /// The segments that begin at `expected` or later and that no chain has reached.
    fn beyond(&self, expected: Lsn, walked: Option<usize>) -> impl Iterator<Item = usize> {
        let header = |i: usize| &self.segments[i].header;
        let seq = walked.map(|i| header(i).seq);
        (0..self.segments.len())
            .filter(move |i| header(*i).base_lsn >= expected && seq.is_none_or(|seq| header(*i).seq > seq))
            .filter(|i| !self.out.spans.iter().any(|span| span.index == *i))
    }

    fn nearest(&self, segments: impl Iterator<Item = usize>) -> Option<usize> {
        segments.min_by_key(|i| (self.segments[*i].header.base_lsn, u64::MAX - self.segments[*i].header.seq))
    }

    /// The next segment that begins at `expected` or later, though none is linked to the last one.
    fn behind(&self, expected: Lsn, walked: Option<usize>) -> Option<usize> {
        self.nearest(self.beyond(expected, walked))
    }

    /// The same where the sink is done with all that was promised from `expected` on, so that nothing is missing. One that
    /// begins no later than what was durable is not abandoned (K), and what it holds may be durable without a promise.
    fn behind_what_is_done(&self, expected: Lsn, walked: Option<usize>) -> Option<usize> {
        let last_before = |i: &usize| self.segments[*i].header.prev_end_lsn;
        let is_done = |lsn: Lsn| self.alive_from(lsn) > lsn;
        self.behind(expected, walked).filter(|i| last_before(i) <= self.out.promise && is_done(last_before(i)))
    }

    /// Walks one segment. False: the log ends in it.
    fn segment(&mut self, index: usize) -> bool {
        let (segment, limit) = (&self.segments[index], self.links.limit[index]);
        let base = segment.header.base_lsn;
        let mut span = Span { index, end: base.prev(), end_position: HEADER_BLOCKS, dead: false };
        if let Some(limit) = limit.filter(|_| self.links.is_dead(index, self.known)) {
            self.out.spans.push(Span { end: limit, dead: true, ..span });
            self.expected = self.expected.map(|e| e.max(limit.next()));
            return true;
        }
        let expected = self.expected.unwrap_or(base);
        let from = expected.max(self.floor());
        if from < base && self.alive_from(from) < base {
            if self.out.promise < self.alive_from(from) {
                // K: abandoned, and what it was linked to has been settled otherwise.
                return false;
            }
            self.report(segment.slot, 0, from, base.prev(), "a segment does not begin where it should");
        }
        self.expected = Some(expected.max(base));
        let goes_on = match (&segment.frames, limit) {
            // L: wholly promised; verified when it streams to delivery.
            (None, Some(limit)) => {
                self.expected = Some(limit.next().max(expected));
                span.end_position = segment.blocks;
                true
            }
            (None, None) => true,
            (Some(frames), _) => self.blocks(segment, frames, limit, &mut span),
        };
        span.end = self.expected.map_or(span.end, Lsn::prev);
        self.out.spans.push(span);
        goes_on
    }

    fn blocks(&mut self, segment: &Segment, frames: &Frames, limit: Option<Lsn>, span: &mut Span) -> bool {
        let mutants = self.known.mutants;
        let (mut at, walked) = (HEADER_BLOCKS, Some(span.index));
        loop {
            let expected = self.expected.unwrap_or(segment.header.base_lsn);
            if limit.is_some_and(|limit| expected > limit) {
                return true;
            }
            let counts = |frame: &&Found| frame.whole && limit.is_none_or(|limit| frame.last() <= limit);
            let here = frame_at(frames, at).filter(counts);
            if let Some(frame) = here.filter(|f| f.header.first_lsn == expected || mutants.has(Mutant::NoLsnChain)) {
                // A.
                if mutants.has(Mutant::NoLookAhead) {
                    self.out.promise = self.out.promise.max(frame.header.durable_lsn);
                }
                self.expected = Some(frame.header.next_lsn);
                at += frame.blocks;
                span.end_position = at;
                continue;
            }
            let own = |frame: &&Found| frame.header.seg_uid == segment.header.uid;
            let behind = frames.found[frames.found.partition_point(|f| f.position() < at)..].iter();
            let wanted = if mutants.has(Mutant::MarkNotSteppedOver) { expected.next() } else { expected };
            let resume = behind.filter(counts).filter(own).find(|frame| frame.header.first_lsn >= wanted);
            if let Some(frame) = resume.filter(|frame| frame.header.first_lsn == expected) {
                // B: nothing is missing in front of it.
                self.out.lost_marks += 1;
                at = frame.position();
                continue;
            }
            let from = expected.max(self.floor());
            let first = self.alive_from(from);
            let until = resume.map(|frame| frame.header.first_lsn.prev()).or(limit);
            let dead = until.is_some_and(|until| first > until);
            let blind = frames.unreadable.iter().filter(|p| **p >= at && resume.is_none_or(|r| **p < r.position()));
            let blind = u32::try_from(blind.count()).unwrap_or(u32::MAX);
            let unpromised = self.out.promise < first;
            if !dead && unpromised && blind > 0 && !is_closed(self.known, first.prev()) {
                // P: what cannot be read is not torn. It may be what comes next, and acknowledged.
                let most = most_records(u64::from(blind) * self.known.block_raw_max);
                let last = until.unwrap_or_else(|| first.prev().advance(most));
                self.report(segment.slot, at, from, last, UNREADABLE);
                self.expected = Some(last.next());
                match resume {
                    Some(frame) => at = frame.position(),
                    None => return true,
                }
                continue;
            }
            if !dead && unpromised {
                let goes_on = || self.behind_what_is_done(expected, walked).or_else(|| self.orphan(expected, walked));
                if until.is_none() && goes_on().is_some() {
                    // J: all that is missing is done with, or it is not a crash that has taken it.
                    return true;
                }
                // G, or M where nothing was begun.
                self.tear(segment, frames, at, first.prev());
                self.expected = Some(first);
                return false;
            }
            let Some(until) = until else {
                // F: what is missing may reach up to a segment that the chain does not reach.
                return true;
            };
            if !dead {
                // D, E.
                let last = until.min(self.out.promise);
                self.report(segment.slot, at, from, last, "a promised frame does not check out");
                if last < until {
                    // The rest of the hole is above every promise: there the log was torn.
                    self.tear(segment, frames, at, last);
                    self.expected = Some(last.next());
                    return false;
                }
            }
            // C, if it was dead.
            self.expected = Some(expected.max(until.next()));
            match resume {
                Some(frame) => at = frame.position(),
                None => return true,
            }
        }
    }

    /// What lies below this is dead and can never be an error.
    fn floor(&self) -> Lsn {
        if self.known.mutants.has(Mutant::DeadIsError) { Lsn::ZERO } else { self.known.acked.next() }
    }

    /// The first LSN from `lsn` on that the sink is not done with.
    fn alive_from(&self, lsn: Lsn) -> Lsn {
        self.known.done.iter().fold(lsn, |lsn, (first, next)| if *first <= lsn && lsn < *next { *next } else { lsn })
    }

    /// Reports `first..=last`, without what the sink is done with.
    fn report(&mut self, slot: SlotNo, position: u32, first: Lsn, last: Lsn, why: &'static str) {
        let offset = u64::from(position) * u64::from(self.known.block_len);
        let mut from = self.alive_from(first);
        while from <= last {
            let stop = self.known.done.iter().map(|run| run.0).find(|start| *start > from);
            let until = stop.map_or(last, |stop| last.min(stop.prev()));
            self.out.corruption.push(Corruption { slot, offset, first: from, last: until, why });
            from = self.alive_from(until.next());
        }
    }

    /// Notes what an unclean stop left behind the end.
    fn tear(&mut self, segment: &Segment, frames: &Frames, at: u32, end: Lsn) {
        if let Some(tail) = torn(segment, frames, at, end, self.known.block_len) {
            self.out.torn = Some(tail);
        }
    }

    /// H: a log that was closed in order ends where it was closed.
    fn check_clean(&mut self) {
        let Some(clean) = self.known.clean.filter(|clean| self.out.end > clean.lsn.max(self.known.acked)) else {
            return;
        };
        let slot = self.out.spans.last().map_or(SlotNo(0), |span| self.segments[span.index].slot);
        let position = self.out.spans.last().map_or(0, |span| span.end_position);
        let first = clean.lsn.max(self.known.acked).next();
        self.report(slot, position, first, self.out.end, "the log goes on behind the end at which it was closed");
    }
}

fn frame_at(frames: &Frames, position: u32) -> Option<&Found> {
    let at = frames.found.binary_search_by_key(&position, Found::position).ok()?;
    frames.found.get(at)
}
