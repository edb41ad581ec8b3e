//! An opening that is refused says why and what to do, and changes nothing.
//!
//! Users without rights, read-only file systems and kernels without io_uring are played on a thread of the
//! test's own, from which the queue's threads inherit: only credentials and mounts need root.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{LONG, Numbered, Recorder, copy_dir, hash_dir, small};
use ringwal::{
    Batch, Builder, Concern, Durability, Io, Lsn, OpenError, Outcome, Queue, Retry, Sink, WhenFull, blocking_fn,
};

fn made(dir: &Path) {
    let queue = small(dir, Durability::Immediate).open(Recorder::default()).unwrap();
    queue.pause();
    queue.producer().push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
    queue.shutdown(LONG).unwrap();
}

fn refused(dir: &Path) -> OpenError {
    let before = hash_dir(dir);
    let error = small(dir, Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
    assert_eq!(hash_dir(dir), before, "a refused opening changed something: {error}");
    error
}

#[test]
fn a_second_opener_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Immediate).open(Recorder::default()).unwrap();
    // Its owner goes on writing, so that what lies there cannot be compared.
    let error = small(dir.path(), Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert!(error.to_string().contains("use another directory"), "{error}");
    queue.shutdown(LONG).unwrap();
    made(dir.path());
}

/// Set in a child: the directory that it is to hold.
const HOLDS: &str = "RINGWAL_TEST_HOLDS";

/// Not a test of its own: the process that holds a directory until its standard input ends, and takes nothing of it.
#[test]
fn holder() {
    let Some(dir) = std::env::var_os(HOLDS) else { return };
    let away = blocking_fn(|_: &Batch<Numbered>| Err::<(), _>(common::no("away")));
    let queue = small(Path::new(&dir), Durability::Immediate).open(away).unwrap();
    println!("held");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lines().count();
    queue.shutdown(Duration::ZERO).unwrap();
}

#[test]
fn a_directory_that_another_process_has_is_refused_with_its_pid_and_free_when_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLDS, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the child has ended");
    let error = small(dir.path(), Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == child.id()), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {}; stop it", child.id())), "{error}");
    // A second look, not at once refused: it waits as long as it was told, and no longer.
    let begun = std::time::Instant::now();
    let patient = small(dir.path(), Durability::Immediate).lock_wait(Duration::from_millis(50));
    let error = patient.open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }) && begun.elapsed() >= Duration::from_millis(50), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    let recorder = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).lock_wait(LONG).open(recorder.clone()).unwrap();
    recorder.0.wait_for(1);
    queue.shutdown(LONG).unwrap();
}

/// What a refused user must be told besides the reason.
fn assert_io(error: &OpenError, kind: std::io::ErrorKind, path: &Path, remedy: &str) {
    assert!(matches!(error, OpenError::Io { source, .. } if source.kind() == kind), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains(remedy), "{text}");
}

fn on_thread<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `run` without root's rights: where we are root, on a thread of nobody's. The calls themselves, because
/// those of the C library change all threads.
fn without_rights<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    on_thread(|| {
        // SAFETY: no memory is involved.
        if unsafe { libc::geteuid() } == 0 {
            const NOBODY: libc::c_long = 65_534;
            // SAFETY: an empty list.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) }, 0);
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) }, 0);
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
        }
        run()
    })
}

#[test]
fn a_missing_permission_is_refused_with_what_and_where() {
    let root = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(root.path(), 0o755);
    let named = |name: &str| root.path().join(name);
    let (closed, unwritable, foreign, below) = (named("closed"), named("unwritable"), named("foreign"), named("a/b/c"));
    std::fs::create_dir(&unwritable).unwrap();
    std::fs::create_dir(named("a")).unwrap();
    made(&closed);
    made(&foreign);
    let hashes = || [&closed, &foreign].map(|dir| hash_dir(dir));
    let before = hashes();
    mode(&closed, 0);
    mode(&unwritable, 0o555);
    mode(&named("a"), 0o555);
    // The files are another user's, in a directory where all may write.
    mode(&foreign, 0o777);
    mode(&foreign.join("LOCK"), 0);
    for (dir, names) in [
        (&closed, closed.clone()),
        (&unwritable, unwritable.clone()),
        (&foreign, foreign.join("LOCK")),
        (&below, named("a/b")),
    ] {
        let error =
            without_rights(|| small(dir, Durability::Immediate).open(Recorder::default()).map(drop)).unwrap_err();
        assert_io(&error, std::io::ErrorKind::PermissionDenied, &names, "give this user read, write and search");
    }
    [&closed, &unwritable, &named("a"), &foreign].into_iter().for_each(|dir| mode(dir, 0o700));
    mode(&foreign.join("LOCK"), 0o600);
    assert_eq!(hashes(), before);
    assert_eq!(std::fs::read_dir(&unwritable).unwrap().count() + std::fs::read_dir(named("a")).unwrap().count(), 0);
    for dir in [&closed, &foreign] {
        made(dir);
    }
}

#[test]
fn a_read_only_file_system_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let before = hash_dir(dir.path());
    let text = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
    let error = on_thread(|| {
        let mount = |from: Option<&std::ffi::CStr>, to: &std::ffi::CStr, flags| {
            let from = from.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
            // SAFETY: the strings live until the call returns; no type and no data are given.
            unsafe { libc::mount(from, to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) == 0 }
        };
        // SAFETY: no memory is involved; only this thread and those it starts see the mounts.
        let mounted = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0
            && mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)
            && mount(Some(&text), &text, libc::MS_BIND)
            && mount(None, &text, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY);
        if !mounted {
            eprintln!("SKIPPED: mounts are not allowed here ({})", std::io::Error::last_os_error());
            return None;
        }
        small(dir.path(), Durability::Immediate).open(Recorder::default()).map(drop).err()
    });
    if let Some(error) = error {
        assert_io(&error, std::io::ErrorKind::ReadOnlyFilesystem, dir.path(), "mount it writable");
    }
    assert_eq!(hash_dir(dir.path()), before);
}

/// From now on the kernel refuses io_uring to this thread and to those it starts.
fn refuse_uring(errno: i32) {
    let line = |code: u32, jt, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf: 0, k };
    let mut program = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, u32::try_from(libc::SYS_io_uring_setup).unwrap()),
        line(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        line(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()),
    ];
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program lives until the call returns; the kernel copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(set, 0, "seccomp filters are refused here: {}", std::io::Error::last_os_error());
}

#[test]
fn where_io_uring_is_refused_auto_takes_threads_and_says_so_and_uring_is_refused() {
    for (errno, remedy) in [(libc::EPERM, "allow the calls io_uring_setup"), (libc::ENOSYS, "use a newer one")] {
        on_thread(|| {
            refuse_uring(errno);
            let dir = tempfile::tempdir().unwrap();
            made(dir.path());
            let before = hash_dir(dir.path());
            for io in common::DRIVERS.iter().filter(|io| **io != Io::Threads) {
                let on_a_ring = small(dir.path(), Durability::Immediate).io(*io);
                let error = on_a_ring.open(Recorder::default()).map(drop).unwrap_err();
                let text = error.to_string();
                assert!(matches!(error, OpenError::UringRefused { .. }), "{error:?}");
                let switched_off = text.contains("sysctl kernel.io_uring_disabled=0");
                let told = (text.contains(remedy) || switched_off) && text.contains(&format!("os error {errno}"));
                assert!(told, "{text}");
            }
            assert_eq!(hash_dir(dir.path()), before);

            let recorder = Recorder::default();
            let queue = small(dir.path(), Durability::Immediate).io(Io::Auto).open(recorder.clone()).unwrap();
            assert_eq!((queue.recovery().disk.driver, queue.metrics().driver), ("threads", "threads"));
            let notes = &queue.recovery().disk.notes;
            let note = notes.iter().find(|note| note.contains("refuses io_uring")).expect("it says so").clone();
            let switched_off = note.contains("sysctl kernel.io_uring_disabled=0");
            assert!(note.contains(remedy) || switched_off, "{note}");
            assert!(queue.health().reasons().contains(&Concern::Platform(note)), "{:?}", queue.health());
            queue.producer().push_durable(Numbered::new(0, 1, 10)).unwrap().wait().unwrap();
            recorder.0.wait_for(2);
            queue.shutdown(LONG).unwrap();

            // Threads that were asked for are no concern.
            let queue = small(dir.path(), Durability::Immediate).io(Io::Threads).open(Recorder::default()).unwrap();
            assert!(!queue.recovery().disk.notes.iter().any(|note| note.contains("io_uring")));
            queue.shutdown(LONG).unwrap();
        });
    }
}

#[test]
fn another_type_a_file_and_longer_entries_than_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let before = hash_dir(dir.path());
    let sink = || blocking_fn(|_: &Batch<String>| Ok(()));
    let error = small(dir.path(), Durability::Immediate).open(sink()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }) && error.to_string().contains("drain it"), "{error}");
    let longer =
        small(dir.path(), Durability::Immediate).ring_bytes(4 << 20).segment_len(4 << 20).log_bytes_max(16 << 20);
    let error = longer.memory_max(64 << 20).entry_len_max(900_000).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Config(config) if config.field == "entry_len_max"), "{error}");
    assert_eq!(hash_dir(dir.path()), before);
    let file = dir.path().join("META");
    let error = small(&file, Durability::Immediate).open(Recorder::default()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_damaged_meta_and_a_foreign_segment_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (one, two, bad) = (root.path().join("one"), root.path().join("two"), root.path().join("bad"));
    made(&one);
    made(&two);
    copy_dir(&one, &bad);
    let mut meta = std::fs::read(bad.join("META")).unwrap();
    [20, 4096 + 20].into_iter().for_each(|at: usize| meta[at] ^= 1);
    std::fs::write(bad.join("META"), meta).unwrap();
    let error = refused(&bad);
    assert!(matches!(error, OpenError::Unusable { .. }) && error.to_string().contains("META"), "{error}");
    let slot = "seg-00000000.rwal";
    std::fs::copy(two.join(slot), one.join(slot)).unwrap();
    let error = refused(&one);
    assert!(matches!(error, OpenError::Unusable { .. }) && error.to_string().contains("another store"), "{error}");
}

#[test]
fn a_sink_that_commits_is_refused_in_memory() {
    struct Commits;
    impl Sink<Numbered> for Commits {
        async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
            Outcome::ack()
        }
        async fn committed(&self) -> Option<Lsn> {
            Some(Lsn::ZERO)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let error = small(dir.path(), Durability::Memory).open(Commits).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::CommittedInMemory), "{error}");
}

/// Found by reading: the number after it does not exist, and opening panicked. A column that is -1, read as a number without a
/// sign, is enough.
#[test]
fn a_sink_that_has_committed_what_no_log_can_hold_is_refused() {
    struct Commits(u64);
    impl Sink<Numbered> for Commits {
        async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
            Outcome::ack()
        }
        async fn committed(&self) -> Option<Lsn> {
            Some(Lsn::new(self.0))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let open = |committed| small(dir.path(), Durability::Immediate).open(Commits(committed));
    for committed in [u64::MAX, u64::MAX - 1, 1 << 62, (1 << 61) + 1] {
        let error = open(committed).map(drop).unwrap_err();
        let OpenError::CommittedTooHigh { lsn, max } = error else { panic!("{committed}: {error}") };
        assert_eq!((lsn.number(), max.number()), (committed, 1 << 61));
        assert!(error.to_string().contains("`committed()`") && error.to_string().contains("stored"), "{error}");
    }
    // The greatest that is taken is one to go on behind.
    for (next, committed) in [((1 << 61) + 1, 1 << 61), ((1 << 61) + 2, 0)] {
        let queue = open(committed).unwrap();
        assert_eq!(queue.recovery().next.number(), next);
        queue.producer().push_durable(Numbered::new(0, 1, 10)).unwrap().wait().unwrap();
        queue.shutdown(LONG).unwrap();
    }
}

/// Changes both copies of META, and makes their checksums right again.
fn patch_meta(dir: &Path, patch: impl Fn(&mut [u8])) {
    let path = dir.join("META");
    let mut meta = std::fs::read(&path).unwrap();
    let second =
        [4096, 8192, 16_384, 32_768, 65_536].into_iter().find(|at| &meta[*at..*at + 8] == b"RWALMETA").unwrap();
    for at in [0, second] {
        let copy = &mut meta[at..at + 256];
        patch(copy);
        let sum = crc32c::crc32c(&copy[..252]);
        copy[252..].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(path, meta).unwrap();
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    patch_meta(dir.path(), |meta| meta[8] = 2);
    let error = refused(dir.path());
    assert!(
        matches!(&error, OpenError::NewerFormat { file, found: 2, known: 1, .. } if file.ends_with("META")),
        "{error}"
    );
    assert!(error.to_string().contains("has format 2") && error.to_string().contains("reads up to 1"), "{error}");
    // A feature that must be known to read, and one that must be known to write.
    for at in [40, 48] {
        patch_meta(dir.path(), |meta| (meta[8], meta[40], meta[48]) = (1, 0, 0));
        patch_meta(dir.path(), |meta| meta[at] = 8);
        let error = refused(dir.path());
        assert!(error.to_string().contains("unknown features 0x8"), "{error}");
    }
    // One that may be ignored is ignored, and a later minor number too.
    patch_meta(dir.path(), |meta| (meta[40], meta[48]) = (0, 0));
    patch_meta(dir.path(), |meta| (meta[10], meta[56]) = (9, 1));
    made(dir.path());
}

#[test]
fn one_damaged_copy_of_meta_is_no_refusal_but_missing_files_and_a_damaged_cursor_are() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    made(&whole);
    let copy = |name: &str| {
        let to = root.path().join(name);
        copy_dir(&whole, &to);
        to
    };
    for at in [20, 4096 + 20] {
        let dir = copy(&format!("one-{at}"));
        let mut meta = std::fs::read(dir.join("META")).unwrap();
        meta[at] ^= 1;
        std::fs::write(dir.join("META"), meta).unwrap();
        made(&dir);
    }
    let dir = copy("gone");
    std::fs::remove_file(dir.join("META")).unwrap();
    let error = refused(&dir);
    assert!(matches!(error, OpenError::Unusable { .. }) && error.to_string().contains("META is missing"), "{error}");
    let dir = copy("cursor");
    let mut meta = std::fs::read(dir.join("META")).unwrap();
    meta[8192..].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(dir.join("META"), meta).unwrap();
    let error = refused(&dir);
    assert!(matches!(error, OpenError::Unusable { .. }) && error.to_string().contains("cursor"), "{error}");
    assert!(error.to_string().contains("nothing was changed. Restore"), "{error}");
}

mod versions {
    use super::*;

    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct OrderV1 {
        id: u64,
    }

    #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
    struct Order {
        id: u64,
        price: Option<u64>,
    }

    /// The same as `Order`, without the conversion.
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct Strict {
        id: u64,
        price: Option<u64>,
    }

    impl From<OrderV1> for Order {
        fn from(old: OrderV1) -> Self {
            Self { id: old.id + 1000, price: None }
        }
    }

    ringwal::entry!(OrderV1, name = "orders");
    ringwal::entry!(Order, name = "orders", schema = 2, from = [1 => OrderV1]);
    ringwal::entry!(Strict, name = "orders", schema = 2);

    fn open<T: ringwal::Entry>(dir: &Path, pause: bool, seen: impl Fn(&T) + Send + Sync + 'static) -> Queue<T> {
        let sink = blocking_fn(move |batch: &Batch<T>| {
            batch.iter().for_each(|delivery| seen(&delivery.value));
            Ok(())
        });
        let queue = small(dir, Durability::Immediate).open(sink).unwrap();
        if pause {
            queue.pause();
        }
        queue
    }

    #[test]
    fn another_version_is_refused_and_with_from_it_is_converted() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open::<OrderV1>(dir.path(), false, |_| ());
        queue.pause();
        // The first batch may be out already.
        for id in 1..=50 {
            queue.producer().push_durable(OrderV1 { id }).unwrap().wait().unwrap();
        }
        let left = queue.shutdown(Duration::ZERO).unwrap().left_in_log;
        assert!(left > 0, "nothing is left to convert");

        let before = hash_dir(dir.path());
        let strict = blocking_fn(|_: &Batch<Strict>| Ok(()));
        let error = small(dir.path(), Durability::Immediate).open(strict).map(drop).unwrap_err();
        let is_told = matches!(&error, OpenError::Schema { found, wanted }
            if (found.name(), found.version(), wanted.version()) == ("orders", 1, 2));
        assert!(is_told && error.to_string().contains("from = ["), "{error}");
        assert_eq!(hash_dir(dir.path()), before);

        let orders = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&orders);
        let queue = open(dir.path(), false, move |order: &Order| seen.lock().unwrap().push(order.clone()));
        queue.producer().push(Order { id: 7, price: Some(8) }).unwrap();
        common::drain(&queue);
        assert_eq!(queue.metrics().parked, 0);
        queue.shutdown(LONG).unwrap();
        let mut expected: Vec<_> = (51 - left..=50).map(|id| Order { id: id + 1000, price: None }).collect();
        expected.push(Order { id: 7, price: Some(8) });
        assert_eq!(*orders.lock().unwrap(), expected);

        // And back: what the new version has written and drained is in nobody's way.
        open::<OrderV1>(dir.path(), true, |_| ()).shutdown(LONG).unwrap();
    }
}

#[test]
fn every_setting_that_does_not_fit_is_refused_by_name_with_value_and_range() {
    type Set = fn(Builder) -> Builder;
    let retry = |retry: Retry| move |builder: Builder| builder.retry(retry);
    let wrong: &[(&str, &str, &str, Set)] = &[
        ("durability", "periodic:1ns", "100us to 1m", |b| b.durability(Durability::Periodic(Duration::from_nanos(1)))),
        ("durability", "periodic:61s", "100us to 1m", |b| b.durability(Durability::Periodic(Duration::from_secs(61)))),
        ("batch_len_max", "0", "1 to 1000000", |b| b.batch_len_max(0)),
        ("batch_len_max", "1000001", "1 to 1000000", |b| b.batch_len_max(1_000_001)),
        ("batch_bytes_max", "0", "1 to 1GiB", |b| b.batch_bytes_max(0)),
        ("linger", "3601s", "0 to 1h", |b| b.linger(Duration::from_secs(3601))),
        ("rings", "0", "1 to 1024", |b| b.rings(0)),
        ("rings", "1025", "1 to 1024", |b| b.rings(1025)),
        ("pinned_rings", "1025", "0 to 1024", |b| b.pinned_rings(1025)),
        ("ring_bytes", "2KiB", "4KiB to 1GiB", |b| b.ring_bytes(2048)),
        ("ring_bytes", "100000", "a power of two", |b| b.ring_bytes(100_000)),
        ("entry_len_max", "0", "1 to 64MiB", |b| b.entry_len_max(0)),
        ("entry_len_max", "16377", "which is 16376", |b| b.entry_len_max(16_377)),
        ("memory_max", "1000", "1536KiB to 1TiB", |b| b.memory_max(1000)),
        ("memory_max", "2TiB", " to 1TiB", |b| b.memory_max(2 << 40)),
        ("segment_len", "64KiB", "384KiB to 4GiB", |b| b.segment_len(65_536)),
        ("segment_len", "524289", "a multiple of 64KiB from ", |b| b.segment_len((512 << 10) + 1)),
        ("segment_len", "4194368KiB", " to 4GiB", |b| b.segment_len((4 << 30) + 65_536)),
        ("log_bytes_max", "1280KiB", "at least three segments, which is 1536KiB", |b| b.log_bytes_max(5 << 18)),
        ("park_bytes_max", "1", "at least ", |b| b.park_bytes_max(1)),
        ("when_full", "block_for:86401s", "0 to 1d", |b| b.when_full(WhenFull::BlockFor(Duration::from_secs(86_401)))),
        ("drop_timeout", "3601s", "0 to 1h", |b| b.drop_timeout(Duration::from_secs(3601))),
        ("lock_wait", "3601s", "0 to 1h", |b| b.lock_wait(Duration::from_secs(3601))),
        ("name", "\"\"", "1 to 64 bytes", |b| b.name("")),
        ("name", "\"a\\nb\"", "1 to 64 bytes", |b| b.name("a\nb")),
    ];
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("new");
    let check = |field: &str, value: &str, range: &str, builder: Builder| {
        let error = builder.open(Recorder::default()).map(drop).expect_err(field);
        let OpenError::Config(config) = &error else { panic!("{field}: {error}") };
        assert_eq!((config.field, config.value.as_str()), (field, value), "{error}");
        let text = error.to_string();
        assert!(config.range.contains(range), "{text}");
        assert!(text.contains(&format!("{field} is {value}, but must be {}", config.range)), "{text}");
    };
    let good = || small(&dir, Durability::Immediate);
    for (field, value, range, set) in wrong {
        check(field, value, range, set(good()));
    }
    let default = Retry::default();
    check(
        "retry.attempts_max",
        "0",
        "1 to 4294967295, or none",
        retry(Retry { attempts_max: Some(0), ..default })(good()),
    );
    check("retry.max", "0", "1ms to 1d", retry(Retry { max: Duration::ZERO, ..default })(good()));
    let base = Duration::from_secs(31);
    check("retry.base", "31s", "at most retry.max, which is 30s", retry(Retry { base, ..default })(good()));
    for (factor, text) in [(0.5, "0.5"), (101.0, "101.0"), (f64::NAN, "NaN")] {
        check("retry.factor", text, "1.0 to 100.0", retry(Retry { factor, ..default })(good()));
    }
    assert!(!dir.exists(), "a refused configuration has begun a directory");
    // This one only the kernel can judge.
    check("cpu", "1000000", "a CPU that this process may use", good().cpu(1_000_000));

    // And what an existing directory asks for.
    good().segment_len(1 << 20).open(Recorder::default()).unwrap().shutdown(LONG).unwrap();
    let before = hash_dir(&dir);
    let two = "at least two of the directory's segments of 1048576 bytes";
    check("log_bytes_max", "1572864", two, good().log_bytes_max(3 << 19));
    assert_eq!(hash_dir(&dir), before);
}
