//! A process's connection to the machine, shared by its logs: each gets what it asked for.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringwal::io::Disk;
use ringwal::sim::SimDriver;
use ringwal::wal::op::{Completion, LogId, Op, Owner, Token};

#[derive(Clone, Debug)]
pub struct Port {
    driver: Rc<RefCell<SimDriver>>,
    /// Completions that the log beside this one is to fetch.
    others: Rc<RefCell<Vec<Completion>>>,
    log: LogId,
}

impl Port {
    pub fn new(driver: SimDriver, log: LogId) -> Self {
        Self { driver: Rc::new(RefCell::new(driver)), others: Rc::default(), log }
    }

    /// The same connection, for another log.
    pub fn beside(&self, log: LogId) -> Self {
        Self { log, ..self.clone() }
    }

    pub fn submit(&self, token: Token, op: Op) {
        self.driver.borrow_mut().submit(token, op);
    }

    /// What has completed of this log's. One log recovers at a time, and it fetches.
    pub fn complete(&self) -> Option<Completion> {
        let mine = |completion: &Completion| match completion.token.owner {
            Owner::Log(log) | Owner::Reader(log) => log == self.log,
            _ => true,
        };
        let mut others = self.others.borrow_mut();
        if let Some(at) = others.iter().position(mine) {
            return Some(others.remove(at));
        }
        loop {
            let completion = self.driver.borrow_mut().complete(Some(Duration::ZERO))?;
            if mine(&completion) {
                return Some(completion);
            }
            others.push(completion);
        }
    }
}
