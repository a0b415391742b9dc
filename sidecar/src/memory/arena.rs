//! Arenas: one per account and rank, at an address that never changes.
//!
//! An arena is charged to the ledger, reserved, committed and poisoned in one place, then cut into
//! tensors; every tensor is entered in a registry with its owner, so that what has to be saved,
//! recomputed or read again can be told apart. The only caller of `kernels::device`.

use plimsoll_kernels::device::{Buffer, Device, DeviceError, Pages};
use plimsoll_planner::{Account, Bytes};

use super::ledger::{Exceeded, Ledger};

/// What a tensor's contents are, and so where they come from again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Read from the model's files under this name.
    Weight(String),
    /// Computed from the model's configuration.
    Derived(&'static str),
    /// Must be saved: nothing else has it.
    State,
    /// Means nothing between two steps.
    Scratch,
    /// Keys and values of sequences.
    Kv,
}

/// A tensor's entry: who owns it and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    pub name: String,
    pub owner: Owner,
    pub account: Account,
    /// Bytes from the start of the account's arena.
    pub offset: u64,
    pub bytes: u64,
}

/// The tensors of one rank.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Vec<TensorEntry>,
}

impl Registry {
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// # Panics
    /// When a tensor overlaps one of the same account, or its name is taken.
    pub fn add(&mut self, entry: TensorEntry) {
        if let Some(last) = self
            .entries
            .iter()
            .rev()
            .find(|e| e.account == entry.account)
        {
            assert!(
                last.offset + last.bytes <= entry.offset,
                "{entry:?} overlaps {last:?}"
            );
        }
        self.entries.push(entry);
    }

    /// Bytes of tensors in an account, without gaps.
    pub fn bytes(&self, account: Account) -> u64 {
        self.entries
            .iter()
            .filter(|e| e.account == account)
            .map(|e| e.bytes)
            .sum()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    #[error("rank {rank}: account {}: {source}", account.name())]
    Device {
        rank: usize,
        account: Account,
        source: DeviceError,
    },
}

/// An account's memory on one rank, committed and poisoned, being cut from the front.
#[derive(Debug)]
pub struct Arena {
    account: Account,
    rest: Buffer,
    cut: u64,
}

impl Arena {
    /// Charges, reserves, commits and poisons `bytes`, which are whole granules.
    ///
    /// # Errors
    /// When the plan does not cover the bytes, or the machine does not give them.
    pub fn commit(
        device: &dyn Device,
        ledger: &Ledger,
        rank: usize,
        account: Account,
        bytes: Bytes,
    ) -> Result<Arena, ArenaError> {
        let failed = |source| ArenaError::Device {
            rank,
            account,
            source,
        };
        ledger.charge(rank, account, bytes)?;
        // One page more than is ever committed keeps neighbours apart, see `resident`.
        // Fewer, larger pages cost fewer misses; an arena smaller than one has small ones.
        let mut rest = device
            .reserve(bytes + device.granularity(), Pages::Huge)
            .map_err(failed)?;
        rest.commit_to(bytes).map_err(failed)?;
        rest.poison();
        ledger.add_mapping(rank, rest.address(), bytes + device.granularity());
        // The KV cache holds something once a sequence has blocks: its high water starts at zero.
        if account != Account::KvCache {
            ledger.set_used(rank, account, bytes);
        }
        Ok(Arena {
            account,
            rest,
            cut: 0,
        })
    }

    /// Cuts out the bytes at `offset`. Tensors are cut in the order in which they lie.
    ///
    /// # Panics
    /// When they lie before the last ones or past the arena.
    pub fn cut(&mut self, offset: u64, bytes: u64) -> Buffer {
        let (account, cut) = (self.account.name(), self.cut);
        assert!(offset >= cut, "{account}: {offset} lies before byte {cut}");
        drop(self.rest.split_to(Bytes::measured(offset - cut)));
        self.cut = offset + bytes;
        self.rest.split_to(Bytes::measured(bytes))
    }

    /// All of the arena as one buffer, for an account that is addressed by offsets.
    pub fn into_whole(self, bytes: u64) -> Buffer {
        let Arena { mut rest, cut, .. } = self;
        assert_eq!(cut, 0, "a part of this arena was cut out");
        rest.split_to(Bytes::measured(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_kernels::device::Cpu;
    use plimsoll_planner::{Plan, RankPlan, Shard};

    fn ledger(planned: u64) -> Ledger {
        let shard = Shard {
            kv_heads: 0..1,
            query_heads: 0..1,
            mlp_columns: 0..1,
            vocab_rows: 0..1,
        };
        let rank = RankPlan {
            rank: 0,
            shard,
            budget: Bytes::measured(planned),
            accounts: vec![(Account::Workspaces, Bytes::measured(planned))],
        };
        let plan = Plan {
            ranks: vec![rank],
            kv_blocks: 1,
            kv_tokens: 0,
            max_model_len: 0,
        };
        Ledger::new(&plan, &[], 16, &[])
    }

    fn commit(ledger: &Ledger, bytes: u64) -> Result<Arena, ArenaError> {
        Arena::commit(&Cpu, ledger, 0, Account::Workspaces, Bytes::measured(bytes))
    }

    #[test]
    fn tensors_lie_where_they_should_and_hold_poison() {
        let ledger = ledger(8192);
        let mut arena = commit(&ledger, 8192).unwrap();
        let first = arena.cut(64, 100);
        let second = arena.cut(4096, 8);
        assert_eq!(second.address() - first.address(), 4096 - 64);
        assert!(first.as_slice::<f32>().iter().all(|x| x.is_nan()));
        let row = ledger.snapshot().ranks[0].accounts[0];
        assert_eq!(
            (row.reserved, row.used),
            (Bytes::measured(8192), Bytes::measured(8192))
        );
        assert_eq!(ledger.snapshot().ranks[0].driver, Bytes::measured(8192));
    }

    #[test]
    fn memory_that_was_not_planned_is_not_taken() {
        let ledger = ledger(8192);
        assert!(matches!(
            commit(&ledger, 12_288),
            Err(ArenaError::Exceeded(_))
        ));
        assert_eq!(ledger.snapshot().ranks[0].driver, Bytes::ZERO);
    }

    fn entry(name: &str, offset: u64, bytes: u64) -> TensorEntry {
        TensorEntry {
            name: name.to_owned(),
            owner: Owner::Scratch,
            account: Account::Workspaces,
            offset,
            bytes,
        }
    }

    #[test]
    fn entries_make_up_their_account_without_gaps() {
        let mut registry = Registry::default();
        registry.add(entry("first", 64, 100));
        registry.add(entry("second", 4096, 8));
        assert_eq!(registry.bytes(Account::Workspaces), 108);
        assert_eq!(registry.bytes(Account::Comm), 0);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn tensors_that_overlap_are_our_mistake() {
        let mut registry = Registry::default();
        registry.add(entry("first", 0, 100));
        registry.add(entry("second", 64, 100));
    }

    #[test]
    #[should_panic(expected = "lies before")]
    fn cuts_go_forward() {
        let mut arena = commit(&ledger(8192), 8192).unwrap();
        arena.cut(0, 100);
        arena.cut(64, 100);
    }
}
