//! The builder: one setter for each setting, with its default, its range and its cost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{
    Compression, Config, Durability, Idle, Io, OnBreaker, OnCorruption, Park, ParkFull, Preset, Rings, WhenFull,
};
use crate::delivery::breaker::Breaker;
use crate::delivery::retry::Retry;
use crate::error::ConfigError;
use crate::pressure::Watermarks;
use crate::wal::coding::Cipher;

/// Sets a queue up. Every setter names its default, range, unit and cost; what does not fit is
/// refused at [`open`](Builder::open), by name.
///
/// ```
/// use ringwal::{Durability, Queue, blocking_fn, Batch};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let queue = Queue::builder(dir)
///     .durability(Durability::Immediate)
///     .segment_len(1 << 20)
///     .log_bytes_max(16 << 20)
///     .open(blocking_fn(|batch: &Batch<String>| Ok(assert!(batch.len() > 0))))?;
/// queue.producer().push("one".to_owned())?;
/// queue.shutdown(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    pub(crate) config: Config,
}

impl Builder {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { config: Config::new(dir) }
    }

    /// Settings that go together. Default: [`Preset::Default`]. Replaces what was set before of those that presets
    /// name; what is set afterwards wins.
    ///
    /// ```
    /// use ringwal::{Preset, Queue};
    ///
    /// let config = Queue::builder("clicks").preset(Preset::LowLatency).batch_len_max(10).build()?;
    /// assert!(config.settings().iter().any(|s| s.key == "linger" && s.value.as_deref() == Some("0")));
    /// # Ok::<(), ringwal::ConfigError>(())
    /// ```
    pub fn preset(mut self, preset: Preset) -> Self {
        preset.apply(&mut self.config);
        self
    }

    /// When a pushed entry is on disk. Default: `Periodic(5 ms)`.
    ///
    /// `Immediate` costs a device write and flush per group (about 75 µs on a virtio disk);
    /// `Periodic(d)` one sync per `d` while there is traffic.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Most entries in a batch. Default: 1000. Range: 1 to 1,000,000. A sink that may answer for each entry
    /// ([`Sink::partial`](crate::Sink::partial), as by default) gets 1025 at most, so that every answer fits into the cursor.
    pub fn batch_len_max(mut self, entries: usize) -> Self {
        self.config.batch_len_max = entries;
        self
    }

    /// Most bytes in a batch, as encoded; a longer entry goes alone. Default: 1 MiB. Range: 1 to 1 GiB.
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.config.batch_bytes_max = bytes;
        self
    }

    /// How long the oldest entry may wait for its batch to fill. Default: 5 ms. Range: 0 to 1 h.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Lets the length of batches follow the sink between `min` and `max` entries, beginning with
    /// [`batch_len_max`](Self::batch_len_max). Default: off, the length is `batch_len_max`. Range: 1 to 1,000,000, `min`
    /// at most `max`.
    ///
    /// Each batch that the sink takes whole is timed. One that took less than 0.9 of the average makes the next ones a
    /// tenth longer, one that took more than 1.1 of it a tenth shorter; the average moves by a tenth towards each. An
    /// entry waits no longer by it: bytes, `linger` and closing still cut a batch short.
    pub fn adaptive(mut self, min: usize, max: usize) -> Self {
        self.config.adaptive = Some((min, max));
        self
    }

    /// How long the sink has for a batch. Default: as long as it wants. Range: 1 ms to 1 day.
    ///
    /// An async delivery that is late is dropped, which counts as a failed attempt: the batch is offered again, although
    /// the sink may have stored it. One that blocks cannot be ended. It is told its time by
    /// [`Batch::deadline`](crate::Batch::deadline); while it is late health says so and its batch is not offered again,
    /// and its answer counts whenever it comes. Only closing the queue goes by without it. A sink that blocks gets a
    /// thread of its own, so each batch costs a wake-up (a few µs).
    pub fn deliver_timeout(mut self, timeout: Duration) -> Self {
        self.config.deliver_timeout = Some(timeout);
        self
    }

    /// How many batches may be at the sink at once. Default: 1, then all entries are delivered in the order of their
    /// LSNs. Range: 1 to 64.
    ///
    /// With more than one, order is kept for each [`key`](crate::Entry::key), and among all entries that have none: an
    /// entry goes out only when nothing of its key is out or waits for a retry. A failing entry then holds up only its
    /// key, up to a bound: what has to wait for it is kept beside the frames, in up to an eighth of
    /// [`memory_max`](Self::memory_max) on top of that, and the cursor remembers up to 512 gaps that such entries leave
    /// between those that are done. When either is reached, everything waits until the entry is delivered or parked.
    /// Async deliveries run side by side on the delivery thread; a sink that blocks gets so many threads. A sink
    /// takes part as far as it can: [`blocking_fn`](crate::blocking_fn) takes one batch at a time, and one that
    /// answers [`committed`](crate::Sink::committed) gets one.
    pub fn in_flight_max(mut self, batches: usize) -> Self {
        self.config.in_flight_max = batches;
        self
    }

    /// Rings shared by threads. Default: one per core. Range: 1 to 1024. Each maps `ring_bytes` of
    /// address space; memory is used as it is touched.
    pub fn rings(mut self, rings: u32) -> Self {
        self.config.rings = rings;
        self
    }

    /// Rings kept for [`Producer::pin`](crate::Producer::pin). Default: 8. Range: 0 to 1024.
    pub fn pinned_rings(mut self, rings: u32) -> Self {
        self.config.pinned_rings = rings;
        self
    }

    /// Length of each ring in bytes, a power of two. Default: 1 MiB. Range: 4 KiB to 1 GiB.
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.config.ring_bytes = bytes;
        self
    }

    /// Keeps the rings in a file in this folder, so that what was pushed survives the death of the *process*: SIGKILL, an
    /// abort, the OOM killer. The next opening finds them, wherever it keeps its own, and appends what the log does not
    /// have before anything else. Default: in private memory. Same as [`rings_at`](Self::rings_at) with
    /// [`Rings::Shared`].
    ///
    /// The folder must lie on a memory file system, such as `/dev/shm/NAME`, and is created if its parent is there. All
    /// rings (`rings` and `pinned_rings` times `ring_bytes` and 32 KiB) are allocated at open. A push costs the same; its
    /// bytes in the ring are free again only when the log has written them, so rings want to be longer than what is
    /// pushed during a commit.
    pub fn rings_in(self, dir: impl AsRef<Path>) -> Self {
        self.rings_at(Rings::Shared(dir.as_ref().to_owned()))
    }

    /// Where the rings lie. Default: [`Rings::Private`]. Not [`Rings::Shared`] with [`Durability::Memory`].
    pub fn rings_at(mut self, rings: Rings) -> Self {
        self.config.rings_at = rings;
        self
    }

    /// Lets rings lie on any file system that can be mapped, a disk for example. Default: false. There the kernel may
    /// make a push wait while it writes pages back, and rings of another running of the machine are put aside.
    pub fn rings_on_any_file_system(mut self, allow: bool) -> Self {
        self.config.rings_on_any_file_system = allow;
        self
    }

    /// Longest entry in bytes, as encoded. Default: 256 KiB less 8. Range: 1 to 64 MiB, and at most a quarter of
    /// `ring_bytes` less 8. Longer entries need longer frames, and so more `memory_max`.
    pub fn entry_len_max(mut self, bytes: usize) -> Self {
        self.config.entry_len_max = bytes;
        self
    }

    /// Most bytes of memory for entries between ring and sink. Default: 64 MiB. Range: twelve times the longest frame and
    /// 64 KiB (by default 4608 KiB; with compression or a cipher sixteen times) to 1 TiB. What does not fit waits on disk
    /// and is read back.
    ///
    /// With io_uring all of it is registered with the kernel, and so is resident from opening on. Parked entries have memory of
    /// their own beside it, ten chunks for a frame of the longest of them and 64 KiB each (1280 KiB in all for short entries): it
    /// is touched when something is parked, or listed.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.config.memory_max = bytes;
        self
    }

    /// Length of a segment file in bytes. Default: 64 MiB. Range: a multiple of 64 KiB, at least a frame
    /// and 256 KiB, at most 4 GiB. Fixed when the directory is created; later openings keep what is there.
    pub fn segment_len(mut self, bytes: u64) -> Self {
        self.config.segment_len = bytes;
        self
    }

    /// Most bytes of segment files on disk, spare ones included. Default: 1 GiB. Range: at least three
    /// segments. When it is reached and the sink has not freed a segment, pushes meet
    /// [`when_full`](Self::when_full).
    pub fn log_bytes_max(mut self, bytes: u64) -> Self {
        self.config.log_bytes_max = bytes;
        self
    }

    /// Most bytes on disk for parked entries. Default: 64 MiB. Range: two segments of the park (1536 KiB by default) or
    /// more. When it is reached, [`park_full`](Self::park_full) says what becomes of an entry that should be parked, and
    /// health says so.
    ///
    /// A segment of the park has a 64th of this, but at least room for two of the longest frames with 64 KiB each (768 KiB
    /// by default), and at most [`segment_len`](Self::segment_len). That is fixed when the directory is created.
    pub fn park_bytes_max(mut self, bytes: u64) -> Self {
        self.config.park_bytes_max = bytes;
        self
    }

    /// What becomes of entries that are to be parked when `park_bytes_max` is reached. Default: `Wait`, which loses
    /// nothing. What `DropOldest` discards is counted ([`Metrics::park_dropped`](crate::Metrics::park_dropped)) and said by
    /// health. A disk without space is no full park: then entries wait under either.
    pub fn park_full(mut self, policy: ParkFull) -> Self {
        self.config.park_full = policy;
        self
    }

    /// Most entries that the sink is not done with, in memory and on disk. Default: as many as `log_bytes_max` holds, or
    /// `memory_max` with [`Durability::Memory`]. Range: 1 to 2⁶⁴ − 1. When it is reached (or, with
    /// [`watermarks`](Self::watermarks), the hard one of it), pushes meet [`when_full`](Self::when_full).
    ///
    /// The flush core looks after each turn: what the rings hold by then, and what it takes over in one turn, may go
    /// beyond it. Entries that were found at open count.
    pub fn backlog_len_max(mut self, entries: u64) -> Self {
        self.config.backlog_len_max = Some(entries);
        self
    }

    /// What a push does when its ring is full, or a hard watermark is reached. Default: `Block`.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.config.when_full = when_full;
        self
    }

    /// Slows pushes down from `soft` on, and from `hard` on lets them meet [`when_full`](Self::when_full), though their
    /// rings have room. Default: neither; from 80 % on health and metrics warn. Range: 0.01 to 1.0, `soft` at most
    /// `hard`, taken as whole percent. Usual: 0.80 and 0.95.
    ///
    /// They are shares of three things, and the fullest counts: of `memory_max` what cannot be let go (what is on disk
    /// can), of `log_bytes_max` what the sink is not done with, and of [`backlog_len_max`](Self::backlog_len_max) where
    /// that is set. A watermark is left five percent below where it is reached.
    ///
    /// A push over the soft one waits for [`soft_delay`](Self::soft_delay), or until the level has fallen, if it may
    /// wait: not `try_push`, nor under `Reject` and `DropNewest`, nor in the queue's own sink.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ringwal::{Queue, WhenFull};
    ///
    /// let config = Queue::builder("orders")
    ///     .watermarks(0.80, 0.95)
    ///     .soft_delay(Duration::from_millis(2))
    ///     .when_full(WhenFull::BlockFor(Duration::from_secs(1)))
    ///     .build()?;
    /// assert!(config.to_string().contains("watermarks = \"80%..95%\"\n"));
    /// # Ok::<(), ringwal::ConfigError>(())
    /// ```
    pub fn watermarks(mut self, soft: f64, hard: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is no share becomes 0 or 255"
        )]
        let percent = |share: f64| (share * 100.0).round() as u8;
        self.config.watermarks = Some(Watermarks { soft: percent(soft), hard: percent(hard) });
        self
    }

    /// How long a push over a soft watermark waits. Default: 1 ms. Range: 0 to 1 min; with 0 the soft watermark only warns.
    /// Without [`watermarks`](Self::watermarks) it is not used.
    pub fn soft_delay(mut self, delay: Duration) -> Self {
        self.config.soft_delay = delay;
        self
    }

    /// Slows pushes down while the sink fails: by this, times the share of failures among the latest 16 deliveries.
    /// Default: not at all. Range: 0 to 1 min. Who may not wait is not slowed down, as over a soft
    /// [watermark](Self::watermarks); of the two delays the longer one counts.
    pub fn failure_delay(mut self, most: Duration) -> Self {
        self.config.failure_delay = Some(most);
        self
    }

    /// How a refused batch is tried again. Default: see [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.config.retry = retry;
        self
    }

    /// Leaves a sink that fails alone for a while, without using up attempts. Default: no breaker; the delays of
    /// [`retry`](Self::retry) alone hold deliveries back.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.config.breaker = Some(breaker);
        self
    }

    /// What a push does while the breaker is open. Default: `Accept`.
    pub fn on_breaker(mut self, on_breaker: OnBreaker) -> Self {
        self.config.on_breaker = on_breaker;
        self
    }

    /// Where entries go that the sink has refused for good. Default: `Dir`.
    pub fn park(mut self, park: Park) -> Self {
        self.config.park = park;
        self
    }

    /// What opening does with a hole in the log, and delivery with one that it finds later. Default: `Stop`.
    pub fn on_corruption(mut self, policy: OnCorruption) -> Self {
        self.config.on_corruption = policy;
        self
    }

    /// Whether frames are compressed on disk. Default: not. It costs the flush core the time to compress, once for each
    /// frame, and delivery of a backlog the time to decompress; entries in memory stay as they are. A frame of one block,
    /// as single small entries make, is not tried: what gains is what comes in groups. May differ between openings.
    ///
    /// `memory_max` must have room for four frames more than without.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.coding.compression = compression;
        self
    }

    /// Encrypts frames on disk, with authentication, in the log and in the park. Default: not.
    ///
    /// In clear stay: numbers, lengths and times of frames, the cursor, the schema, and rings in shared memory
    /// ([`rings_in`](Self::rings_in)). What is there already is read with whatever it was written with, so opening needs
    /// the keys of all that is not yet delivered; a missing or wrong one is
    /// [`OpenError::KeyMissing`](crate::OpenError::KeyMissing) or [`OpenError::WrongKey`](crate::OpenError::WrongKey). Each
    /// opening begins a new segment, so another key, or none, may be given each time.
    ///
    /// `memory_max` must have room for four frames more than without.
    pub fn cipher(mut self, cipher: impl Cipher) -> Self {
        self.config.coding.cipher = Some(Arc::new(cipher));
        self
    }

    /// Which driver carries out the I/O. Default: `Auto`.
    pub fn io(mut self, io: Io) -> Self {
        self.config.io = io;
        self
    }

    /// Pins the flush core to this CPU. Default: not pinned.
    pub fn cpu(mut self, cpu: usize) -> Self {
        self.config.cpu = Some(cpu);
        self
    }

    /// Pins the threads that call the sink to this CPU: the delivery thread, and those on which a sink that blocks
    /// works. Default: not pinned.
    ///
    /// The same CPU for all of them, as they wait more than they work; another one than that of
    /// [`cpu`](Self::cpu), or delivery and the flush core take turns. The threads of a runtime are the runtime's.
    pub fn sink_cpu(mut self, cpu: usize) -> Self {
        self.config.sink_cpu = Some(cpu);
        self
    }

    /// What the flush core does when there is nothing to do. Default: `Park`.
    pub fn idle(mut self, idle: Idle) -> Self {
        self.config.idle = idle;
        self
    }

    /// How long opening waits for another process to let go of the directory. Default: 5 s. Range: 0 to
    /// 1 h. After a kill the kernel holds the lock until the last write is over.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.config.lock_wait = wait;
        self
    }

    /// How long dropping a queue without [`shutdown`](crate::Queue::shutdown) gives what was pushed to get into the log, and
    /// the sink to finish its batch. Default: 1 s. Range: 0 to 1 h. It is no bound: closing waits up to 30 s more for the
    /// disk, and up to 10 s for a delivery thread that the machine does not run.
    pub fn drop_timeout(mut self, timeout: Duration) -> Self {
        self.config.drop_timeout = timeout;
        self
    }

    /// The queue's name, for threads and metrics. Default: "ringwal". Range: 1 to 64 bytes, without a zero byte or a
    /// newline.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }
}

/// Whole sets of settings.
impl Builder {
    /// Checks the settings against each other without opening anything.
    ///
    /// # Errors
    /// The first setting that does not fit, and where it was read.
    pub fn build(self) -> Result<Config, ConfigError> {
        self.config.check().map_err(|error| self.config.traced(error))?;
        Ok(self.config)
    }

    /// The settings of a [`Settings`](crate::Settings), on top of what is set: what comes later wins.
    #[cfg(feature = "config")]
    pub fn settings(mut self, settings: &crate::Settings) -> Self {
        settings.apply(&mut self.config);
        self
    }
}

/// The same settings once more, to go on from.
impl From<Config> for Builder {
    fn from(config: Config) -> Self {
        Self { config }
    }
}
