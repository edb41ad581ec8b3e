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
pub(crate) fn machine() -> Machine {
    let seed = shuttle::rand::thread_rng().r#gen();
    let disk = SimDisk::new(SimSettings { mode: Mode::Seeded, seed, block_len: 4096, ..SimSettings::default() });
    Machine { disk, turn: Arc::default() }
}

/// The flush core talks to it, and a test cuts its power. Each has its turn: who gives a block back under the machine's own
/// lock may be stopped right there by the schedule, and that lock is not one that shuttle knows.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    disk: SimDisk,
    turn: Arc<Mutex<()>>,
}

impl Machine {
    pub(crate) fn crash(&self) {
        let _turn = self.turn.lock().unwrap();
        self.disk.crash();
    }
}

/// A process's connection.
#[derive(Debug)]
pub(crate) struct Driver {
    driver: SimDriver,
    turn: Arc<Mutex<()>>,
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
    pub(crate) fn connect(machine: &Machine) -> Self {
        let driver = machine.disk.connect().expect("one process at a time runs on the machine");
        Self { driver, turn: Arc::clone(&machine.turn), bell: Arc::default(), in_flight: 0 }
    }

    fn completed(&mut self) -> Option<Completion> {
        let _turn = self.turn.lock().unwrap();
        self.driver.complete(Some(Duration::ZERO))
    }
}

impl Disk for Driver {
    fn submit(&mut self, token: Token, op: Op) {
        let _turn = self.turn.lock().unwrap();
        self.driver.submit(token, op);
        self.in_flight += 1;
    }

    /// Time has no length here: one that waits for a while may be over whenever it is looked at.
    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        loop {
            if let Some(completion) = self.completed() {
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
