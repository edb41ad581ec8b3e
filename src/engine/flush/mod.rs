//! The flush core: one thread between the rings and the disk.
//!
//! ```text
//!   turn:  commands ─► acks ─► drain rings into the open frame ─► ops to the disk
//!            ▲                                                       │
//!            └─ hand frames over ◄─ events of the logs ◄─ completions┘   asleep in between
//! ```
//! It visits runs of records, never entries, calls no user code, and allocates nothing for a frame:
//! blocks come from the pool, and an empty pool is the backpressure towards the rings.
//!
//! | file         | what                                                      |
//! |--------------|-----------------------------------------------------------|
//! | `mod.rs`     | the turn; what others want; frames to delivery            |
//! | `drain.rs`   | rings to frames                                           |
//! | `log_io.rs`  | frames to the disk, and back                              |
//! | `at_disk.rs` | what is at the disk, and since when                       |
//! | `rest.rs`    | when it sleeps                                            |
//! | `end.rs`     | what it waits for when the queue closes                   |
//! | `pressure.rs`| how full the queue is                                     |
//! | `glance.rs`  | whether it looks for the one it has told before it sleeps |
//! | `siblings.rs`| whether a commit waits for those whom the last one told   |
//! | `tries.rs`   | how often either of these two is tried                    |
//! | `waits.rs`   | who asks for an LSN, and the deadlines of tasks           |

mod at_disk;
mod drain;
mod end;
mod glance;
mod log_io;
mod pressure;
mod rest;
mod siblings;
#[cfg(all(test, feature = "testing", not(loom)))]
mod tests;
mod tries;
mod waits;

pub(crate) use self::at_disk::AtDisk;
pub(crate) use self::rest::Rest;

use std::num::NonZero;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::config::Durability;
use crate::engine::clock::Clock;
use crate::engine::parking::Parking;
use crate::engine::rings::Home;
use crate::engine::share::Share;
use crate::engine::waits::Alarm;
use crate::engine::window::Window;
use crate::engine::{Command, Shared};
use crate::lsn::Lsn;
use crate::ring::Drainer;
use crate::schema::Schema;
use crate::sync::mpsc::SyncSender;
use crate::time::Instant;
use crate::wal::block::Pool;
use crate::wal::frame::Place;
use crate::wal::log::{Blocked, Log};
use crate::wal::reader::Reader;

use pressure::Grades;

/// The flush core's own.
pub(crate) struct Flush {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: AtDisk,
    pub(crate) drainer: Drainer,
    /// The file that holds the rings, if one does.
    pub(crate) ring_home: Option<Home>,
    pub(crate) pool: Pool,
    pub(crate) share: Share,
    pub(crate) clock: Clock,
    pub(crate) schema: Schema,
    pub(crate) log: Log,
    pub(crate) reader: Reader,
    pub(crate) window: Window,
    pub(crate) parking: Parking,
    pub(crate) state: State,
}

/// What the turns remember.
#[derive(Default)]
pub(crate) struct State {
    /// Where each ring is drained to.
    drained: Vec<u64>,
    /// Where each was drained to when a commit was last asked for.
    asked: Vec<u64>,
    /// What the sink is done with need not be held in the rings.
    acked: Lsn,
    /// Which ring is drained first.
    first_ring: u32,
    fences: Vec<(Vec<u64>, Weak<()>, SyncSender<Lsn>)>,
    waits: waits::Waits,
    /// How often somebody has begun to wait for durability, as far as it is seen to.
    asks: u64,
    siblings: siblings::Siblings,
    glance: glance::Glance,
    /// How far each ring has just become durable; 0: not known to have.
    reached: Vec<u64>,
    /// Frames that were sealed by the last look.
    sealed: u64,
    blocked: Option<Blocked>,
    reading: bool,
    /// Where the next frame lies that must be read back, if that is known.
    read_from: Option<(Lsn, Place)>,
    read_halted: bool,
    idle_since: Option<Instant>,
    /// The last LSN that delivery was given.
    handed: Lsn,
    /// The last turn ended without a look at the disk.
    turned: bool,
    /// LSN of the next entry, once the log has failed and no longer counts.
    next_after_failure: Option<Lsn>,
    ending: bool,
    closing_logs: bool,
    /// The queue closes, and claims stand in its rings: when those are given up.
    claims_until: Option<Instant>,
    grades: Grades,
    /// When sizes were last published.
    sized: Instant,
    /// The newest segment that was told, and how many there were then.
    #[cfg(feature = "tracing")]
    seq_told: u64,
    #[cfg(feature = "tracing")]
    segments_told: u64,
}

/// How old sizes may be while there is something to do.
const SIZES_EVERY: Duration = Duration::from_millis(10);

impl State {
    pub(crate) fn new(rings: u32, log: &Log) -> Self {
        let start = vec![0; rings as usize];
        let state = Self { drained: start.clone(), asked: start.clone(), reached: start, ..Self::default() };
        // What recovery found is told by opening.
        #[cfg(feature = "tracing")]
        let state = Self {
            seq_told: log.segments().last().map_or(0, |segment| segment.seq),
            segments_told: log.segments().len() as u64,
            ..state
        };
        #[cfg(not(feature = "tracing"))]
        let _ = log;
        state
    }
}

impl Flush {
    /// Runs until both logs are closed.
    pub(crate) fn run(mut self) {
        self.run_among(thread::available_parallelism().map_or(1, NonZero::get));
        while !self.is_over() {
            let rest = self.turn();
            self.wait(rest);
        }
        self.finish();
    }

    /// The threads of this process may run on so many processors.
    pub(crate) fn run_among(&mut self, processors: usize) {
        self.state.glance = glance::Glance::among(processors);
    }

    /// Does what is to be done now, without waiting, and tells how to rest until the next turn.
    pub(crate) fn turn(&mut self) -> Rest {
        let now = self.clock.now();
        let mut again = self.take_commands(now);
        self.state.waits.ring(now);
        again |= self.take_acks(now);
        let asks = self.shared.asks();
        let urgent = asks > std::mem::replace(&mut self.state.asks, asks);
        let drained = self.drain(now);
        if drained || self.state.ending {
            self.opening_is_told();
        }
        self.release(now);
        self.answer_fences();
        if urgent || self.has_drained_what_is_wanted() {
            self.log.commit_now(now);
            self.state.asked.copy_from_slice(&self.state.drained);
        }
        self.seal_for_delivery(now);
        again |= self.await_siblings(now);
        again |= self.parking.turn(now, &self.clock, &self.shared);
        self.log.handle_timeout(now);
        self.parking.log.handle_timeout(now);
        self.submit(now);
        self.part_waiters();
        again |= self.take_events();
        again |= self.hand_over();
        self.watch_pressure(now);
        self.shared.gate.publish_time(now);
        if self.state.ending {
            again |= self.close_logs(now);
        }
        self.publish();
        self.publish_sizes(now, !again && !drained);
        self.settle_rings();
        self.rest(again, drained)
    }

    // What others want.

    fn take_commands(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(command) = self.shared.commands.pop() {
            any = true;
            match command {
                Command::Fence { tails, asker, reply } => self.state.fences.push((tails, asker, reply)),
                Command::Place { upto, reply } => self.state.waits.ask(upto, reply),
                Command::Alarm { at, alarm } => self.state.waits.set_alarm(Alarm { at, alarm }),
                Command::Park { lease, records } => self.parking.park(lease, records),
                Command::ListParked { after, max, reply } => self.parking.list(after, max, reply),
                Command::LastParked { reply } => _ = reply.send(self.parking.last()),
                Command::MayUnpark { ids, reply } => _ = reply.send(self.parking.gone_with(&ids).map(drop)),
                Command::Unpark { ids, exit, reply } => self.parking.unpark(now, &self.shared, &ids, exit, reply),
                Command::Close => self.state.ending = true,
            }
        }
        any
    }

    fn take_acks(&mut self, now: Instant) -> bool {
        let Some(acks) = self.shared.acks.lock().take() else {
            return false;
        };
        self.state.acked = acks.acked;
        self.note_done(&acks.done);
        // What was taken over after the log had failed has numbers that the log never gave out.
        let has_failed = self.state.next_after_failure.is_some();
        let acks = if has_failed { acks.up_to(self.log.end()) } else { acks };
        self.log.ack(now, acks.acked, &acks.done, &acks.attempts);
        true
    }

    fn answer_fences(&mut self) {
        let last = self.last_entry();
        let drained = &self.state.drained;
        self.state.fences.retain(|(tails, asker, reply)| {
            let passed = tails.iter().zip(drained).all(|(tail, drained)| drained >= tail);
            if passed {
                let _ = reply.send(last);
            }
            // Whoever waits no more may have asked for what never comes: behind a claim that was leaked.
            !passed && asker.strong_count() > 0
        });
        self.state.waits.answer(&self.state.drained, last);
    }

    /// Whether somebody waits for what no commit was asked for yet. When the wish was told it lay behind an entry
    /// that was claimed and not published, or the log had no room for it.
    fn has_drained_what_is_wanted(&self) -> bool {
        // `Immediate` needs no asking, and with `Memory` nobody waits.
        if !matches!(self.shared.config.durability, Durability::Periodic(_) | Durability::Spill) {
            return false;
        }
        let mut rings = (0..).zip(self.state.drained.iter().zip(&self.state.asked));
        rings.any(|(ring, (drained, asked))| {
            drained > asked && self.shared.rings.durable(ring).wanted().is_some_and(|wanted| wanted > *asked)
        })
    }

    // Frames to delivery.

    fn hand_over(&mut self) -> bool {
        let mut any = false;
        while self.may_hand_over()
            && let Some(mut frame) = self.window.pop()
        {
            if frame.header.next_lsn.prev() > self.log.durable() && !self.log.keeps_numbers() {
                // Its LSN might be given out again, should the process end before that is prevented.
                self.window.put_back(frame);
                break;
            }
            let schema = frame.place.and_then(|place| self.log.segments().by_uid(place.uid));
            let schema = schema.map_or(self.schema, |segment| segment.schema);
            let last = frame.header.next_lsn.prev();
            frame.block = frame.block.pin();
            if let Err((frame, _)) = self.shared.frames.push((frame, schema)) {
                self.window.put_back(frame);
                break;
            }
            self.state.handed = last;
            any = true;
        }
        if any {
            self.shared.wake_delivery();
        }
        if !self.share.may_hand_over() {
            // A batch that wants more than that is not to wait for it.
            self.shared.hurry_what_is_there(self.state.handed);
        }
        // Memory that is short is taken from the end of the window: that is read back last.
        while self.share.is_short(self.reads())
            && self.window.len() > 1
            && self.window.chunks() > self.share.kept()
            && let Some(gone) = self.window.let_go(self.log.durable())
        {
            self.state.reading = false;
            self.note_gone(gone);
        }
        any
    }

    /// Whether delivery may get more. One that has nothing left does in any case: a sink may keep batches.
    fn may_hand_over(&self) -> bool {
        let frames = &self.shared.frames;
        !frames.is_full()
            && (self.share.may_hand_over() || frames.is_empty() && self.shared.counters.unfinished.read() == 0)
    }

    fn publish(&mut self) {
        let (cells, stats) = (&self.shared.counters, self.log.stats());
        cells.next_lsn.set(self.next_lsn().number());
        cells.frames.set(stats.frames);
        cells.log_bytes_written.set(stats.bytes + stats.padding_bytes);
        cells.padding_bytes.set(stats.padding_bytes);
        cells.writes.set(stats.writes);
        cells.syncs.set(stats.syncs);
        cells.commit_nanos_mean.set(u64::try_from(stats.commit_ewma.as_nanos()).unwrap_or(u64::MAX));
        // Of a log that has failed nobody expects anything.
        let waiting_since = self.disk.waiting_since().filter(|_| self.log.failure().is_none());
        cells.waiting_since.set(waiting_since.map_or(0, |at| at.as_nanos().max(1)));
        #[cfg(feature = "tracing")]
        self.tell_segments(u64::from(stats.slots_live));
        #[cfg(feature = "tracing")]
        let cells = &self.shared.counters;
        cells.slots_live.set(u64::from(stats.slots_live));
        cells.slots_free.set(u64::from(stats.slots_free));
    }

    /// Segments that were begun or came free since this was last looked at.
    #[cfg(feature = "tracing")]
    fn tell_segments(&mut self, live: u64) {
        let segments = self.log.segments();
        let mut begun = 0;
        for segment in segments.iter().rev().take_while(|segment| segment.seq > self.state.seq_told) {
            self.shared.tell_segment(segment);
            begun += 1;
        }
        let seq = segments.last().map_or(0, |segment| segment.seq);
        self.state.seq_told = self.state.seq_told.max(seq);
        let count = segments.len() as u64;
        let freed = (self.state.segments_told + begun).saturating_sub(count);
        if freed > 0 {
            self.shared.tell_segments_freed(live, freed, self.log.cursor_durable().number());
        }
        self.state.segments_told = count;
    }

    /// What takes a look at every segment and frame: now and then, and when there is nothing else to do.
    fn publish_sizes(&mut self, now: Instant, is_quiet: bool) {
        if !is_quiet && now.since(self.state.sized) < SIZES_EVERY {
            return;
        }
        self.state.sized = now;
        let cells = &self.shared.counters;
        cells.log_bytes.set(self.log.live_bytes());
        cells.log_bytes_max.set(self.log.bytes_max());
        cells.backlog_bytes.set(self.log.backlog_bytes(self.state.acked.max(self.log.cursor_durable())));
        let (chunks, chunk_len) = (self.pool.chunks(), self.pool.chunk_len() as u64);
        cells.memory_bytes.set(chunks.saturating_sub(self.pool.free()) as u64 * chunk_len);
        cells.memory_bytes_max.set(chunks as u64 * chunk_len);
    }
}
