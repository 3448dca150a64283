//! How the daemon is: for people, and for those who start it again.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;

use super::answer::{Answer, Refused};
use super::ask::question;
use super::routes::Nothing;
use super::service::{MOST_STREAMS, Service};
use crate::continuous::Live;
use crate::output::duration;
use crate::session::clock;

/// Windows after whose length without a new one something is wrong, and time on top: a slow disk is none of it.
const MISSED: u64 = 3;
const GRACE_NS: u64 = 30_000_000_000;

/// What `daemon status --json` says, and how the API is.
pub(super) fn status(service: &Service, query: &str) -> Result<Answer, Refused> {
    question::<Nothing>(query)?;
    let live = told(service)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(Answer::json(&json!({
        "schema": 1,
        "version": super::VERSION,
        "running": true,
        "host": crate::profile::clean(host.trim().as_bytes()),
        "status": live.status,
        "api": {
            "waiting": service.work.waiting(),
            "streams": MOST_STREAMS - service.streams.available_permits(),
        },
    })))
}

/// Whether windows are closed in time.
pub(super) fn health(service: &Service, query: &str) -> Result<Answer, Refused> {
    question::<Nothing>(query)?;
    let status = &told(service)?.status;
    let since_ns = clock::unix_ns().saturating_sub(status.last_unix_ns.max(status.started_unix_ns));
    if since_ns > late_ns(status.window_ns) {
        let message = format!(
            "no window was closed for {}; one is due every {}",
            duration(since_ns),
            duration(status.window_ns)
        );
        return Err(Refused::unavailable("late", message));
    }
    Ok(Answer::text("text/plain; charset=utf-8", "ok\n"))
}

/// Whether there is something to read, and windows are stored.
pub(super) fn ready(service: &Service, query: &str) -> Result<Answer, Refused> {
    health(service, query)?;
    let live = told(service)?;
    if live.is_failing {
        let message = "the last window could not be stored; perf-agent daemon status says why";
        return Err(Refused::unavailable("store", message));
    }
    if live.status.windows == 0 {
        let message = format!("the first window is open; it is {} long", duration(live.status.window_ns));
        return Err(Refused::unavailable("first", message));
    }
    Ok(Answer::text("text/plain; charset=utf-8", "ok\n"))
}

fn late_ns(window_ns: u64) -> u64 {
    window_ns.saturating_mul(MISSED).saturating_add(GRACE_NS)
}

pub(super) fn told(service: &Service) -> Result<Arc<Live>, Refused> {
    let live = service.live.borrow().clone();
    live.ok_or_else(|| {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "start", "the recorder has not said anything yet")
    })
}
