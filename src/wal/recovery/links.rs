//! How the segments hang together: which goes on where another ends, and up to where each counts.

use std::collections::HashMap;

use super::walk::{Known, Segment};
use crate::lsn::Lsn;
use crate::wal::meta::LogEnd;
use crate::wal::mutant::Mutant;

/// How the segments hang together.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The segment that goes on where this one ends.
    pub(super) next: Vec<Option<usize>>,
    /// The last LSN that counts in it, where that is settled.
    pub(super) limit: Vec<Option<Lsn>>,
    /// Whether that is also where the segment ends. Else its successor is missing, and how far it reaches must be read.
    pub(super) reaches: Vec<bool>,
}

impl Links {
    pub(super) fn new(segments: &[Segment], known: &Known) -> Self {
        let mut children = HashMap::new();
        for (i, segment) in segments.iter().enumerate() {
            let newest: &mut usize = children.entry(segment.header.prev_uid).or_insert(i);
            if segment.header.seq > segments[*newest].header.seq {
                *newest = i;
            }
        }
        let newest = |parent: &Segment| {
            let child = children.get(&parent.header.uid).copied();
            child.filter(|child| segments[*child].header.seq > parent.header.seq)
        };
        let next: Vec<_> = segments.iter().map(newest).collect();
        let is_tail = |i: usize| known.recovered.is_some_and(|end| end.uid == segments[i].header.uid);
        let reaches = next.iter().enumerate().map(|(i, next)| next.is_some() || is_tail(i)).collect();
        let limit = next.iter().enumerate().map(|(i, next)| {
            // What was written before the last recovery and lies behind the end it found was given up. The
            // tail is one such segment; an older one, once its successor's slot has been reused or
            // removed, would else speak again of what a tear had stranded in it.
            let header = &segments[i].header;
            let older = |end: &LogEnd| match known.mutants.has(Mutant::NoSettledEnd) {
                true => end.uid == header.uid,
                false => header.epoch < known.epoch,
            };
            let settled = known.recovered.filter(older).map(|end| end.lsn);
            let child = next.map(|j| segments[j].header.prev_end_lsn);
            // LSNs rise with sequence numbers: where the successor is missing, what a later segment begins with is
            // not looked for in this one. Settling gave up no more than that.
            let later = |s: &&Segment| s.header.seq > header.seq && s.header.base_lsn > header.base_lsn;
            let later = || segments.iter().filter(later).map(|s| s.header.base_lsn.prev()).min();
            let settled = settled.map(|end| match next {
                Some(_) => end,
                None => later().map_or(end, |later| later.min(end)),
            });
            child.into_iter().chain(settled).min()
        });
        Self { limit: limit.collect(), reaches, next }
    }

    /// Whether everything that counts in this segment is at or below the cursor.
    pub(super) fn is_dead(&self, index: usize, known: &Known) -> bool {
        self.limit[index].is_some_and(|limit| limit <= known.acked) && !known.mutants.has(Mutant::DeadIsError)
    }
}
