//! Checksums of what must stay as it was loaded: the weights, and what was derived from the
//! configuration.

use plimsoll_kernels::checksum;
use plimsoll_planner::Account;

use super::Forward;
use super::backend::Store;
use super::handle::Handle;
use crate::memory::registry::{Owner, TensorEntry};

/// What a rank's weights are now, beside what they were when their load ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightCheck {
    /// Tensors that were compared: those whose account is not released.
    pub tensors: usize,
    pub bytes: u64,
    /// Of all these tensors together, as they are now.
    pub checksum: u64,
    /// Of each tensor, by its name, in the order in which they lie.
    pub sums: Vec<(String, u64)>,
    /// Names of the tensors that are not what they were.
    pub changed: Vec<String>,
    /// Those of them that are computed from the configuration: no file brings them back.
    pub changed_tables: Vec<String>,
}

/// Weights or derived tensors that are not what they were when their load ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of {tensors} tensors are not what was loaded: {}", .changed.len(), first(.changed))]
pub struct WeightsChanged {
    /// Tensors that were compared.
    pub tensors: usize,
    /// Their names, in the order in which they lie.
    pub changed: Vec<String>,
}

/// As many names as a line has room for.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names[..names.len().min(SHOWN)].join(", ") + more
}

impl<B: Store> Forward<B> {
    /// Remembers what was loaded; the figures of [`Forward::check_weights`] are compared to it.
    /// What is released keeps the figure that it had.
    pub(super) fn remember_weights(&mut self) {
        self.remember(|_| true);
    }

    /// As [`Forward::remember_weights`], of tensors whose owner counts.
    pub(super) fn remember(&mut self, counts: impl Fn(&Owner) -> bool) {
        let sums = self.checksums();
        self.loaded.resize(sums.len(), None);
        let owners = self.layout.lasting().map(|(entry, _)| &entry.owner);
        for ((loaded, now), owner) in self.loaded.iter_mut().zip(sums).zip(owners) {
            if counts(owner) {
                *loaded = now.or(*loaded);
            }
        }
    }

    /// Reads every weight and derived tensor once: some seconds for tens of gigabytes. Tensors of
    /// released accounts are left out.
    pub fn check_weights(&self) -> WeightCheck {
        let loaded = self.loaded.iter().copied().chain(std::iter::repeat(None));
        let entries = self.layout.lasting().map(|(entry, _)| entry);
        let held: Vec<_> = entries
            .zip(self.checksums().into_iter().zip(loaded))
            .filter_map(|(entry, (now, loaded))| Some((entry, now?, loaded)))
            .collect();
        let mut stale = self.stale_copies();
        let changed = || {
            let differs = held.iter().filter(|(_, now, loaded)| Some(*now) != *loaded);
            differs.map(|(entry, ..)| *entry)
        };
        let together: Vec<u8> = held.iter().flat_map(|of| of.1.to_le_bytes()).collect();
        WeightCheck {
            tensors: held.len(),
            bytes: held.iter().map(|(entry, ..)| entry.bytes).sum(),
            checksum: checksum::run(&together),
            sums: held
                .iter()
                .map(|(entry, now, _)| (entry.name.clone(), *now))
                .collect(),
            changed: {
                let changed = changed().map(|entry| entry.name.clone());
                changed.chain(stale.drain(..)).collect()
            },
            changed_tables: changed()
                .filter(|entry| matches!(entry.owner, Owner::Derived(_)))
                .map(|entry| entry.name.clone())
                .collect(),
        }
    }

    /// Proves that all weights and derived tensors that are held are what they were when their
    /// load ended.
    ///
    /// # Errors
    /// The names of those that are not.
    pub fn verify(&self) -> Result<WeightCheck, WeightsChanged> {
        let check = self.check_weights();
        match check.changed.is_empty() {
            true => Ok(check),
            false => Err(WeightsChanged {
                tensors: check.tensors,
                changed: check.changed,
            }),
        }
    }

    /// Streamed copies that are not what they are copies of.
    fn stale_copies(&self) -> Vec<String> {
        let streamed = |of: &(&TensorEntry, Handle)| of.1.arena == Account::Offload;
        let (entries, handles): (Vec<&TensorEntry>, Vec<Handle>) =
            self.layout.lasting().filter(streamed).unzip();
        if handles.is_empty()
            || !self
                .backend
                .holds(Account::Offload, self.layout.bytes(Account::Offload))
        {
            return Vec::new();
        }
        let copies = self.backend.copies(&handles);
        let sums = self.backend.checksums(&handles);
        let differs = |(copy, sum): (Option<u64>, u64)| copy.is_some_and(|copy| copy != sum);
        let stale = entries.into_iter().zip(copies.into_iter().zip(sums));
        stale
            .filter(|(_, pair)| differs(*pair))
            .map(|(entry, _)| format!("{} (streamed copy)", entry.name))
            .collect()
    }

    /// One per lasting tensor, in the registry's order; none for those that are released.
    fn checksums(&self) -> Vec<Option<u64>> {
        let is_held = |of: &Handle| self.backend.holds(of.arena, self.layout.bytes(of.arena));
        let lasting = || self.layout.lasting().map(|(_, handle)| handle);
        let handles: Vec<Handle> = lasting().filter(is_held).collect();
        let mut sums = self.backend.checksums(&handles).into_iter();
        let sum = |handle: Handle| is_held(&handle).then(|| sums.next()).flatten();
        lasting().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::cpu::CpuRank;
    use crate::forward::testing::tiny;
    use crate::memory::registry::TensorEntry;

    fn loaded(threads: usize) -> Forward<CpuRank> {
        tiny(1, threads).ranks.swap_remove(0).0
    }

    #[test]
    fn one_changed_byte_is_found_and_named() {
        let mut forward = loaded(2);
        let whole = forward.check_weights();
        assert_eq!(whole.changed, [""; 0]);
        let lasting = forward.layout.lasting();
        let entries: Vec<(TensorEntry, Handle)> = lasting.map(|(e, h)| (e.clone(), h)).collect();
        assert_eq!(whole.tensors, entries.len());
        for (entry, handle) in entries.into_iter().filter(|(entry, _)| entry.bytes > 0) {
            let last = usize::try_from(entry.bytes).unwrap() - 1;
            let flip = |forward: &mut Forward<CpuRank>| {
                forward.backend.held_mut(handle)[last] ^= 1;
            };
            flip(&mut forward);
            let check = forward.check_weights();
            assert_eq!(check.changed, std::slice::from_ref(&entry.name));
            assert_ne!(check.checksum, whole.checksum, "{}", entry.name);
            let sums = whole.sums.iter().zip(&check.sums);
            let differ: Vec<&str> = sums.filter(|(a, b)| a != b).map(|(a, _)| &*a.0).collect();
            assert_eq!(differ, [&*entry.name]);
            flip(&mut forward);
        }
        assert_eq!(forward.check_weights(), whole);
    }

    #[test]
    fn the_checksum_is_the_models_and_not_of_who_computes_it() {
        let check = loaded(1).check_weights();
        assert_eq!(check, loaded(3).check_weights());
        assert!(check.tensors > 10 && check.bytes > 100_000, "{check:?}");
    }
}
