//! A web service that stores orders in SQLite: a request is answered when its order is on disk, however slow the
//! database is, and each order is in the table once, because its number is its key there.
//!
//! Closing in order: the server first, so that nobody pushes any more, then the queue, which brings the rest to the
//! sink.
//!
//! `cargo run --features cli --example service` (the feature brings SQLite)

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use ringwal::{Batch, Lsn, Outcome, Producer, Queue, Sink};
use rusqlite::{Connection, params};

/// Orders as rows of a table.
struct Table(Mutex<Connection>);

impl Table {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute("CREATE TABLE IF NOT EXISTS orders (lsn INTEGER PRIMARY KEY, what TEXT NOT NULL)", [])?;
        Ok(Self(Mutex::new(connection)))
    }

    fn store(&self, batch: &Batch<String>) -> Result<(), Box<dyn Error>> {
        let mut connection = self.0.lock().map_err(|_| "another delivery panicked")?;
        let transaction = connection.transaction()?;
        {
            // A batch that was stored, but whose answer got lost, comes again: its rows are there.
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO orders VALUES (?1, ?2)")?;
            for entry in batch.iter() {
                insert.execute(params![i64::try_from(entry.lsn.number())?, entry.value])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Sink<String> for Table {
    async fn deliver(&self, batch: Batch<String>) -> Outcome {
        self.store(&batch).map_or_else(|error| Outcome::retry(error.to_string()), |()| Outcome::ack())
    }

    async fn committed(&self) -> Option<Lsn> {
        let connection = self.0.lock().ok()?;
        let last: i64 = connection.query_row("SELECT ifnull(max(lsn), 0) FROM orders", [], |row| row.get(0)).ok()?;
        Some(Lsn::ZERO.advance(u64::try_from(last).ok()?))
    }

    fn blocks(&self) -> bool {
        true
    }
}

async fn order(State(orders): State<Producer<String>>, what: String) -> (StatusCode, String) {
    if what.is_empty() {
        return (StatusCode::BAD_REQUEST, "an order of nothing".to_owned());
    }
    // Waits, without blocking the thread, while the queue is full; then until the order is on disk.
    let answer = match orders.push_async(what).await {
        Ok(receipt) => orders.durable(receipt).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(()) => (StatusCode::ACCEPTED, "it will be done".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("orders.db");
    let queue = Queue::builder(dir.path().join("queue")).open(Table::open(&database)?)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let url = format!("http://{}/orders", listener.local_addr()?);
    let app = Router::new().route("/orders", post(order)).with_state(queue.producer());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = runtime.spawn(async move {
        let stopped = async move { stopped.await.unwrap_or_default() };
        axum::serve(listener, app).with_graceful_shutdown(stopped).await
    });

    // A few customers. Connections are not kept, or the server would wait for them at its end.
    let http: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .max_idle_connections(0)
        .build()
        .into();
    for what in ["a lamp", "two chairs", "", "a table"] {
        let mut response = http.post(&url).send(what)?;
        println!("{what:?}: {} {}", response.status(), response.body_mut().read_to_string()?);
        let wanted = if what.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::ACCEPTED };
        assert_eq!(response.status(), wanted);
    }

    let _ = stop.send(());
    runtime.block_on(server)??;
    queue.drain(Duration::from_secs(60))?;
    let end = queue.shutdown(Duration::from_secs(10))?;
    assert_eq!((end.delivered, end.left_in_log), (3, 0));

    let connection = Connection::open(&database)?;
    let mut select = connection.prepare("SELECT lsn, what FROM orders ORDER BY lsn")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let rows: Vec<(i64, String)> = rows;
    println!("in the table: {rows:?}");
    assert_eq!(rows, [(1, "a lamp".to_owned()), (2, "two chairs".to_owned()), (3, "a table".to_owned())]);
    Ok(())
}
