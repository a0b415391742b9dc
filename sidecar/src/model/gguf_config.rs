//! A GGUF's metadata as shape and parameters.

use plimsoll_kernels::rope::{RopeParams, RopeScaling};
use plimsoll_planner::{Architecture, ModelShape};

use super::bounds::{Named, Numbers, RMS_EPS, ROPE_FACTOR, ROPE_THETA, float_within};
use super::params::ModelParams;
use super::sampling::{ModelSampling, Names};
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::gguf::GgufTensors;
use crate::weights::gguf::metadata::Metadata;

/// Mistral's files say `llama`.
const ARCHITECTURES: [(&str, Architecture); 3] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
];
/// One divisor per rotary frequency: how Llama 3.x files carry their scaling.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// As llama.cpp writes and reads them.
const SAMPLING: Names = Names {
    temperature: "general.sampling.temp",
    top_k: "general.sampling.top_k",
    top_p: "general.sampling.top_p",
    min_p: "general.sampling.min_p",
    repetition_penalty: "general.sampling.penalty_repeat",
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
    let has = |name: &str| tensors.info(name).is_some();
    let layer = |module: &str| has(&format!("model.layers.0.{module}"));
    let query_heads = keys.needed("attention.head_count")?;
    let kv_heads = keys.number("attention.head_count_kv")?;
    let shape = Numbers {
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
    let params = params(&keys, &shape, tensors)?;
    Ok((shape, params))
}

/// What the file recommends for sampling; most say nothing.
pub(crate) fn sampling(metadata: &Metadata, vocabulary: u32) -> ModelSampling {
    ModelSampling::read(&metadata.file, &SAMPLING, vocabulary, |key| {
        metadata.found(key)
    })
}

struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn number(&self, name: &str) -> Result<Option<Named>, ModelError> {
        let field = self.key(name);
        Ok(self
            .metadata
            .integer(&field)?
            .map(|number| Named { field, number }))
    }

    fn needed(&self, name: &str) -> Result<Named, ModelError> {
        self.number(name)?
            .ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.metadata.float(&self.key(name))
    }
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
    if let Some(files) = keys.metadata.integer("split.count")?
        && files > 1
    {
        let message =
            format!("is one of {files} files; split GGUF models are not read, merge them");
        return Err(ModelError::weights(file, message));
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

fn params(
    keys: &Keys<'_>,
    shape: &ModelShape,
    tensors: &GgufTensors,
) -> Result<ModelParams, ModelError> {
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
    let rope = RopeParams {
        theta,
        scaling: scaling(keys, shape, theta, tensors)?,
    };
    Ok(ModelParams {
        rms_eps,
        rope,
        sliding_window: None,
        first_sliding_layer: 0,
    })
}

fn scaling(
    keys: &Keys<'_>,
    shape: &ModelShape,
    theta: f64,
    tensors: &GgufTensors,
) -> Result<RopeScaling, ModelError> {
    let file = keys.metadata.file.as_str();
    if let Some(info) = tensors.info(ROPE_FACTORS) {
        let pairs = shape.head_dim as usize / 2;
        if info.shape != [pairs] {
            let message = format!(
                "tensor `{ROPE_FACTORS}` has the shape {:?}, expected [{pairs}]",
                info.shape
            );
            return Err(ModelError::weights(file, message));
        }
        let mut factors = vec![0.0; pairs];
        tensors.read_rows(ROPE_FACTORS, 0..pairs, &mut factors)?;
        return llama3_scaling(file, shape, theta, &factors);
    }
    match keys.metadata.string(&keys.key("rope.scaling.type"))? {
        None | Some("none") => Ok(RopeScaling::Default),
        Some("linear") => {
            let key = keys.key("rope.scaling.factor");
            let factor = keys
                .float("rope.scaling.factor")?
                .ok_or_else(|| keys.metadata.missing(&key))?;
            Ok(RopeScaling::Linear {
                factor: float_within(file, &key, factor, ROPE_FACTOR)?,
            })
        }
        Some(other) => {
            let message = format!(
                "rope scaling `{}` is not supported; supported: none, linear, llama3",
                shorten(other)
            );
            Err(ModelError::architecture(file, message))
        }
    }
}

/// Llama 3.1 and later: all of them use these numbers, only the factor differs.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_ORIGINAL_CONTEXT: u32 = 8192;

/// The scaling whose divisors a file carries: computed again and compared, so that a file with
/// other divisors is refused instead of misread.
fn llama3_scaling(
    file: &str,
    shape: &ModelShape,
    theta: f64,
    divisors: &[f32],
) -> Result<RopeScaling, ModelError> {
    let factor = divisors.iter().copied().fold(1.0f32, f32::max);
    let factor = float_within(file, ROPE_FACTORS, f64::from(factor), ROPE_FACTOR)?;
    let context = f64::from(LLAMA3_ORIGINAL_CONTEXT);
    let equal = (0u32..).zip(divisors).all(|(i, divisor)| {
        let frequency = theta.powf(-2.0 * f64::from(i) / f64::from(shape.head_dim));
        // Turns that this pair makes over the original context.
        let turns = context * frequency / std::f64::consts::TAU;
        let kept =
            (turns - LLAMA3_LOW_FREQ_FACTOR) / (LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR);
        let kept = kept.clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - kept) / factor + kept);
        (f64::from(*divisor) - expected).abs() <= 1e-3 * expected
    });
    if !equal {
        let message = format!(
            "tensor `{ROPE_FACTORS}` holds divisors that are not those of llama3 scaling with \
             factor {factor}; such a rope type is not supported"
        );
        return Err(ModelError::architecture(file, message));
    }
    Ok(RopeScaling::Llama3 {
        factor,
        low_freq_factor: LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor: LLAMA3_HIGH_FREQ_FACTOR,
        original_context: LLAMA3_ORIGINAL_CONTEXT,
    })
}
