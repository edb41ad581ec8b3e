//! A forked child has the handles, but neither the threads nor the memory behind them: they refuse.

mod common;

use std::time::Duration;

use common::{LONG, Numbered, Recorder, small};
use ringwal::{Durability, LogError, PushError};

/// Runs `in_child` in a forked child; true if it answered true there.
fn forked(in_child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls only what is under test, and ends without running destructors.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        let passed = in_child();
        // SAFETY: ends the child; nothing of it is used any more.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above; `status` is a valid place.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_forked_child_is_refused_and_the_parent_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = small(dir.path(), Durability::Immediate).open(sink.clone()).unwrap();
    let producer = queue.producer();
    let mut pinned = producer.pin();
    producer.push(Numbered::new(0, 0, 5)).unwrap();
    let receipt = producer.push(Numbered::new(0, 1, 5)).unwrap();
    assert!(forked(|| {
        let refused = |result| matches!(result, Err(PushError::Closed(_)));
        let waited = producer.durable(receipt).wait_timeout(Duration::from_secs(1));
        refused(producer.push(Numbered::new(9, 9, 0)))
            && refused(pinned.push(Numbered::new(9, 9, 0)))
            && matches!(waited, Ok(()) | Err(LogError::Forked))
            && queue.flush() != Err(LogError::TimedOut)
            && queue.drain(Duration::from_secs(1)) == Err(LogError::Forked)
    }));
    for n in 2..100 {
        producer.push(Numbered::new(0, n, 5)).unwrap();
    }
    queue.drain(LONG).unwrap();
    common::assert_exactly_once_in_order(&sink.0.all(), &[100]);
    queue.shutdown(LONG).unwrap();
}
