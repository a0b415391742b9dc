//! The small files of a Hugging Face folder beside `config.json`, put together: generation config,
//! tokenizer config, chat templates.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::config::{self, CONFIG, CONFIG_BYTES_MAX, Config};
use super::generation::{self, Generation};
use super::object::{Object, parse_object};
use super::sampling::ModelSampling;
use super::special::{self, Merged};
use super::templates::{self, ChatTemplates};
use crate::model_error::{ModelError, shorten};
use crate::tokenizer::{DeclaredToken, TOKENIZER_BYTES_MAX};
use crate::weights::file::{is_there, read_small};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
/// Added tokens make these a few hundred kilobytes at most.
const TOKENIZER_CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What a folder's small files say.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) config: Config,
    /// `config.json` as it stands in the file: what the digest covers.
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) tokenizer: PathBuf,
    pub(crate) chat_templates: Option<ChatTemplates>,
    /// Ends of sequence: as `generation` finds them, and the tokenizer's own, which chat fine-tunes
    /// change first.
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) bos_id: Option<u32>,
    pub(crate) special: Merged,
    pub(crate) sampling: ModelSampling,
    /// Where files disagree, and which one counts.
    pub(crate) told: Vec<String>,
}

pub(crate) fn open(folder: &Path) -> Result<Folder, ModelError> {
    let config_bytes = read_small(&folder.join(CONFIG), CONFIG_BYTES_MAX)?;
    let config = config::parse(&config_bytes)?;
    let object = |file, fields| Object { file, fields };
    let all = parse_object(CONFIG, &config_bytes)?;
    let fields = optional(folder, generation::FILE)?;
    let fields = fields
        .as_ref()
        .map(|fields| object(generation::FILE, fields));
    let Generation {
        mut eos_ids,
        bos_id,
        sampling,
        mut told,
    } = generation::read(fields, object(CONFIG, &all), &config)?;
    let tokenizer = folder.join(TOKENIZER);
    if !is_there(&tokenizer) {
        let message = if is_there(&folder.join("tokenizer.model")) {
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
    let legacy = optional(folder, templates::LEGACY)?;
    let legacy = legacy
        .as_ref()
        .map(|fields| object(templates::LEGACY, fields));
    let chat_templates = templates::read(folder, tokenizer_config, legacy, &mut told)?;
    let map = optional(folder, SPECIAL_TOKENS_MAP)?.unwrap_or_default();
    let added = optional(folder, ADDED_TOKENS)?.unwrap_or_default();
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
        chat_templates,
        eos_ids,
        bos_id,
        special,
        sampling,
        told,
    })
}

fn optional(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, ModelError> {
    let path = folder.join(name);
    if !is_there(&path) {
        return Ok(None);
    }
    parse_object(name, &read_small(&path, TOKENIZER_CONFIG_BYTES_MAX)?).map(Some)
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
