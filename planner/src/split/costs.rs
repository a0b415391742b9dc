//! What each share of a model costs one rank, as tables.
//!
//! Bytes of a rank are a sum of what its heads, its MLP columns and its vocabulary rows take, so
//! differences of the layouts give every term once; the search then only adds. The layouts stay
//! the only place that knows sizes (`plan` checks the sum against them).

use super::context::max_model_len;
use super::probe::Probe;
use super::share::{Cost, Heads, NOTHING};
use crate::kv_cache;
use crate::offload::Order;
use crate::request::Request;
use crate::scratch;
use crate::shard::{MLP_UNIT_COLUMNS, VOCAB_UNIT_ROWS};
use crate::weights;

/// Grains of a bundled search: a grain is the same part of the MLP and of the vocabulary.
const GRAINS: u32 = 4096;

/// The costs of every share. Index of `columns` and `rows`: does the share hold the last unit
/// (which may be shorter)? Then: how many units?
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    pub(crate) heads: Vec<Heads>,
    pub(crate) columns: [Vec<Cost>; 2],
    pub(crate) rows: [Vec<Cost>; 2],
    /// The last vocabulary unit is shorter than the others.
    pub(crate) last_rows_short: bool,
    /// Query heads of one KV head.
    pub(crate) group: u32,
    pub(crate) query_heads: u32,
    request: Request,
    /// Where layers are offloaded.
    order: Option<Order>,
    /// Weights of a rank without any share: the norms; index: is it rank 0 (biases)?
    base_weights: [u64; 2],
    base_activations: u64,
    base_adapters: u64,
    /// Accounts that no share changes, each rounded: exchange buffers, context, graphs.
    constant: u64,
    /// KV bytes of one block of one head.
    head_block: u64,
    granule: u64,
}

/// What a length of the KV cache costs, whatever the split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// KV bytes of one head, null block included.
    kv_head: u64,
    workspaces: u64,
}

impl Costs {
    pub(crate) fn new(request: &Request) -> Costs {
        let shape = &request.shape;
        let probe = Probe::new(request);
        let units = |total: u32, unit: u32, cost: &dyn Fn(u32) -> Cost| -> [Vec<Cost>; 2] {
            let count = total.div_ceil(unit);
            let whole = (0..=count)
                .map(|units| cost((units * unit).min(total)))
                .collect();
            let short = count * unit - total;
            let last = |units: u32| cost((units * unit).saturating_sub(short));
            [whole, (0..=count).map(last).collect()]
        };
        let columns = units(shape.ffn, MLP_UNIT_COLUMNS, &|count| probe.columns(count));
        let rows = units(shape.vocab, VOCAB_UNIT_ROWS, &|count| probe.rows(count));
        let last_rows_short = !shape.vocab.is_multiple_of(VOCAB_UNIT_ROWS);
        Costs::assemble(&probe, columns, rows, last_rows_short)
    }

    /// The same model with MLP and vocabulary cut together into `GRAINS` equal parts: a search
    /// over heads alone, for models where searching all three at once takes too long.
    pub(crate) fn bundled(request: &Request) -> Costs {
        let probe = Probe::new(request);
        let part = |total: u32, grain: u32| {
            let part = u64::from(total) * u64::from(grain) / u64::from(GRAINS);
            u32::try_from(part).unwrap_or(total)
        };
        let bundle = |grain: u32| {
            let (columns, rows) = (
                part(request.shape.ffn, grain),
                part(request.shape.vocab, grain),
            );
            let columns = probe.columns(columns);
            Cost {
                layers: columns.layers.clone(),
                ..columns.plus(&probe.rows(rows))
            }
        };
        let rows: Vec<Cost> = (0..=GRAINS).map(bundle).collect();
        let none = vec![Cost::default()];
        Costs::assemble(&probe, [none.clone(), none], [rows.clone(), rows], false)
    }

    fn assemble(
        probe: &Probe<'_>,
        columns: [Vec<Cost>; 2],
        rows: [Vec<Cost>; 2],
        last_rows_short: bool,
    ) -> Costs {
        let Request {
            shape,
            backend,
            limits,
            kv,
            ..
        } = probe.request;
        let ranks = probe.request.rank_count();
        let group = shape.group();
        let whole = (0..=shape.kv_heads).map(|kv| probe.heads(kv * group, kv));
        let parts = (1..group).map(|queries| probe.heads(queries, 1));
        let granule = scratch::granule(*backend);
        let driver = scratch::driver(*backend, ranks);
        let comm = scratch::comm(shape, limits, ranks).total() + driver.comm;
        let constant = [comm, driver.context, driver.graphs];
        let kept = probe.request.kept();
        let base_weights =
            [1, 0].map(|rank| weights::layout(shape, &NOTHING, kept, rank).total().0);
        Costs {
            heads: whole.chain(parts).collect(),
            columns,
            rows,
            last_rows_short,
            group,
            query_heads: shape.query_heads,
            request: probe.request.clone(),
            order: probe.request.cpu_offload.map(|_| Order::new(probe.request)),
            base_weights,
            base_activations: probe.base_activations,
            base_adapters: probe.base_adapters,
            constant: constant
                .into_iter()
                .map(|bytes| bytes.round_up(granule).0)
                .sum(),
            head_block: kv_cache::bytes_per_head(shape, kv).0,
            granule: granule.0,
        }
    }

    /// Bytes of the first unit of a bundled search, rounded up to the granule.
    pub(crate) fn grain_bytes(&self) -> u64 {
        let grain = self.rows[0].get(1);
        grain.map_or(0, |grain| {
            self.round(grain.weights) + self.round(grain.activations)
        })
    }

    /// The context in force when the cache holds `blocks` blocks.
    pub(crate) fn max_model_len(&self, blocks: u64) -> u32 {
        max_model_len(&self.request, blocks)
    }

    pub(crate) fn level(&self, blocks: u64) -> Level {
        let context = self.max_model_len(blocks);
        let base = scratch::workspaces(&self.request, &NOTHING, context)
            .total()
            .0;
        Level {
            kv_head: self.head_block.saturating_mul(blocks + 1),
            workspaces: base - self.input_bytes(self.request.shape.hidden.into()),
        }
    }

    /// Bytes of the KV account of a rank.
    pub(crate) fn kv_bytes(&self, level: &Level, heads: &Heads) -> u64 {
        self.round(level.kv_head.saturating_mul(heads.kv.into()))
    }

    /// Bytes of all accounts of a rank. Saturates.
    pub(crate) fn total(
        &self,
        level: &Level,
        first: bool,
        heads: &Heads,
        columns: &Cost,
        rows: &Cost,
    ) -> u64 {
        let share = heads.cost.plus(columns).plus(rows);
        let input = share.input_width.max(self.request.shape.hidden.into());
        let offload = self.order.as_ref();
        let offload = offload.map(|order| offload_of(order, [&heads.cost, columns, rows]));
        let (moved, ring) = offload.unwrap_or_default();
        let weights = self.base_weights[usize::from(first)] + share.weights;
        let accounts = [
            self.round(weights - moved),
            ring,
            self.round(self.base_activations + share.activations),
            self.round(level.workspaces + share.workspaces + self.input_bytes(input)),
            self.kv_bytes(level, heads),
            self.round(self.base_adapters + share.adapters),
            self.constant,
        ];
        accounts.into_iter().fold(0, u64::saturating_add)
    }

    /// Bytes a rank reads in one step: its weights, and the keys and values of `blocks` blocks.
    pub(crate) fn step(
        &self,
        blocks: u64,
        first: bool,
        heads: &Heads,
        columns: &Cost,
        rows: &Cost,
    ) -> u64 {
        let share = heads.cost.plus(columns).plus(rows);
        let kv = self
            .head_block
            .saturating_mul(blocks)
            .saturating_mul(heads.kv.into());
        (self.base_weights[usize::from(first)] + share.weights).saturating_add(kv)
    }

    fn input_bytes(&self, width: u64) -> u64 {
        scratch::gemm_input_bytes(&self.request.limits, width, self.request.input_form()).0
    }

    fn round(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.granule).saturating_mul(self.granule)
    }
}

/// Bytes that a rank with these shares keeps in host memory, and its ring.
fn offload_of(order: &Order, shares: [&Cost; 3]) -> (u64, u64) {
    let sizes = shares.map(|cost| cost.layers.as_deref().unwrap_or_default());
    let size = |kind: usize| sizes.iter().filter_map(|of| of.get(kind)).sum();
    let gone = order.gone(size);
    (gone.bytes, gone.ring)
}
