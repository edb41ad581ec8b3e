//! The source's own rules, checked over its text: who may use what, and what must stand beside what.
//!
//! A rule is a row of a table: words, and the places that may use them. Comments and unit tests are
//! left out before words are looked for; `use` groups are taken apart first, so that
//! `use std::{fs, io}` counts as a use of `std::fs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use a word, and why only they.
struct Rule {
    name: &'static str,
    words: &'static [&'static str],
    /// Files, or folders with a `/` at the end.
    may: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        name: "atomics come from `crate::sync`, so that loom can take their place",
        words: &["std::sync::atomic", "core::sync::atomic", "loom::"],
        // Under `--cfg loom` loom watches the ring's bytes.
        may: &["src/sync.rs", "src/ring/memory.rs"],
    },
    Rule { name: "only `io/` talks to io_uring", words: &["io_uring::"], may: &["src/io/"] },
    Rule { name: "only `io/` makes system calls", words: &["libc::", "rustix::"], may: &["src/io/"] },
    Rule { name: "only `io/` touches files", words: &["std::fs"], may: &["src/io/"] },
    Rule {
        name: "only `engine/` and the drivers read a clock",
        words: &["Instant::now", "SystemTime::now", "clock_gettime"],
        // On the caller's own thread, waiting with a timeout; the simulated disk, when a whole queue runs on it.
        // The HTTP server bounds its connections.
        may: &[
            "src/engine/",
            "src/io/",
            "src/producer.rs",
            "src/queue.rs",
            "src/parked.rs",
            "src/sim/",
            "src/serve/",
            "src/fan_out/",
        ],
    },
    Rule {
        name: "only `engine/` and the drivers own threads",
        words: &["thread::spawn", "thread::Builder", "thread::scope"],
        // The HTTP server's touch no queue but to look at it.
        may: &["src/engine/", "src/io/", "src/serve/"],
    },
    Rule {
        name: "only `engine/trace.rs` tells `tracing` anything, and never on the way of a push",
        words: &["tracing::"],
        may: &["src/engine/trace.rs"],
    },
    Rule { name: "only the preparer, which paces itself, sleeps", words: &["thread::sleep"], may: &["src/io/"] },
    Rule {
        name: "the pure stages do not know `io/` or `engine/`",
        words: &["crate::io", "crate::engine"],
        // The ring takes what wakes the flush core, and its barrier, from `io/`; the names of the checkers stand for a futex.
        may: &[
            "src/io/",
            "src/engine/",
            "src/sim/",
            "src/config/settings.rs",
            "src/queue.rs",
            "src/producer.rs",
            "src/delivered.rs",
            "src/durable.rs",
            "src/parked.rs",
            "src/recovery.rs",
            "src/serve/",
            "src/fan_out/",
            "src/watch.rs",
            "src/ring/",
            "src/barrier.rs",
            "src/sync.rs",
        ],
    },
    Rule {
        name: "the log and the rings do not know delivery",
        words: &["crate::delivery", "crate::sink"],
        may: &[
            "src/delivery/",
            "src/engine/",
            "src/sink/",
            "src/builder.rs",
            "src/config/",
            "src/health.rs",
            "src/metrics.rs",
            "src/parked.rs",
            "src/queue.rs",
            "src/fan_out/",
            "src/stream_sink.rs",
            "src/tower_sink.rs",
        ],
    },
    Rule {
        name: "chance comes as a seed; only opening asks the kernel for one",
        words: &["getrandom::"],
        may: &["src/engine/"],
    },
    Rule {
        name: "unsafe code has three places",
        words: &["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"],
        may: &["src/ring/", "src/wal/block.rs", "src/io/"],
    },
    Rule {
        name: "the library prints nothing, but for the one warning of a dropped queue",
        words: &["println!", "eprintln!", "print!", "eprint!"],
        may: &["src/engine/lifecycle.rs"],
    },
    Rule { name: "nothing is unfinished", words: &["todo!", "unimplemented!", "dbg!"], may: &[] },
];

/// Longest source file, in lines, its unit tests not counted.
const LINES_MAX: usize = 450;
/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[
    ("src/wal/writer/mod.rs", "one state machine, with its tables"),
    ("src/wal/reader/mod.rs", "one state machine, with its table"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with this extension, as paths from the root, in order.
fn files(folder: &str, extension: &str) -> Vec<String> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.map(|entry| entry.expect("a directory's entry can be read")) {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    let mut names: Vec<String> =
        found.iter().map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of the library that ship: all of `src/` but the program and those that a `#[cfg(all(test, …))] mod` brings in.
fn shipped_files() -> Vec<String> {
    let all = files("src", "rs");
    let mut for_tests = Vec::new();
    for path in &all {
        let text = read(path);
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")) {
            Some(folder) => folder,
            None => path.trim_end_matches(".rs"),
        };
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| is_cfg_test(pair[0])) {
            if let Some(named) = pair[1].strip_prefix("#[path = \"") {
                for_tests.push(format!("{beside}/{}", named.trim_end_matches("\"]")));
            } else if let Some(name) = pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")
                && let Some(name) = name.strip_suffix(';')
            {
                for_tests.extend([format!("{below}/{name}.rs"), format!("{below}/{name}/")]);
            }
        }
    }
    let for_tests =
        |path: &String| for_tests.iter().any(|test| path == test || test.ends_with('/') && path.starts_with(test));
    all.into_iter().filter(|path| !for_tests(path)).collect()
}

fn is_cfg_test(line: &str) -> bool {
    line.starts_with("#[cfg(all(test") || line.starts_with("#[cfg(test)]")
}

/// The code that ships, line by line with line numbers: without comments, and without the unit tests,
/// which stand at the end of a file.
fn shipped_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..=shipped_len(text)).zip(text.lines());
    numbered.map(|(number, line)| (number, without_comment(line))).filter(|(_, line)| !line.trim().is_empty())
}

/// How many lines a file has before its unit tests.
fn shipped_len(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests =
        lines.windows(2).position(|pair| is_cfg_test(pair[0]) && pair[1].starts_with("mod ") && pair[1].ends_with('{'));
    tests.unwrap_or(lines.len())
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.split(" // ").next().unwrap_or(line)
}

/// The paths that a `use` statement brings in: `std::{fs, io::Read}` is `std::fs` and `std::io::Read`.
fn expand_use(path: &str, prefix: &str, out: &mut Vec<String>) {
    let path = path.trim();
    let Some(open) = path.find('{') else {
        out.push(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{}", &path[..open]);
    let inner = path[open + 1..].strip_suffix('}').unwrap_or(&path[open + 1..]);
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand_use(&inner[start..at], &prefix, out);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand_use(&inner[start..], &prefix, out);
    }
}

/// Whether a line begins a `use` statement, and is not text that begins with the word.
fn is_use(line: &str) -> bool {
    let Some(path) = line.strip_prefix("use ") else { return false };
    let head = path.split(['{', ';']).next().unwrap_or_default();
    !head.contains(' ') || head.contains(" as ")
}

/// Lines of code and paths of `use` statements, each with the line number.
fn searchable(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in shipped_lines(text) {
        let start = line.trim_start();
        let start = start.strip_prefix("pub(crate) ").or(start.strip_prefix("pub ")).unwrap_or(start);
        if open.is_none() && is_use(start) {
            open = Some((number, start["use ".len()..].to_owned()));
        } else if let Some((_, statement)) = &mut open {
            statement.push_str(line.trim());
        } else {
            found.push((number, line.to_owned()));
            continue;
        }
        if let Some((first, statement)) = open.take_if(|(_, statement)| statement.contains(';')) {
            let mut paths = Vec::new();
            expand_use(statement.trim_end().trim_end_matches(';'), "", &mut paths);
            // A closing `::` lets `libc::` match `use libc` too.
            found.extend(paths.into_iter().map(|path| (first, format!("{path}::"))));
        }
    }
    found
}

/// Whether `word` stands in `line` as a word of its own, not as the end of a longer name. Error numbers
/// (`libc::EIO`) are names, not calls.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + word.len()..];
        let is_error_number =
            word == "libc::" && after.starts_with('E') && after[1..].starts_with(|c: char| c.is_ascii_uppercase());
        !is_error_number && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn may(rule: &Rule, path: &str) -> bool {
    // The program is held to what nobody may.
    (path.starts_with("src/bin/") && !rule.may.is_empty()) || rule.may.iter().any(|place| is_below(place, path))
}

fn is_below(place: &str, path: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

#[test]
fn words_stand_only_where_they_may() {
    let mut broken = Vec::new();
    for path in shipped_files().iter().chain(&files("src/bin", "rs")) {
        for (number, line) in searchable(&read(path)) {
            for rule in RULES.iter().filter(|rule| !may(rule, path)) {
                if rule.words.iter().any(|word| has_word(&line, word)) {
                    broken.push(format!("{path}:{number}: {}\n    {}", rule.name, line.trim()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{} places:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let mut idle = Vec::new();
    for rule in RULES {
        for place in rule.may {
            let below = shipped_files().into_iter().filter(|path| is_below(place, path));
            let used = below.into_iter().any(|path| {
                searchable(&read(&path)).iter().any(|(_, line)| rule.words.iter().any(|word| has_word(line, word)))
            });
            if !used {
                idle.push(format!("{place} needs no exception from {:?}", rule.name));
            }
        }
    }
    assert!(idle.is_empty(), "{}", idle.join("\n"));
}

#[test]
fn use_groups_are_taken_apart() {
    let text = "use std::{fs, io::{self, Read}};\npub(crate) use std::sync::{\n    Arc,\n    atomic,\n};\nlet a = 1; // libc::\n";
    let found: Vec<String> = searchable(text).into_iter().map(|(_, line)| line).collect();
    let expected =
        ["std::fs::", "std::io::self::", "std::io::Read::", "std::sync::Arc::", "std::sync::atomic::", "let a = 1;"];
    assert_eq!(found, expected);
    assert!(has_word("std::sync::atomic::", "std::sync::atomic"));
    assert!(!has_word("my_todo!()", "todo!"));
    assert!(is_use("use std::fs;") && is_use("use a as b;") && !is_use("use the version that wrote it"));
    assert!(has_word("unsafe { libc::fork() }", "libc::") && !has_word("errno == libc::EIO", "libc::"));
}

#[test]
fn sequential_consistency_has_its_reason_beside_it() {
    for path in &shipped_files() {
        let text = read(path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in shipped_lines(&text) {
            if line.contains("SeqCst") && !line.trim_start().starts_with("use ") {
                let before = &lines[number.saturating_sub(9)..number];
                assert!(before.iter().any(|line| line.contains("// ORDERING:")), "{path}:{number}: {line}");
            }
        }
    }
}

#[test]
fn files_stay_short() {
    let longer: BTreeMap<_, _> = LONGER.iter().copied().collect();
    let mut broken = Vec::new();
    for path in shipped_files().into_iter().chain(files("src/bin", "rs")) {
        let lines = shipped_len(&read(&path));
        match longer.get(path.as_str()) {
            None if lines > LINES_MAX => broken.push(format!("{path} has {lines} lines, more than {LINES_MAX}")),
            Some(reason) if lines <= LINES_MAX => {
                broken.push(format!("{path} has {lines} lines and needs no exception any more ({reason})"));
            }
            _ => {}
        }
    }
    for path in longer.keys() {
        assert!(root().join(path).exists(), "{path} has an exception and does not exist");
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_test_is_switched_off() {
    // Made up here, so that this file does not name it.
    let word = ["#[ign", "ore"].concat();
    for folder in ["src", "tests", "loom-tests", "benches", "examples"] {
        for path in files(folder, "rs") {
            assert!(!read(&path).contains(&word), "{path} has a test that does not run");
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for path in shipped_files().into_iter().chain(files("src/bin", "rs")) {
        assert!(read(&path).starts_with("//! "), "{path} does not begin with its description");
    }
}

#[test]
fn decisions_have_unique_numbers_and_stand_in_the_index() {
    let index = read("docs/adr/0000-how-we-decide.md");
    let mut numbers = BTreeMap::new();
    for path in files("docs/adr", "md") {
        let name = path.rsplit('/').next().unwrap();
        let number = &name[..4];
        assert!(number.chars().all(|c| c.is_ascii_digit()) && name.as_bytes()[4] == b'-', "{path}: NNNN-title.md");
        if let Some(other) = numbers.insert(number.to_owned(), path.clone()) {
            panic!("{other} and {path} have one number");
        }
        assert!(number == "0000" || index.contains(&format!("]({name})")), "{path} is not in the index");
    }
    assert!(!numbers.is_empty());
}

/// The texts that users and builders read.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = files("docs", "md");
    texts.extend(["README.md", "CHANGELOG.md"].map(str::to_owned));
    texts
}

#[test]
fn every_link_in_a_text_leads_somewhere() {
    let mut broken = Vec::new();
    for path in texts() {
        let folder = Path::new(&path).parent().unwrap();
        for (at, _) in read(&path).match_indices("](") {
            let text = read(&path);
            let target = text[at + 2..].split(')').next().unwrap().split('#').next().unwrap().to_owned();
            let outside = target.starts_with("http://") || target.starts_with("https://") || target.is_empty();
            if !outside && !root().join(folder).join(&target).exists() {
                broken.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Code spans of the form `path.rs::name`: a test, a model or a function that a text calls as witness.
fn witnesses(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|span| {
        let (path, name) = span.split_once(".rs::")?;
        let whole = !path.contains(char::is_whitespace) && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        whole.then_some((&span[..path.len() + 3], name))
    })
}

#[test]
fn every_test_that_a_text_names_exists() {
    let mut broken = Vec::new();
    let mut named = 0;
    for path in texts() {
        for (file, name) in witnesses(&read(&path)) {
            named += 1;
            let found = fs::read_to_string(root().join(file)).is_ok_and(|code| code.contains(&format!("fn {name}(")));
            if !found {
                broken.push(format!("{path}: `{file}::{name}`"));
            }
        }
    }
    assert!(broken.is_empty(), "{} are named and not there:\n{}", broken.len(), broken.join("\n"));
    assert!(named > 20, "the texts name only {named} tests");
}

#[test]
fn witnesses_are_found_in_code_spans_only() {
    let text = "see `tests/a.rs::one_two` and tests/b.rs::three, `tests/c.rs` or `a b.rs::c`";
    assert_eq!(witnesses(text).collect::<Vec<_>>(), [("tests/a.rs", "one_two")]);
}
