//! What the tests of the public API share: small settings, a sink that remembers, the identity.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ringwal::{Batch, Builder, Durability, Entry, Io, Lsn, Metrics, Outcome, Queue, Retry, Sink, SinkError, Verdict};

/// Longer than anything here should ever take; a hang fails the test instead of stopping it.
pub const LONG: Duration = Duration::from_secs(60);

/// Every driver that writes to a disk, as far as it is built.
pub const DRIVERS: &[Io] = &[
    Io::Uring,
    Io::Threads,
    #[cfg(feature = "tokio-uring")]
    Io::TokioUring,
];

/// The driver of this name, for a test's own child process.
pub fn driver_named(name: &str) -> Io {
    *DRIVERS.iter().find(|io| format!("{io:?}") == name).unwrap_or_else(|| panic!("no driver {name}"))
}

/// A directory in memory, or, where there is no such place, on the disk: slower, and the same otherwise.
pub fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Settings with small files and little memory, so that everything wraps, recycles and runs short soon.
pub fn small(dir: &std::path::Path, durability: Durability) -> Builder {
    Queue::builder(dir)
        .durability(durability)
        .entry_len_max(2000)
        .ring_bytes(64 << 10)
        .segment_len(512 << 10)
        .log_bytes_max(4 << 20)
        .park_bytes_max(4 << 20)
        .memory_max(8 << 20)
        .linger(Duration::from_millis(1))
        .lock_wait(Duration::ZERO)
}

/// An entry that names its producer and its place in that producer's row.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Numbered {
    pub producer: u32,
    pub number: u32,
    pub padding: Vec<u8>,
}

impl Numbered {
    pub fn new(producer: u32, number: u32, padding_len: usize) -> Self {
        let padding = (0..padding_len).map(|i| (i as u32 ^ number ^ producer) as u8).collect();
        Self { producer, number, padding }
    }
}

impl Entry for Numbered {
    const SCHEMA: ringwal::Schema = ringwal::Schema::new("test.numbered", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(8 + self.padding.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.producer.to_le_bytes());
        out[4..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..].copy_from_slice(&self.padding);
    }

    fn decode(bytes: &[u8]) -> Result<Self, ringwal::DecodeError> {
        let word = |at: usize| -> Result<u32, ringwal::DecodeError> {
            let bytes = bytes.get(at..at + 4).ok_or_else(|| ringwal::DecodeError::new("too short"))?;
            Ok(u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        Ok(Self { producer: word(0)?, number: word(4)?, padding: bytes[8..].to_vec() })
    }
}

/// What the sink got, in order.
#[derive(Default)]
pub struct Seen {
    state: Mutex<Vec<(Lsn, Numbered, u32)>>,
    more: Condvar,
}

impl Seen {
    pub fn all(&self) -> Vec<(Lsn, Numbered, u32)> {
        self.state.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.state.lock().unwrap().len()
    }

    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + LONG;
        let mut state = self.state.lock().unwrap();
        while state.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} entries after {LONG:?}", state.len());
            state = self.more.wait_timeout(state, left).unwrap().0;
        }
    }

    pub fn take_in(&self, batch: &Batch<Numbered>) {
        let mut state = self.state.lock().unwrap();
        state.extend(batch.iter().map(|d| (d.lsn, d.value.clone(), d.attempt)));
        self.more.notify_all();
    }
}

/// Remembers everything and acknowledges it.
#[derive(Clone, Default)]
pub struct Recorder(pub Arc<Seen>);

impl Sink<Numbered> for Recorder {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        self.0.take_in(&batch);
        Outcome::ack()
    }
}

/// One attempt, and no other within any test.
pub fn slow_retry() -> Retry {
    let hour = Duration::from_secs(3600);
    Retry { attempts_max: None, base: hour, max: hour, ..Retry::default() }
}

/// Asks a closure for a verdict on each entry, and remembers what it acknowledged.
pub struct Judge<F> {
    pub seen: Arc<Seen>,
    pub verdict: F,
}

impl<F: Fn(&Numbered, u32) -> Verdict + Send + Sync + 'static> Sink<Numbered> for Judge<F> {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        let verdicts: Vec<Verdict> = batch.iter().map(|d| (self.verdict)(&d.value, d.attempt)).collect();
        let mut state = self.seen.state.lock().unwrap();
        for (d, _) in batch.iter().zip(&verdicts).filter(|(_, v)| **v == Verdict::Ack) {
            state.push((d.lsn, d.value.clone(), d.attempt));
        }
        self.seen.more.notify_all();
        Outcome::Each(verdicts)
    }
}

/// The identity of the design: what came in has become something, and nothing is counted twice.
pub fn assert_accounted(metrics: &Metrics) {
    assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:#?}");
}

/// The same, once what is on its way between two threads has arrived: for a queue that is not drained.
pub fn assert_settles<T>(queue: &Queue<T>) {
    let deadline = Instant::now() + LONG;
    loop {
        let metrics = queue.metrics();
        assert!(metrics.accounted() <= metrics.came_in(), "a live snapshot accounts for too much: {metrics:#?}");
        if metrics.accounted() == metrics.came_in() {
            return;
        }
        assert!(Instant::now() < deadline, "{metrics:#?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all is delivered; tells what there is where that takes too long.
pub fn drain<T>(queue: &Queue<T>) {
    if let Err(error) = queue.drain(LONG) {
        panic!("{error}: {:?} {:#?}", queue.health(), queue.metrics());
    }
}

/// Each of `counts[p]` entries of each producer exactly once, and in order within the producer.
pub fn assert_exactly_once_in_order(seen: &[(Lsn, Numbered, u32)], counts: &[u32]) {
    let mut next = vec![0; counts.len()];
    let mut lsns = HashSet::new();
    let mut last = Lsn::ZERO;
    for (lsn, entry, _) in seen {
        assert!(lsns.insert(*lsn), "LSN {lsn} came twice");
        assert!(*lsn > last, "LSN {lsn} came after {last}");
        last = *lsn;
        let expected = &mut next[entry.producer as usize];
        assert_eq!(entry.number, *expected, "producer {}: out of order, lost or doubled", entry.producer);
        assert_eq!(*entry, Numbered::new(entry.producer, entry.number, entry.padding.len()), "bytes differ");
        *expected += 1;
    }
    assert_eq!(next, counts, "entries are missing");
}

/// An error for sinks that fail.
pub fn no(why: &str) -> SinkError {
    SinkError::retry(why.to_owned())
}

/// Runs a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Copies a directory with all that lies in it.
pub fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Names and bytes of all files in a directory. What `LOCK` holds is for people, and does not count.
pub fn hash_dir(dir: &std::path::Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut hasher = DefaultHasher::new();
    for entry in entries {
        entry.file_name().hash(&mut hasher);
        if entry.file_type().unwrap().is_dir() {
            hash_dir(&entry.path()).hash(&mut hasher);
        } else if entry.file_name() != "LOCK" {
            std::fs::read(entry.path()).unwrap().hash(&mut hasher);
        }
    }
    hasher.finish()
}
