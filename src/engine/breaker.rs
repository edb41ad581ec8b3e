//! What the breaker does, as others see it: pushes, metrics, health.

use crate::config::OnBreaker;
use crate::delivery::breaker::BreakerState;
use crate::engine::Shared;
use crate::engine::gate::Hold;
use crate::sync::atomic::Ordering;

impl Shared {
    /// What the breaker does, from the delivery thread.
    pub(crate) fn set_breaker(&self, state: BreakerState) {
        let before = self.breaker();
        if before != state {
            self.tell_breaker(before, state);
            // ORDERING: Relaxed: nothing hangs on it but the number itself.
            self.breaker.store(state as u8, Ordering::Relaxed);
            let refuses = state == BreakerState::Open && self.config.on_breaker == OnBreaker::Reject;
            self.gate.set(Hold::Breaker, refuses);
        }
    }

    pub(crate) fn breaker(&self) -> BreakerState {
        // ORDERING: see `set_breaker`.
        let state = self.breaker.load(Ordering::Relaxed);
        let is = |other: &BreakerState| *other as u8 == state;
        [BreakerState::Open, BreakerState::HalfOpen].into_iter().find(is).unwrap_or_default()
    }
}
