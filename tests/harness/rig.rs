//! Opens stores, drives the log, kills it, and checks every answer against the model.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use ringwal::sim::{DiskKind, ManualClock, Prng, SectorFate, SimDisk, SimSettings, mix};
use ringwal::wal::block::Pool;
use ringwal::wal::coding::Coding;
use ringwal::wal::cursor::Cursor;
use ringwal::wal::log::{Commit, Log, LogConfig};
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{Completion, DiskError, LogId, Op, Owner, Token};
use ringwal::wal::reader::{ReadEvent, Reader};
use ringwal::wal::recovery::{Corruption, OnCorruption, Recovered, Repair, Scan, ScanError, Scanned, StoreConfig};
use ringwal::{Lsn, Schema};

use super::coding::{self, Witness};
use super::model::{Entry, Model};
use super::port::Port;

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub kind: DiskKind,
    pub block_len: u32,
    /// Blocks of a segment.
    pub segment_blocks: u32,
    pub frame_blocks_max: u32,
    pub slots_max: u32,
    pub inflight_max: u32,
    /// Pending bytes from which a second commit goes out beside the first.
    pub hedge_len: u32,
    pub commit: Commit,
    pub policy: OnCorruption,
    pub mutants: Mutants,
    pub garbage: bool,
    /// Which log of the machine's store.
    pub log: LogId,
    /// Shortest and longest time of an op.
    pub latency: (Duration, Duration),
    /// Whether each opening compresses and encrypts in a way of its own.
    pub coded: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            kind: DiskKind::Flush,
            block_len: 512,
            segment_blocks: 16,
            frame_blocks_max: 4,
            slots_max: 4,
            inflight_max: 4,
            hedge_len: 1,
            commit: Commit::Immediate,
            policy: OnCorruption::Stop,
            mutants: Mutants::NONE,
            garbage: true,
            log: LogId::Main,
            latency: (Duration::ZERO, Duration::ZERO),
            coded: false,
        }
    }
}

/// How a step of a run ended, if not well.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The machine died, as planned.
    Died,
    /// An invariant is broken.
    Broken(String),
    /// The log reports corruption.
    Corrupt(Vec<Corruption>),
    /// The store was refused.
    Refused(ScanError),
    /// The reader was refused.
    Unread(DiskError),
    /// An op hangs, and nothing else is left to do.
    Hung,
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// A log that is open.
#[derive(Debug)]
pub struct Process {
    pub port: Port,
    pub log: Log,
    pub reader: Reader,
    /// Next LSN that Ready must bring.
    pub ready: u64,
    pub closed: bool,
    /// An append was refused for lack of room since the last look.
    pub blocked: bool,
    /// The log has said that it failed.
    pub failed: bool,
}

/// Looks at a rig, and counts what it looked at.
pub type Probe = fn(&Rig) -> Result<u64, String>;

#[derive(Debug)]
pub struct Rig {
    pub plan: Plan,
    pub machine: SimDisk,
    pub clock: ManualClock,
    pub pool: Pool,
    pub model: Model,
    pub process: Option<Process>,
    pub prng: Prng,
    /// The machine dies after so many more of its events.
    pub fuse: Option<u64>,
    /// Whether the fuse takes the power or only the process.
    pub fuse_kills: bool,
    /// What a power cut does to every sector; by the seed, if nothing is said.
    pub fate: Option<SectorFate>,
    pub notes: Vec<String>,
    /// The connection of the log that runs beside this one in the same process.
    pub beside: Option<Port>,
    /// Which actions of a history are played; all, unless it is being shrunk.
    pub only: Option<BTreeSet<u64>>,
    /// Actions so far that were played.
    pub played: BTreeSet<u64>,
    /// Whether the disk may fail.
    pub faulty: bool,
    /// Called after every event of the machine.
    pub probe: Option<Probe>,
    /// What the probes have counted.
    pub probed: u64,
    /// How this opening codes what it writes.
    pub coding: Coding,
    /// What was encrypted, also on copies of the machine.
    pub witness: Witness,
}

/// Bytes of a pool's chunk, enough for what recovery reads at once.
const CHUNK_LEN: usize = 1 << 16;

pub fn pool() -> Pool {
    Pool::new(48, CHUNK_LEN).expect("a few megabytes can be mapped")
}

trait Machinery {
    type Out;
    fn poll_op(&mut self) -> Option<(Token, Op)>;
    fn handle_completion(&mut self, completion: Completion);
    fn outcome(&mut self) -> Option<Self::Out>;
}

impl Machinery for Scan {
    type Out = Result<Scanned, ScanError>;
    fn poll_op(&mut self) -> Option<(Token, Op)> {
        self.poll_op()
    }
    fn handle_completion(&mut self, completion: Completion) {
        self.handle_completion(completion);
    }
    fn outcome(&mut self) -> Option<Self::Out> {
        self.outcome()
    }
}

impl Machinery for Repair {
    type Out = Result<Recovered, DiskError>;
    fn poll_op(&mut self) -> Option<(Token, Op)> {
        self.poll_op()
    }
    fn handle_completion(&mut self, completion: Completion) {
        self.handle_completion(completion);
    }
    fn outcome(&mut self) -> Option<Self::Out> {
        self.outcome()
    }
}

impl Rig {
    pub fn new(plan: Plan, pool: Pool) -> Self {
        let clock = ManualClock::new();
        let settings = SimSettings {
            kind: plan.kind,
            seed: plan.seed,
            garbage: plan.garbage,
            latency: plan.latency,
            clock: clock.clone(),
            ..SimSettings::default()
        };
        Self {
            prng: Prng::new(plan.seed ^ 0x5157),
            machine: SimDisk::new(settings),
            clock,
            pool,
            model: Model::new(),
            process: None,
            fuse: None,
            fuse_kills: false,
            fate: None,
            notes: Vec::new(),
            beside: None,
            only: None,
            played: BTreeSet::new(),
            faulty: false,
            probe: None,
            probed: 0,
            coding: Coding::default(),
            witness: Witness::default(),
            plan,
        }
    }

    /// Another rig on a copy of the machine, with what this one knows.
    pub fn fork(&self, seed: u64) -> Self {
        let mut fork = Self::new(Plan { seed, ..self.plan.clone() }, self.pool.clone());
        fork.machine = self.machine.copy(seed);
        fork.model = self.model.clone();
        fork.witness = self.witness.clone();
        fork
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn config(&self) -> StoreConfig {
        StoreConfig {
            log: self.plan.log,
            block_len: self.plan.block_len,
            segment_len: u64::from(self.plan.segment_blocks * self.plan.block_len),
            frame_len_max: self.plan.frame_blocks_max * self.plan.block_len,
            features: self.coding.features(),
            seed: self.plan.seed ^ self.machine.op_count(),
            mutants: self.plan.mutants,
        }
    }

    /// One event of the machine has passed.
    pub fn tick(&mut self) -> Outcome<()> {
        if let Some(probe) = self.probe {
            self.probed += probe(self)?;
        }
        if let Some(left) = self.fuse {
            if left == 0 {
                self.fuse = None;
                self.die(self.fuse_kills);
                return Err(Failure::Died);
            }
            self.fuse = Some(left - 1);
        }
        Ok(())
    }

    /// Whether the action with this number is played; what it draws is its own, whatever others draw.
    pub fn turn(&mut self, number: u64) -> bool {
        self.prng = Prng::new(mix(self.plan.seed ^ 0x5157) ^ mix(number));
        let plays = self.only.as_ref().is_none_or(|only| only.contains(&number));
        if plays {
            self.played.insert(number);
        }
        plays
    }

    /// What is drawn from here on belongs to this part of a history, between actions.
    pub fn chapter(&mut self, number: u64) {
        self.prng = Prng::new(mix(self.plan.seed ^ 0xc4a9) ^ mix(!number));
    }

    /// Nothing moves until an op in flight is over.
    fn wait_for_disk(&mut self, who: &str) -> Outcome<()> {
        match self.machine.next_due() {
            Some(at) => self.clock.advance_to(at),
            None if self.machine.in_flight_count() > 0 => return Err(Failure::Hung),
            None => return Err(Failure::Broken(format!("{who} waits for nothing"))),
        }
        Ok(())
    }

    /// The power goes, or only the process dies.
    pub fn die(&mut self, kill: bool) {
        self.note(if kill { "kill" } else { "power cut" });
        if kill {
            self.machine.kill();
        } else if let Some(fate) = self.fate {
            self.machine.crash_with(|_, _| fate);
        } else {
            self.machine.crash();
        }
        self.process = None;
    }

    fn drive<M: Machinery>(&mut self, port: &Port, machinery: &mut M) -> Outcome<M::Out> {
        loop {
            if let Some(out) = machinery.outcome() {
                return Ok(out);
            }
            let mut moved = false;
            while let Some((token, op)) = machinery.poll_op() {
                assert_eq!(token.owner, Owner::Recovery);
                port.submit(token, op);
                moved = true;
                self.tick()?;
            }
            if self.machine.step() {
                moved = true;
                self.tick()?;
            }
            while let Some(completion) = port.complete() {
                machinery.handle_completion(completion);
                moved = true;
            }
            if !moved {
                self.wait_for_disk("recovery")?;
            }
        }
    }

    /// Scans, and gives the connection back too.
    pub fn scan(&mut self) -> Outcome<(Port, Scanned)> {
        let port = match &self.beside {
            Some(port) => port.beside(self.plan.log),
            None => Port::new(self.machine.connect().expect("no other process runs on the machine"), self.plan.log),
        };
        if self.plan.coded {
            self.coding = coding::coding(mix(self.plan.seed ^ self.machine.op_count() << 24), &self.witness);
        }
        let mut scan = Scan::new(self.config(), self.pool.clone());
        let scanned = self.drive(&port, &mut scan)?.map_err(Failure::Refused)?;
        self.note(format!(
            "scan: acked {} end {} next {} tail {:x} live {:?} voids {:?} free {:?}",
            scanned.cursor.acked,
            scanned.end,
            scanned.next_lsn,
            scanned.tail_uid.0 & 0xffff,
            scanned.live.iter().map(|s| (s.slot.0, s.base, s.end)).collect::<Vec<_>>(),
            scanned.voids,
            scanned.free,
        ));
        Ok((port, scanned))
    }

    /// Opens the store, reads all that is to be delivered, and checks it. The log is running then.
    pub fn open(&mut self) -> Outcome<()> {
        let opened = self.try_open();
        if matches!(opened, Err(Failure::Died)) {
            self.process = None;
        }
        opened
    }

    fn try_open(&mut self) -> Outcome<()> {
        let (port, scanned) = self.scan()?;
        if !scanned.corruption.is_empty() && self.plan.policy == OnCorruption::Stop {
            return Err(Failure::Corrupt(scanned.corruption));
        }
        let repaired = scanned.corruption.is_empty();
        if repaired {
            self.model.check_cursor(&scanned.cursor)?;
            self.model.check_decision(scanned.end.number())?;
        }
        let mut repair = Repair::new(scanned, self.plan.policy, self.config(), self.pool.clone());
        let recovered = self.drive(&port, &mut repair)?;
        let recovered = recovered.map_err(|e| Failure::Refused(ScanError::Disk(e)))?;
        let (cursor, end, next) = (recovered.cursor.clone(), recovered.end.number(), recovered.next_lsn.number());
        if repaired {
            self.model.check_recovery_end(&cursor, end, next)?;
        }
        let keys = coding::keys(&self.witness).filter(|_| self.plan.coded);
        let reader = Reader::new(self.plan.log, &recovered.meta, self.plan.mutants).with_cipher(&recovered.meta, keys);
        let config = LogConfig {
            log: self.plan.log,
            schema: Schema::new("sim", 1),
            commit: self.plan.commit,
            slots_max: self.plan.slots_max,
            spares_min: 2,
            inflight_max: self.plan.inflight_max,
            hedge_len: self.plan.hedge_len,
            cursor_every: Duration::from_millis(5),
            coding: self.coding.clone(),
            seed: self.plan.seed ^ self.machine.op_count() << 20,
            mutants: self.plan.mutants,
            lsn_floor: Lsn::ZERO,
        };
        let log = Log::new(recovered, config, self.pool.clone());
        self.process = Some(Process { port, log, reader, ready: next, closed: false, blocked: false, failed: false });
        let read = self.read_from(cursor.acked.next())?;
        self.model.check_recovery(&cursor, end, &read)?;
        for (lsn, entry) in &read {
            self.model.show(*lsn, *entry)?;
        }
        self.model.restart(&cursor, end, next);
        Ok(())
    }

    /// Reads everything durable from `from` on, through the real reader.
    pub fn read_from(&mut self, from: Lsn) -> Outcome<Vec<(u64, Entry)>> {
        let mut process = self.process.take().expect("a log is open");
        let read = self.read_with(&mut process, from);
        if !matches!(read, Err(Failure::Died)) {
            self.process = Some(process);
        }
        read
    }

    fn read_with(&mut self, process: &mut Process, from: Lsn) -> Outcome<Vec<(u64, Entry)>> {
        process.reader.seek(from, None);
        let mut out = Vec::new();
        loop {
            let mut moved = false;
            while let Some((token, op)) =
                process.reader.poll_op(process.log.segments(), process.log.durable(), &self.pool)
            {
                process.port.submit(token, op);
                moved = true;
                self.tick()?;
            }
            if self.machine.step() {
                moved = true;
                self.tick()?;
            }
            while let Some(completion) = process.port.complete() {
                moved = true;
                match completion.token.owner {
                    Owner::Reader(_) => process.reader.handle_completion(completion),
                    _ => process.log.handle_completion(self.clock.now(), completion),
                }
            }
            while let Some(event) = process.reader.poll_event() {
                moved = true;
                match event {
                    ReadEvent::Frame(frame) => {
                        let entries = self.model.check_frame(&frame, "reader")?;
                        out.extend(entries.into_iter().filter(|(lsn, _)| *lsn >= from.number()));
                    }
                    ReadEvent::CaughtUp => return Ok(out),
                    ReadEvent::Corrupt(corruption) if self.plan.policy == OnCorruption::Stop => {
                        return Err(Failure::Corrupt(vec![corruption]));
                    }
                    ReadEvent::Corrupt(corruption) => {
                        process.reader.skip(&corruption);
                        self.model.give_up(corruption.first.number(), corruption.last.number())?;
                    }
                    ReadEvent::Locked { key, problem, .. } => {
                        return Err(Failure::Broken(format!("reader: key {key}: {problem}")));
                    }
                    ReadEvent::Failed(error) if self.faulty => return Err(Failure::Unread(error)),
                    ReadEvent::Failed(error) => return Err(Failure::Broken(format!("reader: {error}"))),
                }
            }
            if !moved {
                self.wait_for_disk("the reader")?;
            }
        }
    }

    /// What happened last, for a failure's report.
    pub fn story(&self, notes: usize, ops: usize) -> String {
        let mut out = format!("{:?}\n", self.plan);
        for note in &self.notes[self.notes.len().saturating_sub(notes)..] {
            let _ = writeln!(out, "  {note}");
        }
        let history = self.machine.history();
        for op in &history[history.len().saturating_sub(ops)..] {
            let _ = writeln!(out, "  {op}");
        }
        out
    }

    /// The cursor that a scan of the machine as it is would find.
    pub fn cursor(&mut self) -> Outcome<Cursor> {
        let (port, scanned) = self.scan()?;
        drop(port);
        Ok(scanned.cursor)
    }
}
