//! A directory that somebody made up: META, the cursor and up to four slots in terms of their fields, so that
//! checksums hold and contradictions are reached; then bytes are flipped, files cut and replaced by noise.

use arbitrary::Arbitrary;
use ringwal::ring::record::{State, Word, stride_of};
use ringwal::time::UnixNanos;
use ringwal::wal::coding::BodyCoding;
use ringwal::wal::cursor::{CURSOR_ATTEMPTS_MAX, CURSOR_LEN, CURSOR_RANGES_MAX, Cursor, cursor_offset, meta_file_len};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind};
use ringwal::wal::meta::{LogEnd, Meta, meta_copy_len, meta_offset};
use ringwal::wal::op::{FileId, LogId};
use ringwal::wal::recovery::TornTail;
use ringwal::wal::segment::{HEADER_BLOCKS, SegmentHeader, StoreId, write_free_mark, write_void_mark};
use ringwal::wal::untold::Untold;
use ringwal::{Lsn, Schema, SegmentUid, SlotNo};

use crate::disk::Files;
use crate::make_good;

/// Blocks of a segment.
pub const BLOCKS: u32 = 24;
const STORE: StoreId = StoreId([7; 16]);

/// What the input does not say: which log it is, and its unit.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub log: LogId,
    pub block_len: u32,
}

impl Shape {
    /// Length of a segment.
    #[must_use]
    pub const fn segment_len(self) -> u64 {
        (BLOCKS * self.block_len) as u64
    }

    /// Longest frame.
    #[must_use]
    pub const fn frame_len_max(self) -> u32 {
        4 * self.block_len
    }
}

/// A made-up log.
#[derive(Arbitrary, Debug)]
pub struct Directory {
    meta: [Option<MetaCopy>; 2],
    cursor: [Option<CursorCopy>; 2],
    slots: Vec<Slot>,
    /// For whoever opens it.
    pub policy: u8,
    flips: Vec<(u8, u16, u8)>,
    cut: Option<(u8, u16)>,
}

#[derive(Arbitrary, Debug)]
struct MetaCopy {
    generation: u8,
    epoch: u8,
    reserved: u8,
    clean: Option<(u8, u8)>,
    recovered: Option<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
struct CursorCopy {
    generation: u8,
    epoch: u8,
    acked: u8,
    durable: u8,
    done: Vec<(u8, u8)>,
    attempts: Vec<(u8, u8)>,
    /// Bytes that no writer of ours would write, under a good checksum.
    patch: Option<(u8, u8)>,
}

#[derive(Arbitrary, Debug)]
enum Slot {
    Missing,
    Noise(Vec<u8>),
    Free,
    Void,
    Segment { uid: u8, seq: u8, base: u8, prev_uid: u8, durable: u8, epoch: u8, elsewhere: bool, frames: Vec<FrameAt> },
}

#[derive(Arbitrary, Debug)]
struct FrameAt {
    /// Blocks left out before it.
    gap: u8,
    kind: u8,
    /// Added to the LSN and the position that would be next.
    lsn_off: i8,
    position_off: i8,
    uid: Option<u8>,
    durable: u8,
    payloads: Vec<u8>,
    /// Spoils the body under a good header.
    rot: bool,
    /// A record whose length lies, under a good checksum.
    liar: bool,
}

fn lsn(number: u8) -> Lsn {
    // Now and then a number from the other end.
    Lsn::new(if number == 255 { u64::MAX } else { u64::from(number) })
}

/// What is out of place comes now and then: a directory in which nothing fits is refused at its first file, and
/// nothing behind that is looked at.
fn seldom(off: i8) -> i8 {
    if off % 4 == 0 { off / 4 } else { 0 }
}

fn end(end: Option<(u8, u8)>) -> Option<LogEnd> {
    end.map(|(number, uid)| LogEnd { lsn: lsn(number), uid: SegmentUid(uid.into()) })
}

impl MetaCopy {
    /// Now and then something is untold, in rows that make sense or not; out of fields that are there for something else,
    /// so that inputs mean what they meant.
    fn untold(&self) -> Untold {
        if self.epoch % 4 < 3 {
            return Untold::default();
        }
        let rows = [(self.reserved, self.generation), (self.generation, self.epoch)];
        let torn = TornTail {
            slot: SlotNo(self.generation.into()),
            offset: u64::MAX,
            end: lsn(self.reserved),
            broken_frames: 1,
            stranded_frames: 0,
        };
        let lost = rows.iter().map(|(first, next)| (lsn(*first), lsn(*next))).collect();
        Untold { lost, torn: Some(torn), tears: (self.generation % 3).into(), ..Untold::default() }
    }

    fn write(&self, place: usize, shape: Shape, file: &mut [u8]) {
        let generation = u64::from(self.generation) << 1 | place as u64;
        let meta = Meta {
            generation,
            store: STORE,
            features: 0,
            block_len: shape.block_len,
            frame_len_max: shape.frame_len_max(),
            segment_len: shape.segment_len(),
            epoch: self.epoch.into(),
            reserved_lsn: lsn(self.reserved),
            clean: end(self.clean),
            recovered: end(self.recovered),
            untold: self.untold(),
        };
        meta.encode(
            &mut file[meta_offset(generation, shape.block_len) as usize..][..meta_copy_len(shape.block_len) as usize],
        );
    }
}

impl CursorCopy {
    fn write(&self, place: usize, shape: Shape, file: &mut [u8]) {
        let generation = u64::from(self.generation) << 1 | place as u64;
        let mut floor = lsn(self.acked);
        let mut done = Vec::new();
        for (first, next) in self.done.iter().map(|(first, next)| (lsn(*first), lsn(*next))).take(CURSOR_RANGES_MAX) {
            if first.number() > floor.number().saturating_add(1) && next > first {
                done.push((first, next));
                floor = next.prev();
            }
        }
        let mut attempts: Vec<_> = self.attempts.iter().map(|(at, n)| (lsn(*at), (*n).into())).collect();
        attempts.sort_unstable();
        attempts.dedup_by_key(|row| row.0);
        attempts.truncate(CURSOR_ATTEMPTS_MAX);
        let (epoch, acked, durable) = (self.epoch.into(), lsn(self.acked), lsn(self.durable));
        let cursor = Cursor { generation, epoch, acked, durable, done, attempts };
        let copy = &mut file[cursor_offset(generation, shape.block_len) as usize..][..CURSOR_LEN];
        cursor.encode(copy);
        if let Some((at, flip)) = self.patch.filter(|(_, flip)| flip % 4 == 3) {
            copy[usize::from(at)] ^= flip;
            make_good(copy, CURSOR_LEN - 4);
        }
    }
}

impl Slot {
    fn bytes(&self, slot: u32, shape: Shape) -> Option<Vec<u8>> {
        let block_len = shape.block_len;
        let mut bytes = vec![0; shape.segment_len() as usize];
        let head = (HEADER_BLOCKS * block_len) as usize;
        match self {
            Self::Missing => return None,
            Self::Noise(noise) => {
                let len = noise.len().min(bytes.len());
                bytes[..len].copy_from_slice(&noise[..len]);
            }
            Self::Free => write_free_mark(&mut bytes[..head], block_len),
            Self::Void => write_void_mark(&mut bytes[..head], block_len),
            Self::Segment { uid, seq, base, prev_uid, durable, epoch, elsewhere, frames } => {
                let base_lsn = lsn(*base);
                let header = SegmentHeader {
                    store: STORE,
                    uid: SegmentUid((*uid).into()),
                    seq: (*seq).into(),
                    base_lsn,
                    prev_uid: SegmentUid((*prev_uid).into()),
                    prev_end_lsn: base_lsn.prev(),
                    durable_lsn: lsn(*durable),
                    epoch: (*epoch).into(),
                    block_len: shape.block_len,
                    slot: SlotNo(slot + u32::from(*elsewhere && epoch % 4 == 3)),
                    segment_len: shape.segment_len(),
                    created: UnixNanos(0),
                    log: shape.log,
                    schema: Schema::new("bytes", 1),
                    key: None,
                };
                header.encode(&mut bytes[..head]);
                write_frames(frames, shape, header.uid, base_lsn, &mut bytes);
            }
        }
        Some(bytes)
    }
}

fn write_frames(frames: &[FrameAt], shape: Shape, uid: SegmentUid, base: Lsn, bytes: &mut [u8]) {
    let block_len = shape.block_len;
    let (mut next, mut position) = (base.number(), HEADER_BLOCKS);
    for frame in frames {
        position += u32::from(frame.gap.saturating_sub(192) % 4);
        let mut body = Vec::new();
        let kind = match frame.kind % 8 {
            0 => FrameKind::Mark,
            1 => FrameKind::Seal,
            2 => FrameKind::Skip,
            3 => FrameKind::Unknown(200),
            _ => FrameKind::Data,
        };
        let records = if kind == FrameKind::Data { frame.payloads.len().clamp(1, 16) } else { 0 };
        for i in 0..records {
            let len = usize::from(frame.payloads.get(i).copied().unwrap_or(0));
            let lie = if frame.liar && frame.gap % 4 == 3 && i + 1 == records { 4096 } else { 8 + len };
            let start = body.len();
            body.extend(Word::new(State::Ready, lie).0.to_le_bytes());
            body.extend([0; 4]);
            body.extend((0..len).map(|at| at as u8));
            body.resize(start + stride_of(len), 0);
        }
        body.truncate(shape.frame_len_max() as usize - FRAME_HEADER_LEN);
        let first = next.wrapping_add_signed(seldom(frame.lsn_off).into());
        let covered = match kind {
            FrameKind::Data => records as u64,
            FrameKind::Skip => u64::from(frame.payloads.first().copied().unwrap_or(1)),
            _ => 0,
        };
        let body_len = u32::try_from(body.len()).expect("a body fits into a frame");
        let header = FrameHeader {
            kind,
            seg_uid: frame.uid.map_or(uid, |uid| SegmentUid(uid.into())),
            first_lsn: Lsn::new(first),
            next_lsn: Lsn::new(first.wrapping_add(covered)),
            durable_lsn: lsn(frame.durable),
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position: position.wrapping_add_signed(seldom(frame.position_off).into()),
            record_count: records as u32,
            coding: BodyCoding::PLAIN,
            body_len,
            raw_len: body_len,
            body_crc: crc32c::crc32c(&body).wrapping_add(frame.rot.into()),
        };
        let start = (position * block_len) as usize;
        let Some(place) = bytes.get_mut(start..start + FRAME_HEADER_LEN + body.len()) else { return };
        header.encode(&mut place[..FRAME_HEADER_LEN]);
        place[FRAME_HEADER_LEN..].copy_from_slice(&body);
        position += header.stored_len(block_len) as u32 / block_len;
        next = header.next_lsn.number();
    }
}

impl Directory {
    /// Its files.
    #[must_use]
    pub fn files(&self, shape: Shape) -> Files {
        let (log, block_len) = (shape.log, shape.block_len);
        let mut files = Files::default();
        if self.meta.iter().any(Option::is_some) {
            let mut file = vec![0; meta_file_len(block_len) as usize];
            for place in 0..2 {
                if let Some(meta) = &self.meta[place] {
                    meta.write(place, shape, &mut file);
                }
                if let Some(cursor) = &self.cursor[place] {
                    cursor.write(place, shape, &mut file);
                }
            }
            files.0.insert(FileId::Meta(log), file);
        }
        for (slot, number) in self.slots.iter().take(4).zip(0..) {
            if let Some(bytes) = slot.bytes(number, shape) {
                files.0.insert(FileId::Slot(log, SlotNo(number)), bytes);
            }
        }
        let count = files.0.len().max(1);
        for (file, at, flip) in &self.flips {
            if let Some(bytes) = files.0.values_mut().nth(usize::from(*file) % count) {
                let at = usize::from(*at) % bytes.len();
                bytes[at] ^= flip;
            }
        }
        if let Some((file, len)) = self.cut
            && let Some(bytes) = files.0.values_mut().nth(usize::from(file) % count)
        {
            bytes.truncate((usize::from(len) % (bytes.len() + 1)).max(1));
        }
        files
    }
}
