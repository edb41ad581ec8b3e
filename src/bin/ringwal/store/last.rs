//! What a log still holds of what is delivered already.
//!
//! ```text
//!   segments by order   │ … records … │ … records ┊ stranded │ … records …   │ base > end │
//!                        read up to the next one's base ▲      read up to `end`  passed over
//! ```
//! What the log's end is, recovery decides ([`Scanned::end`](ringwal::wal::recovery::Scanned)); a frame
//! behind a tear was never acknowledged and does not count. The newest record at or below that end may be
//! delivered and its segment dead, but a slot is only used again by a later segment, so the last one that
//! holds a record is still there until the next run has begun a new one.

use std::borrow::Cow;

use ringwal::Lsn;
use ringwal::ring::record::Records;
use ringwal::wal::coding::{Decoder, Undecoded};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::inspect::Survey;
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::SlotState;
use ringwal::wal::segment::{HEADER_BLOCKS, SegmentHeader};

use super::Store;
use crate::failure::{Failure, Result};
use crate::line::{Head, LINE_SCHEMA, split};

/// A line found in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LastLine {
    /// Its LSN.
    pub(crate) lsn: Lsn,
    /// Where it came from.
    pub(crate) head: Head,
    /// Its bytes.
    pub(crate) text: Vec<u8>,
}

/// Is given a frame's header and its body.
type Visit<'a> = &'a mut dyn FnMut(&FrameHeader, &[u8]) -> Result<()>;

/// Is given a frame's header, and the LSN and the bytes of an entry in it.
type VisitEntry<'a> = &'a mut dyn FnMut(&FrameHeader, Lsn, &[u8]) -> Result<()>;

impl Store {
    /// The newest line at or below the log's end.
    pub(crate) fn last_line(&mut self, survey: &Survey) -> Result<Option<LastLine>> {
        for (header, end) in segments(survey).iter().rev() {
            if header.schema != LINE_SCHEMA {
                return Err(Failure::usage(format!(
                    "{} holds entries of schema {}, not lines; give another directory",
                    self.dir.display(),
                    header.schema
                )));
            }
            let mut last = None;
            self.walk(header, *end, &mut |frame, body| {
                let record = Records::new(body).map_while(std::result::Result::ok).last();
                if let Some((head, text)) = record.and_then(|record| split(record.payload)) {
                    last = Some(LastLine { lsn: frame.next_lsn.prev(), head, text: text.to_vec() });
                }
                Ok(())
            })?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// Reads what is left on disk of the entries `from ..= to`, delivered or not, as far as it is whole.
    pub(crate) fn read_all(&mut self, survey: &Survey, from: Lsn, to: Lsn, visit: VisitEntry<'_>) -> Result<()> {
        let segments = segments(survey);
        for (index, (header, end)) in segments.iter().enumerate() {
            let is_before = segments.get(index + 1).is_some_and(|(next, _)| next.base_lsn <= from);
            if is_before || header.base_lsn > to {
                continue;
            }
            self.walk(header, (*end).min(to), &mut |frame, body| {
                for (record, at) in Records::new(body).map_while(std::result::Result::ok).zip(0_u64..) {
                    let lsn = frame.first_lsn.advance(at);
                    if lsn >= from && lsn <= to {
                        visit(frame, lsn, record.payload)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Visits the whole data frames of a segment that begin at or below `end`, in order.
    fn walk(&mut self, header: &SegmentHeader, end: Lsn, visit: Visit<'_>) -> Result<()> {
        let file = FileId::Slot(LogId::Main, header.slot);
        let block_len = u64::from(header.block_len);
        let chunk_len = self.pool.chunk_len() as u64 / block_len * block_len;
        let (mut window, mut window_at) = (Vec::new(), 0);
        let mut decoder = Decoder::new(LogId::Main, header.store, crate::keys::cipher());
        let mut position = u64::from(HEADER_BLOCKS);
        while (position + 1) * block_len <= header.segment_len {
            let at = position * block_len;
            let mut frame = None;
            // Once from what is there, and once more with the frame at the window's start.
            for again in [false, true] {
                if again || at + block_len > window_at + window.len() as u64 {
                    let len = chunk_len.min(header.segment_len - at);
                    let Some(bytes) = self.read(file, at, usize::try_from(len).unwrap_or(0))? else {
                        // The queue beside us has removed it: all that was in it is delivered.
                        return Ok(());
                    };
                    (window, window_at) = (bytes, at);
                }
                let begin = usize::try_from(at - window_at).unwrap_or(usize::MAX);
                let Some(found) = window.get(begin..).and_then(|bytes| frame_of(bytes, header, position)) else {
                    break;
                };
                let body = begin + FRAME_HEADER_LEN..begin + FRAME_HEADER_LEN + found.body_len as usize;
                if let Some(bytes) = window.get(body.clone()) {
                    frame = found.body_matches(bytes).then_some((found, body));
                    break;
                }
                if at == window_at {
                    break;
                }
            }
            let Some((frame, body)) = frame else {
                position += 1;
                continue;
            };
            if frame.first_lsn > end {
                return Ok(());
            }
            if frame.kind == FrameKind::Data {
                let stored = &window[body.start - FRAME_HEADER_LEN..body.end];
                match decoded(&mut decoder, header, &frame, stored, self.pool.chunk_len()) {
                    Ok(body) => visit(&frame, &body)?,
                    Err(Undecoded::Damaged(_)) => {}
                    Err(Undecoded::Key(key, problem)) => {
                        let what = format!("{}: entry {} is", self.dir.display(), frame.first_lsn);
                        return Err(Failure::usage(crate::keys::locked(&what, key, problem)));
                    }
                }
            }
            position += frame.stored_len(header.block_len) / block_len;
        }
        Ok(())
    }
}

/// The body of a frame, decoded where it is not stored as it is.
fn decoded<'a>(
    decoder: &mut Decoder,
    segment: &SegmentHeader,
    frame: &FrameHeader,
    stored: &'a [u8],
    len_max: usize,
) -> std::result::Result<Cow<'a, [u8]>, Undecoded> {
    if frame.coding.is_plain() && segment.key.is_none() {
        return Ok(Cow::Borrowed(&stored[FRAME_HEADER_LEN..]));
    }
    if frame.raw_len as usize > len_max {
        return Err(Undecoded::Damaged("the frame is longer than any may be here"));
    }
    let mut body = vec![0; frame.raw_len as usize];
    decoder.decode(stored, frame, segment.key.as_ref(), &mut body)?;
    Ok(Cow::Owned(body))
}

/// The segments that hold something at or below the log's end, in order, each with the last LSN that
/// counts in it.
fn segments(survey: &Survey) -> Vec<(SegmentHeader, Lsn)> {
    let scanned = &survey.scanned;
    let mut segments: Vec<(SegmentHeader, Lsn)> = Vec::new();
    for report in &scanned.report.slots {
        if let SlotState::Segment(header) = &report.state
            && header.base_lsn <= scanned.end
        {
            segments.push((header.clone(), scanned.end));
        }
    }
    segments.sort_by_key(|(header, _)| header.seq);
    for index in 1..segments.len() {
        let before = segments[index].0.prev_end_lsn;
        segments[index - 1].1 = segments[index - 1].1.min(before);
    }
    segments
}

/// The header of a frame of this segment that stands at its own place.
fn frame_of(bytes: &[u8], segment: &SegmentHeader, position: u64) -> Option<FrameHeader> {
    let header = FrameHeader::decode(bytes).ok()?;
    (header.seg_uid == segment.uid && u64::from(header.position) == position).then_some(header)
}
