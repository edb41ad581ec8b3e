//! What must hold, checked as it happens: the books that the parent keeps over all sessions of a store.
//!
//! | checked                                              | how                                                |
//! |------------------------------------------------------|----------------------------------------------------|
//! | nothing durable is lost                              | at a store's end each row reaches what was durable |
//! | nothing accepted is lost by an orderly end           | the same, with what was pushed                     |
//! | order, and nothing twice, in each producer's row     | a new LSN brings the row's next number             |
//! | LSNs rise by one, but for the steps of recovery      | a new LSN follows the last, or a reported step     |
//! | what was acknowledged does not come again            | unless a session was killed, or its sink cut off   |
//! | an LSN keeps its entry                               | what comes again is what had come                  |
//!
//! Entries that may be parked leave their row: they come again under other LSNs.

use std::collections::{BTreeMap, HashMap};

/// One delivery of one entry.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    pub lsn: u64,
    pub producer: u32,
    pub number: u32,
    pub attempt: u32,
}

/// Whether the sink may park an entry.
pub fn may_be_parked(number: u32) -> bool {
    number % 41 == 7
}

/// What sessions report.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Recovery found the log's end, and begins anew at a greater LSN.
    Opened { end: u64, next: u64 },
    /// All that this producer pushed below this number is on disk.
    Durable { producer: u32, below: u32 },
    /// What this producer has pushed, all in all.
    Pushed { producer: u32, count: u32 },
    /// The sink has an entry.
    Delivered(Delivered),
    /// The sink is about to acknowledge it.
    Acked { lsn: u64 },
    /// The sink is about to refuse one for good. It comes again where the park has no room.
    Parked,
}

/// Length of an event in a pipe.
pub const EVENT_LEN: usize = 24;

impl Event {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (tag, a, b, c) = match *self {
            Self::Opened { end, next } => (1, end, next, 0),
            Self::Durable { producer, below } => (2, u64::from(producer), u64::from(below), 0),
            Self::Pushed { producer, count } => (3, u64::from(producer), u64::from(count), 0),
            Self::Delivered(Delivered { lsn, producer, number, attempt }) => {
                (4, lsn, u64::from(producer) << 32 | u64::from(number), attempt)
            }
            Self::Acked { lsn } => (5, lsn, 0, 0),
            Self::Parked => (6, 0, 0, 0),
        };
        out.extend(u32::to_le_bytes(tag));
        out.extend(c.to_le_bytes());
        out.extend(u64::to_le_bytes(a));
        out.extend(b.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (a, b) = (long(8), long(16));
        match short(0) {
            1 => Self::Opened { end: a, next: b },
            2 => Self::Durable { producer: a as u32, below: b as u32 },
            3 => Self::Pushed { producer: a as u32, count: b as u32 },
            4 => Self::Delivered(Delivered { lsn: a, producer: (b >> 32) as u32, number: b as u32, attempt: short(4) }),
            5 => Self::Acked { lsn: a },
            6 => Self::Parked,
            tag => panic!("no event has the tag {tag}"),
        }
    }
}

/// What is known of a producer's entries.
#[derive(Clone, Copy, Default, Debug)]
struct Row {
    /// The number that comes next.
    next: u32,
    durable: u32,
    pushed: u32,
}

/// An entry that has come, and whether it was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Seen {
    producer: u32,
    number: u32,
    acked: bool,
}

/// So many LSNs are remembered with their entries: more than a batch, which is all that may come again in order.
const SEEN_MAX: usize = 50_000;

/// The books of one store.
#[derive(Default)]
pub struct Ledger {
    rows: HashMap<u32, Row>,
    /// Steps of recovery: where the log ended, where it went on.
    steps: Vec<(u64, u64)>,
    /// A session was killed before it could report a step that it may have put on disk.
    has_unseen_step: bool,
    /// The greatest LSN that came.
    last: u64,
    seen: BTreeMap<u64, Seen>,
    /// Up to here acknowledgements may have been lost with a session.
    may_repeat: u64,
    pub delivered: u64,
    pub repeated: u64,
    pub parked: u64,
    /// What does not hold.
    pub broken: Option<String>,
}

impl Ledger {
    pub fn take(&mut self, event: Event) {
        match event {
            // Behind a step that nobody saw, the log ends where that one went on.
            Event::Opened { end, next } => {
                let end = if std::mem::take(&mut self.has_unseen_step) { 0 } else { end };
                self.steps.push((end, next));
            }
            Event::Durable { producer, below } => {
                let row = self.rows.entry(producer).or_default();
                row.durable = row.durable.max(below);
            }
            Event::Pushed { producer, count } => self.rows.entry(producer).or_default().pushed = count,
            Event::Delivered(delivered) => self.deliver(delivered),
            Event::Acked { lsn } => {
                if let Some(seen) = self.seen.get_mut(&lsn) {
                    seen.acked = true;
                }
                self.delivered += 1;
            }
            Event::Parked => self.parked += 1,
        }
    }

    fn deliver(&mut self, delivered: Delivered) {
        let Delivered { lsn, producer, number, .. } = delivered;
        if lsn <= self.last {
            self.repeated += 1;
            match self.seen.get(&lsn) {
                Some(seen) if (seen.producer, seen.number) != (producer, number) => {
                    self.breaks(format!("LSN {lsn} was {seen:?}, and comes again as {delivered:?}"));
                }
                Some(seen) if seen.acked && lsn > self.may_repeat => {
                    self.breaks(format!("{delivered:?} comes again after it was acknowledged"));
                }
                Some(_) => {}
                // A step of recovery passed it by, and nothing of that can come.
                None if lsn > self.may_repeat => self.breaks(format!("{delivered:?} comes behind {}", self.last)),
                None => {}
            }
            return;
        }
        let follows = lsn == self.last + 1
            || self.steps.iter().any(|(end, next)| *next == lsn && *end <= self.last)
            // The last step of several: sessions in which nothing was delivered.
            || self.last == 0 && self.steps.is_empty();
        if !follows {
            self.breaks(format!("{delivered:?} follows LSN {}; steps {:?}", self.last, self.last_steps()));
        }
        self.last = lsn;
        self.seen.insert(lsn, Seen { producer, number, acked: false });
        while self.seen.len() > SEEN_MAX {
            self.seen.pop_first();
        }
        let row = self.rows.entry(producer).or_default();
        let expected = row.next;
        row.next = row.next.max(number + 1);
        if number != expected && !may_be_parked(number) {
            self.breaks(format!("{delivered:?} where number {expected} is next"));
        }
    }

    fn last_steps(&self) -> &[(u64, u64)] {
        &self.steps[self.steps.len().saturating_sub(4)..]
    }

    /// How many openings have reported their step.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// A session was killed in its opening.
    pub fn step_may_be_unseen(&mut self) {
        self.has_unseen_step = true;
    }

    /// A session has ended so that its last acknowledgements may be lost: killed, or its sink cut off.
    pub fn acknowledgements_may_be_lost(&mut self) {
        self.may_repeat = self.last;
    }

    /// A session has ended, and what it had accepted is kept.
    pub fn all_is_kept(&mut self) {
        for row in self.rows.values_mut() {
            row.durable = row.durable.max(row.pushed);
        }
    }

    /// A session has ended: what was not durable may be gone, and will never come.
    pub fn close_rows(&mut self) {
        for row in self.rows.values_mut() {
            row.pushed = 0;
        }
    }

    /// The store was drained to its end: every row has come as far as it must.
    pub fn check_end(&mut self) {
        let short = self.rows.iter().find(|(_, row)| row.next < row.durable).map(|(producer, row)| (*producer, *row));
        if let Some((producer, row)) = short {
            self.breaks(format!("entries of producer {producer} are lost: {row:?}"));
        }
    }

    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}
