//! What all requests share.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Watch;
use super::answer::{Answer, Refused};
use super::work::Places;

/// Largest answer, bytes.
pub(super) const LARGEST: usize = 32 << 20;
/// Bytes of all answers that are not sent yet, in KiB.
const MOST_KIB: usize = 64 << 10;
/// Streams at the same time.
pub(super) const MOST_STREAMS: usize = 32;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) store: PathBuf,
    pub(super) live: Watch,
    pub(super) work: Places,
    pub(super) streams: Arc<Semaphore>,
    held: Arc<Semaphore>,
    pub(super) counts: Counts,
}

/// Requests so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the first digit of the status: 2, 3, 4, 5; the rest in the first place.
    pub(super) by_class: [AtomicU64; 6],
    /// Refused because of too many.
    pub(super) busy: AtomicU64,
}

impl Service {
    pub(super) fn new(store: PathBuf, live: Watch) -> Self {
        Self {
            store,
            live,
            work: Places::new(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            held: Arc::new(Semaphore::new(MOST_KIB)),
            counts: Counts::default(),
        }
    }

    /// An answer on its way. What it holds is counted until it was sent.
    pub(super) fn send(&self, answer: Answer) -> Result<Response<Body>, Refused> {
        let kib = u32::try_from(answer.bytes.len() / 1024 + 1).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.held).try_acquire_many_owned(kib).map_err(|_| {
            Refused::unavailable("busy", "too many answers are on their way to readers who do not take them")
        })?;
        let mut response =
            Response::new(Body::new(Held { bytes: Some(Bytes::from(answer.bytes)), _held: held }));
        let headers = response.headers_mut();
        headers.extend(
            HeaderValue::try_from(&*answer.content_type).ok().map(|value| (header::CONTENT_TYPE, value)),
        );
        if let Some(name) = answer.save_as {
            let value = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
            headers.extend(value.ok().map(|value| (header::CONTENT_DISPOSITION, value)));
        }
        Ok(response)
    }
}

/// Bytes that count as held until the connection is done with them.
struct Held {
    bytes: Option<Bytes>,
    _held: OwnedSemaphorePermit,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        /// Handed over in pieces: the body is dropped, and its bytes are given back, when the last one was taken.
        const PIECE: usize = 64 << 10;
        let Some(bytes) = &mut self.bytes else { return Poll::Ready(None) };
        let piece = bytes.split_to(bytes.len().min(PIECE));
        if bytes.is_empty() {
            self.bytes = None;
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
