//! Answers that take long: a few at a time, some more in a queue, the rest is told to come again.

use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Refused;

/// Answers that are worked on at the same time.
pub(super) const AT_A_TIME: usize = 2;
/// Requests that wait for their turn.
pub(super) const WAITING: usize = 32;
/// Longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest work on an answer.
const LONGEST: Duration = Duration::from_secs(30);

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    turns: Semaphore,
    waiting: Semaphore,
    /// CPU time of all answers so far, nanoseconds.
    pub(super) cpu_ns: AtomicU64,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            turns: Semaphore::new(AT_A_TIME),
            waiting: Semaphore::new(WAITING),
            cpu_ns: AtomicU64::default(),
        }
    }

    /// Requests that wait for their turn now.
    pub(super) fn waiting(&self) -> usize {
        WAITING.saturating_sub(self.waiting.available_permits())
    }

    /// Does it when its turn has come. Its place is free again when it is done, when it takes too long, and when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// Too many want something, or it takes too long.
    pub(super) async fn run<T>(&self, job: impl Future<Output = T>) -> Result<T, Refused> {
        let place = self.waiting.try_acquire().map_err(|_| {
            Refused::busy(format!("{AT_A_TIME} requests are worked on and {WAITING} wait; try again soon"))
        })?;
        let Ok(Ok(_turn)) = timeout(PATIENCE, self.turns.acquire()).await else {
            return Err(Refused::unavailable("busy", format!("no turn came in {} s", PATIENCE.as_secs())));
        };
        drop(place);
        timeout(LONGEST, job).await.map_err(|_| {
            let message = format!("no answer after {} s", LONGEST.as_secs());
            Refused::unavailable("slow", message).hint("ask for less time, or for one process")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_comes_on_top_is_told_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = Arc::new(Places::new());
        let gate = Arc::new(Semaphore::new(0));
        runtime.block_on(async {
            let mut asked = Vec::new();
            for _ in 0..100 {
                let (work, gate) = (Arc::clone(&work), Arc::clone(&gate));
                asked.push(tokio::spawn(async move {
                    work.run(
                        async move { gate.acquire().await.map(tokio::sync::SemaphorePermit::forget).is_ok() },
                    )
                    .await
                }));
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            assert_eq!(work.waiting(), WAITING);
            gate.add_permits(100);
            let mut outcomes = (0, 0);
            for one in asked {
                match one.await.unwrap() {
                    Ok(done) => outcomes.0 += usize::from(done),
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
    fn who_goes_away_leaves_its_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = Places::new();
        runtime.block_on(async {
            for _ in 0..2 * AT_A_TIME {
                let left = timeout(Duration::from_millis(1), work.run(std::future::pending::<()>()));
                assert!(left.await.is_err());
            }
            assert_eq!(work.run(async { 5 }).await.unwrap(), 5);
        });
    }
}
