//! What is done about each field of an `adapter_config.json`: an allow-list, so that none is ignored by
//! omission. `ADAPTER_FIELDS.md` shows it beside PEFT's defaults, and a test holds that every field of
//! PEFT's own class is decided here.

use serde_json::Value;

use super::{CONFIG, refused};
use crate::model_error::{ModelError, shorten};

/// What is done about a field that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Read by `config`, and refused there where its value is not one that is merged.
    Honoured(&'static str),
    /// Changes nothing about a merge: why.
    Harmless(&'static str),
    Refused(&'static str),
}

const BOOKKEEPING: Decision = Decision::Harmless("bookkeeping");
const OF_AN_INIT: Decision =
    Decision::Harmless("settings of an init, about which init_lora_weights decides");

/// In the order of PEFT's class.
const ROWS: &[(&str, Decision)] = &[
    ("task_type", Decision::Honoured("CAUSAL_LM")),
    ("peft_type", Decision::Honoured("LORA")),
    ("auto_mapping", BOOKKEEPING),
    ("peft_version", BOOKKEEPING),
    (
        "base_model_name_or_path",
        Decision::Honoured("a warning where the base here is called otherwise"),
    ),
    ("revision", BOOKKEEPING),
    ("inference_mode", BOOKKEEPING),
    ("r", Decision::Honoured("1 to 4096")),
    (
        "target_modules",
        Decision::Honoured(
            "a list, an expression, or all-linear; exactly these have tensors in the file",
        ),
    ),
    (
        "exclude_modules",
        Decision::Honoured("a list or an expression"),
    ),
    ("lora_alpha", Decision::Honoured("a number")),
    ("lora_dropout", Decision::Harmless("training only")),
    (
        "fan_in_fan_out",
        Decision::Harmless("PEFT takes false for linear layers, and there are no others here"),
    ),
    ("bias", Decision::Honoured("none")),
    ("use_rslora", Decision::Honoured("true or false")),
    (
        "modules_to_save",
        Decision::Honoured("whole tensors that take the place of the base's"),
    ),
    (
        "init_lora_weights",
        Decision::Honoured(
            "true, false, gaussian, eva or orthogonal; the others train a residual of the base",
        ),
    ),
    (
        "layers_to_transform",
        Decision::Honoured("a number or a list"),
    ),
    ("layers_pattern", Decision::Honoured("a name or a list")),
    (
        "rank_pattern",
        Decision::Honoured("expressions, the first that matches counts"),
    ),
    (
        "alpha_pattern",
        Decision::Honoured("expressions, the first that matches counts"),
    ),
    (
        "megatron_config",
        Decision::Refused("layers that Megatron cut are not read"),
    ),
    (
        "megatron_core",
        Decision::Harmless("read by megatron_config alone"),
    ),
    (
        "trainable_token_indices",
        Decision::Honoured("token ids, of the embedding alone; a tied head follows, as with PEFT"),
    ),
    (
        "loftq_config",
        Decision::Refused("LoftQ trains a quantised residual of the base; merge it with PEFT"),
    ),
    ("eva_config", OF_AN_INIT),
    ("corda_config", OF_AN_INIT),
    ("lora_ga_config", OF_AN_INIT),
    (
        "use_dora",
        Decision::Honoured("true or false; not of embeddings"),
    ),
    (
        "velora_config",
        Decision::Refused("VeLoRA adapters are not merged; merge it with PEFT"),
    ),
    (
        "alora_invocation_tokens",
        Decision::Refused("an activated LoRA counts from some token on and cannot be merged"),
    ),
    (
        "use_qalora",
        Decision::Refused(
            "QALoRA pools the inputs of a quantised base and cannot be merged into floats",
        ),
    ),
    (
        "qalora_group_size",
        Decision::Harmless("read by use_qalora alone"),
    ),
    (
        "monteclora_config",
        Decision::Refused("MonteCLoRA adapters are not merged; merge it with PEFT"),
    ),
    (
        "layer_replication",
        Decision::Refused("it makes a model of other layers than the base has"),
    ),
    (
        "lora_bias",
        Decision::Honoured("true or false; the base needs the biases"),
    ),
    (
        "target_parameters",
        Decision::Refused("parameters that are no layers (experts) are not merged"),
    ),
    (
        "use_bdlora",
        Decision::Refused("block-diagonal LoRA is not merged"),
    ),
    (
        "arrow_config",
        Decision::Refused("Arrow routes each token and cannot be merged"),
    ),
    (
        "kasa_config",
        Decision::Refused("KaSA trains a residual of the base"),
    ),
    (
        "ensure_weight_tying",
        Decision::Honoured("true or false; with a tied base for modules_to_save alone"),
    ),
    (
        "runtime_config",
        Decision::Harmless("of the process that trains"),
    ),
];

/// None for a field that nobody here knows.
pub(crate) fn decision(field: &str) -> Option<Decision> {
    let row = ROWS.iter().find(|(name, _)| *name == field);
    row.map(|(_, decision)| *decision)
}

/// Every field, in order.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Decision)> {
    ROWS.iter().copied()
}

/// Null, false, and what has nothing in it: as if the field were absent.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// # Errors
/// [`ModelError::InvalidAdapter`] for the first field that would have to be ignored.
pub(crate) fn check(adapter: &str, fields: &[(String, Value)]) -> Result<(), ModelError> {
    for (field, value) in fields.iter().filter(|(_, value)| !is_empty(value)) {
        let why = match decision(field) {
            Some(Decision::Honoured(_) | Decision::Harmless(_)) => continue,
            Some(Decision::Refused(why)) => why,
            None => {
                "nobody here knows this field, so what it does to answers is not known; take it out \
                 if it does nothing"
            }
        };
        let shown = format!("{} is {}", shorten(field), shorten(&value.to_string()));
        return Err(refused(adapter, CONFIG, format!("{shown}: {why}")));
    }
    Ok(())
}
