//! The disk, with the ops that it has not completed: how many, and since when the oldest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::clock::Clock;
use crate::io::{Disk, DiskReport, Wake};
use crate::time::Instant;
use crate::wal::op::{Completion, Op, Token};

/// What a byte of a file that is prepared may take, in nanoseconds: 16 MiB/s, a quarter of the pace that is kept so as
/// not to disturb commits.
const PREPARED_BYTE: u64 = 60;

/// A disk whose silence is noticed, whatever it was asked for. Writes alone do not tell: a read that hangs holds up
/// delivery, and with it a full log; a preparation that hangs leaves no segment to write into.
pub(crate) struct AtDisk {
    disk: Box<dyn Disk>,
    clock: Clock,
    /// In the order of submission.
    ops: VecDeque<Asked>,
    /// When what is to be prepared should be, one file after the other.
    prepared: Instant,
}

struct Asked {
    token: Token,
    /// From when on each further moment is silence.
    from: Instant,
}

impl AtDisk {
    pub(crate) fn new(disk: Box<dyn Disk>, clock: Clock) -> Self {
        Self { disk, clock, ops: VecDeque::new(), prepared: Instant::START }
    }

    /// From when on the disk is silent while it does not complete this.
    fn silent_from(&mut self, op: &Op) -> Instant {
        let now = self.clock.now();
        let Op::Prepare { len, .. } = op else { return now };
        self.prepared = self.prepared.max(now) + Duration::from_nanos(len.saturating_mul(PREPARED_BYTE));
        self.prepared
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// Since when the disk has been silent, if that lies in the past.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.ops.iter().map(|asked| asked.from).min()
    }
}

impl Disk for AtDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let from = self.silent_from(&op);
        self.ops.push_back(Asked { token, from });
        self.disk.submit(token, op);
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        let completion = self.disk.complete(timeout)?;
        let index = self.ops.iter().position(|asked| asked.token == completion.token);
        debug_assert!(index.is_some(), "{:?} was completed and never asked for", completion.token);
        index.and_then(|index| self.ops.remove(index));
        Some(completion)
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.disk.doorbell()
    }

    fn report(&self) -> DiskReport {
        self.disk.report()
    }
}
