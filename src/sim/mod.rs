//! A machine to run a queue on that dies when a test says so, and repeats itself from a seed.
//!
//! ```text
//!   Log, Scan, …  ──Op──►  SimDriver ──►  in flight ──step()──►  cache ──flush──►  durable sectors
//!   (the real code) ◄─Completion──┘        │  any order           │
//!                                          └──────── crash(): each 512-byte sector of these is
//!                                                    kept, lost or spoilt; the rest stays ────►
//! ```
//! [`SimDisk`] is the machine: clone it, keep it over crashes, look into its files. What runs on it
//! gets a [`SimDriver`] from [`SimDisk::connect`], which is an [`io::Disk`](crate::io::Disk) like those
//! of real kernels. One connection at a time; [`SimDisk::crash`] (loss of power) and [`SimDisk::kill`]
//! (death of the process) end it.
//!
//! | what can happen | how |
//! |---|---|
//! | completions in any order | by the seed, or [`SimDisk::finish`] one by one |
//! | a device with or without FUA | [`DiskKind`]: whether a durable write also flushes what came before it |
//! | torn, lost, spoilt sectors at a power cut | [`SimDisk::crash`], or sector by sector with [`SimDisk::crash_with`] |
//! | errors of any number, at the k-th op of a kind | [`Fault::error`] |
//! | writes that say "done" and are not, or went elsewhere | [`Fault::lost`], [`Fault::misdirected`] |
//! | reads that bring an older state | [`Fault::stale`] |
//! | a sync that fails once, its data gone | [`Fault::gone`] |
//! | ops that do not end | [`Fault::hung`] |
//! | rot, unreadable places | [`SimDisk::rot`], [`SimDisk::make_unreadable`] |
//! | a full disk | [`SimSettings::space`] |
//! | slowness; an op that ends late, or never | [`SimSettings::latency`]; [`Fault::late`] |
//! | a death in the middle of something, such as opening | [`SimDisk::set_fuse`] |
//!
//! [`SteppedQueue`] is a whole queue on such a machine without threads: a test says whose turn it is.
//!
//! Decision: `docs/adr/0009-own-simulated-disk.md`. What the log's own tests do with it:
//! `docs/simulation.md`.

mod chance;
mod clock;
mod disk;
mod driver;
mod faults;
mod file;
mod history;
mod prng;
mod world;

pub use crate::engine::stepped::{Closing, SinkTurn, SmallStore, SteppedQueue, SteppedSettings};
pub use clock::ManualClock;
pub use disk::{DiskKind, Mode, SimDisk, SimSettings};
pub use driver::{InUse, SimDriver};
pub use faults::{Death, Fault};
pub use file::{SECTOR_LEN, SectorFate};
pub use history::{OpKind, OpRecord, Unstable};
pub use prng::{Prng, mix};

#[cfg(all(test, not(loom)))]
mod tests;
