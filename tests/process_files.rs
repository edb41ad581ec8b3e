//! The directory itself: who else may come to it, and by which way; what stands in the way of opening it; what
//! becomes of it when a process dies while it makes it, or when it is taken away.

#[path = "common/child.rs"]
mod child;
mod common;

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use child::{Child, command, say};
use common::{LONG, Numbered, Recorder, assert_accounted, drain, hash_dir, small};
use ringwal::{Durability, Io, OpenError, Queue};

fn open(dir: &Path) -> Result<Queue<Numbered>, OpenError> {
    small(dir, Durability::Immediate).open(Recorder::default())
}

/// Opens it, pushes and delivers one more, and closes it.
fn works(dir: &Path) {
    let sink = Recorder::default();
    let queue = small(dir, Durability::Immediate).open(sink.clone()).unwrap_or_else(|error| panic!("{error}"));
    queue.producer().push_durable(Numbered::new(0, 77, 10)).unwrap().wait().unwrap();
    drain(&queue);
    assert_accounted(&queue.metrics());
    queue.shutdown(LONG).unwrap();
    assert_eq!(sink.0.all().last().unwrap().1, Numbered::new(0, 77, 10));
}

fn assert_locked(result: Result<Queue<Numbered>, OpenError>, how: &str) {
    let error = result.map(drop).expect_err(how);
    assert!(matches!(error, OpenError::Locked { .. }), "{how}: {error}");
    assert!(error.to_string().contains("use another directory"), "{error}");
}

// Who else may come to it.

#[test]
fn of_many_openers_at_once_one_gets_the_directory() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let (dir, start) = (root.path().join(round.to_string()), Barrier::new(8));
        let results: Vec<_> = std::thread::scope(|scope| {
            let opener = || {
                start.wait();
                open(&dir)
            };
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(opener)).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        let (held, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(held.len(), 1);
        refused.into_iter().for_each(|result| assert_locked(result, "another thread has it"));
        held.into_iter().for_each(|queue| _ = queue.unwrap().shutdown(LONG).unwrap());
        works(&dir);
    }
}

/// The second opener made a new `LOCK`, locked that, and wrote beside the first one.
#[test]
fn a_lock_file_that_was_removed_or_replaced_lets_nobody_in() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("queue");
    let queue = open(&dir).unwrap();
    queue.pause();
    let replace = |what: &str| {
        std::fs::remove_file(dir.join("LOCK")).unwrap();
        if what == "replaced" {
            std::fs::write(dir.join("LOCK"), "1\n").unwrap();
        }
    };
    for what in ["removed", "replaced"] {
        replace(what);
        assert_locked(open(&dir), what);
        // An opener that waits sees no gap either.
        assert_locked(
            small(&dir, Durability::Immediate).lock_wait(Duration::from_millis(50)).open(Recorder::default()),
            what,
        );
        queue.producer().push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
    }
    queue.shutdown(LONG).unwrap();
    works(&dir);
}

#[test]
fn a_link_a_mount_or_a_new_name_of_the_directory_is_the_same_directory() {
    let root = tempfile::tempdir().unwrap();
    let (dir, link, moved, other) =
        (root.path().join("queue"), root.path().join("link"), root.path().join("moved"), root.path().join("other"));
    let queue = open(&dir).unwrap();
    queue.pause();
    symlink(&dir, &link).unwrap();
    assert_locked(open(&link), "by a symbolic link");
    assert_locked(open(&root.path().join("queue/../link/.")), "by a way around");
    std::fs::create_dir(&other).unwrap();
    std::fs::hard_link(dir.join("LOCK"), other.join("LOCK")).unwrap();
    assert_locked(open(&other), "by a hard link of the lock");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1, "a refused opener has made something");

    let mount = root.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let text = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let (from, to) = (text(&dir), text(&mount));
    std::thread::scope(|scope| {
        let by_mount = scope.spawn(|| {
            let mount = |from: Option<&std::ffi::CStr>, to: &std::ffi::CStr, flags| {
                let from = from.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
                // SAFETY: the strings live until the call returns; no type and no data are given.
                unsafe { libc::mount(from, to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) == 0 }
            };
            // SAFETY: no memory is involved; only this thread and those it starts see the mounts.
            let mounted = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0
                && mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)
                && mount(Some(&from), &to, libc::MS_BIND);
            if mounted {
                assert_locked(open(&root.path().join("mount")), "by a bind mount");
            } else {
                eprintln!("SKIPPED: mounts are not allowed here ({})", std::io::Error::last_os_error());
            }
        });
        by_mount.join().unwrap();
    });

    std::fs::rename(&dir, &moved).unwrap();
    assert_locked(open(&moved), "by its new name");
    assert_locked(open(&link).or_else(|_| open(&moved)), "and the link leads nowhere");
    // Its owner goes on, and finds its files; with the old name comes a directory of its own.
    for n in 0..400 {
        queue.producer().push_durable(Numbered::new(0, n, 1900)).unwrap().wait().unwrap();
    }
    works(&dir);
    queue.shutdown(LONG).unwrap();
    works(&moved);
}

// What stands in the way.

/// The refusal says what was tried, where, and what to do; nothing is changed or left behind.
fn assert_refused(dir: &Path, names: &Path, words: &[&str]) {
    let there = || {
        let names = std::fs::read_dir(dir.parent().unwrap()).ok()?;
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        Some(names)
    };
    let before = there();
    for &io in common::DRIVERS {
        let error = small(dir, Durability::Immediate).io(io).open(Recorder::default()).map(drop).expect_err("refused");
        let text = error.to_string();
        let name = names.display().to_string();
        assert!(text.contains(&name), "it does not name {name}: {text}");
        assert!(words.iter().any(|word| text.contains(word)), "it says nothing of {words:?}: {text}");
        assert!(text.contains(';') || text.contains(':'), "no remedy: {text}");
    }
    assert_eq!(before, there(), "something was left behind");
}

#[test]
fn a_path_that_can_be_no_directory_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let named = |name: &str| root.path().join(name);
    std::fs::write(named("file"), "mine").unwrap();
    assert_refused(&named("file"), &named("file"), &["is not a directory; give the path"]);
    assert_refused(&named("file/below"), &named("file/below"), &["is not a directory; give the path"]);
    symlink(named("two"), named("one")).unwrap();
    symlink(named("one"), named("two")).unwrap();
    assert_refused(&named("one"), &named("one"), &["symbolic links", "is not a directory"]);
    symlink(named("nowhere/at/all"), named("dangling")).unwrap();
    assert_refused(&named("dangling"), &named("dangling"), &["check the path"]);
    assert_refused(&named(&"n".repeat(300)), &named(&"n".repeat(300)), &["too long"]);
    // Found by reading: of what is there it said that it is not found, and to check the path.
    for below in ["ringwal", "ringwal/below"] {
        let dir = Path::new("/proc/self").join(below);
        assert_refused(&dir, Path::new("/proc/self/ringwal"), &["/proc/self is there and takes nothing new"]);
    }
    let permission = "permission";
    assert_refused(
        Path::new("/proc/self/net"),
        Path::new("/proc/self/net"),
        &["is there and takes nothing new", permission],
    );
}

#[test]
fn a_path_that_is_no_text_is_a_directory_as_any_other() {
    let root = tempfile::tempdir().unwrap();
    for name in [&b"caf\xe9"[..], b"\xff\xfe", b"a b\n\t'\"", "Größe-日本".as_bytes()] {
        let dir = root.path().join(OsStr::from_bytes(name)).join("below");
        works(&dir);
        works(&dir);
        let queue = open(&dir).unwrap();
        assert_locked(open(&dir), "it has a name all the same");
        queue.shutdown(LONG).unwrap();
    }
}

/// What is called like a file of ours and is none. A `META` that was a link was taken for none, and what it led to
/// would have been written over.
#[test]
fn links_directories_and_pipes_in_the_place_of_files_are_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("target");
    for name in ["LOCK", "META"] {
        for kind in ["link", "dangling", "directory", "pipe"] {
            let dir = root.path().join(format!("{name}-{kind}"));
            let path = dir.join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(&target, vec![7; 100_000]).unwrap();
            match kind {
                "link" => symlink(&target, &path).unwrap(),
                "dangling" => symlink(root.path().join("none"), &path).unwrap(),
                "directory" => std::fs::create_dir(&path).unwrap(),
                _ => {
                    let text = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
                    // SAFETY: the string lives until the call returns.
                    assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
                }
            }
            if (name, kind) == ("LOCK", "pipe") {
                // It can be locked, and nobody reads what is in it.
                works(&dir);
                continue;
            }
            for &io in common::DRIVERS {
                let opened = small(&dir, Durability::Immediate).io(io).open(Recorder::default());
                let text = opened.map(drop).expect_err(&format!("{name} is a {kind}")).to_string();
                assert!(text.contains(name), "{kind}: {text}");
            }
            assert_eq!(std::fs::read(&target).unwrap(), vec![7; 100_000], "{name}-{kind}: written through");
            assert!(!root.path().join("none").exists(), "{name}-{kind}: made through");
        }
    }
}

/// Sets or clears the attribute of `chattr +i`. False where that is not to be had.
fn set_immutable(path: &Path, immutable: bool) -> bool {
    let file = std::fs::File::open(path).unwrap();
    let flags = if immutable { rustix::fs::IFlags::IMMUTABLE } else { rustix::fs::IFlags::empty() };
    // Flags that have no name here stay: without that of extents ext4 would lay the file out anew, or refuse half-way.
    let kept = rustix::fs::ioctl_getflags(file.as_fd()).map(|flags| flags.difference(rustix::fs::IFlags::IMMUTABLE));
    kept.and_then(|kept| rustix::fs::ioctl_setflags(file.as_fd(), kept.union(flags))).is_ok()
}

/// Cleared also when the test fails, so that the directory can be removed.
struct Immutable(PathBuf);

impl Drop for Immutable {
    fn drop(&mut self) {
        assert!(set_immutable(&self.0, false));
    }
}

#[test]
fn what_was_made_immutable_is_refused_with_the_word_for_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("queue");
    works(&dir);
    let slot = dir.join("seg-00000000.rwal");
    for path in [dir.clone(), dir.join("LOCK"), dir.join("META"), slot] {
        if !set_immutable(&path, true) {
            eprintln!("SKIPPED: no immutable files here ({})", std::io::Error::last_os_error());
            return;
        }
        let guard = Immutable(path.clone());
        if path == dir {
            // Its files may be written, as long as none has to be made or removed.
            let new = dir.join("new");
            assert_refused(&new, &new, &["lsattr"]);
        } else {
            let before = hash_dir(&dir);
            let error = open(&dir).map(drop).expect_err("it cannot be written");
            let text = error.to_string();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(name) && text.contains("lsattr"), "{text}");
            assert_eq!(hash_dir(&dir), before);
        }
        drop(guard);
        works(&dir);
    }
}

/// `LOCK` may be opened, and another file may not.
#[test]
fn a_file_of_somebody_else_is_refused_with_its_name() {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: root is needed to give files away");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let dir = root.path().join("queue");
    works(&dir);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&dir, 0o777);
    mode(&dir.join("LOCK"), 0o666);
    for name in ["META", "seg-00000000.rwal"] {
        let before = hash_dir(&dir);
        let error = std::thread::scope(|scope| {
            let nobody = scope.spawn(|| {
                const NOBODY: libc::c_long = 65_534;
                // SAFETY: an empty list.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) }, 0);
                // SAFETY: no memory is involved; of this thread only.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) }, 0);
                // SAFETY: as above.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
                open(&dir).map(drop)
            });
            nobody.join().unwrap().expect_err("it is another's")
        });
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("permission"), "{text}");
        assert_eq!(hash_dir(&dir), before);
        mode(&dir.join(name), 0o666);
    }
    works(&dir);
}

// What becomes of it.

#[test]
fn a_directory_removed_under_a_running_queue_ends_it_with_a_cause_and_no_hang() {
    for &io in common::DRIVERS {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("queue");
        let sink = Recorder::default();
        let queue = small(&dir, Durability::Immediate).io(io).open(sink.clone()).unwrap();
        let producer = queue.producer();
        producer.push_durable(Numbered::new(0, 0, 1900)).unwrap().wait().unwrap();
        // The queue may put a new segment into it meanwhile.
        while let Err(error) = std::fs::remove_dir_all(&dir) {
            assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
        }
        let mut n = 1;
        // Until a new segment is wanted, which can be made nowhere.
        let error = loop {
            match producer.push_timeout(Numbered::new(0, n, 1900), LONG) {
                Ok(receipt) => match producer.durable(receipt).wait_timeout(LONG) {
                    Ok(()) => n += 1,
                    Err(error) => break error.to_string(),
                },
                Err(error) => break error.to_string(),
            }
            assert!(n < 20_000, "it writes into nothing for ever");
        };
        assert!(error.contains("failed"), "{error}");
        let health = format!("{:?}", queue.health());
        assert!(health.contains("seg-") && health.starts_with("Failed"), "{health}");
        let refused = producer.push(Numbered::new(0, n, 10)).unwrap_err();
        assert!(matches!(refused, ringwal::PushError::Poisoned(_)), "{refused}");
        let end = queue.shutdown(LONG).unwrap_err();
        assert!(matches!(end, ringwal::ShutdownError::Storage { .. }), "{end}");
        assert!(sink.0.len() >= n as usize, "what was accepted is delivered from memory");
        works(&dir);
    }
}

const MAKER: &str = "RINGWAL_FILES_MAKER";

/// Not a test: makes a directory, pushes one entry and closes.
#[test]
fn maker() {
    let Ok(dir) = std::env::var(MAKER) else { return };
    let queue = small(Path::new(&dir), Durability::Immediate).io(Io::Threads).open(Recorder::default()).unwrap();
    queue.pause();
    queue.producer().push_durable(Numbered::new(0, 5, 10)).unwrap().wait().unwrap();
    say("durable");
    queue.shutdown(LONG).unwrap();
}

/// What makes or changes a file.
const CALLS: [&str; 9] =
    ["mkdir", "mkdirat", "flock", "fallocate", "ftruncate", "pwrite64", "pwritev2", "fsync", "fdatasync"];

/// Killed as a thread of it enters its n-th of these calls, for every call and every n, until it comes to its end.
#[test]
fn a_directory_whose_making_was_cut_off_at_any_call_opens_and_works() {
    let traced = std::process::Command::new("strace").args(["-qq", "-f", "-e", "trace=none", "true"]).output();
    if !traced.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: strace is not here, or may not trace");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (mut killed, mut after) = (0, 0);
    let (mut calls, mut n) = (CALLS.into_iter(), 1);
    let mut next = calls.next();
    while let Some(call) = next {
        let dir = root.path().join(format!("{call}-{n}"));
        let plain = command("maker", MAKER, &dir.display().to_string());
        let mut traced = std::process::Command::new("strace");
        traced.args(["-qq", "-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        traced.args(["-e", &format!("inject={call}:signal=KILL:when={n}")]);
        traced.arg(plain.get_program()).args(plain.get_args());
        plain.get_envs().for_each(|(key, value)| _ = traced.env(key, value.unwrap()));
        let mut child = Child::start(traced);
        let lines = child.rest();
        let (status, errors) = child.end();
        let was_durable = lines.iter().any(|line| line == "durable");
        if status.success() {
            assert!(was_durable, "{errors}");
            (next, n) = (calls.next(), 1);
            continue;
        }
        assert!(n < 1000, "it is killed for ever");
        n += 1;
        (killed, after) = (killed + 1, after + i32::from(was_durable));
        let sink = Recorder::default();
        let queue = small(&dir, Durability::Immediate)
            .lock_wait(LONG)
            .open(sink.clone())
            .unwrap_or_else(|error| panic!("{call} {n}: {error}"));
        drain(&queue);
        let seen = sink.0.all();
        assert!(seen.len() <= 1 && (!was_durable || seen.len() == 1), "{call} {n}: {seen:?}");
        queue.shutdown(LONG).unwrap();
        works(&dir);
    }
    assert!(killed >= 15 && after < killed, "{killed} kills, {after} after the entry was durable");
    eprintln!("{killed} kills, {after} after the entry was durable");
}
