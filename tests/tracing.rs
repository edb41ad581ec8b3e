//! What `tracing` is told, and that pushes tell it nothing.

mod stage;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringwal::sim::{Fault, OpKind};
use ringwal::{Batch, Breaker, Durability, Outcome, Sink};
use stage::{MS, Reply, Stage, settings};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::with_default;
use tracing::{Event, Level, Metadata, Subscriber};

/// An event or a span: fields by name, the text under `message`.
#[derive(Clone, Debug)]
struct Told {
    level: Level,
    target: String,
    fields: BTreeMap<String, String>,
    /// The spans it was told in.
    within: Vec<String>,
}

impl Told {
    fn text(&self) -> &str {
        &self.fields["message"]
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

/// Remembers all of it.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    told: Vec<Told>,
    spans: Vec<String>,
    within: Vec<u64>,
}

impl Ear {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap().told)
    }
}

impl Subscriber for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut heard = self.0.lock().unwrap();
        heard.spans.push(format!("{} {:?}", span.metadata().name(), fields.0));
        Id::from_u64(heard.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut heard = self.0.lock().unwrap();
        let within = heard.within.iter().map(|id| heard.spans[*id as usize - 1].clone()).collect();
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        heard.told.push(Told { level, target, fields: fields.0, within });
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().within.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.0.lock().unwrap().within.pop(), Some(span.into_u64()));
    }
}

fn texts(told: &[Told]) -> Vec<&str> {
    told.iter().map(Told::text).collect()
}

fn find<'a>(told: &'a [Told], text: &str) -> &'a Told {
    told.iter().find(|told| told.text().starts_with(text)).unwrap_or_else(|| panic!("no {text:?} in {:?}", texts(told)))
}

/// Once, with the batch that ends it; and nothing where nothing was found.
#[test]
fn the_end_of_recovery_is_told_when_the_last_recovered_entry_is_done() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let builder = || settings(Durability::Immediate).batch_len_max(8);
        let mut stage = Stage::<Vec<u8>>::open(builder());
        stage.script.hold(true);
        let producer = stage.producer();
        (0..20).for_each(|n| _ = producer.push(vec![n; 100]).unwrap());
        stage.settle();
        let Stage { queue, machine, clock, .. } = stage;
        drop((queue, producer));
        assert!(!texts(&ear.take()).contains(&"recovered"));

        let mut stage = Stage::<Vec<u8>>::again(builder(), machine, clock);
        stage.script.hold(true);
        (20..30).for_each(|n| _ = stage.producer().push(vec![n; 100]).unwrap());
        stage.settle();
        assert!(!texts(&ear.take()).contains(&"recovered"), "the first batch is out");
        stage.script.hold(false);
        stage.settle();
        let told = ear.take();
        let recovered = find(&told, "recovered");
        assert_eq!((recovered.level, recovered.field("recovered")), (Level::INFO, "20"));
        assert_eq!(texts(&told).iter().filter(|text| **text == "recovered").count(), 1);
        // Until the cursor is on disk.
        stage.pass(100 * MS);
        let Stage { queue, machine, clock, .. } = stage;
        drop(queue);
        let mut stage = Stage::<Vec<u8>>::again(builder(), machine, clock);
        assert_eq!(stage.queue.recovery().recovered, 0);
        stage.producer().push(vec![0; 100]).unwrap();
        stage.settle();
        assert!(!texts(&ear.take()).contains(&"recovered"), "there was nothing to recover");
    });
}

#[test]
fn a_life_is_told_from_opening_to_closing_and_a_push_tells_nothing() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let breaker = Breaker { failures: 2, open_for: 50 * MS, ..Breaker::default() };
        let builder = settings(Durability::Immediate).batch_len_max(8).breaker(breaker);
        let mut stage = Stage::<Vec<u8>>::open(builder);
        let told = ear.take();
        let opened = find(&told, "opened");
        assert_eq!((opened.level, opened.field("new"), opened.field("recovered")), (Level::INFO, "true", "0"));
        assert_eq!(opened.field("driver"), stage.queue.metrics().driver);
        stage.settle();
        ear.take();

        let producer = stage.producer();
        let mut pinned = producer.pin();
        (0..20).for_each(|n| _ = producer.push(vec![n; 100]).unwrap());
        (0..20).for_each(|n| _ = pinned.push(vec![n; 100]).unwrap());
        producer.push(vec![0; 3000]).unwrap_err();
        assert_eq!(texts(&ear.take()), Vec::<&str>::new(), "nothing is told on the way of a push");

        stage.script.then([Reply::Ack, Reply::Retry, Reply::Panic]);
        stage.settle();
        let told = ear.take();
        let segment = find(&told, "a segment was begun");
        assert_eq!((segment.level, segment.field("first_lsn")), (Level::DEBUG, "1"));
        let batch = find(&told, "a batch goes to the sink");
        let fields = ["lease", "first_lsn", "last_lsn", "entries", "attempt"].map(|name| batch.field(name));
        assert_eq!((batch.level, fields), (Level::DEBUG, ["1", "1", "8", "8", "1"]));
        let answer = find(&told, "the sink has answered");
        assert_eq!((answer.field("lease"), answer.field("answer")), ("1", "acknowledged"));
        let retry = find(&told, "entries are to be offered again");
        let fields = ["entries", "attempts", "reason"].map(|name| retry.field(name));
        assert_eq!((retry.level, fields), (Level::WARN, ["8", "1", "not yet"]));
        let panic = find(&told, "the sink panicked");
        assert_eq!((panic.level, panic.field("error")), (Level::ERROR, "the sink panicked: on purpose"));
        let opened = find(&told, "the breaker has opened");
        assert_eq!((opened.level, opened.field("from"), opened.field("to")), (Level::WARN, "closed", "open"));

        stage.script.then([Reply::Ack, Reply::Park]);
        stage.pass(50 * MS);
        let told = ear.take();
        let changes: Vec<_> = told.iter().filter(|told| told.text() == "the breaker has changed").collect();
        let changes: Vec<_> = changes.iter().map(|told| (told.field("from"), told.field("to"))).collect();
        assert_eq!(changes, [("open", "half-open"), ("half-open", "closed")]);
        let park = find(&told, "entries are refused for good");
        assert_eq!((park.level, park.field("entries"), park.field("reason")), (Level::WARN, "8", "never"));

        stage.close().unwrap();
        let told = ear.take();
        assert_eq!(told.iter().filter(|told| told.text() == "closing").count(), 1);
        let closed = find(&told, "closed");
        assert_eq!((closed.field("delivered"), closed.field("parked"), closed.field("lost")), ("32", "8", "0"));
        for told in told {
            assert_eq!((told.target.as_str(), told.field("queue")), ("ringwal", "stage"));
        }
    });
}

#[test]
fn segments_are_told_when_they_begin_and_when_they_are_free() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
        for _ in 0..200 {
            stage.producer().push_batch((0..10).map(|n| vec![n; 1000])).unwrap();
            stage.settle();
        }
        // The cursor, which frees them, is written now and then.
        stage.pass(Duration::from_secs(1));
        let told = ear.take();
        let begun: Vec<u64> = told
            .iter()
            .filter(|told| told.text() == "a segment was begun")
            .map(|told| told.field("seq").parse().unwrap())
            .collect();
        assert!(begun.len() >= 4 && begun.is_sorted_by(|a, b| a + 1 == *b), "{begun:?}");
        let freed = told.iter().filter(|told| told.text() == "segments came free");
        let freed: usize = freed.map(|told| told.field("freed").parse::<usize>().unwrap()).sum();
        assert_eq!(begun.len() - freed, stage.queue.metrics().segments_live as usize);
        assert!(freed > 0);
    });
}

#[test]
fn a_failed_log_a_full_log_and_what_recovery_found_are_told() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let mut stage = Stage::<Vec<u8>>::open(settings(Durability::Immediate));
        stage.queue.set_paused(true);
        while stage.queue.metrics().blocked_on_log == 0 {
            let _ = stage.producer().push_timeout(vec![1; 2000], Duration::ZERO);
            stage.settle();
        }
        let told = ear.take();
        let full = find(&told, "the log has no room");
        assert!(full.level == Level::WARN && full.field("reason").contains("log_bytes_max"), "{full:?}");
        stage.queue.set_paused(false);
        stage.pass(Duration::from_secs(1));
        assert_eq!(find(&ear.take(), "the log has room again").level, Level::INFO);

        stage.machine.inject(Fault::error(OpKind::Write, 5));
        stage.producer().push(vec![1; 10]).unwrap();
        stage.settle();
        let told = ear.take();
        let failed = find(&told, "the log has failed");
        assert!(failed.level == Level::ERROR && failed.field("error").contains('5'), "{failed:?}");
        let (machine, clock) = (stage.machine.clone(), stage.clock.clone());
        drop(stage);
        machine.kill();
        let mut stage = Stage::<Vec<u8>>::again(settings(Durability::Immediate), machine, clock);
        let told = ear.take();
        let opened = find(&told, "opened");
        assert_eq!((opened.field("new"), opened.field("clean")), ("false", "false"));
        assert_eq!(opened.field("recovered"), stage.queue.recovery().recovered.to_string());
        stage.settle();
    });
}

#[test]
fn an_episode_of_pressure_is_told_once_when_it_begins_and_once_when_it_ends() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let builder = settings(Durability::Immediate).backlog_len_max(20).watermarks(0.5, 0.9);
        let mut stage = Stage::<Vec<u8>>::open(builder);
        for _ in 0..2 {
            stage.script.hold(true);
            for _ in 0..19 {
                stage.producer().try_push(vec![1; 10]).map_or_else(|error| assert!(error.is_full()), drop);
                stage.settle();
            }
            stage.script.hold(false);
            stage.settle();
            stage.pass(10 * MS);
            let told = ear.take();
            let of_grades: Vec<_> = told.iter().filter(|told| told.text().contains("watermark")).collect();
            let words: Vec<_> =
                of_grades.iter().map(|told| (told.level, told.field("from"), told.field("to"))).collect();
            let expected = [(Level::WARN, "calm", "soft"), (Level::WARN, "soft", "hard")];
            assert_eq!(words[..2], expected, "{of_grades:?}");
            assert_eq!(words.last().map(|last| (last.0, last.2)), Some((Level::INFO, "calm")), "{of_grades:?}");
            assert!(words.len() <= 4 && of_grades.iter().all(|told| told.field("what") == "backlog"), "{of_grades:?}");
        }
    });
}

/// Tells something itself while it has a batch.
struct Talker;

impl Sink<Vec<u8>> for Talker {
    async fn deliver(&self, batch: Batch<Vec<u8>>) -> Outcome {
        tracing::info!(bytes = batch.len(), "on its way");
        Outcome::ack()
    }
}

#[test]
fn what_the_sink_tells_is_within_the_span_of_its_batch() {
    let ear = Ear::default();
    with_default(ear.clone(), || {
        let given = ringwal::sim::SteppedSettings {
            seed: 1,
            clock: ringwal::sim::ManualClock::new(),
            store: None,
            mutants: ringwal::wal::mutant::Mutants::NONE,
        };
        let clock = given.clock.clone();
        let machine =
            ringwal::sim::SimDisk::new(ringwal::sim::SimSettings { clock: clock.clone(), ..Default::default() });
        let mut queue =
            ringwal::sim::SteppedQueue::open(settings(Durability::Memory), given, &machine, Talker).unwrap();
        queue.producer().push(vec![1, 2, 3]).unwrap();
        for _ in 0..100 {
            queue.turn_core();
            machine.step();
            queue.turn_sink();
            clock.advance(MS);
        }
        assert_eq!(queue.metrics().delivered, 1);
        let told = ear.take();
        let told = find(&told, "on its way");
        assert_eq!(told.within.len(), 1, "{told:?}");
        for part in
            ["deliver ", "\"queue\": \"stage\"", "\"first_lsn\": \"1\"", "\"entries\": \"1\"", "\"attempt\": \"1\""]
        {
            assert!(told.within[0].contains(part), "{told:?}");
        }
    });
}
