//! Rings in shared memory, seen from outside: where they may lie, what is refused, what is reported.
//!
//! What it is all about, a process that is killed at any moment, is in `tests/rings_kill.rs`.

#![cfg(not(loom))]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringwal::{
    Batch, Builder, DecodeError, Durability, Entry, OnCorruption, OpenError, Queue, Rings, Schema, SinkError,
    blocking_fn,
};

const LONG: Duration = Duration::from_secs(60);

/// An entry has been claimed and is being encoded, for ever.
static STUCK: AtomicBool = AtomicBool::new(false);

/// A text. One that begins with `#` is never encoded to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Text(String);

impl Entry for Text {
    const SCHEMA: Schema = Schema::new("test.text", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(self.0.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        if self.0.starts_with('#') {
            out[0] = b'#';
            STUCK.store(true, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
        out.copy_from_slice(self.0.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        String::from_utf8(bytes.to_vec()).map(Self).map_err(|_| DecodeError::new("no text"))
    }
}

/// The same bytes, under another name.
struct Other;

impl Entry for Other {
    const SCHEMA: Schema = Schema::new("test.other", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(0)
    }

    fn encode_into(&self, _: &mut [u8]) {}

    fn decode(_: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

struct Place {
    store: tempfile::TempDir,
    rings: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let rings = tempfile::Builder::new().prefix("ringwal-test-").tempdir_in("/dev/shm").unwrap();
        Self { store: tempfile::tempdir().unwrap(), rings }
    }

    fn builder(&self) -> Builder {
        builder(self.store.path()).rings_in(self.rings.path())
    }

    /// The ring file.
    fn file(&self) -> PathBuf {
        let all: Vec<_> = std::fs::read_dir(self.rings.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.rings.path()).unwrap();
        all.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Entries pushed by a process that was killed, none of them written: the period is long. The last one is stuck in
    /// its encoding where `stuck` is true, with one entry behind it.
    fn leave_behind(&self, count: usize, stuck: bool) {
        let mut child = self.start(count, stuck);
        child.wait_for("pushed");
        child.0.kill().unwrap();
        child.0.wait().unwrap();
    }

    fn start(&self, count: usize, stuck: bool) -> Living {
        let task = format!("{count} {stuck} {} {}", self.store.path().display(), self.rings.path().display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_child", "--exact", "--nocapture"])
            .env("RINGWAL_SHARED_CHILD", task)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Living(child)
    }

    /// Opens with these settings and gives all that is delivered.
    fn deliver(&self, builder: Builder) -> (Vec<String>, ringwal::Recovery) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = blocking_fn({
            let seen = Arc::clone(&seen);
            move |batch: &Batch<Text>| {
                seen.lock().unwrap().extend(batch.values().map(|text| text.0.clone()));
                Ok(())
            }
        });
        let queue = builder.open(sink).unwrap();
        queue.drain(LONG).unwrap();
        let (recovery, metrics) = (queue.recovery().clone(), queue.metrics());
        assert_eq!(metrics.accounted(), metrics.came_in(), "{metrics:?}");
        assert_eq!(metrics.recovered_from_rings, recovery.from_rings);
        queue.shutdown(LONG).unwrap();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (seen, recovery)
    }

    fn refuse(&self, builder: Builder) -> OpenError {
        match builder.open(still()) {
            Ok(_) => panic!("it was opened"),
            Err(error) => error,
        }
    }
}

/// A child that does not outlive the test.
struct Living(Child);

impl Living {
    fn wait_for(&mut self, word: &str) {
        let out = BufReader::new(self.0.stdout.as_mut().unwrap());
        assert!(out.lines().any(|line| line.unwrap().contains(word)), "the child ended before it said {word:?}");
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn builder(store: &Path) -> Builder {
    Queue::builder(store)
        .durability(Durability::Periodic(Duration::from_secs(60)))
        .rings(1)
        .pinned_rings(1)
        .ring_bytes(64 << 10)
        .entry_len_max(4 << 10)
        .segment_len(1 << 20)
        .log_bytes_max(8 << 20)
        .memory_max(16 << 20)
        .linger(Duration::ZERO)
        .lock_wait(Duration::from_secs(20))
}

/// A sink that does nothing.
fn still() -> impl ringwal::Sink<Text> {
    blocking_fn(|_: &Batch<Text>| Err::<(), SinkError>(SinkError::retry("stands still")))
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("entry {number}")).collect()
}

/// Not a test of its own: what the others start as a process.
#[test]
fn the_child() {
    let Ok(task) = std::env::var("RINGWAL_SHARED_CHILD") else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let (count, stuck) = (words[0].parse().unwrap(), words[1] == "true");
    let queue = builder(Path::new(words[2])).rings_in(words[3]).open(still()).unwrap();
    let producer = queue.producer();
    let push = |text: String| _ = producer.push(Text(text)).unwrap();
    std::thread::scope(|scope| {
        texts(count).into_iter().for_each(push);
        if stuck {
            scope.spawn(|| push("# this one is never complete".to_owned()));
            while !STUCK.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // What follows lies behind it on the only ring.
            push("behind".to_owned());
        }
        println!("pushed");
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn what_a_killed_process_left_is_delivered_first_and_counted() {
    let place = Place::new();
    place.leave_behind(500, false);
    let (seen, recovery) = place.deliver(place.builder());
    assert_eq!(seen, texts(500));
    assert_eq!((recovery.from_rings, recovery.recovered, recovery.incomplete_in_rings), (500, 500, 0));
    assert!(!recovery.clean && recovery.end.number() == 500 && recovery.next.number() == 501);
    assert!(place.names().is_empty(), "an orderly end leaves nothing");
    assert!(!place.store.path().join("RINGS").exists());
}

#[test]
fn a_push_that_was_killed_within_is_skipped_and_reported_and_what_lies_behind_it_is_delivered() {
    let place = Place::new();
    place.leave_behind(5, true);
    let (seen, recovery) = place.deliver(place.builder());
    assert_eq!(seen, [texts(5), vec!["behind".to_owned()]].concat());
    assert_eq!((recovery.from_rings, recovery.incomplete_in_rings), (6, 1));
    assert!(recovery.disk.notes.iter().any(|note| note.contains("killed within 1 pushes")), "{recovery:?}");
}

#[test]
fn other_rings_take_over_the_old_ones() {
    let settings: [fn(Builder) -> Builder; 4] = [
        |builder| builder.rings(7).pinned_rings(0),
        |builder| builder.ring_bytes(16 << 10).entry_len_max(4000),
        // In private memory again, or in another folder: the store's directory says where the old ones are.
        |builder| builder.rings_at(Rings::Private),
        |builder| builder.rings_in("/dev/shm"),
    ];
    for change in settings {
        let place = Place::new();
        place.leave_behind(100, false);
        let (seen, recovery) = place.deliver(change(place.builder()));
        assert_eq!((seen, recovery.from_rings), (texts(100), 100));
        assert!(place.names().is_empty());
        let (seen, recovery) = place.deliver(place.builder());
        assert_eq!((seen.len(), recovery.from_rings, recovery.clean), (0, 0, true));
    }
}

#[test]
fn a_ring_file_with_two_names_is_taken_over_once() {
    let place = Place::new();
    place.leave_behind(100, false);
    let link = place.store.path().join("link");
    std::os::unix::fs::symlink(place.rings.path(), &link).unwrap();
    let (seen, recovery) = place.deliver(place.builder().rings_in(&link));
    assert_eq!((seen, recovery.from_rings), (texts(100), 100));
}

#[test]
fn rings_that_are_gone_are_nothing_to_take_over() {
    let place = Place::new();
    place.leave_behind(10, false);
    std::fs::remove_file(place.file()).unwrap();
    assert_eq!(place.deliver(place.builder()).0.len(), 0);
    // Neither is a file whose making was interrupted.
    place.leave_behind(10, false);
    let len = std::fs::metadata(place.file()).unwrap().len();
    File::options().write(true).open(place.file()).unwrap().write_all_at(&vec![0; len as usize], 0).unwrap();
    assert_eq!(place.deliver(place.builder()).0.len(), 0);
}

#[test]
fn a_second_opener_is_refused_and_takes_nothing() {
    let place = Place::new();
    let mut child = place.start(10, false);
    child.wait_for("pushed");
    let error = place.refuse(place.builder().lock_wait(Duration::ZERO));
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    // Nor does a copy of the store, whose own lock is free.
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(place.store.path()).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let Err(error) = builder(copy.path()).rings_in(place.rings.path()).open(still()) else { panic!("opened") };
    assert!(matches!(&error, OpenError::Locked { dir, .. } if *dir == place.file()), "{error:?}");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert_eq!(place.deliver(place.builder()).0, texts(10));
}

#[test]
fn a_ring_file_is_the_users_own_and_allocated_to_its_end() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let queue = place.builder().open(still()).unwrap();
    let about = std::fs::metadata(place.file()).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert!(about.blocks() * 512 >= about.len(), "{about:?}");
    assert_eq!(queue.metrics().ring_bytes, 0);
    queue.shutdown(LONG).unwrap();
}

/// Found by reading: it named the folder that was to be made, and said that it is not found.
#[test]
fn rings_in_a_folder_below_one_that_is_missing_are_refused_by_the_name_of_that() {
    let place = Place::new();
    let missing = place.rings.path().join("missing");
    let error = builder(place.store.path()).rings_in(missing.join("rings")).open(still()).map(drop).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot find {}: ", missing.display())), "{error}");
    let error = builder(place.store.path()).rings_in("/proc/ringwal").open(still()).map(drop).unwrap_err();
    assert!(error.to_string().contains("/proc is there and takes nothing new"), "{error}");
}

#[test]
fn rings_on_a_disk_are_refused_unless_told_otherwise() {
    let place = Place::new();
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wanted = builder(place.store.path()).rings_in(disk.path().join("rings"));
    match wanted.clone().open(still()) {
        // Where the tests themselves are built in memory there is nothing to refuse.
        Ok(queue) => assert!(queue.is_closed() || queue.shutdown(Duration::ZERO).is_ok()),
        Err(error) => {
            assert!(matches!(&error, OpenError::Rings { .. }), "{error:?}");
            assert!(error.to_string().contains("rings_on_any_file_system(true)"), "{error}");
            assert!(!place.store.path().join("META").exists(), "a refused opening changes nothing");
            let queue = wanted.rings_on_any_file_system(true).open(still()).unwrap();
            assert!(queue.recovery().disk.notes.iter().any(|note| note.contains("which is not memory")));
            queue.pause();
            queue.producer().push(Text("x".to_owned())).unwrap();
            assert_eq!(queue.shutdown(LONG).unwrap().left_in_log, 1);
        }
    }
}

#[test]
fn a_queue_without_a_log_has_no_shared_rings() {
    let place = Place::new();
    let error = place.refuse(place.builder().durability(Durability::Memory));
    assert!(error.to_string().contains("rings_at"), "{error}");
}

/// What is wrong with the file, and what is said then.
fn spoiled(spoil: impl Fn(&Place, &File), word: &str, policy: Option<usize>) {
    let place = Place::new();
    place.leave_behind(20, false);
    let path = place.file();
    spoil(&place, &File::options().read(true).write(true).open(&path).unwrap());
    let before = std::fs::read(&path).unwrap();
    let error = place.refuse(place.builder());
    assert!(error.to_string().contains(word), "{word:?} in {error}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "a refused opening changes nothing");
    if let Some(expected) = policy {
        let (seen, recovery) = place.deliver(place.builder().on_corruption(OnCorruption::Quarantine));
        assert_eq!(seen, texts(20)[..expected], "{recovery:?}");
        assert!(!recovery.disk.notes.is_empty());
        let left = place.names();
        assert!(left.len() == 1 && left[0].contains(".left-"), "what was not understood is kept: {left:?}");
    }
}

const CONTROL: u64 = 4096;
const RING: u64 = 4096 + 2 * (32 << 10);

#[test]
fn a_damaged_ring_file_is_refused_or_put_aside_as_the_policy_says() {
    spoiled(|_, file| file.write_all_at(b"X", 0).unwrap(), "does not begin as a ring file", Some(0));
    spoiled(|_, file| file.write_all_at(&[9], 60).unwrap(), "checksum", Some(0));
    spoiled(|_, file| file.set_len(RING + 100).unwrap(), "not as long", Some(0));
    spoiled(|_, file| file.set_len(100).unwrap(), "too short", Some(0));
    spoiled(|_, file| file.write_all_at(&[0xff; 8], CONTROL).unwrap(), "positions contradict", Some(0));
    // The second record, at 24: "entry 0" takes 16 bytes.
    spoiled(|_, file| file.write_all_at(&[0xff; 4], RING + 16).unwrap(), "leaves the ring", Some(1));
}

#[test]
fn rings_of_another_store_of_a_newer_log_or_of_another_user_are_refused() {
    let sealed = |place: &Place, file: &File, at: u64, bytes: &[u8]| {
        let _ = place;
        file.write_all_at(bytes, at).unwrap();
        let mut header = [0; 252];
        file.read_exact_at(&mut header, 0).unwrap();
        file.write_all_at(&crc32c::crc32c(&header).to_le_bytes(), 252).unwrap();
    };
    spoiled(|place, file| sealed(place, file, 16, &[0xee; 16]), "another store", None);
    spoiled(|place, file| sealed(place, file, 48, &[9; 8]), "newer than the log", None);
    spoiled(|place, file| sealed(place, file, 8, &[2]), "format", None);
    spoiled(|_, file| file.set_permissions(PermissionsExt::from_mode(0o644)).unwrap(), "other users", None);
}

#[test]
fn rings_of_another_running_of_the_machine_are_put_aside_and_reported() {
    let place = Place::new();
    place.leave_behind(20, false);
    let file = File::options().read(true).write(true).open(place.file()).unwrap();
    file.write_all_at(&[0x11; 16], 32).unwrap();
    let mut header = [0; 252];
    file.read_exact_at(&mut header, 0).unwrap();
    file.write_all_at(&crc32c::crc32c(&header).to_le_bytes(), 252).unwrap();
    let (seen, recovery) = place.deliver(place.builder());
    assert!(seen.is_empty() && recovery.from_rings == 0);
    assert!(recovery.disk.notes.iter().any(|note| note.contains("the machine was restarted")), "{recovery:?}");
    assert!(place.names()[0].contains(".left-1"));
}

#[test]
fn entries_that_do_not_fit_what_is_asked_for_are_refused() {
    let place = Place::new();
    place.leave_behind(20, false);
    let error = place.refuse(place.builder().entry_len_max(4));
    assert!(matches!(&error, OpenError::Config(_)) && error.to_string().contains("entry_len_max"), "{error}");
    let Err(error) = place.builder().open(blocking_fn(|_: &Batch<Other>| Ok(()))) else { panic!("opened") };
    assert!(error.to_string().contains("test.text"), "{error}");
    assert_eq!(place.deliver(place.builder()).0, texts(20));
}

#[test]
fn what_finds_no_room_in_a_full_log_waits_in_the_rings_over_an_orderly_end() {
    let place = Place::new();
    let wanted = || place.builder().log_bytes_max(3 << 20).durability(Durability::Immediate);
    let queue = wanted().when_full(ringwal::WhenFull::Reject).open(still()).unwrap();
    queue.pause();
    let producer = queue.producer();
    let text = |number: u32| format!("{number} {}", "x".repeat(1000));
    let mut pushed = 0;
    let mut refused = std::time::Instant::now();
    // Full is full when the log says so and nothing has moved for a while.
    let is_full = || queue.health().reasons().iter().any(|reason| matches!(reason, ringwal::Concern::LogFull(_)));
    while refused.elapsed() < Duration::from_millis(500) || !is_full() {
        if producer.push(Text(text(pushed))).is_ok() {
            pushed += 1;
            refused = std::time::Instant::now();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let state = queue.shutdown(Duration::from_millis(100)).unwrap();
    assert_eq!((state.lost, state.left_in_log), (0, u64::from(pushed)), "{state:?}");
    let (seen, recovery) = place.deliver(wanted());
    assert_eq!(seen.len(), pushed as usize, "{recovery:?}");
    assert!((0..pushed).zip(&seen).all(|(number, seen)| *seen == text(number)));
    assert!(recovery.from_rings > 0);
}

#[cfg(feature = "cli")]
#[test]
fn an_inspector_says_where_the_rings_are() {
    let place = Place::new();
    let inspect = || {
        let done = Command::new(env!("CARGO_BIN_EXE_ringwal")).arg("inspect").arg(place.store.path()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    place.leave_behind(5, false);
    let text = inspect();
    assert!(text.contains(place.file().to_str().unwrap()) && text.contains("entries may wait there"), "{text}");
    place.deliver(place.builder());
    assert!(!inspect().contains("rings "), "an orderly end leaves none");
}
