//! The circuit breaker: what it does, and what it tells.

use std::path::Path;
use std::time::Duration;

use ringwal::{Breaker, BreakerState, Concern, Durability, Outcome, Queue};

use crate::stage::{MS, Stage, few};

const SECOND: Duration = Duration::from_secs(1);

fn breaks(failures: u32) -> Breaker {
    Breaker { failures, open_for: SECOND, probes: 2, ..Breaker::default() }
}

/// An entry at a time, whose first refusals open the breaker.
fn broken() -> Stage {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(1).breaker(breaks(2)));
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..3);
    // Its second attempt comes within a tenth of a second.
    stage.pass(200 * MS);
    stage
}

/// F141: what the breaker does can be seen while it does it, in the counts and as a reason in health.
#[test]
fn each_state_of_the_breaker_shows_while_it_lasts() {
    let mut stage = broken();
    let told = |stage: &Stage| {
        let of_health = stage.queue.health().reasons().iter().find_map(|concern| match concern {
            Concern::Breaker(state) => Some(*state),
            _ => None,
        });
        let metrics = stage.metrics();
        assert_eq!(metrics.breaker, of_health.unwrap_or(BreakerState::Closed));
        (metrics.breaker, metrics.breaker_opened)
    };
    assert_eq!(told(&stage), (BreakerState::Open, 1));
    // It lets one through, and that fails.
    stage.pass(SECOND);
    assert_eq!(told(&stage), (BreakerState::Open, 2));
    // The next one does not answer for now.
    stage.sink.hangs();
    stage.pass(SECOND);
    assert_eq!(told(&stage), (BreakerState::HalfOpen, 2));
    // One success is not two.
    let mut answers = 0;
    stage.sink.answers(move |_| {
        answers += 1;
        (answers == 1).then(Outcome::ack)
    });
    stage.settle();
    assert_eq!((told(&stage), stage.metrics().delivered), ((BreakerState::HalfOpen, 2), 1));
    stage.sink.acknowledges();
    stage.settle();
    assert_eq!(told(&stage), (BreakerState::Closed, 2));
    assert_eq!(stage.metrics().delivered, 3);
}

/// F153: who does not ask for a breaker has none; the delays between attempts spare the sink.
#[test]
fn there_is_no_breaker_unless_it_is_asked_for() {
    let fails = |builder| {
        let mut stage = Stage::new(builder);
        stage.sink.answers(|_| Some(Outcome::retry("down")));
        stage.push(0..1);
        for _ in 0..100 {
            stage.pass(SECOND);
        }
        (stage.metrics().breaker_opened, stage.metrics().breaker, stage.sink.calls().len())
    };
    let plain = || Queue::builder(Path::new("/simulated"));
    let (opened, state, attempts) = fails(plain());
    assert_eq!((opened, state), (0, BreakerState::Closed));
    assert!(attempts >= 10, "{attempts} attempts");
    let (opened, state, _) = fails(plain().breaker(Breaker { open_for: 1000 * SECOND, ..breaks(3) }));
    assert_eq!((opened, state), (1, BreakerState::Open));
}

/// F160: the breaker stands before the sink and not before the log: what is pushed while it is open is kept.
#[test]
fn while_the_breaker_is_open_pushes_become_durable_and_wait() {
    let mut stage = broken();
    let calls = stage.sink.calls().len();
    stage.push(3..100);
    stage.settle();
    let metrics = stage.metrics();
    assert_eq!((metrics.breaker, metrics.pending), (BreakerState::Open, 100));
    assert_eq!(metrics.durable_lsn.number(), 100, "the log took them: {metrics:#?}");
    assert_eq!(stage.sink.calls().len(), calls, "the sink heard nothing of it");
    // A crash now loses none of them.
    stage.machine.crash();
    let mut stage = stage.reopen(few(Durability::Immediate));
    stage.pass(SECOND);
    assert_eq!(stage.sink.numbers(), (0..100).collect::<Vec<_>>());
}

/// F178: as text the states are the documents' words.
#[test]
fn the_states_of_the_breaker_print_as_the_documents_words() {
    let mut stage = Stage::new(few(Durability::Immediate).breaker(breaks(1)));
    assert_eq!(stage.metrics().breaker.to_string(), "closed");
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..1);
    stage.pass(10 * MS);
    assert_eq!(stage.metrics().breaker.to_string(), "open");
    assert_eq!(
        stage.queue.health().reasons().iter().map(ToString::to_string).find(|text| text.contains("breaker")),
        Some("the breaker is open: the sink kept failing".to_owned())
    );
    stage.sink.hangs();
    stage.pass(2 * SECOND);
    assert_eq!(stage.metrics().breaker.to_string(), "half-open");
}
