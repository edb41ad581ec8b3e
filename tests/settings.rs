//! Settings from TOML, JSON, the environment and other programs' texts: all of them or none, each refusal with its place.

use std::time::Duration;

use ringwal::{Batch, Config, ConfigError, OpenError, Origin, Preset, Queue, Settings, SettingsError, blocking_fn};

fn lines(error: &SettingsError) -> Vec<String> {
    match error {
        SettingsError::Refused(refusals) => refusals.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    }
}

fn built(settings: &Settings) -> Config {
    Queue::builder("queue").settings(settings).build().unwrap()
}

fn vars(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const TOML: &str = r#"
preset = "low_latency"
name = "orders\u00e9"
durability = "periodic:0.5ms"
batch_len_max = 50
memory_max = "1.5GiB"
segment_len = 67108864
when_full = "block_for:2s"
rings_on_any_file_system = true
cpu = "none"

[retry]
attempts_max = "none"
factor = 3
jitter = "full"

[breaker]
share = { percent = "50%", of = 20 }
"#;

const JSON: &str = r#"{
    "preset": "low_latency", "name": "orders\u00e9", "durability": "periodic:0.5ms", "batch_len_max": 50,
    "memory_max": "1.5GiB", "segment_len": 67108864, "when_full": "block_for:2s", "rings_on_any_file_system": true,
    "cpu": "none", "retry": {"attempts_max": "none", "factor": 3.0, "jitter": "full"},
    "breaker": {"share": {"percent": "50%", "of": 20}}
}"#;

const VARS: &[(&str, &str)] = &[
    ("Q_PRESET", "low_latency"),
    ("Q_NAME", "ordersé"),
    ("Q_DURABILITY", "periodic:0.5ms"),
    ("Q_BATCH_LEN_MAX", "50"),
    ("Q_MEMORY_MAX", "1.5GiB"),
    ("Q_SEGMENT_LEN", "67108864"),
    ("Q_WHEN_FULL", "block_for:2s"),
    ("Q_RINGS_ON_ANY_FILE_SYSTEM", "true"),
    ("Q_CPU", "none"),
    ("Q_RETRY_ATTEMPTS_MAX", "none"),
    ("Q_RETRY_FACTOR", "3"),
    ("Q_RETRY_JITTER", "full"),
    ("Q_BREAKER_SHARE_PERCENT", "50%"),
    ("Q_BREAKER_SHARE_OF", "20"),
];

#[test]
fn the_same_settings_come_from_toml_json_variables_and_code() {
    use ringwal::{Breaker, Durability, FailureShare, Jitter, Retry, WhenFull};
    let coded = Queue::builder("queue")
        .preset(Preset::LowLatency)
        .name("ordersé")
        .durability(Durability::Periodic(Duration::from_micros(500)))
        .batch_len_max(50)
        .memory_max(3 << 29)
        .segment_len(64 << 20)
        .when_full(WhenFull::BlockFor(Duration::from_secs(2)))
        .rings_on_any_file_system(true)
        .retry(Retry { attempts_max: None, factor: 3.0, jitter: Jitter::Full, ..Retry::default() })
        .breaker(Breaker { share: Some(FailureShare { percent: 50, of: 20 }), ..Breaker::default() })
        .build()
        .unwrap();
    let toml = Settings::from_toml(TOML).unwrap();
    let json = Settings::from_json(JSON).unwrap();
    let env = Settings::from_vars("Q_", vars(VARS)).unwrap();
    for settings in [&toml, &json, &env] {
        assert_eq!(built(settings).to_string(), coded.to_string());
    }
    assert_eq!(toml.keys().collect::<Vec<_>>(), env.keys().collect::<Vec<_>>());
}

/// All settings, those too that a text does not speak of; not where they come from.
fn values(config: &Config) -> String {
    let all = format!("{config:#?}");
    all.split_once("\n    origins:").expect("it tells where they come from").0.to_owned()
}

#[test]
fn a_config_shows_itself_as_toml_that_gives_it_again() {
    let wild = Queue::builder("a \"dir\"\\\t\u{7f}é").settings(&Settings::from_toml(TOML).unwrap()).build().unwrap();
    let mut configs = vec![wild];
    for preset in [Preset::Default, Preset::HighThroughput, Preset::LowLatency, Preset::HighReliability] {
        configs.push(Queue::builder("queue").preset(preset).build().unwrap());
    }
    for config in configs {
        let text = config.to_string();
        let again = Settings::from_toml(&text).unwrap().into_builder().unwrap().build().unwrap();
        assert_eq!(again.to_string(), text);
        assert_eq!(values(&again), values(&config));
    }
}

#[test]
fn every_wrong_line_is_named_at_once() {
    let text = "linger = 5\nretry.atempts_max = 3\n\n[breaker]\nprobes = 0\nfailures = -1\nshare.percent = '0%'\n\n[breakr]\nx = [1]\n";
    let error = Settings::from_toml(text).unwrap_err();
    let expected = [
        "line 1: linger is 5, but must be a duration with a unit, as \"500us\", \"5ms\" or \"2m\", from 0 to 1h",
        "line 2: there is no setting retry.atempts_max; did you mean retry.attempts_max?",
        "line 5: breaker.probes is 0, but must be 1 to 1000",
        "line 6: breaker.failures is -1, but must be a count, from 1 to 1000000",
        "line 7: breaker.share.percent is 0%, but must be 1% to 100%",
        "line 10: there is no setting breakr.x; did you mean breaker.probes?",
    ];
    let found = lines(&error);
    assert_eq!(found[..5], expected[..5]);
    assert!(found.len() == 6 && found[5].starts_with("line 10: there is no setting breakr.x"), "{found:#?}");
    assert_eq!(error.to_string(), found.join("; "));
}

#[test]
fn json_is_refused_with_its_lines_too() {
    let text = "{\n \"linger\": \"5 parsecs\",\n \"retry\": {\n  \"factor\": 0.5, \"base\": null\n },\n \"io\": \"fast\",\n \"io\": \"auto\",\n \"cpu\": \"x\",\n \"memory_max\": 1e400\n}";
    let error = Settings::from_json(text).unwrap_err();
    let expected = [
        "line 2: linger is \"5 parsecs\", but must be a duration with a unit, as \"500us\", \"5ms\" or \"2m\", from 0 to 1h",
        "line 4: retry.factor is 0.5, but must be 1.0 to 100.0",
        "line 4: retry.base is null, but must be a duration with a unit, as \"500us\", \"5ms\" or \"2m\", from 0 to 1d",
        if cfg!(feature = "tokio-uring") {
            "line 6: io is \"fast\", but must be auto, uring, threads or tokio-uring"
        } else {
            "line 6: io is \"fast\", but must be auto, uring or threads"
        },
        "line 8: cpu is \"x\", but must be a count, of at least 0, or none",
        "line 9: memory_max is 1e400, but must be a size, as 65536, \"64KiB\" or \"1.5GiB\", from 1536KiB to 1TiB",
    ];
    assert_eq!(lines(&error), expected);
    let driver = Settings::from_json("{\"io\": \"tokio-uring\"}");
    if cfg!(feature = "tokio-uring") {
        let config = Queue::builder("queue").settings(&driver.unwrap()).build().unwrap();
        assert!(config.to_string().contains("io = \"tokio-uring\""), "{config}");
    } else {
        let missing = "line 1: io is \"tokio-uring\", for which ringwal is to be built with the feature tokio-uring";
        assert_eq!(driver.unwrap_err().to_string(), missing);
    }
    let twice = Settings::from_json("{\"io\": \"uring\",\n\"io\": \"auto\"}").unwrap_err();
    assert_eq!(twice.to_string(), "line 2: io is given twice");
}

#[test]
fn a_text_of_no_format_is_refused_with_its_line() {
    let toml = Settings::from_toml("linger = '5ms'\nname = \n").unwrap_err();
    assert!(matches!(&toml, SettingsError::Syntax { origin: Origin::Line(2), .. }), "{toml}");
    let json = Settings::from_json("{\"linger\": \"5ms\",\n oops}").unwrap_err();
    assert!(matches!(&json, SettingsError::Syntax { origin: Origin::Line(2), .. }), "{json}");
    for text in ["[]", "3", "", "{} {}"] {
        let error = Settings::from_json(text).unwrap_err();
        assert!(matches!(&error, SettingsError::Syntax { .. }) && !error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_table_is_no_setting_and_an_empty_one_is_none() {
    assert_eq!(Settings::from_toml("[retry]\n[breaker.share]\n").unwrap().keys().count(), 0);
    assert_eq!(Settings::from_json("{\"retry\": {}}").unwrap().keys().count(), 0);
    let cases = [
        ("retry = 3", "line 1: retry is a table; its settings are named as retry.attempts_max"),
        ("[queue]\n", "line 1: there is no setting queue"),
        ("linger = {}", "line 1: linger is a table, but must be a duration"),
        ("a.b.c.d.e.f.g.h = 1", "line 1: there is no setting a.b.c.d"),
    ];
    for (text, why) in cases {
        let found = Settings::from_toml(text).unwrap_err().to_string();
        assert!(found.starts_with(why), "expected {why}\nfound    {found}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    assert!(Settings::from_json(&deep).is_err(), "and no stack is used up");
}

#[test]
fn a_variable_that_names_no_setting_is_refused_and_others_are_left_alone() {
    let given = vars(&[("Q_RETRY__MAX", "1s"), ("Q_LINGER", "soon"), ("OTHER", "x"), ("q_linger", "x")]);
    let found = lines(&Settings::from_vars("Q_", given).unwrap_err());
    assert_eq!(
        found[0],
        "the variable Q_LINGER: linger is \"soon\", but must be a duration with a unit, as \"500us\", \"5ms\" or \"2m\", from 0 to 1h"
    );
    assert_eq!(found[1], "the variable Q_RETRY__MAX: it names no setting; did you mean Q_RETRY_MAX?");
    assert_eq!(found.len(), 2);
}

#[test]
fn each_key_has_a_variable_of_its_own() {
    let config = built(&Settings::from_toml(TOML).unwrap());
    let settings: Vec<_> = config.settings().into_iter().filter(|setting| setting.value.is_some()).collect();
    let name = |key: &str| format!("Q_{}", key.to_uppercase().replace('.', "_"));
    let given = settings.iter().map(|setting| (name(setting.key), setting.value.clone().unwrap()));
    let again = Settings::from_vars("Q_", given).unwrap().into_builder().unwrap().build().unwrap();
    assert_eq!(again.to_string(), config.to_string());
}

/// Not a test of its own: the process whose environment is read.
#[test]
fn reader() {
    if std::env::var_os("RINGWAL_TEST_READS").is_none() {
        return;
    }
    let settings = Settings::from_env("ORDERS_").unwrap();
    assert_eq!(settings.keys().collect::<Vec<_>>(), ["dir", "linger", "retry.max"]);
    let config = settings.into_builder().unwrap().build().unwrap();
    assert!(config.to_string().contains("linger = \"7ms\"\n"));
    println!("read");
}

#[test]
fn the_environment_of_the_process_is_read() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader", "--nocapture"])
        .env("RINGWAL_TEST_READS", "1")
        .envs([("ORDERS_DIR", "orders"), ("ORDERS_LINGER", "7ms"), ("ORDERS_RETRY_MAX", "1m")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("read\n"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Not a test of its own: the process whose environment has a directory that is no text.
#[test]
fn refuser() {
    if std::env::var_os("RINGWAL_TEST_REFUSES").is_none() {
        return;
    }
    println!("{}", Settings::from_env("ORDERS_").unwrap_err());
}

/// What is not UTF-8 in it was replaced, and the queue of another directory opened.
#[test]
#[cfg(unix)]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "refuser", "--nocapture"])
        .env("RINGWAL_TEST_REFUSES", "1")
        .env("ORDERS_DIR", std::ffi::OsStr::from_bytes(b"or\xFFders"))
        .env("ORDERS_LINGER", "7ms")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = r#"the variable ORDERS_DIR: dir is "or\xFFders", which is not UTF-8"#;
    assert!(output.status.success() && text.contains(expected), "{text}");
}

#[test]
fn no_time_needs_no_unit_whether_or_not_there_may_be_none() {
    for key in ["failure_delay", "linger"] {
        for zero in ["0", "'0'", "'0s'"] {
            let settings = Settings::from_toml(&format!("{key} = {zero}")).unwrap();
            assert_eq!(settings.iter().map(|(_, value, _)| value).collect::<Vec<_>>(), ["0"], "{key} = {zero}");
        }
        assert!(Settings::from_toml(&format!("{key} = 1")).is_err());
    }
}

#[test]
fn what_comes_later_wins_and_code_goes_on() {
    let file = Settings::from_toml("linger = '1ms'\nbatch_len_max = 10\nrings = 3").unwrap();
    let env = Settings::from_vars("Q_", vars(&[("Q_LINGER", "2ms"), ("Q_RINGS", "5")])).unwrap();
    let config = Queue::builder("queue").rings(2).settings(&file).settings(&env).rings(7).build().unwrap();
    let text = config.to_string();
    for line in ["linger = \"2ms\"\n", "batch_len_max = 10\n", "rings = 7\n"] {
        assert!(text.contains(line), "{line}{text}");
    }
    // A preset is set before the others of its text, wherever it stands there.
    let last = Settings::from_toml("linger = '3ms'\npreset = 'low_latency'").unwrap();
    let config = Queue::builder("queue").settings(&file).settings(&last).build().unwrap();
    assert!(config.to_string().contains("linger = \"3ms\"\n") && config.to_string().contains("batch_len_max = 100\n"));
}

#[test]
fn a_breaker_comes_with_its_settings_and_goes_when_it_is_not_enabled() {
    let shown = |text: &str| built(&Settings::from_toml(text).unwrap()).to_string();
    assert!(shown("breaker.failures = 3").contains("breaker.failures = 3\n"));
    assert!(shown("breaker.enabled = true").contains("breaker.failures = 5\n"));
    let off = shown("breaker = { enabled = false, failures = 3 }");
    assert!(off.contains("breaker.enabled = false\n") && !off.contains("breaker.failures"));
    let half = Settings::from_toml("breaker.share.percent = '50%'").unwrap();
    let error = Queue::builder("queue").settings(&half).build().unwrap_err();
    assert_eq!(error.to_string(), "breaker.share.of is 0, but must be 1 to 64");
}

#[test]
fn what_does_not_fit_with_the_rest_is_refused_where_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.toml");
    std::fs::write(&path, "# too short for three segments\n\nlog_bytes_max = '128MiB'\ndurability = 'periodic:1us'")
        .unwrap();
    let settings = Settings::from_file(&path).unwrap();
    let sink = || blocking_fn(|_: &Batch<String>| Ok(()));
    let builder = Queue::builder(dir.path().join("queue")).settings(&settings);
    let Err(OpenError::Config(error)) = builder.clone().open(sink()) else { panic!("it opens") };
    assert_eq!(error.origin, Some(Origin::File(path.clone(), 4)));
    let builder = builder.durability(ringwal::Durability::Immediate);
    let error = builder.clone().build().unwrap_err();
    let place = format!("{}, line 3: ", path.display());
    assert_eq!(
        error.to_string(),
        format!("{place}log_bytes_max is 128MiB, but must be at least three segments, which is 192MiB")
    );
    // Code has set it since: the file is not to blame.
    let error = builder.log_bytes_max(64 << 20).build().unwrap_err();
    assert_eq!((error.field, error.origin), ("log_bytes_max", None));
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let missing = Settings::from_file(path("none.toml")).unwrap_err();
    assert!(matches!(&missing, SettingsError::Read { .. }) && missing.to_string().contains("none.toml"), "{missing}");
    std::fs::write(path("queue.yaml"), "linger: 5ms").unwrap();
    let format = Settings::from_file(path("queue.yaml")).unwrap_err().to_string();
    assert!(format.ends_with("queue.yaml ends neither in .toml nor in .json; rename it, or read its text"), "{format}");
    std::fs::write(path("queue.json"), "{\n\"lingr\": 1}").unwrap();
    let wrong = Settings::from_file(path("queue.json")).unwrap_err().to_string();
    assert!(wrong.ends_with("queue.json, line 2: there is no setting lingr; did you mean linger?"), "{wrong}");
}

#[test]
fn a_queue_opens_as_its_file_says_and_only_if_that_names_its_directory() {
    let missing = Settings::from_toml("linger = '1ms'").unwrap().into_builder().map(drop).unwrap_err();
    assert_eq!(missing, ConfigError { origin: None, ..missing.clone() });
    assert_eq!(missing.to_string(), "dir is missing, but must be given: the directory of the queue");
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "dir = {:?}\nname = 'orders'\nsegment_len = '1MiB'\nlog_bytes_max = '4MiB'\n",
        dir.path().join("queue")
    );
    let builder = Settings::from_toml(&text).unwrap().into_builder().unwrap();
    let queue = builder.open(blocking_fn(|batch: &Batch<String>| Ok(assert!(batch.len() == 1)))).unwrap();
    assert_eq!((queue.config().name(), queue.config().log_bytes_max()), ("orders", 4 << 20));
    queue.producer().push("one".to_owned()).unwrap();
    assert_eq!(queue.shutdown(Duration::from_secs(60)).unwrap().delivered, 1);
    assert!(dir.path().join("queue/META").exists());
}

#[derive(serde::Deserialize, Debug)]
struct Service {
    queue: Settings,
}

#[test]
fn settings_are_a_part_of_another_programs_configuration() {
    let service: Service = toml::from_str("[queue]\nlinger = '7ms'\nretry.factor = 3\nretry.base = 0\n").unwrap();
    assert!(built(&service.queue).to_string().contains("retry.factor = 3.0\n"));
    let service: Service = serde_json::from_str("{\"queue\": {\"retry\": {}, \"cpu\": 0}}").unwrap();
    assert_eq!(service.queue.keys().collect::<Vec<_>>(), ["cpu"]);
    let error = toml::from_str::<Service>("[queue]\nlinger = '7ms'\nlingr = 3\n").unwrap_err();
    assert!(
        error.to_string().contains("line 3") && error.message() == "there is no setting lingr; did you mean linger?",
        "{error}"
    );
    let error = serde_json::from_str::<Service>("{\"queue\":\n{\"cpu\": -1}}").unwrap_err().to_string();
    assert!(error.starts_with("cpu is -1, but must be a count, of at least 0, or none at line 2"), "{error}");
    assert!(serde_json::from_str::<Service>("{\"queue\": 3}").is_err());
}
