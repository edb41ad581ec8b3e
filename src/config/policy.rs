//! What is to be done where there is a choice: with an entry for which there is no room, or that nobody takes.

use std::time::Duration;

/// What a push does when its ring is full, or a hard watermark is reached
/// ([`watermarks`](crate::Builder::watermarks), [`backlog_len_max`](crate::Builder::backlog_len_max)).
///
/// A push that may wait is also slowed down over a soft watermark, one that may not never is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WhenFull {
    /// Waits until there is room.
    Block,
    /// Waits until there is room, at most this long (0 to 1 day), then gives the entry back as
    /// [`PushError::Full`](crate::PushError::Full).
    BlockFor(Duration),
    /// Gives the entry back at once as [`PushError::Full`](crate::PushError::Full).
    Reject,
    /// Gives the entry back as [`PushError::Dropped`](crate::PushError::Dropped) and counts it.
    DropNewest,
}

/// What a push does while the breaker is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OnBreaker {
    /// Takes the entry: that is what the log is for.
    #[default]
    Accept,
    /// Gives it back as [`PushError::Breaker`](crate::PushError::Breaker).
    Reject,
}

/// Where entries go that the sink has refused for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Park {
    /// Into `park/` in the queue's directory: listable, redeliverable, kept over restarts.
    #[default]
    Dir,
    /// Nowhere: they are counted as discarded.
    Drop,
}

/// What becomes of entries that are to be parked when `park_bytes_max` is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ParkFull {
    /// They stay in retry, and what they hold up waits with them, until parked entries are redelivered or discarded.
    /// Nothing is lost; delivery may stand still.
    #[default]
    Wait,
    /// The oldest parked entries are discarded for them, a segment of the park at a time. Each opening that parks
    /// anything begins a segment, so a park of a few segments keeps little over many restarts.
    DropOldest,
}
