//! A small HTTP server for what watches a queue (feature `serve`): `/metrics`, `/health`, `/stats`.
//!
//! ```text
//!   accept ─┬─► connection (a thread, at most 8): one request, one answer, closed
//!           └─► 503 at once, when all are taken
//! ```
//! | what a client does | what bounds it |
//! |---|---|
//! | opens many connections | 8 at once; more are told 503 |
//! | sends slowly, or nothing, or reads slowly | 5 s for all of a connection |
//! | sends long heads or bodies | 16 KiB and 100 headers; bodies are not looked at |
//!
//! HTTP itself is hyper's, which lets its caller make the reads, so that every one of them has a deadline; why not a
//! smaller one: `docs/adr/0018-hyper-for-serve.md`. Nothing here touches a queue but to read its counts: a server under
//! load costs CPU and delays no push.

mod connection;
mod pages;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::io::fork::Home;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::watch::Watch;

/// Connections at once: more than a few scrapers and probes do not come.
const CONNECTIONS_MAX: usize = 8;
/// How long a refused `accept` (no more file descriptors, mostly) rests before the next.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves what watches these queues, on threads of its own, until the [`Server`] is stopped or dropped.
///
/// | path | answer |
/// |---|---|
/// | `/metrics` | [`prometheus_text`](crate::prometheus_text) of all of them |
/// | `/health` | JSON: a state for each with its reasons; 503 when one has failed, else 200 (degraded too) |
/// | `/stats` | JSON: every metric, histograms with quantiles |
///
/// There is no encryption and no log-in: listen on a loopback address, or on one that only your own machines reach.
/// With port 0 the system chooses one: [`Server::address`].
///
/// ```
/// # use ringwal::{blocking_fn, Batch, Queue};
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-serve-{}", std::process::id()));
/// # let sink = blocking_fn(|_: &Batch<String>| Ok(()));
/// let queue = Queue::builder(&dir).open(sink)?;
/// let server = ringwal::serve("127.0.0.1:0", [queue.watch()])?;
/// println!("http://{}/health", server.address());
/// server.stop();
/// # queue.shutdown(std::time::Duration::from_secs(10))?;
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ServeError`]: the address means nothing or cannot be had, two queues have one name, or there is no thread left.
pub fn serve(addr: impl ToSocketAddrs, queues: impl IntoIterator<Item = Watch>) -> Result<Server, ServeError> {
    let queues: Arc<[Watch]> = queues.into_iter().collect();
    let mut names = HashSet::new();
    if let Some(twice) = queues.iter().map(Watch::name).find(|name| !names.insert(*name)) {
        return Err(ServeError::SameName { name: twice.to_owned() });
    }
    let addresses: Vec<SocketAddr> = addr.to_socket_addrs().map_err(|source| ServeError::Address { source })?.collect();
    let refused = |source| ServeError::Listen { addresses: addresses.clone(), source };
    let listener = TcpListener::bind(&addresses[..]).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let ours = listener.try_clone().map_err(refused)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopped);
    let thread = thread::Builder::new()
        .name("ringwal-serve".to_owned())
        .spawn(move || accept(&listener, &queues, &told))
        .map_err(|source| ServeError::Thread { source })?;
    Ok(Server { address, listener: ours, stopped, thread: Some(thread), made_in: Home::here() })
}

/// A server at work; see [`serve`]. Dropping it stops it.
#[must_use = "dropping the server stops it"]
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    made_in: Home,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, cuts the connections that are open, and waits for its threads.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if !self.made_in.is_here() {
            // A forked child has the parent's socket, and none of its threads: it only lets go.
            return std::mem::forget(thread);
        }
        // ORDERING: Release/Acquire (`accept`), though the flag says all there is to say.
        self.stopped.store(true, Ordering::Release);
        // Ends the `accept` that waits.
        let ended = self
            .listener
            .try_clone()
            .and_then(|listener| TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both));
        thread.thread().unpark();
        if ended.is_ok() {
            // It panics never; if it did, there would be nothing to wait for.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server(http://{})", self.address)
    }
}

/// A connection that is being answered.
struct Open {
    stream: TcpStream,
    thread: JoinHandle<()>,
}

fn accept(listener: &TcpListener, queues: &Arc<[Watch]>, stopped: &AtomicBool) {
    let mut open: Vec<Open> = Vec::new();
    loop {
        let accepted = listener.accept();
        // ORDERING: Acquire, see `drop`.
        if stopped.load(Ordering::Acquire) {
            break;
        }
        open.retain(|connection| !connection.thread.is_finished());
        match accepted {
            Ok((stream, _)) if open.len() >= CONNECTIONS_MAX => connection::refuse(stream),
            // Whose thread or second descriptor cannot be had is closed: it may come again.
            Ok((stream, _)) => open.extend(answer(stream, queues).ok()),
            Err(_) => thread::park_timeout(ACCEPT_AGAIN),
        }
    }
    for Open { stream, thread } in open {
        // Who has ended already needs no end.
        let _ = stream.shutdown(Shutdown::Both);
        let _ = thread.join();
    }
}

fn answer(stream: TcpStream, queues: &Arc<[Watch]>) -> io::Result<Open> {
    let (ours, queues) = (stream.try_clone()?, Arc::clone(queues));
    let name = "ringwal-http".to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || connection::answer(&ours, &queues))?;
    Ok(Open { stream, thread })
}

/// Why nothing is served.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The address means nothing.
    Address {
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    Listen {
        /// What it meant.
        addresses: Vec<SocketAddr>,
        /// What the system said.
        source: io::Error,
    },
    /// Two queues have the same name, and could not be told apart.
    SameName {
        /// The name.
        name: String,
    },
    /// There is no thread to be had.
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { source } => write!(f, "the address to serve on means nothing: {source}; give HOST:PORT"),
            Self::Listen { addresses, source } => {
                let listed: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                let listed = listed.join(", ");
                write!(f, "cannot listen on {listed}: {source}; give an address of this machine and a free port")
            }
            Self::SameName { name } => {
                write!(f, "two of the queues to serve are named {name:?}; give each a name of its own")
            }
            Self::Thread { source } => write!(f, "cannot start a thread to serve: {source}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address { source } | Self::Listen { source, .. } | Self::Thread { source } => Some(source),
            Self::SameName { .. } => None,
        }
    }
}
