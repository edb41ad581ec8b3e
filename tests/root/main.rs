//! The real machine: ringwal on file systems and block devices that are cut off, fail, fill up, freeze and die.
//!
//! ```text
//!   story (a child process)          what happens to it             check (what must be there afterwards)
//!   a queue on a real file system ─► power cut, EIO, full disk, ──► everything acknowledged, in order, same
//!   journal of acknowledgements      freeze, shutdown, SIGKILL      bytes, nothing that was never pushed
//!         │
//!   ext4, xfs ─► loop ─► `device`: a file of our own over FUSE, which records, fails, delays, forgets
//! ```
//! Needs root, loop devices and FUSE; each test probes what it needs and says SKIPPED with the reason where
//! that is missing. Runs only when asked to, because it mounts file systems:
//!
//! ```sh
//! RINGWAL_ROOT_TESTS=1 cargo test --all-features --test root -- --test-threads=1 --nocapture
//! ```
//! | variable               | means                                                | default |
//! |------------------------|------------------------------------------------------|---------|
//! | `RINGWAL_ROOT_TESTS`   | run at all                                           | no      |
//! | `RINGWAL_ROOT_IMAGES`  | crash images of each recording                       | 12      |
//! | `RINGWAL_ROOT_SEED`    | seed of the crash images; printed by each run        | by time |
//! | `RINGWAL_ROOT_SCRATCH` | where disks lie; `/dev/shm` where that is large      |         |

#![allow(unreachable_pub, reason = "one program, in several files")]

#[path = "../common/mod.rs"]
mod common;

mod check;
mod crash;
mod device;
mod machine;
mod story;

mod errors;
mod frozen;
mod limits;
mod power;
mod sectors;
mod space;
mod systems;

/// Not a test of its own: the process that the others start, and that plays its story.
#[test]
fn child() {
    story::play_if_asked();
}
