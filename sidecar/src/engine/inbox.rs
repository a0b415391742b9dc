//! The engine's inbox: what other threads ask of it, bounded, and the bell that wakes it.
//!
//! Every entry belongs to a live request, and live requests are bounded by the waiting limit plus
//! the running limit, so nothing here grows with traffic. Commands have a bound of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use super::control::{COMMANDS_MAX, Command};
use super::request::{GenerateRequest, Refused};

/// A request and when it came.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) request: GenerateRequest,
    /// Where the logits of sampled rows go, if anyone wants them.
    pub(crate) logits: Option<mpsc::Sender<Vec<f32>>>,
    pub(crate) at: Instant,
}

/// A command that was not queued, and why.
#[derive(Debug)]
pub(crate) enum NotQueued {
    /// So many wait already.
    Full(Command),
    /// The loop has ended.
    Closed(Command),
}

/// What the engine takes out in one go.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) submitted: Vec<Submitted>,
    pub(crate) cancelled: Vec<u64>,
    /// The next in order; the others wait.
    pub(crate) command: Option<Command>,
    pub(crate) draining: bool,
    pub(crate) stopping: bool,
}

#[derive(Debug)]
struct Inner {
    submitted: Vec<Submitted>,
    cancelled: Vec<u64>,
    /// Live requests; true once a cancel is on its way, so that one request cancels once.
    live: HashMap<u64, bool>,
    /// In order; at most [`COMMANDS_MAX`].
    commands: VecDeque<Command>,
    /// Requests in the scheduler that have not had a turn yet.
    waiting_in_engine: usize,
    /// How long a request took in the mean, for Retry-After.
    mean_service: Duration,
    draining: bool,
    stopping: bool,
    /// The loop has ended: nobody will ever look in here again.
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    inner: Mutex<Inner>,
    bell: Condvar,
    max_waiting: usize,
    max_num_seqs: usize,
}

impl Inbox {
    pub(crate) fn new(max_waiting: usize, max_num_seqs: usize) -> Inbox {
        let inner = Inner {
            submitted: Vec::new(),
            cancelled: Vec::new(),
            live: HashMap::new(),
            commands: VecDeque::with_capacity(COMMANDS_MAX),
            waiting_in_engine: 0,
            mean_service: Duration::from_secs(1),
            draining: false,
            stopping: false,
            closed: false,
        };
        Inbox {
            inner: Mutex::new(inner),
            bell: Condvar::new(),
            max_waiting,
            max_num_seqs,
        }
    }

    /// A panic while the lock is held leaves plain counters behind, all valid: carry on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn submit(
        &self,
        request: GenerateRequest,
        logits: Option<mpsc::Sender<Vec<f32>>>,
    ) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.draining || inner.stopping {
            return Err(Refused::Draining);
        }
        let waiting = inner.submitted.len() + inner.waiting_in_engine;
        if waiting >= self.max_waiting {
            let retry_after = self.retry_after(inner.mean_service, waiting);
            return Err(Refused::QueueFull {
                waiting,
                limit: self.max_waiting,
                retry_after,
            });
        }
        if inner.live.contains_key(&request.id) {
            return Err(Refused::DuplicateId { id: request.id });
        }
        inner.live.insert(request.id, false);
        inner.submitted.push(Submitted {
            request,
            logits,
            at: Instant::now(),
        });
        drop(inner);
        self.bell.notify_one();
        Ok(())
    }

    /// A full queue empties at `max_num_seqs` requests per mean service time.
    fn retry_after(&self, mean_service: Duration, waiting: usize) -> Duration {
        let turns = waiting.div_ceil(self.max_num_seqs.max(1));
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        let wait = mean_service.saturating_mul(turns).as_secs_f64().ceil();
        Duration::from_secs_f64(wait.clamp(1.0, 60.0))
    }

    pub(crate) fn cancel(&self, id: u64) {
        let mut inner = self.lock();
        match inner.live.get_mut(&id) {
            Some(cancelled) if !*cancelled => *cancelled = true,
            _ => return,
        }
        inner.cancelled.push(id);
        drop(inner);
        self.bell.notify_one();
    }

    /// Queues a command behind those that wait.
    pub(crate) fn command(&self, command: Command) -> Result<(), NotQueued> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(NotQueued::Closed(command));
        }
        if inner.commands.len() >= COMMANDS_MAX {
            return Err(NotQueued::Full(command));
        }
        inner.commands.push_back(command);
        drop(inner);
        self.bell.notify_one();
        Ok(())
    }

    pub(crate) fn drain(&self) {
        self.lock().draining = true;
        self.bell.notify_one();
    }

    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        inner.stopping = true;
        drop(inner);
        self.bell.notify_one();
    }

    /// The loop's farewell: whoever comes later is told at once. What is left is to be answered.
    pub(crate) fn close(&self) -> VecDeque<Command> {
        let mut inner = self.lock();
        inner.draining = true;
        inner.stopping = true;
        inner.closed = true;
        inner.submitted.clear();
        std::mem::take(&mut inner.commands)
    }

    /// Everything that came since, with one command when it `obeys`; blocks until there is something
    /// when `idle`.
    pub(crate) fn take(&self, idle: bool, obeys: bool) -> Mail {
        let mut inner = self.lock();
        while idle
            && inner.submitted.is_empty()
            && inner.cancelled.is_empty()
            && (inner.commands.is_empty() || !obeys)
            && !inner.draining
            && !inner.stopping
        {
            inner = self
                .bell
                .wait(inner)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        inner.waiting_in_engine += inner.submitted.len();
        Mail {
            submitted: std::mem::take(&mut inner.submitted),
            cancelled: std::mem::take(&mut inner.cancelled),
            command: match obeys {
                true => inner.commands.pop_front(),
                false => None,
            },
            draining: inner.draining,
            stopping: inner.stopping,
        }
    }

    /// The engine's count of requests that wait for their first turn.
    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.lock().waiting_in_engine = waiting;
    }

    /// A request is over after `service`: its id may be used again.
    pub(crate) fn finished(&self, id: u64, service: Duration) {
        let mut inner = self.lock();
        inner.live.remove(&id);
        inner.mean_service = inner.mean_service.mul_f64(0.9) + service.mul_f64(0.1);
    }

    /// Nothing new will be served: loading need not go on.
    pub(crate) fn is_ending(&self) -> bool {
        let inner = self.lock();
        inner.draining || inner.stopping
    }

    pub(crate) fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.submitted.len() + inner.waiting_in_engine
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::{Asker, ControlError};
    use super::*;

    #[test]
    fn commands_wait_in_order_and_within_bounds_and_none_is_lost_at_the_end() {
        let inbox = Inbox::new(1, 1);
        let ask = || {
            let (asker, reply) = Asker::pair();
            (inbox.command(Command::CheckWeights(asker)), reply)
        };
        let mut replies: Vec<_> = (0..COMMANDS_MAX)
            .map(|_| {
                let (queued, reply) = ask();
                assert!(queued.is_ok());
                reply
            })
            .collect();
        assert!(matches!(ask().0, Err(NotQueued::Full(_))));
        assert!(inbox.take(false, false).command.is_none());
        inbox
            .take(false, true)
            .command
            .unwrap()
            .refuse(ControlError::Draining);
        let first = replies.remove(0);
        assert_eq!(first.wait(), Err(ControlError::Draining));
        assert!(ask().0.is_ok(), "there is room again");
        let left = inbox.close();
        assert_eq!(left.len(), COMMANDS_MAX);
        drop(left);
        for reply in replies {
            assert_eq!(reply.wait(), Err(ControlError::Ended));
        }
        assert!(matches!(ask().0, Err(NotQueued::Closed(_))));
    }
}
