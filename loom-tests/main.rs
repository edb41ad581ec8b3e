//! Models of what threads share: every interleaving of two or three threads over the code that ships, on rings
//! of two to four records.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --profile loom --lib --test loom --target-dir target/loom
//! ```
//! With `--lib` those of what is the crate's own too, `src/engine/models.rs`.
//! `docs/loom.md` says which model checks what, how long it takes, and which change to the code each was seen to catch.
#![cfg(loom)]

mod close;
mod common;
mod pool;
mod ring;
mod sleep;
mod watermark;
