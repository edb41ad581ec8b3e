//! Push, flush, wait, close: the queue's own threads beside four to eight of the user's, on a simulated machine.
//!
//! | scenario | what may go wrong in it |
//! |---|---|
//! | producers that wait, each for its own | a waiter is not woken, or before its entry is durable |
//! | closing while threads push | an accepted entry is left, a refused one delivered |
//! | short-lived threads with rings of their own | a ring is handed out twice, or what is in it forgotten |
//! | full rings | a push waits for space that has come |
//! | a sink that refuses, and questions about it | an answer that never comes, an entry with two exits |
//! | futures, some of them dropped | a waker is lost, a dropped one still counts |
//! | a power cut after the waits | what was told durable is not there |

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringwal::{Batch, Builder, Durability, Lsn, Producer, PushError, Queue, Retry, Shutdown, SinkError, blocking_fn};
use shuttle::thread;

use crate::explore;
use crate::machine::{Bell, Driver, Machine, machine};

type Entry = Vec<u8>;
/// Who pushed it, and the how manieth.
type Id = (u8, u8);

/// Waits do not end by time here.
const LONG: Duration = Duration::from_secs(3600);

/// What the sink has got, in order. The lock is `std`'s: nothing of shuttle's happens under it.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<Vec<(Lsn, Id)>>>);

impl Got {
    fn take(&self, batch: &Batch<Entry>) {
        let ids = batch.iter().map(|delivery| (delivery.lsn, (delivery.value[0], delivery.value[1])));
        self.0.lock().unwrap().extend(ids);
    }

    /// What there is, each once, in LSN order, and each producer's in the order of its pushes where it keeps one.
    fn all(&self, in_order: bool) -> BTreeSet<Id> {
        let got = self.0.lock().unwrap();
        assert!(got.windows(2).all(|pair| pair[0].0 < pair[1].0), "not in LSN order: {got:?}");
        let ids: BTreeSet<Id> = got.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), got.len(), "something came twice: {got:?}");
        for who in 0..=u8::MAX {
            let row: Vec<u8> = got.iter().filter(|(_, id)| id.0 == who).map(|(_, id)| id.1).collect();
            assert!(!in_order || row.is_sorted(), "{who} pushed in another order: {row:?}");
        }
        ids
    }
}

fn builder(durability: Durability) -> Builder {
    Queue::builder("simulated")
        .durability(durability)
        .rings(2)
        .pinned_rings(2)
        .ring_bytes(4096)
        .entry_len_max(1016)
        .memory_max(4 << 20)
        .segment_len(512 << 10)
        .log_bytes_max(4 << 20)
        .park_bytes_max(2 << 20)
        .linger(Duration::ZERO)
}

fn open(builder: Builder, machine: &Machine, got: &Got) -> Queue<Entry> {
    let got = got.clone();
    let sink = blocking_fn(move |batch: &Batch<Entry>| {
        got.take(batch);
        Ok::<(), SinkError>(())
    });
    builder.open_on(Driver::connect(machine), sink).expect("a new store opens")
}

fn entry(who: u8, number: u8, len: usize) -> Entry {
    let mut entry = vec![0xa5; len.max(2)];
    entry[..2].copy_from_slice(&[who, number]);
    entry
}

/// Pushes until it is refused. Gives what was accepted.
fn push_all(producer: &Producer<Entry>, who: u8, count: u8) -> Vec<Id> {
    let mut accepted = Vec::new();
    for number in 0..count {
        match producer.push(entry(who, number, 9)) {
            Ok(_) => accepted.push((who, number)),
            Err(PushError::Closed(back)) => assert_eq!(back[..2], [who, number]),
            Err(error) => panic!("{error}"),
        }
    }
    accepted
}

fn is_accounted(state: &Shutdown, pushed: usize) {
    let all = state.delivered + state.parked + state.discarded + state.left_in_log + state.lost;
    assert_eq!((all, state.lost), (pushed as u64, 0), "{state:?}");
}

/// Whether closing came before all pushes, between them, and behind them.
struct Race([AtomicU64; 3]);

impl Race {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 3])
    }

    fn note(&self, accepted: usize, of: usize) {
        let which = if accepted == 0 {
            0
        } else if accepted < of {
            1
        } else {
            2
        };
        self.0[which].fetch_add(1, Ordering::Relaxed);
    }

    fn was_one(&self) {
        let counts = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        println!("closed before, between and behind the pushes: {counts:?}");
        assert!(counts[1] > 0, "closing never raced: {counts:?}");
    }
}

/// With a paused sink nothing is settled by what it has had: the disk must do.
fn who_waits_is_woken(durability: Durability, paused: bool) {
    let (machine, got) = (machine(), Got::default());
    let queue = open(builder(durability), &machine, &got);
    if paused {
        queue.pause();
    }
    let threads: Vec<_> = (0..4)
        .map(|who| {
            let producer = queue.producer();
            thread::spawn(move || {
                for number in 0..2 {
                    let receipt = producer.push(entry(who, number, 9)).unwrap();
                    let durable = producer.durable(receipt);
                    if who % 2 == 0 || number == 1 {
                        durable.wait().unwrap();
                        assert!(producer.durable(receipt).is_reached());
                    }
                }
            })
        })
        .collect();
    queue.flush().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    queue.resume();
    queue.drain(LONG).unwrap();
    assert_eq!(got.all(true).len(), 8);
    is_accounted(&queue.shutdown(LONG).unwrap(), 8);
}

#[test]
fn who_waits_for_the_disk_is_woken() {
    explore(500, || who_waits_is_woken(Durability::Immediate, false));
}

#[test]
fn who_waits_for_the_disk_is_woken_within_the_period() {
    explore(150, || who_waits_is_woken(Durability::Periodic(Duration::from_micros(100)), false));
}

#[test]
fn who_waits_for_what_lies_in_memory_is_woken() {
    explore(250, || who_waits_is_woken(Durability::Spill, false));
}

/// Schedules of PCT hung here: the wish for durability was used up by a turn that had no room in the log.
#[test]
fn who_waits_beside_a_sink_that_stands_still_is_woken() {
    explore(250, || who_waits_is_woken(Durability::Spill, true));
}

#[test]
fn what_was_accepted_before_the_close_is_delivered_and_nothing_else() {
    static RACE: Race = Race::new();
    explore(700, || {
        let (machine, got) = (machine(), Got::default());
        let queue = open(builder(Durability::Immediate), &machine, &got);
        let threads: Vec<_> = (0..6)
            .map(|who| {
                let producer = queue.producer();
                thread::spawn(move || {
                    if who % 3 > 0 {
                        return push_all(&producer, who, 3);
                    }
                    let mut pinned = producer.pin();
                    let pushed = (0..3).filter(|number| pinned.push(entry(who, *number, 9)).is_ok());
                    pushed.map(|number| (who, number)).collect()
                })
            })
            .collect();
        let state = queue.shutdown(LONG).unwrap();
        let accepted: BTreeSet<Id> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(got.all(true), accepted);
        is_accounted(&state, accepted.len());
        assert_eq!((state.delivered, state.left_in_log), (accepted.len() as u64, 0));
        RACE.note(accepted.len(), 18);
    });
    RACE.was_one();
}

#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    explore(500, || {
        let (machine, got) = (machine(), Got::default());
        let queue = Arc::new(open(builder(Durability::Immediate), &machine, &got));
        // Eight in a row of four, over two rings to pin.
        let threads: Vec<_> = (0..4)
            .map(|first| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    for who in [first, first + 4] {
                        let producer = queue.producer();
                        let short = thread::spawn(move || {
                            let mut pinned = producer.pin();
                            assert!(pinned.push(entry(who, 0, 9)).is_ok() && pinned.push(entry(who, 1, 9)).is_ok());
                        });
                        short.join().unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let again = [queue.producer().pin(), queue.producer().pin()];
        assert!(again.iter().all(|pinned| pinned.has_own_ring()), "a ring was not given back");
        drop(again);
        let queue = Arc::into_inner(queue).expect("nobody else has it");
        let state = queue.shutdown(LONG).unwrap();
        assert_eq!(got.all(true).len(), 16);
        is_accounted(&state, 16);
    });
}

#[test]
fn a_push_that_waits_for_space_goes_on() {
    explore(150, || {
        let (machine, got) = (machine(), Got::default());
        let queue = open(builder(Durability::Immediate).rings(1), &machine, &got);
        let threads: Vec<_> = (0..4)
            .map(|who| {
                let producer = queue.producer();
                // Four of these fill the ring.
                thread::spawn(move || (0..3).for_each(|number| _ = producer.push(entry(who, number, 1000)).unwrap()))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let state = queue.shutdown(LONG).unwrap();
        assert_eq!(got.all(true).len(), 12);
        is_accounted(&state, 12);
    });
}

/// Closing wakes who waits for space, and who waits for the disk gets an answer.
#[test]
fn closing_ends_every_wait() {
    static RACE: Race = Race::new();
    explore(700, || {
        let (machine, got) = (machine(), Got::default());
        let queue = open(builder(Durability::Spill).rings(1), &machine, &got);
        let threads: Vec<_> = (0..5)
            .map(|who| {
                let producer = queue.producer();
                thread::spawn(move || {
                    let mut accepted = 0;
                    for number in 0..3 {
                        let Ok(receipt) = producer.push(entry(who, number, 1000)) else { break };
                        accepted += 1;
                        if who > 2 {
                            // In time, or the queue has ended: both are answers.
                            let _ = producer.durable(receipt).wait();
                        }
                    }
                    accepted
                })
            })
            .collect();
        let state = queue.shutdown(LONG).unwrap();
        let accepted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(got.all(true).len(), accepted);
        is_accounted(&state, accepted);
        RACE.note(accepted, 15);
    });
    RACE.was_one();
}

#[test]
fn every_question_gets_an_answer_beside_a_sink_that_refuses() {
    explore(500, || {
        let machine = machine();
        let sink = blocking_fn(|batch: &Batch<Entry>| match batch.iter().next() {
            Some(delivery) if delivery.value[0] == 0 => Err(SinkError::park("not from that one")),
            _ => Ok(()),
        });
        let builder = builder(Durability::Immediate).batch_len_max(1);
        let builder = builder.retry(Retry { base: Duration::ZERO, ..Retry::default() });
        let queue = Arc::new(builder.open_on::<Entry, _>(Driver::connect(&machine), sink).unwrap());
        let producers = [0, 1].map(|who| {
            let producer = queue.producer();
            thread::spawn(move || push_all(&producer, who, 2).len())
        });
        let askers = [0, 1].map(|which| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || match which {
                0 => _ = queue.parked().list(Lsn::ZERO, 10),
                _ => _ = (queue.parked().discard(|_| true), queue.flush()),
            })
        });
        let pushed: usize = producers.map(|producer| producer.join().unwrap()).iter().sum();
        let producer = queue.producer();
        for asker in askers {
            asker.join().unwrap();
        }
        let state = Arc::into_inner(queue).expect("nobody else has it").shutdown(LONG).unwrap();
        is_accounted(&state, pushed);
        assert!(pushed == 4 && producer.push(entry(9, 9, 2)).is_err());
    });
}

struct Signal(Bell);

impl std::task::Wake for Signal {
    fn wake(self: Arc<Self>) {
        ringwal::io::Wake::wake(&self.0);
    }
}

fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let signal = Arc::new(Signal(Bell::default()));
    let waker = Waker::from(Arc::clone(&signal));
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => signal.0.sleep(),
        }
    }
}

#[test]
fn tasks_are_woken_and_dropped_futures_leave_nothing() {
    explore(400, || {
        let (machine, got) = (machine(), Got::default());
        let queue = open(builder(Durability::Immediate).rings(1), &machine, &got);
        let threads: Vec<_> = (0..4)
            .map(|who| {
                let producer = queue.producer();
                thread::spawn(move || {
                    let receipt = block_on(Box::pin(producer.push_async(entry(who, 0, 1000)))).unwrap();
                    let mut durable = producer.durable(receipt);
                    if who == 0 {
                        // Looked at once, and dropped.
                        let _ = Pin::new(&mut durable).poll(&mut Context::from_waker(Waker::noop()));
                    } else {
                        block_on(durable).unwrap();
                    }
                    block_on(Box::pin(producer.push_async(entry(who, 1, 1000)))).unwrap();
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        block_on(Box::pin(queue.flush_async())).unwrap();
        assert_eq!(queue.shutdown(LONG).unwrap().delivered, 8);
        assert_eq!(got.all(true).len(), 8);
    });
}

#[test]
fn what_was_told_durable_is_there_after_a_power_cut() {
    explore(200, || {
        let (machine, got) = (machine(), Got::default());
        let queue = open(builder(Durability::Immediate), &machine, &got);
        queue.pause();
        let threads: Vec<_> = (0..4)
            .map(|who| {
                let producer = queue.producer();
                thread::spawn(move || {
                    producer.push_durable(entry(who, 0, 9)).unwrap().wait().unwrap();
                    // At stake.
                    let _ = producer.push(entry(who, 1, 9));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        machine.crash();
        // The dead machine refuses everything, and the log says so.
        let _ = queue.shutdown(LONG);
        assert_eq!(got.all(true), BTreeSet::new(), "delivery stood still");
        let queue = open(builder(Durability::Immediate), &machine, &got);
        queue.shutdown(LONG).unwrap();
        let all = got.all(true);
        assert!((0..4).all(|who| all.contains(&(who, 0))), "{all:?}");
    });
}
