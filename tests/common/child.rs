//! A process of a test's own: the test binary, told by a variable to be one of its functions instead.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::common::LONG;

/// What marks a child's words among those of the test harness.
const SAYS: &str = "child says ";

/// For children: one line for the parent, in one write, so that a kill leaves all of it or nothing.
pub fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may have gone on without us.
    let _ = out.write_all(format!("{SAYS}{words}\n").as_bytes());
    let _ = out.flush();
}

/// The test binary as a child that runs only `test`, with `var` set to `what`.
pub fn command(test: &str, var: &str, what: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(var, what);
    command
}

/// A running child, and what it says.
pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    errors: Option<JoinHandle<String>>,
    reaped: bool,
}

impl Child {
    pub fn start(mut command: Command) -> Self {
        let mut process = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, mut err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let (say, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                // The harness writes before the first line without ending its own.
                let Ok(line) = line else { return };
                let Some((_, words)) = line.split_once(SAYS) else { continue };
                if say.send(words.to_owned()).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text);
            text
        });
        Self { process, lines, reader: Some(reader), errors: Some(errors), reaped: false }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call; the child is ours and not reaped before `end`.
        let sent = unsafe { libc::kill(i32::try_from(self.process.id()).unwrap(), signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// The next line, waited for; `None` once there will be none.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(LONG) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("a child said nothing for {LONG:?}"),
        }
    }

    /// Waits for a line that begins with `word`, and gives the rest of it. What comes before is handed to `other`.
    pub fn wait_for(&mut self, word: &str, mut other: impl FnMut(String)) -> String {
        loop {
            let Some(line) = self.line() else { panic!("a child ended before {word:?}: {}", self.end().1) };
            match line.strip_prefix(word) {
                Some(rest) => return rest.trim().to_owned(),
                None => other(line),
            }
        }
    }

    /// All lines until the child has ended.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// Waits until it has ended: how, and its words for people.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LONG;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.process.kill();
                panic!("a child did not end within {LONG:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.reaped = true;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.errors.take().map_or_else(String::new, |errors| errors.join().unwrap()))
    }

    /// Waits for its end, which must be a good one, and gives its lines.
    pub fn succeed(mut self) -> Vec<String> {
        let lines = self.rest();
        let (status, errors) = self.end();
        assert!(status.success(), "{status}: {errors}\n{lines:?}");
        lines
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Chance from a seed.
pub struct Chance(pub u64);

impl Chance {
    /// The seed that `var` gives, else one from the clock; it is printed, for the case that the test fails.
    pub fn from_env(var: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var(var).ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()) ^ now.as_secs() << 20);
        eprintln!("{var}={seed} (the moments of kills depend on the machine's own, too)");
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}
