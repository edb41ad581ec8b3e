//! What can be done with an open log: append, submit, complete, wait, acknowledge, close.

use std::time::Duration;

use ringwal::Lsn;
use ringwal::ring::record::{RECORD_HEADER_LEN, State, Word, stride_of};
use ringwal::wal::frame::{FrameKind, RunEnd};
use ringwal::wal::log::{Commit, Event, Log};
use ringwal::wal::op::Owner;

use super::model::{Model, payload};
use super::rig::{Failure, Outcome, Rig};

impl Rig {
    pub fn log(&mut self) -> &mut Log {
        &mut self.process.as_mut().expect("a log is open").log
    }

    /// Appends entries of these payload lengths as one run; fewer if there is no room. How many went in.
    pub fn append(&mut self, lens: &[usize]) -> Outcome<usize> {
        let (now, unix) = (self.clock.now(), self.clock.unix());
        let process = self.process.as_mut().expect("a log is open");
        let mut appended = 0;
        for len in lens {
            let stride = stride_of((*len).max(8));
            let mut fits = false;
            for _ in 0..2 {
                fits = match process.log.frame(now, unix) {
                    Ok(builder) => builder.spare_mut().len() >= stride,
                    Err(_) => break,
                };
                if fits {
                    break;
                }
                process.log.seal(now);
            }
            if !fits {
                process.blocked = true;
                break;
            }
            let Ok(builder) = process.log.frame(now, unix) else { break };
            let (lsn, entry) = self.model.append(*len);
            let bytes = payload(entry.id, entry.len);
            let spare = builder.spare_mut();
            let word = Word::new(State::Ready, RECORD_HEADER_LEN + bytes.len());
            spare[..stride].fill(0);
            spare[..4].copy_from_slice(&word.0.to_le_bytes());
            spare[RECORD_HEADER_LEN..RECORD_HEADER_LEN + bytes.len()].copy_from_slice(&bytes);
            let end = self.model.ring.last_key_value().map_or(0, |(_, end)| *end) + stride as u64;
            builder.advance(stride, 1, RunEnd { ring: 0, end });
            self.model.ring.insert(lsn, end);
            appended += 1;
        }
        if appended > 0 {
            let next = self.model.next;
            self.note(format!("append {}..{}", next - appended as u64, next));
        }
        Ok(appended)
    }

    /// Gives the disk up to `most` ops that the log wants.
    pub fn submit(&mut self, most: usize) -> Outcome<usize> {
        let mut submitted = 0;
        while submitted < most {
            let now = self.clock.now();
            let process = self.process.as_mut().expect("a log is open");
            // As the flush core does: what is being read is not removed or used again.
            process.log.set_reading(process.reader.reading());
            let Some((token, op)) = process.log.poll_op(now) else { break };
            process.port.submit(token, op);
            submitted += 1;
            self.tick()?;
        }
        Ok(submitted)
    }

    /// Tells the log what has completed, and takes in what it says.
    pub fn reap(&mut self) -> Outcome<bool> {
        let now = self.clock.now();
        let process = self.process.as_mut().expect("a log is open");
        let mut moved = false;
        while let Some(completion) = process.port.complete() {
            moved = true;
            match completion.token.owner {
                Owner::Reader(_) => process.reader.handle_completion(completion),
                _ => process.log.handle_completion(now, completion),
            }
        }
        Ok(self.events()? || moved)
    }

    pub fn events(&mut self) -> Outcome<bool> {
        let mut moved = false;
        let process = self.process.as_mut().expect("a log is open");
        while let Some(event) = process.log.poll_event() {
            moved = true;
            match event {
                // What is only in memory is still delivered; what the sink saw of it is not followed here.
                Event::Ready(_) if process.failed => {}
                Event::Ready(frame) => {
                    let first = frame.header.first_lsn.number();
                    if frame.header.kind == FrameKind::Data {
                        if first != process.ready {
                            return Err(Failure::Broken(format!("Ready brings {first}, {} is due", process.ready)));
                        }
                        process.ready = frame.header.next_lsn.number();
                    }
                    for (lsn, entry) in self.model.check_frame(&frame, "Ready")? {
                        let spill = matches!(self.plan.commit, Commit::Spill);
                        if !spill && lsn > process.log.durable().number() {
                            return Err(Failure::Broken(format!("LSN {lsn} is ready before it is durable")));
                        }
                        self.model.show(lsn, entry)?;
                    }
                }
                Event::Durable { lsn, .. } if process.failed => {
                    return Err(Failure::Broken(format!("told durable up to {lsn} after a failure")));
                }
                Event::Durable { lsn, runs, .. } => {
                    self.model.told_durable(lsn)?;
                    let position = self.model.ring.range(..=lsn.number()).next_back().map_or(0, |(_, end)| *end);
                    if let Some(run) = runs.iter().find(|run| run.end > position) {
                        return Err(Failure::Broken(format!("{lsn} is durable, and ring position {}", run.end)));
                    }
                    self.notes.push(format!("durable {lsn}"));
                }
                Event::CursorDurable(lsn) => {
                    self.model.told_cursor(lsn)?;
                    self.notes.push(format!("cursor {lsn}"));
                }
                Event::Failed(_) if self.faulty => process.failed = true,
                Event::Failed(failure) => return Err(Failure::Broken(format!("the log failed: {failure:?}"))),
                Event::Closed => process.closed = true,
                _ => {}
            }
        }
        Ok(moved)
    }

    /// One op completes, by the seed, and the log hears of it.
    pub fn step(&mut self) -> Outcome<bool> {
        let moved = self.machine.step();
        if moved {
            self.tick()?;
        }
        Ok(self.reap()? || moved)
    }

    /// The clock moves on, and the log hears of it if it asked to.
    pub fn wait(&mut self, time: Duration) -> Outcome<()> {
        self.clock.advance(time);
        let now = self.clock.now();
        let log = self.log();
        if log.poll_timeout().is_some_and(|at| at <= now) {
            log.handle_timeout(now);
        }
        self.events().map(|_| ())
    }

    /// The sink finishes these.
    pub fn ack(&mut self, lsns: impl IntoIterator<Item = u64>) -> Outcome<()> {
        self.model.finish(lsns);
        let (now, acked, done) = (self.clock.now(), Lsn::new(self.model.acked), self.model.ranges());
        self.note(format!("ack {acked} {done:?}"));
        self.log().ack(now, acked, &done, &[]);
        self.events().map(|_| ())
    }

    /// Everything goes on until nothing moves any more, the clock included, or `until` holds.
    pub fn settle(&mut self, mut until: impl FnMut(&Self) -> bool) -> Outcome<()> {
        for _ in 0..20_000 {
            if until(self) {
                return Ok(());
            }
            let submitted = self.submit(usize::MAX)? > 0;
            if self.step()? || submitted {
                continue;
            }
            let due = self.machine.next_due();
            let Some(at) = self.log().poll_timeout().into_iter().chain(due).min() else { return Ok(()) };
            if at.since(self.clock.now()) > Duration::from_secs(3600) {
                return Ok(());
            }
            self.clock.advance_to(at);
            let now = self.clock.now();
            // As the flush core does: only when it was asked for.
            if self.log().poll_timeout().is_some_and(|at| at <= now) {
                self.log().handle_timeout(now);
            }
            self.events()?;
        }
        Err(Failure::Broken("the log does not come to rest in 20,000 steps".into()))
    }

    /// Everything appended becomes durable, or the log is out of room.
    pub fn flush(&mut self) -> Outcome<()> {
        let now = self.clock.now();
        self.log().commit_now(now);
        self.settle(|rig| rig.model.is_durable())
    }

    /// Entries that the sink has and has not finished, oldest first.
    pub fn unfinished(&self) -> Vec<u64> {
        let Model { acked, next, done, shown, current, .. } = &self.model;
        let waits = |lsn: &u64| current.contains_key(lsn) && !done.contains(lsn);
        shown.range(acked + 1..*next).map(|(lsn, _)| *lsn).filter(waits).collect()
    }

    /// Closes in order. The sink goes on finishing only if there is no room for what was appended.
    pub fn close(&mut self) -> Outcome<()> {
        let now = self.clock.now();
        self.log().close(now);
        let closed = |rig: &Self| rig.process.as_ref().is_some_and(|p| p.closed);
        self.settle(closed)?;
        for _ in 0..60 {
            if closed(self) {
                break;
            }
            let open = self.unfinished();
            self.ack(open)?;
            self.settle(closed)?;
        }
        let process = self.process.take().expect("a log is open");
        if !process.closed {
            return Err(Failure::Broken(format!("close does not end: {:?}", process.log.stats())));
        }
        self.note("closed");
        Ok(())
    }
}
