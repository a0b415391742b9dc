//! What ranks hold, changed on all of them together: given back, and taken all or nothing.

use std::sync::Arc;

use plimsoll_planner::Account;

use super::rank::{Answer, Ask, Moved};
use super::ranks::{Failure, Ranks};

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
}
