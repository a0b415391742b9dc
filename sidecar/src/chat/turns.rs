//! One thing that many want: one at a time, and nobody waits without end.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Turns<T> {
    state: Mutex<State<T>>,
    over: Condvar,
}

#[derive(Debug)]
struct State<T> {
    taken: bool,
    idle: Option<T>,
}

/// Whose turn it is. What is left in `held` is there for the next one.
#[derive(Debug)]
pub(super) struct Turn<'a, T> {
    turns: &'a Turns<T>,
    pub(super) held: Option<T>,
}

impl<T> Turns<T> {
    pub(super) fn new(idle: T) -> Turns<T> {
        Turns {
            state: Mutex::new(State {
                taken: false,
                idle: Some(idle),
            }),
            over: Condvar::new(),
        }
    }

    /// None when the others took longer than `patience`.
    pub(super) fn take(&self, patience: Duration) -> Option<Turn<'_, T>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .over
            .wait_timeout_while(state, patience, |state| state.taken);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.taken {
            return None;
        }
        state.taken = true;
        let held = state.idle.take();
        Some(Turn { turns: self, held })
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let state = &self.turns.state;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.idle = self.held.take();
        state.taken = false;
        drop(state);
        self.turns.over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_too_long_is_sent_away_and_the_next_one_has_what_was_left() {
        let turns = Turns::new(7);
        let mut first = turns.take(Duration::ZERO).unwrap();
        assert_eq!(first.held, Some(7));
        assert!(turns.take(Duration::from_millis(20)).is_none());
        first.held = Some(8);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turns.take(Duration::from_secs(60)).unwrap().held.take());
            drop(first);
            assert_eq!(second.join().unwrap(), Some(8));
        });
        // It left nothing.
        assert_eq!(turns.take(Duration::ZERO).unwrap().held, None);
    }

    #[test]
    fn a_turn_that_panics_is_over() {
        let turns = Turns::new(7);
        let panics = std::panic::AssertUnwindSafe(|| {
            let _turn = turns.take(Duration::ZERO).unwrap();
            panic!("in the middle");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(turns.take(Duration::ZERO).unwrap().held, Some(7));
    }
}
