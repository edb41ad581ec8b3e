//! Exactly once: the sink stores the number of the last entry together with the data, in one transaction, and
//! says at open how far it got. What the queue would deliver again after a crash is then left out.
//!
//! Here the store is a file that is replaced whole: written beside, synced, renamed. Use your database's
//! transaction instead. `cargo run --example exactly_once`

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwal::{Batch, Lsn, Outcome, Queue, Sink};

/// A sum, and the last entry that is in it: `LSN SUM` in a file.
struct Total {
    path: PathBuf,
    /// Whether its answers get lost after it has stored a batch: a crash at the worst moment.
    fail_after_commit: bool,
}

impl Total {
    fn read(path: &Path) -> (u64, u64) {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a file that we wrote"));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    fn commit(&self, lsn: Lsn, sum: u64) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        write!(file, "{} {sum}", lsn.number())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        // The name is durable only with its directory.
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

impl Sink<String> for Total {
    async fn deliver(&self, batch: Batch<String>) -> Outcome {
        let (last, mut sum) = Self::read(&self.path);
        // A batch whose answer got lost comes again while the process lives: what is in already is left out.
        for entry in batch.iter().filter(|entry| entry.lsn.number() > last) {
            sum += entry.value.parse::<u64>().unwrap_or(0);
        }
        match self.commit(batch.last(), sum) {
            Ok(()) if self.fail_after_commit => Outcome::retry("stored, but the answer got lost"),
            Ok(()) => Outcome::ack(),
            Err(error) => Outcome::retry(error.to_string()),
        }
    }

    /// Asked once, at open.
    async fn committed(&self) -> Option<Lsn> {
        Some(Lsn::ZERO.advance(Self::read(&self.path).0))
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (log, path) = (dir.path().join("queue"), dir.path().join("total"));

    // The first run stores everything, but the queue never hears of it.
    let queue = Queue::builder(&log).open(Total { path: path.clone(), fail_after_commit: true })?;
    let numbers = queue.producer();
    for number in 1..=1000_u64 {
        numbers.push(number.to_string())?;
    }
    queue.flush()?;
    // Offered twice, counted once.
    while queue.metrics().delivery_failures < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // What the sink has now it may finish; nothing more is offered.
    queue.pause();
    let end = queue.shutdown(Duration::from_secs(10))?;
    assert_eq!(end.delivered, 0, "no batch was acknowledged");
    let (stored, _) = Total::read(&path);
    assert!(stored > 0);

    // The second run begins behind what is stored.
    let queue = Queue::builder(&log).open(Total { path: path.clone(), fail_after_commit: false })?;
    queue.drain(Duration::from_secs(10))?;
    queue.shutdown(Duration::from_secs(10))?;
    let (last, sum) = Total::read(&path);
    assert_eq!((last, sum), (1000, 1000 * 1001 / 2), "each number once");
    println!("the sum of 1 to 1000 is {sum}, though {stored} entries were stored and never acknowledged");
    Ok(())
}
