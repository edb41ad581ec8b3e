//! A made-up directory, log and park, in real files: `inspect`, `verify`, `dump`, `tail` and `parked list` come to
//! an end over it, say what is wrong in one line, and change nothing.
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

use args::{DirArgs, DumpArgs, Form, FormArgs, ParkedListArgs, TailArgs};

#[derive(Arbitrary, Debug)]
struct Input {
    main: Directory,
    park: Option<Directory>,
    large_blocks: bool,
    form: u8,
    first: Option<u64>,
    last: Option<u64>,
    all: bool,
    lines: u64,
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

fuzz_target!(
    init: {
        // What is shown goes nowhere; libFuzzer speaks on standard error.
        let null = fs::OpenOptions::new().write(true).open("/dev/null").expect("a place for output");
        rustix::stdio::dup2_stdout(null).expect("standard output can be turned away");
    },
    |input: Input| {
        let dir = PLACE.path().join("queue");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("park")).expect("a directory");
        let block_len = if input.large_blocks { 4096 } else { 512 };
        write(&dir, LogId::Main, block_len, &input.main);
        if let Some(park) = &input.park {
            write(&dir, LogId::Park, block_len, park);
        }
        let before = contents(&dir);
        let form = FormArgs { form: [Form::Text, Form::Hex, Form::Json][usize::from(input.form % 3)], json: false };
        let json = input.form % 2 == 0;
        let dump = |first, last, all, parked| {
            dump::run(&DumpArgs { dir: dir.clone(), form, first, last, all, parked })
        };
        let results = [
            inspect::run(&DirArgs { dir: dir.clone(), json }),
            verify::run(&DirArgs { dir: dir.clone(), json }),
            dump(input.first, input.last, input.all && input.first.is_none(), false),
            dump(None, None, false, true),
            tail::run(&TailArgs { dir: dir.clone(), form, lines: usize::try_from(input.lines).unwrap_or(usize::MAX), follow: false }),
            parked::list(&ParkedListArgs { dir: dir.clone(), form }),
        ];
        for result in &results {
            match result {
                Ok(code) => assert!(*code <= 1, "exit code {code}"),
                Err(refusal) => assert!(!refusal.is_quiet() && !refusal.to_string().contains('\n') && refusal.code() <= 2),
            }
        }
        assert!(contents(&dir) == before, "looking has changed something");
    }
);
