//! The tensors of a rank: where each lies, and what its contents are, so that what has to be saved,
//! recomputed or read again can be told apart.

use plimsoll_planner::Account;

/// What a tensor's contents are, and so where they come from again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Read from the model's files under this name.
    Weight(String),
    /// Read from an adapter's files; zeros while the slot is free.
    Adapter,
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

    /// The KV cache, which is alone in its account, has so many bytes from now on; which entry it is.
    pub fn resize_kv(&mut self, bytes: u64) -> Option<usize> {
        let at = self.entries.iter().position(|e| e.owner == Owner::Kv)?;
        self.entries[at].bytes = bytes;
        Some(at)
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
