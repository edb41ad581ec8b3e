//! One run per directory: a lock of the program's own beside the queue's.
//!
//! The queue's lock is given back and taken again between finding the resume point and opening the queue.
//! Another run that came in between would move the point; this lock keeps it out.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::failure::{Failure, Result};

const NAME: &str = "pipe.lock";
/// The held lock.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes it, waiting at most so long: a killed process lets go of its locks one after another.
    pub(crate) fn acquire(dir: &Path, wait: Duration) -> Result<Self> {
        let path = dir.join(NAME);
        let fail = |error: std::io::Error| {
            Failure::new(format!("cannot lock {}: {error}; see who may write there", path.display()))
        };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(fail)?;
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < wait => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::WOULDBLOCK) => {
                    let dir = dir.display();
                    return Err(Failure::new(format!(
                        "{dir} is in use by another ringwal; stop it, or use another directory"
                    )));
                }
                Err(errno) => return Err(fail(errno.into())),
            }
        }
    }
}
