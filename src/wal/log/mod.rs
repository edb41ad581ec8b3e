//! The writing half of a log: takes entries as frames, makes them durable, in order, and frees their
//! place when the sink is done with them.
//!
//! ```text
//!            frame, seal                     ack                     close
//!                │                            │                        │
//!   FrameBuilder ▼            Writer          ▼      Keeper            ▼
//!   open ──► sealed ──► pipeline ──► durable     cursor, META     Flushing ► Sealing ► Cursor
//!                │ needs a slot         │            │                    ► Meta ► Closed
//!                ▼                      ▼            ▼ durable
//!              Slots ◄─────────────── Event ◄─── releases slots
//! ```
//! A machine without clock, file or thread: `now` comes with each call, ops go out by `poll_op`, come
//! back by `handle_completion`, in any order. After any call: `poll_op` until there is none, then
//! `poll_event` until there is none.
//!
//! # When something fails
//! A failed write or sync, of cursor and META too, is final. `Failed` is said once, nothing later is
//! acknowledged, no op goes out but cursor writes and one of META (unless one of those has failed). That
//! one reserves the LSNs of what is in memory and not durable: it is given out as `Ready`, and can still be
//! delivered while the process lives, as soon as the log `keeps_numbers`.
//! A slot that cannot be prepared for want of space is no failure: `Room` tells it, and it is tried again.

mod drive;

use std::collections::VecDeque;
use std::fmt;

use crate::lsn::Lsn;
use crate::time::{Instant, UnixNanos};
use crate::wal::arena::Arena;
use crate::wal::block::{BlockMut, Pool};
use crate::wal::coding::encoder::Encoder;
use crate::wal::cursor::cursor_copy_len;
use crate::wal::frame::{FRAME_HEADER_LEN, RunEnd};
use crate::wal::keeper::{Keeper, Kept};
use crate::wal::mutant::Mutant;
use crate::wal::op::{Completion, DiskError, Op, Owner, Token};
use crate::wal::recovery::Recovered;
use crate::wal::segment::HEADER_BLOCKS;
use crate::wal::segments::SegmentTable;
use crate::wal::slots::Slots;
use crate::wal::writer::{Desk, NUMBER_MASK, Writer};

pub use crate::wal::builder::FrameBuilder;
pub use crate::wal::config::{Blocked, Commit, Event, LogConfig, LogFailure, Room};
pub use crate::wal::stats::LogStats;

/// The top bits of an op's number say which part asked.
const PART_SHIFT: u32 = 30;
const WRITER: u32 = 0;
const SLOTS: u32 = 1;
const KEEPER: u32 = 2;
/// What is due and could not be done, for want of memory mostly, is tried again after this.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(1);
/// Emptied vectors of runs that are kept.
const SPARE_RUNS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    Flushing,
    Sealing,
    Cursor,
    Meta,
    Closed,
}

/// The writing half of a log.
pub struct Log {
    desk: Desk,
    writer: Writer,
    slots: Slots,
    keeper: Keeper,
    open: Option<FrameBuilder>,
    /// What the last frame left of its chunk.
    rest: Option<BlockMut>,
    frame_len_max: usize,
    spare_runs: Vec<Vec<RunEnd>>,
    /// Those of an empty frame that was given up.
    told_runs: Vec<RunEnd>,
    phase: Phase,
    /// No ack will come any more.
    no_acks: bool,
    failure: Option<LogFailure>,
    /// Whether a write of cursor or META has failed.
    keeper_failed: bool,
    /// Writes and syncs whose completions are to come, slots' apart.
    outstanding: u32,
    room: Room,
    /// Something has happened that may free a slot.
    may_release: bool,
    driven: Instant,
}

impl Log {
    /// The log that recovery made ready.
    ///
    /// # Panics
    /// When the pool's chunks are too short for a cursor or the longest frame.
    #[must_use]
    pub fn new(recovered: Recovered, config: LogConfig, pool: Pool) -> Self {
        let (meta, block_len) = (recovered.meta.clone(), recovered.meta.block_len);
        let needed = cursor_copy_len(block_len).max(4 * u64::from(block_len));
        assert!(pool.chunk_len() as u64 >= needed, "a chunk of the pool holds a cursor and a header");
        let longest = (meta.segment_len - u64::from(HEADER_BLOCKS * block_len)).min(u64::from(meta.frame_len_max));
        let frame_len_max = usize::try_from(longest).unwrap_or(usize::MAX) - config.coding.overhead();
        let mut slots = Slots::new(config.log, config.slots_max, config.spares_min, &recovered);
        if let Some(last) = recovered.live.last().filter(|_| config.mutants.has(Mutant::AppendToTail)) {
            slots.reopen(last.slot, last.uid);
        }
        let writer = Writer::new(&recovered, &config);
        let keeper = Keeper::new(&config, meta.clone(), recovered.cursor.clone());
        let desk = Desk {
            encoder: Encoder::new(&config.coding, frame_len_max, pool.clone()),
            config,
            store: meta.store,
            epoch: meta.epoch,
            block_len,
            segment_len: meta.segment_len,
            arena: Arena::new(pool),
            events: VecDeque::new(),
            segments: SegmentTable::new(recovered.live, recovered.absent),
            stats: LogStats::default(),
            acked: recovered.cursor.acked,
        };
        Self {
            desk,
            writer,
            slots,
            keeper,
            open: None,
            rest: None,
            frame_len_max,
            spare_runs: Vec::new(),
            told_runs: Vec::new(),
            phase: Phase::Open,
            no_acks: false,
            failure: None,
            keeper_failed: false,
            outstanding: 0,
            room: Room::Ok,
            may_release: true,
            driven: Instant::START,
        }
    }

    // Getters.

    /// Every LSN up to this one is on the disk, durably.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.writer.durable()
    }

    /// Every LSN up to this one is durable, or was acknowledged before it had to be (`Spill`).
    #[must_use]
    pub fn settled(&self) -> Lsn {
        self.writer.settled()
    }

    /// The LSN of the next entry that is sealed into a frame.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.writer.next_lsn()
    }

    /// The last LSN that a sealed frame holds.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.writer.next_lsn().prev()
    }

    /// The cursor on disk stands here.
    #[must_use]
    pub fn cursor_durable(&self) -> Lsn {
        self.keeper.cursor_durable()
    }

    /// Whether the cursor on disk says all that was acknowledged.
    #[must_use]
    pub fn is_cursor_current(&self) -> bool {
        self.keeper.cursor_is_kept()
    }

    /// Why the log has failed, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<&LogFailure> {
        self.failure.as_ref()
    }

    /// Whether there is a slot for what comes.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room
    }

    /// Counts and times.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        LogStats { slots_live: count(self.slots.live()), slots_free: count(self.slots.free()), ..self.desk.stats }
    }

    /// The segments that hold something to deliver.
    #[must_use]
    pub fn segments(&self) -> &SegmentTable {
        &self.desk.segments
    }

    /// Whether it has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// How many sealed frames are in memory because they are not durable.
    #[must_use]
    pub fn held(&self) -> usize {
        self.writer.held()
    }

    /// Records in the open frame.
    #[must_use]
    pub fn open_records(&self) -> u32 {
        self.open.as_ref().map_or(0, FrameBuilder::records)
    }

    // Commands.

    /// The open frame, to be filled; a new one if there is none. A record that does not fit into what
    /// is spare: `seal`, and ask again; if the frame was empty, that gives a longer one.
    ///
    /// # Errors
    /// When nothing can be taken in now.
    pub fn frame(&mut self, now: Instant, unix: UnixNanos) -> Result<&mut FrameBuilder, Blocked> {
        match () {
            () if self.failure.is_some() => return Err(Blocked::Failed),
            () if self.phase != Phase::Open => return Err(Blocked::Closed),
            () => {}
        }
        if self.open.as_ref().is_some_and(|open| !open.has_spare()) {
            self.seal_open();
        }
        let open = match self.open.take() {
            Some(mut open) => {
                open.touch(now, unix);
                open
            }
            None => self.new_frame(now, unix)?,
        };
        Ok(self.open.insert(open))
    }

    /// Seals the open frame. An empty one that has only a part of a chunk gives that part up, so that
    /// the next one is as long as can be.
    pub fn seal(&mut self, _now: Instant) {
        if self.open_records() > 0 {
            self.seal_open();
        } else if let Some(open) = self.open.take_if(|open| !open.is_whole(self.frame_len_max)) {
            // Rings may end in it with what was given up: the next one says so.
            self.told_runs = open.into_runs();
        }
    }

    fn seal_open(&mut self) {
        let Some(open) = self.open.take_if(|open| open.records() > 0) else { return };
        let mut sealed = open.seal(self.desk.block_len as usize);
        let nothing = sealed.rest.split_front(0);
        let rest = std::mem::replace(&mut sealed.rest, nothing);
        // A window without bytes would keep the chunk from the pool.
        self.rest = (rest.len() > FRAME_HEADER_LEN).then_some(rest);
        self.writer.seal(sealed, &mut self.desk);
    }

    /// Somebody waits: what was taken in is made durable as soon as can be.
    pub fn commit_now(&mut self, _now: Instant) {
        // `Immediate` needs no asking.
        if self.desk.config.commit != Commit::Immediate && self.failure.is_none() {
            self.writer.want_sync();
        }
    }

    /// `Spill`: writes what is held and not acknowledged, because memory is short.
    pub fn spill(&mut self, now: Instant) {
        self.commit_now(now);
    }

    /// The sink is done with everything up to `acked`, with the runs `done` above it (first LSN and one
    /// past the last), and `attempts` were made on others.
    ///
    /// # Panics
    /// When `acked` falls, or was never given out.
    pub fn ack(&mut self, now: Instant, acked: Lsn, done: &[(Lsn, Lsn)], attempts: &[(Lsn, u32)]) {
        assert!(acked < self.writer.next_lsn(), "only what was given out can be acknowledged");
        self.keeper.ack(now, acked, done, attempts);
        self.desk.acked = acked;
        self.may_release = true;
        if self.desk.config.commit == Commit::Spill && self.failure.is_none() {
            self.writer.drop_acked(&mut self.desk);
        }
    }

    /// Takes back an emptied or read vector of [`Event::Durable`].
    pub fn recycle_runs(&mut self, mut runs: Vec<RunEnd>) {
        if runs.capacity() > 0 && self.spare_runs.len() < SPARE_RUNS {
            runs.clear();
            self.spare_runs.push(runs);
        }
    }

    /// Takes in nothing more, makes all of it durable, writes the cursor and where the log ends.
    pub fn close(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.phase = Phase::Flushing;
            self.seal_open();
            self.open = None;
            self.rest = None;
            self.commit_now(now);
        }
    }

    // What comes from outside.

    /// An op has ended.
    ///
    /// # Panics
    /// When it is not one of this log's.
    pub fn handle_completion(&mut self, now: Instant, completion: Completion) {
        let Completion { token, result } = completion;
        assert_eq!(token.owner, Owner::Log(self.desk.config.log), "a completion goes to who asked");
        self.may_release = true;
        let (part, number) = (token.number >> PART_SHIFT, token.number & NUMBER_MASK);
        if part == SLOTS {
            let failed = self.slots.handle_completion(now, number, result.is_ok());
            self.desk.stats.prepare_failures += u64::from(failed);
            // A disk that is full heals; one that refuses otherwise would be asked for ever, while those who
            // wait for it are told that it is full.
            if let Err(error) = result
                && failed
                && !error.is_no_space()
            {
                self.fail(error);
            }
            return;
        }
        self.outstanding -= 1;
        match (part, result) {
            (KEEPER, Ok(_)) => {
                if let Kept::Cursor(lsn) = self.keeper.handle_done(number) {
                    self.desk.events.push_back(Event::CursorDurable(lsn));
                }
            }
            (KEEPER, Err(error)) => {
                self.keeper_failed = true;
                self.fail(error);
            }
            (_, Err(_)) if self.desk.config.mutants.has(Mutant::SyncAgain) && self.writer.sync_again(number) => {}
            (_, Err(error)) => self.fail(error),
            (_, Ok(_)) if self.failure.is_some() => {}
            (_, Ok(_)) => {
                if !self.writer.handle_synced(now, number, &mut self.desk) {
                    self.writer.handle_written(now, number, &mut self.desk);
                }
            }
        }
    }

    pub(super) fn fail(&mut self, error: DiskError) {
        if self.failure.is_some() {
            return;
        }
        let failure = LogFailure { log: self.desk.config.log, error, durable: self.writer.durable() };
        self.desk.events.push_back(Event::Failed(failure.clone()));
        self.failure = Some(failure);
        self.seal_open();
        (self.open, self.rest) = (None, None);
        self.writer.abandon(&mut self.desk);
    }

    /// Time has passed: `poll_op` does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.drive(now);
    }

    // What must go outside.

    /// The next op for the disk.
    pub fn poll_op(&mut self, now: Instant) -> Option<(Token, Op)> {
        self.drive(now);
        let (part, (number, op)) = self.next_op(now)?;
        self.outstanding += u32::from(part != SLOTS);
        Some((self.token(part, number), op))
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.desk.events.pop_front()
    }

    /// When `handle_timeout` or `poll_op` has something to do, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let cursor = if self.keeper_failed { None } else { self.keeper.poll_timeout() };
        let mut due = [cursor, None, None, None, None, None];
        due[1] = (!self.keeps_numbers()).then_some(self.driven);
        if self.failure.is_none() {
            let open = self.open.as_ref().filter(|open| open.records() > 0);
            due[1] = self.slots.poll_timeout(self.want_slot());
            due[2] = self.writer.start_due(open.map_or(0, FrameBuilder::body_len), &self.desk);
            due[3] = self.writer.mark_due(&self.desk).filter(|_| open.is_none() && self.phase == Phase::Open);
            due[5] = self.writer.is_short().then_some(self.driven);
            if let Commit::Periodic(within) = self.desk.config.commit {
                due[4] = self.writer.sync_due(within, open.map(FrameBuilder::opened));
            }
        }
        let due = due.into_iter().flatten().min()?;
        Some(if due > self.driven { due } else { self.driven + AGAIN })
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("log", &self.desk.config.log)
            .field("phase", &self.phase)
            .field("durable", &self.durable())
            .field("next_lsn", &self.next_lsn())
            .field("acked", &self.desk.acked)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
