//! The handle of a simulated machine.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::sim::clock::ManualClock;
use crate::sim::driver::{InUse, SimDriver};
use crate::sim::faults::{Death, Fault, Fuse};
use crate::sim::file::{SectorFate, SimFile};
use crate::sim::history::{OpRecord, Unstable};
use crate::sim::world::{NEVER, World};
use crate::time::Instant;
use crate::wal::op::{FileId, LogId};

/// How the device makes a single write durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskKind {
    /// By a flush after it, which also makes durable whatever completed before, in every file.
    Flush,
    /// By forcing this write alone through the cache (FUA): what completed before it stays at stake.
    /// A sync is sure to cover its own file only.
    Fua,
}

/// Who decides when an op completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The test, with [`SimDisk::step`] and [`SimDisk::finish`]. `complete` gives what has been finished;
    /// only a `complete` that would wait finishes an op by itself.
    Manual,
    /// The seed: each `complete` may or may not finish an op first.
    Seeded,
    /// Time: ops complete when their latency is over, and `complete` waits for them, so that the whole
    /// queue can run on its threads.
    Threaded,
}

/// What kind of machine to simulate.
#[derive(Clone, Debug)]
pub struct SimSettings {
    /// How writes become durable. Default: [`DiskKind::Flush`].
    pub kind: DiskKind,
    /// Who decides when ops complete. Default: [`Mode::Manual`].
    pub mode: Mode,
    /// What everything that is left to chance is drawn from. Default: 0.
    pub seed: u64,
    /// Smallest unit of reading and writing in bytes. Default: 512.
    pub block_len: u32,
    /// Bytes that all files together may take; preparing more ends with `ENOSPC`. Default: no limit.
    pub space: Option<u64>,
    /// Shortest and longest time an op takes: by the wall in [`Mode::Threaded`], by `clock` otherwise.
    /// Default: none.
    pub latency: (Duration, Duration),
    /// The clock that latencies are counted by, except in [`Mode::Threaded`].
    pub clock: ManualClock,
    /// Whether a power cut may leave garbage in a sector that was being written. Default: yes.
    pub garbage: bool,
}

impl Default for SimSettings {
    fn default() -> Self {
        Self {
            kind: DiskKind::Flush,
            mode: Mode::Manual,
            seed: 0,
            block_len: 512,
            space: None,
            latency: (Duration::ZERO, Duration::ZERO),
            clock: ManualClock::new(),
            garbage: true,
        }
    }
}

/// A simulated machine with its files. Clones are the same machine.
///
/// ```
/// use ringwal::sim::{SimDisk, SimSettings};
///
/// let machine = SimDisk::new(SimSettings { seed: 7, ..SimSettings::default() });
/// let driver = machine.connect().expect("nobody else runs on it");
/// assert!(machine.connect().is_err());
/// machine.crash();
/// assert!(machine.connect().is_ok(), "a dead connection does not stand in the way");
/// # drop(driver);
/// ```
#[derive(Clone)]
pub struct SimDisk(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) world: Mutex<World>,
    /// Rung when an op arrives, the doorbell rings or the machine dies.
    pub(super) bell: Condvar,
    pub(super) epoch: std::time::Instant,
}

impl SimDisk {
    /// A machine without files.
    #[must_use]
    pub fn new(settings: SimSettings) -> Self {
        Self::of(World::new(settings))
    }

    fn of(world: World) -> Self {
        Self(Arc::new(Shared { world: Mutex::new(world), bell: Condvar::new(), epoch: std::time::Instant::now() }))
    }

    /// Starts a process on the machine.
    ///
    /// # Errors
    /// While another connection is open, as a directory in use would be refused.
    pub fn connect(&self) -> Result<SimDriver, InUse> {
        SimDriver::connect(self)
    }

    /// Whether a connection is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.world.lock().connected
    }

    /// Finishes one of the ops in flight, by the seed; false if there is none that may end yet.
    pub fn step(&self) -> bool {
        let mut world = self.0.world.lock();
        let now = self.0.now(&world);
        let due: Vec<usize> = (0..world.pending.len()).filter(|i| world.pending[*i].due <= now).collect();
        if due.is_empty() {
            return false;
        }
        let at = due[world.prng.index(due.len())];
        world.finish(at);
        self.0.bell.notify_all();
        true
    }

    /// Finishes the op with this number.
    ///
    /// # Panics
    /// When it is not in flight.
    pub fn finish(&self, number: u64) {
        let mut world = self.0.world.lock();
        let at = world.pending.iter().position(|p| p.number == number);
        world.finish(at.expect("the op is in flight"));
        self.0.bell.notify_all();
    }

    /// The ops in flight, oldest first.
    #[must_use]
    pub fn in_flight(&self) -> Vec<OpRecord> {
        let world = self.0.world.lock();
        let numbers: Vec<u64> = world.pending.iter().map(|p| p.number).collect();
        world.history.iter().filter(|r| numbers.contains(&r.number)).cloned().collect()
    }

    /// When the first of the ops in flight may end; `None` if there is none, or all of them hang.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let world = self.0.world.lock();
        let due = world.pending.iter().map(|p| p.due).filter(|due| *due != NEVER).min();
        due.map(Instant::from_nanos)
    }

    /// How many ops are in flight.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.0.world.lock().pending.len()
    }

    /// Every op so far (the last 100,000 of them), oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<OpRecord> {
        self.0.world.lock().history.iter().cloned().collect()
    }

    /// How many ops were submitted so far; the next one gets this number.
    #[must_use]
    pub fn op_count(&self) -> u64 {
        self.0.world.lock().ops
    }

    /// The writes that a power cut would put at stake now.
    #[must_use]
    pub fn unstable(&self) -> Vec<Unstable> {
        self.0.world.lock().unstable()
    }

    /// The power goes: whatever was not durable is kept, lost, torn at any sector or spoilt, by the
    /// seed. The connection is dead.
    pub fn crash(&self) {
        self.0.world.lock().die(Death::PowerCut);
        self.0.bell.notify_all();
    }

    /// The power goes, and `fate` says what becomes of each sector (counted within its write) of each
    /// write that was not durable, older ones first.
    pub fn crash_with(&self, mut fate: impl FnMut(&Unstable, usize) -> SectorFate) {
        self.0.world.lock().crash(&mut fate);
        self.0.bell.notify_all();
    }

    /// The process dies, the machine lives: ops in flight have landed whole, in part or not at all;
    /// what had completed is still there to be read, and still at stake.
    pub fn kill(&self) {
        self.0.world.lock().die(Death::Kill);
        self.0.bell.notify_all();
    }

    /// The machine or the process dies by itself when `ops` more ops have ended, in whatever is going on then.
    ///
    /// # Panics
    /// When `ops` is 0.
    pub fn set_fuse(&self, ops: u64, death: Death) {
        assert!(ops > 0, "a fuse burns with the next op at the earliest");
        self.0.world.lock().fuse = Some(Fuse { ops, death });
    }

    /// Whether something ends a wait in `complete`: a completion, or the doorbell, which has rung since it was
    /// last [answered](Self::answer_doorbell).
    #[must_use]
    pub fn ends_wait(&self) -> bool {
        let world = self.0.world.lock();
        world.rung || !world.ready.is_empty()
    }

    /// Whoever waited looks after what rang.
    pub fn answer_doorbell(&self) {
        self.0.world.lock().rung = false;
    }

    /// Every op in flight may end now, however late it was to be.
    pub fn let_go(&self) {
        let mut world = self.0.world.lock();
        world.pending.iter_mut().for_each(|p| p.due = 0);
        self.0.bell.notify_all();
    }

    /// Bytes that the files of a log take.
    #[must_use]
    pub fn used(&self, log: LogId) -> u64 {
        let world = self.0.world.lock();
        world.files.iter().filter(|(file, _)| file.log() == log).map(|(_, content)| content.len()).sum()
    }

    /// Another machine with the same files, where the same ops are at stake: crash the copy, and this
    /// one lives on. The copy has no connection; its [`SimDisk::crash`] draws from `seed`. Ops other
    /// than writes that are in flight are not in the copy.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let world = self.0.world.lock();
        let mut copy = World::new(SimSettings { seed, ..world.settings.clone() });
        copy.files.clone_from(&world.files);
        copy.quarantine.clone_from(&world.quarantine);
        copy.step = world.step;
        copy.ops = world.ops;
        for unstable in world.unstable().iter().filter(|w| !w.completed) {
            let bytes = world.bytes_in_flight(unstable.number);
            if let Some(file) = copy.files.get_mut(&unstable.file) {
                file.cache_in_flight(unstable.number, world.step, unstable.offset, bytes.into());
            }
        }
        Self::of(copy)
    }

    /// Lets something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.0.world.lock().faults.push(fault);
    }

    /// Lets nothing more go wrong; what hangs may end.
    pub fn heal(&self) {
        let mut world = self.0.world.lock();
        world.faults.clear();
        world.fuse = None;
        for pending in world.pending.iter_mut().filter(|p| p.due == NEVER) {
            pending.due = 0;
        }
        self.0.bell.notify_all();
    }

    /// How much all files together may take from now on.
    pub fn set_space(&self, space: Option<u64>) {
        self.0.world.lock().settings.space = space;
    }

    /// Flips the bits of `mask` in a byte, on the medium and in the cache.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn rot(&self, file: FileId, offset: u64, mask: u8) {
        let mut world = self.0.world.lock();
        world.files.get_mut(&file).expect("the file is there").flip(offset, mask);
    }

    /// Makes a place unreadable (`EIO`) until it is written.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn make_unreadable(&self, file: FileId, range: Range<u64>) {
        let mut world = self.0.world.lock();
        world.files.get_mut(&file).expect("the file is there").make_unreadable(range);
    }

    /// The files there are.
    #[must_use]
    pub fn files(&self) -> Vec<FileId> {
        self.0.world.lock().files.keys().copied().collect()
    }

    /// A file's bytes, as a reader would see them.
    #[must_use]
    pub fn file(&self, file: FileId) -> Option<Vec<u8>> {
        self.0.world.lock().files.get(&file).map(SimFile::visible)
    }

    /// A file's bytes as far as they are durable.
    #[must_use]
    pub fn durable_file(&self, file: FileId) -> Option<Vec<u8>> {
        self.0.world.lock().files.get(&file).map(|content| content.durable().to_vec())
    }

    /// Puts a file there, durably, or takes it away.
    pub fn set_file(&self, file: FileId, bytes: Option<Vec<u8>>) {
        let mut world = self.0.world.lock();
        match bytes {
            Some(bytes) => world.files.insert(file, SimFile::new(bytes)),
            None => world.files.remove(&file),
        };
    }

    /// What lies in `quarantine/`, oldest first.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(FileId, Vec<u8>)> {
        self.0.world.lock().quarantine.clone()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.0.world.lock();
        write!(
            f,
            "SimDisk({:?}, {} files, {} ops, {} in flight)",
            world.settings.kind,
            world.files.len(),
            world.ops,
            world.pending.len()
        )
    }
}
