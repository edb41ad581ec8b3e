//! The end: what is still taken over when the queue closes, and what is counted as lost.
//!
//! ```text
//!   Close ─► rings empty? ──────────── yes ─────────────────────────────────────► both logs are closed ─► finish
//!              │ no                                                                 ▲
//!              ├─ no room, but there will be some (memory, a segment) ─► turn again │
//!              ├─ no room, and there will be none ──────────────── counted as lost ─┤
//!              └─ claimed, and not published ─► wait a second ─► give the claims up ┘
//! ```

use std::time::Duration;

use crate::config::Durability;
use crate::time::Instant;
use crate::wal::log::{Blocked, Log, Room};

use super::Flush;

/// How long claims are waited for: many times what it takes to encode an entry, on a machine that has much else to do.
const CLAIMS_WITHIN: Duration = Duration::from_secs(1);

impl Flush {
    /// Once the rings are empty, or there is no more hope for what is in them, both logs are closed. True: there is
    /// something to be done at once.
    pub(super) fn close_logs(&mut self, now: Instant) -> bool {
        if self.state.closing_logs {
            return false;
        }
        if !self.drainer.is_drained() {
            let blocked = self.state.blocked;
            if blocked.is_some_and(|blocked| self.will_pass(blocked)) {
                return false;
            }
            if blocked.is_none() {
                let is_ready = self.drainer.has_ready();
                if !is_ready && self.awaits_claims(now) {
                    return false;
                }
                if is_ready || self.give_up_claims() {
                    return true;
                }
            }
        }
        self.state.closing_logs = true;
        // Delivery has ended, or is not waited for any more.
        self.log.close(now);
        self.log.expect_no_acks();
        self.parking.close(now);
        true
    }

    /// Whether there will be room without anybody's doing: the disk is about to give memory or a segment back.
    fn will_pass(&self, blocked: Blocked) -> bool {
        let is_hopeless = match blocked {
            Blocked::Pool => self.shared.config.durability == Durability::Memory,
            Blocked::Log => self.log.room() != Room::Ok,
            Blocked::Failed | Blocked::Closed => true,
        };
        !is_hopeless && self.log.failure().is_none() && !self.disk.is_idle()
    }

    /// Whether those who have claimed something may still publish it: they were told that there is room.
    fn awaits_claims(&mut self, now: Instant) -> bool {
        now < *self.state.claims_until.get_or_insert(now + CLAIMS_WITHIN)
    }

    /// Gives up the claims at which the rings stand. True: something lies behind them.
    fn give_up_claims(&mut self) -> bool {
        for ring in 0..self.shared.rings.count() {
            while !self.drainer.is_ready(ring) && self.drainer.give_up(ring) {}
        }
        self.drainer.has_ready()
    }

    /// Whether both logs are closed, or have failed.
    pub(crate) fn is_over(&self) -> bool {
        let ended = |log: &Log| log.is_closed() || log.failure().is_some();
        self.state.closing_logs && ended(&self.log) && ended(&self.parking.log)
    }

    /// What was accepted into the rings and found no room in the log.
    fn count_left_in_rings(&mut self) -> u64 {
        let mut scratch = vec![0; self.shared.config.ring_bytes];
        let mut left = 0;
        for ring in 0..self.shared.rings.count() {
            loop {
                while self.drainer.is_ready(ring) {
                    left += u64::from(self.drainer.drain(ring, &mut scratch).records);
                }
                // A claim that nobody gives back hides what lies behind it, which is left as well.
                if !self.drainer.give_up(ring) {
                    break;
                }
            }
        }
        left
    }

    /// Says that it has ended, and what it leaves behind.
    pub(crate) fn finish(&mut self) {
        // The last completion may have been a failure: it ends the loop, and is still to be told.
        self.take_events();
        self.publish();
        self.publish_sizes(self.clock.now(), true);
        self.leave_rings();
        let in_rings = if self.drainer.is_drained() { 0 } else { self.count_left_in_rings() };
        self.shared.status.set_left_in_rings(in_rings + self.drainer.published_too_late());
        // What lies below was numbered, or stepped over, before this process.
        self.shared.status.set_unplaced(self.log.unplaced(self.shared.recovery.next));
        self.shared.end();
    }
}
