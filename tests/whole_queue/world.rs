//! Carries a history out: one machine, one clock, one queue after the other, and the model beside them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ringwal::sim::{
    Closing, Death, Fault, ManualClock, OpKind, Prng, SimDisk, SimSettings, SinkTurn, SteppedQueue, SteppedSettings,
    mix,
};
use ringwal::wal::meta::Meta;
use ringwal::wal::mutant::Mutants;
use ringwal::wal::op::{FileId, LogId};
use ringwal::{
    BatchError, Concern, Durability, Durable, Entry, Idle, LogError, Lsn, OnCorruption, OpenError, ParkedEntry,
    PinnedProducer, Producer, PushError, Queue, Receipt, Recovery, Retry, ShutdownError, Verdict, WhenFull,
};

use super::action::{Action, Answer, EIO, How, LANES, LOOSE, Lying, PINNED, Setup};
use super::item::{Desk, DeskEvent, Item, LEN_MIN, Reply};
use super::look;
use super::model::{Broken, Check, Model, broken};

/// Rounds in which a queue that is left alone must come to rest.
const ROUNDS_MAX: u32 = 30_000;
/// Of a core that never sleeps: so long a step, and so many of them in which nothing changes, are its rest. Together longer
/// than anything that it waits for by itself; what the sink and the disk wait for is known.
const BUSY_STEP: Duration = Duration::from_millis(5);
const QUIET_MAX: u32 = 100;

/// What the histories did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn count(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    pub fn add(&mut self, other: &Self) {
        other.counts.iter().for_each(|(what, by)| self.count(what, *by));
    }

    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

/// A waker that can be looked at.
#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody who waits: looked after only when woken, so that a lost wake-up is a hang.
struct Waits<F> {
    flag: Arc<Flag>,
    future: F,
}

impl<F: Future + Unpin> Waits<F> {
    fn new(future: F) -> Self {
        let flag = Arc::<Flag>::default();
        flag.0.store(true, Ordering::Relaxed);
        Self { flag, future }
    }

    fn poll(&mut self) -> Option<F::Output> {
        if !self.flag.0.swap(false, Ordering::Relaxed) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.flag));
        match Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => Some(out),
            Poll::Pending => None,
        }
    }
}

type PushFuture = Pin<Box<dyn Future<Output = Result<Receipt, PushError<Item>>>>>;

enum Hand {
    Shared(Producer<Item>),
    Pinned(PinnedProducer<Item>),
}

struct Lane {
    hand: Hand,
    /// A task that waits for space.
    pushing: Option<(Item, Waits<PushFuture>)>,
}

/// Who waits for parked entries: they come in pages, and are then given up or put back.
enum ParkWork {
    Listing {
        discard: bool,
        redeliver: bool,
        answer: Receiver<Result<Vec<ParkedEntry>, LogError>>,
    },
    /// New entries must be durable before the old ones leave.
    Redelivering {
        ids: Vec<Lsn>,
        old: Vec<u64>,
        last: Vec<u64>,
    },
    Leaving {
        old: Vec<u64>,
        answer: Receiver<Result<(), LogError>>,
    },
}

/// A queue at work.
struct Life {
    queue: SteppedQueue<Item>,
    lanes: Vec<Lane>,
    durables: Vec<(Option<u64>, Waits<Durable>)>,
    /// Whether `Queue::flush` waits: the last entry of each lane when it was called.
    drains: Vec<(Receiver<Lsn>, Option<Lsn>)>,
    park: Option<ParkWork>,
    /// The log had failed before this step.
    failed: bool,
    /// What is out at the sink.
    batches: BTreeMap<u64, Vec<(Lsn, Item)>>,
    touched: bool,
    /// A claim was leaked: what lies behind it in its ring waits for the end.
    leaked: bool,
}

pub struct World {
    setup: Setup,
    mutants: Mutants,
    machine: SimDisk,
    pub clock: ManualClock,
    desk: Desk,
    pub model: Model,
    life: Option<Life>,
    policy: OnCorruption,
    openings: u64,
    /// What the last opening found, while nothing has been done since.
    found: Option<(Lsn, u64)>,
    /// What an opening of a damaged store will tell, whatever cuts off those that come before it.
    foretold: Option<Foretold>,
    /// What an orderly shutdown left, and whether no opening has been tried since.
    left: Option<(u64, bool)>,
    /// Whether the park's log was closed in order, too: it may have failed by itself.
    park_closed: bool,
    space_limited: bool,
    /// The store is not opened any more, and says why.
    refuses: bool,
    pub tally: Tally,
    pub notes: Vec<String>,
    /// Of everything that happened: the same seed gives the same.
    pub trace: u64,
    /// The index of the action that is carried out.
    pub at: usize,
}

impl World {
    pub fn new(setup: &Setup, mutants: Mutants) -> Self {
        let clock = ManualClock::new();
        let mut model = Model::default();
        model.forgets = setup.durability == Durability::Memory;
        model.committed = setup.committed;
        model.in_order = setup.in_flight_max == 1 || setup.committed;
        let desk = Desk::new(setup.blocks);
        desk.look().committed = setup.committed.then_some(Lsn::ZERO);
        Self {
            machine: Self::machine(setup, &clock, 0),
            setup: setup.clone(),
            mutants,
            clock,
            desk,
            model,
            life: None,
            policy: setup.policy,
            openings: 0,
            found: None,
            foretold: None,
            left: None,
            park_closed: false,
            space_limited: false,
            refuses: false,
            tally: Tally::default(),
            notes: Vec::new(),
            trace: 0,
            at: 0,
        }
    }

    fn machine(setup: &Setup, clock: &ManualClock, number: u64) -> SimDisk {
        SimDisk::new(SimSettings {
            kind: setup.kind,
            seed: mix(setup.seed ^ number << 32),
            block_len: setup.block_len,
            latency: (Duration::ZERO, setup.latency),
            clock: clock.clone(),
            ..SimSettings::default()
        })
    }

    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        self.trace = note.bytes().fold(self.trace, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        self.trace = mix(self.trace ^ self.clock.now().as_nanos());
        self.notes.push(format!("{}: {note}", self.at));
    }

    /// What happened last, for a failure's report.
    pub fn story(&self, notes: usize, ops: usize) -> String {
        let mut out = String::new();
        for note in &self.notes[self.notes.len().saturating_sub(notes)..] {
            out += &format!("  {note}\n");
        }
        let history = self.machine.history();
        for op in &history[history.len().saturating_sub(ops)..] {
            out += &format!("  {op}\n");
        }
        if let Some(life) = &self.life {
            out += &format!("  {:?} at {:?}\n", life.queue, self.clock.now());
        }
        out
    }

    pub fn act(&mut self, action: &Action) -> Check {
        if self.refuses {
            return Ok(());
        }
        if let Action::Open { fuse, fault } = action {
            return self.open(*fuse, *fault);
        }
        self.on_machine(action);
        if self.life.is_none() {
            return Ok(());
        }
        match action {
            Action::Push { lane, len, count, wait, poison } => self.push(*lane, *len, *count, *wait, *poison)?,
            Action::PushAsync { lane, len } => self.push_async(*lane, *len)?,
            Action::PushBatch { lane, len, count } => self.push_batch(*lane, *len, *count)?,
            Action::Claim { lane, len, how } => self.claim(*lane, *len, *how)?,
            Action::Core => self.core(),
            Action::Disk => self.disk(),
            Action::Sink => self.sink()?,
            Action::Answer(answer) => self.answer(*answer)?,
            Action::Next => {
                self.next();
            }
            Action::Run(rounds) => self.run(u32::from(*rounds), true, false).map(|_| ())?,
            Action::Flush => self.flush(),
            Action::Drain => {
                let life = self.life.as_mut().expect("alive");
                life.drains.push((life.queue.fence(), None));
            }
            Action::Pause(paused) => self.life.as_ref().expect("alive").queue.set_paused(*paused),
            Action::Park { discard, redeliver } => self.list_park(*discard, *redeliver),
            Action::Die(death) => self.die(*death),
            Action::Close { deliver } => {
                self.note("close");
                self.life.as_mut().expect("alive").queue.begin_closing(*deliver);
            }
            Action::Deadline => self.closing(true)?,
            _ => {}
        }
        self.after()
    }

    /// What concerns the machine alone, whether a queue runs on it or not.
    fn on_machine(&mut self, action: &Action) {
        if matches!(action, Action::Fail { .. } | Action::Lie { .. } | Action::Rot { .. } | Action::Space(_)) {
            self.foretold = None;
        }
        match action {
            Action::Time(by) => self.clock.advance(*by),
            Action::Fail { kind, errno, after, forever } => {
                let fault = Fault::error(*kind, *errno).after(*after);
                // What cannot be read is lost where that is allowed, as if it had rotted.
                let is_damage = *kind == OpKind::Read && *errno == EIO;
                self.model.rotted |= is_damage;
                self.model.park.rotted |= is_damage;
                self.model.unreadable |= *kind == OpKind::Read;
                self.machine.inject(if *forever { fault.forever() } else { fault });
                self.tally.count("errors", 1);
            }
            Action::Late { kind, by, after } => {
                // Not `Fault::hung`: opening is one call, in which nobody could heal the machine.
                self.machine.inject(Fault::late(*kind, (*by).min(AGES)).after(*after));
                self.tally.count(if *by == Duration::MAX { "hung ops" } else { "late ops" }, 1);
            }
            Action::Lie { log, how, meta, slot, place, after } => self.lie(*log, *how, *meta, *slot, *place, *after),
            Action::Heal => {
                self.machine.heal();
                self.machine.let_go();
            }
            Action::Space(slots) => {
                let used = self.machine.used(LogId::Main) + self.machine.used(LogId::Park);
                self.space_limited = slots.is_some();
                self.machine.set_space(slots.map(|slots| used + slots * self.setup.store.segment_len));
                self.tally.count("full disks", u64::from(slots.is_some()));
            }
            Action::Wall(seconds) => {
                self.clock.set_wall(*seconds);
                self.tally.count("clock jumps", 1);
            }
            Action::Rot { log, slot, place, bit } => self.rot(*log, *slot, *place, *bit),
            Action::Fuse(ops, death) => self.machine.set_fuse(*ops, *death),
            _ => {}
        }
    }

    // Opening and dying.

    fn builder(&self) -> ringwal::Builder {
        let setup = &self.setup;
        let memory_min = 12 * (131_072 + if setup.entry_len_max > 500 { 65_536 } else { 0 });
        let builder = Queue::builder(Path::new("/simulated"));
        let builder = match setup.deliver_timeout {
            Some(timeout) => builder.deliver_timeout(timeout),
            None => builder,
        };
        self.coded(builder, memory_min + setup.chunks_more * 131_072)
            .durability(setup.durability)
            .rings(setup.rings)
            .pinned_rings(PINNED)
            .ring_bytes(setup.ring_bytes)
            .entry_len_max(setup.entry_len_max)
            .segment_len(1 << 20)
            .log_bytes_max(3 << 20)
            .batch_len_max(setup.batch_len_max)
            .in_flight_max(setup.in_flight_max)
            .idle(setup.idle)
            // There is one thread: nobody may wait for the others. Tasks do all the same.
            .when_full(WhenFull::Reject)
            .batch_bytes_max(setup.batch_bytes_max)
            .linger(setup.linger)
            .retry(Retry { attempts_max: setup.attempts_max, base: setup.retry_base, ..Retry::default() })
            .on_corruption(self.policy)
    }

    /// In one of four worlds each opening compresses and encrypts in a way of its own. Coding needs four chunks more.
    #[cfg(all(feature = "lz4", feature = "aes-gcm"))]
    fn coded(&self, builder: ringwal::Builder, memory: u64) -> ringwal::Builder {
        use ringwal::{Aes256Gcm, Compression, KeyId};

        if !mix(self.setup.seed ^ 0xc0de).is_multiple_of(4) {
            return builder.memory_max(memory);
        }
        // What was encrypted before must always be readable.
        let way = mix(self.setup.seed ^ self.openings << 8) % 4;
        let (id, key) = if way < 2 { (1, [1; 32]) } else { (2, [2; 32]) };
        let keys = Aes256Gcm::new(KeyId::new(3 - id), [3 - id as u8; 32]);
        keys.rotate(KeyId::new(id), key).expect("another number");
        let builder = builder.cipher(keys).memory_max(memory + 4 * 196_608);
        if way.is_multiple_of(2) { builder.compression(Compression::Lz4 { min_len: 0 }) } else { builder }
    }

    #[cfg(not(all(feature = "lz4", feature = "aes-gcm")))]
    #[expect(clippy::unused_self, reason = "nothing is coded")]
    fn coded(&self, builder: ringwal::Builder, memory: u64) -> ringwal::Builder {
        builder.memory_max(memory)
    }

    fn open(&mut self, fuse: Option<(u64, Death)>, fault: Option<(OpKind, i32, u64)>) -> Check {
        if self.life.is_some() {
            return Ok(());
        }
        self.openings += 1;
        if self.setup.durability == Durability::Memory {
            // Another process has another memory.
            self.machine = Self::machine(&self.setup, &self.clock, self.openings);
        }
        if let Some((ops, death)) = fuse {
            self.machine.set_fuse(ops, death);
        }
        if let Some((kind, errno, after)) = fault {
            self.machine.inject(Fault::error(kind, errno).after(after));
        }
        let settings = SteppedSettings {
            seed: mix(self.setup.seed ^ self.openings << 16),
            clock: self.clock.clone(),
            store: Some(self.setup.store),
            mutants: self.mutants,
        };
        {
            let mut desk = self.desk.look();
            desk.events.clear();
            desk.replies.clear();
        }
        self.foretell(settings.clone());
        let ops = self.machine.op_count();
        let promise = if self.model.lied { self.promise(LogId::Main) } else { 0 };
        let park_promise = if self.model.park.lied { self.promise(LogId::Park) } else { 0 };
        match SteppedQueue::open(self.builder(), settings, &self.machine, self.desk.clone()) {
            Ok(queue) => self.opened(queue, promise, park_promise),
            Err(error) => self.refused(&error, ops),
        }
    }

    /// Opens a copy of a damaged store, to see what there is to tell.
    fn foretell(&mut self, settings: SteppedSettings) {
        let is_stale = self.model.stale || self.model.park.stale;
        // What is not stable yet may be gone when the next one looks.
        let is_open = self.space_limited || is_stale || !self.machine.unstable().is_empty();
        // Where META lies, what an opening gives up may be told nowhere: only this look says how much that was.
        let asks = self.setup.foretells || self.model.cursor_lied || self.model.park.cursor_lied;
        if !asks || self.foretold.is_some() || !self.model.has_rotted() || is_open {
            return;
        }
        let copy = self.machine.copy(1);
        copy.heal();
        copy.let_go();
        if let Ok(queue) = SteppedQueue::<Item>::open(self.builder(), settings, &copy, self.desk.clone()) {
            self.foretold = Some(Foretold::of(queue.recovery()));
        }
    }

    fn opened(&mut self, queue: SteppedQueue<Item>, promise: u64, park_promise: u64) -> Check {
        let recovery = queue.recovery();
        // Where numbers are skipped, the first opening behind them tells where the log ends, and later ones where they end.
        let found = (recovery.next, recovery.recovered);
        self.tally.count("openings", 1);
        self.tally.count("recovered entries", recovery.recovered);
        let count =
            |runs: &[(Lsn, Lsn)]| runs.iter().map(|(first, last)| last.number() - first.number() + 1).sum::<u64>();
        let (lost, lost_parked) = (count(&recovery.lost), count(&recovery.lost_parked));
        let earlier = recovery.earlier.lost.len() + recovery.earlier.lost_parked.len();
        self.tally.count("losses told by a later opening", earlier as u64);
        let before = self.left.is_some_and(|(_, untouched)| untouched);
        let again = !recovery.earlier.lost.is_empty() || self.park_closed && !recovery.earlier.lost_parked.is_empty();
        if again && before && !self.model.cursor_lied && !self.model.park.cursor_lied {
            broken!("a loss that was told before a shutdown is told again: {:?}", recovery.earlier);
        }
        let (clean, torn) = (recovery.clean, recovery.torn_tail.is_some());
        let park_torn = recovery.torn_tail_parked.is_some();
        let note = format!(
            "open: end {} next {} recovered {} parked {} clean {clean} torn {torn} {park_torn} lost {lost} {lost_parked} \
             ({earlier} runs by an earlier one)",
            recovery.end, recovery.next, recovery.recovered, recovery.parked
        );
        self.note(note);
        self.model.begin_life();
        let recovery = queue.recovery();
        self.model.given_up(&recovery.lost, &recovery.lost_parked);
        if let Some(foretold) = self.foretold.take() {
            self.tally.count("losses foretold", 1);
            let untold = foretold.check(recovery, [self.model.cursor_lied, self.model.park.cursor_lied])?;
            self.model.given_up_untold(untold);
        }
        self.model.torn |= torn;
        self.model.park.torn |= park_torn;
        if self.model.park.lied {
            // Where META says that recovery found the end; a META that was lied about may say anything.
            let end = self.meta_of_park().and_then(|meta| meta.recovered).map_or(0, |end| end.lsn.number());
            self.model.opened_after_lie_in_the_park(end, park_promise)?;
        }
        if self.model.lied {
            let end = queue.recovery().end.number();
            self.model.opened_after_lie(end, promise)?;
        }
        if lost > 0 && !self.model.rotted || lost_parked > 0 && !self.model.park.rotted {
            broken!("I5: {lost} entries and {lost_parked} parked ones are reported as lost, and nothing has rotted");
        }
        if let Some(before) = self.found.take()
            && before != found
            && !self.model.rotted
        {
            broken!("I8: an opening found (next, recovered) {before:?}, the next one {found:?}");
        }
        if let Some((left, untouched)) = self.left.take()
            && !self.model.rotted
            && (found.1 != left || untouched && !clean)
        {
            broken!("a shutdown left {left} entries in the log, opening found {} (clean: {clean})", found.1);
        }
        self.found = Some(found);
        let producer = queue.producer();
        let lanes = (0..=LOOSE)
            .map(|lane| {
                let pinned = (LANES - PINNED..LANES).contains(&lane);
                let hand = if pinned { Hand::Pinned(producer.pin()) } else { Hand::Shared(producer.clone()) };
                Lane { hand, pushing: None }
            })
            .collect();
        self.life = Some(Life {
            queue,
            lanes,
            durables: Vec::new(),
            drains: Vec::new(),
            park: None,
            failed: false,
            batches: BTreeMap::new(),
            touched: false,
            leaked: false,
        });
        self.after()
    }

    fn refused(&mut self, error: &OpenError, ops: u64) -> Check {
        if matches!(error, OpenError::Corrupt { .. }) {
            // From now on by another policy.
            self.foretold = None;
        }
        self.note(format!("not opened: {error}"));
        self.left = self.left.map(|(left, _)| (left, false));
        let went_wrong = self.machine.history().iter().rev().take_while(|op| op.number >= ops).any(|op| {
            // An op that the machine's death cut off, or an error.
            op.completed.is_none_or(|(_, errno)| errno != 0)
        });
        match error {
            OpenError::Disk { error, .. } if error.errno == ENODEV => {
                self.tally.count("deaths in recovery", 1);
                Ok(())
            }
            // A header that landed in another slot: that is said, and nothing is changed. People have to see to it.
            OpenError::Unusable { .. } if self.model.lied || self.model.park.lied => {
                self.tally.count("stores refused after a lie", 1);
                self.refuses = true;
                Ok(())
            }
            // META that cannot be read is as good as spoilt.
            OpenError::Disk { .. } | OpenError::NoSpace { .. } | OpenError::Unusable { .. }
                if went_wrong || self.space_limited =>
            {
                self.tally.count("openings refused", 1);
                Ok(())
            }
            OpenError::Corrupt { .. } if self.model.has_rotted() && self.policy == OnCorruption::Stop => {
                self.tally.count("corruption at open", 1);
                self.policy = OnCorruption::Quarantine;
                Ok(())
            }
            _ => broken!("I5: opening is refused for no reason: {error}"),
        }
    }

    fn die(&mut self, death: Death) {
        self.note(format!("{death:?}"));
        self.tally.count(if death == Death::PowerCut { "power cuts" } else { "kills" }, 1);
        match death {
            Death::PowerCut => self.machine.crash(),
            Death::Kill => self.machine.kill(),
        }
        self.gone();
    }

    /// The process is no more.
    fn gone(&mut self) {
        if let Some(life) = self.life.take() {
            let entries = self.model.accepted;
            self.tally.count("entries", entries);
            self.tally.count("deliveries", self.model.acked);
            if life.touched || life.failed {
                self.found = None;
            }
            self.left = None;
        }
    }

    /// Flips a bit in a slot of a log, wherever that hits.
    fn rot(&mut self, log: LogId, slot: u64, place: u64, bit: u8) {
        let slots: Vec<FileId> =
            look::slots_of(&self.machine, log).into_iter().map(|slot| FileId::Slot(log, slot)).collect();
        if slots.is_empty() {
            return;
        }
        let file = slots[usize::try_from(slot % slots.len() as u64).expect("few slots")];
        let bytes = self.machine.file(file).expect("it is there");
        // Where something was written, behind the segment's header: rot in zeros is nothing.
        let header = 2 * 4096;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        if used <= header {
            return;
        }
        let offset = header as u64 + place % (used - header) as u64;
        self.machine.rot(file, offset, 1 << bit);
        // Without its first word a frame is not seen at all: above every promise, it is as if it had never been written.
        let word = usize::try_from(offset).expect("a short file") & !3;
        let hides = bytes[word..].starts_with(b"RWFR");
        if log == LogId::Main {
            self.model.rotted = true;
            self.model.lied |= hides;
            self.found = None;
        } else {
            self.model.park.rotted = true;
            self.model.park.lied |= hides;
        }
        self.tally.count(if log == LogId::Main { "rot" } else { "rot in the park" }, 1);
        self.note(format!("rot in {file} at {offset}"));
    }

    /// The freshest promise that stands where it can be read: in a segment's header, or in one of its own frames.
    fn promise(&self, log: LogId) -> u64 {
        let (machine, block_len) = (&self.machine, self.setup.block_len.max(4096));
        let of_slot = |slot| {
            let header = look::segment_of(machine, log, slot, block_len);
            let header = header.map_or(0, |header| header.durable_lsn.number());
            let frames = look::frames_of(machine, log, slot, block_len);
            frames.iter().map(|frame| frame.header.durable_lsn.number()).max().unwrap_or(0).max(header)
        };
        look::slots_of(machine, log).into_iter().map(of_slot).max().unwrap_or(0)
    }

    /// A write of a log will say that it is done, and is not; or a read brings what is no more.
    fn lie(&mut self, log: LogId, how: Lying, meta: bool, slot: u64, place: u64, after: u64) {
        let slots = look::slots_of(&self.machine, log);
        let pick = |n: u64| slots.get(usize::try_from(n % slots.len().max(1) as u64).expect("few slots"));
        let (Some(from), Some(to)) = (pick(slot), pick(slot >> 32)) else { return };
        let file = if meta { FileId::Meta(log) } else { FileId::Slot(log, *from) };
        // Into the first half of a slot, so that none gets longer than it may be.
        let blocks = self.setup.store.segment_len / 2 / 4096;
        let fault = match how {
            Lying::Lost => Fault::lost(),
            Lying::Misdirected => Fault::misdirected(FileId::Slot(log, *to), place % blocks * 4096),
            Lying::Stale => Fault::stale(),
        };
        self.machine.inject(fault.on(file).after(after));
        if log == LogId::Main {
            (self.model.lied, self.model.rotted) = (true, true);
            self.model.cursor_lied |= meta;
            self.model.stale |= how == Lying::Stale;
            self.found = None;
        } else {
            let park = &mut self.model.park;
            (park.lied, park.rotted) = (true, true);
            park.cursor_lied |= meta;
            park.stale |= how == Lying::Stale;
        }
        self.tally.count(if log == LogId::Main { "lies" } else { "lies in the park" }, 1);
        self.tally.count("stale reads", u64::from(how == Lying::Stale));
        self.note(format!("{how:?}: {file}, after {after}"));
    }

    // Pushing.

    fn item(&mut self, lane: u32, len: u16, poison: bool) -> Item {
        let len = usize::from(len).clamp(LEN_MIN, self.setup.entry_len_max);
        self.model.new_item(lane, len, poison)
    }

    fn push(&mut self, lane: u32, len: u16, count: u8, wait: bool, poison: bool) -> Check {
        for _ in 0..count {
            let item = self.item(lane, len, poison);
            let life = self.life.as_mut().expect("alive");
            life.touched = true;
            let hand = &mut life.lanes[lane as usize];
            if hand.pushing.is_some() {
                return Ok(());
            }
            let pushed = match &mut hand.hand {
                Hand::Shared(producer) => producer.try_push(item.clone()),
                Hand::Pinned(producer) => producer.try_push(item.clone()),
            };
            match pushed {
                Ok(receipt) => {
                    self.model.pushed(item.id);
                    let id = item.id;
                    if wait {
                        let life = self.life.as_mut().expect("alive");
                        let durable = life.queue.producer().durable(receipt);
                        life.durables.push((Some(id), Waits::new(durable)));
                    }
                }
                Err(error) => {
                    self.push_refused(&error)?;
                    break;
                }
            }
        }
        let note = format!("push on {lane}, next {}", self.model.next_id());
        self.note(note);
        Ok(())
    }

    fn push_refused<E>(&mut self, error: &PushError<E>) -> Check {
        let life = self.life.as_ref().expect("alive");
        let (closes, failed) = (life.queue.closing().is_some(), life.queue.has_failed());
        match error {
            PushError::Full(_) => self.tally.count("full rings", 1),
            PushError::Closed(_) if closes => {}
            PushError::Poisoned(_) if failed => {}
            _ => broken!("a push was refused for no reason: {error}"),
        }
        Ok(())
    }

    fn push_async(&mut self, lane: u32, len: u16) -> Check {
        let lane = lane % (LANES - PINNED);
        let item = self.item(lane, len, false);
        let life = self.life.as_mut().expect("alive");
        life.touched = true;
        let hand = &mut life.lanes[lane as usize];
        if hand.pushing.is_some() {
            return Ok(());
        }
        let Hand::Shared(producer) = &hand.hand else { unreachable!("the lower lanes share") };
        let (producer, given) = (producer.clone(), item.clone());
        let future: PushFuture = Box::pin(async move { producer.push_async(given).await });
        hand.pushing = Some((item, Waits::new(future)));
        self.pushing(lane)
    }

    /// Looks after the task that pushes on this lane, if it was woken.
    fn pushing(&mut self, lane: u32) -> Check {
        let life = self.life.as_mut().expect("alive");
        let Some((item, waits)) = &mut life.lanes[lane as usize].pushing else { return Ok(()) };
        let Some(result) = waits.poll() else { return Ok(()) };
        let item = item.clone();
        life.lanes[lane as usize].pushing = None;
        match result {
            Ok(_) => {
                self.model.pushed(item.id);
                self.note(format!("task pushed {} on {lane}", item.id));
                Ok(())
            }
            Err(error) => self.push_refused(&error),
        }
    }

    /// Many with one call; those without a key with one claim.
    fn push_batch(&mut self, lane: u32, len: u16, count: u8) -> Check {
        let items: Vec<Item> = (0..count).map(|_| self.item(lane, len, false)).collect();
        let life = self.life.as_mut().expect("alive");
        life.touched = true;
        let hand = &life.lanes[lane as usize];
        let Hand::Shared(producer) = &hand.hand else { unreachable!("those with a ring of their own have no batches") };
        if hand.pushing.is_some() {
            return Ok(());
        }
        let ids = |items: &[Item]| items.iter().map(|item| item.id).collect::<Vec<_>>();
        let pushed = match producer.push_batch(items.clone()) {
            Ok(pushed) if pushed == items.len() => pushed,
            Ok(pushed) => broken!("I1: a batch of {count} says that {pushed} were pushed"),
            Err(BatchError { pushed, error, rest }) => {
                self.push_refused(&error)?;
                let back: Vec<u64> = std::iter::once(&error.into_entry()).chain(&rest).map(|item| item.id).collect();
                // What was not taken from the iterator yet stays there.
                if !ids(&items[pushed..]).starts_with(&back) || back.is_empty() {
                    broken!("I1: {pushed} of {:?} were pushed, and {back:?} came back", ids(&items));
                }
                pushed
            }
        };
        items[..pushed].iter().for_each(|item| self.model.pushed(item.id));
        self.tally.count("entries in batches of pushes", pushed as u64);
        self.note(format!("batch of {count} on {lane}, {pushed} pushed"));
        Ok(())
    }

    /// Bytes that are filled in place, or given up, or never given back.
    fn claim(&mut self, lane: u32, len: u16, how: How) -> Check {
        let item = self.item(lane, len, false);
        let life = self.life.as_mut().expect("alive");
        life.touched = true;
        let Hand::Pinned(producer) = &mut life.lanes[lane as usize].hand else { unreachable!("they have rings") };
        let claimed = producer.claim(item.len).map(|mut claim| {
            item.encode_into(claim.bytes_mut());
            claim.set_key(u64::from(item.lane));
            match how {
                How::Committed => _ = claim.commit(),
                How::Dropped => drop(claim),
                How::Leaked => std::mem::forget(claim),
            }
        });
        if let Err(error) = claimed {
            return self.push_refused(&error);
        }
        life.leaked |= how == How::Leaked;
        if how == How::Committed {
            self.model.pushed(item.id);
        }
        self.tally.count(if how == How::Leaked { "leaked claims" } else { "claims" }, 1);
        self.note(format!("claim on {lane}: {how:?}"));
        Ok(())
    }

    fn flush(&mut self) {
        let life = self.life.as_mut().expect("alive");
        for durable in life.queue.flush() {
            life.durables.push((None, Waits::new(durable)));
        }
    }

    // Turns.

    fn core(&mut self) {
        let life = self.life.as_mut().expect("alive");
        life.touched |= life.queue.turn_core();
    }

    fn disk(&mut self) {
        self.machine.step();
        self.burnt();
    }

    /// Whether the machine has died by its fuse.
    fn burnt(&mut self) {
        if !self.machine.is_connected() && self.life.as_ref().is_some_and(|life| !life.queue.has_ended()) {
            self.note("the fuse has burnt");
            self.tally.count("deaths at an op", 1);
            self.gone();
        }
    }

    fn sink(&mut self) -> Check {
        self.turn_sink();
        self.look_at_sink()
    }

    fn turn_sink(&mut self) -> SinkTurn {
        let life = self.life.as_mut().expect("alive");
        life.touched = true;
        let turned = life.queue.turn_sink();
        if turned == SinkTurn::Out && self.desk.look().events.is_empty() && life.batches.is_empty() {
            // The sink gets what is out when it is asked for the first time.
            return life.queue.turn_sink();
        }
        turned
    }

    /// What the sink has been given since, and what has been taken from it.
    fn look_at_sink(&mut self) -> Check {
        let events = std::mem::take(&mut self.desk.look().events);
        for event in events {
            match event {
                DeskEvent::Given(number, batch) => self.given(number, batch)?,
                DeskEvent::Dropped(number) => {
                    let life = self.life.as_mut().expect("alive");
                    // A failed attempt; after the last one its entries are parked.
                    for (lsn, _) in life.batches.remove(&number).unwrap_or_default() {
                        self.model.may_be_done(lsn.number());
                    }
                    self.tally.count("batches dropped by their deadline", 1);
                }
            }
        }
        Ok(())
    }

    fn given(&mut self, number: u64, batch: Vec<(Lsn, Item)>) -> Check {
        let first = batch.first().map_or(0, |(lsn, _)| lsn.number());
        self.note(format!("batch of {} from {first}", batch.len()));
        let life = self.life.as_mut().expect("alive");
        if life.queue.has_failed() {
            self.model.failed_at(life.queue.metrics().durable_lsn.number());
        }
        let lanes: Vec<_> = batch.iter().map(|(lsn, item)| (lsn.number(), item.lane)).collect();
        let out = life.batches.values().flatten().map(|(_, item)| item.lane);
        self.model.out_together(&lanes, out)?;
        for (lsn, item) in &batch {
            self.model.shown(lsn.number(), item)?;
        }
        life.batches.insert(number, batch);
        let most = self.tally.counts.entry("batches out at once, at most").or_default();
        *most = (*most).max(life.batches.len() as u64);
        Ok(())
    }

    fn answer(&mut self, answer: Answer) -> Check {
        let life = self.life.as_mut().expect("alive");
        let open: Vec<u64> = life.batches.keys().copied().collect();
        if open.is_empty() {
            return self.sink();
        }
        let number = open[self.at % open.len()];
        let batch = life.batches.remove(&number).expect("it is open");
        let reply = match answer {
            Answer::Ack => Reply::Outcome(ringwal::Outcome::ack()),
            Answer::Retry => Reply::Outcome(ringwal::Outcome::retry("not now")),
            Answer::RetryAfter(time) => {
                Reply::Outcome(ringwal::Outcome::retry(ringwal::Reason::new("later").after(time)))
            }
            Answer::Park => Reply::Outcome(ringwal::Outcome::park("never")),
            Answer::Wrong(count) => {
                let count = usize::from(count) + usize::from(usize::from(count) == batch.len());
                Reply::Outcome(ringwal::Outcome::Each(vec![Verdict::Ack; count]))
            }
            Answer::Panic => Reply::Panic,
            Answer::Each(seed) => {
                let mut prng = Prng::new(seed);
                let verdict = |prng: &mut Prng| match prng.below(5) {
                    0 => Verdict::Retry("not this one".into()),
                    1 if prng.chance(1, 4) => Verdict::Park("not ever".into()),
                    _ => Verdict::Ack,
                };
                Reply::Outcome(ringwal::Outcome::Each(batch.iter().map(|_| verdict(&mut prng)).collect()))
            }
        };
        self.tally.count(kind_of(answer), 1);
        self.desk.look().replies.insert(number, reply.clone());
        let was_late = life.queue.closing() == Some(Closing::Logs);
        self.turn_sink();
        // Who has ended, or does not listen any more, has not taken it.
        let is_left = {
            let mut desk = self.desk.look();
            let before = desk.events.len();
            desk.events.retain(|event| !matches!(event, DeskEvent::Dropped(dropped) if *dropped == number));
            desk.replies.remove(&number).is_some() || desk.events.len() < before
        };
        let is_late = was_late || is_left;
        self.tally.count("answers after a deadline", u64::from(is_late));
        for (at, (lsn, item)) in batch.iter().enumerate() {
            let is_ack = match &reply {
                Reply::Outcome(ringwal::Outcome::All(verdict)) => *verdict == Verdict::Ack,
                Reply::Outcome(ringwal::Outcome::Each(each)) => each.len() == batch.len() && each[at] == Verdict::Ack,
                Reply::Panic => false,
            };
            if is_ack {
                let mut desk = self.desk.look();
                desk.committed = desk.committed.map(|before| before.max(*lsn));
            }
            if is_late {
                self.model.too_late(item, is_ack);
            } else if is_ack {
                self.model.acked(lsn.number(), item);
            } else {
                // Parked at once, or after its last attempt.
                self.model.may_be_done(lsn.number());
            }
        }
        self.note(format!("{answer:?}"));
        self.look_at_sink()
    }

    /// Time goes on to what is due next. False: nothing is, or not within a day.
    fn next(&mut self) -> bool {
        let queue = self.life.as_ref().and_then(|life| life.queue.next_due());
        let now = self.clock.now();
        let due = [queue, self.machine.next_due()].into_iter().flatten().min();
        match due.filter(|at| at.since(now) < Duration::from_secs(86_400)) {
            Some(at) => {
                self.clock.advance_to(at);
                true
            }
            None => false,
        }
    }

    /// All goes on in turn, for so many rounds or until nothing moves any more. The sink acknowledges. True: nothing
    /// moves any more.
    fn run(&mut self, rounds: u32, ack: bool, to_rest: bool) -> Check<bool> {
        let sleeps = self.setup.idle == Idle::Park;
        let (mut seen, mut quiet) = (0, 0);
        for _ in 0..rounds {
            let mut moved = false;
            for _ in 0..3 {
                let Some(life) = &mut self.life else { return Ok(true) };
                if !life.queue.turn_core() {
                    break;
                }
                life.touched = true;
                // A core that never sleeps turns whether there is something to do or not.
                moved |= sleeps;
            }
            moved |= self.machine.step();
            self.burnt();
            let Some(life) = &self.life else { return Ok(true) };
            let before = self.trace;
            if !life.batches.is_empty() && ack {
                self.answer(Answer::Ack)?;
                moved = true;
            } else {
                let turned = self.life.as_mut().expect("alive").queue.turn_sink();
                moved |= !matches!(turned, SinkTurn::Rests | SinkTurn::Ended);
                self.sink()?;
            }
            moved |= before != self.trace;
            self.after()?;
            let Some(life) = &self.life else { return Ok(true) };
            if sleeps {
                if !moved && !life.queue.is_awake() && !self.next() {
                    return Ok(true);
                }
                continue;
            }
            let now = self.state_of_things();
            quiet = if moved || now != seen { 0 } else { quiet + 1 };
            seen = now;
            if quiet > QUIET_MAX {
                if !self.next() {
                    return Ok(true);
                }
                quiet = 0;
            }
            // What is due within the core is told to nobody.
            if quiet > 0 && !self.next_within(BUSY_STEP) {
                self.clock.advance(BUSY_STEP);
            }
        }
        if to_rest {
            let life = self.life.as_ref().expect("alive");
            if life.queue.health().reasons().iter().any(|why| matches!(why, Concern::ParkFull(_))) {
                // Tried again and again, until somebody makes room.
                return Ok(true);
            }
            broken!(
                "I6: the queue does not come to rest in {rounds} rounds: {:?} {:?}",
                life.queue.health(),
                life.queue.metrics()
            );
        }
        Ok(false)
    }

    /// What changes when a core that never sleeps does something.
    fn state_of_things(&self) -> u64 {
        let Some(life) = &self.life else { return 0 };
        let metrics = life.queue.metrics();
        let numbers = [
            self.machine.op_count(),
            self.machine.in_flight_count() as u64,
            metrics.pushed,
            metrics.ring_bytes,
            metrics.pending,
            metrics.in_flight,
            metrics.delivered,
            metrics.parked,
            metrics.discarded + metrics.redelivered,
            metrics.durable_lsn.number(),
            metrics.cursor_lsn.number(),
            metrics.batches,
        ];
        numbers.iter().fold(1, |hash, number| mix(hash ^ number))
    }

    /// As `next`, if that is near enough.
    fn next_within(&mut self, within: Duration) -> bool {
        let queue = self.life.as_ref().and_then(|life| life.queue.next_due());
        let due = [queue, self.machine.next_due()].into_iter().flatten().min();
        let near = due.filter(|at| at.since(self.clock.now()) <= within);
        near.inspect(|at| self.clock.advance_to(*at)).is_some()
    }

    // Looking.

    /// After each step: who was woken is looked after, and everything that can be seen is compared.
    fn after(&mut self) -> Check {
        self.burnt();
        if self.life.is_none() {
            return Ok(());
        }
        for lane in 0..=LOOSE {
            self.pushing(lane)?;
        }
        self.look_at_sink()?;
        self.durables()?;
        self.drains()?;
        self.park_work()?;
        let life = self.life.as_mut().expect("alive");
        let failed = life.queue.has_failed();
        if failed && !life.failed {
            self.tally.count("failed logs", 1);
        }
        life.failed = failed;
        let metrics = life.queue.metrics();
        let ended = life.queue.has_ended();
        self.model.gauges(&metrics, failed, ended)?;
        if !ended {
            self.model.park.floor = life.queue.park_durable().number();
        }
        let (main, park) = (self.machine.used(LogId::Main), self.machine.used(LogId::Park));
        let store = self.setup.store;
        // META has four blocks of its own, for each log.
        let cap = |slots: u32| store.segment_len * u64::from(slots) + META_MAX;
        if main > cap(store.slots) || park > cap(store.park_slots) {
            broken!("I9: {main} bytes of log and {park} of park are more than allowed: {store:?}");
        }
        if self.life.as_ref().is_some_and(|life| life.queue.closing().is_some()) {
            self.closing(false)?;
        }
        Ok(())
    }

    fn durables(&mut self) -> Check {
        let life = self.life.as_mut().expect("alive");
        let mut told = Vec::new();
        let (memory, closes) = (self.setup.durability == Durability::Memory, life.queue.closing().is_some());
        let (health_failed, may_halt) = (life.queue.has_failed(), self.model.may_halt());
        let mut wrong = None;
        life.durables.retain_mut(|(id, waits)| {
            let Some(result) = waits.poll() else { return true };
            match result {
                Ok(()) => told.push(*id),
                Err(LogError::NotDurable) if memory => {}
                Err(LogError::Failed(_)) if health_failed => {}
                Err(LogError::Closed) if closes => {}
                Err(LogError::Corrupt(_)) if closes && may_halt => {}
                Err(error) => wrong = Some(error),
            }
            false
        });
        let failed = life.failed;
        if let Some(error) = wrong {
            broken!("I6: a wait for durability ended with: {error}");
        }
        for id in told.into_iter().flatten() {
            self.model.told(id, failed)?;
            self.tally.count("told durable", 1);
            self.note(format!("durable {id}"));
        }
        Ok(())
    }

    fn drains(&mut self) -> Check {
        let life = self.life.as_mut().expect("alive");
        let done = life.queue.done();
        let queue = &life.queue;
        life.drains.retain_mut(|(fence, last)| {
            if last.is_none() {
                match fence.try_recv() {
                    Ok(lsn) => {
                        queue.hurry(lsn);
                        *last = Some(lsn);
                    }
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            last.is_some_and(|lsn| lsn > done)
        });
        Ok(())
    }

    fn list_park(&mut self, discard: bool, redeliver: bool) {
        let life = self.life.as_mut().expect("alive");
        life.touched = true;
        if life.park.is_none() {
            let answer = life.queue.list_parked(Lsn::ZERO, 5);
            life.park = Some(ParkWork::Listing { discard, redeliver, answer });
        }
    }

    fn park_work(&mut self) -> Check {
        let life = self.life.as_mut().expect("alive");
        match life.park.take() {
            None => {}
            Some(ParkWork::Listing { discard, redeliver, answer }) => match answer.try_recv() {
                Err(TryRecvError::Empty) => life.park = Some(ParkWork::Listing { discard, redeliver, answer }),
                Ok(Err(LogError::Corrupt(what))) if !self.model.park.rotted => {
                    broken!("I5: a listing ends with {what}, and nothing has rotted in the park")
                }
                Err(TryRecvError::Disconnected) | Ok(Err(_)) => {}
                Ok(Ok(entries)) => return self.listed(&entries, discard, redeliver),
            },
            Some(ParkWork::Redelivering { ids, old, last }) => {
                let waits = |id: &u64| life.durables.iter().any(|(of, _)| *of == Some(*id));
                if last.iter().any(waits) {
                    life.park = Some(ParkWork::Redelivering { ids, old, last });
                } else if !life.queue.has_failed() && life.queue.closing().is_none() {
                    let answer = life.queue.unpark(ids, true);
                    self.leaves(old, answer);
                }
            }
            Some(ParkWork::Leaving { old, answer }) => match answer.try_recv() {
                Err(TryRecvError::Empty) => life.park = Some(ParkWork::Leaving { old, answer }),
                Err(TryRecvError::Disconnected) | Ok(Err(_) | Ok(())) => {}
            },
        }
        Ok(())
    }

    fn listed(&mut self, entries: &[ParkedEntry], discard: bool, redeliver: bool) -> Check {
        let items = self.parked_items(entries)?;
        self.note(format!("listed {}", items.len()));
        if items.is_empty() || !(discard || redeliver) {
            return Ok(());
        }
        let ids: Vec<Lsn> = items.iter().map(|(id, _)| *id).collect();
        let old: Vec<u64> = items.iter().map(|(_, item)| item.id).collect();
        if !redeliver {
            self.tally.count("discarded", ids.len() as u64);
            let answer = self.life.as_mut().expect("alive").queue.unpark(ids, false);
            self.leaves(old, answer);
            return Ok(());
        }
        let mut last = Vec::new();
        for (_, item) in &items {
            let before = self.model.next_id();
            let len = u16::try_from(item.len).expect("short");
            self.push(item.lane, len, 1, self.setup.durability != Durability::Memory, item.poison)?;
            if !self.model.is_pushed(before) {
                // The ring is full: those that are in come twice, as after a crash.
                return Ok(());
            }
            last.push(before);
        }
        self.tally.count("redelivered", ids.len() as u64);
        self.life.as_mut().expect("alive").park = Some(ParkWork::Redelivering { ids, old, last });
        Ok(())
    }

    /// From now on they may be gone: whether that is durable already or not.
    fn leaves(&mut self, old: Vec<u64>, answer: Receiver<Result<(), LogError>>) {
        old.iter().for_each(|id| self.model.unparked(*id));
        self.life.as_mut().expect("alive").park = Some(ParkWork::Leaving { old, answer });
    }

    fn parked_items(&self, entries: &[ParkedEntry]) -> Check<Vec<(Lsn, Item)>> {
        let mut items = Vec::new();
        for entry in entries {
            match Item::read(&entry.bytes) {
                Some(item) if item.whole && self.model.is_pushed(item.id) => items.push((entry.id, item)),
                other => broken!("I3: the park holds {other:?}, which nobody pushed like this"),
            }
        }
        Ok(items)
    }

    // Closing.

    fn closing(&mut self, late: bool) -> Check {
        let Some(life) = &mut self.life else { return Ok(()) };
        if life.queue.closing().is_none() {
            return Ok(());
        }
        let Some(outcome) = life.queue.poll_close(late) else { return Ok(()) };
        self.note(format!("closed: {outcome:?}"));
        let failed = self.life.as_ref().is_some_and(|life| life.failed);
        // Handles that are still waited on must have an end now: looked at before the queue goes. Unless the disk hangs.
        if !matches!(outcome, Err(ShutdownError::DiskSilent { .. })) {
            self.ended()?;
        }
        let state = match outcome {
            Ok(state) | Err(ShutdownError::Deadline(state)) => state,
            Err(ShutdownError::DiskSilent { state, unsure, .. }) => {
                // As after a kill: what is not known to be durable may be gone.
                let metrics = self.life.as_ref().expect("alive").queue.metrics();
                if state.left_in_log + unsure != metrics.pending + metrics.in_flight {
                    broken!("closing tells {state:?} and {unsure} unsure: {metrics:?}");
                }
                self.tally.count("shutdowns that gave up on the disk", 1);
                self.die(Death::Kill);
                return Ok(());
            }
            Err(ShutdownError::Storage { .. }) if failed => {
                self.tally.count("shutdowns with a failed log", 1);
                self.gone();
                return Ok(());
            }
            Err(error) => broken!("closing ended with: {error}"),
        };
        let metrics = self.life.as_ref().expect("alive").queue.metrics();
        self.model.shut(&state, &metrics)?;
        self.tally.count("shutdowns", 1);
        if self.setup.durability != Durability::Memory {
            self.model.closed();
            if state.lost == 0 {
                self.model.all_told();
            }
        }
        self.gone();
        self.found = None;
        if self.setup.durability != Durability::Memory && !failed {
            // Late ones are the oldest of those left, and what found no place in the log the newest: of either there may
            // be more than the log has.
            self.left = Some((state.left_in_log.saturating_sub(self.model.committed_late), true));
            self.park_closed = self.meta_of_park().is_some_and(|meta| meta.clean.is_some());
        }
        Ok(())
    }

    fn meta_of_park(&self) -> Option<Meta> {
        self.machine.file(FileId::Meta(LogId::Park)).and_then(|bytes| Meta::read(&bytes).ok())
    }

    /// The flush core has ended: nobody is left waiting.
    fn ended(&mut self) -> Check {
        for lane in 0..=LOOSE {
            self.pushing(lane)?;
        }
        self.durables()?;
        self.drains()?;
        self.park_work()?;
        self.nobody_waits()
    }

    fn nobody_waits(&self) -> Check {
        let Some(life) = &self.life else { return Ok(()) };
        let pushing = life.lanes.iter().filter(|lane| lane.pushing.is_some()).count();
        let (durables, drains) = (life.durables.len(), life.drains.len());
        let drains = if life.queue.has_ended() { 0 } else { drains };
        if pushing + durables + drains > 0 {
            broken!(
                "I6: {pushing} pushes, {durables} waits for durability and {drains} drains hang: {:?} {:?}",
                life.queue,
                life.queue.health()
            );
        }
        Ok(())
    }

    // The end.

    /// What went wrong is mended; then everything must come to its end.
    pub fn finish(&mut self) -> Check {
        self.at += 1;
        self.heal();
        for _ in 0..8 {
            if self.refuses {
                return Ok(());
            }
            if self.life.is_none() {
                self.open(None, None)?;
                if self.refuses {
                    return Ok(());
                }
                if self.life.is_none() {
                    continue;
                }
            }
            if let Some(life) = &self.life {
                life.queue.set_paused(false);
            }
            self.run(ROUNDS_MAX, true, true)?;
            if self.life.as_ref().is_some_and(|life| !life.failed && life.queue.closing().is_none()) {
                // Behind a full park may lie what has rotted.
                if !self.empty_full_park()? {
                    self.policy = OnCorruption::Quarantine;
                    self.shut(true)?;
                }
            }
            let Some(life) = &mut self.life else { continue };
            let halted = life.queue.health().is_failed_by_corruption();
            let closes = life.queue.closing().is_some();
            if closes {
                self.closing(true)?;
                self.run(ROUNDS_MAX, true, true)?;
            } else if life.leaked {
                // Closing passes what nobody will ever give back.
                self.shut(true)?;
            } else if life.failed || halted {
                if halted {
                    if !self.model.may_halt() {
                        broken!("I5: delivery stands still, and nothing has rotted: {:?}", life.queue.health());
                    }
                    self.tally.count("corruption met by delivery", 1);
                    self.policy = OnCorruption::Quarantine;
                }
                self.shut(halted)?;
            } else if self.last_life()? {
                return Ok(());
            }
            if let Some(life) = &self.life {
                broken!(
                    "I6: closing does not end: {:?} {:?} {:?} done {}",
                    life.queue,
                    life.queue.health(),
                    life.queue.metrics(),
                    life.queue.done()
                );
            }
        }
        broken!("the queue does not get to its end in eight lives")
    }

    fn heal(&mut self) {
        self.machine.heal();
        self.machine.let_go();
        self.machine.set_space(None);
        self.space_limited = false;
    }

    fn shut(&mut self, late: bool) -> Check {
        self.life.as_mut().expect("alive").queue.begin_closing(true);
        self.after()?;
        self.run(ROUNDS_MAX, true, true)?;
        // One step after another may have nothing to wait for any more: a leaked claim, damage.
        for _ in 0..2 {
            if late && self.life.as_ref().is_some_and(|life| life.queue.closing() != Some(Closing::Logs)) {
                self.closing(true)?;
                self.run(ROUNDS_MAX, true, true)?;
            }
        }
        Ok(())
    }

    /// What cannot be parked stays in retry until somebody makes room. False: the park cannot be read, and what is lost of
    /// it is not to be given up.
    fn empty_full_park(&mut self) -> Check<bool> {
        for _ in 0..200 {
            let life = self.life.as_mut().expect("alive");
            let metrics = life.queue.metrics();
            if metrics.pending == 0 || metrics.parked == 0 {
                break;
            }
            let answer = life.queue.list_parked(Lsn::ZERO, 50);
            self.run(ROUNDS_MAX, true, true)?;
            let Some(page) = self.page_of(&answer)? else { return Ok(false) };
            let items = self.parked_items(&page)?;
            items.iter().for_each(|(_, item)| self.model.unparked(item.id));
            let ids = items.iter().map(|(id, _)| *id).collect();
            let answer = self.life.as_mut().expect("alive").queue.unpark(ids, false);
            self.run(ROUNDS_MAX, true, true)?;
            let Ok(Ok(())) = answer.try_recv() else { broken!("I6: discarding has no answer") };
        }
        Ok(true)
    }

    /// False: the park cannot be read, and what is lost of it is not to be given up. So it is opened once more.
    fn last_life(&mut self) -> Check<bool> {
        self.nobody_waits()?;
        let life = self.life.as_mut().expect("alive");
        let metrics = life.queue.metrics();
        if metrics.pending + metrics.in_flight > 0 {
            broken!("I6: {} entries are pending, and nothing moves: {:?}", metrics.pending, life.queue.health());
        }
        let mut parked = Vec::new();
        if self.setup.durability != Durability::Memory {
            let mut after = Lsn::ZERO;
            loop {
                let answer = self.life.as_mut().expect("alive").queue.list_parked(after, 50);
                self.run(ROUNDS_MAX, true, true)?;
                let Some(page) = self.page_of(&answer)? else {
                    self.policy = OnCorruption::Quarantine;
                    self.shut(false)?;
                    return Ok(false);
                };
                let items = self.parked_items(&page)?;
                let Some((last, _)) = items.last() else { break };
                after = *last;
                parked.extend(items.iter().map(|(_, item)| item.id));
            }
            // Listing may have given some up.
            let metrics = self.life.as_ref().expect("alive").queue.metrics();
            // A number that is none, of which only a cursor says so that was lied about, counts as parked.
            let too_many = self.model.park.cursor_lied && metrics.parked > parked.len() as u64;
            if parked.len() as u64 != metrics.parked && !too_many {
                broken!("{} entries are parked, {} are listed", metrics.parked, parked.len());
            }
        }
        self.tally.count("parked", parked.len() as u64);
        let lost = self.model.finish(&parked)?;
        self.tally.count("lost to rot", lost);
        self.shut(false)?;
        if let Some(life) = &self.life {
            broken!(
                "I6: closing does not end: {:?} {:?} {:?} done {}",
                life.queue,
                life.queue.health(),
                life.queue.metrics(),
                life.queue.done()
            );
        }
        if self.setup.durability == Durability::Memory {
            return Ok(true);
        }
        self.open(None, None)?;
        if self.refuses {
            return Ok(true);
        }
        let Some(life) = &self.life else { broken!("what was closed in order does not open") };
        let recovery = life.queue.recovery();
        if recovery.recovered > 0 && !self.model.rotted {
            broken!("I4: all was delivered and closed, and {} entries are recovered", recovery.recovered);
        }
        self.shut(false)?;
        Ok(true)
    }

    /// What a listing of the park has come to, once nothing moves any more; `None`: there is damage in front of it.
    fn page_of(&mut self, answer: &Receiver<Result<Vec<ParkedEntry>, LogError>>) -> Check<Option<Vec<ParkedEntry>>> {
        match answer.try_recv() {
            Ok(Ok(page)) => Ok(Some(page)),
            Ok(Err(LogError::Corrupt(what))) if self.model.park.rotted && self.policy != OnCorruption::Quarantine => {
                self.note(format!("a listing ends with: {what}"));
                self.tally.count("corruption met by listings", 1);
                Ok(None)
            }
            Ok(Err(error)) => broken!("a listing of the park ends with: {error}"),
            Err(_) => broken!("I6: a listing of the park has no answer"),
        }
    }
}

/// What there is to tell of a damaged store.
struct Foretold {
    lost: [Vec<(Lsn, Lsn)>; 2],
    torn: [bool; 2],
}

impl Foretold {
    fn of(recovery: &Recovery) -> Self {
        Self {
            lost: [recovery.lost.clone(), recovery.lost_parked.clone()],
            torn: [recovery.torn_tail.is_some(), recovery.torn_tail_parked.is_some()],
        }
    }

    /// Openings were cut off in between. The one that succeeds tells all of it, but for a log in whose META (`lied`) writes
    /// are lost: such a write may have been the word itself. Of how many entries of each log nothing is told.
    fn check(&self, recovery: &Recovery, lied: [bool; 2]) -> Check<[u64; 2]> {
        let told = Self::of(recovery);
        let mut untold = [0; 2];
        for (number, log) in ["log", "park"].into_iter().enumerate() {
            let (lost, told) = (&self.lost[number], &told.lost[number]);
            let is_told = |run: &&(Lsn, Lsn)| told.iter().any(|(first, last)| *first <= run.0 && run.1 <= *last);
            for (first, last) in lost.iter().filter(|run| !is_told(run)) {
                if !lied[number] {
                    broken!(
                        "I5: {first} to {last} of the {log} are lost, and an opening that followed others tells {told:?}"
                    );
                }
                untold[number] += last.next().since(*first);
            }
        }
        if (0..2).any(|log| self.torn[log] && !told.torn[log] && !lied[log]) {
            broken!("I5: a log was torn, and an opening that followed others does not tell: {:?}", self.torn);
        }
        Ok(untold)
    }
}

const ENODEV: i32 = 19;
/// Longer than any history: what is so late hangs, but an opening outwaits it.
const AGES: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Room for META and the cursors.
const META_MAX: u64 = 64 << 10;

const fn kind_of(answer: Answer) -> &'static str {
    match answer {
        Answer::Ack => "acknowledged batches",
        Answer::Each(_) => "verdicts for each",
        Answer::Retry | Answer::RetryAfter(_) => "refused batches",
        Answer::Park => "parked batches",
        Answer::Wrong(_) => "wrong numbers of verdicts",
        Answer::Panic => "panics of the sink",
    }
}

/// Whether delivery stands still before damage.
trait Halted {
    fn is_failed_by_corruption(&self) -> bool;
}

impl Halted for ringwal::Health {
    fn is_failed_by_corruption(&self) -> bool {
        matches!(self, Self::Failed(why) if why.iter().any(|concern| matches!(concern, Concern::LogCorrupt(_))))
    }
}

impl From<String> for Broken {
    fn from(what: String) -> Self {
        Self(what)
    }
}
