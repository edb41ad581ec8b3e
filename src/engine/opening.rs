//! Opening, on the flush core's own thread: look, judge, repair, begin.
//!
//! ```text
//!   disk ─► Scan main ─► Scan park ─► judge ─► Repair main ─► Repair park ─► logs ─► old rings ─► first slot
//!           (only reads)             schema,                                         into the log,
//!                                    damage: an error here leaves all as it was      see `rings`
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Durability, Idle, Park};
use crate::delivery::park::{PARK_OVERHEAD_MAX, PARK_SCHEMA};
use crate::engine::clock::Clock;
use crate::engine::flush::{AtDisk, Flush, Rest, State};
use crate::engine::found::{self, Found};
use crate::engine::lifecycle::io_error;
use crate::engine::parking::{self, Parking};
use crate::engine::rings::{self, OldRings};
use crate::engine::share::Share;
use crate::engine::window::Window;
use crate::engine::{Shared, Status};
use crate::error::OpenError;
use crate::io::memory::RamDisk;
use crate::io::{Disk, Opened};
use crate::lsn::Lsn;
use crate::metrics::{Counters, Holes};
use crate::ranges::Ranges;
use crate::recovery::{Incarnation, Recovery};
use crate::ring::record::stride_of;
use crate::schema::Schema;
use crate::wal::block::Pool;
use crate::wal::coding::{Coding, SALT_LEN};
use crate::wal::cursor::Cursor;
use crate::wal::frame::FRAME_HEADER_LEN;
use crate::wal::log::{Commit, Log, LogConfig};
use crate::wal::meta::Meta;
use crate::wal::mutant::Mutants;
use crate::wal::op::{Completion, LogId, Op, Token};
use crate::wal::reader::Reader;
use crate::wal::recovery::{Recovered, Repair, Scan, Scanned, StoreConfig};
use crate::wal::segment::BLOCK_LEN_MAX;

/// How long a flush core that never sleeps otherwise waits for the disk while the first segment is made.
const DISK_TURN: Duration = Duration::from_millis(1);

/// Where the bytes go.
pub(crate) enum Source {
    /// A directory that is locked and understood.
    Directory(Opened),
    /// Memory.
    Memory,
    /// A disk from a test.
    #[cfg(feature = "testing")]
    Given(Box<dyn Disk>),
}

/// What opening needs to know.
pub(crate) struct Opening {
    pub(crate) config: Config,
    pub(crate) source: Source,
    pub(crate) schema: Schema,
    pub(crate) accepts: fn(&Schema) -> bool,
    /// What the sink says that it has.
    pub(crate) committed: Option<Lsn>,
    /// META as it lies on disk, if it does: the pool must fit its frames.
    pub(crate) meta: Option<Meta>,
    pub(crate) seed: u64,
    /// More chance, for the keys of segments: from the kernel, and never the same for two openings.
    pub(crate) salt: [u8; SALT_LEN],
    pub(crate) clock: Clock,
    /// Rules that a test has switched off.
    pub(crate) mutants: Mutants,
}

/// What the delivery thread begins with.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cursor: Cursor,
    pub(crate) clock: Clock,
}

impl Opening {
    /// Opens both logs, and puts the flush core together.
    pub(crate) fn run(mut self) -> Result<(Flush, Start), OpenError> {
        let clock = self.clock.clone();
        let began = clock.now();
        let pool = self.pool()?;
        let dir = matches!(self.source, Source::Directory(_)).then(|| self.config.dir.clone());
        let mut disk: Box<dyn Disk> = match std::mem::replace(&mut self.source, Source::Memory) {
            Source::Directory(opened) => opened.into_disk(&pool).map_err(io_error)?,
            Source::Memory => Box::new(RamDisk::new()),
            #[cfg(feature = "testing")]
            Source::Given(disk) => disk,
        };
        let mut report = disk.report();
        let block_len = report.block_len_min.max(4096);
        let (main_store, park_store) = self.stores(block_len);

        let unit = report.block_len_min;
        let main = self.scan(&mut *disk, main_store, &pool, unit)?;
        let park = self.scan(&mut *disk, park_store, &pool, unit)?;
        self.judge(LogId::Main, &main)?;
        self.judge(LogId::Park, &park)?;
        self.check_store(&main, main_store)?;
        if self.config.park == Park::Dir {
            self.check_store(&park, park_store)?;
        }
        self.tell_look(&main)?;
        let mut old_rings = OldRings::find(&self.config, dir.clone(), &main, self.accepts)?;
        old_rings.settle(&main, self.committed, self.config.on_corruption)?;
        // As the memory for frames, before anything is written.
        let park_frame = park.meta.as_ref().map_or(0, |meta| meta.frame_len_max).max(park_store.frame_len_max);
        let park_memory = parking::Memory::new(park_frame)
            .map_err(|source| OpenError::Resources { what: "memory for parked entries".to_owned(), source })?;
        let (is_new, is_clean) = (main.meta.is_none(), main.report.clean);
        let torn = [main.report.torn, park.report.torn];
        let main = self.repair(&mut *disk, main, main_store, &pool)?;
        let park = self.repair(&mut *disk, park, park_store, &pool)?;
        let [found, found_parked] = [(LogId::Main, &main), (LogId::Park, &park)]
            .map(|(log, recovered)| Found::new(log, torn[log as usize].as_ref(), recovered));

        let cursor = self.cursor(&main);
        let holes = holes(&main, &cursor);
        let counters = Counters::default();
        let first = cursor.acked;
        let entries = |from: Lsn, end: Lsn, holes: &Holes| {
            end.next().since(from.next()).saturating_sub(holes.count(from.next(), end.next()))
        };
        let in_log = entries(first, main.end, &holes);
        let gone = park_gone(&park);
        let is_park_news = (gone.floor(), gone.above()) != (park.cursor.acked, &park.cursor.done[..]);
        let park_news = is_park_news.then(|| gone.clone());
        let park_holes = self::holes(&park, &park.cursor);
        counters.recovered_parked.set(entries(gone.floor(), park.end, &park_holes));

        let mut main_config = self.log_config(LogId::Main, main.meta.segment_len);
        let slots = old_rings.slots(main.meta.segment_len, main.meta.frame_len_max);
        let live = u32::try_from(main.live.len()).unwrap_or(u32::MAX);
        main_config.slots_max = main_config.slots_max.max(live.min(slots.saturating_mul(live))) + slots;
        let park_config = self.log_config(LogId::Park, park.meta.segment_len);
        let window_start = first.next();
        let (mut main_end, next_lsn, meta) = (main.end, main.next_lsn, main.meta.clone());
        let is_news = cursor != main.cursor;
        let reader = self.reader(LogId::Main, &main.meta);
        let park_reader = self.reader(LogId::Park, &park.meta);
        let mut log = Log::new(main, main_config, pool.clone());
        let mut park_log = Log::new(park, park_config, park_memory.to_write);
        if let Some(gone) = park_news {
            park_log.ack(clock.now(), gone.floor(), gone.above(), &[]);
        }
        if is_news {
            log.ack(clock.now(), cursor.acked, &cursor.done, &cursor.attempts);
            self.keep_cursor(&mut log, &mut *disk)?;
        }
        old_rings.append(&mut log, &mut *disk, &clock, self.schema, &self.config)?;
        if old_rings.appended > 0 {
            main_end = log.end();
        }
        counters.recovered.set(in_log + old_rings.appended);
        counters.recovered_from_rings.set(old_rings.appended);
        counters.next_lsn.set(log.next_lsn().number());
        counters.durable_lsn.set(log.durable().number());
        counters.cursor_lsn.set(log.cursor_durable().number());
        counters.seen_lsn.set(window_start.number());

        let config = &self.config;
        report.notes.append(&mut old_rings.notes);
        let (rings, drainer, ring_home) = rings::make(config, dir, &meta, self.schema, disk.doorbell())?;
        let recovery = Recovery {
            new: is_new,
            clean: is_clean,
            recovered: counters.recovered.read(),
            from_rings: old_rings.appended,
            incomplete_in_rings: old_rings.incomplete,
            parked: counters.recovered_parked.read(),
            end: main_end,
            next: next_lsn.max(log.next_lsn()),
            earlier: found::earlier(&found, &found_parked),
            torn_tail: found.torn_tail,
            torn_tail_parked: found_parked.torn_tail,
            lost: found.lost,
            lost_parked: found_parked.lost,
            took: clock.now().since(began),
            disk: report,
            incarnation: Incarnation { store: meta.store.0, epoch: meta.epoch },
        };
        let window = Window::new(window_start, log.durable());
        let shared = Arc::new(Shared::new(
            self.config.clone(),
            rings,
            counters,
            holes,
            recovery,
            first,
            Status::at(clock.clone()),
        ));
        shared.tell_opened();
        let mut flush = Flush {
            state: State::new(shared.rings.count(), &log),
            shared: Arc::clone(&shared),
            disk: AtDisk::new(disk, clock.clone()),
            drainer,
            ring_home,
            share: self.share(&pool),
            pool,
            clock: clock.clone(),
            schema: self.schema,
            log,
            reader,
            window,
            parking: Parking::new(park_log, park_reader, park_memory.to_read, gone, is_park_news),
        };
        let need = config.segment_len;
        // `Spill` asks for a slot only when memory fills.
        let writes_at_once = !matches!(self.config.durability, Durability::Spill | Durability::Memory);
        if is_new && writes_at_once && !flush.await_first_slot() {
            let dir = self.config.dir;
            let failure = flush.log.failure().map(|failure| failure.error.clone());
            return Err(
                failure.map_or(OpenError::NoSpace { dir: dir.clone(), need }, |error| OpenError::Disk { dir, error })
            );
        }
        Ok((flush, Start { shared, cursor, clock }))
    }

    fn pool(&self) -> Result<Pool, OpenError> {
        let stored = self.meta.as_ref().map_or(0, |meta| meta.frame_len_max as usize + BLOCK_LEN_MAX as usize);
        let chunk_len = self.config.chunk_len().max(stored).next_multiple_of(4096);
        Pool::new(self.config.chunks(), chunk_len)
            .map_err(|source| OpenError::Resources { what: "memory for frames (memory_max)".to_owned(), source })
    }

    fn stores(&self, block_len: u32) -> (StoreConfig, StoreConfig) {
        let config = &self.config;
        let main = StoreConfig {
            log: LogId::Main,
            block_len,
            segment_len: config.segment_len,
            frame_len_max: config.frame_len_max(block_len),
            features: self.coding().features(),
            seed: self.seed,
            mutants: self.mutants,
        };
        let record = stride_of(config.entry_len_max + PARK_OVERHEAD_MAX) + FRAME_HEADER_LEN + config.coding.overhead();
        let park_frame = (record as u64).next_multiple_of(u64::from(block_len));
        let park = StoreConfig {
            log: LogId::Park,
            segment_len: config.park_segment_len(),
            frame_len_max: u32::try_from(park_frame).unwrap_or(u32::MAX),
            seed: self.seed.rotate_left(32),
            ..main
        };
        (main, park)
    }

    fn reader(&self, log: LogId, meta: &Meta) -> Reader {
        Reader::new(log, meta, self.mutants).with_cipher(meta, self.config.coding.cipher.clone())
    }

    /// What is in memory for good is not coded.
    fn coding(&self) -> Coding {
        match self.config.durability {
            Durability::Memory => Coding::default(),
            _ => Coding { salt: self.salt, ..self.config.coding.clone() },
        }
    }

    fn share(&self, pool: &Pool) -> Share {
        let share = Share::new(pool.clone());
        match self.config.durability {
            Durability::Immediate | Durability::Periodic(_) => share.keeping(),
            Durability::Spill | Durability::Memory => share,
        }
    }

    fn log_config(&self, log: LogId, segment_len: u64) -> LogConfig {
        let config = &self.config;
        let bytes_max = if log == LogId::Main { config.log_bytes_max } else { config.park_bytes_max };
        let slots_max = u32::try_from(bytes_max / segment_len).unwrap_or(u32::MAX);
        let commit = match config.durability {
            Durability::Immediate => Commit::Immediate,
            Durability::Periodic(period) => Commit::Periodic(period),
            Durability::Spill | Durability::Memory => Commit::Spill,
        };
        let is_main = log == LogId::Main;
        LogConfig {
            log,
            schema: if is_main { self.schema } else { PARK_SCHEMA },
            commit: if is_main { commit } else { Commit::Immediate },
            slots_max: slots_max.max(2),
            spares_min: if is_main { 2 } else { 1 },
            inflight_max: 4,
            hedge_len: 64 << 10,
            cursor_every: Duration::from_millis(50),
            coding: self.coding(),
            seed: self.seed ^ if is_main { 0 } else { 0x9e37_79b9_7f4a_7c15 },
            mutants: self.mutants,
            lsn_floor: if is_main { self.committed.unwrap_or(Lsn::ZERO) } else { Lsn::ZERO },
        }
    }

    fn scan(&self, disk: &mut dyn Disk, store: StoreConfig, pool: &Pool, unit: u32) -> Result<Scanned, OpenError> {
        let mut scan = Scan::new(store, pool.clone()).in_units_of(unit);
        loop {
            if let Some(outcome) = scan.outcome() {
                return outcome.map_err(|error| self.scan_error(store.log, error));
            }
            drive(disk, scan.poll_op(), |completion| scan.handle_completion(completion));
        }
    }

    fn repair(
        &self,
        disk: &mut dyn Disk,
        scanned: Scanned,
        store: StoreConfig,
        pool: &Pool,
    ) -> Result<Recovered, OpenError> {
        let need = store.segment_len;
        let mut repair = Repair::new(scanned, self.config.on_corruption, store, pool.clone());
        loop {
            if let Some(outcome) = repair.outcome() {
                return outcome.map_err(|error| {
                    let dir = self.config.dir.clone();
                    if error.is_no_space() { OpenError::NoSpace { dir, need } } else { OpenError::Disk { dir, error } }
                });
            }
            drive(disk, repair.poll_op(), |completion| repair.handle_completion(completion));
        }
    }

    /// What the log was told is on the disk before anything goes in behind it. Of numbers that are skipped only the cursor
    /// says that they are no entries: who opens after a power cut would count them as recovered.
    fn keep_cursor(&self, log: &mut Log, disk: &mut dyn Disk) -> Result<(), OpenError> {
        while let Some(op) = log.poll_cursor(self.clock.now()) {
            drive(disk, Some(op), |_| {});
            while !log.is_cursor_current() && log.failure().is_none() {
                drive(disk, None, |completion| log.handle_completion(self.clock.now(), completion));
            }
        }
        match log.failure() {
            Some(failure) => Err(OpenError::Disk { dir: self.config.dir.clone(), error: failure.error.clone() }),
            None => Ok(()),
        }
    }

    /// Where delivery begins: behind what the cursor says, and behind what the sink says that it has. LSNs
    /// that are skipped, because a run before may have shown them to a sink, are done with for good: who
    /// opens the next time cannot tell them from entries.
    fn cursor(&self, recovered: &Recovered) -> Cursor {
        let cursor = recovered.cursor.clone();
        let mut done = Ranges::new(cursor.acked, cursor.done.clone());
        let committed = self.committed.unwrap_or(Lsn::ZERO);
        done.add(Lsn::FIRST, committed.next());
        done.add(recovered.end.next(), recovered.next_lsn.max(committed.next()));
        Cursor { acked: done.floor(), done: done.above().to_vec(), ..cursor }
    }
}

/// What has left the park, and what never was in it: a number that is no entry could never be taken out, and would
/// count as parked by whoever opens the next time.
fn park_gone(park: &Recovered) -> Ranges {
    let mut gone = Ranges::new(park.cursor.acked, park.cursor.done.clone());
    for (first, next) in park.absent.iter().chain(&park.lost) {
        gone.add(*first, *next);
    }
    gone.add(park.end.next(), park.next_lsn);
    gone
}

/// LSNs above the cursor that are no entries to be delivered, each counted once.
fn holes(recovered: &Recovered, cursor: &Cursor) -> Holes {
    let mut done = Ranges::new(cursor.acked, Vec::new());
    for (first, next) in cursor.done.iter().chain(&recovered.absent).chain(&recovered.lost) {
        done.add(*first, *next);
    }
    let mut holes = Holes::default();
    for (first, next) in done.above() {
        holes.add(*first, *next);
    }
    holes
}

/// Hands one op to the disk, or waits for one to complete.
fn drive(disk: &mut dyn Disk, op: Option<(Token, Op)>, handle: impl FnOnce(Completion)) {
    match op {
        Some((token, op)) => disk.submit(token, op),
        None => {
            if let Some(completion) = disk.complete(None) {
                handle(completion);
            }
        }
    }
}

impl Flush {
    /// Turns until there is a slot to write into. False: there is no space for one, or the disk has failed.
    fn await_first_slot(&mut self) -> bool {
        while self.log.stats().slots_free == 0 {
            // `room` tells only those who wait to write; nobody does yet.
            if self.log.stats().prepare_failures > 0 || self.log.failure().is_some() {
                return false;
            }
            // Nothing comes here but from the disk: there is no use in looking around for it.
            let rest = match self.turn() {
                Rest::No | Rest::Look | Rest::Doze if self.shared.config.idle != Idle::Park => {
                    Rest::Sleep(Some(DISK_TURN))
                }
                rest => rest,
            };
            self.wait(rest);
        }
        true
    }
}
