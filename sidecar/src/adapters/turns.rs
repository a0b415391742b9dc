//! Threads that merge take turns, so that what they hold together is what the host's reserve has for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use plimsoll_planner::host::MERGING_THREADS;

/// How many merge now.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits while as many merge as may. Who has a turn waits for no other, so each comes to its end.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut taken = self.lock();
        while *taken >= MERGING_THREADS {
            let waited = self.given_back.wait(taken);
            taken = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use plimsoll_planner::Dtype;
    use plimsoll_planner::host::MERGING_BYTES;

    use super::super::held::tests::most_while;
    use super::super::product::AT_ONCE;
    use super::super::tests::{at, fixtures, open};
    use super::super::{ADAPTERS_MAX, AdapterPath};
    use super::*;

    #[test]
    fn no_more_threads_merge_at_once_than_have_room_and_all_get_there() {
        let (turns, now, most) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 * MERGING_THREADS {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _turn = turns.take();
                        let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(at_once, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let most = most.into_inner();
        assert!(most <= MERGING_THREADS, "{most}");
        assert_eq!(*turns.lock(), 0);
    }

    /// A piece as f32: what is merged, what it was, what was read of it and its bytes, the factors' two
    /// sides; sums of 8 bytes; and what it was for each adapter behind another.
    const PIECES: usize = 6 + 2 + (ADAPTERS_MAX - 1);

    #[test]
    fn what_all_turns_hold_is_what_the_reserve_has() {
        let thread = PIECES * AT_ONCE * 4;
        assert_eq!(thread, 3840 << 10);
        let all = u64::try_from(MERGING_THREADS * thread).unwrap();
        assert!(
            all <= MERGING_BYTES && all * 10 > MERGING_BYTES * 9,
            "{all}"
        );
    }

    #[test]
    fn a_thread_holds_no_more_with_as_many_adapters_as_there_may_be_looked_at_or_not() {
        let (tensor, rows, cols) = ("model.layers.0.mlp.up_proj.weight", 352, 64);
        let adapters: Vec<AdapterPath> = (0..ADAPTERS_MAX)
            .map(|number| AdapterPath {
                name: format!("a{number}"),
                ..at(&fixtures().join("adapters/plain"))
            })
            .collect();
        let model = open("tiny-llama", &adapters).unwrap();
        let mut out = vec![0; rows * cols * 2];
        // All of the tensor is one piece.
        let piece = rows * cols * 4;
        for looks in [true, false] {
            if looks {
                model.gate.begin(false);
            }
            let most = most_while(|| {
                let of = Dtype::BFloat16;
                let read = model
                    .tensors
                    .read_as(of, tensor, 0..rows, 0..cols, &mut out);
                read.unwrap();
            });
            model.gate.verdict("");
            let pieces = most.div_ceil(piece);
            assert!((ADAPTERS_MAX..=PIECES).contains(&pieces), "{looks}: {most}");
        }
    }
}
