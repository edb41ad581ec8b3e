//! The table of settings: name, kind and range of each, and its place in [`Config`].
//!
//! It is what [`Config::check`] goes by, what texts are read with (feature `config`), and what
//! `docs/configuration.md` is compared with. A new setting is a field of [`Config`], a setter of
//! [`Builder`](crate::Builder), a row here and a row there; `tests/configuration.rs` misses whichever is left out.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::field::{
    ADAPTIVE, COMPRESSION, DURABILITY, Field, IDLE, IO, JITTER, ON_BREAKER, ON_CORRUPTION, PARK, PARK_FULL, PRESETS,
    RINGS_AT, Value, WATERMARKS, WHEN_FULL,
};
use super::units::{show_size, show_time};
use super::{Config, GIB, KIB, MIB};
use crate::delivery::breaker::FailureShare;
use crate::error::ConfigError;

use Kind::{Count, CountOrNone, Flag, Path, Percent, Real, Size, Text, Time, TimeOrNone, Words};

const ZERO: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Where nothing but the type is a limit.
const NO_END: u64 = u64::MAX;

/// What may stand for a key. Bounds belong to the range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Count(u64, u64),
    CountOrNone(u64, u64),
    Size(u64, u64),
    Percent(u64, u64),
    Time(Duration, Duration),
    TimeOrNone(Duration, Duration),
    Real(f64, f64),
    Flag,
    Text,
    Path,
    Words(&'static [&'static str]),
}

/// A setting's row.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// None: it belongs to something that is not set up.
    get: fn(&Config) -> Option<Value>,
    #[cfg_attr(not(feature = "config"), expect(dead_code, reason = "only texts set by name"))]
    set: fn(&mut Config, Value) -> bool,
}

macro_rules! key {
    ($name:literal, $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: $kind,
            get: |config| Some(config.$($field).+.get()),
            set: |config, value| config.$($field).+.set(value),
        }
    };
    // A field of something that need not be there, and is set up by setting it.
    ($name:literal, $kind:expr, $part:ident ? $field:ident) => {
        Key {
            name: $name,
            kind: $kind,
            get: |config| config.$part.as_ref().map(|part| part.$field.get()),
            set: |config, value| config.$part.get_or_insert_default().$field.set(value),
        }
    };
}

/// All of them. A text's settings are applied in this order, so what sets others comes first, and what takes a part
/// away comes behind that part's fields.
pub(crate) static KEYS: &[Key] = &[
    Key {
        name: "preset",
        kind: Words(PRESETS),
        get: |config| Some(config.preset.get()),
        set: |config, value| {
            let known = config.preset.set(value);
            config.preset.apply(config);
            known
        },
    },
    key!("dir", Path, dir),
    key!("name", Text, name),
    key!("compression", Words(COMPRESSION), coding.compression),
    key!("durability", Words(DURABILITY), durability),
    key!("batch_len_max", Count(1, super::BATCH_LEN_MAX), batch_len_max),
    key!("batch_bytes_max", Size(1, GIB), batch_bytes_max),
    key!("linger", Time(ZERO, HOUR), linger),
    key!("adaptive", Words(ADAPTIVE), adaptive),
    key!("deliver_timeout", TimeOrNone(MS, DAY), deliver_timeout),
    key!("in_flight_max", Count(1, 64), in_flight_max),
    key!("rings", Count(1, 1024), rings),
    key!("pinned_rings", Count(0, 1024), pinned_rings),
    key!("ring_bytes", Size(4 * KIB, GIB), ring_bytes),
    key!("rings_at", Words(RINGS_AT), rings_at),
    key!("rings_on_any_file_system", Flag, rings_on_any_file_system),
    key!("entry_len_max", Size(1, 64 * MIB), entry_len_max),
    key!("memory_max", Size(super::MEMORY_MIN, 1024 * GIB), memory_max),
    key!("segment_len", Size(super::SEGMENT_LEN_MIN, 4 * GIB), segment_len),
    key!("log_bytes_max", Size(3 * super::SEGMENT_LEN_MIN, NO_END), log_bytes_max),
    key!("park_bytes_max", Size(super::PARK_BYTES_MIN, NO_END), park_bytes_max),
    key!("park_full", Words(PARK_FULL), park_full),
    key!("backlog_len_max", CountOrNone(1, NO_END), backlog_len_max),
    key!("when_full", Words(WHEN_FULL), when_full),
    key!("watermarks", Words(WATERMARKS), watermarks),
    key!("soft_delay", Time(ZERO, MINUTE), soft_delay),
    key!("failure_delay", TimeOrNone(ZERO, MINUTE), failure_delay),
    key!("retry.attempts_max", CountOrNone(1, u32::MAX as u64), retry.attempts_max),
    key!("retry.base", Time(ZERO, DAY), retry.base),
    key!("retry.factor", Real(1.0, 100.0), retry.factor),
    key!("retry.max", Time(MS, DAY), retry.max),
    key!("retry.jitter", Words(JITTER), retry.jitter),
    key!("breaker.failures", Count(1, 1_000_000), breaker?failures),
    key!("breaker.open_for", Time(MS, DAY), breaker?open_for),
    key!("breaker.probes", Count(1, 1000), breaker?probes),
    Key {
        name: "breaker.share.percent",
        kind: Percent(1, 100),
        get: |config| config.breaker?.share.map(|share| share.percent.get()),
        set: |config, value| failure_share(config).percent.set(value),
    },
    Key {
        name: "breaker.share.of",
        kind: Count(1, 64),
        get: |config| config.breaker?.share.map(|share| share.of.get()),
        set: |config, value| failure_share(config).of.set(value),
    },
    Key {
        name: "breaker.enabled",
        kind: Flag,
        get: |config| Some(Value::Flag(config.breaker.is_some())),
        set: |config, value| {
            match value {
                Value::Flag(true) => drop(config.breaker.get_or_insert_default()),
                Value::Flag(false) => config.breaker = None,
                _ => return false,
            }
            true
        },
    },
    key!("on_breaker", Words(ON_BREAKER), on_breaker),
    key!("park", Words(PARK), park),
    key!("on_corruption", Words(ON_CORRUPTION), on_corruption),
    key!("io", Words(IO), io),
    key!("cpu", CountOrNone(0, NO_END), cpu),
    key!("sink_cpu", CountOrNone(0, NO_END), sink_cpu),
    key!("idle", Words(IDLE), idle),
    key!("lock_wait", Time(ZERO, HOUR), lock_wait),
    key!("drop_timeout", Time(ZERO, HOUR), drop_timeout),
];

/// The share that opens the breaker. One half of it without the other is out of range, and so refused.
fn failure_share(config: &mut Config) -> &mut FailureShare {
    config.breaker.get_or_insert_default().share.get_or_insert(FailureShare { percent: 0, of: 0 })
}

pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// What is set, as it would be written.
    pub(crate) fn show(&self, config: &Config) -> Option<String> {
        (self.get)(config).map(|value| self.kind.show(&value))
    }

    /// `key = value` as a line of TOML, if there is anything to write.
    pub(super) fn write_toml(&self, config: &Config, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = (self.get)(config) else {
            return Ok(());
        };
        let shown = self.kind.show(&value);
        if self.kind.is_bare(&value) {
            return writeln!(f, "{} = {shown}", self.name);
        }
        write!(f, "{} = \"", self.name)?;
        for c in shown.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_str("\"\n")
    }

    /// Sets a value of this key's kind. False: it is none.
    #[cfg(feature = "config")]
    pub(crate) fn set(&self, config: &mut Config, value: &Value) -> bool {
        (self.set)(config, value.clone())
    }

    /// Whether what is set is within the range.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        match (self.get)(config) {
            Some(value) if !self.kind.contains(&value) => {
                Err(ConfigError::new(self.name, self.kind.show(&value), self.kind.to_string()))
            }
            _ => Ok(()),
        }
    }
}

impl Kind {
    pub(crate) fn contains(&self, value: &Value) -> bool {
        match (self, value) {
            (CountOrNone(..) | TimeOrNone(..), Value::None) => true,
            (Count(min, max) | CountOrNone(min, max) | Size(min, max) | Percent(min, max), Value::Number(number)) => {
                (min..=max).contains(&number)
            }
            (Time(min, max) | TimeOrNone(min, max), Value::Time(time)) => (min..=max).contains(&time),
            (Real(min, max), Value::Real(real)) => (min..=max).contains(&real),
            (Flag, Value::Flag(_)) | (Text | Path | Words(_), Value::Text(_)) => true,
            _ => false,
        }
    }

    /// A value as it would be written.
    pub(crate) fn show(&self, value: &Value) -> String {
        match (self, value) {
            (Size(..), Value::Number(bytes)) => show_size(*bytes),
            (Percent(..), Value::Number(percent)) => format!("{percent}%"),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Time(time)) => show_time(*time),
            (_, Value::Real(real)) => format!("{real:?}"),
            (_, Value::Flag(flag)) => flag.to_string(),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::None) => "none".to_owned(),
        }
    }

    /// One word for what it is.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Count(..) | CountOrNone(..) => "count",
            Size(..) => "size",
            Percent(..) => "share",
            Time(..) | TimeOrNone(..) => "duration",
            Real(..) => "number",
            Flag => "flag",
            Text => "text",
            Path => "path",
            Words(_) => "word",
        }
    }

    /// Whether TOML and JSON write it without quotation marks.
    pub(crate) const fn is_bare(&self, value: &Value) -> bool {
        matches!((self, value), (Count(..) | CountOrNone(..), Value::Number(_)) | (Real(..) | Flag, _))
    }
}

/// The range.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |f: &mut fmt::Formatter<'_>, min: u64, max: u64, show: fn(u64) -> String| match max {
            NO_END => write!(f, "at least {}", show(min)),
            _ => write!(f, "{} to {}", show(min), show(max)),
        };
        match self {
            Count(min, max) => span(f, *min, *max, |number| number.to_string()),
            CountOrNone(min, max) => {
                span(f, *min, *max, |number| number.to_string())?;
                f.write_str(", or none")
            }
            Size(min, max) => span(f, *min, *max, show_size),
            Percent(min, max) => span(f, *min, *max, |percent| format!("{percent}%")),
            Time(min, max) => write!(f, "{} to {}", show_time(*min), show_time(*max)),
            TimeOrNone(min, max) => write!(f, "{} to {}, or none", show_time(*min), show_time(*max)),
            Real(min, max) => write!(f, "{min:?} to {max:?}"),
            Flag => f.write_str("true or false"),
            Text => f.write_str("1 to 64 bytes without zero or newline"),
            Path => f.write_str("a path"),
            Words(words) => match words.split_last() {
                Some((last, others)) => write!(f, "{} or {last}", others.join(", ")),
                None => Ok(()),
            },
        }
    }
}
