//! The engine's inbox: what other threads ask of it, bounded, and the bell that wakes it.
//!
//! Every entry belongs to a live request, and live requests are bounded by the waiting limit plus
//! the running limit, so nothing here grows with traffic. Commands have a bound of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use crate::engine::clock::{Clock, IdlePolicy};
use crate::engine::control::{COMMANDS_MAX, Command};
use crate::engine::request::{GenerateRequest, Refused};

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
    pub(crate) policy: Option<IdlePolicy>,
    /// A request is about to come, for which a sleeper wakes as for one that is there.
    pub(crate) roused: bool,
    pub(crate) draining: bool,
    pub(crate) stopping: bool,
}

impl Mail {
    /// Somebody asked for something.
    pub(crate) fn is_something(&self) -> bool {
        let Mail {
            submitted,
            cancelled,
            command,
            policy,
            roused,
            draining: _,
            stopping: _,
        } = self;
        let asked = command.is_some() || policy.is_some() || *roused;
        asked || !submitted.is_empty() || !cancelled.is_empty()
    }
}

#[derive(Debug)]
struct Inner {
    submitted: Vec<Submitted>,
    cancelled: Vec<u64>,
    /// Live requests; true once a cancel is on its way, so that one request cancels once.
    live: HashMap<u64, bool>,
    /// In order, each with how many requests came before it; at most [`COMMANDS_MAX`].
    commands: VecDeque<(u64, Command)>,
    /// What the engine is to do about sleep by itself; None: as before.
    policy: Option<IdlePolicy>,
    roused: bool,
    /// Requests that came since the start.
    came: u64,
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
    clock: Clock,
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
            policy: None,
            roused: false,
            came: 0,
            waiting_in_engine: 0,
            mean_service: Duration::from_secs(1),
            draining: false,
            stopping: false,
            closed: false,
        };
        Inbox {
            inner: Mutex::new(inner),
            bell: Condvar::new(),
            clock: Clock::default(),
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
        inner.came += 1;
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

    /// Cancels these requests, or all. How many of them were alive and not cancelled yet.
    pub(crate) fn abort(&self, ids: Option<&[u64]>) -> usize {
        let mut inner = self.lock();
        let Inner {
            live, cancelled, ..
        } = &mut *inner;
        let before = cancelled.len();
        let mut abort = |id: u64, is_cancelled: &mut bool| {
            if !std::mem::replace(is_cancelled, true) {
                cancelled.push(id);
            }
        };
        match ids {
            None => live.iter_mut().for_each(|(id, done)| abort(*id, done)),
            Some(ids) => ids.iter().for_each(|id| {
                if let Some(done) = live.get_mut(id) {
                    abort(*id, done);
                }
            }),
        }
        let aborted = inner.cancelled.len() - before;
        drop(inner);
        self.bell.notify_one();
        aborted
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
        let came = inner.came;
        inner.commands.push_back((came, command));
        drop(inner);
        self.bell.notify_one();
        Ok(())
    }

    /// What the engine is to do about sleep by itself from now on.
    pub(crate) fn follow(&self, policy: IdlePolicy) {
        self.lock().policy = Some(policy);
        self.bell.notify_one();
    }

    /// A request is about to come.
    pub(crate) fn rouse(&self) {
        self.lock().roused = true;
        self.bell.notify_one();
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets so much time pass at once.
    pub(crate) fn skip(&self, time: Duration) {
        // Under the lock: who is about to wait has looked at the clock, and must look again.
        let inner = self.lock();
        self.clock.skip(time);
        drop(inner);
        self.bell.notify_one();
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
        let left = std::mem::take(&mut inner.commands);
        left.into_iter().map(|(_, command)| command).collect()
    }

    /// Everything that came since, up to a command when it `obeys`; blocks until there is something
    /// when `idle`, or the clock says `until`.
    pub(crate) fn take(&self, idle: bool, obeys: bool, until: Option<Instant>) -> Mail {
        let mut inner = self.lock();
        while idle
            && inner.submitted.is_empty()
            && inner.cancelled.is_empty()
            && (inner.commands.is_empty() || !obeys)
            && inner.policy.is_none()
            && !inner.roused
            && !inner.draining
            && !inner.stopping
        {
            inner = match until.map(|at| at.saturating_duration_since(self.clock.now())) {
                Some(Duration::ZERO) => break,
                Some(rest) => {
                    let (inner, _) = self
                        .bell
                        .wait_timeout(inner, rest)
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    inner
                }
                None => self
                    .bell
                    .wait(inner)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
        // Requests that came after a command wait until it is carried out.
        let later = match inner.commands.front() {
            Some((came, _)) if !inner.draining => inner.came - came,
            _ => 0,
        };
        let later = usize::try_from(later).unwrap_or(usize::MAX);
        let now = inner.submitted.len().saturating_sub(later);
        let later = inner.submitted.split_off(now);
        let waits = |id: &u64| later.iter().any(|submitted| submitted.request.id == *id);
        let (uncancelled, cancelled) = inner.cancelled.drain(..).partition(waits);
        inner.cancelled = uncancelled;
        inner.waiting_in_engine += now;
        let command = match obeys {
            true => inner.commands.pop_front(),
            false => None,
        };
        Mail {
            submitted: std::mem::replace(&mut inner.submitted, later),
            cancelled,
            command: command.map(|(_, command)| command),
            policy: inner.policy.take(),
            roused: std::mem::take(&mut inner.roused),
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
mod tests;
