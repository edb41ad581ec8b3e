//! How far what opening found has come.

use crate::engine::Shared;
use crate::lsn::Lsn;
use crate::metrics::{Holes, Metrics};

impl Shared {
    /// Everything up to here is done; delivery calls it.
    pub(crate) fn publish_done(&self, acked: Lsn) {
        let before = self.done.value();
        self.done.publish(acked.number());
        let end = self.recovery.end.number();
        if self.recovery.recovered > 0 && before < end && end <= acked.number() {
            self.tell_recovered();
        }
    }

    /// How many of the entries that opening found are not done yet. Those behind one that is not count too, as in a
    /// cursor; LSNs that are no entries do not.
    pub(crate) fn recovered_left(&self, metrics: &Metrics, holes: &Holes) -> u64 {
        let (from, end) = (Lsn::new(self.done.value()).next(), self.recovery.end.next());
        end.since(from).saturating_sub(holes.count(from, end)).min(metrics.recovered)
    }
}
