//! A history as data: what is set up, and what happens, one thing after the other. A seed makes it; it can be
//! shortened, and runs the same way each time.

use std::time::Duration;

use ringwal::sim::{Death, DiskKind, OpKind, Prng, SmallStore};
use ringwal::wal::op::LogId;
use ringwal::{Durability, Idle, OnCorruption};

use super::{more, park};

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;
pub const EDQUOT: i32 = 122;

/// What a history begins with.
#[derive(Clone, PartialEq, Debug)]
pub struct Setup {
    pub seed: u64,
    pub kind: DiskKind,
    pub durability: Durability,
    pub block_len: u32,
    /// Longest time that an op takes.
    pub latency: Duration,
    pub rings: u32,
    pub ring_bytes: usize,
    pub entry_len_max: usize,
    /// Chunks beyond the fewest that are allowed.
    pub chunks_more: u64,
    pub store: SmallStore,
    pub batch_len_max: usize,
    pub batch_bytes_max: usize,
    pub linger: Duration,
    pub attempts_max: Option<u32>,
    pub retry_base: Duration,
    /// The sink stores LSNs with the data, and says so.
    pub committed: bool,
    pub policy: OnCorruption,
    pub in_flight_max: usize,
    pub deliver_timeout: Option<Duration>,
    /// The sink says that it blocks: what is late is waited for, not dropped.
    pub blocks: bool,
    pub idle: Idle,
    /// What an opening finds is compared with what one on a copy of the machine finds, which nothing cuts off.
    pub foretells: bool,
}

/// Producers: some share rings by their keys, the last ones have rings of their own.
pub const LANES: u32 = 6;
pub const PINNED: u32 = 2;
/// One more, whose entries have no key: they share a ring by their thread. Only where there is one ring, so that a history
/// replays.
pub const LOOSE: u32 = LANES;

/// What becomes of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Committed,
    Dropped,
    /// Nobody ever gives it up, until the queue closes.
    Leaked,
}

/// What a sink answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Ack,
    /// A verdict for each, from this seed.
    Each(u64),
    Retry,
    RetryAfter(Duration),
    Park,
    /// A number of verdicts that is not the batch's.
    Wrong(u8),
    Panic,
}

/// How a disk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lying {
    /// A write is lost.
    Lost,
    /// A write lands elsewhere.
    Misdirected,
    /// A read brings what was there before the last write.
    Stale,
}

/// What happens.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// The queue is opened; a fuse may end it within.
    Open {
        fuse: Option<(u64, Death)>,
        fault: Option<(OpKind, i32, u64)>,
    },
    /// Entries are pushed, as many as fit; with `wait` somebody waits for the last.
    Push {
        lane: u32,
        len: u16,
        count: u8,
        wait: bool,
        poison: bool,
    },
    /// One entry is pushed by a task that waits for space.
    PushAsync {
        lane: u32,
        len: u16,
    },
    /// Entries are pushed as one batch.
    PushBatch {
        lane: u32,
        len: u16,
        count: u8,
    },
    /// Bytes are claimed in a ring of the producer's own.
    Claim {
        lane: u32,
        len: u16,
        how: How,
    },
    /// A write will say that it is done: it is lost, or lands elsewhere in the log. Or a read brings what was there before.
    Lie {
        log: LogId,
        how: Lying,
        meta: bool,
        slot: u64,
        place: u64,
        after: u64,
    },
    /// The flush core turns, if it is awake.
    Core,
    /// An op ends.
    Disk,
    /// Delivery turns, if it is awake.
    Sink,
    /// The sink answers.
    Answer(Answer),
    /// Time passes.
    Time(Duration),
    /// Time passes until something is due.
    Next,
    /// All goes on, in turn; the sink acknowledges.
    Run(u16),
    /// Somebody waits for all to be durable, or delivered.
    Flush,
    Drain,
    Pause(bool),
    /// The parked entries are looked at, and some given up or put back.
    Park {
        discard: bool,
        redeliver: bool,
    },
    /// An op will end with an error.
    Fail {
        kind: OpKind,
        errno: i32,
        after: u64,
        forever: bool,
    },
    /// An op will end late, or never.
    Late {
        kind: OpKind,
        by: Duration,
        after: u64,
    },
    /// Nothing more goes wrong that has not yet.
    Heal,
    /// So many more segments fit on the disk; or as many as one likes.
    Space(Option<u64>),
    /// The wall clock is set, by seconds.
    Wall(i64),
    /// A byte in a file of the log changes.
    Rot {
        log: LogId,
        slot: u64,
        place: u64,
        bit: u8,
    },
    /// The machine dies at the n-th completion from now.
    Fuse(u64, Death),
    Die(Death),
    Close {
        deliver: bool,
    },
    /// The time that closing waits for something is over.
    Deadline,
}

/// What a seed makes.
#[derive(Clone, PartialEq, Debug)]
pub struct History {
    pub setup: Setup,
    pub actions: Vec<Action>,
}

impl History {
    pub fn of(seed: u64) -> Self {
        let mut history = Self::before_the_park(seed);
        park::weave(&mut history);
        history
    }

    /// Without what came last: what seeds of that time mean.
    pub fn before_the_park(seed: u64) -> Self {
        let mut history = Self::plain(seed);
        more::weave(&mut history);
        history
    }

    /// Without what came later: what seeds of that time mean.
    pub fn plain(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x7042_7542_6b21);
        let setup = setup(seed, &mut prng);
        let actions = actions(&setup, &mut prng);
        Self { setup, actions }
    }
}

fn setup(seed: u64, prng: &mut Prng) -> Setup {
    let durability = match prng.below(20) {
        0..=7 => Durability::Immediate,
        8..=12 => Durability::Periodic(Duration::from_micros(prng.within(200..=20_000))),
        13..=17 => Durability::Spill,
        _ => Durability::Memory,
    };
    let entry_len_max = *prng.pick(&[100, 400, 500]);
    Setup {
        seed,
        kind: if prng.chance(1, 2) { DiskKind::Fua } else { DiskKind::Flush },
        durability,
        block_len: *prng.pick(&[512, 512, 4096]),
        latency: Duration::from_micros(*prng.pick(&[0, 100, 3_000])),
        rings: u32::try_from(prng.within(1..=3)).expect("small"),
        ring_bytes: *prng.pick(&[4096, 4096, 16_384]),
        entry_len_max,
        chunks_more: *prng.pick(&[0, 0, 4]),
        store: SmallStore {
            segment_len: 65_536,
            slots: u32::try_from(prng.within(3..=6)).expect("small"),
            park_slots: u32::try_from(prng.within(2..=3)).expect("small"),
        },
        batch_len_max: *prng.pick(&[1, 5, 50, 500]),
        batch_bytes_max: *prng.pick(&[1, 2_000, 1 << 20]),
        linger: Duration::from_micros(*prng.pick(&[0, 1_000, 50_000])),
        attempts_max: *prng.pick(&[None, Some(1), Some(3), Some(60)]),
        retry_base: Duration::from_micros(*prng.pick(&[0, 1_000, 100_000])),
        committed: durability != Durability::Memory && prng.chance(1, 6),
        policy: *prng.pick(&[OnCorruption::Stop, OnCorruption::Quarantine, OnCorruption::CutTail]),
        in_flight_max: 1,
        deliver_timeout: None,
        blocks: false,
        idle: Idle::Park,
        foretells: false,
    }
}

/// What a history is made of: each kind of trouble is there or not, so that they also meet alone.
struct Taste {
    push_len: u64,
    push_count: u64,
    waits: u64,
    poison: bool,
    sink: [u64; 7],
    faults: bool,
    late: bool,
    space: bool,
    rot: bool,
    wall: bool,
    pause: bool,
    park: bool,
    /// Turns of core, disk and sink, and pushes, in parts.
    pace: [u64; 4],
    run: u64,
}

impl Taste {
    fn new(prng: &mut Prng, setup: &Setup) -> Self {
        let mut sink = [6, 0, 0, 0, 0, 0, 0];
        for part in &mut sink[1..] {
            *part = *prng.pick(&[0, 0, 1, 3]);
        }
        if setup.committed {
            // It promises a prefix, so it says the same of all.
            (sink[1], sink[5]) = (0, 0);
        }
        Self {
            push_len: *prng.pick(&[30, 200, 600]),
            push_count: *prng.pick(&[1, 4, 24]),
            waits: *prng.pick(&[1, 4, 40]),
            poison: prng.chance(1, 4) && !setup.committed,
            sink,
            faults: prng.chance(1, 5),
            late: prng.chance(1, 4),
            space: prng.chance(1, 5),
            rot: prng.chance(1, 12),
            wall: prng.chance(1, 4),
            pause: prng.chance(1, 4),
            park: prng.chance(1, 3),
            pace: [(); 4].map(|()| *prng.pick(&[4, 10, 25])),
            run: *prng.pick(&[0, 1, 4]),
        }
    }

    fn answer(&self, prng: &mut Prng) -> Answer {
        let mut at = prng.below(self.sink.iter().sum());
        let kind = self.sink.iter().position(|part| {
            let here = at < *part;
            at = at.saturating_sub(*part);
            here
        });
        match kind {
            Some(1) => Answer::Each(prng.next_u64()),
            Some(2) => Answer::Retry,
            Some(3) => Answer::RetryAfter(Duration::from_micros(prng.within(1..=3_000_000))),
            Some(4) => Answer::Park,
            Some(5) => Answer::Wrong(u8::try_from(prng.below(9)).expect("small")),
            Some(6) => Answer::Panic,
            _ => Answer::Ack,
        }
    }
}

pub fn death(prng: &mut Prng) -> Death {
    if prng.chance(2, 3) { Death::PowerCut } else { Death::Kill }
}

fn kind(prng: &mut Prng) -> OpKind {
    *prng.pick(&[
        OpKind::Write,
        OpKind::Write,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Prepare,
        OpKind::Read,
        OpKind::Remove,
    ])
}

fn open(prng: &mut Prng, taste: &Taste) -> Action {
    let fuse = prng.chance(1, 6).then(|| (prng.within(1..=60), death(prng)));
    let fault = (taste.faults && prng.chance(1, 6)).then(|| (kind(prng), EIO, prng.below(30)));
    Action::Open { fuse, fault }
}

fn actions(setup: &Setup, prng: &mut Prng) -> Vec<Action> {
    let mut out = Vec::new();
    for _ in 0..prng.within(1..=5) {
        let taste = Taste::new(prng, setup);
        out.push(open(prng, &taste));
        if prng.chance(1, 8) {
            // Opened, and dead before anything was done; so the next opening must find the same.
            out.push(Action::Die(death(prng)));
            out.push(Action::Open { fuse: None, fault: None });
        }
        // A fuse may have burnt, and the disk may have refused.
        out.extend([Action::Heal, Action::Open { fuse: None, fault: None }]);
        for _ in 0..*prng.pick(&[20, 150, 150, 600]) {
            out.push(act(prng, &taste));
        }
        end(prng, &taste, &mut out);
    }
    out
}

/// How a life ends.
fn end(prng: &mut Prng, taste: &Taste, out: &mut Vec<Action>) {
    match prng.below(10) {
        0 | 1 => {
            out.push(Action::Close { deliver: prng.chance(1, 2) });
            out.push(Action::Run(400));
            out.push(Action::Deadline);
            out.push(Action::Run(400));
        }
        2 | 3 => {
            // In the middle of closing.
            out.push(Action::Close { deliver: prng.chance(1, 2) });
            for _ in 0..prng.below(60) {
                out.push(act(prng, taste));
            }
            if prng.chance(1, 3) {
                out.push(Action::Deadline);
            }
            for _ in 0..prng.below(30) {
                out.push(act(prng, taste));
            }
        }
        4 | 5 => {
            out.push(Action::Fuse(prng.within(1..=20), death(prng)));
            out.push(Action::Run(60));
        }
        _ => {}
    }
    out.push(Action::Die(death(prng)));
}

fn act(prng: &mut Prng, taste: &Taste) -> Action {
    let [core, disk, sink, push] = taste.pace;
    let mut at = prng.below(core + disk + sink + push + taste.run + 12);
    let mut part = |len: u64| {
        let here = at < len;
        at = at.wrapping_sub(len);
        here
    };
    if part(core) {
        return Action::Core;
    }
    if part(disk) {
        return Action::Disk;
    }
    if part(sink) {
        return if prng.chance(1, 2) { Action::Sink } else { Action::Answer(taste.answer(prng)) };
    }
    if part(push) {
        return a_push(prng, taste);
    }
    if part(taste.run) {
        return Action::Run(u16::try_from(prng.within(1..=30)).expect("small"));
    }
    match prng.below(24) {
        0..=5 => Action::Time(Duration::from_nanos(1 << prng.within(8..=33))),
        6..=11 => Action::Next,
        12 => Action::Flush,
        13 => Action::Drain,
        14 if taste.pause => Action::Pause(prng.chance(1, 2)),
        15 if taste.park => Action::Park { discard: prng.chance(1, 2), redeliver: prng.chance(1, 2) },
        16 if taste.faults && prng.chance(1, 3) => Action::Fail {
            kind: kind(prng),
            errno: *prng.pick(&[EIO, ENOSPC, EROFS, EDQUOT]),
            after: prng.below(20),
            forever: prng.chance(1, 4),
        },
        17 if taste.late => {
            let by = *prng.pick(&[Duration::from_millis(100), Duration::from_secs(10), Duration::MAX]);
            Action::Late { kind: kind(prng), by, after: prng.below(4) }
        }
        18 if taste.late || taste.faults => Action::Heal,
        19 if taste.space => Action::Space(if prng.chance(1, 2) { None } else { Some(prng.below(3)) }),
        20 if taste.wall => Action::Wall(*prng.pick(&[-100_000_000, -1, 1, 100_000_000])),
        21 if taste.rot && prng.chance(1, 3) => Action::Rot {
            log: LogId::Main,
            slot: prng.next_u64(),
            place: prng.next_u64(),
            bit: u8::try_from(prng.below(8)).expect("small"),
        },
        22 if prng.chance(1, 8) => Action::Time(Duration::from_secs(prng.within(1..=100_000))),
        _ => Action::Sink,
    }
}

fn a_push(prng: &mut Prng, taste: &Taste) -> Action {
    let lane = u32::try_from(prng.below(u64::from(LANES))).expect("small");
    let len = u16::try_from(prng.within(16..=taste.push_len.max(17))).expect("small");
    if prng.chance(1, 6) {
        return Action::PushAsync { lane, len };
    }
    Action::Push {
        lane,
        len,
        count: u8::try_from(prng.within(1..=taste.push_count)).expect("small"),
        wait: prng.chance(1, taste.waits),
        poison: taste.poison && prng.chance(1, 20),
    }
}
