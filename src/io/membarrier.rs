//! The heavy half of the asymmetric barrier: `membarrier(2)`.

use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// Asks the kernel for expedited barriers within this process. `false`: it has none (before Linux 4.14,
/// or a seccomp filter refuses the call).
#[must_use]
pub fn register() -> bool {
    membarrier_query().contains(MembarrierQuery::PRIVATE_EXPEDITED | MembarrierQuery::REGISTER_PRIVATE_EXPEDITED)
        && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

/// Makes every thread of this process pass a full memory barrier before it returns: some microseconds.
/// `false`: the kernel could not (out of memory), and nothing holds.
#[must_use]
pub fn barrier_everywhere() -> bool {
    membarrier(MembarrierCommand::PrivateExpedited).is_ok() || membarrier(MembarrierCommand::Global).is_ok()
}
