//! A GGUF's metadata as shape and parameters.

use plimsoll_kernels::rope::RopeParams;
use plimsoll_planner::{Architecture, ModelShape};

use super::bounds::{Named, Numbers, RMS_EPS, ROPE_THETA, float_within};
use super::gguf_keys::Keys;
use super::gguf_rope;
use super::params::ModelParams;
use super::sampling::{ModelSampling, Names};
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::gguf::GgufTensors;
use crate::weights::gguf::metadata::{Found, Metadata};

/// Mistral's files say `llama`.
const ARCHITECTURES: [(&str, Architecture); 3] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
];
/// As llama.cpp writes and reads them.
const SAMPLING: Names = Names {
    temperature: "general.sampling.temp",
    top_k: "general.sampling.top_k",
    top_p: "general.sampling.top_p",
    min_p: "general.sampling.min_p",
    repetition_penalty: "general.sampling.penalty_repeat",
    max_new_tokens: None,
};
const QUANTIZATION_VERSION: u64 = 2;

/// Reads shape and parameters; the tensors decide what the metadata leave open (biases, tied
/// embedding, vocabulary).
pub(crate) fn parse(
    metadata: &Metadata,
    tensors: &GgufTensors,
) -> Result<(ModelShape, ModelParams), ModelError> {
    let file = metadata.file.as_str();
    let (prefix, architecture) = architecture(metadata)?;
    let keys = Keys { metadata, prefix };
    refuse_unsupported(&keys)?;
    refuse_unknown(&keys)?;
    let has = |name: &str| tensors.info(name).is_some();
    let layer = |module: &str| has(&format!("model.layers.0.{module}"));
    let query_heads = keys.needed("attention.head_count")?;
    let kv_heads = keys.number("attention.head_count_kv")?;
    let mut shape = Numbers {
        architecture,
        layers: keys.needed("block_count")?,
        hidden: keys.needed("embedding_length")?,
        kv_heads: kv_heads.unwrap_or_else(|| query_heads.clone()),
        query_heads,
        head_dim: keys.number("attention.key_length")?,
        ffn: keys.needed("feed_forward_length")?,
        vocab: vocabulary(&keys, tensors)?,
        context: keys.needed("context_length")?,
        tied: !has("lm_head.weight"),
        qkv_bias: layer("self_attn.q_proj.bias"),
        output_bias: layer("self_attn.o_proj.bias"),
        mlp_bias: layer("mlp.gate_proj.bias"),
        qk_norm: architecture == Architecture::Qwen3,
    }
    .shape(file)?;
    let (params, context) = params(&keys, &shape, tensors)?;
    shape.context = context;
    Ok((shape, params))
}

/// What the file recommends for sampling; most say nothing.
pub(crate) fn sampling(metadata: &Metadata, vocabulary: u32) -> ModelSampling {
    ModelSampling::read(&metadata.file, &SAMPLING, vocabulary, |key| {
        metadata.found(key)
    })
}

fn architecture(metadata: &Metadata) -> Result<(&'static str, Architecture), ModelError> {
    const KEY: &str = "general.architecture";
    let found = metadata.string(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
    ARCHITECTURES
        .iter()
        .copied()
        .find(|(name, _)| *name == found)
        .ok_or_else(|| {
            let names = ARCHITECTURES.map(|(name, _)| name).join(", ");
            let message = format!(
                "architecture `{}` is not supported; supported: {names}",
                shorten(found)
            );
            ModelError::architecture(&metadata.file, message)
        })
}

fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), ModelError> {
    let file = keys.metadata.file.as_str();
    if keys
        .number("expert_count")?
        .is_some_and(|experts| experts.number > 0)
    {
        let message = "mixtures of experts are not supported";
        return Err(ModelError::architecture(file, message));
    }
    if let Some(version) = keys.metadata.integer("general.quantization_version")?
        && version != QUANTIZATION_VERSION
    {
        let message = format!(
            "metadata `general.quantization_version` is {version}, only {QUANTIZATION_VERSION} is \
             read; convert the model again"
        );
        return Err(ModelError::quantization(file, message));
    }
    Ok(())
}

/// What the file may say about its architecture: an allow-list, as `known` is for a `config.json`.
const KNOWN: [&str; 24] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.finetuned",
    "expert_count",
    "tensor_data_layout",
];
/// Numbers that say nothing where they are 0.
const ZERO: [&str; 7] = [
    "expert_used_count",
    "expert_shared_count",
    "expert_feed_forward_length",
    "attention.sliding_window",
    "attention.layer_norm_epsilon",
    "leading_dense_block_count",
    "pooling_type",
];

fn refuse_unknown(keys: &Keys<'_>) -> Result<(), ModelError> {
    let prefix = format!("{}.", keys.prefix);
    let names = keys
        .metadata
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix));
    for name in names.filter(|name| !KNOWN.contains(name)) {
        let found = keys.metadata.found(&keys.key(name));
        if ZERO.contains(&name) && found == Some(Found::Number(0.0)) {
            continue;
        }
        let message = format!(
            "metadata `{}` is not known here, so what it does to answers is not either; supported \
             are models without it",
            shorten(&keys.key(name))
        );
        return Err(ModelError::architecture(&keys.metadata.file, message));
    }
    Ok(())
}

/// Rows of the embedding; `vocab_size` may say it too, and must then agree.
fn vocabulary(keys: &Keys<'_>, tensors: &GgufTensors) -> Result<Named, ModelError> {
    let embedding = tensors.info("model.embed_tokens.weight").ok_or_else(|| {
        ModelError::weights(&keys.metadata.file, "tensor `token_embd.weight` is missing")
    })?;
    let rows = embedding.rows_cols().0 as u64;
    if let Some(Named { field, number }) = keys.number("vocab_size")?
        && number != rows
    {
        let message =
            format!("metadata `{field}` is {number}, tensor `token_embd.weight` has {rows} rows");
        return Err(ModelError::config(&keys.metadata.file, message));
    }
    Ok(Named {
        field: "rows of token_embd.weight".into(),
        number: rows,
    })
}

/// The parameters, and the context that the rotary embedding reaches.
fn params(
    keys: &Keys<'_>,
    shape: &ModelShape,
    tensors: &GgufTensors,
) -> Result<(ModelParams, u32), ModelError> {
    let file = keys.metadata.file.as_str();
    let head_dim = u64::from(shape.head_dim);
    for name in ["rope.dimension_count", "attention.value_length"] {
        if let Some(Named { field, number }) = keys.number(name)?
            && number != head_dim
        {
            let message =
                format!("metadata `{field}` is {number}; supported: the head's {head_dim}");
            return Err(ModelError::architecture(file, message));
        }
    }
    const EPS: &str = "attention.layer_norm_rms_epsilon";
    let rms_eps = keys
        .float(EPS)?
        .ok_or_else(|| keys.metadata.missing(&keys.key(EPS)))?;
    let rms_eps = float_within(file, &keys.key(EPS), rms_eps, RMS_EPS)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the forward pass computes in f32"
    )]
    let rms_eps = rms_eps as f32;
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let theta = float_within(file, &keys.key("rope.freq_base"), theta, ROPE_THETA)?;
    let (scaling, context) = gguf_rope::scaling(keys, shape, theta, tensors)?;
    let params = ModelParams {
        rms_eps,
        rope: RopeParams { theta, scaling },
        sliding_window: None,
        first_sliding_layer: 0,
    };
    Ok((params, context))
}
