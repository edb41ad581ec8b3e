//! TOML, JSON and variables taken apart: keys with their tables before them, plain values, and where each stands.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

/// No key has more parts: what lies deeper is not looked at.
const DEPTH_MAX: usize = 4;

/// A value as a text has it, before a key says what it means.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Raw {
    Text(String),
    Number(u64),
    Real(f64),
    Flag(bool),
    /// An empty table, or one deeper than any key.
    Table,
    /// What no key takes, as it is shown: a list, a date, a negative number.
    Other(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
            Self::Real(real) => write!(f, "{real:?}"),
            Self::Flag(flag) => flag.fmt(f),
            Self::Table => f.write_str("a table"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A key, its value, and its line.
pub(super) type Found = (String, Raw, usize);

/// What is wrong with a text that is none of its format, and its line where that is known.
pub(super) type Syntax = (String, usize);

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

pub(super) fn toml(text: &str) -> Result<Vec<Found>, Syntax> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span: Range<usize>| span.start);
        (error.message().replace('\n', " "), line_of(text, at))
    })?;
    let mut found = Vec::new();
    toml_table(text, "", table.get_ref(), 1, &mut found);
    found.sort_by_key(|(_, _, line)| *line);
    Ok(found)
}

fn toml_table(text: &str, prefix: &str, table: &DeTable<'_>, depth: usize, found: &mut Vec<Found>) {
    for (key, value) in table {
        let name = join(prefix, key.get_ref());
        let raw = match value.get_ref() {
            DeValue::Table(table) if depth < DEPTH_MAX && !table.is_empty() => {
                toml_table(text, &name, table, depth + 1, found);
                continue;
            }
            DeValue::String(text) => Raw::Text(text.as_ref().to_owned()),
            DeValue::Boolean(flag) => Raw::Flag(*flag),
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Raw::Number(number),
                Err(_) => Raw::Other(number.to_string()),
            },
            DeValue::Float(real) => match real.as_str().parse() {
                Ok(real) => Raw::Real(real),
                Err(_) => Raw::Other(real.to_string()),
            },
            DeValue::Datetime(date) => Raw::Other(date.to_string()),
            DeValue::Array(_) => Raw::Other("a list".to_owned()),
            DeValue::Table(_) => Raw::Table,
        };
        found.push((name, raw, line_of(text, key.span().start)));
    }
}

pub(super) fn json(text: &str) -> Result<Vec<Found>, Syntax> {
    let object: Object<'_> = serde_json::from_str(text).map_err(|error| {
        let what = error.to_string();
        // The line is said with the place.
        let what = what.split(" at line ").next().unwrap_or_default().replace('\n', " ");
        (what, error.line().max(1))
    })?;
    let mut found = Vec::new();
    json_object(text, "", &object, 1, &mut found);
    Ok(found)
}

fn json_object(text: &str, prefix: &str, object: &Object<'_>, depth: usize, found: &mut Vec<Found>) {
    for (key, value) in &object.0 {
        let name = join(prefix, key);
        let inner = value.get();
        if depth < DEPTH_MAX
            && let Ok(table) = serde_json::from_str::<Object<'_>>(inner)
            && !table.0.is_empty()
        {
            json_object(text, &name, &table, depth + 1, found);
            continue;
        }
        // `inner` is a part of `text`.
        let at = (inner.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        found.push((name, json_scalar(inner), line_of(text, at)));
    }
}

fn json_scalar(text: &str) -> Raw {
    let other = || Raw::Other(text.to_owned());
    match text.as_bytes().first() {
        Some(b'[') => Raw::Other("a list".to_owned()),
        Some(b'{') => Raw::Table,
        Some(b'"') => serde_json::from_str(text).map_or_else(|_| other(), Raw::Text),
        Some(b't' | b'f') => serde_json::from_str(text).map_or_else(|_| other(), Raw::Flag),
        _ => match text.parse() {
            Ok(number) => Raw::Number(number),
            Err(_) => serde_json::from_str(text).map_or_else(|_| other(), Raw::Real),
        },
    }
}

/// An object's members, each with its text, in order; a key may come twice.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}
