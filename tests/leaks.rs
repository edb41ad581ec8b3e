//! Ten thousand openings and closings leave nothing behind: no thread, no descriptor, no mapping, no byte of the
//! heap, no memory that the kernel holds for io_uring.
//!
//! ```text
//!   child process, one thread:  warm up ─► count ─► cycles ─► let it settle ─► count ─► grown? fail; room: in each of three rounds
//! ```
//! Each case runs in a child of its own, so that nothing else of the test program is counted, with glibc's
//! allocator tamed: one arena, as each thread that ever ran may leave another one. What a case may grow by does
//! not depend on the number of cycles, so that a leak of one byte per cycle is seen.
//!
//! | variable             | what                                                              |
//! |----------------------|-------------------------------------------------------------------|
//! | `RINGWAL_LEAK_OPENS` | openings of each case, where the default is a few hundred; 10,000 |

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, copy_dir, small};
use ringwal::{Batch, Builder, Durability, Io, Lsn, OpenError, Outcome, Queue, Sink, SinkError, blocking_fn};

const CASE: &str = "RINGWAL_LEAKS_CASE";
const CYCLES: &str = "RINGWAL_LEAK_OPENS";

/// What may be room leaks when it grows in each of so many rounds.
const ROUNDS: usize = 3;
const BYTES_NAME: &str = "bytes of the heap";
const BLOCKS_NAME: &str = "blocks of the heap";

/// Counts what is allocated and not given back.
struct Counting;

static BYTES: AtomicI64 = AtomicI64::new(0);
static BLOCKS: AtomicI64 = AtomicI64::new(0);

// SAFETY: hands everything to the system's allocator as it is, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as i64, Relaxed);
        BLOCKS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as i64, Relaxed);
        BLOCKS.fetch_sub(1, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The process's threads, but for those that the kernel keeps for io_uring as it likes.
fn threads() -> i64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| !name.starts_with("iou-")).count() as i64
}

/// What the process has, in the order in which it is told: name, count, and by how much it may have grown.
fn held() -> [(&'static str, i64, i64); 7] {
    let entries = |dir: &str| std::fs::read_dir(dir).unwrap().count() as i64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
    };
    [
        ("threads", threads(), 0),
        ("descriptors", entries("/proc/self/fd"), 0),
        // The heap's own pieces, and the stacks that glibc keeps for the next threads.
        ("mappings", maps.lines().count() as i64, 24),
        ("KiB mapped", kib("VmSize"), 24 << 10),
        ("KiB resident", kib("VmRSS"), 24 << 10),
        ("KiB pinned by the kernel", kib("VmPin"), 0),
        (BLOCKS_NAME, BLOCKS.load(Relaxed), 32),
    ]
}

/// What has grown too much since, and whether it may be room: bytes that buffers keep, and so many blocks at most.
fn grown(before: &[(&'static str, i64, i64); 7], bytes_before: i64, kept: i64) -> Vec<(String, bool)> {
    let bytes = (BYTES_NAME, bytes_before, BYTES.load(Relaxed), 16 << 10);
    let others = before.iter().zip(held()).map(|((name, before, may), (_, now, _))| (*name, *before, now, *may));
    let all = others.chain([bytes]);
    all.filter(|(_, before, now, may)| now > &(before + may))
        .map(|(name, before, now, may)| {
            let is_room = name == BYTES_NAME || name == BLOCKS_NAME && now <= before + may + kept;
            (format!("{name}: {before} before, {now} after"), is_room)
        })
        .collect()
}

/// Runs the cycles, and fails if anything has grown.
fn watch(cycles: usize, cycle: impl FnMut(usize)) {
    watch_for(0, 0, cycles, cycle);
}

/// The same beside a queue that stays open. It may open files, and its logs keep the vectors that were out at their
/// fullest moment, to use them again.
fn watch_beside_queue(cycles: usize, cycle: impl FnMut(usize)) {
    watch_for(FILES_OPEN, VECTORS_KEPT, cycles, cycle);
}

/// Buffers keep the room that the fullest moment took, and that moment may come late: what a round has taken of that
/// is counted along in the next, and leaks if it grows in each. Anything else that grows leaks at once.
fn watch_for(files: i64, kept: i64, cycles: usize, mut cycle: impl FnMut(usize)) {
    let cycles = std::env::var(CYCLES).map_or(cycles, |text| text.parse().expect("a number of openings"));
    let warm_up = 24;
    (0..warm_up).for_each(&mut cycle);
    // What warming up has left behind is to be gone, too.
    std::thread::sleep(Duration::from_millis(100));
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let (mut before, bytes_before) = (held(), BYTES.load(Relaxed));
        before[1].2 = files;
        let first = warm_up + round * cycles;
        (first..first + cycles).for_each(&mut cycle);
        let grown = grown_for_good(&before, bytes_before, kept);
        if grown.is_empty() {
            return println!("{cycles} cycles: {:?}", held().map(|(name, now, _)| (name, now)));
        }
        told.push(grown.iter().map(|(what, _)| &what[..]).collect::<Vec<_>>().join("; "));
        if !grown.iter().all(|(_, is_room)| *is_room) {
            break;
        }
    }
    panic!("grown over {cycles} cycles, in each of {} rounds: {}", told.len(), told.join(" | "));
}

/// What has grown and stays: a thread that was joined, and a ring that was closed, are gone from the kernel's lists a
/// moment later, so it is looked at again for a while.
fn grown_for_good(before: &[(&'static str, i64, i64); 7], bytes_before: i64, kept: i64) -> Vec<(String, bool)> {
    // What leaks on purpose need not be waited for.
    let is_leaking = std::env::var(CASE).is_ok_and(|case| case.starts_with("leak "));
    let deadline = Instant::now() + if is_leaking { LONG / 200 } else { LONG / 4 };
    loop {
        let grown = grown(before, bytes_before, kept);
        if grown.is_empty() || Instant::now() >= deadline {
            return grown;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a case in a child: its output, and whether all was well.
fn run(case: &str, cycles: Option<usize>) -> (bool, String) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CASE, case).env("MALLOC_ARENA_MAX", "1");
    if let Some(cycles) = cycles {
        child.env(CYCLES, cycles.to_string());
    }
    let out = child.output().unwrap();
    (out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn holds(case: &str) {
    let (well, text) = run(case, None);
    assert!(well, "{case}: {text}");
    // The child has run the case, and not nothing.
    assert!(text.contains("cycles: "), "{case}: {text}");
    eprintln!("{case}: {}", text.lines().find(|line| line.contains("cycles: ")).unwrap_or_default());
}

/// Not a test: a case, in a process of its own.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    match case.as_str() {
        "memory" => in_memory(),
        "uring" => on_disk(Io::Uring),
        "threads" => on_disk(Io::Threads),
        #[cfg(feature = "tokio-uring")]
        "tokio-uring" => on_disk(Io::TokioUring),
        "dropped" => dropped(),
        "refused" => refused(),
        "no thread" => no_thread(),
        "no descriptors" => no_descriptors(),
        "few descriptors" => few_descriptors(),
        "short-lived threads" => short_lived_threads(),
        "waiters" => waiters(),
        "parked" => parked(),
        "hanging sink" => hanging_sink(),
        leak => leaking(leak),
    }
}

fn entry(n: usize) -> Numbered {
    Numbered::new(0, n as u32, n % 500)
}

fn push(queue: &Queue<Numbered>, count: usize) {
    let producer = queue.producer();
    (0..count).for_each(|n| _ = producer.push(entry(n)).unwrap());
}

/// A sink that takes everything and keeps nothing.
fn swallow() -> impl Sink<Numbered> {
    blocking_fn(|batch: &Batch<Numbered>| Ok(assert!(!batch.is_empty())))
}

/// Segments of both logs of such a queue, and META.
const FILES_OPEN: i64 = 8 + 8 + 4;
/// `SPARE_RUNS` of each of the two.
const VECTORS_KEPT: i64 = 2 * 64;

/// A queue with little memory, by the number of the cycle in another durability.
fn settings(dir: &Path, cycle: usize) -> Builder {
    let durabilities =
        [Durability::Immediate, Durability::Periodic(Duration::from_millis(1)), Durability::Spill, Durability::Memory];
    small(dir, durabilities[cycle % durabilities.len()]).rings(2).pinned_rings(2)
}

#[test]
fn thousands_of_queues_in_memory_leave_nothing_behind() {
    holds("memory");
}

fn in_memory() {
    watch(1000, |cycle| {
        let queue = settings(Path::new("/nowhere"), 3).open(swallow()).unwrap();
        push(&queue, 20 + cycle % 100);
        if !cycle.is_multiple_of(3) {
            queue.drain(LONG).unwrap();
        }
        queue.shutdown(LONG).unwrap();
    });
}

#[test]
fn hundreds_of_queues_on_disk_leave_nothing_behind_with_io_uring() {
    holds("uring");
}

#[test]
fn hundreds_of_queues_on_disk_leave_nothing_behind_with_threads() {
    holds("threads");
}

#[cfg(feature = "tokio-uring")]
#[test]
fn hundreds_of_queues_on_disk_leave_nothing_behind_with_tokio_uring() {
    holds("tokio-uring");
}

/// One directory again and again, and a new one now and then: with and without a backlog, closed and dropped.
fn on_disk(io: Io) {
    let root = tempfile::tempdir().unwrap();
    watch(200, |cycle| {
        let dir = root.path().join(if cycle.is_multiple_of(16) { format!("new-{cycle}") } else { "same".to_owned() });
        let queue = settings(&dir, cycle % 3).io(io).open(swallow()).unwrap();
        let driver = match io {
            Io::Uring => "io_uring",
            Io::Threads => "threads",
            _ => "tokio-uring",
        };
        assert_eq!(queue.recovery().disk.driver, driver);
        if cycle % 4 == 1 {
            queue.pause();
        }
        push(&queue, 200);
        match cycle % 4 {
            0 => queue.drain(LONG).unwrap(),
            // What is left comes in the next cycle.
            1 => queue.flush().unwrap(),
            2 => queue.producer().push_durable(entry(1)).unwrap().wait().unwrap(),
            _ => {}
        }
        if cycle % 8 < 6 {
            _ = queue.shutdown(LONG).unwrap()
        } else {
            drop(queue)
        }
        if cycle.is_multiple_of(16) {
            std::fs::remove_dir_all(dir).unwrap();
        }
    });
}

#[test]
fn handles_that_outlive_their_queue_take_everything_along_when_they_go() {
    holds("dropped");
}

/// Producers, pinned producers and waiters are left when the queue is gone, and go in any order.
fn dropped() {
    let root = tempfile::tempdir().unwrap();
    watch(200, |cycle| {
        let queue = settings(root.path(), cycle).drop_timeout(LONG).open(swallow()).unwrap();
        let producer = queue.producer();
        let mut pinned: Vec<_> = (0..3).map(|_| producer.pin()).collect();
        let durables: Vec<_> = (0..4).map(|n| producer.push_durable(entry(n)).unwrap()).collect();
        let mut waiting = Box::pin(producer.push_durable(entry(9)).unwrap());
        let _ = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let receipt = pinned[cycle % 3].push(entry(5)).unwrap();
        if cycle.is_multiple_of(2) {
            drop(queue);
            assert!(producer.push(entry(1)).unwrap_err().is_closed());
            assert!(pinned[0].push(entry(1)).unwrap_err().is_closed());
            let _ = producer.durable(receipt).wait();
            drop((pinned, waiting));
            drop(durables);
        } else {
            drop((durables, waiting));
            drop(producer);
            drop(queue);
            drop(pinned);
        }
    });
}

#[test]
fn openings_that_are_refused_leave_nothing_behind() {
    holds("refused");
}

/// What a sink says that stores LSNs.
struct Committed;

impl Sink<Numbered> for Committed {
    async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        Some(Lsn::new(1))
    }
}

/// A sink that panics when it is asked what it has.
struct Panics;

impl Sink<Numbered> for Panics {
    async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
        Outcome::ack()
    }

    async fn committed(&self) -> Option<Lsn> {
        panic!("on purpose")
    }
}

fn refused() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let of = |name: &str| settings(&path(name), 0);
    // Three stores with a backlog: one that stays in use, one that is damaged, one of another schema.
    let queue = of("held").open(swallow()).unwrap();
    let full = of("full").open(swallow()).unwrap();
    full.pause();
    // What is flushed later promises what was flushed before.
    for _ in 0..3 {
        push(&full, 300);
        full.flush().unwrap();
    }
    copy_dir(&path("full"), &path("damaged"));
    full.shutdown(LONG).unwrap();
    let slot = path("damaged").join("seg-00000000.rwal");
    let mut bytes = std::fs::read(&slot).unwrap();
    // The header of the first frame, behind the two of the segment.
    bytes[2 * 4096 + 20] ^= 1;
    std::fs::write(&slot, bytes).unwrap();
    std::fs::write(path("file"), b"no directory").unwrap();
    watch(200, |cycle| {
        let io = common::DRIVERS[cycle % common::DRIVERS.len()];
        let error = |name: &str| of(name).io(io).open(swallow()).map(drop).unwrap_err();
        assert!(matches!(error("held"), OpenError::Locked { .. }));
        let damaged = error("damaged");
        assert!(matches!(damaged, OpenError::Corrupt { .. }), "{damaged:?}");
        assert!(matches!(error("file"), OpenError::NotADirectory { .. }));
        let lines = blocking_fn(|_: &Batch<String>| Ok(()));
        assert!(matches!(of("full").io(io).open(lines).map(drop), Err(OpenError::Schema { .. })));
        assert!(matches!(of("full").io(io).entry_len_max(0).open(swallow()), Err(OpenError::Config(_))));
        let no_cpu = of("full").io(io).cpu(4000).open(swallow()).map(drop);
        assert!(matches!(no_cpu, Err(OpenError::Config(_))), "{no_cpu:?}");
        let in_memory = of("full").durability(Durability::Memory).open(Committed).map(drop);
        assert!(matches!(in_memory, Err(OpenError::CommittedInMemory)));
        if cycle.is_multiple_of(20) {
            let panicked = of("full").io(io).open(Panics).map(drop);
            assert!(matches!(panicked, Err(OpenError::Resources { .. })), "{panicked:?}");
        }
    });
    queue.shutdown(LONG).unwrap();
}

#[test]
fn an_opening_whose_last_thread_cannot_be_started_leaves_nothing_behind() {
    holds("no thread");
}

/// From now on the kernel starts no thread for this one.
fn refuse_threads() {
    let line = |code: u32, jt, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf: 0, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let mut program = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, number(libc::SYS_clone3)),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number(libc::SYS_clone)),
        line(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        line(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program lives until the call returns; the kernel copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(set, 0, "seccomp filters are refused here: {}", std::io::Error::last_os_error());
}

/// Lets no thread be started once the flush core runs: opening asks `partial` between its two threads.
struct NoMoreThreads;

impl Sink<Numbered> for NoMoreThreads {
    async fn deliver(&self, _: Batch<Numbered>) -> Outcome {
        Outcome::ack()
    }

    fn partial(&self) -> bool {
        refuse_threads();
        false
    }
}

/// The flush core lived on when the delivery thread could not be started, with the lock and all: the directory
/// could not be opened again as long as the process lived.
fn no_thread() {
    let root = tempfile::tempdir().unwrap();
    watch(50, |cycle| {
        // The filter stays with the thread that takes it.
        let opening = std::thread::scope(|scope| {
            let open = || settings(root.path(), cycle).open(NoMoreThreads).map(drop);
            scope.spawn(open).join().unwrap()
        });
        match opening {
            Err(OpenError::Resources { what, source }) => {
                assert!(what.contains("sink thread"), "{what}");
                assert_eq!(source.raw_os_error(), Some(libc::EAGAIN));
            }
            other => panic!("{other:?}"),
        }
        let queue = settings(root.path(), cycle).open(swallow()).unwrap();
        push(&queue, 10);
        queue.shutdown(LONG).unwrap();
    });
}

#[test]
fn an_opening_that_runs_out_of_descriptors_anywhere_leaves_nothing_behind_and_loses_nothing() {
    holds("no descriptors");
}

/// Numbers of descriptors that are free, in the order in which they will be given out.
fn free_descriptors() -> impl Iterator<Item = u64> {
    // SAFETY: asks for a flag of a descriptor, or hears that there is none.
    (0..1024).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } < 0).map(|fd| fd as u64)
}

fn set_descriptors_max(max: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the call to write.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = max.min(limit.rlim_max);
    // SAFETY: `limit` is a valid place for the call to read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Opens under every limit of descriptors, from none to plenty, and works as long as that goes well. What was
/// acknowledged as durable is there afterwards.
fn no_descriptors() {
    let root = tempfile::tempdir().unwrap();
    // What opening and working take at most, and some.
    const MORE: usize = 24;
    let (mut opened, mut failed) = (0, 0);
    watch(MORE * (common::DRIVERS.len() + 2), |cycle| {
        let io = [common::DRIVERS, &[Io::Auto]].concat()[cycle / MORE % (common::DRIVERS.len() + 1)];
        let dir = root.path().join(cycle.to_string());
        let max = free_descriptors().nth(cycle % MORE).unwrap();
        set_descriptors_max(max);
        let mut durable = 0;
        // Spill and memory say nothing of what was durable.
        match settings(&dir, cycle % 2).io(io).lock_wait(Duration::ZERO).open(swallow()) {
            Err(_) => failed += 1,
            Ok(queue) => {
                opened += 1;
                queue.pause();
                let producer = queue.producer();
                // Over more than one segment, so that another file is needed.
                for n in 0..400 {
                    if producer.push_timeout(Numbered::new(0, n, 1900), LONG / 4).is_err() {
                        break;
                    }
                    if n % 100 == 99 && queue.flush().is_ok() {
                        durable = u64::from(n) + 1;
                    }
                }
                let _ = queue.shutdown(LONG);
            }
        }
        set_descriptors_max(1024);
        let recorder = Recorder::default();
        let queue = settings(&dir, 0).io(io).open(recorder.clone()).unwrap();
        assert!(queue.recovery().recovered >= durable, "{cycle} {io:?}: {durable} {:?}", queue.recovery());
        queue.drain(LONG).unwrap();
        queue.shutdown(LONG).unwrap();
        for (at, (_, entry, _)) in recorder.0.all().into_iter().enumerate() {
            assert_eq!(entry, Numbered::new(0, at as u32, 1900));
        }
        drop(recorder);
        std::fs::remove_dir_all(dir).unwrap();
    });
    assert!(opened > 0 && failed > 0, "{opened} opened, {failed} did not: the limits are elsewhere");
}

#[test]
fn a_log_with_more_segments_than_descriptors_is_opened_and_drained() {
    holds("few descriptors");
}

fn few_descriptors() {
    let root = tempfile::tempdir().unwrap();
    watch(3, |cycle| {
        // The first ones only warm up.
        if cycle < 22 {
            return;
        }
        let io = common::DRIVERS[cycle % common::DRIVERS.len()];
        let dir = root.path().join(cycle.to_string());
        let open = |sink: Recorder| settings(&dir, 0).io(io).log_bytes_max(24 << 20).open(sink).unwrap();
        let queue = open(Recorder::default());
        queue.pause();
        let producer = queue.producer();
        (0..9000).for_each(|n| _ = producer.push(Numbered::new(0, n, 1900)).unwrap());
        assert_eq!(queue.shutdown(LONG).unwrap().left_in_log, 9000);
        // Fewer than the 36 segments and what else is open.
        set_descriptors_max(40);
        let recorder = Recorder::default();
        let queue = open(recorder.clone());
        queue.drain(LONG).unwrap();
        push(&queue, 2000);
        queue.drain(LONG).unwrap();
        assert_eq!(recorder.0.len(), 11_000);
        queue.shutdown(LONG).unwrap();
        set_descriptors_max(1024);
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn thousands_of_short_lived_producer_threads_leave_nothing_behind() {
    holds("short-lived threads");
}

/// A thread has a number and buffers of its own from its first push on: all go with it.
fn short_lived_threads() {
    let root = tempfile::tempdir().unwrap();
    let queue = settings(root.path(), 1).open(swallow()).unwrap();
    let lines = settings(root.path(), 3).open(blocking_fn(|_: &Batch<String>| Ok(()))).unwrap();
    watch_beside_queue(2000, |cycle| {
        let (producer, line) = (queue.producer(), lines.producer());
        let thread = std::thread::spawn(move || match cycle % 4 {
            0 => _ = producer.push(entry(cycle)).unwrap(),
            // No length is known before: a buffer of the thread's.
            1 => _ = line.push("a line of text".repeat(20)).unwrap(),
            2 => _ = producer.push_batch((0..50).map(entry)).unwrap(),
            _ => _ = producer.pin().push(entry(cycle)).unwrap(),
        });
        thread.join().unwrap();
    });
    queue.shutdown(LONG).unwrap();
    lines.shutdown(LONG).unwrap();
}

#[test]
fn waits_that_are_given_up_leave_nothing_behind() {
    holds("waiters");
}

/// Futures that were polled and dropped, waits whose time was over, drains that were not waited for.
fn waiters() {
    let root = tempfile::tempdir().unwrap();
    let queue = settings(root.path(), 2).open(swallow()).unwrap();
    let producer = queue.producer();
    watch_beside_queue(2000, |cycle| {
        let mut context = Context::from_waker(Waker::noop());
        let durables: Vec<_> = (0..3).map(|n| producer.push_durable(entry(n)).unwrap()).collect();
        for mut durable in durables {
            let _ = pin!(&mut durable).poll(&mut context);
        }
        let _ = producer.push_durable(entry(1)).unwrap().wait_timeout(Duration::ZERO);
        let _ = pin!(queue.flush_async()).poll(&mut context);
        if cycle.is_multiple_of(10) {
            let _ = queue.drain(Duration::ZERO);
        }
        if cycle.is_multiple_of(50) {
            queue.drain(LONG).unwrap();
        }
    });
    queue.shutdown(LONG).unwrap();
}

#[test]
fn entries_that_come_and_go_in_the_park_leave_nothing_behind() {
    holds("parked");
}

fn parked() {
    let root = tempfile::tempdir().unwrap();
    let refuse = blocking_fn(|_: &Batch<Numbered>| Err::<(), _>(SinkError::park("of no use")));
    let queue = settings(root.path(), 0).open(refuse).unwrap();
    watch_beside_queue(60, |_| {
        push(&queue, 20);
        queue.drain(LONG).unwrap();
        assert_eq!(queue.parked().len(), 20);
        let first = queue.parked().list(Lsn::ZERO, 100).unwrap()[0].id;
        assert_eq!(queue.parked().redeliver(|entry| entry.id == first).unwrap(), 1);
        queue.drain(LONG).unwrap();
        assert_eq!(queue.parked().discard(|_| true).unwrap(), 20);
    });
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_sink_that_hangs_beyond_the_shutdown_gives_everything_back_when_it_returns() {
    holds("hanging sink");
}

fn hanging_sink() {
    let root = tempfile::tempdir().unwrap();
    watch(40, |cycle| {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let entered = Arc::new(std::sync::Barrier::new(2));
        let inside = Arc::clone(&entered);
        let mut first = true;
        let sink = blocking_fn(move |_: &Batch<Numbered>| {
            if std::mem::take(&mut first) {
                inside.wait();
                let _ = wait.lock().unwrap().recv();
            }
            Ok(())
        });
        let queue = settings(root.path(), cycle).open(sink).unwrap();
        push(&queue, 5);
        entered.wait();
        assert!(queue.shutdown(Duration::ZERO).is_err());
        drop(release);
        // The sink's thread lives on without anybody who waits for it.
        let deadline = Instant::now() + LONG;
        while std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
            let name = std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
            name.trim() == "ringwal-sink"
        }) {
            assert!(Instant::now() < deadline, "the sink's thread does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// One block of the heap that grows.
static ROOM: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());

/// What must be seen.
fn leaking(what: &str) {
    watch(100, |_| match what {
        "leak a thread" => _ = std::thread::spawn(std::thread::park),
        "leak a descriptor" => _ = std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/dev/null").unwrap()),
        "leak a mapping" => std::mem::forget(memmap2::MmapMut::map_anon(1 << 20).unwrap()),
        "leak memory" => _ = std::hint::black_box(Box::leak(Box::new(7_u64))),
        "leak room" => ROOM.lock().unwrap().extend([0; 1000]),
        "leak a queue" => {
            let queue = settings(Path::new("/nowhere"), 3).open(swallow()).unwrap();
            std::mem::forget(queue.producer());
            queue.shutdown(LONG).unwrap();
        }
        other => panic!("no such case: {other}"),
    });
}

#[test]
fn what_leaks_once_in_each_cycle_is_seen() {
    for (leak, word) in [
        ("leak a thread", "threads: "),
        ("leak a descriptor", "descriptors: "),
        ("leak a mapping", "KiB mapped: "),
        ("leak memory", "in each of 1 rounds: blocks of the heap: "),
        ("leak room", "in each of 3 rounds: bytes of the heap: "),
        ("leak a queue", "KiB mapped: "),
    ] {
        let (well, text) = run(leak, Some(100));
        assert!(!well && text.contains("grown over 100 cycles") && text.contains(word), "{leak}: {text}");
    }
}
