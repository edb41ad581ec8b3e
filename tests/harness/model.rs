//! What must hold after any crash, as a model that knows only what was asked and what was told.
//!
//! | | invariant | broken by |
//! |---|---|---|
//! | I1 | what was told durable and is not consumed is recovered, with its bytes | loss, wrong data |
//! | I2 | recovered entries come in LSN order | order |
//! | I3 | nothing is recovered that was not appended, nothing that an earlier recovery gave up | resurrection |
//! | I4 | the cursor never says more than the sink did, nor less than what was told durable | a lying cursor |
//! | I5 | corruption is reported exactly when something was injected | false corruption, silence |
//! | I6 | whoever waits gets an answer in a bounded number of steps | a hang |
//! | I8 | a recovery that is interrupted finds the same end again | an unstable decision |
//! | W5 | a number shown to the sink never names another entry | reissue |

use std::collections::{BTreeMap, BTreeSet};

use ringwal::Lsn;
use ringwal::sim::mix;
use ringwal::wal::cursor::Cursor;
use ringwal::wal::frame::{Frame, FrameKind};

use ringwal::ring::record::Records;

/// The bytes of the entry with this id: the id, then a pattern that only it has.
pub fn payload(id: u64, len: usize) -> Vec<u8> {
    let len = len.max(8);
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = id;
    while bytes.len() < len {
        bytes.extend(word.to_le_bytes());
        // Every other one can be compressed.
        word = if id.is_multiple_of(2) { id } else { mix(word ^ id) };
    }
    bytes.truncate(len);
    bytes
}

/// One appended entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: u64,
    pub len: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What each LSN holds by the last word on it.
    pub current: BTreeMap<u64, Entry>,
    /// What the sink has seen under each LSN.
    pub shown: BTreeMap<u64, Entry>,
    /// Told durable to producers, or recovered.
    pub durable: u64,
    /// The sink's prefix, in this incarnation.
    pub acked: u64,
    /// What the sink has finished above it, in this incarnation.
    pub done: BTreeSet<u64>,
    /// Everything the sink ever finished.
    pub ever_done: BTreeSet<u64>,
    /// Told durable of the cursor.
    pub cursor_durable: u64,
    /// The LSN that the next append gets.
    pub next: u64,
    /// The end that a scan found and no repair has made final.
    pub decided: Option<u64>,
    pub next_id: u64,
    /// Ring positions: the one behind each LSN.
    pub ring: BTreeMap<u64, u64>,
    /// LSNs that were spoilt on purpose, first and last.
    pub injected: Option<(u64, u64)>,
}

impl Model {
    pub fn new() -> Self {
        Self { next: 1, next_id: 1, ..Self::default() }
    }

    pub fn append(&mut self, len: usize) -> (u64, Entry) {
        let entry = Entry { id: self.next_id, len: len.max(8) };
        let lsn = self.next;
        self.next_id += 1;
        self.next += 1;
        self.current.insert(lsn, entry);
        (lsn, entry)
    }

    /// Whether everything that was appended is told durable.
    pub fn is_durable(&self) -> bool {
        self.current.last_key_value().is_none_or(|(lsn, _)| *lsn <= self.durable)
    }

    /// The entries of a frame that came out of the log; they must be the current ones.
    pub fn check_frame(&self, frame: &Frame, from: &str) -> Result<Vec<(u64, Entry)>, String> {
        let header = &frame.header;
        if header.kind != FrameKind::Data {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        let mut lsn = header.first_lsn.number();
        for record in Records::new(frame.body()) {
            let record = record.map_err(|bad| format!("{from}: frame at LSN {lsn} holds no record at {}", bad.at))?;
            let id = record.payload.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
            let entry = Entry { id, len: record.payload.len() };
            if record.payload != payload(id, entry.len) {
                return Err(format!("{from}: LSN {lsn} holds bytes that nobody appended"));
            }
            match self.current.get(&lsn) {
                Some(now) if *now == entry => {}
                Some(now) => return Err(format!("{from}: LSN {lsn} holds entry {id}, not entry {}", now.id)),
                None => return Err(format!("{from}: LSN {lsn} came back with entry {id}, after it was given up")),
            }
            out.push((lsn, entry));
            lsn += 1;
        }
        if lsn != header.next_lsn.number() {
            return Err(format!("{from}: a frame says it ends at {}, its records at {lsn}", header.next_lsn));
        }
        Ok(out)
    }

    /// The sink sees an entry.
    pub fn show(&mut self, lsn: u64, entry: Entry) -> Result<(), String> {
        match self.shown.insert(lsn, entry) {
            Some(before) if before != entry => {
                Err(format!("LSN {lsn} was shown to the sink as entry {}, and now as entry {}", before.id, entry.id))
            }
            _ => Ok(()),
        }
    }

    pub fn told_durable(&mut self, lsn: Lsn) -> Result<(), String> {
        let lsn = lsn.number();
        if lsn < self.durable || lsn >= self.next {
            return Err(format!("told durable up to {lsn}, after {}, with {} to come next", self.durable, self.next));
        }
        self.durable = lsn;
        Ok(())
    }

    /// What was spoilt on purpose is given up by policy; nothing else may be.
    pub fn give_up(&mut self, first: u64, last: u64) -> Result<(), String> {
        match self.injected {
            Some((from, to)) if from <= first && last <= to => {
                for lsn in first..=last {
                    self.current.remove(&lsn);
                }
                Ok(())
            }
            injected => Err(format!("{first}..={last} was given up, and {injected:?} was spoilt")),
        }
    }

    /// A policy cuts the log off behind `end`: what lies there is gone, told durable or not.
    pub fn cut(&mut self, end: u64) {
        self.current.split_off(&(end + 1));
        self.durable = self.durable.min(end);
        self.decided = None;
    }

    /// The sink finishes these.
    pub fn finish(&mut self, lsns: impl IntoIterator<Item = u64>) {
        for lsn in lsns {
            if lsn > self.acked {
                self.done.insert(lsn);
            }
            self.ever_done.insert(lsn);
        }
        // A number that holds nothing (skipped or given up) is done by itself, once something lies behind it.
        while let Some(done) = self.done.first().copied() {
            let waits = self.current.range(self.acked + 1..).next();
            if waits.is_some_and(|(lsn, _)| *lsn < done) {
                break;
            }
            self.done.remove(&done);
            self.acked = done;
        }
    }

    /// `done` as the log wants it: first and one past last, rising.
    pub fn ranges(&self) -> Vec<(Lsn, Lsn)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for lsn in &self.done {
            match out.last_mut() {
                Some((_, next)) if *next == *lsn => *next += 1,
                _ => out.push((*lsn, lsn + 1)),
            }
        }
        out.into_iter().map(|(a, b)| (Lsn::new(a), Lsn::new(b))).collect()
    }

    pub fn told_cursor(&mut self, lsn: Lsn) -> Result<(), String> {
        let lsn = lsn.number();
        if lsn < self.cursor_durable || lsn > self.acked {
            return Err(format!(
                "told the cursor durable at {lsn}, after {}; acked {}",
                self.cursor_durable, self.acked
            ));
        }
        self.cursor_durable = lsn;
        Ok(())
    }

    /// A scan has found this end: until a repair is through, every other one must find it too.
    pub fn check_decision(&mut self, end: u64) -> Result<(), String> {
        match self.decided.replace(end) {
            Some(before) if before != end => Err(format!("one recovery found the end at {before}, the next at {end}")),
            _ => Ok(()),
        }
    }

    /// The cursor of a recovery.
    pub fn check_cursor(&self, cursor: &Cursor) -> Result<(), String> {
        let acked = cursor.acked.number();
        if acked < self.cursor_durable {
            return Err(format!("the cursor fell from {} to {acked}", self.cursor_durable));
        }
        let not_done = |lsn: &u64| !self.ever_done.contains(lsn);
        let appended = |from: u64, to: u64| self.current.range(from..to.max(from)).map(|(lsn, _)| *lsn);
        if let Some(lsn) = appended(self.cursor_durable + 1, acked + 1).find(not_done) {
            return Err(format!("the cursor says {acked}, and the sink never finished {lsn}"));
        }
        for (first, next) in &cursor.done {
            if let Some(lsn) = appended(first.number(), next.number()).find(not_done) {
                return Err(format!("the cursor says {first}..{next} is done, and the sink never finished {lsn}"));
            }
        }
        Ok(())
    }

    /// Where a recovery ends, and what comes next.
    pub fn check_recovery_end(&self, cursor: &Cursor, end: u64, next: u64) -> Result<(), String> {
        // What the sink has finished needs no durability, even where it was told durable for that reason.
        let owed = self.current.range(..=self.durable).rev().find(|(lsn, _)| !self.ever_done.contains(lsn));
        let owed = owed.map_or(0, |(lsn, _)| *lsn);
        if end < owed || end < cursor.acked.number() {
            return Err(format!("LSN {owed} was told durable, and the log ends at {end}"));
        }
        let shown = self.shown.last_key_value().map_or(0, |(lsn, _)| *lsn);
        if next <= end || next <= shown {
            return Err(format!("LSN {next} comes next, with the end at {end} and {shown} shown to the sink"));
        }
        Ok(())
    }

    /// All that was read between the cursor and the end of a recovery.
    pub fn check_recovery(&self, cursor: &Cursor, end: u64, read: &[(u64, Entry)]) -> Result<(), String> {
        let acked = cursor.acked.number();
        if let Some(pair) = read.windows(2).find(|w| w[0].0 >= w[1].0) {
            return Err(format!("LSN {} was read after {}", pair[1].0, pair[0].0));
        }
        let is_done = |lsn: u64| cursor.done.iter().any(|(a, b)| (a.number()..b.number()).contains(&lsn));
        let got: BTreeSet<u64> = read.iter().map(|(lsn, _)| *lsn).collect();
        // What the sink has finished may be missing: `Spill` never writes it.
        let missing = |lsn: &u64| !self.ever_done.contains(lsn) && !got.contains(lsn) && !is_done(*lsn);
        if let Some(lsn) = self.current.range(acked + 1..end.max(acked) + 1).map(|(lsn, _)| *lsn).find(missing) {
            return Err(format!("LSN {lsn} is below the end {end}, and was not read (durable {})", self.durable));
        }
        if let Some((lsn, _)) = read.iter().find(|(lsn, _)| *lsn > end) {
            return Err(format!("LSN {lsn} was read behind the end {end}"));
        }
        Ok(())
    }

    /// The recovery is final: what lies behind the end is given up.
    pub fn restart(&mut self, cursor: &Cursor, end: u64, next: u64) {
        self.decided = None;
        self.current.split_off(&(end + 1));
        self.ring.clear();
        self.durable = end;
        self.next = next;
        self.acked = cursor.acked.number();
        self.cursor_durable = self.acked;
        self.done = cursor.done.iter().flat_map(|(a, b)| a.number()..b.number()).collect();
    }
}
