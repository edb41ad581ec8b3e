//! Batches out at the sink, several at once or with a deadline.
//!
//! ```text
//!   the sink is   where it works              when its deadline has passed
//!   async         here: this thread polls it  it is dropped: a failed attempt, the batch is offered again
//!   with runtime  on the user's runtime       it is aborted, and waited for: an answer that comes after all counts
//!   blocking      on a thread of its own      it is waited for: the batch stays out, its answer counts, late or not
//! ```
//! A call that blocks cannot be ended from outside. So nothing of its batch goes out a second time while it runs, and a
//! success counts once, however late. Only closing does not wait for one that is overdue.
//!
//! One batch at a time without a deadline needs none of this: the delivery thread makes that call itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_queue::SegQueue;

use crate::delivery::lease::{Lease, LeaseId};
use crate::engine::call::{Answer, Call, block_on};
use crate::engine::lifecycle::spawn_sink;
use crate::engine::{Shared, Status, mark_sink_thread};
use crate::error::OpenError;
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::sync::thread::JoinHandle;

/// What is out.
pub(crate) struct Calls {
    out: Vec<Out>,
    /// Whether a call, once made, cannot be ended.
    blocks: bool,
    workers: Option<Workers>,
    /// Ended by their deadline.
    late: Vec<Call>,
}

/// What is left when delivery ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    Nothing,
    /// The sink blocks in calls that cannot be ended.
    AtWork,
}

struct Out {
    lease: Lease,
    overdue: bool,
    /// `None`: a worker has it.
    call: Option<Call>,
}

impl Calls {
    /// For a sink that blocks, or does not.
    pub(crate) const fn new(blocks: bool) -> Self {
        Self { out: Vec::new(), blocks, workers: None, late: Vec::new() }
    }

    /// Gives a sink that blocks so many threads. Without them it is polled like any other: a test holds its turns.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn hire(&mut self, shared: &Arc<Shared>, count: usize) -> Result<(), OpenError> {
        if self.blocks {
            self.workers = Some(Workers::start(shared, count)?);
        }
        Ok(())
    }

    /// The sink is asked.
    pub(crate) fn start(&mut self, lease: Lease, call: Call) {
        let call = match &mut self.workers {
            Some(workers) => workers.take_on(lease.id(), call),
            None => Some(call),
        };
        self.out.push(Out { lease, overdue: false, call });
    }

    /// What the sink has answered since.
    pub(crate) fn poll_answers(&mut self, waker: &Waker) -> Vec<(Lease, Answer)> {
        let mut answers = Vec::new();
        let mut context = Context::from_waker(waker);
        let mut at = 0;
        while let Some(out) = self.out.get_mut(at) {
            match out.call.as_mut().map_or(Poll::Pending, |call| Pin::new(call).poll(&mut context)) {
                Poll::Ready(answer) => answers.push((self.out.swap_remove(at).lease, answer)),
                Poll::Pending => at += 1,
            }
        }
        while let Some((id, answer)) = self.workers.as_mut().and_then(Workers::answer) {
            if let Some(at) = self.out.iter().position(|out| out.lease.id() == id) {
                answers.push((self.out.swap_remove(at).lease, answer));
            }
        }
        answers
    }

    /// The deadline of this one has passed. Gives the lease of one that could be ended; the others stay out.
    pub(crate) fn end_overdue(&mut self, id: LeaseId) -> Option<Lease> {
        let at = self.out.iter().position(|out| out.lease.id() == id)?;
        if self.blocks || self.out[at].call.as_mut().is_some_and(Call::abort) {
            self.out[at].overdue = true;
            return None;
        }
        let Out { lease, call, .. } = self.out.swap_remove(at);
        self.late.extend(call);
        Some(lease)
    }

    /// Drops those that were ended: the sink's code, under no lock.
    pub(crate) fn drop_late(&mut self) {
        while let Some(call) = self.late.pop() {
            drop_contained(call);
        }
    }

    /// Whether nothing is out.
    #[cfg(all(feature = "testing", not(loom)))]
    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// How many have not come back in time.
    pub(crate) fn overdue(&self) -> usize {
        self.out.iter().filter(|out| out.overdue).count()
    }

    /// How many may still come back in time.
    pub(crate) fn in_time(&self) -> usize {
        self.out.len() - self.overdue()
    }

    /// Ends what can be ended: futures, and the threads that are free. The others end when the sink gives them back.
    pub(crate) fn end(mut self, status: &Status) -> Left {
        self.drop_late();
        let is_out = !self.out.is_empty();
        let is_elsewhere = self.out.iter().filter_map(|out| out.call.as_ref()).any(Call::is_elsewhere);
        if is_out {
            status.set_sink_hung();
        }
        if let Some(workers) = self.workers.take() {
            workers.end();
        }
        // Nobody asks for their leases any more.
        self.out.into_iter().filter_map(|out| out.call).for_each(drop_contained);
        if is_out && self.blocks || is_elsewhere { Left::AtWork } else { Left::Nothing }
    }
}

/// What the sink's future holds may panic when it goes; what it was asked for has failed already.
fn drop_contained(call: Call) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(call)));
}

/// Threads that call a sink that blocks.
struct Workers {
    workers: Vec<Worker>,
    answers: Arc<SegQueue<(usize, LeaseId, Answer)>>,
}

struct Worker {
    calls: Sender<(LeaseId, Call)>,
    thread: JoinHandle<()>,
    busy: bool,
}

impl Workers {
    fn start(shared: &Arc<Shared>, count: usize) -> Result<Self, OpenError> {
        let answers = Arc::default();
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (calls, asked) = channel();
            let (shared, answers) = (Arc::clone(shared), Arc::clone(&answers));
            let role = format!("sink-{index}");
            let thread =
                spawn_sink(&Arc::clone(&shared).config, &role, move || work(&shared, index, &asked, &answers))?;
            workers.push(Worker { calls, thread, busy: false });
        }
        Ok(Self { workers, answers })
    }

    /// Gives the call to a free thread; there are as many as batches may be out.
    fn take_on(&mut self, id: LeaseId, call: Call) -> Option<Call> {
        let Some(worker) = self.workers.iter_mut().find(|worker| !worker.busy) else {
            return Some(call);
        };
        worker.busy = true;
        // It fails only when the thread is gone, which no sink's panic ends.
        worker.calls.send((id, call)).err().map(|refused| refused.0.1)
    }

    fn answer(&mut self) -> Option<(LeaseId, Answer)> {
        let (index, id, answer) = self.answers.pop()?;
        self.workers[index].busy = false;
        Some((id, answer))
    }

    fn end(self) {
        for Worker { calls, thread, busy } in self.workers {
            drop(calls);
            if !busy {
                let _ = thread.join();
            }
        }
    }
}

fn work(
    shared: &Arc<Shared>,
    index: usize,
    asked: &Receiver<(LeaseId, Call)>,
    answers: &SegQueue<(usize, LeaseId, Answer)>,
) {
    mark_sink_thread(shared);
    while let Ok((id, call)) = asked.recv() {
        answers.push((index, id, block_on(call)));
        shared.wake_delivery();
    }
}
