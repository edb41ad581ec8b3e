//! What those are told who wait for the sink while something is lost, and what is left of who waits no more.

use super::*;
use crate::delivered::Delivered;
use crate::error::LogError;
use crate::lsn::Lsn;

const HOUR: Duration = Duration::from_secs(3600);

impl Stage {
    fn push_on(&self, ring: u32) -> Receipt {
        Receipt { ring, end: self.shared.rings.claim(ring, LEN).unwrap().publish() }
    }

    /// As delivery does with what cannot be read back, or with anything else.
    fn is_done(&self, upto: u64) {
        self.shared.done.publish(upto);
    }
}

/// Found by reading: it asked whether something was lost above the greatest number that there is, which has no next one.
#[test]
fn a_task_may_wait_for_the_backlog_after_something_was_lost() {
    let mut stage = Stage::open(Durability::Immediate);
    stage.push_on(0);
    stage.settle();
    stage.shared.status.lose(Lsn::FIRST, Lsn::new(2));
    let shared = Arc::clone(&stage.shared);
    let mut drained = Box::pin(shared.drain_async(HOUR));
    let mut poll = || drained.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll(), Poll::Pending);
    stage.settle();
    assert_eq!(poll(), Poll::Pending, "the sink has not answered");
    stage.is_done(1);
    assert_eq!(poll(), Poll::Ready(Ok(())), "what was lost holds up nobody");
}

/// Found by reading: a run that begins where the entry ends took the number before its own first one for the entry's, and
/// that was another ring's.
#[test]
fn an_entry_that_is_asked_for_after_its_turn_and_is_lost_is_not_told_delivered() {
    // Which ring is drained first changes from turn to turn.
    for turns in 0..2 {
        let mut stage = Stage::open(Durability::Immediate);
        stage.settle();
        for _ in 0..turns {
            stage.push_on(1);
            stage.settle();
        }
        let lost = stage.push_on(0);
        stage.settle();
        let lsn = Lsn::new(turns + 1);
        assert_eq!(stage.shared.counters.next_lsn.read(), lsn.next().number());
        // The question, and another entry of each ring, come in the same turn.
        let delivered = Delivered::new(&stage.shared, lost, Lsn::ZERO);
        stage.push_on(1);
        stage.push_on(0);
        stage.settle();
        stage.shared.status.lose(lsn, lsn.next());
        stage.is_done(lsn.number() + 2);
        let outcome = delivered.wait_timeout(Duration::ZERO);
        assert!(matches!(outcome, Err(LogError::Corrupt(_))), "{outcome:?} for {lsn}");
    }
}

/// Found by reading: a service that asked again and again behind a leaked claim left a question each time, for ever.
#[test]
fn who_has_given_up_waiting_for_what_never_comes_leaves_nothing_behind() {
    let mut stage = Stage::open(Durability::Immediate);
    stage.settle();
    let shared = Arc::clone(&stage.shared);
    std::mem::forget(shared.rings.claim(0, LEN).unwrap());
    for _ in 0..3 {
        assert_eq!(shared.fence(std::time::Instant::now()), Err(LogError::TimedOut));
        stage.settle();
        let mut drained = Box::pin(shared.drain_async(HOUR));
        assert_eq!(drained.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        stage.settle();
        assert!(stage.queue.core().state.waits.is_asked(), "it still waits");
    }
    // Whatever makes the flush core turn shows it.
    stage.push_on(1);
    stage.settle();
    let state = &stage.queue.core().state;
    assert!(state.fences.is_empty() && !state.waits.is_asked(), "{:?}, {:?}", state.fences, state.waits);
}
