//! Random frames, verdicts, losses and restarts against a model that knows for each entry only
//! whether it has had its exit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::delivery::breaker::Breaker;
use crate::delivery::lease::LeaseId;
use crate::sink::{Outcome, Verdict};
use crate::wal::cursor::{CURSOR_ATTEMPTS_MAX, CURSOR_RANGES_MAX};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// So many new entries.
    Frame(u64),
    /// LSNs that hold nothing.
    Skip(u64),
    /// A frame that came before.
    Again,
    Wait(u64),
    Poll,
    /// The sink answers; each byte is an entry's verdict.
    Each(Vec<u8>),
    All(u8),
    /// Another of the batches that are out is next to be answered.
    Other(u8),
    /// The sink answers so many verdicts too many or too few.
    Wrong(i8),
    DropLease,
    /// A part of the batch does not decode.
    Undecodable(u8),
    Parked,
    ParkFailed,
    /// The process dies: what was polled as progress is the cursor.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..12).prop_map(Step::Frame),
        1 => (1_u64..5).prop_map(Step::Skip),
        1 => Just(Step::Again),
        4 => (0_u64..400).prop_map(Step::Wait),
        6 => Just(Step::Poll),
        4 => prop::collection::vec(any::<u8>(), 12).prop_map(Step::Each),
        3 => any::<u8>().prop_map(Step::All),
        2 => any::<u8>().prop_map(Step::Other),
        1 => (-3_i8..4).prop_map(Step::Wrong),
        1 => Just(Step::DropLease),
        1 => any::<u8>().prop_map(Step::Undecodable),
        4 => Just(Step::Parked),
        1 => Just(Step::ParkFailed),
        1 => Just(Step::Restart),
    ]
}

fn verdict(byte: u8) -> Verdict {
    match byte % 8 {
        0..4 => Verdict::Ack,
        4..7 => Verdict::Retry("no".into()),
        _ => Verdict::Park("never".into()),
    }
}

/// The world around a dispatcher.
struct World {
    d: Dispatcher,
    config: DeliveryConfig,
    now: Instant,
    /// Frames that were written: first LSN and count; a skip has none.
    log: Vec<(u64, u64, bool)>,
    next: u64,
    /// Exits that the world has seen, with how often.
    acked: BTreeMap<u64, u32>,
    parked: BTreeMap<u64, u32>,
    skipped: BTreeSet<u64>,
    out: Vec<(Lease, Vec<u64>, BTreeSet<usize>)>,
    park: VecDeque<(LeaseId, Vec<u64>)>,
    /// What was offered in this run of the process.
    offered: BTreeSet<u64>,
    /// How many lanes there are.
    lanes: u64,
    /// Failed attempts as the sink sees them.
    failed: BTreeMap<u64, u32>,
    cursor: Cursor,
}

impl World {
    fn new(config: DeliveryConfig, lanes: u64) -> Self {
        Self {
            d: dispatcher(config.clone()),
            config,
            now: at(0),
            log: Vec::new(),
            next: 1,
            acked: BTreeMap::new(),
            parked: BTreeMap::new(),
            skipped: BTreeSet::new(),
            out: Vec::new(),
            park: VecDeque::new(),
            offered: BTreeSet::new(),
            lanes,
            failed: BTreeMap::new(),
            cursor: Cursor::default(),
        }
    }

    /// Keys come in no order; the first lane is that of entries without one.
    fn lane(&self, lsn: u64) -> u32 {
        u32::try_from(lsn.wrapping_mul(0x9e37_79b9) / 7 % self.lanes).unwrap()
    }

    fn is_done(&self, lsn: u64) -> bool {
        self.acked.contains_key(&lsn) || self.parked.contains_key(&lsn) || self.skipped.contains(&lsn)
    }

    fn write(&mut self, count: u64, skip: bool) {
        self.log.push((self.next, count, skip));
        if skip {
            self.skipped.extend(self.next..self.next + count);
        }
        self.next += count;
        self.give(self.log.len() - 1);
    }

    fn give(&mut self, index: usize) {
        let (first, count, skip) = self.log[index];
        let frame = if skip {
            frame_of(FrameKind::Skip, first, count, &[])
        } else {
            numbered_in(first, count, |lsn| self.lane(lsn))
        };
        self.d.handle_frame(self.now, frame, &SCHEMA).unwrap();
    }

    fn poll(&mut self) {
        let Some((lease, batch)) = self.d.poll_delivery(self.now) else {
            return;
        };
        let strict = self.config.in_flight_max == 1;
        assert!(self.out.len() < self.config.in_flight_max, "no more batches than may be out");
        assert!(!strict || self.park.is_empty(), "parking blocks");
        let taken = lsns(&batch);
        let len_max = self.config.adaptive.map_or(self.config.batch_len_max, |(_, max)| max);
        assert!(!taken.is_empty() && taken.len() <= len_max && taken.is_sorted());
        for lsn in &taken {
            assert!(!self.is_done(*lsn), "entry {lsn} is offered after its exit");
            assert!(self.out.iter().all(|(_, other, _)| !other.contains(lsn)), "entry {lsn} is out twice");
            assert_eq!(batch.attempt(), self.failed.get(lsn).map_or(1, |n| n + 1), "entry {lsn}");
        }
        // Nothing overtakes: all before the first one are done, or, of several batches, all before it in its lane.
        assert!(!strict || (1..taken[0]).all(|lsn| self.is_done(lsn)), "{taken:?} overtakes");
        for lsn in &taken {
            let before = (1..*lsn).filter(|before| self.lane(*before) == self.lane(*lsn) && !self.is_done(*before));
            before.for_each(|before| assert!(taken.contains(&before), "{lsn} overtakes {before}"));
        }
        let again = taken.iter().filter(|lsn| self.offered.contains(lsn)).count();
        assert!(again == 0 || again == taken.len(), "a retry takes nothing new along");
        self.offered.extend(&taken);
        self.out.push((lease, taken, BTreeSet::new()));
    }

    fn answer(&mut self, outcome: impl FnOnce(usize) -> Outcome) {
        let Some((lease, taken, bad)) = self.out.pop() else {
            return;
        };
        let outcome = outcome(taken.len() - bad.len());
        self.d.handle_verdict(self.now, lease, outcome.clone());
        let good: Vec<_> = taken.iter().enumerate().filter(|(i, _)| !bad.contains(i)).map(|(_, lsn)| *lsn).collect();
        let each = match outcome {
            Outcome::All(verdict) => vec![verdict; good.len()],
            Outcome::Each(each) if each.len() == good.len() => each,
            Outcome::Each(_) => vec![Verdict::Retry("lie".into()); good.len()],
        };
        let acked: BTreeSet<_> =
            good.iter().zip(&each).filter(|(_, v)| **v == Verdict::Ack).map(|(lsn, _)| *lsn).collect();
        for lsn in taken {
            if acked.contains(&lsn) {
                *self.acked.entry(lsn).or_default() += 1;
            } else {
                *self.failed.entry(lsn).or_default() += 1;
            }
        }
    }

    fn lose(&mut self) {
        if let Some((lease, taken, _)) = self.out.pop() {
            drop(lease);
            self.d.handle_timeout(self.now);
            taken.iter().for_each(|lsn| *self.failed.entry(*lsn).or_default() += 1);
        }
    }

    fn hear(&mut self) {
        for event in events(&mut self.d) {
            match event {
                DeliveryEvent::Acked { acked, done, attempts } => {
                    assert!(done.len() <= CURSOR_RANGES_MAX && attempts.len() <= CURSOR_ATTEMPTS_MAX);
                    let covered = (1..=acked.number()).chain(done.iter().flat_map(|r| r.0.number()..r.1.number()));
                    let covered: BTreeSet<u64> = covered.collect();
                    covered.iter().for_each(|lsn| assert!(self.is_done(*lsn), "the cursor covers {lsn}"));
                    let mut exits = self.acked.keys().chain(self.parked.keys());
                    assert!(exits.all(|lsn| covered.contains(lsn)), "the cursor forgets what is done");
                    assert!(acked >= self.cursor.acked, "the cursor falls");
                    self.cursor = Cursor { acked, done, attempts, ..Cursor::default() };
                }
                DeliveryEvent::Park { lease, entries } => {
                    self.park.push_back((lease, entries.iter().map(|e| e.lsn.number()).collect()));
                }
                DeliveryEvent::Retry { due, .. } => assert!(due >= self.now),
                DeliveryEvent::Overdue { .. } => {}
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Frame(count) => self.write(count, false),
            Step::Skip(count) => self.write(count, true),
            Step::Again => self.log.len().checked_sub(1).into_iter().for_each(|last| self.give(last)),
            Step::Wait(millis) => {
                self.now = self.now + ms(millis);
                self.d.handle_timeout(self.now);
            }
            Step::Poll => self.poll(),
            Step::Each(bytes) => {
                self.answer(|len| Outcome::Each((0..len).map(|i| verdict(bytes[i % bytes.len()])).collect()));
            }
            Step::All(byte) => self.answer(|_| Outcome::All(verdict(byte))),
            Step::Wrong(by) => self.answer(|len| {
                Outcome::Each(vec![Verdict::Ack; len.saturating_add_signed(isize::from(if by == 0 { 1 } else { by }))])
            }),
            Step::Other(byte) => {
                let by = usize::from(byte) % self.out.len().max(1);
                self.out.rotate_left(by);
            }
            Step::DropLease => self.lose(),
            Step::Undecodable(byte) => {
                if let Some((lease, taken, bad)) = self.out.last_mut() {
                    let index = usize::from(byte) % taken.len();
                    self.d.handle_undecodable(lease, index, "garbage");
                    bad.insert(index);
                }
            }
            Step::Parked => {
                if let Some((lease, lsns)) = self.park.pop_front() {
                    lsns.iter().for_each(|lsn| *self.parked.entry(*lsn).or_default() += 1);
                    self.d.handle_parked(lease);
                }
            }
            Step::ParkFailed => {
                if let Some((lease, _)) = self.park.pop_front() {
                    self.d.handle_park_failed(self.now, lease, "full");
                }
            }
            Step::Restart => {
                self.hear();
                self.out.clear();
                self.park.clear();
                self.offered.clear();
                self.d = Dispatcher::new(self.config.clone(), &self.cursor);
                (0..self.log.len()).for_each(|index| self.give(index));
                return;
            }
        }
        self.hear();
        check_sums(&self.d);
        assert_eq!(self.d.unfinished(), (1..self.next).filter(|lsn| !self.is_done(*lsn)).count() as u64);
        assert_eq!(self.d.unfinished_bytes(), self.d.unfinished() * 8);
        assert_eq!(self.d.in_flight(), self.out.iter().map(|(_, taken, _)| taken.len() as u64).sum::<u64>());
        assert_eq!(self.d.parking(), self.park.iter().map(|(_, lsns)| lsns.len() as u64).sum::<u64>());
    }

    /// The sink recovers: all that is left comes out, in bounded time.
    fn finish(&mut self) {
        self.d.handle_closing();
        for _ in 0..20 * self.next + 20 {
            self.step(Step::Poll);
            self.step(Step::Other(1));
            self.answer(|_| Outcome::ack());
            self.hear();
            self.step(Step::Parked);
            if self.d.is_idle() {
                break;
            }
            self.now = self.d.poll_timeout().unwrap_or(self.now).max(self.now);
        }
        assert!(self.d.is_idle(), "stuck: {:?}", self.d);
        for lsn in 1..self.next {
            let exits = self.acked.get(&lsn).unwrap_or(&0) + self.parked.get(&lsn).unwrap_or(&0);
            assert_eq!(exits, u32::from(!self.skipped.contains(&lsn)), "exits of {lsn}");
        }
        assert_eq!(self.cursor, Cursor { acked: lsn(self.next - 1), ..Cursor::default() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_entry_has_exactly_one_exit_and_none_overtakes(
        steps in prop::collection::vec(step(), 0..80),
        batch_len_max in 1_usize..9,
        attempts_max in prop::option::of(0_u32..4),
        timeout in prop::option::of(0_u64..200),
        breaker in prop::option::of((1_u32..4, 1_u64..300, 1_u32..3)),
        (in_flight_max, lanes, partial) in (1_usize..5, 1_u64..6, any::<bool>()),
        adaptive in prop::option::of((1_usize..4, 4_usize..9)),
        seed in any::<u64>(),
    ) {
        let retry = Retry { attempts_max, jitter: Jitter::Full, ..config().retry };
        let deliver_timeout = timeout.map(ms);
        let of = |(failures, open_ms, probes)| Breaker { failures, open_for: ms(open_ms), probes, share: None };
        let breaker = breaker.map(of);
        let config = DeliveryConfig {
            batch_len_max,
            retry,
            breaker,
            deliver_timeout,
            in_flight_max,
            adaptive,
            partial,
            seed,
            ..config()
        };
        let mut world = World::new(config, lanes);
        for step in steps {
            world.step(step);
        }
        while !world.out.is_empty() {
            world.lose();
            world.hear();
        }
        world.finish();
    }
}
