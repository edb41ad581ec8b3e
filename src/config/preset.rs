//! Settings that go together, for what a queue is most wanted for.

use std::time::Duration;

use super::{Config, Durability, GIB, Idle, MIB};
use crate::delivery::breaker::Breaker;

/// Settings that go together. What each one sets is in the table of `docs/configuration.md`; what it does not name
/// stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Preset {
    /// A sync begins within 5 ms of a push, and delivery follows within some more; moderate memory.
    #[default]
    Default,
    /// Long batches and rings, syncs further apart: most entries a second. An entry may wait 20 ms for the disk and
    /// 50 ms for its batch. Costs 256 MiB of memory, with io_uring from opening on, and up to 4 GiB of disk.
    HighThroughput,
    /// On disk and delivered as soon as can be: every group is synced at once, no batch waits to fill, and the flush
    /// core looks around before it sleeps. Costs syncs and wake-ups.
    LowLatency,
    /// Loses and gives up as little as can be: synced at once, room on disk for a long outage of the sink, a breaker
    /// so that an outage uses up no attempts, and patience when opening and when dropped.
    HighReliability,
}

impl Preset {
    /// Every preset sets the same fields, so that the last one named wins whole.
    pub(crate) fn apply(self, config: &mut Config) {
        let plain = Config::new(&config.dir);
        config.preset = self;
        config.durability = plain.durability;
        config.batch_len_max = plain.batch_len_max;
        config.batch_bytes_max = plain.batch_bytes_max;
        config.linger = plain.linger;
        config.ring_bytes = plain.ring_bytes;
        config.memory_max = plain.memory_max;
        config.log_bytes_max = plain.log_bytes_max;
        config.park_bytes_max = plain.park_bytes_max;
        config.retry.attempts_max = plain.retry.attempts_max;
        config.breaker = plain.breaker;
        config.idle = plain.idle;
        config.lock_wait = plain.lock_wait;
        config.drop_timeout = plain.drop_timeout;
        match self {
            Self::Default => {}
            Self::HighThroughput => {
                config.durability = Durability::Periodic(Duration::from_millis(20));
                config.batch_len_max = 5000;
                config.batch_bytes_max = 4 << 20;
                config.linger = Duration::from_millis(50);
                config.ring_bytes = 4 << 20;
                config.memory_max = 256 * MIB;
                config.log_bytes_max = 4 * GIB;
            }
            Self::LowLatency => {
                config.durability = Durability::Immediate;
                config.batch_len_max = 100;
                config.linger = Duration::ZERO;
                config.idle = Idle::Backoff;
            }
            Self::HighReliability => {
                config.durability = Durability::Immediate;
                config.log_bytes_max = 4 * GIB;
                config.park_bytes_max = 256 * MIB;
                // With the default delays about half an hour of refusals of one batch; outages do not count.
                config.retry.attempts_max = Some(100);
                config.breaker = Some(Breaker::default());
                config.lock_wait = Duration::from_secs(30);
                config.drop_timeout = Duration::from_secs(30);
            }
        }
    }
}
