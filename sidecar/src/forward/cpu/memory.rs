//! A rank's memory on the processor: arenas cut into buffers as the layout says, and weights packed
//! into them as the kernels read them.

use plimsoll_kernels::checksum;
use plimsoll_kernels::device::{Buffer, Device};
use plimsoll_kernels::linear::{self, LinearShape};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope;
use plimsoll_kernels::sampling::Sampler;
use plimsoll_planner::{Account, Bytes, Dtype};

use super::CpuRank;
use super::views::{apart, size};
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
    type Exchange = Buffer;

    fn reserve(
        on: Host,
        ledger: &Ledger,
        rank: usize,
        layout: &Layout,
    ) -> Result<(CpuRank, Buffer), ArenaError> {
        let Host { device, pool } = on;
        let arena = |account| Arena::commit(device, ledger, rank, account, layout.bytes(account));
        // Addressed by offsets: as long as their last tensor needs.
        let whole = |account| {
            let ends = layout
                .tensors(account)
                .map(|of| of.region.offset + of.region.bytes);
            Ok::<_, ArenaError>(arena(account)?.into_whole(ends.max().unwrap_or(0)))
        };
        let cut = |account| {
            let mut arena = arena(account)?;
            let tensors = layout.tensors(account);
            let cut = tensors.map(|of| arena.cut(of.region.offset, of.region.bytes));
            Ok::<Vec<Buffer>, ArenaError>(cut.collect())
        };
        let reserved = CpuRank {
            weights: whole(Account::Weights)?,
            activations: cut(Account::Activations)?,
            workspaces: cut(Account::Workspaces)?,
            kv: whole(Account::KvCache)?,
            kv_shape: layout.kv,
            scratch: layout.scratch,
            pool,
            sampler: Sampler::default(),
            drawn: Vec::new(),
            history: Vec::new(),
        };
        ledger.set_used(rank, Account::KvCache, Bytes::ZERO);
        let sum = layout.exchange.region;
        let exchange = arena(Account::Comm)?.cut(sum.offset, sum.bytes);
        Ok((reserved, exchange))
    }

    fn derive(&mut self, params: &ModelParams) {
        let tables = [self.scratch.rope_cos, self.scratch.rope_sin];
        let [cos, sin] = apart(&mut self.workspaces, tables);
        let head_dim = self.kv_shape.head_dim;
        rope::table(
            &params.rope,
            head_dim,
            cos.as_mut_slice(),
            sin.as_mut_slice(),
        );
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
    fn held(&self, tensor: Handle) -> &[u8] {
        let Handle { region, index, .. } = tensor;
        let (offset, bytes) = (size(region.offset), size(region.bytes));
        match tensor.arena {
            Account::Weights => self.weights.range(offset, bytes),
            Account::KvCache => self.kv.range(offset, bytes),
            Account::Activations => self.activations[index].as_slice(),
            Account::Workspaces => self.workspaces[index].as_slice(),
            other => unreachable!("{} is not kept here", other.name()),
        }
    }

    pub(in crate::forward) fn held_mut(&mut self, tensor: Handle) -> &mut [u8] {
        let Handle { region, index, .. } = tensor;
        let (offset, bytes) = (size(region.offset), size(region.bytes));
        match tensor.arena {
            Account::Weights => self.weights.range_mut(offset, bytes),
            Account::KvCache => self.kv.range_mut(offset, bytes),
            Account::Activations => self.activations[index].as_mut_slice(),
            Account::Workspaces => self.workspaces[index].as_mut_slice(),
            other => unreachable!("{} is not kept here", other.name()),
        }
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
