//! What one rank holds of the model: contiguous ranges of heads, MLP columns and vocabulary rows.

use std::ops::Range;

use crate::model::ModelShape;

/// MLP columns are cut in units of this many (the last unit of a model may be shorter).
pub const MLP_UNIT_COLUMNS: u32 = 128;
/// Vocabulary rows are cut in units of this many (the last unit may be shorter).
pub const VOCAB_UNIT_ROWS: u32 = 64;

/// One rank's part of every layer. Ranges are global indices; empty ranges are legal (the rank
/// then adds zeros). A KV head may stand on several ranks when ranks outnumber KV heads: its
/// query heads are then divided among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    pub kv_heads: Range<u32>,
    pub query_heads: Range<u32>,
    pub mlp_columns: Range<u32>,
    pub vocab_rows: Range<u32>,
}

impl Shard {
    /// The only shard of a model on one rank.
    pub fn whole(shape: &ModelShape) -> Shard {
        Shard {
            kv_heads: 0..shape.kv_heads,
            query_heads: 0..shape.query_heads,
            mlp_columns: 0..shape.ffn,
            vocab_rows: 0..shape.vocab,
        }
    }

    pub fn kv_head_count(&self) -> u32 {
        self.kv_heads.end - self.kv_heads.start
    }

    pub fn query_head_count(&self) -> u32 {
        self.query_heads.end - self.query_heads.start
    }

    pub fn mlp_column_count(&self) -> u32 {
        self.mlp_columns.end - self.mlp_columns.start
    }

    pub fn vocab_row_count(&self) -> u32 {
        self.vocab_rows.end - self.vocab_rows.start
    }
}
