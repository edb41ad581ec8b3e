//! Feature `tower`: services as sinks, with tower's own layers around them.
#![cfg(feature = "testing")]

mod common;

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{LONG, Numbered, assert_accounted, block_on, drain, in_memory, small};
use ringwal::{
    Batch, Durability, Jitter, Outcome, Queue, Reason, Retry, Sink, SinkError, Verdict, tower_sink, tower_sink_with,
};
use tower::buffer::Buffer;
use tower::{BoxError, Service, ServiceBuilder, service_fn};

/// What the test and all clones of a service share.
#[derive(Default)]
struct Gate {
    /// Whether `poll_ready` says yes.
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
    calls: AtomicUsize,
}

/// Refuses to be called before it is ready.
struct Gated {
    gate: Arc<Gate>,
    ready: bool,
}

impl Clone for Gated {
    fn clone(&self) -> Self {
        // Being ready is not cloned, as with tower's own limits.
        Self { gate: Arc::clone(&self.gate), ready: false }
    }
}

impl Service<Batch<String>> for Gated {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.gate.open.load(Ordering::SeqCst) {
            self.ready = true;
            return Poll::Ready(Ok(()));
        }
        *self.gate.waker.lock().unwrap() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, _: Batch<String>) -> Self::Future {
        assert!(self.ready, "called without being ready");
        self.gate.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(()))
    }
}

fn poll(delivery: &mut (impl Future<Output = Outcome> + Unpin)) -> Poll<Outcome> {
    Pin::new(delivery).poll(&mut Context::from_waker(Waker::noop()))
}

fn one() -> Batch<String> {
    Batch::of(["one".to_owned()])
}

#[test]
fn a_service_is_called_only_once_it_is_ready() {
    let gate = Arc::<Gate>::default();
    let sink = tower_sink(Gated { gate: Arc::clone(&gate), ready: false });
    let mut delivery = Box::pin(sink.deliver(one()));
    assert!(poll(&mut delivery).is_pending() && poll(&mut delivery).is_pending());
    assert_eq!(gate.calls.load(Ordering::SeqCst), 0);
    assert!(gate.waker.lock().unwrap().is_some(), "who waits is known to the service");
    gate.open.store(true, Ordering::SeqCst);
    assert_eq!(poll(&mut delivery), Poll::Ready(Outcome::ack()));
    assert_eq!(gate.calls.load(Ordering::SeqCst), 1);
}

#[test]
fn errors_mean_retry_unless_they_are_read_otherwise() {
    let failing = |text: &'static str| service_fn(move |_: Batch<String>| ready(Err::<(), BoxError>(text.into())));
    let told = block_on(tower_sink(failing("away")).deliver(one()));
    assert_eq!(told, Outcome::retry("away"));

    let read = |result: Result<(), BoxError>| {
        result.map_err(|error| match error.to_string().as_str() {
            "never" => SinkError::park(error),
            _ => SinkError::retry_after(Duration::from_secs(7), error),
        })
    };
    let told = |text| block_on(tower_sink_with(failing(text), |batch| batch, read).deliver(one()));
    assert_eq!(told("never"), Outcome::park("never"));
    assert_eq!(told("later"), Outcome::retry(Reason::new("later").after(Duration::from_secs(7))));
}

#[test]
fn a_service_that_fails_before_it_is_called_has_failed_the_batch() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Batch<String>> for Broken {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Pending<Result<(), BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("broken".into()))
        }
        fn call(&mut self, _: Batch<String>) -> Self::Future {
            panic!("it is not ready")
        }
    }
    assert_eq!(block_on(tower_sink(Broken).deliver(one())), Outcome::retry("broken"));
    let sink = tower_sink_with(Broken, |batch| batch, |result| result.map_err(SinkError::park));
    assert_eq!(block_on(sink.deliver(one())), Outcome::park("broken"));
}

#[test]
fn a_request_is_made_of_the_batch_and_verdicts_of_the_response() {
    let lengths =
        service_fn(|texts: Vec<String>| ready(Ok::<_, BoxError>(texts.iter().map(String::len).collect::<Vec<_>>())));
    let sink = tower_sink_with(
        lengths,
        |batch: Batch<String>| batch.into_iter().map(|entry| entry.value).collect(),
        |lengths| {
            let verdict = |len: usize| if len > 3 { Verdict::Park("too long".into()) } else { Verdict::Ack };
            Ok(lengths?.into_iter().map(verdict).collect::<Vec<_>>())
        },
    );
    assert!(sink.partial() && !tower_sink(service_fn(|_: Batch<String>| pending::<Result<(), BoxError>>())).partial());
    let told = block_on(sink.deliver(Batch::of(["one", "three"].map(str::to_owned))));
    assert_eq!(told, Outcome::Each(vec![Verdict::Ack, Verdict::Park("too long".into())]));
}

#[test]
fn a_limit_that_clones_share_holds_for_all_batches_that_are_out() {
    let limited = ServiceBuilder::new()
        .concurrency_limit(2)
        .service(service_fn(|_: Batch<String>| pending::<Result<(), BoxError>>()));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = {
        let calls = Arc::clone(&calls);
        ServiceBuilder::new().concurrency_limit(2).service(service_fn(move |_: Batch<String>| {
            calls.fetch_add(1, Ordering::SeqCst);
            pending::<Result<(), BoxError>>()
        }))
    };
    drop(limited);
    let sink = tower_sink(counted);
    let mut out: Vec<_> = (0..4).map(|_| Box::pin(sink.deliver(one()))).collect();
    assert!(out.iter_mut().all(|delivery| poll(delivery).is_pending()));
    assert_eq!(calls.load(Ordering::SeqCst), 2, "two are called, two wait to be ready");
    // A delivery that is dropped, as one is whose deadline is over, gives its place to the next.
    drop(out.remove(0));
    assert!(out.iter_mut().all(|delivery| poll(delivery).is_pending()));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[test]
fn a_queue_delivers_through_layers_that_need_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let dir = in_memory();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tries = Arc::new(AtomicUsize::new(0));
    let service = {
        let (seen, tries) = (Arc::clone(&seen), Arc::clone(&tries));
        service_fn(move |batch: Batch<Numbered>| {
            let (seen, first) = (Arc::clone(&seen), tries.fetch_add(1, Ordering::SeqCst) == 0);
            async move {
                if first {
                    // The layer's timeout ends it, and the batch is retried.
                    pending::<()>().await;
                }
                seen.lock().unwrap().extend(batch.values().map(|entry| entry.number));
                Ok::<(), BoxError>(())
            }
        })
    };
    let service = {
        let _inside = runtime.enter();
        Buffer::new(ServiceBuilder::new().timeout(Duration::from_millis(500)).service(service), 8)
    };
    let retry = Retry { attempts_max: None, base: Duration::from_millis(1), jitter: Jitter::None, ..Retry::default() };
    let queue: Queue<Numbered> =
        small(dir.path(), Durability::Immediate).retry(retry).open(tower_sink(service)).unwrap();
    for number in 0..500 {
        queue.producer().push(Numbered::new(0, number, 20)).unwrap();
    }
    drain(&queue);
    let metrics = queue.metrics();
    assert!(metrics.delivery_failures >= 1 && metrics.delivered == 500, "{metrics:#?}");
    assert_accounted(&metrics);
    queue.shutdown(LONG).unwrap();
    // A delivery that a busy machine has made late may be repeated; none is missing.
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
}
