//! Small rings, a bell that a model can sleep on, and a bound on preemptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Instant;

use loom::sync::{Condvar, Mutex};
use ringwal::io::Wake;
use ringwal::ring::{ClaimError, Drainer, PinnedRing, Rings, RingsConfig};

/// All interleavings with at most `preemptions` of them forced; `LOOM_MAX_PREEMPTIONS` overrides it.
/// Prints how many there were (`--nocapture` shows it).
pub fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let (count, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let counter = Arc::clone(&count);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        check();
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {} interleavings, {:?}", count.load(Ordering::Relaxed), begun.elapsed());
}

/// What the flush core or a task sleeps on: a token that a wake leaves and a sleep takes.
#[derive(Debug)]
pub struct Bell {
    rung: Mutex<u32>,
    changed: Condvar,
}

impl Bell {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { rung: Mutex::new(0), changed: Condvar::new() })
    }

    /// Sleeps without a timeout, so that a lost wake-up is a deadlock, which loom reports. Gives the wakes.
    pub fn sleep(&self) -> u32 {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.changed.wait(rung).unwrap();
        }
        std::mem::take(&mut *rung)
    }

    /// Wakes that nobody has slept through.
    pub fn rung(&self) -> u32 {
        *self.rung.lock().unwrap()
    }

    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_one();
    }
}

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        Wake::wake(&*self);
    }
}

/// `shared` rings and `pinned` ones of `ring_len` bytes.
pub fn rings(shared: u32, pinned: u32, ring_len: usize) -> (Arc<Rings>, Drainer, Arc<Bell>) {
    let bell = Bell::new();
    let config = RingsConfig { shared, pinned, ring_len, entry_len_max: ring_len / 2 - 8 };
    let (rings, drainer) = Rings::new(config, bell.clone()).unwrap();
    (rings, drainer, bell)
}

/// Pushes 8 bytes on shared ring 0. The end of the record, or why not.
pub fn push(rings: &Rings, value: u64) -> Result<u64, ClaimError> {
    rings.claim(0, 8).map(|mut claim| {
        claim.payload_mut().copy_from_slice(&value.to_le_bytes());
        claim.publish()
    })
}

/// Pushes 8 bytes on a pinned ring.
pub fn push_pinned(ring: &mut PinnedRing, value: u64) -> Result<u64, ClaimError> {
    ring.claim(8).map(|mut claim| {
        claim.payload_mut().copy_from_slice(&value.to_le_bytes());
        claim.publish()
    })
}

/// Tries until there is room.
pub fn until_room(mut push: impl FnMut() -> Result<u64, ClaimError>) -> u64 {
    loop {
        match push() {
            Ok(end) => return end,
            Err(ClaimError::Full) => loom::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Drains `ring` once and appends its entries of 8 bytes. Gives the position.
pub fn drain(drainer: &mut Drainer, ring: u32, into: &mut Vec<u64>) -> u64 {
    let mut out = [0; 64];
    let drained = drainer.drain(ring, &mut out);
    let before = into.len();
    for record in ringwal::ring::record::Records::new(&out[..drained.bytes]) {
        let record = record.expect("a drain gives whole records");
        assert_eq!(record.meta, 0);
        into.push(u64::from_le_bytes(record.payload.try_into().unwrap()));
    }
    assert_eq!(into.len() - before, drained.records as usize);
    drained.end
}
