//! What the facts of a scan mean: small judgements beside the walk.

use super::find::NUMBER_MAX;
use super::report::{ScanError, Scanned, SlotState, StoreConfig};
use super::walk::{Known, Segment, Span, Walked};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::wal::cursor::{CURSOR_LEN, Cursor, cursor_offset};
use crate::wal::meta::Meta;
use crate::wal::mutant::{Mutant, Mutants};
use crate::wal::segment::{SegmentHeader, SlotHeader};
use crate::wal::segments::LiveSegment;

/// The LSN behind everything that was ever given out: a finished run may lie beyond the log's end if
/// its entries were delivered from memory.
pub(super) fn next_lsn(end: Lsn, meta: &Meta, cursor: &Cursor, mutants: Mutants) -> Lsn {
    let done = cursor.done.last().map_or(Lsn::ZERO, |run| run.1.prev());
    let reserved = if mutants.has(Mutant::ReservedForgotten) { Lsn::ZERO } else { meta.reserved_lsn };
    end.max(reserved).max(done).next()
}

/// The cursor in a META file, if a copy of it checks out.
pub(crate) fn read_cursor(file: &[u8], block_len: u32) -> Option<Cursor> {
    let copy = |generation| {
        let at = usize::try_from(cursor_offset(generation, block_len)).ok()?;
        file.get(at..at.checked_add(CURSOR_LEN)?)
    };
    let cursor = Cursor::read(copy(0).unwrap_or(&[]), copy(1).unwrap_or(&[]))?;
    let numbers = [cursor.generation, cursor.epoch, cursor.acked.number(), cursor.durable.number()];
    let rows =
        cursor.done.last().map_or(0, |run| run.1.number()).max(cursor.attempts.last().map_or(0, |a| a.0.number()));
    numbers.iter().chain(&[rows]).all(|n| *n < NUMBER_MAX).then_some(cursor)
}

/// What a slot's start means in this store.
pub(super) fn judge_header(
    config: &StoreConfig,
    meta: &Meta,
    slot: SlotNo,
    header: SlotHeader,
) -> Result<SlotState, ScanError> {
    let header = match header {
        SlotHeader::Segment(header) => header,
        SlotHeader::Free => return Ok(SlotState::Free),
        SlotHeader::Void => return Ok(SlotState::Void),
        SlotHeader::Newer { major } => return Err(ScanError::Newer { slot: Some(slot), major, features: 0 }),
        SlotHeader::Invalid => return Ok(SlotState::Invalid),
    };
    if header.store != meta.store {
        return Err(ScanError::WrongStore { slot });
    }
    if header.slot != slot {
        return Err(ScanError::WrongPlace { slot, says: header.slot });
    }
    let SegmentHeader { log, block_len, segment_len, .. } = header;
    let agrees = [
        (log == config.log, "log"),
        (block_len == meta.block_len, "block_len"),
        (segment_len == meta.segment_len, "segment_len"),
    ];
    if let Some((_, field)) = agrees.iter().find(|(agrees, _)| !agrees) {
        return Err(ScanError::Disagrees { slot, field });
    }
    let numbers = [header.seq, header.base_lsn.number(), header.durable_lsn.number(), header.epoch];
    let sound = numbers.iter().all(|n| *n < NUMBER_MAX);
    Ok(if sound { SlotState::Segment(header) } else { SlotState::Invalid })
}

/// What becomes of each slot.
pub(super) fn classify(segments: &[Segment], walked: &Walked, known: &Known, segment_len: u64, out: &mut Scanned) {
    let span_of = |index: usize| walked.spans.iter().find(|span| span.index == index);
    let start_seq = walked.spans.first().map_or(0, |span| segments[span.index].header.seq);
    let ends_in = |span: &&Span| segments[span.index].header.base_lsn <= walked.end;
    for span in walked.spans.iter().filter(ends_in) {
        let Segment { header, slot, .. } = &segments[span.index];
        out.run.push((header.uid, header.base_lsn));
        if !span.dead && span.end > known.acked {
            out.live.push(LiveSegment {
                slot: *slot,
                uid: header.uid,
                seq: header.seq,
                base: header.base_lsn,
                end: span.end.min(walked.end),
                end_position: span.end_position,
                schema: header.schema,
                key: header.key,
            });
        }
    }
    out.tail_uid = out.run.last().map_or(SegmentUid::NONE, |(uid, _)| *uid);
    if known.mutants.has(Mutant::LinkToEmpty)
        && let Some(newest) = segments.iter().max_by_key(|s| s.header.seq)
    {
        out.tail_uid = newest.header.uid;
    }
    for report in &out.report.slots {
        let whole = report.file_len >= segment_len;
        let list = match report.state {
            SlotState::Invalid => &mut out.unprepared,
            SlotState::Free | SlotState::Void if whole => &mut out.free,
            SlotState::Free | SlotState::Void => &mut out.unprepared,
            SlotState::Segment(ref header) => {
                let index = segments.iter().position(|s| s.slot == report.slot);
                let span = index.and_then(span_of);
                if out.live.iter().any(|live| live.slot == report.slot) {
                    continue;
                }
                let superseded = header.base_lsn <= known.acked && header.seq < start_seq;
                let passed = span.is_some_and(|_| header.base_lsn <= walked.end);
                match (superseded || passed, whole) {
                    (true, true) => &mut out.free,
                    (true, false) => &mut out.unprepared,
                    // K: beyond the end, or beside the chain.
                    (false, _) => &mut out.voids,
                }
            }
        };
        list.push(report.slot);
    }
}
