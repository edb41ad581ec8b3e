//! What `pipe` finds when it begins: any `pipe.json` beside any input file. It goes on where that file says, if
//! the file bears it out, or refuses; a resume point never lies behind the end of the input.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the program's own sources, of which this target uses a part")]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringwal::Durability;
use serde_json::{Value, json};

#[path = "../../src/bin/ringwal/args.rs"]
mod args;
#[path = "../../src/bin/ringwal/failure.rs"]
mod failure;
#[path = "../../src/bin/ringwal/keys.rs"]
mod keys;
#[path = "../../src/bin/ringwal/line.rs"]
mod line;
#[path = "../../src/bin/ringwal/output.rs"]
mod output;
#[path = "../../src/bin/ringwal/pipe"]
mod pipe {
    pub(crate) mod lock;
    pub(crate) mod resume;
    pub(crate) mod sidecar;
    pub(crate) mod signals;
}
#[path = "../../src/bin/ringwal/sinks/mod.rs"]
mod sinks;
#[path = "../../src/bin/ringwal/store/mod.rs"]
mod store;
#[path = "../../src/bin/ringwal/units.rs"]
mod units;

use pipe::resume::{Request, begin, end};
use pipe::sidecar::{Sidecar, TAIL_LEN, Tail};

#[derive(Arbitrary, Debug)]
struct Input {
    sidecar: Text,
    /// The input file, shorter or longer than what the point says.
    file: Vec<u8>,
    restart: bool,
    without_file: bool,
}

#[derive(Arbitrary, Debug)]
enum Text {
    Raw(Vec<u8>),
    Fields {
        version: u8,
        pipe: String,
        run: u32,
        of_file: bool,
        point: Option<Point>,
        identity: Option<Identity>,
        /// Spoils the text.
        flip: Option<(u16, u8)>,
    },
}

#[derive(Arbitrary, Debug)]
struct Point {
    offset: Number,
    number: u64,
    tail: Hash,
}

#[derive(Arbitrary, Debug)]
struct Identity {
    inode: Option<u64>,
    head: Hash,
}

#[derive(Arbitrary, Debug)]
enum Number {
    Small(u16),
    Any(u64),
}

impl Number {
    fn get(&self) -> u64 {
        match self {
            Self::Small(small) => (*small).into(),
            Self::Any(any) => *any,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Hash {
    /// Of what really stands there, this many bytes.
    True(u16),
    Made(Number, String),
}

impl Hash {
    fn json(&self, before: &[u8]) -> Value {
        match self {
            Self::True(len) => json!(Tail::of(&before[before.len().saturating_sub(usize::from(*len))..])),
            Self::Made(len, hash) => json!({ "len": len.get(), "hash": hash }),
        }
    }

    fn of_head(&self, file: &[u8]) -> Value {
        match self {
            Self::True(len) => json!(Tail::of(&file[..file.len().min(usize::from(*len))])),
            Self::Made(..) => self.json(file),
        }
    }
}

impl Text {
    fn bytes(&self, file: &[u8], inode: u64) -> Vec<u8> {
        let (version, pipe, run, of_file, point, identity, flip) = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Fields { version, pipe, run, of_file, point, identity, flip } => {
                (version, pipe, run, of_file, point, identity, flip)
            }
        };
        let point = point.as_ref().map(|point| {
            let offset = point.offset.get();
            let before = &file[..file.len().min(usize::try_from(offset).unwrap_or(usize::MAX))];
            json!({ "offset": offset, "number": point.number, "tail": point.tail.json(before) })
        });
        let identity = identity.as_ref().map(|identity| {
            let inode = identity.inode.unwrap_or(inode);
            json!({ "path": "in", "dev": 1, "inode": inode, "head": identity.head.of_head(file) })
        });
        let source = if *of_file { "file" } else { "other" };
        let version = version % 3;
        let value = json!({
            "version": version, "pipe": pipe, "run": run, "source": source, "point": point, "file": identity,
        });
        let mut bytes = value.to_string().into_bytes();
        if let Some((at, mask)) = flip {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= mask;
        }
        bytes
    }
}

/// One directory for all inputs, in memory where there is such a place.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("a temporary directory")
});

fuzz_target!(|input: Input| {
    let (dir, path) = (PLACE.path().join("queue"), PLACE.path().join("in"));
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(&path, &input.file).expect("an input");
    let file = File::open(&path).expect("the input");
    let inode = file.metadata().expect("its inode").ino();
    fs::write(Sidecar::path(&dir), input.sidecar.bytes(&input.file, inode)).expect("a sidecar");

    let before = Sidecar::read(&dir);
    if let Ok(Some(sidecar)) = &before {
        sidecar.write(&dir).expect("it can be written");
        assert_eq!(Sidecar::read(&dir).expect("what was written is read").as_ref(), Some(sidecar));
    }
    let target = sinks::Target::Null;
    let sink = target.open(&Arc::new(pipe::signals::Stop::default()), false).expect("a sink of nothing");
    let request = Request {
        dir: &dir,
        file: (!input.without_file).then_some((&file, path.as_path())),
        restart: input.restart,
        lock_wait: Duration::ZERO,
        durability: Durability::Immediate,
        stop_on_corruption: true,
        target: &target,
    };
    match begin(&request, &sink) {
        Ok(start) => {
            let old = before.expect("what cannot be read is refused").expect("it was there");
            assert_eq!(start.from.run, old.run + 1);
            assert_eq!(start.sidecar.pipe, old.pipe);
            if input.without_file {
                assert_eq!(start.sidecar.point, old.point, "a run without a file keeps the point");
            } else {
                let len = input.file.len() as u64;
                assert!(start.from.offset <= len, "goes on at {} of {len}", start.from.offset);
                assert!(!input.restart || start.from.offset == 0);
                let point = start.sidecar.point.as_ref().expect("a run over a file has a point");
                assert!(point.tail.len <= TAIL_LEN.min(point.offset));
                // It ends where it began, and can begin there again, unless that was the last of all runs.
                end(&request, &start, start.from).expect("it can end");
                if start.from.run == u32::MAX {
                    return;
                }
                drop(start);
                let again = begin(&Request { restart: false, ..request }, &sink).expect("and begin again");
                assert!(again.from.offset <= len);
            }
        }
        Err(refusal) => assert!(!refusal.is_quiet() && !refusal.to_string().contains('\n')),
    }
});
