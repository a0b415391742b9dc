//! What a rank gives back and takes again, account by account: its half of sleep and wake.
//!
//! After a restore everything is as after the first reservation: poisoned, then filled with what is
//! derived from the configuration. Weights are read again by [`Forward::load`]; [`Forward::verify`]
//! proves that all is what it was.

#[cfg(test)]
mod tests;

use plimsoll_planner::{Account, Bytes};

use super::Forward;
use super::backend::Store;
use crate::memory::arena::ArenaError;
use crate::memory::ledger::Ledger;
use crate::memory::registry::Owner;
use crate::model::ModelParams;

impl<B: Store> Forward<B> {
    /// Gives the pages of accounts back, in this order, and tells how many bytes each gave: zero
    /// for one that had none. No step may run until they are restored.
    ///
    /// # Errors
    /// When the machine does not take the pages of an account. Those before it are released; the
    /// call may be repeated, and [`Forward::restore`] brings all back.
    pub fn release(
        &mut self,
        ledger: &Ledger,
        accounts: &[Account],
    ) -> Result<Vec<(Account, Bytes)>, ArenaError> {
        let release = |account: &Account| {
            let given = self.backend.release(ledger, *account)?;
            Ok((*account, given))
        };
        accounts.iter().map(release).collect()
    }

    /// Commits the pages of accounts again, at the addresses that they had, poisoned, and tells how
    /// many bytes each took: zero for one that was not released. Derived tensors are computed
    /// again, and the null block of the KV cache and slots are cleared; weights are for [`Forward::load`],
    /// adapters for [`Forward::refill_adapter`].
    ///
    /// # Errors
    /// When the machine does not give the pages of an account. What this call took is given back
    /// then, and it may be repeated.
    pub fn restore(
        &mut self,
        ledger: &Ledger,
        params: &ModelParams,
        accounts: &[Account],
    ) -> Result<Vec<(Account, Bytes)>, ArenaError> {
        let mut taken = Vec::with_capacity(accounts.len());
        for account in accounts {
            let bytes = self.layout.bytes(*account);
            match self.backend.restore(ledger, *account, bytes) {
                Ok(bytes) => taken.push((*account, bytes)),
                Err(error) => {
                    self.undo(ledger, &taken);
                    return Err(error);
                }
            }
        }
        let is_new = |account| taken.iter().any(|of| of.0 == account && of.1 > Bytes::ZERO);
        if is_new(Account::KvCache) {
            self.backend.clear(self.layout.null_block);
        }
        if is_new(Account::Adapters) {
            for slot in 0..self.slots() {
                self.empty_slot(slot);
            }
        }
        let mut derived = self.layout.lasting();
        if derived.any(|(of, _)| matches!(of.owner, Owner::Derived(_)) && is_new(of.account)) {
            self.backend.derive(params);
        }
        Ok(taken)
    }

    fn undo(&mut self, ledger: &Ledger, taken: &[(Account, Bytes)]) {
        for (account, _) in taken.iter().filter(|(_, bytes)| *bytes > Bytes::ZERO) {
            if let Err(error) = self.backend.release(ledger, *account) {
                // The first error is the caller's; this one only costs memory.
                tracing::warn!(account = account.name(), %error, "a rollback keeps the account");
            }
        }
    }
}
