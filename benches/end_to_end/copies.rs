//! A thread that copies memory beside a measurement: what a queue's own threads do with each byte, and a bare write does not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const MIB: usize = 1 << 20;
/// Of each of the two buffers, in MiB: out of every cache.
const LEN: usize = 64;
/// How far it may lag behind, in MiB.
const LAG: u64 = 16;

/// What is to be copied, and what is done, in MiB.
#[derive(Default)]
pub(crate) struct Copies {
    wanted: AtomicU64,
    done: AtomicU64,
    over: AtomicBool,
}

impl Copies {
    /// Copies until it is [over](Self::end).
    pub(crate) fn run(&self) {
        let (from, mut to) = (vec![7_u8; LEN * MIB], vec![0_u8; LEN * MIB]);
        while !self.over.load(Ordering::Acquire) {
            let done = self.done.load(Ordering::Relaxed);
            if done >= self.wanted.load(Ordering::Acquire) {
                thread::yield_now();
                continue;
            }
            let at = done as usize % LEN * MIB;
            to[at..at + MIB].copy_from_slice(&from[at..at + MIB]);
            std::hint::black_box(&to);
            self.done.store(done + 1, Ordering::Release);
        }
    }

    /// Wants so many more, and waits while it lags too far behind.
    pub(crate) fn want(&self, count: u64) {
        let wanted = self.wanted.fetch_add(count, Ordering::AcqRel) + count;
        while wanted.saturating_sub(self.done.load(Ordering::Acquire)) > LAG {
            thread::yield_now();
        }
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}
