//! What a queue says of pressure, and of how it is doing.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringwal::sim::{Fault, OpKind};
use ringwal::{Concern, Durability, Grade, Health, Outcome, PushError, Verdict, WhenFull};

use crate::common::Numbered;
use crate::stage::{MS, Stage, each, few};

const EIO: i32 = 5;

fn entry(n: u32) -> Numbered {
    Numbered::new(0, n, 20)
}

/// Over its soft watermark, with room for a few more.
fn pressed(delay: Duration) -> Stage {
    let builder = few(Durability::Immediate).backlog_len_max(100).watermarks(0.5, 0.95).soft_delay(delay);
    let mut stage = Stage::new(builder);
    stage.sink.hangs();
    stage.push(0..60);
    stage.settle();
    assert_eq!(stage.metrics().pressure.backlog, Grade::Soft);
    stage
}

/// F142: how many pushes were slowed down, threads and tasks, and by how much all together.
#[test]
fn each_delay_of_a_push_is_counted_and_its_time_added_up() {
    let delay = 20 * MS;
    let mut stage = pressed(delay);
    let producer = stage.queue.producer();
    assert_eq!((stage.metrics().pressure.delayed, stage.metrics().pressure.delayed_for), (0, Duration::ZERO));
    for n in 1..=3_u32 {
        let mut push = pin!(producer.push_async(entry(59 + n)));
        let mut poll = || push.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        stage.pass(delay);
        assert!(matches!(poll(), Poll::Ready(Ok(_))), "{:?}", stage.queue);
        stage.settle();
        let pressure = stage.metrics().pressure;
        assert_eq!(pressure.delayed, u64::from(n));
    }
    // A thread's own.
    let before = stage.metrics().pressure;
    producer.push(entry(63)).unwrap();
    let after = stage.metrics().pressure;
    assert_eq!(after.delayed, 4);
    assert!(after.delayed_for >= before.delayed_for + delay, "{before:?}, {after:?}");
    // And one that may not wait.
    producer.try_push(entry(64)).unwrap();
    assert_eq!(stage.metrics().pressure, after);
}

/// F179: what a push would wait now: nothing, the delay that was set, and nothing again.
#[test]
fn the_delay_that_is_told_is_the_one_that_was_set_while_it_holds() {
    for delay in [MS, 7 * MS] {
        let mut stage =
            Stage::new(few(Durability::Immediate).backlog_len_max(100).watermarks(0.5, 0.95).soft_delay(delay));
        stage.sink.hangs();
        stage.push(0..49);
        stage.settle();
        assert_eq!(stage.metrics().pressure.delay, Duration::ZERO, "below the watermark");
        stage.push(49..50);
        stage.settle();
        assert_eq!(stage.metrics().pressure.delay, delay);
        stage.sink.acknowledges();
        stage.pass(10 * MS);
        assert_eq!(stage.metrics().pressure.delay, Duration::ZERO, "it is empty");
    }
}

/// F244: what is short, and what that has cost, each under its own name.
#[test]
fn what_a_full_queue_lacks_and_what_it_refuses_is_counted_by_kind() {
    // Until nothing is taken any more: what the flush core lacks.
    let fill = |stage: &mut Stage| {
        let producer = stage.queue.producer();
        for n in 0..100_000 {
            match producer.push(Numbered::new(0, n, 1900)) {
                Ok(_) => stage.settle(),
                Err(PushError::Full(_) | PushError::Dropped(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("it is never full: {:?}", stage.metrics());
    };
    let mut stage = Stage::new(few(Durability::Immediate).when_full(WhenFull::Reject));
    stage.sink.hangs();
    fill(&mut stage);
    let metrics = stage.metrics();
    assert!(metrics.blocked_on_log > 0 && metrics.blocked_on_memory == 0, "{metrics:#?}");
    assert_eq!((metrics.rejected, metrics.rejected_by.full, metrics.dropped), (1, 1, 0));
    assert_eq!((metrics.pressure.log, metrics.pressure.memory), (Grade::Soft, Grade::Calm));

    let mut stage = Stage::new(few(Durability::Immediate).log_bytes_max(64 << 20).when_full(WhenFull::DropNewest));
    stage.settle();
    stage.machine.inject(Fault::hung(OpKind::Write));
    fill(&mut stage);
    let metrics = stage.metrics();
    assert!(metrics.blocked_on_memory > 0 && metrics.blocked_on_log == 0, "{metrics:#?}");
    assert_eq!((metrics.dropped, metrics.dropped_by.full, metrics.rejected), (1, 1, 0));
    assert_eq!(metrics.pressure.log, Grade::Calm);
}

/// F040: there is nothing to be started: a queue that can be named works, and says so.
#[test]
fn a_queue_that_was_opened_is_well_and_delivers_what_is_pushed_next() {
    for durability in [Durability::Immediate, Durability::Periodic(5 * MS), Durability::Spill, Durability::Memory] {
        let mut stage = Stage::new(few(durability));
        stage.push(0..1);
        assert_eq!(stage.queue.health(), Health::Ok, "{durability:?}");
        stage.pass(10 * MS);
        assert_eq!((stage.sink.numbers(), stage.queue.health()), (vec![0], Health::Ok), "{durability:?}");
    }
}

/// F140: each thing that is wrong is a reason while it is wrong, and not one before or after.
#[test]
fn health_gives_each_reason_while_it_holds() {
    let mut stage = Stage::new(few(Durability::Immediate));
    assert_eq!(stage.queue.health(), Health::Ok);
    // The sink refuses.
    stage.sink.answers(|_| Some(Outcome::retry("down")));
    stage.push(0..1);
    stage.pass(1000 * MS);
    let Health::Degraded(reasons) = stage.queue.health() else { panic!("{:?}", stage.queue.health()) };
    assert!(matches!(reasons[..], [Concern::SinkFailing(2..)]), "{reasons:?}");
    stage.sink.acknowledges();
    stage.pass(60_000 * MS);
    assert_eq!(stage.queue.health(), Health::Ok);
    // An entry is parked.
    stage.sink.answers(|call| Some(each(call, |_| Verdict::Park("never".into()))));
    stage.push(1..2);
    stage.pass(10 * MS);
    assert_eq!(stage.queue.health(), Health::Degraded(vec![Concern::Parked(1)]));
    let parked = stage.queue.list_parked(ringwal::Lsn::ZERO, 10);
    stage.settle();
    let ids = parked.try_recv().unwrap().unwrap().iter().map(|entry| entry.id).collect();
    let discarded = stage.queue.unpark(ids, false);
    stage.pass(1000 * MS);
    discarded.try_recv().unwrap().unwrap();
    assert_eq!(stage.queue.health(), Health::Ok);
    // The disk fails: nothing goes on, whatever else is well.
    stage.machine.inject(Fault::error(OpKind::Write, EIO));
    stage.push(2..3);
    stage.settle();
    let Health::Failed(reasons) = stage.queue.health() else { panic!("{:?}", stage.queue.health()) };
    assert!(matches!(&reasons[..], [Concern::LogFailed(why), ..] if why.contains("os error 5")), "{reasons:?}");
}
