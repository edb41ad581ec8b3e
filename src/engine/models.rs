//! loom's models of what the engine's threads share besides the rings: questions to the flush core, the wish for
//! durability, the counts. Run with those in `loom-tests/`; `docs/loom.md` has the table.

use std::path::Path;
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::gate::{Hold, MayWait};
use super::{Command, Shared, Status};
use crate::config::Config;
use crate::durable::{Receipt, wait_durable};
use crate::io::memory::RamDisk;
use crate::io::{Disk, Wake};
use crate::lsn::Lsn;
use crate::metrics::{Counters, Holes};
use crate::recovery::Recovery;
use crate::ring::{ClaimError, Drainer, Rings, RingsConfig, Sleep};

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let (count, begun) = (Arc::new(std::sync::Mutex::new(0_u64)), std::time::Instant::now());
    let counter = Arc::clone(&count);
    builder.check(move || {
        *counter.lock().unwrap() += 1;
        check();
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {} interleavings, {:?}", count.lock().unwrap(), begun.elapsed());
}

/// What the flush core sleeps on, without timeout: a lost wake-up is a deadlock.
#[derive(Debug)]
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn sleep(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

fn shared() -> (Arc<Shared>, Drainer, Arc<Bell>) {
    let bell = Arc::new(Bell(Mutex::new(false), Condvar::new()));
    let rings = RingsConfig { shared: 1, pinned: 0, ring_len: 64, entry_len_max: 8 };
    let (rings, drainer) = Rings::new(rings, bell.clone()).unwrap();
    let recovery = Recovery {
        new: true,
        clean: true,
        recovered: 0,
        from_rings: 0,
        incomplete_in_rings: 0,
        parked: 0,
        end: Lsn::ZERO,
        next: Lsn::FIRST,
        torn_tail: None,
        torn_tail_parked: None,
        lost: Vec::new(),
        lost_parked: Vec::new(),
        earlier: Default::default(),
        took: Duration::ZERO,
        disk: RamDisk::new().report(),
        incarnation: Default::default(),
    };
    let config = Config::new(Path::new("nowhere"));
    let status = Status::default();
    let shared = Shared::new(config, rings, Counters::default(), Holes::default(), recovery, Lsn::ZERO, status);
    (Arc::new(shared), drainer, bell)
}

/// The flush core takes what it finds, and ends. Nobody is left without an answer or the news that there is none.
#[test]
fn a_question_is_answered_or_its_asker_told() {
    model(3, || {
        let (shared, _drainer, _bell) = shared();
        let asker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (reply, answer) = sync_channel(1);
                shared.command(Command::Fence { tails: Vec::new(), asker: Weak::new(), reply });
                answer
            }
        });
        if let Some(Command::Fence { reply, .. }) = shared.commands.pop() {
            reply.send(Lsn::FIRST).unwrap();
        }
        shared.end();
        let answer = asker.join().unwrap();
        assert_ne!(answer.try_recv(), Err(TryRecvError::Empty), "a question is left in the queue");
    });
}

/// The turn of the flush core under `Periodic` or `Spill`: it makes durable what it has only when somebody wants
/// that, and naps otherwise.
#[test]
fn whoever_wants_durability_is_heard() {
    model(3, || {
        let (shared, mut drainer, bell) = shared();
        let waiter = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let end = shared.rings.claim(0, 8).unwrap().publish();
                wait_durable(&shared, Receipt { ring: 0, end }, None).unwrap();
                end
            }
        });
        let (mut held, mut asked) = (0, 0);
        while shared.rings.durable(0).value() == 0 {
            // First who wants it, then what there is: so what is wanted is among it.
            let asks = shared.asks();
            let urgent = asks > std::mem::replace(&mut asked, asks);
            held = drainer.drain(0, &mut [0; 64]).end.max(held);
            if urgent {
                assert_eq!(held, 16, "who waits has pushed before");
                shared.rings.durable(0).publish(held);
            } else if drainer.prepare_sleep(Sleep::Nap) {
                bell.sleep();
                drainer.wake_up();
            }
        }
        assert_eq!(waiter.join().unwrap(), held);
    });
}

/// An entry goes from the ring to the sink, through two threads; a third looks at the counts meanwhile.
#[test]
fn a_snapshot_counts_no_entry_twice() {
    model(2, || {
        let counters = Arc::new(Counters::default());
        counters.next_lsn.set(1);
        counters.seen_lsn.set(1);
        let flush = thread::spawn({
            let counters = Arc::clone(&counters);
            move || {
                counters.pushed.add(1);
                counters.next_lsn.set(2);
            }
        });
        let delivery = thread::spawn({
            let counters = Arc::clone(&counters);
            move || {
                // As the frame would come: only what the flush core has counted.
                if counters.next_lsn.read() == 2 {
                    counters.seen_lsn.set(2);
                    counters.unfinished.set(1);
                    counters.in_flight.set(1);
                    counters.unfinished.set(0);
                    counters.in_flight.set(0);
                    counters.delivered.set(1);
                }
            }
        });
        let seen = counters.snapshot(&Holes::default());
        assert!(seen.accounted() <= seen.came_in(), "{} of {}", seen.accounted(), seen.came_in());
        flush.join().unwrap();
        delivery.join().unwrap();
        let seen = counters.snapshot(&Holes::default());
        assert_eq!(seen.accounted(), seen.came_in());
    });
}

/// Two reasons hold pushes up, and two threads let go, in any order: who waits goes on when both have.
#[test]
fn who_is_held_up_goes_on_when_nothing_holds_him_up_any_more() {
    model(2, || {
        let (shared, _drainer, _bell) = shared();
        shared.gate.set(Hold::Hard, true);
        shared.gate.set(Hold::Failures, true);
        let let_go = |hold| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.gate.set(hold, false))
        };
        let others = [let_go(Hold::Hard), let_go(Hold::Failures)];
        // A wake-up that is lost is a deadlock.
        assert_eq!(shared.pass_gate(MayWait::Until(None), &mut false), Ok(()));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(!shared.is_gated());
    });
}

/// Closing ends the wait of who is held up, whatever holds him up still, and nothing of his gets into a ring any more.
#[test]
fn closing_sets_free_who_is_held_up() {
    model(3, || {
        let (shared, _drainer, _bell) = shared();
        shared.gate.set(Hold::Hard, true);
        let closer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.close_rings()
        });
        assert_eq!(shared.pass_gate(MayWait::Until(None), &mut false), Ok(()));
        assert!(matches!(shared.rings.claim(0, 8), Err(ClaimError::Closed)));
        closer.join().unwrap();
    });
}
