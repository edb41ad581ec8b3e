//! The small HTTP server: its pages, and what a bad client may do to it. Loopback only.

mod common;
mod exposition;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{LONG, Numbered, Recorder, drain, small};
use ringwal::{Durability, Queue, ServeError, Server, serve};
use serde_json::Value;

fn open(dir: &std::path::Path, name: &str) -> Queue<Numbered> {
    small(dir, Durability::Immediate).name(name).open(Recorder::default()).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LONG).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
}

/// Everything until the other side closes; a connection that is cut closes too.
fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(bytes).unwrap()
}

/// Status, head and body.
fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_all(stream);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
}

fn json(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, head, body) = get(address, path);
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, serde_json::from_str(&body).unwrap())
}

/// A server for one queue in memory.
fn one(dir: &std::path::Path) -> (Queue<Numbered>, Server) {
    let queue = open(dir, "orders");
    let server = serve("127.0.0.1:0", [queue.watch()]).unwrap();
    (queue, server)
}

#[test]
fn the_pages_tell_what_the_queues_do() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (open(dirs[0].path(), "one"), open(dirs[1].path(), "two"));
    let server = serve("127.0.0.1:0", [one.watch(), two.watch()]).unwrap();
    let address = server.address();
    (0..7).for_each(|n| _ = one.producer().push(Numbered::new(0, n, 10)).unwrap());
    drain(&one);

    let (status, head, text) = get(address, "/metrics?format=prometheus");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let delivered = exposition::parse(&text)["ringwal_delivered_total"].samples.clone();
    let delivered: Vec<_> = delivered.iter().map(|sample| (sample.labels["queue"].as_str(), sample.value)).collect();
    assert_eq!(delivered, [("one", 7.0), ("two", 0.0)]);

    let (status, stats) = json(address, "/stats");
    assert_eq!(status, 200);
    let of_one = &stats["queues"][0];
    assert_eq!((of_one["queue"].as_str(), of_one["metrics"]["pushed_total"].as_u64()), (Some("one"), Some(7)));
    assert_eq!(of_one["metrics"]["driver"], one.metrics().driver);
    assert_eq!(of_one["metrics"]["rejected_total"]["full"], 0);
    let batches = &of_one["metrics"]["batch_entries"];
    assert_eq!((batches["sum"].as_f64(), batches["max"].as_f64() <= Some(7.0 * 1.25)), (Some(7.0), true), "{batches}");

    let (status, health) = json(address, "/health");
    // Where the machine does not give all that was asked for they are degraded from the start.
    let state = if one.health().is_ok() { "ok" } else { "degraded" };
    assert_eq!((status, &health["status"]), (200, &Value::from(state)), "{health}");
    assert_eq!(health["queues"].as_array().unwrap().len(), 2);
    // One that has failed counts for all of them.
    two.shutdown(LONG).unwrap();
    let (status, health) = json(address, "/health");
    assert_eq!((status, &health["status"]), (503, &Value::from("failed")));
    assert_eq!((&health["queues"][0]["status"], &health["queues"][1]["status"]), (&state.into(), &"failed".into()));
    assert_eq!(health["queues"][1]["reasons"][0], "the queue is closed");
    one.shutdown(LONG).unwrap();
}

#[test]
fn other_paths_and_methods_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, server) = one(dir.path());
    let address = server.address();
    let (status, _, body) = get(address, "/metricsx");
    assert!(status == 404 && body.contains("/metrics"), "{status} {body}");
    assert_eq!(get(address, "/").0, 200);
    let (status, head, _) = ask(address, "POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc");
    assert!(status == 405 && head.contains("allow: get, head"), "{status} {head}");
    let (status, head, body) = ask(address, "HEAD /health HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(status == 200 && head.contains("application/json") && body.is_empty(), "{status} {head} {body}");
    // HTTP 1.0, as health probes speak it.
    assert_eq!(ask(address, "GET /health HTTP/1.0\r\n\r\n").0, 200);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_degraded_queue_is_not_called_failed() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = ringwal::blocking_fn(|_: &ringwal::Batch<Numbered>| Err::<(), _>(ringwal::SinkError::park("never")));
    let queue = small(dir.path(), Durability::Immediate).open(refuse).unwrap();
    let server = serve("127.0.0.1:0", [queue.watch()]).unwrap();
    queue.producer().push(Numbered::new(0, 1, 10)).unwrap();
    drain(&queue);
    let (status, health) = json(server.address(), "/health");
    assert_eq!((status, &health["status"]), (200, &Value::from("degraded")), "{health}");
    assert!(health["queues"][0]["reasons"].to_string().contains("1 entries are parked"), "{health}");
    queue.shutdown(LONG).unwrap();
}

/// Eight connections are open at once, and none of them for ever.
#[test]
fn clients_that_send_nothing_hold_nobody_up_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, server) = one(dir.path());
    let address = server.address();
    // As the first of them may be cut off before the last has come, on a machine that does much else, more than once.
    let refused = (0..20).any(|_| {
        let idle: Vec<TcpStream> = (0..8).map(|_| connect(address)).collect();
        let refused = read_all(connect(address)).starts_with("HTTP/1.1 503 ");
        drop(idle);
        refused
    });
    assert!(refused, "the ninth connection was never refused");
    // Who hangs up makes room.
    let deadline = Instant::now() + LONG;
    while !read_all({
        let mut stream = connect(address);
        // It may be refused, and closed, while this is being sent.
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n");
        stream
    })
    .starts_with("HTTP/1.1 200 ")
    {
        assert!(Instant::now() < deadline, "no room is made");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Who sends nothing, or a little now and then, is cut off; waiting for more would fail by the time-out of `read`.
    let mut slow = connect(address);
    slow.write_all(b"GET /hea").unwrap();
    assert_eq!(read_all(slow), "");
    queue.shutdown(LONG).unwrap();
}

#[test]
fn a_head_without_end_is_refused_and_the_next_one_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, server) = one(dir.path());
    let mut stream = connect(server.address());
    // The other side may close before it has read all of it.
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nhost: {}", "x".repeat(1 << 20)).as_bytes());
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let mut stream = connect(server.address());
    let _ = stream.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    let answer = read_all(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(get(server.address(), "/health").0, 200);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn stopping_frees_the_port_and_cuts_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path(), "orders");
    // Another process may have taken the port before it is had again: then once more.
    let was_free = (0..10).any(|_| {
        let server = serve("127.0.0.1:0", [queue.watch()]).unwrap();
        let address = server.address();
        let idle = connect(address);
        assert_eq!(get(address, "/health").0, 200, "the idle one was accepted before");
        server.stop();
        assert_eq!(read_all(idle), "");
        let Ok(again) = serve(address, [queue.watch()]) else { return false };
        assert_eq!((again.address(), get(address, "/health").0), (address, 200));
        drop(again);
        TcpListener::bind(address).is_ok()
    });
    assert!(was_free);
    queue.shutdown(LONG).unwrap();
}

#[test]
fn what_cannot_be_served_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, server) = one(dir.path());
    let taken = serve(server.address(), [queue.watch()]).unwrap_err();
    assert!(matches!(taken, ServeError::Listen { .. }), "{taken:?}");
    assert!(taken.to_string().contains(&server.address().to_string()), "{taken}");
    let twice = serve("127.0.0.1:0", [queue.watch(), queue.watch()]).unwrap_err();
    assert_eq!(twice.to_string(), "two of the queues to serve are named \"orders\"; give each a name of its own");
    let nonsense = serve("127.0.0.1", [queue.watch()]).unwrap_err();
    assert!(nonsense.to_string().contains("HOST:PORT"), "{nonsense}");
    queue.shutdown(LONG).unwrap();
}
