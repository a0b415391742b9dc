//! What a `config.json` means where it says nothing: the defaults of transformers' config classes,
//! which its `save_pretrained` and many publishers leave out of the file. A test compares them.

use plimsoll_planner::Architecture;

/// Numbers of a class, under the names of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Defaults {
    pub(crate) vocab_size: u64,
    pub(crate) hidden_size: u64,
    pub(crate) intermediate_size: u64,
    pub(crate) num_hidden_layers: u64,
    pub(crate) num_attention_heads: u64,
    /// None: as many as query heads.
    pub(crate) num_key_value_heads: Option<u64>,
    /// Null means as many as query heads too.
    pub(crate) null_key_value_heads: bool,
    /// None: hidden_size / num_attention_heads.
    pub(crate) head_dim: Option<u64>,
    pub(crate) max_position_embeddings: u64,
    pub(crate) sliding_window: Option<u64>,
    pub(crate) max_window_layers: u64,
    pub(crate) bos_token_id: Option<u32>,
    pub(crate) eos_token_id: Option<u32>,
}

/// Of every class.
pub(crate) const RMS_NORM_EPS: f64 = 1e-6;
pub(crate) const ROPE_THETA: f64 = 10_000.0;

const LLAMA: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    null_key_value_heads: true,
    head_dim: None,
    max_position_embeddings: 2048,
    sliding_window: None,
    max_window_layers: 0,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
};
const MISTRAL: Defaults = Defaults {
    intermediate_size: 14_336,
    num_key_value_heads: Some(8),
    null_key_value_heads: false,
    max_position_embeddings: 131_072,
    sliding_window: Some(4096),
    ..LLAMA
};
const QWEN2: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_key_value_heads: Some(32),
    max_position_embeddings: 32_768,
    sliding_window: Some(4096),
    max_window_layers: 28,
    bos_token_id: None,
    eos_token_id: None,
    ..LLAMA
};
const QWEN3: Defaults = Defaults {
    head_dim: Some(128),
    ..QWEN2
};

pub(crate) const fn of(architecture: Architecture) -> &'static Defaults {
    match architecture {
        Architecture::Llama => &LLAMA,
        Architecture::Mistral => &MISTRAL,
        Architecture::Qwen2 => &QWEN2,
        Architecture::Qwen3 => &QWEN3,
    }
}
