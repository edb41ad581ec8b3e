//! Durable buffering between hot loops and slow sinks.
//!
//! A service pushes entries in nanoseconds; ringwal makes them durable by group commit and hands them
//! in batches to a sink until the sink acknowledges them: through crashes, slow sinks and full disks.
//!
//! ```
//! use ringwal::{Batch, Queue, blocking_fn};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let queue = Queue::builder(dir).open(blocking_fn(|batch: &Batch<String>| {
//!     Ok(println!("{} lines shipped", batch.len())) // an Err: retried with backoff, then parked
//! }))?;
//! let lines = queue.producer(); // Clone + Send + Sync
//! lines.push("synced within the period".to_owned())?;
//! lines.push_durable("on disk now".to_owned())?.wait()?;
//! queue.shutdown(std::time::Duration::from_secs(10))?; // what is left waits for the next start
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | to …                              | see                                                        |
//! |-----------------------------------|------------------------------------------------------------|
//! | set a queue up                    | [`Queue::builder`], [`Builder`], [`Durability`], [`Preset`] |
//! | push                              | [`Producer`], [`PinnedProducer`], [`Entry`], [`entry!`]    |
//! | wait until it is on disk          | [`Durable`], [`Queue::flush`]                              |
//! | wait until the sink has it        | [`Delivered`], [`Queue::drain`]                            |
//! | take batches                      | [`Sink`], [`sink_fn`], [`blocking_fn`], [`blocking_pool_fn`], [`Batch`], [`Verdict`] |
//! | feed several sinks                | [`fan_out`], [`Builder::open_fan_out`]                     |
//! | store it short, or secret         | [`Builder::compression`], [`Builder::cipher`], [`Cipher`]  |
//! | look after refused entries        | [`Parked`], [`Retry`]                                      |
//! | watch it                          | [`Metrics`], [`Health`], [`Recovery`], [`Watch`]           |
//!
//! # Semantics
//! | about      | what holds                                                                             |
//! |------------|----------------------------------------------------------------------------------------|
//! | delivery   | at least once; exactly once where the sink stores LSNs and answers [`Sink::committed`] |
//! | order      | per thread without a key; per key ([`Entry::key`]) through [`Producer`]; per [`PinnedProducer`]; else by LSN only |
//! | numbers    | an [`Lsn`] rises with each entry and is never given to another one, restarts included  |
//! | durability | as [`Durability`] says; a [`Durable`] or [`Queue::flush`] makes the log hurry          |
//! | a killed process | what was pushed and not yet written is gone, unless rings are shared: [`Builder::rings_in`]  |
//! | a full log | [`Builder::when_full`]; nothing is ever dropped unless that was asked for              |
//! | a failed write or sync | final: pushes get [`PushError::Poisoned`], reopening recovers              |
//! | fork       | the child's handles refuse to work                                                     |
//!
//! Design, file format, promises and how they are tested: `docs/` in the repository.

#![warn(missing_docs, missing_debug_implementations)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::cast_possible_truncation))]

// The way of an entry, in order: producer, ring, engine, wal, io, delivery, sink.
mod batch_push;
mod builder;
mod config;
mod delivered;
mod durable;
mod engine;
mod entry;
mod error;
#[cfg(feature = "metrics")]
mod exporter;
mod families;
mod fan_out;
mod health;
mod histogram;
mod lsn;
mod metrics;
mod parked;
mod pinned;
mod pressure;
mod producer;
mod prometheus;
mod queue;
mod ranges;
mod reasons;
mod recovery;
#[cfg(feature = "tokio")]
mod runtime;
mod schema;
#[cfg(feature = "futures")]
mod send_sink;
#[cfg(feature = "serve")]
mod serve;
#[cfg(all(feature = "testing", not(loom)))]
pub mod sim;
#[cfg(feature = "futures")]
mod stream_sink;
mod sync;
#[cfg(feature = "tower")]
mod tower_sink;

// Outside semver: what `loom-tests/`, `fuzz/`, `benches/` and the program reach.
#[doc(hidden)]
pub mod barrier;
#[doc(hidden)]
pub mod delivery;
#[doc(hidden)]
pub mod io;
#[doc(hidden)]
pub mod ring;
#[doc(hidden)]
pub mod sink;
#[doc(hidden)]
pub mod time;
#[doc(hidden)]
pub mod wal;
mod watch;
#[doc(hidden)]
pub mod watermark;

pub use builder::Builder;
pub use config::{
    Compression, Config, Durability, Idle, Io, OnBreaker, OnCorruption, Origin, Park, ParkFull, Preset, Rings, Setting,
    WhenFull,
};
#[cfg(feature = "config")]
pub use config::{Refusal, Settings, SettingsError};
pub use delivered::Delivered;
pub use delivery::batch::{Batch, Delivery};
pub use delivery::breaker::{Breaker, BreakerState, FailureShare};
pub use delivery::park::ParkedEntry;
pub use delivery::retry::{Jitter, Retry};
pub use durable::{Durable, Receipt};
pub use engine::closing::ShuttingDown;
#[doc(hidden)]
pub use entry::__private;
pub use entry::{DecodeError, EncodeError, Entry, InPlace};
pub use error::{BatchError, ConfigError, LogError, OpenError, PushError, Shutdown, ShutdownError};
#[cfg(feature = "metrics")]
pub use exporter::MetricsExporter;
#[cfg(feature = "testing")]
pub use fan_out::BranchDisk;
pub use fan_out::{Branch, FanOut, FanOutQueue, FanOutShutdown, fan_out};
pub use health::{Concern, Health};
pub use histogram::Histogram;
pub use lsn::{Lsn, SegmentUid, SlotNo};
pub use metrics::Metrics;
pub use parked::Parked;
pub use pinned::{Claim, PinnedProducer};
pub use pressure::{Grade, Measure, Pressure};
pub use producer::Producer;
pub use prometheus::prometheus_text;
pub use queue::Queue;
pub use reasons::{Dropped, Failures, Rejected};
pub use recovery::{Earlier, Recovery};
pub use schema::Schema;
#[cfg(feature = "futures")]
pub use send_sink::{ProducerSink, SendError};
#[cfg(feature = "serve")]
pub use serve::{ServeError, Server, serve};
pub use sink::{
    BlockingFn, BlockingPoolFn, IntoOutcome, Outcome, Reason, Sink, SinkError, SinkFn, Verdict, blocking_fn,
    blocking_pool_fn, sink_fn,
};
#[cfg(feature = "futures")]
pub use stream_sink::{Batches, Handed, StreamSink, stream_sink};
#[cfg(feature = "tower")]
pub use tower_sink::{TowerSink, tower_sink, tower_sink_with};
pub use watch::{Snapshot, Watch};

#[cfg(feature = "aes-gcm")]
pub use wal::coding::Aes256Gcm;
pub use wal::coding::{Cipher, KeyId, SegmentCipher, SegmentIdentity};

/// The README's examples compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does the one of the migration guide.
#[cfg(all(doctest, feature = "serde"))]
#[doc = include_str!("../docs/MIGRATION.md")]
struct Migration;
