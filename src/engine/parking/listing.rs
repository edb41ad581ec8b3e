//! What is in the park: its log is read from the first entry that is not gone, a page for whoever asks.
//!
//! A number may be no entry: it was given up, and a SKIP in the log says so. Opening takes such numbers out by the cursor;
//! where that write was lost they would be counted for ever, and keep their segment. So whoever meets the SKIP does it again.

use crate::config::OnCorruption;
use crate::delivery::park::{ParkRecord, ParkedEntry};
use crate::engine::Shared;
use crate::error::LogError;
use crate::io::Disk;
use crate::lsn::Lsn;
use crate::ring::record::Records;
use crate::sync::mpsc::SyncSender;
use crate::time::Instant;
use crate::wal::cursor::CURSOR_RANGES_MAX;
use crate::wal::frame::FrameKind;
use crate::wal::op::{Completion, DiskError};
use crate::wal::reader::ReadEvent;
use crate::wal::recovery::Corruption;

use super::Parking;

/// A page that somebody has asked for.
pub(super) struct Listing {
    after: Lsn,
    max: usize,
    found: Vec<ParkedEntry>,
    reply: SyncSender<Result<Vec<ParkedEntry>, LogError>>,
    started: bool,
}

impl Parking {
    pub(crate) fn list(&mut self, after: Lsn, max: usize, reply: SyncSender<Result<Vec<ParkedEntry>, LogError>>) {
        // Whatever number somebody names: behind the last entry there is none.
        if after >= self.last() {
            let _ = reply.send(Ok(Vec::new()));
            return;
        }
        self.listings.push_back(Listing { after, max, found: Vec::new(), reply, started: false });
    }

    /// Moves the listings on, with ops for the disk.
    pub(super) fn submit_listings(&mut self, now: Instant, disk: &mut dyn Disk, shared: &Shared) {
        // The reader makes an event when it is asked for an op: ask until it has neither.
        loop {
            let Some(listing) = self.listings.front_mut() else {
                return;
            };
            if !listing.started {
                listing.started = true;
                let from = listing.after.next().max(self.gone.floor().next());
                self.reader.seek(from, None);
            }
            // Somebody may have taken out more meanwhile: what the cursor has passed need not be on disk any more.
            self.reader.forget(self.gone.floor());
            while let Some((token, op)) = self.reader.poll_op(self.log.segments(), self.log.durable(), &self.pool) {
                disk.submit(token, op);
            }
            self.log.set_reading(self.reader.reading());
            if !self.take_read_events(now, shared) {
                return;
            }
        }
    }

    pub(crate) fn handle_read(&mut self, now: Instant, completion: Completion, shared: &Shared) {
        self.reader.handle_completion(completion);
        self.take_read_events(now, shared);
    }

    /// Takes what the reader has read. False: there was nothing.
    fn take_read_events(&mut self, now: Instant, shared: &Shared) -> bool {
        let mut any = false;
        while !self.listings.is_empty() {
            let Some(event) = self.reader.poll_event() else {
                break;
            };
            any = true;
            match event {
                ReadEvent::Frame(frame) if frame.header.kind == FrameKind::Skip => {
                    self.step_over(now, frame.header.first_lsn, frame.header.next_lsn, shared);
                }
                ReadEvent::Frame(frame) => {
                    let first = frame.header.first_lsn;
                    self.take_records(first, frame.body());
                }
                ReadEvent::CaughtUp => self.finish_listing(Ok(())),
                ReadEvent::Corrupt(corruption) if self.is_gone(&corruption) || self.lose(now, &corruption, shared) => {
                    self.reader.skip(&corruption);
                }
                ReadEvent::Corrupt(corruption) => {
                    let what = format!("park/: {corruption}");
                    self.finish_listing(Err(LogError::Corrupt(what.into())));
                }
                ReadEvent::Locked { .. } => {
                    let detail = "the key of parked entries is not there any more; open again with it";
                    let error = DiskError { what: "decrypt", file: None, offset: None, errno: 0, detail };
                    self.finish_listing(Err(LogError::Failed(error.into())));
                }
                ReadEvent::Failed(error) => self.finish_listing(Err(LogError::Failed(error.into()))),
            }
        }
        any
    }

    /// Whether none of what cannot be read is in the park any more: nobody misses it.
    fn is_gone(&self, corruption: &Corruption) -> bool {
        self.left(corruption.first, corruption.last.next()) == 0
    }

    /// What cannot be read is given up, as delivery does with the log's own. Else it would end every listing, and nobody
    /// could ever take out what lies behind it, nor make room for more. False: it is not to be given up, or there is no
    /// space to remember that.
    fn lose(&mut self, now: Instant, corruption: &Corruption, shared: &Shared) -> bool {
        if shared.config.on_corruption != OnCorruption::Quarantine {
            return false;
        }
        let Some(lost) = self.take_out(now, corruption.first, corruption.last.next()) else {
            return false;
        };
        shared.counters.unparked.add(lost);
        shared.counters.lost.add(lost);
        shared.tell_park_lost(corruption.first, corruption.last);
        true
    }

    /// These numbers are no entries: the log says so. With no space to remember that, they go on counting as some.
    fn step_over(&mut self, now: Instant, first: Lsn, next: Lsn, shared: &Shared) {
        if let Some(count) = self.take_out(now, first, next) {
            let recovered = &shared.counters.recovered_parked;
            recovered.set(recovered.read().saturating_sub(count));
        }
    }

    /// Takes numbers out of the park that nobody asked to be taken out. Tells how many counted as parked until now; `None`:
    /// that cannot be remembered.
    fn take_out(&mut self, now: Instant, first: Lsn, next: Lsn) -> Option<u64> {
        if self.closing || self.log.failure().is_some() {
            return None;
        }
        let count = self.left(first, next);
        if count == 0 {
            return Some(0);
        }
        let mut gone = self.gone.clone();
        gone.add(first, next);
        if gone.ranges_above_floor() > CURSOR_RANGES_MAX {
            return None;
        }
        self.gone = gone;
        self.log.ack(now, self.gone.floor(), self.gone.above(), &[]);
        Some(count)
    }

    fn take_records(&mut self, first: Lsn, body: &[u8]) {
        let Some(listing) = self.listings.front_mut() else {
            return;
        };
        for (index, record) in Records::new(body).enumerate() {
            let id = first.advance(index as u64);
            if listing.found.len() >= listing.max {
                return self.finish_listing(Ok(()));
            }
            if id <= listing.after || self.gone.contains(id) {
                continue;
            }
            // A record that does not decode was not written by this version: it stays where it is.
            if let Some(decoded) = record.ok().and_then(|record| ParkRecord::decode(record.payload).ok()) {
                listing.found.push(ParkedEntry::new(id, decoded));
            }
        }
    }

    fn finish_listing(&mut self, result: Result<(), LogError>) {
        if let Some(listing) = self.listings.pop_front() {
            let _ = listing.reply.send(result.map(|()| listing.found));
        }
    }
}
