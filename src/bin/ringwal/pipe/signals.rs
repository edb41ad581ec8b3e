//! When a run is to end before its input does.
//!
//! | what comes             | what happens                                                          |
//! |------------------------|-----------------------------------------------------------------------|
//! | SIGINT or SIGTERM      | reading stops, what was read is made durable, delivery has its time   |
//! | a second one           | the process ends at once; what was durable waits for the next run     |
//! | standard output closed | as a signal, and without a word                                       |

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{BROKEN_PIPE, Failure, Result};

/// Whether, and why, a run is to end.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicI32);

const PIPE: i32 = -1;

impl Stop {
    /// Whether the run is to end.
    pub(crate) fn is_set(&self) -> bool {
        // ORDERING: Relaxed: the number itself is all there is to see.
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Standard output was closed.
    pub(crate) fn broken_pipe(&self) {
        // ORDERING: Relaxed, as above.
        self.0.store(PIPE, Ordering::Relaxed);
    }

    /// The exit code of a run that was stopped.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        // ORDERING: Relaxed, as above.
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            PIPE => Some(BROKEN_PIPE),
            signal => u8::try_from(128 + signal).ok(),
        }
    }

    /// From now on SIGINT and SIGTERM set it, and a second one ends the process.
    pub(crate) fn on_signals() -> Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        let failed = |error: std::io::Error| Failure::new(format!("cannot wait for signals: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let seen = Arc::clone(&stop);
        let wait = move || {
            for signal in signals.forever() {
                // ORDERING: Relaxed, as above.
                if seen.0.swap(signal, Ordering::Relaxed) > 0 {
                    signal_hook::low_level::exit(128 + signal);
                }
            }
        };
        std::thread::Builder::new().name("ringwal-signals".to_owned()).spawn(wait).map_err(failed)?;
        Ok(stop)
    }
}
