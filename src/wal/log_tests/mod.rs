//! The log, fed by hand: completions in any order, assertions on the ops that go out.

mod close;
mod commit;
mod mutants;
mod random;
mod room;

use std::time::Duration;

use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::schema::Schema;
use crate::time::{Instant, UnixNanos};
use crate::wal::block::Pool;
use crate::wal::coding::Coding;
use crate::wal::cursor::{CURSOR_LEN, Cursor};
use crate::wal::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind, RunEnd};
use crate::wal::log::{Blocked, Commit, Event, Log, LogConfig};
use crate::wal::meta::{Meta, meta_copy_len};
use crate::wal::mutant::Mutants;
use crate::wal::op::{Completion, DiskError, FileId, LogId, Op, Output, Token};
use crate::wal::recovery::Recovered;
use crate::wal::segment::{SegmentHeader, SlotHeader, StoreId, read_slot_header};

const B: u32 = 512;

fn config(commit: Commit) -> LogConfig {
    LogConfig {
        log: LogId::Main,
        schema: Schema::new("test", 1),
        commit,
        slots_max: 4,
        spares_min: 2,
        inflight_max: 4,
        hedge_len: 64 << 10,
        cursor_every: Duration::from_millis(50),
        coding: Coding::default(),
        seed: 1,
        mutants: Mutants::NONE,
        lsn_floor: Lsn::ZERO,
    }
}

fn recovered(blocks: u64, free: u32) -> Recovered {
    Recovered {
        meta: Meta {
            generation: 2,
            store: StoreId([9; 16]),
            features: 0,
            block_len: B,
            frame_len_max: 4096,
            segment_len: blocks * u64::from(B),
            epoch: 3,
            reserved_lsn: Lsn::ZERO,
            clean: None,
            recovered: None,
            untold: Default::default(),
        },
        cursor: Cursor::default(),
        end: Lsn::ZERO,
        next_lsn: Lsn::FIRST,
        tail_uid: SegmentUid::NONE,
        seq_max: 0,
        live: Vec::new(),
        free: (0..free).map(SlotNo).collect(),
        unprepared: Vec::new(),
        lost: Vec::new(),
        absent: Vec::new(),
        earlier: Default::default(),
    }
}

/// A log, its clock, and the ops that are out.
struct Bench {
    log: Log,
    now: Instant,
    out: Vec<(Token, Op)>,
    events: Vec<Event>,
    position: u64,
}

/// What an op writes, for short.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wrote {
    Header(SegmentHeader),
    Frame(FrameHeader),
    Body,
    Cursor(u64),
    Meta(Meta),
    Prepare(u32, bool),
    Remove(u32),
    Sync(u32),
}

impl Bench {
    fn new(commit: Commit) -> Self {
        Self::with(recovered(16, 2), config(commit))
    }

    fn with(recovered: Recovered, config: LogConfig) -> Self {
        let log = Log::new(recovered, config, Pool::new(16, CURSOR_LEN).unwrap());
        Self { log, now: Instant::from_nanos(1_000_000), out: Vec::new(), events: Vec::new(), position: 0 }
    }

    fn wait(&mut self, micros: u64) -> &mut Self {
        self.now = self.now + Duration::from_micros(micros);
        self.pump()
    }

    fn pump(&mut self) -> &mut Self {
        while let Some(op) = self.log.poll_op(self.now) {
            self.out.push(op);
        }
        while let Some(event) = self.log.poll_event() {
            self.events.push(event);
        }
        self
    }

    /// Takes in records of `len` bytes and pumps.
    fn push(&mut self, records: u32, len: usize) -> &mut Self {
        self.try_push(records, len).unwrap();
        self.pump()
    }

    fn try_push(&mut self, records: u32, len: usize) -> Result<(), Blocked> {
        for _ in 0..records {
            let (now, unix) = (self.now, UnixNanos(5));
            // Twice at most: a full frame is sealed, then the rest of a chunk that is too short given up.
            for _ in 0..2 {
                if self.log.frame(now, unix)?.spare_mut().len() < len {
                    self.log.seal(now);
                }
            }
            assert!(self.log.frame(now, unix)?.spare_mut().len() >= len);
            self.position += len as u64;
            let run = RunEnd { ring: 0, end: self.position };
            let frame = self.log.frame(now, unix)?;
            frame.spare_mut()[..len].fill(0x5a);
            frame.advance(len, 1, run);
        }
        Ok(())
    }

    fn wrote(&self) -> Vec<Wrote> {
        self.out.iter().map(|(_, op)| wrote(op)).collect()
    }

    /// Headers of the frames that are out.
    fn frames(&self) -> Vec<FrameHeader> {
        self.wrote().into_iter().filter_map(|w| if let Wrote::Frame(f) = w { Some(f) } else { None }).collect()
    }

    fn headers(&self) -> usize {
        self.wrote().iter().filter(|w| matches!(w, Wrote::Header(_))).count()
    }

    fn syncs(&self) -> usize {
        self.wrote().iter().filter(|w| matches!(w, Wrote::Sync(_))).count()
    }

    /// Ends the first op that is out and of which `which` holds.
    fn end(&mut self, which: impl Fn(&Wrote) -> bool) -> Wrote {
        self.end_with(which, Ok(Output::Done))
    }

    fn end_with(&mut self, which: impl Fn(&Wrote) -> bool, result: Result<Output, DiskError>) -> Wrote {
        let at = self.out.iter().position(|(_, op)| which(&wrote(op)));
        let at = at.unwrap_or_else(|| panic!("no such op among {:?}", self.wrote()));
        let (token, op) = self.out.remove(at);
        let what = wrote(&op);
        drop(op);
        self.log.handle_completion(self.now, Completion { token, result });
        self.pump();
        what
    }

    /// Ends all that is out, and what comes of it, until nothing is out.
    fn end_all(&mut self) -> Vec<Wrote> {
        self.pump();
        let mut all = Vec::new();
        while !self.out.is_empty() {
            all.push(self.end(|_| true));
        }
        all
    }

    fn ack(&mut self, acked: u64) -> &mut Self {
        self.log.ack(self.now, Lsn::new(acked), &[], &[]);
        self.pump()
    }

    fn ready(&self) -> Vec<u64> {
        let first = |e: &Event| if let Event::Ready(f) = e { Some(f.header.first_lsn.number()) } else { None };
        self.events.iter().filter_map(first).collect()
    }

    fn durable_events(&self) -> Vec<(u64, u64)> {
        let of = |e: &Event| match e {
            Event::Durable { lsn, runs, .. } => Some((lsn.number(), runs.first().map_or(0, |r| r.end))),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    fn failures(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Failed(_))).count()
    }
}

fn wrote(op: &Op) -> Wrote {
    match op {
        Op::Prepare { file: FileId::Slot(_, slot), urgent, .. } => Wrote::Prepare(slot.0, *urgent),
        Op::Remove { file: FileId::Slot(_, slot) } => Wrote::Remove(slot.0),
        Op::Sync { file: FileId::Slot(_, slot) } => Wrote::Sync(slot.0),
        Op::Write { file: FileId::Meta(_), offset, block, dsync } => {
            assert!(dsync);
            if *offset < 2 * meta_copy_len(B) {
                let mut file = vec![0; 8192];
                let at = usize::try_from(*offset).unwrap();
                file[at..at + block.len()].copy_from_slice(block);
                return Wrote::Meta(Meta::read(&file).unwrap());
            }
            let zeros = vec![0; CURSOR_LEN];
            let cursor = Cursor::read(block, &zeros).or_else(|| Cursor::read(&zeros, block)).unwrap();
            assert_eq!(*offset, crate::wal::cursor::cursor_offset(cursor.generation, B));
            Wrote::Cursor(cursor.acked.number())
        }
        Op::Write { offset: 0, block, dsync, .. } => match read_slot_header(block, B) {
            SlotHeader::Segment(header) => {
                assert!(dsync, "a header is durable when it completes");
                Wrote::Header(header)
            }
            other => panic!("{other:?} at the start of a slot"),
        },
        Op::Write { offset, block, .. } => {
            assert!(offset.is_multiple_of(u64::from(B)) && block.len().is_multiple_of(B as usize), "whole blocks");
            let Ok(header) = FrameHeader::decode(block) else { return Wrote::Body };
            assert_eq!(u64::from(header.position) * u64::from(B), *offset);
            let used = FRAME_HEADER_LEN + header.body_len as usize;
            if used <= block.len() {
                assert!(header.body_matches(&block[FRAME_HEADER_LEN..used]));
                assert!(block[used..].iter().all(|b| *b == 0), "zeros behind the body");
            }
            Wrote::Frame(header)
        }
        other => panic!("{other:?} is not asked by a writer"),
    }
}

fn is_frame(w: &Wrote) -> bool {
    matches!(w, Wrote::Frame(_))
}

fn is_meta(w: &Wrote) -> bool {
    matches!(w, Wrote::Meta(_))
}

fn is_header(w: &Wrote) -> bool {
    matches!(w, Wrote::Header(_))
}

fn frame_at(first: u64) -> impl Fn(&Wrote) -> bool {
    move |w| matches!(w, Wrote::Frame(f) if f.first_lsn.number() == first && f.kind == FrameKind::Data)
}

fn eio() -> DiskError {
    DiskError { what: "write", file: None, offset: None, errno: libc::EIO, detail: "" }
}
