//! What each share of a model costs one rank, as tables.
//!
//! Bytes of a rank are a sum of what its heads, its MLP columns and its vocabulary rows take, so
//! differences of the layouts give every term once; the search then only adds. The layouts stay
//! the only place that knows sizes (`plan` checks the sum against them).

use super::context::max_model_len;
use crate::adapters;
use crate::bytes::Bytes;
use crate::kv_cache;
use crate::model::ModelShape;
use crate::offload::Offload;
use crate::request::Request;
use crate::scratch;
use crate::shard::{MLP_UNIT_COLUMNS, Shard, VOCAB_UNIT_ROWS};
use crate::stored;
use crate::weights;

/// Grains of a bundled search: a grain is the same part of the MLP and of the vocabulary.
const GRAINS: u32 = 4096;

/// A share of attention: whole groups, or a part of one group's query heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: u32,
    pub(crate) kv: u32,
    cost: Cost,
}

/// What one share adds to a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    weights: u64,
    /// Bytes of one layer's matrices, which may be offloaded.
    layer: u64,
    activations: u64,
    workspaces: u64,
    adapters: u64,
    /// Widest input of a linear layer that the share brings; a rank needs room for the widest.
    input_width: u64,
}

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
        probe.costs(columns, rows, last_rows_short)
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
            probe.columns(columns).plus(probe.rows(rows))
        };
        let rows: Vec<Cost> = (0..=GRAINS).map(bundle).collect();
        let none = vec![Cost::default()];
        probe.costs([none.clone(), none], [rows.clone(), rows], false)
    }

    /// Bytes of the first unit of a bundled search, rounded up to the granule.
    pub(crate) fn grain_bytes(&self) -> u64 {
        let grain = self.rows[0].get(1).copied().unwrap_or_default();
        self.round(grain.weights) + self.round(grain.activations)
    }

    /// The context in force when the cache holds `blocks` blocks.
    pub(crate) fn max_model_len(&self, blocks: u64) -> u32 {
        max_model_len(&self.request, blocks)
    }

    pub(crate) fn level(&self, blocks: u64) -> Level {
        let Request {
            shape, limits, kv, ..
        } = &self.request;
        let context = self.max_model_len(blocks);
        let base = scratch::workspaces(
            shape,
            &NOTHING,
            limits,
            context,
            self.request.input_form(),
            kv,
        )
        .total()
        .0;
        Level {
            kv_head: self.head_block.saturating_mul(blocks + 1),
            workspaces: base - self.input_bytes(shape.hidden.into()),
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
        let share = heads.cost.plus(*columns).plus(*rows);
        let input = share.input_width.max(self.request.shape.hidden.into());
        let offload = self.request.cpu_offload.map(|_| self.offload(&share));
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

    /// Bytes that a rank with this share keeps in host memory, and its ring.
    fn offload(&self, share: &Cost) -> (u64, u64) {
        let offload = Offload::new(&self.request, Bytes(share.layer));
        (offload.bytes().0, offload.ring().0)
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
        let share = heads.cost.plus(*columns).plus(*rows);
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

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            weights: self.weights + other.weights,
            layer: self.layer + other.layer,
            activations: self.activations + other.activations,
            workspaces: self.workspaces + other.workspaces,
            adapters: self.adapters + other.adapters,
            input_width: self.input_width.max(other.input_width),
        }
    }
}

const NOTHING: Shard = Shard {
    kv_heads: 0..0,
    query_heads: 0..0,
    mlp_columns: 0..0,
    vocab_rows: 0..0,
};

/// Reads costs off the layouts of models of one layer, against those of an empty share.
struct Probe<'a> {
    request: &'a Request,
    /// One for each kind of layer.
    kinds: Vec<Kind>,
    base_activations: u64,
    base_adapters: u64,
}

/// A model of one layer, and how many layers are of that kind.
struct Kind {
    one: ModelShape,
    count: u64,
    /// Weights of a rank without any share.
    base: u64,
}

impl<'a> Probe<'a> {
    fn new(request: &'a Request) -> Probe<'a> {
        let shape = &request.shape;
        let kinds = request.kept().kinds(shape.layers).into_iter();
        let kind = |(at, count): (u32, u32)| Kind {
            one: stored::one_layer(shape, at),
            count: count.into(),
            base: 0,
        };
        let mut probe = Probe {
            request,
            kinds: kinds.map(kind).collect(),
            base_activations: 0,
            base_adapters: 0,
        };
        let bases: Vec<u64> = probe
            .kinds
            .iter()
            .map(|kind| probe.weights(kind, &NOTHING))
            .collect();
        for (kind, base) in probe.kinds.iter_mut().zip(bases) {
            kind.base = base;
        }
        probe.base_activations = probe.activations(&NOTHING);
        probe.base_adapters = probe.adapters(&NOTHING);
        probe
    }

    /// Rank 1's, not 0's: the biases of rank 0 belong to no share.
    fn weights(&self, kind: &Kind, shard: &Shard) -> u64 {
        let kept = self.request.kept_of(&kind.one);
        weights::layout(&kind.one, shard, kept, 1).total().0 - kind.base
    }

    fn activations(&self, shard: &Shard) -> u64 {
        let Request {
            shape,
            limits,
            backend,
            ..
        } = self.request;
        scratch::activations(shape, shard, limits, *backend)
            .total()
            .0
    }

    fn adapters(&self, shard: &Shard) -> u64 {
        let Request {
            shape,
            limits,
            adapters: slots,
            ..
        } = self.request;
        adapters::total(shape, shard, limits, *slots).0
    }

    /// `in_layers`: a share of each layer, otherwise one of what lies around them.
    fn share(&self, shard: &Shard, input_width: u64, in_layers: bool) -> Cost {
        let Request {
            shape, limits, kv, ..
        } = self.request;
        let weights = match in_layers {
            true => {
                let all = |kind: &Kind| self.weights(kind, shard) * kind.count;
                self.kinds.iter().map(all).sum()
            }
            false => self
                .kinds
                .first()
                .map_or(0, |kind| self.weights(kind, shard)),
        };
        let attention =
            scratch::workspaces(shape, shard, limits, 1, self.request.input_form(), kv).attention;
        Cost {
            weights,
            layer: weights::layer_bytes(shape, shard, self.request.kept()).0,
            activations: self.activations(shard) - self.base_activations,
            adapters: self.adapters(shard) - self.base_adapters,
            workspaces: attention.bytes.next_multiple_of(weights::TENSOR_ALIGN.0),
            input_width,
        }
    }

    fn heads(&self, queries: u32, kv: u32) -> Heads {
        let shard = Shard {
            kv_heads: 0..kv,
            query_heads: 0..queries,
            ..NOTHING
        };
        let width = u64::from(queries) * u64::from(self.request.shape.head_dim);
        Heads {
            queries,
            kv,
            cost: self.share(&shard, width, true),
        }
    }

    fn columns(&self, columns: u32) -> Cost {
        let shard = Shard {
            mlp_columns: 0..columns,
            ..NOTHING
        };
        self.share(&shard, weights::padded_mlp_columns(&shard), true)
    }

    fn rows(&self, rows: u32) -> Cost {
        self.share(
            &Shard {
                vocab_rows: 0..rows,
                ..NOTHING
            },
            0,
            false,
        )
    }

    fn costs(&self, columns: [Vec<Cost>; 2], rows: [Vec<Cost>; 2], last_rows_short: bool) -> Costs {
        let Request {
            shape,
            backend,
            limits,
            kv,
            ..
        } = self.request;
        let ranks = self.request.rank_count();
        let group = shape.group();
        let whole = (0..=shape.kv_heads).map(|kv| self.heads(kv * group, kv));
        let parts = (1..group).map(|queries| self.heads(queries, 1));
        let granule = scratch::granule(*backend);
        let driver = scratch::driver(*backend, ranks);
        let comm = scratch::comm(shape, limits, ranks).total() + driver.comm;
        let constant = [comm, driver.context, driver.graphs];
        let kept = self.request.kept();
        let base_weights =
            [1, 0].map(|rank| weights::layout(shape, &NOTHING, kept, rank).total().0);
        Costs {
            heads: whole.chain(parts).collect(),
            columns,
            rows,
            last_rows_short,
            group,
            query_heads: shape.query_heads,
            request: self.request.clone(),
            base_weights,
            base_activations: self.base_activations,
            base_adapters: self.base_adapters,
            constant: constant
                .into_iter()
                .map(|bytes| bytes.round_up(granule).0)
                .sum(),
            head_block: kv_cache::bytes_per_head(shape, kv).0,
            granule: granule.0,
        }
    }
}
