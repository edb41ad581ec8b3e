//! How a ring is got: what is asked for, and what an older or stricter kernel gives instead.
//!
//! | asked for                               | since | without it                                  |
//! |-----------------------------------------|-------|---------------------------------------------|
//! | SINGLE_ISSUER, DEFER_TASKRUN            | 6.1   | COOP_TASKRUN (5.19)                         |
//! | COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL  | 5.19  | no flags                                    |
//! | timeout in `enter`, no lost completions | 5.11  | refused                                     |
//! | an op that is carried out               |       | refused: to enter may be forbidden by itself |
//!
//! A kernel answers EINVAL for a flag that it does not know: then less is asked for. Any other answer would be the
//! same for every flag.

use io_uring::{IoUring, opcode};

use super::ring::{REFUSAL_PAUSE, REFUSALS_MAX};

/// Entries of the SQ: every op in flight, the bells, and room.
const SQ_LEN: u32 = 256;
/// Entries of the CQ: never fewer than what can be in flight.
const CQ_LEN: u32 = 1024;

/// The kernel gives no ring.
#[derive(Clone, Debug)]
pub(in crate::io) struct Refusal {
    pub(in crate::io) errno: i32,
    pub(in crate::io) remedy: String,
}

/// Tries whether this process may have a ring, and gives it back.
pub(in crate::io) fn try_setup() -> Result<(), Refusal> {
    setup().map(drop)
}

pub(super) fn setup() -> Result<IoUring, Refusal> {
    let refusal = |errno| Refusal { errno, remedy: remedy(errno) };
    let mut ring = descend(build).map_err(refusal)?;
    turns(&mut ring).map_err(refusal)?;
    Ok(ring)
}

/// A flag of `io_uring_setup` that some kernels do not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flag {
    SubmitAll,
    SingleIssuer,
    DeferTaskrun,
    CoopTaskrun,
    TellsOfTaskrun,
}

/// What is asked for, the best first; the last is known to every kernel that will do.
const RUNGS: [&[Flag]; 3] = [
    &[Flag::SubmitAll, Flag::SingleIssuer, Flag::DeferTaskrun, Flag::TellsOfTaskrun],
    &[Flag::SubmitAll, Flag::CoopTaskrun, Flag::TellsOfTaskrun],
    &[],
];

/// Asks for one rung after the other; gives the last error number.
fn descend<R>(mut ask: impl FnMut(&[Flag]) -> Result<R, i32>) -> Result<R, i32> {
    let mut last = libc::ENOSYS;
    for rung in RUNGS {
        match ask(rung) {
            Ok(ring) => return Ok(ring),
            // Only an unknown flag is worth another try.
            Err(libc::EINVAL) => last = libc::EINVAL,
            Err(errno) => return Err(errno),
        }
    }
    Err(last)
}

fn build(flags: &[Flag]) -> Result<IoUring, i32> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(CQ_LEN);
    for flag in flags {
        match flag {
            Flag::SubmitAll => builder.setup_submit_all(),
            Flag::SingleIssuer => builder.setup_single_issuer(),
            Flag::DeferTaskrun => builder.setup_defer_taskrun(),
            Flag::CoopTaskrun => builder.setup_coop_taskrun(),
            Flag::TellsOfTaskrun => builder.setup_taskrun_flag(),
        };
    }
    let ring = builder.build(SQ_LEN).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    let will_do = ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop();
    if will_do { Ok(ring) } else { Err(libc::ENOSYS) }
}

/// Whether the ring carries something out: to set one up and to enter it are two calls, that a profile may allow
/// one by one.
fn turns(ring: &mut IoUring) -> Result<(), i32> {
    // SAFETY: a `Nop` has no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|_| libc::ENOSYS)?;
    let mut refusals = 0;
    loop {
        match ring.submit_and_wait(1).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(_) => return ring.completion().next().map(drop).ok_or(libc::ENOSYS),
            Err(libc::EINTR) => {}
            Err(libc::EBUSY | libc::EAGAIN) if refusals < REFUSALS_MAX => {
                refusals += 1;
                std::thread::sleep(REFUSAL_PAUSE);
            }
            Err(errno) => return Err(errno),
        }
    }
}

fn remedy(errno: i32) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match errno {
        libc::EPERM if matches!(disabled.trim(), "1" | "2") => format!(
            "the setting kernel.io_uring_disabled is {}: `sysctl kernel.io_uring_disabled=0` allows it, or choose threads",
            disabled.trim()
        ),
        libc::EPERM | libc::EACCES => "a seccomp profile or security module forbids it: allow the calls \
             io_uring_setup, io_uring_enter and io_uring_register (the default profiles of Docker and containerd do \
             not), or choose threads"
            .to_owned(),
        libc::ENOSYS | libc::EINVAL => {
            "the kernel has no io_uring, or one older than Linux 5.11: use a newer one, or choose threads".to_owned()
        }
        libc::ENOMEM => {
            "the limit of locked memory is too low: raise it with `ulimit -l`, or choose threads".to_owned()
        }
        libc::EMFILE | libc::ENFILE => "no descriptor is left: raise the limit with `ulimit -n`".to_owned(),
        _ => "choose threads".to_owned(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const FLAGS: [Flag; 5] =
        [Flag::SubmitAll, Flag::SingleIssuer, Flag::DeferTaskrun, Flag::CoopTaskrun, Flag::TellsOfTaskrun];

    /// Seccomp cannot see these flags, which lie in memory: so the kernel is made up here, for every set of flags that
    /// it may not know.
    #[test]
    fn whatever_flags_a_kernel_does_not_know_it_is_asked_for_the_best_that_it_does() {
        for unknown in 0..1_u32 << FLAGS.len() {
            let is_unknown =
                |flag: &Flag| FLAGS.iter().position(|f| f == flag).is_some_and(|at| unknown & 1 << at != 0);
            let mut asked = Vec::new();
            let got = descend(|flags| {
                asked.push(flags.to_vec());
                if flags.iter().any(is_unknown) { Err(libc::EINVAL) } else { Ok(flags.to_vec()) }
            });
            let got = got.unwrap_or_else(|errno| panic!("no ring without {unknown:b}: {errno}"));
            assert!(!got.iter().any(is_unknown));
            let best = RUNGS.iter().position(|rung| !rung.iter().any(is_unknown)).unwrap();
            assert_eq!((asked.len(), &got[..]), (best + 1, RUNGS[best]), "{unknown:b}");
        }
    }

    /// A process that may have none would else be told three times, and its log filled; one that is short of memory
    /// would get a worse ring for good.
    #[test]
    fn a_refusal_that_is_about_no_flag_is_taken_at_once() {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            for answered in 0..RUNGS.len() {
                let mut asked = 0;
                let got = descend::<()>(|_| {
                    asked += 1;
                    Err(if asked > answered { errno } else { libc::EINVAL })
                });
                assert_eq!((got, asked), (Err(errno), answered + 1));
            }
        }
        let never: Result<(), i32> = descend(|_| Err(libc::EINVAL));
        assert_eq!(never, Err(libc::EINVAL));
    }

    #[test]
    fn each_rung_is_a_ring_that_turns_where_the_kernel_has_it() {
        let mut turned = 0;
        for flags in RUNGS {
            match build(flags) {
                Ok(mut ring) => {
                    turns(&mut ring).unwrap_or_else(|errno| panic!("{flags:?}: {errno}"));
                    turned += 1;
                }
                Err(errno) => eprintln!("SKIPPED: no ring with {flags:?} here: os error {errno}"),
            }
        }
        assert!(turned > 0 || try_setup().is_err(), "there is a ring, and it is on no rung");
    }
}
