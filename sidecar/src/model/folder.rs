//! The small files of a Hugging Face folder beside `config.json`: generation config, tokenizer
//! config, chat template.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{self, CONFIG, CONFIG_BYTES_MAX, Config, Object, parse_object};
use super::sampling::{ModelSampling, Names};
use crate::model_error::{ModelError, shorten};
use crate::tokenizer::TOKENIZER_BYTES_MAX;
use crate::weights::file::{read_small, read_text};
use crate::weights::gguf::metadata::Found;

const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const SAMPLING: Names = Names {
    temperature: "temperature",
    top_k: "top_k",
    top_p: "top_p",
    min_p: "min_p",
    repetition_penalty: "repetition_penalty",
};
/// Added tokens make these a few hundred kilobytes at most.
const TOKENIZER_CONFIG_BYTES_MAX: u64 = 16 << 20;
const CHAT_TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// What a folder's small files say.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) config: Config,
    /// `config.json` as it stands in the file: what the digest covers.
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) tokenizer: PathBuf,
    pub(crate) chat_template: Option<String>,
    /// Ends of sequence: of the generation config where it has any, else of the config; and the
    /// tokenizer's own, which chat fine-tunes change first.
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
    pub(crate) sampling: ModelSampling,
}

pub(crate) fn open(folder: &Path) -> Result<Folder, ModelError> {
    let config_bytes = read_small(&folder.join(CONFIG), CONFIG_BYTES_MAX)?;
    let config = config::parse(&config_bytes)?;
    let fields = optional(folder, GENERATION_CONFIG)?.unwrap_or_default();
    let generation = Object {
        file: GENERATION_CONFIG,
        fields: &fields,
    };
    let mut eos_ids = generation.ids("eos_token_id")?;
    if eos_ids.is_empty() {
        eos_ids.clone_from(&config.eos_ids);
    }
    let sampling = ModelSampling::read(GENERATION_CONFIG, &SAMPLING, config.shape.vocab, |name| {
        let value = generation.get(name)?;
        let other = || Found::Other(value.to_string());
        Some(value.as_f64().map_or_else(other, Found::Number))
    });
    let tokenizer = folder.join(TOKENIZER);
    if !tokenizer.exists() {
        let message = if folder.join("tokenizer.model").exists() {
            "is missing; tokenizer.model alone is not read, convert it \
             (transformers' fast tokenizer)"
        } else {
            "is missing"
        };
        return Err(ModelError::tokenizer(TOKENIZER, message));
    }
    let fields = optional(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    let tokenizer_config = Object {
        file: TOKENIZER_CONFIG,
        fields: &fields,
    };
    let template_file = folder.join(CHAT_TEMPLATE);
    let chat_template = if template_file.exists() {
        Some(read_text(&template_file, CHAT_TEMPLATE_BYTES_MAX)?)
    } else {
        template_of(tokenizer_config)?
    };
    let eos_token = token(tokenizer_config, "eos_token")?;
    if let Some(token) = &eos_token {
        eos_ids.extend(added_token_id(&tokenizer, token)?);
    }
    Ok(Folder {
        config,
        config_bytes,
        tokenizer,
        chat_template,
        eos_ids,
        bos_token: token(tokenizer_config, "bos_token")?,
        eos_token,
        sampling,
    })
}

fn optional(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, ModelError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    parse_object(name, &read_small(&path, TOKENIZER_CONFIG_BYTES_MAX)?).map(Some)
}

/// `chat_template`: a template, or a list of named ones of which `default` is taken.
fn template_of(config: Object<'_>) -> Result<Option<String>, ModelError> {
    let template = match config.get("chat_template") {
        None => return Ok(None),
        Some(Value::String(template)) => Some(template),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_object)
            .find(|named| named.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|named| match named.get("template") {
                Some(Value::String(template)) => Some(template),
                _ => None,
            }),
        Some(_) => None,
    };
    match template {
        Some(template) if template.len() as u64 <= CHAT_TEMPLATE_BYTES_MAX => {
            Ok(Some(template.clone()))
        }
        Some(template) => {
            let message = format!(
                "chat_template of {} bytes, at most {CHAT_TEMPLATE_BYTES_MAX} are read",
                template.len()
            );
            Err(ModelError::template(TOKENIZER_CONFIG, message))
        }
        None => {
            let message =
                "chat_template: expected a string, or a list with a template named `default`";
            Err(ModelError::template(TOKENIZER_CONFIG, message))
        }
    }
}

/// A token: its text, or an object with its `content`.
fn token(config: Object<'_>, field: &str) -> Result<Option<String>, ModelError> {
    match config.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Object(token)) => Ok(token
            .get("content")
            .and_then(Value::as_str)
            .map(str::to_owned)),
        Some(value) => {
            let value = shorten(&value.to_string());
            Err(ModelError::config(
                config.file,
                format!("{field} is {value}, expected a token"),
            ))
        }
    }
}

/// The id of an added token of a `tokenizer.json`, without building the tokenizer.
fn added_token_id(tokenizer: &Path, content: &str) -> Result<Option<u32>, ModelError> {
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    #[derive(Deserialize)]
    struct Tokenizer {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    let bytes = read_small(tokenizer, TOKENIZER_BYTES_MAX)?;
    let Tokenizer { added_tokens } = serde_json::from_slice(&bytes).map_err(|e| {
        ModelError::tokenizer(
            TOKENIZER,
            format!("is not valid: {}", shorten(&e.to_string())),
        )
    })?;
    Ok(added_tokens
        .into_iter()
        .find(|token| token.content == content)
        .map(|token| token.id))
}
