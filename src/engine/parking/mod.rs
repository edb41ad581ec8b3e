//! The park: a second log, beside the main one, for entries that the sink has refused for good.
//!
//! ```text
//!   delivery ── Park(records) ──► waiting ──► frames of the park log ──► durable ──► Parked(lease)
//!   user ────── ListParked ─────► reader over the park log ──► entries
//!   user ────── Unpark(ids) ────► the park's cursor
//! ```
//! A parked entry's id is its LSN in the park log. Its cursor says which of them are gone: redelivered
//! or discarded.
//!
//! # Memory
//! It has chunks of its own, beside `memory_max`: what waits for the sink may take all of those, for as long as the sink
//! waits for the park, or somebody has to look at what is parked first. Who lists has other ones than what is written, which
//! may wait for a segment that comes free when something is taken out. They are touched when they are used.

mod listing;
#[cfg(all(test, feature = "testing", not(loom)))]
mod tests;

use std::collections::VecDeque;

use crate::config::ParkFull;
use crate::delivery::lease::LeaseId;
use crate::delivery::park::ParkRecord;
use crate::engine::clock::Clock;
use crate::engine::{Notice, ParkExit, Shared};
use crate::error::LogError;
use crate::io::Disk;
use crate::lsn::Lsn;
use crate::ranges::Ranges;
use crate::ring::record::{RECORD_HEADER_LEN, State, Word, stride_of};
use crate::sync::mpsc::SyncSender;
use crate::time::Instant;
use crate::wal::block::Pool;
use crate::wal::cursor::CURSOR_RANGES_MAX;
use crate::wal::frame::RunEnd;
use crate::wal::log::{Blocked, Event, Log, Room};
use crate::wal::reader::Reader;
use crate::wal::segment::BLOCK_LEN_MAX;

use self::listing::Listing;

/// Two for small blocks, two for frames on their way to the disk, two for their coded forms.
const CHUNKS_TO_WRITE: u32 = 6;
/// Two reads, what is decoded, and what was decoded before.
const CHUNKS_TO_READ: u32 = 4;

/// The chunks of a park.
pub(crate) struct Memory {
    pub(crate) to_write: Pool,
    pub(crate) to_read: Pool,
}

impl Memory {
    pub(crate) fn new(frame_len_max: u32) -> std::io::Result<Self> {
        // The header of a segment takes two of the longest blocks.
        let block_len = BLOCK_LEN_MAX as usize;
        let chunk_len = (frame_len_max as usize).next_multiple_of(block_len) + block_len;
        let pool = |chunks| Pool::new(chunks, chunk_len);
        Ok(Self { to_write: pool(CHUNKS_TO_WRITE)?, to_read: pool(CHUNKS_TO_READ)? })
    }
}

/// The park log and who waits for it.
pub(crate) struct Parking {
    pub(crate) log: Log,
    reader: Reader,
    /// What it reads into.
    pool: Pool,
    /// What is gone from the park.
    gone: Ranges,
    /// Opening has found numbers to be gone that the cursor on disk does not know yet. A frame behind them that were durable
    /// before that cursor would make entries of them for whoever opens after a power cut: none is begun until then.
    news: bool,
    waiting: VecDeque<Batch>,
    listings: VecDeque<Listing>,
    unparks: Vec<(Lsn, Unpark)>,
    /// The log is being closed: nothing leaves the park any more.
    closing: bool,
}

/// Records of one lease on their way into the park.
struct Batch {
    lease: LeaseId,
    records: VecDeque<ParkRecord>,
    count: u64,
    /// The LSN of the first one, once it is in a frame.
    first: Option<Lsn>,
    /// The LSN of the last one, once all are in frames.
    last: Option<Lsn>,
}

impl Batch {
    /// How many of them the park has when it is durable up to here: these may be listed, and leave it.
    fn parked(&self, durable: Lsn) -> usize {
        let moved = usize::try_from(self.count).map_or(usize::MAX, |count| count - self.records.len());
        let parked = self.first.map_or(0, |first| durable.next().since(first));
        usize::try_from(parked).map_or(moved, |parked| parked.min(moved))
    }
}

/// An answer that waits for the park's cursor.
type Unpark = SyncSender<Result<(), LogError>>;

impl Parking {
    /// The park of a log that may have just been told, by opening, what else is `gone` (`news`).
    pub(crate) fn new(log: Log, reader: Reader, pool: Pool, gone: Ranges, news: bool) -> Self {
        Self {
            log,
            reader,
            pool,
            gone,
            news,
            waiting: VecDeque::new(),
            listings: VecDeque::new(),
            unparks: Vec::new(),
            closing: false,
        }
    }

    pub(crate) fn park(&mut self, lease: LeaseId, records: Vec<ParkRecord>) {
        let count = records.len() as u64;
        self.waiting.push_back(Batch { lease, records: records.into(), count, first: None, last: None });
    }

    /// How many of these numbers are not gone.
    fn left(&self, first: Lsn, next: Lsn) -> u64 {
        next.since(first) - self.gone.count(first, next)
    }

    /// The last id that is durable; what is gone counts as well.
    pub(crate) fn last(&self) -> Lsn {
        self.log.durable()
    }

    /// What is gone when these are as well, and how many of them are in the park until then; why they could not be taken
    /// out of it now. Nothing changes.
    pub(crate) fn gone_with(&self, ids: &[Lsn]) -> Result<(Ranges, u64), LogError> {
        if self.closing {
            return Err(LogError::Closed);
        }
        if let Some(error) = self.cursor_failure() {
            return Err(error);
        }
        let (mut gone, mut count) = (self.gone.clone(), 0);
        for id in ids {
            count += u64::from(*id <= self.last() && gone.add(*id, id.next()));
        }
        if gone.ranges_above_floor() > CURSOR_RANGES_MAX { Err(LogError::TooManyHoles) } else { Ok((gone, count)) }
    }

    /// Takes entries out of the park; answered when that is durable.
    pub(crate) fn unpark(&mut self, now: Instant, shared: &Shared, ids: &[Lsn], exit: ParkExit, reply: Unpark) {
        let (gone, count) = match self.gone_with(ids) {
            Ok(gone) => gone,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        self.gone = gone;
        let counters = &shared.counters;
        counters.unparked.add(count);
        match exit {
            ParkExit::Discarded => counters.discarded.add(count),
            ParkExit::Redelivered => counters.redelivered.add(count),
        }
        self.log.ack(now, self.gone.floor(), self.gone.above(), &[]);
        self.unparks.push((self.gone.floor(), reply));
    }

    /// Why nothing that leaves the park can be written down any more. A frame that could not be written is no reason.
    fn cursor_failure(&self) -> Option<LogError> {
        let failure = self.log.failure().filter(|_| !self.log.keeps_cursor())?;
        Some(LogError::Failed(failure.error.clone().into()))
    }

    /// Moves waiting records into frames, and listings on.
    pub(crate) fn turn(&mut self, now: Instant, clock: &Clock, shared: &Shared) -> bool {
        let mut busy = false;
        // The log tells its first failure only, and that may have been a frame's.
        if let Some(error) = self.cursor_failure() {
            for (_, reply) in self.unparks.drain(..) {
                let _ = reply.send(Err(error.clone()));
            }
        }
        // A log that has failed or is being closed writes nothing more, and those who wait must be told so.
        let is_early = self.news && !self.closing && self.log.failure().is_none();
        let filled = if is_early { 0 } else { self.waiting.len() };
        for index in 0..filled {
            match self.fill(index, now, clock) {
                Ok(moved) => busy |= moved,
                Err(blocked) => {
                    if !self.makes_room(shared, blocked) {
                        self.give_way(shared, &blocked);
                    }
                    break;
                }
            }
        }
        if busy {
            self.log.commit_now(now);
        }
        // Who is in a frame already waits for a segment as well.
        if shared.config.park_full == ParkFull::DropOldest && !self.waiting.is_empty() && !self.closing {
            self.drop_oldest(now, shared);
        }
        if shared.is_delivery_stopped() && self.log.room() != Room::Ok {
            self.give_up(shared);
        }
        busy
    }

    /// Whether those who find no room are to wait for it, as it comes without anybody's doing.
    fn makes_room(&self, shared: &Shared, blocked: Blocked) -> bool {
        let drops = shared.config.park_full == ParkFull::DropOldest;
        drops && blocked == Blocked::Log && self.log.room() != Room::NoSpace && self.oldest_segment().is_some()
    }

    /// `DropOldest`: the entries of the oldest segment are discarded for those that find no room. It is used again once the
    /// cursor that says so is durable; a crash before that leaves them in the park, and one after it has nothing to
    /// take back.
    fn drop_oldest(&mut self, now: Instant, shared: &Shared) {
        let (first, last) = match self.oldest_segment() {
            Some(range) if self.log.room() == Room::Full && !self.log.will_free() => range,
            _ => return,
        };
        // Runs that touch become one: the table of the cursor only gets shorter.
        let count = self.left(first, last.next());
        self.gone.add(first, last.next());
        let counters = &shared.counters;
        counters.unparked.add(count);
        counters.discarded.add(count);
        counters.park_dropped.add(count);
        self.log.ack(now, self.gone.floor(), self.gone.above(), &[]);
        shared.tell_park_dropped(count, last);
    }

    /// First and last LSN of the oldest segment in which something is not gone, if another one follows: the newest is
    /// being filled, and cannot be used again.
    fn oldest_segment(&self) -> Option<(Lsn, Lsn)> {
        let first = self.gone.floor().next();
        let oldest = self.log.segments().find(first)?;
        let newest = self.log.segments().last()?;
        (oldest.uid != newest.uid && !oldest.is_empty()).then_some((first, oldest.end))
    }

    /// Delivery ends, and waits only for this. What has begun to enter the park and finds no room there may be in
    /// both logs then; the next opening delivers it again.
    fn give_up(&mut self, shared: &Shared) {
        for batch in self.waiting.drain(..) {
            let parked = batch.parked(self.log.durable());
            let why = "the queue closes, and the park is full".to_owned();
            shared.notices.push(Notice::NotParked(batch.lease, parked, why));
            shared.wake_delivery();
        }
    }

    /// Closes the log. What was asked before is still done.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        self.log.close(now);
        self.log.expect_no_acks();
    }

    /// Encodes the records of one lease into frames of the park log.
    fn fill(&mut self, index: usize, now: Instant, clock: &Clock) -> Result<bool, Blocked> {
        let mut moved = false;
        while let Some(record) = self.waiting[index].records.front() {
            let stride = stride_of(record.encoded_len());
            let mut frame = self.log.frame(now, clock.unix())?;
            // A full frame makes room for the rest of its chunk, and that, if it is too short, for a whole one.
            while frame.spare_mut().len() < stride {
                self.log.seal(now);
                frame = self.log.frame(now, clock.unix())?;
            }
            let in_frame = u64::from(frame.records());
            write_record(record, &mut frame.spare_mut()[..stride]);
            frame.advance(stride, 1, RunEnd { ring: 0, end: 0 });
            self.waiting[index].records.pop_front();
            let lsn = self.log.next_lsn().advance(in_frame);
            self.waiting[index].first.get_or_insert(lsn);
            moved = true;
        }
        if moved {
            self.log.seal(now);
            self.waiting[index].last = Some(self.log.next_lsn().prev());
        }
        Ok(moved)
    }

    /// The park takes no more: those who wait are told, the entries stay in retry.
    fn give_way(&mut self, shared: &Shared, blocked: &Blocked) {
        if matches!(blocked, Blocked::Pool) {
            return;
        }
        self.waiting.retain(|batch| {
            // What has begun to enter the park must go on: half of it may be durable.
            let untouched = batch.last.is_none() && batch.records.len() as u64 == batch.count;
            if untouched {
                shared.notices.push(Notice::NotParked(batch.lease, 0, blocked.to_string()));
                shared.wake_delivery();
            }
            !untouched
        });
    }

    /// Hands ops to the disk.
    pub(crate) fn submit(&mut self, now: Instant, disk: &mut dyn Disk, shared: &Shared) {
        self.log.set_reading(self.reader.reading());
        while let Some((token, op)) = self.log.poll_op(now) {
            disk.submit(token, op);
        }
        self.submit_listings(now, disk, shared);
    }

    pub(crate) fn handle_event(&mut self, event: Event, shared: &Shared) {
        match event {
            Event::Durable { lsn, runs, .. } => {
                self.log.recycle_runs(runs);
                while self.waiting.front().is_some_and(|batch| batch.last.is_some_and(|last| last <= lsn)) {
                    let Some(batch) = self.waiting.pop_front() else {
                        return;
                    };
                    // Once closing, it may be too late for the cursor: they count as what the log still holds.
                    if !self.closing {
                        shared.notices.push(Notice::Parked(batch.lease));
                        shared.wake_delivery();
                    }
                }
            }
            Event::CursorDurable(_) => {
                // Opening told it before anything was written: the first one that is durable says all of it.
                self.news = false;
                // The cursor holds the ranges as they were when it was written; those who wait asked before.
                if self.log.is_cursor_current() {
                    for (_, reply) in self.unparks.drain(..) {
                        let _ = reply.send(Ok(()));
                    }
                }
            }
            Event::Failed(failure) => {
                shared.status.set_park_room(Some(failure.to_string()));
                for batch in self.waiting.drain(..) {
                    let parked = batch.parked(self.log.durable());
                    shared.notices.push(Notice::NotParked(batch.lease, parked, failure.to_string()));
                }
                for (_, reply) in self.unparks.drain(..) {
                    let _ = reply.send(Err(LogError::Failed(failure.error.clone().into())));
                }
                shared.wake_delivery();
            }
            Event::Room(room) => shared.status.set_park_room(match room {
                Room::Ok => None,
                Room::Full => Some("park_bytes_max is reached; raise it, or discard parked entries".to_owned()),
                Room::NoSpace => Some("no space is left for another segment of the park".to_owned()),
            }),
            Event::Ready(_) | Event::Committed(_) | Event::Closed => {}
        }
    }
}

fn write_record(record: &ParkRecord, out: &mut [u8]) {
    let len = record.encoded_len();
    let word = Word::new(State::Ready, RECORD_HEADER_LEN + len);
    out[..4].copy_from_slice(&word.0.to_le_bytes());
    out[4..RECORD_HEADER_LEN].fill(0);
    record.encode_into(&mut out[RECORD_HEADER_LEN..RECORD_HEADER_LEN + len]);
    out[RECORD_HEADER_LEN + len..].fill(0);
}
