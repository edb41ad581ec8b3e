//! What delivery tells the flush core for the cursor.

use crate::lsn::Lsn;

/// What the sink is done with, as the delivery thread last knew it.
#[derive(Debug)]
pub(crate) struct AckState {
    pub(crate) acked: Lsn,
    /// Runs above `acked`: first LSN, and one past the last.
    pub(crate) done: Vec<(Lsn, Lsn)>,
    /// Failed attempts: each row holds from its LSN up to the next row's.
    pub(crate) attempts: Vec<(Lsn, u32)>,
}

impl AckState {
    /// Without what lies behind `end`.
    pub(crate) fn up_to(mut self, end: Lsn) -> Self {
        self.acked = self.acked.min(end);
        self.done.retain(|(first, _)| *first <= end);
        self.done.iter_mut().for_each(|(_, next)| *next = (*next).min(end.next()));
        self.attempts.retain(|(first, _)| *first <= end);
        // Where the row that ended the last one is gone: it would hold for numbers that are given out later.
        if self.attempts.last().is_some_and(|(_, attempts)| *attempts > 0) {
            self.attempts.push((end.next(), 0));
        }
        self
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_below_the_end_is_kept_and_nothing_speaks_of_what_lies_behind_it() {
        let lsn = Lsn::new;
        let acks = AckState {
            acked: lsn(3),
            done: vec![(lsn(5), lsn(7)), (lsn(9), lsn(20)), (lsn(30), lsn(31))],
            attempts: vec![(lsn(4), 2), (lsn(8), 1), (lsn(15), 4)],
        };
        let acks = acks.up_to(lsn(10));
        assert_eq!((acks.acked, acks.done), (lsn(3), vec![(lsn(5), lsn(7)), (lsn(9), lsn(11))]));
        assert_eq!(acks.attempts, [(lsn(4), 2), (lsn(8), 1), (lsn(11), 0)]);
        let none = AckState { acked: lsn(12), done: vec![], attempts: vec![(lsn(12), 3)] }.up_to(lsn(10));
        assert_eq!((none.acked, none.attempts), (lsn(10), vec![]));
    }
}
