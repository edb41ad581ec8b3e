//! From durable frames to the sink and back to the cursor, as a state machine.
//!
//! ```text
//!  handle_frame ─► pending ─► poll_delivery ─► Lease + RawBatch ─► engine decodes, calls the sink
//!                     ▲                                                     │
//!                     │ (retry blocks what follows)             handle_verdict
//!                     └── waiting ◄── retry ────┬─────────────────── ack ───┴── park
//!                                               │                     │           │
//!                                      poll_event: Retry      poll_event: Acked   poll_event: Park
//!                                                             (for the cursor) ◄── handle_parked
//! ```
//! No file, clock, thread or chance: time comes as `now`, jitter from a seed. The engine owns the
//! thread that calls the sink, decodes ([`batch::Batch::decode`]) and contains panics.

mod adaptive;
mod answers;
pub mod batch;
pub mod breaker;
pub mod dispatcher;
mod flight;
mod gauges;
pub mod lanes;
pub mod lease;
pub mod park;
mod pending;
mod progress;
pub mod retry;
mod room;
mod seam;
#[cfg(all(test, not(loom)))]
mod tests;
