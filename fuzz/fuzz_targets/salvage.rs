//! A made-up directory, log and park, is salvaged in every form: it comes to an end, changes nothing of what it saves from, and what it
//! saves is sound. A queue that was saved opens for `verify` without damage, and holds entry by entry what the file
//! holds that was saved from the damaged one.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the program's own sources, of which this target uses a part"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringwal::wal::op::LogId;
use ringwal_fuzz::directory::{Directory, Shape};

/// What the program says on standard error is made, and not shown.
macro_rules! eprintln {
    ($($what:tt)*) => { assert!(!format!($($what)*).contains('\n')) };
}

#[path = "../../src/bin/ringwal/args.rs"]
mod args;
#[path = "../../src/bin/ringwal/dump.rs"]
mod dump;
#[path = "../../src/bin/ringwal/failure.rs"]
mod failure;
#[path = "../../src/bin/ringwal/inspect.rs"]
mod inspect;
#[path = "../../src/bin/ringwal/keys.rs"]
mod keys;
#[path = "../../src/bin/ringwal/line.rs"]
mod line;
#[path = "../../src/bin/ringwal/output.rs"]
mod output;
#[path = "../../src/bin/ringwal/parked.rs"]
mod parked;
#[path = "../../src/bin/ringwal/pipe"]
mod pipe {
    pub(crate) mod lock;
    pub(crate) mod resume;
    pub(crate) mod sidecar;
    pub(crate) mod signals;
    pub(crate) use resume::begin_without_input;
}
#[path = "../../src/bin/ringwal/queue.rs"]
mod queue;
#[path = "../../src/bin/ringwal/salvage/mod.rs"]
mod salvage;
#[path = "../../src/bin/ringwal/sinks/mod.rs"]
mod sinks;
#[path = "../../src/bin/ringwal/store/mod.rs"]
mod store;
#[path = "../../src/bin/ringwal/tail.rs"]
mod tail;
#[path = "../../src/bin/ringwal/units.rs"]
mod units;
#[path = "../../src/bin/ringwal/verify.rs"]
mod verify;

use args::{DirArgs, SalvageArgs, SalvageForm};

#[derive(Arbitrary, Debug)]
struct Input {
    main: Directory,
    park: Option<Directory>,
    large_blocks: bool,
    form: u8,
    all: bool,
    names_schema: bool,
}

/// One directory for all inputs, in memory where there is such a place.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("a temporary directory")
});

fn write(dir: &Path, log: LogId, block_len: u32, made: &Directory) {
    for (file, bytes) in made.files(Shape { log, block_len }).0 {
        fs::write(dir.join(file.to_string()), bytes).expect("a file");
    }
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [dir.to_owned(), dir.join("park")] {
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.file_type().is_ok_and(|kind| kind.is_file()) {
                found.insert(file.path(), fs::read(file.path()).expect("a file"));
            }
        }
    }
    found
}

fn salvage(input: &Input, dir: &Path, to: PathBuf, form: SalvageForm, all: bool) -> failure::Result<u8> {
    let schema = input.names_schema.then(|| ringwal::Schema::new("bytes", 1));
    salvage::run(&SalvageArgs { dir: dir.to_owned(), to, form, all, schema, json: input.form >= 128 })
}

fuzz_target!(
    init: {
        // What is shown goes nowhere; libFuzzer speaks on standard error.
        let null = fs::OpenOptions::new().write(true).open("/dev/null").expect("a place for output");
        rustix::stdio::dup2_stdout(null).expect("standard output can be turned away");
    },
    |input: Input| {
        let [dir, saved, lines, again] = ["queue", "saved", "lines", "again"].map(|name| PLACE.path().join(name));
        for old in [&dir, &saved] {
            let _ = fs::remove_dir_all(old);
        }
        for old in [&lines, &again] {
            let _ = fs::remove_file(old);
        }
        fs::create_dir_all(dir.join("park")).expect("a directory");
        let block_len = if input.large_blocks { 4096 } else { 512 };
        write(&dir, LogId::Main, block_len, &input.main);
        if let Some(park) = &input.park {
            write(&dir, LogId::Park, block_len, park);
        }
        let before = contents(&dir);
        let form = [SalvageForm::Text, SalvageForm::Hex, SalvageForm::Json][usize::from(input.form % 3)];
        let results = [
            salvage(&input, &dir, again.clone(), form, input.all),
            salvage(&input, &dir, lines.clone(), SalvageForm::Json, false),
            salvage(&input, &dir, saved.clone(), SalvageForm::Queue, false),
        ];
        let after = contents(&dir);
        // A directory without a lock gets one: whoever is at work there must not be disturbed.
        let same = after.iter().filter(|(path, _)| !path.ends_with("LOCK")).eq(before.iter());
        assert!(same, "saving has changed what it saves from");
        for result in &results {
            match result {
                Ok(code) => assert!(*code == 0 || *code == failure::NOT_ALL, "exit code {code}"),
                Err(refusal) => assert!(!refusal.is_quiet() && !refusal.to_string().contains('\n') && refusal.code() <= 2),
            }
        }
        let [_, Ok(of_file), Ok(of_queue)] = results else { return };
        assert_eq!(of_file, of_queue, "the same is lost, whatever it is saved as");
        let verified = verify::run(&DirArgs { dir: saved.clone(), json: false });
        assert!(matches!(verified, Ok(0)), "what was saved is damaged: {verified:?}");
        let _ = fs::remove_file(&again);
        let resaved = salvage(&input, &saved, again.clone(), SalvageForm::Json, false);
        assert!(matches!(resaved, Ok(0)), "what was saved is not whole: {resaved:?}");
        assert!(fs::read(&lines).expect("lines") == fs::read(&again).expect("lines"), "the two saved different entries");
    }
);
