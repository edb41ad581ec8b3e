//! What a process may not do, or not have: calls that are interrupted or refused, a ring that is taken away in
//! part, memory that is short. The same entries come out, or an error that says what was missing.

#[path = "common/child.rs"]
mod child;
mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use child::{Child, command, say};
use common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, drain, small};
use ringwal::{Batch, Concern, Durability, Health, Io, OpenError, Queue, blocking_fn};

const CHILD: &str = "RINGWAL_LIMITS_CHILD";

/// Not a test: what runs under a limit.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = what.split('|').collect();
    let [what, dir, number] = parts[..] else { panic!("{what}") };
    let (dir, number) = (Path::new(dir), number.parse::<u64>().unwrap());
    match what {
        "uring" => traffic(dir, Io::Uring),
        "threads" => traffic(dir, Io::Threads),
        #[cfg(feature = "tokio-uring")]
        "tokio-uring" => traffic(dir, Io::TokioUring),
        "memory" => open_with_little_memory(dir, number),
        "backlog" => make_backlog(dir, number),
        "take" => take_backlog(dir, number),
        other => panic!("{other}"),
    }
}

/// Some of everything: commits, syncs, new segments, a backlog that is read back; all comes out once and in order.
fn traffic(dir: &Path, io: Io) {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(2))] {
        let dir = dir.join(format!("{durability:?}"));
        let sink = Recorder::default();
        let queue = small(&dir, durability).rings(1).io(io).memory_max(3 << 20).open(sink.clone()).unwrap();
        queue.pause();
        for n in 0..1200 {
            let receipt = queue.producer().push(Numbered::new(0, n, 1900)).unwrap();
            if n % 50 == 0 {
                queue.producer().durable(receipt).wait().unwrap();
            }
        }
        queue.flush().unwrap();
        queue.resume();
        drain(&queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[1200]);
        queue.shutdown(LONG).unwrap();
        let queue = small(&dir, durability).io(io).open(Recorder::default()).unwrap();
        assert!(queue.recovery().clean && queue.recovery().recovered == 0);
        queue.shutdown(LONG).unwrap();
    }
    say("passed");
}

/// `EAGAIN` for the mark of a prepared segment was the end of the log. A sync is not among them: its failure is
/// final, whatever its number.
#[test]
fn calls_that_are_interrupted_again_and_again_change_nothing() {
    let traced = Command::new("strace").args(["-qq", "-f", "-e", "trace=none", "true"]).output();
    if !traced.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: strace is not here, or may not trace");
        return;
    }
    for (what, call, errors) in [
        ("uring", "io_uring_enter", &["EINTR", "EAGAIN", "EBUSY"][..]),
        #[cfg(feature = "tokio-uring")]
        ("tokio-uring", "io_uring_enter", &["EINTR", "EAGAIN", "EBUSY"]),
        #[cfg(feature = "tokio-uring")]
        ("tokio-uring", "epoll_wait", &["EINTR"]),
        ("threads", "pwritev2", &["EINTR", "EAGAIN"]),
        ("threads", "pwrite64", &["EINTR", "EAGAIN"]),
        ("threads", "pread64", &["EINTR", "EAGAIN"]),
    ] {
        for errno in errors {
            let dir = tempfile::tempdir().unwrap();
            let log = dir.path().join("calls");
            let plain = command("child", CHILD, &format!("{what}|{}|0", dir.path().display()));
            let mut traced = Command::new("strace");
            traced.args(["-qq", "-f", "-e", &format!("trace={call}"), "-o"]).arg(&log);
            // Every third one of each thread, from the fourth on.
            traced.args(["-e", &format!("inject={call}:error={errno}:when=4+3")]);
            traced.arg(plain.get_program()).args(plain.get_args());
            plain.get_envs().for_each(|(key, value)| _ = traced.env(key, value.unwrap()));
            let lines = Child::start(traced).succeed();
            assert!(lines.iter().any(|line| line == "passed"), "{call} {errno}: {lines:?}");
            let injected = std::fs::read_to_string(&log).unwrap().matches("INJECTED").count();
            assert!(injected > 3, "{call} {errno} was injected {injected} times");
        }
    }
}

/// From now on the kernel refuses a call to this thread and to those it starts; for one second argument, or for all.
fn refuse(call: libc::c_long, argument: Option<u32>, errno: i32) {
    let line = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let load = |at| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let only_if = |value| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, value);
    let answer = |what| line(libc::BPF_RET | libc::BPF_K, 0, 0, what);
    let mut program = vec![load(0), only_if(u32::try_from(call).unwrap()), answer(libc::SECCOMP_RET_ALLOW)];
    if let Some(value) = argument {
        // The second argument's lower half lies at 24 on a little-endian machine.
        program.extend([load(24), only_if(value), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(answer(libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program lives until the call returns; the kernel copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(set, 0, "seccomp filters are refused here: {}", std::io::Error::last_os_error());
}

fn on_thread<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Pushes, drains and closes; gives the driver and the concerns.
fn results(dir: &Path) -> (&'static str, Vec<Concern>) {
    let sink = Recorder::default();
    let queue = small(dir, Durability::Immediate).rings(1).io(Io::Auto).open(sink.clone()).unwrap();
    for n in 0..500 {
        let receipt = queue.producer().push(Numbered::new(0, n, 1000)).unwrap();
        if n % 20 == 0 {
            queue.producer().durable(receipt).wait().unwrap();
        }
    }
    drain(&queue);
    assert_accounted(&queue.metrics());
    assert_exactly_once_in_order(&sink.0.all(), &[500]);
    let (driver, health) = (queue.metrics().driver, queue.health());
    assert_eq!(driver, queue.recovery().disk.driver);
    assert!(!matches!(health, Health::Failed(_)), "{health:?}");
    queue.shutdown(LONG).unwrap();
    (driver, health.reasons().to_vec())
}

fn has_uring() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let has = small(dir.path(), Durability::Immediate).io(Io::Uring).open(Recorder::default()).is_ok();
    if !has {
        eprintln!("SKIPPED: no io_uring here");
    }
    has
}

/// A profile that allowed to set a ring up and not to enter it made every opening fail, with `Auto` too.
#[test]
fn a_ring_that_is_refused_in_whole_or_at_its_first_use_is_replaced_by_threads_that_say_so() {
    if !has_uring() {
        return;
    }
    let (setup, enter) = (libc::SYS_io_uring_setup, libc::SYS_io_uring_enter);
    for (call, errno, remedy) in [
        (setup, libc::EPERM, "allow the calls io_uring_setup"),
        (setup, libc::EACCES, "allow the calls io_uring_setup"),
        (setup, libc::ENOSYS, "use a newer one"),
        (setup, libc::EINVAL, "use a newer one"),
        (setup, libc::ENOMEM, "ulimit -l"),
        (setup, libc::EMFILE, "ulimit -n"),
        (enter, libc::EPERM, "allow the calls io_uring_setup"),
        (enter, libc::ENOSYS, "use a newer one"),
        (enter, libc::EACCES, "allow the calls io_uring_setup"),
    ] {
        on_thread(|| {
            refuse(call, None, errno);
            let dir = tempfile::tempdir().unwrap();
            let (driver, concerns) = results(dir.path());
            assert_eq!(driver, "threads", "{call} {errno}");
            let told = concerns.iter().any(|concern| {
                let text = concern.to_string();
                text.contains(remedy) && text.contains(&format!("os error {errno}"))
            });
            let switched_off = concerns.iter().any(|concern| concern.to_string().contains("kernel.io_uring_disabled"));
            assert!(told || switched_off, "{call} {errno}: {concerns:?}");
            for io in common::DRIVERS.iter().filter(|io| **io != Io::Threads) {
                let error = small(dir.path(), Durability::Immediate).io(*io).open(Recorder::default()).map(drop);
                assert!(matches!(error, Err(OpenError::UringRefused { .. })), "{error:?}");
            }
        });
    }
}

#[test]
fn a_ring_without_some_of_its_registrations_gives_the_same_results() {
    if !has_uring() {
        return;
    }
    // As in io_uring.h: buffers, an update of the files, the table of files, all.
    for (operation, is_told) in [(Some(0), true), (Some(6), false), (Some(13), false), (None, true)] {
        for errno in [libc::EPERM, libc::ENOMEM, libc::EOPNOTSUPP] {
            on_thread(|| {
                refuse(libc::SYS_io_uring_register, operation, errno);
                let dir = tempfile::tempdir().unwrap();
                let (driver, concerns) = results(dir.path());
                assert_eq!(driver, "io_uring", "{operation:?} {errno}");
                let told =
                    concerns.iter().any(|concern| concern.to_string().contains("the buffers are not registered"));
                assert_eq!(told, is_told, "{operation:?} {errno}: {concerns:?}");
            });
        }
    }
}

#[test]
fn without_locked_memory_the_buffers_are_not_registered_and_health_says_so() {
    // SAFETY: no memory is involved.
    if !has_uring() || unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: root is needed to be another user, for whom the limit holds");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // A limit is the process's, and is put back.
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut before) }, 0);
    let none = libc::rlimit { rlim_cur: 0, ..before };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) }, 0);
    let outcome = std::panic::catch_unwind(|| {
        on_thread(|| {
            const NOBODY: libc::c_long = 65_534;
            // SAFETY: no memory is involved; of this thread only, and with it go the rights of root.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
            results(&dir.path().join("queue"))
        })
    });
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &before) }, 0);
    let (driver, concerns) = outcome.unwrap();
    let told = concerns.iter().any(|concern| concern.to_string().contains("ulimit -l"));
    assert!(told, "{driver}: {concerns:?}");
}

// Memory.

fn vm_bytes(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

fn set_address_space(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Opens with so much address space more than there is, then without a limit.
fn open_with_little_memory(dir: &Path, more: u64) {
    let open = || small(dir, Durability::Immediate).open(Recorder::default());
    set_address_space(vm_bytes("VmSize") + more);
    let opened = open();
    set_address_space(libc::RLIM_INFINITY);
    match opened {
        Ok(queue) => {
            say("opened");
            queue.shutdown(LONG).unwrap();
        }
        Err(error @ (OpenError::Resources { .. } | OpenError::Io { .. } | OpenError::UringRefused { .. })) => {
            // The rings come later, and find the store's identity.
            let is_early = ["(memory_max)", "parked entries"].iter().any(|what| error.to_string().contains(what));
            assert!(!(is_early && dir.join("META").exists()), "{error}, and a store was begun");
            say(&format!("refused {error}"));
        }
        Err(other) => panic!("{other}"),
    }
    // Nothing of the refused one is left: no thread that has the directory.
    let queue: Queue<Numbered> = open().unwrap();
    queue.producer().push_durable(Numbered::new(0, 0, 10)).unwrap().wait().unwrap();
    drain(&queue);
    queue.shutdown(LONG).unwrap();
}

/// When the thread of the sink could not be started, the flush core went on alone, and kept the directory.
#[test]
fn an_opening_without_memory_is_an_error_and_leaves_nothing_behind() {
    let (mut opened, mut refused, mut aborted, mut of_park) = (0, 0, 0, 0);
    // What is asked for: 8 MB for frames, 1280 KiB for the park, rings of 64 KiB, threads with stacks of 2 MiB.
    for step in 0..40_u64 {
        let dir = tempfile::tempdir().unwrap();
        let what = format!("memory|{}|{}", dir.path().display(), step * 600_000);
        let mut child = Child::start(command("child", CHILD, &what));
        let lines = child.rest();
        let (status, errors) = child.end();
        match lines.first().map(String::as_str) {
            Some("opened") => opened += 1,
            Some(line) => {
                refused += 1;
                of_park += u32::from(line.contains("memory for parked entries"));
            }
            // The allocator of the language aborts; there is nothing that a library can do.
            None if errors.contains("memory allocation of") => {
                aborted += 1;
                continue;
            }
            None => {}
        }
        assert!(status.success(), "step {step}: {status}: {errors} {lines:?}");
    }
    eprintln!("{opened} opened, {refused} refused, {of_park} of them for the park, {aborted} aborted");
    assert!(
        opened > 2 && of_park > 0 && refused > 10 && aborted < 5,
        "{opened} opened, {refused} refused, {aborted} aborted"
    );
}

/// Most memory that this process has had, of its own: what it has mapped of files can be dropped.
fn say_memory() {
    say(&format!("memory {}", vm_bytes("VmHWM")));
}

/// Pushes so many megabytes, faster than any disk, while the sink gets nothing.
fn make_backlog(dir: &Path, megabytes: u64) {
    let queue = small(dir, Durability::Periodic(Duration::from_millis(5)))
        .segment_len(8 << 20)
        .log_bytes_max(1 << 30)
        .open(Recorder::default())
        .unwrap();
    queue.pause();
    let each = u32::try_from(megabytes * 1_000_000 / 4 / 1900).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let producer = queue.producer();
            scope.spawn(move || (0..each).for_each(|n| _ = producer.push(Numbered::new(thread, n, 1892)).unwrap()));
        }
    });
    queue.flush().unwrap();
    queue.shutdown(LONG).unwrap();
    say_memory();
}

fn take_backlog(dir: &Path, megabytes: u64) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let sink = blocking_fn(|batch: &Batch<Numbered>| {
        COUNT.fetch_add(u32::try_from(batch.len()).unwrap(), Ordering::Relaxed);
        Ok(())
    });
    let queue = small(dir, Durability::Periodic(Duration::from_millis(5))).log_bytes_max(1 << 30).open(sink).unwrap();
    say_memory();
    let recovered = queue.recovery().recovered;
    assert_eq!(recovered, megabytes * 1_000_000 / 4 / 1900 * 4);
    queue.drain(2 * LONG).unwrap();
    assert_eq!(u64::from(COUNT.load(Ordering::Relaxed)), recovered);
    queue.shutdown(LONG).unwrap();
    say_memory();
}

/// 200 MB through 8 MB of `memory_max`, both ways.
#[test]
fn a_backlog_costs_disk_and_no_memory_when_it_is_made_opened_and_taken() {
    const BOUND: u64 = 80 << 20;
    let place = Path::new("/dev/shm");
    let dir = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() }.unwrap();
    for what in ["backlog", "take"] {
        let lines = Child::start(command("child", CHILD, &format!("{what}|{}|200", dir.path().display()))).succeed();
        let memory: Vec<u64> = lines.iter().filter_map(|l| l.strip_prefix("memory ")?.parse().ok()).collect();
        assert!(!memory.is_empty() && memory.iter().all(|bytes| *bytes < BOUND), "{what}: {memory:?}");
        eprintln!("{what}: {memory:?}");
    }
}
