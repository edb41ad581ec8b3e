//! Files that were cut, lost, swapped, added, or came from another time: each opening, and each delivery behind it,
//! gives everything or says exactly what is missing. Nothing is lost in silence, nothing panics.

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Judge, LONG, Numbered, Recorder, copy_dir, drain, hash_dir, slow_retry, small};
use ringwal::{Durability, Io, LogError, Lsn, OnCorruption, OpenError, Queue, Verdict};

/// In memory where there is such a place: what a disk keeps of it is not asked here.
fn tempdir() -> tempfile::TempDir {
    if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap()
}

fn entry(n: u32) -> Numbered {
    Numbered::new(0, n, 1800)
}

fn open(dir: &Path, policy: OnCorruption, sink: &Recorder) -> Result<Queue<Numbered>, OpenError> {
    small(dir, Durability::Immediate).rings(1).io(Io::Threads).on_corruption(policy).open(sink.clone())
}

/// Pushes them, a frame for every few; the sink takes none. (A queue that is opened delivers before it can be paused.)
fn fill(dir: &Path, numbers: Range<u32>) {
    let later = Judge { seen: Arc::default(), verdict: |_: &Numbered, _| Verdict::Retry("later".into()) };
    let queue = small(dir, Durability::Immediate).rings(1).io(Io::Threads).retry(slow_retry()).open(later).unwrap();
    queue.pause();
    let end = numbers.end;
    for n in numbers {
        let receipt = queue.producer().push(entry(n)).unwrap();
        if n % 10 == 9 || n + 1 == end {
            queue.producer().durable(receipt).wait().unwrap();
        }
    }
    // Paused, it waits for nothing but a batch that is still out.
    queue.shutdown(LONG).unwrap();
}

/// How an opening ended. All that it says was compared with what came.
#[derive(PartialEq, Eq, Debug)]
enum Found {
    Whole,
    /// Refused, with the first and the last LSN that are missing.
    Refused(u64, u64),
    /// Delivery halted before this LSN.
    Halted(u64),
    Unusable(PathBuf),
}

/// Opens a directory in which the entries `numbers` wait, each with its number and one as its LSN.
fn look(dir: &Path, numbers: Range<u32>, what: &str) -> Found {
    let before = hash_dir(dir);
    let sink = Recorder::default();
    let queue = match open(dir, OnCorruption::Stop, &sink) {
        Ok(queue) => queue,
        Err(error) => {
            assert_eq!(hash_dir(dir), before, "{what}: a refused opening changed something");
            return match error {
                OpenError::Corrupt { first, last, file, .. } => {
                    assert!(file.starts_with(dir), "{what}: {file:?}");
                    Found::Refused(first.number(), last.number())
                }
                OpenError::Unusable { file, .. } => Found::Unusable(file.strip_prefix(dir).unwrap().to_owned()),
                other => panic!("{what}: {other}"),
            };
        }
    };
    let drained = queue.drain(LONG);
    if let Err(LogError::Corrupt(why)) = &drained {
        // All that lies before the hole still comes.
        let first: u64 = why.strip_prefix("entries ").and_then(|w| w.split(' ').next()).unwrap().parse().unwrap();
        sink.0.wait_for(usize::try_from(first - 1).unwrap() - numbers.start as usize);
    }
    assert!(queue.recovery().next > Lsn::new(u64::from(numbers.end)), "{what}: a number is given out again");
    queue.shutdown(LONG).unwrap_or_else(|error| panic!("{what}: {error}"));
    let seen = sink.0.all();
    for ((lsn, got, _), n) in seen.iter().zip(numbers.clone()) {
        assert_eq!((*lsn, got), (Lsn::new(u64::from(n) + 1), &entry(n)), "{what}");
    }
    match drained {
        Ok(()) => {
            assert_eq!(seen.len(), numbers.len(), "{what}: lost in silence");
            Found::Whole
        }
        Err(LogError::Corrupt(why)) => {
            let missing = u64::from(numbers.start) + seen.len() as u64 + 1;
            assert!(why.contains(&format!("entries {missing} to ")), "{what}: {missing} is missing: {why}");
            Found::Halted(missing)
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

/// With `Quarantine` all that can be read is delivered, and what is counted as lost is what did not come.
fn rest_of(dir: &Path, numbers: Range<u32>, what: &str) -> usize {
    let sink = Recorder::default();
    let queue = open(dir, OnCorruption::Quarantine, &sink).unwrap_or_else(|error| panic!("{what}: {error}"));
    drain(&queue);
    let at_open: u64 = queue.recovery().lost.iter().map(|(first, last)| last.number() + 1 - first.number()).sum();
    let later = queue.metrics().lost;
    queue.shutdown(LONG).unwrap();
    let seen = sink.0.all();
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{what}: out of order");
    for (lsn, got, _) in &seen {
        assert_eq!((got, lsn.number()), (&entry(got.number), u64::from(got.number) + 1), "{what}");
    }
    // What is dead already is not missed.
    assert!(
        at_open + later >= numbers.len().saturating_sub(seen.len()) as u64,
        "{what}: lost {at_open} + {later}, came {}",
        seen.len()
    );
    assert!(seen.len() as u64 + at_open + later <= u64::from(numbers.end), "{what}: lost {at_open} + {later}");
    seen.len()
}

const COUNT: u32 = 900;

struct Store {
    root: tempfile::TempDir,
    slots: Vec<PathBuf>,
}

impl Store {
    fn new() -> Self {
        let root = tempdir();
        fill(&root.path().join("store"), 0..COUNT);
        let names =
            std::fs::read_dir(root.path().join("store")).unwrap().map(|e| PathBuf::from(e.unwrap().file_name()));
        let mut slots: Vec<PathBuf> = names.filter(|name| name.extension().is_some_and(|e| e == "rwal")).collect();
        // In the order of the log; a spare one at the end holds nothing.
        slots.retain(|name| std::fs::read(root.path().join("store").join(name)).unwrap().starts_with(b"RWALSEG"));
        slots.sort_by_key(|name| {
            let bytes = std::fs::read(root.path().join("store").join(name)).unwrap();
            u64::from_le_bytes(bytes[40..48].try_into().unwrap())
        });
        assert!(slots.len() >= 4, "{slots:?}");
        Self { root, slots }
    }

    fn copy(&self) -> PathBuf {
        let to = self.root.path().join("copy");
        let _ = std::fs::remove_dir_all(&to);
        copy_dir(&self.root.path().join("store"), &to);
        to
    }

    /// The first LSN of each segment.
    fn base(&self, segment: usize) -> u64 {
        let bytes = std::fs::read(self.root.path().join("store").join(&self.slots[segment])).unwrap();
        u64::from_le_bytes(bytes[48..56].try_into().unwrap())
    }
}

#[test]
fn a_segment_cut_at_any_block_is_missed_exactly_where_it_was_cut() {
    let store = Store::new();
    let last = store.slots.len() - 1;
    let (mut halted, mut refused, mut whole) = (0, 0, 0);
    for (segment, slot) in store.slots.iter().enumerate() {
        // The newest one is read at open, the older ones as they are delivered: their ends differ less.
        let step = if segment == last { 1 } else { 17 };
        for block in (0..=128_u64).step_by(step) {
            let cut = |dir: &Path| {
                let file = std::fs::OpenOptions::new().write(true).open(dir.join(slot)).unwrap();
                file.set_len(block * 4096).unwrap();
            };
            let what = format!("{} cut to {block} blocks", slot.display());
            let dir = store.copy();
            cut(&dir);
            let missing = match look(&dir, 0..COUNT, &what) {
                Found::Whole => {
                    whole += 1;
                    assert!(block > 2, "{what}: nothing was in it");
                    continue;
                }
                Found::Refused(first, last) => {
                    refused += 1;
                    assert!(last <= u64::from(COUNT), "{what}");
                    first
                }
                Found::Halted(first) => {
                    halted += 1;
                    first
                }
                Found::Unusable(file) => panic!("{what}: {}", file.display()),
            };
            assert!(missing >= store.base(segment), "{what}: {missing} lies in another segment");
            let dir = store.copy();
            cut(&dir);
            let came = rest_of(&dir, 0..COUNT, &what);
            assert!(came as u64 >= missing - 1, "{what}");
        }
    }
    assert!(halted > 10 && refused > 10 && whole > 10, "{halted} halted, {refused} refused, {whole} whole");
}

#[test]
fn a_lost_segment_is_missed_from_its_first_entry_to_its_last() {
    let store = Store::new();
    for (segment, slot) in store.slots.iter().enumerate() {
        let what = format!("{} is gone", slot.display());
        let dir = store.copy();
        std::fs::remove_file(dir.join(slot)).unwrap();
        let end = if segment + 1 < store.slots.len() { store.base(segment + 1) - 1 } else { u64::from(COUNT) };
        assert_eq!(look(&dir, 0..COUNT, &what), Found::Refused(store.base(segment), end), "{what}");
        let came = rest_of(&dir, 0..COUNT, &what);
        assert_eq!(came as u64, u64::from(COUNT) - (end + 1 - store.base(segment)), "{what}");
    }
}

#[test]
fn swapped_and_copied_segments_are_named_and_strange_files_are_left_alone() {
    let store = Store::new();
    for (a, b) in [(0, 1), (0, store.slots.len() - 1), (1, 2)] {
        let dir = store.copy();
        std::fs::rename(dir.join(&store.slots[a]), dir.join("aside")).unwrap();
        std::fs::rename(dir.join(&store.slots[b]), dir.join(&store.slots[a])).unwrap();
        std::fs::rename(dir.join("aside"), dir.join(&store.slots[b])).unwrap();
        let Found::Unusable(file) = look(&dir, 0..COUNT, "swapped") else { panic!("{a} and {b} were swapped") };
        assert!(file == store.slots[a] || file == store.slots[b], "{file:?}");
    }
    let dir = store.copy();
    std::fs::copy(dir.join(&store.slots[0]), dir.join("seg-00000042.rwal")).unwrap();
    assert_eq!(look(&dir, 0..COUNT, "copied"), Found::Unusable("seg-00000042.rwal".into()));

    let strange: [(&str, Vec<u8>); 6] = [
        ("notes.txt", b"mine".to_vec()),
        ("META.bak", vec![7; 5000]),
        ("seg-1.rwal", vec![7; 5000]),
        ("seg-00000001.rwal~", vec![7; 5000]),
        ("SEG-00000001.RWAL", Vec::new()),
        ("seg-99999999999.rwal", vec![1; 10]),
    ];
    let dir = store.copy();
    strange.iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
    std::fs::create_dir(dir.join("seg-00000077.rwal")).unwrap();
    std::fs::write(dir.join("seg-00000077.rwal/mine"), "mine").unwrap();
    assert_eq!(look(&dir, 0..COUNT, "strange files"), Found::Whole);
    for (name, bytes) in &strange {
        assert_eq!(&std::fs::read(dir.join(name)).unwrap(), bytes, "{name} was changed");
    }
    assert_eq!(std::fs::read(dir.join("seg-00000077.rwal/mine")).unwrap(), b"mine");
    // What has a segment's name and says nothing is a place for one: an interrupted preparation looks like that.
    for bytes in [Vec::new(), vec![0; 512 << 10], vec![9; 512 << 10], vec![9; 4097]] {
        let dir = store.copy();
        std::fs::write(dir.join("seg-00000077.rwal"), bytes).unwrap();
        assert_eq!(look(&dir, 0..COUNT, "an unprepared slot"), Found::Whole);
    }
}

/// Copies some of the files of another time.
fn bring(from: &Path, to: &Path, which: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if which(name.to_str().unwrap()) {
            std::fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

#[test]
fn a_directory_put_together_from_two_times_is_harmless_or_reported() {
    let root = tempdir();
    let (now, early, late, consumed) =
        (root.path().join("now"), root.path().join("early"), root.path().join("late"), root.path().join("consumed"));
    fill(&now, 0..300);
    copy_dir(&now, &early);
    fill(&now, 300..COUNT);
    copy_dir(&now, &late);
    let sink = Recorder::default();
    let queue = open(&now, OnCorruption::Stop, &sink).unwrap();
    drain(&queue);
    queue.shutdown(LONG).unwrap();
    // Enough to use every slot again.
    let mut next = COUNT;
    for _ in 0..3 {
        let queue = open(&now, OnCorruption::Stop, &sink).unwrap();
        (next..next + 1000).for_each(|n| _ = queue.producer().push(entry(n)).unwrap());
        drain(&queue);
        queue.shutdown(LONG).unwrap();
        next += 1000;
    }
    let pending = next..next + 200;
    fill(&now, pending.clone());
    copy_dir(&now, &consumed);
    let all = u64::from(pending.end);

    let mixed = |meta: &Path, segments: &Path| {
        let dir = root.path().join("mixed");
        let _ = std::fs::remove_dir_all(&dir);
        copy_dir(segments, &dir);
        bring(meta, &dir, |name| name == "META");
        dir
    };
    let is_meta = "META of one time and segments of another";
    // An old META beside newer segments: what it says of an orderly end is about another time.
    assert_eq!(look(&mixed(&early, &late), 0..COUNT, is_meta), Found::Whole);
    // A newer META knows of entries that the older segments do not hold.
    assert_eq!(look(&mixed(&late, &early), 0..COUNT, is_meta), Found::Refused(301, u64::from(COUNT)));
    assert_eq!(rest_of(&mixed(&late, &early), 0..COUNT, is_meta), 300);
    // The sink has had all that the old cursor asks for: it is missing, up to what waits now, and no further.
    for old in [&early, &late] {
        match look(&mixed(old, &consumed), pending.clone(), is_meta) {
            Found::Refused(first, last) => {
                assert!(first == 1 && last <= u64::from(pending.start), "{first} to {last} of {pending:?}");
            }
            other => panic!("{other:?}"),
        }
        let came = rest_of(&mixed(old, &consumed), pending.clone(), is_meta);
        assert!(came >= pending.len(), "{came}");
    }
    // What waits now is in none of the old segments.
    for old in [&early, &late] {
        match look(&mixed(&consumed, old), pending.clone(), is_meta) {
            Found::Refused(first, last) => assert_eq!((first, last), (u64::from(pending.start) + 1, all)),
            other => panic!("{other:?}"),
        }
    }
    // A whole directory of an earlier time is a whole directory.
    for (dir, numbers) in [(early, 0..300), (late, 0..COUNT), (consumed, pending)] {
        assert_eq!(look(&dir, numbers, "an earlier time"), Found::Whole);
    }
}
