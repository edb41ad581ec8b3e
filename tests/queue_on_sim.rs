//! The whole queue, with its threads, on a simulated machine: delivered whole, over power cuts, and with a
//! disk that fails or is full.
#![cfg(feature = "testing")]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, assert_settles, drain, small};
use ringwal::sim::{DiskKind, Fault, Mode, OpKind, Prng, SimDisk, SimSettings};
use ringwal::wal::op::{FileId, LogId};
use ringwal::{
    Batch, Builder, Concern, Durability, Health, LogError, Lsn, OpenError, Outcome, PushError, Queue, ShutdownError,
    Sink, SlotNo,
};

/// Longer than a commit here ever takes.
const SHORT: Duration = Duration::from_secs(2);
const KINDS: [DiskKind; 2] = [DiskKind::Flush, DiskKind::Fua];
const DURABILITIES: [Durability; 3] =
    [Durability::Immediate, Durability::Periodic(Duration::from_millis(2)), Durability::Spill];

fn machine(kind: DiskKind, seed: u64) -> SimDisk {
    let latency = (Duration::from_micros(5), Duration::from_micros(200));
    SimDisk::new(SimSettings { kind, mode: Mode::Threaded, seed, latency, ..SimSettings::default() })
}

fn settings(durability: Durability) -> Builder {
    // The directory is only a name in messages.
    small(std::path::Path::new("/simulated"), durability).drop_timeout(Duration::from_millis(50))
}

fn open(machine: &SimDisk, durability: Durability, recorder: &Recorder) -> Queue<Numbered> {
    let driver = machine.connect().expect("the one before has ended");
    settings(durability).open_on(driver, recorder.clone()).unwrap_or_else(|error| panic!("{machine:?}: {error}"))
}

/// Runs something that must come to an end.
#[track_caller]
fn within<R: Send + 'static>(what: &str, limit: Duration, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, answer) = sync_channel(1);
    let thread = std::thread::spawn(move || _ = done.send(run()));
    match answer.recv_timeout(limit) {
        Ok(result) => {
            thread.join().unwrap();
            result
        }
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it ended without a result"))
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs"),
    }
}

#[test]
fn every_entry_of_1_2_8_and_64_producers_is_delivered_in_bursts_and_in_trickles() {
    for (seed, producers) in (1..).zip([1_u32, 2, 8, 64]) {
        for (durability, trickle) in [
            (Durability::Immediate, false),
            (Durability::Periodic(Duration::from_millis(2)), true),
            (Durability::Spill, false),
            (Durability::Immediate, true),
        ] {
            let each = if trickle { 24 } else { 2400 / producers };
            let machine = machine(KINDS[seed as usize % 2], seed);
            let recorder = Recorder::default();
            let queue = open(&machine, durability, &recorder);
            std::thread::scope(|scope| {
                for p in 0..producers {
                    let producer = queue.producer();
                    scope.spawn(move || {
                        for n in 0..each {
                            let padding = if n % 50 == 7 { 1900 } else { 100 };
                            producer.push_timeout(Numbered::new(p, n, padding), LONG).unwrap();
                            if trickle {
                                std::thread::sleep(Duration::from_micros(u64::from(p % 7) * 150 + 100));
                            }
                        }
                    });
                }
            });
            drain(&queue);
            assert_accounted(&queue.metrics());
            assert_exactly_once_in_order(&recorder.0.all(), &vec![each; producers as usize]);
            let shutdown = queue.shutdown(LONG).unwrap();
            assert_eq!((shutdown.delivered, shutdown.left_in_log), (u64::from(each * producers), 0));
            let queue = open(&machine, durability, &recorder);
            assert!(queue.recovery().clean && queue.recovery().recovered == 0, "{:?}", queue.recovery());
            queue.shutdown(LONG).unwrap();
        }
    }
}

/// What several lives of a store have shown: nothing acknowledged is lost, and no number has two entries.
#[derive(Default)]
struct Lives {
    acknowledged: HashSet<(u32, u32)>,
    by_lsn: HashMap<Lsn, (u32, u32)>,
    seen: HashSet<(u32, u32)>,
}

impl Lives {
    /// Takes over what a life delivered: `count` entries surely before its end, `seen` at most. What comes behind a power cut, from a
    /// process that would be dead, and what comes from memory after the log has failed, does not count: their
    /// numbers were never in a log.
    fn take(&mut self, recorder: &Recorder, (count, seen): (usize, usize), story: &str) {
        let mut in_this_life = HashSet::new();
        for (at, (lsn, entry, _)) in recorder.0.all().into_iter().take(seen).enumerate() {
            let id = (entry.producer, entry.number);
            assert_eq!(entry, Numbered::new(id.0, id.1, entry.padding.len()), "{story}: bytes differ");
            assert!(in_this_life.insert(lsn), "{story}: {lsn} came twice in one life");
            if at < count {
                assert_eq!(*self.by_lsn.entry(lsn).or_insert(id), id, "{story}: {lsn} names two entries");
            }
            self.seen.insert(id);
        }
    }
}

/// A life that ends with the power cut: producers push, some wait for durability. Gives how
/// much was delivered before the power went, and what was acknowledged.
fn live_and_crash(
    (queue, recorder): (&Queue<Numbered>, &Recorder),
    machine: &SimDisk,
    life: u32,
    prng: &mut Prng,
) -> ((usize, usize), HashSet<(u32, u32)>) {
    let producers = 1 + u32::try_from(prng.below(4)).unwrap();
    let after = Duration::from_micros(prng.below(12_000));
    let padding = usize::try_from(prng.below(1500)).unwrap();
    let waits_every = 1 + u32::try_from(prng.below(6)).unwrap();
    let spills = queue.config().durability() == Durability::Spill;
    let cut = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..producers)
            .map(|p| {
                let producer = queue.producer();
                scope.spawn(move || {
                    // No producer's name comes again in a later life.
                    let (name, mut acknowledged, mut since) = (life * 10 + p, Vec::new(), Vec::new());
                    for n in 0.. {
                        let entry = Numbered::new(name, n, padding);
                        let Ok(receipt) = producer.push_timeout(entry, SHORT) else { break };
                        since.push((name, n));
                        if n % waits_every == 0 {
                            let begun = Instant::now();
                            let told = loop {
                                match producer.durable(receipt).wait_timeout(SHORT) {
                                    // A busy machine may have had no turn for the disk, nor for the thread that cuts.
                                    Err(LogError::TimedOut)
                                        if !cut.load(Ordering::SeqCst) && begun.elapsed() < LONG => {}
                                    told => break told,
                                }
                            };
                            match told {
                                // With `Spill` it may also mean that the sink has had it.
                                Ok(()) if spills && cut.load(Ordering::SeqCst) => break,
                                Ok(()) => acknowledged.append(&mut since),
                                Err(LogError::Failed(_) | LogError::Closed) => break,
                                // Without a slot yet, the dead disk only refuses to prepare one.
                                Err(LogError::TimedOut) if cut.load(Ordering::SeqCst) => break,
                                Err(error) => panic!("{error}: {:?} {:#?}", queue.health(), queue.metrics()),
                            }
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        std::thread::sleep(after);
        let delivered = recorder.0.len();
        cut.store(true, Ordering::SeqCst); // For the order with the crash, which is not atomic.
        machine.crash();
        // What the sink had just got may have been noted as done before the power went.
        let delivered = (delivered, recorder.0.len());
        (delivered, threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect())
    })
}

#[test]
fn what_was_acknowledged_is_delivered_over_power_cuts() {
    let begun = Instant::now();
    let mut crashes = 0;
    for round in 0..20_u64 {
        if begun.elapsed() > Duration::from_secs(6) {
            break;
        }
        for (kind, durability) in KINDS.iter().flat_map(|kind| DURABILITIES.map(|durability| (*kind, durability))) {
            let seed = round * 100 + u64::from(kind == DiskKind::Fua);
            let mut prng = Prng::new(seed);
            let machine = machine(kind, seed);
            let mut lives = Lives::default();
            for life in 0..3 {
                let story = format!("{kind:?} {durability:?} seed {seed} life {life}");
                let recorder = Recorder::default();
                let queue = open(&machine, durability, &recorder);
                let (delivered, acknowledged) = live_and_crash((&queue, &recorder), &machine, life, &mut prng);
                lives.acknowledged.extend(acknowledged);
                crashes += 1;
                within(&format!("{story}: dropping the queue"), LONG, move || drop(queue));
                lives.take(&recorder, delivered, &story);
            }
            let story = format!("{kind:?} {durability:?} seed {seed} in the end");
            let recorder = Recorder::default();
            let queue = open(&machine, durability, &recorder);
            drain(&queue);
            assert_accounted(&queue.metrics());
            queue.shutdown(LONG).unwrap();
            lives.take(&recorder, (usize::MAX, usize::MAX), &story);
            let lost: Vec<_> = lives.acknowledged.difference(&lives.seen).collect();
            assert!(lost.is_empty(), "{story}: {} acknowledged entries are lost: {lost:?}", lost.len());
        }
    }
    assert!(crashes >= 18, "{crashes} crashes only");
}

#[test]
fn after_an_error_of_the_disk_all_waiters_are_told_and_memory_is_still_delivered() {
    for durability in DURABILITIES {
        for op in [OpKind::Write, OpKind::Sync] {
            // With `Immediate` each write is its own sync.
            if op == OpKind::Sync && durability == Durability::Immediate {
                continue;
            }
            for after in [0_u64, 3, 11] {
                let story = format!("{durability:?}, {op:?} {after}");
                let machine = machine(KINDS[after as usize % 2], after);
                let recorder = Recorder::default();
                let queue = open(&machine, durability, &recorder);
                machine.inject(Fault::error(op, libc_eio()).after(after).forever());
                let accepted = AtomicU32::new(0);
                std::thread::scope(|scope| {
                    for p in 0..3 {
                        let (producer, accepted, story) = (queue.producer(), &accepted, &story);
                        scope.spawn(move || {
                            let begun = Instant::now();
                            for n in 0.. {
                                assert!(begun.elapsed() < LONG, "{story}: pushes go on for ever");
                                match producer.push_durable(Numbered::new(p, n, 100)) {
                                    Ok(durable) => {
                                        accepted.fetch_add(1, Ordering::Relaxed);
                                        match durable.wait_timeout(LONG) {
                                            Ok(()) => {}
                                            Err(LogError::Failed(cause)) => assert_eq!(cause.errno, libc_eio()),
                                            Err(error) => panic!("{story}: {error}"),
                                        }
                                    }
                                    Err(PushError::Poisoned(entry)) => {
                                        assert_eq!((entry.producer, entry.number), (p, n));
                                        break;
                                    }
                                    Err(error) => panic!("{story}: {error}"),
                                }
                            }
                        });
                    }
                });
                let accepted = accepted.into_inner();
                recorder.0.wait_for(accepted as usize);
                assert_settles(&queue);
                let durable = queue.metrics().durable_lsn;
                let health = queue.health();
                assert!(
                    matches!(&health, Health::Failed(why) if matches!(why[..], [Concern::LogFailed(_), ..])),
                    "{story}: {health:?}"
                );
                match within(&story, LONG, move || queue.shutdown(Duration::from_secs(5))) {
                    Err(ShutdownError::Storage { cause: LogError::Failed(cause), lost }) => {
                        assert_eq!((cause.errno, lost), (libc_eio(), 0), "{story}: all was delivered");
                    }
                    other => panic!("{story}: {other:?}"),
                }
                assert_eq!(recorder.0.len(), accepted as usize, "{story}: each once");
                // What came after is another life.
                machine.heal();
                let again = Recorder::default();
                let queue = open(&machine, durability, &again);
                drain(&queue);
                assert_accounted(&queue.metrics());
                queue.producer().push_durable(Numbered::new(9, 0, 10)).unwrap().wait().unwrap();
                queue.shutdown(LONG).unwrap();
                let mut lives = Lives::default();
                let in_the_log = recorder.0.all().iter().filter(|(lsn, ..)| *lsn <= durable).count();
                lives.take(&recorder, (in_the_log, in_the_log), &story);
                lives.take(&again, (usize::MAX, usize::MAX), &story);
            }
        }
    }
}

#[test]
fn what_waits_behind_a_backlog_when_the_log_fails_is_delivered_after_it() {
    for (seed, durability) in (0..).zip(DURABILITIES) {
        let machine = machine(KINDS[seed as usize % 2], seed);
        let recorder = Recorder::default();
        let driver = machine.connect().unwrap();
        let settings = settings(durability).memory_max(3 << 20).ring_bytes(256 << 10).log_bytes_max(16 << 20);
        let queue: Queue<Numbered> = settings.open_on(driver, recorder.clone()).unwrap();
        queue.pause();
        let producer = queue.producer();
        let mut pushed = 0;
        // So much that it does not all stay in memory. A busy machine may have no turn for the flush core for a while.
        let deadline = Instant::now() + LONG;
        while pushed < 3_000 && Instant::now() < deadline {
            match producer.push_timeout(Numbered::new(0, pushed, 1500), Duration::from_millis(100)) {
                Ok(_) => pushed += 1,
                Err(_) if queue.metrics().frames_let_go > 0 => break,
                Err(_) => {}
            }
        }
        assert!(queue.metrics().frames_let_go > 0, "{durability:?}: {:#?}", queue.metrics());
        machine.inject(Fault::error(OpKind::Write, libc_eio()).forever());
        while producer.try_push(Numbered::new(0, pushed, 1500)).is_ok() {
            pushed += 1;
        }
        queue.resume();
        recorder.0.wait_for(pushed as usize);
        assert_settles(&queue);
        assert!(queue.metrics().frames_read_back > 0, "{durability:?}: {:#?}", queue.metrics());
        assert_exactly_once_in_order(&recorder.0.all(), &[pushed]);
        let outcome = within("shutting down", LONG, move || queue.shutdown(Duration::from_secs(5)));
        assert!(matches!(outcome, Err(ShutdownError::Storage { lost: 0, .. })), "{durability:?}: {outcome:?}");
    }
}

/// A failed log delivers from memory what never got into it. If the cursor could not be written any more, the
/// next opening gave the same numbers to other entries.
#[test]
fn what_a_failed_log_delivers_from_memory_is_not_numbered_again() {
    for (seed, durability) in (40..).zip(DURABILITIES) {
        let machine = machine(KINDS[seed as usize % 2], seed);
        let recorder = Recorder::default();
        let queue = open(&machine, durability, &recorder);
        let producer = queue.producer();
        producer.push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
        drain(&queue);
        let deadline = Instant::now() + LONG;
        while queue.metrics().cursor_lsn.number() < 1 {
            assert!(Instant::now() < deadline, "the cursor is not written");
            std::thread::sleep(Duration::from_millis(1));
        }
        for slot in 0..16 {
            let file = FileId::Slot(LogId::Main, SlotNo(slot));
            machine.inject(Fault::error(OpKind::Write, libc_eio()).on(file).forever());
        }
        for copy in [8192, 8192 + 16_384] {
            machine.inject(Fault::error(OpKind::Write, libc_eio()).on(FileId::Meta(LogId::Main)).at(copy).forever());
        }
        // Until the failure is known: the last of them are in no write, only in memory.
        let mut accepted = 1;
        std::thread::scope(|scope| {
            scope.spawn(|| while queue.flush().is_ok() {});
            while producer.push_timeout(Numbered::new(0, accepted, 10), LONG).is_ok() {
                accepted += 1;
            }
        });
        recorder.0.wait_for(accepted as usize);
        let outcome = within("shutting down", LONG, move || queue.shutdown(Duration::from_secs(5)));
        assert!(matches!(outcome, Err(ShutdownError::Storage { .. })), "{durability:?}: {outcome:?}");
        machine.heal();
        let again = Recorder::default();
        let queue = open(&machine, durability, &again);
        queue.producer().push_durable(Numbered::new(1, 0, 10)).unwrap().wait().unwrap();
        drain(&queue);
        queue.shutdown(LONG).unwrap();
        let given: HashMap<Lsn, Numbered> = recorder.0.all().into_iter().map(|(lsn, entry, _)| (lsn, entry)).collect();
        for (lsn, entry, _) in again.0.all() {
            assert!(given.get(&lsn).is_none_or(|first| *first == entry), "{durability:?}: {lsn} names two entries");
        }
    }
}

#[test]
fn what_a_failed_log_takes_with_it_is_counted_at_shutdown() {
    let machine = machine(DiskKind::Flush, 5);
    let recorder = Recorder::default();
    let queue = open(&machine, Durability::Immediate, &recorder);
    let producer = queue.producer();
    producer.push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
    drain(&queue);
    queue.pause();
    machine.inject(Fault::error(OpKind::Write, libc_eio()).forever());
    let mut accepted = 0;
    for n in 1..=5 {
        match producer.push_durable(Numbered::new(0, n, 10)) {
            Ok(durable) => {
                accepted += 1;
                assert!(matches!(durable.wait_timeout(LONG), Err(LogError::Failed(_))));
            }
            Err(error) => assert!(matches!(error, PushError::Poisoned(_)), "{error}"),
        }
    }
    assert!(accepted >= 1);
    let outcome = within("shutting down", LONG, move || queue.shutdown(Duration::from_secs(2)));
    assert!(matches!(outcome, Err(ShutdownError::Storage { lost, .. }) if lost == accepted), "{outcome:?}");
    assert_eq!(recorder.0.len(), 1);
}

/// The write of what is left is the last thing that a closing log does, and its failure the last that it hears. The loop
/// of the flush core ended with it, and nobody was told: shutdown said Ok, and that the entries waited in the log.
#[test]
fn a_write_that_fails_while_the_log_closes_is_told_by_shutdown() {
    for seed in 0..20 {
        let machine = machine(DiskKind::Flush, seed);
        let recorder = Recorder::default();
        let queue = open(&machine, Durability::Spill, &recorder);
        let producer = queue.producer();
        producer.push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
        drain(&queue);
        queue.pause();
        let accepted = 5;
        (1..=accepted).for_each(|n| drop(producer.push(Numbered::new(0, n, 10))));
        machine.inject(Fault::error(OpKind::Write, libc_eio()).forever());
        let outcome = within("shutting down", LONG, move || queue.shutdown(Duration::from_secs(2)));
        let Err(ShutdownError::Storage { lost, .. }) = outcome else { panic!("seed {seed}: {outcome:?}") };
        assert_eq!(lost, u64::from(accepted), "seed {seed}");
    }
}

#[test]
fn a_full_disk_holds_pushes_up_until_there_is_space_again() {
    for (seed, durability) in (0..).zip(DURABILITIES) {
        let machine = machine(KINDS[seed as usize % 2], seed);
        machine.set_space(Some(1 << 10));
        let refused = settings(durability)
            .open_on::<Numbered, _>(machine.connect().unwrap(), Recorder::default())
            .expect_err("there is no space for META");
        assert!(matches!(refused, OpenError::NoSpace { .. }), "{durability:?}: {refused}");
        machine.set_space(Some(1_600_000));
        let recorder = Recorder::default();
        let queue = open(&machine, durability, &recorder);
        queue.pause();
        let producer = queue.producer();
        let mut pushed = 0;
        let is_full = || queue.health().reasons().iter().any(|why| matches!(why, Concern::LogFull(_)));
        let deadline = Instant::now() + LONG;
        let full = loop {
            match producer.push_timeout(Numbered::new(0, pushed, 1900), Duration::from_millis(300)) {
                Ok(_) => pushed += 1,
                // A ring may be full for so long only because the flush core has had no turn.
                Err(error) if is_full() || Instant::now() >= deadline => break error,
                Err(error) => assert!(error.is_full(), "{durability:?}: {error}"),
            }
            assert!(pushed < 50_000, "{durability:?}: the disk never fills");
        };
        assert!(full.is_full(), "{durability:?}: {full}");
        assert!(is_full(), "{durability:?}: {pushed} pushed: {:?}", queue.health());
        machine.set_space(None);
        queue.resume();
        producer.push_timeout(Numbered::new(0, pushed, 1900), LONG).unwrap();
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&recorder.0.all(), &[pushed + 1]);
        let deadline = Instant::now() + LONG;
        while !queue.health().is_ok() {
            assert!(Instant::now() < deadline, "{durability:?}: {:?}", queue.health());
            std::thread::sleep(Duration::from_millis(5));
        }
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_queue_whose_machine_is_dead_ends_at_once() {
    for durability in DURABILITIES {
        let machine = machine(DiskKind::Flush, 1);
        let recorder = Recorder::default();
        let queue = open(&machine, durability, &recorder);
        queue.producer().push(Numbered::new(0, 0, 10)).unwrap();
        machine.crash();
        let waiter = queue.producer().push_durable(Numbered::new(0, 1, 10));
        if let Ok(durable) = waiter {
            let told = durable.wait_timeout(LONG);
            // With `Spill` the sink may have had it before anybody asked.
            let is_delivered = durability == Durability::Spill && told == Ok(());
            assert!(is_delivered || matches!(told, Err(LogError::Failed(_))), "{durability:?}: {told:?}");
        }
        let begun = Instant::now();
        let outcome = within("shutting down", 2 * LONG, move || queue.shutdown(LONG));
        assert!(matches!(outcome, Err(ShutdownError::Storage { .. })), "{durability:?}: {outcome:?}");
        assert!(begun.elapsed() < LONG / 2, "{durability:?}: it took {:?}", begun.elapsed());
    }
}

const fn libc_eio() -> i32 {
    5
}

/// The machine is shared with the queue's thread.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Arc<SimDisk>>();
};

/// Takes a batch and answers it when it is told to.
struct Slow {
    shown: SyncSender<usize>,
    answer: Mutex<Receiver<()>>,
    closed: SyncSender<()>,
}

impl Sink<Numbered> for Slow {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        self.shown.send(batch.len()).unwrap();
        self.answer.lock().unwrap().recv().unwrap();
        Outcome::ack()
    }

    async fn close(&self) {
        self.closed.send(()).unwrap();
    }
}

/// The simulation of the whole queue found it: such an answer was counted as delivered, and was too late for the cursor.
/// The shutdown said that nothing was left, and the batch came again.
#[test]
fn what_the_sink_answers_after_the_deadline_is_left_in_the_log_and_comes_again() {
    for durability in DURABILITIES {
        let machine = machine(DiskKind::Flush, 7);
        let ((shown, shows), (answers, answer), (closed, closes)) = (sync_channel(9), sync_channel(9), sync_channel(9));
        let slow = Slow { shown, answer: Mutex::new(answer), closed };
        let driver = machine.connect().unwrap();
        let queue = settings(durability).open_on(driver, slow).unwrap();
        queue.producer().push(Numbered::new(0, 0, 100)).unwrap();
        queue.flush().unwrap();
        assert_eq!(shows.recv_timeout(LONG), Ok(1));
        // The first write of META from here on is the log's last step. (`Spill` reserves numbers there, at its beginning.)
        machine.inject(Fault::hung(OpKind::Write).on(FileId::Meta(LogId::Main)).forever());
        let shutdown = std::thread::spawn(move || queue.shutdown(Duration::ZERO));
        let is_closing = || machine.in_flight().iter().any(|op| op.file == FileId::Meta(LogId::Main));
        let begun = Instant::now();
        while !is_closing() {
            assert!(begun.elapsed() < LONG, "the log does not come to its last step");
            std::thread::sleep(Duration::from_millis(1));
        }
        answers.send(()).unwrap();
        assert_eq!(closes.recv_timeout(LONG), Ok(()), "the sink's thread ends");
        machine.heal();
        // It has come back before the log was closed, and was late all the same.
        let state = match shutdown.join().unwrap() {
            Err(ShutdownError::Deadline(state)) => state,
            other => panic!("the log is whole, and the sink was late: {other:?}"),
        };
        assert_eq!((state.delivered, state.left_in_log, state.lost), (0, 1, 0), "{durability:?}");
        let recorder = Recorder::default();
        let queue = open(&machine, durability, &recorder);
        assert_eq!(queue.recovery().recovered, 1, "{durability:?}");
        assert_eq!(queue.shutdown(LONG).unwrap().delivered, 1);
    }
}
