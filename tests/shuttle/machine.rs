//! The simulated machine, behind a doorbell that shuttle knows.

use std::sync::Arc;
use std::time::Duration;

use ringwal::io::{Disk, DiskReport, Wake};
use ringwal::sim::{Mode, SimDisk, SimDriver, SimSettings};
use ringwal::wal::op::{Completion, Op, Token};
use shuttle::rand::Rng;
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

/// A machine whose ops complete in an order that the schedule decides.
pub(crate) fn machine() -> SimDisk {
    let seed = shuttle::rand::thread_rng().r#gen();
    SimDisk::new(SimSettings { mode: Mode::Seeded, seed, block_len: 4096, ..SimSettings::default() })
}

/// A process's connection. Only the flush core talks to the machine, and so the machine's own lock is never
/// met by two threads.
#[derive(Debug)]
pub(crate) struct Driver {
    driver: SimDriver,
    bell: Arc<Bell>,
    in_flight: usize,
}

/// A token that a wake leaves and a sleep takes. Without timeout, so that a lost wake-up is a deadlock.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().unwrap())
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Driver {
    pub(crate) fn connect(machine: &SimDisk) -> Self {
        let driver = machine.connect().expect("one process at a time runs on the machine");
        Self { driver, bell: Arc::default(), in_flight: 0 }
    }
}

impl Disk for Driver {
    fn submit(&mut self, token: Token, op: Op) {
        self.driver.submit(token, op);
        self.in_flight += 1;
    }

    /// Time has no length here: one that waits for a while may be over whenever it is looked at.
    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        loop {
            if let Some(completion) = self.driver.complete(Some(Duration::ZERO)) {
                self.in_flight -= 1;
                return Some(completion);
            }
            if self.bell.take() || timeout == Some(Duration::ZERO) {
                return None;
            }
            match timeout {
                None if self.in_flight == 0 => {
                    self.bell.sleep();
                    return None;
                }
                None => thread::yield_now(),
                Some(_) => {
                    thread::yield_now();
                    if self.in_flight == 0 {
                        return None;
                    }
                }
            }
        }
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn report(&self) -> DiskReport {
        self.driver.report()
    }
}
