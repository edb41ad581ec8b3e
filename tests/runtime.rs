//! Async sinks on the user's tokio runtime: its timers and sockets, and whatever ends them.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{LONG, Numbered, Recorder, assert_settles, in_memory, small};
use ringwal::{
    Batch, Concern, Durability, Health, LogError, Lsn, OpenError, Outcome, Queue, Retry, ShutdownError, Sink,
    blocking_fn, sink_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

const MS: Duration = Duration::from_millis(1);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name("theirs").enable_all().build().unwrap()
}

fn push(queue: &Queue<Numbered>, numbers: std::ops::Range<u32>) {
    let producer = queue.producer();
    numbers.for_each(|n| _ = producer.push(Numbered::new(0, n, 20)).unwrap());
}

/// Waits against hanging only.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(MS);
    }
}

/// Sends every batch to a server on loopback, which answers with how many bytes it has got.
#[test]
fn a_sink_uses_the_runtimes_sockets_and_timers() {
    for (in_flight_max, deliver_timeout) in [(1, false), (4, true)] {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let server = runtime.spawn({
            let got = Arc::clone(&got);
            async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let got = Arc::clone(&got);
                    tokio::spawn(async move {
                        let mut bytes = Vec::new();
                        stream.read_to_end(&mut bytes).await.unwrap();
                        let numbers = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
                        got.lock().unwrap().extend(numbers);
                        stream.write_all(&(bytes.len() as u64).to_le_bytes()).await.unwrap();
                    });
                }
            }
        });
        let sink = sink_fn(move |batch: Batch<Numbered>| async move {
            assert!(std::thread::current().name().is_some_and(|name| name.starts_with("theirs")));
            tokio::time::sleep(MS).await;
            let bytes: Vec<u8> = batch.values().flat_map(|entry| entry.number.to_le_bytes()).collect();
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            let mut answer = [0; 8];
            tokio::time::timeout(LONG, stream.read_exact(&mut answer)).await??;
            assert_eq!(u64::from_le_bytes(answer), bytes.len() as u64);
            Ok(())
        });
        let dir = in_memory();
        let mut settings = small(dir.path(), Durability::Immediate).batch_len_max(20).in_flight_max(in_flight_max);
        if deliver_timeout {
            settings = settings.deliver_timeout(LONG);
        }
        let queue = settings.runtime(runtime.handle().clone()).open(sink).unwrap();
        push(&queue, 0..200);
        runtime.block_on(queue.drain_async(LONG)).unwrap();
        let metrics = queue.metrics();
        assert_eq!((metrics.delivered, metrics.sink_panics, metrics.delivery_failures), (200, 0, 0), "{metrics:#?}");
        let closed = runtime.block_on(queue.shutdown_async(LONG)).unwrap();
        assert_eq!((closed.delivered, closed.left_in_log), (200, 0));
        let mut got = std::mem::take(&mut *got.lock().unwrap());
        if in_flight_max > 1 {
            got.sort_unstable();
        }
        assert_eq!(got, (0..200).collect::<Vec<u32>>());
        server.abort();
    }
}

/// What the setting is for: without it there is no reactor where a sink is polled.
#[test]
fn without_a_runtime_a_timer_panics_and_counts_as_a_failed_attempt() {
    let dir = in_memory();
    let retry = Retry { attempts_max: Some(1), ..Retry::default() };
    let sink = sink_fn(|_: Batch<Numbered>| async { Ok(tokio::time::sleep(MS).await) });
    let queue = small(dir.path(), Durability::Immediate).retry(retry).open(sink).unwrap();
    push(&queue, 0..1);
    queue.drain(LONG).unwrap();
    assert_eq!((queue.metrics().parked, queue.metrics().sink_panics), (1, 1));
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_panic_in_the_task_is_a_failed_attempt_and_the_batch_comes_again() {
    let runtime = runtime();
    let dir = in_memory();
    let calls = Arc::new(AtomicUsize::new(0));
    let sink = sink_fn({
        let calls = Arc::clone(&calls);
        move |_: Batch<Numbered>| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                tokio::task::yield_now().await;
                assert!(!first, "the first time it cannot");
                Ok(())
            }
        }
    });
    let retry = Retry { base: MS, ..Retry::default() };
    let settings = small(dir.path(), Durability::Immediate).retry(retry);
    let queue = settings.runtime(runtime.handle().clone()).open(sink).unwrap();
    push(&queue, 0..1);
    queue.drain(LONG).unwrap();
    let metrics = queue.metrics();
    assert_eq!((metrics.delivered, metrics.sink_panics, metrics.retries), (1, 1, 1), "{metrics:#?}");
    queue.shutdown(LONG).unwrap();
}

/// How many calls of a sink are at work at once.
#[derive(Default)]
struct AtWork {
    now: AtomicUsize,
    most: AtomicUsize,
    ended: AtomicUsize,
}

struct Stay(Arc<AtWork>);

impl Stay {
    fn new(at_work: &Arc<AtWork>) -> Self {
        let now = at_work.now.fetch_add(1, Ordering::SeqCst) + 1;
        at_work.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(at_work))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Lets a blocked worker go when the test ends, however it does: a runtime waits for its workers.
struct Unblock(Arc<AtomicBool>);

impl Drop for Unblock {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A task cannot be dropped from outside while it works, only told to end: until it has, its batch is not offered again.
#[test]
fn a_delivery_that_is_late_is_aborted_and_its_batch_offered_again_only_when_it_has_ended() {
    let runtime = runtime();
    let dir = in_memory();
    let at_work = Arc::new(AtWork::default());
    let (blocked, unblock) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let _unblock = Unblock(Arc::clone(&unblock));
    let calls = Arc::new(AtomicUsize::new(0));
    let sink = sink_fn({
        let (at_work, blocked, unblock) = (Arc::clone(&at_work), Arc::clone(&blocked), Arc::clone(&unblock));
        let calls = Arc::clone(&calls);
        move |_: Batch<Numbered>| {
            let (at_work, calls) = (Arc::clone(&at_work), Arc::clone(&calls));
            let (blocked, unblock) = (Arc::clone(&blocked), Arc::clone(&unblock));
            async move {
                // A task whose deadline is over before its first turn is none of these.
                let stay = Stay::new(&at_work);
                match calls.fetch_add(1, Ordering::SeqCst) {
                    // Awaits something that never comes.
                    0 => std::future::pending().await,
                    // Blocks its worker, which no abort can end.
                    1 => {
                        blocked.store(true, Ordering::SeqCst);
                        while !unblock.load(Ordering::SeqCst) {
                            std::thread::sleep(MS);
                        }
                        tokio::task::yield_now().await;
                    }
                    _ => {}
                }
                drop(stay);
                Ok(())
            }
        }
    });
    let retry = Retry { base: MS, ..Retry::default() };
    let settings = small(dir.path(), Durability::Immediate).retry(retry).deliver_timeout(20 * MS);
    let queue = settings.runtime(runtime.handle().clone()).open(sink).unwrap();
    push(&queue, 0..1);
    wait_for("the second attempt", || blocked.load(Ordering::SeqCst));
    assert_eq!((at_work.ended.load(Ordering::SeqCst), calls.load(Ordering::SeqCst)), (1, 2));
    wait_for("its deadline", || queue.metrics().delivery_timeouts >= 2);
    wait_for("health says so", || queue.health().reasons().contains(&Concern::SinkOverdue(1)));
    assert_eq!(calls.load(Ordering::SeqCst), 2, "its batch waits for it");
    unblock.store(true, Ordering::SeqCst);
    queue.drain(LONG).unwrap();
    assert_eq!(at_work.most.load(Ordering::SeqCst), 1, "never two at work on one batch");
    let metrics = queue.metrics();
    assert_eq!(metrics.delivered, 1, "{metrics:#?}");
    let is_overdue = |concern: &Concern| matches!(concern, Concern::SinkOverdue(_));
    assert!(!queue.health().reasons().iter().any(is_overdue), "{:?}", queue.health());
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_runtime_that_is_shut_down_ends_delivery_and_leaves_everything_to_the_next_opening() {
    for (in_flight_max, starts_before) in [(1, true), (1, false), (3, true)] {
        let runtime = runtime();
        let dir = in_memory();
        let out = Arc::new(AtomicUsize::new(0));
        let sink = sink_fn({
            let out = Arc::clone(&out);
            move |_: Batch<Numbered>| {
                out.fetch_add(1, Ordering::SeqCst);
                async {
                    tokio::time::sleep(LONG * 100).await;
                    Ok(())
                }
            }
        });
        // The last attempt is the first: were the shutdown one, the entries would be parked.
        let retry = Retry { attempts_max: Some(1), ..Retry::default() };
        let settings = small(dir.path(), Durability::Immediate).retry(retry).in_flight_max(in_flight_max);
        let queue = settings.runtime(runtime.handle().clone()).open(sink).unwrap();
        let mut waits = Vec::new();
        let mut early = || waits.push(queue.producer().push_delivered(Numbered::new(0, 0, 20)).unwrap());
        if starts_before {
            early();
            wait_for("the call", || out.load(Ordering::SeqCst) > 0);
            runtime.shutdown_background();
        } else {
            runtime.shutdown_background();
            early();
        }
        push(&queue, 1..50);
        for wait in waits {
            assert_eq!(wait.wait_timeout(LONG), Err(LogError::RuntimeEnded));
        }
        assert_eq!(queue.drain(LONG), Err(LogError::RuntimeEnded));
        assert!(matches!(queue.health(), Health::Failed(why) if why.contains(&Concern::RuntimeEnded)));
        queue.flush().unwrap();
        assert_settles(&queue);
        let closed = queue.shutdown(LONG).unwrap();
        assert_eq!((closed.delivered, closed.parked, closed.left_in_log), (0, 0, 50));
        let recorder = Recorder::default();
        let queue = small(dir.path(), Durability::Immediate).open(recorder.clone()).unwrap();
        queue.drain(LONG).unwrap();
        common::assert_exactly_once_in_order(&recorder.0.all(), &[50]);
        assert!(recorder.0.all().iter().all(|(_, _, attempt)| *attempt == 1), "no attempt was counted");
        queue.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_sink_that_never_answers_holds_up_closing_no_longer_than_asked() {
    let runtime = runtime();
    for deliver_timeout in [None, Some(LONG * 10)] {
        let dir = in_memory();
        let aborted = Arc::new(AtWork::default());
        let called = Arc::new(Notify::new());
        let sink = sink_fn({
            let (aborted, called) = (Arc::clone(&aborted), Arc::clone(&called));
            move |_: Batch<Numbered>| {
                let stay = Stay::new(&aborted);
                called.notify_one();
                async move {
                    std::future::pending::<()>().await;
                    Ok(drop(stay))
                }
            }
        });
        let mut settings = small(dir.path(), Durability::Immediate).runtime(runtime.handle().clone());
        if let Some(timeout) = deliver_timeout {
            settings = settings.deliver_timeout(timeout);
        }
        let queue = settings.open(sink).unwrap();
        push(&queue, 0..3);
        runtime.block_on(called.notified());
        match runtime.block_on(queue.shutdown_async(20 * MS)) {
            Err(ShutdownError::Deadline(state)) => assert_eq!((state.delivered, state.left_in_log), (0, 3)),
            other => panic!("{other:?}"),
        }
        if deliver_timeout.is_some() {
            // Who watches its deadline can end it.
            wait_for("the task is aborted", || aborted.now.load(Ordering::SeqCst) == 0);
        }
    }
}

/// The marks that make a sink known to its own queue are on the task, and only while it is polled.
#[test]
fn a_sink_on_the_runtime_cannot_wait_for_its_own_queue_and_others_there_can() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = in_memory();
    let own: Arc<Mutex<Option<Queue<Numbered>>>> = Arc::default();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let sink = sink_fn({
        let (own, answers) = (Arc::clone(&own), Arc::clone(&answers));
        move |_: Batch<Numbered>| {
            let (own, answers) = (Arc::clone(&own), Arc::clone(&answers));
            async move {
                let in_sink = own.lock().unwrap().as_ref().map(|queue| queue.drain(LONG));
                answers.lock().unwrap().extend(in_sink);
                tokio::task::yield_now().await;
                Ok(())
            }
        }
    });
    let queue = small(dir.path(), Durability::Immediate).runtime(runtime.handle().clone()).open(sink).unwrap();
    queue.pause();
    push(&queue, 0..1);
    own.lock().unwrap().replace(queue);
    own.lock().unwrap().as_ref().unwrap().resume();
    wait_for("the sink's turn", || !answers.lock().unwrap().is_empty());
    assert_eq!(answers.lock().unwrap()[0], Err(LogError::WouldDeadlock));
    let queue = own.lock().unwrap().take().unwrap();
    // On the very thread that the sink was polled on.
    let queue = runtime.block_on(runtime.spawn(async move {
        queue.drain_async(LONG).await.unwrap();
        queue
    }));
    let queue = queue.unwrap();
    let outside = runtime.block_on(runtime.spawn(async move { (queue.drain(Duration::ZERO), queue) })).unwrap();
    assert!(matches!(outside.0, Ok(()) | Err(LogError::TimedOut)), "{:?}", outside.0);
    outside.1.shutdown(LONG).unwrap();
}

#[test]
fn a_sink_that_blocks_keeps_its_own_threads() {
    let runtime = runtime();
    let dir = in_memory();
    let names = Arc::new(Mutex::new(Vec::new()));
    let sink = blocking_fn({
        let names = Arc::clone(&names);
        move |_: &Batch<Numbered>| Ok(names.lock().unwrap().push(std::thread::current().name().map(str::to_owned)))
    });
    let settings = small(dir.path(), Durability::Immediate).name("own").runtime(runtime.handle().clone());
    let queue = settings.open(sink).unwrap();
    push(&queue, 0..1);
    queue.drain(LONG).unwrap();
    assert_eq!(*names.lock().unwrap(), [Some("own-sink".to_owned())]);
    queue.shutdown(LONG).unwrap();
}

/// A sink that asks its runtime how far it is.
struct Committed(Arc<AtomicBool>);

impl Sink<Numbered> for Committed {
    async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        tokio::time::sleep(MS).await;
        Some(Lsn::ZERO)
    }

    async fn close(&self) {
        tokio::time::sleep(MS).await;
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn committed_and_close_find_the_runtime_and_opening_never_waits_for_itself() {
    let closed = Arc::new(AtomicBool::new(false));
    let runtime = runtime();
    let dir = in_memory();
    let open = |handle: &tokio::runtime::Handle| {
        small(dir.path(), Durability::Immediate).runtime(handle.clone()).open(Committed(Arc::clone(&closed)))
    };
    let queue = open(runtime.handle()).unwrap();
    push(&queue, 0..3);
    queue.drain(LONG).unwrap();
    queue.shutdown(LONG).unwrap();
    assert!(closed.load(Ordering::SeqCst));
    // In a runtime with other workers that works too.
    runtime.block_on(async { open(runtime.handle()).unwrap().shutdown_async(LONG).await.unwrap() });
    // On the only thread that there is it would wait for ever.
    for on_worker in [false, true] {
        let (told, answer) = std::sync::mpsc::channel();
        let settings = small(dir.path(), Durability::Immediate);
        let sink = Committed(Arc::clone(&closed));
        std::thread::spawn(move || {
            let runtime = match on_worker {
                false => Builder::new_current_thread().enable_all().build().unwrap(),
                true => Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            };
            let handle = runtime.handle().clone();
            let opens = async move { settings.runtime(handle).open(sink).map(drop) };
            let opened = match on_worker {
                false => runtime.block_on(opens),
                true => runtime.block_on(runtime.spawn(opens)).unwrap(),
            };
            let _ = told.send(opened);
        });
        match answer.recv_timeout(LONG).expect("it waits for itself") {
            Err(OpenError::Resources { what, .. }) => assert!(what.contains("spawn_blocking"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
