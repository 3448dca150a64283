//! What can be asked, in one table: the router and the description of the API are both made from it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::get;
use clap::{Command, Parser};

use super::answer::{Answer, Refused};
use super::ask::command;
use super::gate::{Gate, HEADERS};
use super::service::Service;
use super::{apart, health, live, metrics, openapi, page, questions};

/// One path.
pub(super) struct Route {
    pub(super) path: &'static str,
    /// One line for the description.
    pub(super) summary: &'static str,
    /// Its parameters, as flags.
    pub(super) parameters: fn() -> Command,
    /// Types of its answers.
    pub(super) answers: &'static [&'static str],
    pub(super) how: How,
}

/// How it is answered.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// At once, from memory.
    Now(fn(&Service, &str) -> Result<Answer, Refused>),
    /// From the store, when its turn has come, by a process of its own.
    Work(fn(&Path, &str) -> Result<Answer, Refused>),
    /// For as long as somebody listens.
    Stream,
}

/// A question without parameters.
#[derive(Debug, Parser)]
pub(super) struct Nothing {}

const JSON: &[&str] = &["application/json"];
const TEXT: &[&str] = &["text/plain"];

/// Everything that can be asked.
pub(super) const ROUTES: &[Route] = &[
    Route {
        path: "/api/v1/status",
        summary: "What the daemon records, has written and lost, and what it costs",
        parameters: command::<Nothing>,
        answers: JSON,
        how: How::Now(health::status),
    },
    Route {
        path: "/api/v1/windows",
        summary: "Which windows are stored",
        parameters: command::<questions::Windows>,
        answers: JSON,
        how: How::Work(questions::windows),
    },
    Route {
        path: "/api/v1/top",
        summary: "The functions that took most, or callers and callees of one",
        parameters: command::<questions::Top>,
        answers: JSON,
        how: How::Work(questions::top),
    },
    Route {
        path: "/api/v1/flamegraph",
        summary: "A stretch of time as one profile, in any format",
        parameters: command::<questions::Flamegraph>,
        answers: &["image/svg+xml", "text/plain", "application/octet-stream", "application/json"],
        how: How::Work(questions::flamegraph),
    },
    Route {
        path: "/api/v1/diff",
        summary: "What changed from one stretch of time to another",
        parameters: command::<questions::Diff>,
        answers: JSON,
        how: How::Work(questions::diff),
    },
    Route {
        path: "/api/v1/series",
        summary: "One value per window and process over time",
        parameters: command::<questions::Series>,
        answers: JSON,
        how: How::Work(questions::series),
    },
    Route {
        path: "/api/v1/leaks",
        summary: "What was allocated and not freed, by site, of processes whose allocations are recorded",
        parameters: command::<questions::Leaks>,
        answers: JSON,
        how: How::Work(questions::leaks),
    },
    Route {
        path: "/api/v1/processes",
        summary: "Which processes used how much",
        parameters: command::<questions::Processes>,
        answers: JSON,
        how: How::Work(questions::processes),
    },
    Route {
        path: "/api/v1/live",
        summary: "Each window as it is closed: server-sent events named window",
        parameters: command::<Nothing>,
        answers: &["text/event-stream"],
        how: How::Stream,
    },
    Route {
        path: "/api/v1/openapi.json",
        summary: "This description",
        parameters: command::<Nothing>,
        answers: JSON,
        how: How::Now(|_, _| Ok(Answer::json(&openapi::document()))),
    },
    Route {
        path: "/metrics",
        summary: "Figures for Prometheus",
        parameters: command::<Nothing>,
        answers: TEXT,
        how: How::Now(metrics::metrics),
    },
    Route {
        path: "/healthz",
        summary: "Whether windows are closed in time; 503 with the reason when not",
        parameters: command::<Nothing>,
        answers: TEXT,
        how: How::Now(health::health),
    },
    Route {
        path: "/readyz",
        summary: "Whether there is something to read and windows are stored; 503 with the reason when not",
        parameters: command::<Nothing>,
        answers: TEXT,
        how: How::Now(health::ready),
    },
];

/// The router of one listener.
pub(super) fn router(service: Arc<Service>, gate: Gate) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let (path, how) = (route.path, route.how);
        let handle = move |State(service): State<Arc<Service>>, request: Request| async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            answer(&service, path, how, query).await.unwrap_or_else(|refused| refused.response())
        };
        router = router.route(route.path, get(handle));
    }
    for (path, ..) in page::FILES {
        let handle = move |State(service): State<Arc<Service>>| async move {
            page::file(path).and_then(|file| service.send(file)).unwrap_or_else(|refused| refused.response())
        };
        router = router.route(path, get(handle));
    }
    let nowhere = || async {
        let refused = Refused::new(StatusCode::NOT_FOUND, "path", "there is nothing at this path");
        refused.hint("GET /api/v1/openapi.json lists what there is").response()
    };
    let state = (Arc::clone(&service), gate);
    router.fallback(nowhere).layer(from_fn_with_state(state, pass)).with_state(service)
}

async fn answer(service: &Service, path: &str, how: How, query: String) -> Result<Response<Body>, Refused> {
    match how {
        How::Now(answer) => service.send(answer(service, &query)?),
        How::Work(_) => {
            let (answer, cpu_ns) = service.work.run(apart::ask(&service.store, path, &query)).await?;
            service.work.cpu_ns.fetch_add(cpu_ns, Ordering::Relaxed);
            service.send(answer?)
        }
        How::Stream => {
            super::ask::question::<Nothing>(&query)?;
            live::stream(service)
        }
    }
}

/// Every request goes through here, and every answer.
async fn pass(
    State((service, gate)): State<(Arc<Service>, Gate)>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let mut response = match gate.check(request.method(), request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.response(),
    };
    let status = response.status();
    service.counts.by_class[usize::from(status.as_u16() / 100).min(5)].fetch_add(1, Ordering::Relaxed);
    if status == StatusCode::TOO_MANY_REQUESTS {
        service.counts.busy.fetch_add(1, Ordering::Relaxed);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
