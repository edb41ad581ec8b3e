//! `ringwal pipe`: lines from an input, through a queue on disk, into a sink.
//!
//! ```text
//!   input ─ Lines ─► pinned producer ─► queue ─► LineSink          the first thread reads and pushes
//!                          └─ receipts ─► Acks ─► standard output  with --ack
//! ```
//! The end of the input: wait for the sink, as long as it takes or `--drain-within` says. A signal: stop
//! reading, make durable what was read, deliver for `--shutdown-within`. Either way `pipe.json` is written
//! last, and the next run goes on behind the last line; see [`resume`].

mod ack;
mod lock;
mod progress;
mod resume;
mod sidecar;
pub(crate) mod signals;
mod source;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwal::{Durability, Health, LogError, PinnedProducer, PushError, Queue, Receipt, Shutdown, ShutdownError};

use crate::args::PipeArgs;
use crate::failure::{BROKEN_PIPE, Failure, LEFT, Result};
use crate::line::{Head, Line};
use crate::queue::{in_options, line_len_max, promise, tell_given_up};
use crate::sinks::Target;
use crate::units::{bytes_text, grouped, ratio};
use ack::Acks;
use progress::{Progress, State};
use resume::{Request, Start};
use signals::Stop;
use source::{Fill, Lines};

pub(crate) use resume::begin_without_input;

/// How long the sink is waited for between two looks at signals and health.
const DRAIN_STEP: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &PipeArgs) -> Result<u8> {
    check_combination(args)?;
    let len_max = line_len_max(&args.queue)?;
    let input = Input::open(args)?;
    let stop = Stop::on_signals()?;
    let sink = Arc::new(args.queue.to.open(&stop, args.ack)?);
    let request = input.request(args);
    let start = resume::begin(&request, &sink)?;
    let queue = crate::queue::open(&args.queue, sink)?;
    check_end(&queue, &start, args)?;
    announce(&queue, &input, &start, args);
    #[cfg(feature = "serve")]
    let _server = serve(&queue, args)?;
    let begun = Instant::now();
    let mut run = Run {
        args,
        queue: &queue,
        stop: &stop,
        progress: Progress::new(input.len(), args.quiet),
        begun_at: start.from,
    };
    let lines = input.lines(len_max, start.from)?;
    let (pushed, ended) = run.pump(lines);
    let drained = if ended.is_ok() { run.drain(pushed) } else { Ok(()) };
    run.progress.clear();
    let state = queue.shutdown(shutdown_time(args, &stop, ended.is_err()));
    let state = finish(&request, &start, pushed, state, ended.and(drained))?;
    if !args.quiet {
        summarize(args, &input, start.from, pushed, begun.elapsed(), &state);
    }
    Ok(match stop.exit_code() {
        Some(code) => code,
        None if state.left_in_log > 0 || state.parked > 0 || state.lost > 0 => LEFT,
        None => 0,
    })
}

fn check_combination(args: &PipeArgs) -> Result<()> {
    if args.ack && args.queue.to == Target::Stdout {
        return Err(Failure::usage(
            "--ack and --to stdout would both write to standard output; use another sink, or leave --ack out",
        ));
    }
    if args.ack && args.queue.durability == Durability::Memory {
        return Err(Failure::usage(
            "--ack says that a line is durable, and with --durability memory none ever is; use another durability",
        ));
    }
    Ok(())
}

/// What is read.
struct Input {
    file: File,
    /// The name, and the length where reading can be resumed.
    name: String,
    regular: Option<u64>,
}

impl Input {
    fn open(args: &PipeArgs) -> Result<Self> {
        let path = args.from.as_deref().filter(|path| *path != Path::new("-"));
        let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        let fail =
            |error: io::Error| Failure::usage(format!("cannot read {name}: {error}; give a file that may be read"));
        let file = match path {
            Some(path) => File::open(path).map_err(fail)?,
            None => File::from(rustix::io::dup(io::stdin()).map_err(|errno| fail(errno.into()))?),
        };
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{name} is a directory; give a file")));
        }
        // Standard input is read where it stands, also when it is a file: it has no name to find it by.
        let regular = (path.is_some() && metadata.is_file()).then_some(metadata.len());
        if args.restart && regular.is_none() {
            return Err(Failure::usage("--restart is for files (--from FILE); other inputs always begin anew"));
        }
        Ok(Self { file, name, regular })
    }

    fn request<'a>(&'a self, args: &'a PipeArgs) -> Request<'a> {
        Request {
            file: args.from.as_deref().filter(|_| self.regular.is_some()).map(|path| (&self.file, path)),
            restart: args.restart,
            ..Request::new(&args.queue)
        }
    }

    fn len(&self) -> Option<u64> {
        self.regular
    }

    fn lines(&self, len_max: usize, from: Head) -> Result<Lines> {
        let fail = |error: io::Error| Failure::new(format!("cannot read {}: {error}", self.name));
        let mut file = self.file.try_clone().map_err(fail)?;
        if self.regular.is_some() {
            file.seek(SeekFrom::Start(from.offset)).map_err(fail)?;
        }
        Ok(Lines::new(file, self.name.clone(), self.regular.is_none(), len_max, from))
    }
}

/// The log must end where the resume point was found, or somebody else was at it.
fn check_end(queue: &Queue<Line>, start: &Start, args: &PipeArgs) -> Result<()> {
    let found = queue.recovery().end.number();
    let logged = matches!(args.queue.durability, Durability::Immediate | Durability::Periodic(_));
    if logged && found > start.end {
        let dir = args.queue.dir.display();
        return Err(Failure::new(format!(
            "{dir} was changed by another program while it was being opened: its log ends at {found}, not {}; run again",
            start.end
        )));
    }
    Ok(())
}

fn announce(queue: &Queue<Line>, input: &Input, start: &Start, args: &PipeArgs) {
    if args.quiet {
        return;
    }
    let recovery = queue.recovery();
    eprintln!("ringwal: {}", promise(args.queue.durability, input.regular.is_some(), args.queue.to.is_exactly_once()));
    if args.queue.durability != Durability::Memory && !recovery.disk.durable {
        eprintln!(
            "ringwal: {} is on {}, which keeps nothing over a loss of power; use a directory on a disk",
            args.queue.dir.display(),
            recovery.disk.file_system
        );
    }
    if start.from.number > 0 {
        eprintln!(
            "ringwal: goes on behind line {} at offset {}",
            grouped(start.from.number),
            grouped(start.from.offset)
        );
    }
    if recovery.recovered > 0 {
        eprintln!("ringwal: {} lines of earlier runs are still to be delivered", grouped(recovery.recovered));
    }
    tell_given_up(recovery);
}

/// Until it is dropped.
#[cfg(feature = "serve")]
fn serve(queue: &Queue<Line>, args: &PipeArgs) -> Result<Option<ringwal::Server>> {
    let Some(address) = &args.serve else { return Ok(None) };
    let server = ringwal::serve(address.as_str(), [queue.watch()])
        .map_err(|error| Failure::usage(format!("--serve {address}: {error}")))?;
    if !args.quiet {
        eprintln!("ringwal: serves http://{}/metrics, /health and /stats", server.address());
    }
    Ok(Some(server))
}

/// How long a shutdown may go on delivering: after the end of the input everything that could be has been,
/// and to a closed standard output nothing can be.
fn shutdown_time(args: &PipeArgs, stop: &Stop, failed: bool) -> Duration {
    match stop.exit_code() {
        Some(BROKEN_PIPE) => Duration::ZERO,
        Some(_) => args.queue.shutdown_within,
        None if failed => args.queue.shutdown_within,
        None => Duration::from_secs(1),
    }
}

struct Run<'a> {
    args: &'a PipeArgs,
    queue: &'a Queue<Line>,
    stop: &'a Arc<Stop>,
    progress: Progress,
    begun_at: Head,
}

impl Run<'_> {
    /// Reads and pushes to the end of the input. Gives the last line that is in the queue.
    fn pump(&mut self, mut lines: Lines) -> (Head, Result<()>) {
        let acks = match self
            .args
            .ack
            .then(|| Acks::start(self.queue.producer(), self.begun_at.number, Arc::clone(self.stop)))
        {
            None => None,
            Some(Ok(acks)) => Some(acks),
            Some(Err(failure)) => return (lines.head(), Err(failure)),
        };
        let mut producer = self.queue.producer().pin();
        let mut pushed = self.begun_at;
        let result = self.push_all(&mut lines, &mut producer, acks.as_ref(), &mut pushed);
        // What was pushed is acknowledged whatever ended the reading.
        let acked = acks.map_or(Ok(()), Acks::finish);
        (pushed, result.and(acked))
    }

    fn push_all(
        &mut self,
        lines: &mut Lines,
        producer: &mut PinnedProducer<Line>,
        acks: Option<&Acks>,
        pushed: &mut Head,
    ) -> Result<()> {
        while !self.stop.is_set() {
            let mut receipt = None;
            let ended = loop {
                match lines.next_line() {
                    Ok(None) => break Ok(()),
                    Err(failure) => break Err(failure),
                    Ok(Some(line)) => {
                        let head = line.head;
                        match self.push(producer, line) {
                            Ok(Some(at)) => (receipt, *pushed) = (Some(at), head),
                            Ok(None) => break Ok(()),
                            Err(failure) => break Err(failure),
                        }
                    }
                }
            };
            if let (Some(acks), Some(receipt)) = (acks, receipt) {
                acks.pushed(pushed.number, receipt);
            }
            ended?;
            self.show(*pushed);
            if self.stop.is_set() || lines.fill(self.stop)? != Fill::More {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Pushes a line, as long as it takes. `None`: the run is to end, and the line is not in the queue.
    fn push(&mut self, producer: &mut PinnedProducer<Line>, line: Line) -> Result<Option<Receipt>> {
        let head = line.head;
        let mut line = line;
        loop {
            match producer.push(line) {
                Ok(receipt) => return Ok(Some(receipt)),
                Err(PushError::Full(back)) => {
                    if self.stop.is_set() {
                        return Ok(None);
                    }
                    self.check_health()?;
                    self.show(head);
                    line = back;
                }
                Err(error) => {
                    return Err(Failure::new(format!(
                        "line {} was not taken: {error}; run again to go on there",
                        head.number
                    )));
                }
            }
        }
    }

    /// Waits until the sink has had everything, or the run is to end.
    fn drain(&mut self, pushed: Head) -> Result<()> {
        let deadline = self.args.drain_within.map(|within| Instant::now() + within);
        while !self.stop.is_set() {
            match self.queue.drain(DRAIN_STEP) {
                Ok(()) => return Ok(()),
                Err(LogError::TimedOut) => {}
                Err(error) => return Err(Failure::new(format!("delivery has ended: {}", in_options(&error)))),
            }
            self.check_health()?;
            self.show(pushed);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check_health(&self) -> Result<()> {
        match self.queue.health() {
            Health::Failed(concerns) => {
                let why: Vec<String> = concerns.iter().map(|concern| in_options(concern)).collect();
                Err(Failure::new(format!("{}: {}", self.args.queue.dir.display(), why.join("; "))))
            }
            _ => Ok(()),
        }
    }

    fn show(&mut self, pushed: Head) {
        if self.progress.is_due() {
            let metrics = self.queue.metrics();
            self.progress.show(State {
                offset: pushed.offset,
                read: pushed.number - self.begun_at.number,
                delivered: metrics.delivered,
                waiting: metrics.pending + metrics.in_flight,
            });
        }
    }
}

/// What the shutdown came to, with how far the run came written down.
fn finish(
    request: &Request<'_>,
    start: &Start,
    pushed: Head,
    state: std::result::Result<Shutdown, ShutdownError>,
    ended: Result<()>,
) -> Result<Shutdown> {
    let state = match state {
        Ok(state) | Err(ShutdownError::Deadline(state)) => state,
        Err(error) => {
            return Err(Failure::new(format!(
                "{}: {error}; run again: it goes on behind the last durable line",
                request.dir.display()
            )));
        }
    };
    // What ends with this process has to be read again: in memory all that was not delivered, the park included, else
    // the lines for which a full log had no room. The next run then finds its point as after a kill.
    let read = pushed.number - start.from.number;
    let is_kept = match request.durability {
        Durability::Memory => state.delivered >= read,
        _ => state.lost == 0,
    };
    if is_kept {
        resume::end(request, start, pushed)?;
    } else if request.durability == Durability::Memory && state.parked > 0 {
        resume::end_unkept(request, start)?;
    }
    ended.map(|()| state)
}

fn summarize(args: &PipeArgs, input: &Input, from: Head, pushed: Head, took: Duration, state: &Shutdown) {
    let (read, bytes) = (pushed.number - from.number, pushed.offset - from.offset);
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let rate = ratio(bytes, nanos) * 1000.0;
    let mut out = format!(
        "{} lines ({}) read in {:.1} s, {rate:.1} MB/s; {} delivered, {} parked, {} left in the log",
        grouped(read),
        bytes_text(bytes),
        took.as_secs_f64(),
        grouped(state.delivered),
        grouped(state.parked),
        grouped(state.left_in_log)
    );
    out.push_str(&what_is_left(args, input.regular.is_some(), state));
    let promised = promise(args.queue.durability, input.regular.is_some(), args.queue.to.is_exactly_once());
    eprintln!("ringwal: {out} ({})", promised.split(':').next().unwrap_or_default());
}

/// What becomes of the lines that are not delivered, and what to do about them.
fn what_is_left(args: &PipeArgs, from_file: bool, state: &Shutdown) -> String {
    let mut out = String::new();
    if args.queue.durability == Durability::Memory {
        // The park was in memory as well.
        let unkept = state.parked + state.lost;
        if unkept > 0 {
            let again = if from_file { "will be read again by the next run" } else { "must be sent again" };
            out = format!("; {} were not kept, as --durability memory says, and {again}", grouped(unkept));
        }
        return out;
    }
    if state.left_in_log > 0 {
        out.push_str("; run again to deliver them");
    }
    if state.lost > 0 && from_file {
        out.push_str(&format!("; {} found no room in the log and will be read again", grouped(state.lost)));
    }
    if state.parked > 0 {
        out.push_str(&format!("; see `ringwal parked list {}`", args.queue.dir.display()));
    }
    out
}
