//! Makes batches of frames, leases them, and says what became of them.
//!
//! ```text
//!   frames ─► pending: [frame│frame│frame]      taken when: count │ bytes │ oldest ≥ linger │ closing
//!                        │ cut                   cut where: count │ bytes │ attempts change │ cursor full
//!                        ▼
//!                     flights ◄── `in_flight_max` of them; what must not overtake waits until each entry
//!                        │        before it is acked or parked
//!                        ▼
//!                     finished ─► Acked { acked, done, attempts } ─► the durable cursor
//! ```
//! # Order
//! | `in_flight_max` | what goes out                                             | a retry holds up     |
//! |-----------------|-----------------------------------------------------------|----------------------|
//! | 1               | batches strictly in the order of LSNs                     | everything behind it |
//! | more            | the first entries of which no [lane](super::lanes) is out | its lanes            |
//!
//! Order per thread is promised, and entries of one thread may lie anywhere in the log: so the default is one batch, and
//! a sink that takes long is helped by longer ones only (`docs/adr/0010-strict-order-one-batch.md`). With keys it can
//! have several (`docs/adr/0014-order-per-key.md`). The cursor's table has room for all that they may
//! leave done above the low watermark (`room.rs`).
//!
//! # Nothing is lost, nothing is counted twice
//! | where an entry is | getter                    | leaves when                                     |
//! |-------------------|---------------------------|-------------------------------------------------|
//! | pending           | `pending`                 | taken into a batch                              |
//! | out               | `in_flight`               | the lease is answered or dropped                |
//! | waiting           | `waiting`                 | its delay is over, and nothing is being parked  |
//! | parking           | `parking`                 | the park log has it (or has not: waiting again) |
//! | finished          | `delivered`, `parked`     | never                                           |
//!
//! `taken = pending + in_flight + waiting + parking + delivered + parked` at every step; each is
//! counted where it stands.
//!
//! # A sink that lies
//! | it does                             | what happens                                                |
//! |-------------------------------------|-------------------------------------------------------------|
//! | answers with the wrong number       | all of the batch is retried; `malformed` counts             |
//! | answers twice, or for another queue | cannot be written: a lease is no copy; `stray` counts       |
//! | never answers                       | `Overdue`, once; the engine decides                         |
//! | panics, is dropped                  | the lease is dropped: retry; `dropped_leases` counts        |
//! | answers in patterns without end     | batches are cut so that any pattern fits into the cursor    |

use std::collections::VecDeque;
use std::sync::Arc;

use crate::delivery::adaptive::Adaptive;
use crate::delivery::batch::{Bytes, RawBatch, RawEntry, RawFrame};
use crate::delivery::breaker::Circuit;
use crate::delivery::flight::{Flight, State};
use crate::delivery::lanes::{Lane, Lanes};
use crate::delivery::lease::{Lease, LeaseId, Returns};
use crate::delivery::pending::{Limits, Pending};
use crate::delivery::progress::{Attempts, Finished};
use crate::delivery::retry::Chance;
use crate::delivery::room::Room;
pub use crate::delivery::seam::{DeliveryConfig, DeliveryCounts, DeliveryEvent, FrameRefused};
use crate::lsn::Lsn;
use crate::ring::record::Records;
use crate::schema::Schema;
use crate::time::Instant;
use crate::wal::cursor::{CURSOR_RANGES_MAX, Cursor};
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameKind};

/// The state machine of delivery. One owner; feeds one sink.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) config: DeliveryConfig,
    pub(super) chance: Chance,
    pub(super) finished: Finished,
    pub(super) attempts: Attempts,
    pub(super) pending: Pending,
    pub(super) flights: Vec<Flight>,
    pub(super) lanes: Lanes,
    /// The cursor's table has no room for another batch until something is done.
    pub(super) cramped: bool,
    pub(super) adaptive: Option<Adaptive>,
    pub(super) circuit: Circuit,
    pub(super) next_lsn: Lsn,
    pub(super) next_lease: u64,
    pub(super) returns: Arc<Returns>,
    pub(super) events: VecDeque<DeliveryEvent>,
    /// The cursor has something new.
    pub(super) progressed: bool,
    pub(super) hurried: Lsn,
    pub(super) closing: bool,
    pub(super) counts: DeliveryCounts,
}

impl Dispatcher {
    /// Begins where the recovered cursor says.
    #[must_use]
    pub fn new(config: DeliveryConfig, cursor: &Cursor) -> Self {
        let finished = Finished::new(cursor.acked, &cursor.done);
        let circuit = Circuit::new(config.breaker);
        let adaptive = config.adaptive.map(|(min, max)| Adaptive::new(min, max, config.batch_len_max));
        let in_flight_max = config.in_flight_max.max(1);
        Self {
            chance: Chance::new(config.seed),
            next_lsn: finished.first_unfinished(Lsn::FIRST),
            finished,
            attempts: Attempts::new(&cursor.attempts),
            config: DeliveryConfig { in_flight_max, ..config },
            pending: Pending::default(),
            flights: Vec::with_capacity(in_flight_max),
            lanes: Lanes::new(in_flight_max == 1),
            cramped: false,
            adaptive,
            circuit,
            next_lease: 1,
            returns: Arc::default(),
            events: VecDeque::new(),
            progressed: false,
            hurried: Lsn::ZERO,
            closing: false,
            counts: DeliveryCounts::default(),
        }
    }

    // Commands.

    /// Entries up to `lsn` do not linger: somebody waits for their delivery.
    pub fn hurry(&mut self, lsn: Lsn) {
        self.hurried = self.hurried.max(lsn);
    }

    // What comes from outside.

    /// Takes a frame's entries, whose encoding is `schema`'s. What is finished already is left out;
    /// frames that bring nothing new are no error.
    ///
    /// # Errors
    /// When the frame does not begin at or before [`next_lsn`](Self::next_lsn), or its body is not what
    /// its header says. Nothing has changed then.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame, schema: &Schema) -> Result<(), FrameRefused> {
        let header = frame.header;
        if header.first_lsn > self.next_lsn {
            return Err(FrameRefused::Gap { wanted: self.next_lsn, found: header.first_lsn });
        }
        match header.kind {
            FrameKind::Skip => self.handle_skipped(header.first_lsn, header.next_lsn),
            FrameKind::Data => {
                let end = FRAME_HEADER_LEN + header.raw_len as usize;
                if end > frame.block.len() {
                    return Err(FrameRefused::Count);
                }
                let body = frame.block.slice(FRAME_HEADER_LEN..end);
                let entries = self.new_entries_of(&body, header.first_lsn, header.next_lsn)?;
                self.expect_from(header.next_lsn);
                let body = Bytes::Block(body);
                let schema = Arc::new(*schema);
                self.counts.taken += entries.len() as u64;
                self.pending.append(RawFrame { body, schema, time: header.time, arrived: now }, entries);
            }
            FrameKind::Mark | FrameKind::Seal | FrameKind::Unknown(_) => {}
        }
        Ok(())
    }

    /// The LSNs `first..next` hold nothing: never written on purpose, or given up as corrupt. What of
    /// them is here already stays.
    pub fn handle_skipped(&mut self, first: Lsn, next: Lsn) {
        let first = first.max(self.next_lsn);
        if first < next {
            self.counts.skipped += next.since(first);
            self.finished.add(first, next);
            self.expect_from(self.next_lsn);
            self.note_progress();
        }
    }

    /// Time has passed: finds leases that were dropped and deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.collect_returns(now);
        self.circuit.handle_timeout(now, LeaseId(self.next_lease));
        for flight in &mut self.flights {
            if let State::Out { deadline: Some(deadline), overdue: overdue @ false } = &mut flight.state
                && *deadline <= now
            {
                *overdue = true;
                self.counts.overdue += 1;
                self.events.push_back(DeliveryEvent::Overdue { lease: flight.lease });
            }
        }
    }

    /// The queue closes: nothing lingers any more.
    pub const fn handle_closing(&mut self) {
        self.closing = true;
    }

    // What must go outside.

    /// A batch that is to be delivered now. Call until `None`.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<(Lease, RawBatch)> {
        self.collect_returns(now);
        self.circuit.handle_timeout(now, LeaseId(self.next_lease));
        if self.circuit.open_until().is_some() || self.is_probing() {
            return None;
        }
        let due = |flight: &Flight| if let State::Waiting { due } = flight.state { Some(due) } else { None };
        let waiting = self.flights.iter().enumerate().filter_map(|(at, flight)| Some((due(flight)?, at)));
        if let Some((_, at)) = waiting.min().filter(|(due, _)| *due <= now) {
            let flight = &mut self.flights[at];
            let left = std::mem::take(&mut flight.left);
            flight.batch = flight.batch.subset(&left, flight.attempts.saturating_add(1));
            flight.undecodable.clear();
            return Some(self.lease(now, at));
        }
        if self.is_full() || self.cramped || !self.is_triggered(now) {
            return None;
        }
        let mut room = self.room();
        let limits = Limits {
            len_max: self.len_max(),
            bytes_max: self.config.batch_bytes_max,
            attempts: &self.attempts,
            lanes: &self.lanes,
        };
        let Some((batch, attempts)) = self.pending.cut(limits, &mut room) else {
            // What is left unseen found no room; the rest was passed over, and is looked at when a lane is free.
            self.cramped = self.pending.has_freed() || self.pending.oldest_fresh().is_some();
            return None;
        };
        if !self.lanes.is_strict() {
            (0..batch.len()).for_each(|index| self.lanes.take(batch.lane(index)));
        }
        self.flights.push(Flight {
            lease: LeaseId(0),
            state: State::Waiting { due: now },
            batch,
            attempts,
            left: Vec::new(),
            parking: Vec::new(),
            undecodable: Vec::new(),
            rows: room.used(),
            first_out: now,
            last_out: now,
        });
        Some(self.lease(now, self.flights.len() - 1))
    }

    /// What the engine is to do or to know. Call until `None`.
    pub fn poll_event(&mut self) -> Option<DeliveryEvent> {
        self.events.pop_front().or_else(|| {
            std::mem::take(&mut self.progressed).then(|| DeliveryEvent::Acked {
                acked: self.finished.acked(),
                done: self.finished.rows(),
                attempts: self.attempts.rows(),
            })
        })
    }

    /// When to call `handle_timeout` and `poll_delivery` next, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open_until = self.circuit.open_until();
        let flights = self.flights.iter().filter_map(|flight| match flight.state {
            State::Out { deadline, overdue: false } => deadline,
            State::Waiting { due } if open_until.is_none() && !self.is_probing() => Some(due),
            State::Out { .. } | State::Settling { .. } | State::Waiting { .. } => None,
        });
        let free = !self.is_full() && !self.cramped && open_until.is_none() && !self.is_probing();
        let lingers = self.pending.oldest_fresh().filter(|_| free).map(|(_, arrived)| arrived + self.config.linger);
        flights.chain(lingers).chain(open_until).min()
    }

    // Within.

    /// The records of a body that are not finished, after checking all of them.
    fn new_entries_of(&self, body: &[u8], first: Lsn, next: Lsn) -> Result<Vec<RawEntry>, FrameRefused> {
        // What comes at `next_lsn` or after it lies above `acked`.
        let all_new = first >= self.next_lsn && self.finished.runs() == 0;
        let is_new = |lsn| lsn >= self.next_lsn && !self.finished.contains(lsn);
        if all_new { entries_of(body, first, next, |_| true) } else { entries_of(body, first, next, is_new) }
    }

    /// The next frame is to bring what comes at or after `lsn` and is not finished.
    fn expect_from(&mut self, lsn: Lsn) {
        self.next_lsn = self.finished.first_unfinished(lsn.max(self.next_lsn));
    }

    /// How long the next batch may be.
    fn len_max(&self) -> usize {
        // With several out it is the room in the cursor's table that ends a batch.
        let cut = self.config.partial && self.config.in_flight_max == 1;
        let fits = if cut { self.finished.batch_len_max() } else { usize::MAX };
        self.len_wanted().clamp(1, fits)
    }

    pub(super) fn len_wanted(&self) -> usize {
        self.adaptive.as_ref().map_or(self.config.batch_len_max, Adaptive::len).max(1)
    }

    fn room(&self) -> Room {
        if self.config.in_flight_max == 1 {
            return Room::without_end();
        }
        let taken = self.finished.runs() + self.flights.iter().map(|flight| flight.rows).sum::<usize>();
        Room::new(CURSOR_RANGES_MAX.saturating_sub(taken), self.finished.acked(), self.config.partial)
    }

    /// Whether a breaker that is half-open waits for the answer of the one batch that it has let through.
    fn is_probing(&self) -> bool {
        let is_probe = |f: &Flight| matches!(f.state, State::Out { .. }) && self.circuit.is_probe(f.lease);
        self.flights.iter().any(is_probe)
    }

    fn is_triggered(&self, now: Instant) -> bool {
        // What was passed over has had its time to linger.
        if self.pending.has_freed() {
            return true;
        }
        let Some((lsn, arrived)) = self.pending.oldest_fresh() else {
            return false;
        };
        let (len, bytes) = self.pending.fresh();
        let full = len >= self.len_max() as u64;
        let heavy = bytes >= self.config.batch_bytes_max;
        let old = now.since(arrived) >= self.config.linger;
        // What has been tried before, by an earlier run of the process, has lingered then.
        full || heavy || old || self.closing || lsn <= self.hurried || self.attempts.at(lsn) > 0
    }

    fn lease(&mut self, now: Instant, at: usize) -> (Lease, RawBatch) {
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        self.counts.leases += 1;
        let deadline = self.config.deliver_timeout.map(|timeout| now + timeout);
        let flight = &mut self.flights[at];
        flight.lease = id;
        flight.last_out = now;
        flight.state = State::Out { deadline, overdue: false };
        (Lease::new(id, now, deadline, &self.returns), flight.batch.clone())
    }

    pub(super) fn note_progress(&mut self) {
        self.attempts.forget(self.finished.acked());
        self.progressed = true;
        self.cramped = false;
    }
}

/// The records of a body that are wanted, after checking all of them. By itself, so that what its loop needs stays in registers.
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "no place in a body is higher than its length")]
fn entries_of(
    body: &[u8],
    first: Lsn,
    next: Lsn,
    is_wanted: impl Fn(Lsn) -> bool,
) -> Result<Vec<RawEntry>, FrameRefused> {
    let mut entries = Vec::with_capacity(usize::try_from(next.since(first)).map_or(0, |n| n.min(body.len() / 8)));
    assert!(u32::try_from(body.len()).is_ok(), "a frame is shorter than 4 GiB");
    let mut lsn = first;
    for record in Records::new(body) {
        let record = record.map_err(FrameRefused::Record)?;
        if is_wanted(lsn) {
            let (offset, len) = (record.offset as u32, record.payload.len() as u32);
            entries.push(RawEntry { lsn, lane: Lane(record.meta), offset, len });
        }
        lsn = lsn.next();
    }
    if lsn == next { Ok(entries) } else { Err(FrameRefused::Count) }
}
