//! Reads the costs of shares off the layouts.

use std::sync::Arc;

use super::share::{Cost, Heads, NOTHING};
use crate::adapters;
use crate::model::ModelShape;
use crate::request::Request;
use crate::scratch::{self, Region};
use crate::shard::Shard;
use crate::stored;
use crate::weights;

/// Reads costs off the layouts of models of one layer, against those of an empty share.
pub(super) struct Probe<'a> {
    pub(super) request: &'a Request,
    /// One for each kind of layer.
    kinds: Vec<Kind>,
    pub(super) base_activations: u64,
    pub(super) base_adapters: u64,
}

/// A model of one layer, and how many layers are of that kind.
struct Kind {
    one: ModelShape,
    count: u64,
    /// Weights of a rank without any share.
    base: u64,
}

impl<'a> Probe<'a> {
    pub(super) fn new(request: &'a Request) -> Probe<'a> {
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
        scratch::activations(self.request, shard).total().0
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
        let scratch = scratch::workspaces(self.request, shard, 1);
        let of_share = [scratch.attention, scratch.sampling_chunks];
        let padded = |of: &Region| of.bytes.next_multiple_of(weights::TENSOR_ALIGN.0);
        Cost {
            weights,
            layers: in_layers.then(|| self.layers(shard)).flatten(),
            activations: self.activations(shard) - self.base_activations,
            adapters: self.adapters(shard) - self.base_adapters,
            workspaces: of_share.iter().map(padded).sum(),
            input_width,
        }
    }

    fn layers(&self, shard: &Shard) -> Option<Arc<[u64]>> {
        let request = self.request;
        request.cpu_offload?;
        Some(weights::layer_sizes(&request.shape, shard, request.kept()).into())
    }

    pub(super) fn heads(&self, queries: u32, kv: u32) -> Heads {
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

    pub(super) fn columns(&self, columns: u32) -> Cost {
        let shard = Shard {
            mlp_columns: 0..columns,
            ..NOTHING
        };
        self.share(&shard, weights::padded_mlp_columns(&shard), true)
    }

    pub(super) fn rows(&self, rows: u32) -> Cost {
        self.share(
            &Shard {
                vocab_rows: 0..rows,
                ..NOTHING
            },
            0,
            false,
        )
    }
}
