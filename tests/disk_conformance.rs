//! Every disk keeps the same promises: one suite, run on each driver and on two file systems.
//!
//! What a kernel refuses is played by a seccomp filter on the test's own thread, which the disk's
//! threads inherit: no root, no special file system.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwal::SlotNo;
use ringwal::io::{Disk, DiskReport, Io, IoConfig, IoOpenError, RamDisk, Wake, open};
use ringwal::wal::block::{Block, BlockMut, Pool};
use ringwal::wal::op::{Completion, DiskError, FileId, LogId, Op, Output, Owner, Token};

const BLOCK: usize = 4096;
const SLOT: FileId = FileId::Slot(LogId::Main, SlotNo(3));
const OTHER: FileId = FileId::Slot(LogId::Main, SlotNo(4));
const PARKED: FileId = FileId::Slot(LogId::Park, SlotNo(0));
const LONG: Duration = Duration::from_secs(20);

/// Where a disk of the suite lives.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Uring,
    UringOnTmpfs,
    Threads,
    ThreadsOnTmpfs,
    #[cfg(feature = "tokio-uring")]
    TokioUring,
    #[cfg(feature = "tokio-uring")]
    TokioUringOnTmpfs,
    Memory,
}

/// The kinds that lie on a disk, one for each driver.
const ON_DISK: &[Kind] = &[
    Kind::Uring,
    Kind::Threads,
    #[cfg(feature = "tokio-uring")]
    Kind::TokioUring,
];

/// A disk with its memory and, on a file system, its directory.
struct Rig {
    disk: Option<Box<dyn Disk>>,
    pool: Pool,
    dir: Option<tempfile::TempDir>,
    next: u32,
}

fn config(choice: Io) -> IoConfig {
    IoConfig { choice, lock_wait: Duration::ZERO, create: true, read_only: false }
}

fn temp_dir(tmpfs: bool) -> tempfile::TempDir {
    let builder = |at: &Path| tempfile::Builder::new().prefix("ringwal-io-").tempdir_in(at);
    // Where there is no place in memory, the disk once more.
    let in_memory = tmpfs.then(|| builder(Path::new("/dev/shm")).ok()).flatten();
    in_memory.unwrap_or_else(|| builder(&std::env::temp_dir()).unwrap())
}

/// `None`, and loudly so, where this machine has no io_uring.
fn rig(kind: Kind) -> Option<Rig> {
    let pool = Pool::new(64, 64 << 10).unwrap();
    let (choice, tmpfs) = match kind {
        Kind::Uring => (Io::Uring, false),
        Kind::UringOnTmpfs => (Io::Uring, true),
        Kind::Threads => (Io::Threads, false),
        Kind::ThreadsOnTmpfs => (Io::Threads, true),
        #[cfg(feature = "tokio-uring")]
        Kind::TokioUring => (Io::TokioUring, false),
        #[cfg(feature = "tokio-uring")]
        Kind::TokioUringOnTmpfs => (Io::TokioUring, true),
        Kind::Memory => return Some(Rig { disk: Some(Box::new(RamDisk::new())), pool, dir: None, next: 0 }),
    };
    let dir = temp_dir(tmpfs);
    match open(dir.path(), config(choice)) {
        Ok(opened) => {
            let disk = opened.into_disk(&pool).unwrap();
            Some(Rig { disk: Some(disk), pool, dir: Some(dir), next: 0 })
        }
        Err(IoOpenError::UringRefused { errno, remedy }) => {
            eprintln!("SKIPPED {kind:?}: no io_uring here (error {errno}): {remedy}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Rig {
    fn disk(&mut self) -> &mut dyn Disk {
        self.disk.as_deref_mut().unwrap()
    }

    fn submit(&mut self, op: Op) -> Token {
        self.next += 1;
        let token = Token { owner: Owner::Log(LogId::Main), number: self.next };
        self.disk().submit(token, op);
        token
    }

    fn next(&mut self) -> Completion {
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            if let Some(completion) = self.disk().complete(Some(Duration::from_secs(1))) {
                return completion;
            }
        }
        panic!("no completion in {LONG:?}");
    }

    fn run(&mut self, op: Op) -> Result<Output, DiskError> {
        let token = self.submit(op);
        let completion = self.next();
        assert_eq!(completion.token, token);
        completion.result
    }

    fn done(&mut self, op: Op) {
        match self.run(op) {
            Ok(Output::Done) => {}
            other => panic!("{other:?}"),
        }
    }

    fn block(&self, byte: u8, len: usize) -> Block {
        let mut block = self.pool.take().expect("the pool has a chunk");
        block.truncate(len);
        block.fill(byte);
        block.freeze()
    }

    fn prepare(&mut self, file: FileId, len: u64) {
        let mark = self.block(b'm', BLOCK);
        self.done(Op::Prepare { file, len, mark, urgent: true });
    }

    fn write(&mut self, file: FileId, offset: u64, byte: u8, len: usize, dsync: bool) {
        let block = self.block(byte, len);
        self.done(Op::Write { file, offset, block, dsync });
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<BlockMut, DiskError> {
        let mut block = self.pool.take().expect("the pool has a chunk");
        block.truncate(len);
        block.fill(0xEE);
        match self.run(Op::Read { file, offset, block })? {
            Output::Bytes(block) => Ok(block),
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, log: LogId) -> Vec<(FileId, u64)> {
        match self.run(Op::List { log }) {
            Ok(Output::Files(files)) => files,
            other => panic!("{other:?}"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(@kind uring Uring $($name)*);
        suite!(@kind uring_on_tmpfs UringOnTmpfs $($name)*);
        suite!(@kind threads Threads $($name)*);
        suite!(@kind threads_on_tmpfs ThreadsOnTmpfs $($name)*);
        #[cfg(feature = "tokio-uring")]
        suite!(@kind tokio_uring TokioUring $($name)*);
        #[cfg(feature = "tokio-uring")]
        suite!(@kind tokio_uring_on_tmpfs TokioUringOnTmpfs $($name)*);
        suite!(@kind memory Memory $($name)*);
    };
    (@kind $module:ident $kind:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                if let Some(rig) = super::rig(super::Kind::$kind) {
                    super::$name(rig);
                }
            })*
        }
    };
}

suite!(
    what_is_written_is_read_back,
    a_prepared_file_is_zeros_behind_its_mark,
    preparing_again_overwrites_and_fits_the_length,
    a_prepare_of_odd_length_is_refused,
    reading_past_the_end_gives_zeros,
    lists_tell_files_of_one_log_in_order,
    a_removed_file_is_gone_and_its_name_is_free_again,
    what_is_written_goes_into_the_file_that_was_prepared_last,
    ops_on_a_missing_file_fail_with_their_names,
    quarantine_copies_and_leaves_the_file,
    many_ops_complete_each_once_in_any_order,
    more_ops_than_the_disk_has_room_for_wait_their_turn,
    looking_once_and_again_is_enough_to_get_on,
    a_doorbell_before_the_wait_is_not_lost,
    a_doorbell_from_another_thread_ends_the_wait,
    looking_once_does_not_swallow_the_doorbell,
    a_doorbell_beside_a_completion_is_not_lost,
    a_timeout_ends_the_wait,
    signals_do_not_end_the_wait,
    dropping_with_ops_in_flight_gives_every_block_back,
    a_file_may_go_while_reads_of_it_are_in_flight,
    a_hurried_prepare_overtakes_the_pace,
);

fn what_is_written_is_read_back(mut rig: Rig) {
    rig.prepare(SLOT, 1 << 20);
    rig.write(SLOT, 8192, 1, BLOCK, true);
    rig.write(SLOT, 65_536, 2, 65_536, false);
    rig.done(Op::Sync { file: SLOT });
    assert!(rig.read(SLOT, 8192, BLOCK).unwrap().iter().all(|b| *b == 1));
    assert!(rig.read(SLOT, 65_536, 65_536).unwrap().iter().all(|b| *b == 2));
    assert!(rig.read(SLOT, 4096, BLOCK).unwrap().iter().all(|b| *b == 0), "a neighbour stays as it was");
}

fn a_prepared_file_is_zeros_behind_its_mark(mut rig: Rig) {
    const LEN: u64 = (256 << 10) + BLOCK as u64;
    rig.prepare(SLOT, LEN);
    assert_eq!(rig.list(LogId::Main), [(SLOT, LEN)]);
    assert!(rig.read(SLOT, 0, BLOCK).unwrap().iter().all(|b| *b == b'm'));
    for offset in (BLOCK as u64..LEN).step_by(BLOCK) {
        assert!(rig.read(SLOT, offset, BLOCK).unwrap().iter().all(|b| *b == 0), "at {offset}");
    }
    if let Some(dir) = &rig.dir {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let stat = std::fs::metadata(dir.path().join(SLOT.to_string())).unwrap();
        assert_eq!(stat.permissions().mode() & 0o777, 0o600);
        assert!(stat.blocks() * 512 >= LEN, "its space is taken, not only its length");
    }
}

fn preparing_again_overwrites_and_fits_the_length(mut rig: Rig) {
    rig.prepare(SLOT, 512 << 10);
    rig.write(SLOT, 8192, 7, BLOCK, true);
    rig.prepare(SLOT, 128 << 10);
    assert_eq!(rig.list(LogId::Main), [(SLOT, 128 << 10)]);
    assert!(rig.read(SLOT, 8192, BLOCK).unwrap().iter().all(|b| *b == 0));
}

fn a_prepare_of_odd_length_is_refused(mut rig: Rig) {
    let mark = rig.block(1, BLOCK);
    let error = rig.run(Op::Prepare { file: SLOT, len: 100_000, mark, urgent: true }).unwrap_err();
    assert_eq!((error.what, error.errno, error.file), ("prepare", libc::EINVAL, Some(SLOT)));
    assert!(rig.list(LogId::Main).is_empty());
}

fn reading_past_the_end_gives_zeros(mut rig: Rig) {
    rig.prepare(SLOT, 16_384);
    rig.write(SLOT, 12_288, 9, BLOCK, true);
    let across = rig.read(SLOT, 12_288, 65_536 - 12_288).unwrap();
    assert!(across[..BLOCK].iter().all(|b| *b == 9));
    assert!(across[BLOCK..].iter().all(|b| *b == 0));
    drop(across);
    assert!(rig.read(SLOT, 1 << 30, BLOCK).unwrap().iter().all(|b| *b == 0));
    if let Some(dir) = &rig.dir {
        // A file that was cut within a block from outside.
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(SLOT.to_string())).unwrap();
        file.set_len(12_288 + 100).unwrap();
        let cut = rig.read(SLOT, 8192, 16_384).unwrap();
        assert!(cut[BLOCK..BLOCK + 100].iter().all(|b| *b == 9));
        assert!(cut[BLOCK + 100..].iter().all(|b| *b == 0));
    }
}

fn lists_tell_files_of_one_log_in_order(mut rig: Rig) {
    assert!(rig.list(LogId::Main).is_empty());
    assert!(rig.list(LogId::Park).is_empty());
    for (file, len) in [(OTHER, 8192), (SLOT, 16_384), (FileId::Meta(LogId::Main), 12_288), (PARKED, 4096)] {
        rig.prepare(file, len);
    }
    if let Some(dir) = &rig.dir {
        std::fs::write(dir.path().join("seg-1.rwal"), b"not ours").unwrap();
        std::fs::create_dir(dir.path().join("seg-00000009.rwal")).unwrap();
    }
    assert_eq!(rig.list(LogId::Main), [(FileId::Meta(LogId::Main), 12_288), (SLOT, 16_384), (OTHER, 8192)]);
    assert_eq!(rig.list(LogId::Park), [(PARKED, 4096)]);
}

fn a_removed_file_is_gone_and_its_name_is_free_again(mut rig: Rig) {
    rig.prepare(SLOT, 8192);
    rig.write(SLOT, 4096, 5, BLOCK, true);
    rig.done(Op::Remove { file: SLOT });
    assert!(rig.list(LogId::Main).is_empty());
    if rig.dir.is_some() {
        assert_eq!(held_deleted(rig.path()), 0, "no descriptor keeps a removed file's space");
    }
    assert_eq!(rig.read(SLOT, 0, BLOCK).unwrap_err().errno, libc::ENOENT);
    rig.prepare(SLOT, 8192);
    assert!(rig.read(SLOT, 4096, BLOCK).unwrap().iter().all(|b| *b == 0), "not the removed file's bytes");
    rig.done(Op::Remove { file: OTHER });
}

/// Found by reading: a prepare that met a full disk had removed the file, and the next one made another. What was written
/// then still went into the removed one: told durable, and gone with the process.
fn what_is_written_goes_into_the_file_that_was_prepared_last(mut rig: Rig) {
    rig.prepare(SLOT, 16_384);
    rig.done(Op::Sync { file: SLOT });
    let Some(path) = rig.dir.as_ref().map(|dir| dir.path().join(SLOT.to_string())) else { return };
    std::fs::remove_file(&path).unwrap();
    rig.prepare(SLOT, 16_384);
    rig.write(SLOT, 8192, 7, BLOCK, true);
    assert!(std::fs::read(&path).unwrap()[8192..8192 + BLOCK].iter().all(|b| *b == 7), "it is in another file");
    assert_eq!(held_deleted(rig.path()), 0, "no descriptor keeps a removed file's space");
}

/// Descriptors of this process, and entries of its rings' tables, that lead to removed files below `dir`.
fn held_deleted(dir: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
    let links: Vec<String> = links.map(|to| to.to_string_lossy().into_owned()).collect();
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let tables = infos.filter_map(|e| std::fs::read_to_string(e.ok()?.path()).ok());
    let lines = tables.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    let dir = dir.to_string_lossy().into_owned();
    links.into_iter().chain(lines).filter(|to| to.contains(&dir) && to.contains("deleted")).count()
}

fn ops_on_a_missing_file_fail_with_their_names(mut rig: Rig) {
    let block = rig.block(1, BLOCK);
    let error = rig.run(Op::Write { file: PARKED, offset: 8192, block, dsync: true }).unwrap_err();
    assert_eq!((error.what, error.file, error.offset, error.errno), ("write", Some(PARKED), Some(8192), libc::ENOENT));
    assert_eq!(rig.read(SLOT, 0, BLOCK).unwrap_err().what, "read");
    assert_eq!(rig.run(Op::Sync { file: SLOT }).unwrap_err().what, "sync");
    assert_eq!(rig.run(Op::Quarantine { file: SLOT }).unwrap_err().what, "quarantine");
    assert_eq!(rig.pool.free(), rig.pool.chunks(), "a refused op gives its block back");
}

fn quarantine_copies_and_leaves_the_file(mut rig: Rig) {
    rig.prepare(SLOT, 192 << 10);
    rig.write(SLOT, 4096, 3, 8192, true);
    rig.done(Op::Quarantine { file: SLOT });
    rig.write(SLOT, 4096, 4, 8192, true);
    rig.done(Op::Quarantine { file: SLOT });
    rig.prepare(PARKED, 8192);
    rig.done(Op::Quarantine { file: PARKED });
    assert!(rig.read(SLOT, 4096, 8192).unwrap().iter().all(|b| *b == 4));
    if let Some(dir) = &rig.dir {
        let copy = |name: &str| std::fs::read(dir.path().join("quarantine").join(name)).unwrap();
        let (first, second) = (copy("seg-00000003.rwal.1"), copy("seg-00000003.rwal.2"));
        assert_eq!((first.len(), second.len()), (192 << 10, 192 << 10));
        assert_eq!((first[0], first[4096], first[12_288], second[4096]), (b'm', 3, 0, 4));
        assert_eq!(copy("park-seg-00000000.rwal.1").len(), 8192);
    }
}

fn many_ops_complete_each_once_in_any_order(mut rig: Rig) {
    rig.prepare(SLOT, 1 << 20);
    rig.prepare(OTHER, 1 << 20);
    let mut seed = 7_u64;
    for round in 0..20_u8 {
        let mut open = std::collections::HashSet::new();
        for place in 0..24_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let file = if seed >> 63 == 0 { SLOT } else { OTHER };
            let block = rig.block(round, BLOCK);
            let op = Op::Write { file, offset: 4096 + place * 8192, block, dsync: seed >> 62 & 1 == 0 };
            open.insert(rig.submit(op));
        }
        while !open.is_empty() {
            let completion = rig.next();
            assert!(open.remove(&completion.token), "{completion:?} twice, or never asked for");
            assert!(completion.result.is_ok(), "{completion:?}");
        }
    }
    assert!(rig.disk().complete(Some(Duration::ZERO)).is_none());
    assert_eq!(rig.pool.free(), rig.pool.chunks());
}

fn more_ops_than_the_disk_has_room_for_wait_their_turn(mut rig: Rig) {
    const OPS: usize = 700;
    rig.prepare(SLOT, 4 << 20);
    let block = rig.block(8, BLOCK);
    for place in 0..OPS as u64 {
        let op = Op::Write { file: SLOT, offset: 4096 + place * 4096, block: block.clone(), dsync: false };
        rig.submit(op);
    }
    for _ in 0..OPS {
        assert!(rig.next().result.is_ok());
    }
    assert!(rig.read(SLOT, 4096 * OPS as u64, BLOCK).unwrap().iter().all(|b| *b == 8));
    assert!(rig.read(SLOT, 4096 * (OPS as u64 + 1), BLOCK).unwrap().iter().all(|b| *b == 0));
}

/// Also for ops that were submitted while there was something to give. On tokio-uring nothing was ever sent so, and
/// this counted the errors of a ring that was given up after a second as ops that had ended.
fn looking_once_and_again_is_enough_to_get_on(mut rig: Rig) {
    fn look(rig: &mut Rig) -> usize {
        let ended = rig.disk().complete(Some(Duration::ZERO)).map(|completion| completion.result.unwrap());
        usize::from(ended.is_some())
    }
    rig.prepare(SLOT, 1 << 20);
    for place in 1..20 {
        let end = Instant::now() + LONG;
        let mut ended = 0;
        for half in [0, BLOCK as u64] {
            let block = rig.block(1, BLOCK);
            rig.submit(Op::Write { file: SLOT, offset: place * 8192 + half, block, dsync: true });
            if half == 0 {
                // It may have ended meanwhile.
                std::thread::sleep(Duration::from_millis(1));
            }
            ended += look(&mut rig);
        }
        while ended < 2 {
            ended += look(&mut rig);
            assert!(Instant::now() < end, "a look does not send what was submitted");
        }
    }
}

fn a_doorbell_before_the_wait_is_not_lost(mut rig: Rig) {
    // Once on a disk that has never waited, once on one that has.
    for _ in 0..2 {
        rig.disk().doorbell().wake();
        let begun = Instant::now();
        assert!(rig.disk().complete(Some(LONG)).is_none());
        assert!(begun.elapsed() < LONG / 2, "it slept through the bell");
        assert!(rig.disk().complete(Some(Duration::from_millis(1))).is_none());
    }
}

fn a_doorbell_from_another_thread_ends_the_wait(mut rig: Rig) {
    let bell: Arc<dyn Wake> = rig.disk().doorbell();
    for _ in 0..3 {
        let bell = Arc::clone(&bell);
        let begun = Instant::now();
        let ringer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            bell.wake();
        });
        assert!(rig.disk().complete(None).is_none());
        assert!(begun.elapsed() >= Duration::from_millis(30), "it ended by itself");
        ringer.join().unwrap();
    }
}

fn looking_once_does_not_swallow_the_doorbell(mut rig: Rig) {
    let _ = rig.disk().complete(Some(Duration::from_millis(1)));
    rig.disk().doorbell().wake();
    for _ in 0..3 {
        assert!(rig.disk().complete(Some(Duration::ZERO)).is_none());
    }
    let begun = Instant::now();
    assert!(rig.disk().complete(Some(LONG)).is_none());
    assert!(begun.elapsed() < LONG / 2, "looking once took the bell away from the wait");
}

fn a_doorbell_beside_a_completion_is_not_lost(mut rig: Rig) {
    rig.prepare(SLOT, 65_536);
    for _ in 0..5 {
        let block = rig.block(1, BLOCK);
        rig.submit(Op::Write { file: SLOT, offset: 4096, block, dsync: true });
        rig.disk().doorbell().wake();
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let (first, second) = (rig.disk().complete(Some(LONG)), rig.disk().complete(Some(LONG)));
        assert!(begun.elapsed() < LONG / 2, "the completion took the bell away, or the other way round");
        assert!(first.is_some() != second.is_some(), "{first:?}, {second:?}");
    }
}

fn a_timeout_ends_the_wait(mut rig: Rig) {
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(rig.disk().complete(Some(Duration::from_millis(30))).is_none());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(29) && took < LONG / 2, "{took:?}");
    }
}

fn signals_do_not_end_the_wait(mut rig: Rig) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all-zero is a valid `sigaction`: no flags (hence no restart), an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler does nothing, which may be done at any moment.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) }, 0);
    // SAFETY: no memory is involved.
    let sleeper = unsafe { libc::pthread_self() };
    let disturber = std::thread::spawn(move || {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: the sleeper joins this thread before it ends.
            unsafe { libc::pthread_kill(sleeper, libc::SIGUSR1) };
        }
    });
    rig.prepare(SLOT, 65_536);
    let begun = Instant::now();
    assert!(rig.disk().complete(Some(Duration::from_millis(120))).is_none());
    assert!(begun.elapsed() >= Duration::from_millis(119), "a signal ended it after {:?}", begun.elapsed());
    disturber.join().unwrap();
    rig.write(SLOT, 4096, 1, BLOCK, true);
}

fn dropping_with_ops_in_flight_gives_every_block_back(mut rig: Rig) {
    rig.prepare(SLOT, 4 << 20);
    rig.prepare(OTHER, 1 << 20);
    for place in 0..30 {
        let block = rig.block(1, 65_536);
        rig.submit(Op::Write { file: SLOT, offset: 65_536 * (1 + place), block, dsync: true });
        if place == 15 {
            let _ = rig.disk().complete(Some(Duration::ZERO));
        }
    }
    let mark = rig.block(1, BLOCK);
    rig.submit(Op::Prepare { file: PARKED, len: 64 << 20, mark, urgent: false });
    let block = rig.pool.take().unwrap();
    rig.submit(Op::Read { file: OTHER, offset: 0, block });
    rig.disk().doorbell().wake();
    let bell = rig.disk().doorbell();
    let begun = Instant::now();
    drop(rig.disk.take());
    assert!(begun.elapsed() < LONG / 2);
    assert_eq!(rig.pool.free(), rig.pool.chunks());
    bell.wake();
    if let Some(dir) = &rig.dir {
        let half_made = dir.path().join(PARKED.to_string());
        assert!(!half_made.exists() || half_made.metadata().unwrap().len() == 64 << 20, "half a file is left");
        let mut bytes = std::fs::read(dir.path().join(SLOT.to_string())).unwrap();
        assert!(bytes.drain(65_536..31 * 65_536).all(|b| b == 1), "drop did not wait for the writes");
        drop(open(dir.path(), config(Io::Threads)).expect("the lock is free again"));
    }
}

/// Found by opening a directory thousands of times: reads ahead that nobody wants any more may still be under way
/// when their slot is removed. The flush core panicked then.
fn a_file_may_go_while_reads_of_it_are_in_flight(mut rig: Rig) {
    for round in 1..20 {
        rig.prepare(SLOT, 1 << 20);
        rig.write(SLOT, 8192, round, BLOCK, true);
        let reads: Vec<_> = (0..8)
            .map(|_| {
                let block = rig.pool.take().unwrap();
                rig.submit(Op::Read { file: SLOT, offset: 8192, block })
            })
            .collect();
        let removed = rig.submit(Op::Remove { file: SLOT });
        // The same name again, for another file.
        let mark = rig.block(round + 100, BLOCK);
        let prepared = rig.submit(Op::Prepare { file: SLOT, len: 1 << 20, mark, urgent: true });
        let mut ended: Vec<_> = (0..10).map(|_| rig.next()).collect();
        ended.sort_by_key(|completion| completion.token.number);
        let tokens: Vec<_> = ended.iter().map(|completion| completion.token).collect();
        assert_eq!(tokens, [&reads[..], &[removed, prepared]].concat());
        for completion in ended {
            if let Output::Bytes(block) = completion.result.unwrap() {
                assert!(block[..BLOCK].iter().all(|byte| *byte == round));
            }
        }
        let block = rig.pool.take().unwrap();
        let Output::Bytes(block) = rig.run(Op::Read { file: SLOT, offset: 0, block }).unwrap() else { panic!() };
        assert!(block[..BLOCK].iter().all(|byte| *byte == round + 100), "the file that is gone is read");
    }
}

fn a_hurried_prepare_overtakes_the_pace(mut rig: Rig) {
    // 64 MiB a second, so that this one takes one and a half seconds unless it is hurried. A busy machine may be
    // slower by itself, but not each time; a pace that is kept is never faster.
    for attempt in 1.. {
        let mark = rig.block(1, BLOCK);
        let begun = Instant::now();
        let paced = rig.submit(Op::Prepare { file: SLOT, len: 96 << 20, mark: mark.clone(), urgent: false });
        if rig.dir.is_some()
            && let Some(ended) = rig.disk().complete(Some(Duration::from_millis(400)))
        {
            // This thread had no turn until it was over.
            assert!(begun.elapsed() > Duration::from_millis(1400), "it is not paced");
            assert!(ended.token == paced && ended.result.is_ok() && attempt < 15, "{ended:?}");
            continue;
        }
        let urgent = rig.submit(Op::Prepare { file: OTHER, len: 1 << 20, mark, urgent: true });
        let begun = Instant::now();
        let (first, second) = (rig.next(), rig.next());
        assert!(first.result.is_ok() && second.result.is_ok());
        assert_eq!((first.token, second.token), (paced, urgent));
        if rig.dir.is_none() || begun.elapsed() < Duration::from_millis(950) {
            return;
        }
        assert!(attempt < 15, "not hurried: {:?}", begun.elapsed());
    }
}

fn report_of(kind: Kind) -> Option<DiskReport> {
    rig(kind).map(|rig| rig.disk.unwrap().report())
}

#[test]
fn reports_say_what_the_disk_is() {
    if let Some(report) = report_of(Kind::Uring) {
        assert_eq!(report.driver, "io_uring");
    }
    #[cfg(feature = "tokio-uring")]
    if let Some(report) = report_of(Kind::TokioUring) {
        assert_eq!(report.driver, "tokio-uring");
    }
    let report = report_of(Kind::Threads).unwrap();
    assert_eq!(report.driver, "threads");
    assert!(report.block_len_min.is_power_of_two() && (512..=65_536).contains(&report.block_len_min));
    let report = report_of(Kind::ThreadsOnTmpfs).unwrap();
    assert_eq!((report.file_system.as_str(), report.durable, report.direct), ("tmpfs", false, false));
    assert!(report.notes.iter().any(|note| note.contains("nothing here survives")));
    let report = report_of(Kind::Memory).unwrap();
    assert_eq!((report.driver, report.durable), ("memory", false));
}

mod opening {
    use super::*;

    #[test]
    fn a_second_opener_is_told_who_holds_it_until_the_first_lets_go() {
        let dir = temp_dir(false);
        let first = open(dir.path(), config(Io::Threads)).unwrap();
        let before = std::fs::read_dir(dir.path()).unwrap().count();
        match open(dir.path(), config(Io::Threads)) {
            Err(error @ IoOpenError::Locked { pid, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
        drop(first);
        drop(open(dir.path(), config(Io::Threads)).unwrap());
    }

    #[test]
    fn waiting_for_the_lock_gets_it() {
        let dir = temp_dir(false);
        let first = open(dir.path(), config(Io::Threads)).unwrap();
        let begun = Instant::now();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            drop(first);
        });
        let patient = IoConfig { lock_wait: LONG, ..config(Io::Threads) };
        drop(open(dir.path(), patient).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(60));
        holder.join().unwrap();
    }

    #[test]
    fn a_forked_child_does_not_keep_the_lock() {
        let dir = temp_dir(false);
        let held = open(dir.path(), config(Io::Threads)).unwrap();
        // SAFETY: the child only sleeps in system calls until it is killed.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                // SAFETY: `pause` waits for a signal.
                unsafe { libc::pause() };
            }
        }
        assert!(child > 0);
        let keeps = || {
            std::fs::read_dir(format!("/proc/{child}/fd"))
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .any(|to| to == dir.path().join("LOCK"))
        };
        // The child may not have come to its handler yet.
        let deadline = Instant::now() + LONG / 4;
        while keeps() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let kept = keeps();
        drop(held);
        let reopened = open(dir.path(), config(Io::Threads));
        // SAFETY: `child` was started above and not waited for yet.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above; its status is not asked for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        assert!(!kept, "the child still has the lock's descriptor");
        reopened.unwrap();
    }

    /// Asks for the file's lock as an opener does.
    #[cfg(feature = "tokio-uring")]
    fn is_locked(path: &Path) -> bool {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(path).unwrap();
        // SAFETY: the file is open until the call returns; no memory is involved.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) != 0 }
    }

    /// The kernel goes on writing for a process that was killed, and keeps open what it writes. The ring of
    /// `tokio-uring` cannot be given the directory's lock to keep.
    #[cfg(feature = "tokio-uring")]
    #[test]
    fn files_that_tokio_uring_writes_are_locked_while_they_are_open() {
        let Some(mut rig) = rig(Kind::TokioUring) else { return };
        for file in [SLOT, PARKED] {
            rig.prepare(file, 65_536);
            let path = rig.path().join(file.to_string());
            assert!(!is_locked(&path), "the helper's writes end with the process");
            rig.write(file, 4096, 1, BLOCK, true);
            assert!(is_locked(&path));
            // The directory's own locks taken away, as if its owner had been killed.
            for lock in ["LOCK", ""] {
                unlock(&rig.path().join(lock));
            }
            let refused = open(rig.path(), config(Io::Threads));
            assert!(matches!(refused, Err(IoOpenError::Locked { .. })), "{refused:?}");
            rig.done(Op::Remove { file });
        }
        rig.prepare(SLOT, 65_536);
        rig.write(SLOT, 4096, 1, BLOCK, true);
        let path = rig.path().join(SLOT.to_string());
        drop(rig.disk.take());
        assert!(!is_locked(&path));
        drop(open(rig.path(), config(Io::Threads)).unwrap());
    }

    /// Lets go of what this process has locked at `path`.
    #[cfg(feature = "tokio-uring")]
    fn unlock(path: &Path) {
        for entry in std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok) {
            if std::fs::read_link(entry.path()).is_ok_and(|to| to.components().eq(path.components())) {
                let fd: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
                // SAFETY: no memory is involved.
                unsafe { libc::flock(fd, libc::LOCK_UN) };
            }
        }
    }

    #[test]
    fn a_directory_with_a_file_that_is_still_written_is_waited_for() {
        let dir = temp_dir(false);
        std::fs::create_dir(dir.path().join("park")).unwrap();
        for name in [SLOT.to_string(), PARKED.to_string(), "META".to_owned()] {
            let written = std::fs::File::create(dir.path().join(&name)).unwrap();
            written.lock_shared().unwrap();
            let refused = open(dir.path(), config(Io::Threads));
            assert!(matches!(refused, Err(IoOpenError::Locked { .. })), "{name}: {refused:?}");
            let writer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                drop(written);
            });
            drop(open(dir.path(), IoConfig { lock_wait: LONG, ..config(Io::Threads) }).unwrap());
            writer.join().unwrap();
        }
        // Other files are none of our business.
        let other = std::fs::File::create(dir.path().join("notes.txt")).unwrap();
        other.lock().unwrap();
        drop(open(dir.path(), config(Io::Threads)).unwrap());
    }

    #[test]
    fn what_is_no_directory_is_refused_by_name() {
        let dir = temp_dir(false);
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = open(&path, config(Io::Auto)).unwrap_err();
            assert!(matches!(error, IoOpenError::NotADirectory { .. }), "{error:?}");
            assert!(error.to_string().contains("file"), "{error}");
        }
    }

    #[test]
    fn a_missing_directory_is_created_only_if_asked() {
        let dir = temp_dir(false);
        let deep = dir.path().join("a/b/c");
        let asked = config(Io::Threads);
        for config in [IoConfig { create: false, ..asked }, IoConfig { read_only: true, ..asked }] {
            assert!(matches!(open(&deep, config), Err(IoOpenError::Missing { .. })));
            assert!(!dir.path().join("a").exists());
        }
        drop(open(&deep, asked).unwrap());
        assert!(deep.join("LOCK").exists());
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_refused() {
        let error = open(Path::new("/sys/kernel"), config(Io::Auto)).unwrap_err();
        assert!(matches!(error, IoOpenError::Permission { .. } | IoOpenError::ReadOnlyFs { .. }), "{error:?}");
    }

    #[test]
    fn a_reader_beside_the_holder_reads_and_writes_nothing() {
        let mut held = rig(Kind::Threads).unwrap();
        held.prepare(SLOT, 8192);
        let looks = IoConfig { read_only: true, create: false, ..config(Io::Threads) };
        let disk = open(held.path(), looks).unwrap().into_disk(&held.pool).unwrap();
        let mut reader = Rig { disk: Some(disk), pool: held.pool.clone(), dir: None, next: 0 };
        assert_eq!(reader.read(SLOT, 0, BLOCK).unwrap()[0], b'm');
        assert_eq!(reader.list(LogId::Main), [(SLOT, 8192)]);
        let block = reader.block(1, BLOCK);
        let ops = [
            Op::Write { file: SLOT, offset: 0, block: block.clone(), dsync: true },
            Op::Prepare { file: SLOT, len: 8192, mark: block, urgent: true },
            Op::Remove { file: SLOT },
            Op::Quarantine { file: SLOT },
        ];
        for op in ops {
            assert_eq!(reader.run(op).unwrap_err().errno, libc::EROFS);
        }
        reader.done(Op::Sync { file: SLOT });
        assert_eq!(held.read(SLOT, 0, BLOCK).unwrap()[0], b'm');
    }
}

/// What a kernel may refuse.
mod refusals {
    use super::*;

    /// What a ring is demanded with.
    const ON_A_RING: &[Io] = &[
        Io::Uring,
        #[cfg(feature = "tokio-uring")]
        Io::TokioUring,
    ];

    /// For which first argument a call is refused.
    #[derive(Clone, Copy)]
    enum On {
        Any,
        Fds([u32; 2]),
        NotFds([u32; 2]),
    }

    /// From now on, `call` of this thread and of those it starts answers `errno`.
    fn refuse(call: libc::c_long, errno: i32) {
        refuse_on(On::Any, call, errno);
    }

    fn refuse_on(on: On, call: libc::c_long, errno: i32) {
        let number = u32::try_from(call).unwrap();
        let line = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
        let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
        let load = |at| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
        let skip_if =
            |is: bool, value| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u8::from(is), u8::from(!is), value);
        let answer = |what| line(libc::BPF_RET | libc::BPF_K, 0, 0, what);
        let mut program = vec![load(0), skip_if(true, number), answer(libc::SECCOMP_RET_ALLOW)];
        // The first argument's lower half lies at 16 on a little-endian machine.
        let listed = |fds: [u32; 2], what| {
            [load(16), skip_if(false, fds[0]), answer(what), skip_if(false, fds[1]), answer(what)]
        };
        match on {
            On::Any => {}
            On::Fds(fds) => {
                program.extend(listed(fds, refusal));
                program.push(answer(libc::SECCOMP_RET_ALLOW));
            }
            On::NotFds(fds) => program.extend(listed(fds, libc::SECCOMP_RET_ALLOW)),
        }
        program.push(answer(refusal));
        let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        // SAFETY: the program lives until the call returns; the kernel copies it.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        assert_eq!(set, 0, "seccomp filters are refused here: {}", std::io::Error::last_os_error());
    }

    /// Runs `test` on a thread where `call` answers `errno`.
    fn refusing(call: libc::c_long, errno: i32, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            refuse(call, errno);
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn without_io_uring_auto_takes_threads_and_says_so() {
        for errno in [libc::EPERM, libc::ENOSYS] {
            refusing(libc::SYS_io_uring_setup, errno, move || {
                let dir = temp_dir(false);
                let pool = Pool::new(4, 64 << 10).unwrap();
                let opened = open(dir.path(), config(Io::Auto)).unwrap();
                assert_eq!(opened.report().driver, "threads");
                let disk = opened.into_disk(&pool).unwrap();
                let report = disk.report();
                let note = report.notes.iter().find(|note| note.contains("refuses io_uring")).expect("it says so");
                assert!(note.contains(&format!("os error {errno}")), "{note}");
                let remedy = if errno == libc::EPERM { "io_uring_setup" } else { "Linux 5.11" };
                assert!(note.contains(remedy), "{note}");
                let mut rig = Rig { disk: Some(disk), pool, dir: Some(dir), next: 0 };
                rig.prepare(SLOT, 8192);
                rig.write(SLOT, 4096, 1, BLOCK, true);
                drop(rig.disk.take());

                for choice in ON_A_RING {
                    match open(rig.path(), config(*choice)) {
                        Err(error @ IoOpenError::UringRefused { .. }) => assert!(error.to_string().contains(remedy)),
                        other => panic!("{other:?}"),
                    }
                }
                drop(open(rig.path(), config(Io::Threads)).expect("a refused opener keeps no lock"));
            });
        }
    }

    #[test]
    fn a_ring_refused_only_on_the_flush_thread_is_noticed_there() {
        let dir = temp_dir(false);
        let opened = |choice| open(dir.path(), config(choice));
        let (auto, pool) = (opened(Io::Auto).unwrap(), Pool::new(1, 64 << 10).unwrap());
        if auto.report().driver != "io_uring" {
            eprintln!("SKIPPED: no io_uring here");
            return;
        }
        refusing(libc::SYS_io_uring_setup, libc::ENOMEM, move || {
            let report = auto.into_disk(&pool).unwrap().report();
            assert_eq!(report.driver, "threads");
            assert!(report.notes.iter().any(|note| note.contains("ulimit -l")), "{report:?}");
        });
        for choice in ON_A_RING {
            let (demanded, pool) = (opened(*choice).unwrap(), Pool::new(1, 64 << 10).unwrap());
            refusing(libc::SYS_io_uring_setup, libc::EPERM, move || {
                let error = demanded.into_disk(&pool).err().expect("it was demanded");
                assert!(matches!(error, IoOpenError::UringRefused { errno: libc::EPERM, .. }), "{error:?}");
            });
        }
        opened(Io::Threads).expect("neither keeps the lock");
    }

    #[test]
    fn what_cannot_be_synced_is_not_prepared_nor_removed_nor_copied() {
        let mut before = rig(Kind::Threads).unwrap();
        before.prepare(OTHER, 8192);
        drop(before.disk.take());
        std::fs::write(before.path().join("META"), b"").unwrap();
        refusing(libc::SYS_fsync, libc::EIO, move || {
            let disk = open(before.path(), config(Io::Threads)).unwrap().into_disk(&before.pool).unwrap();
            let mut rig = Rig { disk: Some(disk), ..before };
            let mark = rig.block(1, BLOCK);
            for op in [
                Op::Prepare { file: SLOT, len: 65_536, mark: mark.clone(), urgent: true },
                Op::Prepare { file: PARKED, len: 65_536, mark, urgent: true },
                Op::Quarantine { file: OTHER },
                Op::Remove { file: OTHER },
            ] {
                assert_eq!(rig.run(op).unwrap_err().errno, libc::EIO);
            }
            assert_eq!(rig.list(LogId::Main), [(FileId::Meta(LogId::Main), 0)]);
            let copies = std::fs::read_dir(rig.path().join("quarantine"));
            assert_eq!(copies.map_or(0, Iterator::count), 0, "half a copy is left");
        });
    }

    /// The descriptors of a directory that has just been opened: the one that is synced and the lock's. Which has the lower
    /// number is chance where other threads open and close theirs.
    fn fds_of(dir: &Path) -> [u32; 2] {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let of_dir = fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == dir));
        let numbers: Vec<u32> = of_dir.map(|fd| fd.file_name().to_str().unwrap().parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    /// Found by reading: only who made a folder synced its name, and may have been killed in between.
    #[test]
    fn a_folder_that_somebody_else_has_made_has_its_name_synced() {
        let park = std::thread::spawn(|| {
            let dir = temp_dir(false);
            std::fs::create_dir(dir.path().join("park")).unwrap();
            let opened = open(dir.path(), config(Io::Threads)).unwrap();
            refuse_on(On::Fds(fds_of(dir.path())), libc::SYS_fsync, libc::EIO);
            let pool = Pool::new(4, 64 << 10).unwrap();
            let disk = opened.into_disk(&pool).unwrap();
            let mut rig = Rig { disk: Some(disk), pool, dir: Some(dir), next: 0 };
            let mark = rig.block(1, BLOCK);
            let error = rig.run(Op::Prepare { file: PARKED, len: 65_536, mark, urgent: true }).unwrap_err();
            assert_eq!(error.errno, libc::EIO);
        });
        park.join().unwrap();
        // The queue's own directory, as long as it holds no store.
        refusing(libc::SYS_fsync, libc::EIO, || {
            let dir = temp_dir(false);
            let error = open(dir.path(), config(Io::Threads)).unwrap_err();
            assert!(error.to_string().starts_with("cannot sync "), "{error}");
            std::fs::write(dir.path().join("META"), b"").unwrap();
            open(dir.path(), config(Io::Threads)).unwrap();
        });
    }

    #[test]
    fn neither_the_file_nor_its_name_goes_unsynced() {
        for name_only in [true, false] {
            std::thread::spawn(move || {
                let dir = temp_dir(false);
                let opened = open(dir.path(), config(Io::Threads)).unwrap();
                let fds = fds_of(dir.path());
                refuse_on(if name_only { On::Fds(fds) } else { On::NotFds(fds) }, libc::SYS_fsync, libc::EIO);
                let pool = Pool::new(4, 64 << 10).unwrap();
                let disk = opened.into_disk(&pool).unwrap();
                let mut rig = Rig { disk: Some(disk), pool, dir: Some(dir), next: 0 };
                let mark = rig.block(1, BLOCK);
                let error = rig.run(Op::Prepare { file: SLOT, len: 65_536, mark, urgent: true }).unwrap_err();
                assert_eq!(error.errno, libc::EIO);
                assert_eq!(rig.run(Op::Remove { file: SLOT }).is_err(), name_only);
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn no_space_while_a_file_is_overwritten_removes_what_is_left_of_it() {
        refusing(libc::SYS_pwrite64, libc::ENOSPC, || {
            let mut rig = rig(Kind::Threads).unwrap();
            std::fs::write(rig.path().join(SLOT.to_string()), vec![5; 8192]).unwrap();
            let mark = rig.block(1, BLOCK);
            let error = rig.run(Op::Prepare { file: SLOT, len: 1 << 20, mark, urgent: true }).unwrap_err();
            assert_eq!(error.errno, libc::ENOSPC);
            assert!(rig.list(LogId::Main).is_empty());
        });
    }

    #[test]
    fn a_ring_without_registration_works_and_says_so() {
        refusing(libc::SYS_io_uring_register, libc::ENOMEM, || {
            let Some(mut rig) = rig(Kind::Uring) else { return };
            assert!(rig.disk().report().notes.iter().any(|note| note.contains("not registered")));
            what_is_written_is_read_back(rig);
        });
    }

    #[test]
    fn without_dsync_writes_are_followed_by_a_sync() {
        refusing(libc::SYS_pwritev2, libc::EOPNOTSUPP, || {
            let mut rig = rig(Kind::Threads).unwrap();
            rig.prepare(SLOT, 65_536);
            assert!(!rig.disk().report().notes.iter().any(|note| note.contains("RWF_DSYNC")));
            rig.write(SLOT, 4096, 1, BLOCK, true);
            rig.write(SLOT, 8192, 2, BLOCK, true);
            let notes = rig.disk().report().notes;
            assert_eq!(notes.iter().filter(|note| note.contains("RWF_DSYNC")).count(), 1, "{notes:?}");
            assert_eq!(rig.read(SLOT, 8192, BLOCK).unwrap()[0], 2);
        });
    }

    #[test]
    fn a_failed_sync_behind_a_write_fails_the_write() {
        refusing(libc::SYS_pwritev2, libc::EOPNOTSUPP, || {
            let mut rig = rig(Kind::Threads).unwrap();
            let mark = rig.block(1, BLOCK);
            refuse(libc::SYS_fdatasync, libc::EIO);
            // The threads were started before: this filter is only for a disk that comes after it.
            drop(rig.disk.take());
            std::fs::write(rig.path().join(SLOT.to_string()), vec![0; 65_536]).unwrap();
            rig.disk = Some(open(rig.path(), config(Io::Threads)).unwrap().into_disk(&rig.pool).unwrap());
            let error = rig.run(Op::Write { file: SLOT, offset: 4096, block: mark, dsync: true }).unwrap_err();
            assert_eq!((error.what, error.errno, error.offset), ("write", libc::EIO, Some(4096)));
            assert_eq!(rig.run(Op::Sync { file: SLOT }).unwrap_err().errno, libc::EIO);
        });
    }

    #[test]
    fn no_space_leaves_no_half_made_file() {
        for (call, kind) in [
            (libc::SYS_fallocate, Kind::Threads),
            (libc::SYS_pwrite64, Kind::Threads),
            (libc::SYS_fallocate, Kind::Uring),
            (libc::SYS_pwritev2, Kind::Threads),
        ] {
            refusing(call, libc::ENOSPC, move || {
                let Some(mut rig) = rig(kind) else { return };
                for file in [SLOT, PARKED] {
                    let mark = rig.block(1, BLOCK);
                    let error = rig.run(Op::Prepare { file, len: 1 << 20, mark, urgent: true }).unwrap_err();
                    assert_eq!((error.what, error.errno), ("prepare", libc::ENOSPC));
                    assert!(error.is_no_space());
                    assert!(rig.list(file.log()).is_empty());
                }
            });
        }
    }

    #[test]
    fn no_space_before_anything_is_overwritten_leaves_a_file_as_it_was() {
        refusing(libc::SYS_fallocate, libc::ENOSPC, || {
            let mut rig = rig(Kind::Threads).unwrap();
            let path = rig.path().join(SLOT.to_string());
            std::fs::write(&path, vec![5; 8192]).unwrap();
            let mark = rig.block(1, BLOCK);
            let error = rig.run(Op::Prepare { file: SLOT, len: 1 << 20, mark, urgent: true }).unwrap_err();
            assert_eq!(error.errno, libc::ENOSPC);
            assert_eq!(std::fs::read(&path).unwrap(), vec![5; 8192]);
        });
    }

    #[test]
    fn without_fallocate_a_file_is_prepared_by_writing_it() {
        refusing(libc::SYS_fallocate, libc::EOPNOTSUPP, || {
            a_prepared_file_is_zeros_behind_its_mark(rig(Kind::Threads).unwrap());
        });
    }

    #[test]
    fn a_write_error_is_reported_once_and_not_retried() {
        refusing(libc::SYS_pwritev2, libc::EIO, || {
            let mut rig = rig(Kind::Threads).unwrap();
            std::fs::write(rig.path().join(SLOT.to_string()), vec![0; 65_536]).unwrap();
            let block = rig.block(1, BLOCK);
            let error = rig.run(Op::Write { file: SLOT, offset: 4096, block, dsync: true }).unwrap_err();
            assert_eq!((error.errno, error.offset), (libc::EIO, Some(4096)));
            assert!(rig.disk().complete(Some(Duration::from_millis(20))).is_none());
        });
    }

    #[test]
    fn a_call_that_is_interrupted_for_ever_becomes_an_error() {
        refusing(libc::SYS_pwritev2, libc::EINTR, || {
            let mut rig = rig(Kind::Threads).unwrap();
            std::fs::write(rig.path().join(SLOT.to_string()), vec![0; 65_536]).unwrap();
            let block = rig.block(1, BLOCK);
            let error = rig.run(Op::Write { file: SLOT, offset: 4096, block, dsync: true }).unwrap_err();
            assert_eq!((error.errno, error.detail), (libc::EINTR, "sent again too often"));
        });
    }

    /// More ops than a ring takes at once: those that wait for a place, and those that come later, must be answered too.
    fn a_ring_fails_in_use(kind: Kind, refusal: i32, errno: i32) {
        const OPS: usize = 140;
        std::thread::spawn(move || {
            let Some(mut rig) = rig(kind) else { return };
            rig.prepare(SLOT, 1 << 20);
            // Nobody knows of them whether the kernel has them; of those that waited, it does not.
            let (out, read) = (rig.block(1, BLOCK), rig.pool.take().unwrap());
            rig.submit(Op::Write { file: SLOT, offset: 4096, block: out, dsync: true });
            rig.submit(Op::Read { file: SLOT, offset: 8192, block: read });
            for _ in 2..OPS {
                rig.submit(Op::Sync { file: SLOT });
            }
            refuse(libc::SYS_io_uring_enter, refusal);
            let failed: Vec<_> = (0..OPS).map(|_| rig.next().result.unwrap_err()).collect();
            assert!(failed.iter().all(|error| error.errno == errno), "{failed:?}");
            // Without their memory they were all called a sync.
            let is_named = |what, offset| failed.iter().filter(|e| (e.what, e.offset) == (what, offset)).count();
            let named = [is_named("write", Some(4096)), is_named("read", Some(8192)), is_named("sync", None)];
            assert_eq!(named, [1, 1, OPS - 2], "{failed:?}");
            assert_eq!(rig.pool.free(), rig.pool.chunks() - 2, "memory that the kernel may have is not used again");
            let late = rig.block(1, BLOCK);
            let error = rig.run(Op::Write { file: SLOT, offset: 4096, block: late, dsync: true }).unwrap_err();
            assert_eq!((error.what, error.errno), ("write", errno));
            assert_eq!(rig.list(LogId::Main), [(SLOT, 1 << 20)], "the helper still answers");
            assert!(rig.disk().report().notes.iter().any(|note| note.contains("failed while in use")));
            drop(rig.disk.take());
            assert_eq!(rig.pool.free(), rig.pool.chunks() - 2, "nor when the disk is gone");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_ring_that_fails_in_use_fails_its_ops_and_frees_none_of_their_memory() {
        a_ring_fails_in_use(Kind::Uring, libc::EFAULT, libc::EFAULT);
    }

    /// `tokio-uring` does not tell why: an error that may pass is one when it does not.
    #[cfg(feature = "tokio-uring")]
    #[test]
    fn a_ring_of_tokio_uring_that_fails_in_use_is_found_out() {
        for refusal in [libc::EFAULT, libc::EAGAIN, libc::EBUSY] {
            a_ring_fails_in_use(Kind::TokioUring, refusal, libc::EIO);
        }
    }
}

/// A disk that hangs for as long as a test likes, played by a pipe: a read of it is in flight.
#[cfg(feature = "tokio-uring")]
struct Piped {
    rig: Rig,
}

#[cfg(feature = "tokio-uring")]
impl Piped {
    fn new() -> Option<Self> {
        let mut rig = rig(Kind::TokioUringOnTmpfs)?;
        if rig.disk().report().direct {
            eprintln!("SKIPPED: no place in memory, and a pipe takes no direct reads");
            return None;
        }
        let path = rig.path().join(SLOT.to_string());
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name ends with a zero and lives until the call returns.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let mut block = rig.pool.take().unwrap();
        block.truncate(BLOCK);
        rig.submit(Op::Read { file: SLOT, offset: 0, block });
        Some(Self { rig })
    }

    fn end_read(&self) {
        use std::io::Write;
        let path = self.rig.path().join(SLOT.to_string());
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(&[7; BLOCK]).unwrap();
    }
}

#[cfg(feature = "tokio-uring")]
fn assert_read(completion: Completion) {
    match completion.result {
        Ok(Output::Bytes(block)) => assert!(block.iter().all(|byte| *byte == 7)),
        other => panic!("{other:?}"),
    }
}

/// Longer than it takes to find out that a ring is broken.
#[cfg(feature = "tokio-uring")]
#[test]
fn a_slow_disk_is_not_taken_for_a_broken_ring_of_tokio_uring() {
    let Some(mut slow) = Piped::new() else { return };
    let end = Instant::now() + Duration::from_millis(2500);
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        let ended = slow.rig.disk().complete(Some(left));
        assert!(ended.is_none(), "{ended:?}");
    }
    slow.end_read();
    assert_read(slow.rig.next());
}

/// Found by hundreds of openings beside busy loops, as a shutdown that never ended: the flush core was not run for a
/// while, took the disk for silent, and asked whether the ring still lives, when the last op had ended already. The
/// completion was given, the question was still open, and the drop waited for its answer, but slept on when it came.
#[cfg(feature = "tokio-uring")]
#[test]
fn a_disk_on_tokio_uring_that_was_not_run_for_a_while_is_dropped_all_the_same() {
    let (tell, ended) = std::sync::mpsc::channel();
    let playing = std::thread::spawn(move || {
        let Some(mut slow) = Piped::new() else { return tell.send(()).unwrap() };
        assert!(slow.rig.disk().complete(Some(Duration::from_millis(1))).is_none());
        slow.end_read();
        // More than a tick of the pulse passes.
        std::thread::sleep(Duration::from_millis(25));
        // Whoever only looks finds the completion; the question is not answered by then, if nobody sees to it.
        let end = Instant::now() + LONG;
        let completion = loop {
            if let Some(completion) = slow.rig.disk().complete(Some(Duration::ZERO)) {
                break completion;
            }
            assert!(Instant::now() < end, "a look does not find what has ended");
        };
        assert_read(completion);
        drop(slow.rig.disk.take());
        tell.send(()).unwrap();
    });
    let told = ended.recv_timeout(2 * LONG);
    assert_ne!(told, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "it is still being dropped");
    playing.join().unwrap();
}

/// What lies on the runtime of tokio-uring cannot go to another thread: it says so, and frees nothing there.
#[cfg(feature = "tokio-uring")]
#[test]
fn a_disk_on_tokio_uring_is_refused_to_other_threads() {
    let Some(mut rig) = rig(Kind::TokioUring) else { return };
    rig.prepare(SLOT, 1 << 20);
    let block = rig.block(1, BLOCK);
    rig.submit(Op::Write { file: SLOT, offset: 4096, block, dsync: true });
    let mut disk = rig.disk.take().unwrap();
    let elsewhere = std::thread::spawn(move || disk.complete(Some(Duration::ZERO)).is_some());
    assert!(elsewhere.join().is_err());
    assert_eq!(rig.pool.free(), rig.pool.chunks() - 1, "a block in flight was given up");
}

/// Limits of a whole process, set in a child: the test runs this binary again.
mod file_size_limit {
    use super::*;

    const IN_CHILD: &str = "RINGWAL_TEST_FSIZE";

    #[test]
    fn a_segment_longer_than_the_limit_is_refused_without_a_signal() {
        if std::env::var_os(IN_CHILD).is_none() {
            let name = "file_size_limit::a_segment_longer_than_the_limit_is_refused_without_a_signal";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: the limit lives until the call returns.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        for &kind in ON_DISK {
            let Some(mut rig) = rig(kind) else { continue };
            assert!(rig.disk().report().notes.iter().any(|note| note.contains("RLIMIT_FSIZE")));
            let mark = rig.block(1, BLOCK);
            let error = rig.run(Op::Prepare { file: SLOT, len: 2 << 20, mark, urgent: true }).unwrap_err();
            assert!(error.is_no_space() && error.errno == libc::EFBIG);
            assert!(rig.list(LogId::Main).is_empty());
            rig.prepare(SLOT, 1 << 20);
        }
    }
}

/// More files than a driver keeps open.
#[test]
fn a_store_with_more_files_than_descriptors_is_read_through() {
    for &kind in ON_DISK {
        let Some(mut rig) = rig(kind) else { continue };
        const FILES: u32 = 300;
        for number in 0..FILES {
            let name = rig.path().join(FileId::Slot(LogId::Main, SlotNo(number)).to_string());
            std::fs::write(name, vec![u8::try_from(number % 251).unwrap(); 8192]).unwrap();
        }
        for round in 0..2 {
            for number in 0..FILES {
                let file = FileId::Slot(LogId::Main, SlotNo(number));
                let byte = u8::try_from(number % 251).unwrap();
                assert_eq!(rig.read(file, 4096, BLOCK).unwrap()[7], byte, "{file} in round {round}");
            }
        }
        let held = std::fs::read_dir("/proc/self/fd").unwrap();
        let held = held.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
        let held = held.filter(|to| to.starts_with(rig.path())).count();
        assert!(held < 200, "{held} files are open");
    }
}
