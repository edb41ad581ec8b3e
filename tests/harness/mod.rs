//! A rig that runs the real log on a simulated machine, single-threaded, with a model beside it.
//!
//! ```text
//!   actions (a seed, or a script) ──► Rig ──► Scan, Repair, Reader, Log ──Op──► SimDisk
//!                                      │             │ Event                      │ crash, kill, rot
//!                                      └── Model ◄───┘ every answer is checked ◄──┘
//! ```

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the harness")]

pub mod act;
pub mod coding;
pub mod look;
pub mod model;
pub mod port;
pub mod random;
pub mod rig;
pub mod script;
pub mod seeds;

pub use rig::{Failure, Outcome, Plan, Rig};
