//! What every frame that was found is worth: the rules stand in the module above.

use std::collections::{HashMap, HashSet};

use super::{Findings, JudgeError, Judged, Missing, Piece, SlotFile, Standing};
use crate::lsn::{Lsn, SegmentUid};
use crate::wal::cursor::Cursor;
use crate::wal::frame::FrameKind;
use crate::wal::keeper::RESERVE_AFTER_FAILURE;
use crate::wal::meta::Meta;
use crate::wal::op::LogId;
use crate::wal::recovery::find::NUMBER_MAX;
use crate::wal::recovery::judge::read_cursor as read_cursor_at;
use crate::wal::segment::{SegmentHeader, SlotHeader, StoreId};

/// The cursor in a META file, whatever its block size; the newest, should several check out.
#[must_use]
pub fn read_cursor(file: &[u8]) -> Option<Cursor> {
    let found = (9..=16).filter_map(|power| read_cursor_at(file, 1 << power));
    found.max_by_key(|cursor| cursor.generation)
}

/// Judges what was found of a log in all files of a store.
///
/// # Errors
/// When nothing says which store is meant.
pub fn judge(
    log: LogId,
    files: &[SlotFile],
    mut meta: Option<Meta>,
    mut cursor: Option<Cursor>,
) -> Result<Findings, JudgeError> {
    meta = meta.filter(is_sound);
    let store = choose_store(log, files, meta.as_ref())?;
    if meta.as_ref().is_some_and(|meta| Some(meta.store) != store) {
        // Both lie in one file, and that is another store's.
        (meta, cursor) = (None, None);
    }
    let owned: Vec<&SegmentHeader> = headers(log, files).filter(|header| Some(header.store) == store).collect();
    let segments = Segments::new(&owned, meta.as_ref());
    let mut frames = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let is_ours = match &file.header {
            SlotHeader::Segment(header) => header.log == log,
            _ => file.log == log,
        };
        if is_ours {
            frames.extend(file.pieces.iter().map(|piece| first_look(index, file, piece, &segments, store)));
        }
    }
    settle_headerless(files, &segments, &mut frames);
    frames.sort_by_key(|judged| (judged.standing, judged.piece.header.first_lsn, judged.piece.header.seg_uid));
    let mut known = HashSet::new();
    frames.retain(|judged| {
        let header = &judged.piece.header;
        // A copy of a file adds nothing: a pair of uid and LSN has one content for ever.
        known.insert((judged.standing, header.seg_uid, header.first_lsn, header.next_lsn))
    });
    settle_ambiguous(&mut frames);

    let live = |judged: &&Judged| judged.standing == Standing::Live;
    let hint = frames.iter().filter(live).map(|judged| judged.piece.header.acked_lsn).max().unwrap_or(Lsn::ZERO);
    let first = frames.iter().find(|judged| judged.standing == Standing::Live).map(|j| j.piece.header.first_lsn);
    let floor = match &cursor {
        Some(cursor) => cursor.acked,
        None => hint.max(first.map_or(Lsn::ZERO, Lsn::prev).min(owned_first(&owned))),
    };
    let done = cursor.as_ref().map_or(&[][..], |cursor| &cursor.done);
    for judged in frames.iter_mut().filter(|judged| judged.standing == Standing::Live) {
        let header = &judged.piece.header;
        if alive_from(header.first_lsn.max(floor.next()), done) >= header.next_lsn {
            judged.standing = Standing::Done;
        }
    }
    let promise = promise(&owned, &frames, meta.as_ref(), cursor.as_ref());
    let seen = seen(&owned, &frames, meta.as_ref(), cursor.as_ref());
    let missing = missing(&owned, &frames, floor, done, promise);
    // Marks have done their part as evidence.
    frames.retain(|judged| judged.piece.header.kind == FrameKind::Data);
    frames.sort_by_key(|judged| (judged.piece.header.first_lsn, judged.standing));
    Ok(Findings { store, meta, cursor, floor, frames, missing, seen, promise })
}

/// Whether META's numbers can be counted with.
fn is_sound(meta: &Meta) -> bool {
    let ends = [meta.clean, meta.recovered].map(|end| end.map_or(Lsn::ZERO, |end| end.lsn).number());
    [meta.epoch, meta.reserved_lsn.number()].iter().chain(&ends).all(|number| *number < NUMBER_MAX)
}

fn headers(log: LogId, files: &[SlotFile]) -> impl Iterator<Item = &SegmentHeader> {
    files.iter().filter_map(move |file| match &file.header {
        SlotHeader::Segment(header) if header.log == log => Some(header),
        _ => None,
    })
}

/// The store that is meant: META's if any segment agrees, or else that of most segments.
fn choose_store(log: LogId, files: &[SlotFile], meta: Option<&Meta>) -> Result<Option<StoreId>, JudgeError> {
    let mut counts: HashMap<StoreId, usize> = HashMap::new();
    for header in headers(log, files) {
        *counts.entry(header.store).or_default() += 1;
    }
    if let Some(meta) = meta.filter(|meta| counts.is_empty() || counts.contains_key(&meta.store)) {
        return Ok(Some(meta.store));
    }
    let most = counts.values().copied().max().unwrap_or(0);
    let mut stores: Vec<_> = counts.into_iter().filter(|(_, count)| *count == most).map(|(store, _)| store).collect();
    stores.sort_unstable();
    match stores.len() {
        0 | 1 => Ok(stores.pop()),
        _ => Err(JudgeError::Stores(stores)),
    }
}

/// The LSN before the first that any segment begins with.
fn owned_first(owned: &[&SegmentHeader]) -> Lsn {
    owned.iter().map(|header| header.base_lsn.prev()).min().unwrap_or(Lsn::new(u64::MAX))
}

/// What the headers that are whole say of segments.
struct Segments<'a> {
    by_uid: HashMap<SegmentUid, (&'a SegmentHeader, Option<Lsn>)>,
    /// The last LSN that counts in a segment which another one names as the one before it.
    named: HashMap<SegmentUid, Lsn>,
}

impl<'a> Segments<'a> {
    fn new(owned: &[&'a SegmentHeader], meta: Option<&Meta>) -> Self {
        let mut by_uid = HashMap::new();
        let mut named: HashMap<SegmentUid, Lsn> = HashMap::new();
        let mut rising = owned.to_vec();
        rising.sort_unstable_by_key(|header| header.seq);
        // The lowest base of any later segment, from the last one backwards.
        let (mut bound, mut bound_before, mut seq) = (None::<Lsn>, None::<Lsn>, u64::MAX);
        for header in rising.into_iter().rev() {
            if header.seq < seq {
                (bound, seq) = (bound_before, header.seq);
            }
            bound_before = [bound_before, Some(header.base_lsn.prev())].into_iter().flatten().min();
            let settled = meta.filter(|meta| header.epoch < meta.epoch).and_then(|meta| meta.recovered);
            let limit = bound.into_iter().chain(settled.map(|end| end.lsn)).min();
            by_uid.insert(header.uid, (header, limit));
            let end = named.entry(header.prev_uid).or_insert(header.base_lsn.prev());
            *end = (*end).min(header.base_lsn.prev());
        }
        named.remove(&SegmentUid::NONE);
        Self { by_uid, named }
    }
}

/// What a frame is worth by its own header and the segment headers alone. Recycled is said only where
/// the file says so itself; what no header knows is live until the second look.
fn first_look(index: usize, file: &SlotFile, piece: &Piece, segments: &Segments<'_>, store: Option<StoreId>) -> Judged {
    let frame = &piece.header;
    let known = segments.by_uid.get(&frame.seg_uid);
    let named = segments.named.get(&frame.seg_uid);
    let within = |limit: Option<&Lsn>| limit.is_none_or(|limit| frame.next_lsn.prev() <= *limit);
    let standing = match (&file.header, known) {
        (_, Some((_, limit))) if within(limit.as_ref()) => Standing::Live,
        (_, Some(_)) => Standing::Abandoned,
        (SlotHeader::Segment(header), None) if Some(header.store) != store => Standing::Foreign,
        (SlotHeader::Segment(_), None) => Standing::Recycled,
        (SlotHeader::Free | SlotHeader::Void | SlotHeader::Newer { .. }, None) => Standing::Abandoned,
        (SlotHeader::Invalid, None) if within(named) => Standing::Live,
        (SlotHeader::Invalid, None) => Standing::Abandoned,
    };
    Judged { file: index, piece: *piece, standing, schema: known.map(|(header, _)| header.schema) }
}

/// Second look, at segments without a header: the newest in its file counts, if its LSNs are nobody else's.
fn settle_headerless(files: &[SlotFile], segments: &Segments<'_>, frames: &mut [Judged]) {
    let mut certain: Vec<(Lsn, Lsn)> = frames
        .iter()
        .filter(|judged| {
            judged.standing == Standing::Live && segments.by_uid.contains_key(&judged.piece.header.seg_uid)
        })
        .map(|judged| (judged.piece.header.first_lsn, judged.piece.header.next_lsn))
        .filter(|(first, next)| first < next)
        .collect();
    certain.sort_unstable();
    // A slot is written from its start on, so the frame that stands first in it is of its last use.
    let newest: HashSet<SegmentUid> = files
        .iter()
        .filter(|file| file.header == SlotHeader::Invalid)
        .filter_map(|file| file.pieces.first().map(|piece| piece.header.seg_uid))
        .collect();
    let is_held = |frame: &Judged| {
        let (first, next) = (frame.piece.header.first_lsn, frame.piece.header.next_lsn);
        let behind = certain.partition_point(|run| run.1 <= first);
        certain.get(behind).is_some_and(|run| run.0 < next)
    };
    let mut contested = HashSet::new();
    let is_unknown = |judged: &Judged| {
        judged.standing == Standing::Live && !segments.by_uid.contains_key(&judged.piece.header.seg_uid)
    };
    for judged in frames.iter().filter(|judged| is_unknown(judged)) {
        if is_held(judged) {
            contested.insert(judged.piece.header.seg_uid);
        }
    }
    for judged in frames.iter_mut().filter(|judged| is_unknown(judged)) {
        let uid = judged.piece.header.seg_uid;
        if !newest.contains(&uid) {
            judged.standing = Standing::Recycled;
        } else if contested.contains(&uid) && !segments.named.contains_key(&uid) {
            judged.standing = Standing::Abandoned;
        }
    }
}

/// Live frames that have an LSN in common are none of them to be trusted.
fn settle_ambiguous(frames: &mut [Judged]) {
    let mut live: Vec<&mut Judged> = frames
        .iter_mut()
        .filter(|judged| {
            judged.standing == Standing::Live && judged.piece.header.first_lsn < judged.piece.header.next_lsn
        })
        .collect();
    live.sort_unstable_by_key(|judged| judged.piece.header.first_lsn);
    let mut at = 0;
    while at < live.len() {
        let (mut until, mut next) = (at + 1, live[at].piece.header.next_lsn);
        while until < live.len() && live[until].piece.header.first_lsn < next {
            next = next.max(live[until].piece.header.next_lsn);
            until += 1;
        }
        if until - at > 1 {
            live[at..until].iter_mut().for_each(|judged| judged.standing = Standing::Ambiguous);
        }
        at = until;
    }
}

/// The first LSN from `lsn` on that is in no finished run.
fn alive_from(lsn: Lsn, done: &[(Lsn, Lsn)]) -> Lsn {
    let behind = done.partition_point(|run| run.1 <= lsn);
    match done.get(behind) {
        Some((first, next)) if *first <= lsn => *next,
        _ => lsn,
    }
}

fn promise(owned: &[&SegmentHeader], frames: &[Judged], meta: Option<&Meta>, cursor: Option<&Cursor>) -> Lsn {
    let ends = meta.into_iter().flat_map(|meta| [meta.clean, meta.recovered]).flatten().map(|end| end.lsn);
    let log = frames.iter().filter(|judged| matches!(judged.standing, Standing::Live | Standing::Done));
    ends.chain(cursor.map(|cursor| cursor.durable.max(cursor.acked)))
        .chain(owned.iter().map(|header| header.durable_lsn))
        .chain(log.map(|judged| judged.piece.header.durable_lsn))
        .max()
        .unwrap_or(Lsn::ZERO)
}

/// The highest LSN that anything speaks of, and what may have been given out beyond it.
fn seen(owned: &[&SegmentHeader], frames: &[Judged], meta: Option<&Meta>, cursor: Option<&Cursor>) -> Lsn {
    let ends = meta.into_iter().flat_map(|meta| [meta.clean, meta.recovered]).flatten().map(|end| end.lsn);
    let cursor = cursor.into_iter().flat_map(|cursor| {
        let done = cursor.done.last().map_or(Lsn::ZERO, |run| run.1.prev());
        [cursor.acked, cursor.durable, done]
    });
    let frames = frames.iter().filter(|judged| judged.standing != Standing::Foreign);
    let seen = ends
        .chain(cursor)
        .chain(owned.iter().map(|header| header.base_lsn.prev()))
        .chain(frames.map(|judged| judged.piece.header.next_lsn.prev()))
        .max()
        .unwrap_or(Lsn::ZERO);
    match meta {
        Some(meta) => seen.max(meta.reserved_lsn),
        // How far was reserved is not known; no further than this.
        None if seen > Lsn::ZERO => seen.advance(RESERVE_AFTER_FAILURE),
        None => seen,
    }
}

/// The LSNs above the floor that something speaks of as part of the log, and that no frame covers.
fn missing(owned: &[&SegmentHeader], frames: &[Judged], floor: Lsn, done: &[(Lsn, Lsn)], promise: Lsn) -> Vec<Missing> {
    let log = |judged: &&Judged| matches!(judged.standing, Standing::Live | Standing::Done);
    let mut covered: Vec<(Lsn, Lsn)> = frames
        .iter()
        .filter(log)
        .map(|judged| (judged.piece.header.first_lsn, judged.piece.header.next_lsn))
        .chain(done.iter().copied())
        .collect();
    covered.sort_unstable();
    let spoken = owned.iter().map(|header| header.base_lsn).chain(covered.iter().map(|run| run.1));
    let next = spoken.max().unwrap_or(Lsn::ZERO).max(promise.next());
    covered.push((next, next));
    let mut missing = Vec::new();
    let mut at = floor.next();
    for (first, after) in covered {
        if at < first && first <= next {
            // A promise may end within the hole.
            let last = promise.min(first.prev());
            if at <= last {
                missing.push(Missing { first: at, last, promised: true });
            }
            let from = at.max(promise.next());
            if from < first {
                missing.push(Missing { first: from, last: first.prev(), promised: false });
            }
        }
        at = at.max(after);
    }
    missing
}
