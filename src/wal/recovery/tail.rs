//! What an unclean stop left behind the end of the log.

use super::find::{Found, Frames};
use super::report::TornTail;
use super::walk::Segment;
use crate::lsn::Lsn;

/// The log ends at `end`, as nothing whole follows at block `at`; `None`: nothing was begun there.
pub(super) fn torn(segment: &Segment, frames: &Frames, at: u32, end: Lsn, block_len: u32) -> Option<TornTail> {
    let behind = &frames.found[frames.found.partition_point(|frame| frame.position() < at)..];
    let stranded_frames = behind.iter().filter(|frame| frame.whole).count() as u64;
    let broken_frames = behind.len() as u64 - stranded_frames + u64::from(frames.broken.contains(&at));
    let offset = u64::from(at) * u64::from(block_len);
    (broken_frames + stranded_frames > 0).then_some(TornTail {
        slot: segment.slot,
        offset,
        end,
        broken_frames,
        stranded_frames,
    })
}

/// The same where all up to `end` was promised and is given up. What is missing there, from block `at` on, is said
/// already: it is not torn, and what begins behind it is.
pub(super) fn torn_behind(segment: &Segment, at: u32, end: Lsn, block_len: u32) -> Option<TornTail> {
    let frames = segment.frames.as_ref()?;
    let behind = |frame: &&Found| frame.position() >= at && frame.header.first_lsn > end;
    let stranded_frames = frames.found.iter().filter(behind).filter(|frame| frame.whole).count() as u64;
    let broken = frames.found.iter().filter(behind).filter(|frame| !frame.whole).map(Found::position);
    let broken: Vec<u32> = broken.chain(frames.broken.iter().copied().filter(|position| *position > at)).collect();
    let offset = u64::from(*broken.iter().min()?) * u64::from(block_len);
    Some(TornTail { slot: segment.slot, offset, end, broken_frames: broken.len() as u64, stranded_frames })
}
