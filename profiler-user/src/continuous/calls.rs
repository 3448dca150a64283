//! System calls of the whole host, counted on a thread of its own: what is measured in slices of time sleeps through them, and sampling must not
//! wait for that.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Words;
use crate::causes::with_causes;
use crate::profile::Meta;
use crate::session::{Scope, SessionError};
use crate::syscalls::{CallReport, CallSession, CallSessionOptions, Owner};

/// Time between two looks after names and tables.
const TICK_EVERY: Duration = Duration::from_millis(250);
/// Time between two looks at what measuring costs, some microseconds each: a load may begin at any time.
const GLANCE_EVERY: Duration = Duration::from_millis(50);

/// A window that is to be closed, and where its report goes.
struct Order {
    meta: Meta,
    answer: SyncSender<CallReport>,
}

/// The thread and the way to it.
pub(super) struct Calls {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Calls {
    /// Begins to count. `budget` is a share of the busiest CPU.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub(super) fn start(budget: f64, words: Words) -> Result<Self, SessionError> {
        let options = CallSessionOptions {
            scope: Scope::Host,
            follow_forks: true,
            owner: Owner::Process,
            budget: Some(budget),
            slower_than_ns: None,
            flame: false,
            windows: true,
            table_entries: None,
        };
        let (orders, todo) = sync_channel(1);
        let (started, start) = sync_channel(1);
        let run = move || match CallSession::start(&options) {
            Ok(session) => {
                let _waited_for = started.send(Ok(()));
                drive(session, &todo, &words);
            }
            Err(error) => {
                let _waited_for = started.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("syscalls".to_owned()).spawn(run);
        let thread = thread.map_err(SessionError::Thread)?;
        // A thread that ended without a word has panicked, and has said so.
        start.recv().unwrap_or(Ok(()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Closes the window. Its report comes through what is returned, after a slice of time at most; never, when counting has ended.
    pub(super) fn end_window(&self, meta: Meta) -> Receiver<CallReport> {
        let (answer, report) = sync_channel(1);
        if let Some(orders) = &self.orders {
            let _ended = orders.try_send(Order { meta, answer });
        }
        report
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _reported = thread.join();
        }
    }
}

fn drive(mut session: CallSession, todo: &Receiver<Order>, words: &Words) {
    let mut next_tick = Instant::now() + TICK_EVERY;
    loop {
        // In slices of time the cost is looked at after each of them.
        let glance = || next_tick.min(Instant::now() + GLANCE_EVERY);
        let next = session.next_step().map_or_else(glance, |step| step.min(next_tick));
        let done = match todo.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(order) => session.rotate(order.meta).map(|report| {
                // Nobody waits any more: the window was too late.
                let _too_late = order.answer.send(report);
            }),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                let stepped = match session.next_step() {
                    Some(step) if step <= now => session.step(),
                    Some(_) => Ok(()),
                    None => session.watch_cost(),
                };
                if now >= next_tick {
                    next_tick = now + TICK_EVERY;
                    stepped.and_then(|()| session.tick())
                } else {
                    stepped
                }
            }
        };
        let news = session.take_news();
        if let Err(error) = done {
            words.say(format!("system calls are not counted any more: {}", with_causes(&error)));
            return;
        }
        for line in news {
            words.say(line);
        }
    }
}
