//! What benchmarks of the whole queue share: an entry, a queue as most would set it up, a place for it, small counts.

use std::path::Path;
use std::time::Duration;

use ringwal::{Batch, DecodeError, Durability, Entry, Io, Queue, Schema, Sink, sink_fn};

/// Longer than anything that is measured should ever take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How long each measurement lasts, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// Entries of measurements that end by count.
    pub(crate) entries: usize,
}

/// An entry of a fixed length that costs nothing to encode.
#[derive(Clone, Copy)]
pub(crate) struct Fixed<const LEN: usize>(pub(crate) [u8; LEN]);

impl<const LEN: usize> Entry for Fixed<LEN> {
    const SCHEMA: Schema = Schema::new("bench.fixed", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(LEN)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(Self).map_err(DecodeError::new)
    }
}

/// A directory of its own for a measurement, on the disk that holds the build.
pub(crate) fn new_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory to measure in")
}

/// A queue as most would set it up, with segments short enough to open quickly.
pub(crate) fn open<T: Entry>(dir: &Path, durability: Durability, io: Io, sink: impl Sink<T>) -> Queue<T> {
    Queue::builder(dir)
        .durability(durability)
        .io(io)
        .segment_len(16 << 20)
        .log_bytes_max(512 << 20)
        .drop_timeout(LONG)
        .open(sink)
        .expect("a queue")
}

/// Takes everything and looks at nothing.
pub(crate) fn null<T: Entry>() -> impl Sink<T> {
    sink_fn(|_batch: Batch<T>| async { Ok(()) })
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
