//! A sink that appends to a Redis stream, each entry once: the entry's number is its ID in the stream, Redis keeps IDs
//! rising, and the last one says how far the stream has got.
//!
//! It starts a `redis-server` of its own, in a temporary folder, and ends it; where none is installed it says so and
//! does nothing. Redis answers a write before it is on disk unless it has `appendfsync always`: a queue's promise ends
//! where its sink's begins.
//!
//! `cargo run --example redis_streams`

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringwal::{Batch, Lsn, Outcome, Queue, Sink};

const STREAM: &str = "orders";

/// As much of Redis' protocol as is needed here; in a program take a client, such as the crate `redis`.
struct Redis(BufReader<UnixStream>);

#[derive(Debug)]
enum Reply {
    /// A string or a number.
    Text(String),
    Array(Vec<Self>),
}

impl Redis {
    fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends all commands at once, then reads as many replies.
    fn ask(&mut self, commands: &[Vec<&str>]) -> io::Result<Vec<Reply>> {
        let mut bytes = Vec::new();
        for words in commands {
            write!(bytes, "*{}\r\n", words.len())?;
            for word in words {
                write!(bytes, "${}\r\n{word}\r\n", word.len())?;
            }
        }
        self.0.get_mut().write_all(&bytes)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let len = || rest.parse::<usize>().map_err(io::Error::other);
        match kind {
            "+" | ":" => Ok(Reply::Text(rest.to_owned())),
            "$" => {
                let mut bytes = vec![0; len()? + "\r\n".len()];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - "\r\n".len());
                String::from_utf8(bytes).map(Reply::Text).map_err(io::Error::other)
            }
            "*" => (0..len()?).map(|_| self.reply()).collect::<io::Result<_>>().map(Reply::Array),
            _ => Err(io::Error::other(format!("redis says: {rest}"))),
        }
    }
}

struct Stream {
    redis: Mutex<Redis>,
    /// Whether the next answer gets lost after the batch was stored, as when a process dies at the worst moment.
    loses_answer: AtomicBool,
}

impl Stream {
    /// Number of the last entry that is in the stream; 0 while there is none.
    fn last(redis: &mut Redis) -> io::Result<u64> {
        let replies = redis.ask(&[vec!["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]])?;
        // [[[ID, [field, value]]]], or [[]].
        let [Reply::Array(entries)] = replies.as_slice() else { return Err(io::ErrorKind::InvalidData.into()) };
        let Some(Reply::Array(entry)) = entries.first() else { return Ok(0) };
        let Some(Reply::Text(id)) = entry.first() else { return Err(io::ErrorKind::InvalidData.into()) };
        id.trim_end_matches("-0").parse().map_err(io::Error::other)
    }

    fn append(&self, batch: &Batch<String>) -> io::Result<()> {
        let mut redis = self.redis.lock().map_err(|_| io::Error::other("another delivery panicked"))?;
        // A batch that was stored, wholly or its beginning, comes again.
        let last = Self::last(&mut redis)?;
        let new = || batch.iter().filter(|entry| entry.lsn.number() > last);
        let ids: Vec<String> = new().map(|entry| format!("{}-0", entry.lsn.number())).collect();
        let adds = ids.iter().zip(new()).map(|(id, entry)| vec!["XADD", STREAM, id, "order", &entry.value]);
        redis.ask(&adds.collect::<Vec<_>>())?;
        if self.loses_answer.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("stored, but the answer got lost"));
        }
        Ok(())
    }
}

impl Sink<String> for Stream {
    // After an error in the middle of replies a real sink would connect anew.
    async fn deliver(&self, batch: Batch<String>) -> Outcome {
        self.append(&batch).map_or_else(|error| Outcome::retry(error.to_string()), |()| Outcome::ack())
    }

    async fn committed(&self) -> Option<Lsn> {
        Self::last(&mut *self.redis.lock().ok()?).ok().map(|last| Lsn::ZERO.advance(last))
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// A server of our own, ended when this is dropped.
struct Server(Child);

impl Server {
    fn start(dir: &Path, socket: &Path) -> io::Result<Self> {
        let mut command = Command::new("redis-server");
        // No TCP at all; every write synced before its answer.
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--unixsocket").arg(socket).arg("--dir").arg(dir).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Self(command.spawn()?);
        let patience = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(socket).is_err() {
            if let Some(status) = server.0.try_wait()? {
                return Err(io::Error::other(format!("redis-server ended at once: {status}")));
            }
            if Instant::now() > patience {
                return Err(io::Error::other("redis-server does not listen after 60 s"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("redis.sock");
    let _server = match Server::start(dir.path(), &socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("SKIPPED: there is no redis-server on this machine (apt-get install redis-server)");
            return Ok(());
        }
        started => started?,
    };

    let sink = Stream { redis: Mutex::new(Redis::connect(&socket)?), loses_answer: AtomicBool::new(true) };
    let queue = Queue::builder(dir.path().join("queue")).open(sink)?;
    let orders = queue.producer();
    for order in 1..=1000 {
        orders.push(format!("order {order}"))?;
    }
    queue.drain(Duration::from_secs(60))?;
    let failures = queue.metrics().delivery_failures;
    queue.shutdown(Duration::from_secs(10))?;

    let mut redis = Redis::connect(&socket)?;
    let replies = redis.ask(&[vec!["XLEN", STREAM]])?;
    println!("in the stream: {replies:?}; answers lost: {failures}");
    assert!(matches!(&replies[..], [Reply::Text(len)] if len == "1000"), "each order once");
    assert_eq!(failures, 1);
    Ok(())
}
