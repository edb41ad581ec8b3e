//! The state of a simulated machine, and what each op does to it. No locks, no time of its own.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::sim::chance::Chance;
use crate::sim::disk::{DiskKind, SimSettings};
use crate::sim::faults::{Death, Effect, Fault, Fuse};
use crate::sim::file::{SECTOR_LEN, SectorFate, SimFile, index};
use crate::sim::history::{OpKind, OpRecord, Unstable};
use crate::sim::prng::Prng;
use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

/// Records kept; older ones are forgotten.
const HISTORY_LEN_MAX: usize = 100_000;
/// Bytes of a write that its record keeps.
const HEAD_LEN_MAX: usize = 96;
/// When an op that hangs is due.
pub(super) const NEVER: u64 = u64::MAX;

/// An op in flight.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    /// When it may end; never, if it hangs.
    pub(super) due: u64,
    token: Token,
    op: Op,
    effect: Option<Effect>,
    /// What had completed when it was submitted: all that a flush is sure to cover.
    submitted: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) settings: SimSettings,
    pub(super) prng: Prng,
    pub(super) files: BTreeMap<FileId, SimFile>,
    pub(super) quarantine: Vec<(FileId, Vec<u8>)>,
    pub(super) pending: Vec<Pending>,
    pub(super) ready: VecDeque<Completion>,
    pub(super) faults: Vec<Fault>,
    pub(super) fuse: Option<Fuse>,
    pub(super) history: VecDeque<OpRecord>,
    /// Counts submissions and completions.
    pub(super) step: u64,
    pub(super) ops: u64,
    /// Connections made so far; the last one may be open.
    pub(super) connections: u64,
    pub(super) connected: bool,
    pub(super) rung: bool,
}

/// An op's file, place and length.
fn place_of(op: &Op) -> (FileId, u64, u64) {
    match op {
        Op::List { log } => (FileId::Meta(*log), 0, 0),
        Op::Prepare { file, len, .. } => (*file, 0, *len),
        Op::Write { file, offset, block, .. } => (*file, *offset, block.len() as u64),
        Op::Read { file, offset, block } => (*file, *offset, block.len() as u64),
        Op::Sync { file } | Op::Remove { file } | Op::Quarantine { file } => (*file, 0, 0),
    }
}

/// The bytes that an op touches, if the log must keep others away from them.
fn range_of(op: &Op) -> Option<(FileId, Range<u64>, bool)> {
    let (file, offset, len) = place_of(op);
    match op {
        Op::Write { .. } => Some((file, offset..offset + len, true)),
        Op::Prepare { .. } | Op::Remove { .. } => Some((file, 0..u64::MAX, true)),
        Op::Read { .. } => Some((file, offset..offset + len, false)),
        Op::Quarantine { .. } => Some((file, 0..u64::MAX, false)),
        Op::List { .. } | Op::Sync { .. } => None,
    }
}

impl World {
    pub(super) fn new(settings: SimSettings) -> Self {
        Self {
            prng: Prng::new(settings.seed),
            settings,
            files: BTreeMap::new(),
            quarantine: Vec::new(),
            pending: Vec::new(),
            ready: VecDeque::new(),
            faults: Vec::new(),
            fuse: None,
            history: VecDeque::new(),
            step: 0,
            ops: 0,
            connections: 0,
            connected: false,
            rung: false,
        }
    }

    /// Takes an op in. What the log must never ask for is an assertion.
    pub(super) fn submit(&mut self, token: Token, op: Op, now: u64) {
        let (file, offset, len) = place_of(&op);
        let kind = OpKind::of(&op);
        let block_len = u64::from(self.settings.block_len);
        if matches!(kind, OpKind::Write | OpKind::Read | OpKind::Prepare) {
            assert!(
                offset.is_multiple_of(block_len) && len.is_multiple_of(block_len) && len > 0,
                "{} of {file} at {offset}+{len} is not in whole blocks of {block_len}",
                kind.name()
            );
        }
        self.assert_apart(&op, file);
        let (dsync, head) = match &op {
            Op::Write { dsync, block, .. } => (*dsync, block[..block.len().min(HEAD_LEN_MAX)].to_vec()),
            Op::Prepare { mark, .. } => (false, mark[..mark.len().min(HEAD_LEN_MAX)].to_vec()),
            _ => (false, Vec::new()),
        };
        if self.history.len() == HISTORY_LEN_MAX {
            self.history.pop_front();
        }
        let number = self.ops;
        self.ops += 1;
        self.step += 1;
        let connection = self.connections;
        let submitted = self.step;
        self.history.push_back(OpRecord {
            number,
            connection,
            token,
            kind,
            file,
            offset,
            len,
            dsync,
            head,
            submitted,
            completed: None,
        });
        let mut effect = None;
        for at in 0..self.faults.len() {
            if let Some((struck, spent)) = self.faults[at].strikes(kind, file, offset) {
                effect = Some(struck);
                if spent {
                    self.faults.remove(at);
                }
                break;
            }
        }
        let (least, most) = self.settings.latency;
        let [least, most] = [least, most].map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let mut due = now.saturating_add(self.prng.within(least..=most.max(least)));
        if let Some(Effect::Late(by)) = effect {
            due = due.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
            effect = None;
        }
        self.pending.push(Pending { number, due, token, op, effect, submitted });
    }

    /// Ops on the same bytes are never in flight together, two reads excepted: the log's promise.
    fn assert_apart(&self, op: &Op, file: FileId) {
        let Some((_, range, writes)) = range_of(op) else { return };
        for other in &self.pending {
            if let Some((_, taken, also)) = range_of(&other.op).filter(|(f, ..)| *f == file) {
                let meet = taken.start < range.end && range.start < taken.end;
                assert!(!meet || !(writes || also), "two ops on the same bytes of {file}: {op:?} and {:?}", other.op);
            }
        }
    }

    /// Ends the op at `at` of those in flight; its completion is ready then.
    pub(super) fn finish(&mut self, at: usize) {
        let pending = self.pending.remove(at);
        self.step += 1;
        let (number, token) = (pending.number, pending.token);
        let result = self.carry_out(pending);
        let errno = result.as_ref().map_or_else(|e| e.errno, |_| 0);
        let step = self.step;
        if let Some(record) = self.record(number) {
            record.completed = Some((step, errno));
        }
        self.ready.push_back(Completion { token, result });
        if let Some(death) = Fuse::burn(&mut self.fuse) {
            self.die(death);
        }
    }

    pub(super) fn die(&mut self, death: Death) {
        self.fuse = None;
        if death == Death::Kill {
            return self.kill();
        }
        let mut chance = Chance::new(self.prng.split(), self.settings.garbage);
        self.crash(&mut |write, _| chance.fate(write));
    }

    fn record(&mut self, number: u64) -> Option<&mut OpRecord> {
        let first = self.history.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.history.get_mut(at)
    }

    fn carry_out(&mut self, pending: Pending) -> Result<Output, DiskError> {
        let Pending { number, op, effect, submitted, .. } = pending;
        let (file, offset, _) = place_of(&op);
        let what = OpKind::of(&op).name();
        let error = |errno| DiskError { what, file: Some(file), offset: Some(offset), errno, detail: "simulated" };
        if let Some(Effect::Error(errno)) = effect {
            self.fail(number, &op);
            return Err(error(errno));
        }
        if let (Some(Effect::Gone(errno)), Some(content)) = (effect, self.files.get_mut(&file)) {
            content.forget();
            return Err(error(errno));
        }
        if matches!(op, Op::Write { .. } | Op::Sync { .. }) && !self.files.contains_key(&file) {
            return Err(error(libc::ENOENT));
        }
        match op {
            Op::List { log } => Ok(Output::Files(
                self.files.iter().filter(|(f, _)| f.log() == log).map(|(f, content)| (*f, content.len())).collect(),
            )),
            Op::Prepare { len, mark, .. } => self.prepare(file, len, &mark).map(|()| Output::Done).map_err(error),
            Op::Write { block, dsync, .. } => {
                let (file, offset) = match effect {
                    Some(Effect::Lost) => return Ok(Output::Done),
                    Some(Effect::Misdirected(file, offset)) => (file, offset),
                    _ => (file, offset),
                };
                self.write(number, file, offset, &block, dsync, submitted);
                Ok(Output::Done)
            }
            Op::Sync { .. } => {
                self.flush(file, submitted);
                Ok(Output::Done)
            }
            Op::Read { mut block, .. } => {
                let Some(content) = self.files.get(&file) else { return Err(error(libc::ENOENT)) };
                if content.is_unreadable(&(offset..offset + block.len() as u64)) {
                    return Err(error(libc::EIO));
                }
                match effect {
                    Some(Effect::Stale) => content.read_stale(offset, &mut block),
                    _ => content.read(offset, &mut block),
                }
                Ok(Output::Bytes(block))
            }
            Op::Remove { .. } => self.files.remove(&file).map(|_| Output::Done).ok_or_else(|| error(libc::ENOENT)),
            Op::Quarantine { .. } => {
                let Some(content) = self.files.get(&file) else { return Err(error(libc::ENOENT)) };
                let copy = content.visible();
                if !self.quarantine.iter().any(|(f, bytes)| *f == file && *bytes == copy) {
                    self.quarantine.push((file, copy));
                }
                Ok(Output::Done)
            }
        }
    }

    /// What a failed op leaves behind: of a write any part, of a sync nothing or all it was to save, of a
    /// prepare the file as it was, or none.
    fn fail(&mut self, number: u64, op: &Op) {
        match op {
            Op::Write { file, offset, block, .. } => {
                let end = self.prng.index(block.len() / SECTOR_LEN + 1) * SECTOR_LEN;
                if let Some(content) = self.files.get_mut(file) {
                    content.cache(number, self.step, *offset, Arc::from(&block[..end]));
                }
            }
            // After a failed fsync the kernel takes the pages for clean: what they held may be gone.
            Op::Sync { file } if self.prng.chance(1, 2) => {
                if let Some(content) = self.files.get_mut(file) {
                    content.forget();
                }
            }
            // Refused while it was overwritten: what is left of it is removed.
            Op::Prepare { file, .. } if self.prng.chance(1, 2) => drop(self.files.remove(file)),
            _ => {}
        }
    }

    fn prepare(&mut self, file: FileId, len: u64, mark: &[u8]) -> Result<(), i32> {
        let had = self.files.get(&file).map_or(0, SimFile::len);
        let used: u64 = self.files.values().map(SimFile::len).sum();
        if self.settings.space.is_some_and(|space| used - had + len > space) {
            return Err(libc::ENOSPC);
        }
        let mut bytes = vec![0; index(len)];
        bytes[..mark.len()].copy_from_slice(mark);
        self.files.insert(file, SimFile::new(bytes));
        Ok(())
    }

    fn write(&mut self, number: u64, file: FileId, offset: u64, bytes: &[u8], dsync: bool, submitted: u64) {
        if dsync && self.settings.kind == DiskKind::Flush {
            self.flush(file, submitted);
        }
        let step = self.step;
        let Some(content) = self.files.get_mut(&file) else { return };
        content.heal(&(offset..offset + bytes.len() as u64));
        if dsync {
            content.write_through(offset, bytes);
        } else {
            content.cache(number, step, offset, Arc::from(bytes));
        }
    }

    /// A flush covers what had completed when it was asked for; what completed since, perhaps. A device
    /// without FUA flushes whole; otherwise only what belongs to the file is sure to be covered.
    fn flush(&mut self, file: FileId, submitted: u64) {
        let until = if self.prng.chance(1, 2) { self.step } else { submitted };
        for (name, content) in &mut self.files {
            if *name == file || self.settings.kind == DiskKind::Flush {
                content.flush(until);
            }
        }
    }

    /// Everything that a power cut would put at stake now.
    pub(super) fn unstable(&self) -> Vec<Unstable> {
        let cached = self.files.iter().flat_map(|(file, content)| {
            content.cached().iter().map(|w| Unstable {
                number: w.number,
                file: *file,
                offset: w.offset,
                len: w.bytes.len() as u64,
                completed: w.completed,
            })
        });
        let flying = self.pending.iter().filter_map(|p| match &p.op {
            Op::Write { file, offset, block, .. } => Some(Unstable {
                number: p.number,
                file: *file,
                offset: *offset,
                len: block.len() as u64,
                completed: false,
            }),
            _ => None,
        });
        cached.chain(flying).collect()
    }

    /// What a write in flight would write.
    pub(super) fn bytes_in_flight(&self, number: u64) -> Vec<u8> {
        let op = self.pending.iter().find(|p| p.number == number).map(|p| &p.op);
        if let Some(Op::Write { block, .. }) = op { block.to_vec() } else { Vec::new() }
    }

    /// The power goes. `fate` says what becomes of each sector that was at stake; what a file that was
    /// being prepared, removed or copied becomes is drawn.
    pub(super) fn crash(&mut self, fate: &mut dyn FnMut(&Unstable, usize) -> SectorFate) {
        for (file, content) in &mut self.files {
            content.crash(|w, sector| {
                let unstable = Unstable {
                    number: w.number,
                    file: *file,
                    offset: w.offset,
                    len: w.bytes.len() as u64,
                    completed: w.completed,
                };
                fate(&unstable, sector)
            });
        }
        for pending in std::mem::take(&mut self.pending) {
            let number = pending.number;
            match pending.op {
                Op::Write { file, offset, block, .. } if pending.effect.is_none() => {
                    let Some(content) = self.files.get_mut(&file) else { continue };
                    let unstable = Unstable { number, file, offset, len: block.len() as u64, completed: false };
                    for (sector, bytes) in block.chunks(SECTOR_LEN).enumerate() {
                        content.settle(offset + (sector * SECTOR_LEN) as u64, bytes, fate(&unstable, sector));
                    }
                }
                Op::Prepare { file, len, mark, .. } => self.half_prepare(file, len, &mark),
                Op::Remove { file } if self.prng.chance(1, 2) => {
                    self.files.remove(&file);
                }
                Op::Quarantine { file } if self.prng.chance(1, 2) => {
                    if let Some(content) = self.files.get(&file) {
                        let copy = content.visible();
                        self.quarantine.push((file, copy));
                    }
                }
                _ => {}
            }
        }
        self.disconnect();
    }

    /// A crash inside `Prepare`: nothing yet; or a shorter file; or some of the zeros; or all zeros and a
    /// mark torn at any sector.
    fn half_prepare(&mut self, file: FileId, len: u64, mark: &[u8]) {
        let old = self.files.get(&file).map(|content| content.durable().to_vec());
        let stage = self.prng.below(4);
        let mut bytes = match (stage, old) {
            (0, _) => return,
            (1, None) => vec![0; index(self.prng.below(len + 1))],
            (1 | 2, Some(mut old)) => {
                old.resize(index(len), 0);
                for sector in old.chunks_mut(SECTOR_LEN) {
                    if self.prng.chance(1, 2) {
                        sector.fill(0);
                    }
                }
                old
            }
            _ => vec![0; index(len)],
        };
        if stage == 3 {
            for (sector, part) in mark.chunks(SECTOR_LEN).enumerate() {
                if self.prng.chance(1, 2) {
                    let at = sector * SECTOR_LEN;
                    bytes[at..at + part.len()].copy_from_slice(part);
                }
            }
        }
        self.files.insert(file, SimFile::new(bytes));
    }

    /// The process dies; the machine lives. What was in flight has landed in part, whole or not at all;
    /// what had completed stays in the cache.
    pub(super) fn kill(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for p in pending {
            match p.op {
                Op::Write { file, offset, block, .. } if p.effect.is_none() => {
                    let sectors = block.len() / SECTOR_LEN;
                    let end = match self.prng.below(3) {
                        0 => 0,
                        1 => self.prng.index(sectors + 1),
                        _ => sectors,
                    } * SECTOR_LEN;
                    if let Some(content) = self.files.get_mut(&file).filter(|_| end > 0) {
                        content.cache(p.number, self.step, offset, Arc::from(&block[..end]));
                    }
                }
                Op::Prepare { file, len, mark, .. } => self.half_prepare(file, len, &mark),
                Op::Remove { file } if self.prng.chance(1, 2) => {
                    self.files.remove(&file);
                }
                _ => {}
            }
        }
        self.disconnect();
    }

    /// The connection ends: nothing more is told to it.
    pub(super) fn disconnect(&mut self) {
        self.pending.clear();
        self.ready.clear();
        self.connected = false;
    }
}
