//! The shape of a model: every number that decides how many bytes it takes.

use std::fmt;

use crate::blocks::ModelBlocks;

/// A decoder architecture the engine can run. Names are those of `architectures` in a Hugging
/// Face `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// How one number of a weight is stored, or what numbers are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    Float32,
    BFloat16,
    Float16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Dtype::Float32 => 4,
            Dtype::BFloat16 | Dtype::Float16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Float32 => "Float32",
            Dtype::BFloat16 => "BFloat16",
            Dtype::Float16 => "Float16",
        })
    }
}

/// How cached keys and values are stored; what they take is in `kv_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    Float32,
    BFloat16,
    Float16,
    /// Integers of -127 to 127, and one Float32 for each head of each token that they are multiples
    /// of: the largest number of the head / 127.
    Int8,
}

impl KvDtype {
    /// The type of its numbers where they are floats.
    pub const fn float(self) -> Option<Dtype> {
        match self {
            KvDtype::Float32 => Some(Dtype::Float32),
            KvDtype::BFloat16 => Some(Dtype::BFloat16),
            KvDtype::Float16 => Some(Dtype::Float16),
            KvDtype::Int8 => None,
        }
    }
}

impl From<Dtype> for KvDtype {
    fn from(dtype: Dtype) -> KvDtype {
        match dtype {
            Dtype::Float32 => KvDtype::Float32,
            Dtype::BFloat16 => KvDtype::BFloat16,
            Dtype::Float16 => KvDtype::Float16,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.float() {
            Some(dtype) => dtype.fmt(f),
            None => f.write_str("Int8"),
        }
    }
}

/// A decoder's shape. Field names are those of a Hugging Face `config.json`, shortened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelShape {
    pub architecture: Architecture,
    /// `num_hidden_layers`
    pub layers: u32,
    /// `hidden_size`
    pub hidden: u32,
    /// `num_attention_heads`
    pub query_heads: u32,
    /// `num_key_value_heads`; divides `query_heads`
    pub kv_heads: u32,
    /// `head_dim`, or hidden / query_heads where the config has none
    pub head_dim: u32,
    /// `intermediate_size`
    pub ffn: u32,
    /// `vocab_size`
    pub vocab: u32,
    /// `tie_word_embeddings`: the output head is the input embedding
    pub tied: bool,
    /// q, k and v projections carry a bias (Qwen2; Llama with `attention_bias`)
    pub qkv_bias: bool,
    /// the output projection of attention carries a bias (Llama with `attention_bias`)
    pub output_bias: bool,
    /// gate, up and down carry a bias (Llama with `mlp_bias`)
    pub mlp_bias: bool,
    /// RMS norm over each head of q and k (Qwen3)
    pub qk_norm: bool,
    /// `max_position_embeddings`: the model's own context, in tokens
    pub context: u32,
    /// Matrices that the file has in blocks.
    pub blocks: ModelBlocks,
}

impl ModelShape {
    /// Query heads that share one KV head.
    pub const fn group(&self) -> u32 {
        self.query_heads / self.kv_heads
    }
}
