//! `--ack`: prints the number of each line once the line is durable.
//!
//! ```text
//!   reader ── (lines up to 4711, receipt) ──► this thread: waits for the newest receipt there is,
//!                                             prints all numbers up to it, flushes
//! ```
//! A number that has been printed stands for a line that survives `kill -9` and a loss of power. Waiting
//! makes the log hurry, so under `periodic` the sync comes at once instead of at the end of the period.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ringwal::{Producer, Receipt};

use super::signals::Stop;
use crate::failure::{Failure, Result};
use crate::line::Line;

/// How many receipts may wait.
const RECEIPTS_MAX: usize = 64;

/// The thread that acknowledges.
pub(crate) struct Acks {
    lines: SyncSender<(u64, Receipt)>,
    thread: JoinHandle<Result<()>>,
}

impl Acks {
    /// Acknowledges lines behind number `from`.
    pub(crate) fn start(producer: Producer<Line>, from: u64, stop: Arc<Stop>) -> Result<Self> {
        let (lines, receipts) = sync_channel(RECEIPTS_MAX);
        let work = move || {
            let ended = acknowledge(&producer, &receipts, from);
            if ended.is_err() {
                // The reader must not go on: nobody would learn what became of its lines.
                stop.broken_pipe();
            }
            ended
        };
        let thread = std::thread::Builder::new().name("ringwal-acks".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        Ok(Self { lines, thread })
    }

    /// All lines up to `number` are in the queue, the last one with this receipt.
    pub(crate) fn pushed(&self, number: u64, receipt: Receipt) {
        // A refusal means that the thread has ended; `finish` tells why.
        let _ = self.lines.send((number, receipt));
    }

    /// Waits until all are acknowledged, or cannot be.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.lines);
        self.thread.join().unwrap_or_else(|_| {
            Err(Failure::new("the thread that acknowledges has panicked; this is a bug, please report it"))
        })
    }
}

fn acknowledge(producer: &Producer<Line>, receipts: &Receiver<(u64, Receipt)>, from: u64) -> Result<()> {
    let mut acked = from;
    let mut text = String::new();
    while let Ok(mut newest) = receipts.recv() {
        while let Ok(newer) = receipts.try_recv() {
            newest = newer;
        }
        let (number, receipt) = newest;
        producer.durable(receipt).wait().map_err(|error| {
            Failure::new(format!("lines {} to {number} could not be made durable: {error}", acked + 1))
        })?;
        text.clear();
        for line in acked + 1..=number {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        acked = number;
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
    }
    Ok(())
}
