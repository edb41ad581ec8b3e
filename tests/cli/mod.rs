//! Running the built program, with a watchdog.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest time that a run may take.
const WITHIN: Duration = Duration::from_secs(90);

/// A run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Asserts the exit code, showing what the program said.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self:?}");
        self
    }

    /// Asserts that it failed with one line that contains all of these.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, parts: &[&str]) {
        let done = self.expect(code);
        let last = done.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("ringwal: "), "{done:?}");
        for part in parts {
            assert!(last.contains(part), "{part:?} is missing in: {}", done.err);
        }
        assert!(!done.err.contains("panicked"), "{done:?}");
    }
}

/// A directory for a test, and how the program is run in it.
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        // Not below /tmp where that is in memory: the program says so and the promise is another one.
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Self(tempfile::tempdir_in(base).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwal"));
        command.args(args).current_dir(self.0.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program with this input to its end.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Done {
        finish(self.command(args).spawn().unwrap(), input)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, b"")
    }

    /// Runs `pipe` with small segments, as tests have little to say.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Done {
        finish(self.start_pipe(args), input)
    }

    pub(crate) fn start_pipe(&self, args: &[&str]) -> Child {
        let mut all = vec!["pipe", "--dir", "q", "--segment-len", "1MiB", "--log-bytes-max", "8MiB"];
        all.extend_from_slice(args);
        self.command(&all).spawn().unwrap()
    }

    /// The lines in a database, by LSN.
    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<u8>> {
        let database = rusqlite::Connection::open(self.path(name)).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut select = database.prepare("SELECT CAST(line AS BLOB) FROM lines ORDER BY lsn").unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// How many lines a database has; 0 while there is none.
    pub(crate) fn count(&self, name: &str) -> usize {
        let Ok(database) = rusqlite::Connection::open(self.path(name)) else { return 0 };
        let _ = database.busy_timeout(Duration::from_secs(5));
        database.query_row("SELECT count(*) FROM lines", [], |row| row.get::<_, i64>(0)).map_or(0, |n| n as usize)
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let done = self.run(args);
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    }
}

/// Gives a child its input, waits for its end, and kills it when that takes too long.
pub(crate) fn finish(mut child: Child, input: &[u8]) -> Done {
    let mut stdin = child.stdin.take().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read all of its input has its reasons.
            let _ = stdin.write_all(input);
        });
        let out = scope.spawn(move || read_all(&mut out));
        let err = scope.spawn(move || read_all(&mut err));
        let status = wait(&mut child);
        Done { status, out: out.join().unwrap(), err: err.join().unwrap() }
    })
}

fn read_all(from: &mut dyn Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > WITHIN {
            child.kill().unwrap();
            panic!("the program did not end: {:?}", child.wait());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn signal(child: &Child, name: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, name).unwrap();
}

/// Real text, each line with its number in front: this repository's sources again and again.
pub(crate) fn real_text(bytes: usize) -> Vec<u8> {
    let mut once = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut once);
    let mut out = Vec::with_capacity(bytes + 1024);
    for (number, line) in once.split(|byte| *byte == b'\n').cycle().enumerate() {
        if out.len() >= bytes {
            return out;
        }
        out.extend(format!("{}\t", number + 1).as_bytes());
        out.extend(line);
        out.push(b'\n');
    }
    out
}

fn collect(dir: &Path, out: &mut Vec<u8>) {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, out);
        } else {
            out.extend(std::fs::read(path).unwrap());
        }
    }
}

/// Asserts that rows are exactly the lines of the input, in order.
#[track_caller]
pub(crate) fn assert_rows_are_lines(rows: &[Vec<u8>], input: &[u8]) {
    let lines: Vec<&[u8]> = input.strip_suffix(b"\n").unwrap_or(input).split(|byte| *byte == b'\n').collect();
    for (at, (row, line)) in rows.iter().zip(&lines).enumerate() {
        assert!(row == line, "row {at} is {:?}, not {:?}", String::from_utf8_lossy(row), String::from_utf8_lossy(line));
    }
    assert_eq!(rows.len(), lines.len(), "every line once");
}
