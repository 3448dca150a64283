//! Windows as they are closed, as server-sent events (HTML Living Standard, 9.2): one `window` each.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::answer::Refused;
use super::service::{MOST_STREAMS, Service};
use crate::continuous::Live;

/// Time between two signs of life to whoever stands between.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Begins a stream: what the last window was, then each as it is closed. Who is slow misses some.
pub(super) fn stream(service: &Service) -> Result<Response, Refused> {
    let place = std::sync::Arc::clone(&service.streams)
        .try_acquire_owned()
        .map_err(|_| Refused::busy(format!("{MOST_STREAMS} streams are open already")))?;
    let begin = (service.live.clone(), 0_u64, true, place);
    let events = stream::unfold(begin, |(mut live, mut told, mut is_first, place)| async move {
        loop {
            if !is_first {
                live.changed().await.ok()?;
            }
            is_first = false;
            let now = live.borrow_and_update().clone();
            let Some(now) = now.filter(|now| now.status.windows != told || told == 0) else { continue };
            told = now.status.windows.max(1);
            let event = Event::default().event("window").data(window(&now).to_string());
            return Some((Ok::<_, Infallible>(event), (live, told, is_first, place)));
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response())
}

/// The last window, and how things stand.
fn window(live: &Live) -> Value {
    let (status, last) = (&live.status, live.last.as_deref());
    let lost = status.lost.iter().fold(0_u64, |sum, counter| sum.saturating_add(counter.count));
    json!({
        "schema": 1,
        "type": last.map(|window| &window.profile_type),
        "start_unix_ns": last.map(|window| window.start_unix_ns),
        "duration_ns": last.map(|window| window.duration_ns),
        "processes": last.map(|window| window.by_process.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()),
        "other": last.map(|window| window.other),
        "windows": status.windows,
        "samples": status.samples,
        "lost": lost,
        "cost_percent": status.last_cost_percent,
        "rss_bytes": status.rss_bytes,
    })
}
