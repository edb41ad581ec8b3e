//! Lines on standard output, flushed batch by batch.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use ringwal::{Batch, Outcome, SinkError};

use super::{Deliver, join};
use crate::line::Line;
use crate::pipe::signals::Stop;

pub(super) struct Stdout {
    stop: Arc<Stop>,
    buffer: Vec<u8>,
}

impl Stdout {
    pub(super) fn new(stop: Arc<Stop>) -> Self {
        Self { stop, buffer: Vec::new() }
    }
}

impl Deliver for Stdout {
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome {
        join(batch, &mut self.buffer);
        let mut out = io::stdout().lock();
        match out.write_all(&self.buffer).and_then(|()| out.flush()) {
            Ok(()) => Outcome::ack(),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // Nobody reads any more: the run ends, and what is left waits in the log.
                self.stop.broken_pipe();
                Outcome::All(SinkError::retry_after(Duration::from_secs(3600), error).into_verdict())
            }
            Err(error) => Outcome::retry(format!("standard output: {error}")),
        }
    }
}
