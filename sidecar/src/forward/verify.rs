//! Checksums of what must stay as it was loaded: the weights, and what was derived from the
//! configuration.

use plimsoll_kernels::checksum;

use super::Forward;
use super::backend::Store;
use super::handle::Handle;

/// What a rank's weights are now, beside what they were when their load ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightCheck {
    pub tensors: usize,
    pub bytes: u64,
    /// Of all tensors together, as they are now.
    pub checksum: u64,
    /// Names of the tensors that are not what they were.
    pub changed: Vec<String>,
}

impl<B: Store> Forward<B> {
    /// Remembers what was loaded; the figures of [`Forward::check_weights`] are compared to it.
    pub(super) fn remember_weights(&mut self) {
        self.loaded = self.checksums();
    }

    /// Reads every weight and derived tensor once: some seconds for tens of gigabytes.
    pub fn check_weights(&self) -> WeightCheck {
        let sums = self.checksums();
        let together: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let loaded = self.loaded.iter().map(Some).chain(std::iter::repeat(None));
        let lasting = || self.layout.lasting().map(|(entry, _)| entry);
        let changed = lasting().zip(sums.iter().zip(loaded));
        WeightCheck {
            tensors: sums.len(),
            bytes: lasting().map(|entry| entry.bytes).sum(),
            checksum: checksum::run(&together),
            changed: changed
                .filter(|(_, (now, loaded))| Some(*now) != *loaded)
                .map(|(entry, _)| entry.name.clone())
                .collect(),
        }
    }

    /// One per lasting tensor, in the registry's order.
    fn checksums(&self) -> Vec<u64> {
        let lasting: Vec<Handle> = self.layout.lasting().map(|(_, handle)| handle).collect();
        self.backend.checksums(&lasting)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use plimsoll_kernels::device::Cpu;
    use plimsoll_kernels::isa::Isa;
    use plimsoll_kernels::pool::Pool;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::{Planned, plan_flags};
    use crate::forward::cpu::{CpuRank, Host};
    use crate::memory::ledger::Ledger;
    use crate::memory::registry::TensorEntry;
    use crate::model::ModelFolder;

    fn loaded(threads: usize) -> Forward<CpuRank> {
        let folder = "tests/fixtures/models/tiny-llama";
        let model = ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let line = "x plan m --max-num-seqs 2 --max-num-batched-tokens 32 --kv-cache-size 1Mi";
        let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not a plan")
        };
        let Planned { request, plan } = plan_flags(&args.memory, &model).unwrap();
        let ledger = Ledger::new(&plan, &request.ranks, request.kv.block_size, &[]);
        let pool = Pool::new(threads, Isa::detect()).unwrap();
        let on = Host { device: &Cpu, pool };
        let reserved = Forward::reserve(on, &ledger, &request, &plan, 0, &model.params).unwrap();
        let mut forward: Forward<CpuRank> = reserved.0;
        assert!(forward.load(&model, |_| true).unwrap());
        forward
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
