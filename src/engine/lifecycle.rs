//! Opening and closing: which thread starts when, and in what order they end.
//!
//! ```text
//!   open:   check ─► lock, probe ─► flush core (recovers) ─► delivery thread ─► Queue
//!   close:  refuse pushes ─► rings into the log ─► sink until the deadline ─► stop delivery ─► close logs
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Durability};
use crate::delivery::dispatcher::{DeliveryConfig, Dispatcher};
use crate::engine::call::{self, Unpark};
use crate::engine::calls::Calls;
use crate::engine::clock::Clock;
use crate::engine::deliver::Delivery;
use crate::engine::opening::{Opening, Source, Start};
use crate::engine::{Command, Shared, deadline_after};
use crate::entry::Entry;
use crate::error::{ConfigError, LogError, OpenError, Shutdown, ShutdownError};
use crate::io::{self, IoConfig, IoOpenError, takes_nothing};
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::sink::{DynSink, Sink};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use crate::sync::thread::{self, JoinHandle};
use crate::time::UnixNanos;
use crate::wal::mutant::Mutants;
use crate::wal::op::DiskError;
use crate::wal::recovery::find::NUMBER_MAX;

/// How long closing the logs may take beyond the time that the user gave: syncs do not hurry.
const CLOSE_LOGS_WITHIN: Duration = Duration::from_secs(30);
/// How long closing waits for a delivery thread that is not in its sink's code, and so ends as soon as the machine runs it.
const DELIVERY_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The sink's answer may lie behind the log's end: with `Spill` it gets what never came to the disk. What it names here at
/// most leaves as many numbers again before those that recovery takes for damage.
const COMMITTED_MAX: Lsn = Lsn::new(NUMBER_MAX / 2);
/// One of so many bytes of memory is added for entries that wait for their key: as much as frames that delivery has.
const HELD_PART: u64 = 8;

/// The queue's threads.
#[derive(Debug)]
pub(crate) struct Engine {
    flush: JoinHandle<()>,
    delivery: JoinHandle<()>,
    // Locked by nobody: only so that a queue may be shared by threads.
    flush_ended: Mutex<Receiver<()>>,
    delivery_ended: Mutex<Receiver<()>>,
}

pub(crate) fn open<T: Entry, S: Sink<T>>(config: Config, sink: S) -> Result<(Arc<Shared>, Engine), OpenError> {
    config.check()?;
    if config.durability == Durability::Memory {
        return start::<T>(config, Box::new(sink), Source::Memory, None);
    }
    let io = IoConfig { choice: config.io, lock_wait: config.lock_wait, create: true, read_only: false };
    let opened = io::open(&config.dir, io).map_err(io_error)?;
    let meta = io::peek_meta(&config.dir);
    start::<T>(config, Box::new(sink), Source::Directory(opened), meta)
}

/// Opens on a disk that a test has made.
#[cfg(feature = "testing")]
pub(crate) fn open_on<T: Entry, S: Sink<T>>(
    config: Config,
    disk: impl io::Disk + 'static,
    sink: S,
) -> Result<(Arc<Shared>, Engine), OpenError> {
    config.check()?;
    start::<T>(config, Box::new(sink), Source::Given(Box::new(disk)), None)
}

fn start<T: Entry>(
    config: Config,
    sink: Box<dyn DynSink<T>>,
    source: Source,
    meta: Option<crate::wal::meta::Meta>,
) -> Result<(Arc<Shared>, Engine), OpenError> {
    let committed = ask_committed(&config, &*sink)?;
    if config.durability == Durability::Memory && committed.is_some() {
        return Err(OpenError::CommittedInMemory);
    }
    let seed = u64::from_le_bytes(random()?);
    let opening = Opening {
        config: config.clone().for_committed(committed),
        source,
        schema: T::SCHEMA,
        accepts: T::accepts,
        committed,
        meta,
        seed,
        salt: random()?,
        clock: Clock::start(),
        mutants: Mutants::NONE,
    };
    let (started, start) = sync_channel(1);
    let (flush_ends, flush_ended) = sync_channel(1);
    let (delivery_ends, delivery_ended) = sync_channel(1);
    let flush = spawn(&config, "flush", move || {
        io::block_signals();
        let flush = match pin("cpu", opening.config.cpu).and_then(|()| opening.run()) {
            Ok((flush, start)) => {
                let _ = started.send(Ok(start));
                flush
            }
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let shared = Arc::clone(&flush.shared);
        if catch_unwind(AssertUnwindSafe(|| flush.run())).is_err() {
            // An error of ours. What was durable is; nobody must wait for the rest.
            shared.status.fail(panicked("the flush core"));
            shared.close_rings();
            shared.end();
        }
        let _ = flush_ends.send(());
    })?;
    let start = match start.recv() {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => {
            let _ = flush.join();
            return Err(error);
        }
        Err(_) => {
            let panic = flush.join().err().map_or(String::new(), |_| " (it panicked)".to_owned());
            return Err(OpenError::Resources {
                what: format!("an answer from the flush core{panic}"),
                source: std::io::ErrorKind::Other.into(),
            });
        }
    };
    let shared = Arc::clone(&start.shared);
    let mut thread = delivery(start, sink, seed);
    let watched = Arc::clone(&shared);
    let hired = thread.hire();
    let delivery = hired.and_then(|()| {
        spawn_sink(&shared.config, "sink", move || {
            if catch_unwind(AssertUnwindSafe(|| thread.run(delivery_ends))).is_err() {
                watched.status.corrupt("the delivery thread panicked; this is an error in ringwal");
                watched.done.fail();
            }
        })
    });
    let delivery = match delivery {
        Ok(delivery) => delivery,
        Err(error) => {
            // The flush core runs already, and must not live on with the directory's lock.
            shared.close_rings();
            shared.command(Command::Close);
            let _ = flush.join();
            return Err(error);
        }
    };
    let _ = shared.delivery_waker.set(Unpark::waker(delivery.thread().clone()));
    shared.wake_delivery();
    let (flush_ended, delivery_ended) = (Mutex::new(flush_ended), Mutex::new(delivery_ended));
    Ok((shared, Engine { flush, delivery, flush_ended, delivery_ended }))
}

/// Delivery as it is after opening.
pub(crate) fn delivery<T: Entry>(start: Start, sink: Box<dyn DynSink<T>>, seed: u64) -> Delivery<T> {
    let Start { shared, cursor, clock } = start;
    let config = &shared.config;
    let in_flight_max = config.in_flight_max.min(sink.at_once_max_dyn()).max(1);
    let delivery = DeliveryConfig {
        batch_len_max: config.batch_len_max,
        batch_bytes_max: config.batch_bytes_max as u64,
        linger: config.linger,
        retry: config.retry,
        breaker: config.breaker,
        deliver_timeout: config.deliver_timeout,
        in_flight_max,
        held_max: config.memory_max / HELD_PART,
        adaptive: config.adaptive,
        partial: sink.answers_each(),
        seed: seed.rotate_left(17),
        unix_start: unix_start(&clock),
    };
    let dispatcher = Dispatcher::new(delivery, &cursor);
    let calls = in_flight_max > 1 || config.deliver_timeout.is_some();
    let calls = calls.then(|| Calls::new(sink.blocks_thread()));
    Delivery { shared, sink: sink.into(), dispatcher, clock, calls, halted: false, exits: 0, kept: Vec::new() }
}

pub(crate) fn ask_committed<T: Entry>(config: &Config, sink: &dyn DynSink<T>) -> Result<Option<Lsn>, OpenError> {
    let asked = catch_unwind(AssertUnwindSafe(|| call::ask(config, sink.committed_boxed()))).unwrap_or_else(|_| {
        Err(OpenError::Resources {
            what: "the sink's committed LSN: it panicked".to_owned(),
            source: std::io::ErrorKind::Other.into(),
        })
    })?;
    match asked {
        Some(lsn) if lsn > COMMITTED_MAX => Err(OpenError::CommittedTooHigh { lsn, max: COMMITTED_MAX }),
        committed => Ok(committed),
    }
}

fn random<const N: usize>() -> Result<[u8; N], OpenError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| OpenError::Resources {
        what: format!("random numbers ({error})"),
        source: std::io::ErrorKind::Other.into(),
    })?;
    Ok(bytes)
}

fn panicked(what: &'static str) -> DiskError {
    DiskError { what, file: None, offset: None, errno: 0, detail: "it panicked; this is an error in ringwal" }
}

fn unix_start(clock: &Clock) -> UnixNanos {
    UnixNanos(clock.unix().0.saturating_sub(clock.now().as_nanos()))
}

pub(crate) fn spawn(
    config: &Config,
    role: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new()
        .name(format!("{}-{role}", config.name))
        .spawn(run)
        .map_err(|source| OpenError::Resources { what: format!("the {role} thread"), source })
}

fn pin(key: &'static str, cpu: Option<usize>) -> Result<(), OpenError> {
    cpu.map_or(Ok(()), io::pin_to_cpu).map_err(|error| {
        ConfigError::new(key, cpu.unwrap_or_default(), format!("a CPU that this process may use ({error})")).into()
    })
}

/// Starts a thread that calls the sink, on the CPU that is set for such.
pub(crate) fn spawn_sink(
    config: &Config,
    role: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let Some(cpu) = config.sink_cpu else {
        return spawn(config, role, run);
    };
    let (placed, is_placed) = sync_channel(1);
    let thread = spawn(config, role, move || {
        let outcome = pin("sink_cpu", Some(cpu));
        let goes_on = outcome.is_ok();
        let _ = placed.send(outcome);
        if goes_on {
            run();
        }
    })?;
    match is_placed.recv() {
        Ok(Ok(())) => Ok(thread),
        refused => {
            let _ = thread.join();
            refused.unwrap_or(Ok(())).map(|()| unreachable!("a thread says whether it is placed"))
        }
    }
}

impl Engine {
    /// Closes the queue. With `deliver` the sink gets what is left until the time is over.
    pub(crate) fn shutdown(
        self,
        shared: &Arc<Shared>,
        within: Duration,
        deliver: bool,
    ) -> Result<Shutdown, ShutdownError> {
        let deadline = deadline_after(within);
        begin_closing(shared);
        // Everything that was pushed gets an LSN, and with one a place in the log.
        let last = shared.fence(deadline);
        // A paused sink gets nothing more, so there is nothing to wait for.
        if let Ok(last) = last
            && deliver
            && !shared.is_paused()
        {
            let _ = shared.done.wait(last.number(), Some(deadline.saturating_duration_since(Instant::now())));
        }
        shared.stop_delivery();
        // A batch that is out may be finished, and what goes into the park get there, as long as there is time: at
        // least a moment.
        let moment = Duration::from_millis(100);
        let left = deadline.saturating_duration_since(Instant::now()).max(moment);
        let ended = self.delivery_ended.into_inner();
        let mut delivery_ended = ended.recv_timeout(left);
        shared.hear_no_more();
        shared.command(Command::Close);
        let flush_ended = self.flush_ended.into_inner().recv_timeout(CLOSE_LOGS_WITHIN);
        if delivery_ended == Err(RecvTimeoutError::Timeout) {
            // If it was the park alone that it waited for, it ends now. Where it is not in the sink's code it only has to
            // be run, by a machine that may have much else to do.
            let patience = deadline_after(DELIVERY_ENDS_WITHIN);
            let gives_up = || shared.is_sink_at_work() || Instant::now() >= patience;
            delivery_ended = wait_for_end(|| ended.recv_timeout(moment), gives_up);
        }
        let is_silent = flush_ended == Err(RecvTimeoutError::Timeout);
        let outcome = outcome_of(shared, is_silent);
        if is_silent {
            // The threads end when the disk answers.
            return outcome;
        }
        let _ = self.flush.join();
        if delivery_ended == Err(RecvTimeoutError::Timeout) {
            // The sink hangs in its batch; the thread ends when it comes back.
            return late(outcome);
        }
        let _ = self.delivery.join();
        if shared.has_answered_late() { late(outcome) } else { outcome }
    }
}

/// Waits for a thread's end, a moment at a time: one in any case, and then as long as nobody gives up.
fn wait_for_end(
    mut wait: impl FnMut() -> Result<(), RecvTimeoutError>,
    gives_up: impl Fn() -> bool,
) -> Result<(), RecvTimeoutError> {
    loop {
        let ended = wait();
        if ended != Err(RecvTimeoutError::Timeout) || gives_up() {
            return ended;
        }
    }
}

/// The sink was still busy when the time was over.
fn late(outcome: Result<Shutdown, ShutdownError>) -> Result<Shutdown, ShutdownError> {
    outcome.and_then(|state| Err(ShutdownError::Deadline(state)))
}

/// The first step of closing: pushes are refused, and nothing lingers.
pub(crate) fn begin_closing(shared: &Shared) {
    shared.tell_closing();
    shared.close_rings();
    // ORDERING: Release: the delivery thread sees the rings closed.
    shared.closing.store(true, Ordering::Release);
    shared.wake_delivery();
}

/// What has become of the entries, once the threads have ended; or, if the disk is silent, while the flush core waits for
/// it.
pub(crate) fn outcome_of(shared: &Shared, is_silent: bool) -> Result<Shutdown, ShutdownError> {
    let outcome = if is_silent { disk_silent(shared) } else { count_outcome(shared) };
    shared.tell_closed(&outcome);
    outcome
}

fn disk_silent(shared: &Shared) -> Result<Shutdown, ShutdownError> {
    let metrics = shared.metrics();
    let (undelivered, unsure) = undelivered(&metrics);
    let Metrics { delivered, parked, discarded, ring_bytes, .. } = metrics;
    let state = Shutdown { delivered, parked, discarded, left_in_log: undelivered - unsure, lost: 0 };
    Err(ShutdownError::DiskSilent { state, unsure, ring_bytes })
}

/// Entries that have had no exit, and how many of them are not known to be durable. The cursor is below all of them.
fn undelivered(metrics: &Metrics) -> (u64, u64) {
    let undelivered = metrics.pending + metrics.in_flight;
    let durable = metrics.durable_lsn.min(metrics.last_lsn);
    (undelivered, metrics.last_lsn.since(durable).min(undelivered))
}

fn count_outcome(shared: &Shared) -> Result<Shutdown, ShutdownError> {
    let metrics = shared.metrics();
    // What is durable waits in the log; what is not is gone.
    let (undelivered, not_durable) = undelivered(&metrics);
    let is_lost = shared.config.durability == Durability::Memory || shared.status.failure().is_some();
    let lost = if shared.config.durability == Durability::Memory {
        undelivered
    } else if is_lost {
        not_durable
    } else {
        shared.status.unplaced().min(undelivered)
    };
    let left_in_log = undelivered - lost;
    let lost = lost + shared.status.left_in_rings();
    // The next opening finds the rings, and in them what the log does not have.
    let (left_in_log, lost) = if shared.status.rings_left() { (left_in_log + lost, 0) } else { (left_in_log, lost) };
    if let Some(cause) = shared.status.failure() {
        return Err(ShutdownError::Storage { cause: LogError::Failed(Arc::clone(cause)), lost });
    }
    let Metrics { delivered, parked, discarded, .. } = metrics;
    let state = Shutdown { delivered, parked, discarded, left_in_log, lost };
    if shared.status.is_sink_hung() { Err(ShutdownError::Deadline(state)) } else { Ok(state) }
}

/// A queue was dropped without shutdown: one line, if something is left.
pub(crate) fn warn_of_drop(shared: &Shared, outcome: &Result<Shutdown, ShutdownError>) {
    let name = shared.config.name();
    match outcome {
        Ok(state) if state.left_in_log == 0 && state.lost == 0 => {}
        Ok(state) => eprintln!(
            "ringwal: queue {name:?} was dropped without shutdown: {} entries wait in the log for the next start, {} are lost",
            state.left_in_log, state.lost
        ),
        Err(error) => eprintln!("ringwal: queue {name:?} was dropped without shutdown: {error}"),
    }
}

/// A refused opening, in the words of the queue.
pub(crate) fn io_error(error: IoOpenError) -> OpenError {
    match error {
        IoOpenError::Locked { dir, pid } => OpenError::Locked { dir, pid },
        IoOpenError::NotADirectory { path } => OpenError::NotADirectory { path },
        IoOpenError::NoSpace { path } => OpenError::NoSpace { dir: path, need: 4096 },
        IoOpenError::NotInMemory { ref path, .. } | IoOpenError::NotOurs { ref path, .. } => {
            OpenError::Rings { file: path.clone(), why: error.to_string() }
        }
        IoOpenError::UringRefused { .. } => OpenError::UringRefused { why: error.to_string() },
        IoOpenError::Io { what, path, source } => OpenError::Io { what: what.to_owned(), path, source },
        IoOpenError::Missing { path } => {
            OpenError::Io { what: "find".to_owned(), path, source: std::io::ErrorKind::NotFound.into() }
        }
        IoOpenError::TakesNothing { path, above } => {
            OpenError::Io { what: "create".to_owned(), path, source: std::io::Error::other(takes_nothing(&above)) }
        }
        IoOpenError::Permission { what, path } => {
            OpenError::Io { what: what.to_owned(), path, source: std::io::ErrorKind::PermissionDenied.into() }
        }
        IoOpenError::ReadOnlyFs { path } => {
            OpenError::Io { what: "write to".to_owned(), path, source: std::io::ErrorKind::ReadOnlyFilesystem.into() }
        }
    }
}

#[cfg(all(test, feature = "testing", not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::OnceLock;

    use super::*;
    use crate::config::Io;
    use crate::delivery::batch::Batch;
    use crate::queue::Queue;
    use crate::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
    use crate::sink::{Outcome, SinkError, blocking_fn, sink_fn};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_thread_that_is_not_run_is_waited_for_until_somebody_gives_up() {
        const LATE: Result<(), RecvTimeoutError> = Err(RecvTimeoutError::Timeout);
        let waits = Cell::new(0);
        let ends_at = |moment| {
            waits.set(0);
            let waits = &waits;
            move || {
                waits.set(waits.get() + 1);
                if waits.get() == moment { Ok(()) } else { LATE }
            }
        };
        assert_eq!((wait_for_end(ends_at(7), || false), waits.get()), (Ok(()), 7));
        assert_eq!((wait_for_end(ends_at(7), || waits.get() >= 3), waits.get()), (LATE, 3));
        assert_eq!((wait_for_end(ends_at(1), || true), waits.get()), (Ok(()), 1), "a moment in any case");
        let gone = || Err(RecvTimeoutError::Disconnected);
        assert_eq!(wait_for_end(gone, || false), Err(RecvTimeoutError::Disconnected), "it panicked");
    }

    /// Threads in place of a queue's own: a delivery thread that nothing runs for some moments after it could end.
    #[test]
    fn closing_waits_for_a_delivery_thread_that_is_late_and_not_in_its_sink() {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let settings = SteppedSettings { seed: 1, clock, store: None, mutants: Mutants::NONE };
        let sink = sink_fn(|_: Batch<Vec<u8>>| async { Ok::<(), SinkError>(()) });
        let queue = SteppedQueue::open(Queue::builder(Path::new("simulated")), settings, &machine, sink).unwrap();
        let shared = queue.producer().shared;
        let (flush_ends, flush_ended) = sync_channel(1);
        let (delivery_ends, delivery_ended) = sync_channel(1);
        let flush = thread::spawn(move || flush_ends.send(()).unwrap());
        let seen = Arc::clone(&shared);
        let delivery = thread::spawn(move || {
            while seen.is_heard() {
                thread::yield_now();
            }
            // Far less than what it is waited for, and some moments more than one.
            thread::sleep(Duration::from_millis(400));
            delivery_ends.send(()).unwrap();
        });
        let (flush_ended, delivery_ended) = (Mutex::new(flush_ended), Mutex::new(delivery_ended));
        let engine = Engine { flush, delivery, flush_ended, delivery_ended };
        let outcome = engine.shutdown(&shared, Duration::ZERO, true);
        assert!(outcome.is_ok(), "the sink is not to blame: {outcome:?}");
    }

    /// Asked from within the sink, whichever way it is called, and after its end. On the driver that valgrind can run.
    #[test]
    fn a_sink_is_at_work_while_its_code_runs_and_only_then() {
        struct Told(Arc<OnceLock<Arc<Shared>>>);

        impl Told {
            fn is_at_work(&self) -> bool {
                self.0.wait().is_sink_at_work()
            }
        }

        impl Sink<Vec<u8>> for Told {
            async fn deliver(&self, _: Batch<Vec<u8>>) -> Outcome {
                if self.is_at_work() { Outcome::ack() } else { Outcome::park("nobody sees it at work") }
            }

            async fn close(&self) {
                assert!(self.is_at_work(), "it is closed by nobody");
            }
        }

        // One call at a time, polled where it is; or several, beside each other.
        for in_flight_max in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let told = Arc::<OnceLock<Arc<Shared>>>::default();
            let builder = Queue::builder(dir.path()).io(Io::Threads).in_flight_max(in_flight_max);
            let queue = builder.open(Told(Arc::clone(&told))).unwrap();
            let shared = queue.producer().shared;
            assert!(told.set(Arc::clone(&shared)).is_ok());
            queue.producer().push(vec![1]).unwrap();
            queue.drain(LONG).unwrap();
            let state = queue.shutdown(LONG).unwrap();
            assert_eq!((state.delivered, state.parked), (1, 0), "{in_flight_max} at once");
            assert_eq!((shared.counters.sink_panics.read(), shared.is_sink_at_work()), (0, false));
        }
        // A sink that blocks a thread of its own does not hold up delivery's.
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::<OnceLock<Arc<Shared>>>::default();
        let of_sink = Told(Arc::clone(&told));
        let sink = blocking_fn(move |_: &Batch<Vec<u8>>| {
            // Until delivery rests, which it does while it waits for this.
            while of_sink.is_at_work() {
                thread::yield_now();
            }
            Ok::<(), SinkError>(())
        });
        let queue = Queue::builder(dir.path()).io(Io::Threads).deliver_timeout(LONG).open(sink).unwrap();
        assert!(told.set(queue.producer().shared).is_ok());
        queue.producer().push(vec![1]).unwrap();
        queue.drain(LONG).unwrap();
        assert_eq!(queue.shutdown(LONG).unwrap().delivered, 1);
    }
}
