//! `push_delivered`: told when the sink is done, and not before.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ringwal::sim::{Fault, OpKind};
use ringwal::wal::op::{FileId, LogId};
use ringwal::{
    Batch, DecodeError, Delivered, Durability, Entry, LogError, OnCorruption, Outcome, Park, Queue, Schema, SlotNo,
    Verdict, WhenFull, sink_fn,
};

use crate::common::{LONG, Numbered, Recorder, small};
use crate::stage::{MS, Stage, few};

/// Longer than any test here lets pass: whatever comes before was not waited for.
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const DURABILITIES: [Durability; 4] =
    [Durability::Immediate, Durability::Periodic(MINUTE), Durability::Spill, Durability::Memory];

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that waits.
struct Task {
    delivered: Delivered,
    woken: Arc<Woken>,
}

impl Task {
    fn new(delivered: Delivered) -> Self {
        Self { delivered, woken: Arc::default() }
    }

    fn poll(&mut self) -> Option<Result<(), LogError>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        match Pin::new(&mut self.delivered).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }
}

fn push(stage: &Stage, number: u32) -> Task {
    Task::new(stage.queue.producer().push_delivered(Numbered::new(0, number, 20)).expect("there is room"))
}

/// Polls until it pends on what the test has yet to do.
fn settle_with(stage: &mut Stage, task: &mut Task) -> Option<Result<(), LogError>> {
    for _ in 0..4 {
        stage.settle();
        if let Some(outcome) = task.poll() {
            return Some(outcome);
        }
    }
    stage.settle();
    None
}

#[test]
fn it_resolves_when_the_sink_has_acknowledged_and_nothing_lingers_while_it_is_waited_for() {
    for durability in DURABILITIES {
        let mut stage = Stage::new(few(durability).linger(HOUR).batch_len_max(1000));
        stage.sink.hangs();
        let mut task = push(&stage, 0);
        stage.settle();
        stage.pass(MS);
        assert_eq!(stage.sink.calls().len(), 0, "{durability:?}: nobody waits, so it lingers");
        assert!(!task.delivered.is_reached());
        let before = stage.now();
        assert_eq!(settle_with(&mut stage, &mut task), None, "{durability:?}: the sink has not answered");
        stage.pass(MS);
        assert_eq!(stage.sink.numbers(), [0], "{durability:?}: it is hurried");
        assert!(stage.now() - before < MINUTE);
        assert!(task.poll().is_none() && !task.delivered.is_reached(), "{durability:?}");
        let wakes = task.wakes();
        stage.sink.acknowledges();
        stage.settle();
        assert_eq!(task.wakes(), wakes + 1, "{durability:?}: woken, once");
        assert!(task.delivered.is_reached());
        assert_eq!(task.poll(), Some(Ok(())), "{durability:?}");
        assert_eq!(task.poll(), Some(Ok(())), "asked again it says the same");
    }
}

#[test]
fn what_is_pushed_later_is_not_waited_for() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(1));
    stage.sink.answers(|call| (call.numbers() == [0]).then(Outcome::ack));
    let mut first = push(&stage, 0);
    stage.settle();
    let mut second = push(&stage, 1);
    // Asked for only now, and yet answered as of its push.
    assert_eq!(settle_with(&mut stage, &mut first), Some(Ok(())));
    assert_eq!(settle_with(&mut stage, &mut second), None);
    stage.sink.acknowledges();
    assert_eq!(settle_with(&mut stage, &mut second), Some(Ok(())));
}

#[test]
fn a_receipt_may_be_turned_into_one_and_a_pinned_producer_has_them_too() {
    let mut stage = Stage::new(few(Durability::Immediate).linger(HOUR));
    let producer = stage.queue.producer();
    let mut pinned = producer.pin();
    let receipt = producer.push(Numbered::new(0, 0, 20)).unwrap();
    let of_pinned = pinned.push(Numbered::new(0, 1, 20)).unwrap();
    stage.sink.hangs();
    let mut tasks = [
        Task::new(producer.delivered(receipt)),
        Task::new(pinned.delivered(of_pinned)),
        Task::new(pinned.push_delivered(Numbered::new(0, 2, 20)).unwrap()),
    ];
    for task in &mut tasks {
        assert_eq!(settle_with(&mut stage, task), None);
    }
    stage.sink.acknowledges();
    for task in &mut tasks {
        assert_eq!(settle_with(&mut stage, task), Some(Ok(())));
    }
}

#[test]
fn a_parked_entry_has_come_to_its_end_once_it_is_in_the_park_and_a_discarded_one_too() {
    for park in [Park::Dir, Park::Drop] {
        let mut stage = Stage::new(few(Durability::Immediate).park(park));
        stage.sink.answers(|_| Some(Outcome::All(Verdict::Park("no such address".into()))));
        let mut task = push(&stage, 0);
        // Until the park's first segment is there and written.
        let mut outcome = None;
        for _ in 0..1000 {
            outcome = settle_with(&mut stage, &mut task);
            let metrics = stage.metrics();
            assert_eq!(
                outcome.is_some(),
                metrics.parked + metrics.discarded == 1,
                "{park:?}: told and counted at once"
            );
            if outcome.is_some() {
                break;
            }
            stage.pass(MS);
        }
        assert_eq!(outcome, Some(Ok(())), "{park:?}");
    }
}

#[test]
fn a_failed_log_is_no_failed_delivery_and_closing_tells_who_still_waits() {
    let mut stage = Stage::new(few(Durability::Immediate));
    stage.sink.hangs();
    let mut first = push(&stage, 0);
    assert_eq!(settle_with(&mut stage, &mut first), None);
    // The log fails with the second entry; both are still delivered, from memory.
    stage.machine.inject(Fault::error(OpKind::Write, libc::EIO).forever());
    let mut second = push(&stage, 1);
    let mut third = push(&stage, 2);
    assert_eq!(settle_with(&mut stage, &mut second), None);
    assert!(stage.queue.has_failed());
    stage.sink.answers(|call| (!call.numbers().contains(&2)).then(Outcome::ack));
    assert_eq!(settle_with(&mut stage, &mut first), Some(Ok(())));
    let _ = settle_with(&mut stage, &mut second);
    stage.sink.hangs();
    stage.queue.begin_closing(true);
    for _ in 0..100 {
        stage.settle();
        if stage.queue.poll_close(true).is_some() {
            break;
        }
    }
    assert!(matches!(settle_with(&mut stage, &mut third), Some(Err(LogError::Failed(_)))), "{:?}", third.delivered);
}

#[test]
fn who_waits_when_the_queue_closes_hears_that_it_is_closed() {
    let mut stage = Stage::new(few(Durability::Immediate).batch_len_max(1));
    stage.sink.answers(|call| (call.numbers() == [0]).then(Outcome::ack));
    let mut tasks: Vec<Task> = (0..3).map(|n| push(&stage, n)).collect();
    assert_eq!(settle_with(&mut stage, &mut tasks[0]), Some(Ok(())));
    assert_eq!(settle_with(&mut stage, &mut tasks[1]), None);
    // This one is polled when everything is over, and another one asked for only then.
    let mut late = tasks.pop().unwrap();
    let mut out = tasks.pop().unwrap();
    let producer = stage.queue.producer();
    let receipt = producer.push(Numbered::new(0, 3, 20)).unwrap();
    let wakes = out.wakes();
    stage.queue.begin_closing(true);
    let mut closed = None;
    for _ in 0..100 {
        stage.settle();
        closed = stage.queue.poll_close(true);
        if closed.is_some() {
            break;
        }
    }
    assert!(closed.is_some(), "{:?}", stage.queue);
    assert!(out.wakes() > wakes, "nobody is left asleep");
    let mut asked_late = Task::new(producer.delivered(receipt));
    for task in [&mut out, &mut late, &mut asked_late] {
        assert_eq!(task.poll(), Some(Err(LogError::Closed)));
    }
}

/// With a lane for each: [`Numbered`] has no key.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Keyed(u64);

impl Entry for Keyed {
    const SCHEMA: Schema = Schema::new("test.keyed", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(8)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.try_into().map_err(|_| DecodeError::new("not eight bytes"))?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }

    fn key(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// The count of what is done is a prefix: with several batches out the answer may come late, and comes.
#[test]
fn with_several_batches_in_flight_it_resolves_with_all_that_lies_before_it() {
    const ENTRIES: u64 = 8;
    let (out, is_out) = std::sync::mpsc::channel();
    let held = Arc::new(Mutex::new(Vec::new()));
    let sink = sink_fn({
        let held = Arc::clone(&held);
        move |batch: Batch<Keyed>| {
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            let key = batch.values().next().expect("a batch has an entry").0;
            held.lock().unwrap().push((key, answer));
            let _ = out.send(key);
            async move { Ok(answered.await?) }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path(), Durability::Immediate).batch_len_max(1).in_flight_max(ENTRIES as usize);
    // Each is an entry of its own turn, so that none is counted together with another one.
    let queue = settings.rings(1).open(sink).unwrap();
    let producer = queue.producer();
    let mut waits = Vec::new();
    for key in 0..ENTRIES {
        waits.push(producer.push_delivered(Keyed(key)).unwrap());
        assert_eq!(is_out.recv_timeout(LONG).unwrap(), key);
    }
    let answer = |key: u64| {
        let mut held = held.lock().unwrap();
        let at = held.iter().position(|(of, _)| *of == key).unwrap();
        held.swap_remove(at).1.send(()).unwrap();
    };
    // The last ones first: they are done, and behind one that is not.
    for key in (1..ENTRIES).rev() {
        answer(key);
    }
    let begun = std::time::Instant::now();
    while queue.metrics().delivered < ENTRIES - 1 {
        assert!(begun.elapsed() < LONG, "{:?}", queue.metrics());
        std::thread::sleep(MS);
    }
    assert!(waits.iter().all(|wait| !wait.is_reached()), "the first one is still out");
    answer(0);
    for wait in waits {
        assert_eq!(wait.wait_timeout(LONG), Ok(()));
        assert!(wait.is_reached());
    }
    queue.shutdown(LONG).unwrap();
}

/// Found while `Delivered` was written: the count of what is done also passes what was lost, which nobody has.
#[test]
fn nobody_is_told_delivered_what_could_not_be_read_back() {
    const ENTRIES: u32 = 1800;
    let settings = few(Durability::Immediate)
        .memory_max(3 << 20)
        .rings(1)
        .pinned_rings(0)
        .when_full(WhenFull::Reject)
        .on_corruption(OnCorruption::Quarantine);
    let mut stage = Stage::new(settings);
    stage.sink.hangs();
    let producer = stage.queue.producer();
    let mut tasks = Vec::new();
    for n in 0..ENTRIES {
        tasks.push(Task::new(producer.push_delivered(Numbered::new(0, n, 1900)).expect("it is drained meanwhile")));
        if n % 8 == 7 {
            stage.pass(MS);
        }
    }
    stage.pass(10 * MS);
    let metrics = stage.metrics();
    assert!(metrics.frames_let_go > 0 && metrics.durable_lsn.number() == u64::from(ENTRIES), "{metrics:#?}");
    // Half of a segment rots that delivery has not come to, and nothing of which is in memory.
    for at in (100 << 10..300 << 10).step_by(4096) {
        stage.machine.rot(FileId::Slot(LogId::Main, SlotNo(5)), at + 50, 0xff);
    }
    stage.sink.acknowledges();
    stage.pass(Duration::from_secs(1));
    let metrics = stage.metrics();
    assert!(metrics.lost > 0 && metrics.delivered + metrics.lost == u64::from(ENTRIES), "{metrics:#?}");
    let mut got = vec![false; ENTRIES as usize];
    stage.sink.numbers().iter().for_each(|n| got[*n as usize] = true);
    let mut refused = 0;
    for (n, task) in tasks.iter_mut().enumerate() {
        match settle_with(&mut stage, task).expect("all of it is over") {
            Ok(()) => assert!(got[n], "{n} was lost"),
            Err(LogError::Corrupt(_)) => refused += 1,
            Err(other) => panic!("{n}: {other}"),
        }
    }
    // Of a run that goes round the ring's end, a quarter of them here, nobody knows its own number.
    let lost = metrics.lost;
    assert!((lost..=lost + u64::from(ENTRIES) / 3).contains(&refused), "{refused} refused, {lost} lost");
}

#[test]
fn a_thousand_tasks_each_learn_of_their_own_entry() {
    const TASKS: u32 = 1000;
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::default();
    let queue = small(dir.path(), Durability::Periodic(MS)).linger(MINUTE).open(recorder.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (producer, seen) = (queue.producer(), Arc::clone(&recorder.0));
            runtime.spawn(async move {
                producer.push_async(Numbered::new(n, 0, 50)).await.unwrap();
                let mut delivered = producer.push_delivered(Numbered::new(n, 1, 50)).unwrap();
                if n % 7 == 0 {
                    // Some lose interest, and leave nothing behind that would hurt the others.
                    let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut delivered).poll(cx).is_ready()));
                    polled.await;
                    return;
                }
                delivered.await.unwrap();
                assert!(seen.all().iter().any(|(_, entry, _)| (entry.producer, entry.number) == (n, 1)));
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    queue.drain(LONG).unwrap();
    assert_eq!(queue.shutdown(LONG).unwrap().delivered, u64::from(2 * TASKS));
}

/// What a sink of its own queue was answered: by `wait`, by awaiting, by `drain_async`.
type Answers = Arc<Mutex<Vec<Result<(), LogError>>>>;

#[test]
fn the_queues_own_sink_is_refused_and_threads_may_wait_with_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let answers = Answers::default();
    let own: Arc<Mutex<Option<Queue<Numbered>>>> = Arc::default();
    let sink = sink_fn({
        let (answers, own) = (Arc::clone(&answers), Arc::clone(&own));
        move |batch: Batch<Numbered>| {
            let (answers, own) = (Arc::clone(&answers), Arc::clone(&own));
            async move {
                if batch.values().next().expect("an entry").number == 0 {
                    let own = own.lock().unwrap();
                    let queue = own.as_ref().expect("it was put there before the push");
                    let push = || queue.producer().push_delivered(Numbered::new(0, 1, 0)).unwrap();
                    let mut waiting = Box::pin(queue.drain_async(LONG));
                    let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    let mut awaited = Task::new(push());
                    let mut answers = answers.lock().unwrap();
                    answers.push(push().wait());
                    answers.push(awaited.poll().expect("at once"));
                    answers.push(match polled {
                        Poll::Ready(outcome) => outcome,
                        Poll::Pending => Ok(()),
                    });
                }
                Ok(())
            }
        }
    });
    let queue = small(dir.path(), Durability::Immediate).open(sink).unwrap();
    queue.pause();
    let producer = queue.producer();
    let delivered = producer.push_delivered(Numbered::new(0, 0, 0)).unwrap();
    assert_eq!(delivered.wait_timeout(MS), Err(LogError::TimedOut));
    own.lock().unwrap().replace(queue);
    own.lock().unwrap().as_ref().unwrap().resume();
    delivered.wait_timeout(LONG).unwrap();
    assert_eq!(*answers.lock().unwrap(), vec![Err(LogError::WouldDeadlock); 3]);
    let queue = own.lock().unwrap().take().unwrap();
    queue.shutdown(LONG).unwrap();
}
