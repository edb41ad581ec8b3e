//! A queue's settings: what they may be, how they fit together. Checked once, at open; valid afterwards.

mod field;
mod keys;
mod origin;
mod policy;
mod preset;
#[cfg(feature = "config")]
mod settings;
#[cfg(feature = "config")]
mod text;
mod units;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::delivery::{breaker::Breaker, retry::Retry};
use crate::error::ConfigError;
use crate::lsn::Lsn;
use crate::pressure::Watermarks;
use crate::recovery::OnLook;
use crate::wal::coding::Coding;
pub use crate::wal::coding::Compression;
use keys::KEYS;
use units::{show_size, show_time};

pub use crate::wal::recovery::OnCorruption;
pub use origin::Origin;
pub use policy::{OnBreaker, Park, ParkFull, WhenFull};
pub use preset::Preset;
#[cfg(feature = "config")]
pub use settings::{Refusal, Settings, SettingsError};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// When a pushed entry is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Durability {
    /// As soon as the disk can take another group: each write is durable when it completes.
    Immediate,
    /// When a sync has ended that begins within this time of the push (0.1 ms to 60 s), one for all that came meanwhile. It
    /// begins later if the one before it has not ended by then.
    Periodic(Duration),
    /// Entries stay in memory and reach the disk only when memory fills, when somebody waits for
    /// durability, or at shutdown. Entries that were in memory die with the process.
    Spill,
    /// Never on disk. Everything that is not delivered dies with the process.
    Memory,
}

/// Which driver carries out the log's I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Io {
    /// io_uring where the kernel allows it, else threads; what was chosen and why is in
    /// [`Queue::recovery`](crate::Queue::recovery) and [`Queue::health`](crate::Queue::health).
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Worker threads with `pwritev2`.
    Threads,
    /// io_uring through the runtime of the crate `tokio-uring`, or an error: for services that live on that runtime
    /// and want one implementation of io_uring in the process. Keeps the same promises and costs more per commit than
    /// [`Io::Uring`]; [`Io::Auto`] never takes it. The runtime is the flush core's own: none of the caller's is used.
    #[cfg(feature = "tokio-uring")]
    TokioUring,
}

/// What the flush core does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Idle {
    /// Sleeps until a push wakes it: no CPU while idle, one wake-up (a few µs) after.
    #[default]
    Park,
    /// Looks around for 50 µs before it sleeps.
    Backoff,
    /// Takes a whole core, and saves the wake-up: it sleeps only for what a disk has not done after 200 µs, 50 µs at a time. Give
    /// it a core of its own (`Builder::cpu`) and keep other threads off it: one that has to share it may wait for some
    /// milliseconds.
    Spin,
}

/// Where the rings lie, and so what becomes of entries that are in them when the process dies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Rings {
    /// In the process's own memory: they die with it.
    #[default]
    Private,
    /// In a file in this folder, on a memory file system: they outlive the process, and the next opening appends what
    /// is in them to the log before anything else. They die with the machine.
    Shared(PathBuf),
}

/// A queue's settings. Made by a [`Builder`](crate::Builder), and always valid.
///
/// It shows itself as TOML, every setting on a line of its own, which `Settings::from_toml` (feature `config`) reads
/// back as the same settings.
///
/// ```
/// use ringwal::{Durability, Queue};
///
/// let config = Queue::builder("clicks").durability(Durability::Immediate).build()?;
/// assert!(config.to_string().contains("durability = \"immediate\"\n"));
/// # Ok::<(), ringwal::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) preset: Preset,
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    pub(crate) durability: Durability,
    pub(crate) batch_len_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) linger: Duration,
    pub(crate) adaptive: Option<(usize, usize)>,
    pub(crate) deliver_timeout: Option<Duration>,
    pub(crate) in_flight_max: usize,
    pub(crate) rings: u32,
    pub(crate) pinned_rings: u32,
    pub(crate) ring_bytes: usize,
    pub(crate) rings_at: Rings,
    pub(crate) rings_on_any_file_system: bool,
    pub(crate) entry_len_max: usize,
    pub(crate) memory_max: u64,
    pub(crate) segment_len: u64,
    pub(crate) log_bytes_max: u64,
    pub(crate) park_bytes_max: u64,
    pub(crate) park_full: ParkFull,
    pub(crate) backlog_len_max: Option<u64>,
    pub(crate) when_full: WhenFull,
    pub(crate) watermarks: Option<Watermarks>,
    pub(crate) soft_delay: Duration,
    pub(crate) failure_delay: Option<Duration>,
    pub(crate) retry: Retry,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) on_breaker: OnBreaker,
    pub(crate) park: Park,
    pub(crate) on_corruption: OnCorruption,
    /// Without a salt: that is drawn at open.
    pub(crate) coding: Coding,
    pub(crate) io: Io,
    pub(crate) cpu: Option<usize>,
    pub(crate) sink_cpu: Option<usize>,
    #[cfg(feature = "tokio")]
    pub(crate) runtime: Option<tokio::runtime::Handle>,
    pub(crate) idle: Idle,
    pub(crate) lock_wait: Duration,
    pub(crate) drop_timeout: Duration,
    /// Told what a scan has found before recovery changes anything; what it refuses is not opened.
    pub(crate) on_look: Option<OnLook>,
    /// Which keys were read from where, and what they were then: code may have set them since.
    pub(crate) origins: Vec<(&'static str, Origin, Option<String>)>,
}

impl Config {
    /// The defaults for a queue in this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            preset: Preset::Default,
            dir: dir.to_owned(),
            name: "ringwal".to_owned(),
            durability: Durability::Periodic(Duration::from_millis(5)),
            batch_len_max: 1000,
            batch_bytes_max: 1 << 20,
            linger: Duration::from_millis(5),
            adaptive: None,
            deliver_timeout: None,
            in_flight_max: 1,
            rings: u32::try_from(cores.min(1024)).unwrap_or(1024),
            pinned_rings: 8,
            ring_bytes: 1 << 20,
            rings_at: Rings::Private,
            rings_on_any_file_system: false,
            entry_len_max: (256 << 10) - 8,
            memory_max: 64 * MIB,
            segment_len: 64 * MIB,
            log_bytes_max: GIB,
            park_bytes_max: 64 * MIB,
            park_full: ParkFull::Wait,
            backlog_len_max: None,
            when_full: WhenFull::Block,
            watermarks: None,
            soft_delay: Duration::from_millis(1),
            failure_delay: None,
            retry: Retry::default(),
            breaker: None,
            on_breaker: OnBreaker::Accept,
            park: Park::Dir,
            on_corruption: OnCorruption::Stop,
            coding: Coding::default(),
            io: Io::Auto,
            cpu: None,
            sink_cpu: None,
            #[cfg(feature = "tokio")]
            runtime: None,
            idle: Idle::Park,
            lock_wait: Duration::from_secs(5),
            drop_timeout: Duration::from_secs(1),
            on_look: None,
            origins: Vec::new(),
        }
    }

    /// The queue's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The queue's name, as in threads and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When a pushed entry is on disk.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Where the rings lie.
    #[must_use]
    pub fn rings_at(&self) -> &Rings {
        &self.rings_at
    }

    /// How frames are compressed on disk.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.coding.compression
    }

    /// Longest entry in bytes, as encoded.
    #[must_use]
    pub fn entry_len_max(&self) -> usize {
        self.entry_len_max
    }

    /// Most bytes that the log of entries takes on disk.
    #[must_use]
    pub fn log_bytes_max(&self) -> u64 {
        self.log_bytes_max
    }

    /// For a sink that has said this: who tells what is stored by one LSN promises a prefix, and so gets one.
    pub(crate) fn for_committed(mut self, committed: Option<Lsn>) -> Self {
        if committed.is_some() {
            self.in_flight_max = 1;
        }
        self
    }

    /// Longest frame for entries of this length, in whole blocks of `block_len`.
    pub(crate) fn frame_len_max(&self, block_len: u32) -> u32 {
        frame_len_for(self.entry_len_max, self.coding.overhead(), u64::from(block_len))
    }

    /// Length of a chunk of the memory pool.
    pub(crate) fn chunk_len(&self) -> usize {
        // Opening reads the park log's frames too, which are longer by a record's description; 64 KiB is the largest block.
        let longest =
            u64::from(frame_len_for(self.entry_len_max, self.coding.overhead(), BLOCK_LEN_MAX)) + BLOCK_LEN_MAX;
        usize::try_from(longest).unwrap_or(usize::MAX)
    }

    pub(crate) fn chunks(&self) -> u32 {
        u32::try_from(self.memory_max / self.chunk_len() as u64).unwrap_or(u32::MAX).max(self.chunks_min())
    }

    fn chunks_min(&self) -> u32 {
        CHUNKS_MIN + if self.coding.is_plain() { 0 } else { CHUNKS_TO_CODE }
    }

    /// Short ones: each run that parks anything begins a segment of its own, and one entry keeps it.
    pub(crate) fn park_segment_len(&self) -> u64 {
        self.segment_len
            .min((self.park_bytes_max / 64).max(self.chunk_len() as u64 * 2))
            .next_multiple_of(BLOCK_LEN_MAX)
    }

    /// Checks every field, and the fields against each other.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        KEYS.iter().try_for_each(|key| key.check(self))?;
        self.check_words()?;
        if !self.ring_bytes.is_power_of_two() {
            return Err(self.unfit("ring_bytes", "a power of two"));
        }
        if self.entry_len_max + 8 > self.ring_bytes / 4 {
            let range = format!("at most a quarter of ring_bytes less 8, which is {}", self.ring_bytes / 4 - 8);
            return Err(self.unfit("entry_len_max", range));
        }
        let memory_min = self.chunk_len() as u64 * u64::from(self.chunks_min());
        if self.memory_max < memory_min {
            let len = self.entry_len_max;
            return Err(self
                .unfit("memory_max", format!("at least {} for entries of up to {len} bytes", show_size(memory_min))));
        }
        let segment_min = self.chunk_len() as u64 + SEGMENT_EXTRA;
        if self.segment_len < segment_min || !self.segment_len.is_multiple_of(BLOCK_LEN_MAX) {
            let range = format!(
                "a multiple of {} from {} (for entries of up to {} bytes) to {}",
                show_size(BLOCK_LEN_MAX),
                show_size(segment_min.next_multiple_of(BLOCK_LEN_MAX)),
                self.entry_len_max,
                show_size(4 * GIB)
            );
            return Err(self.unfit("segment_len", range));
        }
        if self.log_bytes_max < 3 * self.segment_len {
            let range = format!("at least three segments, which is {}", show_size(3 * self.segment_len));
            return Err(self.unfit("log_bytes_max", range));
        }
        if self.park_bytes_max < 2 * self.park_segment_len() {
            return Err(self.unfit("park_bytes_max", format!("at least {}", show_size(2 * self.park_segment_len()))));
        }
        self.coding.compression.check()?;
        if self.retry.base > self.retry.max {
            return Err(self.unfit("retry.base", format!("at most retry.max, which is {}", show_time(self.retry.max))));
        }
        Ok(())
    }

    /// What a word has with it, and texts.
    fn check_words(&self) -> Result<(), ConfigError> {
        const PERIOD_MIN: Duration = Duration::from_micros(100);
        const PERIOD_MAX: Duration = Duration::from_secs(60);
        const BLOCK_FOR_MAX: Duration = Duration::from_secs(86_400);
        if let Durability::Periodic(period) = self.durability
            && !(PERIOD_MIN..=PERIOD_MAX).contains(&period)
        {
            return Err(self.unfit("durability", "periodic with a period of 100us to 1m"));
        }
        if let WhenFull::BlockFor(time) = self.when_full
            && time > BLOCK_FOR_MAX
        {
            return Err(self.unfit("when_full", "block_for with a time of 0 to 1d"));
        }
        if let Some(Watermarks { soft, hard }) = self.watermarks
            && !(1 <= soft && soft <= hard && hard <= 100)
        {
            return Err(self.unfit("watermarks", "soft..hard, from 1% to 100%, soft first"));
        }
        if let Some((min, max)) = self.adaptive
            && !(1 <= min && min <= max && max as u64 <= BATCH_LEN_MAX)
        {
            return Err(self.unfit("adaptive", format!("least..most, from 1 to {BATCH_LEN_MAX}, least first")));
        }
        if self.durability == Durability::Memory && self.rings_at != Rings::Private {
            let range = "private with `Durability::Memory`: there is no log to take over what a dead process leaves in the rings";
            return Err(self.unfit("rings_at", range));
        }
        if self.name.is_empty() || self.name.len() > 64 || self.name.contains(['\0', '\n']) {
            return Err(ConfigError::new("name", format!("{:?}", self.name), "1 to 64 bytes without zero or newline"));
        }
        Ok(())
    }

    /// What is set for this key, and what would fit.
    fn unfit(&self, key: &'static str, range: impl Into<String>) -> ConfigError {
        let value = keys::find(key).and_then(|key| key.show(self)).unwrap_or_default();
        ConfigError::new(key, value, range)
    }

    /// The error with the place where its setting was read, if that is still what is set.
    pub(crate) fn traced(&self, error: ConfigError) -> ConfigError {
        let is_it = |(key, _, shown): &&(&str, Origin, Option<String>)| {
            *key == error.field && keys::find(key).is_some_and(|key| key.show(self) == *shown)
        };
        let origin = self.origins.iter().rev().find(is_it).map(|(_, origin, _)| origin.clone());
        ConfigError { origin, ..error }
    }
}

/// One setting, as [`Config::settings`] lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Its key in TOML and JSON, with the table before the point.
    pub key: &'static str,
    /// What it is: `count`, `size`, `share`, `duration`, `number`, `flag`, `word`, `text` or `path`.
    pub kind: &'static str,
    /// What is set, as it would be written; `None` where it belongs to something that is not set up.
    pub value: Option<String>,
    /// What may be set.
    pub range: String,
}

impl Config {
    /// Every setting with its effective value, in the order of `docs/configuration.md`.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let of = |key: &keys::Key| Setting {
            key: key.name,
            kind: key.kind.name(),
            value: key.show(self),
            range: key.kind.to_string(),
        };
        KEYS.iter().map(of).collect()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        KEYS.iter().try_for_each(|key| key.write_toml(self, f))
    }
}

/// Most entries that a batch may have by any setting.
const BATCH_LEN_MAX: u64 = 1_000_000;

/// Fewest chunks with which the log can always go on: some in flight, some being read back, one open.
const CHUNKS_MIN: u32 = 12;
/// For what is coded on its way to the disk, and decoded on its way back.
const CHUNKS_TO_CODE: u32 = 4;
const BLOCK_LEN_MAX: u64 = crate::wal::segment::BLOCK_LEN_MAX as u64;
/// What a segment needs besides its longest frame.
const SEGMENT_EXTRA: u64 = 4 * BLOCK_LEN_MAX;
/// What the shortest entries need: a frame of one block, and one of the park, which is a block longer.
const MEMORY_MIN: u64 = CHUNKS_MIN as u64 * 2 * BLOCK_LEN_MAX;
const SEGMENT_LEN_MIN: u64 = 2 * BLOCK_LEN_MAX + SEGMENT_EXTRA;
const PARK_BYTES_MIN: u64 = 8 * BLOCK_LEN_MAX;
const FRAME_LEN_MAX_DEFAULT: u64 = 256 * KIB;

fn frame_len_for(entry_len_max: usize, overhead: usize, block_len: u64) -> u32 {
    let header = crate::wal::frame::FRAME_HEADER_LEN as u64;
    let one = header + crate::ring::record::stride_of(entry_len_max) as u64 + overhead as u64;
    // Small entries do not need long frames: 64 of them, and never less than a block.
    let len = one.max((64 * one).min(FRAME_LEN_MAX_DEFAULT)).next_multiple_of(block_len);
    u32::try_from(len).unwrap_or(u32::MAX)
}
