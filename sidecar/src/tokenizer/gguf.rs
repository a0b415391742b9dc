//! The tokenizer a GGUF's metadata describe: checked here, built in `build`.

use std::collections::HashMap;

use super::SpecialTokens;
use crate::model_error::{ModelError, shorten};
use crate::weights::gguf::metadata::Metadata;

/// Token types of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Special: parsed in prompts, skipped in answers.
    Control,
    /// Added by a user: never cut, but text.
    UserDefined,
    Unused,
    Byte,
}

/// How text is cut into words before merging (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// The pattern of GPT-2.
    Gpt2,
    /// Every digit alone, then GPT-2.
    DigitsGpt2,
    /// Llama 3: up to three digits together, contractions of any case.
    Llama3,
    /// The words of Llama 3, merged by the list alone (Smaug).
    Smaug,
    /// Qwen 2: as Llama 3 with single digits, text in NFC.
    Qwen2,
    /// Mistral's: capitals begin words, single digits.
    Tekken,
    /// What llama.cpp does for files that do not say: punctuation, GPT-2, digits in threes.
    Default,
}

const PRE_TOKENIZERS: [(&str, PreTokenizer); 14] = [
    ("default", PreTokenizer::Default),
    ("tekken", PreTokenizer::Tekken),
    ("smaug-bpe", PreTokenizer::Smaug),
    ("pixtral", PreTokenizer::Llama3),
    ("falcon3", PreTokenizer::Llama3),
    ("gpt-2", PreTokenizer::Gpt2),
    ("smollm", PreTokenizer::DigitsGpt2),
    ("starcoder", PreTokenizer::DigitsGpt2),
    ("refact", PreTokenizer::DigitsGpt2),
    ("llama-bpe", PreTokenizer::Llama3),
    ("llama3", PreTokenizer::Llama3),
    ("llama-v3", PreTokenizer::Llama3),
    ("qwen2", PreTokenizer::Qwen2),
    ("deepseek-r1-qwen", PreTokenizer::Qwen2),
];

impl PreTokenizer {
    /// A word that is a token is not merged, and a text begins with bos unless the file says no.
    pub(super) const fn is_whole_words(self) -> bool {
        matches!(self, PreTokenizer::Llama3 | PreTokenizer::Tekken)
    }
}

/// How tokens are found in a text (`tokenizer.ggml.model`).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Algorithm {
    /// `gpt2`: words of bytes, merged in the order of a list.
    ByteLevel {
        pre: PreTokenizer,
        merges: Vec<String>,
    },
    /// `llama`: SentencePiece, whole texts merged by the score of the result.
    SentencePiece {
        /// One per token; the highest is merged first.
        scores: Vec<f32>,
        /// A text begins with a blank, as words inside of it do.
        space_prefix: bool,
    },
}

/// `tokenizer.ggml.*` of a file.
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// The file, for messages.
    pub(super) file: String,
    pub(super) tokens: Vec<String>,
    /// As long as `tokens`.
    pub(super) kinds: Vec<Kind>,
    pub(super) algorithm: Algorithm,
    /// Put before a prompt that asks for special tokens.
    pub(super) prefix: Option<u32>,
}

impl GgufTokenizer {
    /// Takes the lists out of the metadata.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`], naming the key.
    pub(crate) fn from_metadata(metadata: &mut Metadata) -> Result<GgufTokenizer, ModelError> {
        let file = metadata.file.clone();
        let missing =
            |key: &str| ModelError::tokenizer(&file, format!("metadata `{key}` is missing"));
        let tokens = metadata.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
        let kinds = match metadata.integers(KINDS)? {
            Some(kinds) => kinds,
            None => vec![1; tokens.len()],
        };
        if tokens.is_empty() || kinds.len() != tokens.len() {
            let message = format!(
                "{} tokens and {} token types; expected as many of both",
                tokens.len(),
                kinds.len()
            );
            return Err(ModelError::tokenizer(&file, message));
        }
        let kinds = kinds.into_iter().enumerate().map(|(id, number)| {
            kind(number).ok_or_else(|| {
                let message = format!("token {id} has the unknown token type {number}");
                ModelError::tokenizer(&file, message)
            })
        });
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        let model = metadata
            .string(MODEL)?
            .ok_or_else(|| missing(MODEL))?
            .to_owned();
        let algorithm = match model.as_str() {
            "gpt2" => Algorithm::ByteLevel {
                pre: pre_tokenizer(metadata)?,
                merges: metadata.strings(MERGES)?.ok_or_else(|| missing(MERGES))?,
            },
            "llama" => Algorithm::SentencePiece {
                scores: scores(metadata, tokens.len())?,
                space_prefix: metadata
                    .bool("tokenizer.ggml.add_space_prefix")?
                    .unwrap_or(true),
            },
            other => {
                let message = format!(
                    "metadata `{MODEL}` is `{}`; supported: gpt2, llama",
                    shorten(other)
                );
                return Err(ModelError::tokenizer(&file, message));
            }
        };
        // What llama.cpp does unless the file says otherwise.
        let by_default = match &algorithm {
            Algorithm::ByteLevel { pre, .. } => pre.is_whole_words(),
            Algorithm::SentencePiece { .. } => true,
        };
        let add_bos = metadata
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(by_default);
        let bos = token_id(metadata, "tokenizer.ggml.bos_token_id", tokens.len())?;
        let prefix = bos.filter(|_| add_bos);
        Ok(GgufTokenizer {
            file,
            tokens,
            kinds,
            algorithm,
            prefix,
        })
    }

    /// The text of one token.
    fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// Tokens whose text a later token has too, with that one: a text becomes the last, and the
    /// others are read as it.
    pub(super) fn twins(&self) -> HashMap<u32, u32> {
        let ids = || (0u32..).zip(&self.tokens);
        let last: HashMap<&str, u32> = ids().map(|(id, text)| (text.as_str(), id)).collect();
        let twin = |(id, text): (u32, &String)| Some((id, *last.get(text.as_str())?));
        ids()
            .filter_map(twin)
            .filter(|(id, last)| id != last)
            .collect()
    }

    /// The tokens that end a text by what they are called, as llama.cpp knows them: files of many
    /// converters name one end and leave out the others. A normal token `</s>` is HTML.
    pub(crate) fn ends(&self) -> Vec<u32> {
        let tokens = (0u32..).zip(self.tokens.iter().zip(&self.kinds));
        tokens
            .filter(|(_, (text, kind))| {
                ENDS.contains(&text.as_str())
                    || (LOOSE_ENDS.contains(&text.as_str()) && **kind != Kind::Normal)
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// The special tokens by the names that templates use.
    pub(crate) fn special_tokens(
        &self,
        metadata: &Metadata,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> SpecialTokens {
        // Of these, llama.cpp passes over ids that are none.
        let id = |key: &str| {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let id = metadata.integer(&key).ok().flatten()?;
            u32::try_from(id).ok()
        };
        let ids = [
            ("bos_token", bos),
            ("eos_token", eos),
            ("unk_token", id("unknown")),
            ("sep_token", id("seperator")),
            ("pad_token", id("padding")),
            ("cls_token", id("cls")),
            ("mask_token", id("mask")),
        ];
        ids.into_iter()
            .filter_map(|(name, id)| Some((name, self.token(id?)?)))
            .collect()
    }
}

/// Nothing but an end is called so.
const ENDS: [&str; 13] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];
/// An end, unless it is a piece of text.
const LOOSE_ENDS: [&str; 3] = ["</s>", "<eos>", "[EOS]"];

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

fn kind(number: i64) -> Option<Kind> {
    match number {
        1 => Some(Kind::Normal),
        2 => Some(Kind::Unknown),
        3 => Some(Kind::Control),
        4 => Some(Kind::UserDefined),
        5 => Some(Kind::Unused),
        6 => Some(Kind::Byte),
        _ => None,
    }
}

fn scores(metadata: &mut Metadata, tokens: usize) -> Result<Vec<f32>, ModelError> {
    let scores = metadata.floats(SCORES)?.unwrap_or_default();
    if scores.len() == tokens && scores.iter().all(|score| score.is_finite()) {
        return Ok(scores);
    }
    let message = format!(
        "metadata `{SCORES}` has {} numbers for {tokens} tokens; expected one for each, finite",
        scores.len()
    );
    Err(ModelError::tokenizer(&metadata.file, message))
}

fn pre_tokenizer(metadata: &Metadata) -> Result<PreTokenizer, ModelError> {
    const KEY: &str = "tokenizer.ggml.pre";
    let found = metadata.string(KEY)?.filter(|name| !name.is_empty());
    let found = found.unwrap_or("default");
    PRE_TOKENIZERS
        .iter()
        .find(|(name, _)| *name == found)
        .map(|(_, pre)| *pre)
        .ok_or_else(|| {
            let names = PRE_TOKENIZERS.map(|(name, _)| name).join(", ");
            let message = format!(
                "metadata `{KEY}` is `{}`; supported: {names}",
                shorten(found)
            );
            ModelError::tokenizer(&metadata.file, message)
        })
}

/// A token id of the metadata, checked against the vocabulary.
pub(crate) fn token_id(
    metadata: &Metadata,
    key: &str,
    tokens: usize,
) -> Result<Option<u32>, ModelError> {
    match metadata.integer(key)? {
        None => Ok(None),
        Some(id) => match u32::try_from(id) {
            Ok(small) if id < tokens as u64 => Ok(Some(small)),
            _ => {
                let message = format!("metadata `{key}` is {id}, there are {tokens} tokens");
                Err(ModelError::tokenizer(&metadata.file, message))
            }
        },
    }
}
