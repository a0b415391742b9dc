//! A rank's memory on the processor: arenas as long as the layout says, and weights packed into
//! them as the kernels read them.

use plimsoll_kernels::checksum;
use plimsoll_kernels::comm::Exchange;
use plimsoll_kernels::device::Device;
use plimsoll_kernels::linear::{self, LinearShape};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope;
use plimsoll_kernels::sampling::Sampler;
use plimsoll_planner::{Account, Dtype};

use super::CpuRank;
use crate::forward::backend::Store;
use crate::forward::handle::{Format, Handle};
use crate::forward::layers::Matrix;
use crate::forward::layout::Layout;
use crate::memory::arena::{Arena, ArenaError};
use crate::memory::ledger::Ledger;
use crate::model::ModelParams;

/// Where a rank's memory comes from, and the threads that work on it.
pub struct Host {
    pub device: &'static dyn Device,
    pub pool: Pool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Store for CpuRank {
    type On = Host;
    type Exchange = Exchange;

    fn reserve(
        on: Host,
        ledger: &Ledger,
        rank: usize,
        layout: &Layout,
    ) -> Result<(CpuRank, Exchange), ArenaError> {
        let Host { device, pool } = on;
        // A machine that does not say how much it has reserves what is planned.
        let total = device.total_memory().unwrap_or_default();
        let arena = |account| {
            let planned = layout.bytes(account);
            let sizes = (planned, layout.most(account, total));
            let mut arena = Arena::reserve(device, ledger, rank, account, sizes)?;
            arena.commit(ledger, &pool, 0..planned.get())?;
            Ok::<Arena, ArenaError>(arena)
        };
        let (weights, kv) = (arena(Account::Weights)?, arena(Account::KvCache)?);
        let (activations, workspaces) = (arena(Account::Activations)?, arena(Account::Workspaces)?);
        let (comm, exchange) = arena(Account::Comm)?.share();
        let reserved = CpuRank {
            weights,
            kv,
            activations,
            workspaces,
            comm,
            kv_shape: layout.kv,
            cache: layout.cache,
            scratch: layout.scratch,
            pool,
            sampler: Sampler::default(),
            drawn: Vec::new(),
            history: Vec::new(),
        };
        Ok((reserved, exchange))
    }

    fn derive(&mut self, params: &ModelParams) {
        let tables = [self.scratch.rope_cos.region, self.scratch.rope_sin.region];
        let [mut cos, mut sin] = self.workspaces.apart(tables);
        let head_dim = self.kv_shape.head_dim;
        rope::table(&params.rope, head_dim, cos.all_mut(), sin.all_mut());
    }

    fn clear(&mut self, tensor: Handle) {
        self.held_mut(tensor).fill(0);
    }

    fn write(&mut self, to: &Matrix, first_row: usize, values: &[f32]) {
        let &Matrix {
            weight, rows, cols, ..
        } = to;
        let target = self.held_mut(weight);
        match weight.format {
            Format::Panels(dtype) => {
                let shape = LinearShape { rows, cols, dtype };
                linear::pack_rows(target, &shape, first_row, values);
            }
            Format::RowMajor(dtype) => store_plain(dtype, target, first_row * cols, values),
            Format::F32 => store_plain(Dtype::Float32, target, first_row * cols, values),
            Format::U32 | Format::U64 | Format::Raw => unreachable!("{to:?} is no weight"),
        }
    }

    fn checksums(&self, of: &[Handle]) -> Vec<u64> {
        let tensors: Vec<&[u8]> = of.iter().map(|tensor| self.held(*tensor)).collect();
        let mut sums = vec![0; tensors.len()];
        self.pool.run_rows(&mut sums, 1, 1, |at, sum| {
            sum[0] = checksum::run(tensors[at]);
        });
        sums
    }
}

impl CpuRank {
    fn arena(&self, account: Account) -> &Arena {
        match account {
            Account::Weights => &self.weights,
            Account::KvCache => &self.kv,
            Account::Activations => &self.activations,
            Account::Workspaces => &self.workspaces,
            other => unreachable!("{} holds no tensors here", other.name()),
        }
    }

    fn held(&self, tensor: Handle) -> &[u8] {
        self.arena(tensor.arena).all(tensor.region)
    }

    pub(in crate::forward) fn held_mut(&mut self, tensor: Handle) -> &mut [u8] {
        let arena = match tensor.arena {
            Account::Weights => &mut self.weights,
            Account::KvCache => &mut self.kv,
            Account::Activations => &mut self.activations,
            Account::Workspaces => &mut self.workspaces,
            other => unreachable!("{} holds no tensors here", other.name()),
        };
        arena.all_mut(tensor.region)
    }
}

/// Numbers one after the other, in little-endian order as the kernels read them.
fn store_plain(dtype: Dtype, target: &mut [u8], first: usize, values: &[f32]) {
    match dtype {
        Dtype::Float32 => {
            let cells = target[first * 4..].chunks_exact_mut(4);
            cells
                .zip(values)
                .for_each(|(cell, x)| cell.copy_from_slice(&x.to_ne_bytes()));
        }
        Dtype::BFloat16 => {
            let cells = target[first * 2..].chunks_exact_mut(2).zip(values);
            cells.for_each(|(c, x)| c.copy_from_slice(&half::bf16::from_f32(*x).to_ne_bytes()));
        }
        Dtype::Float16 => {
            let cells = target[first * 2..].chunks_exact_mut(2).zip(values);
            cells.for_each(|(c, x)| c.copy_from_slice(&half::f16::from_f32(*x).to_ne_bytes()));
        }
    }
}
