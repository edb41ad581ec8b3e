//! The settings: documented as they are, refused with their place, and the same by whichever way they come.
//!
//! The table of `docs/configuration.md` is compared with the code in both directions; so are the fields of `Config` and
//! the setters of `Builder` with the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use ringwal::{Breaker, Config, Durability, FailureShare, Preset, Queue, Retry, Rings, WhenFull};

const TABLE: &str = "docs/configuration.md";
const PRESETS: [Preset; 3] = [Preset::HighThroughput, Preset::LowLatency, Preset::HighReliability];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn preset(preset: Preset) -> Config {
    Queue::builder("queue").preset(preset).build().unwrap()
}

/// Cells of the documented table, by key: kind, default, range, the presets', what it costs.
fn documented() -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in read(TABLE).lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() == 10 && cells[1].starts_with('`') {
            let cells: Vec<String> = cells[1..9].iter().map(|cell| cell.replace('`', "")).collect();
            let key = cells[0].clone();
            assert!(rows.insert(key.clone(), cells[1..].to_vec()).is_none(), "{key} has two rows");
        }
    }
    rows
}

/// What stands in a cell for a value that depends on the machine or on the caller, or for none.
fn cell(config: &Config, key: &str) -> String {
    let value = config.settings().into_iter().find(|setting| setting.key == key).and_then(|setting| setting.value);
    match key {
        "dir" => "(must be given)".to_owned(),
        "rings" => {
            let cores = std::thread::available_parallelism().unwrap().get().min(1024);
            assert_eq!(value, Some(cores.to_string()));
            "one per core".to_owned()
        }
        _ => value.unwrap_or_else(|| "(no breaker)".to_owned()),
    }
}

#[test]
fn every_setting_is_documented_as_it_is_and_none_is_invented() {
    let plain = preset(Preset::Default);
    let mut rows = documented();
    let mut broken = Vec::new();
    for setting in plain.settings() {
        let default = cell(&plain, setting.key);
        let mut expected = vec![setting.kind.to_owned(), default.clone(), setting.range];
        for named in PRESETS {
            let value = cell(&preset(named), setting.key);
            expected.push(if value == default { String::new() } else { value });
        }
        let row = rows.remove(setting.key).unwrap_or_default();
        // The words are those that this build knows; the table has all of them.
        if setting.key == "io" && !cfg!(feature = "tokio-uring") {
            expected[2] = "auto, uring, threads or tokio-uring".to_owned();
        }
        if setting.key == "compression" && !cfg!(all(feature = "lz4", feature = "zstd")) {
            expected[2] = row.get(2).cloned().unwrap_or_default();
        }
        let (found, cost) = row.split_at(row.len().saturating_sub(1));
        if found != expected || cost.iter().all(String::is_empty) {
            let cells: Vec<String> = expected.iter().map(|cell| format!("`{cell}`").replace("``", "")).collect();
            broken.push(format!("| `{}` | {} | {} |", setting.key, cells.join(" | "), cost.concat()));
        }
    }
    assert!(broken.is_empty(), "these rows of {TABLE} are wrong or have no description:\n{}", broken.join("\n"));
    assert!(rows.is_empty(), "{TABLE} has rows for settings that do not exist: {rows:?}");
}

/// The keys, each cut at its point.
fn tops() -> BTreeSet<String> {
    let settings = preset(Preset::Default).settings();
    settings.iter().map(|setting| setting.key.split('.').next().unwrap().to_owned()).collect()
}

#[test]
fn every_field_of_a_config_has_a_key() {
    // Four blanks before the name: a field of `Config` itself.
    let shown = format!("{:#?}", preset(Preset::Default));
    let fields = shown
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.starts_with([' ', '}', ']', ')']));
    let fields: BTreeSet<String> = fields.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
    assert!(fields.len() > 20, "{shown}");
    // A runtime is an object, which no text names; what a look at the logs is told to is a part of `fan_out`.
    let bookkeeping = ["origins", "coding", "runtime", "on_look"].map(str::to_owned);
    // `coding` holds the compression and the cipher; a cipher has secrets, and no key.
    let keys: BTreeSet<String> =
        &(&fields - &BTreeSet::from(bookkeeping)) | &BTreeSet::from(["compression".to_owned()]);
    assert_eq!(keys, tops());
}

#[test]
fn every_setter_has_a_key_and_every_key_a_setter() {
    let code = read("src/builder.rs");
    let setters = code.lines().filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self"));
    let mut setters: BTreeSet<String> = setters.map(|(name, _)| name.to_owned()).collect();
    assert!(setters.remove("settings"), "takes any of them");
    assert!(setters.remove("cipher"), "takes secrets, which stand in no text of settings");
    let mut keys = tops();
    assert!(keys.remove("dir"), "comes with the builder");
    assert_eq!(setters, keys);
}

#[test]
fn a_preset_sets_the_same_settings_whatever_was_set_before() {
    for last in PRESETS {
        for first in PRESETS {
            let config = Queue::builder("queue").preset(first).preset(last).build().unwrap();
            assert_eq!(config.to_string(), preset(last).to_string(), "{first:?}, then {last:?}");
        }
        let back = Queue::builder("queue").preset(last).preset(Preset::Default).build().unwrap();
        assert_eq!(back.to_string(), preset(Preset::Default).to_string());
    }
    let config = Queue::builder("queue").name("kept").preset(Preset::LowLatency).batch_len_max(7).build().unwrap();
    assert_eq!(config.name(), "kept");
    assert_eq!(cell(&config, "batch_len_max"), "7", "what comes after the preset wins");
}

#[test]
fn what_does_not_fit_is_refused_by_its_key_and_with_what_would() {
    let refused = |builder: ringwal::Builder| builder.build().unwrap_err().to_string();
    let builder = || Queue::builder("queue");
    let cases = [
        (builder().batch_len_max(0), "batch_len_max is 0, but must be 1 to 1000000"),
        (builder().linger(Duration::from_secs(3601)), "linger is 3601s, but must be 0 to 1h"),
        (builder().ring_bytes(5000), "ring_bytes is 5000, but must be a power of two"),
        (
            builder().ring_bytes(8192),
            "entry_len_max is 262136, but must be at most a quarter of ring_bytes less 8, which is 2040",
        ),
        (
            builder().memory_max(2 << 20),
            "memory_max is 2MiB, but must be at least 4608KiB for entries of up to 262136 bytes",
        ),
        (
            builder().log_bytes_max(100 << 20),
            "log_bytes_max is 100MiB, but must be at least three segments, which is 192MiB",
        ),
        (
            builder().durability(Durability::Periodic(Duration::from_micros(1))),
            "durability is periodic:1us, but must be periodic with a period of 100us to 1m",
        ),
        (
            builder().when_full(WhenFull::BlockFor(Duration::from_secs(86_401))),
            "when_full is block_for:86401s, but must be block_for with a time of 0 to 1d",
        ),
        (
            builder().durability(Durability::Memory).rings_in("/x"),
            "rings_at is shared:/x, but must be private with `Durability::Memory`",
        ),
        (
            builder().retry(Retry { attempts_max: Some(0), ..Retry::default() }),
            "retry.attempts_max is 0, but must be 1 to 4294967295, or none",
        ),
        (
            builder().retry(Retry { factor: f64::NAN, ..Retry::default() }),
            "retry.factor is NaN, but must be 1.0 to 100.0",
        ),
        (
            builder().retry(Retry { base: Duration::from_secs(60), ..Retry::default() }),
            "retry.base is 1m, but must be at most retry.max, which is 30s",
        ),
        (
            builder().breaker(Breaker { share: Some(FailureShare { percent: 101, of: 9 }), ..Breaker::default() }),
            "breaker.share.percent is 101%, but must be 1% to 100%",
        ),
        (builder().name("two\nlines"), "name is \"two\\nlines\", but must be 1 to 64 bytes without zero or newline"),
    ];
    for (builder, text) in cases {
        let found = refused(builder);
        assert!(found.starts_with(text), "expected {text}\nfound    {found}");
    }
}

#[test]
fn a_config_goes_on_as_a_builder() {
    let config = Queue::builder("queue").linger(Duration::from_millis(7)).build().unwrap();
    let again = ringwal::Builder::from(config).rings_at(Rings::Private).build().unwrap();
    assert_eq!(cell(&again, "linger"), "7ms");
    assert!(ringwal::Builder::from(again).batch_len_max(0).build().is_err());
}
