//! What the ring has taken, and whether it lives: asked by a *probe*, an entry that the kernel answers as soon as it
//! takes it.
//!
//! ```text
//!   lent    1  2  3  probe          the kernel takes entries in this order:
//!           ▲        ▲              an answer to the probe says that it has 1, 2 and 3,
//!         flies    answered         and that no answer given before it is still to be handed out
//! ```

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use super::lend::{self, Flying};

/// How long nothing may come back before the ring is asked whether it lives. Longer than most commits take, so that
/// it costs nothing as a rule; short beside [`TICKS_MAX`] of them.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without an answer after which a ring counts as broken: about one second, as with the driver of its own.
const TICKS_MAX: u32 = 100;

#[derive(Default)]
pub(super) struct Pulse {
    /// When it is felt next; there is such a time while anything flies.
    next: Option<Instant>,
    /// Ticks since anything came back.
    silent: u32,
    probe: Option<(u64, Flying)>,
    /// Entries lent so far.
    lent: u64,
    /// How many of them the kernel is known to have.
    taken: u64,
}

impl Pulse {
    /// The number of an entry that is lent.
    pub(super) fn lent(&mut self) -> u64 {
        self.lent += 1;
        self.lent
    }

    /// The entry of this number was answered.
    pub(super) fn answered(&mut self, number: u64) {
        self.taken = self.taken.max(number);
        self.silent = 0;
        self.next = None;
    }

    /// How many entries the kernel is to have for a look: all, and one that it is sent for it.
    pub(super) fn look(&self) -> u64 {
        self.lent + 1
    }

    /// Whether the kernel has all that was lent, and as many as that.
    pub(super) fn has_all(&self, at_least: u64) -> bool {
        self.taken >= self.lent.max(at_least)
    }

    pub(super) fn has_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// When it wants to be felt.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Sends a probe, unless there is one.
    pub(super) fn probe(&mut self, context: &mut Context<'_>) {
        if self.probe.is_some() {
            return;
        }
        let number = self.lent();
        let mut flying = lend::probe();
        let early = Pin::new(&mut flying).poll(context);
        debug_assert!(early.is_pending(), "answered before it was submitted");
        self.probe = Some((number, flying));
        self.next.get_or_insert_with(|| Instant::now() + TICK);
    }

    /// Sees whether a tick has passed without an answer, while the probe or something else flies. True: the ring does
    /// not live.
    pub(super) fn feel(&mut self, flies: bool, context: &mut Context<'_>) -> bool {
        if let Some((number, probe)) = &mut self.probe
            && Pin::new(probe).poll(context).is_ready()
        {
            let number = *number;
            self.probe = None;
            self.answered(number);
        }
        if !flies && self.probe.is_none() {
            self.next = None;
            return false;
        }
        let now = Instant::now();
        match self.next {
            Some(next) if next > now => return false,
            Some(_) => self.silent += 1,
            None => {}
        }
        self.next = Some(now + TICK);
        if self.silent > 0 {
            self.probe(context);
        }
        self.silent > TICKS_MAX
    }

    /// The ring keeps what it has.
    pub(super) fn give_up(&mut self) {
        mem::forget(self.probe.take());
        self.next = None;
    }
}
