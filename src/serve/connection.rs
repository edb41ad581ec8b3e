//! One connection: a request, an answer, closed; all of it within a deadline.
//!
//! hyper drives it over blocking reads and writes that are given what is left of the time.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::engine::call::Unpark;
use crate::serve::pages;
use crate::watch::Watch;

/// For all of a connection. A probe that takes longer has given up, or is none.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest head of a request.
const HEAD_LEN_MAX: usize = 16 << 10;
/// As much is read at once.
const READ_LEN: usize = 4 << 10;
/// Fits into the buffer of any socket: writing it does not wait.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// There are connections enough.
pub(super) fn refuse(mut stream: TcpStream) {
    // Who is gone need not be told.
    let _ = stream.set_write_timeout(Some(Duration::from_millis(1)));
    let _ = stream.write_all(BUSY);
}

/// Answers one request. What goes wrong is the client's affair: there is nobody to tell.
pub(super) fn answer(stream: &TcpStream, queues: &[Watch]) {
    converse(stream, queues);
    // Whoever accepted it has it too, and may keep that until the next one comes.
    let _ = stream.shutdown(Shutdown::Both);
}

fn converse(stream: &TcpStream, queues: &[Watch]) {
    let deadline = Instant::now() + WITHIN;
    let service = service_fn(|request| {
        let answer = pages::answer(&request, queues);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        // Else a read would wait for the client to hang up before the answer is written.
        .half_close(true)
        // Each read has what is left of the deadline.
        .header_read_timeout(None)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(Timed { stream, deadline }, service);
    let mut connection = pin!(connection);
    let waker = Unpark::waker(thread::current());
    let mut context = Context::from_waker(&waker);
    while connection.as_mut().poll(&mut context).is_pending() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// A stream whose reads and writes wait no longer than until a deadline.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// Once more, when a signal came between.
fn again<T>(mut action: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        match action() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

impl hyper::rt::Read for Timed<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut buffer = [0; READ_LEN];
        let len = into.remaining().min(READ_LEN);
        again(|| {
            let left = self.left()?;
            self.stream.set_read_timeout(left)?;
            let len = self.stream.read(&mut buffer[..len])?;
            into.put_slice(&buffer[..len]);
            Ok(())
        })
    }
}

impl hyper::rt::Write for Timed<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        again(|| {
            let left = self.left()?;
            self.stream.set_write_timeout(left)?;
            self.stream.write(bytes)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}
