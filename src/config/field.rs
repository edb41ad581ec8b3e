//! How each type of setting becomes a value of the table of keys, and comes from one.

use std::path::PathBuf;
use std::time::Duration;

#[cfg(any(feature = "lz4", feature = "zstd"))]
use super::units::{read_size, show_size};
use super::units::{read_time, show_time};
use super::{Compression, Durability, Idle, Io, OnBreaker, OnCorruption, Park, ParkFull, Preset, Rings, WhenFull};
use crate::delivery::retry::Jitter;
use crate::pressure::Watermarks;

/// A value, as its key understands it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Number(u64),
    Time(Duration),
    Real(f64),
    Flag(bool),
    Text(String),
    /// Explicitly nothing: `none`.
    None,
}

/// The type of a setting.
pub(super) trait Field {
    fn get(&self) -> Value;
    /// False: it is no such value.
    fn set(&mut self, value: Value) -> bool;
}

/// Puts `value` into `place`, if there is one.
fn put<T>(place: &mut T, value: Option<T>) -> bool {
    let fits = value.is_some();
    if let Some(value) = value {
        *place = value;
    }
    fits
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn get(&self) -> Value {
                Value::Number((*self).try_into().unwrap_or(u64::MAX))
            }

            fn set(&mut self, value: Value) -> bool {
                let Value::Number(number) = value else { return false };
                put(self, number.try_into().ok())
            }
        }

        impl Field for Option<$type> {
            fn get(&self) -> Value {
                self.as_ref().map_or(Value::None, Field::get)
            }

            fn set(&mut self, value: Value) -> bool {
                match value {
                    Value::None => put(self, Some(None)),
                    Value::Number(number) => put(self, number.try_into().ok().map(Some)),
                    _ => false,
                }
            }
        }
    )*};
}
number!(u8, u32, u64, usize);

macro_rules! plain {
    ($($type:ty: $variant:ident),*) => {$(
        impl Field for $type {
            fn get(&self) -> Value {
                Value::$variant(self.clone())
            }

            fn set(&mut self, value: Value) -> bool {
                let Value::$variant(value) = value else { return false };
                put(self, Some(value))
            }
        }
    )*};
}
plain!(Duration: Time, f64: Real, bool: Flag, String: Text);

impl Field for Option<Duration> {
    fn get(&self) -> Value {
        self.map_or(Value::None, Value::Time)
    }

    fn set(&mut self, value: Value) -> bool {
        match value {
            Value::None => put(self, Some(None)),
            Value::Time(time) => put(self, Some(Some(time))),
            _ => false,
        }
    }
}

impl Field for Option<(usize, usize)> {
    fn get(&self) -> Value {
        Value::Text(self.map_or_else(|| "none".to_owned(), |(min, max)| format!("{min}..{max}")))
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let span = |(min, max): (&str, &str)| Some(Some((min.trim().parse().ok()?, max.trim().parse().ok()?)));
        put(self, if text == "none" { Some(None) } else { text.split_once("..").and_then(span) })
    }
}

/// As `80%..95%`.
impl Field for Option<Watermarks> {
    fn get(&self) -> Value {
        Value::Text(self.map_or_else(|| "none".to_owned(), |Watermarks { soft, hard }| format!("{soft}%..{hard}%")))
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let percent = |text: &str| text.trim().strip_suffix('%')?.trim().parse().ok();
        let both = |(soft, hard): (&str, &str)| Some(Some(Watermarks { soft: percent(soft)?, hard: percent(hard)? }));
        put(self, if text == "none" { Some(None) } else { text.split_once("..").and_then(both) })
    }
}

impl Field for PathBuf {
    fn get(&self) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        put(self, Some(Self::from(text)))
    }
}

/// Choices of one word each, in the order in which they are listed.
macro_rules! words {
    ($($type:ty: $list:ident { $($(#[$only:meta])? $variant:ident = $word:literal),* })*) => {$(
        pub(super) const $list: &[&str] = &[$($(#[$only])? $word),*];

        impl Field for $type {
            fn get(&self) -> Value {
                Value::Text(match self { $($(#[$only])? Self::$variant => $word),* }.to_owned())
            }

            fn set(&mut self, value: Value) -> bool {
                let Value::Text(text) = value else { return false };
                put(self, match text.as_str() { $($(#[$only])? $word => Some(Self::$variant),)* _ => None })
            }
        }
    )*};
}
words! {
    Preset: PRESETS {
        Default = "default", HighThroughput = "high_throughput", LowLatency = "low_latency",
        HighReliability = "high_reliability"
    }
    Io: IO {
        Auto = "auto", Uring = "uring", Threads = "threads",
        #[cfg(feature = "tokio-uring")]
        TokioUring = "tokio-uring"
    }
    Idle: IDLE { Park = "park", Backoff = "backoff", Spin = "spin" }
    OnBreaker: ON_BREAKER { Accept = "accept", Reject = "reject" }
    ParkFull: PARK_FULL { Wait = "wait", DropOldest = "drop_oldest" }
    Park: PARK { Dir = "dir", Drop = "drop" }
    OnCorruption: ON_CORRUPTION { Stop = "stop", CutTail = "cut_tail", Quarantine = "quarantine" }
    Jitter: JITTER { None = "none", Equal = "equal", Full = "full" }
}

/// `TIME` stands for a duration, `PATH` for a path.
pub(super) const ADAPTIVE: &[&str] = &["none", "LEAST..MOST"];
#[cfg(not(any(feature = "lz4", feature = "zstd")))]
pub(super) const COMPRESSION: &[&str] = &["none"];
#[cfg(all(feature = "lz4", not(feature = "zstd")))]
pub(super) const COMPRESSION: &[&str] = &["none", "lz4:SIZE"];
#[cfg(all(feature = "zstd", not(feature = "lz4")))]
pub(super) const COMPRESSION: &[&str] = &["none", "zstd:LEVEL:SIZE"];
#[cfg(all(feature = "lz4", feature = "zstd"))]
pub(super) const COMPRESSION: &[&str] = &["none", "lz4:SIZE", "zstd:LEVEL:SIZE"];
pub(super) const DURABILITY: &[&str] = &["immediate", "periodic:TIME", "spill", "memory"];
pub(super) const WHEN_FULL: &[&str] = &["block", "block_for:TIME", "reject", "drop_newest"];
pub(super) const WATERMARKS: &[&str] = &["none", "SOFT..HARD"];
pub(super) const RINGS_AT: &[&str] = &["private", "shared:PATH"];

impl Field for Durability {
    fn get(&self) -> Value {
        Value::Text(match self {
            Self::Immediate => "immediate".to_owned(),
            Self::Periodic(period) => format!("periodic:{}", show_time(*period)),
            Self::Spill => "spill".to_owned(),
            Self::Memory => "memory".to_owned(),
        })
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let durability = match text.split_once(':') {
            None => match text.as_str() {
                "immediate" => Some(Self::Immediate),
                "spill" => Some(Self::Spill),
                "memory" => Some(Self::Memory),
                _ => None,
            },
            Some(("periodic", period)) => read_time(period).map(Self::Periodic),
            Some(_) => None,
        };
        put(self, durability)
    }
}

/// Without a level or a size those of `Compression::lz4` and `Compression::zstd`.
impl Field for Compression {
    fn get(&self) -> Value {
        Value::Text(match self {
            Self::None => "none".to_owned(),
            #[cfg(feature = "lz4")]
            Self::Lz4 { min_len } => format!("lz4:{}", show_size(u64::from(*min_len))),
            #[cfg(feature = "zstd")]
            Self::Zstd { level, min_len } => format!("zstd:{level}:{}", show_size(u64::from(*min_len))),
        })
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        put(self, read_compression(&text))
    }
}

fn read_compression(text: &str) -> Option<Compression> {
    #[cfg(any(feature = "lz4", feature = "zstd"))]
    let min_len = |text: &str| read_size(text).and_then(|len| u32::try_from(len).ok());
    match text.split(':').collect::<Vec<_>>()[..] {
        ["none"] => Some(Compression::None),
        #[cfg(feature = "lz4")]
        ["lz4"] => Some(Compression::lz4()),
        #[cfg(feature = "lz4")]
        ["lz4", size] => Some(Compression::Lz4 { min_len: min_len(size)? }),
        #[cfg(feature = "zstd")]
        ["zstd"] => Some(Compression::zstd()),
        #[cfg(feature = "zstd")]
        ["zstd", level, size] => Some(Compression::Zstd { level: level.parse().ok()?, min_len: min_len(size)? }),
        _ => None,
    }
}

impl Field for WhenFull {
    fn get(&self) -> Value {
        Value::Text(match self {
            Self::Block => "block".to_owned(),
            Self::BlockFor(time) => format!("block_for:{}", show_time(*time)),
            Self::Reject => "reject".to_owned(),
            Self::DropNewest => "drop_newest".to_owned(),
        })
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let when_full = match text.split_once(':') {
            None => match text.as_str() {
                "block" => Some(Self::Block),
                "reject" => Some(Self::Reject),
                "drop_newest" => Some(Self::DropNewest),
                _ => None,
            },
            Some(("block_for", time)) => read_time(time).map(Self::BlockFor),
            Some(_) => None,
        };
        put(self, when_full)
    }
}

impl Field for Rings {
    fn get(&self) -> Value {
        Value::Text(match self {
            Self::Private => "private".to_owned(),
            Self::Shared(path) => format!("shared:{}", path.display()),
        })
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let rings = match text.split_once(':') {
            None if text == "private" => Some(Self::Private),
            Some(("shared", path)) if !path.is_empty() => Some(Self::Shared(path.into())),
            _ => None,
        };
        put(self, rings)
    }
}
