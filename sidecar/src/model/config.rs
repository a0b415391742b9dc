//! `config.json` of a Hugging Face folder: shape, parameters, token ids.

use plimsoll_planner::{Architecture, ModelShape};
use serde_json::{Map, Value};

use super::bounds::{Named, Numbers, RMS_EPS, float_within};
use super::params::ModelParams;
use super::rope_config;
use crate::model_error::{ModelError, shorten};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Class names in `architectures`, and their `model_type`.
const ARCHITECTURES: [(&str, &str, Architecture); 4] = [
    ("LlamaForCausalLM", "llama", Architecture::Llama),
    ("MistralForCausalLM", "mistral", Architecture::Mistral),
    ("Qwen2ForCausalLM", "qwen2", Architecture::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Architecture::Qwen3),
];
const EOS_IDS_MAX: usize = 64;

/// What a `config.json` says.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) shape: ModelShape,
    pub(crate) params: ModelParams,
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) bos_id: Option<u32>,
}

/// A JSON object of a model folder, with getters that name file and field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) file: &'a str,
    pub(crate) fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The field, unless it is absent or null.
    pub(crate) fn get(self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn mismatch<T>(self, field: &str, value: &Value, expected: &str) -> Result<T, ModelError> {
        let value = shorten(&value.to_string());
        Err(ModelError::config(
            self.file,
            format!("{field} is {value}, expected {expected}"),
        ))
    }

    pub(crate) fn number(self, field: &str) -> Result<Option<Named>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(Named {
                    field: field.to_owned(),
                    number,
                })),
                None => self.mismatch(field, value, "a whole number"),
            },
        }
    }

    pub(crate) fn needed(self, field: &str) -> Result<Named, ModelError> {
        self.number(field)?
            .ok_or_else(|| ModelError::config(self.file, format!("{field} is missing")))
    }

    pub(crate) fn float(self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => self.mismatch(field, value, "a number"),
            },
        }
    }

    pub(crate) fn flag(self, field: &str) -> Result<bool, ModelError> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => self.mismatch(field, value, "true or false"),
        }
    }

    pub(crate) fn text(self, field: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.mismatch(field, value, "a string"),
        }
    }

    pub(crate) fn object(self, field: &str) -> Result<Option<Object<'a>>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Object {
                file: self.file,
                fields,
            })),
            Some(value) => self.mismatch(field, value, "an object"),
        }
    }

    /// One token id or a list of them.
    pub(crate) fn ids(self, field: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) if list.len() <= EOS_IDS_MAX => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        match ids {
            Some(ids) => Ok(ids),
            None => self.mismatch(
                field,
                &self.fields[field],
                "a token id or a list of up to 64",
            ),
        }
    }
}

/// Parses a JSON file whose top is an object.
pub(crate) fn parse_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::config(file, "is not a JSON object")),
        Err(e) => Err(ModelError::config(file, format!("is not valid JSON: {e}"))),
    }
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
    let query_heads = config.needed("num_attention_heads")?;
    let kv_heads = config.number("num_key_value_heads")?;
    // Qwen2 always has biases on q, k, v; its config does not say so.
    let attention_bias = config.flag("attention_bias")?;
    let (qkv_bias, output_bias) = match architecture {
        Architecture::Qwen2 => (true, false),
        Architecture::Llama | Architecture::Qwen3 => (attention_bias, attention_bias),
        Architecture::Mistral => (false, false),
    };
    let shape = Numbers {
        architecture,
        layers: config.needed("num_hidden_layers")?,
        hidden: config.needed("hidden_size")?,
        kv_heads: kv_heads.unwrap_or_else(|| query_heads.clone()),
        query_heads,
        head_dim: config.number("head_dim")?,
        ffn: config.needed("intermediate_size")?,
        vocab: config.needed("vocab_size")?,
        context: config.needed("max_position_embeddings")?,
        tied: config.flag("tie_word_embeddings")?,
        qkv_bias,
        output_bias,
        mlp_bias: architecture == Architecture::Llama && config.flag("mlp_bias")?,
        qk_norm: architecture == Architecture::Qwen3,
    }
    .shape(CONFIG)?;
    let params = params(config, &shape)?;
    let bos_id = config.ids("bos_token_id")?.first().copied();
    Ok(Config {
        shape,
        params,
        eos_ids: config.ids("eos_token_id")?,
        bos_id,
    })
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
    if let Some(quantization) = config.object("quantization_config")? {
        let method = quantization.text("quant_method")?.unwrap_or("unnamed");
        let message = format!(
            "quantization_config: quant_method `{}` is not read yet; use the model's F32, F16 or \
             BF16 files, or a GGUF file",
            shorten(method)
        );
        return Err(ModelError::quantization(CONFIG, message));
    }
    if let Some(activation) = config.text("hidden_act")?
        && !["silu", "swish"].contains(&activation)
    {
        let message = format!(
            "hidden_act `{}` is not supported; supported: silu",
            shorten(activation)
        );
        return Err(ModelError::architecture(CONFIG, message));
    }
    if let Some(factor) = config.float("partial_rotary_factor")?
        && factor != 1.0
    {
        let message = format!("partial_rotary_factor is {factor}; supported: 1");
        return Err(ModelError::architecture(CONFIG, message));
    }
    Ok(())
}

fn params(config: Object<'_>, shape: &ModelShape) -> Result<ModelParams, ModelError> {
    let rms_eps = config.float("rms_norm_eps")?.unwrap_or(1e-6);
    let rms_eps = float_within(CONFIG, "rms_norm_eps", rms_eps, RMS_EPS)?;
    let (sliding_window, first_sliding_layer) = sliding_window(config, shape)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the forward pass computes in f32"
    )]
    let rms_eps = rms_eps as f32;
    let rope = rope_config::parse(config, shape)?;
    Ok(ModelParams {
        rms_eps,
        rope,
        sliding_window,
        first_sliding_layer,
    })
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
    let Some(window) = config.number("sliding_window")?.filter(|_| used) else {
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
            let layers = config
                .number("max_window_layers")?
                .map_or(28, |named| named.number);
            u32::try_from(layers).unwrap_or(u32::MAX)
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
