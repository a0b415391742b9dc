//! What ranks hold, changed on all of them together: given back, taken all or nothing, overwritten.

use std::sync::Arc;

use plimsoll_planner::Account;

use super::rank::{Answer, Ask, Moved};
use super::ranks::{Failure, Ranks};
use crate::model::Replacement;

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

    /// Has every rank take the memory of these accounts again and fill it, weights from the model's
    /// files. All or nothing: where one cannot, the others give back what they took, and the inner
    /// error says why.
    pub(super) fn restore(
        &mut self,
        accounts: &[Account],
    ) -> Result<Result<Vec<Moved>, String>, Failure> {
        let shared: Arc<[Account]> = accounts.into();
        let ask = || Ask::Restore(Arc::clone(&shared));
        let answers = self.all(
            "restore of memory",
            self.move_limit,
            ask,
            |answer| match answer {
                Answer::Restored { rank, taken } => Some((rank, taken)),
                _ => None,
            },
        )?;
        let why: Vec<String> = answers
            .iter()
            .enumerate()
            .filter_map(|(rank, taken)| Some(format!("rank {rank}: {}", taken.as_ref().err()?)))
            .collect();
        if why.is_empty() {
            return Ok(Ok(answers.into_iter().flatten().collect()));
        }
        // Giving back what is away already does nothing.
        self.release(accounts)?;
        Ok(Err(why.join("; ")))
    }

    /// Has every rank write these weights over those it has. The inner error says which ranks did not
    /// come to the end: what there is then, on any of them, is for nobody.
    pub(super) fn overwrite(
        &mut self,
        weights: &Arc<Replacement>,
    ) -> Result<Result<(), String>, Failure> {
        let ask = || Ask::Overwrite(Arc::clone(weights));
        let answers = self.all(
            "read of new weights",
            self.move_limit,
            ask,
            |answer| match answer {
                Answer::Overwritten { rank, written } => Some((rank, written)),
                _ => None,
            },
        )?;
        let why: Vec<String> = (0..)
            .zip(&answers)
            .filter_map(|(rank, written)| {
                let rank: usize = rank;
                Some(format!("rank {rank}: {}", written.as_ref().err()?))
            })
            .collect();
        Ok(match why.is_empty() {
            true => Ok(()),
            false => Err(why.join("; ")),
        })
    }

    /// The weights that every rank has are the measure from now on, and what a restore reads.
    pub(super) fn adopt(&mut self, weights: &Arc<Replacement>) -> Result<(), Failure> {
        let ask = || Ask::Adopt(Arc::clone(weights));
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
