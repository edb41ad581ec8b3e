//! Settings from texts: each key is known, and each value one that its key takes, before any of it is used.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::field::Value;
use super::keys::{KEYS, Key, Kind, find};
use super::text::{self, Found, Raw};
use super::units::{read_percent, read_size, read_time};
use super::{Config, Origin};
use crate::builder::Builder;
use crate::error::ConfigError;

/// How like a name must be to one that exists to be taken for it, from 0 to 1.
const LIKENESS_MIN: f64 = 0.75;

/// Some of a queue's settings, from TOML, JSON, the environment, or a part of a text that your program reads with
/// serde. Every key and its range is in `docs/configuration.md`.
///
/// Sources are laid on top of each other with [`Builder::settings`]: what comes later wins, and code can go on setting.
/// What does not fit, also only together with other settings, is refused with the place where it stands.
///
/// ```
/// use ringwal::{Queue, Settings};
///
/// let file = Settings::from_toml(
///     r#"
///     preset = "high_throughput"
///     linger = "5ms"
///     memory_max = "64MiB"
///     [retry]
///     max = "10s"
///     "#,
/// )?;
/// let variables = Settings::from_env("ORDERS_QUEUE_")?; // ORDERS_QUEUE_RETRY_MAX=1m
/// let config = Queue::builder("orders").settings(&file).settings(&variables).rings(4).build()?;
/// assert!(config.to_string().contains("memory_max = \"64MiB\"\n"));
///
/// let wrong = Settings::from_toml("\nlingre = '5ms'").unwrap_err();
/// assert_eq!(wrong.to_string(), "line 2: there is no setting lingre; did you mean linger?");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In your own configuration:
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Service {
///     queue: ringwal::Settings,
/// }
///
/// let service: Service = toml::from_str("[queue]\ndir = 'orders'\nwhen_full = 'block_for:2s'\n")?;
/// let builder = service.queue.into_builder()?; // .open(sink)?
/// # drop(builder);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// In the order of the keys; each key once.
    given: Vec<(&'static Key, Value, Origin)>,
}

/// A setting of a text that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The key as it stands there, with its table before it.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong with it, and what would fit.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.why)
    }
}

/// Why settings could not be read. None of them is used.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's name ends neither in `.toml` nor in `.json`.
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The text is not TOML, or not JSON.
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        what: String,
    },
    /// Settings that do not exist or do not fit: all of them.
    Refused(Vec<Refusal>),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Format { path } => {
                write!(f, "{} ends neither in .toml nor in .json; rename it, or read its text", path.display())
            }
            Self::Syntax { origin, what } => write!(f, "{origin}: {what}"),
            Self::Refused(refusals) => {
                let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("; "))
            }
        }
    }
}

impl std::error::Error for SettingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Settings {
    /// Reads TOML.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        Self::of(text::toml(text), &Origin::Line)
    }

    /// Reads JSON: an object with the keys of the TOML, in objects where that has tables.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn from_json(text: &str) -> Result<Self, SettingsError> {
        Self::of(text::json(text), &Origin::Line)
    }

    /// Reads a file, as TOML or JSON by the end of its name.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        let path = path.as_ref();
        let found = match path.extension().and_then(|end| end.to_str()) {
            Some("toml") => text::toml,
            Some("json") => text::json,
            _ => return Err(SettingsError::Format { path: path.to_owned() }),
        };
        let read = crate::io::read_text(path);
        let text = read.map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        Self::of(found(&text), &|line| Origin::File(path.to_owned(), line))
    }

    /// Reads the process's environment: `PREFIX` and a key in capitals, `_` for a point, as `ORDERS_RETRY_MAX` for
    /// `retry.max` with the prefix `ORDERS_`. A variable with the prefix that names no setting is refused, so give each
    /// queue a prefix that nothing else has. So is one whose value is not UTF-8.
    ///
    /// # Errors
    /// [`SettingsError::Refused`].
    pub fn from_env(prefix: &str) -> Result<Self, SettingsError> {
        let vars = std::env::vars_os();
        Self::of_vars(prefix, vars.map(|(name, value)| (name.to_string_lossy().into_owned(), value.into_string())))
    }

    /// Reads variables as [`from_env`](Self::from_env) does, from elsewhere.
    ///
    /// # Errors
    /// [`SettingsError::Refused`].
    pub fn from_vars(prefix: &str, vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        Self::of_vars(prefix, vars.into_iter().map(|(name, value)| (name, Ok(value))))
    }

    fn of_vars(
        prefix: &str,
        vars: impl Iterator<Item = (String, Result<String, OsString>)>,
    ) -> Result<Self, SettingsError> {
        let mut reading = Reading::default();
        let mut vars: Vec<_> = vars.filter(|(name, _)| name.starts_with(prefix)).collect();
        vars.sort();
        for (name, value) in vars {
            let known = KEYS.iter().find(|key| format!("{prefix}{}", variable_of(key.name)) == name);
            let origin = Origin::Variable(name.clone());
            match (known, value) {
                (Some(key), Ok(value)) => reading.take(key.name, &Raw::Text(value), origin),
                // Read as something else, it might be the name of another directory.
                (Some(key), Err(value)) => {
                    reading.refuse(key.name, origin, format!("{} is {value:?}, which is not UTF-8", key.name));
                }
                (None, _) => {
                    let like = nearest(&name, KEYS.iter().map(|key| format!("{prefix}{}", variable_of(key.name))));
                    reading.refuse(&name, origin, format!("it names no setting{like}"));
                }
            }
        }
        reading.end()
    }

    /// A builder for the queue in the directory that the key `dir` names.
    ///
    /// # Errors
    /// `dir` is not among the settings.
    pub fn into_builder(self) -> Result<Builder, ConfigError> {
        if !self.given.iter().any(|(key, ..)| key.name == "dir") {
            return Err(ConfigError::new("dir", "missing", "given: the directory of the queue"));
        }
        Ok(Builder::new(Path::new("")).settings(&self))
    }

    /// The keys that are set here, in the order of `docs/configuration.md`.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|(key, ..)| key.name)
    }

    /// What is set here, as it would be written, and where it stands.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        self.given.iter().map(|(key, value, origin)| (key.name, key.kind.show(value), origin))
    }

    pub(crate) fn apply(&self, config: &mut Config) {
        for (key, value, _) in &self.given {
            let known = key.set(config, value);
            assert!(known, "a value of {} was looked at when it was read: {value:?}", key.name);
        }
        for (key, _, origin) in &self.given {
            config.origins.push((key.name, origin.clone(), key.show(config)));
        }
    }

    fn of(found: Result<Vec<Found>, text::Syntax>, origin: &dyn Fn(usize) -> Origin) -> Result<Self, SettingsError> {
        let found = found.map_err(|(what, line)| SettingsError::Syntax { origin: origin(line), what })?;
        let mut reading = Reading::default();
        for (name, raw, line) in &found {
            reading.take(name, raw, origin(*line));
        }
        reading.end()
    }
}

/// `RETRY_MAX` for `retry.max`.
fn variable_of(key: &str) -> String {
    key.to_uppercase().replace('.', "_")
}

/// What goes on while a text is read.
#[derive(Default)]
struct Reading {
    settings: Settings,
    refused: Vec<Refusal>,
}

impl Reading {
    fn take(&mut self, name: &str, raw: &Raw, origin: Origin) {
        let Some(key) = find(name) else {
            let is_known_table = *raw == Raw::Table && first_within(name).is_some();
            if !is_known_table {
                self.refuse(name, origin, unknown(name));
            }
            return;
        };
        if self.settings.given.iter().any(|(other, ..)| other.name == name) {
            self.refuse(name, origin, format!("{name} is given twice"));
            return;
        }
        match read(key, raw) {
            Ok(value) => self.settings.given.push((key, value, origin)),
            Err(why) => self.refuse(name, origin, why),
        }
    }

    fn refuse(&mut self, name: &str, origin: Origin, why: String) {
        self.refused.push(Refusal { key: name.to_owned(), origin, why });
    }

    fn end(mut self) -> Result<Settings, SettingsError> {
        if !self.refused.is_empty() {
            return Err(SettingsError::Refused(self.refused));
        }
        let place = |key: &Key| KEYS.iter().position(|other| key.name == other.name);
        self.settings.given.sort_by_key(|(key, ..)| place(key));
        Ok(self.settings)
    }
}

/// The first key in the table of this name.
fn first_within(table: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown(name: &str) -> String {
    match first_within(name) {
        Some(key) => format!("{name} is a table; its settings are named as {}", key.name),
        // As a text has it, which may be anything.
        None => format!(
            "there is no setting {}{}",
            name.escape_debug(),
            nearest(name, KEYS.iter().map(|key| key.name.to_owned()))
        ),
    }
}

/// `; did you mean NAME?`, if there is one like it.
fn nearest(name: &str, names: impl Iterator<Item = String>) -> String {
    let plain = name.replace('-', "_").to_lowercase();
    let like = names.map(|other| (strsim::jaro_winkler(&plain, &other.to_lowercase()), other));
    match like.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, other)) if likeness >= LIKENESS_MIN => format!("; did you mean {other}?"),
        _ => String::new(),
    }
}

/// The value that this key makes of what a text has, within its range.
fn read(key: &Key, raw: &Raw) -> Result<Value, String> {
    let name = key.name;
    let value = match (key.kind, raw) {
        (Kind::CountOrNone(..) | Kind::TimeOrNone(..), Raw::Text(text)) if text == "none" => Some(Value::None),
        (Kind::Count(..) | Kind::CountOrNone(..), Raw::Text(text)) => text.trim().parse().ok().map(Value::Number),
        (Kind::Count(..) | Kind::CountOrNone(..) | Kind::Size(..), Raw::Number(number)) => Some(Value::Number(*number)),
        (Kind::Size(..), Raw::Text(text)) => read_size(text).map(Value::Number),
        (Kind::Percent(..), Raw::Text(text)) => read_percent(text).map(Value::Number),
        (Kind::Time(..) | Kind::TimeOrNone(..), Raw::Text(text)) => read_time(text).map(Value::Time),
        (Kind::Time(..) | Kind::TimeOrNone(..), Raw::Number(0)) => Some(Value::Time(std::time::Duration::ZERO)),
        (Kind::Real(..), Raw::Real(real)) => Some(Value::Real(*real)),
        #[expect(clippy::cast_precision_loss, reason = "what is not exact is out of any range")]
        (Kind::Real(..), Raw::Number(number)) => Some(Value::Real(*number as f64)),
        (Kind::Real(..), Raw::Text(text)) => text.trim().parse().ok().map(Value::Real),
        (Kind::Flag, Raw::Flag(flag)) => Some(Value::Flag(*flag)),
        (Kind::Flag, Raw::Text(text)) => text.trim().parse().ok().map(Value::Flag),
        (Kind::Text | Kind::Path | Kind::Words(_), Raw::Text(text)) => Some(Value::Text(text.clone())),
        _ => None,
    };
    let Some(value) = value else {
        return Err(format!("{name} is {raw}, but must be {}", form(key)));
    };
    // What a word has with it is looked at where it is set.
    if !key.kind.contains(&value) || !key.set(&mut Config::new(Path::new("")), &value) {
        let shown = key.kind.show(&value);
        if !cfg!(feature = "tokio-uring") && (name, shown.as_str()) == ("io", "tokio-uring") {
            return Err(format!("{name} is {shown:?}, for which ringwal is to be built with the feature tokio-uring"));
        }
        let shown = if matches!(value, Value::Text(_)) { format!("{shown:?}") } else { shown };
        return Err(format!("{name} is {shown}, but must be {}", key.kind));
    }
    Ok(value)
}

/// How a value of this key is written.
fn form(key: &Key) -> String {
    let example = match key.kind {
        Kind::Size(..) => ", as 65536, \"64KiB\" or \"1.5GiB\"",
        Kind::Time(..) | Kind::TimeOrNone(..) => " with a unit, as \"500us\", \"5ms\" or \"2m\"",
        Kind::Percent(..) => ", as \"80%\"",
        _ => "",
    };
    match key.kind {
        Kind::Words(_) | Kind::Flag => key.kind.to_string(),
        _ => format!("a {}{example}, from {}", key.kind.name(), key.kind).replace("from at least", "of at least"),
    }
}

/// Keys in the tables of a text of another kind. Refusals come one at a time, as errors of that text's parser, which
/// says where.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut reading = Reading::default();
        Node { name: "", reading: &mut reading }.deserialize(deserializer)?;
        reading.end().map_err(de::Error::custom)
    }
}

/// A table, or a value, with its name.
struct Node<'a> {
    name: &'a str,
    reading: &'a mut Reading,
}

impl Node<'_> {
    fn take<E: de::Error>(self, raw: &Raw) -> Result<(), E> {
        if self.name.is_empty() {
            return Err(E::custom(format_args!("settings are a table, not {raw}")));
        }
        self.reading.take(self.name, raw, Origin::Embedded);
        match self.reading.refused.pop() {
            Some(refusal) => Err(E::custom(refusal.why)),
            None => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings, or the value of one")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.take(&Raw::Text(text.to_owned()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.take(&Raw::Number(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.take(&u64::try_from(number).map_or_else(|_| Raw::Other(number.to_string()), Raw::Number))
    }

    fn visit_f64<E: de::Error>(self, real: f64) -> Result<(), E> {
        self.take(&Raw::Real(real))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<(), E> {
        self.take(&Raw::Flag(flag))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut is_empty = true;
        while let Some(key) = map.next_key::<String>()? {
            is_empty = false;
            let name = if self.name.is_empty() { key } else { format!("{}.{key}", self.name) };
            map.next_value_seed(Node { name: &name, reading: &mut *self.reading })?;
        }
        if is_empty && !self.name.is_empty() { self.take(&Raw::Table) } else { Ok(()) }
    }
}
