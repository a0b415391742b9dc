//! Everything one rank holds, carved from its arenas by the planner's layouts.

use plimsoll_kernels::device::{Buffer, Device};
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::rope;
use plimsoll_planner::scratch::{self, Region};
use plimsoll_planner::weights::{self, WeightLayout};
use plimsoll_planner::{Account, Bytes, Plan, Request, kv_cache};

use crate::memory::arena::{Arena, ArenaError, Owner, Registry};
use crate::memory::ledger::Ledger;
use crate::model::ModelParams;

/// Activations, see [`scratch::ActivationLayout`].
#[derive(Debug)]
pub(super) struct Activations {
    pub(super) hidden: Buffer,
    pub(super) residual: Buffer,
    pub(super) normed: Buffer,
    pub(super) qkv: Buffer,
    pub(super) attention: Buffer,
    pub(super) gate_up: Buffer,
    pub(super) activated: Buffer,
    pub(super) partial: Buffer,
    pub(super) logits: Buffer,
}

/// Workspaces, see [`scratch::WorkspaceLayout`].
#[derive(Debug)]
pub(super) struct Workspaces {
    pub(super) rope_cos: Buffer,
    pub(super) rope_sin: Buffer,
    pub(super) gemm_input: Buffer,
    pub(super) attention: Buffer,
    pub(super) sampling: Buffer,
    pub(super) token_ids: Buffer,
    pub(super) positions: Buffer,
    pub(super) slots: Buffer,
    pub(super) query_start: Buffer,
    pub(super) context_len: Buffer,
    pub(super) block_tables: Buffer,
}

/// One rank's memory. Weights and KV blocks are addressed by offset, the rest by name.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) weights: Buffer,
    pub(super) layout: WeightLayout,
    pub(super) kv: Buffer,
    pub(super) kv_shape: KvCache,
    pub(super) activations: Activations,
    pub(super) workspaces: Workspaces,
    pub(super) registry: Registry,
}

/// One carve per field, by the field's own name.
macro_rules! carve {
    ($arena:ident, $registry:ident, $layout:ident, $type:ident { $($field:ident: $owner:expr),* $(,)? }) => {
        $type { $($field: {
            let Region { offset, bytes } = $layout.$field;
            $arena.carve(&mut $registry, $owner, stringify!($field), offset, bytes)
        }),* }
    };
}

impl Tensors {
    /// Reserves, commits and poisons every account of `rank`, and fills the derived tensors.
    /// The exchange buffer (the `Comm` account) is returned beside: the group owns it.
    pub(super) fn reserve(
        device: &dyn Device,
        ledger: &Ledger,
        request: &Request,
        plan: &Plan,
        rank: usize,
        params: &ModelParams,
    ) -> Result<(Tensors, Buffer), ArenaError> {
        let Request {
            shape,
            backend,
            dtype,
            kv,
            limits,
            ..
        } = request;
        let shard = &plan.ranks[rank].shard;
        let index = plan.ranks[rank].rank;
        let mut registry = Registry::default();
        let granule = scratch::granule(*backend);
        let arena = |account: Account, bytes: Bytes| {
            Arena::commit(device, ledger, rank, account, bytes.round_up(granule))
        };

        let layout = weights::layout(shape, shard, *dtype, index);
        for place in layout.places() {
            registry.add(crate::memory::arena::TensorEntry {
                name: format!("{:?}", place.tensor),
                owner: Owner::Weight(format!("{:?}", place.tensor)),
                account: Account::Weights,
                offset: place.offset,
                bytes: place.bytes,
            });
        }
        let weights = arena(Account::Weights, layout.total())?.into_whole(layout.total().get());

        let of_activations = scratch::activations(shape, shard, limits, *backend);
        let mut area = arena(Account::Activations, of_activations.total())?;
        let activations = carve!(
            area,
            registry,
            of_activations,
            Activations {
                hidden: Owner::Scratch,
                residual: Owner::Scratch,
                normed: Owner::Scratch,
                qkv: Owner::Scratch,
                attention: Owner::Scratch,
                gate_up: Owner::Scratch,
                activated: Owner::Scratch,
                partial: Owner::Scratch,
                logits: Owner::Scratch,
            }
        );

        let of_workspaces =
            scratch::workspaces(shape, shard, limits, plan.max_model_len, *dtype, kv);
        let mut area = arena(Account::Workspaces, of_workspaces.total())?;
        let mut workspaces = carve!(
            area,
            registry,
            of_workspaces,
            Workspaces {
                rope_cos: Owner::Derived("rope"),
                rope_sin: Owner::Derived("rope"),
                gemm_input: Owner::Scratch,
                attention: Owner::Scratch,
                sampling: Owner::Scratch,
                token_ids: Owner::Scratch,
                positions: Owner::Scratch,
                slots: Owner::Scratch,
                query_start: Owner::Scratch,
                context_len: Owner::Scratch,
                block_tables: Owner::Scratch,
            }
        );
        fill_derived(&mut workspaces, params, shape.head_dim as usize);

        let block_bytes = kv_cache::block_bytes(shape, shard, kv);
        let bytes = block_bytes.saturating_mul(u64::from(plan.kv_blocks));
        registry.add(crate::memory::arena::TensorEntry {
            name: "kv_cache".to_owned(),
            owner: Owner::Kv,
            account: Account::KvCache,
            offset: 0,
            bytes: bytes.get(),
        });
        let mut kv_buffer = arena(Account::KvCache, bytes)?.into_whole(bytes.get());
        ledger.set_used(rank, Account::KvCache, Bytes::ZERO);
        // Padding of block tables points to the null block: it holds zeros, not poison.
        let null_block = usize::try_from(block_bytes.get()).unwrap_or(0);
        kv_buffer.range_mut::<u8>(0, null_block).fill(0);
        let kv_shape = KvCache {
            dtype: kv.dtype,
            blocks: plan.kv_blocks as usize,
            block_size: kv.block_size as usize,
            layers: shape.layers as usize,
            heads: shard.kv_head_count() as usize,
            head_dim: shape.head_dim as usize,
        };

        let of_comm = scratch::comm(shape, limits, request.rank_count());
        let mut area = arena(Account::Comm, of_comm.total())?;
        let Region { offset, bytes } = of_comm.sum;
        let comm = area.carve(&mut registry, Owner::Scratch, "sum", offset, bytes);

        let kv = kv_buffer;
        Ok((
            Tensors {
                weights,
                layout,
                kv,
                kv_shape,
                activations,
                workspaces,
                registry,
            },
            comm,
        ))
    }
}

/// Fills what is computed from the configuration; again after its memory came back.
fn fill_derived(workspaces: &mut Workspaces, params: &ModelParams, head_dim: usize) {
    let Workspaces {
        rope_cos, rope_sin, ..
    } = workspaces;
    rope::table(
        &params.rope,
        head_dim,
        rope_cos.as_mut_slice(),
        rope_sin.as_mut_slice(),
    );
}
