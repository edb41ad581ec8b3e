//! What users write: entries by macro and sinks by closure, from outside the crate.
#![cfg(not(loom))]
#![expect(clippy::unit_arg, reason = "the quick start reads so")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringwal::{
    Batch, Delivery, Entry, IntoOutcome, Lsn, Outcome, Reason, Schema, Sink, SinkError, Verdict, blocking_fn, sink_fn,
};

#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
struct Click {
    user: u64,
    page: String,
}
ringwal::entry!(Click);

#[derive(serde::Serialize, serde::Deserialize)]
struct OrderV1 {
    id: u64,
}
#[derive(serde::Serialize, serde::Deserialize)]
struct OrderV2 {
    id: u64,
    price: u32,
}
#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
struct Order {
    id: u64,
    price: Option<u32>,
}
impl From<OrderV1> for Order {
    fn from(old: OrderV1) -> Self {
        Self { id: old.id, price: None }
    }
}
impl From<OrderV2> for Order {
    fn from(old: OrderV2) -> Self {
        Self { id: old.id, price: Some(old.price) }
    }
}
ringwal::entry!(Order, name = "orders", schema = 3, from = [1 => OrderV1, 2 => OrderV2]);

#[derive(serde::Serialize, serde::Deserialize)]
struct Wrapped<T>(T);
ringwal::entry!(Wrapped<u8>, name = "wrapped");
ringwal::entry!(Wrapped<u16>, schema = 2);
ringwal::entry!(Wrapped<u64>, schema = 2, from = [1 => Wrapped<u32>]);
impl From<Wrapped<u32>> for Wrapped<u64> {
    fn from(old: Wrapped<u32>) -> Self {
        Self(old.0.into())
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable, PartialEq, Debug)]
#[repr(C)]
struct Tick {
    price: f64,
    size: u64,
}
ringwal::entry_pod!(Tick, name = "ticks", schema = 2, from = [1 => TickV1]);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct TickV1(f64);
impl From<TickV1> for Tick {
    fn from(old: TickV1) -> Self {
        Self { price: old.0, size: 1 }
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Bare(u32);
ringwal::entry_pod!(Bare);

fn encoded<T: Entry>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0xee];
    value.encode(&mut bytes).unwrap();
    if let Some(len) = value.encoded_len() {
        let mut direct = vec![0; len];
        value.encode_into(&mut direct);
        assert_eq!(direct, bytes[1..], "both ways give the same bytes");
    }
    bytes.split_off(1)
}

#[test]
fn serde_entries_come_back_and_leftovers_are_noticed() {
    let click = Click { user: 7, page: "/buy".into() };
    let mut bytes = encoded(&click);
    assert_eq!(Click::SCHEMA, Schema::new("Click", 1));
    assert_eq!((Click::decode(&bytes).unwrap(), click.encoded_len(), click.key()), (click, None, None));
    bytes.push(0);
    assert_eq!(Click::decode(&bytes).unwrap_err().to_string(), "1 bytes are left over");
    assert!(Click::decode(&bytes[..3]).is_err());
}

#[test]
fn old_schemas_are_converted_and_unlisted_ones_refused() {
    let schema = |version| Schema::new("orders", version);
    assert_eq!(Order::SCHEMA, schema(3));
    let order = Order { id: 1, price: Some(2) };
    let old = encoded_like(&OrderV1 { id: 9 });
    assert_eq!(Order::decode_from(&schema(1), &old).unwrap(), Order { id: 9, price: None });
    let old = encoded_like(&OrderV2 { id: 9, price: 4 });
    assert_eq!(Order::decode_from(&schema(2), &old).unwrap(), Order { id: 9, price: Some(4) });
    assert_eq!(Order::decode_from(&schema(3), &encoded(&order)).unwrap(), order);
    for (known, version) in [(true, 1), (true, 2), (true, 3), (false, 4), (false, 0)] {
        assert_eq!(Order::accepts(&schema(version)), known);
    }
    assert!(!Order::accepts(&Schema::new("Order", 3)));
    let error = Order::decode_from(&schema(4), &encoded(&order)).unwrap_err();
    assert_eq!(error.to_string(), "written as orders v4, and orders v3 lists no conversion from it");
    assert!(Click::decode_from(&schema(1), &[]).is_err());
}

/// Encodes what is no entry itself.
fn encoded_like<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    ringwal::__private::serde::encode(value, &mut out).unwrap();
    out
}

#[test]
fn names_and_versions_of_schemas_are_as_written() {
    assert_eq!(Wrapped::<u8>::SCHEMA, Schema::new("wrapped", 1));
    assert_eq!((Wrapped::<u16>::SCHEMA.name(), Wrapped::<u16>::SCHEMA.version()), ("Wrapped<u16>", 2));
    assert!(Wrapped::<u64>::accepts(&Schema::new("Wrapped<u64>", 1)));
    assert_eq!(Bare::SCHEMA, Schema::new("Bare", 1));
}

#[test]
fn pod_entries_are_their_memory_at_any_alignment() {
    let tick = Tick { price: 1.5, size: 3 };
    let bytes = encoded(&tick);
    assert_eq!((tick.encoded_len(), bytes.len()), (Some(16), 16));
    let mut shifted = [0; 24];
    for shift in 0..8 {
        shifted[shift..shift + 16].copy_from_slice(&bytes);
        assert_eq!(Tick::decode(&shifted[shift..shift + 16]).unwrap(), tick);
    }
    assert_eq!(Tick::decode(&bytes[..15]).unwrap_err().to_string(), "15 bytes instead of 16");
    let old = Tick::decode_from(&Schema::new("ticks", 1), &bytes[..8]).unwrap();
    assert_eq!(old, Tick { price: 1.5, size: 1 });
}

#[test]
fn bytes_and_strings_are_entries() {
    assert_eq!(Vec::<u8>::decode(&encoded(&vec![1_u8, 2])).unwrap(), [1, 2]);
    assert_eq!(Box::<[u8]>::decode(&encoded(&vec![1_u8, 2].into_boxed_slice())).unwrap()[..], [1, 2]);
    assert_eq!(String::decode(&encoded(&"ä".to_owned())).unwrap(), "ä");
    assert!(String::decode(&[0xff]).is_err());
    assert_eq!(encoded(&String::new()), [0_u8; 0], "entries of no bytes are legal");
}

// What follows must compile without a type written down but the closure's argument.

/// Stands for `Queue::builder(dir).open(sink)`.
fn open<T: Entry, S: Sink<T>>(sink: S) -> Opened<T, S> {
    Opened(sink, std::marker::PhantomData)
}

struct Opened<T, S>(S, std::marker::PhantomData<fn(T)>);

impl<T: Entry, S: Sink<T>> Opened<T, S> {
    fn answer(&self, values: Vec<T>) -> Outcome {
        ready(self.0.deliver(Batch::of(values)))
    }
}

/// The futures of these tests never wait.
fn ready<O>(future: impl Future<Output = O>) -> O {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn click() -> Click {
    Click { user: 7, page: "/".into() }
}

fn why(outcome: &Outcome) -> &Reason {
    match outcome {
        Outcome::All(Verdict::Retry(why) | Verdict::Park(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_quick_start_infers_all_its_types() {
    let queue = open(blocking_fn(|batch: &Batch<Click>| Ok(println!("{} clicks shipped", batch.len()))));
    assert_eq!(queue.answer(vec![click()]), Outcome::ack());
    assert!(queue.0.blocks() && !queue.0.partial());
}

#[test]
fn foreign_errors_mean_retry_by_a_question_mark() {
    let queue = open(blocking_fn(|batch: &Batch<Click>| {
        let _: u64 = batch[0].value.page.parse()?;
        std::fs::read("/nowhere")?;
        Ok(())
    }));
    let outcome = queue.answer(vec![click()]);
    assert!(matches!(outcome, Outcome::All(Verdict::Retry(_))));
    assert_eq!((why(&outcome).text(), why(&outcome).delay()), ("invalid digit found in string", None));
    let boxed = open(blocking_fn(|_: &Batch<Click>| {
        let failed: Result<(), Box<dyn std::error::Error + Send + Sync>> = Err("boxed".into());
        failed?;
        Err("plain text")?;
        Ok(())
    }));
    assert_eq!(boxed.answer(vec![click()]), Outcome::retry("boxed"));
}

#[test]
fn errors_can_park_and_ask_for_time() {
    let queue = open(blocking_fn(|batch: &Batch<String>| {
        let number: u64 = batch[0].value.parse().map_err(SinkError::park)?;
        if number == 0 {
            return Err(SinkError::retry_after(Duration::from_secs(9), "busy"));
        }
        Ok(())
    }));
    assert_eq!(queue.answer(vec!["x".into()]), Outcome::park("invalid digit found in string"));
    let busy = queue.answer(vec!["0".into()]);
    assert_eq!((why(&busy).text(), why(&busy).delay()), ("busy", Some(Duration::from_secs(9))));
    assert_eq!(queue.answer(vec!["1".into()]), Outcome::ack());
}

#[test]
fn an_error_keeps_its_causes_up_to_a_kilobyte() {
    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no answer")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let verdict = SinkError::from(Outer(std::io::Error::other("connection reset"))).into_verdict();
    assert_eq!(verdict, Verdict::Retry("no answer: connection reset".into()));
    assert_eq!(Reason::new(&"ä".repeat(600)).text(), "ä".repeat(512));
}

#[test]
fn a_blocking_closure_may_hold_state() {
    let mut seen = 0;
    let queue = open(blocking_fn(move |batch: &Batch<Click>| {
        seen += batch.len();
        if seen > 2 { Err("enough".into()) } else { Ok(()) }
    }));
    assert_eq!(queue.answer(vec![click(), click()]), Outcome::ack());
    assert_eq!(queue.answer(vec![click()]), Outcome::retry("enough"));
}

#[test]
fn async_closures_own_their_batch() {
    let shipped = Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = Arc::clone(&shipped);
    let queue = open(sink_fn(move |batch: Batch<Click>| {
        let into = Arc::clone(&into);
        async move {
            std::future::ready(std::io::Result::Ok(())).await?;
            into.lock().unwrap().extend(batch.into_iter().map(|delivery| delivery.value));
            Ok(())
        }
    }));
    assert_eq!(queue.answer(vec![click()]), Outcome::ack());
    assert_eq!(*shipped.lock().unwrap(), [click()]);
    assert!(!queue.0.blocks() && !queue.0.partial());
    let queue = open(sink_fn(async |batch: Batch<Click>| {
        std::future::ready(batch.len()).await;
        Ok(())
    }));
    assert_eq!(queue.answer(vec![click()]), Outcome::ack());
}

#[test]
fn each_entry_can_have_its_verdict() {
    let queue = open(sink_fn(|batch: Batch<String>| async move {
        let each = batch.values().map(|value| match value.parse::<u64>() {
            Ok(0) => Verdict::Retry("zero".into()),
            Ok(_) => Verdict::Ack,
            Err(error) => SinkError::park(error).into_verdict(),
        });
        Ok(each.collect::<Vec<_>>())
    }));
    assert!(queue.0.partial());
    let expected =
        vec![Verdict::Ack, Verdict::Retry("zero".into()), Verdict::Park("invalid digit found in string".into())];
    assert_eq!(queue.answer(vec!["1".into(), "0".into(), "x".into()]), Outcome::Each(expected));
}

#[test]
fn a_type_of_its_own_is_a_sink_and_shared_ones_too() {
    struct Store;
    impl Sink<Click> for Store {
        async fn deliver(&self, batch: Batch<Click>) -> Outcome {
            if batch.attempt() == 1 { Outcome::ack() } else { Outcome::retry("again") }
        }
        async fn committed(&self) -> Option<Lsn> {
            Some(Lsn::new(41))
        }
    }
    let queue = open(Arc::new(Store));
    assert_eq!((queue.answer(vec![click()]), ready(queue.0.committed())), (Outcome::ack(), Some(Lsn::new(41))));
    ready(queue.0.close());
    let boxed: Box<dyn ringwal::sink::DynSink<Click>> = Box::new(Store);
    assert_eq!(ready(boxed.committed_boxed()), Some(Lsn::new(41)));
    assert_eq!(ready(boxed.deliver_boxed(Batch::of([click()]))), Outcome::ack());
}

#[test]
fn a_batch_is_a_slice_of_deliveries() {
    let batch = Batch::of(["a".to_owned(), "bc".to_owned()]);
    let Delivery { lsn, value, attempt, .. } = &batch[1];
    assert_eq!((lsn.number(), &**value, *attempt), (2, "bc", 1));
    assert_eq!((batch.first(), batch.last(), batch.len(), batch.attempt()), (Lsn::new(1), Lsn::new(2), 2, 1));
    assert_eq!((batch.bytes(1), batch.deadline()), (&b"bc"[..], None));
    assert_eq!((&batch).into_iter().count(), 2);
    assert_eq!(batch.into_iter().map(|delivery| delivery.value).collect::<String>(), "abc");
}

#[test]
fn a_result_is_an_outcome() {
    let failed: Result<(), SinkError> = Err("no".into());
    assert_eq!(failed.into_outcome(), Outcome::retry("no"));
}
