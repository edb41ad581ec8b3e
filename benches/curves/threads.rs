//! CPU time of this process by what its threads do, and the CPUs that it may run on.

use std::fs;
use std::mem::{self, MaybeUninit};

/// Name of the thread that pushes.
pub(crate) const PUSHER: &str = "push";

/// What threads do: `name` in the data.
pub(crate) const ROLES: [&str; 4] = ["push", "flush", "sink", "other"];

/// Of `/proc/stat`, in a second, on every Linux.
const TICKS: f64 = 100.0;

/// CPU time of each of [`ROLES`] so far in nanoseconds, of the threads that live.
pub(crate) fn cpu_nanos() -> [f64; 4] {
    let mut nanos = [0.0; 4];
    for task in fs::read_dir("/proc/self/task").expect("/proc is mounted") {
        let task = task.expect("/proc is mounted").path();
        // A thread may end meanwhile.
        let (Ok(name), Ok(times)) = (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        let role = match name.trim_end() {
            PUSHER => 0,
            name if name.ends_with("-flush") => 1,
            name if name.ends_with("-sink") => 2,
            _ => 3,
        };
        let ran: f64 = times.split(' ').next().and_then(|ran| ran.parse().ok()).expect("nanoseconds come first");
        nanos[role] += ran;
    }
    nanos
}

/// Seconds that the CPUs have worked so far, for whomever: one of them, or all. In hundredths.
pub(crate) fn machine_busy(cpu: Option<usize>) -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let wanted = cpu.map_or("cpu".to_owned(), |cpu| format!("cpu{cpu}"));
    let line =
        stat.lines().find_map(|line| line.strip_prefix(&wanted)?.strip_prefix(' ')).expect("each CPU has a line");
    let ticks: Vec<f64> = line.split_whitespace().map(|ticks| ticks.parse().expect("a number of ticks")).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; then what is in user already.
    [0, 1, 2, 5, 6, 7].map(|at| ticks[at]).iter().sum::<f64>() / TICKS
}

/// Keeps this thread, and those that it starts from now on, on one CPU until dropped.
pub(crate) struct OneCpu {
    /// Which.
    pub(crate) cpu: usize,
    before: libc::cpu_set_t,
}

impl OneCpu {
    pub(crate) fn new() -> Self {
        let mut before = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the kernel fills at most as many bytes as it is told there are.
        let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), before.as_mut_ptr()) };
        assert!(result >= 0, "a thread may ask where it runs");
        // SAFETY: all zero is a valid set, and the kernel filled what it knows of.
        let before = unsafe { before.assume_init() };
        // SAFETY: all zero is the empty set.
        let mut one: libc::cpu_set_t = unsafe { mem::zeroed() };
        let is_in = |cpu: &usize| {
            // SAFETY: below the set's length.
            unsafe { libc::CPU_ISSET(*cpu, &before) }
        };
        let first = (0..libc::CPU_SETSIZE as usize).find(is_in).expect("it runs somewhere");
        // SAFETY: below the set's length.
        unsafe { libc::CPU_SET(first, &mut one) };
        set(&one);
        Self { cpu: first, before }
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        set(&self.before);
    }
}

fn set(cpus: &libc::cpu_set_t) {
    // SAFETY: reads a set of this length.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) };
    assert_eq!(result, 0, "a thread may choose among its own CPUs");
}
