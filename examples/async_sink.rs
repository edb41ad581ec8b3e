//! An async sink, and tasks that await durability, without any runtime: the sink runs on ringwal's delivery
//! thread, and the smallest possible `block_on` drives the task.
//!
//! `cargo run --example async_sink`

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use ringwal::{Batch, Producer, Queue, sink_fn};

/// Stands for a client of some service.
async fn post(lines: &[&str]) -> std::io::Result<usize> {
    Ok(lines.len())
}

async fn work(orders: &Producer<String>) -> Result<(), Box<dyn Error>> {
    // Many at once: push them all, await the last. That is enough here, as one thread drives this task, and what it
    // pushes without keys goes into one ring. On a runtime with several threads a task may change its thread at each
    // `await`, and the last receipt covers the last ring only: await each, or `Queue::flush_async`.
    let mut last = None;
    for order in 0..100 {
        last = Some(orders.push_async(format!("order {order}")).await?);
    }
    if let Some(receipt) = last {
        orders.durable(receipt).await?;
    }
    // Or each for itself.
    orders.push_durable("the big order".to_owned())?.await?;
    Ok(())
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let posted = Arc::new(AtomicUsize::new(0));
    let sink = {
        let posted = Arc::clone(&posted);
        sink_fn(move |batch: Batch<String>| {
            let posted = Arc::clone(&posted);
            async move {
                let lines: Vec<&str> = batch.values().map(String::as_str).collect();
                // Any error: this batch is offered again, later and later.
                let count = post(&lines).await?;
                posted.fetch_add(count, Ordering::Relaxed);
                Ok(())
            }
        })
    };
    let queue = Queue::builder(dir.path()).open(sink)?;
    let orders = queue.producer();
    block_on(work(&orders))?;
    block_on(queue.flush_async())?;
    let on_disk = queue.metrics().durable_lsn;
    assert_eq!(on_disk.number(), 101, "all that was awaited is on disk");

    queue.drain(Duration::from_secs(10))?;
    assert_eq!(posted.load(Ordering::Relaxed), 101);
    println!("101 orders durable and posted");
    queue.shutdown(Duration::from_secs(10))?;
    Ok(())
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
