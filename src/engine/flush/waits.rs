//! Those who ask for the LSN of what they pushed, and the deadlines of tasks: see `engine/waits.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use crate::engine::waits::{Alarm, Reply, Upto};
use crate::lsn::Lsn;
use crate::ring::record::{Records, stride_of};
use crate::time::Instant;

use super::Flush;

/// Questions that wait for a drain, and deadlines.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// Of one ring each, the lowest position first: a turn looks at those that it answers, however many wait.
    of_rings: Vec<BinaryHeap<Reverse<Position>>>,
    of_all: Vec<(Vec<u64>, Reply)>,
    /// The last LSN that each ring's entries have got.
    lasts: Vec<Lsn>,
    alarms: Vec<Alarm>,
}

#[derive(Debug)]
struct Position {
    end: u64,
    reply: Reply,
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.end == other.end
    }
}

impl Eq for Position {}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.end.cmp(&other.end)
    }
}

impl Waits {
    pub(super) fn ask(&mut self, upto: Upto, reply: Reply) {
        match upto {
            Upto::All(tails) => self.of_all.push((tails, reply)),
            Upto::Ring(ring, end) => {
                let ring = ring as usize;
                if self.of_rings.len() <= ring {
                    self.of_rings.resize_with(ring + 1, BinaryHeap::new);
                }
                self.of_rings[ring].push(Reverse(Position { end, reply }));
            }
        }
    }

    /// A run of a ring was drained: the records of these bytes, which begin with this LSN. Who waits for one of them gets
    /// its own number; only then the run is looked through.
    pub(super) fn answer_run(&mut self, ring: u32, positions: Range<u64>, bytes: &[u8], first: Lsn, count: u32) {
        let ring = ring as usize;
        if self.lasts.len() <= ring {
            self.lasts.resize(ring + 1, Lsn::ZERO);
        }
        let last = first.advance(u64::from(count)).prev();
        self.lasts[ring] = last;
        let Some(asked) = self.of_rings.get_mut(ring) else {
            return;
        };
        // With something stepped over among them, bytes and positions do not go together.
        let is_whole = positions.end - positions.start == bytes.len() as u64;
        let (mut records, mut at, mut lsn) = (Records::new(bytes), positions.start, first.prev());
        while asked.peek().is_some_and(|Reverse(position)| position.end <= positions.end)
            && let Some(Reverse(position)) = asked.pop()
        {
            while is_whole
                && at < position.end
                && let Some(Ok(record)) = records.next()
            {
                at += stride_of(record.payload.len()) as u64;
                lsn = lsn.next();
            }
            let of_it = if is_whole { lsn } else { last };
            // One that ends where this run begins was asked for after its own run was drained: the number before this
            // run's first may be another ring's.
            let is_own = is_whole && at == position.end && lsn >= first;
            position.reply.tell(of_it, is_own);
        }
    }

    /// Answers whom it can: rings are drained up to there, and this is the last LSN.
    pub(super) fn answer(&mut self, drained: &[u64], last: Lsn) {
        // What was drained before it was asked for lies no higher than the ring's last one.
        for (ring, (asked, drained)) in self.of_rings.iter_mut().zip(drained).enumerate() {
            let last = self.lasts.get(ring).copied().filter(|last| *last > Lsn::ZERO).unwrap_or(last);
            while asked.peek().is_some_and(|Reverse(position)| position.end <= *drained)
                && let Some(Reverse(position)) = asked.pop()
            {
                position.reply.tell(last, false);
            }
        }
        let passed = |tails: &[u64]| tails.iter().zip(drained).all(|(tail, drained)| drained >= tail);
        for (_, reply) in self.of_all.extract_if(.., |(tails, reply)| passed(tails) || !reply.is_wanted()) {
            reply.tell(last, false);
        }
    }

    /// Whether anybody waits for a drain.
    pub(super) fn is_asked(&self) -> bool {
        !self.of_all.is_empty() || self.of_rings.iter().any(|asked| !asked.is_empty())
    }

    pub(super) fn set_alarm(&mut self, alarm: Alarm) {
        // Whoever had what he waited for before his time was over has left one behind.
        self.alarms.retain(Alarm::is_wanted);
        self.alarms.push(alarm);
    }

    pub(super) fn ring(&mut self, now: Instant) {
        self.alarms.retain(|alarm| {
            let due = alarm.at <= now;
            if due {
                alarm.ring();
            }
            !due
        });
    }

    /// How long it is until the next deadline.
    pub(super) fn next_alarm(&self, now: Instant) -> Option<Duration> {
        self.alarms.iter().filter(|alarm| alarm.is_wanted()).map(|alarm| alarm.at.since(now)).min()
    }
}

impl Flush {
    /// The last entry's LSN. What opening stepped over (a reservation, a torn tail) is no entry: nobody will be done
    /// with it.
    pub(super) fn last_entry(&self) -> Lsn {
        let (next, recovery) = (self.next_lsn(), &self.shared.recovery);
        if next == recovery.next { recovery.end } else { next.prev() }
    }
}
