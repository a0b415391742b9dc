//! What the kernels can do, as numbers of a model's shape: one table. `inspect` refuses a model
//! beyond it, the planner a request, and the kernels take their constants from it.
//!
//! Least is 1 everywhere. A card has limits of its own beside these (its launchers name them).

use crate::model::ModelShape;

/// The largest value of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As a Hugging Face `config.json` calls it.
    pub field: &'static str,
    pub most: u32,
    /// What ends there.
    pub why: &'static str,
}

/// Attention keeps the rows of a head in arrays of this length.
pub const HEAD_DIM: Limit = Limit {
    field: "head_dim",
    most: 256,
    why: "attention's tiles hold heads up to that",
};
/// Sampling keeps a bit for each row of its vocabulary.
pub const VOCABULARY: Limit = Limit {
    field: "vocab_size",
    most: 1 << 18,
    why: "sampling marks tokens in a scratch of that many bits",
};
/// So that no product of a shape's numbers wraps: these bound it.
pub const LAYERS: Limit = sum("num_hidden_layers", 1 << 10);
pub const HIDDEN: Limit = sum("hidden_size", 1 << 17);
pub const QUERY_HEADS: Limit = sum("num_attention_heads", 1 << 9);
pub const KV_HEADS: Limit = sum("num_key_value_heads", 1 << 9);
pub const FFN: Limit = sum("intermediate_size", 1 << 17);
pub const CONTEXT: Limit = sum("max_position_embeddings", 1 << 26);

/// The most biases (`logit_bias`) and ends (`stop_token_ids`) of one request; sampling on a card has room
/// for as many in each row.
pub const LOGIT_BIASES: usize = 1024;
pub const STOP_IDS: usize = 256;
/// The most ids of a model's `eos_token_id`; the tokenizer may have one more.
pub const EOS_IDS: usize = 64;

const fn sum(field: &'static str, most: u32) -> Limit {
    Limit {
        field,
        most,
        why: "sums of sizes stay exact up to that",
    }
}

/// All of them, each with the number that a shape has.
pub const fn of(shape: &ModelShape) -> [(Limit, u32); 8] {
    [
        (LAYERS, shape.layers),
        (HIDDEN, shape.hidden),
        (QUERY_HEADS, shape.query_heads),
        (KV_HEADS, shape.kv_heads),
        (HEAD_DIM, shape.head_dim),
        (FFN, shape.ffn),
        (VOCABULARY, shape.vocab),
        (CONTEXT, shape.context),
    ]
}
