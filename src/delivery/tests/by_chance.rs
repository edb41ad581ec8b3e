//! Random frames, verdicts, losses and restarts against a model that knows for each entry only
//! whether it has had its exit.

use std::collections::{BTreeMap, BTreeSet};

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
    out: Option<(Lease, Vec<u64>, BTreeSet<usize>)>,
    park: Option<(LeaseId, Vec<u64>)>,
    /// First deliveries rise within a run of the process.
    fresh_after: u64,
    /// Failed attempts as the sink sees them.
    failed: BTreeMap<u64, u32>,
    cursor: Cursor,
}

impl World {
    fn new(config: DeliveryConfig) -> Self {
        Self {
            d: dispatcher(config.clone()),
            config,
            now: at(0),
            log: Vec::new(),
            next: 1,
            acked: BTreeMap::new(),
            parked: BTreeMap::new(),
            skipped: BTreeSet::new(),
            out: None,
            park: None,
            fresh_after: 0,
            failed: BTreeMap::new(),
            cursor: Cursor::default(),
        }
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
        let frame = if skip { frame_of(FrameKind::Skip, first, count, &[]) } else { numbered(first, count) };
        self.d.handle_frame(self.now, frame, &SCHEMA).unwrap();
    }

    fn poll(&mut self) {
        let Some((lease, batch)) = self.d.poll_delivery(self.now) else {
            return;
        };
        assert!(self.out.is_none() && self.park.is_none(), "one batch at a time, and parking blocks");
        let taken = lsns(&batch);
        assert!(!taken.is_empty() && taken.len() <= self.config.batch_len_max && taken.is_sorted());
        for lsn in &taken {
            assert!(!self.is_done(*lsn), "entry {lsn} is offered after its exit");
            assert_eq!(batch.attempt(), self.failed.get(lsn).map_or(1, |n| n + 1), "entry {lsn}");
        }
        // All before the first one are done: nothing overtakes.
        assert!((1..taken[0]).all(|lsn| self.is_done(lsn)), "{taken:?} overtakes");
        if taken[0] > self.fresh_after {
            self.fresh_after = taken[taken.len() - 1];
        } else {
            assert!(taken[taken.len() - 1] <= self.fresh_after, "a retry takes nothing new along");
        }
        self.out = Some((lease, taken, BTreeSet::new()));
    }

    fn answer(&mut self, outcome: impl FnOnce(usize) -> Outcome) {
        let Some((lease, taken, bad)) = self.out.take() else {
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
        if let Some((lease, taken, _)) = self.out.take() {
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
                    covered.for_each(|lsn| assert!(self.is_done(lsn), "the cursor covers {lsn}"));
                    assert!(acked >= self.cursor.acked, "the cursor falls");
                    self.cursor = Cursor { acked, done, attempts, ..Cursor::default() };
                }
                DeliveryEvent::Park { lease, entries } => {
                    assert!(self.park.is_none());
                    self.park = Some((lease, entries.iter().map(|e| e.lsn.number()).collect()));
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
            Step::DropLease => self.lose(),
            Step::Undecodable(byte) => {
                if let Some((lease, taken, bad)) = &mut self.out {
                    let index = usize::from(byte) % taken.len();
                    self.d.handle_undecodable(lease, index, "garbage");
                    bad.insert(index);
                }
            }
            Step::Parked => {
                if let Some((lease, lsns)) = self.park.take() {
                    lsns.iter().for_each(|lsn| *self.parked.entry(*lsn).or_default() += 1);
                    self.d.handle_parked(lease);
                }
            }
            Step::ParkFailed => {
                if let Some((lease, _)) = self.park.take() {
                    self.d.handle_park_failed(self.now, lease, "full");
                }
            }
            Step::Restart => {
                self.hear();
                (self.out, self.park) = (None, None);
                self.d = Dispatcher::new(self.config.clone(), &self.cursor);
                self.fresh_after = 0;
                (0..self.log.len()).for_each(|index| self.give(index));
                return;
            }
        }
        self.hear();
        check_sums(&self.d);
        assert_eq!(self.d.unfinished(), (1..self.next).filter(|lsn| !self.is_done(*lsn)).count() as u64);
        assert_eq!(self.d.unfinished_bytes(), self.d.unfinished() * 8);
        assert_eq!(self.d.in_flight(), self.out.as_ref().map_or(0, |(_, taken, _)| taken.len() as u64));
        assert_eq!(self.d.parking(), self.park.as_ref().map_or(0, |(_, lsns)| lsns.len() as u64));
    }

    /// The sink recovers: all that is left comes out, in bounded time.
    fn finish(&mut self) {
        self.d.handle_closing();
        for _ in 0..20 * self.next + 20 {
            self.step(Step::Poll);
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
        seed in any::<u64>(),
    ) {
        let retry = Retry { attempts_max, jitter: Jitter::Full, ..config().retry };
        let deliver_timeout = timeout.map(ms);
        let of = |(failures, open_ms, probes)| Breaker { failures, open_for: ms(open_ms), probes, share: None };
        let breaker = breaker.map(of);
        let mut world = World::new(DeliveryConfig { batch_len_max, retry, breaker, deliver_timeout, seed, ..config() });
        for step in steps {
            world.step(step);
        }
        if world.out.is_some() {
            world.lose();
            world.hear();
        }
        world.finish();
    }
}
