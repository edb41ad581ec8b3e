//! What a push costs the one who pushes: bursts into a ring that has room, in a queue in memory, drained lazily or eagerly.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ringwal::{Durability, Idle, Queue};

use crate::measure::{Fixed, LONG, Scale, builder, new_dir, null, on_first_cpu, settle, with_last_cpu};

/// Entries in a burst: at most a third of a ring, and two whole batches, so that none lingers.
const BURST: usize = 2000;
/// Bursts that are not counted: the shortest entries go once around the longest ring, whose memory is touched by that.
const WARM_UP: usize = 40;
/// The ring of the defaults.
pub(crate) const RING_LEN: usize = 1 << 20;
/// Far longer than any entry here, and short enough for every ring.
const ENTRY_LEN_MAX: usize = 4096;

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// The consumer takes all that is there and sleeps for a while.
    Lazy,
    /// It looks again at once.
    Eager,
}

impl Pace {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Eager => "eager",
        }
    }

    const fn idle(self) -> Idle {
        match self {
            Self::Lazy => Idle::Park,
            Self::Eager => Idle::Spin,
        }
    }
}

/// Nanoseconds of a push into a ring of one's own.
pub(crate) fn pinned<const LEN: usize>(scale: Scale, ring_len: usize, pace: Pace) -> f64 {
    let entry = black_box(Fixed([7; LEN]));
    with_queue(ring_len, pace, |queue| {
        let mut producer = queue.producer().pin();
        assert!(producer.has_own_ring(), "eight pinned rings by default");
        bursts(scale, || _ = producer.try_push(entry).expect("room"), || settle(queue))
    })
}

/// Nanoseconds of a push into a ring that others may use, too.
pub(crate) fn shared<const LEN: usize>(scale: Scale, ring_len: usize, pace: Pace) -> f64 {
    let entry = black_box(Fixed([7; LEN]));
    with_queue(ring_len, pace, |queue| {
        let producer = queue.producer();
        bursts(scale, || _ = producer.try_push(entry).expect("room"), || settle(queue))
    })
}

fn with_queue<const LEN: usize>(
    ring_len: usize,
    pace: Pace,
    measure: impl FnOnce(&Queue<Fixed<LEN>>) -> f64 + Send,
) -> f64 {
    let dir = new_dir();
    let builder = with_last_cpu(builder(dir.path(), Durability::Memory))
        .ring_bytes(ring_len)
        .entry_len_max(ENTRY_LEN_MAX)
        .idle(pace.idle());
    let queue = builder.open(null::<Fixed<LEN>>()).expect("a queue");
    let nanos = on_first_cpu(|| measure(&queue));
    queue.shutdown(LONG).expect("a sink that works");
    nanos
}

/// Time of one push, in nanoseconds: the median of the bursts.
pub(crate) fn bursts(scale: Scale, mut push: impl FnMut(), mut settle: impl FnMut()) -> f64 {
    let mut burst = || {
        settle();
        let begun = Instant::now();
        (0..BURST).for_each(|_| push());
        begun.elapsed()
    };
    (0..WARM_UP).for_each(|_| _ = burst());
    let mut times: Vec<Duration> = (0..(scale.entries / BURST).max(1)).map(|_| burst()).collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9 / BURST as f64
}
