//! What must hold, as a model that knows only what was pushed, what was told durable, and what the sink did.
//!
//! | | invariant | here |
//! |---|---|---|
//! | I1 | what was told durable and is not done is delivered, with its bytes | `finish`, `shown` |
//! | I2 | in the order of LSNs, and of each producer, without a gap | `shown` |
//! | I3 | nothing that was not pushed; no number for two entries | `shown` |
//! | I4 | what is done comes again only above the durable cursor, and after a death | `shown`, `cursor` |
//! | I5 | what rots is told, or was above every promise | `finish` |
//! | I7 | after a failure nothing more is told durable | `told`, `gauges` |
//!
//! I6 (nobody waits for ever), I8 (opening twice finds the same) and I9 (disk use) are watched in `world`.

use std::collections::{BTreeMap, BTreeSet};

use ringwal::{Lsn, Metrics, Shutdown};

use super::item::Item;

/// An invariant that does not hold, or a panic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken(pub String);

pub type Check<T = ()> = Result<T, Broken>;

/// `Err` with a text.
macro_rules! broken {
    ($($text:tt)*) => { return Err($crate::whole_queue::model::Broken(format!($($text)*))) };
}
pub(crate) use broken;

#[derive(Clone, Debug)]
pub struct Known {
    pub lane: u32,
    /// Its place among the entries of its lane.
    at: usize,
    /// The life in which it was pushed; 0: it was not taken.
    life: u32,
    told: bool,
    poison: bool,
    /// The lives in which it was last shown and acknowledged; 0 for none.
    shown: u32,
    acked: u32,
    /// It was acknowledged, and the cursor that says so is durable.
    settled: bool,
    /// It has left the park.
    unparked: bool,
}

/// The same of the park's log.
#[derive(Debug, Default)]
pub struct ParkModel {
    pub rotted: bool,
    pub torn: bool,
    pub lied: bool,
    pub cursor_lied: bool,
    pub stale: bool,
    /// What was durable when the last life ended, or where the last opening found the end.
    pub floor: u64,
    told_lost: u64,
    hidden: u64,
}

#[derive(Debug, Default)]
pub struct Model {
    pub entries: Vec<Known>,
    /// Ids of each lane, in the order of the pushes; and up to where the sink has seen them.
    lanes: BTreeMap<u32, (Vec<u64>, usize)>,
    /// Which entry a number names, of all lives; and of those that count for one life only.
    by_lsn: BTreeMap<u64, u64>,
    now: BTreeMap<u64, u64>,
    /// Shown in this life and not finished.
    open: BTreeMap<u64, u64>,
    pub life: u32,
    /// Of this life: entries pushed, acknowledged; the greatest number shown.
    pub accepted: u64,
    pub acked: u64,
    /// Acknowledged after the deadline of a shutdown by a sink that stores numbers.
    pub committed_late: u64,
    last_lsn: u64,
    /// The greatest durable cursor that was told, over all lives.
    cursor: u64,
    durable: u64,
    /// Of this life: what the log had promised when it failed.
    failed: Option<u64>,
    /// Memory: numbers count for one life only.
    pub forgets: bool,
    /// The sink stores numbers with its data.
    pub committed: bool,
    /// Something has rotted; and since then so many entries were reported as lost, or a torn tail.
    pub rotted: bool,
    /// A write of the log has been lost or has gone elsewhere. What a segment's header hides counts as never written: so
    /// many, of those that had been told durable, an opening has passed over without a word.
    pub lied: bool,
    pub hidden: u64,
    /// The greatest number that was ever reported as lost.
    told_lost: u64,
    /// A write of the cursor was: what it said may come again.
    pub cursor_lied: bool,
    /// A read of the log may have brought what is no more: what it missed was settled as if it were not there, and the
    /// promises that can be read say otherwise.
    pub stale: bool,
    pub park: ParkModel,
    /// What was durable when the last life ended, or where the last opening found the end.
    pub floor: u64,
    /// Batches go out one at a time.
    pub in_order: bool,
    /// A read has been refused. Delivery stands still before it until the next opening; nothing may be missing for that.
    pub unreadable: bool,
    /// What openings said to be lost, of the log and of the park; an opening may say again what one before it said.
    given_up: [Runs; 2],
    /// What delivery said to be lost, over all lives.
    reported: u64,
    /// Of this life: how many delivery has met.
    lost: u64,
    pub torn: bool,
}

impl Model {
    pub fn begin_life(&mut self) {
        self.life += 1;
        (self.accepted, self.acked, self.last_lsn, self.durable, self.lost) = (0, 0, 0, 0, 0);
        self.failed = None;
        self.committed_late = 0;
        self.now.clear();
        self.open.clear();
        if self.forgets {
            self.by_lsn.clear();
            self.cursor = 0;
        }
    }

    pub const fn next_id(&self) -> u64 {
        self.entries.len() as u64
    }

    /// An entry that is about to be pushed: each attempt has an id of its own.
    pub fn new_item(&mut self, lane: u32, len: usize, poison: bool) -> Item {
        let id = self.next_id();
        self.entries.push(Known {
            lane,
            at: 0,
            life: 0,
            told: false,
            poison,
            shown: 0,
            acked: 0,
            settled: false,
            unparked: false,
        });
        Item::new(id, lane, len, poison)
    }

    /// The queue has taken it.
    pub fn pushed(&mut self, id: u64) {
        let known = &mut self.entries[id as usize];
        let (ids, _) = self.lanes.entry(known.lane).or_default();
        known.at = ids.len();
        known.life = self.life;
        ids.push(id);
        self.accepted += 1;
    }

    pub fn is_pushed(&self, id: u64) -> bool {
        self.entries.get(id as usize).is_some_and(|known| known.life > 0)
    }

    /// The entry and all that this life's producers of its lane pushed before it were told durable.
    pub fn told(&mut self, id: u64, after_failure: bool) -> Check {
        if after_failure {
            broken!("I7: entry {id} was told durable after the log had failed");
        }
        let known = &self.entries[id as usize];
        let (lane, at, life) = (known.lane, known.at, known.life);
        for id in self.lanes[&lane].0[..=at].iter().rev() {
            let known = &mut self.entries[*id as usize];
            if known.life != life || known.told {
                break;
            }
            known.told = true;
        }
        Ok(())
    }

    /// Everything that was pushed in this life is on disk.
    pub fn all_told(&mut self) {
        let life = self.life;
        self.entries.iter_mut().filter(|known| known.life == life).for_each(|known| known.told = true);
    }

    /// The sink was given this.
    pub fn shown(&mut self, lsn: u64, item: &Item) -> Check {
        let id = item.id;
        let Some(known) = self.entries.get(id as usize).filter(|known| known.life > 0).cloned() else {
            broken!("I3: the sink got {item:?}, LSN {lsn}, which nobody pushed");
        };
        if !item.whole || item.lane != known.lane || known.poison {
            broken!("I1: the sink got {item:?}, LSN {lsn}, with other bytes than were pushed");
        }
        if lsn <= self.cursor && !self.cursor_lied {
            broken!("I4: entry {id}, LSN {lsn}, came again below the durable cursor {}", self.cursor);
        }
        let settled = known.settled && !self.cursor_lied;
        if known.acked == self.life || settled || self.committed && known.acked > 0 {
            broken!("I4: entry {id}, LSN {lsn}, came again after it was acknowledged (in life {})", known.acked);
        }
        match self.now.get(&lsn) {
            Some(named) if *named == id => {}
            Some(named) => broken!("I3: LSN {lsn} names entries {named} and {id} in one life"),
            None => {
                if lsn <= self.last_lsn && self.in_order {
                    broken!("I2: LSN {lsn} was shown after {}", self.last_lsn);
                }
                self.last_lsn = self.last_lsn.max(lsn);
                self.now.insert(lsn, id);
                // What the log never numbered is delivered from memory: those numbers may come again.
                let counts = self.failed.is_none_or(|durable| lsn <= durable);
                if counts && !self.rotted {
                    let named = *self.by_lsn.entry(lsn).or_insert(id);
                    if named != id {
                        broken!("I3: LSN {lsn} named entry {named}, and now {id}");
                    }
                }
            }
        }
        self.open.insert(lsn, id);
        self.entries[id as usize].shown = self.life;
        self.no_gap(id)
    }

    /// What the same producer pushed before it in the same life has been shown before it, or gone its way.
    fn no_gap(&mut self, id: u64) -> Check {
        let known = &self.entries[id as usize];
        let (life, at) = (known.life, known.at);
        let (ids, passed) = self.lanes.get_mut(&known.lane).expect("it has a lane");
        for before in &ids[(*passed).min(at)..at] {
            let before_it = &self.entries[*before as usize];
            let gone = before_it.shown > 0 || before_it.poison || before_it.unparked;
            if !gone && !self.rotted && (before_it.life == life || before_it.told) {
                broken!("I2: entry {id} overtakes entry {before}, which its producer pushed before it");
            }
        }
        *passed = (*passed).max(at + 1);
        Ok(())
    }

    pub fn acked(&mut self, lsn: u64, item: &Item) {
        self.open.remove(&lsn);
        self.entries[item.id as usize].acked = self.life;
        self.acked += 1;
    }

    /// The sink answered after the deadline: it comes again, unless the sink itself says at opening that it has it.
    pub fn too_late(&mut self, item: &Item, is_ack: bool) {
        if is_ack && self.committed {
            self.entries[item.id as usize].acked = self.life;
            self.committed_late += 1;
        }
    }

    /// It may be parked now, or done.
    pub fn may_be_done(&mut self, lsn: u64) {
        self.open.remove(&lsn);
    }

    pub fn unparked(&mut self, id: u64) {
        self.entries[id as usize].unparked = true;
    }

    /// The log has failed, at the latest now.
    pub fn failed_at(&mut self, durable: u64) {
        self.failed.get_or_insert(durable);
    }

    /// What the queue shows of itself, after each step.
    pub fn gauges(&mut self, metrics: &Metrics, failed: bool, ended: bool) -> Check {
        let (durable, cursor) = (metrics.durable_lsn.number(), metrics.cursor_lsn.number());
        if metrics.accounted() != metrics.came_in() {
            broken!(
                "the counts do not add up: {} accounted, {} came in: {metrics:?}",
                metrics.accounted(),
                metrics.came_in()
            );
        }
        if metrics.delivered != self.acked {
            broken!("{} delivered, but the sink acknowledged {}", metrics.delivered, self.acked);
        }
        // What is left in the rings at the end is counted by `closed`.
        let counted = metrics.ring_bytes == 0 && !ended;
        if counted && metrics.pushed != self.accepted || metrics.pushed > self.accepted {
            broken!("{} pushed, but {} were accepted", metrics.pushed, self.accepted);
        }
        if durable < self.durable {
            broken!("the durable LSN fell from {} to {durable}", self.durable);
        }
        // The cursor may go on: it says what the sink did, which nothing can undo.
        if let Some(was) = self.failed.filter(|was| durable > *was) {
            broken!("I7: after the failure durable went from {was} to {durable}");
        }
        self.floor = durable;
        if let Some((lsn, id)) = self.open.range(..=cursor).next() {
            broken!("I4: the cursor says {cursor}, but the sink has not finished LSN {lsn}, entry {id}");
        }
        self.reported += metrics.lost.saturating_sub(self.lost);
        self.lost = metrics.lost;
        self.durable = durable;
        if failed {
            self.failed_at(durable);
        }
        self.cursor = self.cursor.max(cursor);
        Ok(())
    }

    /// What a shutdown says of itself adds up.
    pub fn shut(&self, state: &Shutdown, metrics: &Metrics) -> Check {
        if state.delivered != self.acked {
            broken!("closing tells {} delivered, the sink acknowledged {}", state.delivered, self.acked);
        }
        let left = metrics.pending + metrics.in_flight + self.accepted - metrics.pushed;
        if state.left_in_log + state.lost != left {
            broken!("closing tells {state:?}, but {left} entries have not had their exit: {metrics:?}");
        }
        Ok(())
    }

    /// The queue was closed in order: what was acknowledged stays so.
    pub fn closed(&mut self) {
        let life = self.life;
        for known in self.entries.iter_mut().filter(|known| known.acked == life) {
            known.settled = true;
        }
    }

    /// Whether delivery may stand still before what it cannot read.
    pub const fn may_halt(&self) -> bool {
        self.rotted || self.unreadable
    }

    /// An opening after a lie. `promise`: what every frame and header that can be read promised to be durable. Where an
    /// opening ends below that, it says so. Above it what a lie took cannot be told from what never was.
    pub fn opened_after_lie(&mut self, end: u64, promise: u64) -> Check {
        let end = end.max(self.told_lost);
        if end < promise && !self.stale {
            broken!("I5: an opening ends at {end} without a word, and LSN {promise} was promised where it can be read");
        }
        self.hidden += self.floor.saturating_sub(end);
        Ok(())
    }

    /// The same of the park. Where META was lied about it is not known where the opening found the end; and where it may
    /// have been read stale as well, the newer copy that was not seen still says another one.
    pub fn opened_after_lie_in_the_park(&mut self, end: u64, promise: u64) -> Check {
        let park = &mut self.park;
        let end = end.max(park.told_lost);
        if end < promise && !park.stale && !park.cursor_lied {
            broken!("I5: the park ends at {end} without a word, and id {promise} was promised where it can be read");
        }
        let end = if park.stale && park.cursor_lied { 0 } else { end };
        park.hidden += park.floor.saturating_sub(end);
        Ok(())
    }

    pub const fn has_rotted(&self) -> bool {
        self.rotted || self.park.rotted
    }

    /// An opening says that these are lost: first and last.
    pub fn given_up(&mut self, lost: &[(Lsn, Lsn)], lost_parked: &[(Lsn, Lsn)]) {
        for (all, runs) in self.given_up.iter_mut().zip([lost, lost_parked]) {
            runs.iter().for_each(|(first, last)| all.add(first.number(), last.number()));
        }
        let last = |runs: &[(Lsn, Lsn)]| runs.iter().map(|(_, last)| last.number()).max().unwrap_or(0);
        self.told_lost = self.told_lost.max(last(lost));
        self.park.told_lost = self.park.told_lost.max(last(lost_parked));
    }

    /// So many entries of each log were given up by an opening that was cut off, and the word that said so is lost.
    pub const fn given_up_untold(&mut self, entries: [u64; 2]) {
        self.hidden += entries[0];
        self.park.hidden += entries[1];
    }

    /// How many have been reported as lost.
    fn reported(&self) -> u64 {
        self.reported + self.given_up.iter().map(Runs::len).sum::<u64>()
    }

    /// No two batches that are out share a lane.
    pub fn out_together(&self, batch: &[(u64, u32)], others: impl Iterator<Item = u32>) -> Check {
        let lanes: BTreeSet<u32> = others.collect();
        match batch.iter().find(|(_, lane)| lanes.contains(lane)) {
            Some((lsn, lane)) => {
                broken!("I2: LSN {lsn} of lane {lane} goes out while another batch with that lane is out")
            }
            None => Ok(()),
        }
    }

    /// At the end: each entry that was told durable has had its exit. How many were lost to rot.
    pub fn finish(&self, parked: &[u64]) -> Check<u64> {
        let lost: Vec<u64> = (0..)
            .zip(&self.entries)
            .filter(|(id, known)| known.told && known.acked == 0 && !known.unparked && !parked.contains(id))
            .map(|(id, _)| id)
            .collect();
        let torn = self.rotted && self.torn || self.park.rotted && self.park.torn;
        let hidden = self.hidden + self.park.hidden;
        let excused = self.has_rotted() && (torn || lost.len() as u64 <= self.reported() + hidden);
        if !lost.is_empty() && !excused {
            broken!(
                "{}: {} entries were told durable and are lost, {} were reported; the first are {:?}",
                if self.has_rotted() { "I5" } else { "I1" },
                lost.len(),
                self.reported(),
                &lost[..lost.len().min(8)]
            );
        }
        Ok(lost.len() as u64)
    }
}

/// Numbers by runs that lie apart: first and last. One by one they would not fit into memory: between two segments may lie
/// the 2^32 that a failed log has reserved, and what is lost there reaches over all of them.
#[derive(Clone, Default, Debug)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn add(&mut self, mut first: u64, mut last: u64) {
        while let Some((from, to)) = self.0.range(..=last + 1).next_back().map(|(from, to)| (*from, *to))
            && to + 1 >= first
        {
            (first, last) = (first.min(from), last.max(to));
            self.0.remove(&from);
        }
        self.0.insert(first, last);
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}
