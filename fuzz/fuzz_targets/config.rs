//! Any settings: they are refused by name, or the queue opens, takes an entry, delivers or parks it, and shuts
//! down with every entry accounted for. Any text of settings: it is refused in one line, or gives a `Config` that
//! shows itself as a text that gives it again; and TOML, JSON and variables are of one opinion.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringwal::io::memory::RamDisk;
use ringwal::io::{Disk, DiskReport, Wake};
use ringwal::wal::op::{Completion, DiskError, Op, Token};
use ringwal::{
    Batch, Builder, Durability, Idle, Jitter, LogError, OnCorruption, OpenError, Park, PushError, Queue, Retry,
    Settings as Texts, SettingsError, SinkError, WhenFull, blocking_fn,
};

/// Longest file that the disk gives: settings may ask for more than this machine has.
const FILE_LEN_MAX: u64 = 64 << 20;
/// More than any of this takes on the slowest machine.
const LONG: Duration = Duration::from_secs(120);

#[derive(Arbitrary, Debug)]
struct Settings {
    setters: Vec<Setter>,
    entry_len: u16,
    pinned: bool,
    /// The sink refuses the entry for good.
    refuse: bool,
    wait_durable: bool,
    /// At the end, so that older inputs keep their meaning.
    texts: Vec<Text>,
    raw: String,
}

/// A setting as text: any key with any value, or one that may fit.
#[derive(Arbitrary, Debug)]
struct Text {
    key: u8,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Any(String),
    Number(u16, u8),
    Word(u8),
}

/// Words and units of the settings, and some that are none.
const WORDS: &[&str] = &[
    "none",
    "true",
    "false",
    "immediate",
    "periodic:5ms",
    "spill",
    "memory",
    "block",
    "block_for:1s",
    "reject",
    "drop",
    "dir",
    "stop",
    "cut_tail",
    "equal",
    "full",
    "auto",
    "uring",
    "tokio-uring",
    "park",
    "spin",
    "accept",
    "low_latency",
    "private",
    "shared:/x",
    "high_throughput",
    "high_reliability",
    "1.5",
];
const UNITS: &[&str] = &["", "B", "KiB", "MiB", "GiB", "kB", "%", "ns", "us", "ms", "s", "m", "h", ".5s", ".25MiB"];

impl Value {
    fn get(&self) -> String {
        match self {
            Self::Any(any) => any.clone(),
            Self::Number(number, unit) => format!("{number}{}", UNITS[usize::from(*unit) % UNITS.len()]),
            Self::Word(word) => WORDS[usize::from(*word) % WORDS.len()].to_owned(),
        }
    }
}

/// What came of a text: what is set, or nothing.
fn outcome(read: Result<Texts, SettingsError>) -> Option<String> {
    let settings = match read {
        Ok(settings) => settings,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            return None;
        }
    };
    match Queue::builder("nowhere").settings(&settings).build() {
        Ok(config) => {
            let shown = config.to_string();
            let again = Texts::from_toml(&shown).expect("what it shows can be read").into_builder();
            let again = again.expect("it names its directory").build().expect("it fits");
            assert_eq!(again.to_string(), shown);
            Some(shown)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text:?}");
            Some(format!("{} {} {}", error.field, error.value, error.range))
        }
    }
}

/// One list of settings in three languages.
fn texts(texts: &[Text]) {
    let keys: Vec<&str> =
        Queue::builder("nowhere").build().expect("defaults fit").settings().iter().map(|s| s.key).collect();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for text in texts {
        let key = keys[usize::from(text.key) % keys.len()];
        if !pairs.iter().any(|(other, _)| *other == key) {
            pairs.push((key, text.value.get()));
        }
    }
    let quoted = |text: &str| serde_json::to_string(text).expect("a text").replace('\x7f', "\\u007f");
    let toml: String = pairs.iter().map(|(key, value)| format!("{key} = {}\n", quoted(value))).collect();
    let json: Vec<String> = pairs.iter().map(|(key, value)| format!("{key:?}: {}", quoted(value))).collect();
    let vars = pairs.iter().map(|(key, value)| (format!("Q_{}", key.to_uppercase().replace('.', "_")), value.clone()));
    let toml = outcome(Texts::from_toml(&toml));
    assert_eq!(outcome(Texts::from_json(&format!("{{{}}}", json.join(",\n")))), toml);
    assert_eq!(outcome(Texts::from_vars("Q_", vars)), toml);
}

#[derive(Arbitrary, Debug)]
enum Setter {
    Durability(u8, Time),
    BatchLenMax(Size),
    BatchBytesMax(Size),
    Linger(Time),
    Rings(u32),
    PinnedRings(u32),
    RingBytes(Size),
    EntryLenMax(Size),
    MemoryMax(Size),
    SegmentLen(Size),
    LogBytesMax(Size),
    ParkBytesMax(Size),
    WhenFull(u8, Time),
    Retry { attempts_max: Option<u32>, base: Time, factor: f64, max: Time, full: bool },
    Park(bool),
    OnCorruption(u8),
    Cpu(usize),
    Idle(u8),
    LockWait(Time),
    DropTimeout(Time),
    Name(String),
}

/// A number that may fit: a small multiple of a power of two, or any.
#[derive(Arbitrary, Debug)]
enum Size {
    Round(u8, u8),
    Near(u8, i8),
    Any(u64),
}

impl Size {
    fn get(&self) -> u64 {
        match self {
            Self::Round(times, power) => u64::from(*times) << (power % 57),
            Self::Near(power, off) => (1_u64 << (power % 64)).wrapping_add_signed((*off).into()),
            Self::Any(any) => *any,
        }
    }

    fn len(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }
}

#[derive(Arbitrary, Debug)]
enum Time {
    Micros(u16),
    Millis(u32),
    Any(Duration),
}

impl Time {
    fn get(&self) -> Duration {
        match self {
            Self::Micros(micros) => Duration::from_micros((*micros).into()),
            Self::Millis(millis) => Duration::from_millis((*millis).into()),
            Self::Any(any) => *any,
        }
    }
}

impl Setter {
    fn set(&self, builder: Builder) -> Builder {
        match self {
            Self::Durability(which, period) => builder.durability(match which % 4 {
                0 => Durability::Immediate,
                1 => Durability::Periodic(period.get()),
                2 => Durability::Spill,
                _ => Durability::Memory,
            }),
            Self::BatchLenMax(entries) => builder.batch_len_max(entries.len()),
            Self::BatchBytesMax(bytes) => builder.batch_bytes_max(bytes.len()),
            Self::Linger(linger) => builder.linger(linger.get()),
            Self::Rings(rings) => builder.rings(*rings),
            Self::PinnedRings(rings) => builder.pinned_rings(*rings),
            Self::RingBytes(bytes) => builder.ring_bytes(bytes.len()),
            Self::EntryLenMax(bytes) => builder.entry_len_max(bytes.len()),
            Self::MemoryMax(bytes) => builder.memory_max(bytes.get()),
            Self::SegmentLen(bytes) => builder.segment_len(bytes.get()),
            Self::LogBytesMax(bytes) => builder.log_bytes_max(bytes.get()),
            Self::ParkBytesMax(bytes) => builder.park_bytes_max(bytes.get()),
            Self::WhenFull(which, time) => builder.when_full(match which % 4 {
                0 => WhenFull::Block,
                1 => WhenFull::BlockFor(time.get()),
                2 => WhenFull::Reject,
                _ => WhenFull::DropNewest,
            }),
            Self::Retry { attempts_max, base, factor, max, full } => builder.retry(Retry {
                attempts_max: *attempts_max,
                base: base.get(),
                factor: *factor,
                max: max.get(),
                jitter: if *full { Jitter::Full } else { Jitter::None },
            }),
            Self::Park(dir) => builder.park(if *dir { Park::Dir } else { Park::Drop }),
            Self::OnCorruption(which) => builder.on_corruption(match which % 3 {
                0 => OnCorruption::Stop,
                1 => OnCorruption::CutTail,
                _ => OnCorruption::Quarantine,
            }),
            Self::Cpu(cpu) => builder.cpu(*cpu),
            Self::Idle(which) => builder.idle(match which % 3 {
                0 => Idle::Park,
                1 => Idle::Backoff,
                _ => Idle::Spin,
            }),
            Self::LockWait(wait) => builder.lock_wait(wait.get()),
            Self::DropTimeout(timeout) => builder.drop_timeout(timeout.get()),
            Self::Name(name) => builder.name(name.clone()),
        }
    }
}

/// A disk in memory that has no room for long files.
#[derive(Debug)]
struct Small {
    disk: RamDisk,
    refused: Vec<Completion>,
}

impl Disk for Small {
    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Prepare { file, len, .. } if len > FILE_LEN_MAX => {
                let error =
                    DiskError { what: "prepare", file: Some(file), offset: None, errno: libc::ENOSPC, detail: "" };
                self.refused.push(Completion { token, result: Err(error) });
            }
            op => self.disk.submit(token, op),
        }
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        self.refused.pop().or_else(|| self.disk.complete(timeout))
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.disk.doorbell()
    }

    fn report(&self) -> DiskReport {
        DiskReport { durable: true, ..self.disk.report() }
    }
}

fuzz_target!(|settings: Settings| {
    texts(&settings.texts);
    outcome(Texts::from_toml(&settings.raw));
    outcome(Texts::from_json(&settings.raw));
    let builder = settings.setters.iter().fold(Queue::builder("nowhere"), |builder, setter| setter.set(builder));
    let seen = Arc::new(AtomicU64::new(0));
    let sink = blocking_fn({
        let (seen, refuse) = (Arc::clone(&seen), settings.refuse);
        move |batch: &Batch<Vec<u8>>| {
            if refuse {
                return Err(SinkError::park("not this one"));
            }
            for delivery in batch.iter() {
                assert!(delivery.value.iter().all(|byte| *byte == 0x5a));
                seen.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    let disk = Small { disk: RamDisk::new(), refused: Vec::new() };
    let queue = match builder.open_on::<Vec<u8>, _>(disk, sink) {
        Ok(queue) => queue,
        Err(OpenError::Config(error)) => {
            assert!(!error.field.is_empty() && !error.range.is_empty());
            let text = error.to_string();
            assert!(text.contains(error.field) && !text.contains('\n'), "{text:?}");
            return;
        }
        // More memory, CPUs or disk than there is.
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let entry = vec![0x5a; usize::from(settings.entry_len)];
    let producer = queue.producer();
    let pushed = if settings.pinned { producer.pin().push(entry) } else { producer.push(entry) };
    let receipt = match pushed {
        Ok(receipt) => receipt,
        Err(PushError::TooLong { entry, len, max }) => {
            assert!(entry.len() == len && len > max);
            queue.shutdown(LONG).expect("an empty queue shuts down");
            return;
        }
        Err(error) => panic!("an empty queue refuses: {error}"),
    };
    if settings.wait_durable {
        match producer.durable(receipt).wait_timeout(Duration::from_millis(200)) {
            Ok(()) | Err(LogError::NotDurable | LogError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
    // A log that gets no segment has no place for the entry, and says so in time.
    let segment_len = settings.setters.iter().rev().find_map(|setter| match setter {
        Setter::SegmentLen(bytes) => Some(bytes.get()),
        _ => None,
    });
    let has_room = segment_len.unwrap_or(0) <= FILE_LEN_MAX;
    let within = if has_room { LONG } else { Duration::from_millis(300) };
    let state = queue.shutdown(within).expect("a queue shuts down");
    let seen = seen.load(Ordering::Relaxed);
    assert_eq!(state.delivered, seen);
    assert_eq!(state.delivered + state.parked + state.discarded + state.left_in_log + state.lost, 1, "{state:?}");
    assert!(!has_room || state.delivered + state.parked + state.discarded == 1, "there was room and time: {state:?}");
});
