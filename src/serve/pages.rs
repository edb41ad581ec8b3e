//! What stands on the pages.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::families::{Number, Unit, Values, families};
use crate::health::{Concern, Health};
use crate::histogram::Histogram;
use crate::prometheus::prometheus_text;
use crate::watch::{Snapshot, Watch};

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const INDEX: &str = "/metrics  for Prometheus\n/health   JSON; 503 when a queue has failed\n/stats    JSON\n";

/// The answer to a request. Its body, if it has one, is not looked at.
pub(super) fn answer<B>(request: &Request<B>, queues: &[Watch]) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let now = || queues.iter().map(Watch::snapshot).collect::<Vec<_>>();
    match request.uri().path() {
        "/metrics" => {
            let now = now();
            let text = prometheus_text(now.iter().map(|queue| (queue.name.as_str(), &queue.metrics, &queue.health)));
            page(StatusCode::OK, PROMETHEUS, text)
        }
        "/health" => health(&now()),
        "/stats" => page(StatusCode::OK, JSON, line(&json!({ "queues": now().iter().map(stats).collect::<Vec<_>>() }))),
        "/" => page(StatusCode::OK, TEXT, INDEX.to_owned()),
        _ => page(StatusCode::NOT_FOUND, TEXT, format!("there is\n{INDEX}")),
    }
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// The worst of them counts.
fn health(queues: &[Snapshot]) -> Response<String> {
    let worst = queues.iter().map(|queue| state(&queue.health)).max_by_key(|(rank, _)| *rank).unwrap_or((0, "ok"));
    let each: Vec<Value> = queues.iter().map(|queue| health_of(&queue.name, &queue.health)).collect();
    let status = if worst.0 == FAILED { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    page(status, JSON, line(&json!({ "status": worst.1, "queues": each })))
}

const FAILED: u8 = 2;

const fn state(health: &Health) -> (u8, &'static str) {
    match health {
        Health::Ok => (0, "ok"),
        Health::Degraded(_) => (1, "degraded"),
        Health::Failed(_) => (FAILED, "failed"),
    }
}

fn health_of(name: &str, health: &Health) -> Value {
    let reasons: Vec<String> = health.reasons().iter().map(Concern::to_string).collect();
    json!({ "queue": name, "status": state(health).1, "reasons": reasons })
}

fn stats(queue: &Snapshot) -> Value {
    let mut metrics = Map::new();
    for family in families(&queue.metrics, &queue.health) {
        let value = match family.values {
            Values::One(value) => number(value),
            Values::By(_, rows) if family.name == "driver" => rows.first().map_or(Value::Null, |(name, _)| json!(name)),
            Values::By(_, rows) => rows.iter().map(|(name, value)| ((*name).to_owned(), number(*value))).collect(),
            Values::Buckets(histogram, unit) => distribution(histogram, unit),
        };
        metrics.insert(family.name.to_owned(), value);
    }
    let mut page = health_of(&queue.name, &queue.health);
    page["metrics"] = Value::Object(metrics);
    page
}

fn number(value: Number) -> Value {
    match value {
        Number::Whole(number) => json!(number),
        Number::Seconds(seconds) => json!(seconds),
    }
}

fn distribution(histogram: &Histogram, unit: Unit) -> Value {
    let quantile = |share| unit.told(histogram.quantile(share));
    json!({
        "count": histogram.count(),
        "sum": unit.told(histogram.sum()),
        "p50": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "p999": quantile(0.999),
        "max": quantile(1.0),
    })
}
