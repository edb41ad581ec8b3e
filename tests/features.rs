//! `docs/FEATURES.md` and `docs/MIGRATION.md`, held to the code: every row once, every name there, nothing called missing
//! that is there. That the links and the tests exist that they name, `tests/tidy.rs` checks, as for all texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

/// A part of the table, and its rows.
const PARTS: [(&str, RangeInclusive<u32>); 3] = [("V1", 1..=128), ("V2", 129..=198), ("Architecture", 199..=273)];

struct Row<'a> {
    number: u32,
    fate: &'a str,
    status: &'a str,
    here: &'a str,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows<'a>(text: &'a str, part: &str) -> Vec<Row<'a>> {
    let (_, after) = text.split_once(&format!("\n## {part}\n")).unwrap_or_else(|| panic!("no part {part}"));
    let part = after.split("\n## ").next().unwrap();
    let lines = part.lines().filter(|line| line.starts_with("| F"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [row, _, promise, fate, status, here] = cells[..] else { panic!("{} cells: {line}", cells.len()) };
            assert!(!promise.is_empty() && !here.is_empty(), "{line}");
            Row { number: row[1..].parse().unwrap(), fate, status, here }
        })
        .collect()
}

/// What stands between backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn names_a_test(here: &str) -> bool {
    spans(here).any(|span| span.contains(".rs::"))
}

fn has_link(here: &str) -> bool {
    here.contains("](")
}

#[test]
fn every_row_of_the_documents_is_there_once_and_in_order() {
    let text = read("docs/FEATURES.md");
    for (part, numbers) in PARTS {
        let found: Vec<u32> = rows(&text, part).iter().map(|row| row.number).collect();
        assert_eq!(found, numbers.collect::<Vec<_>>(), "{part}");
    }
    let all = text.lines().filter(|line| line.starts_with("| F")).count();
    assert_eq!(all, 273, "a row stands outside the parts");
}

#[test]
fn every_status_has_what_it_needs() {
    let text = read("docs/FEATURES.md");
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for Row { number, fate, status, here } in PARTS.iter().flat_map(|(part, _)| rows(&text, part)) {
        let fits = match (status, fate) {
            ("built" | "otherwise" | "partly", "K" | "O") => names_a_test(here),
            ("not built yet", "K" | "O") => missing(here).count() > 0,
            ("measured", "M") => has_link(here) || names_a_test(here),
            ("not measured", "M") => here.len() > 5,
            ("text", "D") => has_link(here),
            ("left out", "K" | "O" | "D" | "B" | "N") => here.len() > 5,
            _ => false,
        };
        assert!(fits, "F{number:03}: {fate}, {status}: {here}");
        *counts.entry(status).or_default() += 1;
    }
    println!("{counts:?}");
}

/// Names that a row says are not there: after the word "no".
fn missing(here: &str) -> impl Iterator<Item = &str> {
    here.match_indices("no `").filter_map(|(at, _)| here[at + "no `".len()..].split('`').next())
}

/// Everything that is declared in the library: `Type::name` for methods, variants and fields, `name` for functions, types and macros.
struct Declared {
    text: String,
    /// First line and body of every struct, enum, trait and impl.
    items: Vec<(String, String)>,
}

/// Whether one of `before` and then `name`, as a whole word, stands in a text.
fn has_word(text: &str, before: &[&str], name: &str) -> bool {
    let follows = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    before.iter().any(|before| {
        let word = format!("{before}{name}");
        text.match_indices(&word).any(|(at, _)| follows(&text[at + word.len()..]))
    })
}

impl Declared {
    fn read() -> Self {
        fn walk(folder: &Path, text: &mut String) {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    walk(&entry, text);
                } else if entry.extension().is_some_and(|e| e == "rs") {
                    text.push('\n');
                    text.push_str(&fs::read_to_string(&entry).unwrap());
                }
            }
        }
        let mut text = String::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        Self::of(text)
    }

    fn of(text: String) -> Self {
        let kinds = ["pub struct ", "pub enum ", "pub trait ", "impl"];
        let starts = text.match_indices('\n').map(|(at, _)| &text[at + 1..]);
        let items = starts.filter(|item| kinds.iter().any(|kind| item.starts_with(kind)));
        let parts = items.filter_map(|item| {
            // The brace that ends it stands at the margin.
            let body = item.split_once("\n}").map_or(item, |(body, _)| body);
            Some((body.split('\n').next()?.to_owned(), body.to_owned()))
        });
        let items = parts.collect();
        Self { text, items }
    }

    fn has(&self, path: &str) -> bool {
        let Some((of, name)) = path.split_once("::") else {
            return has_word(&self.text, &["fn ", "struct ", "enum ", "trait ", "macro_rules! "], path);
        };
        let is_of = |head: &str| head.split([' ', '<', '(', ';', '{', ':']).any(|word| word == of);
        let bodies = self.items.iter().filter(|(head, _)| is_of(head)).map(|(_, body)| body);
        bodies.into_iter().any(|body| has_word(body, &["fn ", "    pub ", "\n    "], name))
    }
}

/// Whether a span is a name of the library: `Type::name`, without arguments.
fn is_name(span: &str) -> bool {
    let simple = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    span.split_once("::")
        .is_some_and(|(of, name)| simple(of) && simple(name) && of.starts_with(|c: char| c.is_uppercase()))
}

#[test]
fn what_the_texts_name_is_there_and_what_they_miss_is_not() {
    let declared = Declared::read();
    let mut named = 0;
    for path in ["docs/FEATURES.md", "docs/MIGRATION.md"] {
        let text = read(path);
        let missed: Vec<&str> = text.lines().flat_map(missing).collect();
        for name in &missed {
            assert!(!declared.has(name), "{path} says that there is no `{name}`: it is there by now, name its test");
        }
        for name in spans(&text).filter(|span| is_name(span) && !missed.contains(span)) {
            assert!(declared.has(name), "{path} names `{name}`, which is not in the library");
            named += 1;
        }
    }
    assert!(named > 60, "only {named} names were looked at");
}

#[test]
fn every_link_into_the_migration_guide_leads_to_a_heading() {
    let guide = read("docs/MIGRATION.md");
    let headings: Vec<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let features = read("docs/FEATURES.md");
    let from_features = features.split("](MIGRATION.md#").skip(1);
    let within = guide.split("](#").skip(1);
    let targets: Vec<&str> = from_features.chain(within).map(|after| after.split(')').next().unwrap()).collect();
    assert!(targets.len() > 20, "{targets:?}");
    for target in targets {
        assert!(headings.iter().any(|heading| heading == target), "no heading #{target} among {headings:?}");
    }
}

#[test]
fn every_setting_of_the_migration_guide_is_one() {
    let guide = read("docs/MIGRATION.md");
    let (_, after) = guide.split_once("\n## Settings\n").unwrap();
    let rows = after.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| ")).skip(1);
    let declared = Declared::read();
    let mut seen = 0;
    for row in rows {
        let cell = row.split(" | ").nth(2).unwrap_or_else(|| panic!("{row}"));
        // Features stand in brackets, behind the setting.
        for name in spans(cell.split(" (").next().unwrap())
            .filter(|span| span.chars().all(|c| c.is_lowercase() || "_.".contains(c)))
        {
            let name = name.split('.').next().unwrap();
            assert!(declared.has(&format!("Builder::{name}")), "`{name}` is not a setting: {row}");
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} settings");
}

#[test]
fn names_are_found_by_what_declares_them() {
    let text = "\nimpl Builder {\n    pub fn linger(self) {}\n    fn rest() {}\n}\n\npub enum Idle {\n    /// Sleeps.\n    Park,\n}\n\
                \npub struct Metrics {\n    pub pushed: u64,\n}\n\npub fn fan_in() {}\n";
    let declared = Declared::of(text.to_owned());
    for name in ["Builder::linger", "Idle::Park", "Metrics::pushed", "fan_in"] {
        assert!(declared.has(name), "{name}");
    }
    for name in ["Builder::ling", "Builder::pushed", "Idle::Spin", "Metrics::linger", "fan_up", "Build::linger"] {
        assert!(!declared.has(name), "{name}");
    }
    assert_eq!(missing("no `A::b`, no `c`; not `D::e`").collect::<Vec<_>>(), ["A::b", "c"]);
    assert!(is_name("A::b_c") && !is_name("a::b") && !is_name("A::b(c)") && !is_name("tests/a.rs::b"));
}

/// Tests that several rows of behaviour name, and not all but one of them as the promise of that one (`as Fnnn`).
fn claimed_twice(rows: &[Row]) -> Vec<String> {
    let mut by_test: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| ["K", "O"].contains(&row.fate)) {
        let is_built = ["built", "otherwise", "partly"].contains(&row.status);
        let tests: BTreeSet<&str> = spans(row.here).filter(|span| is_built && span.contains(".rs::")).collect();
        tests.into_iter().for_each(|test| by_test.entry(test).or_default().push(row));
    }
    let says = |row: &Row, other: &Row| row.here.contains(&format!("as F{:03}", other.number));
    let is_settled = |rows: &[&Row]| {
        let owners = rows.iter().filter(|owner| {
            let others = || rows.iter().filter(|row| row.number != owner.number);
            others().all(|row| says(row, owner)) && !others().any(|row| says(owner, row))
        });
        owners.count() == 1
    };
    let shared = by_test.into_iter().filter(|(_, rows)| !is_settled(rows));
    shared.map(|(test, rows)| format!("{test}: {:?}", rows.iter().map(|row| row.number).collect::<Vec<_>>())).collect()
}

#[test]
fn a_test_stands_for_one_promise_and_other_rows_that_name_it_say_whose() {
    let text = read("docs/FEATURES.md");
    let all: Vec<Row> = PARTS.iter().flat_map(|(part, _)| rows(&text, part)).collect();
    let broken = claimed_twice(&all);
    assert!(broken.is_empty(), "give each promise a test of its own, or say `as Fnnn`:\n{}", broken.join("\n"));

    let row = |number, fate, here| Row { number, fate, status: "built", here };
    let own = || row(1, "K", "here: `a.rs::t`");
    assert_eq!(claimed_twice(&[own(), row(2, "K", "`a.rs::u`")]), Vec::<String>::new());
    assert_eq!(
        claimed_twice(&[own(), row(2, "O", "as F001: `a.rs::t`"), row(3, "M", "`a.rs::t`")]),
        Vec::<String>::new()
    );
    let broken = [
        vec![own(), row(2, "K", "`a.rs::t`")],
        vec![own(), row(2, "K", "as F003: `a.rs::t`")],
        vec![own(), row(2, "K", "as F001: `a.rs::t`"), row(3, "K", "`a.rs::t`")],
        vec![row(1, "K", "as F002: `a.rs::t`"), row(2, "K", "as F001: `a.rs::t`")],
    ];
    for rows in &broken {
        assert_eq!(claimed_twice(rows).len(), 1, "{:?}", rows.iter().map(|row| row.here).collect::<Vec<_>>());
    }
}

/// A promise is kept by the test that its row names.
#[test]
fn every_test_of_a_promise_stands_in_the_table() {
    let features = read("docs/FEATURES.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promises");
    let mut tests = 0;
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        for part in text.split("#[test]\nfn ").skip(1) {
            let name = part.split('(').next().unwrap();
            let place = format!("tests/promises/{file}::{name}");
            assert!(features.contains(&format!("`{place}`")), "no row of the table names `{place}`");
            tests += 1;
        }
    }
    assert!(tests >= 75, "{tests} tests of promises");
}
