//! What is done about each field of a `config.json`: an allow-list, so that none is ignored by
//! omission. `CONFIG_FIELDS.md` shows it beside the defaults of transformers' own config classes, and
//! a test holds that every field of theirs is decided here.

use plimsoll_planner::Architecture::{self, Llama, Mistral, Qwen2, Qwen3};
use serde_json::Value;

use super::object::Object;
use crate::model_error::{ModelError, shorten};

/// What is done about a field, whatever its value, unless it is null (which counts as absent).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Read where the shape and the parameters are made, and refused there by name.
    Honoured,
    /// Changes no result of this architecture: why.
    Harmless(&'static str),
    /// Accepted at this value alone; the engine has no other.
    Only(Neutral),
    Refused(&'static str),
}

/// A value that changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neutral {
    False,
    One,
    Empty,
    FullAttention,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Neutral::False => *value == Value::Bool(false),
            Neutral::One => value.as_f64() == Some(1.0),
            Neutral::Empty => match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            },
            Neutral::FullAttention => value
                .as_array()
                .is_some_and(|kinds| kinds.iter().all(|kind| kind == "full_attention")),
        }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Neutral::False => "false",
            Neutral::One => "1",
            Neutral::Empty => "empty",
            Neutral::FullAttention => "full_attention in every layer",
        }
    }
}

const ALL: &[Architecture] = &[Llama, Mistral, Qwen2, Qwen3];
const QWEN: &[Architecture] = &[Qwen2, Qwen3];

const BOOKKEEPING: Decision = Decision::Harmless("bookkeeping");
const TRAINING: Decision = Decision::Harmless("training only");
const OUTPUTS: Decision = Decision::Harmless("what a call of the Python class returns");
const GENERATION: Decision =
    Decision::Harmless("generation; read and told where there is no generation_config.json");
const CLASSIFIER: Decision = Decision::Harmless("heads of classifiers");
const TENSORS: Decision =
    Decision::Harmless("not a field of this architecture: the tensors must be exactly its own");
const SCALE: Decision = Decision::Only(Neutral::One);

type Row = (&'static [Architecture], &'static [&'static str], Decision);

const ROWS: &[Row] = &[
    (
        ALL,
        &[
            "architectures",
            "model_type",
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "original_max_position_embeddings",
            "rms_norm_eps",
            "tie_word_embeddings",
            "hidden_act",
            "bos_token_id",
            "eos_token_id",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "quantization_config",
        ],
        Decision::Honoured,
    ),
    (&[Llama, Qwen3], &["attention_bias"], Decision::Honoured),
    (&[Mistral, Qwen2], &["attention_bias"], TENSORS),
    (&[Llama], &["mlp_bias"], Decision::Honoured),
    (&[Mistral, Qwen2, Qwen3], &["mlp_bias"], TENSORS),
    (
        &[Mistral, Qwen2, Qwen3],
        &["sliding_window"],
        Decision::Honoured,
    ),
    (
        &[Llama],
        &["sliding_window"],
        Decision::Refused("no layer of a Llama has a window"),
    ),
    (
        QWEN,
        &["use_sliding_window", "max_window_layers", "layer_types"],
        Decision::Honoured,
    ),
    (
        &[Llama],
        &["use_sliding_window"],
        Decision::Only(Neutral::False),
    ),
    (
        &[Llama],
        &["max_window_layers"],
        Decision::Harmless("no layer has a window"),
    ),
    (
        &[Llama],
        &["layer_types"],
        Decision::Only(Neutral::FullAttention),
    ),
    (
        &[Mistral],
        &["use_sliding_window", "max_window_layers", "layer_types"],
        Decision::Refused("every layer of a Mistral has the same window"),
    ),
    (
        ALL,
        &["partial_rotary_factor"],
        Decision::Only(Neutral::One),
    ),
    (ALL, &["per_layer_config"], Decision::Only(Neutral::Empty)),
    (
        ALL,
        &["is_encoder_decoder", "add_cross_attention", "is_decoder"],
        Decision::Only(Neutral::False),
    ),
    (
        ALL,
        &["use_mrope", "rope_interleaved", "use_cross_attention"],
        Decision::Only(Neutral::False),
    ),
    (
        ALL,
        &["quantization", "compression_config"],
        Decision::Refused("weights quantised this way are not read"),
    ),
    (
        ALL,
        &["chunk_size_feed_forward", "pretraining_tp"],
        Decision::Harmless("the same sums in other pieces"),
    ),
    (
        ALL,
        &[
            "attention_dropout",
            "hidden_dropout",
            "resid_pdrop",
            "embd_pdrop",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "initializer_range",
            "gradient_checkpointing",
            "use_bfloat16",
            "tf_legacy_loss",
        ],
        TRAINING,
    ),
    (
        ALL,
        &[
            "return_dict",
            "use_return_dict",
            "output_hidden_states",
            "output_attentions",
            "output_past",
            "torchscript",
            "attn_implementation",
            "experts_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_flash_attn_2_enabled",
            "tie_last_hidden_states",
        ],
        OUTPUTS,
    ),
    (
        ALL,
        &[
            "num_labels",
            "id2label",
            "label2id",
            "problem_type",
            "classifier_dropout",
            "finetuning_task",
            "task_specific_params",
        ],
        CLASSIFIER,
    ),
    (
        ALL,
        &[
            "dtype",
            "torch_dtype",
            "name_or_path",
            "_name_or_path",
            "_commit_hash",
            "auto_map",
            "tokenizer_class",
            "unsloth_fixed",
            "is_llama_config",
            "transformers.js_config",
            "tie_encoder_decoder",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "pad_token_id",
            "sep_token_id",
            "cls_token_id",
            "mask_token_id",
            "unk_token_id",
        ],
        BOOKKEEPING,
    ),
    (ALL, &["pruned_heads"], Decision::Only(Neutral::Empty)),
    (
        ALL,
        &[
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "bad_words_ids",
            "begin_suppress_tokens",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "min_length",
            "min_p",
            "no_repeat_ngram_size",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_scores",
            "prefix",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "suppress_tokens",
            "target_lookbehind",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "use_cache",
        ],
        GENERATION,
    ),
];
/// Numbers that some architectures multiply by, and ours do not have.
const SCALES: [&str; 5] = ["_multiplier", "_scaling", "_factor", "_scale", "_alpha"];

/// What is done about a field; None for one that nobody here knows.
pub(crate) fn decision(architecture: Architecture, field: &str) -> Option<Decision> {
    let row = ROWS.iter().find(|(architectures, fields, _)| {
        architectures.contains(&architecture) && fields.contains(&field)
    });
    match row {
        Some((_, _, decision)) => Some(*decision),
        None if SCALES.iter().any(|ending| field.ends_with(ending)) => Some(SCALE),
        None if field.ends_with("_version") => Some(BOOKKEEPING),
        None => None,
    }
}

/// Every field that a row names, in the order of the rows.
#[cfg(test)]
pub(crate) fn fields() -> Vec<&'static str> {
    let mut fields: Vec<&str> = Vec::new();
    for (_, names, _) in ROWS {
        let new = names.iter().filter(|name| !fields.contains(name));
        let new: Vec<&str> = new.copied().collect();
        fields.extend(new);
    }
    fields
}

/// # Errors
/// [`ModelError::UnsupportedArchitecture`] for the first field that would have to be ignored.
pub(crate) fn check(config: Object<'_>, architecture: Architecture) -> Result<(), ModelError> {
    for (field, value) in config.fields.iter().filter(|(_, value)| !value.is_null()) {
        let shown = format!("{} is {}", shorten(field), shorten(&value.to_string()));
        let message = match decision(architecture, field) {
            Some(Decision::Honoured | Decision::Harmless(_)) => continue,
            Some(Decision::Only(neutral)) if neutral.is(value) => continue,
            Some(Decision::Only(neutral)) => format!("{shown}; supported: {}", neutral.text()),
            Some(Decision::Refused(why)) => {
                format!("{shown}: {why}; take the field out if it was left over")
            }
            None => format!(
                "{shown}: {architecture:?} models have no such field, so what it does to answers \
                 is not known; take it out if it does nothing"
            ),
        };
        return Err(ModelError::architecture(config.file, message));
    }
    Ok(())
}
