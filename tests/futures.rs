//! Feature `futures`: a producer as a `futures::Sink`, batches as a `futures::Stream`. Turn by turn on a simulated
//! machine and clock, and with threads.
#![cfg(feature = "testing")]

mod common;
#[path = "common/turns.rs"]
mod turns;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::{LONG, assert_accounted, in_memory, small};
use futures_util::{Sink as _, SinkExt, Stream, StreamExt, stream};
use ringwal::sim::{DiskKind, Fault, ManualClock, OpKind, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use ringwal::wal::mutant::Mutants;
use ringwal::{
    Batches, Builder, Durability, Handed, LogError, Outcome, ProducerSink, PushError, Queue, Retry, SendError,
    Shutdown, ShutdownError, Sink, Verdict, sink_fn, stream_sink,
};

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

const RETRY: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(500);

fn settings() -> Builder {
    let retry =
        Retry { base: RETRY, max: RETRY, jitter: ringwal::Jitter::None, attempts_max: Some(3), ..Retry::default() };
    Queue::builder("/simulated")
        .durability(Durability::Immediate)
        .rings(1)
        .pinned_rings(0)
        .ring_bytes(16 << 10)
        .entry_len_max(1016)
        .memory_max(8 << 20)
        .segment_len(512 << 10)
        .log_bytes_max(4 << 20)
        .park_bytes_max(2 << 20)
        .linger(Duration::ZERO)
        .batch_len_max(10)
        .retry(retry)
}

/// A queue whose turns a test makes.
struct Rig {
    queue: SteppedQueue<String>,
    machine: SimDisk,
    clock: ManualClock,
}

impl Rig {
    fn new(builder: Builder, sink: impl Sink<String>) -> Self {
        let clock = ManualClock::new();
        let kind = DiskKind::Fua;
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), kind, seed: 3, ..SimSettings::default() });
        let settings = SteppedSettings { seed: 5, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let queue = SteppedQueue::open(builder, settings, &machine, sink).unwrap();
        let mut rig = Self { queue, machine, clock };
        rig.settle();
        rig
    }

    fn streaming(builder: Builder) -> (Self, Batches<String>) {
        let (sink, batches) = stream_sink();
        (Self::new(builder, sink), batches)
    }

    /// Until nobody moves any more without time passing, or an answer.
    fn settle(&mut self) {
        turns::settle(&mut self.queue, &self.machine, &self.clock);
    }

    fn push(&mut self, text: &str) {
        self.queue.producer().try_push(text.to_owned()).unwrap();
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.clock.advance(time);
        self.settle();
    }

    fn close(&mut self, late: bool) -> Option<Result<Shutdown, ShutdownError>> {
        self.queue.begin_closing(true);
        for _ in 0..100 {
            self.settle();
            if let Some(outcome) = self.queue.poll_close(late) {
                return Some(outcome);
            }
        }
        None
    }
}

/// Runs a future on this thread, which must come to an end.
#[track_caller]
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + LONG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nobody has woken it in {LONG:?}");
        std::thread::park_timeout(left);
    }
}

fn swallow() -> impl Sink<String> {
    sink_fn(|_: ringwal::Batch<String>| async { Ok(()) })
}

fn next(batches: &mut Batches<String>, woken: &Arc<Woken>) -> Poll<Option<Handed<String>>> {
    Pin::new(batches).poll_next(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
}

/// The batch that lies there.
fn taken(batches: &mut Batches<String>) -> Handed<String> {
    match next(batches, &Arc::default()) {
        Poll::Ready(Some(handed)) => handed,
        other => panic!("no batch but {other:?}"),
    }
}

fn texts(handed: &Handed<String>) -> Vec<&str> {
    handed.values().map(String::as_str).collect()
}

#[test]
fn what_was_sent_is_on_disk_when_flush_says_so_and_not_before() {
    let mut rig = Rig::new(settings().durability(Durability::Periodic(Duration::from_secs(60))), swallow());
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut sink = rig.queue.producer().sink();
    for text in ["one", "two"] {
        assert!(matches!(Pin::new(&mut sink).poll_ready(&mut cx), Poll::Ready(Ok(()))));
        Pin::new(&mut sink).start_send(text.to_owned()).unwrap();
    }
    rig.settle();
    assert_eq!(rig.queue.metrics().durable_lsn.number(), 0, "nobody has asked, and the period is a minute");
    assert!(Pin::new(&mut sink).poll_flush(&mut cx).is_pending());
    rig.settle();
    assert_eq!((woken.count(), rig.queue.metrics().durable_lsn.number()), (1, 2));
    assert!(matches!(Pin::new(&mut sink).poll_flush(&mut cx), Poll::Ready(Ok(()))));
    // Nothing new: nothing to wait for. Closing is flushing, and leaves the queue open.
    assert!(matches!(Pin::new(&mut sink).poll_close(&mut cx), Poll::Ready(Ok(()))));
    rig.push("three");
}

/// The position was forgotten before it was known to be on disk: after a flush that had failed the next one said that all
/// was well.
#[test]
fn what_a_flush_could_not_bring_to_disk_the_next_one_does_not_say_to_be_there() {
    let mut rig = Rig::new(settings().durability(Durability::Periodic(Duration::from_secs(60))), swallow());
    let mut cx = Context::from_waker(Waker::noop());
    let mut sink = rig.queue.producer().sink();
    assert!(matches!(Pin::new(&mut sink).poll_ready(&mut cx), Poll::Ready(Ok(()))));
    Pin::new(&mut sink).start_send("one".to_owned()).unwrap();
    assert!(Pin::new(&mut sink).poll_flush(&mut cx).is_pending());
    // One that is sent while a flush is under way belongs to that flush.
    assert!(matches!(Pin::new(&mut sink).poll_ready(&mut cx), Poll::Ready(Ok(()))));
    Pin::new(&mut sink).start_send("two".to_owned()).unwrap();
    rig.settle();
    while Pin::new(&mut sink).poll_flush(&mut cx).is_pending() {
        rig.settle();
    }
    assert_eq!(rig.queue.metrics().durable_lsn.number(), 2);

    Pin::new(&mut sink).start_send("three".to_owned()).unwrap();
    rig.machine.inject(Fault::error(OpKind::Write, 5).forever());
    assert!(Pin::new(&mut sink).poll_flush(&mut cx).is_pending());
    rig.settle();
    for _ in 0..2 {
        let flushed = Pin::new(&mut sink).poll_flush(&mut cx);
        assert!(matches!(flushed, Poll::Ready(Err(SendError::Log(LogError::Failed(_))))), "{flushed:?}");
        let closed = Pin::new(&mut sink).poll_close(&mut cx);
        assert!(matches!(closed, Poll::Ready(Err(SendError::Log(LogError::Failed(_))))), "{closed:?}");
    }
}

/// Sends texts of this length until the ring is full; tells how many, the one that waits included.
fn fill(sink: &mut ProducerSink<String>, cx: &mut Context<'_>, len: usize) -> u64 {
    for sent in 0..1000 {
        match Pin::new(&mut *sink).poll_ready(cx) {
            Poll::Ready(ready) => ready.unwrap(),
            Poll::Pending => return sent,
        }
        Pin::new(&mut *sink).start_send("x".repeat(len)).unwrap();
    }
    panic!("1000 entries fit into a ring of 16 KiB");
}

#[test]
fn with_a_full_ring_the_task_waits_and_goes_on_when_there_is_space() {
    let mut rig = Rig::new(settings(), swallow());
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut sink = rig.queue.producer().sink();
    let sent = fill(&mut sink, &mut cx, 1000);
    assert!(sent > 10 && woken.count() == 0 && rig.queue.metrics().rejected == 0);
    rig.settle();
    assert!(woken.count() > 0, "there is space, and nobody has told the task");
    assert!(matches!(Pin::new(&mut sink).poll_ready(&mut cx), Poll::Ready(Ok(()))));
    assert!(Pin::new(&mut sink).poll_flush(&mut cx).is_pending());
    rig.settle();
    assert!(matches!(Pin::new(&mut sink).poll_flush(&mut cx), Poll::Ready(Ok(()))));
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.pushed, metrics.delivered), (sent, sent));
    assert_accounted(&metrics);
}

#[test]
fn a_handle_that_is_dropped_while_it_waits_takes_one_entry_along_and_leaves_the_queue_whole() {
    let mut rig = Rig::new(settings(), swallow());
    let mut cx = Context::from_waker(Waker::noop());
    let mut sink = rig.queue.producer().sink();
    let sent = fill(&mut sink, &mut cx, 1000);
    drop(sink);
    rig.settle();
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.pushed, metrics.delivered), (sent - 1, sent - 1));
    assert_accounted(&metrics);
    rig.push("and on");
    assert_eq!(rig.queue.metrics().delivered, sent);
}

#[test]
fn an_entry_that_is_refused_comes_back_and_the_next_one_goes_in() {
    let dir = in_memory();
    let queue = small(dir.path(), Durability::Immediate).open(swallow()).unwrap();
    let mut sink = queue.producer().sink();
    let refused = block_on(sink.send("x".repeat(3000))).unwrap_err();
    assert!(matches!(refused, SendError::Push(PushError::TooLong { entry, len: 3000, .. }) if entry.len() == 3000));
    block_on(sink.send_all(&mut stream::iter(["a", "b"].map(|text| Ok(text.to_owned()))))).unwrap();
    assert_eq!(queue.metrics().durable_lsn.number(), 2);
    queue.shutdown(LONG).unwrap();
    let refused = block_on(sink.send("too late".to_owned())).unwrap_err();
    assert!(matches!(refused, SendError::Push(PushError::Closed(entry)) if entry == "too late"));
}

#[test]
fn without_a_disk_sending_works_and_flushing_says_what_it_cannot_promise() {
    let queue = Queue::builder("nowhere").durability(Durability::Memory).open(swallow()).unwrap();
    let mut sink = queue.producer().sink();
    block_on(sink.feed("one".to_owned())).unwrap();
    for _ in 0..2 {
        assert!(matches!(block_on(sink.flush()), Err(SendError::Log(LogError::NotDurable))));
    }
    assert!(matches!(block_on(sink.close()), Err(SendError::Log(LogError::NotDurable))));
    assert_eq!(queue.shutdown(LONG).unwrap().delivered, 1);
}

#[test]
fn who_does_not_poll_takes_nothing_and_who_does_gets_batch_after_batch() {
    let (mut rig, mut batches) = Rig::streaming(settings());
    let woken = Arc::<Woken>::default();
    assert!(next(&mut batches, &woken).is_pending());
    for number in 0..25 {
        rig.push(&format!("{number}"));
    }
    assert_eq!(woken.count(), 1, "the task is told once");
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.in_flight, metrics.delivered), (1, 0), "the first went out alone, the others wait");
    let mut seen = Vec::new();
    while let Poll::Ready(Some(handed)) = next(&mut batches, &woken) {
        seen.extend(handed.values().cloned());
        assert!(next(&mut batches, &woken).is_pending(), "one batch at a time");
        assert!(!handed.is_late() && handed.ack());
        rig.settle();
    }
    assert_eq!(seen, (0..25).map(|number| number.to_string()).collect::<Vec<_>>());
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.delivered, metrics.delivery_failures), (25, 0));
    assert_accounted(&metrics);
}

#[test]
fn a_batch_that_is_dropped_is_retried_and_one_that_is_refused_is_parked() {
    let (mut rig, mut batches) = Rig::streaming(settings());
    rig.push("one");
    drop(taken(&mut batches));
    rig.settle();
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.delivery_failures, metrics.pending, metrics.delivered), (1, 1, 0));
    rig.wait(RETRY);
    let again = taken(&mut batches);
    assert_eq!((texts(&again), again.attempt()), (vec!["one"], 2));
    assert!(again.park("not this one"));
    rig.settle();
    rig.wait(RETRY);
    assert_eq!((rig.queue.metrics().parked, rig.queue.metrics().delivered), (1, 0));
    rig.push("two");
    rig.push("three");
    assert!(taken(&mut batches).retry("not now"));
    rig.settle();
    rig.wait(RETRY);
    assert!(taken(&mut batches).ack());
    rig.settle();
    let three = taken(&mut batches);
    assert_eq!(texts(&three), ["three"]);
    assert!(three.answer(Outcome::Each(vec![Verdict::Ack])));
    rig.settle();
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.delivered, metrics.parked, metrics.pending), (2, 1, 0));
    assert_accounted(&metrics);
}

#[test]
fn a_batch_that_nobody_took_in_time_is_taken_back_and_a_late_answer_is_told_so() {
    let (mut rig, mut batches) = Rig::streaming(settings().deliver_timeout(TIMEOUT));
    rig.push("one");
    rig.wait(TIMEOUT);
    assert_eq!(rig.queue.metrics().delivery_timeouts, 1);
    assert!(next(&mut batches, &Arc::default()).is_pending(), "the first offer was taken back");
    rig.wait(RETRY);
    let late = taken(&mut batches);
    assert_eq!((late.attempt(), late.is_late()), (2, false));
    rig.wait(TIMEOUT);
    assert!(late.is_late() && !late.ack(), "the answer came too late");
    rig.wait(RETRY);
    let third = taken(&mut batches);
    assert_eq!((third.attempt(), third.ack()), (3, true));
    rig.settle();
    assert_eq!((rig.queue.metrics().delivered, rig.queue.metrics().delivery_timeouts), (1, 2));
}

#[test]
fn several_batches_may_be_in_hand_and_be_answered_in_any_order() {
    // Entries without a key keep their order among themselves, so each of these has one.
    #[derive(Debug)]
    struct Keyed(u64);
    impl ringwal::Entry for Keyed {
        const SCHEMA: ringwal::Schema = ringwal::Schema::new("test.keyed", 1);
        fn encode(&self, out: &mut Vec<u8>) -> Result<(), ringwal::EncodeError> {
            out.extend(self.0.to_le_bytes());
            Ok(())
        }
        fn decode(bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
            Ok(Self(u64::from_le_bytes(bytes.try_into().map_err(ringwal::DecodeError::new)?)))
        }
        fn key(&self) -> Option<u64> {
            Some(self.0)
        }
    }
    let dir = in_memory();
    let (sink, mut batches) = stream_sink::<Keyed>();
    let queue = small(dir.path(), Durability::Immediate).batch_len_max(1).in_flight_max(2).open(sink).unwrap();
    for key in 0..4 {
        queue.producer().push(Keyed(key)).unwrap();
    }
    block_on(async {
        let first = batches.next().await.unwrap();
        let second = batches.next().await.unwrap();
        assert!(second.ack());
        let third = batches.next().await.unwrap();
        assert!(third.ack() && first.ack());
        assert!(batches.next().await.unwrap().ack());
    });
    let closed = queue.shutdown(LONG).unwrap();
    assert_eq!((closed.delivered, closed.left_in_log), (4, 0));
    assert!(block_on(batches.next()).is_none(), "a stream ends with its queue");
}

#[test]
fn shutting_down_with_a_batch_in_hand_leaves_it_in_the_log_and_ends_the_stream() {
    let (mut rig, mut batches) = Rig::streaming(settings().deliver_timeout(TIMEOUT));
    rig.push("one");
    let held = taken(&mut batches);
    let woken = Arc::<Woken>::default();
    assert!(next(&mut batches, &woken).is_pending());
    assert!(rig.close(false).is_none(), "it waits for the answer");
    let Some(Err(ShutdownError::Deadline(closed))) = rig.close(true) else { panic!("the time was over") };
    assert_eq!((closed.delivered, closed.left_in_log), (0, 1));
    rig.settle();
    assert!(!held.ack() && woken.count() > 0);
    assert!(matches!(next(&mut batches, &woken), Poll::Ready(None)));
}

#[test]
fn a_stream_that_is_dropped_fails_its_batches_and_loses_none() {
    let (mut rig, batches) = Rig::streaming(settings());
    rig.push("one");
    assert_eq!(rig.queue.metrics().in_flight, 1);
    drop(batches);
    rig.settle();
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.in_flight, metrics.pending, metrics.delivery_failures), (0, 1, 1));
    // Nobody is there the second and the third time either.
    for _ in 0..3 {
        rig.wait(RETRY);
    }
    let metrics = rig.queue.metrics();
    assert_eq!((metrics.parked, metrics.pending, metrics.delivery_failures), (1, 0, 3));
    assert_accounted(&metrics);
}
