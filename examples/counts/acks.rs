//! Durable acks on a real disk, and nothing else.

use std::time::Duration;

use ringwal::{Batch, DecodeError, Durability, Entry, Idle, Queue, Schema, sink_fn};

/// Entries that become durable together.
pub(crate) const GROUP: u32 = 64;

struct Number(u32);

impl Entry for Number {
    const SCHEMA: Schema = Schema::new("counts.number", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(4)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(|bytes| Self(u32::from_le_bytes(bytes))).map_err(DecodeError::new)
    }
}

/// Waits `count` times for entries to be durable, `group` of them at a time. The sink gets them later, so that what it and
/// its cursor need is not among the calls.
pub(crate) fn run(group: u32, count: u32, idle: Idle) {
    let dir = tempfile::tempdir().expect("a directory");
    let sink = sink_fn(|_: Batch<Number>| std::future::ready(Ok(())));
    let builder = Queue::builder(dir.path()).durability(Durability::Immediate).segment_len(1 << 20).idle(idle);
    let queue = builder.log_bytes_max(16 << 20).rings(1).open(sink).expect("it opens");
    queue.pause();
    let producer = queue.producer();
    for round in 0..count {
        let first = round * group;
        let last = (first..first + group).fold(None, |_, n| Some(producer.push(Number(n)).expect("room")));
        last.into_iter().for_each(|last| producer.durable(last).wait().expect("a disk that works"));
    }
    queue.resume();
    queue.shutdown(Duration::from_secs(60)).expect("everything is delivered");
}
