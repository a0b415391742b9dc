//! How sequences begin and end, and what the publisher recommends for sampling: what
//! `generation_config.json` says, and `config.json` where there is no such file.
//!
//! As transformers has it: the file has the last word, and without it the same fields of
//! `config.json` count, where models from before 2023 keep them. Two things are done differently,
//! so that no chat goes on behind its end: a file without `eos_token_id` leaves `config.json`'s in
//! force (transformers would know no end), and the tokenizer's `eos_token` ends a sequence too (see
//! `folder`), as in vLLM. Ids are not united across the two files: fine-tuned models correct
//! `generation_config.json` alone, and what their `config.json` still has may be a token that the
//! new turns contain. That the two disagree is told, not refused: the order between them is
//! everybody's, and whoever runs a model can seldom change its files.

use serde_json::Value;

use super::config::{CONFIG, Config};
use super::object::Object;
use super::sampling::{ModelSampling, Names};
use crate::model_error::{ModelError, shorten};
use crate::weights::gguf::metadata::Found;

pub(super) const FILE: &str = "generation_config.json";
const EOS: &str = "eos_token_id";
const BOS: &str = "bos_token_id";
const SAMPLING: Names = Names {
    temperature: "temperature",
    top_k: "top_k",
    top_p: "top_p",
    min_p: "min_p",
    repetition_penalty: "repetition_penalty",
    max_new_tokens: Some("max_new_tokens"),
};
/// Fields that change what is generated and that the engine does not have, each with the values
/// that change nothing.
const UNUSED: [(&str, &[&str]); 14] = [
    ("bad_words_ids", &["[]"]),
    ("begin_suppress_tokens", &["[]"]),
    ("encoder_repetition_penalty", &["1.0"]),
    ("epsilon_cutoff", &["0.0"]),
    ("eta_cutoff", &["0.0"]),
    ("exponential_decay_length_penalty", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("min_length", &["0"]),
    ("min_new_tokens", &["0"]),
    ("no_repeat_ngram_size", &["0"]),
    ("stop_strings", &["[]"]),
    ("suppress_tokens", &["[]"]),
    ("typical_p", &["1.0"]),
];

/// What the two files say together.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) eos_ids: Vec<u32>,
    pub(super) bos_id: Option<u32>,
    pub(super) sampling: ModelSampling,
    /// Where they disagree, and what is not done.
    pub(super) told: Vec<String>,
}

/// `file`: `generation_config.json`, where there is one. `fields`: all of `config.json`.
pub(super) fn read(
    file: Option<Object<'_>>,
    fields: Object<'_>,
    config: &Config,
) -> Result<Generation, ModelError> {
    let said = file.unwrap_or(fields);
    let mut told = Vec::new();
    let mut ids = |field: &str, own: &[u32]| -> Result<Vec<u32>, ModelError> {
        let Some(file) = file else {
            return Ok(own.to_vec());
        };
        let ids = file.ids(field)?;
        if ids.is_empty() {
            return Ok(own.to_vec());
        }
        // Class defaults, which the file does not state, contradict nothing.
        let stated = fields.ids(field)?;
        if stated.iter().any(|id| !ids.contains(id)) {
            told.push(format!(
                "{FILE}: {field} is {ids:?}, {stated:?} in {CONFIG}; the former counts"
            ));
        }
        Ok(ids)
    };
    let eos_ids = ids(EOS, &config.eos_ids)?;
    let bos: Vec<u32> = config.bos_id.into_iter().collect();
    let bos_id = ids(BOS, &bos)?.first().copied();
    for (field, neutral) in UNUSED {
        let Some(value) = said.get(field) else {
            continue;
        };
        if !says_nothing(value, neutral) {
            let value = shorten(&value.to_string());
            told.push(format!(
                "{}: {field} is {value}, which is not done here",
                said.file
            ));
        }
    }
    // Of `config.json` the field is transformers' own default, which nobody chose.
    let longest = file.and_then(|file| file.get("max_length")?.as_u64());
    if let Some(longest) = longest.filter(|tokens| *tokens < u64::from(config.shape.context)) {
        told.push(format!(
            "{FILE}: max_length is {longest}, which is not done here; maxModelLen bounds prompt and \
             answer together"
        ));
    }
    let sampling = ModelSampling::read(said.file, &SAMPLING, config.shape.vocab, |name| {
        let value = said.get(name)?;
        let other = || Found::Other(value.to_string());
        Some(value.as_f64().map_or_else(other, Found::Number))
    });
    Ok(Generation {
        eos_ids,
        bos_id,
        sampling,
        told,
    })
}

fn says_nothing(value: &Value, neutral: &[&str]) -> bool {
    neutral.iter().any(|text| {
        serde_json::from_str::<Value>(text).is_ok_and(|neutral| {
            neutral == *value || neutral.is_number() && neutral.as_f64() == value.as_f64()
        })
    })
}
