//! What `inspect` tells about a model, from its headers.

use plimsoll_crds::v1alpha1::convert;
use plimsoll_crds::v1alpha1::facts::{self, ModelFormat};
use plimsoll_planner::{Architecture, Dtype, ModelShape};

use crate::weights::{TensorSource, needed};

/// The type that most numbers of the needed tensors have.
pub(crate) fn file_dtype(shape: &ModelShape, tensors: &dyn TensorSource) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (name, dims) in needed(shape) {
        let Some(info) = tensors.info(&name) else {
            continue;
        };
        let numbers = dims.iter().product::<usize>();
        match counts.iter_mut().find(|(dtype, _)| *dtype == info.dtype) {
            Some((_, count)) => *count += numbers,
            None => counts.push((&info.dtype, numbers)),
        }
    }
    let most = counts.iter().max_by_key(|(_, count)| *count);
    most.map_or_else(String::new, |(dtype, _)| (*dtype).to_owned())
}

/// What `dtype: Auto` means: the file's own float type, BFloat16 for quantised files.
pub(crate) fn default_dtype(file_dtype: &str) -> Dtype {
    match file_dtype {
        "F32" => Dtype::Float32,
        "F16" => Dtype::Float16,
        _ => Dtype::BFloat16,
    }
}

pub(crate) fn facts(
    shape: &ModelShape,
    tensors: &dyn TensorSource,
    format: ModelFormat,
    digest: &str,
) -> facts::ModelFacts {
    let file_dtype = file_dtype(shape, tensors);
    let mut weight_file_bytes = 0u64;
    let mut parameters = 0u64;
    for (name, dims) in needed(shape) {
        let bytes = tensors.info(&name).map_or(0, |info| info.bytes);
        weight_file_bytes = weight_file_bytes.saturating_add(bytes);
        parameters = parameters.saturating_add(dims.iter().product::<usize>() as u64);
    }
    let quantized = !["F32", "F16", "BF16"].contains(&file_dtype.as_str());
    facts::ModelFacts {
        architecture: match shape.architecture {
            Architecture::Llama => facts::Architecture::Llama,
            Architecture::Mistral => facts::Architecture::Mistral,
            Architecture::Qwen2 => facts::Architecture::Qwen2,
            Architecture::Qwen3 => facts::Architecture::Qwen3,
        },
        format,
        layers: shape.layers,
        hidden_size: shape.hidden,
        query_heads: shape.query_heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        intermediate_size: shape.ffn,
        vocabulary_size: shape.vocab,
        tied: shape.tied,
        qkv_bias: shape.qkv_bias,
        output_bias: shape.output_bias,
        mlp_bias: shape.mlp_bias,
        qk_norm: shape.qk_norm,
        context_length: shape.context,
        default_dtype: match default_dtype(&file_dtype) {
            Dtype::Float32 => facts::Dtype::Float32,
            Dtype::BFloat16 => facts::Dtype::BFloat16,
            Dtype::Float16 => facts::Dtype::Float16,
        },
        quantization: quantized.then(|| match format {
            ModelFormat::Gguf => format!("GGUF {file_dtype}"),
            ModelFormat::HuggingFace => file_dtype.clone(),
        }),
        blocks: convert::stored_blocks(&shape.blocks),
        file_dtype,
        weight_file_bytes,
        parameters,
        digest: digest.to_owned(),
        notes: Vec::new(),
        adapters: Vec::new(),
    }
}
