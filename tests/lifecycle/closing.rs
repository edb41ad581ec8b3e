//! `shutdown_async` and `drain_async`: as the blocking ones, without a thread of the caller's.

use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringwal::{Batch, Durability, LogError, PushError, Queue, ShutdownError, blocking_fn};

use crate::common::{LONG, Numbered, Recorder, small};

const SHORT: Duration = Duration::from_millis(20);

/// Runs a future on a thread that nothing else wakes; a hang fails the test instead of stopping it.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Bell(std::sync::mpsc::Sender<()>);
    impl std::task::Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    let (bell, rings) = std::sync::mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        rings.recv_timeout(LONG).expect("somebody wakes the task");
    }
}

/// A sink that blocks until the test lets it go.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    is_open: bool,
    has_batch: bool,
}

impl Gate {
    fn open(&self) {
        self.0.0.lock().unwrap().is_open = true;
        self.0.1.notify_all();
    }

    /// Until a batch is out.
    fn wait_for_batch(&self) {
        let waits = |state: &mut State| !state.has_batch;
        let (_state, over) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), LONG, waits).unwrap();
        assert!(!over.timed_out(), "no batch comes");
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.has_batch = true;
        self.0.1.notify_all();
        drop(self.0.1.wait_while(state, |state| !state.is_open).unwrap());
    }

    fn queue(&self, dir: &std::path::Path) -> Queue<Numbered> {
        let gate = self.clone();
        small(dir, Durability::Immediate).open(blocking_fn(move |_: &Batch<Numbered>| Ok(gate.pass()))).unwrap()
    }
}

fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    numbers.for_each(|n| _ = producer.push(Numbered::new(0, n, 20)).unwrap());
}

/// On the one thread of a runtime, which must go on meanwhile, and without any runtime.
#[test]
fn tasks_drain_and_close_a_queue_without_blocking_their_thread() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let queue = gate.queue(dir.path());
    push(&queue, 0..10);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (freed, is_freed) = tokio::sync::oneshot::channel();
        // Only once both wait does this task let the sink go on: were the thread blocked, nothing would.
        let other = tokio::spawn({
            let gate = gate.clone();
            async move {
                is_freed.await.unwrap();
                tokio::task::yield_now().await;
                gate.open();
            }
        });
        freed.send(()).unwrap();
        queue.drain_async(LONG).await.unwrap();
        assert_eq!(queue.metrics().delivered, 10);
        let producer = queue.producer();
        let closed = queue.shutdown_async(LONG).await.unwrap();
        assert_eq!((closed.delivered, closed.left_in_log, closed.lost), (10, 0, 0));
        assert!(matches!(producer.push(Numbered::new(0, 10, 0)), Err(PushError::Closed(_))));
        other.await.unwrap();
    });
    let queue = small(dir.path(), Durability::Immediate).open(Recorder::default()).unwrap();
    assert!(queue.recovery().clean && queue.recovery().recovered == 0);
    push(&queue, 0..5);
    block_on(queue.drain_async(LONG)).unwrap();
    assert_eq!(block_on(queue.shutdown_async(LONG)).unwrap().delivered, 5);
}

#[test]
fn a_drain_in_a_task_ends_with_its_time_or_with_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Immediate).open(Recorder::default()).unwrap();
    queue.pause();
    push(&queue, 0..10);
    // Nothing else happens meanwhile that would wake the flush core.
    for _ in 0..3 {
        assert_eq!(block_on(queue.drain_async(SHORT)), Err(LogError::TimedOut));
    }
    assert_eq!(block_on(queue.drain_async(Duration::ZERO)), Err(LogError::TimedOut));
    // One that is given up leaves nothing that would end another one.
    let mut given_up = Box::pin(queue.drain_async(SHORT));
    assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(given_up);
    let resumed = std::thread::scope(|scope| {
        let waits = scope.spawn(|| block_on(queue.drain_async(Duration::MAX)));
        std::thread::sleep(SHORT);
        queue.resume();
        waits.join().unwrap()
    });
    assert_eq!(resumed, Ok(()));
    queue.pause();
    push(&queue, 10..20);
    let producer = queue.producer();
    let last = producer.push_delivered(Numbered::new(0, 20, 0)).unwrap();
    // Paused, it does not wait for its sink.
    let closed = block_on(queue.shutdown_async(LONG)).unwrap();
    assert_eq!((closed.delivered, closed.left_in_log), (10, 11));
    assert_eq!(block_on(last), Err(LogError::Closed));
}

#[test]
fn a_sink_that_does_not_finish_is_told_to_tasks_as_to_threads() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let queue = gate.queue(dir.path());
    push(&queue, 0..10);
    gate.wait_for_batch();
    match block_on(queue.shutdown_async(SHORT)) {
        Err(ShutdownError::Deadline(state)) => assert_eq!((state.delivered, state.left_in_log), (0, 10)),
        other => panic!("{other:?}"),
    }
    gate.open();
    let queue = small(dir.path(), Durability::Immediate).open(Recorder::default()).unwrap();
    assert_eq!(queue.recovery().recovered, 10);
    queue.shutdown(LONG).unwrap();
}

/// There is no way back from closing, so whoever loses interest only does not hear of the end.
#[test]
fn closing_begins_with_the_call_and_goes_on_when_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let queue = gate.queue(dir.path());
    push(&queue, 0..10);
    let (watch, producer) = (queue.watch(), queue.producer());
    // Never polled.
    let closing = queue.shutdown_async(LONG);
    drop(closing);
    gate.open();
    // The directory is free once all is over: what opens it next waits for it, and finds everything delivered.
    let settings = small(dir.path(), Durability::Immediate).lock_wait(LONG);
    let queue = settings.open(Recorder::default()).unwrap();
    assert!(
        producer.is_closed() && queue.recovery().clean && queue.recovery().recovered == 0,
        "{:?}",
        queue.recovery()
    );
    assert!(watch.metrics().delivered >= 10);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_task_that_changes_hands_while_the_queue_closes_is_woken_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let queue = gate.queue(dir.path());
    push(&queue, 0..1);
    let mut closing = Box::pin(queue.shutdown_async(LONG));
    // Polled here, then by another thread: the last waker counts.
    assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let elsewhere = std::thread::spawn(move || block_on(closing));
    gate.open();
    assert_eq!(elsewhere.join().unwrap().unwrap().delivered, 1);
}

const _: () = {
    const fn may_move<T: Send + 'static>() {}
    may_move::<ringwal::ShuttingDown>();
    may_move::<ringwal::Delivered>();
    const fn of<T: Send>(_: &T) {}
    // A future that borrows the queue may go to another thread with it.
    #[expect(dead_code, reason = "checked by being compiled")]
    fn drain_is_send(queue: &Queue<Numbered>) {
        of(&queue.drain_async(LONG));
    }
};

#[test]
fn what_closing_came_to_is_told_as_often_as_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Immediate).open(Recorder::default()).unwrap();
    let mut closing = Box::pin(queue.shutdown_async(LONG));
    let first = block_on(&mut closing).unwrap();
    match closing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(again) => assert_eq!(again, Ok(first)),
        Poll::Pending => panic!("it has ended"),
    }
}
