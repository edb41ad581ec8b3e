//! A reader of Prometheus' text format, 0.0.4, that takes nothing that is not as the format says.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashSet};

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// With the ending of a histogram's line.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A metric: its type, and its lines.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// The families of a text, by name.
///
/// # Panics
/// When the text is not as the format says.
pub fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(!families.contains_key(name), "{name} is described twice");
            families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(name, current, "the type stands with its text, before the lines");
            let family = families.get_mut(name).unwrap();
            assert!(family.kind.is_empty() && family.samples.is_empty(), "{name}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            family.kind = kind.to_owned();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).expect("a description comes first");
            let is_its_own = match family.kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| sample.name == format!("{current}{end}")),
                _ => sample.name == current,
            };
            assert!(is_its_own, "{line:?} stands under {current}");
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        check(name, family);
    }
    families
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line:?} has no labels"));
    assert!(is_name(name), "{name:?}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
        assert!(is_name(label), "{label:?}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{line:?} has an open value")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("{line:?}: \\{other:?}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), value).is_none(), "{line:?} has {label} twice");
        match after[end + 1..].split_at(1) {
            (",", more) => rest = more,
            ("}", more) => {
                let number = more.strip_prefix(' ').unwrap_or_else(|| panic!("{line:?}"));
                let value = number.parse().unwrap_or_else(|_| panic!("{line:?}: {number:?} is no number"));
                return Sample { name: name.to_owned(), labels, value };
            }
            _ => panic!("{line:?}"),
        }
    }
}

fn check(name: &str, family: &Family) {
    assert!(is_name(name) && !family.kind.is_empty() && family.help.ends_with('.'), "{name}: {family:?}");
    assert!(!family.samples.is_empty(), "{name} has no line");
    assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} is a {}", family.kind);
    let mut seen = HashSet::new();
    for sample in &family.samples {
        assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} stands twice");
        assert!(sample.value.is_finite() && sample.value >= 0.0, "{sample:?}");
    }
    if family.kind == "histogram" {
        for count in family.samples.iter().filter(|sample| sample.name.ends_with("_count")) {
            check_histogram(name, family, count);
        }
        let counts = family.samples.iter().filter(|sample| sample.name.ends_with("_count")).count();
        assert_eq!(counts, family.samples.iter().filter(|sample| sample.name.ends_with("_sum")).count(), "{name}");
    }
}

fn check_histogram(name: &str, family: &Family, count: &Sample) {
    let buckets: Vec<(f64, f64)> = family
        .samples
        .iter()
        .filter(|sample| sample.name.ends_with("_bucket"))
        .filter(|sample| count.labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value)))
        .map(|sample| (sample.labels["le"].parse().unwrap(), sample.value))
        .collect();
    assert!(buckets.len() > 5 && buckets.len() < 40, "{name} has {} buckets", buckets.len());
    assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, count.value)), "{name}");
}
