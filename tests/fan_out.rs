//! Several sinks for one queue: each gets everything at its own pace, whatever becomes of the others.
#![cfg(feature = "testing")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, Seen, assert_accounted, assert_exactly_once_in_order, in_memory, no, small};
use ringwal::{
    Batch, Builder, Concern, Durability, Entry, FanOutQueue, Health, Jitter, Lsn, OpenError, Outcome, Queue, Retry,
    Shutdown, Sink, SinkError, blocking_fn, fan_out, sink_fn,
};

fn settings(dir: &Path) -> Builder {
    let retry = Retry {
        base: Duration::from_millis(1),
        max: Duration::from_millis(5),
        jitter: Jitter::None,
        ..Retry::default()
    };
    small(dir, Durability::Periodic(Duration::from_millis(1))).retry(retry).name("orders")
}

fn entry(number: u32) -> Numbered {
    Numbered::new(0, number, 100)
}

fn push(queue: &FanOutQueue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    numbers.for_each(|number| _ = producer.push_timeout(entry(number), LONG).unwrap());
}

fn numbers(seen: &Seen) -> Vec<u32> {
    seen.all().into_iter().map(|(_, entry, _)| entry.number).collect()
}

fn row(to: u32) -> Vec<u32> {
    (0..to).collect()
}

/// Waits for what must come.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} has not come in {LONG:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Blocks in its batch until it is let go.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }
}

/// A sink that hangs until its gate opens, and then remembers.
fn gated(gate: &Gate, recorder: &Recorder) -> impl Sink<Numbered> {
    let (gate, inner) = (gate.clone(), recorder.clone());
    blocking_fn(move |batch: &Batch<Numbered>| {
        gate.pass();
        inner.0.take_in(batch);
        Ok(())
    })
}

#[test]
fn every_sink_gets_every_entry_in_order_and_each_has_counts_and_a_name_of_its_own() {
    let dir = in_memory();
    let (one, two) = (Recorder::default(), Recorder::default());
    let sinks = fan_out().with("one", one.clone()).with_settings("two", two.clone(), |two| two.batch_len_max(7));
    let queue = settings(dir.path()).open_fan_out(sinks).unwrap();
    push(&queue, 0..1000);
    queue.flush().unwrap();
    assert_eq!(queue.metrics().durable_lsn, Lsn::new(1000));
    queue.drain(LONG).unwrap();
    for seen in [&one, &two] {
        assert_exactly_once_in_order(&seen.0.all(), &[1000]);
    }
    for branch in queue.branches() {
        let metrics = branch.metrics();
        assert_eq!((metrics.pushed, metrics.delivered, branch.copied()), (1000, 1000, Lsn::new(1000)));
        assert_accounted(&metrics);
        assert!(branch.health().is_ok() || matches!(branch.health(), Health::Degraded(_)));
    }
    assert!(queue.branch("two").unwrap().metrics().batches >= 143 && queue.branch("three").is_none());
    assert_eq!(queue.metrics().delivered, 1000);
    assert_accounted(&queue.metrics());
    let snapshots = queue.snapshots();
    let names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(names, ["orders", "orders.one", "orders.two"]);
    let text = snapshots[1].prometheus_text();
    assert!(text.contains("ringwal_delivered_total{queue=\"orders.one\"} 1000\n"), "{text}");
    let closed = queue.shutdown(LONG);
    assert!(closed.is_complete(), "{closed:?}");
}

#[test]
fn a_sink_that_hangs_and_one_that_fails_hold_up_nobody_and_lose_nothing() {
    let dir = in_memory();
    let (good, hung, gate) = (Recorder::default(), Recorder::default(), Gate::default());
    let (failing, may) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
    let flaky = {
        let (failing, may) = (failing.clone(), Arc::clone(&may));
        blocking_fn(move |batch: &Batch<Numbered>| {
            if !may.load(Ordering::SeqCst) {
                return Err(no("away"));
            }
            failing.0.take_in(batch);
            Ok(())
        })
    };
    let queue = settings(dir.path())
        .open_fan_out(
            fan_out()
                .with("hung", gated(&gate, &hung))
                .with_settings("failing", flaky, |b| b.retry(Retry { attempts_max: None, ..Retry::default() }))
                .with("good", good.clone()),
        )
        .unwrap();
    push(&queue, 0..2000);
    queue.branch("good").unwrap().drain(LONG).unwrap();
    assert_eq!(numbers(&good.0), row(2000));
    let of = |name: &str| queue.branch(name).unwrap().metrics();
    assert_eq!((of("hung").delivered, of("failing").delivered), (0, 0));
    until("a failure", || of("failing").delivery_failures > 0);
    assert!(matches!(queue.branch("failing").unwrap().health(), Health::Degraded(why)
        if why.iter().any(|concern| matches!(concern, Concern::SinkFailing(_)))));
    // The source is done with them: it holds nothing for those two.
    assert_eq!((queue.metrics().delivered, queue.metrics().pending), (2000, 0));
    gate.open();
    may.store(true, Ordering::SeqCst);
    queue.drain(LONG).unwrap();
    assert_eq!((numbers(&hung.0), numbers(&failing.0)), (row(2000), row(2000)));
    assert!(queue.shutdown(LONG).is_complete());
}

/// Has been given far more than the log of "slow" may hold while its gate is shut; the source has room for all of it.
fn with_a_branch_overfull(
    dir: &Path,
    good: &Recorder,
    slow: &Recorder,
    gate: &Gate,
    count: u32,
) -> FanOutQueue<Numbered> {
    let sinks = fan_out()
        .with_settings("slow", gated(gate, slow), |slow| slow.log_bytes_max(3 * (512 << 10)).memory_max(6 << 20))
        .with("good", good.clone());
    let queue = settings(dir).log_bytes_max(64 << 20).open_fan_out(sinks).unwrap();
    let producer = queue.producer();
    for number in 0..count {
        producer.push_timeout(Numbered::new(0, number, 1500), LONG).unwrap();
    }
    queue
}

#[test]
fn a_branch_whose_log_is_full_says_so_and_goes_on_when_its_sink_does() {
    let dir = in_memory();
    let (good, slow, gate) = (Recorder::default(), Recorder::default(), Gate::default());
    let count = 4000;
    let queue = with_a_branch_overfull(dir.path(), &good, &slow, &gate, count);
    queue.flush().unwrap();
    let is_full = |health: Health| health.reasons().iter().any(|why| matches!(why, Concern::LogFull(_)));
    until("a full branch", || is_full(queue.branch("slow").unwrap().health()));
    assert!(!is_full(queue.health()) && !is_full(queue.branch("good").unwrap().health()));
    // The good one gets what the slow one's log could hold, and what was copied with the last of it.
    good.0.wait_for(500);
    gate.open();
    queue.drain(LONG).unwrap();
    assert_eq!((numbers(&slow.0), numbers(&good.0)), (row(count), row(count)));
    assert!(queue.shutdown(LONG).is_complete());
}

#[test]
fn closing_while_a_branch_is_full_ends_and_loses_nothing() {
    let dir = in_memory();
    let (good, slow, gate) = (Recorder::default(), Recorder::default(), Gate::default());
    let count = 4000;
    let queue = with_a_branch_overfull(dir.path(), &good, &slow, &gate, count);
    until("a full branch", || {
        let health = queue.branch("slow").unwrap().health();
        health.reasons().iter().any(|why| matches!(why, Concern::LogFull(_)))
    });
    let closed = queue.shutdown(Duration::from_millis(20));
    let Err(ringwal::ShutdownError::Deadline(source)) = &closed.source else { panic!("{closed:?}") };
    assert!(source.left_in_log > 0 && source.lost == 0 && !closed.is_complete(), "{closed:?}");
    for name in ["slow", "good"] {
        match closed.of(name).unwrap() {
            Ok(state) | Err(ringwal::ShutdownError::Deadline(state)) => assert_eq!(state.lost, 0, "{name}: {closed:?}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    gate.open();
    // Of a life that is over only what was heard counts.
    let (good_before, seen) = (numbers(&good.0), (Recorder::default(), Recorder::default()));
    let sinks = fan_out().with("slow", seen.0.clone()).with("good", seen.1.clone());
    let queue = settings(dir.path()).log_bytes_max(64 << 20).lock_wait(LONG).open_fan_out(sinks).unwrap();
    queue.drain(LONG).unwrap();
    let mut good: Vec<u32> = good_before.into_iter().chain(numbers(&seen.1.0)).collect();
    good.sort_unstable();
    // On a machine that is busy enough the good one's last answer came too late as well.
    good.dedup();
    assert_eq!(good, row(count));
    assert_eq!(numbers(&seen.0.0), row(count), "the slow one's answer came when nobody heard it any more");
    assert!(queue.shutdown(LONG).is_complete());
}

#[test]
fn over_restarts_each_sink_goes_on_where_it_was() {
    let dir = in_memory();
    let (good, hung) = (Recorder::default(), Recorder::default());
    let gate = Gate::default();
    let queue = settings(dir.path())
        .open_fan_out(fan_out().with("hung", gated(&gate, &hung)).with("good", good.clone()))
        .unwrap();
    push(&queue, 0..500);
    queue.branch("good").unwrap().drain(LONG).unwrap();
    let closed = queue.shutdown(Duration::from_millis(1));
    let left = |closed: &Result<_, _>| match closed {
        Ok(Shutdown { left_in_log, .. }) | Err(ringwal::ShutdownError::Deadline(Shutdown { left_in_log, .. })) => {
            *left_in_log
        }
        other => panic!("{other:?}"),
    };
    assert!(!closed.is_complete());
    assert_eq!((left(&closed.source), left(closed.of("hung").unwrap()), left(closed.of("good").unwrap())), (0, 500, 0));
    // What the hung one still does is not heard any more; its directory is free once it has come back.
    gate.open();
    for (numbers_to, restart) in [(500, 1), (700, 2)] {
        let (good, hung) = (Recorder::default(), Recorder::default());
        let queue = settings(dir.path())
            .lock_wait(LONG)
            .open_fan_out(fan_out().with("good", good.clone()).with("hung", hung.clone()))
            .unwrap();
        if restart == 2 {
            push(&queue, 500..numbers_to);
        }
        queue.drain(LONG).unwrap();
        let new: Vec<u32> = (500..numbers_to).collect();
        assert_eq!(numbers(&good.0), new, "nothing comes a second time");
        assert_eq!(numbers(&hung.0), if restart == 1 { row(500) } else { new });
        assert!(queue.shutdown(LONG).is_complete());
    }
}

#[test]
fn what_one_sink_refuses_is_parked_for_it_alone_and_redelivered_to_it_alone() {
    let dir = in_memory();
    let (picky, good) = (Recorder::default(), Recorder::default());
    let likes_all = Arc::new(AtomicBool::new(false));
    let sink = {
        let (picky, likes_all) = (picky.clone(), Arc::clone(&likes_all));
        blocking_fn(move |batch: &Batch<Numbered>| {
            let odd = |number: u32| number % 2 == 1 && !likes_all.load(Ordering::SeqCst);
            if batch.values().any(|entry| odd(entry.number)) {
                return Err(SinkError::park("odd"));
            }
            picky.0.take_in(batch);
            Ok(())
        })
    };
    let sinks = fan_out().with_settings("picky", sink, |picky| picky.batch_len_max(1)).with("good", good.clone());
    let queue = settings(dir.path()).open_fan_out(sinks).unwrap();
    push(&queue, 0..10);
    queue.drain(LONG).unwrap();
    let branch = queue.branch("picky").unwrap();
    assert_eq!(numbers(&picky.0), [0, 2, 4, 6, 8]);
    let parked = branch.parked(Lsn::ZERO, 100).unwrap();
    let of = |entry: &ringwal::ParkedEntry| entry.decode::<Numbered>().unwrap().number;
    assert_eq!(parked.iter().map(of).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    assert_eq!((queue.metrics().parked, queue.branch("good").unwrap().metrics().parked), (0, 0));
    assert!(branch.health().reasons().contains(&Concern::Parked(5)));

    assert_eq!(branch.discard(|entry| of(entry) == 9).unwrap(), 1);
    likes_all.store(true, Ordering::SeqCst);
    assert_eq!(branch.redeliver(|entry| of(entry) < 6).unwrap(), 3);
    // What is copied next is counted from behind them.
    push(&queue, 10..12);
    queue.drain(LONG).unwrap();
    assert_eq!(numbers(&picky.0), [0, 2, 4, 6, 8, 1, 3, 5, 10, 11]);
    assert_eq!(numbers(&good.0), row(12));
    let metrics = branch.metrics();
    assert_eq!((metrics.pushed, metrics.delivered, metrics.parked, metrics.discarded), (15, 10, 1, 1));
    assert_accounted(&metrics);
    assert_eq!(branch.copied(), Lsn::new(12));
    // As the last act of a life: what was put back must not be counted as copied.
    push(&queue, 12..20);
    likes_all.store(false, Ordering::SeqCst);
    queue.drain(LONG).unwrap();
    likes_all.store(true, Ordering::SeqCst);
    assert_eq!(branch.redeliver(|_| true).unwrap(), 5);
    assert!(queue.shutdown(LONG).is_complete());

    let (picky, good) = (Recorder::default(), Recorder::default());
    let sinks = fan_out().with("picky", picky.clone()).with("good", good.clone());
    let queue = settings(dir.path()).open_fan_out(sinks).unwrap();
    assert_eq!(queue.branch("picky").unwrap().copied(), Lsn::new(20));
    push(&queue, 20..30);
    queue.drain(LONG).unwrap();
    assert_eq!((numbers(&picky.0), numbers(&good.0)), ((20..30).collect(), (20..30).collect()));
    assert!(queue.shutdown(LONG).is_complete());
}

#[test]
fn a_sink_that_is_added_begins_with_what_comes_and_one_that_is_removed_holds_back_nothing() {
    let dir = in_memory();
    let open = |names: &[&'static str]| {
        let recorders: BTreeMap<&str, Recorder> = names.iter().map(|name| (*name, Recorder::default())).collect();
        let sinks = names.iter().fold(fan_out(), |sinks, name| sinks.with(*name, recorders[name].clone()));
        (settings(dir.path()).open_fan_out(sinks).unwrap(), recorders)
    };
    let gate = Gate::default();
    let queue = settings(dir.path()).open_fan_out(fan_out().with("old", gated(&gate, &Recorder::default()))).unwrap();
    assert!(queue.unnamed().is_empty());
    push(&queue, 0..100);
    until("the copy", || queue.metrics().delivered == 100);
    let _ = queue.shutdown(Duration::from_millis(1));
    gate.open();

    // The old one still has its hundred. Nobody waits for it.
    until("the old one's end", || {
        Queue::builder(dir.path().join("fan-out/old"))
            .lock_wait(Duration::ZERO)
            .open(sink_fn(|_: Batch<Numbered>| async { Err::<(), _>(no("only looking")) }))
            .map(|queue| drop(queue.shutdown(Duration::ZERO)))
            .is_ok()
    });
    let (queue, seen) = open(&["new"]);
    assert_eq!(queue.unnamed(), ["old"]);
    push(&queue, 100..200);
    queue.drain(LONG).unwrap();
    assert_eq!(numbers(&seen["new"].0), (100..200).collect::<Vec<_>>());
    assert!(queue.shutdown(LONG).is_complete());

    // Named again it goes on with what it had, and misses what came between.
    let (queue, seen) = open(&["new", "old"]);
    assert!(queue.unnamed().is_empty());
    push(&queue, 200..210);
    queue.drain(LONG).unwrap();
    assert_eq!(numbers(&seen["new"].0), (200..210).collect::<Vec<_>>());
    assert_eq!(numbers(&seen["old"].0), (0..100).chain(200..210).collect::<Vec<_>>());
    assert!(queue.shutdown(LONG).is_complete());

    // Another name for a folder is another name for the sink, with all that it has.
    std::fs::rename(dir.path().join("fan-out/old"), dir.path().join("fan-out/older")).unwrap();
    let (queue, seen) = open(&["older"]);
    assert_eq!(queue.unnamed(), ["new"]);
    push(&queue, 210..211);
    queue.drain(LONG).unwrap();
    assert_eq!(numbers(&seen["older"].0), [210]);
    assert!(queue.shutdown(LONG).is_complete());
}

#[test]
fn a_source_that_was_replaced_and_a_branch_that_was_are_not_taken_for_the_old_ones() {
    let dir = in_memory();
    let life = |from: u32, to: u32| {
        let (one, two) = (Recorder::default(), Recorder::default());
        let queue =
            settings(dir.path()).open_fan_out(fan_out().with("one", one.clone()).with("two", two.clone())).unwrap();
        push(&queue, from..to);
        queue.drain(LONG).unwrap();
        assert!(queue.shutdown(LONG).is_complete());
        (numbers(&one.0), numbers(&two.0))
    };
    let remove_files = |folder: &Path, but: &str| {
        for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() && file.file_name() != but {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    };
    life(0, 100);
    std::fs::remove_dir_all(dir.path().join("fan-out/two")).unwrap();
    let new: Vec<u32> = (100..150).collect();
    assert_eq!(life(100, 150), (new.clone(), new));
    // A new source begins with LSN 1 again, which the branches must not take for what they have.
    remove_files(dir.path(), "");
    assert_eq!(life(0, 20), (row(20), row(20)));
    // A new branch beside an old note: what the source still has is copied, though the note says that it was.
    let stuck = || sink_fn(|_: Batch<Numbered>| async { Err::<(), _>(no("away")) });
    let plain = settings(dir.path()).open(stuck()).unwrap();
    // A sink that is at work when the time is over would make the shutdown late; so below.
    plain.pause();
    (20..40).for_each(|number| _ = plain.producer().push(entry(number)).unwrap());
    plain.flush().unwrap();
    plain.shutdown(Duration::ZERO).unwrap();
    let note = dir.path().join("fan-out/two/COPIED");
    let mut bytes = std::fs::read(&note).unwrap();
    bytes[48..56].copy_from_slice(&40_u64.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..68]);
    bytes[68..].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&note, bytes).unwrap();
    remove_files(&dir.path().join("fan-out/two"), "COPIED");
    let new: Vec<u32> = (20..40).collect();
    assert_eq!(life(40, 40), (new.clone(), new));
}

#[test]
fn names_and_settings_that_do_not_fit_are_refused_before_anything_is_opened() {
    let dir = in_memory();
    let sink = || sink_fn(|_: Batch<Numbered>| async { Ok(()) });
    let refused = |builder: Builder, sinks| match builder.open_fan_out::<Numbered>(sinks) {
        Err(OpenError::Config(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for name in ["", "Kafka", "a/b", "..", "a b", &"x".repeat(33)] {
        let why = refused(settings(dir.path()), fan_out().with(name, sink()));
        assert!(why.contains("a-z, 0-9"), "{name:?}: {why}");
    }
    assert!(refused(settings(dir.path()), fan_out().with("a", sink()).with("a", sink())).contains("a name for each"));
    assert!(refused(settings(dir.path()), fan_out()).contains("one sink at least"));
    let memory = settings(dir.path()).durability(Durability::Memory);
    assert!(refused(memory, fan_out().with("a", sink())).contains("durability"));
    let spills = fan_out().with_settings("a", sink(), |a| a.durability(Durability::Spill));
    assert!(refused(settings(dir.path()), spills).contains("for a branch"));
    let none = fan_out().with_settings("a", sink(), |a| a.batch_len_max(0));
    assert!(refused(settings(dir.path()), none).contains("batch_len_max"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn entries_that_no_branch_can_hold_are_parked_once_for_all() {
    let dir = in_memory();
    // A log with longer entries than the settings allow now.
    let away = || sink_fn(|_: Batch<Numbered>| async { Err::<(), _>(no("away")) });
    let queue = settings(dir.path()).open(away()).unwrap();
    queue.pause();
    for (number, len) in [(0, 10), (1, 1900), (2, 10)] {
        queue.producer().push(Numbered::new(0, number, len)).unwrap();
    }
    queue.flush().unwrap();
    queue.shutdown(Duration::ZERO).unwrap();
    let seen = Recorder::default();
    let queue = settings(dir.path()).entry_len_max(1000).open_fan_out(fan_out().with("one", seen.clone())).unwrap();
    queue.drain(LONG).unwrap();
    assert_eq!(numbers(&seen.0), [0, 2]);
    let parked = queue.parked().list(Lsn::ZERO, 10).unwrap();
    assert_eq!(parked.len(), 1);
    assert!(parked[0].error.contains("more than entry_len_max"), "{parked:?}");
    assert_eq!(queue.branch("one").unwrap().copied(), Lsn::new(3));
    assert_accounted(&queue.metrics());
    assert!(queue.shutdown(LONG).source.is_ok());
}

/// Stores LSNs with the data, and tells them.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Vec<(Lsn, u32)>>>, Arc<AtomicUsize>);

impl Sink<Numbered> for Table {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.lock().unwrap().extend(batch.iter().map(|entry| (entry.lsn, entry.value.number)));
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        Some(self.0.lock().unwrap().last().map_or(Lsn::ZERO, |(lsn, _)| *lsn))
    }
}

#[test]
fn with_spill_entries_reach_the_sinks_without_being_written_twice() {
    let dir = in_memory();
    let (one, two) = (Table::default(), Table::default());
    let queue = settings(dir.path())
        .durability(Durability::Spill)
        .open_fan_out(fan_out().with("one", one.clone()).with("two", two.clone()))
        .unwrap();
    push(&queue, 0..300);
    queue.drain(LONG).unwrap();
    assert_eq!(queue.metrics().writes, 0, "the source keeps them in memory");
    for branch in queue.branches() {
        assert_eq!(branch.config().durability(), Durability::Periodic(Duration::from_millis(5)));
        assert!(branch.metrics().durable_lsn == Lsn::new(300));
    }
    assert!(queue.shutdown(LONG).is_complete());
    for table in [&one, &two] {
        assert_eq!(table.0.lock().unwrap().iter().map(|(_, number)| *number).collect::<Vec<_>>(), row(300));
    }
}

/// What `Numbered` was once: only the number.
struct Old(u32);

impl Entry for Old {
    const SCHEMA: ringwal::Schema = ringwal::Schema::new("test.changed", 1);

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ringwal::EncodeError> {
        out.extend(self.0.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
        Ok(Self(u32::from_le_bytes(bytes.try_into().map_err(ringwal::DecodeError::new)?)))
    }
}

/// What it is now: twice as long, and not every number has an encoding.
struct New(u64);

impl Entry for New {
    const SCHEMA: ringwal::Schema = ringwal::Schema::new("test.changed", 2);

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ringwal::EncodeError> {
        if self.0 == 13 {
            return Err(ringwal::EncodeError::new("not that one"));
        }
        out.extend(self.0.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
        Ok(Self(u64::from_le_bytes(bytes.try_into().map_err(ringwal::DecodeError::new)?)))
    }

    fn accepts(schema: &ringwal::Schema) -> bool {
        *schema == Self::SCHEMA || *schema == Old::SCHEMA
    }

    fn decode_from(schema: &ringwal::Schema, bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
        if *schema == Old::SCHEMA { Ok(Self(Old::decode(bytes)?.0.into())) } else { Self::decode(bytes) }
    }
}

#[test]
fn what_an_older_version_has_encoded_is_copied_in_the_encoding_of_today() {
    let dir = in_memory();
    let queue = settings(dir.path()).open(sink_fn(|_: Batch<Old>| async { Err::<(), _>(no("away")) })).unwrap();
    queue.pause();
    for number in [1, 13, 3] {
        queue.producer().push(Old(number)).unwrap();
    }
    queue.flush().unwrap();
    queue.shutdown(Duration::ZERO).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let seen = Arc::clone(&seen);
        blocking_fn(move |batch: &Batch<New>| {
            let row = |(index, entry): (usize, &ringwal::Delivery<New>)| (entry.value.0, batch.bytes(index).len());
            seen.lock().unwrap().extend(batch.iter().enumerate().map(row));
            Ok(())
        })
    };
    let queue = settings(dir.path()).open_fan_out(fan_out().with("one", sink)).unwrap();
    queue.producer().push(New(4)).unwrap();
    queue.drain(LONG).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(1, 8), (3, 8), (4, 8)]);
    let parked = queue.parked().list(Lsn::ZERO, 10).unwrap();
    assert!(parked.len() == 1 && parked[0].error.contains("not that one"), "{parked:?}");
    assert!(queue.shutdown(LONG).source.is_ok());
}
