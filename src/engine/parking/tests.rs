//! What a park does while somebody else needs all there is.

use std::path::Path;
use std::time::Duration;

use crate::config::Durability;
use crate::delivery::batch::Batch;
use crate::lsn::Lsn;
use crate::queue::Queue;
use crate::sim::{ManualClock, SimDisk, SimSettings, SteppedQueue, SteppedSettings};
use crate::sink::{SinkError, sink_fn};
use crate::wal::mutant::Mutants;

/// Found by the stress test: what waited for the sink had all memory, and a listing waited for some. Where the sink waits
/// for the park, or for whom the listing tells something, that is for ever.
#[test]
fn a_park_is_filled_listed_and_emptied_while_there_is_no_other_memory() {
    for durability in [Durability::Immediate, Durability::Periodic(Duration::from_millis(1)), Durability::Spill] {
        let clock = ManualClock::new();
        let machine = SimDisk::new(SimSettings { clock: clock.clone(), ..SimSettings::default() });
        let builder = Queue::builder(Path::new("simulated"))
            .durability(durability)
            .entry_len_max(1016)
            .batch_len_max(100)
            .memory_max(4 << 20)
            .segment_len(512 << 10)
            .log_bytes_max(16 << 20);
        let settings = SteppedSettings { seed: 1, clock: clock.clone(), store: None, mutants: Mutants::NONE };
        let sink = sink_fn(|_: Batch<Vec<u8>>| async { Err::<(), _>(SinkError::park("never")) });
        let mut queue = SteppedQueue::open(builder, settings, &machine, sink).unwrap();
        let settle = |queue: &mut SteppedQueue<Vec<u8>>| {
            for _ in 0..10_000 {
                let moved = queue.turn_core() | machine.step();
                queue.turn_sink();
                if !moved {
                    clock.advance(Duration::from_micros(100));
                }
            }
        };
        queue.set_paused(true);
        (0..1000).for_each(|number: u32| _ = queue.producer().push(vec![7; 1 + number as usize % 1000]).unwrap());
        drop(queue.flush());
        settle(&mut queue);
        // Frames that wait for the sink are there, and all else is somebody's, as whatever comes free later.
        let mut taken = Vec::new();
        let mut take_all =
            |queue: &SteppedQueue<Vec<u8>>| taken.extend(std::iter::from_fn(|| queue.core().pool.take()));
        take_all(&queue);
        queue.set_paused(false);
        settle(&mut queue);
        let parked = queue.metrics().parked;
        assert!(parked >= 100, "{durability:?}: {parked} are parked");
        take_all(&queue);
        let page = queue.list_parked(Lsn::ZERO, 2000);
        settle(&mut queue);
        let page = page.try_recv().unwrap_or_else(|_| panic!("{durability:?}: no answer")).unwrap();
        assert_eq!(page.len() as u64, parked, "{durability:?}");
        take_all(&queue);
        let ids = page.iter().map(|entry| entry.id).collect();
        let answer = queue.unpark(ids, false);
        settle(&mut queue);
        assert_eq!(answer.try_recv(), Ok(Ok(())), "{durability:?}");
        assert!(!taken.is_empty());
        drop(taken);
        settle(&mut queue);
        let metrics = queue.metrics();
        assert_eq!(metrics.parked + metrics.discarded, 1000, "{durability:?}: {metrics:#?}");
    }
}
