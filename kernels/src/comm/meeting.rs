//! `Meeting`: a barrier with a time limit that a failed rank can break.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RankFailed;

/// Ranks arrive within microseconds of each other in a healthy step.
const SPIN: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(super) struct Meeting {
    ranks: usize,
    limit: Duration,
    arrived: AtomicUsize,
    /// Counts finished meetings.
    round: AtomicUsize,
    broken: AtomicBool,
    failure: Mutex<Option<RankFailed>>,
    changed: Condvar,
}

impl Meeting {
    pub(super) fn new(ranks: usize, limit: Duration) -> Meeting {
        Meeting {
            ranks,
            limit,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            failure: Mutex::new(None),
            changed: Condvar::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> usize {
        self.round.load(Ordering::SeqCst)
    }

    /// Returns when all ranks have arrived in this round. What each did before is visible to all
    /// afterwards.
    pub(super) fn meet(&self, rank: usize) -> Result<(), RankFailed> {
        self.check()?;
        let round = self.round.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.ranks {
            self.arrived.store(0, Ordering::SeqCst);
            self.round.store(round.wrapping_add(1), Ordering::SeqCst);
            drop(self.failure.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
            // The round is whole: that a rank failed right after it is for the next call to say.
            return Ok(());
        }
        let is_over =
            || self.round.load(Ordering::SeqCst) != round || self.broken.load(Ordering::SeqCst);
        let start = Instant::now();
        while !is_over() {
            if start.elapsed() < SPIN {
                hint::spin_loop();
            } else {
                self.sleep(rank, start, &is_over)?;
            }
        }
        if self.round.load(Ordering::SeqCst) != round {
            Ok(())
        } else {
            self.check()
        }
    }

    fn sleep(
        &self,
        rank: usize,
        start: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), RankFailed> {
        let mut guard = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_over() {
            let Some(left) = self.limit.checked_sub(start.elapsed()) else {
                drop(guard);
                self.fail(RankFailed::TimedOut {
                    rank,
                    seconds: self.limit.as_secs(),
                });
                return self.check();
            };
            guard = match self.changed.wait_timeout(guard, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        Ok(())
    }

    /// Breaks all meetings, now and later. The first failure is the one that is told.
    pub(super) fn fail(&self, failure: RankFailed) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(failure);
        }
        self.broken.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    pub(super) fn check(&self) -> Result<(), RankFailed> {
        if !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}
