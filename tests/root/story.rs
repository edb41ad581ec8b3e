//! A child process with a queue of its own, and the journal of what it was told.
//!
//! | line                  | means                                                                              |
//! |-----------------------|------------------------------------------------------------------------------------|
//! | `will P N`            | producer P is about to push its entries up to N                                    |
//! | `ack P N C`           | its entries up to N are durable; the device's recording had C requests by then     |
//! | `got L P N C`         | the sink has entry N of P, with LSN L, and is about to acknowledge it              |
//! | `open …`, `health …`  | the disk's report; the queue's health at the end                                   |
//! | `refused P …`         | the error that ended producer P                                                    |
//! | `full`, `room`        | a push was given back; after that one was taken again                              |
//! | `state PENDING RSS …` | pages of memory, once in a while                                                   |
//! | `stopped`             | no producer runs any more                                                          |
//! | `later …`             | what pushes and waits get after that                                               |
//! | `end …`               | what shutdown said                                                                 |
//!
//! The journal lies beside the disks, not on them. Each line is one write to it, made after the fact for `ack`
//! and before the fact for `will` and `got`: a journal that ends anywhere promises too little and never too much.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringwal::{Batch, Durability, Io, Outcome, Producer, PushError, Queue, Retry, Sink, WhenFull};

use super::common::{LONG, Numbered, driver_named, small};
use super::machine::{PATIENCE, until};

/// Set in the child: the settings of its story.
const STORY: &str = "RINGWAL_ROOT_STORY";

/// What the child does.
#[derive(Clone, Debug)]
pub struct Story {
    pub dir: PathBuf,
    pub journal: PathBuf,
    /// The device's counter of requests.
    pub counter: Option<PathBuf>,
    /// Joined by the child before it does anything: files that take its process number.
    pub cgroups: Vec<PathBuf>,
    pub is_periodic: bool,
    /// The sink acknowledges, and slots are used again; or it keeps refusing, and everything stays.
    pub delivers: bool,
    pub log_bytes_max: u64,
    /// Groups that each producer pushes; without a number until its standard input ends.
    pub groups: Option<u32>,
    /// Entries of a group; each group waits for its last one.
    pub group_len: u32,
    pub padding_max: u32,
    /// Rest of each producer after a group: who holds everything back must not fill the log while others are slow.
    pub rest: Duration,
    /// Pushes that find no room are given back, and the third producer never waits: it finds none.
    pub rejects: bool,
    pub io: Io,
    pub lock_wait: Duration,
    /// Number of the first producer: a second story in a directory has others than the first.
    pub producer_first: u32,
}

impl Story {
    pub fn new(dir: &Path, journal: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            journal: journal.to_owned(),
            counter: None,
            cgroups: Vec::new(),
            is_periodic: false,
            delivers: false,
            log_bytes_max: 128 << 20,
            groups: None,
            group_len: 12,
            padding_max: 900,
            rest: Duration::from_millis(1),
            rejects: false,
            io: Io::Auto,
            lock_wait: LONG,
            producer_first: 0,
        }
    }

    pub fn durability(&self) -> Durability {
        if self.is_periodic { Durability::Periodic(Duration::from_millis(5)) } else { Durability::Immediate }
    }

    /// Starts the child.
    pub fn start(&self) -> Player {
        std::fs::write(&self.journal, b"").unwrap();
        let paths =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
        let pairs = [
            ("dir", self.dir.display().to_string()),
            ("journal", self.journal.display().to_string()),
            ("counter", self.counter.as_ref().map_or_else(String::new, |path| path.display().to_string())),
            ("cgroups", paths(&self.cgroups)),
            ("periodic", self.is_periodic.to_string()),
            ("delivers", self.delivers.to_string()),
            ("log", self.log_bytes_max.to_string()),
            ("groups", self.groups.map_or_else(String::new, |groups| groups.to_string())),
            ("group", self.group_len.to_string()),
            ("padding", self.padding_max.to_string()),
            ("rest", self.rest.as_micros().to_string()),
            ("rejects", self.rejects.to_string()),
            ("io", format!("{:?}", self.io)),
            ("wait", self.lock_wait.as_micros().to_string()),
            ("first", self.producer_first.to_string()),
        ];
        let text = pairs.map(|(name, value)| format!("{name}={value}")).join(";");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(STORY, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Player { child, journal: self.journal.clone() }
    }

    fn from_environment() -> Option<Self> {
        let text = std::env::var(STORY).ok()?;
        let pairs: HashMap<&str, &str> = text.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let path = |name: &str| Some(PathBuf::from(pairs[name])).filter(|path| !path.as_os_str().is_empty());
        Some(Self {
            dir: path("dir").unwrap(),
            journal: path("journal").unwrap(),
            counter: path("counter"),
            cgroups: pairs["cgroups"].split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
            is_periodic: pairs["periodic"] == "true",
            delivers: pairs["delivers"] == "true",
            log_bytes_max: pairs["log"].parse().unwrap(),
            groups: pairs["groups"].parse().ok(),
            group_len: pairs["group"].parse().unwrap(),
            padding_max: pairs["padding"].parse().unwrap(),
            rest: Duration::from_micros(pairs["rest"].parse().unwrap()),
            rejects: pairs["rejects"] == "true",
            io: if pairs["io"] == "Auto" { Io::Auto } else { driver_named(pairs["io"]) },
            lock_wait: Duration::from_micros(pairs["wait"].parse().unwrap()),
            producer_first: pairs["first"].parse().unwrap(),
        })
    }

    /// The entry that producer P pushes as its number N: nothing about it has to be remembered.
    pub fn entry(&self, producer: u32, number: u32) -> Numbered {
        let padding = if self.padding_max == 0 { 0 } else { (number * 37 + producer * 11) % self.padding_max };
        Numbered::new(producer, number, padding as usize)
    }
}

/// The child, killed when dropped.
pub struct Player {
    child: Child,
    journal: PathBuf,
}

impl Player {
    pub fn journal(&self) -> Journal {
        Journal::read(&self.journal)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the journal is as wanted; fails when the child ends before.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Journal) -> bool) {
        until(what, || {
            let was_running = self.is_running();
            let held = holds(&self.journal());
            assert!(held || was_running, "the child has ended before {what}: {:?}", self.journal().last_lines());
            held
        });
    }

    /// Waits until so many more groups are acknowledged, of any producer.
    #[track_caller]
    pub fn until_acks(&mut self, more: usize) {
        let wanted = self.journal().acks.len() + more;
        self.until("acknowledgements", |journal| journal.acks.len() >= wanted);
    }

    pub fn kill(mut self) -> Journal {
        self.send_kill();
        self.child.wait().unwrap();
        self.journal()
    }

    /// Kills it, and does not wait: it ends with its last write.
    pub fn send_kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Tells it to stop, and waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Journal {
        drop(self.child.stdin.take());
        let status = self.wait();
        assert!(status.success(), "{status}: {:?}", self.journal().last_lines());
        self.journal()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the child hangs: {:?}", self.journal().last_lines());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // One that waits for a device ends when that goes on, which may be after us.
        for _ in 0..200 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// An acknowledgement: producer, last number, requests recorded by then.
pub type Ack = (u32, u32, u64);

/// What the child wrote down.
#[derive(Clone, Default, Debug)]
pub struct Journal {
    pub acks: Vec<Ack>,
    /// By LSN: producer, number, requests recorded by then.
    pub got: BTreeMap<u64, Ack>,
    /// By producer: the last number that may have been pushed.
    pub will: HashMap<u32, u32>,
    /// Number of acknowledgements when the last producer had stopped.
    pub acks_at_stop: Option<usize>,
    pub lines: Vec<String>,
}

impl Journal {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut journal = Self::default();
        // A line without its end is of a process that died.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let narrow = |at: usize| u32::try_from(number(at)).unwrap();
            match words[0] {
                "ack" => journal.acks.push((narrow(1), narrow(2), number(3))),
                "got" => drop(journal.got.insert(number(1), (narrow(2), narrow(3), number(4)))),
                "will" => drop(journal.will.insert(narrow(1), narrow(2))),
                "stopped" => journal.acks_at_stop = Some(journal.acks.len()),
                _ => journal.lines.push(line.to_owned()),
            }
        }
        journal
    }

    /// What a crash leaves of it, for who goes on from there: what was told when the recording had no more than
    /// `by` requests is settled for good.
    pub fn settle(mut self, by: u64) -> Self {
        self.acks.retain_mut(|(_, _, count)| *count <= by && std::mem::take(count) <= by);
        self.got.retain(|_, (_, _, count)| *count <= by && std::mem::take(count) <= by);
        self
    }

    /// Takes in what a later story wrote.
    pub fn add(&mut self, later: Self) {
        self.acks.extend(later.acks);
        self.got.extend(later.got);
        self.will.extend(later.will);
    }

    /// The lines that begin with this word, without it.
    pub fn all<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter_map(move |line| match line.split_once(' ') {
            Some((first, rest)) => (first == word).then_some(rest),
            None => (line == word).then_some(""),
        })
    }

    pub fn last_lines(&self) -> &[String] {
        &self.lines[self.lines.len().saturating_sub(8)..]
    }
}

/// What the child writes with.
struct Pen {
    journal: File,
    counter: Option<File>,
}

impl Pen {
    fn line(&self, line: &str) {
        (&self.journal).write_all(format!("{}\n", line.replace('\n', " ")).as_bytes()).unwrap();
    }

    fn line_all(&self, lines: &[String]) {
        (&self.journal).write_all(format!("{}\n", lines.join("\n")).as_bytes()).unwrap();
    }

    /// How many requests the device has recorded.
    fn count(&self) -> u64 {
        let mut bytes = [0; 8];
        if let Some(counter) = &self.counter {
            counter.read_exact_at(&mut bytes, 0).unwrap();
        }
        u64::from_le_bytes(bytes)
    }
}

/// The child's sink.
struct Keeper {
    pen: Arc<Pen>,
    delivers: bool,
}

impl Sink<Numbered> for Keeper {
    async fn deliver(&self, batch: Batch<Numbered>) -> Outcome {
        if !self.delivers {
            return Outcome::retry("not now");
        }
        let count = self.pen.count();
        let lines: Vec<String> = batch
            .iter()
            .map(|d| format!("got {} {} {} {count}", d.lsn.number(), d.value.producer, d.value.number))
            .collect();
        self.pen.line_all(&lines);
        std::thread::sleep(Duration::from_millis(2));
        Outcome::ack()
    }
}

/// A sink that refuses for ever, without parking.
pub fn patient() -> Retry {
    Retry { attempts_max: None, base: Duration::from_secs(1), max: Duration::from_secs(3600), ..Retry::default() }
}

/// The first waits for its entries, the second for everything, the third only once in a while.
const PRODUCERS: u32 = 3;
const WHILE: u32 = 16;
/// Whose entries are pushed after a failure, and must never be seen.
const REFUSED: u32 = 99;

/// In a child: plays the story. Elsewhere: nothing.
pub fn play_if_asked() {
    let Some(story) = Story::from_environment() else { return };
    for cgroup in &story.cgroups {
        std::fs::write(cgroup, std::process::id().to_string()).unwrap();
    }
    let journal = File::options().append(true).open(&story.journal).unwrap();
    let counter = story.counter.as_ref().map(|path| File::open(path).unwrap());
    let pen = Arc::new(Pen { journal, counter });
    let queue = small(&story.dir, story.durability())
        .log_bytes_max(story.log_bytes_max)
        .retry(patient())
        .lock_wait(story.lock_wait)
        .io(story.io)
        .when_full(if story.rejects { WhenFull::Reject } else { WhenFull::Block })
        .open(Keeper { pen: Arc::clone(&pen), delivers: story.delivers });
    let queue = match queue {
        Ok(queue) => queue,
        Err(error) => return pen.line(&format!("unopened {error}")),
    };
    pen.line(&format!("open {:?}", queue.recovery().disk));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producers: Vec<_> = (story.producer_first..story.producer_first + PRODUCERS)
            .map(|producer| {
                let (queue, pen, story, is_over) = (&queue, &*pen, &story, &is_over);
                scope.spawn(move || produce(queue, pen, story, producer, is_over))
            })
            .collect();
        if story.groups.is_none() {
            // Its end stops the producers; a producer that fails does not wait for it. Left to itself, as it
            // may never end.
            let (sender, ended) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let _ = std::io::stdin().lines().count();
                let _ = sender.send(());
            });
            while ended.recv_timeout(Duration::from_millis(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                && !producers.iter().all(|producer| producer.is_finished())
            {
                pen.line(&format!("state {} {} {:?}", queue.metrics().pending, resident_pages(), queue.health()));
            }
            is_over.store(true, Ordering::Relaxed);
        }
    });
    pen.line("stopped");
    pen.line(&format!("health {:?}", queue.health()));
    let producer = queue.producer();
    // After a failure nothing may be acknowledged; without one these are entries like others.
    for _ in 0..if queue.health().reasons().is_empty() || !is_failed(&queue) { 0 } else { 20 } {
        let said = match producer.push_durable(story.entry(REFUSED, 0)) {
            Ok(durable) => format!("{:?}", durable.wait()),
            Err(error) => format!("{error:?}"),
        };
        pen.line(&format!("later {said}"));
        pen.line(&format!("later {:?}", queue.flush()));
    }
    pen.line(&format!("end {:?}", queue.shutdown(if story.delivers { LONG } else { Duration::ZERO })));
}

fn is_failed<T>(queue: &Queue<T>) -> bool {
    matches!(queue.health(), ringwal::Health::Failed(_))
}

fn resident_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Pushes groups, and waits for them.
fn produce(queue: &Queue<Numbered>, pen: &Pen, story: &Story, producer: u32, is_over: &AtomicBool) {
    let pushes = queue.producer();
    let mut next = 0;
    for group in 1..=story.groups.unwrap_or(u32::MAX) {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let len = 1 + (next * 7 + producer) % story.group_len;
        pen.line(&format!("will {producer} {}", next + len - 1));
        let mut last = None;
        for number in next..next + len {
            match push(&pushes, pen, story.entry(producer, number), is_over) {
                Ok(Some(receipt)) => last = Some(receipt),
                Ok(None) => return,
                Err(error) => return pen.line(&format!("refused {producer} {error}")),
            }
        }
        next += len;
        std::thread::sleep(story.rest);
        let result = match last {
            Some(receipt) if producer == story.producer_first => pushes.durable(receipt).wait(),
            _ if producer == story.producer_first + 1 || !story.rejects && group.is_multiple_of(WHILE) => queue.flush(),
            _ => continue,
        };
        match result {
            Ok(()) => pen.line(&format!("ack {producer} {} {}", next - 1, pen.count())),
            Err(error) => return pen.line(&format!("refused {producer} {error}")),
        }
    }
}

/// Pushes until it is taken; `None` when the story is over before.
fn push(
    pushes: &Producer<Numbered>,
    pen: &Pen,
    entry: Numbered,
    is_over: &AtomicBool,
) -> Result<Option<ringwal::Receipt>, String> {
    let (mut entry, mut was_full) = (entry, false);
    loop {
        match pushes.push(entry) {
            Ok(receipt) => {
                if was_full {
                    pen.line("room");
                }
                return Ok(Some(receipt));
            }
            Err(PushError::Full(back)) => {
                if !was_full {
                    pen.line("full");
                }
                if is_over.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                (entry, was_full) = (back, true);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
