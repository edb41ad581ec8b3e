//! Reads a store's bytes without the code under test: what lies where, for assertions and for spoiling.

use ringwal::sim::SimDisk;
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader};
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::segment::{HEADER_BLOCKS, SegmentHeader, SlotHeader, read_slot_header};
use ringwal::{SegmentUid, SlotNo};

/// A frame of a segment's own, body included, as it lies in a slot.
#[derive(Clone, Debug)]
pub struct Seen {
    pub slot: SlotNo,
    pub offset: u64,
    pub header: FrameHeader,
    pub body_holds: bool,
    /// The id of the first entry in it; 0 without one.
    pub first_id: u64,
}

pub fn slots(machine: &SimDisk) -> Vec<SlotNo> {
    slots_of(machine, LogId::Main)
}

pub fn slots_of(machine: &SimDisk, log: LogId) -> Vec<SlotNo> {
    let slot = |file| match file {
        FileId::Slot(of, slot) if of == log => Some(slot),
        _ => None,
    };
    machine.files().into_iter().filter_map(slot).collect()
}

pub fn segment(machine: &SimDisk, slot: SlotNo, block_len: u32) -> Option<SegmentHeader> {
    segment_of(machine, LogId::Main, slot, block_len)
}

pub fn segment_of(machine: &SimDisk, log: LogId, slot: SlotNo, block_len: u32) -> Option<SegmentHeader> {
    let bytes = machine.file(FileId::Slot(log, slot))?;
    match read_slot_header(bytes.get(..(HEADER_BLOCKS * block_len) as usize)?, block_len) {
        SlotHeader::Segment(header) => Some(header),
        _ => None,
    }
}

/// The frames that belong to the segment in this slot, in order of place.
pub fn frames(machine: &SimDisk, slot: SlotNo, block_len: u32) -> Vec<Seen> {
    frames_of(machine, LogId::Main, slot, block_len)
}

pub fn frames_of(machine: &SimDisk, log: LogId, slot: SlotNo, block_len: u32) -> Vec<Seen> {
    let Some(uid) = segment_of(machine, log, slot, block_len).map(|s| s.uid) else { return Vec::new() };
    all_frames_of(machine, log, slot, block_len).into_iter().filter(|f| f.header.seg_uid == uid).collect()
}

/// Everything in this slot that has a frame's header, whatever segment it belongs to.
pub fn all_frames(machine: &SimDisk, slot: SlotNo, block_len: u32) -> Vec<Seen> {
    all_frames_of(machine, LogId::Main, slot, block_len)
}

pub fn all_frames_of(machine: &SimDisk, log: LogId, slot: SlotNo, block_len: u32) -> Vec<Seen> {
    let Some(bytes) = machine.file(FileId::Slot(log, slot)) else { return Vec::new() };
    let first = (HEADER_BLOCKS * block_len) as usize;
    let mut out = Vec::new();
    for at in (first..bytes.len()).step_by(block_len as usize) {
        let Ok(header) = FrameHeader::decode(&bytes[at..]) else { continue };
        if header.position as usize != at / block_len as usize {
            continue;
        }
        let body = bytes.get(at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + header.body_len as usize);
        let body_holds = body.is_some_and(|b| header.body_matches(b));
        let first_id = body.and_then(|b| b.get(8..16)?.try_into().ok()).map_or(0, u64::from_le_bytes);
        out.push(Seen { slot, offset: at as u64, header, body_holds, first_id });
    }
    out
}

/// The uid of each segment there is.
pub fn uids(machine: &SimDisk, block_len: u32) -> Vec<(SlotNo, SegmentUid)> {
    let with_uid = |slot| segment(machine, slot, block_len).map(|s| (slot, s.uid));
    slots(machine).into_iter().filter_map(with_uid).collect()
}
