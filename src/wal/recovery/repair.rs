//! The writing half of recovery: makes durable what the scan decided, one op after the other.
//!
//! ```text
//!  new store:  (Remove what is half made) → Prepare META (zeros) → cursor A, B → META
//!  corrupt:    META (reserved LSNs, what is lost) → copy aside → cursor without what was given up
//!  torn:       META (what is torn), if something is voided
//!  META stale: cursor (of the newest incarnation), if something is voided
//!  always:     void → META (epoch + 1, recovered end)
//! ```
//! The end that was found, and the epoch that it belongs to, come last: as long as they are not written,
//! the next scan finds the same facts, or the same ones with a part of the repair already done, and
//! decides the same. So a META that goes before keeps the epoch that was on disk: one that is stale would
//! else pass for the newest, and the end that it names would settle what was written behind it. Every
//! write goes to the copy that does not hold, or repeats what the slot already says. Segments are voided
//! newest first, so that none is left without the one that it follows.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::judge::next_lsn;
use super::report::{OnCorruption, Recovered, Scanned, SlotState, StoreConfig};
use crate::lsn::{Lsn, SegmentUid, SlotNo};
use crate::ranges::Ranges;
use crate::wal::block::{Block, BlockMut, Pool};
use crate::wal::cursor::{
    CURSOR_ATTEMPTS_MAX, CURSOR_RANGES_MAX, Cursor, cursor_copy_len, cursor_offset, meta_file_len,
};
use crate::wal::meta::{LogEnd, Meta, meta_copy_len, meta_offset};
use crate::wal::mutant::Mutant;
use crate::wal::op::{Completion, DiskError, FileId, Op, Owner, Token};
use crate::wal::segment::{HEADER_BLOCKS, StoreId, write_void_mark};
use crate::wal::untold::Untold;

/// Makes a scanned store ready to be written.
#[derive(Debug)]
pub struct Repair {
    config: StoreConfig,
    pool: Pool,
    steps: VecDeque<Step>,
    in_flight: bool,
    number: u32,
    recovered: Option<Recovered>,
    failed: Option<DiskError>,
}

#[derive(Debug)]
enum Step {
    Remove,
    Prepare,
    Quarantine(SlotNo),
    Cursor(Cursor),
    Void(SlotNo),
    Meta(Meta),
}

impl Repair {
    /// Repairs what was scanned. The caller has looked at `scanned.corruption`: under
    /// [`OnCorruption::Stop`] nothing corrupt gets here.
    ///
    /// # Panics
    /// When there is corruption and the policy is to stop.
    #[must_use]
    pub fn new(scanned: Scanned, policy: OnCorruption, config: StoreConfig, pool: Pool) -> Self {
        assert!(scanned.corruption.is_empty() || policy != OnCorruption::Stop, "a corrupt log is not opened");
        let mut steps = VecDeque::new();
        let recovered = match scanned.meta.clone() {
            None => create(&config, scanned, &mut steps),
            Some(meta) => {
                // Longer entries than before need longer frames; a reader's bound only ever grows.
                let frame_len_max = meta.frame_len_max.max(config.frame_len_max);
                // Frames of before may be there as long as the store is: a feature once used stays named.
                let features = meta.features | config.features;
                reopen(&config, Meta { frame_len_max, features, ..meta }, scanned, policy, &mut steps)
            }
        };
        steps.push_back(Step::Meta(recovered.meta.clone()));
        Self { config, pool, steps, in_flight: false, number: 0, recovered: Some(recovered), failed: None }
    }

    /// The next op; `None` while one is in flight, while the pool is empty, or at the end.
    pub fn poll_op(&mut self) -> Option<(Token, Op)> {
        if self.in_flight || self.failed.is_some() {
            return None;
        }
        let op = self.op_of(self.steps.front()?)?;
        self.in_flight = true;
        self.number += 1;
        Some((Token { owner: Owner::Recovery, number: self.number }, op))
    }

    /// How an op ended.
    ///
    /// # Panics
    /// When no op is in flight.
    pub fn handle_completion(&mut self, completion: Completion) {
        assert!(self.in_flight && completion.token.number == self.number, "one op at a time");
        self.in_flight = false;
        match completion.result {
            Ok(_) => drop(self.steps.pop_front()),
            Err(error) => self.failed = Some(error),
        }
    }

    /// The log, or why it could not be repaired; once.
    pub fn outcome(&mut self) -> Option<Result<Recovered, DiskError>> {
        if self.failed.is_some() {
            self.recovered = None;
            return self.failed.clone().map(Err);
        }
        if self.steps.is_empty() { self.recovered.take().map(Ok) } else { None }
    }

    fn op_of(&self, step: &Step) -> Option<Op> {
        let (log, block_len) = (self.config.log, self.block_len());
        let meta = FileId::Meta(log);
        let write = |file, offset, block| Op::Write { file, offset, block, dsync: true };
        Some(match step {
            Step::Remove => Op::Remove { file: meta },
            Step::Prepare => {
                let mark = self.block(meta_copy_len(block_len), |bytes| bytes.fill(0))?;
                Op::Prepare { file: meta, len: meta_file_len(block_len), mark, urgent: true }
            }
            Step::Quarantine(slot) => Op::Quarantine { file: FileId::Slot(log, *slot) },
            Step::Cursor(cursor) => {
                let block = self.block(cursor_copy_len(block_len), |bytes| cursor.encode(bytes))?;
                write(meta, cursor_offset(cursor.generation, block_len), block)
            }
            Step::Void(slot) => {
                let len = u64::from(HEADER_BLOCKS * block_len);
                let block = self.block(len, |bytes| write_void_mark(bytes, block_len))?;
                write(FileId::Slot(log, *slot), 0, block)
            }
            Step::Meta(description) => {
                let block = self.block(meta_copy_len(block_len), |bytes| description.encode(bytes))?;
                write(meta, meta_offset(description.generation, block_len), block)
            }
        })
    }

    fn block_len(&self) -> u32 {
        self.recovered.as_ref().map_or(self.config.block_len, |recovered| recovered.meta.block_len)
    }

    fn block(&self, len: u64, fill: impl FnOnce(&mut [u8])) -> Option<Block> {
        let mut block: BlockMut = self.pool.take()?;
        block.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        fill(&mut block);
        Some(block.freeze())
    }
}

/// A store that was not there before.
fn create(config: &StoreConfig, scanned: Scanned, steps: &mut VecDeque<Step>) -> Recovered {
    let meta = Meta {
        generation: 1,
        store: store_id(config),
        features: config.features,
        block_len: config.block_len,
        frame_len_max: config.frame_len_max,
        segment_len: config.segment_len,
        epoch: 1,
        reserved_lsn: Lsn::ZERO,
        clean: None,
        recovered: Some(LogEnd { lsn: Lsn::ZERO, uid: SegmentUid::NONE }),
        untold: Untold::default(),
    };
    let older = Cursor { generation: 0, epoch: 1, ..Cursor::default() };
    let cursor = Cursor { generation: 1, ..older.clone() };
    // Both copies of both: a flipped bit in one of them must not cost the store.
    let first = Meta { generation: 0, epoch: 0, ..meta.clone() };
    // Zeros over a half-made file, cut off in their turn, could leave what is neither new nor a store.
    steps.extend(scanned.half_made.then_some(Step::Remove));
    steps.extend([Step::Prepare, Step::Cursor(older), Step::Cursor(cursor.clone()), Step::Meta(first)]);
    Recovered {
        meta,
        cursor,
        end: Lsn::ZERO,
        next_lsn: Lsn::FIRST,
        tail_uid: SegmentUid::NONE,
        seq_max: 0,
        live: Vec::new(),
        free: scanned.free,
        unprepared: scanned.unprepared,
        lost: Vec::new(),
        absent: Vec::new(),
        earlier: Untold::default(),
    }
}

/// A store that was there.
fn reopen(
    config: &StoreConfig,
    mut meta: Meta,
    mut scanned: Scanned,
    policy: OnCorruption,
    steps: &mut VecDeque<Step>,
) -> Recovered {
    let (mut lost, mut copies) = (Vec::new(), Vec::new());
    let (meta_epoch, is_stale) = (scanned.meta_epoch, scanned.meta_epoch < meta.epoch);
    let reserved_lsn = scanned.next_lsn.prev().max(scanned.seen);
    let is_corrupt = !scanned.corruption.is_empty();
    if is_corrupt {
        (lost, copies) = match policy {
            OnCorruption::CutTail => (cut(&mut scanned, config.mutants.has(Mutant::CutKeepsPromise)), Vec::new()),
            OnCorruption::Stop | OnCorruption::Quarantine => give_up(&mut scanned),
        };
    }
    let mut earlier = std::mem::take(&mut meta.untold);
    earlier.forget_what_is_there(&Ranges::new(scanned.cursor.acked, scanned.cursor.done.clone()), scanned.end);
    if !config.mutants.has(Mutant::SettledUntold) {
        meta.untold.clone_from(&earlier);
        meta.untold.add(&lost, scanned.report.torn);
    }
    if is_corrupt {
        // What was lost may have been shown to a sink: its LSNs are never given out again.
        // Settled before anything goes that tells how far they went, or that they were there.
        meta.reserved_lsn = reserved_lsn;
    }
    // The end that is torn may lie in a segment that is voided: then this is all that tells of it.
    if is_corrupt || scanned.report.torn.is_some() && !scanned.voids.is_empty() {
        meta.generation += 1;
        steps.push_back(Step::Meta(Meta { epoch: meta_epoch, ..meta.clone() }));
    }
    steps.extend(copies.into_iter().map(Step::Quarantine));
    // What is voided may be all that tells that META is stale: then this goes on telling it.
    if is_corrupt || is_stale && !scanned.voids.is_empty() {
        scanned.cursor.generation += 1;
        scanned.cursor.epoch = meta.epoch;
        steps.push_back(Step::Cursor(scanned.cursor.clone()));
    }
    if !config.mutants.has(Mutant::NoVoid) {
        steps.extend(newest_first(&scanned).into_iter().map(Step::Void));
    }
    let whole = |slot: &SlotNo| scanned.report.slots.iter().any(|s| s.slot == *slot && s.file_len >= meta.segment_len);
    let (free, unprepared): (Vec<_>, Vec<_>) = scanned.voids.iter().copied().partition(|slot| whole(slot));
    scanned.free.extend(free);
    scanned.unprepared.extend(unprepared);
    let recovered = Some(LogEnd { lsn: scanned.end, uid: scanned.tail_uid });
    let meta = Meta { generation: meta.generation + 1, epoch: meta.epoch + 1, clean: None, recovered, ..meta };
    let mut absent = lost.clone();
    absent.extend(&scanned.cursor.done);
    Recovered {
        next_lsn: next_lsn(scanned.end, &meta, &scanned.cursor, config.mutants),
        cursor: scanned.cursor,
        end: scanned.end,
        meta,
        tail_uid: scanned.tail_uid,
        seq_max: scanned.seq_max,
        live: scanned.live,
        free: scanned.free,
        unprepared: scanned.unprepared,
        lost,
        absent,
        earlier,
    }
}

/// What is to be voided: never a segment before the one that follows it. Cut off in between, that one would look as if
/// a durable segment in front of it had been lost (J).
fn newest_first(scanned: &Scanned) -> Vec<SlotNo> {
    let seq = |slot: &SlotNo| match scanned.report.slots.iter().find(|report| report.slot == *slot)?.state {
        SlotState::Segment(ref header) => Some(header.seq),
        _ => None,
    };
    let mut slots = scanned.voids.clone();
    slots.sort_by_key(|slot| Reverse(seq(slot)));
    slots
}

/// Everything from the first hole on is given up.
fn cut(scanned: &mut Scanned, keeps_promises: bool) -> Vec<(Lsn, Lsn)> {
    let first_lost = scanned.corruption.iter().map(|hole| hole.first).min().unwrap_or_else(|| scanned.end.next());
    let end = first_lost.prev().max(scanned.cursor.acked);
    let lost = vec![(end.next(), scanned.seen.max(end).next())];
    // Every segment behind the end, those too that hold nothing for the sink: their headers make promises.
    let is_behind = |state: &SlotState| matches!(state, SlotState::Segment(header) if header.base_lsn > end);
    let is_behind = |state: &SlotState| !keeps_promises && is_behind(state);
    let behind = scanned.report.slots.iter().filter(|report| is_behind(&report.state)).map(|report| report.slot);
    let behind: Vec<SlotNo> = behind.filter(|slot| !scanned.voids.contains(slot)).collect();
    scanned.free.retain(|slot| !behind.contains(slot));
    scanned.unprepared.retain(|slot| !behind.contains(slot));
    scanned.voids.extend(behind);
    scanned.live.retain(|live| live.base <= end);
    if let Some(tail) = scanned.live.last_mut() {
        tail.end = tail.end.min(end);
    }
    scanned.run.retain(|(_, base)| *base <= end);
    scanned.tail_uid = scanned.run.last().map_or(SegmentUid::NONE, |(uid, _)| *uid);
    scanned.end = end;
    let cursor = &mut scanned.cursor;
    // The cursor's promise is broken by policy: left standing, it would call the next end a hole.
    cursor.durable = if keeps_promises { cursor.durable } else { cursor.durable.min(end) };
    cursor.done.retain(|run| run.1 <= end.next());
    cut_attempts(&mut cursor.attempts, end);
    lost
}

/// What comes behind `end` has never been tried. A row holds up to the next one's LSN, so the last one that
/// stays is closed.
fn cut_attempts(attempts: &mut Vec<(Lsn, u32)>, end: Lsn) {
    attempts.retain(|(lsn, _)| *lsn <= end);
    let is_full = attempts.len() == CURSOR_ATTEMPTS_MAX;
    match attempts.last_mut() {
        // No room for one more: tried more often than it is known.
        Some(last) if is_full => last.1 = 0,
        Some((_, 1..)) => attempts.push((end.next(), 0)),
        _ => {}
    }
}

/// Exactly what cannot be read is given up; the cursor remembers it as finished. With the slots that are copied before.
fn give_up(scanned: &mut Scanned) -> (Vec<(Lsn, Lsn)>, Vec<SlotNo>) {
    let mut slots: Vec<_> = scanned.corruption.iter().map(|hole| hole.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    slots.retain(|slot| scanned.report.slots.iter().any(|report| report.slot == *slot));
    let lost: Vec<_> = scanned.corruption.iter().map(|hole| (hole.first, hole.last.next())).collect();
    let cursor = &mut scanned.cursor;
    cursor.done.extend(&lost);
    cursor.done.sort_unstable();
    cursor.done = merged(&mut cursor.acked, std::mem::take(&mut cursor.done));
    cursor.done.truncate(CURSOR_RANGES_MAX);
    // The attempts stay as they are, all of them: a row in a lost run also holds for what follows the run.
    (lost, slots)
}

/// Runs that touch become one; runs that touch `acked` raise it.
fn merged(acked: &mut Lsn, runs: Vec<(Lsn, Lsn)>) -> Vec<(Lsn, Lsn)> {
    let mut out: Vec<(Lsn, Lsn)> = Vec::with_capacity(runs.len());
    for (first, next) in runs {
        if first <= acked.next() {
            *acked = (*acked).max(next.prev());
        } else if let Some(last) = out.last_mut().filter(|last| first <= last.1) {
            last.1 = last.1.max(next);
        } else {
            out.push((first, next));
        }
    }
    out
}

/// An identity out of the seed.
fn store_id(config: &StoreConfig) -> StoreId {
    let mut state = config.seed;
    let mut id = [0; 16];
    for half in id.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    StoreId(id)
}
