//! The source's sink: copies each batch into every branch, and acknowledges it once all of them have it on disk.
//!
//! ```text
//!   batch ─► push into each branch, as far as it has room ─┬─ all have it ─► flush all at once ─► ack
//!              ▲                                           │
//!              └───── wait a moment for one that is full ◄─┘
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::delivery::batch::Batch;
use crate::entry::Entry;
use crate::fan_out::copies::Copies;
use crate::fan_out::lane::{Lane, LaneError, Pushed};
use crate::sink::{Outcome, Sink};

/// How long a branch that is full is waited for before the others are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the source and its owner share.
pub(crate) struct Copying {
    pub(crate) lanes: Vec<Lane>,
    /// Set once the lanes have begun, or to what kept them from it.
    pub(crate) begun: OnceLock<Result<(), String>>,
}

pub(crate) struct Copier {
    pub(crate) copying: Arc<Copying>,
    pub(crate) len_max: usize,
}

impl Copying {
    fn copy(&self, copies: &Copies) -> Result<(), String> {
        let named = |lane: &Lane, error: LaneError| format!("the branch {:?} takes nothing: {error}", lane.name);
        loop {
            let mut full = None;
            for lane in &self.lanes {
                match lane.push(copies).map_err(|error| named(lane, error))? {
                    Pushed::All => {}
                    Pushed::Full(seen) => full = full.or(Some((lane, seen))),
                }
            }
            match full {
                Some((lane, seen)) => lane.await_space(seen, LOOK_EVERY),
                None => break,
            }
        }
        self.lanes.iter().for_each(Lane::hurry);
        self.lanes.iter().try_for_each(|lane| lane.flush().map_err(|error| named(lane, error.into())))
    }
}

impl<T: Entry> Sink<T> for Copier {
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        if let Err(why) = self.copying.begun.wait() {
            return Outcome::retry(why.as_str());
        }
        let copies = Copies::of(&batch, self.len_max);
        match self.copying.copy(&copies) {
            Ok(()) => copies.outcome(),
            Err(why) => Outcome::retry(why),
        }
    }

    fn blocks(&self) -> bool {
        true
    }

    fn at_once_max(&self) -> usize {
        1
    }
}
