//! The small files of a Hugging Face folder beside `config.json`: generation config, tokenizer
//! config, chat template.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::config::{self, CONFIG, CONFIG_BYTES_MAX, Config};
use super::object::{Object, parse_object};
use super::sampling::{ModelSampling, Names};
use super::special::{self, Merged};
use crate::model_error::{ModelError, shorten};
use crate::tokenizer::{DeclaredToken, TOKENIZER_BYTES_MAX};
use crate::weights::file::{read_small, read_text};
use crate::weights::gguf::metadata::Found;

const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
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
    pub(crate) special: Merged,
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
    let map = optional(folder, SPECIAL_TOKENS_MAP)?.unwrap_or_default();
    let added = optional(folder, ADDED_TOKENS)?.unwrap_or_default();
    let object = |file, fields| Object { file, fields };
    let files = special::Files {
        config: tokenizer_config,
        map: object(SPECIAL_TOKENS_MAP, &map),
        added: object(ADDED_TOKENS, &added),
    };
    let vocabulary = Vocabulary::read(&tokenizer)?;
    let special = special::merge(files, &vocabulary.added())?;
    if let Some(eos) = special.names.get("eos_token") {
        eos_ids.push(vocabulary.id_among(&special.declared, eos));
    }
    Ok(Folder {
        config,
        config_bytes,
        tokenizer,
        chat_template,
        eos_ids,
        special,
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

/// The ids of a `tokenizer.json`, without building the tokenizer.
#[derive(Deserialize)]
struct Vocabulary {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    model: Pieces,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Default, Deserialize)]
struct Pieces {
    #[serde(default)]
    vocab: Ids,
}

/// Ids by text, or texts in the order of their ids with a score.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    Given(HashMap<String, u32>),
    Counted(Vec<(String, f64)>),
    Other(IgnoredAny),
}

impl Default for Ids {
    fn default() -> Ids {
        Ids::Other(IgnoredAny)
    }
}

impl Ids {
    fn size(&self) -> Option<u32> {
        match self {
            Ids::Given(ids) => ids.values().max().and_then(|id| id.checked_add(1)),
            Ids::Counted(pieces) => u32::try_from(pieces.len()).ok(),
            Ids::Other(_) => None,
        }
    }
}

impl Vocabulary {
    fn read(tokenizer: &Path) -> Result<Vocabulary, ModelError> {
        let bytes = read_small(tokenizer, TOKENIZER_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            let message = format!("is not valid: {}", shorten(&e.to_string()));
            ModelError::tokenizer(TOKENIZER, message)
        })
    }

    fn added(&self) -> HashMap<String, u32> {
        let added = self.added_tokens.iter();
        added
            .map(|token| (token.content.clone(), token.id))
            .collect()
    }

    /// The id that a named token gets: the library gives those that are nowhere the next free ones.
    fn id_among(&self, declared: &[DeclaredToken], content: &str) -> u32 {
        let mut next = self
            .added_tokens
            .iter()
            .filter_map(|token| token.id.checked_add(1))
            .max();
        next = next.max(self.model.vocab.size());
        for token in declared {
            let id = token.id.or_else(|| self.id(&token.content));
            let id = id.or(next).unwrap_or(0);
            if token.content == content {
                return id;
            }
            next = next.max(id.checked_add(1));
        }
        self.id(content).or(next).unwrap_or(0)
    }

    fn id(&self, content: &str) -> Option<u32> {
        let mut added = self.added_tokens.iter();
        if let Some(token) = added.find(|token| token.content == content) {
            return Some(token.id);
        }
        match &self.model.vocab {
            Ids::Given(ids) => ids.get(content).copied(),
            Ids::Counted(pieces) => pieces
                .iter()
                .position(|(piece, _)| piece == content)
                .and_then(|id| u32::try_from(id).ok()),
            Ids::Other(_) => None,
        }
    }
}
