//! Where everything of one rank lies: every account's tensors as handles, entered with their owners.
//! Arithmetic only; a backend takes the memory.

use plimsoll_kernels::kv::KvCache;
use plimsoll_planner::scratch::{self, Region};
use plimsoll_planner::weights::WeightLayout;
use plimsoll_planner::{
    Account, BlockCompute, Bytes, Dtype, KvDtype, Offload, Plan, Request, adapters, kv_cache,
    offload,
};

use super::handle::{Format, Handle};
use super::layers;
use super::lora::AdapterPlaces;
use super::places::{Activations, Area, Entered, Inputs, Scratch};
use crate::memory::registry::{Owner, Registry, TensorEntry};

/// The places on one rank.
#[derive(Debug)]
pub struct Layout {
    pub weights: WeightLayout,
    /// How those in blocks are to be multiplied.
    pub compute: BlockCompute,
    /// The type of exact products.
    pub dtype: Dtype,
    /// What of them is streamed. The ring is the end of the account `Weights`.
    pub offload: Offload,
    pub activations: Activations,
    pub scratch: Scratch,
    pub inputs: Inputs,
    pub kv: KvCache<KvDtype>,
    /// All blocks of the cache.
    pub cache: Handle,
    /// Block tables are padded with it: it holds zeros, not poison.
    pub null_block: Handle,
    /// Where adapters lie.
    pub adapters: AdapterPlaces,
    /// The rank's exchange buffer.
    pub exchange: Handle,
    entered: Entered,
    granule: Bytes,
    /// Bytes of each account, in whole granules.
    accounts: Vec<(Account, Bytes)>,
}

impl Layout {
    /// Of `rank` in a plan.
    pub fn of(request: &Request, plan: &Plan, rank: usize) -> Layout {
        let Request {
            shape,
            backend,
            kv,
            limits,
            ..
        } = request;
        let shard = &plan.ranks[rank].shard;
        let mut entered = Entered::default();

        let offload = offload::of(request, shard);
        let weights = offload::layout(request, shard, plan.ranks[rank].rank);
        for place in weights.places() {
            let name = format!("{:?}", place.tensor);
            let owner = Owner::Weight(name.clone());
            entered.enter(name, owner, layers::handle(place));
        }

        let planned = scratch::activations(request, shard);
        let activations_bytes = planned.total();
        let mut area = Area::new(Account::Activations, &mut entered);
        let activations = Activations::place(&planned, &mut area);

        let planned = scratch::workspaces(request, shard, plan.max_model_len);
        let workspaces_bytes = planned.total();
        let mut area = Area::new(Account::Workspaces, &mut entered);
        let scratch = Scratch::place(&planned, &mut area);
        let inputs = Inputs::place(&planned, &mut area);

        let block_bytes = kv_cache::block_bytes(shape, shard, kv);
        let kv_bytes = block_bytes.saturating_mul(u64::from(plan.kv_blocks));
        let whole = |arena: Account, bytes: Bytes| Handle {
            arena,
            region: Region {
                offset: 0,
                bytes: bytes.get(),
            },
            format: Format::Raw,
        };
        let cache = whole(Account::KvCache, kv_bytes);
        entered.enter("kv_cache".to_owned(), Owner::Kv, cache);

        let planned = adapters::layout(shape, shard, limits, request.adapters);
        let adapters_bytes = planned.total();
        let adapters = AdapterPlaces::of(&planned, request.adapters.rank, &mut entered);

        let planned = scratch::comm(shape, limits, request.rank_count());
        let exchange = Handle {
            region: planned.sum,
            format: Format::F32,
            ..whole(Account::Comm, planned.total())
        };
        entered.enter("sum".to_owned(), Owner::Scratch, exchange);

        let granule = scratch::granule(*backend);
        let resident = weights.total().round_up(granule);
        let accounts = [
            (Account::Weights, resident + offload.ring()),
            (Account::Offload, offload.host()),
            (Account::Activations, activations_bytes),
            (Account::Workspaces, workspaces_bytes),
            (Account::Adapters, adapters_bytes),
            (Account::KvCache, kv_bytes),
            (Account::Comm, planned.total()),
        ];
        let rounded = |(account, bytes): (Account, Bytes)| (account, bytes.round_up(granule));
        Layout {
            weights,
            compute: request.compute,
            dtype: request.dtype,
            offload,
            activations,
            scratch,
            inputs,
            kv: KvCache {
                dtype: kv.dtype,
                blocks: plan.kv_blocks as usize,
                block_size: kv.block_size as usize,
                layers: shape.layers as usize,
                heads: shard.kv_head_count() as usize,
                head_dim: shape.head_dim as usize,
            },
            cache,
            null_block: whole(Account::KvCache, block_bytes),
            adapters,
            exchange,
            entered,
            granule,
            accounts: accounts.map(rounded).to_vec(),
        }
    }

    /// What an account takes.
    pub fn bytes(&self, account: Account) -> Bytes {
        let found = self.accounts.iter().find(|(of, _)| *of == account);
        found.map_or(Bytes::ZERO, |(_, bytes)| *bytes)
    }

    /// The most that an account may ever take on a device with so much memory: the KV cache may
    /// grow, by whole blocks.
    pub fn most(&self, account: Account, device: Bytes) -> Bytes {
        let planned = self.bytes(account);
        match (account, self.null_block.region.bytes) {
            (Account::KvCache, block @ 1..) => {
                planned.max(Bytes::measured(device.get() - device.get() % block))
            }
            _ => planned,
        }
    }

    /// The KV cache has so many blocks from now on, the null block included.
    pub fn resize(&mut self, blocks: u32) {
        let taken = self.cache_bytes(blocks);
        self.kv.blocks = blocks as usize;
        self.cache.region.bytes = self.of_blocks(blocks).get();
        self.entered.resize_kv(self.cache);
        let row = self.accounts.iter_mut();
        if let Some((_, planned)) = row.into_iter().find(|(of, _)| *of == Account::KvCache) {
            *planned = taken;
        }
    }

    /// What a KV cache of so many blocks takes, the null block included, in whole granules.
    pub fn cache_bytes(&self, blocks: u32) -> Bytes {
        self.of_blocks(blocks).round_up(self.granule)
    }

    fn of_blocks(&self, blocks: u32) -> Bytes {
        Bytes::measured(self.null_block.region.bytes).saturating_mul(u64::from(blocks))
    }

    pub fn registry(&self) -> &Registry {
        &self.entered.registry
    }

    /// The tensors that no step may change: weights, adapters, and what was derived from the configuration.
    pub fn lasting(&self) -> impl Iterator<Item = (&TensorEntry, Handle)> {
        let entries = self.entered.registry.entries().iter();
        let lasts = |(entry, _): &(&TensorEntry, Handle)| match entry.owner {
            Owner::Weight(_) | Owner::Derived(_) | Owner::Adapter => true,
            Owner::State | Owner::Scratch | Owner::Kv => false,
        };
        entries
            .zip(self.entered.handles.iter().copied())
            .filter(lasts)
    }
}
