//! What those are told who wait for the sink while something is lost.

use super::*;
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
