//! A look at the queue from outside: counts, gauges, health. Any thread may take one at any time.

use std::time::Duration;

use crate::delivery::breaker::BreakerState;
use crate::engine::Shared;
use crate::health::{Concern, Health};
use crate::metrics::{Holes, Metrics};

/// A mean time of commits from which health says that the disk is slow: some hundred times what a disk takes.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// Delivery that had entries and was done with none of them for so long stands still. What `linger` asks for comes
/// on top.
const NO_PROGRESS: Duration = Duration::from_secs(10);

impl Shared {
    pub(crate) fn metrics(&self) -> Metrics {
        // In a forked child nobody is left who could let go of a lock that was held when it was forked.
        let holes = if self.rings.is_at_home() { Some(self.holes.lock()) } else { self.holes.try_lock() };
        let nothing = Holes::default();
        let known = holes.as_deref().unwrap_or(&nothing);
        let mut metrics = self.counters.snapshot(known);
        metrics.recovered_left = self.recovered_left(&metrics, known);
        drop(holes);
        metrics.ring_bytes = self.rings.used_len();
        metrics.ring_bytes_max = u64::from(self.rings.count()) * self.config.ring_bytes as u64;
        metrics.oldest_age = self.status.since_unix(self.counters.oldest_unix.read()).unwrap_or_default();
        metrics.driver = self.recovery.disk.driver;
        metrics.breaker = self.breaker();
        metrics.pressure.delay = self.push_delay();
        metrics
    }

    pub(crate) fn health(&self) -> Health {
        if !self.rings.is_at_home() {
            return Health::Failed(vec![Concern::Closed]);
        }
        let mut failed = Vec::new();
        let mut degraded: Vec<Concern> =
            self.recovery.disk.notes.iter().map(|note| Concern::Platform(note.clone())).collect();
        if let Some(cause) = self.status.failure() {
            failed.push(Concern::LogFailed(cause.to_string()));
        }
        if let Some(what) = self.status.corruption() {
            failed.push(Concern::LogCorrupt(what.to_string()));
        }
        if self.status.has_runtime_ended() {
            failed.push(Concern::RuntimeEnded);
        }
        if self.rings.is_closed() && failed.is_empty() {
            failed.push(Concern::Closed);
        }
        degraded.extend(self.status.silent_for(self.counters.waiting_since.read()).map(Concern::DiskSilent));
        degraded.extend(self.slow_commits().map(Concern::SlowCommits));
        degraded.extend(self.status.concerns());
        degraded.extend(self.no_progress_for().map(Concern::NoProgress));
        let metrics = self.metrics();
        if metrics.breaker != BreakerState::Closed {
            degraded.push(Concern::Breaker(metrics.breaker));
        }
        degraded.extend(metrics.pressure.over().map(|(measure, grade)| Concern::Watermark(measure, grade)));
        if metrics.parked > 0 {
            degraded.push(Concern::Parked(metrics.parked));
        }
        if metrics.park_dropped > 0 {
            degraded.push(Concern::ParkDropped(metrics.park_dropped));
        }
        let given_up = self.recovery.lost.iter().chain(&self.recovery.lost_parked);
        let lost: u64 = given_up.map(|(first, last)| last.next().since(*first)).sum();
        if lost > 0 {
            degraded.push(Concern::LostEntries(lost));
        }
        if !failed.is_empty() {
            failed.extend(degraded);
            return Health::Failed(failed);
        }
        if degraded.is_empty() { Health::Ok } else { Health::Degraded(degraded) }
    }

    fn slow_commits(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.counters.commit_nanos_mean.read())).filter(|mean| *mean >= SLOW_COMMIT)
    }

    /// A pause is asked for; it is no standstill.
    fn no_progress_for(&self) -> Option<Duration> {
        let stands = self.status.since(self.counters.stands_since.read()).filter(|_| !self.is_paused());
        stands.filter(|time| *time >= NO_PROGRESS + self.config.linger)
    }
}
