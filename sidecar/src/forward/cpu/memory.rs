//! A rank's memory on the processor: every account reserved, committed and poisoned, and carved by
//! the planner's layouts.

use plimsoll_kernels::device::{Buffer, Device};
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope;
use plimsoll_kernels::sampling::Sampler;
use plimsoll_planner::scratch;
use plimsoll_planner::weights::{self, WeightLayout};
use plimsoll_planner::{Account, Bytes, Plan, Request, kv_cache};

use super::CpuRank;
use super::views::{apart, size};
use crate::forward::places::{Activations, Area, Inputs, Scratch};
use crate::memory::arena::{Arena, ArenaError, Owner, Registry, TensorEntry};
use crate::memory::ledger::Ledger;
use crate::model::ModelParams;

/// A rank's memory, and where things lie in it.
#[derive(Debug)]
pub(in crate::forward) struct Reserved {
    pub(in crate::forward) rank: CpuRank,
    pub(in crate::forward) layout: WeightLayout,
    pub(in crate::forward) activations: Activations,
    pub(in crate::forward) inputs: Inputs,
    pub(in crate::forward) registry: Registry,
    /// The rank's exchange buffer (the `Comm` account): the group owns it.
    pub(in crate::forward) exchange: Buffer,
}

impl CpuRank {
    /// Reserves, commits and poisons every account of `rank`, and fills the derived tensors.
    pub(in crate::forward) fn reserve(
        device: &dyn Device,
        ledger: &Ledger,
        request: &Request,
        plan: &Plan,
        rank: usize,
        params: &ModelParams,
        pool: Pool,
    ) -> Result<Reserved, ArenaError> {
        let Request {
            shape,
            backend,
            dtype,
            kv,
            limits,
            ..
        } = request;
        let shard = &plan.ranks[rank].shard;
        let granule = scratch::granule(*backend);
        let arena = |account: Account, bytes: Bytes| {
            Arena::commit(device, ledger, rank, account, bytes.round_up(granule))
        };
        let mut registry = Registry::default();

        let layout = weights::layout(shape, shard, *dtype, plan.ranks[rank].rank);
        for place in layout.places() {
            registry.add(TensorEntry {
                name: format!("{:?}", place.tensor),
                owner: Owner::Weight(format!("{:?}", place.tensor)),
                account: Account::Weights,
                offset: place.offset,
                bytes: place.bytes,
            });
        }
        let weights = arena(Account::Weights, layout.total())?.into_whole(layout.total().get());

        let planned = scratch::activations(shape, shard, limits, *backend);
        let mut area = Area::new(
            Account::Activations,
            arena(Account::Activations, planned.total())?,
            &mut registry,
        );
        let activations = Activations::carve(&planned, &mut area);
        let activation_buffers = area.buffers;

        let planned = scratch::workspaces(shape, shard, limits, plan.max_model_len, *dtype, kv);
        let mut area = Area::new(
            Account::Workspaces,
            arena(Account::Workspaces, planned.total())?,
            &mut registry,
        );
        let kept = Scratch::carve(&planned, &mut area);
        let inputs = Inputs::carve(&planned, &mut area);
        let workspaces = area.buffers;

        let block_bytes = kv_cache::block_bytes(shape, shard, kv);
        let bytes = block_bytes.saturating_mul(u64::from(plan.kv_blocks));
        registry.add(TensorEntry {
            name: "kv_cache".to_owned(),
            owner: Owner::Kv,
            account: Account::KvCache,
            offset: 0,
            bytes: bytes.get(),
        });
        let mut cache = arena(Account::KvCache, bytes)?.into_whole(bytes.get());
        ledger.set_used(rank, Account::KvCache, Bytes::ZERO);
        // Padding of block tables points to the null block: it holds zeros, not poison.
        cache.range_mut::<u8>(0, size(block_bytes.get())).fill(0);
        let kv_shape = KvCache {
            dtype: kv.dtype,
            blocks: plan.kv_blocks as usize,
            block_size: kv.block_size as usize,
            layers: shape.layers as usize,
            heads: shard.kv_head_count() as usize,
            head_dim: shape.head_dim as usize,
        };

        let planned = scratch::comm(shape, limits, request.rank_count());
        let mut area = arena(Account::Comm, planned.total())?;
        let (offset, bytes) = (planned.sum.offset, planned.sum.bytes);
        let exchange = area.carve(&mut registry, Owner::Scratch, "sum", offset, bytes);

        let mut rank = CpuRank {
            weights,
            kv: cache,
            kv_shape,
            activations: activation_buffers,
            workspaces,
            scratch: kept,
            pool,
            sampler: Sampler::default(),
            drawn: Vec::new(),
            history: Vec::new(),
        };
        rank.fill_derived(params);
        Ok(Reserved {
            rank,
            layout,
            activations,
            inputs,
            registry,
            exchange,
        })
    }

    /// Fills what is computed from the configuration; again after its memory came back.
    fn fill_derived(&mut self, params: &ModelParams) {
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

    /// The bytes of a tensor that no step may change: a weight, or one that was derived.
    pub(in crate::forward) fn lasting_bytes(&self, entry: &TensorEntry) -> &[u8] {
        match (&entry.owner, entry.name.as_str()) {
            (Owner::Weight(_), _) => self.weights.range(size(entry.offset), size(entry.bytes)),
            (_, "rope_cos") => self.workspaces[self.scratch.rope_cos.index].as_slice(),
            (_, "rope_sin") => self.workspaces[self.scratch.rope_sin.index].as_slice(),
            (owner, name) => unreachable!("{name} of {owner:?} has no buffer here"),
        }
    }

    /// As `lasting_bytes`, to spoil them.
    #[cfg(test)]
    pub(in crate::forward) fn lasting_bytes_mut(&mut self, entry: &TensorEntry) -> &mut [u8] {
        match entry.name.as_str() {
            "rope_cos" => self.workspaces[self.scratch.rope_cos.index].as_mut_slice(),
            "rope_sin" => self.workspaces[self.scratch.rope_sin.index].as_mut_slice(),
            _ => self
                .weights
                .range_mut(size(entry.offset), size(entry.bytes)),
        }
    }
}
