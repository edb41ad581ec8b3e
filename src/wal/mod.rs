//! The log as a state machine: no file, no clock, no thread.

mod arena;
pub mod block;
pub mod builder;
pub(crate) mod codec;
pub mod coding;
pub mod config;
pub mod cursor;
pub mod frame;
pub mod inspect;
#[cfg(all(test, not(loom)))]
mod inspect_tests;
mod keeper;
pub mod log;
#[cfg(all(test, not(loom)))]
mod log_tests;
pub mod meta;
pub mod mutant;
pub mod op;
pub mod reader;
pub mod recovery;
pub mod salvage;
pub mod segment;
pub mod segments;
mod slots;
mod spares;
pub mod stats;
pub mod untold;
mod writer;
