//! What the documents that ringwal began with promise their users, and no other test holds it to: by rows of
//! `docs/FEATURES.md`, whose numbers (F…) stand before most.
//!
//! Most run on a queue without threads, on a simulated machine and a clock that only the test moves, so that nothing
//! here depends on how fast the machine is. At each turn of such a queue its counts add up ([`stage`]).
#![cfg(feature = "testing")]

#[path = "../common/mod.rs"]
mod common;

mod batching;
mod breaker;
mod counts;
mod defaults;
mod delivering;
mod exported;
mod memory;
mod pressure;
mod process;
mod pushing;
mod stage;
mod told;
mod watching;
