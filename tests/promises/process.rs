//! Threads, CPUs, and several queues beside each other: with real threads, on real files.

use std::fs;
use std::time::{Duration, Instant};

use ringwal::{Durability, Idle, Queue, Retry};

use crate::common::{LONG, Numbered, Recorder, assert_accounted, assert_exactly_once_in_order, drain, small};

/// The line of a thread's status that begins with this word.
fn status_of(task: &std::path::Path, word: &str) -> String {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
}

/// The thread of this name, which may have been started a moment ago and not have told it yet.
fn named(name: &str) -> std::path::PathBuf {
    let begun = Instant::now();
    loop {
        let mut tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| Some(task.ok()?.path()));
        if let Some(task) = tasks.find(|task| status_of(task, "Name") == name) {
            return task;
        }
        assert!(begun.elapsed() < LONG, "no thread is called {name}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// F133: the flush core stays on its CPU, and nobody else is moved.
#[test]
fn the_flush_core_runs_on_the_cpu_that_it_was_given_and_on_no_other() {
    let own = status_of("/proc/thread-self".as_ref(), "Cpus_allowed_list");
    // The last one of a list such as `0-3,5`.
    let cpu: usize = own.rsplit([',', '-']).next().unwrap().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let queue = small(dir.path(), Durability::Immediate).name("placed").cpu(cpu).open(Recorder::default()).unwrap();
    queue.producer().push_durable(Numbered::new(0, 0, 20)).unwrap().wait().unwrap();
    assert_eq!(status_of(&named("placed-flush"), "Cpus_allowed_list"), cpu.to_string());
    assert_eq!(status_of(&named("placed-sink"), "Cpus_allowed_list"), own);
    assert_eq!(status_of("/proc/thread-self".as_ref(), "Cpus_allowed_list"), own);
    queue.shutdown(LONG).unwrap();
}

/// F133: the threads that call the sink stay on theirs, and nobody else is moved.
#[test]
fn the_threads_that_call_the_sink_run_on_the_cpu_that_they_were_given_and_no_others() {
    let own = status_of("/proc/thread-self".as_ref(), "Cpus_allowed_list");
    let cpu: usize = own.rsplit([',', '-']).next().unwrap().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path(), Durability::Immediate).name("sunk").sink_cpu(cpu).in_flight_max(2);
    let queue = settings.clone().open(ringwal::blocking_pool_fn(|_: &ringwal::Batch<Numbered>| Ok(()))).unwrap();
    queue.producer().push(Numbered::new(0, 0, 20)).unwrap();
    drain(&queue);
    for thread in ["sunk-sink", "sunk-sink-0", "sunk-sink-1"] {
        assert_eq!(status_of(&named(thread), "Cpus_allowed_list"), cpu.to_string(), "{thread}");
    }
    assert_eq!(status_of(&named("sunk-flush"), "Cpus_allowed_list"), own);
    assert_eq!(status_of("/proc/thread-self".as_ref(), "Cpus_allowed_list"), own);
    queue.shutdown(LONG).unwrap();
    // One that is not there is refused, and nothing of the queue is left behind.
    let refused = settings.clone().sink_cpu(4000).open(Recorder::default()).map(drop);
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("sink_cpu is 4000")), "{refused:?}");
    settings.open(Recorder::default()).unwrap().shutdown(LONG).unwrap();
}

/// F133: however the flush core passes its time, a push that comes after a rest is taken.
#[test]
fn with_each_idle_strategy_pushes_arrive_after_rests_of_any_length() {
    for idle in [Idle::Park, Idle::Backoff, Idle::Spin] {
        let dir = tempfile::tempdir().unwrap();
        let sink = Recorder::default();
        let queue = small(dir.path(), Durability::Immediate).idle(idle).open(sink.clone()).unwrap();
        for n in 0..40 {
            queue.producer().push(Numbered::new(0, n, 20)).unwrap();
            drain(&queue);
            std::thread::sleep(Duration::from_micros(u64::from(n % 8) * 25));
        }
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[40]);
        queue.shutdown(LONG).unwrap();
    }
}

/// F119: several queues in one process share nothing but the CPUs.
#[test]
fn queues_beside_each_other_keep_to_themselves() {
    const QUEUES: u32 = 4;
    let dirs: Vec<_> = (0..QUEUES).map(|_| tempfile::tempdir().unwrap()).collect();
    let sinks: Vec<_> = (0..QUEUES).map(|_| Recorder::default()).collect();
    let open =
        |q: usize| small(dirs[q].path(), Durability::Immediate).name(format!("queue {q}")).open(sinks[q].clone());
    let queues: Vec<Queue<Numbered>> = (0..QUEUES as usize).map(|q| open(q).unwrap()).collect();
    // One of them stands still, and holds nobody up.
    queues[0].pause();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let queues = &queues;
            // Each thread pushes into all of them in turn: a thread has a ring in each queue.
            scope.spawn(move || {
                for n in 0..200 {
                    queues.iter().for_each(|queue| _ = queue.producer().push(Numbered::new(thread, n, 20)).unwrap());
                }
            });
        }
    });
    for (queue, sink) in queues.iter().zip(&sinks).skip(1) {
        drain(queue);
        assert_accounted(&queue.metrics());
        assert_exactly_once_in_order(&sink.0.all(), &[200; 3]);
    }
    assert_eq!(sinks[0].0.len(), 0);
    queues[0].resume();
    drain(&queues[0]);
    assert_exactly_once_in_order(&sinks[0].0.all(), &[200; 3]);
    for queue in queues {
        assert_eq!(queue.shutdown(LONG).unwrap().delivered, 600);
    }
}

/// F019: nothing else is needed, neither a setting nor a call.
#[test]
fn opening_pushing_and_shutting_down_are_all_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Recorder::default();
    let queue = Queue::builder(dir.path()).open(sink.clone()).unwrap();
    queue.producer().push(Numbered::new(0, 0, 20)).unwrap();
    assert_eq!(queue.shutdown(LONG).unwrap().delivered, 1);
    assert_exactly_once_in_order(&sink.0.all(), &[1]);
}

/// F060: the sink is called on a thread of the queue's, beside those that push, whether it blocks or awaits.
#[test]
fn the_sink_is_called_on_a_thread_of_its_own_whatever_it_does_there() {
    for blocks in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let mut calls = 0;
        let mut deliver = move || {
            calls += 1;
            tell.send(std::thread::current().name().map(str::to_owned)).unwrap();
            // What goes wrong there is tried again there.
            assert!(calls > 1, "on purpose");
            if calls == 2 { Err(ringwal::SinkError::retry("not yet")) } else { Ok(()) }
        };
        let retry = Retry { base: Duration::from_millis(1), ..Retry::default() };
        let settings = small(dir.path(), Durability::Immediate).name("beside").retry(retry);
        let queue: Queue<Numbered> = if blocks {
            settings.open(ringwal::blocking_fn(move |_: &ringwal::Batch<Numbered>| deliver())).unwrap()
        } else {
            let deliver = std::sync::Mutex::new(deliver);
            settings
                .open(ringwal::sink_fn(move |_: ringwal::Batch<Numbered>| {
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        (deliver.lock().unwrap_or_else(std::sync::PoisonError::into_inner))()
                    }));
                    async move { outcome.unwrap_or_else(|_| Err(ringwal::SinkError::retry("it panicked"))) }
                }))
                .unwrap()
        };
        queue.producer().push(Numbered::new(0, 0, 20)).unwrap();
        drain(&queue);
        assert_eq!(queue.metrics().delivered, 1);
        let threads: Vec<_> = told.try_iter().collect();
        assert_eq!(threads, vec![Some("beside-sink".to_owned()); 3], "blocks: {blocks}");
        queue.shutdown(LONG).unwrap();
    }
}
