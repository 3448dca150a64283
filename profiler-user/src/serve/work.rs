//! Answers that take long: a few at a time, some more in a queue, the rest is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Refused;
use crate::session::clock;
use crate::system::heap;

/// Answers that are worked on at the same time, each on a thread.
pub(super) const AT_A_TIME: usize = 2;
/// Requests that wait for their turn.
pub(super) const WAITING: usize = 32;
/// Longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest work on an answer that is waited for. It goes on after that, and its place stays taken until it is done.
const LONGEST: Duration = Duration::from_secs(30);

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    busy: Arc<AtomicUsize>,
    /// CPU time of all answers so far, nanoseconds.
    pub(super) cpu_ns: Arc<AtomicU64>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: Semaphore::new(WAITING),
            busy: Arc::default(),
            cpu_ns: Arc::default(),
        }
    }

    /// Requests that wait for their turn now.
    pub(super) fn waiting(&self) -> usize {
        WAITING.saturating_sub(self.waiting.available_permits())
    }

    /// Does it when its turn has come.
    ///
    /// # Errors
    ///
    /// Too many want something, it takes too long, or it failed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let place = self.waiting.try_acquire().map_err(|_| {
            Refused::busy(format!("{AT_A_TIME} requests are worked on and {WAITING} wait; try again soon"))
        })?;
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Refused::unavailable("busy", format!("no turn came in {} s", PATIENCE.as_secs())));
        };
        drop(place);
        let (busy, cpu_ns) = (Arc::clone(&self.busy), Arc::clone(&self.cpu_ns));
        let done = tokio::task::spawn_blocking(move || {
            let _until_done = turn;
            busy.fetch_add(1, Ordering::AcqRel);
            let before_ns = clock::thread_cpu_ns();
            let result = job();
            cpu_ns.fetch_add(clock::thread_cpu_ns().saturating_sub(before_ns), Ordering::Relaxed);
            if busy.fetch_sub(1, Ordering::AcqRel) == 1 {
                heap::give_back();
            }
            result
        });
        match timeout(LONGEST, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                let message = "the answer could not be made; the daemon's log says why";
                Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "panic", message))
            }
            Err(_) => {
                let message = format!("no answer after {} s", LONGEST.as_secs());
                Err(Refused::unavailable("slow", message).hint("ask for less time, or for one process"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn who_comes_on_top_is_told_so() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(AT_A_TIME)
            .build()
            .unwrap();
        let work = Arc::new(Places::new());
        let gate = Arc::new(AtomicBool::new(false));
        runtime.block_on(async {
            let mut asked = Vec::new();
            for _ in 0..100 {
                let (work, gate) = (Arc::clone(&work), Arc::clone(&gate));
                asked.push(tokio::spawn(async move {
                    work.run(move || {
                        while !gate.load(Ordering::Acquire) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Ok(())
                    })
                    .await
                }));
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            assert_eq!(work.waiting(), WAITING);
            gate.store(true, Ordering::Release);
            let mut outcomes = (0, 0);
            for one in asked {
                match one.await.unwrap() {
                    Ok(()) => outcomes.0 += 1,
                    Err(refused) => {
                        assert_eq!((refused.status.as_u16(), refused.retry_after), (429, Some(2)));
                        outcomes.1 += 1;
                    }
                }
            }
            assert_eq!(outcomes, (AT_A_TIME + WAITING, 100 - AT_A_TIME - WAITING));
        });
    }

    #[test]
    fn a_panic_is_an_answer_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = Places::new();
        let refused =
            runtime.block_on(work.run(|| -> Result<(), Refused> { panic!("on purpose") })).unwrap_err();
        assert_eq!(refused.status.as_u16(), 500);
        assert!(runtime.block_on(work.run(|| Ok(()))).is_ok());
    }
}
