//! What ranks hold, changed on all of them together: given back, taken all or nothing, overwritten.

use std::sync::Arc;

use plimsoll_planner::Account;

use super::rank::{Answer, Ask, Moved};
use super::ranks::{Failure, Ranks};
use crate::adapters::{Beside, Dynamic};
use crate::forward::resize::NewCache;
use crate::model::Replacement;
use crate::weights::piece::Piece;

/// What all ranks did, or why some did not.
fn of_all<T>(ranks: Vec<Result<T, String>>) -> Result<Vec<T>, String> {
    let why = |(rank, done): (usize, &Result<T, String>)| {
        Some(format!("rank {rank}: {}", done.as_ref().err()?))
    };
    let why: Vec<String> = ranks.iter().enumerate().filter_map(why).collect();
    match why.is_empty() {
        true => Ok(ranks.into_iter().flatten().collect()),
        false => Err(why.join("; ")),
    }
}

impl Ranks {
    /// Has every rank give back the memory of these accounts. No step may be under way.
    pub(super) fn release(&mut self, accounts: &[Account]) -> Result<Vec<Moved>, Failure> {
        let accounts: Arc<[Account]> = accounts.into();
        let ask = || Ask::Release(Arc::clone(&accounts));
        let answers = self.all(
            "release of memory",
            self.move_limit,
            ask,
            |answer| match answer {
                Answer::Released { rank, moved } => Some((rank, moved)),
                _ => None,
            },
        )?;
        Ok(answers)
    }

    /// Has every rank take the memory of these accounts again and fill it: weights from the files that
    /// have them, where `reads`. All or nothing: where one cannot, the others give back what they took,
    /// and the inner error says why.
    pub(super) fn restore(
        &mut self,
        accounts: &[Account],
        reads: bool,
    ) -> Result<Result<Vec<Moved>, String>, Failure> {
        let shared: Arc<[Account]> = accounts.into();
        let ask = || Ask::Restore {
            accounts: Arc::clone(&shared),
            reads,
        };
        let answers = self.all(
            "restore of memory",
            self.move_limit,
            ask,
            |answer| match answer {
                Answer::Restored { rank, taken } => Some((rank, taken)),
                _ => None,
            },
        )?;
        let taken = of_all(answers);
        if taken.is_err() {
            // Giving back what is away already does nothing.
            self.release(accounts)?;
        }
        Ok(taken)
    }

    /// Has every rank bring its KV cache from `before` blocks to another size. All or nothing: where
    /// one cannot take memory, the others give back what they took, and the inner error says why. No
    /// step may be under way.
    pub(super) fn resize(
        &mut self,
        to: NewCache,
        before: u32,
    ) -> Result<Result<Vec<Moved>, String>, Failure> {
        let held = to.held;
        let resized = of_all(self.ask_resize(to)?);
        if resized.is_err() {
            // Those that could not grow are as they were already.
            let back = NewCache {
                blocks: before,
                moves: Vec::new(),
                held,
            };
            self.ask_resize(back)?;
        }
        Ok(resized)
    }

    fn ask_resize(&mut self, to: NewCache) -> Result<Vec<Result<Moved, String>>, Failure> {
        let to = Arc::new(to);
        let ask = || Ask::Resize(Arc::clone(&to));
        let limit = self.move_limit;
        self.all("resize", limit, ask, |answer| match answer {
            Answer::Resized { rank, moved } => Some((rank, moved)),
            _ => None,
        })
    }

    /// Has every rank write these weights over those it has. The inner error says which ranks did not
    /// come to the end: what there is then, on any of them, is for nobody.
    pub(super) fn overwrite(
        &mut self,
        weights: &Arc<Replacement>,
    ) -> Result<Result<(), String>, Failure> {
        self.written("read of new weights", || {
            Ask::Overwrite(Arc::clone(weights))
        })
    }

    /// As [`Ranks::overwrite`], as a part of the load: it takes as long as that, however slowly the files
    /// come or adapters are merged, and ends early where the engine is told to end.
    pub(super) fn merge(
        &mut self,
        weights: &Arc<Replacement>,
    ) -> Result<Result<(), String>, Failure> {
        let count = self.asks.len();
        for rank in 0..count {
            self.ask(rank, Ask::Overwrite(Arc::clone(weights)))?;
        }
        let mut all = vec![Ok(()); count];
        for _ in 0..count {
            if let Answer::Overwritten { rank, written } = self.hear()? {
                all[rank] = written;
            }
        }
        Ok(of_all(all).map(|_| ()))
    }

    /// As [`Ranks::overwrite`], of some rows of one tensor, on whichever ranks have them.
    pub(super) fn write(&mut self, piece: &Arc<Piece>) -> Result<Result<(), String>, Failure> {
        self.written("write of new weights", || Ask::Write(Arc::clone(piece)))
    }

    fn written(
        &mut self,
        what: &str,
        ask: impl Fn() -> Ask,
    ) -> Result<Result<(), String>, Failure> {
        let answers = self.all(what, self.move_limit, ask, |answer| match answer {
            Answer::Overwritten { rank, written } => Some((rank, written)),
            _ => None,
        })?;
        Ok(of_all(answers).map(|_| ()))
    }

    /// Has every rank write an adapter into a slot, or empty it. The inner error says why some did not:
    /// the slot is empty there, and has the adapter on the others.
    pub(super) fn put_adapter(
        &mut self,
        slot: usize,
        adapter: Option<&Arc<Dynamic>>,
    ) -> Result<Result<(), String>, Failure> {
        let ask = || Ask::PutAdapter {
            slot,
            adapter: adapter.map(Arc::clone),
        };
        let limit = self.move_limit;
        let answers = self.all("copy of an adapter", limit, ask, |answer| match answer {
            Answer::PutAdapter { rank, put } => Some((rank, put)),
            _ => None,
        })?;
        Ok(of_all(answers).map(|_| ()))
    }

    /// Has every rank add these adapters to every row of the next steps; None: no more. The inner error
    /// says which ranks did not read those before to their end.
    pub(super) fn lay_beside(
        &mut self,
        adapters: Option<&Arc<Beside>>,
    ) -> Result<Result<(), String>, Failure> {
        let ask = || Ask::LayBeside(adapters.map(Arc::clone));
        let limit = self.move_limit;
        let answers = self.all("use of adapters", limit, ask, |answer| match answer {
            Answer::LaidBeside { rank, read } => Some((rank, read)),
            _ => None,
        })?;
        Ok(of_all(answers).map(|_| ()))
    }

    /// The weights that every rank has are the measure from now on, and these what a restore reads; no
    /// file has them where there are none.
    pub(super) fn adopt(&mut self, weights: Option<&Arc<Replacement>>) -> Result<(), Failure> {
        let ask = || Ask::Adopt(weights.map(Arc::clone));
        let limit = self.check_limit;
        self.all(
            "reference of new weights",
            limit,
            ask,
            |answer| match answer {
                Answer::Adopted { rank } => Some((rank, ())),
                _ => None,
            },
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ranks::tests::played;
    use super::*;
    use crate::http::testing::fixture;
    use crate::model::ModelFolder;

    #[test]
    fn a_merge_before_the_first_request_takes_as_long_as_it_takes_and_an_update_does_not() {
        let folder = ModelFolder::open(&fixture()).unwrap();
        let weights = Arc::new(Replacement {
            path: folder.path.clone(),
            tensors: folder.tensors,
            adapters: Vec::new(),
            gate: folder.gate,
            digest: folder.digest,
        });
        let written = |rank| Answer::Overwritten {
            rank,
            written: Ok(()),
        };
        let (mut ranks, (answers, heard)) = played(2);
        ranks.move_limit = Duration::ZERO;
        // They answer once all are asked: the limit of an update is over by then.
        let _heard = std::thread::scope(|scope| {
            let answers = &answers;
            let ranks_play = scope.spawn(move || {
                let all = heard.iter().map(|asked| asked.recv());
                let all: Vec<_> = all.collect();
                let asked = |ask: &Result<Ask, _>| matches!(ask, Ok(Ask::Overwrite(_)));
                assert!(all.iter().all(asked), "{all:?}");
                for rank in [0, 1] {
                    answers.send(written(rank)).unwrap();
                }
                heard
            });
            assert_eq!(ranks.merge(&weights), Ok(Ok(())));
            ranks_play.join().unwrap()
        });
        let Failure(message) = ranks.overwrite(&weights).unwrap_err();
        let words = "did not end a read of new weights within 0 s";
        assert!(message.contains(words), "{message}");
    }
}
