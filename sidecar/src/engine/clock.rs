//! What an engine goes by when nobody tells it anything: its clock, and what it may do at its strike.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rest::SleepLevel;

/// Pauses after a wake that failed, doubled from the first up to the longest.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The pause after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}

/// What an engine does about sleep by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdlePolicy {
    /// It falls asleep at this level after so long without a request or a command.
    pub after: Option<(Duration, SleepLevel)>,
    /// A request wakes it from a sleep of its clock or of its target. Never from one that was asked for
    /// on the control routes: who did that has the memory.
    pub wake_on_request: bool,
}

/// The machine's clock, and what tests let pass at once.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    skipped_ns: AtomicU64,
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        Instant::now() + Duration::from_nanos(self.skipped_ns.load(Ordering::Acquire))
    }

    pub(crate) fn skip(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.skipped_ns.fetch_add(time, Ordering::AcqRel);
    }
}

/// Where the loop stands to its idle clock.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) policy: IdlePolicy,
    /// When a request or a command was there last.
    pub(super) busy: Instant,
    /// A wake for a request failed so often, and is repeated then.
    pub(super) again: Option<(u32, Instant)>,
    /// A request is about to come, see [`super::handle::EngineHandle::rouse`].
    pub(super) roused: bool,
}

impl Idle {
    pub(super) fn new(now: Instant) -> Idle {
        Idle {
            policy: IdlePolicy::default(),
            busy: now,
            again: None,
            roused: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds: Vec<u64> = (1..9).map(|times| pause(times).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_skipped_has_passed() {
        let clock = Clock::default();
        let before = clock.now();
        clock.skip(Duration::from_secs(3600));
        assert!(clock.now() - before >= Duration::from_secs(3600));
    }
}
