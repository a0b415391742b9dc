//! `config.json` of a Hugging Face folder: shape, parameters, token ids.

use plimsoll_planner::{Architecture, ModelShape};
use serde_json::Value;

use super::bounds::{Named, Numbers, RMS_EPS, float_within};
use super::defaults::{self, Defaults};
use super::known;
use super::object::{Object, parse_object};
use super::params::ModelParams;
use super::quantization_config;
use super::rope_config;
use crate::model_error::{ModelError, shorten};
use crate::weights::packed::Scheme;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Class names in `architectures`, and their `model_type`.
const ARCHITECTURES: [(&str, &str, Architecture); 4] = [
    ("LlamaForCausalLM", "llama", Architecture::Llama),
    ("MistralForCausalLM", "mistral", Architecture::Mistral),
    ("Qwen2ForCausalLM", "qwen2", Architecture::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Architecture::Qwen3),
];

/// What a `config.json` says.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) shape: ModelShape,
    pub(crate) params: ModelParams,
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) bos_id: Option<u32>,
    /// How the weights are packed, if they are.
    pub(crate) packed: Option<Scheme>,
}

/// Reads a `config.json`.
///
/// # Errors
/// [`ModelError`], naming the field and the numbers.
pub(crate) fn parse(bytes: &[u8]) -> Result<Config, ModelError> {
    let fields = parse_object(CONFIG, bytes)?;
    let config = Object {
        file: CONFIG,
        fields: &fields,
    };
    let architecture = architecture(config)?;
    refuse_unsupported(config)?;
    known::check(config, architecture)?;
    let defaults = defaults::of(architecture);
    let number = |field: &str, default| config.number_or(field, default);
    let query_heads = number("num_attention_heads", defaults.num_attention_heads)?;
    let (qkv_bias, output_bias) = match architecture {
        // Always, and its config does not say so.
        Architecture::Qwen2 => (true, false),
        Architecture::Llama | Architecture::Qwen3 => {
            let bias = config.flag_of_its_own("attention_bias")?;
            (bias, bias)
        }
        Architecture::Mistral => (false, false),
    };
    let mut shape = Numbers {
        architecture,
        layers: number("num_hidden_layers", defaults.num_hidden_layers)?,
        hidden: number("hidden_size", defaults.hidden_size)?,
        kv_heads: kv_heads(config, &query_heads, defaults)?,
        query_heads,
        head_dim: head_dim(config, architecture, defaults)?,
        ffn: number("intermediate_size", defaults.intermediate_size)?,
        vocab: number("vocab_size", defaults.vocab_size)?,
        context: number("max_position_embeddings", defaults.max_position_embeddings)?,
        tied: config.flag_of_its_own("tie_word_embeddings")?,
        qkv_bias,
        output_bias,
        mlp_bias: architecture == Architecture::Llama && config.flag_of_its_own("mlp_bias")?,
        qk_norm: architecture == Architecture::Qwen3,
    }
    .shape(CONFIG)?;
    let (params, context) = params(config, &shape)?;
    shape.context = context;
    let absent = |field: &str| !config.fields.contains_key(field);
    let or = |ids: Vec<u32>, field: &str, default: Option<u32>| match absent(field) {
        true => default.into_iter().filter(|id| *id < shape.vocab).collect(),
        false => ids,
    };
    let bos = or(
        config.ids("bos_token_id")?,
        "bos_token_id",
        defaults.bos_token_id,
    );
    Ok(Config {
        eos_ids: or(
            config.ids("eos_token_id")?,
            "eos_token_id",
            defaults.eos_token_id,
        ),
        bos_id: bos.first().copied(),
        packed: quantization_config::parse(config)?,
        shape,
        params,
    })
}

fn kv_heads(
    config: Object<'_>,
    query_heads: &Named,
    defaults: &Defaults,
) -> Result<Named, ModelError> {
    const FIELD: &str = "num_key_value_heads";
    if !defaults.null_key_value_heads {
        config.refuse_null(FIELD, "a whole number")?;
    }
    let default = match defaults.num_key_value_heads {
        Some(number) if !config.is_null(FIELD) => Named {
            field: format!("{FIELD} (by default)"),
            number,
        },
        _ => query_heads.clone(),
    };
    Ok(config.number(FIELD)?.unwrap_or(default))
}

fn head_dim(
    config: Object<'_>,
    architecture: Architecture,
    defaults: &Defaults,
) -> Result<Option<Named>, ModelError> {
    const FIELD: &str = "head_dim";
    let Some(number) = defaults.head_dim else {
        // Its class knows no head_dim, and takes what the file has, null too.
        if architecture == Architecture::Qwen2 {
            config.refuse_null(FIELD, "a whole number")?;
        }
        return config.number(FIELD);
    };
    config.number_or(FIELD, number).map(Some)
}

fn architecture(config: Object<'_>) -> Result<Architecture, ModelError> {
    let class = match config.get("architectures") {
        Some(Value::Array(classes)) => classes.first().and_then(Value::as_str),
        _ => None,
    };
    let found = match class {
        Some(class) => class,
        None => config.text("model_type")?.unwrap_or(""),
    };
    ARCHITECTURES
        .iter()
        .find(|(class, model_type, _)| found == *class || found == *model_type)
        .map(|(_, _, architecture)| *architecture)
        .ok_or_else(|| {
            let classes = ARCHITECTURES.map(|(class, _, _)| class).join(", ");
            let message = format!(
                "architecture `{}` is not supported; supported: {classes}",
                shorten(found)
            );
            ModelError::architecture(CONFIG, message)
        })
}

/// Fields that change the arithmetic in a way the engine does not have.
fn refuse_unsupported(config: Object<'_>) -> Result<(), ModelError> {
    config.refuse_null("hidden_act", "an activation")?;
    if let Some(activation) = config.text("hidden_act")?
        && !["silu", "swish"].contains(&activation)
    {
        let message = format!(
            "hidden_act `{}` is not supported; supported: silu",
            shorten(activation)
        );
        return Err(ModelError::architecture(CONFIG, message));
    }
    Ok(())
}

/// The parameters, and the context that the rotary embedding reaches.
fn params(config: Object<'_>, shape: &ModelShape) -> Result<(ModelParams, u32), ModelError> {
    config.refuse_null("rms_norm_eps", "a number")?;
    let rms_eps = config
        .float("rms_norm_eps")?
        .unwrap_or(defaults::RMS_NORM_EPS);
    let rms_eps = float_within(CONFIG, "rms_norm_eps", rms_eps, RMS_EPS)?;
    let (sliding_window, first_sliding_layer) = sliding_window(config, shape)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the forward pass computes in f32"
    )]
    let rms_eps = rms_eps as f32;
    let (rope, context) = rope_config::parse(config, shape)?;
    let params = ModelParams {
        rms_eps,
        rope,
        sliding_window,
        first_sliding_layer,
    };
    Ok((params, context))
}

/// The window and the first layer that has it, as transformers' configurations derive them.
fn sliding_window(
    config: Object<'_>,
    shape: &ModelShape,
) -> Result<(Option<u32>, u32), ModelError> {
    let used = match shape.architecture {
        Architecture::Llama => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => config.flag("use_sliding_window")?,
    };
    let defaults = defaults::of(shape.architecture);
    let window = match config.number("sliding_window")? {
        None if config.is_null("sliding_window") => None,
        None => defaults.sliding_window.map(|number| Named {
            field: "sliding_window".to_owned(),
            number,
        }),
        some => some,
    };
    let Some(window) = window.filter(|_| used) else {
        return Ok((None, 0));
    };
    let window = match u32::try_from(window.number) {
        Ok(tokens) if tokens > 0 => tokens,
        _ => {
            let message = format!("sliding_window is {}, expected 1 or more", window.number);
            return Err(ModelError::config(CONFIG, message));
        }
    };
    let first = match config.get("layer_types") {
        Some(Value::Array(kinds)) => first_sliding(kinds, shape.layers)?,
        _ if shape.architecture == Architecture::Mistral => 0,
        _ => {
            let layers = config.number_or("max_window_layers", defaults.max_window_layers)?;
            u32::try_from(layers.number).unwrap_or(u32::MAX)
        }
    };
    Ok((Some(window), first))
}

/// `layer_types`: full attention up to some layer, a window from there on.
fn first_sliding(kinds: &[Value], layers: u32) -> Result<u32, ModelError> {
    let kinds: Vec<&str> = kinds
        .iter()
        .map(|kind| kind.as_str().unwrap_or(""))
        .collect();
    if kinds.len() != layers as usize {
        let message = format!(
            "layer_types has {} entries, num_hidden_layers is {layers}",
            kinds.len()
        );
        return Err(ModelError::config(CONFIG, message));
    }
    let full = kinds
        .iter()
        .take_while(|kind| **kind == "full_attention")
        .count();
    match kinds[full..]
        .iter()
        .find(|kind| **kind != "sliding_attention")
    {
        None => Ok(u32::try_from(full).unwrap_or(layers)),
        Some(kind) => {
            let message = format!(
                "layer_types: `{}` after sliding layers; supported are full_attention layers \
                 followed by sliding_attention layers",
                shorten(kind)
            );
            Err(ModelError::architecture(CONFIG, message))
        }
    }
}
