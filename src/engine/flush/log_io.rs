//! Between the logs and the disk: ops out, completions and events back, and what was let go read back.

use crate::config::OnCorruption;
use crate::engine::Notice;
use crate::engine::window::Gone;
use crate::io::Disk;
use crate::lsn::Lsn;
use crate::time::Instant;
use crate::wal::frame::Frame;
use crate::wal::log::{Event, Room};
use crate::wal::op::{Completion, LogId, Owner};
use crate::wal::reader::ReadEvent;

use super::Flush;

/// Frames read back ahead of delivery.
const READ_AHEAD_FRAMES: usize = 256;
/// Reads at once where memory is not short: the disk has the next one while the last is looked at.
const READS_AHEAD: usize = 8;

impl Flush {
    pub(super) fn submit(&mut self, now: Instant) {
        self.log.set_reading(self.reader.reading());
        while let Some((token, op)) = self.log.poll_op(now) {
            self.disk.submit(token, op);
        }
        self.parking.submit(now, &mut self.disk, &self.shared);
        if self.window.is_lagging() && !self.state.read_halted {
            self.submit_reads();
            self.log.set_reading(self.reader.reading());
        }
    }

    pub(super) fn submit_reads(&mut self) {
        if !self.state.reading {
            let next = self.window.next();
            let known = self.state.read_from.take().filter(|(first, _)| *first == next);
            self.reader.seek(next, known.map(|(_, place)| place));
            self.state.reading = true;
        }
        loop {
            let ahead = self.window.len() < READ_AHEAD_FRAMES && self.share.may_read_ahead(self.reads());
            let has_room = ahead || self.reads() < self.share.kept();
            if !has_room && !self.window.is_empty() {
                return;
            }
            // One chunk is left for decoding.
            let own = self.share.kept().saturating_sub(1 + self.window.chunks());
            self.reader.set_reads_max(if ahead { READS_AHEAD } else { own.min(READS_AHEAD) });
            let durable = self.log.durable();
            let Some((token, op)) = self.reader.poll_op(self.log.segments(), durable, &self.pool) else {
                return;
            };
            self.disk.submit(token, op);
        }
    }

    pub(super) fn route(&mut self, completion: Completion) {
        let now = self.clock.now();
        match completion.token.owner {
            Owner::Log(LogId::Main) => self.log.handle_completion(now, completion),
            Owner::Log(LogId::Park) => self.parking.log.handle_completion(now, completion),
            Owner::Reader(LogId::Main) => self.reader.handle_completion(completion),
            Owner::Reader(LogId::Park) => self.parking.handle_read(now, completion, &self.shared),
            // Recovery is over.
            Owner::Recovery => {}
        }
    }

    pub(super) fn take_events(&mut self) -> bool {
        let mut any = false;
        // What became durable at once: one commit, or several that completed together.
        let (mut group, mut woken) = (0, 0);
        while let Some(event) = self.log.poll_event() {
            any = true;
            match event {
                Event::Ready(frame) => self.take_ready(frame),
                Event::Committed(took) => self.shared.counters.commit_time.record_time(took),
                Event::Durable { lsn, runs, took } => {
                    if let Some(took) = took {
                        self.shared.counters.drain_to_durable.record_time(took);
                        group += lsn.since(Lsn::new(self.shared.counters.durable_lsn.read()));
                    }
                    self.shared.counters.durable_lsn.set(lsn.number());
                    for run in &runs {
                        let reached = &mut self.state.reached[run.ring as usize];
                        *reached = run.end.max(*reached);
                    }
                    self.log.recycle_runs(runs);
                }
                Event::CursorDurable(lsn) => self.shared.counters.cursor_lsn.set(lsn.number()),
                Event::Room(room) => {
                    if room == Room::NoSpace {
                        self.parking.log.disk_is_short();
                    }
                    let why = self.room_text(room);
                    self.shared.tell_room(why.as_deref());
                    self.shared.status.set_log_room(why);
                }
                Event::Failed(failure) => {
                    // First what was durable before.
                    woken += self.tell_durable();
                    self.shared.tell_log_failed(&failure);
                    self.shared.status.fail(failure.error);
                    self.shared.close_rings();
                    for ring in 0..self.shared.rings.count() {
                        self.shared.rings.durable(ring).fail();
                    }
                }
                Event::Closed => {}
            }
        }
        woken += self.tell_durable();
        if group > 0 {
            self.shared.counters.commit_len.record(group);
            let left = self.next_lsn().since(self.log.durable().next());
            let counts = self.counts();
            self.state.siblings.tell(woken, group, left, counts);
            let usual = self.log.stats().commit_ewma;
            self.state.glance.tell(woken, self.clock.now(), usual, counts.entries);
        }
        while let Some(event) = self.parking.log.poll_event() {
            any = true;
            if matches!(event, Event::Room(Room::NoSpace)) {
                self.log.disk_is_short();
            }
            self.parking.handle_event(event, &self.shared);
        }
        if self.state.reading {
            any |= self.take_read_events();
        }
        any
    }

    /// All that a commit tells a ring's waiters, by one publish. Gives how many they were.
    fn tell_durable(&mut self) -> u64 {
        let rings = (0..).zip(&mut self.state.reached);
        rings.map(|(ring, reached)| self.shared.rings.durable(ring).publish(std::mem::take(reached)) as u64).sum()
    }

    /// Those who wait for what was sealed will be told together, and before those who come from now on.
    pub(super) fn part_waiters(&mut self) {
        let sealed = self.log.stats().frames;
        if sealed > std::mem::replace(&mut self.state.sealed, sealed) {
            (0..self.shared.rings.count()).for_each(|ring| self.shared.rings.durable(ring).next_round());
        }
    }

    pub(super) fn room_text(&self, room: Room) -> Option<String> {
        let config = &self.shared.config;
        match room {
            Room::Ok => None,
            Room::Full => Some(format!(
                "all {} bytes of log_bytes_max hold entries that the sink has not acknowledged",
                config.log_bytes_max
            )),
            Room::NoSpace => Some(format!("no space left for another segment in {}", config.dir.display())),
        }
    }

    pub(super) fn take_ready(&mut self, frame: Frame) {
        // What is only in memory must be kept; `Spill` is told to write it when memory is short.
        let is_durable = frame.header.next_lsn.prev() <= self.log.durable();
        if !is_durable && self.log.failure().is_some() {
            self.window.keep(frame);
            return;
        }
        let may_go = is_durable && self.log.failure().is_none() && self.window.chunks() >= self.share.kept();
        let short = may_go && self.share.is_short(self.reads());
        if let Some(gone) = self.window.offer(frame, short) {
            self.note_gone(gone);
        }
    }

    /// A frame will be read back.
    pub(super) fn note_gone(&mut self, gone: Gone) {
        self.shared.counters.frames_let_go.add(1);
        if !self.state.reading
            && gone.header.first_lsn == self.window.next()
            && let Some(place) = gone.place
        {
            self.state.read_from = Some((gone.header.first_lsn, place));
        }
        if let Some(border) = gone.border(self.log.block_len()) {
            self.reader.note(border);
        }
    }

    pub(super) fn take_read_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.reader.poll_event() {
            any = true;
            match event {
                ReadEvent::Frame(frame) => {
                    self.shared.counters.frames_read_back.add(1);
                    if frame.header.next_lsn > self.window.next() {
                        self.window.push(frame);
                    }
                }
                ReadEvent::CaughtUp => {
                    self.window.caught_up(self.log.durable());
                    if !self.window.is_lagging() {
                        self.state.reading = false;
                    }
                }
                ReadEvent::Corrupt(corruption) => {
                    if self.shared.config.on_corruption == OnCorruption::Quarantine {
                        let next = corruption.last.next();
                        let lost = self.shared.holes.lock().add(corruption.first, next);
                        self.shared.counters.lost.add(lost);
                        self.shared.status.lose(corruption.first, next);
                        self.window.skip_to(next);
                        self.reader.skip(&corruption);
                        self.shared.notices.push(Notice::Lost(corruption.first, next));
                        self.shared.wake_delivery();
                    } else {
                        self.halt_reading(&format!(
                            "{corruption}; open with `on_corruption(Quarantine)` to go on behind them"
                        ));
                        return true;
                    }
                }
                ReadEvent::Locked { header, key, problem, .. } => {
                    // Opening has seen to the keys: the cipher has forgotten one meanwhile.
                    self.halt_reading(&format!(
                        "entries {} to {} are encrypted with key {key}, and {problem}; open again with that key",
                        header.first_lsn,
                        header.next_lsn.prev()
                    ));
                    return true;
                }
                ReadEvent::Failed(error) => {
                    self.halt_reading(&error.to_string());
                    return true;
                }
            }
        }
        any
    }

    /// Delivery stands still before what cannot be read; the data is kept.
    pub(super) fn halt_reading(&mut self, why: &str) {
        self.shared.tell_corrupt(why);
        self.shared.status.corrupt(why);
        self.state.read_halted = true;
        self.shared.done.fail();
    }
}
