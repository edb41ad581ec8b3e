//! What an uncontended push does besides moving bytes: nothing. It makes no system call, allocates
//! nothing, waits for no lock and reads no clock.
//!
//! ```text
//!   a push on the watched thread
//!     │ malloc ────────────► the test's allocator counts
//!     │ system call ───────► seccomp: SIGSYS ──► counts, makes the call itself, from the one place that seccomp lets by
//!     └ clock (vDSO) ──────► PR_SET_TSC: SIGSEGV at `rdtsc` ──► counts, allows it
//! ```
//! All three are per thread, so the queue's own threads and other tests are not watched. A lock that
//! somebody holds would show as a `futex`.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::time::{Duration, Instant};

use common::{LONG, small};
use ringwal::{Batch, DecodeError, Durability, Entry, Idle, Io, PinnedProducer, Producer, Queue, Schema, blocking_fn};

use watch::Seen;

const PUSHES: u64 = 1_000_000;

/// Counts what the watched thread does.
mod watch {
    use std::cell::{Cell, RefCell};
    use std::sync::Once;

    /// What happened while it was watched.
    #[derive(Clone, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Seen {
        pub allocations: u64,
        /// Watched spans in which a clock was read: after the first reading it is allowed.
        pub clocks: u64,
        /// Numbers of the calls, in order; the first 1024.
        pub calls: Vec<i64>,
    }

    const CALLS_MAX: usize = 1024;

    struct Counts {
        on: Cell<bool>,
        allocations: Cell<u64>,
        clocks: Cell<u64>,
        calls: Cell<usize>,
        numbers: RefCell<[i64; CALLS_MAX]>,
    }

    thread_local! {
        static COUNTS: Counts = const {
            Counts {
                on: Cell::new(false),
                allocations: Cell::new(0),
                clocks: Cell::new(0),
                calls: Cell::new(0),
                numbers: RefCell::new([0; CALLS_MAX]),
            }
        };
    }

    pub(crate) fn allocated() {
        let _ = COUNTS.try_with(|counts| counts.allocations.set(counts.allocations.get() + u64::from(counts.on.get())));
    }

    /// Runs `watched`, and adds what it did to `seen`. On a thread that [`begin`] was called on.
    pub(crate) fn watched<R>(seen: &mut Seen, watched: impl FnOnce() -> R) -> R {
        COUNTS.with(|counts| {
            counts.allocations.set(0);
            counts.clocks.set(0);
            counts.calls.set(0);
            allow_clock(false);
            counts.on.set(true);
        });
        let result = watched();
        COUNTS.with(|counts| {
            counts.on.set(false);
            allow_clock(true);
            seen.allocations += counts.allocations.get();
            seen.clocks += counts.clocks.get();
            let calls = counts.calls.get().min(CALLS_MAX);
            seen.calls.extend(&counts.numbers.borrow()[..calls]);
        });
        result
    }

    /// Puts this thread under watch: each of its calls goes through the handler from now on.
    pub(crate) fn begin() {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| {
            handle(libc::SIGSYS, on_call);
            handle(libc::SIGSEGV, on_fault);
        });
        let line = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
        let load = |at| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
        let equal = |value, jt, jf| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, value);
        let answer = |what| line(libc::BPF_RET | libc::BPF_K, 0, 0, what);
        let number = |call: libc::c_long| u32::try_from(call).unwrap();
        let home = ringwal_test_called as *const () as u64;
        let mut program = [
            // Where the call returns to, in two halves, on a little-endian machine.
            load(8),
            equal(home as u32, 0, 2),
            load(12),
            equal((home >> 32) as u32, 4, 0),
            load(0),
            equal(number(libc::SYS_rt_sigreturn), 2, 0),
            equal(number(libc::SYS_exit), 1, 0),
            answer(libc::SECCOMP_RET_TRAP),
            answer(libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        // SAFETY: the program lives until the call returns; the kernel copies it.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        assert_eq!(set, 0, "seccomp filters are refused here: {}", std::io::Error::last_os_error());
    }

    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

    fn handle(signal: libc::c_int, handler: Handler) {
        // SAFETY: all zero is a valid action, with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO; // on the thread's own stack: it may just be giving the other up
        // SAFETY: the handlers use only thread-locals without destructors and plain system calls.
        assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
    }

    // The one place whose calls the filter lets by: the call with this number and these six arguments.
    #[cfg(target_arch = "x86_64")]
    std::arch::global_asm!(
        "ringwal_test_call:",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "ringwal_test_called:",
        "ret",
    );
    #[cfg(target_arch = "aarch64")]
    std::arch::global_asm!(
        "ringwal_test_call:",
        "mov x8, x0",
        "mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "mov x3, x4",
        "mov x4, x5",
        "mov x5, x6",
        "svc #0",
        "ringwal_test_called:",
        "ret",
    );

    unsafe extern "C" {
        fn ringwal_test_call(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64;
        fn ringwal_test_called();
    }

    fn call(number: i64, a: [i64; 6]) -> i64 {
        // SAFETY: it is a call that the thread was about to make, with the same arguments, or `prctl` below.
        unsafe { ringwal_test_call(number, a[0], a[1], a[2], a[3], a[4], a[5]) }
    }

    extern "C" fn on_call(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel gives a handler with SA_SIGINFO the context, which is nobody else's meanwhile.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        let (number, arguments) = call_in(context);
        COUNTS.with(|counts| {
            if counts.on.get() {
                let at = counts.calls.get();
                counts.calls.set(at + 1);
                if let (Some(cell), Ok(_)) = (counts.numbers.borrow_mut().get_mut(at), u32::try_from(number)) {
                    *cell = number;
                }
            }
        });
        answer_in(context, call(number, arguments));
    }

    #[cfg(target_arch = "x86_64")]
    fn call_in(context: &libc::ucontext_t) -> (i64, [i64; 6]) {
        let gregs = &context.uc_mcontext.gregs;
        let at = |register: libc::c_int| gregs[usize::try_from(register).unwrap_or(0)];
        let registers = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];
        (at(libc::REG_RAX), registers.map(at))
    }

    #[cfg(target_arch = "x86_64")]
    fn answer_in(context: &mut libc::ucontext_t, result: i64) {
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
    }

    #[cfg(target_arch = "aarch64")]
    fn call_in(context: &libc::ucontext_t) -> (i64, [i64; 6]) {
        let at = |register: usize| context.uc_mcontext.regs[register].cast_signed();
        (at(8), [at(0), at(1), at(2), at(3), at(4), at(5)])
    }

    #[cfg(target_arch = "aarch64")]
    fn answer_in(context: &mut libc::ucontext_t, result: i64) {
        context.uc_mcontext.regs[0] = result.cast_unsigned();
    }

    /// Whether this thread may read the counter of cycles, and with it the clock.
    #[cfg(target_arch = "x86_64")]
    fn allow_clock(allow: bool) {
        let how = if allow { libc::PR_TSC_ENABLE } else { libc::PR_TSC_SIGSEGV };
        let _ = call(libc::SYS_prctl, [i64::from(libc::PR_SET_TSC), i64::from(how), 0, 0, 0, 0]);
    }

    #[cfg(target_arch = "aarch64")]
    fn allow_clock(_: bool) {}

    extern "C" fn on_fault(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: as in `on_call`.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        if !is_at_clock(context) {
            // A fault of the usual kind: it comes again, and ends the process.
            // SAFETY: no memory is involved.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            return;
        }
        COUNTS.with(|counts| counts.clocks.set(counts.clocks.get() + u64::from(counts.on.get())));
        allow_clock(true);
    }

    #[cfg(target_arch = "x86_64")]
    fn is_at_clock(context: &libc::ucontext_t) -> bool {
        let at = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize as *const [u8; 2];
        // SAFETY: the processor has just read an instruction there.
        let instruction = unsafe { at.read_unaligned() };
        // rdtsc, rdtscp
        COUNTS.with(|counts| counts.on.get()) && matches!(instruction, [0x0f, 0x31] | [0x0f, 0x01])
    }

    #[cfg(target_arch = "aarch64")]
    fn is_at_clock(_: &libc::ucontext_t) -> bool {
        false
    }
}

struct Counting;

// SAFETY: all is the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch::allocated();
        // SAFETY: the caller keeps the trait's rules, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        watch::allocated();
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        watch::allocated();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `producer` on a thread under watch, after a look whether the watch sees anything. Threads must not
/// be started there: they would inherit the watch.
fn on_watched_thread<R: Send>(producer: impl FnOnce() -> R + Send) -> R {
    let under_watch = || {
        watch::begin();
        let mut seen = Seen::default();
        watch::watched(&mut seen, || drop(std::hint::black_box(vec![1_u8; 100])));
        assert_eq!(seen, Seen { allocations: 2, ..Seen::default() });
        let mut seen = Seen::default();
        watch::watched(&mut seen, std::thread::yield_now);
        assert_eq!(seen, Seen { calls: vec![libc::SYS_sched_yield], ..Seen::default() });
        let mut seen = Seen::default();
        watch::watched(&mut seen, || std::hint::black_box(Instant::now()));
        let by_call = seen.calls == [libc::SYS_clock_gettime];
        if cfg!(target_arch = "x86_64") {
            assert!(seen.clocks == 1 || by_call, "the watch does not see that a clock is read: {seen:?}");
        } else if !by_call {
            eprintln!("SKIPPED in part: on this machine nothing shows that a clock is read; it is checked on x86-64");
        }
        producer()
    };
    std::thread::scope(|scope| scope.spawn(under_watch).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Of known length: goes straight into the ring.
#[derive(Clone, Copy)]
struct Tick {
    time: u64,
    price: u64,
}

impl Entry for Tick {
    const SCHEMA: Schema = Schema::new("test.tick", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(16)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.time.to_le_bytes());
        out[8..].copy_from_slice(&self.price.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (time, price) = bytes.split_at(8);
        let word = |bytes: &[u8]| Ok(u64::from_le_bytes(bytes.try_into().map_err(DecodeError::new)?));
        Ok(Self { time: word(time)?, price: word(price)? })
    }
}

/// Of a length that only encoding tells: goes through the producer's scratch buffer.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Order {
    id: u64,
    price: Option<u32>,
    side: (bool, i16),
}

ringwal::entry!(Order, name = "test.order");

trait Pushed: Entry {
    /// Most bytes that one takes in a ring.
    const STRIDE: usize;
    fn numbered(n: u64) -> Self;
}

impl Pushed for Tick {
    const STRIDE: usize = 32;
    fn numbered(n: u64) -> Self {
        Self { time: n, price: !n }
    }
}

impl Pushed for Order {
    const STRIDE: usize = 32;
    fn numbered(n: u64) -> Self {
        Self { id: n, price: Some(7), side: (n & 1 == 0, -3) }
    }
}

/// The two ways to push.
enum Way<T> {
    Shared(Producer<T>),
    Pinned(PinnedProducer<T>),
}

impl<T: Entry> Way<T> {
    fn new(queue: &Queue<T>, pinned: bool) -> Self {
        if !pinned {
            return Self::Shared(queue.producer());
        }
        let producer = queue.producer().pin();
        assert!(producer.has_own_ring());
        Self::Pinned(producer)
    }

    fn push(&mut self, entry: T) {
        let receipt = match self {
            Self::Shared(producer) => producer.push(entry),
            Self::Pinned(producer) => producer.push(entry),
        };
        assert!(receipt.is_ok(), "a push was refused");
    }
}

const RING_BYTES: usize = 256 << 10;

fn opened<T: Pushed>(dir: &std::path::Path, durability: Durability, io: Io, idle: Idle) -> Queue<T> {
    let builder = small(dir, durability).ring_bytes(RING_BYTES).segment_len(1 << 20).log_bytes_max(16 << 20);
    builder.io(io).idle(idle).open(blocking_fn(|_: &Batch<T>| Ok(()))).unwrap()
}

fn wait_until_drained<T>(queue: &Queue<T>) {
    let begun = Instant::now();
    while queue.metrics().ring_bytes > 0 {
        assert!(begun.elapsed() < LONG, "the rings are not drained: {:?}", queue.health());
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Pushes in bursts that take `share` of the ring, each after the one before is drained.
fn burst<T: Pushed>(queue: &Queue<T>, pinned: bool, share: f64) -> Seen {
    let mut way = Way::new(queue, pinned);
    let mut seen = Seen::default();
    if T::numbered(0).encoded_len().is_none() {
        way.push(T::numbered(0)); // gives the thread its scratch buffer
        wait_until_drained(queue);
    }
    let entries = (RING_BYTES as f64 * share) as u64 / T::STRIDE as u64;
    let mut pushed = 0;
    // Once it has failed, it need not go on at the pace of the handler.
    while pushed < PUSHES && seen.calls.len() < 10_000 {
        let next = PUSHES.min(pushed + entries);
        watch::watched(&mut seen, || (pushed..next).for_each(|n| way.push(T::numbered(n))));
        pushed = next;
        wait_until_drained(queue);
    }
    seen
}

/// The flush core sleeps for a late disk only, and tells nobody: nothing at all is left for a push to do.
fn a_million_do_nothing<T: Pushed>(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let queue = opened::<T>(dir.path(), Durability::Periodic(Duration::from_millis(5)), io, Idle::Spin);
    a_million_do_nothing_in(queue);
}

fn a_million_do_nothing_in<T: Pushed>(queue: Queue<T>) {
    for pinned in [false, true] {
        // Up to a full ring: past its half a push also looks at the head, and rouses the flush core.
        let seen = on_watched_thread(|| burst(&queue, pinned, 0.95));
        assert_eq!(seen, Seen::default(), "{PUSHES} pushes, pinned: {pinned}");
    }
    let pushed = queue.metrics().pushed;
    assert!(pushed >= 2 * PUSHES, "{pushed}");
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_million_pushes_of_known_length_make_no_call_and_no_allocation_and_read_no_clock() {
    a_million_do_nothing::<Tick>(Io::Auto);
}

#[test]
fn a_million_pushes_through_the_scratch_buffer_make_no_call_and_no_allocation_and_read_no_clock() {
    a_million_do_nothing::<Order>(Io::Threads);
}

#[test]
fn a_million_pushes_into_rings_in_shared_memory_make_no_call_and_no_allocation_and_read_no_clock() {
    let dir = tempfile::tempdir().unwrap();
    let rings = tempfile::Builder::new().prefix("ringwal-test-").tempdir_in("/dev/shm").unwrap();
    let builder = small(dir.path(), Durability::Immediate).ring_bytes(RING_BYTES).rings_in(rings.path());
    let queue = builder.segment_len(1 << 20).log_bytes_max(16 << 20).idle(Idle::Spin);
    a_million_do_nothing_in::<Tick>(queue.open(blocking_fn(|_: &Batch<Tick>| Ok(()))).unwrap());
}

/// Watermarks and limits that are set and not reached cost a push nothing either. Memory and log have room for all of it, so
/// that a slow disk does not come near them.
#[test]
fn a_million_pushes_below_their_watermarks_make_no_call_and_no_allocation_and_read_no_clock() {
    let dir = tempfile::tempdir().unwrap();
    let builder = small(dir.path(), Durability::Immediate).ring_bytes(RING_BYTES).segment_len(1 << 20);
    let queue = builder.log_bytes_max(512 << 20).memory_max(256 << 20).idle(Idle::Spin).backlog_len_max(u64::MAX);
    let queue = queue.watermarks(0.8, 0.95).failure_delay(Duration::from_millis(1));
    let queue: Queue<Tick> = queue.open(blocking_fn(|_: &Batch<Tick>| Ok(()))).unwrap();
    a_million_do_nothing_in(queue);
}

/// The calls that wake a flush core: an eventfd is written, or a futex woken. `None`: there are others.
fn wakes(calls: &[i64]) -> Option<usize> {
    calls.iter().all(|call| [libc::SYS_write, libc::SYS_futex].contains(call)).then_some(calls.len())
}

#[test]
fn a_million_pushes_in_bursts_wake_a_core_that_sleeps_between_them_seldom() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(5))] {
        let queue = opened::<Tick>(dir.path(), durability, Io::Auto, Idle::Park);
        for pinned in [false, true] {
            let is_seldom = || {
                let seen = on_watched_thread(|| burst(&queue, pinned, 0.45));
                assert!(seen.allocations == 0 && seen.clocks == 0, "pinned: {pinned}, {} clocks", seen.clocks);
                let wakes = wakes(&seen.calls).unwrap_or_else(|| panic!("{:?}", seen.calls));
                eprintln!("{durability:?}, pinned {pinned}: {wakes} wakes in {PUSHES} pushes");
                wakes < 500
            };
            // Some 270 bursts. A core that finds nothing falls asleep within a burst too, when the system has
            // taken the producer from its CPU; on a busy machine that may be often, but not each time.
            assert!((0..3).any(|_| is_seldom()), "500 wakes and more in {PUSHES} pushes, three times");
        }
        queue.shutdown(LONG).unwrap();
    }
}

/// Pushes one at a time, with a pause after each, until one has found the core asleep. What each one did.
fn trickle(queue: &Queue<Tick>, pinned: bool) -> Vec<Seen> {
    const LEAST: usize = 300;
    let mut way = Way::new(queue, pinned);
    let begun = Instant::now();
    let mut pushes: Vec<Seen> = Vec::new();
    while pushes.len() < LEAST || pushes.iter().all(|push| push.calls.is_empty()) && begun.elapsed() < LONG {
        let mut seen = Seen::default();
        watch::watched(&mut seen, || way.push(Tick::numbered(pushes.len() as u64)));
        // Where the disk is busy the core has something in flight for longer than that, and only naps.
        std::thread::sleep(Duration::from_millis(if pushes.len() < LEAST { 1 } else { 50 }));
        pushes.push(seen);
    }
    pushes
}

#[test]
fn in_a_trickle_a_push_wakes_a_sleeping_core_once_and_does_nothing_else() {
    let on_disk = common::DRIVERS.iter().chain(&[Io::Auto]).map(|&io| (Durability::Immediate, io));
    for (durability, io) in on_disk.chain([(Durability::Memory, Io::Auto)]) {
        let dir = tempfile::tempdir().unwrap();
        let queue = opened::<Tick>(dir.path(), durability, io, Idle::Park);
        let driver = queue.metrics().driver;
        for pinned in [false, true] {
            let pushes = on_watched_thread(|| trickle(&queue, pinned));
            for Seen { allocations, clocks, calls } in &pushes {
                // The doorbell of threads, and of memory, is a condition variable: it may also have to wait a moment for
                // its lock.
                let calls_max = if ["threads", "memory"].contains(&driver) { 3 } else { 1 };
                let wakes = wakes(calls);
                assert!(wakes.is_some_and(|wakes| wakes <= calls_max), "{driver}, pinned {pinned}: {calls:?}");
                assert!(*allocations == 0 && *clocks == 0, "{driver}: {allocations}, {clocks}, {calls:?}");
            }
            let woke = pushes.iter().filter(|push| !push.calls.is_empty()).count();
            eprintln!("{driver}, pinned {pinned}: {woke} of {} pushes woke the core", pushes.len());
            assert!(woke > 0, "{driver}: the core never slept, so that this shows nothing");
        }
        queue.shutdown(LONG).unwrap();
    }
}
