//! A sink that posts batches to an HTTP service which may take a part of one: each entry gets the verdict that the
//! answer has for it, and "too many requests" is obeyed.
//!
//! ```text
//!  POST /rows  "7\nseven\n\n11"                      one line for each entry
//!  200  ["taken", "invalid", "busy", "taken"]        one word for each line: acknowledge, park, try again
//!  429  Retry-After: 1                               none of it, and when to come again
//! ```
//!
//! `cargo run --example http_partial`

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ringwal::{Batch, Lsn, Queue, SinkError, Verdict, blocking_fn};

/// What the service has seen.
#[derive(Default)]
struct Service {
    requests: u32,
    rows: Vec<String>,
    was_busy: bool,
}

/// Too busy for the first request, and for the first "7" it meets; never takes an empty line.
async fn rows(State(service): State<Arc<Mutex<Service>>>, body: String) -> Response {
    let mut service = service.lock().expect("no request panics");
    service.requests += 1;
    if service.requests == 1 {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response();
    }
    let mut answer = Vec::new();
    for line in body.split('\n') {
        answer.push(match line {
            "" => "invalid",
            "7" if !service.was_busy => {
                service.was_busy = true;
                "busy"
            }
            _ => {
                service.rows.push(line.to_owned());
                "taken"
            }
        });
    }
    serde_json::to_string(&answer).expect("words are JSON").into_response()
}

/// Posts a batch and translates the answer. Whatever fails here by `?` (no connection, no such status, not JSON) means
/// that all of the batch is offered again.
fn deliver(http: &ureq::Agent, url: &str, batch: &Batch<String>) -> Result<Vec<Verdict>, SinkError> {
    let lines: Vec<&str> = batch.values().map(String::as_str).collect();
    let mut response = http.post(url).send(lines.join("\n"))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS => {
            let after = response.headers().get(header::RETRY_AFTER).ok_or("429 without Retry-After")?;
            let after = Duration::from_secs(after.to_str()?.parse()?);
            println!("too many requests: {} entries wait for {after:?}", batch.len());
            return Err(SinkError::retry_after(after, "the service is busy"));
        }
        other => return Err(SinkError::retry(format!("the service answered {other}"))),
    }
    let words: Vec<String> = serde_json::from_str(&response.body_mut().read_to_string()?)?;
    // As many verdicts as entries: with another number ringwal offers the whole batch again.
    let verdict = |word: &String| match word.as_str() {
        "taken" => Verdict::Ack,
        "busy" => Verdict::Retry("the service had no time for this row".into()),
        other => Verdict::Park(format!("the service says: {other}").into()),
    };
    Ok(words.iter().map(verdict).collect())
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // The service.
    let service = Arc::new(Mutex::new(Service::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let url = format!("http://{}/rows", listener.local_addr()?);
    let app = Router::new().route("/rows", post(rows)).with_state(Arc::clone(&service));
    runtime.spawn(async move { axum::serve(listener, app).await });

    // The queue. A status is an answer here, not an error; nothing waits for ever.
    let http: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let dir = tempfile::tempdir()?;
    let queue =
        Queue::builder(dir.path()).open(blocking_fn(move |batch: &Batch<String>| deliver(&http, &url, batch)))?;
    queue.producer().push_batch(["7", "seven", "", "11"].map(str::to_owned))?;
    queue.drain(Duration::from_secs(60))?;

    for entry in queue.parked().list(Lsn::ZERO, 10)? {
        println!("parked: entry {}: {}", entry.lsn, entry.error);
    }
    let metrics = queue.metrics();
    assert_eq!((metrics.delivered, queue.parked().len()), (3, 1));
    queue.shutdown(Duration::from_secs(10))?;
    let mut taken = std::mem::take(&mut service.lock().expect("no request panics").rows);
    println!("the service took {taken:?}");
    taken.sort();
    assert_eq!(taken, ["11", "7", "seven"], "each once: only what was not taken came again");
    runtime.shutdown_timeout(Duration::from_secs(10));
    Ok(())
}
