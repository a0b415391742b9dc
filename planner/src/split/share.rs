//! One share of a model, and what it costs the rank that has it.

use std::sync::Arc;

use crate::shard::Shard;

/// A share of attention: whole groups, or a part of one group's query heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: u32,
    pub(crate) kv: u32,
    pub(super) cost: Cost,
}

/// What one share adds to a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(super) weights: u64,
    /// Bytes of the matrices of a layer of each kind, where layers may be offloaded. Sums have none.
    pub(super) layers: Option<Arc<[u64]>>,
    pub(super) activations: u64,
    pub(super) workspaces: u64,
    pub(super) adapters: u64,
    /// Widest input of a linear layer that the share brings; a rank needs room for the widest.
    pub(super) input_width: u64,
}

impl Cost {
    pub(super) fn plus(&self, other: &Cost) -> Cost {
        Cost {
            weights: self.weights + other.weights,
            layers: None,
            activations: self.activations + other.activations,
            workspaces: self.workspaces + other.workspaces,
            adapters: self.adapters + other.adapters,
            input_width: self.input_width.max(other.input_width),
        }
    }
}

/// No share of anything.
pub(super) const NOTHING: Shard = Shard {
    kv_heads: 0..0,
    query_heads: 0..0,
    mlp_columns: 0..0,
    vocab_rows: 0..0,
};
