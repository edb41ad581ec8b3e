//! A process's connection to a simulated machine: [`Disk`] like those of real kernels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::io::{Disk, DiskReport, Wake};
use crate::sim::disk::{Mode, Shared, SimDisk};
use crate::sim::history::OpKind;
use crate::sim::world::{NEVER, World};
use crate::wal::op::{Completion, DiskError, Op, Token};

/// Another connection to the machine is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse;

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another process runs on this simulated machine")
    }
}

impl std::error::Error for InUse {}

/// A connection to a simulated machine. When the machine has crashed or the process was killed, every
/// op ends with `ENODEV`. Dropped while it lives, it waits for what is in flight, as real drivers do.
pub struct SimDriver {
    shared: Arc<Shared>,
    /// Which connection it is.
    number: u64,
    /// Ops given to it after the connection died.
    refused: Vec<(Token, OpKind)>,
    /// Tokens it owes an answer for.
    owed: Vec<(Token, OpKind)>,
}

/// Wakes whoever waits in `complete`.
#[derive(Clone)]
struct Doorbell(Arc<Shared>);

impl SimDriver {
    pub(super) fn connect(machine: &SimDisk) -> Result<Self, InUse> {
        let mut world = machine.0.world.lock();
        if world.connected {
            return Err(InUse);
        }
        world.connected = true;
        world.rung = false;
        world.connections += 1;
        Ok(Self { shared: machine.0.clone(), number: world.connections, refused: Vec::new(), owed: Vec::new() })
    }

    const fn is_alive(&self, world: &World) -> bool {
        world.connected && world.connections == self.number
    }

    /// One answer of a dead connection.
    fn dead_answer(&mut self) -> Option<Completion> {
        let (token, kind) = if self.owed.is_empty() { self.refused.pop()? } else { self.owed.remove(0) };
        let error = DiskError {
            what: kind.name(),
            file: None,
            offset: None,
            errno: libc::ENODEV,
            detail: "the simulated machine is dead",
        };
        Some(Completion { token, result: Err(error) })
    }
}

impl Disk for SimDriver {
    fn submit(&mut self, token: Token, op: Op) {
        let shared = self.shared.clone();
        let mut world = shared.world.lock();
        if self.is_alive(&world) {
            self.owed.push((token, OpKind::of(&op)));
            let now = shared.now(&world);
            world.submit(token, op, now);
            shared.bell.notify_all();
        } else {
            self.refused.push((token, OpKind::of(&op)));
        }
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        let shared = self.shared.clone();
        let deadline = timeout.and_then(|t| std::time::Instant::now().checked_add(t));
        let mut world = shared.world.lock();
        let mut slept = false;
        loop {
            if !self.is_alive(&world) {
                drop(world);
                return self.dead_answer();
            }
            finish_due(&shared, &mut world, timeout == Some(Duration::ZERO));
            if let Some(completion) = world.ready.pop_front() {
                if let Some(at) = self.owed.iter().position(|(token, _)| *token == completion.token) {
                    self.owed.remove(at);
                }
                return Some(completion);
            }
            if std::mem::take(&mut world.rung) || timeout == Some(Duration::ZERO) {
                return None;
            }
            if world.settings.mode != Mode::Threaded {
                // Nothing that could wake it happens on this one thread.
                return None;
            }
            if slept && deadline.is_some_and(|d| std::time::Instant::now() >= d) {
                return None;
            }
            let due = world.pending.iter().map(|p| p.due).filter(|due| *due != NEVER).min();
            let due = due.map(|nanos| shared.epoch + Duration::from_nanos(nanos));
            match [deadline, due].into_iter().flatten().min() {
                Some(until) => {
                    shared.bell.wait_until(&mut world, until);
                }
                None => shared.bell.wait(&mut world),
            }
            slept = true;
        }
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        Arc::new(Doorbell(self.shared.clone()))
    }

    fn report(&self) -> DiskReport {
        let world = self.shared.world.lock();
        DiskReport {
            driver: "simulated",
            direct: true,
            durable: true,
            file_system: format!("simulated ({:?})", world.settings.kind),
            block_len_min: world.settings.block_len,
            notes: Vec::new(),
        }
    }
}

/// Finishes what the mode lets finish on its own.
fn finish_due(shared: &Shared, world: &mut World, looks_once: bool) {
    let now = shared.now(world);
    let mut due: Vec<usize> = (0..world.pending.len()).filter(|i| world.pending[*i].due <= now).collect();
    match world.settings.mode {
        Mode::Manual if looks_once => {}
        Mode::Seeded if looks_once && world.prng.chance(1, 2) => {}
        Mode::Manual | Mode::Seeded => {
            // Waiting on a machine whose clock stands still means: until the first op is over.
            if due.is_empty() && !looks_once && !world.pending.is_empty() {
                let ends = |i: &usize| world.pending[*i].due != NEVER;
                let first = (0..world.pending.len()).filter(ends).min_by_key(|i| world.pending[*i].due);
                due.extend(first);
            }
            if world.ready.is_empty() && !due.is_empty() {
                let at = due[world.prng.index(due.len())];
                world.finish(at);
            }
        }
        Mode::Threaded => {
            world.prng.shuffle(&mut due);
            let mut numbers: Vec<u64> = due.iter().map(|i| world.pending[*i].number).collect();
            while let Some(number) = numbers.pop() {
                if let Some(at) = world.pending.iter().position(|p| p.number == number) {
                    world.finish(at);
                }
            }
        }
    }
}

impl Shared {
    /// Nanoseconds by the clock that the mode counts latencies with.
    pub(super) fn now(&self, world: &World) -> u64 {
        match world.settings.mode {
            Mode::Threaded => u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Mode::Manual | Mode::Seeded => world.settings.clock.now().as_nanos(),
        }
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        let mut world = self.shared.world.lock();
        if self.is_alive(&world) {
            while !world.pending.is_empty() {
                let at = 0;
                world.finish(at);
            }
            world.disconnect();
        }
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        self.0.world.lock().rung = true;
        self.0.bell.notify_all();
    }
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDriver(connection {}, {} ops owed)", self.number, self.owed.len())
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorbell(simulated)")
    }
}
