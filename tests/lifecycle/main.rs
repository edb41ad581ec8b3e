//! From opening to closing, for threads and for tasks: waiting until the sink is done, recovery as it goes on, closing.
//!
//! What depends on order runs on a queue without threads ([`stage`]); the rest waits long, and only against hanging.
#![cfg(feature = "testing")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../promises/stage.rs"]
mod stage;

mod closing;
mod delivered;
mod recovering;
