//! Opening a queue with several sinks: names, settings, the branches, then the source.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::builder::Builder;
use crate::config::{Config, Durability, OnBreaker, Rings};
use crate::delivery::batch::Batch;
use crate::delivery::retry::{Jitter, Retry};
use crate::entry::Entry;
use crate::error::{ConfigError, OpenError};
use crate::fan_out::copier::{Copier, Copying};
use crate::fan_out::lane::{Lane, LaneError, NoteFile, Notes};
use crate::fan_out::{FanOut, FanOutQueue, Named};
use crate::lsn::Lsn;
use crate::queue::Queue;
use crate::recovery::OnLook;
use crate::sink::{DynSink, Outcome, Sink};
use crate::wal::cursor::CURSOR_RANGES_MAX;

/// Where branches lie in the queue's directory.
const FOLDER: &str = "fan-out";
/// A branch's note, in its directory.
const NOTE: &str = "COPIED";
/// Longest name of a sink in bytes: with the queue's it makes a name for threads and metrics.
const NAME_LEN_MAX: usize = 32;
/// Most entries copied at once, each time with one commit in each branch: as many as a sink gets that may answer for each
/// of them.
const COPIED_AT_ONCE: usize = 2 * CURSOR_RANGES_MAX + 1;
/// How a copy that a branch did not take is tried again: only a log that has failed takes nothing, and that ends when the
/// queue is opened anew. So nothing is ever given up.
const COPY_AGAIN: Retry = Retry {
    attempts_max: None,
    base: Duration::from_millis(10),
    factor: 2.0,
    max: Duration::from_secs(1),
    jitter: Jitter::Equal,
};
/// In the place of `Spill`, which is for the source: a branch commits each batch of copies.
const NO_SPILL: Durability = Durability::Periodic(Duration::from_millis(5));

impl Builder {
    /// Opens the queue with several sinks: each gets every entry at its own pace, from a log of its own. The settings are
    /// those of the queue that entries are pushed into; each sink begins with the same and may change them.
    ///
    /// Each entry is written once for the queue and once for each sink; [`Durability::Spill`] spares the first as long as
    /// copying keeps up. Copying goes by batches of its own: settings of batches, retries and the breaker are for the
    /// sinks.
    ///
    /// A sink that is new gets what has not been copied to all others yet, and everything that is pushed from now on. What
    /// becomes of one that is not named any more: [`FanOutQueue::unnamed`].
    ///
    /// ```
    /// use ringwal::{Batch, Durability, Queue, fan_out, sink_fn};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    ///
    /// let sink = || sink_fn(|batch: Batch<String>| async move { Ok(assert_eq!(batch[0].value, "one")) });
    /// let queue = Queue::builder(dir)
    ///     .durability(Durability::Spill)
    ///     .name("orders")
    ///     .open_fan_out(fan_out().with("live", sink()).with("archive", sink()))?;
    /// queue.producer().push("one".to_owned())?;
    /// queue.drain(std::time::Duration::from_secs(10))?;
    /// let names: Vec<String> = queue.snapshots().into_iter().map(|snapshot| snapshot.name).collect();
    /// assert_eq!(names, ["orders", "orders.live", "orders.archive"]);
    /// assert!(queue.shutdown(std::time::Duration::from_secs(10)).is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`OpenError`]; for a branch as for any queue. [`OpenError::Config`] also for names that do not fit, and for
    /// [`Durability::Memory`]: branches are for what must not be lost.
    pub fn open_fan_out<T: Entry>(self, sinks: FanOut<T>) -> Result<FanOutQueue<T>, OpenError> {
        let dir = self.config.dir.join(FOLDER);
        let unnamed = unnamed(&dir, &sinks)?;
        let notes = |config: &Config| Arc::new(NoteFile(config.dir.join(NOTE))) as Arc<dyn Notes>;
        let open_branch = |config, sink| Self { config }.open_part(sink);
        open_parts(self, sinks, notes, open_branch, |config, copier| Self { config }.open_part::<T, _>(copier))
            .map(|queue| FanOutQueue { unnamed, ..queue })
    }
}

/// A disk for a branch, and what holds its note: for tests.
#[cfg(feature = "testing")]
pub struct BranchDisk<D> {
    /// Carries out the branch's I/O.
    pub disk: D,
    /// What is written becomes durable at once, as far as the test lets it.
    pub note: Arc<std::sync::Mutex<Option<Vec<u8>>>>,
}

#[cfg(feature = "testing")]
impl<D> std::fmt::Debug for BranchDisk<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BranchDisk({:?})", self.note)
    }
}

#[cfg(feature = "testing")]
impl Notes for Arc<std::sync::Mutex<Option<Vec<u8>>>> {
    fn read(&self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.lock().expect("nobody panics with it").clone())
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        *self.lock().expect("nobody panics with it") = Some(bytes.to_vec());
        Ok(())
    }
}

#[cfg(feature = "testing")]
impl Builder {
    /// As [`open_fan_out`](Self::open_fan_out), on disks of the test's own: one for the source, and one for each branch,
    /// by its name.
    ///
    /// # Errors
    /// As [`open_fan_out`](Self::open_fan_out).
    pub fn open_fan_out_on<T: Entry, D: crate::io::Disk + 'static>(
        self,
        source: D,
        branch: impl Fn(&str) -> BranchDisk<D>,
        sinks: FanOut<T>,
    ) -> Result<FanOutQueue<T>, OpenError> {
        let parts = |config: &Config| branch(&config.dir.file_name().unwrap_or_default().to_string_lossy());
        let disks = std::cell::RefCell::new(Vec::new());
        let notes = |config: &Config| {
            let BranchDisk { disk, note } = parts(config);
            disks.borrow_mut().push(disk);
            Arc::new(note) as Arc<dyn Notes>
        };
        let open_branch = |config: Config, sink| {
            // Each is opened as soon as it has its note.
            let disk = disks.borrow_mut().pop().expect("a note comes with a disk");
            Self { config }.open_part_on(disk, sink)
        };
        open_parts(self, sinks, notes, open_branch, |config, copier| {
            Self { config }.open_part_on::<T, _>(source, copier)
        })
    }
}

fn open_parts<T: Entry>(
    builder: Builder,
    sinks: FanOut<T>,
    notes: impl Fn(&Config) -> Arc<dyn Notes>,
    open_branch: impl Fn(Config, DynamicSink<T>) -> Result<Queue<T>, OpenError>,
    open_source: impl FnOnce(Config, Copier) -> Result<Queue<T>, OpenError>,
) -> Result<FanOutQueue<T>, OpenError> {
    let config = builder.config;
    config.check()?;
    check_names(&sinks)?;
    if config.durability == Durability::Memory {
        return Err(ConfigError::new("durability", "memory", "one with a disk, for several sinks").into());
    }
    // All settings are looked at before anything is opened.
    let mut wanted = Vec::new();
    for Named { name, sink, settings } in sinks.sinks {
        wanted.push((branch_config(&config, &name, settings)?, name, DynamicSink(sink)));
    }
    let (mut branches, mut lanes) = (Vec::new(), Vec::new());
    for (config, name, sink) in wanted {
        let notes = notes(&config);
        let (looker, path) = (Arc::clone(&notes), config.dir.join(NOTE));
        let on_look = OnLook(Arc::new(move |look| {
            let what = "settle what was copied in".to_owned();
            looker.settle(look).map_err(|source| OpenError::Io { what, path: path.clone(), source })
        }));
        let branch = open_branch(Config { on_look: Some(on_look), ..config }, sink)?;
        lanes.push(Lane::new(name, Arc::clone(branch.shared()), notes));
        branches.push(branch);
    }
    let copying = Arc::new(Copying { lanes, begun: OnceLock::new() });
    let copier = Copier { copying: Arc::clone(&copying), len_max: config.entry_len_max };
    let source = open_source(source_config(config), copier)?;
    let store = source.recovery().incarnation.store;
    for lane in &copying.lanes {
        if let Err(error) = lane.begin(store) {
            let _ = copying.begun.set(Err(error.to_string()));
            return Err(begin_error(&source, lane, error));
        }
    }
    let _ = copying.begun.set(Ok(()));
    branches.iter().for_each(Queue::is_handed_over);
    source.is_handed_over();
    Ok(FanOutQueue { source, branches, copying, unnamed: Vec::new() })
}

fn begin_error<T>(source: &Queue<T>, lane: &Lane, error: LaneError) -> OpenError {
    let path = source.config().dir.join(FOLDER).join(&lane.name).join(NOTE);
    let what = "begin the note of what was copied in".to_owned();
    let source = match error {
        LaneError::Note(source) => source,
        LaneError::Log(error) => std::io::Error::other(error),
    };
    OpenError::Io { what, path, source }
}

fn check_names<T>(sinks: &FanOut<T>) -> Result<(), ConfigError> {
    let refused = |value: &str, range: &str| Err(ConfigError::new("fan_out", format!("{value:?}"), range));
    if sinks.sinks.is_empty() {
        return refused("", "one sink at least");
    }
    let mut seen = BTreeSet::new();
    for Named { name, .. } in &sinks.sinks {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_plain) {
            return refused(name, "names of 1 to 32 of a-z, 0-9, - and _");
        }
        if !seen.insert(name) {
            return refused(name, "a name for each sink");
        }
    }
    Ok(())
}

/// Branches in the directory that have no sink now.
fn unnamed<T>(dir: &std::path::Path, sinks: &FanOut<T>) -> Result<Vec<String>, OpenError> {
    let list = |source| OpenError::Io { what: "list".to_owned(), path: dir.to_owned(), source };
    let mut found = crate::io::folders(dir).map_err(list)?;
    found.retain(|name| sinks.sinks.iter().all(|sink| sink.name != *name));
    Ok(found)
}

/// What a branch is set up with: as the queue, unless its own settings say otherwise, and as copying needs it.
fn branch_config(
    queue: &Config,
    name: &str,
    settings: Box<dyn FnOnce(Builder) -> Builder>,
) -> Result<Config, ConfigError> {
    let durability = if queue.durability == Durability::Spill { NO_SPILL } else { queue.durability };
    let config = Config {
        name: format!("{}.{name}", queue.name),
        durability,
        // Pinned to one core, the threads of all branches would take turns there.
        cpu: None,
        ..queue.clone()
    };
    let chosen = settings(Builder { config }).config;
    if matches!(chosen.durability, Durability::Memory | Durability::Spill) {
        return Err(ConfigError::new(
            "durability",
            format!("{:?}", chosen.durability),
            "immediate or periodic, for a branch",
        ));
    }
    let config = Config {
        dir: queue.dir.join(FOLDER).join(name),
        // One ring, so that entries have the order of the source.
        rings: 1,
        pinned_rings: 0,
        rings_at: Rings::Private,
        // What the source takes must fit.
        entry_len_max: queue.entry_len_max,
        ..chosen
    };
    config.check()?;
    Ok(config)
}

/// The queue's own settings: its sink copies.
fn source_config(config: Config) -> Config {
    Config {
        batch_len_max: COPIED_AT_ONCE,
        linger: Duration::ZERO,
        adaptive: None,
        deliver_timeout: None,
        in_flight_max: 1,
        retry: COPY_AGAIN,
        breaker: None,
        on_breaker: OnBreaker::Accept,
        ..config
    }
}

/// A sink behind a pointer as a sink.
struct DynamicSink<T>(Box<dyn DynSink<T>>);

impl<T: Send + 'static> Sink<T> for DynamicSink<T> {
    async fn deliver(&self, batch: Batch<T>) -> Outcome {
        self.0.deliver_boxed(batch).await
    }

    async fn committed(&self) -> Option<Lsn> {
        self.0.committed_boxed().await
    }

    async fn close(&self) {
        self.0.close_boxed().await;
    }

    fn blocks(&self) -> bool {
        self.0.blocks_thread()
    }

    fn at_once_max(&self) -> usize {
        self.0.at_once_max_dyn()
    }

    fn partial(&self) -> bool {
        self.0.answers_each()
    }
}
