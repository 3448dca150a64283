//! The daemon's API: what is stored, over HTTP, for reading alone.
//!
//! In: a configuration, a store, and what the recorder tells ([`Live`](crate::continuous::Live)). Out: answers on a Unix socket, and over TCP where
//! configured. All of it runs on a thread of its own with a runtime of its own, and what takes long in two processes at most, which give way to
//! everybody else on the host: recording never waits for readers, and its memory does not grow with their questions. Everything that readers can make it hold is bounded, and who comes on top is
//! told so (429, 503) and when to try again.
//!
//! ```text
//! listen (socket, TCP, TLS) ─► connection ─► gate (who, from where) ─► routes ─► work (two at a time) ─► apart (a process) ─► ask (parameters = flags of `query`) ─► answer
//! ```

mod answer;
mod apart;
mod ask;
mod connection;
mod gate;
mod health;
mod listen;
mod live;
mod metrics;
mod openapi;
mod page;
mod questions;
mod routes;
mod service;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::continuous::{ApiConfig, Live};
pub use apart::answer;
pub use listen::{Prepared, ServeError};
use service::Service;

/// What those who watch a recorder see.
pub type Watch = watch::Receiver<Option<Arc<Live>>>;

/// How long answers that are on their way may take when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How much the API gives way, processes included, to others (nice(1)).
const NICE: i32 = 10;

/// A running API. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    socket: Option<PathBuf>,
    addresses: Vec<String>,
    warnings: Vec<String>,
}

impl Server {
    /// Begins to answer.
    ///
    /// # Errors
    ///
    /// An address cannot be listened on.
    pub fn start(prepared: Prepared, store: PathBuf, live: Watch) -> Result<Self, ServeError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
        let bound = {
            let _inside = runtime.enter();
            prepared.bind()?
        };
        let (socket, addresses) = (bound.socket.clone(), bound.addresses());
        let warnings = bound.warnings.clone();
        let (end, ended) = oneshot::channel();
        let service = Arc::new(Service::new(store, live));
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                give_way();
                runtime.block_on(async move {
                    connection::accept_all(bound, service);
                    let _asked_or_gone = ended.await;
                });
                runtime.shutdown_timeout(LAST_ANSWERS);
            })
            .map_err(ServeError::Thread)?;
        Ok(Self { end: Some(end), thread: Some(thread), socket, addresses, warnings })
    }

    /// Where it answers, as people type it.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What was configured and is not there.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _reported = thread.join();
        }
        if let Some(socket) = &self.socket {
            let _gone = std::fs::remove_file(socket);
        }
    }
}

/// What answers the socket and the address of a configuration; nothing where it has neither.
///
/// # Errors
///
/// A file of it cannot be used.
pub fn prepare(config: &ApiConfig) -> Result<Option<Prepared>, ServeError> {
    (config.socket.is_some() || config.listen.is_some()).then(|| Prepared::new(config)).transpose()
}

fn give_way() {
    // Of this thread alone, as Linux has it (setpriority(2), C library/kernel differences).
    let _as_before_if_refused = rustix::process::setpriority_process(None, NICE);
}

/// Of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
