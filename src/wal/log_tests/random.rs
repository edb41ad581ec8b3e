//! Random histories without crashes: any order of completions, acks, waits. What must hold at every
//! op that goes out is checked as it goes out.

use std::collections::BTreeMap;

use super::*;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn span(op: &Op) -> Option<(FileId, u64, u64)> {
    match op {
        Op::Write { file, offset, block, .. } => Some((*file, *offset, *offset + block.len() as u64)),
        _ => None,
    }
}

struct Checker {
    /// Last LSN written into each slot.
    slot_ends: BTreeMap<u32, u64>,
    seen: usize,
    ready_next: u64,
    durable: u64,
}

impl Checker {
    fn ops(&mut self, b: &Bench, seed: u64) {
        for (at, (_, op)) in b.out.iter().enumerate().skip(self.seen) {
            if let Some((file, start, end)) = span(op) {
                let clash =
                    b.out[..at].iter().filter_map(|(_, o)| span(o)).any(|(f, s, e)| f == file && s < end && start < e);
                assert!(!clash, "seed {seed}: two writes of the same bytes in flight");
            }
            let (Op::Write { file: FileId::Slot(_, slot), .. } | Op::Remove { file: FileId::Slot(_, slot) }) = op
            else {
                continue;
            };
            match wrote(op) {
                Wrote::Header(_) | Wrote::Remove(_) => {
                    let end = self.slot_ends.remove(&slot.0).unwrap_or(0);
                    assert!(end <= b.log.cursor_durable().number(), "seed {seed}: W4");
                    assert!(b.headers() <= 1, "seed {seed}: W3");
                }
                Wrote::Frame(frame) => {
                    assert!(frame.durable_lsn <= b.log.durable(), "seed {seed}: W2");
                    self.slot_ends.insert(slot.0, frame.next_lsn.number() - 1);
                }
                _ => {}
            }
        }
        self.seen = b.out.len();
    }

    fn events(&mut self, b: &mut Bench, seed: u64) {
        for event in b.events.drain(..) {
            match event {
                Event::Ready(frame) => {
                    assert_eq!(frame.header.first_lsn.number(), self.ready_next, "seed {seed}: once and in order");
                    self.ready_next = frame.header.next_lsn.number();
                }
                Event::Durable { lsn, runs, .. } => {
                    assert!(lsn.number() > self.durable, "seed {seed}: a watermark rises");
                    self.durable = lsn.number();
                    b.log.recycle_runs(runs);
                }
                Event::Failed(failure) => panic!("seed {seed}: {failure}"),
                _ => {}
            }
        }
    }
}

fn history(seed: u64, commit: Commit) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let config = LogConfig {
        hedge_len: 1 << chance.below(13),
        slots_max: 2 + u32::try_from(chance.below(4)).unwrap(),
        spares_min: 1 + u32::try_from(chance.below(2)).unwrap(),
        ..config(commit)
    };
    let mut b = Bench::with(recovered(10 + chance.below(20), 0), config);
    let mut checker = Checker { slot_ends: BTreeMap::new(), seen: 0, ready_next: 1, durable: 0 };
    let mut acked = 0;
    for step in 0..600 {
        if step == 500 {
            b.log.close(b.now);
        }
        match chance.below(10) {
            0..=2 => {
                let (records, len) = (1 + u32::try_from(chance.below(4)).unwrap(), 8 << chance.below(8));
                let _ = b.try_push(records, len);
            }
            3..=6 if !b.out.is_empty() => {
                let (token, op) = b.out.swap_remove(usize::try_from(chance.below(b.out.len() as u64)).unwrap());
                checker.seen = b.out.len();
                drop(op);
                b.log.handle_completion(b.now, Completion { token, result: Ok(Output::Done) });
            }
            7 if checker.ready_next - 1 > acked => {
                acked += 1 + chance.below(checker.ready_next - 1 - acked);
                b.log.ack(b.now, Lsn::new(acked), &[], &[]);
            }
            8 => b.log.commit_now(b.now),
            _ => b.now = b.now + Duration::from_micros(chance.below(3000)),
        }
        b.pump();
        checker.ops(&b, seed);
        checker.events(&mut b, seed);
    }
    for _ in 0..2000 {
        if b.log.is_closed() {
            break;
        }
        if checker.ready_next - 1 > acked {
            acked = checker.ready_next - 1;
            b.log.ack(b.now, Lsn::new(acked), &[], &[]);
        }
        if b.out.is_empty() {
            b.now = b.log.poll_timeout().unwrap_or(b.now).max(b.now);
        } else {
            let (token, op) = b.out.remove(0);
            checker.seen = b.out.len();
            drop(op);
            b.log.handle_completion(b.now, Completion { token, result: Ok(Output::Done) });
        }
        b.pump();
        checker.ops(&b, seed);
        checker.events(&mut b, seed);
    }
    assert!(b.log.is_closed(), "seed {seed}: closes once the sink has taken all: {:?} {:?}", b.log, b.wrote());
    assert_eq!(b.log.settled(), b.log.end(), "seed {seed}");
    assert_eq!(checker.ready_next, b.log.next_lsn().number(), "seed {seed}: all was given out");
}

#[test]
fn random_histories_keep_the_rules_in_every_mode() {
    for seed in 1..150 {
        history(seed, Commit::Immediate);
        history(seed, Commit::Periodic(Duration::from_millis(2)));
        history(seed, Commit::Spill);
    }
}
