//! The delivery thread: takes frames from the flush core, calls the sink, reports what became of it.
//!
//! ```text
//!   frames ─► Dispatcher ─► batch ─► decode ─► sink ─► verdict ─► Dispatcher ─► acks ─► flush core
//! ```
//! The thread calls the sink itself; with a deadline, or with several batches out, see `calls.rs`. A sink's panic is
//! contained here and counts as a retry; containing it needs unwinding (`panic = "unwind"`, the default).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::config::Park;
use crate::delivery::batch::{Batch, RawBatch};
use crate::delivery::dispatcher::{DeliveryEvent, Dispatcher};
use crate::delivery::lease::{Lease, LeaseId};
use crate::engine::call::{self, Answer, Call, block_on};
use crate::engine::calls::{Calls, Left};
use crate::engine::clock::Clock;
use crate::engine::{AckState, Command, Notice, Shared, mark_sink_thread};
use crate::entry::Entry;
use crate::error::OpenError;
use crate::lsn::Lsn;
use crate::sink::{DynSink, Outcome};
use crate::sync::atomic::Ordering;
use crate::sync::mpsc::SyncSender;
use crate::sync::thread;
use crate::time::Instant;
use crate::wal::frame::FrameKind;

/// The delivery thread's own.
pub(crate) struct Delivery<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sink: Arc<dyn DynSink<T>>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) clock: Clock,
    /// `None`: one batch at a time without a deadline, called by this thread.
    pub(crate) calls: Option<Calls>,
    /// What comes next cannot be what comes next: nothing more is taken.
    pub(crate) halted: bool,
    /// Entries that had had their exit when this was last looked at.
    pub(crate) exits: u64,
    /// Of batches that nobody will answer for any more: that is no failed attempt.
    pub(crate) kept: Vec<Lease>,
}

/// What delivery does when a turn is over.
#[must_use = "a batch waits for its answer"]
pub(crate) enum Next {
    /// It asks the sink, then turns again.
    Ask(Lease, Call),
    /// It turns again.
    Again,
    /// It rests until this moment, or until it is woken.
    Rest(Option<Instant>),
}

impl<T> Delivery<T> {
    /// Whether a call of the sink is out that others may come beside, or that has a deadline.
    #[cfg(all(feature = "testing", not(loom)))]
    pub(crate) fn is_out(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

impl<T: Entry> Delivery<T> {
    /// Gives a sink that blocks its threads, where several batches or a deadline need them.
    pub(crate) fn hire(&mut self) -> Result<(), OpenError> {
        let count = self.dispatcher.in_flight_max();
        self.calls.as_mut().map_or(Ok(()), |calls| calls.hire(&self.shared, count))
    }

    /// Runs until delivery is stopped, then closes the sink and says so.
    pub(crate) fn run(mut self, ended: SyncSender<()>) {
        mark_sink_thread(&self.shared);
        while !self.is_over() {
            match self.turn() {
                Next::Ask(lease, call) => {
                    let answer = self.shared.in_sink(|| block_on(call));
                    self.handle_answer(lease, answer);
                }
                Next::Again => {}
                Next::Rest(until) => self.wait(until),
            }
        }
        self.finish();
        // Nobody may be waiting any more.
        let _ = ended.send(());
    }

    /// Whether it was told to stop, and nothing that it has sent to the park is still on its way there: the cursor is
    /// to say what becomes of it. After the deadline, or without the flush core, nothing becomes of it any more.
    pub(crate) fn is_over(&self) -> bool {
        let is_stopped = self.shared.is_delivery_stopped();
        let is_parked = || self.dispatcher.parking() == 0 && self.shared.notices.is_empty();
        let is_back = || self.calls.as_ref().is_none_or(|calls| calls.in_time() == 0);
        is_stopped && (!self.shared.is_heard() || is_back() && (is_parked() || self.shared.has_ended()))
    }

    /// Tells what is left to tell, and closes the sink.
    pub(crate) fn finish(&mut self) {
        self.counted(Self::turn_events);
        if let Some(calls) = self.calls.take()
            && calls.end(&self.shared.status) == Left::AtWork
        {
            // Closing would come before the end of the last batch.
            return;
        }
        let close = AssertUnwindSafe(|| call::ask(&self.shared.config, self.sink.close_boxed()));
        if self.shared.in_sink(|| catch_unwind(close)).is_err() {
            self.shared.counters.sink_panics.add(1);
        }
    }

    /// Does what is to be done now, without waiting.
    pub(crate) fn turn(&mut self) -> Next {
        self.take_answers();
        let batch = self.counted(Self::next_batch).flatten();
        if let Some(calls) = &mut self.calls {
            calls.drop_late();
        }
        match batch {
            Some((lease, raw)) => self.deliver(lease, raw),
            None => self.rest(),
        }
    }

    /// Does what changes counts, unless the deadline of a shutdown is over.
    fn counted<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let shared = Arc::clone(&self.shared);
        shared.while_heard(|| work(self))
    }

    fn next_batch(&mut self) -> Option<(Lease, RawBatch)> {
        self.take_notices();
        self.take_frames();
        let now = self.clock.now();
        // ORDERING: Acquire: closing is told once, and for good.
        if self.shared.closing.load(Ordering::Acquire) {
            self.dispatcher.handle_closing();
        }
        self.dispatcher.hurry(self.shared.hurried());
        self.dispatcher.handle_timeout(now);
        self.turn_events();
        let rests = self.shared.is_paused() || self.shared.is_delivery_stopped();
        let batch = if rests { None } else { self.dispatcher.poll_delivery(now) };
        self.publish();
        self.publish_ages(now);
        batch
    }

    fn take_notices(&mut self) {
        while let Some(notice) = self.shared.notices.pop() {
            let now = self.clock.now();
            match notice {
                Notice::Parked(lease) => self.count_parked(|dispatcher| dispatcher.handle_parked(lease)),
                Notice::NotParked(lease, parked, why) => self.count_parked(|dispatcher| {
                    dispatcher.handle_first_parked(lease, parked);
                    dispatcher.handle_park_failed(now, lease, &why);
                }),
                // At the end of the log no frame follows that would show the gap, and somebody may wait for it.
                Notice::Lost(first, next) => self.dispatcher.handle_skipped(first, next),
            }
        }
    }

    fn count_parked(&mut self, handle: impl FnOnce(&mut Dispatcher)) {
        let before = self.dispatcher.counts().parked;
        handle(&mut self.dispatcher);
        let parked = self.dispatcher.counts().parked - before;
        self.publish();
        self.shared.counters.parked_in.add(parked);
    }

    /// Takes over what the dispatcher wants now: the rest waits where it can be let go.
    fn take_frames(&mut self) {
        let mut taken = false;
        while !self.halted && self.dispatcher.wants_frames() {
            let Some((frame, schema)) = self.shared.frames.pop() else {
                break;
            };
            taken = true;
            // The flush core hands frames over in order: what is not there was given up, or done with before.
            let next = self.dispatcher.next_lsn();
            let is_skip = frame.header.kind == FrameKind::Skip;
            let nothing_until = if is_skip { frame.header.next_lsn } else { frame.header.first_lsn };
            if frame.header.first_lsn > next {
                let missing = self.shared.holes.lock().first_outside(next, frame.header.first_lsn);
                if let Some(missing) = missing {
                    self.halt(&format!(
                        "delivery got LSN {} where {missing} must come, which nothing says is gone",
                        frame.header.first_lsn
                    ));
                    break;
                }
                self.dispatcher.handle_skipped(next, frame.header.first_lsn);
            }
            let never_were = match nothing_until.since(next) {
                0 => 0,
                len => len.saturating_sub(self.shared.holes.lock().count(next, nothing_until)),
            };
            let next_lsn = frame.header.next_lsn;
            if let Err(refused) = self.dispatcher.handle_frame(self.clock.now(), frame, &schema) {
                // Its checksums hold, so it is as it was written: an error of ours, or of another version.
                self.halt(&format!("a frame was refused: {refused}"));
                break;
            }
            self.shared.counters.seen_lsn.set(next_lsn.number());
            self.shared.counters.never_were.add(never_were);
        }
        if taken {
            // There is room for more, and the flush core may be asleep.
            self.shared.rings.doorbell().rouse();
        }
    }

    /// Delivery ends before what cannot be; what came before is still delivered, and all of it is kept.
    fn halt(&mut self, why: &str) {
        self.shared.tell_corrupt(why);
        self.shared.status.corrupt(why);
        self.halted = true;
        self.shared.done.fail();
    }

    fn turn_events(&mut self) {
        let mut acks = None;
        while let Some(event) = self.dispatcher.poll_event() {
            match event {
                DeliveryEvent::Acked { acked, done, attempts } => acks = Some(AckState { acked, done, attempts }),
                DeliveryEvent::Park { lease, entries } => {
                    self.shared.tell_park(&entries);
                    if self.shared.config.park == Park::Dir {
                        self.shared.command(Command::Park { lease, records: entries });
                    } else {
                        let count = entries.len() as u64;
                        self.dispatcher.handle_parked(lease);
                        self.publish();
                        self.shared.counters.refused_for_good.add(count);
                    }
                }
                DeliveryEvent::Retry { entries, attempts, due, why } => {
                    self.shared.counters.retries.add(entries as u64);
                    self.shared.status.set_sink_attempts(attempts);
                    self.shared.tell_retry(entries, attempts, due.since(self.clock.now()), &why);
                }
                DeliveryEvent::Overdue { lease } => {
                    self.shared.tell_overdue();
                    self.end_overdue(lease);
                }
            }
        }
        if let Some(acks) = acks {
            let acked = acks.acked;
            self.publish();
            *self.shared.acks.lock() = Some(acks);
            self.shared.rings.doorbell().rouse();
            self.shared.publish_done(acked);
        }
    }

    fn deliver(&mut self, lease: Lease, raw: RawBatch) -> Next {
        let deadline = lease.deadline().and_then(|at| self.clock.to_std(at));
        let (batch, undecodable) = Batch::<T>::decode(raw, deadline);
        for failure in undecodable {
            self.dispatcher.handle_undecodable(&lease, failure.index, failure.error);
        }
        if batch.is_empty() {
            self.counted(|delivery| delivery.settle(delivery.clock.now(), lease, Outcome::ack()));
            return Next::Again;
        }
        self.shared.counters.batch_len.record(batch.len() as u64);
        let sink = Arc::clone(&self.sink);
        let span = self.shared.tell_asked(&lease, &batch);
        let asked = Box::pin(async move { sink.deliver_boxed(batch).await });
        let call = Call::new(&self.shared, asked, span, self.sink.blocks_thread());
        match &mut self.calls {
            None => Next::Ask(lease, call),
            Some(calls) => {
                calls.start(lease, call);
                Next::Again
            }
        }
    }

    fn take_answers(&mut self) {
        let Some(calls) = &mut self.calls else {
            return;
        };
        let waker = self.shared.delivery_waker.get().map_or(Waker::noop(), |waker| waker);
        for (lease, answer) in self.shared.in_sink(|| calls.poll_answers(waker)) {
            self.handle_answer(lease, answer);
        }
    }

    fn end_overdue(&mut self, lease: LeaseId) {
        if let Some(lease) = self.calls.as_mut().and_then(|calls| calls.end_overdue(lease)) {
            self.dispatcher.handle_verdict(self.clock.now(), lease, Outcome::retry("the sink gave no answer in time"));
        }
    }

    /// Whether nothing is left but calls that have not come back in time, and the queue closes: no use to wait for more.
    fn is_given_up(&self) -> bool {
        let hurried = self.shared.hurried();
        let all_here = hurried > Lsn::ZERO && hurried < self.dispatcher.next_lsn();
        let nothing_more = self.dispatcher.is_full() || all_here && self.shared.frames.is_empty();
        // ORDERING: Acquire, as in `next_batch`.
        self.shared.closing.load(Ordering::Acquire)
            && self.calls.as_ref().is_some_and(|calls| calls.overdue() > 0)
            && nothing_more
            // Of those that are out and in time it has the deadline, and of those in retry when they are due.
            && self.dispatcher.poll_timeout().is_none()
            && self.dispatcher.parking() == 0
    }

    /// The sink has answered, or panicked.
    pub(crate) fn handle_answer(&mut self, lease: Lease, answer: Answer) {
        if self.shared.status.has_runtime_ended() {
            return self.kept.push(lease);
        }
        if self.counted(|delivery| delivery.take_answer(lease, answer)).is_none() {
            self.shared.set_answered_late();
        }
    }

    fn take_answer(&mut self, lease: Lease, answer: Answer) {
        let now = self.clock.now();
        let took = now.since(lease.given());
        self.shared.counters.delivery_time.record_time(took);
        self.shared.tell_answer(&lease, answer.as_ref(), took);
        let outcome = answer.unwrap_or_else(|panic| {
            self.shared.counters.sink_panics.add(1);
            Outcome::retry(panic.to_string())
        });
        self.settle(now, lease, outcome);
    }

    fn settle(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        let delivered_before = self.dispatcher.counts().delivered;
        self.dispatcher.handle_verdict(now, lease, outcome);
        if self.dispatcher.counts().delivered > delivered_before {
            self.shared.status.set_sink_attempts(0);
        }
        self.turn_events();
    }

    fn rest(&self) -> Next {
        if self.is_given_up() {
            self.shared.done.fail();
        }
        let wants_frames = !self.halted && !self.shared.frames.is_empty() && self.dispatcher.pending() == 0;
        // This turn may have taken the last that the end was waited for: nobody will say so once more.
        if wants_frames || self.is_over() {
            return Next::Again;
        }
        // A breaker that is open becomes half-open by time alone, in a pause too.
        Next::Rest(match self.shared.is_paused() || self.shared.is_delivery_stopped() {
            true => self.dispatcher.breaker_open_until().into_iter().chain(self.dispatcher.next_deadline()).min(),
            false => self.dispatcher.poll_timeout(),
        })
    }

    fn wait(&self, until: Option<Instant>) {
        match until {
            Some(at) => {
                let left = at.since(self.clock.now());
                if !left.is_zero() {
                    thread::park_timeout(left);
                }
            }
            None => thread::park_timeout(Duration::from_secs(3600)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::delivery::dispatcher::DeliveryConfig;
    use crate::engine::Status;
    use crate::io::Disk;
    use crate::io::memory::RamDisk;
    use crate::lsn::SegmentUid;
    use crate::metrics::{Counters, Holes};
    use crate::recovery::Recovery;
    use crate::ring::record::{RECORD_HEADER_LEN, State, Word};
    use crate::ring::{Rings, RingsConfig};
    use crate::sink::sink_fn;
    use crate::time::UnixNanos;
    use crate::wal::block::Pool;
    use crate::wal::coding::BodyCoding;
    use crate::wal::cursor::Cursor;
    use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader};

    fn delivery(holes: Holes) -> Delivery<Vec<u8>> {
        let config = Config::new(Path::new("nowhere"));
        let disk = RamDisk::new();
        let rings = RingsConfig { shared: 1, pinned: 0, ring_len: 4096, entry_len_max: 64 };
        let (rings, _) = Rings::new(rings, disk.doorbell()).unwrap();
        let recovery = Recovery {
            from_rings: 0,
            incomplete_in_rings: 0,
            new: true,
            clean: true,
            recovered: 0,
            parked: 0,
            end: Lsn::ZERO,
            next: Lsn::FIRST,
            torn_tail: None,
            torn_tail_parked: None,
            lost: Vec::new(),
            lost_parked: Vec::new(),
            earlier: Default::default(),
            took: Duration::ZERO,
            disk: disk.report(),
            incarnation: Default::default(),
        };
        let dispatcher = DeliveryConfig {
            batch_len_max: 100,
            batch_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            retry: config.retry,
            breaker: None,
            deliver_timeout: None,
            in_flight_max: 1,
            held_max: 0,
            adaptive: None,
            partial: false,
            seed: 1,
            unix_start: UnixNanos(0),
        };
        let shared = Shared::new(config, rings, Counters::default(), holes, recovery, Lsn::ZERO, Status::default());
        Delivery {
            shared: Arc::new(shared),
            sink: Arc::new(sink_fn(|_: Batch<Vec<u8>>| async { Ok::<(), crate::sink::SinkError>(()) })),
            dispatcher: Dispatcher::new(dispatcher, &Cursor::default()),
            clock: Clock::start(),
            calls: None,
            halted: false,
            exits: 0,
            kept: Vec::new(),
        }
    }

    /// Empty entries `first..next`, or a SKIP over them.
    fn frame(kind: FrameKind, first: u64, next: u64) -> Frame {
        let records = if kind == FrameKind::Data { u32::try_from(next - first).unwrap() } else { 0 };
        let mut chunk = Pool::new(1, 4096).unwrap().take().unwrap();
        chunk.fill(0);
        let word = Word::new(State::Ready, RECORD_HEADER_LEN).0.to_le_bytes();
        for at in 0..records as usize {
            chunk[FRAME_HEADER_LEN + at * RECORD_HEADER_LEN..][..4].copy_from_slice(&word);
        }
        let body_len = records * u32::try_from(RECORD_HEADER_LEN).unwrap();
        let header = FrameHeader {
            kind,
            seg_uid: SegmentUid::NONE,
            first_lsn: Lsn::new(first),
            next_lsn: Lsn::new(next),
            durable_lsn: Lsn::ZERO,
            acked_lsn: Lsn::ZERO,
            time: UnixNanos(0),
            position: 0,
            record_count: records,
            coding: BodyCoding::PLAIN,
            body_len,
            raw_len: body_len,
            body_crc: 0,
        };
        Frame { header, block: chunk.freeze(), runs: Vec::new(), place: None }
    }

    fn give(delivery: &mut Delivery<Vec<u8>>, frame: Frame) {
        assert!(delivery.shared.frames.push((frame, Vec::<u8>::SCHEMA)).is_ok());
        delivery.take_frames();
    }

    #[test]
    fn a_gap_that_nothing_accounts_for_ends_delivery_before_it() {
        let mut holes = Holes::default();
        holes.add(Lsn::new(4), Lsn::new(6));
        let mut delivery = delivery(holes);
        give(&mut delivery, frame(FrameKind::Data, 1, 4));
        // 4 and 5 are known to be gone, and a SKIP says so of 8 and 9.
        give(&mut delivery, frame(FrameKind::Data, 6, 8));
        give(&mut delivery, frame(FrameKind::Skip, 8, 10));
        give(&mut delivery, frame(FrameKind::Data, 10, 11));
        assert_eq!((delivery.dispatcher.next_lsn(), delivery.dispatcher.pending()), (Lsn::new(11), 6));
        assert!(!delivery.halted && delivery.shared.status.corruption().is_none());
        // 11 is missing.
        give(&mut delivery, frame(FrameKind::Data, 12, 14));
        assert_eq!((delivery.dispatcher.next_lsn(), delivery.dispatcher.pending()), (Lsn::new(11), 6));
        let why = delivery.shared.status.corruption().unwrap();
        assert!(why.contains("LSN 12") && why.contains("11 must"), "{why}");
        // Nothing that comes later is taken either; what came before goes to the sink.
        give(&mut delivery, frame(FrameKind::Data, 11, 12));
        assert_eq!(delivery.dispatcher.next_lsn(), Lsn::new(11));
        let Next::Ask(lease, call) = delivery.turn() else { panic!("a batch is due") };
        let answer = block_on(call);
        delivery.handle_answer(lease, answer);
        assert_eq!(delivery.dispatcher.acked(), Lsn::new(10));
    }
}
