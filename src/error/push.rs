//! Why an entry was not taken.

use std::fmt;

/// Why an entry was not taken. It comes back, and is not in the queue.
#[non_exhaustive]
pub enum PushError<T> {
    /// Its ring is full, or a hard watermark is reached: the log or the sink is behind.
    Full(T),
    /// The same, and the queue drops what it cannot take; counted.
    Dropped(T),
    /// The queue was closed.
    Closed(T),
    /// The entry is longer than `entry_len_max`.
    TooLong {
        /// The entry.
        entry: T,
        /// Its length, as encoded.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The sink keeps failing, and the queue was told to refuse entries then
    /// ([`OnBreaker::Reject`](crate::OnBreaker::Reject)).
    Breaker(T),
    /// The log failed; see [`Queue::health`](crate::Queue::health). Reopening recovers.
    Poisoned(T),
    /// The entry cannot be encoded.
    Encode {
        /// The entry.
        entry: T,
        /// Why.
        error: crate::entry::EncodeError,
    },
}

impl<T> PushError<T> {
    /// The entry that was not taken.
    pub fn into_entry(self) -> T {
        match self {
            Self::Full(entry)
            | Self::Dropped(entry)
            | Self::Closed(entry)
            | Self::Poisoned(entry)
            | Self::Breaker(entry)
            | Self::TooLong { entry, .. }
            | Self::Encode { entry, .. } => entry,
        }
    }

    /// Whether trying again later can help.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Dropped(_))
    }

    /// Whether the queue was closed.
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue is full: its ring has no room, or a hard watermark is reached"),
            Self::Dropped(_) => f.write_str("the queue is full and the entry was dropped, as configured"),
            Self::Closed(_) => f.write_str("the queue is closed"),
            Self::TooLong { len, max, .. } => {
                write!(f, "the entry has {len} bytes, but entry_len_max is {max}")
            }
            Self::Breaker(_) => f.write_str("the breaker is open: the sink keeps failing; push again later"),
            Self::Poisoned(_) => f.write_str("the log has failed; close the queue and open it again to recover"),
            Self::Encode { error, .. } => write!(f, "the entry cannot be encoded: {error}"),
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Full(_) => "Full",
            Self::Dropped(_) => "Dropped",
            Self::Closed(_) => "Closed",
            Self::TooLong { .. } => "TooLong",
            Self::Poisoned(_) => "Poisoned",
            Self::Breaker(_) => "Breaker",
            Self::Encode { .. } => "Encode",
        };
        write!(f, "PushError::{name}({self})")
    }
}

impl<T> std::error::Error for PushError<T> {}

/// A batch of pushes that stopped before its end.
pub struct BatchError<T> {
    /// How many entries are in the queue.
    pub pushed: usize,
    /// Why the next one is not; it comes back here.
    pub error: PushError<T>,
    /// Those behind it that had been taken from the iterator by then, in order. They are not in the queue.
    pub rest: Vec<T>,
}

impl<T> fmt::Display for BatchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} entries: {}", self.pushed, self.error)
    }
}

impl<T> fmt::Debug for BatchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchError({self})")
    }
}

impl<T> std::error::Error for BatchError<T> {}
