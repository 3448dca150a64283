//! Connections: accepted as long as there is room, each with a limit on how long it may take to say something, and on how long it may live.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::gate::Gate;
use super::listen::Bound;
use super::service::Service;

/// Connections at the same time, over all listeners. Others wait in the kernel.
const MOST: usize = 256;
/// Time in which the head of a request has to be there, and after which a connection that says nothing is closed.
const HEAD: Duration = Duration::from_secs(15);
/// Largest head of a request, bytes.
const LARGEST_HEAD: usize = 16 << 10;
/// Time for the greetings of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Life of a connection. Who streams connects again; who reads as slowly as this holds memory for nothing.
const LIFE: Duration = Duration::from_mins(15);
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Wait after a connection could not be accepted: descriptors have run out, or memory.
const AGAIN: Duration = Duration::from_millis(200);

/// Accepts from all listeners, on tasks of this runtime.
pub(super) fn accept_all(bound: Bound, service: Arc<Service>) {
    let room = Arc::new(Semaphore::new(MOST));
    let Bound { unix, tcp, tls, gate, .. } = bound;
    if let Some(listener) = unix {
        // Who may connect was settled by the file's mode.
        let router = super::routes::router(Arc::clone(&service), Gate::default());
        let room = Arc::clone(&room);
        tokio::spawn(async move {
            while let Some(permit) = admit(&room).await {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(talk(stream, router.clone(), permit))),
                    Err(_) => sleep(AGAIN).await,
                }
            }
        });
    }
    if let Some(listener) = tcp {
        let router = super::routes::router(service, gate);
        tokio::spawn(async move {
            while let Some(permit) = admit(&room).await {
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(AGAIN).await;
                    continue;
                };
                let (router, tls) = (router.clone(), tls.clone());
                tokio::spawn(async move {
                    let _as_it_is = stream.set_nodelay(true);
                    match tls {
                        None => talk(stream, router, permit).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                                talk(stream, router, permit).await;
                            }
                        }
                    }
                });
            }
        });
    }
}

async fn admit(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(room).acquire_owned().await.ok()
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, _permit: OwnedSemaphorePermit) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ended = &mut connection => return,
        () = sleep(LIFE) => connection.as_mut().graceful_shutdown(),
    }
    let _ended_or_not = timeout(LAST_WORDS, connection).await;
}
